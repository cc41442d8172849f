//! Rows fused with their neighbours: one loop takes the moments of a row while it normalizes an earlier one.

use super::elements::{Affine, Norm, all_finite, normalize, normalize_head};
use super::{Forward, settle};
use crate::lanes::{Input, Kernel, Lanes, Source, Target, regs};
use crate::moments::{self, CHUNK, ChunkLen, Moments, STEP, Sums, Tree};

/// A row on its way: its moments are settled, `at` elements of it are normalized.
struct Pending<S: Lanes> {
    x: Source,
    y: Target,
    norm: Norm<S>,
    at: usize,
}

/// The rows from `first` on, each normalized `DELAY` rows late. There is one at least. Returns whether a row of y is
/// known to be finite.
pub(super) struct Fused<
    'j,
    'a,
    const CENTERED: bool,
    const AFFINE: bool,
    const STREAM: bool,
    const ADD: bool,
    const DELAY: usize,
> {
    pub(super) job: &'j mut Forward<'a, CENTERED>,
    pub(super) first: usize,
}

impl<const CENTERED: bool, const AFFINE: bool, const STREAM: bool, const ADD: bool, const DELAY: usize> Kernel
    for Fused<'_, '_, CENTERED, AFFINE, STREAM, ADD, DELAY>
{
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { job, first } = self;
        fused::<S, CENTERED, AFFINE, STREAM, ADD, DELAY>(simd, job, first);
        if STREAM {
            simd.fence();
        }
        let last = job.rows.rows() - 1;
        // SAFETY: there is a last row.
        !AFFINE || all_finite(unsafe { job.rows.y_row(last) })
    }
}

#[inline(always)]
fn fused<
    S: Lanes,
    const CENTERED: bool,
    const AFFINE: bool,
    const STREAM: bool,
    const ADD: bool,
    const DELAY: usize,
>(
    simd: S,
    job: &mut Forward<'_, CENTERED>,
    first: usize,
) {
    let (rows, cols) = (job.rows.rows(), job.rows.cols());
    let inv_cols = 1.0 / cols as f64;
    let (inner, last) = ChunkLen::of_row(cols);
    let affine = job.affine();
    let mut queue = [None; DELAY];
    for t in first..rows + DELAY {
        let mut pending = match queue[0] {
            // SAFETY: row t - DELAY exists, and so do its elements.
            Some(norm) => unsafe {
                let (x, y) = (job.rows.source(t - DELAY), job.rows.target(t - DELAY));
                let norm = Norm::new(simd, &norm);
                let (at, _) = normalize_head::<S, CENTERED, AFFINE, STREAM>(simd, x, y, &norm, affine, cols);
                Some(Pending { x, y, norm, at })
            },
            None => None,
        };
        let mut norm = None;
        if t < rows {
            // SAFETY: row t exists.
            let x = unsafe { job.input::<ADD>(t) };
            let moments = if cols <= CHUNK {
                // SAFETY: the row is one chunk; the pending row has cols elements.
                unsafe { fused_chunk::<S, CENTERED, AFFINE, STREAM, ADD>(simd, x, last, &mut pending, affine, cols) }
            } else {
                let mut tree = Tree::new();
                let mut at = 0;
                while at < cols {
                    let len = if cols - at > CHUNK { inner } else { last };
                    // SAFETY: at + len.len <= cols; the pending row has cols elements.
                    tree.push(unsafe {
                        fused_chunk::<S, CENTERED, AFFINE, STREAM, ADD>(
                            simd,
                            x.after(at),
                            len,
                            &mut pending,
                            affine,
                            cols,
                        )
                    });
                    at += len.len;
                }
                tree.total()
            };
            norm = settle(simd, job, t, &moments, inv_cols);
        }
        if let Some(p) = pending {
            // SAFETY: the pending row has cols elements, of which p.at are done.
            unsafe { normalize::<S, CENTERED, AFFINE, STREAM, 1>(simd, [p.x], [p.y], &[p.norm], affine, p.at, cols) };
        }
        for k in 1..DELAY {
            queue[k - 1] = queue[k];
        }
        queue[DELAY - 1] = norm;
    }
}

/// The moments of a chunk, while the pending row is normalized step by step.
///
/// # Safety
/// - x has at least `len.len` elements, the pending row `cols`.
#[inline(always)]
unsafe fn fused_chunk<S: Lanes, const CENTERED: bool, const AFFINE: bool, const STREAM: bool, const ADD: bool>(
    simd: S,
    x: Input<ADD>,
    len: ChunkLen,
    pending: &mut Option<Pending<S>>,
    affine: Affine,
    cols: usize,
) -> Moments {
    // SAFETY: the caller's duty.
    let c = unsafe { moments::chunk_shift::<S, CENTERED, ADD>(simd, x, len) };
    let mut sums = Sums::<S, CENTERED>::new(simd, c);
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
                    let v = norm.apply::<CENTERED, AFFINE>(
                        simd,
                        px.load(simd, at + i + j),
                        affine.load::<S, CENTERED>(simd, at + i, j),
                    );
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
