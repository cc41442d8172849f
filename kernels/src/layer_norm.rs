//! Layer normalization, forward, f32.
//!
//! ```text
//! mean, M2 = moments(x)                                   see `moments`
//! v        = M2 / n + eps                                 in f64
//! rstd     = f32(1 / sqrt(v))
//! hi, lo   = f32(mean), f32(mean - hi)                    the mean to 48 bits
//! y        = fma(fma(x - hi, rstd, -lo * rstd), gamma, beta)
//! ```
//!
//! Keeping the mean as hi + lo is what makes a row of mean 1e6 as good as one of mean 0: x - hi is exact for
//! elements near the mean, and lo brings back what rounding the mean took. It costs two operations for each
//! element, in a loop that waits for loads and stores.
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
//! # Range
//!
//! The loops are trusted when 2^-90 <= v <= 2^120, one compare for each row: then no square that matters has
//! under- or overflowed, rstd is normal and x - hi is finite. All other rows go to `rescue`.
//!
//! An infinite or NaN gamma or beta makes NaNs whose sign and payload differ between processors, so gamma and
//! beta are looked over once a call and, if need be, all NaNs made canonical afterwards.

use crate::lanes::{FOLD_ROWS, Kernel, Lanes, RowIo, Source, Target, regs, sqrt_f64};
use crate::moments::{self, CHUNK, ChunkLen, Moments, STEP, Sums, Tree};
use crate::rescue;

/// Rows up to this many columns go through the loop over blocks.
const BLOCK_COLS: usize = 192;

/// Rows up to this many columns are normalized two rows late: three rows, gamma and beta fill an L1 cache.
const DELAY_COLS: usize = CHUNK;

/// Rows up to this many columns are fused with their neighbours: beyond, a row is lost from the L2 cache before
/// its turn comes.
const FUSED_COLS: usize = 16 * CHUNK;

/// Longer rows are normalized from the back, in pieces of this many columns.
const PIECE_COLS: usize = 16 * CHUNK;

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

/// Everything that normalizing the elements of one row takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm {
    /// The mean, rounded to f32.
    pub mean: f32,
    /// What rounding took from the mean.
    pub mean_lo: f32,
    /// 1 / sqrt(var + eps).
    pub rstd: f32,
}

impl RowNorm {
    const NAN: Self = Self { mean: f32::NAN, mean_lo: f32::NAN, rstd: f32::NAN };

    #[inline(always)]
    fn new(mean: f64, rstd: f64) -> Self {
        let hi = mean as f32;
        Self { mean: hi, mean_lo: (mean - f64::from(hi)) as f32, rstd: rstd as f32 }
    }

    /// From the moments of a row. `None` if they leave the range in which they can be trusted: then the row must be
    /// given whole to [`LayerNorm`], which finds the same and takes the slow path.
    pub fn from_moments(moments: &Moments, eps: f64) -> Option<Self> {
        let v = moments.m2 * (1.0 / moments.count) + eps;
        TRUSTED.contains(&v).then(|| Self::new(moments.mean, 1.0 / sqrt_f64(pulp::Scalar, v)))
    }
}

/// A [`RowNorm`] in registers.
#[derive(Clone, Copy)]
struct Norm<S: Lanes> {
    hi: S::f32s,
    rstd: S::f32s,
    offset: S::f32s,
}

impl<S: Lanes> Norm<S> {
    #[inline(always)]
    fn new(simd: S, norm: &RowNorm) -> Self {
        Self {
            hi: simd.splat_f32s(norm.mean),
            rstd: simd.splat_f32s(norm.rstd),
            offset: simd.splat_f32s(-norm.mean_lo * norm.rstd),
        }
    }

    #[inline(always)]
    fn apply<const AFFINE: bool>(&self, simd: S, x: S::f32s, (gamma, beta): (S::f32s, S::f32s)) -> S::f32s {
        let xhat = simd.fma(simd.sub_f32s(x, self.hi), self.rstd, self.offset);
        if AFFINE { simd.fma(xhat, gamma, beta) } else { xhat }
    }
}

