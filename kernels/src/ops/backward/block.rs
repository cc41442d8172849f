//! The first touch of a few rows at once, with statistics that forward has kept.
//!
//! Their sums are folded in one transposed tree, and what follows from the sums is taken in vectors of f64, so that the
//! chain from the last column of a row to its dx is there once for all of these rows.

use core::marker::PhantomData;
use core::ops::RangeInclusive;

use super::job::{FIRST_ROWS, GradJob, Trusted, trusted};
use super::slow;
use super::touches::{Terms, project_chunk};
use crate::element::Storage;
use crate::mean::{Center, Mean};
use crate::simd::{FOLD_ROWS, Float, Kernel, Lanes, rolled};

const _: () = assert!(2 * FIRST_ROWS == FOLD_ROWS);

/// The first touch of the `rows` rows from `r` on, at most [`FIRST_ROWS`], of a job whose `first_rows` is not 0. It
/// writes their terms to `terms`, and returns whether the loops are trusted with all of these rows.
pub(super) struct FirstTouches<'j, 'a, T: Storage, M: Center> {
    pub(super) job: &'j GradJob<'a, T>,
    pub(super) r: usize,
    pub(super) rows: usize,
    pub(super) gamma: &'j [T::Float],
    pub(super) terms: &'j mut Terms<T::Float>,
    pub(super) center: PhantomData<M>,
}

impl<T: Storage, M: Center> Kernel for FirstTouches<'_, '_, T, M> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { job, r, rows, gamma, terms, .. } = self;
        let (stats, cols) = (&job.stats, job.rows.cols());
        let Some(rstd) = stats.rstd else { return false };
        assert!(rows > 0 && r + rows <= job.rows.rows() && gamma.len() >= cols);
        let first = job.rows.index(r);
        let zeros = [T::Float::default(); FIRST_ROWS];
        let (mut mean, mut mean_lo, rstd) = (zeros, zeros, block(rstd, first, rows));
        if M::CENTERED && job.centered {
            if let Some(means) = stats.mean {
                mean = block(means, first, rows);
            }
            if let Some(means) = stats.mean_lo {
                mean_lo = block(means, first, rows);
            }
        }
        (terms.hi, terms.rstd) = (mean, rstd);
        let mut sums = [T::Float::splat(simd, T::Float::default()); FOLD_ROWS];
        let place = job.rows.place(r);
        // SAFETY: there is a row r.
        let (mut dy, mut x) = unsafe { (job.rows.dy(place), job.rows.x(place)) };
        for k in 0..rolled(rows) {
            // This keeps indices in bounds, and does not tell the compiler how often to unroll the loop.
            let k = k % FIRST_ROWS;
            // SAFETY: there are rows r to r + rows, which have cols elements; gamma has them in whole steps.
            let [s1, s2] =
                unsafe { project_chunk::<S, T, M>(simd, [dy, x], terms.hi[k], gamma, 0, cols, job.asks_ahead::<S>()) };
            [dy, x] = job.rows.sources_below([dy, x]);
            (sums[k], sums[FIRST_ROWS + k]) = (s1, s2);
        }
        for k in rows..FIRST_ROWS {
            (sums[k], sums[FIRST_ROWS + k]) = (sums[0], sums[FIRST_ROWS]);
        }
        let sums = T::Float::fold_rows(simd, &sums);
        settle(simd, job, r, rows, terms, [mean_lo, rstd], &sums, Mean::<M>::new(job.centered).is_taken::<S>())
    }
}

/// The statistics of the rows from `first` on. Rows beyond `rows` have those of the first of them.
#[inline(always)]
fn block<F: Float>(stats: &[F], first: usize, rows: usize) -> [F; FIRST_ROWS] {
    let stats = &stats[first..][..rows];
    let [a, b, c] = [1, 2, 3].map(|k| if k < rows { k } else { 0 });
    [stats[0], stats[a], stats[b], stats[c]]
}

