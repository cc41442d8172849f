//! gamma and beta of one row after another.

use super::affine::{Affine, PACKED_COLS, Packed};
use super::job::Job;
use crate::element::Storage;
use crate::mean::Center;
use crate::simd::Lanes;

/// Fewer rows that have gamma and beta in common are not worth packing them.
const PACKED_ROWS: usize = 4;

/// What successive rows read beside them: packed, for elements of 16 bits, where that pays.
pub(super) struct Affines<T: Storage> {
    grouped: bool,
    packs: bool,
    /// Those of the last row, as they came and as they are read.
    last: Option<(Affine<T>, Affine<T>)>,
}

impl<T: Storage> Affines<T> {
    /// For a job of which `rows` rows are to be normalized.
    #[inline(always)]
    pub(super) fn new(job: &Job<'_, T>, rows: usize) -> Self {
        let together = if job.is_grouped() { job.params.groups.repeat().min(rows) } else { rows };
        let packs = T::ROUNDS && together >= PACKED_ROWS && job.rows.cols() <= PACKED_COLS && !job.streaming;
        Self { grouped: job.is_grouped(), packs, last: None }
    }

    /// Those of row `r`, which comes after the rows asked for before.
    ///
    /// # Safety
    /// - There is such a row.
    /// - What is returned is not used after the next call. `packed` is always the same, and does not move in between.
    #[inline(always)]
    pub(super) unsafe fn of_row<S: Lanes, M: Center>(
        &mut self,
        simd: S,
        job: &Job<'_, T>,
        r: usize,
        packed: &Packed,
    ) -> Affine<T> {
        if let Some((_, read)) = self.last
            && !self.grouped
        {
            return read;
        }
        let affine = job.affine(r);
        if let Some((last, read)) = self.last
            && last.same(&affine)
        {
            return read;
        }
        let read = if self.packs && affine.packs() {
            // SAFETY: the columns fit, and gamma and beta have as many elements, checked by the constructor.
            unsafe { packed.pack::<S, T, M>(simd, &affine, job.rows.cols()) }
        } else {
            affine
        };
        self.last = Some((affine, read));
        read
    }
}
