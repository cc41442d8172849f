//! The rows of a job, two at a time: both touches, and the sums of leaves and parts.

use core::array::from_ref;
use core::marker::PhantomData;
use core::slice::from_raw_parts;

use super::super::mixed;
use super::super::moments::RowMoments;
use super::job::{BLOCK_ROWS, GradJob, Trusted, trusted};
use super::parts::{LEAF_ROWS, sums};
use super::touches::{RowTerms, Trust, project, second_touch, ways};
use super::{merge, slow};
use crate::element::Storage;
use crate::isa::Isa;
use crate::loops::{GammaBeta, WholeRow};
use crate::mean::{Center, Mean, Uncentered};
use crate::rows::Params;
use crate::simd::{Float, Kernel, Lanes, outline};
use crate::stats::{Moments, RowNorm};

/// The parts of a job.
pub(super) struct RunParts<'j, 'a, T: Storage, M: Center> {
    pub(super) job: &'j mut GradJob<'a, T>,
    pub(super) partials: &'j mut [T::Float],
    pub(super) work: &'j mut [T::Float],
    pub(super) center: PhantomData<M>,
}

pub(super) fn run_parts<T: Storage, M: Center>(parts: &mut RunParts<'_, '_, T, M>, isa: Isa) {
    let RunParts { job, partials, work, center } = parts;
    isa.run(RunParts { job, partials, work, center: *center });
}

impl<T: Storage, M: Center> Kernel for RunParts<'_, '_, T, M> {
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
fn pack_gamma<S: Lanes, T: Storage>(simd: S, job: &GradJob<'_, T>, packed: &mut [T::Float]) {
    let (cols, pair) = (job.rows.cols(), 2 * T::Float::lanes::<S>());
    if let Some(narrow) = job.gamma.filter(|gamma| T::MIXES && gamma.kind().is_narrow()) {
        // Pairs of f32 are in the order of the elements.
        mixed::widen(simd, narrow, &mut packed[..cols]);
        packed[cols..].fill(T::Float::default());
        packed.iter_mut().for_each(|gamma| *gamma = *gamma + job.offset);
        return;
    }
    let gamma_beta = GammaBeta::new(job.gamma, None, job.offset);
    for i in (0..packed.len()).step_by(pair) {
        // SAFETY: gamma has cols elements, checked by the constructor; the room has whole pairs.
        unsafe {
            let [gamma, _] = gamma_beta.load_tail::<S, Uncentered>(simd, i.min(cols), pair.min(cols - i.min(cols)));
            T::simd_store_computed(simd, packed[i..i + pair].as_mut_ptr(), gamma);
        }
    }
}

/// Both touches of the `n` rows from `r` on, one or two.
#[inline(always)]
fn touch_rows<S: Lanes, T: Storage, M: Center>(
    simd: S,
    job: &mut GradJob<'_, T>,
    r: usize,
    n: usize,
    gamma: &[T::Float],
    leaf: &mut [T::Float],
) {
    let center = PhantomData::<M>;
    let mut rows = [RowTerms::NAN; BLOCK_ROWS];
    // The moments of each row, where they have been taken.
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
        // What a row adds to the sums must not depend on whether dx is wanted: only its dx takes the slow path.
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
    let adds = trust == Trust::Nothing && job.sums;
    take_moments::<T, M>(job, r, &rows[..n], &mut moments, adds);
    slow::take_rows(job, r, &rows[..n], &moments[..n], gamma, leaf, adds);
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

/// Takes the moments that the slow path needs of the rows from `r` on, where `moments` has none.
#[cold]
#[inline(never)]
fn take_moments<T: Storage, M: Center>(
    job: &GradJob<'_, T>,
    r: usize,
    rows: &[RowTerms<T::Float>],
    moments: &mut [Option<Moments>],
    adds: bool,
) {
    for (k, (row, moments)) in rows.iter().zip(moments).enumerate() {
        if moments.is_none() && (adds || row.trust != Trust::All) {
            // SAFETY: callers count the rows, which have cols > 0 elements.
            let x = unsafe { from_raw_parts(job.rows.x(job.rows.place(r + k)).as_ptr(), job.rows.cols()) };
            *moments = Some(RowMoments { x, centered: job.centered, scale: None }.run_here::<M>(job.isa));
        }
    }
}

/// The first touch of row `r`: writes the terms of the row to `row`.
struct FirstTouch<'j, 'a, T: Storage, M: Center> {
    job: &'j GradJob<'a, T>,
    r: usize,
    gamma: &'j [T::Float],
    row: &'j mut RowTerms<T::Float>,
    /// The moments of the row, where they have been taken.
    moments: &'j mut Option<Moments>,
    center: PhantomData<M>,
}

impl<T: Storage, M: Center> Kernel for FirstTouch<'_, '_, T, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        *self.row = first_touch::<S, T, M>(simd, self.job, self.r, self.gamma, self.moments);
    }
}

/// The second touch of the `R` rows from `r` on.
struct SecondTouch<'j, 'a, T: Storage, M: Center, const R: usize> {
    job: &'j mut GradJob<'a, T>,
    r: usize,
    rows: &'j [RowTerms<T::Float>; R],
    wanted: u8,
    gamma: &'j [T::Float],
    leaf: &'j mut [T::Float],
    center: PhantomData<M>,
}

impl<T: Storage, M: Center, const R: usize> Kernel for SecondTouch<'_, '_, T, M, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { job, r, rows, wanted, gamma, leaf, .. } = self;
        second_touch::<S, T, M, R>(simd, job, r, rows, wanted, gamma, leaf);
    }
}

/// Touches row `r` for the first time. Returns what the second touch needs of it.
#[inline(always)]
fn first_touch<S: Lanes, T: Storage, M: Center>(
    simd: S,
    job: &GradJob<'_, T>,
    r: usize,
    gamma: &[T::Float],
    taken: &mut Option<Moments>,
) -> RowTerms<T::Float> {
    let Trusted { rstd: trusted_rstd, sums: trusted_sums, products } = const { trusted::<T>() };
    let is_trusted = |norm: &RowNorm<T::Float>| trusted_rstd.contains(&norm.rstd.into());
    let of_row;
    let mut fast = None;
    // Matched where they are: see `Forward::run_on`.
    let (norm, is_constant) = match job.norm(r) {
        Some(norm) if is_trusted(&norm) => (norm, false),
        Some(_) => match slow::norm_of_untrusted(job, r, taken) {
            Some(norm) => norm,
            None => return RowTerms::NAN,
        },
        None => {
            // SAFETY: r < rows, and rows have cols > 0 elements.
            of_row = unsafe {
                let (x, cols) = (job.rows.x(job.rows.place(r)).into(), job.rows.cols());
                outline(simd, WholeRow::<T, M, Params<'_, T>>::moments(&x, cols, Mean::new(job.centered)))
            };
            let (moments, _) = &of_row;
            fast = Some(moments);
            match RowNorm::<T::Float>::trusted(simd, moments, job.eps) {
                Some(norm) if is_trusted(&norm) => (norm, false),
                // The statistics that the slow path of forward gives may be in range.
                _ => {
                    *taken = fast.take().copied();
                    match slow::norm_of_untrusted(job, r, taken) {
                        Some(norm) => norm,
                        None => return RowTerms::NAN,
                    }
                }
            }
        }
    };
    let (mean_lo, rstd): (f64, f64) = (norm.mean_lo.into(), norm.rstd.into());
    if !job.rows.has_dx() {
        return RowTerms::new(&norm, 0.0, 0.0, Trust::All);
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
    RowTerms::new(&norm, s1 * inv_cols, s2 * inv_cols, trust)
}
