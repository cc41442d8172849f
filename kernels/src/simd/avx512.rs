//! AVX-512: sixteen lanes.

mod of_bf16;
mod of_bytes;
mod of_f16;
mod of_f64;

use core::arch::x86_64::*;

use super::avx2;
use super::lanes::{Access, Entry, FOLD_ROWS, Kernel, Lanes, QUAD};
use pulp::{Simd, f32x8, f32x16, f64x8, x86::V4};

const N: usize = V4::F32_LANES;

/// The first `n` of 16 lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    debug_assert!(n <= N);
    ((1u32 << n) - 1) as __mmask16
}

impl Access<f32> for V4 {
    type Regs = f32x16;
    type Reg = f32x16;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32x16 {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F is there.
        pulp::cast(unsafe { _mm512_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f32, n: usize, fill: f32x16) -> f32x16 {
        // SAFETY: masked-off lanes are not read; a V4 token exists, so AVX-512F is there.
        pulp::cast(unsafe { _mm512_mask_loadu_ps(pulp::cast(fill), mask(n), p) })
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f32, stride: usize, j: usize) -> f32x16 {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512DQ and AVX are there.
        unsafe {
            let low = _mm256_loadu_ps(p.add(2 * j * stride));
            let high = _mm256_loadu_ps(p.add((2 * j + 1) * stride));
            pulp::cast(_mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: f32x16) {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F is there.
        unsafe { _mm512_storeu_ps(p, pulp::cast(v)) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f32, n: usize, v: f32x16) {
        // SAFETY: masked-off lanes are not written; a V4 token exists, so AVX-512F is there.
        unsafe { _mm512_mask_storeu_ps(p, mask(n), pulp::cast(v)) };
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: f32x16) {
        debug_assert!(p.cast::<__m512>().is_aligned());
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F is there.
        unsafe { _mm512_stream_ps(p, pulp::cast(v)) };
    }
}

impl Lanes for V4 {
    #[inline(always)]
    unsafe fn outline<K: Kernel>(self, kernel: K) -> K::Output {
        self.vectorize(Entry { simd: self, kernel })
    }

    #[inline(always)]
    fn fence(self) {
        // Miri knows no fence of stores, and streams none.
        if cfg!(not(miri)) {
            // SAFETY: SSE is part of x86-64.
            unsafe { _mm_sfence() };
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: SSE is part of x86-64, and a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) };
    }

    #[inline(always)]
    fn prefetch_to_l2(self, p: *const u8) {
        // SAFETY: SSE is part of x86-64, and a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
    }

    #[inline(always)]
    fn fma(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
        self.mul_add_f32s(a, b, c)
    }

    #[inline(always)]
    fn fold(self, v: f32x16) -> f32 {
        // SAFETY: a V4 token exists, so AVX-512F, AVX-512DQ and AVX are there.
        unsafe {
            let v = halve(pulp::cast(v));
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn fold_rows(self, v: &[f32x16; FOLD_ROWS]) -> [f32; FOLD_ROWS] {
        // SAFETY: a V4 token exists, so AVX-512F, AVX-512DQ and AVX are there.
        let folded: f32x8 = unsafe {
            let mut halves = [_mm256_setzero_ps(); FOLD_ROWS];
            for (half, &v) in halves.iter_mut().zip(v) {
                *half = halve(pulp::cast(v));
            }
            pulp::cast(avx2::fold_rows(&halves))
        };
        pulp::cast(folded)
    }

    #[inline(always)]
    unsafe fn load_quad(self, p: *const f32, stride: usize) -> [f32x16; QUAD] {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F is there.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); QUAD];
            for (r, to) in rows.iter_mut().enumerate() {
                let v = _mm512_castps128_ps512(_mm_loadu_ps(p.add(r * stride)));
                let v = _mm512_insertf32x4::<1>(v, _mm_loadu_ps(p.add((r + QUAD) * stride)));
                let v = _mm512_insertf32x4::<2>(v, _mm_loadu_ps(p.add((r + 2 * QUAD) * stride)));
                *to = _mm512_insertf32x4::<3>(v, _mm_loadu_ps(p.add((r + 3 * QUAD) * stride)));
            }
            pulp::cast(transpose(rows))
        }
    }

    #[inline(always)]
    unsafe fn store_quad(self, p: *mut f32, stride: usize, v: [f32x16; QUAD]) {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F is there.
        unsafe {
            let rows = transpose(pulp::cast(v));
            for r in 0..QUAD {
                _mm_storeu_ps(p.add(r * stride), _mm512_castps512_ps128(rows[r]));
            }
            for r in 0..QUAD {
                _mm_storeu_ps(p.add((r + QUAD) * stride), _mm512_extractf32x4_ps::<1>(rows[r]));
            }
            for r in 0..QUAD {
                _mm_storeu_ps(p.add((r + 2 * QUAD) * stride), _mm512_extractf32x4_ps::<2>(rows[r]));
            }
            for r in 0..QUAD {
                _mm_storeu_ps(p.add((r + 3 * QUAD) * stride), _mm512_extractf32x4_ps::<3>(rows[r]));
            }
        }
    }

    #[inline(always)]
    fn widen(self, v: &[f32; FOLD_ROWS]) -> [f64; FOLD_ROWS] {
        // SAFETY: a V4 token exists, so AVX-512F is there.
        let wide: f64x8 = pulp::cast(unsafe { _mm512_cvtps_pd(pulp::cast(pulp::cast::<_, f32x8>(*v))) });
        pulp::cast(wide)
    }

    #[inline(always)]
    fn narrow(self, v: &[f64; FOLD_ROWS]) -> [f32; FOLD_ROWS] {
        // SAFETY: a V4 token exists, so AVX-512F is there.
        let narrow: f32x8 = pulp::cast(unsafe { _mm512_cvtpd_ps(pulp::cast(pulp::cast::<_, f64x8>(*v))) });
        pulp::cast(narrow)
    }
}

/// Exchanges rows and columns of the four lanes in each quarter of four registers.
///
/// # Safety
/// - AVX-512F is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn transpose([a, b, c, d]: [__m512; QUAD]) -> [__m512; QUAD] {
    let ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
    let cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
    let ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
    let cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
    [
        _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)),
        _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)),
    ]
}

/// The upper eight lanes added onto the lower eight.
///
/// # Safety
/// - AVX-512F and AVX-512DQ are there, and this is inlined into a function that enables them.
#[inline(always)]
unsafe fn halve(v: __m512) -> __m256 {
    _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))
}