/// gamma and beta as the loops read them. Where one is absent a step of ones, or of negative zeros, stands in and
/// is read again for each step: multiplying by 1 and adding -0 change no bits.
#[derive(Clone, Copy)]
struct Affine {
    gamma: Source,
    gamma_mask: usize,
    beta: Source,
    beta_mask: usize,
}

static ONES: [f32; STEP] = [1.0; STEP];
static NEGATIVE_ZEROS: [f32; STEP] = [-0.0; STEP];

impl Affine {
    #[inline(always)]
    fn new(gamma: Option<&[f32]>, beta: Option<&[f32]>) -> Self {
        let mask = |v: Option<&[f32]>| if v.is_some() { usize::MAX } else { 0 };
        Self {
            gamma: Source::from(gamma.unwrap_or(&ONES)),
            gamma_mask: mask(gamma),
            beta: Source::from(beta.unwrap_or(&NEGATIVE_ZEROS)),
            beta_mask: mask(beta),
        }
    }

    /// The registers for element `i + j`, where `i` starts a step and `j` lies within it.
    ///
    /// # Safety
    /// - gamma and beta, if present, have at least `i + j + S::F32_LANES` elements.
    /// - `j + S::F32_LANES <= STEP`.
    #[inline(always)]
    unsafe fn load<S: Lanes>(&self, simd: S, i: usize, j: usize) -> (S::f32s, S::f32s) {
        // SAFETY: the caller's duty.
        unsafe { (self.gamma.load(simd, (i & self.gamma_mask) + j), self.beta.load(simd, (i & self.beta_mask) + j)) }
    }

    /// `n` elements from `i` on, at most a register.
    ///
    /// # Safety
    /// - gamma and beta, if present, have at least `i + n` elements.
    #[inline(always)]
    unsafe fn load_tail<S: Lanes>(&self, simd: S, i: usize, n: usize) -> (S::f32s, S::f32s) {
        let zero = simd.splat_f32s(0.0);
        // SAFETY: the caller's duty.
        unsafe {
            (
                self.gamma.load_tail(simd, i & self.gamma_mask, n, zero),
                self.beta.load_tail(simd, i & self.beta_mask, n, zero),
            )
        }
    }
}

/// Normalizes the elements from..to of `R` rows.
///
/// # Safety
/// - Every x and y has at least `to` elements, as have gamma and beta if present.
/// - If `STREAM`, `from` is the misalignment of every y plus a multiple of `S::F32_LANES`.
#[inline(always)]
unsafe fn normalize<S: Lanes, const AFFINE: bool, const STREAM: bool, const R: usize>(
    simd: S,
    x: [Source; R],
    y: [Target; R],
    norm: &[Norm<S>; R],
    affine: Affine,
    from: usize,
    to: usize,
) {
    let mut i = from;
    while i + STEP <= to {
        for j in 0..2 * regs::<S>() {
            let j = j * S::F32_LANES;
            // SAFETY: the loop's condition and the caller's duty.
            unsafe {
                let affine_ij = affine.load(simd, i, j);
                for r in 0..R {
                    let v = norm[r].apply::<AFFINE>(simd, x[r].load(simd, i + j), affine_ij);
                    y[r].store::<S, STREAM>(simd, i + j, v);
                }
            }
        }
        i += STEP;
    }
    while i + S::F32_LANES <= to {
        // SAFETY: the loop's condition and the caller's duty.
        unsafe {
            for r in 0..R {
                let v = norm[r].apply::<AFFINE>(simd, x[r].load(simd, i), affine.load(simd, i, 0));
                y[r].store::<S, STREAM>(simd, i, v);
            }
        }
        i += S::F32_LANES;
    }
    if i < to {
        for r in 0..R {
            // SAFETY: to - i elements are left.
            unsafe { normalize_tail::<S, AFFINE>(simd, x[r], y[r], &norm[r], affine, i, to - i) };
        }
    }
}

/// Normalizes `n` elements from `i` on, at most a register, with ordinary stores.
///
/// # Safety
/// - x and y have at least `i + n` elements, as have gamma and beta if present.
#[inline(always)]
unsafe fn normalize_tail<S: Lanes, const AFFINE: bool>(
    simd: S,
    x: Source,
    y: Target,
    norm: &Norm<S>,
    affine: Affine,
    i: usize,
    n: usize,
) {
    // SAFETY: the caller's duty.
    unsafe {
        let v = norm.apply::<AFFINE>(simd, x.load_tail(simd, i, n, norm.hi), affine.load_tail(simd, i, n));
        y.store_tail(simd, i, n, v);
    }
}

