//! What the normalizations share: the job, the choice of loops, and the way out for rows of extreme range.
//!
//! Layer normalization subtracts the mean, RMS normalization does not: the type parameter `M` says which, of a job and
//! of the loops. Some loops of layer normalization take the rows of RMS normalization too, with a mean of 0: those on the
//! portable tier, and those of types whose speed matters less than their code ([`Either`](crate::lanes::Either)). This
//! changes no bits: c is 0 and S is taken as 0, so that M2 is Q; x - 0 is x; and fma with a third operand of -0 is a
//! rounded product.
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
//!   and divisions are taken for eight rows at once. Not where rows come from memory, which would see eight rows read and then
//!   eight written, two at a time.
//! - *Whole rows*, when there is only one or when two no longer share a cache: moments, then normalize. Very long
//!   rows are normalized from the back, whose elements the cache still holds. Also in place in memory: reads that nothing
//!   interrupts are what it is fastest at, and writes find their lines in the cache.
//!
//! The portable tier has the last of them alone: it has no units that could overlap.
//!
//! Where x is the sum of two tensors, each chunk of it is taken just before its moments, which then read it from the
//! cache: nothing else knows of sums.
//!
//! # Range
//!
//! The loops are trusted when v, what the root is taken of, is in [`Float::TRUSTED`] (2^-90 to 2^120 in f32), one
//! compare for each row: then no square that matters has under- or overflowed, rstd is normal and x - hi is finite.
//! All other rows go to `rescue`, but for rows of equal elements with eps = 0: their rstd is infinite and their xhat
//! 0, which the loops give with an rstd of 0.
//!
//! An infinite or NaN gamma or beta makes NaNs whose sign and payload differ between processors. It shows in every row
//! of y that it belongs to, so one row of each call is looked over while it is normalized, and all NaNs are made
//! canonical if need be. (Where rows have different gammas, the gammas are looked over instead.)

mod affines;
mod blocks;
mod elements;
mod fused;
mod groups;

use core::marker::PhantomData;

use crate::Isa;
use crate::lanes::{
    Affine, Center, Compiled, Element, FOLD_ROWS, Float, Input, Kernel, LINE, Lanes, Mean, RowIo, Target, Vector,
    in_default_environment, sqrt_f64,
};
use crate::moments::{self, CHUNK, Moments};
use crate::rescue::{self, NormalizeRow, WideNorm};
use crate::stack;
use blocks::Blocks;
use elements::Row;
pub use elements::RowNorm;
pub(crate) use elements::probe;
use fused::Fused;
pub use groups::Groups;

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

/// Whether a number can be eps: it is finite and not negative.
#[inline(always)]
pub(crate) fn is_eps(eps: f64) -> bool {
    // By bits: a comparison raises flags, and where subnormal numbers count as zeros, takes those below zero for it.
    let bits = eps.to_bits();
    bits < f64::INFINITY.to_bits() || bits == (-0.0_f64).to_bits()
}

/// Where to put the statistics of each row; each of them is optional and has one element for each row.
#[derive(Debug)]
pub struct StatsMut<'a, F = f32> {
    /// The mean, rounded.
    pub mean: Option<&'a mut [F]>,
    /// What rounding took from the mean: in f32, `mean + mean_lo` has 48 bits.
    pub mean_lo: Option<&'a mut [F]>,
    /// 1 / sqrt(var + eps): infinite beyond the range of its type, and for a constant row with eps = 0.
    pub rstd: Option<&'a mut [F]>,
}

impl<F> Default for StatsMut<'_, F> {
    /// Nothing is wanted.
    fn default() -> Self {
        Self { mean: None, mean_lo: None, rstd: None }
    }
}

impl<'a, F: Float> StatsMut<'a, F> {
    #[inline]
    fn fits(&self, rows: usize) -> bool {
        [&self.mean, &self.mean_lo, &self.rstd].into_iter().all(|s| s.as_ref().is_none_or(|s| s.len() == rows))
    }

    #[inline(always)]
    fn set(&mut self, r: usize, norm: &RowNorm<F>) {
        for (out, v) in [(&mut self.mean, norm.mean), (&mut self.mean_lo, norm.mean_lo), (&mut self.rstd, norm.rstd)] {
            if let Some(out) = out {
                out[r] = v;
            }
        }
    }

