//! What the normalizations share: the job, the choice of loops, and the way out for rows of extreme range.
//!
//! `CENTERED` tells them apart: layer normalization subtracts the mean, RMS normalization does not. All the code below
//! is compiled for both.
//!
//! # Loops
//!
//! A row is touched twice: once for its moments, its only read from memory, and once, out of the cache, to be
//! normalized. Three loops do this; every row gets the same bits from each.
//!
//! - *Fused*: one loop takes the moments of row r while it normalizes row r - 1 or r - 2. The
//!   loads, arithmetic and stores of two rows overlap. With a delay of two rows the long chain between them
//!   (folding, square root, division: about a hundred cycles) runs beside the loop and not between two of them.
//! - *Blocks* of eight short rows: the lanes of eight rows are folded as one transposed tree, and square roots
//!   and divisions are taken for eight rows at once.
//! - *Whole rows*, when there is only one or when two no longer share a cache: moments, then normalize. Very long
//!   rows are normalized from the back, whose elements the cache still holds.
//!
//! If `ADD`, x is the sum of two tensors. The loops that take moments then read the addends and write x, and the second
//! touch reads x as ever: nothing else knows of sums.
//!
//! # Range
//!
//! The loops are trusted when 2^-90 <= v <= 2^120, where v is what the root is taken of, one compare for each row: then no
//! square that matters has under- or overflowed, rstd is normal and x - hi is finite. All other rows go to `rescue`.
//!
//! An infinite or NaN gamma or beta makes NaNs whose sign and payload differ between processors. It shows in every row
//! of y, so one row of them is looked over in each call, and all NaNs are made canonical if need be.

mod blocks;
mod elements;
mod fused;

use crate::Isa;
use crate::lanes::{FOLD_ROWS, Input, Kernel, Lanes, RowIo, any_nan, sqrt_f64};
use crate::moments::{self, CHUNK, Moments};
use crate::rescue;
use blocks::Blocks;
pub use elements::RowNorm;
use elements::{Affine, all_finite, normalize_row};
use fused::Fused;

/// Rows up to this many columns go through the loop over blocks.
const BLOCK_COLS: usize = 192;

/// Rows up to this many columns are normalized two rows late: three rows, gamma and beta fill an L1 cache.
const DELAY_COLS: usize = CHUNK;

/// Rows up to this many columns are fused with their neighbours: beyond, a row is lost from the L2 cache before
/// its turn comes.
const FUSED_COLS: usize = 16 * CHUNK;

/// The range of v = var + eps in which f32 sums of squares are trusted.
const TRUSTED: core::ops::RangeInclusive<f64> = 8.077935669463161e-28..=1.329227995784916e36;

/// Where to put the statistics of each row; each of them is optional and has one element for each row.
#[derive(Debug, Default)]
pub struct StatsMut<'a> {
    /// The mean, rounded to f32.
    pub mean: Option<&'a mut [f32]>,
    /// What rounding took from the mean: `mean + mean_lo` has 48 bits.
    pub mean_lo: Option<&'a mut [f32]>,
    /// 1 / sqrt(var + eps): infinite beyond the range of f32, and for a constant row with eps = 0.
    pub rstd: Option<&'a mut [f32]>,
}

impl<'a> StatsMut<'a> {
    #[inline]
    fn fits(&self, rows: usize) -> bool {
        [&self.mean, &self.mean_lo, &self.rstd].into_iter().all(|s| s.as_ref().is_none_or(|s| s.len() == rows))
    }

    #[inline(always)]
    fn set(&mut self, r: usize, norm: &RowNorm) {
        for (out, v) in [(&mut self.mean, norm.mean), (&mut self.mean_lo, norm.mean_lo), (&mut self.rstd, norm.rstd)] {
            if let Some(out) = out {
                out[r] = v;
            }
        }
    }

    #[inline(always)]
    fn set_block<const R: usize>(&mut self, r: usize, mean: &[f32; R], mean_lo: &[f32; R], rstd: &[f32; R]) {
        for (out, v) in [(&mut self.mean, mean), (&mut self.mean_lo, mean_lo), (&mut self.rstd, rstd)] {
            if let Some(out) = out {
                out[r..r + R].copy_from_slice(v);
            }
        }
    }

    /// The outputs of the first `row` rows, and of the others.
    ///
    /// # Panics
    /// If there are fewer rows.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let cut = |s: Option<&'a mut [f32]>| s.map(|s| s.split_at_mut(row)).unzip();
        let ((mean, mean_b), (mean_lo, mean_lo_b), (rstd, rstd_b)) =
            (cut(self.mean), cut(self.mean_lo), cut(self.rstd));
        (Self { mean, mean_lo, rstd }, Self { mean: mean_b, mean_lo: mean_lo_b, rstd: rstd_b })
    }
}

