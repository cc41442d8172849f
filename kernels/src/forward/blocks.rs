//! Short rows, eight at a time.

use super::elements::{Norm, RowNorm, all_finite, normalize, normalize_row};
use super::{Forward, TRUSTED, rescue_row};
use crate::lanes::{FOLD_ROWS, Kernel, Lanes};
use crate::moments::{self, ChunkLen, STEP, Sums};

/// The first `rows` rows, a positive multiple of [`FOLD_ROWS`], in blocks. The moments of a block are taken before the
/// block ahead of it is normalized, so that the chain between the two has something to hide behind. Returns whether a
/// row of y is known to be finite.
pub(super) struct Blocks<'j, 'a, const CENTERED: bool, const AFFINE: bool, const STREAM: bool, const ADD: bool> {
    pub(super) job: &'j mut Forward<'a, CENTERED>,
    pub(super) rows: usize,
}

impl<const CENTERED: bool, const AFFINE: bool, const STREAM: bool, const ADD: bool> Kernel
    for Blocks<'_, '_, CENTERED, AFFINE, STREAM, ADD>
{
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { job, rows } = self;
        let mut norm = block_moments::<S, CENTERED, ADD>(simd, job, 0);
        for r in (FOLD_ROWS..rows).step_by(FOLD_ROWS) {
            let next = block_moments::<S, CENTERED, ADD>(simd, job, r);
            block_normalize::<S, CENTERED, AFFINE, STREAM>(simd, job, r - FOLD_ROWS, &norm);
            norm = next;
        }
        block_normalize::<S, CENTERED, AFFINE, STREAM>(simd, job, rows - FOLD_ROWS, &norm);
        if STREAM {
            simd.fence();
        }
        // SAFETY: there are rows.
        !AFFINE || all_finite(unsafe { job.rows.y_row(rows - 1) })
    }
}

/// The registers of f64 that a block takes on the narrowest tier.
const MAX_F64_REGS: usize = FOLD_ROWS / 2;

/// What normalizing the rows of a block takes.
#[derive(Clone, Copy)]
struct BlockNorm {
    mean: [f32; FOLD_ROWS],
    mean_lo: [f32; FOLD_ROWS],
    rstd: [f32; FOLD_ROWS],
    /// The rows that the slow path has done already.
    rescued: [bool; FOLD_ROWS],
    any_rescued: bool,
}

impl BlockNorm {
    #[inline(always)]
    fn row(&self, k: usize) -> RowNorm {
        RowNorm { mean: self.mean[k], mean_lo: self.mean_lo[k], rstd: self.rstd[k] }
    }
}