/// Whether no element is infinite or NaN.
#[inline(always)]
fn all_finite(v: Option<&[f32]>) -> bool {
    const ABS: u32 = u32::MAX >> 1;
    v.is_none_or(|v| v.iter().fold(0, |max, v| (v.to_bits() & ABS).max(max)) < f32::INFINITY.to_bits())
}

/// Layer normalization of some rows: the kernel.
#[derive(Debug)]
pub struct LayerNorm<'a> {
    rows: RowIo<'a>,
    gamma: Option<&'a [f32]>,
    beta: Option<&'a [f32]>,
    eps: f64,
    streaming: bool,
    stats: StatsMut<'a>,
}

impl<'a> LayerNorm<'a> {
    /// The job of normalizing `rows`, with `streaming` stores if so asked. `None` if gamma, beta or the statistics have another
    /// length than the rows ask for.
    pub fn new(
        rows: RowIo<'a>,
        gamma: Option<&'a [f32]>,
        beta: Option<&'a [f32]>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a>,
    ) -> Option<Self> {
        let fits = |v: Option<&[f32]>| v.is_none_or(|v| v.len() == rows.cols());
        (fits(gamma) && fits(beta) && stats.fits(rows.rows())).then_some(Self {
            rows,
            gamma,
            beta,
            eps,
            streaming,
            stats,
        })
    }

    /// The job for the first `row` rows, and that for the others.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let (rows_a, rows_b) = self.rows.split_at(row);
        let (stats_a, stats_b) = self.stats.split_at(rows_a.rows());
        (Self { rows: rows_a, stats: stats_a, ..self }, Self { rows: rows_b, stats: stats_b, ..self })
    }

    /// Turns the job of normalizing one row, whose moments have been taken elsewhere (by several threads, say), into one that
    /// can be split by columns. The statistics are written. The job is given back if it has not exactly one row,
    /// or if the moments leave the range in which they can be trusted: then it must be run as it is.
    #[allow(clippy::result_large_err, reason = "the job is given back to be run, not to be propagated")]
    pub fn with_moments(mut self, moments: &Moments) -> Result<Normalize<'a>, Self> {
        if self.rows.rows() != 1 {
            return Err(self);
        }
        match RowNorm::from_moments(moments, self.eps) {
            Some(norm) => {
                self.stats.set(0, &norm);
                let Self { rows: row, gamma, beta, streaming, .. } = self;
                Ok(Normalize { row, gamma, beta, norm, streaming })
            }
            None => Err(self),
        }
    }

    /// The rows.
    pub fn rows(&self) -> &RowIo<'a> {
        &self.rows
    }
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(mut self, simd: S) {
        if self.rows.rows() == 0 || self.rows.cols() == 0 {
            return;
        }
        match (self.gamma.is_some() || self.beta.is_some(), self.streaming) {
            (false, false) => forward::<S, false, false>(simd, &mut self),
            (false, true) => forward::<S, false, true>(simd, &mut self),
            (true, false) => forward::<S, true, false>(simd, &mut self),
            (true, true) => forward::<S, true, true>(simd, &mut self),
        }
        if self.streaming {
            simd.fence();
        }
        if !(all_finite(self.gamma) && all_finite(self.beta)) {
            canonicalize_nans(&mut self.rows);
        }
    }
}

/// The job of normalizing one row, or some columns of it, whose statistics are known.
#[derive(Debug)]
pub struct Normalize<'a> {
    row: RowIo<'a>,
    gamma: Option<&'a [f32]>,
    beta: Option<&'a [f32]>,
    norm: RowNorm,
    streaming: bool,
}