/// The job of normalizing some rows: see [`LayerNorm`](crate::layer_norm::LayerNorm) and
/// [`RmsNorm`](crate::rms_norm::RmsNorm).
#[derive(Debug)]
pub struct Forward<'a, const CENTERED: bool> {
    rows: RowIo<'a>,
    gamma: Option<&'a [f32]>,
    beta: Option<&'a [f32]>,
    /// Added to x and residual, if x is a sum.
    bias: Option<&'a [f32]>,
    /// Added to gamma; -0, which changes no bits, where there is none.
    gamma_offset: f32,
    eps: f64,
    streaming: bool,
    stats: StatsMut<'a>,
}

impl<'a, const CENTERED: bool> Forward<'a, CENTERED> {
    /// `None` if gamma, beta or the statistics have another length than the rows ask for.
    #[inline(always)]
    pub(crate) fn checked(
        rows: RowIo<'a>,
        gamma: Option<&'a [f32]>,
        beta: Option<&'a [f32]>,
        gamma_offset: f32,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a>,
    ) -> Option<Self> {
        let fits = |v: Option<&[f32]>| v.is_none_or(|v| v.len() == rows.cols());
        (fits(gamma) && fits(beta) && stats.fits(rows.rows())).then_some(Self {
            rows,
            gamma,
            beta,
            bias: None,
            gamma_offset,
            eps,
            streaming,
            stats,
        })
    }

    /// The same job with a row that is added to each sum of x and residual. `None` if it has another length, or if the rows
    /// are no sums.
    #[inline(always)]
    pub fn with_bias(self, bias: &'a [f32]) -> Option<Self> {
        (self.rows.is_sum() && bias.len() == self.rows.cols()).then_some(Self { bias: Some(bias), ..self })
    }

    /// The job for the first `row` rows, and that for the others.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let (rows_a, rows_b) = self.rows.split_at(row);
        let (stats_a, stats_b) = self.stats.split_at(rows_a.rows());
        (Self { rows: rows_a, stats: stats_a, ..self }, Self { rows: rows_b, stats: stats_b, ..self })
    }

    /// Turns the job of normalizing one row, whose moments have been taken elsewhere (by several threads, say), into one that
    /// can be split by columns. The statistics are written. The job is given back if it has not exactly one row, if that is a sum,
    /// or if the moments leave the range in which they can be trusted: then it must be run as it is.
    #[allow(clippy::result_large_err, reason = "the job is given back to be run, not to be propagated")]
    pub fn with_moments(mut self, moments: &Moments) -> Result<Normalize<'a, CENTERED>, Self> {
        if self.rows.rows() != 1 || self.rows.is_sum() {
            return Err(self);
        }
        match RowNorm::from_moments(moments, self.eps) {
            Some(norm) => {
                self.stats.set(0, &norm);
                let Self { rows: row, gamma, beta, gamma_offset, streaming, .. } = self;
                Ok(Normalize { row, gamma, beta, gamma_offset, norm, streaming })
            }
            None => Err(self),
        }
    }

    /// Does the job on one tier, on the calling thread.
    ///
    /// The job is borrowed, and should not be moved just before: a copy loads in wider pieces than the fields have just
    /// been stored in, which stalls for as long as a short row takes.
    #[inline]
    pub fn run_on(&mut self, isa: Isa) {
        if self.rows.rows() == 0 || self.rows.cols() == 0 {
            return;
        }
        let affine = self.gamma.is_some() || self.beta.is_some();
        let finite = match (self.rows.is_sum(), affine, self.streaming) {
            (false, false, false) => self.forward::<false, false, false>(isa),
            (false, false, true) => self.forward::<false, true, false>(isa),
            (false, true, false) => self.forward::<true, false, false>(isa),
            (false, true, true) => self.forward::<true, true, false>(isa),
            // Four buffers of rows hide the cost of a gamma of ones.
            (true, _, false) => self.forward::<true, false, true>(isa),
            (true, _, true) => self.forward::<true, true, true>(isa),
        };
        if !finite {
            canonicalize_nans(&mut self.rows, self.gamma, self.beta, self.gamma_offset);
        }
    }

    /// Chooses the loops. Each is dispatched by itself: without optimization, the frame of a function has room for every
    /// value of everything inlined into it, and that of all loops together would overflow the stack of a thread.
    ///
    /// Returns whether a row of y is known to be finite.
    #[inline]
    fn forward<const AFFINE: bool, const STREAM: bool, const ADD: bool>(&mut self, isa: Isa) -> bool {
        let (rows, cols) = (self.rows.rows(), self.rows.cols());
        let mut first = 0;
        let mut finite = true;
        if cols <= BLOCK_COLS && rows >= FOLD_ROWS {
            first = rows - rows % FOLD_ROWS;
            finite = isa.run(Blocks::<CENTERED, AFFINE, STREAM, ADD> { job: self, rows: first });
        }
        match rows - first {
            0 => finite,
            2.. if cols <= DELAY_COLS => isa.run(Fused::<CENTERED, AFFINE, STREAM, ADD, 2> { job: self, first }),
            2.. if cols <= FUSED_COLS => isa.run(Fused::<CENTERED, AFFINE, STREAM, ADD, 1> { job: self, first }),
            _ => isa.run(WholeRows::<CENTERED, AFFINE, STREAM, ADD> { job: self, first }),
        }
    }

    /// What the moments of row `r` are taken of.
    ///
    /// # Safety
    /// - There is such a row.
    #[inline(always)]
    unsafe fn input<const ADD: bool>(&self, r: usize) -> Input<ADD> {
        // SAFETY: the caller's duty.
        unsafe { self.rows.input(r, self.bias) }
    }

    #[inline(always)]
    fn affine(&self) -> Affine {
        Affine::new(self.gamma, self.beta, self.gamma_offset)
    }

    /// The rows.
    pub fn rows(&self) -> &RowIo<'a> {
        &self.rows
    }
}

