use core::arch::x86_64::*;

use pulp::{Simd, f64x4, x86::V3};

use crate::simd::{Access, F64Lanes};

const N: usize = 4;

/// The `N` words from `MASKS[N - n]` on are a mask of the first `n` lanes.
static MASKS: [i64; 2 * N] = [-1, -1, -1, -1, 0, 0, 0, 0];

impl Access<f64> for V3 {
    type Regs = f64x4;
    type Reg = f64x4;

    #[inline(always)]
    unsafe fn load(self, p: *const f64) -> f64x4 {
        // SAFETY: the caller's duty; a V3 token exists, so AVX is there.
        pulp::cast(unsafe { _mm256_loadu_pd(p) })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f64, n: usize, fill: f64x4) -> f64x4 {
        debug_assert!(n <= N);
        // SAFETY: n <= N keeps the window inside MASKS; masked-off lanes are not read. A V3 token exists.
        unsafe {
            let mask = _mm256_loadu_si256(MASKS.as_ptr().add(N - n).cast());
            let tail = _mm256_maskload_pd(p, mask);
            pulp::cast(_mm256_blendv_pd(pulp::cast(fill), tail, _mm256_castsi256_pd(mask)))
        }
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f64, stride: usize, j: usize) -> f64x4 {
        // SAFETY: the caller's duty: a run is a register.
        unsafe { self.load(p.add(j * stride)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f64, v: f64x4) {
        // SAFETY: the caller's duty; a V3 token exists, so AVX is there.
        unsafe { _mm256_storeu_pd(p, pulp::cast(v)) };
    }

    /// In halves, since a masked store takes dozens of cycles on Zen 1 to 3.
    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f64, n: usize, v: f64x4) {
        debug_assert!(n <= N);
        // SAFETY: the pieces written are those whose bit is set in n, together n elements. A V3 token exists.
        unsafe {
            if n == N {
                return self.store(p, v);
            }
            let v: __m256d = pulp::cast(v);
            let (mut p, mut v, upper) = (p, _mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            if n & 2 != 0 {
                _mm_storeu_pd(p, v);
                (p, v) = (p.add(2), upper);
            }
            if n & 1 != 0 {
                _mm_store_sd(p, v);
            }
        }
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f64, v: f64x4) {
        debug_assert!(p.cast::<__m256d>().is_aligned());
        if cfg!(miri) {
            return self.store(p, v);
        }
        // SAFETY: the caller's duty; a V3 token exists, so AVX is there.
        unsafe { _mm256_stream_pd(p, pulp::cast(v)) };
    }
}

impl F64Lanes for V3 {
    #[inline(always)]
    fn fma_f64(self, a: f64x4, b: f64x4, c: f64x4) -> f64x4 {
        self.mul_add_f64s(a, b, c)
    }

    #[inline(always)]
    fn fold_f64(self, v: f64x4) -> f64 {
        // SAFETY: a V3 token exists, so AVX is there.
        unsafe {
            let v: __m256d = pulp::cast(v);
            let v = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v)))
        }
    }
}