    #[inline(always)]
    fn set_block<const R: usize>(&mut self, r: usize, mean: &[F; R], mean_lo: &[F; R], rstd: &[F; R]) {
        for (out, v) in [(&mut self.mean, mean), (&mut self.mean_lo, mean_lo), (&mut self.rstd, rstd)] {
            if let Some(out) = out {
                out[r..r + R].copy_from_slice(v);
            }
        }
    }

    /// The outputs of the first `row` rows, and of the others. All outputs come first if there are fewer.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let cut = |s: Option<&'a mut [F]>| s.map(|s| s.split_at_mut(row.min(s.len()))).unzip();
        let ((mean, mean_b), (mean_lo, mean_lo_b), (rstd, rstd_b)) =
            (cut(self.mean), cut(self.mean_lo), cut(self.rstd));
        (Self { mean, mean_lo, rstd }, Self { mean: mean_b, mean_lo: mean_lo_b, rstd: rstd_b })
    }
}

/// gamma and beta, each optional.
#[derive(Clone, Copy, Debug)]
pub struct Params<'a, T: Element> {
    /// The gammas of all groups, one after the other. Absent ones count as 1.
    pub gamma: Option<Vector<'a, T>>,
    /// The betas of all groups, one after the other, of the type of gamma. Absent ones count as 0; RMS normalization
    /// has none.
    pub beta: Option<Vector<'a, T>>,
    /// Which rows have which.
    pub groups: Groups,
    /// Added to gamma, if there is one, in the type that rows are computed in: 1 where gamma - 1 is kept. Without a
    /// gamma it has no effect.
    pub offset: T::Float,
}

impl<T: Element> Default for Params<'_, T> {
    fn default() -> Self {
        Self { gamma: None, beta: None, groups: Groups::ONE, offset: T::Float::default() }
    }
}

impl<'a, T: Element> Params<'a, T> {
    #[inline(always)]
    fn fit(&self, rows: usize, cols: usize) -> bool {
        let len = cols.checked_mul(self.groups.groups());
        let fits = |v: Option<Vector<'_, T>>| v.is_none_or(|v| Some(v.len()) == len);
        let same_type = self.gamma.zip(self.beta).is_none_or(|(gamma, beta)| gamma.is_wide() == beta.is_wide());
        self.groups.divide(rows) && same_type && fits(self.gamma) && fits(self.beta)
    }

    /// Adding -0 changes no bits; adding +0 changes those of -0.
    #[inline(always)]
    fn with_harmless_offset(self) -> Self {
        let harmless = self.gamma.is_none() || self.offset.is_zero();
        if harmless { Self { offset: -T::Float::default(), ..self } } else { self }
    }

    /// Those of row `r` alone.
    #[inline(always)]
    fn of_row(&self, r: usize, cols: usize) -> Self {
        if self.groups.are_one() { *self } else { self.of_group(self.groups.of_row(r), cols) }
    }

    /// Those of one group.
    #[inline(never)]
    fn of_group(&self, group: usize, cols: usize) -> Self {
        let start = group * cols;
        let part = |v: Option<Vector<'a, T>>| v.map(|v| v.part(start, cols));
        Self { gamma: part(self.gamma), beta: part(self.beta), groups: Groups::ONE, ..*self }
    }

    /// The gamma to multiply by, which is NaN or infinite if the sum with the offset is.
    pub(crate) fn gamma(&self, i: usize) -> T::Float {
        self.gamma.map_or(T::Float::from_f64(1.0), |g| g.get(i) + self.offset)
    }

    pub(crate) fn beta(&self, i: usize) -> T::Float {
        self.beta.map_or(-T::Float::default(), |b| b.get(i))
    }

    fn are_finite(&self) -> bool {
        self.gamma.is_none_or(|g| g.all_finite(self.offset))
            && self.beta.is_none_or(|b| b.all_finite(-T::Float::default()))
    }
}

/// The job of normalizing some rows: see [`LayerNorm`](crate::layer_norm::LayerNorm) and
/// [`RmsNorm`](crate::rms_norm::RmsNorm).
#[derive(Debug)]
pub struct Forward<'a, T: Element, M: Center>(Job<'a, T>, PhantomData<M>);

