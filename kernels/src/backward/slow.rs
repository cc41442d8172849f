//! The slow path: rows whose statistics or gradients leave the range in which the loops are trusted, and rows with a number that is
//! not finite.
//!
//! It computes in f64, with exponents apart, so that neither products nor sums leave the range. Sums are compensated. It is
//! compiled once for all tiers, which makes the bits the same.

use super::{BLOCK_ROWS, Job, power_of_two};
use crate::Isa;
use crate::forward::RowNorm;
use crate::lanes::{Element, Float, Source, sqrt_f64};
use crate::moments::{Moments, RowMoments};
use crate::rescue::sum;

/// Whether all of row `r` of dy is zero.
#[cold]
#[inline(never)]
pub(super) fn is_zero<T: Element>(job: &Job<'_, T>, r: usize) -> bool {
    // SAFETY: callers count the rows; rows have cols elements.
    let dy = |i| unsafe { job.rows.dy(job.rows.place(r)).get(i) }.to_computed();
    (0..job.rows.cols()).all(|i| dy(i) == T::Float::default())
}

/// The moments of a row, of the slow path if need be, and what the root is taken of at their scale.
fn moments<T: Element>(job: &Job<'_, T>, r: usize) -> (Moments, f64) {
    let taken = |scale| RowMoments { x: job.rows.x_row(r), centered: job.centered, scale }.run_on(Isa::SCALAR);
    let mut m = taken(None);
    if let Some(scale) = m.rescale::<T>(job.eps) {
        m = taken(Some(scale));
    }
    (m, m.m2 / m.count + job.eps * m.scale * m.scale)
}

/// The statistics that forward keeps of row `r`, whose fast moments are not trusted.
#[cold]
#[inline(never)]
pub(super) fn statistics<T: Element>(job: &Job<'_, T>, r: usize) -> RowNorm<T::Float> {
    let (moments, v) = moments(job, r);
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
    /// That of row `r`. All zero if all elements are equal and eps is 0: xhat is 0 then, and dx is defined to be.
    fn new<T: Element>(job: &Job<'_, T>, r: usize) -> Self {
        let (m, v) = moments(job, r);
        let mean = m.origin + m.offset;
        let rstd = if v == 0.0 { 0.0 } else { 1.0 / sqrt_f64(pulp::Scalar, v) };
        Self { scale: m.scale, mean, mean_lo: (m.origin - mean) + m.offset, rstd }
    }

    fn xhat(&self, x: f64) -> f64 {
        ((x * self.scale - self.mean) - self.mean_lo) * self.rstd
    }

    /// The same, also where it is out of range, as long as no mean is.
    fn wide_xhat(&self, x: f64) -> Wide {
        let d = if self.mean == 0.0 && self.mean_lo == 0.0 {
            Wide::new(x).times(Wide::new(self.scale))
        } else {
            Wide::new((x * self.scale - self.mean) - self.mean_lo)
        };
        d.times(Wide::new(self.rstd))
    }
}

/// m * 2^exponent, with an m near 1, or 0.
#[derive(Clone, Copy)]
struct Wide {
    m: f64,
    exponent: i64,
}

impl Wide {
    fn new(v: f64) -> Self {
        let exponent = exponent(v);
        Self { m: times_power_of_two(v, -exponent), exponent }
    }

    fn times(self, other: Self) -> Self {
        Self { m: self.m * other.m, exponent: self.exponent + other.exponent }
    }

    /// Divided by 2^exponent.
    fn at(self, exponent: i64) -> f64 {
        times_power_of_two(self.m, self.exponent - exponent)
    }

    /// The largest exponent of those that are not 0.
    fn largest(all: impl Iterator<Item = Self>) -> i64 {
        all.filter(|v| v.m != 0.0).map(|v| v.exponent).max().unwrap_or(0)
    }

    /// The mean of `n` of them.
    fn mean(n: usize, of: impl Fn(usize) -> Self) -> Self {
        let largest = Self::largest((0..n).map(&of));
        let mean = Self::new(sum((0..n).map(|i| of(i).at(largest))) / n as f64);
        Self { exponent: mean.exponent + largest, ..mean }
    }

    fn minus(self, other: Self) -> Self {
        let largest = Self::largest([self, other].into_iter());
        let v = Self::new(self.at(largest) - other.at(largest));
        Self { exponent: v.exponent + largest, ..v }
    }
}

