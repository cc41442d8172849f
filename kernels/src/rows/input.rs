//! The input of moments: a row, or a sum that is yet to be taken.

use super::Source;
use super::source::PrefetchOffset;
use crate::element::{Pair, Storage};
use crate::simd::{Float, Kernel, Lanes, outline};

/// A row and the rows below it. They may be sums that are yet to be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<T> {
    x: Source<T>,
    /// Which elements of x loops prefetch.
    ahead: PrefetchOffset,
    addition: Option<Addition<T>>,
}

impl<T> From<Source<T>> for Input<T> {
    #[inline(always)]
    fn from(x: Source<T>) -> Self {
        Self { x, ahead: PrefetchOffset::NOTHING, addition: None }
    }
}

impl<T: Storage> Input<T> {
    #[inline(always)]
    pub(super) fn new(x: Source<T>, ahead: PrefetchOffset, addition: Option<Addition<T>>) -> Self {
        Self { x, ahead, addition }
    }

    /// The row. If it is a sum, its elements are there once [`take_sums`](Self::take_sums) has taken them.
    #[inline(always)]
    pub(crate) fn row(self) -> Source<T> {
        self.x
    }

    /// If the rows are sums, takes the sums of `rows` rows from this row on, in `cols` columns from `from` on.
    ///
    /// # Safety
    /// - There are `rows` rows, which have columns `from..from + cols`.
    #[inline(always)]
    pub(crate) unsafe fn take_sums<S: Lanes>(self, simd: S, rows: usize, from: usize, cols: usize) {
        if let Some(addition) = self.addition {
            // SAFETY: the caller's duty.
            outline(simd, unsafe { addition.part(rows, from, cols) });
        }
    }

    /// The kernel that takes the sums of `n` columns of this row from `from` on, if it is a sum, in f32 to `wide`.
    ///
    /// # Safety
    /// - The row has columns `from..from + n`, and `wide` has place for as many elements.
    pub(crate) unsafe fn wide_sums(self, from: usize, n: usize, wide: *mut f32) -> Option<WideSums<T>> {
        // SAFETY: the caller's duty.
        self.addition.map(|addition| WideSums { addition: unsafe { addition.part(1, from, n) }, wide })
    }

    /// Whether loops prefetch.
    #[inline(always)]
    pub(crate) fn asks(&self) -> bool {
        self.ahead != PrefetchOffset::NOTHING
    }

    /// Prefetches elements that are read some time after the step that starts at `i`. Without [`asks`](Self::asks),
    /// that is harmless and in vain.
    #[inline(always)]
    pub(crate) fn prefetch_ahead<S: Lanes>(self, simd: S, i: usize) {
        self.x.prefetch_ahead(simd, i, self.ahead);
    }

    /// Prefetches `n` elements that are read some time after those from `i` on. It needs [`asks`](Self::asks).
    #[inline(always)]
    pub(crate) fn prefetch_chunk<S: Lanes>(self, simd: S, i: usize, n: usize) {
        self.x.prefetch_chunk(simd, i, n, self.ahead);
    }
}

/// Takes the sums (x + residual) + bias of rows, rounded to the type of the elements. Whoever makes it knows that all
/// these elements are there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addition<T> {
    pub(super) x: *const T,
    pub(super) x_stride: usize,
    pub(super) residual: *const T,
    pub(super) residual_stride: usize,
    /// A step of negative zeros where there is no bias. A mask of 0 makes each step read it again. Adding -0 changes no
    /// bits.
    pub(super) bias: *const T,
    pub(super) bias_mask: usize,
    /// May be `x` or `residual`.
    pub(super) sum: *mut T,
    pub(super) sum_stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// `Some` if addends are prefetched: then whether there are gaps between their rows.
    pub(super) prefetches: Option<bool>,
}

impl<T: Storage> Addition<T> {
    /// # Safety
    /// - There are `rows` rows, which have columns `from..from + cols`.
    #[inline(always)]
    unsafe fn part(self, rows: usize, from: usize, cols: usize) -> Self {
        // SAFETY: the caller's duty.
        unsafe {
            Self {
                x: self.x.add(from),
                residual: self.residual.add(from),
                bias: self.bias.add(from & self.bias_mask),
                sum: self.sum.add(from),
                rows,
                cols,
                ..self
            }
        }
    }
}