impl<'a, T: Element, M: Center> Forward<'a, T, M> {
    /// `None` for the reasons that the constructors name.
    #[inline(always)]
    pub(crate) fn checked(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Option<Self> {
        let fits = params.fit(rows.rows(), rows.cols()) && stats.fits(rows.rows()) && is_eps(eps);
        let params = params.with_harmless_offset();
        // Where there are no rows, there may be any number of columns.
        let (row_bytes, from_memory) = (rows.cols().wrapping_mul(size_of::<T>()), rows.come_from_memory());
        let in_place = from_memory && rows.is_in_place();
        let few_lines = row_bytes <= BLOCK_LINES && row_bytes.is_multiple_of(LINE) && rows.cols() <= BLOCK_LINES_COLS;
        let short = rows.cols() <= BLOCK_COLS || few_lines;
        let blocks = short && !streaming && (!from_memory || in_place || row_bytes <= BLOCK_ROW_BYTES);
        let fused = row_bytes <= FUSED_BYTES && !(in_place && row_bytes >= IN_PLACE_ROW_BYTES);
        let asks = streaming || in_place;
        let isa = Isa::SCALAR;
        let job =
            Job { isa, centered: M::CENTERED, rows, params, bias: None, eps, streaming, asks, blocks, fused, stats };
        fits.then_some(Self(job, PhantomData))
    }

    /// The same job with a row that is added to each sum of x and residual. `None` if the bias does not have an element
    /// for each column, if the rows are no sums, or if the job has a bias already.
    #[inline(always)]
    pub fn with_bias(self, bias: &'a [T]) -> Option<Self> {
        let Self(job, _) = self;
        let fits = job.rows.is_sum() && bias.len() == job.rows.cols() && job.bias.is_none();
        fits.then_some(Self(Job { bias: Some(bias), ..job }, PhantomData))
    }

    /// The job for the first `row` rows, and that for the others. All rows come first if there are fewer.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let (a, b) = self.0.split_at(row);
        (Self(a, PhantomData), Self(b, PhantomData))
    }

    /// Turns the job of normalizing one row, whose moments have been taken elsewhere (by several threads, say), into
    /// one that can be split by columns. The statistics are written. The job is given back if it has not exactly one
    /// row, if that is a sum, if the moments count fewer elements than the row has, or if they leave the range in which
    /// they can be trusted: then it must be run as it is.
    #[allow(clippy::result_large_err, reason = "the job is given back to be run, not to be propagated")]
    pub fn with_moments(self, moments: &Moments) -> Result<Normalize<'a, T, M>, Self> {
        let Self(mut job, _) = self;
        if job.rows.rows() != 1 || job.rows.is_sum() || !moments.are_of::<T>(job.rows.cols()) {
            return Err(Self(job, PhantomData));
        }
        match in_default_environment(|| trusted(moments, job.eps)) {
            Some(norm) => {
                job.stats.set(0, &norm);
                let params = job.params.of_row(0, job.rows.cols());
                let Job { rows: row, streaming, .. } = job;
                Ok(Normalize(Columns { centered: M::CENTERED, row, params, norm, streaming }, PhantomData))
            }
            None => Err(Self(job, PhantomData)),
        }
    }

    /// Normalizes rows whose moments are known, one for each row, on the calling thread: those of rows of which these
    /// are some columns, say. Moments that cannot be trusted are taken for those of the slow path (see
    /// [`Moments::rescale`]).
    ///
    /// Returns whether the job was done. It is not, and nothing is written, if there are more or fewer moments than
    /// rows, if the rows are sums, or if there are columns, and moments that cannot be those of a row of them: see
    /// [`Moments::are_of`].
    #[must_use]
    pub fn run_with(self, isa: Isa, moments: &[Moments]) -> bool
    where
        T: Compiled<M>,
    {
        let (rows, cols) = (self.0.rows.rows(), self.0.rows.cols());
        let are_of = || cols == 0 || moments.iter().all(|m| m.are_of::<T>(cols));
        if moments.len() != rows || self.0.rows.is_sum() || !are_of() {
            return false;
        }
        if cols > 0 {
            in_default_environment(|| self.run_rows_with(isa, moments));
        }
        true
    }

    #[inline(never)]
    fn run_rows_with(mut self, isa: Isa, moments: &[Moments])
    where
        T: Compiled<M>,
    {
        for moments in moments {
            let (row, rest) = self.split_at(1);
            match row.with_moments(moments) {
                Ok(row) => row.run_on(isa),
                Err(Self(row, _)) => {
                    let mut row = Job { isa, ..row };
                    finish_row(&mut row, 0, moments);
                    row.canonicalize_nans();
                }
            }
            self = rest;
        }
    }

    /// Does the job on one tier, on the calling thread. Nothing happens, and no statistics are written, if there are no
    /// columns.
    ///
    /// The job is borrowed, and should not be moved just before: a copy loads in wider pieces than the fields have just
    /// been stored in, which stalls for as long as a short row takes. A job that is run again reads x again: where y or
    /// the sum lies over an input, that is what the first run has written.
    #[inline]
    pub fn run_on(&mut self, isa: Isa)
    where
        T: Compiled<M>,
    {
        if self.0.rows.rows() > 0 && self.0.rows.cols() > 0 {
            T::forward(self, isa);
        }
    }

    /// The job, which has rows and columns, through the loops for `L`.
    #[inline(always)]
    pub(crate) fn run_here<L: Center>(&mut self, isa: Isa) {
        self.0.isa = isa;
        if self.0.streaming {
            stack::within_a_page(&mut self.0, isa, run_job::<T, L>);
        } else {
            run_job::<T, L>(&mut self.0, isa);
        }
    }

    /// The rows.
    pub fn rows(&self) -> &RowIo<'a, T> {
        &self.0.rows
    }
}

