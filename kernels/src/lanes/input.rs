//! What moments are taken of.

use super::{Lanes, Source, Target};

/// The elements of a row, or, if `ADD`, the sums (x + residual) + bias, which are written as they are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<const ADD: bool> {
    pub(super) x: Source,
    pub(super) residual: Source,
    /// Negative zeros, read again and again by way of a mask of 0, where there is no bias: adding them changes no bits.
    pub(super) bias: Source,
    pub(super) bias_mask: usize,
    pub(super) sum: Target,
}

impl From<Source> for Input<false> {
    #[inline(always)]
    fn from(x: Source) -> Self {
        Self { x, residual: x, bias: x, bias_mask: 0, sum: Target(core::ptr::null_mut()) }
    }
}

impl<const ADD: bool> Input<ADD> {
    /// The input from element `i` on.
    ///
    /// # Safety
    /// - There are at least `i` elements.
    #[inline(always)]
    pub(crate) unsafe fn after(self, i: usize) -> Self {
        // SAFETY: the caller's duty.
        unsafe {
            if !ADD {
                return Self { x: self.x.after(i), ..self };
            }
            Self {
                x: self.x.after(i),
                residual: self.residual.after(i),
                bias: self.bias.after(i & self.bias_mask),
                sum: Target(self.sum.0.add(i)),
                ..self
            }
        }
    }

    /// Takes a register of elements from `i` on.
    ///
    /// # Safety
    /// - There are at least `i + S::F32_LANES` elements.
    #[inline(always)]
    pub(crate) unsafe fn take<S: Lanes>(self, simd: S, i: usize) -> S::f32s {
        // SAFETY: the caller's duty.
        unsafe {
            let x = self.x.load(simd, i);
            if !ADD {
                return x;
            }
            let sum = simd.add_f32s(x, self.residual.load(simd, i));
            let sum = simd.add_f32s(sum, self.bias.load(simd, i & self.bias_mask));
            self.sum.store::<S, false>(simd, i, sum);
            sum
        }
    }

    /// Takes `n` elements from `i` on, at most a register; `fill` in the lanes above.
    ///
    /// # Safety
    /// - There are at least `i + min(n, S::F32_LANES)` elements.
    #[inline(always)]
    pub(crate) unsafe fn take_tail<S: Lanes>(self, simd: S, i: usize, n: usize, fill: S::f32s) -> S::f32s {
        // SAFETY: the caller's duty.
        unsafe {
            let sum = self.peek_tail(simd, i, n, fill);
            if ADD {
                self.sum.store_tail(simd, i, n, sum);
            }
            sum
        }
    }

    /// What [`take_tail`](Self::take_tail) would take, without writing it.
    ///
    /// # Safety
    /// - As there.
    #[inline(always)]
    pub(crate) unsafe fn peek_tail<S: Lanes>(self, simd: S, i: usize, n: usize, fill: S::f32s) -> S::f32s {
        // SAFETY: the caller's duty.
        unsafe {
            let x = self.x.load_tail(simd, i, n, fill);
            if !ADD {
                return x;
            }
            let zero = simd.splat_f32s(-0.0);
            let sum = simd.add_f32s(x, self.residual.load_tail(simd, i, n, zero));
            simd.add_f32s(sum, self.bias.load_tail(simd, i & self.bias_mask, n, zero))
        }
    }

    /// Register `j` of the runs of elements that start `stride` apart (see [`Lanes::load_runs`]), without writing any.
    ///
    /// # Safety
    /// - There are all the elements that the register takes.
    #[inline(always)]
    pub(crate) unsafe fn peek_runs<S: Lanes>(self, simd: S, stride: usize, j: usize) -> S::f32s {
        // SAFETY: the caller's duty.
        unsafe {
            let x = self.x.load_runs(simd, stride, j);
            if !ADD {
                return x;
            }
            let sum = simd.add_f32s(x, self.residual.load_runs(simd, stride, j));
            simd.add_f32s(sum, self.bias.load_runs(simd, stride & self.bias_mask, j))
        }
    }

    /// The first element, without writing it.
    ///
    /// # Safety
    /// - There is one.
    #[inline(always)]
    pub(crate) unsafe fn peek_first(self) -> f32 {
        // SAFETY: the caller's duty.
        unsafe {
            let [x] = self.x.array(0);
            if !ADD {
                return x;
            }
            let ([residual], [bias]) = (self.residual.array(0), self.bias.array(0));
            (x + residual) + bias
        }
    }
}
