use pulp::{Scalar128b, Simd, f64x2};

use crate::simd::{Access, F64Lanes};

const N: usize = 2;

impl Access<f64> for Scalar128b {
    type Regs = f64x2;
    type Reg = f64x2;

    #[inline(always)]
    unsafe fn load(self, p: *const f64) -> f64x2 {
        // SAFETY: the caller's duty; [f64; 2] has the alignment of f64.
        pulp::cast(unsafe { *p.cast::<[f64; N]>() })
    }

    #[inline(always)]
    unsafe fn load_tail(self, p: *const f64, n: usize, fill: f64x2) -> f64x2 {
        let mut lanes: [f64; N] = pulp::cast(fill);
        let tail = core::slice::from_raw_parts(p, n);
        for (lane, &x) in lanes.iter_mut().zip(tail) {
            *lane = x;
        }
        pulp::cast(lanes)
    }

    #[inline(always)]
    unsafe fn load_runs(self, p: *const f64, stride: usize, j: usize) -> f64x2 {
        // SAFETY: the caller's duty: a run is two registers.
        unsafe { self.load(p.add(j / 2 * stride + j % 2 * N)) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f64, v: f64x2) {
        // SAFETY: the caller's duty; [f64; 2] has the alignment of f64.
        unsafe { *p.cast::<[f64; N]>() = pulp::cast(v) };
    }

    #[inline(always)]
    unsafe fn store_tail(self, p: *mut f64, n: usize, v: f64x2) {
        let lanes: [f64; N] = pulp::cast(v);
        let tail = core::slice::from_raw_parts_mut(p, n);
        for (x, &lane) in tail.iter_mut().zip(&lanes) {
            *x = lane;
        }
    }

    #[inline(always)]
    unsafe fn stream(self, p: *mut f64, v: f64x2) {
        self.store(p, v);
    }
}

impl F64Lanes for Scalar128b {
    /// Out of line: it takes tens of instructions without hardware for it.
    #[inline(never)]
    fn fma_f64(self, a: f64x2, b: f64x2, c: f64x2) -> f64x2 {
        self.mul_add_f64s(a, b, c)
    }

    #[inline(always)]
    fn fold_f64(self, v: f64x2) -> f64 {
        let [a, b]: [f64; N] = pulp::cast(v);
        a + b
    }
}
