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
    fn fold_max_rows(self, v: &[u32x16; 16]) -> u32x16 {
        // SAFETY: a V4 token exists, so AVX-512F is there.
        unsafe {
            // Of each quarter of four rows, then of each half, then of all.
            let mut quarters = [_mm512_setzero_si512(); 4];
            for k in 0..4 {
                let v: [__m512i; 4] = [
                    pulp::cast(v[4 * k]),
                    pulp::cast(v[4 * k + 1]),
                    pulp::cast(v[4 * k + 2]),
                    pulp::cast(v[4 * k + 3]),
                ];
                let a = _mm512_max_epu32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
                let b = _mm512_max_epu32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
                quarters[k] = _mm512_max_epu32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
            }
            let [a, b, c, d] = quarters;
            let (a, b) = (halve(a, b), halve(c, d));
            pulp::cast(halve(a, b))
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: [u32x16; 4], flip: u8) {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F and BW are there.
        unsafe { _mm512_storeu_si512(p.cast(), narrow(v, flip)) };
    }

    #[inline(always)]
    unsafe fn store_halves(self, p: [*mut u8; 2], v: [u32x16; 4], flip: u8) {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F, BW and AVX are there.
        unsafe {
            let bytes = narrow(v, flip);
            _mm256_storeu_si256(p[0].cast(), _mm512_castsi512_si256(bytes));
            _mm256_storeu_si256(p[1].cast(), _mm512_extracti64x4_epi64::<1>(bytes));
        }
    }
}

/// The greater ones of the even and the odd quarters of `a`, and those of `b`.
///
/// # Safety
/// - AVX-512F is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn halve(a: __m512i, b: __m512i) -> __m512i {
    let (even, odd) = (_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b));
    _mm512_max_epu32(even, odd)
}

/// Each element saturated to an i8, with the bits of `flip` turned over.
///
/// # Safety
/// - AVX-512F and BW are there, and this is inlined into a function that enables them.
#[inline(always)]
unsafe fn narrow(v: [u32x16; 4], flip: u8) -> __m512i {
    let [a, b, c, d] = [pulp::cast(v[0]), pulp::cast(v[1]), pulp::cast(v[2]), pulp::cast(v[3])];
    let bytes = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
    // Packing leaves the words of each quarter together: a, b, c and d of the first, and so on.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let bytes = _mm512_permutexvar_epi32(order, bytes);
    _mm512_xor_si512(bytes, _mm512_set1_epi8(flip.cast_signed()))
}
