//! The slow path: rows whose squares leave the range of the type that they are computed in, rows with a NaN or an infinity,
//! constant rows with eps = 0.
//!
//! It computes in f64, which holds the square of every f32 (down to 2^-298, up to 2^256). Elements that are f64 themselves
//! are first multiplied by a power of two that brings their squares into range. Sums are compensated, so that f64 elements
//! lose no more here than on the fast path.
//!
//! Each chunk takes two passes: its mean, then the sums of the deviations from it and of their squares. Chunks are merged
//! along the tree of the fast path, so that a row in parts has the moments of the whole. It is compiled once for all tiers,
//! which makes the bits the same.

use crate::forward::Params;
use crate::lanes::{Element, Float, Source, Target};
use crate::moments::{CHUNK, Moments, Tree, no_subtrees};

/// The moments of a row of elements times `scale`, about zero unless `centered`. All NaN if an element is not finite.
///
/// # Safety
/// - x has at least `cols` elements, `cols > 0`.
#[cold]
#[inline(never)]
pub(crate) unsafe fn moments<T: Element>(x: Source<T>, cols: usize, scale: f64, centered: bool) -> Moments {
    let mut stack = no_subtrees();
    let mut tree = Tree::new(&mut stack);
    for start in (0..cols).step_by(CHUNK) {
        // SAFETY: the caller's duty.
        tree.push(unsafe { chunk(x, start..cols.min(start + CHUNK), scale, centered) });
    }
    let total = tree.total();
    // Finite elements have finite squares at this scale.
    if total.m2 < f64::INFINITY { total } else { Moments { count: total.count, scale, ..Moments::NAN } }
}

/// # Safety
/// - x has all elements of the range, which is not empty.
unsafe fn chunk<T: Element>(x: Source<T>, range: core::ops::Range<usize>, scale: f64, centered: bool) -> Moments {
    let count = range.len() as f64;
    // SAFETY: the caller's duty.
    let elements = || range.clone().map(|i| Into::<f64>::into(unsafe { x.get(i) }.to_computed()) * scale);
    let mut origin = 0.0;
    if centered {
        let first = elements().next().unwrap_or(0.0);
        origin = first + sum(elements().map(|v| v - first)) / count;
    }
    let m2 = sum(elements().map(|v| (v - origin) * (v - origin)));
    if !centered {
        return Moments { count, origin, offset: 0.0, m2, scale };
    }
    let s = sum(elements().map(|v| v - origin));
    let offset = s / count;
    let m2 = m2 - s * offset;
    // NaN stays NaN.
    Moments { count, origin, offset, m2: if m2 < 0.0 { 0.0 } else { m2 }, scale }
}

/// The sum, with the errors of its additions (Knuth's `TwoSum`) added at the end.
pub(crate) fn sum(terms: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut errors) = (0.0, 0.0);
    for term in terms {
        let next: f64 = sum + term;
        let part = next - sum;
        errors += (sum - (next - part)) + (term - part);
        sum = next;
    }
    sum + errors
}

/// y = (x - mean) * rstd * (gamma + offset) + beta in f64, rounded once to what the row is computed in and once to y; any NaN
/// is the canonical one. mean and rstd are those of x times the scale of the moments.
///
/// # Safety
/// - x and y have at least `cols` elements; they are the same or apart.
#[cold]
#[inline(never)]
pub(crate) unsafe fn normalize<T: Element>(
    x: Source<T>,
    y: Target<T>,
    cols: usize,
    moments: &Moments,
    rstd: f64,
    params: &Params<'_, T>,
) {
    let mean = moments.origin + moments.offset;
    let mean_lo = (moments.origin - mean) + moments.offset;
    for i in 0..cols {
        // SAFETY: i < cols.
        let x = Into::<f64>::into(unsafe { x.get(i) }.to_computed()) * moments.scale;
        let (gamma, beta): (f64, f64) = (params.gamma(i).into(), params.beta(i).into());
        let v = T::Float::from_f64(((x - mean) - mean_lo) * rstd * gamma + beta);
        // SAFETY: i < cols.
        unsafe {
            if v.into().is_nan() {
                y.set_nan(i);
            } else {
                y.set(i, v);
            }
        }
    }
}
