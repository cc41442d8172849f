use core::arch::x86_64::*;

use half::f16;
use pulp::{f32x8, x86::V3};

use super::{N, keep_first};
use crate::simd::{Access, F16Lanes};

/// To nearest even, whatever the control register says.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;

impl Access<f16> for V3 {
    type Regs = f32x8;
    type Reg = f32x8;

    #[inline(always)]
    unsafe fn load(self, p: *const f16) -> f32x8 {
        // SAFETY: the caller's duty, and that F16C is there.
        pulp::cast(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f16, n: usize, fill: f32x8) -> f32x8 {
        debug_assert!(n <= N);
        let mut tail = [f16::ZERO; N];
        // SAFETY: the caller's duty: n elements at p, n <= N; the buffer has N.
        unsafe {
            core::ptr::copy_nonoverlapping(p, tail.as_mut_ptr(), n);
            keep_first(self.load(tail.as_ptr()), n, fill)
        }
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f16, stride: usize, j: usize) -> f32x8 {
        // SAFETY: the caller's duty: a run is a register.
        unsafe { self.load(p.add(j * stride)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f16, v: f32x8) {
        // SAFETY: the caller's duty, and that F16C is there.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<NEAREST>(pulp::cast(v))) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f16, n: usize, v: f32x8) {
        debug_assert!(n <= N);
        let mut tail = [f16::ZERO; N];
        // SAFETY: the caller's duty: n elements at p, n <= N; the buffer has N.
        unsafe {
            self.store(tail.as_mut_ptr(), v);
            core::ptr::copy_nonoverlapping(tail.as_ptr(), p, n);
        }
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f16, v: f32x8) {
        debug_assert!(p.cast::<__m128i>().is_aligned());
        if cfg!(miri) {
            return self.store(p, v);
        }
        // SAFETY: the caller's duty, and that F16C is there.
        unsafe { _mm_stream_si128(p.cast(), _mm256_cvtps_ph::<NEAREST>(pulp::cast(v))) };
    }
}

impl F16Lanes for V3 {
    #[inline(always)]
    unsafe fn round_f16(self, v: f32x8) -> f32x8 {
        // SAFETY: the caller's duty: F16C is there.
        pulp::cast(unsafe { _mm256_cvtph_ps(_mm256_cvtps_ph::<NEAREST>(pulp::cast(v))) })
    }
}