/// Adds the `n` rows from `r` on, one or two, as a block is added, to the sums of dgamma and dbeta, if they are wanted. These are kept in pairs of registers
/// of `lanes` elements.
#[cold]
#[inline(never)]
pub(super) fn add_rows<T: Element>(job: &Job<'_, T>, r: usize, n: usize, leaf: &mut [T::Float], lanes: usize) {
    if !job.sums {
        return;
    }
    let cols = job.rows.cols();
    let norms: [Norm; BLOCK_ROWS] = core::array::from_fn(|k| Norm::new(job, r + k % n));
    let (dgamma, dbeta) = leaf.split_at_mut(cols.next_multiple_of(T::STEP));
    for i in 0..cols {
        let (mut to_dgamma, mut to_dbeta) = (-0.0, -T::Float::default());
        for (k, norm) in norms.iter().enumerate().take(n) {
            // SAFETY: i < cols, and r + k < rows.
            let (dy, x) = unsafe {
                let at = job.rows.place(r + k);
                (job.rows.dy(at).get(i).to_computed(), job.rows.x(at).get(i).to_computed())
            };
            to_dgamma += Into::<f64>::into(dy) * norm.xhat(x.into());
            to_dbeta = to_dbeta + dy;
        }
        let at = place::<T>(i, lanes);
        dgamma[at] = dgamma[at] + T::Float::from_f64(to_dgamma);
        if job.centered {
            dbeta[at] = dbeta[at] + to_dbeta;
        }
    }
}

/// Writes dx of row `r`, if it is wanted.
#[cold]
#[inline(never)]
pub(super) fn write_dx<T: Element>(job: &mut Job<'_, T>, r: usize) {
    let at = job.rows.place(r);
    // SAFETY: r < rows.
    let (dy, x, ds, dx) = unsafe { (job.rows.dy(at), job.rows.x(at), job.rows.ds(at), job.rows.dx(at, false)) };
    let Some(dx) = dx else { return };
    let cols = job.rows.cols();
    // SAFETY: callers ask for i < cols.
    let get = |p: Source<T>, i| -> f64 { unsafe { p.get(i) }.to_computed().into() };
    let element = |i| Inputs { dy: get(dy, i), gamma: job.gamma(i).into(), x: get(x, i) };
    let done = project(cols, job.centered, &Norm::new(job, r), &element, &mut |i, projected| {
        let v = projected + ds.map_or(-0.0, |ds| get(ds, i));
        // SAFETY: i < cols.
        unsafe {
            if v.is_nan() {
                dx.set_nan(i);
            } else {
                dx.set(i, T::Float::from_f64(v));
            }
        }
    });
    if !done {
        // SAFETY: rows have cols elements.
        unsafe { dx.canonicalize(cols, |_| true) };
    }
}

/// What an element of dx takes.
struct Inputs {
    dy: f64,
    gamma: f64,
    x: f64,
}

/// Gives dx without ds, element by element, to `write`. Returns false, and writes nothing, if a number is not finite. One function for all
/// types.
fn project(
    cols: usize,
    centered: bool,
    norm: &Norm,
    element: &dyn Fn(usize) -> Inputs,
    write: &mut dyn FnMut(usize, f64),
) -> bool {
    let is_finite = |i| {
        let Inputs { dy, gamma, .. } = element(i);
        dy.is_finite() && gamma.is_finite()
    };
    if !((0..cols).all(is_finite) && norm.rstd.is_finite()) {
        return false;
    }
    let g_and_xhat = |i| {
        let Inputs { dy, gamma, x } = element(i);
        (Wide::new(dy).times(Wide::new(gamma)), norm.wide_xhat(x))
    };
    let c1 = if centered { Wide::mean(cols, |i| g_and_xhat(i).0) } else { Wide::new(0.0) };
    let c2 = Wide::mean(cols, |i| {
        let (g, xhat) = g_and_xhat(i);
        g.times(xhat)
    });
    let rstd = Wide::new(norm.rstd).times(Wide::new(norm.scale));
    for i in 0..cols {
        let (g, xhat) = g_and_xhat(i);
        write(i, g.minus(c1).minus(xhat.times(c2)).times(rstd).at(0));
    }
    true
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