impl<'a> Normalize<'a> {
    /// The job of normalizing the one row that `row` has. `None` if there are more or fewer, or if gamma or beta have
    /// another length.
    pub fn new(
        row: RowIo<'a>,
        gamma: Option<&'a [f32]>,
        beta: Option<&'a [f32]>,
        norm: RowNorm,
        streaming: bool,
    ) -> Option<Self> {
        let fits = |v: Option<&[f32]>| v.is_none_or(|v| v.len() == row.cols());
        (row.rows() == 1 && fits(gamma) && fits(beta)).then_some(Self { row, gamma, beta, norm, streaming })
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

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.row.cols()
    }
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(mut self, simd: S) {
        let cols = self.row.cols();
        if cols == 0 {
            return;
        }
        let affine = Affine::new(self.gamma, self.beta);
        // SAFETY: there is a row 0.
        let (x, y) = unsafe { (self.row.source(0), self.row.target(0)) };
        // SAFETY: all lengths are cols, checked by the constructor.
        unsafe {
            match (self.gamma.is_some() || self.beta.is_some(), self.streaming) {
                (false, false) => normalize_row::<S, false, false>(simd, x, y, &self.norm, affine, cols),
                (false, true) => normalize_row::<S, false, true>(simd, x, y, &self.norm, affine, cols),
                (true, false) => normalize_row::<S, true, false>(simd, x, y, &self.norm, affine, cols),
                (true, true) => normalize_row::<S, true, true>(simd, x, y, &self.norm, affine, cols),
            }
        }
        if self.streaming {
            simd.fence();
        }
        if !(all_finite(self.gamma) && all_finite(self.beta)) {
            canonicalize_nans(&mut self.row);
        }
    }
}

#[cold]
#[inline(never)]
fn canonicalize_nans(rows: &mut RowIo<'_>) {
    for r in 0..rows.rows() {
        // SAFETY: r < rows.
        for y in unsafe { rows.y_row(r) } {
            if y.is_nan() {
                *y = f32::NAN;
            }
        }
    }
}

#[inline(always)]
fn forward<S: Lanes, const AFFINE: bool, const STREAM: bool>(simd: S, job: &mut LayerNorm<'_>) {
    let (rows, cols) = (job.rows.rows(), job.rows.cols());
    let mut first = 0;
    if cols <= BLOCK_COLS {
        first = rows - rows % FOLD_ROWS;
        blocks::<S, AFFINE, STREAM>(simd, job, first);
    }
    if rows - first >= 2 && cols <= FUSED_COLS {
        if cols <= DELAY_COLS {
            fused::<S, AFFINE, STREAM, 2>(simd, job, first);
        } else {
            fused::<S, AFFINE, STREAM, 1>(simd, job, first);
        }
    } else {
        whole_rows::<S, AFFINE, STREAM>(simd, job, first);
    }
}

/// Turns the moments of row `r` into what normalizing it takes. A row that cannot be trusted is normalized here and
/// now on the slow path, and there is nothing left to do for it.
#[inline(always)]
fn settle<S: Lanes>(simd: S, job: &mut LayerNorm<'_>, r: usize, moments: &Moments, inv_cols: f64) -> Option<RowNorm> {
    let v = moments.m2 * inv_cols + job.eps;
    if !TRUSTED.contains(&v) {
        rescue_row(job, r);
        return None;
    }
    let norm = RowNorm::new(moments.mean, 1.0 / sqrt_f64(simd, v));
    job.stats.set(r, &norm);
    Some(norm)
}

#[cold]
#[inline(never)]
fn rescue_row(job: &mut LayerNorm<'_>, r: usize) {
    let cols = job.rows.cols();
    // SAFETY: r < rows: callers count it.
    let (x, y) = unsafe { (job.rows.source(r), job.rows.target(r)) };
    // SAFETY: rows have cols > 0 elements.
    let Some((mean, var)) = (unsafe { rescue::moments(x, cols) }) else {
        // SAFETY: r < rows.
        unsafe { job.rows.y_row(r) }.fill(f32::NAN);
        job.stats.set(r, &RowNorm::NAN);
        return;
    };
    let v = var + job.eps;
    let rstd = 1.0 / sqrt_f64(pulp::Scalar, v);
    job.stats.set(r, &RowNorm::new(mean, rstd));
    // Equal elements and eps = 0: xhat is 0, not 0 * infinity.
    let rstd = if v == 0.0 { 0.0 } else { rstd };
    // SAFETY: rows have cols elements; x and y are the same or apart, as RowIo promises.
    unsafe { rescue::normalize(x, y, cols, (mean, rstd), job.gamma, job.beta) };
}

