//! The job that the loops run, and the way of rows to the slow path.

use core::ops::Range;

use super::epilogue::{Epilogues, Successive};
use crate::element::Storage;
use crate::isa::Isa;
use crate::mean::Center;
use crate::quants::{Below, Quantizer, RowIsDone};
use crate::rows::{Input, LINE, RowIo};
use crate::simd::{Float, Lanes, outline, sqrt_f64};
use crate::stats::exact::{self, WideNorm};
use crate::stats::{CHUNK, Moments, Root, RowNorm, StatsMut, scale_for};

/// Rows up to this many columns go through the loop over blocks.
pub(super) const BLOCK_COLS: usize = 192;

/// So do rows up to [`cached_block_cols`], if x and y together have at most this many bytes, which caches keep.
const CACHED_BYTES: usize = 4 << 20;

/// Elements of 16 bits wait for arithmetic more than for memory, and rows of f64 are twice as long.
const fn cached_block_cols<T>() -> usize {
    match size_of::<T>() {
        2 => 768,
        4 => 512,
        _ => 320,
    }
}

/// So do rows of whole cache lines, up to this many bytes and columns.
const BLOCK_LINES: usize = 1 << 10;
const BLOCK_LINES_COLS: usize = 256;

/// Rows that come from memory and are not normalized in place go there up to this size.
const BLOCK_ROW_BYTES: usize = 256;

/// Rows that come from memory and are normalized in place are taken one by one from this size on.
const IN_PLACE_ROW_BYTES: usize = 2 << 10;

/// Rows up to this size are fused with their neighbours. A longer row would leave the L2 cache before its second touch.
pub(super) const FUSED_BYTES: usize = 64 << 10;

/// Rows that are quantized are prefetched if x has this size at least.
const PREFETCHED_BYTES: usize = 4 << 20;

/// The job that the loops run. Its input is `rows`, its reduction is the moments of each row (the `M: Center` of the
/// loops), and `epilogues` make y.
#[derive(Debug)]
pub(crate) struct Job<'a, T: Storage, E> {
    /// The tier that it runs on.
    pub(crate) isa: Isa,
    /// Whether rows have a mean.
    pub(crate) centered: bool,
    pub(crate) rows: RowIo<'a, T>,
    pub(crate) epilogues: E,
    /// Added to x and residual, if x is a sum.
    pub(crate) bias: Option<&'a [T]>,
    pub(crate) root: Root,
    pub(crate) streaming: bool,
    /// Whether loops prefetch the elements that they read.
    pub(super) prefetches: bool,
    /// Whether short rows go through the loop over blocks.
    pub(super) blocks: bool,
    /// Whether rows are fused with their neighbours.
    pub(super) fused: bool,
    pub(crate) stats: StatsMut<'a, T::Float>,
    /// What becomes of rows of y that have been normalized, and the first of these rows among all that it is for.
    quantizer: Option<(&'a Quantizer<'a>, usize)>,
}

