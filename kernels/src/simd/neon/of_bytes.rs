use core::arch::aarch64::*;

use pulp::{aarch64::Neon, f32x4, u32x4};

use crate::simd::ByteLanes;

/// Saturates each element to an i8.
///
/// # Safety
/// - NEON is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn narrow(a: u32x4, b: u32x4) -> int8x8_t {
    vqmovn_s16(vcombine_s16(vqmovn_s32(pulp::cast(a)), vqmovn_s32(pulp::cast(b))))
}

impl ByteLanes for Neon {
    #[inline(always)]
    fn nearest(self, v: f32x4) -> u32x4 {
        // SAFETY: a Neon token exists.
        pulp::cast(unsafe { vcvtnq_s32_f32(pulp::cast(v)) })
    }

    #[inline(always)]
    fn truncate(self, v: f32x4) -> u32x4 {
        // SAFETY: a Neon token exists.
        pulp::cast(unsafe { vcvtq_s32_f32(pulp::cast(v)) })
    }

    #[inline(always)]
    fn fold_max(self, v: u32x4) -> u32 {
        // SAFETY: a Neon token exists.
        unsafe { vmaxvq_u32(pulp::cast(v)) }
    }

    #[inline(always)]
    fn fold_max_rows(self, v: &[u32x4; 16]) -> u32x4 {
        // SAFETY: a Neon token exists.
        pulp::cast(unsafe {
            let a = vpmaxq_u32(pulp::cast(v[0]), pulp::cast(v[1]));
            vpmaxq_u32(a, vpmaxq_u32(pulp::cast(v[2]), pulp::cast(v[3])))
        })
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, [a, b, c, d]: [u32x4; 4], flip: u8) {
        // SAFETY: the caller's duty; a Neon token exists.
        unsafe {
            let bytes = vreinterpretq_u8_s8(vcombine_s8(narrow(a, b), narrow(c, d)));
            vst1q_u8(p, veorq_u8(bytes, vdupq_n_u8(flip)));
        }
    }

    #[inline(always)]
    unsafe fn store_halves(self, p: [*mut u8; 2], [a, b, c, d]: [u32x4; 4], flip: u8) {
        // SAFETY: the caller's duty; a Neon token exists.
        unsafe {
            let flip = vdup_n_u8(flip);
            vst1_u8(p[0], veor_u8(vreinterpret_u8_s8(narrow(a, b)), flip));
            vst1_u8(p[1], veor_u8(vreinterpret_u8_s8(narrow(c, d)), flip));
        }
    }
}
