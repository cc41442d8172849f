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
//! arXiv:1910.07467 (2019). ds is a gradient that reaches x by another way: that of a residual connection, where x is
//! a sum.
//!
//! # Two touches
//!
//! Two rows are taken at a time. The first touch, the only one that reads memory, takes the two sums of each; the
//! second, out of the cache, goes over the columns of both at once, writes dx, and adds to the running sums of dgamma
//! and dbeta, which are loaded and stored once for two rows: stores are what the loop waits for. Where dx is streamed
//! past the caches, the second touch also asks for the next two rows, since memory has nothing else to do.
//!
//! ```text
//! S1, S2 = sum g, sum g * (x - hi)           in f32, per virtual lane, folded by halves; chunks are added in f64
//! c1, c2 = S1 / n, (S2 - lo * S1) * rstd / n         in f64
//! xhat   = fma(x - hi, rstd, -lo * rstd)             as in forward
//! dx     = fma(g, rstd, fma(xhat, -rstd * c2, -rstd * c1)) + ds
//! ```
//!
//! Without a mean, S1, hi and lo are 0. As in [`forward`](super::forward), only some rows without a mean have loops of
//! their own. In the others' nothing comes of dbeta: it has no memory, and is stored where dgamma is stored next.
//!
//! # What fixes the bits of dgamma and dbeta
//!
//! Pairs of rows are added one after the other, but only up to [`LEAF_ROWS`] rows: the rounding errors of that are all
//! that there are, since such sums are added to one another with their errors kept (Knuth's `TwoSum`). These longer
//! sums are those of [`Parts`], into which the rows are cut by their number alone, and which several threads can
//! share. The parts are added along a binary tree.
//!
//! # Range
//!
//! The loops are trusted with a row if rstd, S1 and S2 are of a moderate size. If not, and also where a number is not
//! finite, the row takes the slow path in f64. What decides are the rounded statistics, so that it makes no difference
//! whether forward has kept them or they are taken again.

mod merge;
mod slow;
mod touches;

use core::array::from_ref;
use core::marker::PhantomData;
use core::ops::RangeInclusive;

use super::{Compiled, Element};
use crate::isa::Isa;
use crate::loops::{Affine, WholeRow};
use crate::mean::{Center, Mean, Uncentered};
use crate::rows::{GradRows, Params, Vector};
use crate::simd::{Float, Kernel, Lanes, outline};
use crate::stack;
use crate::stats::{Moments, RowNorm, is_eps};
pub(crate) use merge::Merge;
pub use merge::merge;
use touches::{Row, Trust, project, second_touch, ways};

/// The rows whose gradients of gamma and beta are added one after the other.
pub const LEAF_ROWS: usize = 16;

/// The rows of a part, at least.
const PART_ROWS: usize = 64;

/// The parts, at most.
const MAX_PARTS: usize = 32;

/// The rows that are touched together.
const BLOCK_ROWS: usize = 2;

/// The statistics of each row, as forward has kept them.
///
/// Each has one element for each row of the buffers, also where the rows of a job are a part of these: those of one
/// group ([`GradRows::with_group`]) or those of [`GradRows::split_at`]. Row r of the buffers has element r.
#[derive(Clone, Copy, Debug)]
pub struct Stats<'a, F = f32> {
    /// The mean, rounded.
    pub mean: Option<&'a [F]>,
    /// What rounding took from the mean. Absent ones count as 0, which costs digits where the mean is large beside the
    /// standard deviation.
    pub mean_lo: Option<&'a [F]>,
    /// 1 / sqrt(var + eps). Absent ones are taken again, and so are the means.
    pub rstd: Option<&'a [F]>,
}

impl<F> Default for Stats<'_, F> {
    /// Nothing was kept: the statistics are taken again.
    fn default() -> Self {
        Self { mean: None, mean_lo: None, rstd: None }
    }
}

impl<'a, F: Float> Stats<'a, F> {
    /// Whether each has an element for each of `rows` rows, and none is there without those that belong to it.
    #[inline(never)]
    fn fit(&self, rows: usize, centered: bool) -> bool {
        let lengths = [self.mean, self.mean_lo, self.rstd].into_iter().all(|s| s.is_none_or(|s| s.len() == rows));
        let [mean, mean_lo, rstd] = [self.mean, self.mean_lo, self.rstd].map(|s| s.is_some());
        lengths && (!mean || rstd) && (!mean_lo || mean) && (!(centered && rstd) || mean)
    }

