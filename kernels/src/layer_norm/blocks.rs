//! Short rows, eight at a time.

use super::elements::{Affine, Norm, RowNorm, normalize, normalize_row};
use super::{LayerNorm, TRUSTED, settle};
use crate::lanes::{FOLD_ROWS, Lanes};
use crate::moments::{self, ChunkLen, Moments, STEP, Sums};

/// The first `rows` rows, a multiple of [`FOLD_ROWS`], in blocks. The moments of a block are taken before the block
/// ahead of it is normalized, so that the chain between the two has something to hide behind.
#[inline(always)]
pub(super) fn blocks<S: Lanes, const AFFINE: bool, const STREAM: bool>(simd: S, job: &mut LayerNorm<'_>, rows: usize) {
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
