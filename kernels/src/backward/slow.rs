//! The slow path: rows whose statistics or gradients leave the range in which the loops are trusted, and rows with a number that is
//! not finite.
//!
//! It computes in f64. dy, gamma and x are multiplied by powers of two that bring the largest of each near 1, so that neither
//! products nor sums leave the range, and dx is multiplied by what makes up for all three. Sums are compensated. It is compiled
//! once for all tiers, which makes the bits the same.

use super::{Backward, power_of_two};
use crate::Isa;
use crate::forward::RowNorm;
use crate::lanes::{Compiled, Element, Float, Source, sqrt_f64};
use crate::moments::{Moments, RowMoments};
use crate::rescue::sum;

/// Whether all of row `r` of dy is zero.
#[cold]
#[inline(never)]
pub(super) fn is_zero<T: Element, const CENTERED: bool>(job: &Backward<'_, T, CENTERED>, r: usize) -> bool {
    // SAFETY: callers count the rows; rows have cols elements.
    let dy = |i| unsafe { job.rows.dy(r).get(i) }.to_computed();
    (0..job.rows.cols()).all(|i| dy(i) == T::Float::default())
}

/// The moments of a row, of the slow path if need be, and what the root is taken of at their scale.
fn moments<T: Element + Compiled<CENTERED>, const CENTERED: bool>(x: &[T], eps: f64) -> (Moments, f64) {
    let taken = |scale| RowMoments { x, centered: CENTERED, scale }.run_on(Isa::SCALAR);
    let mut m = taken(None);
    if let Some(scale) = m.rescale::<T>(eps) {
        m = taken(Some(scale));
    }
    (m, m.m2 / m.count + eps * m.scale * m.scale)
}

/// The statistics that forward keeps of row `r`, whose fast moments are not trusted.
#[cold]
#[inline(never)]
pub(super) fn statistics<T: Element + Compiled<CENTERED>, const CENTERED: bool>(
    job: &Backward<'_, T, CENTERED>,
    r: usize,
) -> RowNorm<T::Float> {
    let (moments, v) = moments::<T, CENTERED>(job.rows.x_row(r), job.eps);
    RowNorm::rescued(&moments, v)
}

/// The mean of a row times a power of two, as a sum of two, and the reciprocal standard deviation of the row times it.
struct Norm {
    scale: f64,
    mean: f64,
    mean_lo: f64,
    rstd: f64,
}

impl Norm {
    /// All zero if all elements are equal and eps is 0: xhat is 0 then, and dx is defined to be.
    fn new<T: Element + Compiled<CENTERED>, const CENTERED: bool>(x: &[T], eps: f64) -> Self {
        let (m, v) = moments::<T, CENTERED>(x, eps);
        let mean = m.origin + m.offset;
        let rstd = if v == 0.0 { 0.0 } else { 1.0 / sqrt_f64(pulp::Scalar, v) };
        Self { scale: m.scale, mean, mean_lo: (m.origin - mean) + m.offset, rstd }
    }

    fn xhat(&self, x: f64) -> f64 {
        ((x * self.scale - self.mean) - self.mean_lo) * self.rstd
    }
}

/// Adds the `R` rows from `r` on, as a block is added, to the sums of dgamma and dbeta, if they are wanted. These are kept in pairs of registers
/// of `lanes` elements.
#[cold]
#[inline(never)]
pub(super) fn add_rows<T: Element + Compiled<CENTERED>, const CENTERED: bool, const R: usize>(
    job: &Backward<'_, T, CENTERED>,
    r: usize,
    leaf: &mut [T::Float],
    lanes: usize,
) {
    if !job.sums {
        return;
    }
    let cols = job.rows.cols();
    let norm: [Norm; R] = core::array::from_fn(|k| Norm::new::<T, CENTERED>(job.rows.x_row(r + k), job.eps));
    let (dgamma, dbeta) = leaf.split_at_mut(cols.next_multiple_of(T::STEP));
    for i in 0..cols {
        let (mut to_dgamma, mut to_dbeta) = (-0.0, -T::Float::default());
        for k in 0..R {
            // SAFETY: i < cols, and r + k < rows.
            let (dy, x) = unsafe { (job.rows.dy(r + k).get(i).to_computed(), job.rows.x(r + k).get(i).to_computed()) };
            to_dgamma += Into::<f64>::into(dy) * norm[k].xhat(x.into());
            to_dbeta = to_dbeta + dy;
        }
        let at = place::<T>(i, lanes);
        dgamma[at] = dgamma[at] + T::Float::from_f64(to_dgamma);
        if CENTERED {
            dbeta[at] = dbeta[at] + to_dbeta;
        }
    }
}

