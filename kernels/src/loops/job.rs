//! What the loops take, and what becomes of rows that they are not trusted with.

use super::affine::Affine;
use super::slow::NormalizeRow;
use crate::element::Storage;
use crate::isa::Isa;
use crate::rows::{Input, LINE, Params, RowIo, Target};
use crate::simd::{Float, Lanes, sqrt_f64};
use crate::stats::exact::{self, WideNorm};
use crate::stats::{CHUNK, Moments, RowNorm, StatsMut, scale_for};

/// Rows up to this many columns go through the loop over blocks.
const BLOCK_COLS: usize = 192;

/// So do those of whole cache lines up to this many bytes and columns.
const BLOCK_LINES: usize = 1 << 10;
const BLOCK_LINES_COLS: usize = 256;

/// Those that come from memory and go elsewhere, up to this size.
const BLOCK_ROW_BYTES: usize = 256;

/// Rows from this size on that come from memory and go back there are taken one by one.
const IN_PLACE_ROW_BYTES: usize = 2 << 10;

/// Rows up to this size are fused with their neighbours: beyond, a row is lost from the L2 cache before its turn comes.
const FUSED_BYTES: usize = 64 << 10;

/// What both normalizations have in common, and the loops take.
#[derive(Debug)]
pub(crate) struct Job<'a, T: Storage> {
    /// The tier that it runs on.
    pub(crate) isa: Isa,
    /// Whether rows have a mean.
    pub(crate) centered: bool,
    pub(crate) rows: RowIo<'a, T>,
    pub(crate) params: Params<'a, T>,
    /// Added to x and residual, if x is a sum.
    pub(crate) bias: Option<&'a [T]>,
    pub(crate) eps: f64,
    pub(crate) streaming: bool,
    /// Whether loops ask for what they read before they come to it.
    pub(super) asks: bool,
    /// Whether short rows go through the loop over blocks.
    pub(super) blocks: bool,
    /// Whether rows are fused with their neighbours.
    pub(super) fused: bool,
    pub(crate) stats: StatsMut<'a, T::Float>,
}

