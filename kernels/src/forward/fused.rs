//! Rows fused with their neighbours: one loop takes the moments of a row while it normalizes an earlier one.

use super::affines::Affines;
use super::elements::{Norm, normalize, normalize_head};
use super::{Forward, settle};
use crate::lanes::{Affine, Element, Float, Input, Kernel, Lanes, Packed, Source, Target, regs, way};
use crate::moments::{self, CHUNK, ChunkLen, Moments, Sums, Tree, no_subtrees};

/// A row on its way: its moments are settled, `at` elements of it are normalized.
struct Pending<S: Lanes, T: Element> {
    x: Source<T>,
    y: Target<T>,
    norm: Norm<S, T::Float>,
    affine: Affine<T>,
    at: usize,
}

/// The rows from `first` on, of which there is one at least. Rows of one chunk are normalized two rows late, as long as an L1
/// cache has room for three of them, gamma and beta, and others one row late. Returns whether a row of y is known to be finite.
pub(super) struct Fused<'j, 'a, T: Element, const CENTERED: bool, const ADD: bool, const ONE_CHUNK: bool> {
    pub(super) job: &'j mut Forward<'a, T, CENTERED>,
    pub(super) first: usize,
}

impl<T: Element, const CENTERED: bool, const ADD: bool, const ONE_CHUNK: bool> Kernel
    for Fused<'_, '_, T, CENTERED, ADD, ONE_CHUNK>
{
    type Output = bool;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> bool {
        let Self { job, first } = self;
        let late = ONE_CHUNK && size_of::<T>() <= size_of::<f32>();
        let delay = if late { 2 } else { 1 };
        let (rows, cols) = (job.rows.rows(), job.rows.cols());
        let inv_cols = 1.0 / cols as f64;
        let (inner, last) = ChunkLen::of_row(cols);
        let mut packed = Packed::NOTHING;
        let mut affines = Affines::new(job, rows - first);
        let mut queue = [None; 2];
        let mut seen = T::Float::splat(simd, T::Float::NAN);
        for t in first..rows + delay {
            let mut pending = match queue[0] {
                // SAFETY: row t - delay exists, and so do its elements.
                Some(norm) => unsafe {
                    let r = t - delay;
                    let (x, y) = (job.rows.source(r), job.target(r));
                    let affine = affines.of_row::<S, CENTERED>(simd, job, r, &mut packed);
                    let norm = Norm::new(simd, &norm);
                    let (at, head) = normalize_head::<S, T, CENTERED>(simd, x, y, &norm, &affine, cols);
                    seen = head;
                    Some(Pending { x, y, norm, affine, at })
                },
                None => None,
            };
            let mut moments = None;
            if t < rows {
                // SAFETY: row t exists.
                let x = unsafe { job.input::<ADD>(t) };
                moments = Some(if ONE_CHUNK {
                    // SAFETY: the row is one chunk; the pending row has cols elements.
                    unsafe { fused_chunk::<S, T, CENTERED, ADD>(simd, x, last, &mut pending, cols) }
                } else {
                    let mut stack = no_subtrees();
                    let mut tree = Tree::new(&mut stack);
                    let mut at = 0;
                    while at < cols {
                        let len = if cols - at > CHUNK { inner } else { last };
                        // SAFETY: at + len.len <= cols; the pending row has cols elements.
                        tree.push(unsafe {
                            fused_chunk::<S, T, CENTERED, ADD>(simd, x.after(at), len, &mut pending, cols)
                        });
                        at += len.len;
                    }
                    tree.total()
                });
            }
            // Of the last row, which is fused with no other, the probes see every element.
            seen = match pending {
                // SAFETY: the pending row has cols elements, of which p.at are done.
                Some(p) => unsafe {
                    let (x, y, norm) = ([p.x], [p.y], [p.norm]);
                    let rest = normalize::<S, T, CENTERED, 1>(simd, x, y, &norm, &p.affine, p.at, cols);
                    T::Float::plus(simd, seen, rest)
                },
                None => T::Float::splat(simd, T::Float::NAN),
            };
            // Only now, since a call to the slow path would have everything that is pending put aside.
            let norm = match moments {
                Some(moments) => settle(simd, job, t, &moments, inv_cols),
                None => None,
            };
            queue = if late { [queue[1], norm] } else { [norm, None] };
        }
        if job.streaming {
            simd.fence();
        }
        !T::Float::any_nan(simd, seen)
    }
}