/// Writes dx of row `r`, if it is wanted.
#[cold]
#[inline(never)]
pub(super) fn write_dx<T: Element + Compiled<CENTERED>, const CENTERED: bool>(
    job: &mut Backward<'_, T, CENTERED>,
    r: usize,
) {
    // SAFETY: r < rows.
    let (dy, x, ds, dx) = unsafe { (job.rows.dy(r), job.rows.x(r), job.rows.ds(r), job.rows.dx(r, false)) };
    let Some(dx) = dx else { return };
    let cols = job.rows.cols();
    let norm = Norm::new::<T, CENTERED>(job.rows.x_row(r), job.eps);
    // SAFETY: callers ask for i < cols.
    let get = |p: Source<T>, i| -> f64 { unsafe { p.get(i) }.to_computed().into() };
    let xhat = |i| norm.xhat(get(x, i));
    let gamma = |i| -> f64 { job.gamma(i).into() };
    let largest = |of: &dyn Fn(usize) -> f64| {
        // Unlike with `f64::max`, NaN stays.
        (0..cols).map(of).fold(0.0, |largest: f64, v| if v.abs() <= largest { largest } else { v.abs() })
    };
    let (dy_size, gamma_size) = (largest(&|i| get(dy, i)), largest(&gamma));
    if !(dy_size.is_finite() && gamma_size.is_finite() && norm.rstd.is_finite()) {
        // SAFETY: rows have cols elements.
        unsafe { dx.canonicalize(cols, |_| true) };
        return;
    }
    let (dy_exponent, gamma_exponent) = (exponent(dy_size), exponent(gamma_size));
    let g = |i| times_power_of_two(get(dy, i), -dy_exponent) * times_power_of_two(gamma(i), -gamma_exponent);
    let n = cols as f64;
    let c1 = if CENTERED { sum((0..cols).map(g)) / n } else { 0.0 };
    let c2 = sum((0..cols).map(|i| g(i) * xhat(i))) / n;
    let back = dy_exponent + gamma_exponent + exponent(norm.scale);
    for i in 0..cols {
        let projected = ((g(i) - c1) - xhat(i) * c2) * norm.rstd;
        let v = times_power_of_two(projected, back) + ds.map_or(-0.0, |ds| get(ds, i));
        // SAFETY: i < cols.
        unsafe {
            if v.is_nan() {
                dx.set_nan(i);
            } else {
                dx.set(i, T::Float::from_f64(v));
            }
        }
    }
}

/// Where element `i` is in a vector that is kept in pairs of registers.
fn place<T: Element>(i: usize, lanes: usize) -> usize {
    if T::SPLITS { i - i % (2 * lanes) + i % 2 * lanes + i % (2 * lanes) / 2 } else { i }
}

/// The exponent of a finite number; 0 for 0.
fn exponent(v: f64) -> i64 {
    const SUBNORMAL: f64 = 18446744073709551616.0; // 2^64
    let (v, less) = if v.is_subnormal() { (v * SUBNORMAL, 64) } else { (v, 0) };
    if v == 0.0 { 0 } else { (v.to_bits() >> 52 & 0x7ff) as i64 - 1023 - less }
}

/// v * 2^exponent, also where the power itself is out of range.
fn times_power_of_two(mut v: f64, mut exponent: i64) -> f64 {
    while exponent != 0 {
        let step = exponent.clamp(-1000, 1000);
        v *= power_of_two(step);
        exponent -= step;
    }
    v
}
