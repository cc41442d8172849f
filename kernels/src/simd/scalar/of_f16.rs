use half::f16;
use pulp::{Scalar128b, f32x4};

use super::N;
use crate::simd::{Access, F16Lanes};

/// Out of line: it takes tens of instructions without hardware for it.
#[inline(never)]
fn widen(v: [f16; N]) -> [f32; N] {
    let mut lanes = [0.0; N];
    for (lane, x) in lanes.iter_mut().zip(v) {
        *lane = x.to_f32_const();
    }
    lanes
}

#[inline(never)]
fn narrow(v: [f32; N]) -> [f16; N] {
    let mut elements = [f16::ZERO; N];
    for (x, lane) in elements.iter_mut().zip(v) {
        *x = f16::from_f32_const(lane);
    }
    elements
}

impl Access<f16> for Scalar128b {
    type Regs = f32x4;
    type Reg = f32x4;

    #[inline(always)]
    unsafe fn load(self, p: *const f16) -> f32x4 {
        // SAFETY: the caller's duty; [f16; 4] has the alignment of f16.
        pulp::cast(widen(unsafe { *p.cast::<[f16; N]>() }))
    }

    #[inline(never)]
    unsafe fn load_tail(self, p: *const f16, n: usize, fill: f32x4) -> f32x4 {
        let mut lanes: [f32; N] = pulp::cast(fill);
        let tail = core::slice::from_raw_parts(p, n);
        for (lane, &x) in lanes.iter_mut().zip(tail) {
            *lane = x.to_f32_const();
        }
        pulp::cast(lanes)
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f16, stride: usize, j: usize) -> f32x4 {
        // SAFETY: the caller's duty: a run is two registers.
        unsafe { self.load(p.add(j / 2 * stride + j % 2 * N)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f16, v: f32x4) {
        // SAFETY: the caller's duty; [f16; 4] has the alignment of f16.
        unsafe { *p.cast::<[f16; N]>() = narrow(pulp::cast(v)) };
    }

    #[inline(never)]
    unsafe fn store_tail(self, p: *mut f16, n: usize, v: f32x4) {
        let lanes: [f32; N] = pulp::cast(v);
        let tail = core::slice::from_raw_parts_mut(p, n);
        for (x, &lane) in tail.iter_mut().zip(&lanes) {
            *x = f16::from_f32_const(lane);
        }
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f16, v: f32x4) {
        self.store(p, v);
    }
}

impl F16Lanes for Scalar128b {
    #[inline(always)]
    unsafe fn round_f16(self, v: f32x4) -> f32x4 {
        pulp::cast(widen(narrow(pulp::cast(v))))
    }
}