/// Makes terms of the sums S1 of four rows, followed by the sums S2 of these rows. Returns whether the loops are
/// trusted with the first `rows` of them.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn settle<S: Lanes, T: Storage>(
    simd: S,
    job: &GradJob<'_, T>,
    r: usize,
    rows: usize,
    terms: &mut Terms<T::Float>,
    [mean_lo, rstd]: [[T::Float; FIRST_ROWS]; 2],
    &[a, b, c, d, e, f, g, h]: &[T::Float; FOLD_ROWS],
    has_mean: bool,
) -> bool {
    let Trusted { rstd: trusted_rstd, sums: trusted_sums, products } = const { trusted::<T>() };
    for k in 0..FIRST_ROWS {
        terms.offset[k] = -mean_lo[k] * rstd[k];
    }
    let s1 = wide::<S, T>(simd, if has_mean { [a, b, c, d] } else { [T::Float::default(); FIRST_ROWS] });
    let (s2, lo, rstd) = (wide::<S, T>(simd, [e, f, g, h]), wide::<S, T>(simd, mean_lo), wide::<S, T>(simd, rstd));
    let (mut c1, mut c2, mut size) = ([0.0; FOLD_ROWS], [0.0; FOLD_ROWS], [0.0; FOLD_ROWS]);
    let share = simd.splat_f64s(job.root.share(job.rows.cols() as f64));
    let mut doubt = simd.splat_f64s(0.0);
    for j in 0..FIRST_ROWS.div_ceil(S::F64_LANES) {
        let (s1, s2) = (bytemuck::cast_slice::<f64, S::f64s>(&s1)[j], bytemuck::cast_slice::<f64, S::f64s>(&s2)[j]);
        let (lo, rstd) = (bytemuck::cast_slice::<f64, S::f64s>(&lo)[j], bytemuck::cast_slice::<f64, S::f64s>(&rstd)[j]);
        let s2 = simd.mul_f64s(simd.sub_f64s(s2, simd.mul_f64s(lo, s1)), rstd);
        let sum = simd.add_f64s(simd.abs_f64s(s1), simd.abs_f64s(s2));
        doubt = simd.add_f64s(doubt, nan_outside(simd, rstd, &trusted_rstd));
        doubt = simd.add_f64s(doubt, nan_outside(simd, sum, &trusted_sums));
        doubt = simd.add_f64s(doubt, nan_outside(simd, simd.mul_f64s(sum, rstd), &products));
        let neg_rstd = simd.neg_f64s(rstd);
        bytemuck::cast_slice_mut::<f64, S::f64s>(&mut size)[j] = sum;
        bytemuck::cast_slice_mut::<f64, S::f64s>(&mut c1)[j] = simd.mul_f64s(neg_rstd, simd.mul_f64s(s1, share));
        bytemuck::cast_slice_mut::<f64, S::f64s>(&mut c2)[j] = simd.mul_f64s(neg_rstd, simd.mul_f64s(s2, share));
    }
    let [a, b, c, d, ..] = T::Float::narrow(simd, &c1);
    terms.neg_rstd_c1 = [a, b, c, d];
    let [a, b, c, d, ..] = T::Float::narrow(simd, &c2);
    terms.neg_rstd_c2 = [a, b, c, d];
    !f64::any_nan(simd, doubt) || slow::are_moderate(job, r, &size[..rows], &rstd)
}

/// Four numbers as f64, and these again, since a register may have more lanes.
#[inline(always)]
fn wide<S: Lanes, T: Storage>(simd: S, [a, b, c, d]: [T::Float; FIRST_ROWS]) -> [f64; FOLD_ROWS] {
    T::Float::widen(simd, &[a, b, c, d, a, b, c, d])
}

/// 0 in lanes within `range`, and NaN in the others.
#[inline(always)]
fn nan_outside<S: Lanes>(simd: S, v: S::f64s, range: &RangeInclusive<f64>) -> S::f64s {
    let (zero, nan) = (simd.splat_f64s(0.0), simd.splat_f64s(f64::NAN));
    let is_below_end = simd.less_than_or_equal_f64s(v, simd.splat_f64s(*range.end()));
    let is_above_start = simd.less_than_or_equal_f64s(simd.splat_f64s(*range.start()), v);
    simd.select_f64s(is_above_start, simd.select_f64s(is_below_end, zero, nan), nan)
}