/// What normalizing a row with these moments takes, if they can be trusted.
#[inline(never)]
fn trusted<F: Float>(moments: &Moments, eps: f64) -> Option<RowNorm<F>> {
    RowNorm::trusted(pulp::Scalar, moments, eps)
}

/// What both normalizations have in common, and the loops take.
#[derive(Debug)]
struct Job<'a, T: Element> {
    /// The tier that it runs on.
    isa: Isa,
    /// Whether rows have a mean.
    centered: bool,
    rows: RowIo<'a, T>,
    params: Params<'a, T>,
    /// Added to x and residual, if x is a sum.
    bias: Option<&'a [T]>,
    eps: f64,
    streaming: bool,
    /// Whether loops ask for what they read before they come to it.
    asks: bool,
    /// Whether short rows go through the loop over blocks.
    blocks: bool,
    /// Whether rows are fused with their neighbours.
    fused: bool,
    stats: StatsMut<'a, T::Float>,
}

/// One function for all that go through the same loops.
#[inline(never)]
fn run_job<T: Element, M: Center>(job: &mut Job<'_, T>, isa: Isa) {
    if !job.forward::<M>(isa) || job.is_grouped() {
        job.canonicalize_nans();
    }
}

impl<'a, T: Element> Job<'a, T> {
    fn split_at(self, row: usize) -> (Self, Self) {
        let (rows_a, rows_b) = self.rows.split_at(row);
        let (stats_a, stats_b) = self.stats.split_at(rows_a.rows());
        let params_b = Params { groups: self.params.groups.after(rows_a.rows()), ..self.params };
        (Self { rows: rows_a, stats: stats_a, ..self }, Self { rows: rows_b, stats: stats_b, params: params_b, ..self })
    }

    /// Chooses the loops. Each is dispatched by itself: without optimization, the frame of a function has room for
    /// every value of everything inlined into it, and that of all loops together would overflow the stack of a thread.
    ///
    /// Returns whether a row of y is known to be finite.
    #[inline(always)]
    fn forward<M: Center>(&mut self, isa: Isa) -> bool {
        let (rows, cols) = (self.rows.rows(), self.rows.cols());
        let mut first = 0;
        if self.blocks && rows >= FOLD_ROWS {
            let whole = rows - rows % FOLD_ROWS;
            match isa.run_simd(Blocks::<T, M> { job: self, rows: whole, center: PhantomData }) {
                Some(finite) if whole == rows => return finite,
                Some(_) => first = whole,
                None => {}
            }
        }
        if rows - first >= 2 && self.fused {
            let finite = if T::STREAMS_APART && self.streaming {
                isa.run_simd(Fused::<T, M, true> { job: self, first, center: PhantomData })
            } else {
                isa.run_simd(Fused::<T, M, false> { job: self, first, center: PhantomData })
            };
            if let Some(finite) = finite {
                return finite;
            }
        }
        let mut finite = false;
        for r in first..rows {
            // SAFETY: r < rows.
            let row = unsafe { self.input(r) };
            let mean = Mean::<M>::new(self.centered);
            (_, finite) = isa.run(WholeRow { row: &row, cols, mean, job: Some((&mut *self, r)) });
        }
        finite
    }