impl<T: Storage> Kernel for Addition<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let pair = 2 * T::Float::lanes::<S>();
        let fill = T::Float::splat(simd, T::Float::default());
        for r in 0..self.rows {
            // SAFETY: whoever made this knew that the elements are there.
            unsafe {
                let x = self.x.add(r * self.x_stride);
                let residual = self.residual.add(r * self.residual_stride);
                let sum = self.sum.add(r * self.sum_stride);
                let mut i = 0;
                while i + T::STEP <= self.cols {
                    if let Some(gaps) = self.prefetches {
                        Source(x).prefetch_ahead(simd, i, PrefetchOffset::new::<T>(self.x_stride, gaps));
                        Source(residual).prefetch_ahead(simd, i, PrefetchOffset::new::<T>(self.residual_stride, gaps));
                    }
                    let mut j = 0;
                    while j < T::STEP {
                        let bias = T::simd_load(simd, self.bias.add((i & self.bias_mask) + j));
                        let (x, residual) = (T::simd_load(simd, x.add(i + j)), T::simd_load(simd, residual.add(i + j)));
                        let v = add::<S, T>(simd, x, residual, bias);
                        T::simd_store_beside::<S, false>(simd, sum, false, i + j, v);
                        j += pair;
                    }
                    i += T::STEP;
                }
                while i < self.cols {
                    let n = pair.min(self.cols - i);
                    let bias = T::simd_load_tail(simd, self.bias.add(i & self.bias_mask), n, fill);
                    let (x, residual) = (x.add(i), residual.add(i));
                    let (x, residual) =
                        (T::simd_load_tail(simd, x, n, fill), T::simd_load_tail(simd, residual, n, fill));
                    let v = add::<S, T>(simd, x, residual, bias);
                    T::simd_store_beside_tail(simd, sum, false, i, n, v);
                    i += n;
                }
            }
        }
    }
}

/// (x + residual) + bias, rounded to the type of the elements.
#[inline(always)]
fn add<S: Lanes, T: Storage>(simd: S, x: Pair<S, T>, residual: Pair<S, T>, bias: Pair<S, T>) -> Pair<S, T> {
    // SAFETY: as in `outline`.
    unsafe { T::simd_round(simd, unrounded::<S, T>(simd, x, residual, bias)) }
}

/// (x + residual) + bias.
#[inline(always)]
fn unrounded<S: Lanes, T: Storage>(simd: S, x: Pair<S, T>, residual: Pair<S, T>, bias: Pair<S, T>) -> Pair<S, T> {
    let add = |k: usize| T::Float::plus(simd, T::Float::plus(simd, x[k], residual[k]), bias[k]);
    [add(0), add(1)]
}

/// Takes the sums of one row of 16 bits in f32. Whoever makes it knows that all these elements are there.
pub(crate) struct WideSums<T> {
    addition: Addition<T>,
    wide: *mut f32,
}

impl<T: Storage> Kernel for WideSums<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { addition: Addition { x, residual, bias, bias_mask, cols, .. }, wide } = self;
        let (pair, fill) = (2 * T::Float::lanes::<S>(), T::Float::splat(simd, T::Float::default()));
        let wide = wide.cast::<T>();
        let whole = cols - cols % pair;
        // SAFETY: whoever made this knew that the elements are there. A step of stand-ins for a bias has a pair.
        unsafe {
            for i in (0..whole).step_by(pair) {
                let bias = T::simd_load(simd, bias.add(i & bias_mask));
                let (x, residual) = (T::simd_load(simd, x.add(i)), T::simd_load(simd, residual.add(i)));
                let v = unrounded::<S, T>(simd, x, residual, bias);
                T::simd_store_beside::<S, false>(simd, wide, true, i, v);
            }
            if whole < cols {
                let (i, n) = (whole, cols - whole);
                let bias = T::simd_load_tail(simd, bias.add(i & bias_mask), n, fill);
                let x = T::simd_load_tail(simd, x.add(i), n, fill);
                let residual = T::simd_load_tail(simd, residual.add(i), n, fill);
                let v = unrounded::<S, T>(simd, x, residual, bias);
                T::simd_store_beside_tail(simd, wide, true, i, n, v);
            }
        }
    }
}