    fn row(&self, r: usize) -> Option<RowNorm<F>> {
        let zero = F::default();
        let of = |s: Option<&[F]>| s.map_or(zero, |s| s[r]);
        self.rstd.map(|rstd| RowNorm { mean: of(self.mean), mean_lo: of(self.mean_lo), rstd: rstd[r] })
    }
}

/// How rows are cut so that dgamma and dbeta have the same bits for any number of threads, and the memory that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    rows: usize,
    cols: usize,
    part_rows: usize,
}

impl Parts {
    /// The parts of so many rows.
    pub fn new(rows: usize, cols: usize) -> Self {
        let part_rows = rows.div_ceil(MAX_PARTS).next_multiple_of(LEAF_ROWS).max(PART_ROWS);
        Self { rows, cols, part_rows }
    }

    /// The number of parts: 32 at most.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(self.part_rows)
    }

    /// The first row of a part, or the number of rows if there is no such part.
    pub fn first_row(&self, part: usize) -> usize {
        self.rows.min(part.saturating_mul(self.part_rows))
    }

    /// The elements of memory that the sums of one part take, each with its errors: columns in whole steps, for gamma
    /// and, if `centered`, for beta. `None` on overflow.
    pub fn partial_len<T: Element>(&self, centered: bool) -> Option<usize> {
        padded::<T>(self.cols)?.checked_mul(2 * sums(centered))
    }

    /// The elements of memory that a thread takes to work on its parts: gamma, and the sums of a leaf. `None` on
    /// overflow.
    pub fn work_len<T: Element>(&self, centered: bool) -> Option<usize> {
        padded::<T>(self.cols)?.checked_mul(1 + sums(centered))
    }
}

/// The number of parameters whose gradients are sums over the rows.
const fn sums(centered: bool) -> usize {
    if centered { 2 } else { 1 }
}

/// A number of columns in whole steps.
fn padded<T: Element>(cols: usize) -> Option<usize> {
    cols.checked_next_multiple_of(T::STEP)
}

/// The job of taking the gradients of some rows, which are some parts of all rows: see [`Parts`].
#[derive(Debug)]
pub struct Backward<'a, T: Element, M: Center>(Job<'a, T>, PhantomData<M>);

impl<'a, T: Element, M: Center> Backward<'a, T, M> {
    /// The job for all of `rows`, which make parts of their own: [`Parts::new`] of `rows.rows()`. The gradients of
    /// gamma and beta are taken if `sums`, and dx is written with `streaming` stores if so asked. gamma is that of the
    /// rows' group.
    ///
    /// `None` if
    /// - gamma does not have an element for each column,
    /// - a statistic does not have an element for each row of the buffers: see [`Stats`],
    /// - mean comes without rstd, `mean_lo` without mean, or, in layer normalization, rstd without mean,
    /// - there is a ds, and no dx to add it to,
    /// - nothing is wanted, neither dx nor sums, or
    /// - eps is negative, infinite or NaN.
    pub fn new(
        rows: GradRows<'a, T>,
        stats: Stats<'a, T::Float>,
        gamma: Option<Vector<'a, T>>,
        offset: T::Float,
        eps: f64,
        sums: bool,
        streaming: bool,
    ) -> Option<Self> {
        let lengths = stats.fit(rows.all(), M::CENTERED) && gamma.is_none_or(|g| g.len() == rows.cols());
        let wanted = rows.has_dx() || sums && !rows.has_ds();
        let fits = lengths && wanted && is_eps(eps);
        let part_rows = Parts::new(rows.rows(), rows.cols()).part_rows;
        // Adding -0 changes no bits; adding +0 changes those of -0.
        let harmless = gamma.is_none() || offset.is_zero();
        let offset = if harmless { -T::Float::default() } else { offset };
        let isa = Isa::SCALAR;
        let job = Job { isa, centered: M::CENTERED, rows, stats, gamma, offset, eps, sums, streaming, part_rows };
        fits.then_some(Self(job, PhantomData))
    }

    /// The number of parts.
    pub fn parts(&self) -> usize {
        self.0.rows.rows().div_ceil(self.0.part_rows)
    }

