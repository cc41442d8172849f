//! The rows of a job, two or four at a time: both touches, and the sums of leaves and parts.

use core::marker::PhantomData;
use core::slice::from_raw_parts;

use super::super::mixed;
use super::super::moments::RowMoments;
use super::block::FirstTouches;
use super::job::{BLOCK_ROWS, GradJob, Trusted, trusted};
use super::parts::{LEAF_ROWS, sums};
use super::touches::{Terms, Trust, project, second_touch, ways};
use super::{merge, slow};
use crate::element::Storage;
use crate::isa::Isa;
use crate::loops::{GammaBeta, WholeRow};
use crate::mean::{Center, Mean, Uncentered};
use crate::rows::{Params, way};
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
        let before = job.before;
        if before == 0 {
            pack_gamma(simd, job, gamma);
            leaf.fill(T::Float::default());
        }
        let first_rows = if S::SPECIALIZES { job.first_rows() } else { 0 };
        let mut r = 0;
        while r < rows {
            let n = first_rows.max(BLOCK_ROWS).min(rows - r);
            touch_rows::<S, T, M>(simd, job, r, n, first_rows > 0, gamma, leaf);
            let (of_part, end) = (before + r, before + r + n);
            if job.sums && (end.is_multiple_of(LEAF_ROWS) || r + n == rows && !job.is_open) {
                let len = 2 * leaf.len();
                let part = &mut partials[of_part / job.part_rows * len..][..len];
                if job.is_leaf {
                    merge::store_leaf::<S, T>(simd, leaf, part, padded);
                } else {
                    let is_first = of_part % job.part_rows < LEAF_ROWS;
                    merge::add_leaf::<S, T>(simd, leaf, part, padded, is_first);
                }
            }
            r += n;
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
    if let Some(narrow) = job.params.gamma.filter(|gamma| T::MIXES && gamma.kind().is_narrow()) {
        // Pairs of f32 are in the order of the elements.
        mixed::widen_gamma(simd, &job.params, narrow, &mut packed[..cols]);
        packed[cols..].fill(T::Float::default());
        return;
    }
    let gamma_beta = GammaBeta::new(&job.params);
    let whole = if S::SPECIALIZES { cols - cols % pair } else { 0 };
    // SAFETY: gamma has cols elements, checked by the constructor; the room has whole pairs. A stand-in for gamma is
    // read from its start on.
    unsafe {
        for i in (0..whole).step_by(pair) {
            let [gamma, _] = gamma_beta.load::<S, Uncentered, { way::STEPS_GENERAL }>(simd, i, 0);
            T::simd_store_computed(simd, packed.as_mut_ptr().add(i), gamma);
        }
        for i in (whole..packed.len()).step_by(pair) {
            let [gamma, _] = gamma_beta.load_tail::<S, Uncentered>(simd, i.min(cols), pair.min(cols - i.min(cols)));
            T::simd_store_computed(simd, packed[i..i + pair].as_mut_ptr(), gamma);
        }
    }
}

/// Both touches of the `n` rows from `r` on, which have the first touch together if `together`, as far as the loops are
/// trusted with all of these rows.
#[inline(always)]
fn touch_rows<S: Lanes, T: Storage, M: Center>(
    simd: S,
    job: &mut GradJob<'_, T>,
    r: usize,
    n: usize,
    together: bool,
    gamma: &[T::Float],
    leaf: &mut [T::Float],
) {
    let center = PhantomData::<M>;
    let mut terms = Terms::NAN;
    let terms = &mut terms;
    let are_touched =
        together && outline(simd, FirstTouches { job: &*job, r, rows: n, gamma, terms: &mut *terms, center });
    let mut next = 0;
    while next < n {
        let k = next;
        // Rows that have been touched together have the second touch in one call.
        let rows = match n - k {
            1 => 1,
            left if are_touched => left - left % BLOCK_ROWS,
            _ => BLOCK_ROWS,
        };
        next += rows;
        let r = r + k;
        let mut trusts = [Trust::All; BLOCK_ROWS];
        // The moments of each row, where they have been taken.
        let mut moments = [None; BLOCK_ROWS];
        let mut trust = Trust::All;
        if !are_touched {
            let [moments_a, moments_b] = &mut moments;
            let touch = FirstTouch { job: &*job, r, k, gamma, terms: &mut *terms, moments: moments_a, center };
            // Two calls, since one would be inlined.
            trusts[0] = outline(simd, touch);
            trust = trusts[0];
            if rows == BLOCK_ROWS {
                let (r, k) = (r + 1, k + 1);
                let touch = FirstTouch { job: &*job, r, k, gamma, terms: &mut *terms, moments: moments_b, center };
                trusts[1] = outline(simd, touch);
                trust = trust.min(trusts[1]);
            }
        }
        let wanted = match trust {
            Trust::All => !0,
            // What a row adds to the sums must not depend on whether dx is wanted: only its dx takes the slow path.
            _ => ways::SUMS,
        };
        let terms = &*terms;
        match (trust, rows) {
            (Trust::Nothing, _) => {}
            (_, 1) => {
                let leaf = &mut *leaf;
                outline(
                    simd,
                    SecondTouch::<_, _, 1> { job: &mut *job, r, rows, terms, k, wanted, gamma, leaf, center },
                );
            }
            _ => {
                let leaf = &mut *leaf;
                outline(
                    simd,
                    SecondTouch::<_, _, BLOCK_ROWS> { job: &mut *job, r, rows, terms, k, wanted, gamma, leaf, center },
                );
            }
        }
        if trust == Trust::All {
            continue;
        }
        let adds = trust == Trust::Nothing && job.sums;
        take_moments::<T, M>(job, r, &trusts[..rows], &mut moments, adds);
        slow::take_rows(job, r, &trusts[..rows], &moments[..rows], gamma, leaf, adds);
        for (i, trust) in trusts.iter().enumerate().take(rows) {
            if *trust == Trust::All {
                let (r, rows, k, wanted, leaf) = (r + i, 1, k + i, !ways::SUMS, &mut *leaf);
                outline(
                    simd,
                    SecondTouch::<_, _, 1> { job: &mut *job, r, rows, terms, k, wanted, gamma, leaf, center },
                );
            }
        }
    }
}

