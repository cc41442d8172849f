//! The gradients of both normalizations.
//!
//! With dy the gradient of y, g = dy * gamma and xhat = (x - mean) * rstd (x * rstd without a mean),
//!
//! ```text
//! c1     = sum(g) / n                                        0 without a mean
//! c2     = sum(g * xhat) / n
//! dx     = rstd * (g - c1 - xhat * c2) + ds
//! dgamma = sum over the rows of dy * xhat
//! dbeta  = sum over the rows of dy
//! ```
//!
//! which is the chain rule applied to the formulas of [`layer_norm`](super::layer_norm) and
//! [`rms_norm`](super::rms_norm), as in Ba, Kiros and Hinton, arXiv:1607.06450 (2016), and Zhang and Sennrich,
//! arXiv:1910.07467 (2019). ds is a gradient that reaches x by another way: where x is a sum, the gradient of the
//! residual connection.
//!
//! # Two touches
//!
//! Two rows are taken at a time. The first touch, the only one that reads memory, takes the two sums of each; the
//! second, out of the cache, goes over the columns of both at once, writes dx, and adds to the running sums of dgamma
//! and dbeta, which are loaded and stored once for two rows: stores are what the loop waits for. Where dx is streamed
//! past the caches, the second touch also prefetches the next rows, since memory has nothing else to do.
//!
//! Where forward has kept the statistics, four rows have the first touch together, if they fit into L1. Their sums are
//! folded as one transposed tree, and what follows from these is taken in vectors. If the loops cannot be trusted with
//! one of the four, each of them is touched again by itself.
//!
//! ```text
//! S1, S2 = sum g, sum g * (x - hi)           in f32, per virtual lane, folded by halves; chunks are added in f64
//! c1, c2 = S1 / n, (S2 - lo * S1) * rstd / n         in f64
//! xhat   = fma(x - hi, rstd, -lo * rstd)             as in forward
//! dx     = fma(g, rstd, fma(xhat, -rstd * c2, -rstd * c1)) + ds
//! ```
//!
//! Without a mean, S1, hi and lo are 0. As in [`forward`](super::forward), only some rows without a mean have loops of
//! their own. In loops that both normalizations share, a row without a mean still computes a dbeta. Its pointer aliases
//! dgamma, and the store of dgamma that follows overwrites it.
//!
//! # What fixes the bits of dgamma and dbeta
//!
//! Pairs of rows are added one after the other up to [`LEAF_ROWS`] rows, a leaf. Only these additions lose their
//! rounding errors: the sums of leaves are added with their errors kept (Knuth's `TwoSum`). The leaves of a part make
//! the sum of the part. [`Parts`] cuts the rows into parts by their number alone, and several threads can share the
//! parts. The parts are added along a binary tree.
//!
//! # Range
//!
//! The loops are trusted with a row if rstd, S1 and S2 are of a moderate size. If not, and also where a number is not
//! finite, the row takes the slow path in f64. What decides are the rounded statistics, so that it makes no difference
//! whether forward has kept them or they are taken again.

mod block;
mod job;
mod merge;
mod parts;
mod run;
mod slow;
mod touches;

use core::marker::PhantomData;

use crate::element::Storage;
use crate::error::Error;
use crate::isa::Isa;
use crate::mean::Center;
use crate::rows::{GradRows, Groups, Params};
use crate::stack;
use job::GradJob;
pub use job::Stats;
pub(crate) use merge::{Merge, merge_sums};
pub use parts::{LEAF_ROWS, Parts};
pub(super) use parts::{assert_len, assert_len_at_least};
use run::{RunParts, run_parts};

/// The job of taking the gradients of some rows, which are some parts of all rows: see [`Parts`].
#[derive(Debug)]
pub struct Backward<'a, T: Storage, M: Center>(GradJob<'a, T>, PhantomData<M>);

