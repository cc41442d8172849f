use core::arch::x86_64::*;

use pulp::{f32x8, u32x8, x86::V3};

use crate::simd::ByteLanes;

impl ByteLanes for V3 {
    #[inline(always)]
    fn nearest(self, v: f32x8) -> u32x8 {
        // SAFETY: a V3 token exists, so AVX is there. Kernels run with rounding to nearest even.
        pulp::cast(unsafe { _mm256_cvtps_epi32(pulp::cast(v)) })
    }

    #[inline(always)]
    fn truncate(self, v: f32x8) -> u32x8 {
        // SAFETY: a V3 token exists, so AVX is there.
        pulp::cast(unsafe { _mm256_cvttps_epi32(pulp::cast(v)) })
    }

    #[inline(always)]
    fn fold_max(self, v: u32x8) -> u32 {
        // SAFETY: a V3 token exists, so AVX2 and SSE4.1 are there.
        unsafe {
            let v = pulp::cast(v);
            let v = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_max_epu32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            let v = _mm_max_epu32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v));
            _mm_cvtsi128_si32(v).cast_unsigned()
        }
    }

    #[inline(always)]
    fn fold_max_rows(self, v: &[u32x8; 16]) -> u32x8 {
        // SAFETY: a V3 token exists, so AVX2 is there.
        unsafe {
            // Of each half of four rows, then of all.
            let mut halves = [_mm256_setzero_si256(); 2];
            for k in 0..2 {
                let v: [__m256i; 4] = [
                    pulp::cast(v[4 * k]),
                    pulp::cast(v[4 * k + 1]),
                    pulp::cast(v[4 * k + 2]),
                    pulp::cast(v[4 * k + 3]),
                ];
                let a = _mm256_max_epu32(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
                let b = _mm256_max_epu32(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
                halves[k] = _mm256_max_epu32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
            }
            let [a, b] = halves;
            let (low, high) = (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b));
            pulp::cast(_mm256_max_epu32(low, high))
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: [u32x8; 4], flip: u8) {
        // SAFETY: the caller's duty; a V3 token exists, so AVX2 is there.
        unsafe { _mm256_storeu_si256(p.cast(), narrow(v, flip)) };
    }

    #[inline(always)]
    unsafe fn store_halves(self, p: [*mut u8; 2], v: [u32x8; 4], flip: u8) {
        // SAFETY: the caller's duty; a V3 token exists, so AVX2 is there.
        unsafe {
            let bytes = narrow(v, flip);
            _mm_storeu_si128(p[0].cast(), _mm256_castsi256_si128(bytes));
            _mm_storeu_si128(p[1].cast(), _mm256_extracti128_si256::<1>(bytes));
        }
    }
}

/// Each element saturated to an i8, with the bits of `flip` turned over.
///
/// # Safety
/// - AVX2 is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn narrow(v: [u32x8; 4], flip: u8) -> __m256i {
    let [a, b, c, d] = [pulp::cast(v[0]), pulp::cast(v[1]), pulp::cast(v[2]), pulp::cast(v[3])];
    let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    // Packing leaves the words of each half together: a, b, c and d of the first, then of the second.
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_xor_si256(bytes, _mm256_set1_epi8(flip.cast_signed()))
}