    /// What the moments of row `r` are taken of.
    ///
    /// # Safety
    /// - There is such a row.
    #[inline(always)]
    unsafe fn input(&self, r: usize) -> Input<T> {
        // SAFETY: the caller's duty.
        unsafe { self.rows.input(r, self.bias, self.asks) }
    }

    /// Where row `r` of y goes.
    ///
    /// # Safety
    /// - There is such a row.
    #[inline(always)]
    unsafe fn target(&mut self, r: usize) -> Target<T> {
        // SAFETY: the caller's duty.
        unsafe { self.rows.target(r, self.streaming) }
    }

    #[inline(always)]
    fn affine(&self, r: usize) -> Affine<T> {
        let params = self.params.of_row(r, self.rows.cols());
        Affine::new(params.gamma, params.beta, params.offset)
    }

    /// Whether rows differ in gamma and beta.
    #[inline(always)]
    fn is_grouped(&self) -> bool {
        !self.params.groups.are_one()
    }

    /// Makes all NaNs of y the canonical one if gamma or beta can have made others.
    #[cold]
    #[inline(never)]
    fn canonicalize_nans(&mut self) {
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

/// The job of normalizing one row, or some columns of it, whose statistics are known.
#[derive(Debug)]
pub struct Normalize<'a, T: Element, M: Center>(Columns<'a, T>, PhantomData<M>);

impl<'a, T: Element, M: Center> Normalize<'a, T, M> {
    /// `None` for the reasons that the constructors name.
    pub(crate) fn checked(
        row: RowIo<'a, T>,
        params: Params<'a, T>,
        norm: RowNorm<T::Float>,
        streaming: bool,
    ) -> Option<Self> {
        // The statistics of a sum are known after it has been taken, when it is a row like any other.
        if row.rows() != 1 || row.is_sum() || !params.fit(1, row.cols()) {
            return None;
        }
        let params = params.with_harmless_offset().of_row(0, row.cols());
        Some(Self(Columns { centered: M::CENTERED, row, params, norm, streaming }, PhantomData))
    }

    /// The job for the first `col` columns, and that for the others. All columns come first if there are fewer.
    pub fn split_at_col(self, col: usize) -> (Self, Self) {
        let (a, b) = self.0.split_at_col(col);
        (Self(a, PhantomData), Self(b, PhantomData))
    }

    /// Does the job on one tier, on the calling thread.
    pub fn run_on(self, isa: Isa)
    where
        T: Compiled<M>,
    {
        if self.cols() > 0 {
            T::normalize(self, isa);
        }
    }

    /// The job, which has columns, through the loops for `L`.
    #[inline(always)]
    pub(crate) fn run_here<L: Center>(mut self, isa: Isa) {
        stack::within_a_page(&mut self.0, isa, run_columns::<T, L>);
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.0.row.cols()
    }
}

fn run_columns<T: Element, M: Center>(job: &mut Columns<'_, T>, isa: Isa) {
    isa.run(RunColumns::<T, M> { job, center: PhantomData });
}

/// What of it both normalizations have in common.
#[derive(Debug)]
struct Columns<'a, T: Element> {
    centered: bool,
    row: RowIo<'a, T>,
    params: Params<'a, T>,
    norm: RowNorm<T::Float>,
    streaming: bool,
}

impl<'a, T: Element> Columns<'a, T> {
    fn split_at_col(self, col: usize) -> (Self, Self) {
        let cols = self.row.cols();
        let col = col.min(cols);
        let (row_a, row_b) = self.row.split_at_col(col);
        let cut = |v: Option<Vector<'a, T>>| v.map(|v| (v.part(0, col), v.part(col, cols - col))).unzip();
        let ((gamma_a, gamma_b), (beta_a, beta_b)) = (cut(self.params.gamma), cut(self.params.beta));
        (
            Self { row: row_a, params: Params { gamma: gamma_a, beta: beta_a, ..self.params }, ..self },
            Self { row: row_b, params: Params { gamma: gamma_b, beta: beta_b, ..self.params }, ..self },
        )
    }
}

/// The columns of a job.
struct RunColumns<'j, 'a, T: Element, M: Center> {
    job: &'j mut Columns<'a, T>,
    center: PhantomData<M>,
}