impl<'a, T: Storage> Job<'a, T> {
    /// Rows with a mean if `centered`, and vectors and statistics that fit them.
    #[inline(always)]
    pub(crate) fn new(
        centered: bool,
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Self {
        let params = params.with_harmless_offset();
        // Where there are no rows, there may be any number of columns.
        let (row_bytes, from_memory) = (rows.cols().wrapping_mul(size_of::<T>()), rows.come_from_memory());
        let in_place = from_memory && rows.is_in_place();
        let few_lines = row_bytes <= BLOCK_LINES && row_bytes.is_multiple_of(LINE) && rows.cols() <= BLOCK_LINES_COLS;
        let short = rows.cols() <= BLOCK_COLS || few_lines;
        let blocks = short && !streaming && (!from_memory || in_place || row_bytes <= BLOCK_ROW_BYTES);
        let fused = row_bytes <= FUSED_BYTES && !(in_place && row_bytes >= IN_PLACE_ROW_BYTES);
        let asks = streaming || in_place;
        Self { isa: Isa::SCALAR, centered, rows, params, bias: None, eps, streaming, asks, blocks, fused, stats }
    }

    pub(crate) fn split_at(self, row: usize) -> (Self, Self) {
        let (rows_a, rows_b) = self.rows.split_at(row);
        let (stats_a, stats_b) = self.stats.split_at(rows_a.rows());
        let params_b = Params { groups: self.params.groups.after(rows_a.rows()), ..self.params };
        (Self { rows: rows_a, stats: stats_a, ..self }, Self { rows: rows_b, stats: stats_b, params: params_b, ..self })
    }

    /// What the moments of row `r` are taken of.
    ///
    /// # Safety
    /// - There is such a row.
    #[inline(always)]
    pub(super) unsafe fn input(&self, r: usize) -> Input<T> {
        // SAFETY: the caller's duty.
        unsafe { self.rows.input(r, self.bias, self.asks) }
    }

    /// Where row `r` of y goes.
    ///
    /// # Safety
    /// - There is such a row.
    #[inline(always)]
    pub(super) unsafe fn target(&mut self, r: usize) -> Target<T> {
        // SAFETY: the caller's duty.
        unsafe { self.rows.target(r, self.streaming) }
    }

    #[inline(always)]
    pub(super) fn affine(&self, r: usize) -> Affine<T> {
        let params = self.params.of_row(r, self.rows.cols());
        Affine::new(params.gamma, params.beta, params.offset)
    }

    /// Whether rows differ in gamma and beta.
    #[inline(always)]
    pub(super) fn is_grouped(&self) -> bool {
        !self.params.groups.are_one()
    }

    /// Makes all NaNs of y the canonical one if gamma or beta can have made others.
    #[cold]
    #[inline(never)]
    pub(crate) fn canonicalize_nans(&mut self) {
        if self.params.are_finite() {
            return;
        }
        for r in 0..self.rows.rows() {
            let params = self.params.of_row(r, self.rows.cols());
            // SAFETY: r < rows.
            unsafe { canonicalize_row(&mut self.rows, r, &params) };
        }
    }
}

/// Makes all NaNs of a row of y the canonical one. Those that come from a NaN in gamma or beta may have lost
/// themselves when they were rounded to 16 bits.
///
/// # Safety
/// - There is such a row.
#[cold]
#[inline(never)]
pub(super) unsafe fn canonicalize_row<T: Storage>(rows: &mut RowIo<'_, T>, r: usize, params: &Params<'_, T>) {
    // SAFETY: the caller's duty.
    unsafe { rows.canonicalize(r, |i| params.gamma(i).into().is_nan() || params.beta(i).into().is_nan()) };
}

/// Turns the moments of row `r` into what normalizing it takes. A row that cannot be trusted and is not constant is
/// normalized here and now on the slow path, and there is nothing left to do for it.
#[inline(always)]
pub(super) fn settle<S: Lanes, T: Storage>(
    simd: S,
    job: &mut Job<'_, T>,
    r: usize,
    moments: &Moments,
    inv_cols: f64,
) -> Option<RowNorm<T::Float>> {
    let v = moments.m2 * inv_cols + job.eps;
    if !T::Float::TRUSTED.contains(&v) {
        return rescue_row(job, r, v, moments.origin + moments.offset);
    }
    let norm = RowNorm::new(moments.origin, moments.offset, 1.0 / sqrt_f64(simd, v));
    job.stats.set(r, &norm);
    Some(norm)
}

/// Normalizes a row on the slow path whose v and mean, of the fast sums, are not trusted. But a row of equal elements
/// with eps = 0, which is what padding is, has an xhat of 0 and not of 0 * infinity: that is left to the loops, as a
/// row with an rstd of 0.
#[cold]
#[inline(never)]
pub(super) fn rescue_row<T: Storage>(job: &mut Job<'_, T>, r: usize, v: f64, mean: f64) -> Option<RowNorm<T::Float>> {
    // SAFETY: r < rows: callers count it.
    let (x, cols) = (unsafe { job.rows.source(r) }, job.rows.cols());
    // SAFETY: rows have cols > 0 elements.
    if v == 0.0 && unsafe { exact::is_constant(x, cols, job.centered) } {
        let norm = RowNorm::new(mean, 0.0, f64::INFINITY);
        job.stats.set(r, &norm);
        return Some(RowNorm { rstd: T::Float::default(), ..norm });
    }
    let scale = scale_for::<T::Float>(v, mean);
    // SAFETY: as above.
    let moments = unsafe { exact::moments(job.isa, x, cols, scale, job.centered) };
    finish_row(job, r, &moments);
    None
}

/// Normalizes a row on the slow path with moments that were taken there.
#[cold]
#[inline(never)]
pub(crate) fn finish_row<T: Storage>(job: &mut Job<'_, T>, r: usize, moments: &Moments) {
    let cols = job.rows.cols();
    if moments.m2.is_nan() {
        // SAFETY: r < rows.
        unsafe {
            job.rows.canonicalize_sum(r);
            job.rows.canonicalize(r, |_| true);
        }
        job.stats.set(r, &RowNorm::NAN);
        return;
    }
    let scale = moments.scale;
    let v = moments.m2 / moments.count + job.eps * scale * scale;
    job.stats.set(r, &RowNorm::rescued(moments, v));
    // Equal elements and eps = 0: xhat is 0, not 0 * infinity.
    let rstd = if v == 0.0 { 0.0 } else { 1.0 / sqrt_f64(pulp::Scalar, v) };
    let norm = WideNorm::new::<T::Float>(moments, rstd);
    // SAFETY: r < rows.
    let (x, y) = unsafe { (job.rows.source(r), job.target(r)) };
    let (affine, has_beta) = (job.affine(r), job.params.beta.is_some());
    // All have cols elements; x and y are the same or apart, as RowIo promises.
    job.isa.run(&NormalizeRow { x, y, cols, norm, affine, has_beta });
}

const _: () = assert!(BLOCK_COLS <= CHUNK && BLOCK_LINES_COLS <= CHUNK);