/// Normalizes a row whose statistics are known.
///
/// # Safety
/// - x and y have at least `cols` elements, as have gamma and beta if present.
#[inline(always)]
unsafe fn normalize_row<S: Lanes, const AFFINE: bool, const STREAM: bool>(
    simd: S,
    x: Source,
    y: Target,
    norm: &RowNorm,
    affine: Affine,
    cols: usize,
) {
    let norm = [Norm::new(simd, norm)];
    // SAFETY: the caller's duty.
    let head = unsafe { normalize_head::<S, AFFINE, STREAM>(simd, x, y, &norm[0], affine, cols) };
    let mut to = cols;
    while to - head > PIECE_COLS {
        let from = head + (to - head - 1) / PIECE_COLS * PIECE_COLS;
        // SAFETY: head <= from < to <= cols, and PIECE_COLS is a multiple of every register.
        unsafe { normalize::<S, AFFINE, STREAM, 1>(simd, [x], [y], &norm, affine, from, to) };
        to = from;
    }
    // SAFETY: to <= cols.
    unsafe { normalize::<S, AFFINE, STREAM, 1>(simd, [x], [y], &norm, affine, head, to) };
}

/// When streaming, normalizes the elements that precede the first aligned one. Returns how many those were.
///
/// # Safety
/// - x and y have at least `cols` elements, as have gamma and beta if present.
#[inline(always)]
unsafe fn normalize_head<S: Lanes, const AFFINE: bool, const STREAM: bool>(
    simd: S,
    x: Source,
    y: Target,
    norm: &Norm<S>,
    affine: Affine,
    cols: usize,
) -> usize {
    let head = if STREAM { y.misalignment::<S>().min(cols) } else { 0 };
    if head > 0 {
        // SAFETY: head <= cols.
        unsafe { normalize_tail::<S, AFFINE>(simd, x, y, norm, affine, 0, head) };
    }
    head
}

#[inline(always)]
fn whole_rows<S: Lanes, const AFFINE: bool, const STREAM: bool>(simd: S, job: &mut LayerNorm<'_>, first: usize) {
    let cols = job.rows.cols();
    let inv_cols = 1.0 / cols as f64;
    let affine = Affine::new(job.gamma, job.beta);
    let mut tree = Tree::new();
    for r in first..job.rows.rows() {
        // SAFETY: r < rows.
        let (x, y) = unsafe { (job.rows.source(r), job.rows.target(r)) };
        // SAFETY: x has cols elements.
        let moments = unsafe { moments::row(simd, x, cols, &mut tree) };
        if let Some(norm) = settle(simd, job, r, &moments, inv_cols) {
            // SAFETY: the row has cols elements; so have gamma and beta, checked by the constructor.
            unsafe { normalize_row::<S, AFFINE, STREAM>(simd, x, y, &norm, affine, cols) };
        }
    }
}

/// A row on its way: its moments are settled, `at` elements of it are normalized.
struct Pending<S: Lanes> {
    x: Source,
    y: Target,
    norm: Norm<S>,
    at: usize,
}

