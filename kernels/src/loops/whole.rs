//! Rows one by one: moments, then normalize.

use super::epilogue::Epilogues;
use super::job::{Job, settle};
use super::normalize::KnownRow;
use crate::element::Storage;
use crate::mean::{Center, Mean};
use crate::rows::Input;
use crate::simd::{Kernel, Lanes};
use crate::stats::{Moments, sums};

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
        if let Some(norm) = settle(simd, job, r, &moments, 1.0 / cols as f64) {
            // SAFETY: the job has row r, of cols elements.
            finite = unsafe {
                let (x, epilogue) = (job.rows.source(r), job.epilogue(r));
                KnownRow { mean, x, norm, epilogue }.normalize(simd, cols)
            };
        }
        if job.streaming {
            simd.fence();
        }
        (moments, finite)
    }
}
