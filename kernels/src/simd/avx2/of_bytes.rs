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
    unsafe fn store_bytes(self, p: *mut u8, v: [u32x8; 4], flip: u8) {
        // SAFETY: the caller's duty; a V3 token exists, so AVX2 is there.
        unsafe {
            let [a, b, c, d] = [pulp::cast(v[0]), pulp::cast(v[1]), pulp::cast(v[2]), pulp::cast(v[3])];
            let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            // Packing leaves the words of each half together: a, b, c and d of the first, then of the second.
            let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            _mm256_storeu_si256(p.cast(), _mm256_xor_si256(bytes, _mm256_set1_epi8(flip.cast_signed())));
        }
    }

    #[inline(always)]
    unsafe fn store_half_bytes(self, p: *mut u8, v: [u32x8; 2], flip: u8) {
        // SAFETY: the caller's duty; a V3 token exists, so AVX2 is there.
        unsafe {
            let (a, b): (__m256i, __m256i) = (pulp::cast(v[0]), pulp::cast(v[1]));
            let low = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let high = _mm_packs_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256::<1>(b));
            let bytes = _mm_packs_epi16(low, high);
            _mm_storeu_si128(p.cast(), _mm_xor_si128(bytes, _mm_set1_epi8(flip.cast_signed())));
        }
    }
}
