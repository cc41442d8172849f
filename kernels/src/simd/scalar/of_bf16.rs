use half::bf16;
use pulp::{Scalar128b, f32x4};

use super::N;
use crate::simd::{Access, Bf16Lanes};

const UPPER: u32 = 0xffff_0000;

/// The rounded element in the upper half, and anything in the lower half.
#[inline(always)]
fn round(v: f32) -> u32 {
    let bits = v.to_bits();
    bits.wrapping_add(0x7fff).wrapping_add((bits >> 16) & 1)
}

#[inline(always)]
fn widen(v: [u16; 2 * N]) -> [f32x4; 2] {
    let (mut even, mut odd) = ([0.0; N], [0.0; N]);
    for k in 0..N {
        even[k] = f32::from_bits(u32::from(v[2 * k]) << 16);
        odd[k] = f32::from_bits(u32::from(v[2 * k + 1]) << 16);
    }
    [pulp::cast(even), pulp::cast(odd)]
}

#[inline(always)]
fn narrow([even, odd]: [f32x4; 2]) -> [u16; 2 * N] {
    let (even, odd): ([f32; N], [f32; N]) = (pulp::cast(even), pulp::cast(odd));
    let mut v = [0; 2 * N];
    for k in 0..N {
        v[2 * k] = (round(even[k]) >> 16) as u16;
        v[2 * k + 1] = (round(odd[k]) >> 16) as u16;
    }
    v
}

impl Access<bf16> for Scalar128b {
    type Regs = [f32x4; 2];
    type Reg = f32x4;

    #[inline(always)]
    unsafe fn load(self, p: *const bf16) -> [f32x4; 2] {
        // SAFETY: the caller's duty; [u16; 8] has the alignment of bf16.
        widen(unsafe { *p.cast::<[u16; 2 * N]>() })
    }

    #[inline(never)]
    unsafe fn load_tail(self, p: *const bf16, n: usize, fill: f32x4) -> [f32x4; 2] {
        let mut lanes: [[f32; N]; 2] = [pulp::cast(fill), pulp::cast(fill)];
        let tail = core::slice::from_raw_parts(p, n);
        for (i, x) in tail.iter().enumerate().take(2 * N) {
            lanes[i % 2][i / 2] = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
        [pulp::cast(lanes[0]), pulp::cast(lanes[1])]
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const bf16, stride: usize, j: usize) -> [f32x4; 2] {
        // SAFETY: the caller's duty: a run is a pair.
        unsafe { self.load(p.add(j * stride)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut bf16, v: [f32x4; 2]) {
        // SAFETY: the caller's duty; [u16; 8] has the alignment of bf16.
        unsafe { *p.cast::<[u16; 2 * N]>() = narrow(v) };
    }

    #[inline(never)]
    unsafe fn store_tail(self, p: *mut bf16, n: usize, v: [f32x4; 2]) {
        let tail = core::slice::from_raw_parts_mut(p, n);
        for (x, v) in tail.iter_mut().zip(narrow(v)) {
            *x = bf16::from_bits(v);
        }
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut bf16, v: [f32x4; 2]) {
        self.store(p, v);
    }
}

impl Bf16Lanes for Scalar128b {
    #[inline(always)]
    fn round_bf16(self, v: f32x4) -> f32x4 {
        let mut lanes: [f32; N] = pulp::cast(v);
        for lane in &mut lanes {
            *lane = f32::from_bits(round(*lane) & UPPER);
        }
        pulp::cast(lanes)
    }

    #[inline(always)]
    fn split(self, v: [f32x4; 2]) -> [f32x4; 2] {
        let [a, b, c, d, e, f, g, h]: [f32; 2 * N] = pulp::cast(v);
        [pulp::cast([a, c, e, g]), pulp::cast([b, d, f, h])]
    }

    #[inline(always)]
    fn join(self, v: [f32x4; 2]) -> [f32x4; 2] {
        let [a, c, e, g, b, d, f, h]: [f32; 2 * N] = pulp::cast(v);
        [pulp::cast([a, b, c, d]), pulp::cast([e, f, g, h])]
    }
}
