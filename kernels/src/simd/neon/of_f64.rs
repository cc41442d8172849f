use core::arch::aarch64::*;

use pulp::{Simd, aarch64::Neon, f64x2};

use crate::simd::{Access, F64Lanes};

const N: usize = 2;

impl Access<f64> for Neon {
    type Regs = f64x2;
    type Reg = f64x2;

    #[inline(always)]
    unsafe fn load(self, p: *const f64) -> f64x2 {
        // SAFETY: the caller's duty; a Neon token exists.
        pulp::cast(unsafe { vld1q_f64(p) })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f64, n: usize, fill: f64x2) -> f64x2 {
        debug_assert!(n <= N);
        // SAFETY: only elements 0..n are read; a Neon token exists.
        unsafe {
            match n {
                0 => fill,
                1 => pulp::cast(vld1q_lane_f64::<0>(p, pulp::cast(fill))),
                _ => self.load(p),
            }
        }
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f64, stride: usize, j: usize) -> f64x2 {
        // SAFETY: the caller's duty: a run is two registers.
        unsafe { self.load(p.add(j / 2 * stride + j % 2 * N)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f64, v: f64x2) {
        // SAFETY: the caller's duty; a Neon token exists.
        unsafe { vst1q_f64(p, pulp::cast(v)) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f64, n: usize, v: f64x2) {
        debug_assert!(n <= N);
        // SAFETY: only elements 0..n are written; a Neon token exists.
        unsafe {
            match n {
                0 => {}
                1 => vst1q_lane_f64::<0>(p, pulp::cast(v)),
                _ => self.store(p, v),
            }
        }
    }

    /// An ordinary store, as for f32.
    #[inline(always)]
    unsafe fn stream(self, p: *mut f64, v: f64x2) {
        self.store(p, v);
    }
}

impl F64Lanes for Neon {
    #[inline(always)]
    fn fma_f64(self, a: f64x2, b: f64x2, c: f64x2) -> f64x2 {
        self.mul_add_f64s(a, b, c)
    }

    #[inline(always)]
    fn fold_f64(self, v: f64x2) -> f64 {
        let [a, b]: [f64; N] = pulp::cast(v);
        a + b
    }
}
