//! Short rows, eight at a time.

use core::marker::PhantomData;

use super::epilogue::{Epilogue, Epilogues};
use super::job::{Job, rescue_row};
use super::normalize::{KnownRow, NormRegs, normalize};
use crate::element::Storage;
use crate::mean::{Center, Mean};
use crate::rows::way;
use crate::simd::{FOLD_ROWS, Float, Kernel, Lanes, rolled};
use crate::stats::sums::{self, ChunkLen, Sums};
use crate::stats::{Root, RowNorm};

/// Normalizes the first `rows` rows, a positive multiple of [`FOLD_ROWS`], in blocks. It takes the moments of a block
/// before it normalizes the previous block, so that the chain from the moments to rstd hides behind that work. Returns
/// whether all that is written for some row is known to be finite.
pub(super) struct Blocks<'j, 'a, T: Storage, M: Center, E> {
    pub(super) job: &'j mut Job<'a, T, E>,
    pub(super) rows: usize,
    pub(super) center: PhantomData<M>,
}

impl<T: Storage, M: Center, E: Epilogues<T>> Kernel for Blocks<'_, '_, T, M, E> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { job, rows, .. } = self;
        let room = E::room();
        let mut epilogues = job.successive(0..rows, &room);
        let mut nan_probe = T::Float::splat(simd, T::Float::NAN);
        let mut norm = BlockNorm::NOTHING;
        let mut r = 0;
        while r < rows + FOLD_ROWS {
            let mut next = BlockNorm::NOTHING;
            if r < rows {
                block_moments::<S, T, M, E>(simd, job, r, &mut next);
            }
            if r >= FOLD_ROWS {
                nan_probe = block_normalize::<S, T, M, E>(simd, job, r - FOLD_ROWS, &norm, &mut epilogues);
            }
            norm = next;
            r += FOLD_ROWS;
        }
        !T::Float::any_nan(simd, nan_probe)
    }
}

/// The ways of two rows at once.
const WAYS: u8 = way::ONCE | 1 << way::STEPS;

/// The number of rows by which strided rows are prefetched ahead. Hardware prefetchers follow lines, not rows.
const AHEAD: usize = 2 * FOLD_ROWS;

/// The registers of f64 that a block takes on the narrowest tier.
const MAX_F64_REGS: usize = FOLD_ROWS / 2;

/// The statistics of the rows of a block.
#[derive(Clone, Copy)]
struct BlockNorm<F> {
    mean: [F; FOLD_ROWS],
    mean_lo: [F; FOLD_ROWS],
    rstd: [F; FOLD_ROWS],
    /// Whether the slow path has normalized the row already.
    rescued: [bool; FOLD_ROWS],
    any_rescued: bool,
}

/// Where the statistics of the rows of a block are written.
pub(super) struct BlockNormMut<'n, F> {
    pub(super) mean: &'n mut [F; FOLD_ROWS],
    pub(super) mean_lo: &'n mut [F; FOLD_ROWS],
    pub(super) rstd: &'n mut [F; FOLD_ROWS],
    /// Whether the slow path has normalized the row.
    pub(super) rescued: &'n mut [bool; FOLD_ROWS],
}

impl<F: Float> BlockNorm<F> {
    const NOTHING: Self = Self {
        mean: [F::NAN; FOLD_ROWS],
        mean_lo: [F::NAN; FOLD_ROWS],
        rstd: [F::NAN; FOLD_ROWS],
        rescued: [false; FOLD_ROWS],
        any_rescued: false,
    };

    #[inline(always)]
    fn as_mut(&mut self) -> BlockNormMut<'_, F> {
        let Self { mean, mean_lo, rstd, rescued, .. } = self;
        BlockNormMut { mean, mean_lo, rstd, rescued }
    }

    #[inline(always)]
    fn row(&self, k: usize) -> RowNorm<F> {
        RowNorm { mean: self.mean[k], mean_lo: self.mean_lo[k], rstd: self.rstd[k] }
    }
}

