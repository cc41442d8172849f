use core::arch::aarch64::*;
use core::arch::asm;

use half::f16;
use pulp::{aarch64::Neon, f32x4};

use super::{N, keep_first};
use crate::simd::{Access, F16Lanes};

/// FCVTL: the intrinsic is newer than the oldest compiler that this crate supports.
///
/// # Safety
/// - NEON is there.
#[inline(always)]
unsafe fn widen(v: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: the caller's duty; the instruction touches its registers alone.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) v, options(pure, nomem, nostack, preserves_flags));
    };
    wide
}

/// FCVTN, in the rounding mode that Rust asks for: to nearest even.
///
/// # Safety
/// - NEON is there.
#[inline(always)]
unsafe fn narrow(v: float32x4_t) -> uint16x4_t {
    let narrow;
    // SAFETY: the caller's duty; the instruction touches its registers alone.
    unsafe {
        asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) narrow, in(vreg) v, options(pure, nomem, nostack, preserves_flags));
    };
    narrow
}

impl Access<f16> for Neon {
    type Regs = f32x4;
    type Reg = f32x4;

    #[inline(always)]
    unsafe fn load(self, p: *const f16) -> f32x4 {
        // SAFETY: the caller's duty; a Neon token exists.
        pulp::cast(unsafe { widen(vld1_u16(p.cast())) })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f16, n: usize, fill: f32x4) -> f32x4 {
        debug_assert!(n <= N);
        let mut tail = [f16::ZERO; N];
        // SAFETY: the caller's duty: n elements at p, n <= N; the buffer has N.
        unsafe {
            core::ptr::copy_nonoverlapping(p, tail.as_mut_ptr(), n);
            keep_first(self.load(tail.as_ptr()), n, fill)
        }
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f16, stride: usize, j: usize) -> f32x4 {
        // SAFETY: the caller's duty: a run is two registers.
        unsafe { self.load(p.add(j / 2 * stride + j % 2 * N)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f16, v: f32x4) {
        // SAFETY: the caller's duty; a Neon token exists.
        unsafe { vst1_u16(p.cast(), narrow(pulp::cast(v))) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f16, n: usize, v: f32x4) {
        debug_assert!(n <= N);
        let mut tail = [f16::ZERO; N];
        // SAFETY: the caller's duty: n elements at p, n <= N; the buffer has N.
        unsafe {
            self.store(tail.as_mut_ptr(), v);
            core::ptr::copy_nonoverlapping(tail.as_ptr(), p, n);
        }
    }

    /// An ordinary store, as for f32.
    #[inline(always)]
    unsafe fn stream(self, p: *mut f16, v: f32x4) {
        self.store(p, v);
    }
}

impl F16Lanes for Neon {
    #[inline(always)]
    unsafe fn round_f16(self, v: f32x4) -> f32x4 {
        // SAFETY: a Neon token exists.
        pulp::cast(unsafe { widen(narrow(pulp::cast(v))) })
    }
}