impl<'a, T: Storage, E: Epilogues<T>> Job<'a, T, E> {
    /// A job of `rows`, which have a mean if `centered`. `epilogues` and `stats` fit the rows.
    #[inline(always)]
    pub(crate) fn new(
        centered: bool,
        rows: RowIo<'a, T>,
        epilogues: E,
        root: Root,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Self {
        // Where there are no rows, there may be any number of columns.
        let (row_bytes, from_memory) = (rows.cols().wrapping_mul(size_of::<T>()), rows.come_from_memory());
        let in_place = from_memory && rows.is_in_place();
        let few_lines = row_bytes <= BLOCK_LINES && row_bytes.is_multiple_of(LINE) && rows.cols() <= BLOCK_LINES_COLS;
        let cached = rows.rows().saturating_mul(row_bytes) <= CACHED_BYTES / 2;
        let cached = cached && rows.cols() <= cached_block_cols::<T>();
        let short = rows.cols() <= BLOCK_COLS || few_lines || cached;
        let blocks = short && !streaming && (!from_memory || in_place || row_bytes <= BLOCK_ROW_BYTES);
        let fused = row_bytes <= FUSED_BYTES && !(in_place && row_bytes >= IN_PLACE_ROW_BYTES);
        let prefetches = streaming || in_place;
        Self {
            isa: Isa::SCALAR,
            centered,
            rows,
            epilogues,
            bias: None,
            root,
            streaming,
            prefetches,
            blocks,
            fused,
            stats,
            quantizer: None,
        }
    }

    /// The same job, whose rows of y go to `quantizer` one by one.
    pub(crate) fn quantized_by(self, quantizer: &'a Quantizer<'a>) -> Self {
        let prefetches = self.is_prefetched_where_quantized();
        Self { quantizer: Some((quantizer, 0)), blocks: false, prefetches, ..self }
    }

    /// Whether so much is read that rows are prefetched where they are quantized.
    fn is_prefetched_where_quantized(&self) -> bool {
        self.rows.rows() * self.rows.cols() * size_of::<T>() >= PREFETCHED_BYTES
    }

    /// The rows that a quantizer asks for: those that are next to be read when a row is done. `None` if they are sums,
    /// if the loops ask for enough, or if little is read.
    pub(crate) fn rows_below(&self) -> Option<Below> {
        let (x, stride) = self.rows.x();
        let distance = if self.rows.cols() <= CHUNK { 3 } else { 2 };
        let asks = !T::ROUNDS && self.is_prefetched_where_quantized() && !self.rows.is_sum();
        asks.then(|| Below::new(x, stride, distance))
    }

    /// Whether chunks of rows are prefetched before they are summed up: where memory would wait while rows are
    /// quantized, and steps do not prefetch. Steps do so for elements of 16 bits, and for rows that are streamed.
    #[inline(always)]
    pub(super) fn prefetches_chunks(&self) -> bool {
        !T::ROUNDS && size_of::<T>() == size_of::<f32>() && self.prefetches && self.quantizer.is_some()
    }

    /// Does what there is to do for row `r`, which has been normalized.
    #[inline(always)]
    pub(super) fn row_is_done<S: Lanes>(&self, simd: S, r: usize) {
        if size_of::<T::Float>() == size_of::<f32>()
            && let Some((quantizer, first)) = self.quantizer
        {
            outline(simd, RowIsDone { quantizer, r: first + r });
        }
    }

    pub(crate) fn split_at(self, row: usize) -> (Self, Self) {
        let (rows_a, rows_b) = self.rows.split_at(row);
        let (stats_a, stats_b) = self.stats.split_at(rows_a.rows());
        let epilogues_b = self.epilogues.after(rows_a.rows());
        let quantizer = self.quantizer.map(|(quantizer, first)| (quantizer, first + rows_a.rows()));
        let b = Self { rows: rows_b, stats: stats_b, epilogues: epilogues_b, quantizer, ..self };
        (Self { rows: rows_a, stats: stats_a, ..self }, b)
    }

    /// The job of `rows` of these rows, from row `r` on, while this is borrowed.
    #[inline(never)]
    pub(crate) fn part(&mut self, r: usize, rows: usize) -> Job<'_, T, E> {
        let &mut Self { isa, centered, bias, root, streaming, prefetches, blocks, fused, .. } = self;
        let epilogues = self.epilogues.after(r);
        let quantizer = self.quantizer.map(|(quantizer, first)| (quantizer, first + r));
        let (rows, stats) = (self.rows.part(r, rows), self.stats.part(r, rows));
        Job { isa, centered, rows, epilogues, bias, root, streaming, prefetches, blocks, fused, stats, quantizer }
    }

    /// The input of the moments of row `r`.
    ///
    /// # Safety
    /// - There is such a row.
    #[inline(always)]
    pub(super) unsafe fn input(&self, r: usize) -> Input<T> {
        // SAFETY: the caller's duty.
        unsafe { self.rows.input(r, self.bias, self.prefetches) }
    }