/// The moments of a chunk, while the pending row is normalized step by step.
///
/// # Safety
/// - x has at least `len.len` elements, the pending row `cols`.
#[inline(always)]
unsafe fn fused_chunk<S: Lanes, T: Element, const CENTERED: bool, const ADD: bool>(
    simd: S,
    x: Input<T, ADD>,
    len: ChunkLen<T>,
    pending: &mut Option<Pending<S, T>>,
    cols: usize,
) -> Moments {
    // SAFETY: the caller's duty.
    let c = unsafe { moments::chunk_shift::<S, T, CENTERED, ADD>(simd, x, len) };
    let mut sums = Sums::<S, T, CENTERED>::new(simd, c);
    let steps = len.len / T::STEP;
    let mut i = 0;
    if let Some(p) = pending {
        let both = steps.min((cols - p.at) / T::STEP) * T::STEP;
        // SAFETY: so many steps are left of the chunk and of the pending row, which are different rows.
        unsafe {
            match p.affine.way::<CENTERED>(p.y) {
                way::PLAIN if !T::ROUNDS => {
                    both_steps::<S, T, CENTERED, { way::PLAIN }, ADD>(simd, &mut sums, x, p, both);
                }
                way::AFFINE => both_steps::<S, T, CENTERED, { way::AFFINE }, ADD>(simd, &mut sums, x, p, both),
                way::OFFSET => both_steps::<S, T, CENTERED, { way::OFFSET }, ADD>(simd, &mut sums, x, p, both),
                _ => both_steps::<S, T, CENTERED, { way::REST }, ADD>(simd, &mut sums, x, p, both),
            }
        }
        p.at += both;
        i = both;
    }
    while i < steps * T::STEP {
        // SAFETY: a step is left.
        unsafe { sums.step(simd, x, i) };
        i += T::STEP;
    }
    if i < len.len {
        // SAFETY: len.len - i elements are left.
        unsafe { sums.step_tail(simd, x, i, len.len - i) };
    }
    sums.finish(simd, c, len)
}

/// The first `len` elements of a chunk, a multiple of a step, and as many of the pending row.
///
/// # Safety
/// - x has at least `len` elements, and so many are left of the pending row.
#[inline(always)]
unsafe fn both_steps<S: Lanes, T: Element, const CENTERED: bool, const WAY: u8, const ADD: bool>(
    simd: S,
    sums: &mut Sums<S, T, CENTERED>,
    x: Input<T, ADD>,
    pending: &Pending<S, T>,
    len: usize,
) {
    let &Pending { x: px, y: py, norm, affine, at } = pending;
    let mut taken = *sums;
    let mut i = 0;
    while i < len {
        if WAY == way::REST {
            // What is streamed comes from memory, and hardware that looks ahead stops at the end of each page.
            x.prefetch_next_row(simd, i);
        }
        // SAFETY: the loop's condition and the caller's duty.
        unsafe {
            taken.step(simd, x, i);
            for k in 0..regs::<S>() {
                let j = k * 2 * T::Float::lanes::<S>();
                let v = norm.apply_pair::<CENTERED, WAY>(
                    simd,
                    px.load(simd, at + i + j),
                    affine.load::<S, CENTERED, WAY>(simd, at + i, j),
                );
                py.store::<S, WAY>(simd, at + i + j, v);
            }
        }
        i += T::STEP;
    }
    *sums = taken;
}
