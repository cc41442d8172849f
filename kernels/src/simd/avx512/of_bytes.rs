use core::arch::x86_64::*;

use pulp::{f32x16, u32x16, x86::V4};

use crate::simd::ByteLanes;

impl ByteLanes for V4 {
    #[inline(always)]
    fn nearest(self, v: f32x16) -> u32x16 {
        // SAFETY: a V4 token exists, so AVX-512F is there.
        pulp::cast(unsafe {
            _mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(pulp::cast(v))
        })
    }

    #[inline(always)]
    fn truncate(self, v: f32x16) -> u32x16 {
        // SAFETY: a V4 token exists, so AVX-512F is there.
        pulp::cast(unsafe { _mm512_cvttps_epi32(pulp::cast(v)) })
    }

    #[inline(always)]
    fn fold_max(self, v: u32x16) -> u32 {
        // SAFETY: a V4 token exists, so AVX-512F is there.
        unsafe { _mm512_reduce_max_epu32(pulp::cast(v)) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: [u32x16; 4], flip: u8) {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F and BW are there.
        unsafe {
            let [a, b, c, d] = [pulp::cast(v[0]), pulp::cast(v[1]), pulp::cast(v[2]), pulp::cast(v[3])];
            let bytes = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            // Packing leaves the words of each quarter together: a, b, c and d of the first, and so on.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let bytes = _mm512_permutexvar_epi32(order, bytes);
            _mm512_storeu_si512(p.cast(), _mm512_xor_si512(bytes, _mm512_set1_epi8(flip.cast_signed())));
        }
    }

    #[inline(always)]
    unsafe fn store_half_bytes(self, p: *mut u8, v: [u32x16; 2], flip: u8) {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F, AVX-512VL and AVX2 are there.
        unsafe {
            let (a, b) = (_mm512_cvtsepi32_epi8(pulp::cast(v[0])), _mm512_cvtsepi32_epi8(pulp::cast(v[1])));
            let bytes = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
            _mm256_storeu_si256(p.cast(), _mm256_xor_si256(bytes, _mm256_set1_epi8(flip.cast_signed())));
        }
    }
}