    /// The epilogue of row `r`.
    ///
    /// # Safety
    /// - There is such a row.
    #[inline(always)]
    pub(super) unsafe fn epilogue(&mut self, r: usize) -> E::Row {
        // SAFETY: the caller's duty.
        unsafe { self.epilogues.of_row(r, self.rows.cols()).only_row(&mut self.rows, r, self.streaming) }
    }

    /// The epilogues of the rows in `range`, for a loop that takes them one after another.
    #[inline(always)]
    pub(super) fn successive<'p>(&self, range: Range<usize>, room: &'p E::Room) -> E::Successive<'p> {
        self.epilogues.successive(&self.rows, range, self.streaming, room)
    }

    /// The epilogue of row `r`, out of `all`. Each call has a later row than the call before.
    ///
    /// # Safety
    /// - There is such a row.
    /// - What is returned is not used after the next call.
    #[inline(always)]
    pub(super) unsafe fn next<S: Lanes, M: Center>(
        &mut self,
        simd: S,
        all: &mut E::Successive<'_>,
        r: usize,
    ) -> E::Row {
        // SAFETY: the caller's duty.
        unsafe { all.row::<S, M>(simd, &self.epilogues, &mut self.rows, r, self.streaming) }
    }

    /// The epilogues of rows `r` and `r + 1`, which must have the same operands.
    ///
    /// # Safety
    /// - As for [`next`](Self::next), for both rows.
    #[inline(always)]
    pub(super) unsafe fn next_two<S: Lanes, M: Center>(
        &mut self,
        simd: S,
        all: &mut E::Successive<'_>,
        r: usize,
    ) -> [E::Row; 2] {
        // SAFETY: the caller's duty.
        unsafe { all.two_rows::<S, M>(simd, &self.epilogues, &mut self.rows, r, self.streaming) }
    }

    /// Makes all NaNs of y canonical if an operand may have made some: see [`Epilogues::are_finite`].
    #[cold]
    #[inline(never)]
    pub(crate) fn canonicalize_nans(&mut self) {
        if self.epilogues.are_finite() {
            return;
        }
        for r in 0..self.rows.rows() {
            // SAFETY: r < rows.
            unsafe { self.epilogues.of_row(r, self.rows.cols()).canonicalize(&mut self.rows, r) };
        }
    }
}

/// Makes the statistics of row `r` from its moments. If these cannot be trusted and the row is not constant, it
/// normalizes the row on the slow path, and returns `None`.
#[inline(always)]
pub(super) fn settle<S: Lanes, T: Storage, E: Epilogues<T>>(
    simd: S,
    job: &mut Job<'_, T, E>,
    r: usize,
    moments: &Moments,
    share: f64,
) -> Option<RowNorm<T::Float>> {
    let v = moments.m2 * share + job.root.eps;
    if !(job.root.least::<T::Float>()..=*T::Float::TRUSTED.end()).contains(&v) {
        return rescue_row(job, r, v, moments.origin + moments.offset);
    }
    let norm = RowNorm::new(moments.origin, moments.offset, 1.0 / sqrt_f64(simd, v));
    job.stats.set(r, &norm);
    Some(norm)
}

/// Normalizes row `r` on the slow path, and returns `None`, or leaves it to the loops: see [`rescue`].
#[cold]
#[inline(never)]
pub(super) fn rescue_row<T: Storage, E: Epilogues<T>>(
    job: &mut Job<'_, T, E>,
    r: usize,
    v: f64,
    mean: f64,
) -> Option<RowNorm<T::Float>> {
    match rescue(job, r, v, mean) {
        Known::Norm(norm) => Some(norm),
        Known::Exact(norm) => {
            finish_exactly(job, r, norm);
            None
        }
    }
}

/// The statistics of a row, which are written.
pub(crate) enum Known<F> {
    /// For the loops.
    Norm(RowNorm<F>),
    /// For the slow path. `None` if they are NaN.
    Exact(Option<WideNorm>),
}