/// Takes the moments that the slow path needs of the rows from `r` on, where `moments` has none.
#[cold]
#[inline(never)]
fn take_moments<T: Storage, M: Center>(
    job: &GradJob<'_, T>,
    r: usize,
    rows: &[Trust],
    moments: &mut [Option<Moments>],
    adds: bool,
) {
    for (k, (&trust, moments)) in rows.iter().zip(moments).enumerate() {
        if moments.is_none() && (adds || trust != Trust::All) {
            // SAFETY: callers count the rows, which have cols > 0 elements.
            let x = unsafe { from_raw_parts(job.rows.x(job.rows.place(r + k)).as_ptr(), job.rows.cols()) };
            *moments = Some(RowMoments { x, centered: job.centered, scale: None }.run_here::<M>(job.isa));
        }
    }
}

/// The first touch of row `r`: writes the terms of the row as number `k` of `terms`, and returns how much of the row
/// the loops are trusted with.
struct FirstTouch<'j, 'a, T: Storage, M: Center> {
    job: &'j GradJob<'a, T>,
    r: usize,
    k: usize,
    gamma: &'j [T::Float],
    terms: &'j mut Terms<T::Float>,
    /// The moments of the row, where they have been taken.
    moments: &'j mut Option<Moments>,
    center: PhantomData<M>,
}

impl<T: Storage, M: Center> Kernel for FirstTouch<'_, '_, T, M> {
    type Output = Trust;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> Trust {
        let Self { job, r, k, gamma, terms, moments, .. } = self;
        first_touch::<S, T, M>(simd, job, r, k, gamma, terms, moments)
    }
}

/// The second touch of the `rows` rows from `r` on, whose `terms` begin at number `k`, `R` rows at a time.
struct SecondTouch<'j, 'a, T: Storage, M: Center, const R: usize> {
    job: &'j mut GradJob<'a, T>,
    r: usize,
    rows: usize,
    terms: &'j Terms<T::Float>,
    k: usize,
    wanted: u8,
    gamma: &'j [T::Float],
    leaf: &'j mut [T::Float],
    center: PhantomData<M>,
}

impl<T: Storage, M: Center, const R: usize> Kernel for SecondTouch<'_, '_, T, M, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { job, r, rows, terms, k, wanted, gamma, leaf, .. } = self;
        second_touch::<S, T, M, R>(simd, job, r, rows, terms, k, wanted, gamma, leaf);
    }
}

/// Touches row `r` for the first time. Writes what the second touch needs of it.
#[inline(always)]
fn first_touch<S: Lanes, T: Storage, M: Center>(
    simd: S,
    job: &GradJob<'_, T>,
    r: usize,
    k: usize,
    gamma: &[T::Float],
    terms: &mut Terms<T::Float>,
    taken: &mut Option<Moments>,
) -> Trust {
    let Trusted { rstd: trusted_rstd, sums: trusted_sums, products } = const { trusted::<T>() };
    let is_trusted = |norm: &RowNorm<T::Float>| trusted_rstd.contains(&norm.rstd.into());
    let of_row;
    let mut fast = None;
    // Matched where they are: see `Forward::run_on`.
    let (norm, is_constant) = match job.norm(r) {
        Some(norm) if is_trusted(&norm) => (norm, false),
        Some(_) => match slow::norm_of_untrusted(job, r, taken) {
            Some(norm) => norm,
            None => return Trust::Nothing,
        },
        None => {
            // SAFETY: r < rows, and rows have cols > 0 elements.
            of_row = unsafe {
                let (x, cols) = (job.rows.x(job.rows.place(r)).into(), job.rows.cols());
                outline(simd, WholeRow::<T, M, Params<'_, T>>::moments(&x, cols, Mean::new(job.centered)))
            };
            let (moments, _) = &of_row;
            fast = Some(moments);
            match RowNorm::<T::Float>::trusted(simd, moments, &job.root) {
                Some(norm) if is_trusted(&norm) => (norm, false),
                // The statistics that the slow path of forward gives may be in range.
                _ => {
                    *taken = fast.take().copied();
                    match slow::norm_of_untrusted(job, r, taken) {
                        Some(norm) => norm,
                        None => return Trust::Nothing,
                    }
                }
            }
        }
    };
    let (mean_lo, rstd): (f64, f64) = (norm.mean_lo.into(), norm.rstd.into());
    if !job.rows.has_dx() {
        terms.set(k, &norm, 0.0, 0.0);
        return Trust::All;
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
    let share = job.root.share(job.rows.cols() as f64);
    let c2 = if job.root.is_floor(norm.rstd) { 0.0 } else { s2 * share };
    terms.set(k, &norm, s1 * share, c2);
    trust
}