    /// The job for the first `parts` parts, and that for the others. All parts come first if there are fewer.
    pub fn split_at_part(self, parts: usize) -> (Self, Self) {
        let Self(job, _) = self;
        let row = parts.saturating_mul(job.part_rows).min(job.rows.rows());
        let (a, b) = job.rows.split_at(row);
        (Self(Job { rows: a, ..job }, PhantomData), Self(Job { rows: b, ..job }, PhantomData))
    }

    /// Does the job on one tier, on the calling thread: writes dx, and the sums of its parts to `partials`, to be
    /// merged by [`merge`] when those of all parts are there. Each part and the merge may take another tier.
    ///
    /// # Panics
    /// If `partials` does not have [`Parts::partial_len`] elements for each part (it is not used, and may be empty, if
    /// no sums are wanted), or if `work` has fewer than [`Parts::work_len`].
    pub fn run_on(&mut self, isa: Isa, partials: &mut [T::Float], work: &mut [T::Float])
    where
        T: Compiled<M>,
    {
        let job = &self.0;
        let parts = Parts { rows: job.rows.rows(), cols: job.rows.cols(), part_rows: job.part_rows };
        if parts.rows == 0 || parts.cols == 0 {
            return;
        }
        let partial_len = parts.partial_len::<T>(M::CENTERED);
        let work_len = parts.work_len::<T>(M::CENTERED);
        let expected = partial_len.and_then(|len| len.checked_mul(parts.count()));
        assert!(!job.sums || Some(partials.len()) == expected, "{} elements, expected {expected:?}", partials.len());
        assert!(work_len.is_some_and(|len| len <= work.len()), "{} elements, expected {work_len:?}", work.len());
        T::backward(self, partials, work, isa);
    }

    /// The job, which has rows and columns, through the loops for `L`.
    #[inline(always)]
    pub(crate) fn run_here<L: Center>(&mut self, isa: Isa, partials: &mut [T::Float], work: &mut [T::Float]) {
        self.0.isa = isa;
        let mut parts = RunParts::<T, L> { job: &mut self.0, partials, work, center: PhantomData };
        stack::within_a_page(&mut parts, isa, run_parts);
    }
}

/// What both normalizations have in common, and the loops take.
#[derive(Debug)]
struct Job<'a, T: Element> {
    /// The tier that it runs on.
    isa: Isa,
    /// Whether rows have a mean.
    centered: bool,
    rows: GradRows<'a, T>,
    stats: Stats<'a, T::Float>,
    gamma: Option<Vector<'a, T>>,
    offset: T::Float,
    eps: f64,
    /// Whether dgamma or dbeta is wanted.
    sums: bool,
    streaming: bool,
    part_rows: usize,
}

impl<T: Element> Job<'_, T> {
    /// The gamma to multiply by.
    fn gamma(&self, i: usize) -> T::Float {
        let params = Params { gamma: self.gamma, offset: self.offset, ..Params::default() };
        params.gamma(i)
    }

    /// The statistics of row `r`, if forward has kept them.
    #[inline(always)]
    fn norm(&self, r: usize) -> Option<RowNorm<T::Float>> {
        if self.stats.rstd.is_none() { None } else { self.kept_norm(r) }
    }

    /// Not inlined: that would be 2 KB of code.
    #[inline(never)]
    fn kept_norm(&self, r: usize) -> Option<RowNorm<T::Float>> {
        let norm = self.stats.row(self.rows.index(r))?;
        let zero = T::Float::default();
        Some(if self.centered { norm } else { RowNorm { mean: zero, mean_lo: zero, ..norm } })
    }
}

/// The range of rstd, of the sums of a row, and of their products, within which the loops are trusted with it.
struct Trusted {
    rstd: RangeInclusive<f64>,
    sums: RangeInclusive<f64>,
    products: RangeInclusive<f64>,
}

const fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

const fn range(from: i64, to: i64) -> RangeInclusive<f64> {
    power_of_two(from)..=power_of_two(to)
}

/// Statistics of f32 that come from trusted moments have an rstd from 2^-60 to 2^45, those of f64 one from 2^-500 to
/// 2^480; a power of two less, lest rounding move one across the border. Beyond these ranges a product can lose digits
/// that matter, or overflow.
const fn trusted<T: Element>() -> Trusted {
    if size_of::<T::Float>() == size_of::<f64>() {
        Trusted { rstd: range(-499, 479), sums: range(-500, 900), products: range(-900, 900) }
    } else {
        Trusted { rstd: range(-59, 44), sums: range(-60, 100), products: range(-100, 100) }
    }
}

