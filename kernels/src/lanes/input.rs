//! What moments are taken of.

use super::{Element, Float, Lanes, Pair, Source};

/// The elements of a row, or, if `ADD`, the sums (x + residual) + bias, which are written as they are taken: rounded to the
/// type of the elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<T, const ADD: bool> {
    pub(super) x: Source<T>,
    pub(super) residual: Source<T>,
    /// Negative zeros, read again and again by way of a mask of 0, where there is no bias: adding them changes no bits.
    pub(super) bias: Source<T>,
    pub(super) bias_mask: usize,
    pub(super) sum: *mut T,
    /// The bytes from an element of x, or of the residual, to the one below it. (Of one row, a stride may be anything.)
    pub(super) strides: [usize; 2],
}

impl<T, const ADD: bool> From<Source<T>> for Input<T, ADD> {
    #[inline(always)]
    fn from(x: Source<T>) -> Self {
        debug_assert!(!ADD);
        let (residual, bias) = (Source(x.0), Source(x.0));
        Self { x, residual, bias, bias_mask: 0, sum: core::ptr::null_mut(), strides: [0; 2] }
    }
}

impl<T: Element, const ADD: bool> Input<T, ADD> {
    /// The input from element `i` on.
    ///
    /// # Safety
    /// - There are at least `i` elements.
    #[inline(always)]
    pub(crate) unsafe fn after(self, i: usize) -> Self {
        // SAFETY: the caller's duty.
        unsafe {
            let x = Source(self.x.0.add(i));
            if !ADD {
                return Self { x, ..self };
            }
            Self {
                x,
                residual: Source(self.residual.0.add(i)),
                bias: Source(self.bias.0.add(i & self.bias_mask)),
                sum: self.sum.add(i),
                ..self
            }
        }
    }

    /// Asks for the step that starts at `i` of the next row.
    #[inline(always)]
    pub(crate) fn prefetch_next_row<S: Lanes>(self, simd: S, i: usize) {
        let mut line = 0;
        while line < T::STEP * size_of::<T>() {
            simd.prefetch(self.x.0.wrapping_add(i).cast::<u8>().wrapping_add(self.strides[0]).wrapping_add(line));
            if ADD {
                simd.prefetch(
                    self.residual.0.wrapping_add(i).cast::<u8>().wrapping_add(self.strides[1]).wrapping_add(line),
                );
            }
            line += 64;
        }
    }

    /// Takes pair `j` of the step that starts at `i`.
    ///
    /// # Safety
    /// - There are at least `i + T::STEP` elements.
    #[inline(always)]
    pub(crate) unsafe fn take<S: Lanes>(self, simd: S, i: usize, j: usize) -> Pair<S, T> {
        // SAFETY: the caller's duty.
        unsafe {
            let x = T::simd_load_lanes(simd, self.x.0.add(i), j);
            if !ADD {
                return x;
            }
            let residual = T::simd_load_lanes(simd, self.residual.0.add(i), j);
            let bias = T::simd_load_lanes(simd, self.bias.0.add(i & self.bias_mask), j);
            let sum = add::<S, T>(simd, x, residual, bias);
            T::simd_store_lanes(simd, self.sum.add(i), j, sum);
            sum
        }
    }

    /// Takes pair `j` of a step of which `n` elements are left, from `i` on; `fill` in the lanes above.
    ///
    /// # Safety
    /// - There are at least `i + n` elements.
    #[inline(always)]
    pub(crate) unsafe fn take_tail<S: Lanes>(
        self,
        simd: S,
        i: usize,
        j: usize,
        n: usize,
        fill: <T::Float as Float>::Reg<S>,
    ) -> Pair<S, T> {
        // SAFETY: the caller's duty.
        unsafe {
            let sum = self.peek_tail(simd, i, j, n, fill);
            if ADD {
                T::simd_store_lanes_tail(simd, self.sum.add(i), j, n, sum);
            }
            sum
        }
    }

    /// What [`take_tail`](Self::take_tail) would take, without writing it.
    ///
    /// # Safety
    /// - As there.
    #[inline(always)]
    pub(crate) unsafe fn peek_tail<S: Lanes>(
        self,
        simd: S,
        i: usize,
        j: usize,
        n: usize,
        fill: <T::Float as Float>::Reg<S>,
    ) -> Pair<S, T> {
        // SAFETY: the caller's duty.
        unsafe {
            let x = T::simd_load_lanes_tail(simd, self.x.0.add(i), j, n, fill);
            if !ADD {
                return x;
            }
            let zero = T::Float::splat(simd, -T::Float::default());
            let residual = T::simd_load_lanes_tail(simd, self.residual.0.add(i), j, n, zero);
            let bias = T::simd_load_lanes_tail(simd, self.bias.0.add(i & self.bias_mask), j, n, zero);
            let sum = add::<S, T>(simd, x, residual, bias);
            if !T::ROUNDS {
                return sum;
            }
            // Rounding has changed what fills the lanes above.
            let one = T::Float::splat(simd, T::Float::from_f64(1.0));
            let above = T::simd_load_lanes_tail(simd, T::step_of_negative_zeros().as_ptr(), j, n, one);
            [
                T::Float::select_nonzero(simd, above[0], fill, sum[0]),
                T::Float::select_nonzero(simd, above[1], fill, sum[1]),
            ]
        }
    }

    /// Pair `j` of a step that is made of runs of elements, `stride` apart, without writing any.
    ///
    /// # Safety
    /// - There are all the elements of the runs.
    #[inline(always)]
    pub(crate) unsafe fn peek_runs<S: Lanes>(self, simd: S, stride: usize, j: usize) -> Pair<S, T> {
        // SAFETY: the caller's duty.
        unsafe {
            let x = T::simd_load_runs(simd, self.x.0, stride, j);
            if !ADD {
                return x;
            }
            let residual = T::simd_load_runs(simd, self.residual.0, stride, j);
            let bias = T::simd_load_runs(simd, self.bias.0, stride & self.bias_mask, j);
            add::<S, T>(simd, x, residual, bias)
        }
    }

    /// The first element, without writing it.
    ///
    /// # Safety
    /// - There is one.
    #[inline(always)]
    pub(crate) unsafe fn peek_first(self) -> T::Float {
        // SAFETY: the caller's duty.
        unsafe {
            let x = (*self.x.0).to_computed();
            if !ADD {
                return x;
            }
            let sum = (x + (*self.residual.0).to_computed()) + (*self.bias.0).to_computed();
            T::from_computed(sum).to_computed()
        }
    }
}

/// (x + residual) + bias, rounded to the type of the elements.
#[inline(always)]
fn add<S: Lanes, T: Element>(simd: S, x: Pair<S, T>, residual: Pair<S, T>, bias: Pair<S, T>) -> Pair<S, T> {
    let first = T::Float::plus(simd, T::Float::plus(simd, x[0], residual[0]), bias[0]);
    let second = T::Float::plus(simd, T::Float::plus(simd, x[1], residual[1]), bias[1]);
    T::simd_round(simd, [first, second])
}