/// The job of normalizing one row, or some columns of it, whose statistics are known.
#[derive(Debug)]
pub struct Normalize<'a, const CENTERED: bool> {
    row: RowIo<'a>,
    gamma: Option<&'a [f32]>,
    beta: Option<&'a [f32]>,
    gamma_offset: f32,
    norm: RowNorm,
    streaming: bool,
}

impl<'a, const CENTERED: bool> Normalize<'a, CENTERED> {
    /// `None` if there is not exactly one row, or if gamma or beta have another length.
    pub(crate) fn checked(
        row: RowIo<'a>,
        gamma: Option<&'a [f32]>,
        beta: Option<&'a [f32]>,
        gamma_offset: f32,
        norm: RowNorm,
        streaming: bool,
    ) -> Option<Self> {
        let fits = |v: Option<&[f32]>| v.is_none_or(|v| v.len() == row.cols());
        let fits = row.rows() == 1 && fits(gamma) && fits(beta);
        fits.then_some(Self { row, gamma, beta, gamma_offset, norm, streaming })
    }

    /// The job for the first `col` columns, and that for the others. All columns come first if there are fewer.
    pub fn split_at_col(self, col: usize) -> (Self, Self) {
        let col = col.min(self.row.cols());
        let (row_a, row_b) = self.row.split_at_col(col);
        let (gamma_a, gamma_b) = self.gamma.map(|g| g.split_at(col)).unzip();
        let (beta_a, beta_b) = self.beta.map(|b| b.split_at(col)).unzip();
        (
            Self { row: row_a, gamma: gamma_a, beta: beta_a, ..self },
            Self { row: row_b, gamma: gamma_b, beta: beta_b, ..self },
        )
    }

    /// Does the job on one tier, on the calling thread.
    pub fn run_on(self, isa: Isa) {
        isa.run(self);
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.row.cols()
    }
}

impl<const CENTERED: bool> Kernel for Normalize<'_, CENTERED> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(mut self, simd: S) {
        let cols = self.row.cols();
        if cols == 0 {
            return;
        }
        let affine = Affine::new(self.gamma, self.beta, self.gamma_offset);
        // SAFETY: there is a row 0.
        let (x, y) = unsafe { (self.row.source(0), self.row.target(0)) };
        // SAFETY: all lengths are cols, checked by the constructor.
        let probe = unsafe {
            match (self.gamma.is_some() || self.beta.is_some(), self.streaming) {
                (false, false) => normalize_row::<S, CENTERED, false, false>(simd, x, y, &self.norm, affine, cols),
                (false, true) => normalize_row::<S, CENTERED, false, true>(simd, x, y, &self.norm, affine, cols),
                (true, false) => normalize_row::<S, CENTERED, true, false>(simd, x, y, &self.norm, affine, cols),
                (true, true) => normalize_row::<S, CENTERED, true, true>(simd, x, y, &self.norm, affine, cols),
            }
        };
        if self.streaming {
            simd.fence();
        }
        if any_nan(simd, probe) {
            canonicalize_nans(&mut self.row, self.gamma, self.beta, self.gamma_offset);
        }
    }
}