/// The statistics of the rows `r..r + FOLD_ROWS`, made from their moments.
#[inline(always)]
fn block_moments<S: Lanes, T: Storage, M: Center, E: Epilogues<T>>(
    simd: S,
    job: &mut Job<'_, T, E>,
    r: usize,
    norm: &mut BlockNorm<T::Float>,
) {
    let cols = job.rows.cols();
    let len = ChunkLen::<T>::new(cols);
    let mean = Mean::<M>::new(job.centered).on::<S>();
    let zero = T::Float::splat(simd, T::Float::default());
    // SAFETY: the caller's rows are there.
    unsafe { job.input(r).take_sums(simd, FOLD_ROWS, 0, cols) };
    let mut c = [T::Float::default(); FOLD_ROWS];
    if mean.is_taken::<S>() {
        let mut samples = [zero; FOLD_ROWS];
        for (k, samples) in samples.iter_mut().enumerate().take(rolled(FOLD_ROWS)) {
            // SAFETY: the caller's rows are there, and have cols > 0 elements.
            *samples = unsafe { sums::sample(simd, job.rows.source(r + k), cols) };
        }
        let samples = T::Float::fold_rows(simd, &samples);
        for k in 0..FOLD_ROWS {
            // SAFETY: rows have cols > 0 elements.
            let first = unsafe { job.rows.source(r + k).get_alone(0) };
            c[k] = sums::shift(first.to_computed(), samples[k], len);
        }
    }
    let (mut s, mut q) = ([zero; FOLD_ROWS], [zero; FOLD_ROWS]);
    for (k, (s, q)) in s.iter_mut().zip(&mut q).enumerate().take(rolled(FOLD_ROWS)) {
        job.rows.prefetch_strided(simd, r + k + AHEAD);
        // SAFETY: the caller's rows are there.
        let x = unsafe { job.rows.source(r + k) };
        let mut sums = Sums::<S, T, M>::new(simd, c[k]);
        // SAFETY: x has cols elements.
        unsafe { sums.take(simd, x.into(), 0, cols) };
        (*s, *q) = sums.halve(simd);
    }
    let s = if mean.is_taken::<S>() { T::Float::fold_rows(simd, &s) } else { c };
    let q = T::Float::fold_rows(simd, &q);
    let (mut v, mut wide_mean) = ([0.0; FOLD_ROWS], [0.0; FOLD_ROWS]);
    let root = (job.root, cols);
    let trusted = settle_block(simd, [&c, &s, &q], mean.is_taken::<S>(), root, norm.as_mut(), &mut v, &mut wide_mean);
    job.stats.set_block(r, &norm.mean, &norm.mean_lo, &norm.rstd);
    if !trusted {
        norm.any_rescued = rescue_block(job, r, v, wide_mean, norm.as_mut());
    }
}

/// Makes the statistics of eight rows of `cols` columns from their shifts, S and Q, as `Sums::finish` and `settle` do
/// for one row. Also writes v, the number under each root, and the mean of each row. Returns whether all rows can be
/// trusted.
#[inline(always)]
pub(super) fn settle_block<S: Lanes, F: Float>(
    simd: S,
    [c, s, q]: [&[F; FOLD_ROWS]; 3],
    centered: bool,
    (root, cols): (Root, usize),
    norm: BlockNormMut<'_, F>,
    v: &mut [f64; FOLD_ROWS],
    wide_mean: &mut [f64; FOLD_ROWS],
) -> bool {
    let (c, s, q) = (F::widen(simd, c), F::widen(simd, s), F::widen(simd, q));
    let c: &[S::f64s] = bytemuck::cast_slice(&c);
    let (s, q): (&[S::f64s], &[S::f64s]) = (bytemuck::cast_slice(&s), bytemuck::cast_slice(&q));
    let (share, eps) = (simd.splat_f64s(root.share(cols as f64)), simd.splat_f64s(root.eps));
    let (zero, one) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0));
    let (low, high) = (simd.splat_f64s(root.least::<F>()), simd.splat_f64s(*F::TRUSTED.end()));
    let mut trusted = simd.equal_f64s(zero, zero);
    let (mut mean, mut rstd) = ([0.0; FOLD_ROWS], [0.0; FOLD_ROWS]);
    let mut offsets = [zero; MAX_F64_REGS];
    for j in 0..FOLD_ROWS / S::F64_LANES {
        let mut m2 = q[j];
        if centered {
            offsets[j] = simd.mul_f64s(s[j], share);
            bytemuck::cast_slice_mut::<f64, S::f64s>(&mut mean)[j] = simd.add_f64s(c[j], offsets[j]);
            m2 = simd.sub_f64s(m2, simd.mul_f64s(s[j], offsets[j]));
            m2 = simd.select_f64s(simd.less_than_f64s(m2, zero), zero, m2);
        }
        let v_j = simd.add_f64s(simd.mul_f64s(m2, share), eps);
        let in_range = simd.and_m64s(simd.less_than_or_equal_f64s(low, v_j), simd.less_than_or_equal_f64s(v_j, high));
        trusted = simd.and_m64s(trusted, in_range);
        bytemuck::cast_slice_mut::<f64, S::f64s>(v)[j] = v_j;
        bytemuck::cast_slice_mut::<f64, S::f64s>(&mut rstd)[j] = simd.div_f64s(one, simd.sqrt_f64s(v_j));
    }
    let mut lo = [0.0; FOLD_ROWS];
    *norm.mean = F::narrow(simd, &mean);
    if centered {
        let hi_wide = F::widen(simd, norm.mean);
        for j in 0..FOLD_ROWS / S::F64_LANES {
            let rest = simd.sub_f64s(c[j], bytemuck::cast_slice::<f64, S::f64s>(&hi_wide)[j]);
            bytemuck::cast_slice_mut::<f64, S::f64s>(&mut lo)[j] = simd.add_f64s(rest, offsets[j]);
        }
    }
    *norm.mean_lo = F::narrow(simd, &lo);
    *norm.rstd = F::narrow(simd, &rstd);
    *norm.rescued = [false; FOLD_ROWS];
    *wide_mean = mean;
    simd.first_true_m64s(simd.not_m64s(trusted)) >= S::F64_LANES
}