#[inline(always)]
fn fused<S: Lanes, const AFFINE: bool, const STREAM: bool, const DELAY: usize>(
    simd: S,
    job: &mut LayerNorm<'_>,
    first: usize,
) {
    let (rows, cols) = (job.rows.rows(), job.rows.cols());
    let inv_cols = 1.0 / cols as f64;
    let (inner, last) = ChunkLen::of_row(cols);
    let affine = Affine::new(job.gamma, job.beta);
    let mut tree = Tree::new();
    let mut queue = [None; DELAY];
    for t in first..rows + DELAY {
        let mut pending = match queue[0] {
            // SAFETY: row t - DELAY exists, and so do its elements.
            Some(norm) => unsafe {
                let (x, y) = (job.rows.source(t - DELAY), job.rows.target(t - DELAY));
                let norm = Norm::new(simd, &norm);
                let at = normalize_head::<S, AFFINE, STREAM>(simd, x, y, &norm, affine, cols);
                Some(Pending { x, y, norm, at })
            },
            None => None,
        };
        let mut norm = None;
        if t < rows {
            // SAFETY: row t exists.
            let x = unsafe { job.rows.source(t) };
            let mut at = 0;
            let moments = loop {
                let len = if cols - at > CHUNK { inner } else { last };
                // SAFETY: at + len.len <= cols; the pending row has cols elements.
                let chunk =
                    unsafe { fused_chunk::<S, AFFINE, STREAM>(simd, x.after(at), len, &mut pending, affine, cols) };
                at += len.len;
                if at == cols && at <= CHUNK {
                    break chunk;
                }
                tree.push(chunk);
                if at == cols {
                    break tree.take();
                }
            };
            norm = settle(simd, job, t, &moments, inv_cols);
        }
        if let Some(p) = pending {
            // SAFETY: the pending row has cols elements, of which p.at are done.
            unsafe { normalize::<S, AFFINE, STREAM, 1>(simd, [p.x], [p.y], &[p.norm], affine, p.at, cols) };
        }
        queue.rotate_left(1);
        queue[DELAY - 1] = norm;
    }
}

/// The moments of a chunk, while the pending row is normalized step by step.
///
/// # Safety
/// - x has at least `len.len` elements, the pending row `cols`.
#[inline(always)]
unsafe fn fused_chunk<S: Lanes, const AFFINE: bool, const STREAM: bool>(
    simd: S,
    x: Source,
    len: ChunkLen,
    pending: &mut Option<Pending<S>>,
    affine: Affine,
    cols: usize,
) -> Moments {
    // SAFETY: the caller's duty.
    let c = unsafe { moments::chunk_shift(simd, x, len) };
    let mut sums = Sums::new(simd, c);
    let steps = len.len / STEP;
    let mut i = 0;
    if let Some(p) = pending {
        let both = steps.min((cols - p.at) / STEP) * STEP;
        let (px, py, at, norm) = (p.x, p.y, p.at, p.norm);
        while i < both {
            // SAFETY: i + STEP <= len.len, and at + i + STEP <= cols. x and the pending row are different rows.
            unsafe {
                sums.step(simd, x, i);
                for j in 0..2 * regs::<S>() {
                    let j = j * S::F32_LANES;
                    let v = norm.apply::<AFFINE>(simd, px.load(simd, at + i + j), affine.load(simd, at + i, j));
                    py.store::<S, STREAM>(simd, at + i + j, v);
                }
            }
            i += STEP;
        }
        p.at += both;
    }
    while i < steps * STEP {
        // SAFETY: i + STEP <= len.len.
        unsafe { sums.step(simd, x, i) };
        i += STEP;
    }
    if i < len.len {
        // SAFETY: len.len - i elements are left.
        unsafe { sums.step_tail(simd, x, i, len.len - i) };
    }
    sums.finish(simd, c, len)
}

/// The first `rows` rows, a multiple of [`FOLD_ROWS`], in blocks. The moments of a block are taken before the block
/// ahead of it is normalized, so that the chain between the two has something to hide behind.
#[inline(always)]
fn blocks<S: Lanes, const AFFINE: bool, const STREAM: bool>(simd: S, job: &mut LayerNorm<'_>, rows: usize) {
    let mut before = None;
    for r in (0..rows).step_by(FOLD_ROWS) {
        let norms = block_moments(simd, job, r);
        if let Some(norms) = before {
            block_normalize::<S, AFFINE, STREAM>(simd, job, r - FOLD_ROWS, &norms);
        }
        before = Some(norms);
    }
    if let Some(norms) = before {
        block_normalize::<S, AFFINE, STREAM>(simd, job, rows - FOLD_ROWS, &norms);
    }
}