impl<T: Element, M: Center> Kernel for RunColumns<'_, '_, T, M> {
    type Output = ();

    const PORTABLE: bool = M::CENTERED;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let &mut Columns { centered, ref mut row, ref params, norm, streaming } = self.job;
        let cols = row.cols();
        let affine = Affine::new(params.gamma, params.beta, params.offset);
        // SAFETY: there is a row 0.
        let (x, y) = unsafe { (row.source(0), row.target(0, streaming)) };
        // SAFETY: all lengths are cols, checked by the constructor.
        let finite = unsafe { Row { mean: Mean::<M>::new(centered), x, y, norm, affine }.normalize(simd, cols) };
        if streaming {
            simd.fence();
        }
        if !finite {
            // SAFETY: there is a row 0.
            unsafe { canonicalize_row(row, 0, params) };
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
unsafe fn canonicalize_row<T: Element>(rows: &mut RowIo<'_, T>, r: usize, params: &Params<'_, T>) {
    // SAFETY: the caller's duty.
    unsafe { rows.canonicalize(r, |i| params.gamma(i).into().is_nan() || params.beta(i).into().is_nan()) };
}

/// Turns the moments of row `r` into what normalizing it takes. A row that cannot be trusted and is not constant is
/// normalized here and now on the slow path, and there is nothing left to do for it.
#[inline(always)]
fn settle<S: Lanes, T: Element>(
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
fn rescue_row<T: Element>(job: &mut Job<'_, T>, r: usize, v: f64, mean: f64) -> Option<RowNorm<T::Float>> {
    // SAFETY: r < rows: callers count it.
    let (x, cols) = (unsafe { job.rows.source(r) }, job.rows.cols());
    // SAFETY: rows have cols > 0 elements.
    if v == 0.0 && unsafe { rescue::is_constant(x, cols, job.centered) } {
        let norm = RowNorm::new(mean, 0.0, f64::INFINITY);
        job.stats.set(r, &norm);
        return Some(RowNorm { rstd: T::Float::default(), ..norm });
    }
    let scale = moments::scale_for::<T::Float>(v, mean);
    // SAFETY: as above.
    let moments = unsafe { rescue::moments(job.isa, x, cols, scale, job.centered) };
    finish_row(job, r, &moments);
    None
}

/// Normalizes a row on the slow path with moments that were taken there.
#[cold]
#[inline(never)]
fn finish_row<T: Element>(job: &mut Job<'_, T>, r: usize, moments: &Moments) {
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

/// Takes the moments of a row of `cols > 0` elements, which whoever makes this knows to be there, and normalizes it if
/// it is a row of a job.
pub(crate) struct WholeRow<'j, 'a, T: Element, M: Center> {
    /// Borrowed for the same reason as jobs are.
    row: &'j Input<T>,
    cols: usize,
    mean: Mean<M>,
    job: Option<(&'j mut Job<'a, T>, usize)>,
}

impl<'j, T: Element, M: Center> WholeRow<'j, '_, T, M> {
    /// The moments alone.
    ///
    /// # Safety
    /// - The row has `cols > 0` elements.
    #[inline(always)]
    pub(crate) unsafe fn moments(row: &'j Input<T>, cols: usize, mean: Mean<M>) -> Self {
        Self { row, cols, mean, job: None }
    }
}

impl<T: Element, M: Center> Kernel for WholeRow<'_, '_, T, M> {
    /// The moments, and whether the row of y is known to be finite.
    type Output = (Moments, bool);

    const PORTABLE: bool = M::CENTERED;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> (Moments, bool) {
        let Self { row, cols, mean, job } = self;
        // SAFETY: the row has cols elements.
        let moments = unsafe { moments::row(simd, *row, cols, mean) };
        let Some((job, r)) = job else { return (moments, false) };
        let mut finite = false;
        if let Some(norm) = settle(simd, job, r, &moments, 1.0 / cols as f64) {
            // SAFETY: the job has row r, of cols elements; so have gamma and beta, checked by the constructor.
            finite = unsafe {
                let (x, y, affine) = (job.rows.source(r), job.target(r), job.affine(r));
                Row { mean, x, y, norm, affine }.normalize(simd, cols)
            };
        }
        if job.streaming {
            simd.fence();
        }
        (moments, finite)
    }
}

const _: () = assert!(BLOCK_COLS <= CHUNK && BLOCK_LINES_COLS <= CHUNK);
