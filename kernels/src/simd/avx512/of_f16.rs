use core::arch::x86_64::*;

use half::f16;
use pulp::{f32x16, x86::V4};

use super::mask;
use crate::simd::{Access, F16Lanes};

/// To nearest even, whatever the control register says.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

impl Access<f16> for V4 {
    type Regs = f32x16;
    type Reg = f32x16;

    #[inline(always)]
    unsafe fn load(self, p: *const f16) -> f32x16 {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F and AVX are there.
        pulp::cast(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f16, n: usize, fill: f32x16) -> f32x16 {
        // SAFETY: masked-off lanes are not read; a V4 token exists, so AVX-512F, BW and VL are there.
        unsafe {
            let tail = _mm256_maskz_loadu_epi16(mask(n), p.cast());
            pulp::cast(_mm512_mask_cvtph_ps(pulp::cast(fill), mask(n), tail))
        }
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f16, stride: usize, j: usize) -> f32x16 {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F and AVX2 are there.
        unsafe {
            let low = _mm_loadu_si128(p.add(2 * j * stride).cast());
            let high = _mm_loadu_si128(p.add((2 * j + 1) * stride).cast());
            pulp::cast(_mm512_cvtph_ps(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)))
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f16, v: f32x16) {
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F and AVX are there.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<NEAREST>(pulp::cast(v))) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f16, n: usize, v: f32x16) {
        // SAFETY: masked-off lanes are not written; a V4 token exists, so AVX-512F, BW and VL are there.
        unsafe { _mm256_mask_storeu_epi16(p.cast(), mask(n), _mm512_cvtps_ph::<NEAREST>(pulp::cast(v))) };
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f16, v: f32x16) {
        debug_assert!(p.cast::<__m256i>().is_aligned());
        // SAFETY: the caller's duty; a V4 token exists, so AVX-512F and AVX are there.
        unsafe { _mm256_stream_si256(p.cast(), _mm512_cvtps_ph::<NEAREST>(pulp::cast(v))) };
    }
}

impl F16Lanes for V4 {
    #[inline(always)]
    unsafe fn round_f16(self, v: f32x16) -> f32x16 {
        // SAFETY: a V4 token exists, so AVX-512F is there.
        pulp::cast(unsafe { _mm512_cvtph_ps(_mm512_cvtps_ph::<NEAREST>(pulp::cast(v))) })
    }
}