/// The parts of a job.
struct RunParts<'j, 'a, T: Element, M: Center> {
    job: &'j mut Job<'a, T>,
    partials: &'j mut [T::Float],
    work: &'j mut [T::Float],
    center: PhantomData<M>,
}

fn run_parts<T: Element, M: Center>(parts: &mut RunParts<'_, '_, T, M>, isa: Isa) {
    let RunParts { job, partials, work, center } = parts;
    isa.run(RunParts { job, partials, work, center: *center });
}

impl<T: Element, M: Center> Kernel for RunParts<'_, '_, T, M> {
    type Output = ();

    const PORTABLE: bool = M::CENTERED;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { job, partials, work, .. } = self;
        let (rows, cols) = (job.rows.rows(), job.rows.cols());
        let padded = cols.next_multiple_of(T::STEP);
        let (gamma, leaf) = work.split_at_mut(padded);
        let leaf = &mut leaf[..sums(job.centered) * padded];
        pack_gamma(simd, job, gamma);
        leaf.fill(T::Float::default());
        for r in (0..rows).step_by(BLOCK_ROWS) {
            let n = BLOCK_ROWS.min(rows - r);
            touch_rows::<S, T, M>(simd, job, r, n, gamma, leaf);
            if job.sums && ((r + n).is_multiple_of(LEAF_ROWS) || r + n == rows) {
                let len = 2 * leaf.len();
                let part = &mut partials[r / job.part_rows * len..][..len];
                let is_first = r % job.part_rows < LEAF_ROWS;
                merge::add_leaf::<S, T>(simd, leaf, part, padded, is_first);
            }
        }
        if job.streaming {
            simd.fence();
        }
    }
}

/// gamma plus offset, in the order of the pairs of registers.
#[inline(always)]
fn pack_gamma<S: Lanes, T: Element>(simd: S, job: &Job<'_, T>, packed: &mut [T::Float]) {
    let affine = Affine::new(job.gamma, None, job.offset);
    let (cols, pair) = (job.rows.cols(), 2 * T::Float::lanes::<S>());
    for i in (0..packed.len()).step_by(pair) {
        // SAFETY: gamma has cols elements, checked by the constructor; the room has whole pairs.
        unsafe {
            let [gamma, _] = affine.load_tail::<S, Uncentered>(simd, i.min(cols), pair.min(cols - i.min(cols)));
            T::simd_store_computed(simd, packed[i..i + pair].as_mut_ptr(), gamma);
        }
    }
}

/// Both touches of the `n` rows from `r` on, one or two.
#[inline(always)]
fn touch_rows<S: Lanes, T: Element, M: Center>(
    simd: S,
    job: &mut Job<'_, T>,
    r: usize,
    n: usize,
    gamma: &[T::Float],
    leaf: &mut [T::Float],
) {
    let center = PhantomData::<M>;
    let mut rows = [Row::NAN; BLOCK_ROWS];
    // The moments of each row, if they have been taken.
    let mut moments = [None; BLOCK_ROWS];
    let ([row_a, row_b], [moments_a, moments_b]) = (&mut rows, &mut moments);
    // Two calls, since one would be inlined.
    outline(simd, FirstTouch { job: &*job, r, gamma, row: &mut *row_a, moments: moments_a, center });
    let mut trust = row_a.trust;
    if n == BLOCK_ROWS {
        outline(simd, FirstTouch { job: &*job, r: r + 1, gamma, row: &mut *row_b, moments: moments_b, center });
        trust = trust.min(row_b.trust);
    }
    let wanted = match trust {
        Trust::All => !0,
        // What a row adds to the sums does not depend on whether dx is wanted, and takes the slow path.
        _ => ways::SUMS,
    };
    match (trust, n) {
        (Trust::Nothing, _) => {}
        (_, BLOCK_ROWS) => {
            outline(simd, SecondTouch { job: &mut *job, r, rows: &rows, wanted, gamma, leaf: &mut *leaf, center });
        }
        _ => {
            let rows = from_ref(&rows[0]);
            outline(simd, SecondTouch { job: &mut *job, r, rows, wanted, gamma, leaf: &mut *leaf, center });
        }
    }
    if trust == Trust::All {
        return;
    }
    slow::take_rows(job, r, &rows[..n], &moments[..n], gamma, leaf, trust == Trust::Nothing);
    for (k, row) in rows.iter().enumerate().take(n) {
        if row.trust == Trust::All {
            let wanted = !ways::SUMS;
            outline(
                simd,
                SecondTouch { job: &mut *job, r: r + k, rows: from_ref(row), wanted, gamma, leaf: &mut *leaf, center },
            );
        }
    }
}