/// Runs such a job, which has rows and columns, on one tier, with memory for sums and for work: see `compile.rs`.
pub(super) type RunBackward<T, M> =
    fn(&mut Backward<'_, T, M>, &mut [<T as Storage>::Float], &mut [<T as Storage>::Float], Isa);

impl<'a, T: Storage, M: Center> Backward<'a, T, M> {
    /// The job for all of `rows`, which make parts of their own: [`Parts::new`] of `rows.rows()`. The gradients of
    /// gamma and beta are taken if `sums`. dx is written past the caches if `streaming`. The gamma of `params` is that
    /// of the rows' group; its beta and its groups are not looked at.
    ///
    /// # Errors
    /// If
    /// - gamma does not have an element for each column,
    /// - a statistic does not have an element for each row of the buffers: see [`Stats`],
    /// - mean comes without rstd, `mean_lo` without mean, or, in layer normalization, rstd without mean,
    /// - mean or `mean_lo` comes in RMS normalization,
    /// - there is a ds, and no dx to add it to,
    /// - nothing is wanted, neither dx nor sums, or
    /// - eps is negative, infinite or NaN.
    pub fn new(
        rows: GradRows<'a, T>,
        stats: Stats<'a, T::Float>,
        params: Params<'a, T>,
        eps: f64,
        sums: bool,
        streaming: bool,
    ) -> Result<Self, Error> {
        Error::length("gamma", params.gamma.map_or(rows.cols(), |gamma| gamma.len()), rows.cols())?;
        stats.fit(rows.all(), M::CENTERED)?;
        if !rows.has_dx() && rows.has_ds() {
            return Err(Error::DsWithoutDx { rows: rows.all() });
        }
        if !rows.has_dx() && !sums {
            return Err(Error::NoGradient);
        }
        let parts = Parts::new(rows.rows(), rows.cols());
        let (part_rows, is_leaf) = (parts.part_rows, parts.is_leaf());
        let root = params.root(M::CENTERED, eps)?;
        let params = Params { beta: None, groups: Groups::ONE, ..params }.with_harmless_offset();
        let isa = Isa::SCALAR;
        let centered = M::CENTERED;
        let (before, is_open) = (0, false);
        let job =
            GradJob { isa, centered, rows, stats, params, root, sums, streaming, part_rows, is_leaf, before, is_open };
        Ok(Self(job, PhantomData))
    }

    /// The same for rows that are some of one of `parts`, of which `before` rows come before them, an even number. The
    /// work memory must be that of the rows before, unless there are none. `is_open` says whether other rows of the
    /// part follow.
    pub(crate) fn within(self, parts: &Parts, before: usize, is_open: bool) -> Self {
        let Self(job, center) = self;
        let (part_rows, is_leaf) = (parts.part_rows, parts.is_leaf());
        Self(GradJob { part_rows, is_leaf, before, is_open, ..job }, center)
    }

    /// The number of parts.
    pub fn parts(&self) -> usize {
        self.0.rows.rows().div_ceil(self.0.part_rows)
    }

    /// The job for the first `parts` parts, and the job for the rest. If there are fewer parts, the first job has them
    /// all.
    pub fn split_at_part(self, parts: usize) -> (Self, Self) {
        let Self(job, _) = self;
        let row = parts.saturating_mul(job.part_rows).min(job.rows.rows());
        let (a, b) = job.rows.split_at(row);
        (Self(GradJob { rows: a, ..job }, PhantomData), Self(GradJob { rows: b, ..job }, PhantomData))
    }

    /// Whether there is nothing to do.
    ///
    /// # Panics
    /// As `run_on` does.
    pub(crate) fn is_empty(&self, partials: &[T::Float], work: &[T::Float]) -> bool {
        let job = &self.0;
        let parts = Parts { rows: job.rows.rows(), cols: job.rows.cols(), part_rows: job.part_rows };
        if parts.rows == 0 || parts.cols == 0 {
            return true;
        }
        let partial_len = parts.partial_len::<T>(M::CENTERED);
        let work_len = parts.work_len::<T>(M::CENTERED);
        let expected = partial_len.and_then(|len| len.checked_mul(parts.count()));
        if job.sums {
            assert_len("partials", partials.len(), expected);
        }
        assert_len_at_least("work", work.len(), work_len);
        false
    }

    /// Runs the job, which has rows and columns, through the loops for `L`.
    #[inline(always)]
    pub(crate) fn run_here<L: Center>(&mut self, isa: Isa, partials: &mut [T::Float], work: &mut [T::Float]) {
        self.0.isa = isa;
        let mut parts = RunParts::<T, L> { job: &mut self.0, partials, work, center: PhantomData };
        stack::within_a_page(&mut parts, isa, run_parts);
    }
}
