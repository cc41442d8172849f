use core::arch::aarch64::*;

use half::bf16;
use pulp::{aarch64::Neon, f32x4};

use super::{N, keep_first};
use crate::simd::{Access, Bf16Lanes};

/// Each word has the rounded element in its upper half, and anything in its lower half.
///
/// # Safety
/// - NEON is there, and this is inlined into a function that enables it.
#[inline(always)]
unsafe fn round(v: float32x4_t) -> uint32x4_t {
    let bits = vreinterpretq_u32_f32(v);
    let last = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
    vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), last)
}

impl Access<bf16> for Neon {
    type Regs = [f32x4; 2];
    type Reg = f32x4;

    #[inline(always)]
    unsafe fn load(self, p: *const bf16) -> [f32x4; 2] {
        // SAFETY: the caller's duty; a Neon token exists.
        unsafe {
            let v = vreinterpretq_u32_u16(vld1q_u16(p.cast()));
            let odd = vandq_u32(v, vdupq_n_u32(0xffff_0000));
            [pulp::cast(vreinterpretq_f32_u32(vshlq_n_u32::<16>(v))), pulp::cast(vreinterpretq_f32_u32(odd))]
        }
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const bf16, n: usize, fill: f32x4) -> [f32x4; 2] {
        debug_assert!(n <= 2 * N);
        let mut tail = [bf16::ZERO; 2 * N];
        // SAFETY: the caller's duty: n elements at p, n <= 2 * N; the buffer has 2 * N.
        unsafe {
            core::ptr::copy_nonoverlapping(p, tail.as_mut_ptr(), n);
            let [even, odd] = self.load(tail.as_ptr());
            [keep_first(even, n.div_ceil(2), fill), keep_first(odd, n / 2, fill)]
        }
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const bf16, stride: usize, j: usize) -> [f32x4; 2] {
        // SAFETY: the caller's duty: a run is a pair.
        unsafe { self.load(p.add(j * stride)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut bf16, [even, odd]: [f32x4; 2]) {
        // SAFETY: the caller's duty; a Neon token exists.
        unsafe {
            // Both at once. A result is the upper half of a word, plus 1 if the lower half is more than half a unit, or
            // exactly half a unit and the upper half is odd.
            let (even, odd) = (pulp::cast(even), pulp::cast(odd));
            let upper = vreinterpretq_u16_u32(vsriq_n_u32::<16>(odd, even));
            let lower = vreinterpretq_u16_u32(vsliq_n_u32::<16>(even, odd));
            let is_even = vbicq_u16(vdupq_n_u16(1), upper);
            vst1q_u16(p.cast(), vsraq_n_u16::<15>(upper, vqsubq_u16(lower, is_even)));
        }
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut bf16, n: usize, v: [f32x4; 2]) {
        debug_assert!(n <= 2 * N);
        let mut tail = [bf16::ZERO; 2 * N];
        // SAFETY: the caller's duty: n elements at p, n <= 2 * N; the buffer has 2 * N.
        unsafe {
            self.store(tail.as_mut_ptr(), v);
            core::ptr::copy_nonoverlapping(tail.as_ptr(), p, n);
        }
    }

    /// An ordinary store, as for f32.
    #[inline(always)]
    unsafe fn stream(self, p: *mut bf16, v: [f32x4; 2]) {
        self.store(p, v);
    }
}

impl Bf16Lanes for Neon {
    #[inline(always)]
    fn round_bf16(self, v: f32x4) -> f32x4 {
        // SAFETY: a Neon token exists.
        unsafe { pulp::cast(vandq_u32(round(pulp::cast(v)), vdupq_n_u32(0xffff_0000))) }
    }

    #[inline(always)]
    fn split(self, [first, second]: [f32x4; 2]) -> [f32x4; 2] {
        let (a, b): (float32x4_t, float32x4_t) = (pulp::cast(first), pulp::cast(second));
        // SAFETY: a Neon token exists.
        unsafe { [pulp::cast(vuzp1q_f32(a, b)), pulp::cast(vuzp2q_f32(a, b))] }
    }

    #[inline(always)]
    fn join(self, [even, odd]: [f32x4; 2]) -> [f32x4; 2] {
        let (a, b): (float32x4_t, float32x4_t) = (pulp::cast(even), pulp::cast(odd));
        // SAFETY: a Neon token exists.
        unsafe { [pulp::cast(vzip1q_f32(a, b)), pulp::cast(vzip2q_f32(a, b))] }
    }
}