/// Makes all NaNs the canonical one if gamma or beta can have made others.
#[cold]
#[inline(never)]
fn canonicalize_nans(rows: &mut RowIo<'_>, gamma: Option<&[f32]>, beta: Option<&[f32]>, gamma_offset: f32) {
    let gamma_is_finite = gamma.is_none_or(|gamma| gamma.iter().all(|gamma| (gamma + gamma_offset).is_finite()));
    if gamma_is_finite && beta.is_none_or(all_finite) {
        return;
    }
    for r in 0..rows.rows() {
        // SAFETY: r < rows.
        for y in unsafe { rows.y_row(r) } {
            if y.is_nan() {
                *y = f32::NAN;
            }
        }
    }
}

/// Turns the moments of row `r` into what normalizing it takes. A row that cannot be trusted is normalized here and
/// now on the slow path, and there is nothing left to do for it.
#[inline(always)]
fn settle<S: Lanes, const CENTERED: bool>(
    simd: S,
    job: &mut Forward<'_, CENTERED>,
    r: usize,
    moments: &Moments,
    inv_cols: f64,
) -> Option<RowNorm> {
    let v = moments.m2 * inv_cols + job.eps;
    if !TRUSTED.contains(&v) {
        rescue_row(job, r);
        return None;
    }
    let norm = RowNorm::new(moments.origin, moments.offset, 1.0 / sqrt_f64(simd, v));
    job.stats.set(r, &norm);
    Some(norm)
}

#[cold]
#[inline(never)]
fn rescue_row<const CENTERED: bool>(job: &mut Forward<'_, CENTERED>, r: usize) {
    let cols = job.rows.cols();
    // SAFETY: r < rows: callers count it.
    let (x, y) = unsafe { (job.rows.source(r), job.rows.target(r)) };
    // SAFETY: rows have cols > 0 elements.
    let Some(moments) = (unsafe { rescue::moments::<CENTERED>(x, cols) }) else {
        // SAFETY: r < rows.
        unsafe {
            job.rows.canonicalize_sum(r);
            job.rows.y_row(r).fill(f32::NAN);
        }
        job.stats.set(r, &RowNorm::NAN);
        return;
    };
    let v = moments.m2 / moments.count + job.eps;
    let rstd = 1.0 / sqrt_f64(pulp::Scalar, v);
    job.stats.set(r, &RowNorm::new(moments.origin, moments.offset, rstd));
    // Equal elements and eps = 0: xhat is 0, not 0 * infinity.
    let rstd = if v == 0.0 { 0.0 } else { rstd };
    // SAFETY: rows have cols elements; x and y are the same or apart, as RowIo promises.
    unsafe { rescue::normalize(x, y, cols, &moments, rstd, (job.gamma, job.gamma_offset), job.beta) };
}

/// Rows one by one, from `first` on. There is one at least. Returns whether a row of y is known to be finite.
struct WholeRows<'j, 'a, const CENTERED: bool, const AFFINE: bool, const STREAM: bool, const ADD: bool> {
    job: &'j mut Forward<'a, CENTERED>,
    first: usize,
}

impl<const CENTERED: bool, const AFFINE: bool, const STREAM: bool, const ADD: bool> Kernel
    for WholeRows<'_, '_, CENTERED, AFFINE, STREAM, ADD>
{
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { job, first } = self;
        let cols = job.rows.cols();
        let inv_cols = 1.0 / cols as f64;
        let affine = job.affine();
        let mut probe = simd.splat_f32s(f32::NAN);
        for r in first..job.rows.rows() {
            // SAFETY: r < rows.
            let (x, y) = unsafe { (job.rows.source(r), job.rows.target(r)) };
            // SAFETY: x has cols elements.
            let moments = unsafe { moments::row::<S, CENTERED, ADD>(simd, job.input(r), cols) };
            if let Some(norm) = settle(simd, job, r, &moments, inv_cols) {
                // SAFETY: the row has cols elements; so have gamma and beta, checked by the constructor.
                probe = unsafe { normalize_row::<S, CENTERED, AFFINE, STREAM>(simd, x, y, &norm, affine, cols) };
            }
        }
        if STREAM {
            simd.fence();
        }
        !AFFINE || !any_nan(simd, probe)
    }
}

const _: () = assert!(BLOCK_COLS <= CHUNK);
