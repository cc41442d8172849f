//! AVX2: eight lanes.

mod of_bf16;
mod of_bytes;
mod of_f16;
mod of_f64;

use core::arch::x86_64::*;

use super::lanes::{Access, Entry, FOLD_ROWS, Kernel, Lanes, QUAD};
use super::tokens::Avx2;
use pulp::{Simd, f32x4, f32x8, f64x4, x86::V3};

const N: usize = V3::F32_LANES;

/// The `N` words from `MASKS[N - n]` on are a mask of the first `n` lanes.
static MASKS: [i32; 2 * N] = {
    let mut masks = [0; 2 * N];
    let mut i = 0;
    while i < N {
        masks[i] = -1;
        i += 1;
    }
    masks
};

/// The first `n` lanes.
///
/// # Safety
/// - `n <= N`.
/// - AVX is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    // SAFETY: n <= N keeps the window inside MASKS.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(N - n).cast()) }
}

/// The first `n` lanes of `v`, and `fill` in the lanes above.
///
/// # Safety
/// - As for [`mask`].
#[inline(always)]
unsafe fn keep_first(v: f32x8, n: usize, fill: f32x8) -> f32x8 {
    pulp::cast(_mm256_blendv_ps(pulp::cast(fill), pulp::cast(v), _mm256_castsi256_ps(mask(n))))
}

impl Access<f32> for V3 {
    type Regs = f32x8;
    type Reg = f32x8;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32x8 {
        // SAFETY: the caller's duty; a V3 token exists, so AVX is there.
        pulp::cast(unsafe { _mm256_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f32, n: usize, fill: f32x8) -> f32x8 {
        debug_assert!(n <= N);
        // SAFETY: n <= N; masked-off lanes are not read. A V3 token exists.
        unsafe {
            let tail = _mm256_maskload_ps(p, mask(n));
            keep_first(pulp::cast(tail), n, fill)
        }
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f32, stride: usize, j: usize) -> f32x8 {
        // SAFETY: the caller's duty: a run is a register.
        unsafe { self.load(p.add(j * stride)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: f32x8) {
        // SAFETY: the caller's duty; a V3 token exists, so AVX is there.
        unsafe { _mm256_storeu_ps(p, pulp::cast(v)) };
    }

    /// In halves, since a masked store takes dozens of cycles on Zen 1 to 3.
    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f32, n: usize, v: f32x8) {
        debug_assert!(n <= N);
        // SAFETY: the pieces written are those whose bit is set in n, together n elements. A V3 token exists.
        unsafe {
            if n == N {
                return self.store(p, v);
            }
            let v: __m256 = pulp::cast(v);
            let (mut p, mut v, upper) = (p, _mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            if n & 4 != 0 {
                _mm_storeu_ps(p, v);
                (p, v) = (p.add(4), upper);
            }
            if n & 2 != 0 {
                _mm_storeu_si64(p.cast(), _mm_castps_si128(v));
                (p, v) = (p.add(2), _mm_movehl_ps(v, v));
            }
            if n & 1 != 0 {
                _mm_store_ss(p, v);
            }
        }
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: f32x8) {
        debug_assert!(p.cast::<__m256>().is_aligned());
        if cfg!(miri) {
            return self.store(p, v);
        }
        // SAFETY: the caller's duty; a V3 token exists, so AVX is there.
        unsafe { _mm256_stream_ps(p, pulp::cast(v)) };
    }
}

impl Lanes for V3 {
    const FEW_REGISTERS: bool = true;

    #[inline(always)]
    unsafe fn outline<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the caller's duty.
        unsafe { Avx2::new_unchecked() }.vectorize(Entry { simd: self, kernel })
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
    fn fma(self, a: f32x8, b: f32x8, c: f32x8) -> f32x8 {
        self.mul_add_f32s(a, b, c)
    }

    #[inline(always)]
    fn fold(self, v: f32x8) -> f32 {
        // SAFETY: a V3 token exists, so AVX is there.
        unsafe {
            let v: __m256 = pulp::cast(v);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn fold_rows(self, v: &[f32x8; FOLD_ROWS]) -> [f32; FOLD_ROWS] {
        // SAFETY: a V3 token exists, so AVX is there; f32x8 and __m256 are the same bits.
        let folded: f32x8 = unsafe { pulp::cast(fold_rows(&pulp::cast::<[f32x8; FOLD_ROWS], _>(*v))) };
        pulp::cast(folded)
    }

    #[inline(always)]
    unsafe fn load_quad(self, p: *const f32, stride: usize) -> [f32x8; QUAD] {
        // SAFETY: the caller's duty; a V3 token exists, so AVX is there.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); QUAD];
            for (r, v) in rows.iter_mut().enumerate() {
                let low = _mm256_castps128_ps256(_mm_loadu_ps(p.add(r * stride)));
                *v = _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(p.add((r + QUAD) * stride)));
            }
            pulp::cast(transpose(rows))
        }
    }

    #[inline(always)]
    unsafe fn store_quad(self, p: *mut f32, stride: usize, v: [f32x8; QUAD]) {
        // SAFETY: the caller's duty; a V3 token exists, so AVX is there.
        unsafe {
            let rows = transpose(pulp::cast(v));
            for r in 0..QUAD {
                _mm_storeu_ps(p.add(r * stride), _mm256_castps256_ps128(rows[r]));
            }
            for r in 0..QUAD {
                _mm_storeu_ps(p.add((r + QUAD) * stride), _mm256_extractf128_ps::<1>(rows[r]));
            }
        }
    }

    #[inline(always)]
    fn widen(self, v: &[f32; FOLD_ROWS]) -> [f64; FOLD_ROWS] {
        let [low, high]: [f32x4; 2] = pulp::cast(*v);
        // SAFETY: a V3 token exists, so AVX is there.
        let wide: [f64x4; 2] =
            unsafe { [pulp::cast(_mm256_cvtps_pd(pulp::cast(low))), pulp::cast(_mm256_cvtps_pd(pulp::cast(high)))] };
        pulp::cast(wide)
    }

    #[inline(always)]
    fn narrow(self, v: &[f64; FOLD_ROWS]) -> [f32; FOLD_ROWS] {
        let [low, high]: [f64x4; 2] = pulp::cast(*v);
        // SAFETY: a V3 token exists, so AVX is there.
        let narrow: [f32x4; 2] =
            unsafe { [pulp::cast(_mm256_cvtpd_ps(pulp::cast(low))), pulp::cast(_mm256_cvtpd_ps(pulp::cast(high)))] };
        pulp::cast(narrow)
    }
}

/// Exchanges rows and columns of the four lanes in each half of four registers.
///
/// # Safety
/// - AVX is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn transpose([a, b, c, d]: [__m256; QUAD]) -> [__m256; QUAD] {
    let ab = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
    let cd = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
    let ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
    let cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
    [
        _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)),
        _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)),
        _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high)),
        _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high)),
    ]
}