/// What normalizing the rows `r..r + FOLD_ROWS` takes; `None` where the slow path has done it already.
#[inline(always)]
fn block_moments<S: Lanes>(simd: S, job: &mut LayerNorm<'_>, r: usize) -> [Option<RowNorm>; FOLD_ROWS] {
    let cols = job.rows.cols();
    let len = ChunkLen::new(cols);
    let inv_cols = 1.0 / cols as f64;
    let zero = simd.splat_f32s(0.0);
    // SAFETY: the caller's rows are there.
    let mut x = [unsafe { job.rows.source(r) }; FOLD_ROWS];
    let mut samples = [zero; FOLD_ROWS];
    for k in 0..FOLD_ROWS {
        // SAFETY: the caller's rows are there, and have cols > 0 elements.
        unsafe {
            x[k] = job.rows.source(r + k);
            samples[k] = moments::sample(simd, x[k], cols);
        }
    }
    let samples = simd.fold_rows(&samples);
    let mut c = [0.0; FOLD_ROWS];
    for k in 0..FOLD_ROWS {
        // SAFETY: rows have cols > 0 elements.
        c[k] = moments::shift(unsafe { x[k].array::<1>(0) }[0], samples[k], len);
    }
    let (mut s, mut q) = ([zero; FOLD_ROWS], [zero; FOLD_ROWS]);
    for k in 0..FOLD_ROWS {
        let mut sums = Sums::new(simd, c[k]);
        let mut i = 0;
        while i + STEP <= cols {
            // SAFETY: the loop's condition.
            unsafe { sums.step(simd, x[k], i) };
            i += STEP;
        }
        if i < cols {
            // SAFETY: cols - i elements are left.
            unsafe { sums.step_tail(simd, x[k], i, cols - i) };
        }
        (s[k], q[k]) = sums.halve(simd);
    }
    let (s, q) = (simd.fold_rows(&s), simd.fold_rows(&q));
    let mut moments = [Moments::EMPTY; FOLD_ROWS];
    let mut rstd = [0.0; FOLD_ROWS];
    let mut trusted = true;
    for k in 0..FOLD_ROWS {
        moments[k] = moments::finish(c[k], s[k], q[k], len);
        rstd[k] = moments[k].m2 * inv_cols + job.eps;
        trusted &= TRUSTED.contains(&rstd[k]);
    }
    let mut norms = [None; FOLD_ROWS];
    if !trusted {
        for k in 0..FOLD_ROWS {
            norms[k] = settle(simd, job, r + k, &moments[k], inv_cols);
        }
        return norms;
    }
    for v in bytemuck::cast_slice_mut::<f64, S::f64s>(&mut rstd) {
        *v = simd.div_f64s(simd.splat_f64s(1.0), simd.sqrt_f64s(*v));
    }
    for k in 0..FOLD_ROWS {
        let norm = RowNorm::new(moments[k].mean, rstd[k]);
        job.stats.set(r + k, &norm);
        norms[k] = Some(norm);
    }
    norms
}

#[inline(always)]
fn block_normalize<S: Lanes, const AFFINE: bool, const STREAM: bool>(
    simd: S,
    job: &mut LayerNorm<'_>,
    r: usize,
    norms: &[Option<RowNorm>; FOLD_ROWS],
) {
    let cols = job.rows.cols();
    let affine = Affine::new(job.gamma, job.beta);
    for k in (0..FOLD_ROWS).step_by(2) {
        // SAFETY: the caller's rows are there.
        let (x, y) = unsafe {
            ([job.rows.source(r + k), job.rows.source(r + k + 1)], [job.rows.target(r + k), job.rows.target(r + k + 1)])
        };
        // SAFETY: rows have cols elements; so have gamma and beta, checked by the constructor.
        unsafe {
            match (norms[k], norms[k + 1]) {
                (Some(a), Some(b)) if !STREAM => {
                    let norm = [Norm::new(simd, &a), Norm::new(simd, &b)];
                    normalize::<S, AFFINE, STREAM, 2>(simd, x, y, &norm, affine, 0, cols);
                }
                (a, b) => {
                    for (j, norm) in [a, b].iter().enumerate() {
                        if let Some(norm) = norm {
                            normalize_row::<S, AFFINE, STREAM>(simd, x[j], y[j], norm, affine, cols);
                        }
                    }
                }
            }
        }
    }
}

const _: () = assert!(BLOCK_COLS <= CHUNK && PIECE_COLS.is_multiple_of(STEP));
