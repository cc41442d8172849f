//! The slow path: rows whose squares leave the range of f32, rows with a NaN or an infinity, constant rows with
//! eps = 0.
//!
//! f64 holds the square of every f32 (down to 2^-298, up to 2^256) and the sums of any row that fits into memory, so no
//! scaling is needed. Two passes in plain f64 arithmetic: mean from the deviations from the first element, then
//! the squares of the deviations from the mean. The sums go to eight lanes, element i to lane i mod 8, folded by
//! halves. It is compiled once for all tiers, which makes the bits the same.

use crate::lanes::{Source, Target};
use crate::moments::Moments;

const LANES: usize = 8;

/// The moments of a row, about zero unless `CENTERED`, or `None` if an element is not finite.
///
/// # Safety
/// - x has at least `cols` elements, `cols > 0`.
#[cold]
#[inline(never)]
pub(crate) unsafe fn moments<const CENTERED: bool>(x: Source, cols: usize) -> Option<Moments> {
    let count = cols as f64;
    let (mut origin, mut offset) = (0.0, 0.0);
    if CENTERED {
        // SAFETY: the caller's duty.
        unsafe {
            origin = f64::from(x.array::<1>(0)[0]);
            offset = sum(x, cols, |v| v - origin) / count;
        }
    }
    // SAFETY: the caller's duty.
    let m2 = unsafe { sum(x, cols, |v| (v - origin - offset) * (v - origin - offset)) };
    // Finite elements have squares below 2^258.
    (m2 < f64::INFINITY).then_some(Moments { count, origin, offset, m2 })
}

/// The sum of `f` over the elements.
///
/// # Safety
/// - x has at least `cols` elements.
#[inline(always)]
unsafe fn sum(x: Source, cols: usize, f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let mut i = 0;
    while i + LANES <= cols {
        // SAFETY: the loop's condition.
        let x = unsafe { x.array::<LANES>(i) };
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane += f(f64::from(x));
        }
        i += LANES;
    }
    for (lane, i) in lanes.iter_mut().zip(i..cols) {
        // SAFETY: i < cols.
        *lane += f(f64::from(unsafe { x.array::<1>(i) }[0]));
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// y = (x - mean) * rstd * (gamma + offset) + beta in f64, rounded once; any NaN is the canonical one.
///
/// # Safety
/// - x and y have at least `cols` elements; they are the same or apart.
#[cold]
#[inline(never)]
pub(crate) unsafe fn normalize(
    x: Source,
    y: Target,
    cols: usize,
    moments: &Moments,
    rstd: f64,
    (gamma, gamma_offset): (Option<&[f32]>, f32),
    beta: Option<&[f32]>,
) {
    for i in 0..cols {
        // SAFETY: i < cols.
        let x = f64::from(unsafe { x.array::<1>(i) }[0]);
        let gamma = gamma.map_or(1.0, |g| f64::from(g[i] + gamma_offset));
        let beta = beta.map_or(-0.0, |b| f64::from(b[i]));
        let v = ((x - moments.origin - moments.offset) * rstd * gamma + beta) as f32;
        // SAFETY: i < cols.
        unsafe { y.set(i, if v.is_nan() { f32::NAN } else { v }) };
    }
}