/// The fold by halves of eight registers, as one transposed tree: lane `r` of the result is the fold of `v[r]`.
///
/// # Safety
/// - AVX is there, and this is inlined into a function that enables it.
#[inline(always)]
pub(super) unsafe fn fold_rows(v: &[__m256; FOLD_ROWS]) -> __m256 {
    // Rows four apart share a register, which leaves the result in order.
    let (a, b) = (by4(v[0], v[4]), by4(v[1], v[5]));
    let (c, d) = (by4(v[2], v[6]), by4(v[3], v[7]));
    let (ab, cd) = (by2(a, b), by2(c, d));
    _mm256_add_ps(_mm256_shuffle_ps::<0x88>(ab, cd), _mm256_shuffle_ps::<0xdd>(ab, cd))
}

/// Adds eight lanes of a to four, and eight lanes of b to four: the sums of a below, the sums of b above.
///
/// # Safety
/// - As for [`fold_rows`].
#[inline(always)]
unsafe fn by4(a: __m256, b: __m256) -> __m256 {
    _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b))
}

/// In each half, adds four lanes of a to two, and four lanes of b to two: the sums of a below, the sums of b above.
///
/// # Safety
/// - As for [`fold_rows`].
#[inline(always)]
unsafe fn by2(a: __m256, b: __m256) -> __m256 {
    let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
    let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
    _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
}