/// What the second touch of row `r` takes.
struct FirstTouch<'j, 'a, T: Element, M: Center> {
    job: &'j Job<'a, T>,
    r: usize,
    gamma: &'j [T::Float],
    row: &'j mut Row<T::Float>,
    /// Those of the row, if they are taken.
    moments: &'j mut Option<Moments>,
    center: PhantomData<M>,
}

impl<T: Element, M: Center> Kernel for FirstTouch<'_, '_, T, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        *self.row = first_touch::<S, T, M>(simd, self.job, self.r, self.gamma, self.moments);
    }
}

/// The second touch of the `R` rows from `r` on.
struct SecondTouch<'j, 'a, T: Element, M: Center, const R: usize> {
    job: &'j mut Job<'a, T>,
    r: usize,
    rows: &'j [Row<T::Float>; R],
    wanted: u8,
    gamma: &'j [T::Float],
    leaf: &'j mut [T::Float],
    center: PhantomData<M>,
}

impl<T: Element, M: Center, const R: usize> Kernel for SecondTouch<'_, '_, T, M, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { job, r, rows, wanted, gamma, leaf, .. } = self;
        second_touch::<S, T, M, R>(simd, job, r, rows, wanted, gamma, leaf);
    }
}

/// What the second touch of row `r` takes.
#[inline(always)]
fn first_touch<S: Lanes, T: Element, M: Center>(
    simd: S,
    job: &Job<'_, T>,
    r: usize,
    gamma: &[T::Float],
    taken: &mut Option<Moments>,
) -> Row<T::Float> {
    let Trusted { rstd: trusted_rstd, sums: trusted_sums, products } = const { trusted::<T>() };
    let is_trusted = |norm: &RowNorm<T::Float>| trusted_rstd.contains(&norm.rstd.into());
    let of_row;
    let mut fast = None;
    // Matched where they are: see `Forward::run_on`.
    let (norm, is_constant) = match job.norm(r) {
        Some(norm) if is_trusted(&norm) => (norm, false),
        Some(_) => match slow::norm_of_untrusted(job, r, taken) {
            Some(norm) => norm,
            None => return Row::NAN,
        },
        None => {
            // SAFETY: r < rows, and rows have cols > 0 elements.
            of_row = unsafe {
                let (x, cols) = (job.rows.x(job.rows.place(r)).into(), job.rows.cols());
                outline(simd, WholeRow::<T, M>::moments(&x, cols, Mean::new(job.centered)))
            };
            let (moments, _) = &of_row;
            fast = Some(moments);
            match RowNorm::<T::Float>::trusted(simd, moments, job.eps) {
                Some(norm) if is_trusted(&norm) => (norm, false),
                // What forward keeps of a row on its slow path may be in range.
                _ => {
                    *taken = fast.take().copied();
                    match slow::norm_of_untrusted(job, r, taken) {
                        Some(norm) => norm,
                        None => return Row::NAN,
                    }
                }
            }
        }
    };
    let (mean_lo, rstd): (f64, f64) = (norm.mean_lo.into(), norm.rstd.into());
    if !job.rows.has_dx() {
        return Row::new(&norm, 0.0, 0.0, Trust::All);
    }
    // SAFETY: there is a row r; gamma has whole steps.
    let (s1, s2) = unsafe { project::<S, T, M>(simd, job, r, norm.mean, gamma) };
    let s2 = (s2 - mean_lo * s1) * rstd;
    let size = s1.abs() + s2.abs();
    let is_moderate = trusted_sums.contains(&size) && products.contains(&(size * rstd))
        // g times an rstd of 0 is 0 if it is finite.
        || is_constant && size.is_finite();
    let mut trust = Trust::All;
    if !(is_moderate || size == 0.0 && slow::is_zero(job, r)) {
        trust = Trust::Statistics;
        if let Some(&moments) = fast {
            *taken = Some(moments);
        }
    }
    let inv_cols = 1.0 / job.rows.cols() as f64;
    Row::new(&norm, s1 * inv_cols, s2 * inv_cols, trust)
}
