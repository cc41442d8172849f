use core::arch::x86_64::*;

use pulp::{Simd, f64x8, x86::V4};

use crate::simd::{Access, F64Lanes};

/// The first `n` of 8 lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask8 {
    debug_assert!(n <= 8);
    ((1u32 << n) - 1) as __mmask8
}

impl Access<f64> for V4 {
    type Regs = f64x8;
    type Reg = f64x8;

    #[inline(always)]
    unsafe fn load(self, p: *const f64) -> f64x8 {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F is there.
        pulp::cast(unsafe { _mm512_loadu_pd(p) })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f64, n: usize, fill: f64x8) -> f64x8 {
        // SAFETY: masked-off lanes are not read; a V4 token exists, so AVX-512F is there.
        pulp::cast(unsafe { _mm512_mask_loadu_pd(pulp::cast(fill), mask(n), p) })
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f64, stride: usize, j: usize) -> f64x8 {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F and AVX are there.
        unsafe {
            let low = _mm256_loadu_pd(p.add(2 * j * stride));
            let high = _mm256_loadu_pd(p.add((2 * j + 1) * stride));
            pulp::cast(_mm512_insertf64x4::<1>(_mm512_castpd256_pd512(low), high))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f64, v: f64x8) {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F is there.
        unsafe { _mm512_storeu_pd(p, pulp::cast(v)) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f64, n: usize, v: f64x8) {
        // SAFETY: masked-off lanes are not written; a V4 token exists, so AVX-512F is there.
        unsafe { _mm512_mask_storeu_pd(p, mask(n), pulp::cast(v)) };
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f64, v: f64x8) {
        debug_assert!(p.cast::<__m512d>().is_aligned());
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F is there.
        unsafe { _mm512_stream_pd(p, pulp::cast(v)) };
    }
}

impl F64Lanes for V4 {
    #[inline(always)]
    fn fma_f64(self, a: f64x8, b: f64x8, c: f64x8) -> f64x8 {
        self.mul_add_f64s(a, b, c)
    }

    #[inline(always)]
    fn fold_f64(self, v: f64x8) -> f64 {
        // SAFETY: a V4 token exists, so AVX-512F and AVX are there.
        unsafe {
            let v: __m512d = pulp::cast(v);
            let v = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd::<1>(v));
            let v = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v)))
        }
    }
}