/// Calls [`rescue_row`] for each row of the block that needs it. The arrays are values, so that the loop keeps its own
/// in registers. Returns whether the slow path has normalized some row.
#[cold]
#[inline(never)]
pub(super) fn rescue_block<T: Storage, E: Epilogues<T>>(
    job: &mut Job<'_, T, E>,
    r: usize,
    v: [f64; FOLD_ROWS],
    mean: [f64; FOLD_ROWS],
    norm: BlockNormMut<'_, T::Float>,
) -> bool {
    let mut any_rescued = false;
    for k in 0..rolled(FOLD_ROWS) {
        // This keeps indices in bounds, and does not tell the compiler how often to unroll the loop.
        let k = k % FOLD_ROWS;
        if !(job.root.least::<T::Float>()..=*T::Float::TRUSTED.end()).contains(&v[k]) {
            match rescue_row(job, r + k, v[k], mean[k]) {
                Some(RowNorm { mean, mean_lo, rstd }) => {
                    (norm.mean[k], norm.mean_lo[k], norm.rstd[k]) = (mean, mean_lo, rstd);
                }
                None => (norm.rescued[k], any_rescued) = (true, true),
            }
        }
    }
    any_rescued
}

/// Normalizes the block that starts at row `r`. Returns zeros, or a NaN in some lane if the elements written for the
/// last row are not finite, or were not checked.
#[inline(always)]
fn block_normalize<S: Lanes, T: Storage, M: Center, E: Epilogues<T>>(
    simd: S,
    job: &mut Job<'_, T, E>,
    r: usize,
    norm: &BlockNorm<T::Float>,
    epilogues: &mut E::Successive<'_>,
) -> <T::Float as Float>::Reg<S> {
    let (cols, mean) = (job.rows.cols(), Mean::<M>::new(job.centered));
    let mut nan_probe = T::Float::splat(simd, T::Float::NAN);
    if norm.any_rescued || job.epilogues.differ() {
        for k in 0..rolled(FOLD_ROWS) {
            if !norm.rescued[k] {
                // SAFETY: the caller's rows are there and have cols elements.
                unsafe {
                    let x = job.rows.source(r + k);
                    let epilogue = job.next::<S, M>(simd, epilogues, r + k);
                    KnownRow { mean, x, norm: norm.row(k), epilogue }.normalize_part(simd, 0, cols);
                }
            }
        }
        return nan_probe;
    }
    let has_steps = job.epilogues.has_steps();
    for k in (0..rolled(FOLD_ROWS)).step_by(2) {
        // SAFETY: as above.
        unsafe {
            let x = [job.rows.source(r + k), job.rows.source(r + k + 1)];
            let epilogue = job.next_two::<S, M>(simd, epilogues, r + k);
            if has_steps && !epilogue[0].is_among::<S>(WAYS) {
                let mut finite = true;
                for j in 0..2 {
                    let row = KnownRow { mean, x: x[j], norm: norm.row(k + j), epilogue: epilogue[j] };
                    finite = row.normalize_part(simd, 0, cols);
                }
                nan_probe = T::Float::splat(simd, if finite { T::Float::default() } else { T::Float::NAN });
                continue;
            }
            let norm = [NormRegs::new(simd, &norm.row(k), mean), NormRegs::new(simd, &norm.row(k + 1), mean)];
            nan_probe = normalize::<S, T, M, _, 2, WAYS>(simd, x, &epilogue, &norm, [0, 0, cols]);
        }
    }
    nan_probe
}
