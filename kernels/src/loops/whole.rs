//! Rows one by one: moments, then normalize.

use core::array::from_ref;
use core::marker::PhantomData;

use super::epilogue::{Epilogue, Epilogues};
use super::job::{Job, settle};
use super::normalize::{KnownRow, NormRegs, normalize};
use crate::element::Storage;
use crate::mean::{Center, Mean};
use crate::rows::{Input, Params, Source, way};
use crate::simd::{Float, Kernel, Lanes, outline};
use crate::stats::sums;
use crate::stats::{CHUNK, Moments, Root, RowNorm};

/// Takes the moments of a row of `cols > 0` elements, and normalizes the row if it is one of a job. Whoever makes it
/// knows that the elements are there.
pub(crate) struct WholeRow<'j, 'a, T: Storage, M: Center, E> {
    /// Borrowed, since moving it would load it in wider pieces than it has just been stored in, which stalls.
    pub(super) row: &'j Input<T>,
    pub(super) cols: usize,
    pub(super) mean: Mean<M>,
    pub(super) job: Option<(&'j mut Job<'a, T, E>, usize)>,
}

impl<'j, T: Storage, M: Center, E: Epilogues<T>> WholeRow<'j, '_, T, M, E> {
    /// Takes the moments alone.
    ///
    /// # Safety
    /// - The row has `cols > 0` elements.
    #[inline(always)]
    pub(crate) unsafe fn moments(row: &'j Input<T>, cols: usize, mean: Mean<M>) -> Self {
        Self { row, cols, mean, job: None }
    }
}

impl<T: Storage, M: Center, E: Epilogues<T>> Kernel for WholeRow<'_, '_, T, M, E> {
    /// The moments, and whether what is written is known to be finite.
    type Output = (Moments, bool);

    const PORTABLE: bool = M::CENTERED;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> (Moments, bool) {
        let Self { row, cols, mean, job } = self;
        // SAFETY: the row has cols elements.
        let moments = unsafe { sums::row(simd, *row, cols, mean) };
        let Some((job, r)) = job else { return (moments, false) };
        let mut finite = false;
        if let Some(norm) = settle(simd, job, r, &moments, job.root.share(cols as f64)) {
            // SAFETY: the job has row r, of cols elements.
            finite = unsafe {
                let (x, epilogue) = (job.rows.source(r), job.epilogue(r));
                KnownRow { mean, x, norm, epilogue }.normalize(simd, cols)
            };
            job.row_is_done(simd, r);
        }
        if job.streaming {
            simd.fence();
        }
        (moments, finite)
    }
}

/// The second touch takes a [`SingleRow`] from the back, in pieces of this many columns: where x, y, gamma and beta do
/// not fit into an L1 cache together, the back is what is still there.
const SINGLE_PIECE_COLS: usize = 2 * CHUNK;

/// A row that is no sum, of which no statistics are wanted, and which is written with ordinary stores. This is for
/// calls that are one such row: all that the loop takes is in one place, and nothing of it is moved.
#[derive(Debug)]
pub(crate) struct SingleRow<T: Storage, M, E> {
    x: Source<T>,
    cols: usize,
    epilogue: E,
    eps: f64,
    center: PhantomData<M>,
}

impl<T: Storage, M: Center, E: Epilogue<T>> SingleRow<T, M, E> {
    /// A row of `cols` elements, to be read from `x`.
    ///
    /// # Safety
    /// - `0 < cols < 2^32`, and x and the epilogue have `cols` elements for as long as this lives.
    /// - The epilogue does not stream.
    #[inline(always)]
    pub(crate) unsafe fn new(x: Source<T>, cols: usize, epilogue: E, eps: f64) -> Self {
        Self { x, cols, epilogue, eps, center: PhantomData }
    }

    /// What it has been made of.
    #[inline(always)]
    pub(crate) fn parts(&self) -> (Source<T>, usize, &E, f64) {
        (self.x, self.cols, &self.epilogue, self.eps)
    }
}

impl<T: Storage, M: Center, E: Epilogue<T>> Kernel for &SingleRow<T, M, E> {
    /// Whether what is written is known to be finite. `None` if the moments cannot be trusted: then nothing has been
    /// written.
    type Output = Option<bool>;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> Option<bool> {
        let &SingleRow { x, cols, ref epilogue, eps, .. } = self;
        // So that the compiler knows it for a small number.
        let cols = cols as u32 as usize;
        let mean = Mean::<M>::new(M::CENTERED);
        // SAFETY: there are as many elements.
        let moments = unsafe {
            if cols <= CHUNK {
                sums::short_row(simd, x, cols, mean)
            } else {
                // Shared with other rows: a tree of chunks is more than a short row should have in its frame.
                outline(simd, WholeRow::<T, M, Params<'_, T>>::moments(&x.into(), cols, mean)).0
            }
        };
        let norm = RowNorm::of_v(simd, &moments, Root::of_mean(eps).above(moments.m2, moments.count))?;
        if epilogue.has_steps() {
            // SAFETY: x and the epilogue have cols elements.
            return Some(unsafe { KnownRow { mean, x, norm, epilogue: *epilogue }.normalize(simd, cols) });
        }
        let norm = [NormRegs::new(simd, &norm, mean)];
        let (mut finite, mut to) = (true, cols);
        loop {
            let from = (to - 1) / SINGLE_PIECE_COLS * SINGLE_PIECE_COLS;
            // SAFETY: x and the epilogue have cols elements, and nothing is streamed.
            let nan_probe = unsafe {
                normalize::<S, T, M, E, 1, { way::ONCE }>(simd, [x], from_ref(epilogue), &norm, [0, from, to])
            };
            finite &= !T::Float::any_nan(simd, nan_probe);
            if from == 0 {
                return Some(finite);
            }
            to = from;
        }
    }
}