/// Takes the moments of the rows `r..r + FOLD_ROWS`.
#[inline(always)]
fn block_moments<S: Lanes, const CENTERED: bool, const ADD: bool>(
    simd: S,
    job: &mut Forward<'_, CENTERED>,
    r: usize,
) -> BlockNorm {
    let cols = job.rows.cols();
    let len = ChunkLen::new(cols);
    let zero = simd.splat_f32s(0.0);
    // SAFETY: the caller's rows are there.
    let mut x = [unsafe { job.input::<ADD>(r) }; FOLD_ROWS];
    let mut samples = [zero; FOLD_ROWS];
    for k in 0..FOLD_ROWS {
        // SAFETY: the caller's rows are there, and have cols > 0 elements.
        unsafe {
            x[k] = job.input::<ADD>(r + k);
            if CENTERED {
                samples[k] = moments::sample(simd, x[k], cols);
            }
        }
    }
    let mut c = [0.0; FOLD_ROWS];
    if CENTERED {
        let samples = simd.fold_rows(&samples);
        for k in 0..FOLD_ROWS {
            // SAFETY: rows have cols > 0 elements.
            c[k] = moments::shift(unsafe { x[k].peek_first() }, samples[k], len);
        }
    }
    let (mut s, mut q) = ([zero; FOLD_ROWS], [zero; FOLD_ROWS]);
    for k in 0..FOLD_ROWS {
        let mut sums = Sums::<S, CENTERED>::new(simd, c[k]);
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
    settle_block(simd, job, r, &c, &simd.fold_rows(&s), &simd.fold_rows(&q))
}

/// What `moments::finish` and `settle` do, for eight rows at once.
#[inline(always)]
fn settle_block<S: Lanes, const CENTERED: bool>(
    simd: S,
    job: &mut Forward<'_, CENTERED>,
    r: usize,
    c: &[f32; FOLD_ROWS],
    s: &[f32; FOLD_ROWS],
    q: &[f32; FOLD_ROWS],
) -> BlockNorm {
    let (c, s, q) = (simd.widen(c), simd.widen(s), simd.widen(q));
    let c: &[S::f64s] = bytemuck::cast_slice(&c);
    let (s, q): (&[S::f64s], &[S::f64s]) = (bytemuck::cast_slice(&s), bytemuck::cast_slice(&q));
    let inv_cols = simd.splat_f64s(1.0 / job.rows.cols() as f64);
    let (zero, one, eps) = (simd.splat_f64s(0.0), simd.splat_f64s(1.0), simd.splat_f64s(job.eps));
    let (mut mean, mut v, mut rstd) = ([0.0; FOLD_ROWS], [0.0; FOLD_ROWS], [0.0; FOLD_ROWS]);
    let mut offsets = [zero; MAX_F64_REGS];
    for j in 0..FOLD_ROWS / S::F64_LANES {
        let offset = simd.mul_f64s(s[j], inv_cols);
        let m2 = simd.sub_f64s(q[j], simd.mul_f64s(s[j], offset));
        let m2 = simd.select_f64s(simd.less_than_f64s(m2, zero), zero, m2);
        let v_j = simd.add_f64s(simd.mul_f64s(m2, inv_cols), eps);
        offsets[j] = offset;
        bytemuck::cast_slice_mut::<f64, S::f64s>(&mut mean)[j] = simd.add_f64s(c[j], offset);
        bytemuck::cast_slice_mut::<f64, S::f64s>(&mut v)[j] = v_j;
        bytemuck::cast_slice_mut::<f64, S::f64s>(&mut rstd)[j] = simd.div_f64s(one, simd.sqrt_f64s(v_j));
    }
    let hi = simd.narrow(&mean);
    let hi_wide = simd.widen(&hi);
    let mut lo = [0.0; FOLD_ROWS];
    for j in 0..FOLD_ROWS / S::F64_LANES {
        let rest = simd.sub_f64s(c[j], bytemuck::cast_slice::<f64, S::f64s>(&hi_wide)[j]);
        bytemuck::cast_slice_mut::<f64, S::f64s>(&mut lo)[j] = simd.add_f64s(rest, offsets[j]);
    }
    let mut norm = BlockNorm {
        mean: hi,
        mean_lo: simd.narrow(&lo),
        rstd: simd.narrow(&rstd),
        rescued: [false; FOLD_ROWS],
        any_rescued: false,
    };
    job.stats.set_block(r, &norm.mean, &norm.mean_lo, &norm.rstd);
    for k in 0..FOLD_ROWS {
        norm.rescued[k] = !TRUSTED.contains(&v[k]);
        norm.any_rescued |= norm.rescued[k];
    }
    if norm.any_rescued {
        for k in 0..FOLD_ROWS {
            if norm.rescued[k] {
                rescue_row(job, r + k);
            }
        }
    }
    norm
}

#[inline(always)]
fn block_normalize<S: Lanes, const CENTERED: bool, const AFFINE: bool, const STREAM: bool>(
    simd: S,
    job: &mut Forward<'_, CENTERED>,
    r: usize,
    norm: &BlockNorm,
) {
    let cols = job.rows.cols();
    let affine = job.affine();
    if STREAM || norm.any_rescued {
        for k in 0..FOLD_ROWS {
            if !norm.rescued[k] {
                // SAFETY: the caller's rows are there and have cols elements; so have gamma and beta, checked by the
                // constructor.
                unsafe {
                    let (x, y) = (job.rows.source(r + k), job.rows.target(r + k));
                    normalize_row::<S, CENTERED, AFFINE, STREAM>(simd, x, y, &norm.row(k), affine, cols);
                }
            }
        }
        return;
    }
    for k in (0..FOLD_ROWS).step_by(2) {
        // SAFETY: as above.
        unsafe {
            let x = [job.rows.source(r + k), job.rows.source(r + k + 1)];
            let y = [job.rows.target(r + k), job.rows.target(r + k + 1)];
            let norm = [Norm::new(simd, &norm.row(k)), Norm::new(simd, &norm.row(k + 1))];
            normalize::<S, CENTERED, AFFINE, STREAM, 2>(simd, x, y, &norm, affine, 0, cols);
        }
    }
}