/// The statistics of row `r`. `v`, without a floor, and `mean` come from the fast sums, and are not trusted, unless `v`
/// is below the floor. A row of equal elements with
/// eps = 0 (padding, for example) is left to the loops with an rstd of 0, since its xhat is 0 and not 0 * infinity.
#[cold]
#[inline(never)]
pub(crate) fn rescue<T: Storage, E: Epilogues<T>>(
    job: &mut Job<'_, T, E>,
    r: usize,
    v: f64,
    mean: f64,
) -> Known<T::Float> {
    let is_below = v < job.root.floor;
    let v = job.root.at_least(v);
    if is_below && T::Float::TRUSTED.contains(&v) {
        let norm = RowNorm::new(mean, 0.0, 1.0 / sqrt_f64(pulp::Scalar, v));
        job.stats.set(r, &norm);
        return Known::Norm(norm);
    }
    // SAFETY: r < rows, as callers know.
    let (x, cols) = (unsafe { job.rows.source(r) }, job.rows.cols());
    // SAFETY: rows have cols > 0 elements.
    if v == 0.0 && unsafe { exact::is_constant(x, cols, job.centered) } {
        let norm = RowNorm::new(mean, 0.0, f64::INFINITY);
        job.stats.set(r, &norm);
        return Known::Norm(RowNorm { rstd: T::Float::default(), ..norm });
    }
    let scale = scale_for::<T::Float>(v, mean);
    // SAFETY: as above.
    let moments = unsafe { exact::moments(job.isa, x, cols, scale, job.centered) };
    Known::Exact(exactly(job, r, &moments))
}

/// Normalizes row `r` on the slow path, with moments that were taken there.
#[cold]
#[inline(never)]
pub(crate) fn finish_row<T: Storage, E: Epilogues<T>>(job: &mut Job<'_, T, E>, r: usize, moments: &Moments) {
    let norm = exactly(job, r, moments);
    finish_exactly(job, r, norm);
}

/// The statistics of row `r`, of moments that were taken on the slow path, or `None` if they are NaN.
#[cold]
#[inline(never)]
pub(crate) fn exactly<T: Storage, E: Epilogues<T>>(
    job: &mut Job<'_, T, E>,
    r: usize,
    moments: &Moments,
) -> Option<WideNorm> {
    if moments.m2.is_nan() {
        // SAFETY: r < rows.
        unsafe { job.rows.canonicalize_sum(r) };
    }
    wide_norm(job, r, moments)
}

/// The same where sums are yet to be written.
#[cold]
#[inline(never)]
pub(crate) fn wide_norm<T: Storage, E>(job: &mut Job<'_, T, E>, r: usize, moments: &Moments) -> Option<WideNorm> {
    if moments.m2.is_nan() {
        job.stats.set(r, &RowNorm::NAN);
        return None;
    }
    let v = job.root.exact(moments.m2, moments.count, moments.scale);
    job.stats.set(r, &RowNorm::rescued(moments, v));
    // Equal elements and eps = 0: xhat is 0, not 0 * infinity.
    let rstd = if v == 0.0 { 0.0 } else { 1.0 / sqrt_f64(pulp::Scalar, v) };
    Some(WideNorm::new::<T::Float>(moments, rstd))
}

/// Normalizes row `r` with the statistics of the slow path.
#[cold]
#[inline(never)]
pub(crate) fn finish_exactly<T: Storage, E: Epilogues<T>>(job: &mut Job<'_, T, E>, r: usize, norm: Option<WideNorm>) {
    // SAFETY: r < rows.
    unsafe {
        match norm {
            Some(norm) => {
                let epilogues = job.epilogues.of_row(r, job.rows.cols());
                epilogues.finish_exactly(job.isa, &mut job.rows, r, job.streaming, norm);
            }
            None => job.epilogues.finish_nan(&mut job.rows, r),
        }
    }
    if let Some((quantizer, first)) = job.quantizer {
        job.isa.run(RowIsDone { quantizer, r: first + r });
    }
}

const _: () = assert!(BLOCK_COLS <= CHUNK && BLOCK_LINES_COLS <= CHUNK && cached_block_cols::<u16>() <= CHUNK);
