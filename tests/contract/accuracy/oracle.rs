//! The exact results.
//!
//! The reference, in f64, judges results that are computed in f32. Is that exact enough? Sums of n terms, one after the
//! other, are off by at most n * 2^-53 of the sum of their sizes: 1e-11 at the longest rows here, against u = 6e-8. But
//! the mean itself, rounded to f64, is off by 2^-54 of its size, which is more than u of a deviation where the row is
//! constant but for a last bit. So the row is counted from its first element, a difference that f64 holds exactly
//! wherever that matters, and the reference sees that row: shifted rows have the same xhat. RMSNorm, which has no mean,
//! needs none of this.
//!
//! f64 is judged by the same formulas in double-double arithmetic, with 106 bits, also counted from the first element.
//! Rows of extreme range are brought near 1 first, by a power of two: that is exact.

use lanenorm::kernels::reference;
use twofloat::TwoFloat;

use super::u;
use crate::support::{Output, Problem, Types, Value};

/// The exact results and the errors of one row.
pub(crate) struct Verdict {
    /// The exact y, rounded to f64.
    pub(crate) y: Vec<f64>,
    /// |y - exact|.
    pub(crate) errors: Vec<f64>,
    pub(crate) xhat: Vec<f64>,
    /// The error of the mean in standard deviations, less what keeping the mean in two numbers may cost: u^2 of it, or
    /// the last bit of a denormal. 0 without a mean.
    pub(crate) mean_error: f64,
    pub(crate) rstd: f64,
    /// The relative error of rstd.
    pub(crate) rstd_error: f64,
}

/// The factor of xhat: gamma + offset.
pub(crate) fn factor<K: Types>(problem: &Problem<K>, i: usize) -> K::F {
    let offset = K::F::of(problem.operation.offset().into());
    problem.gamma.as_ref().map_or(K::F::of(1.0), |g| K::F::of(g[i].wide()) + offset)
}

fn beta<K: Types>(problem: &Problem<K>, i: usize) -> f64 {
    problem.beta.as_ref().map_or(0.0, |b| b[i].wide())
}

/// One row.
pub(crate) fn judge<K: Types>(problem: &Problem<K>, output: &Output<K>) -> Verdict {
    if size_of::<K::F>() == size_of::<f64>() {
        by_double_double(problem, output)
    } else {
        by_reference(problem, output)
    }
}

fn by_reference<K: Types>(problem: &Problem<K>, output: &Output<K>) -> Verdict {
    let (cols, eps) = (problem.cols, problem.eps);
    let x: Vec<f32> = problem.x.iter().map(|x| x.wide() as f32).collect();
    let (mut xhat, mut mean_error, rstd) = (vec![0.0; cols], 0.0, output.rstd[0].wide());
    let exact_rstd = if problem.operation.is_layer_norm() {
        let (origin, row) = count_from_first(&x);
        let exact = reference::stats(&row, eps);
        xhat.iter_mut().zip(&row).for_each(|(xhat, &x)| *xhat = reference::xhat(x, &exact));
        let (mean, mean_lo) = (output.mean[0].wide(), output.mean_lo[0].wide());
        let error = (mean - origin + mean_lo - exact.mean).abs();
        mean_error = mean_factor::<K>(error, mean, K::F::SMALLEST.wide()) * exact.rstd.min(f64::MAX);
        exact.rstd
    } else {
        reference::rms_norm(&x, None, 0.0, eps, &mut xhat);
        reference::rms_rstd(&x, eps)
    };
    let y: Vec<f64> = (0..cols).map(|i| xhat[i] * factor(problem, i).wide() + beta(problem, i)).collect();
    let errors = output.y.iter().zip(&y).map(|(y, exact)| (y.wide() - exact).abs()).collect();
    let rstd_error = rstd_error::<K>(rstd, exact_rstd);
    Verdict { y, errors, xhat, mean_error, rstd: exact_rstd, rstd_error }
}

/// The first element, and the row less that element, if all differences are exact in f32: they are wherever the row is
/// small beside its offset. Otherwise zero and the row as it is.
pub(crate) fn count_from_first(x: &[f32]) -> (f64, Vec<f32>) {
    let shifted: Vec<f32> = x.iter().map(|v| v - x[0]).collect();
    let exact = x.iter().zip(&shifted).all(|(&v, &s)| f64::from(v) - f64::from(x[0]) == f64::from(s));
    if exact { (f64::from(x[0]), shifted) } else { (0.0, x.to_vec()) }
}

fn by_double_double<K: Types>(problem: &Problem<K>, output: &Output<K>) -> Verdict {
    let (cols, centered) = (problem.cols, problem.operation.is_layer_norm());
    let largest = problem.x.iter().map(|x| x.wide().abs()).fold(problem.eps.sqrt(), f64::max);
    let exponent = if largest == 0.0 { 0 } else { -largest.log2().floor() as i32 };
    let scaled = |v: f64| times_power_of_two(v, exponent);
    let x: Vec<f64> = problem.x.iter().map(|x| scaled(x.wide())).collect();
    let origin = if centered { x[0] } else { 0.0 };
    let n = cols as f64;
    let from_origin = || x.iter().map(|&x| TwoFloat::new_sub(x, origin));
    let zero = TwoFloat::from(0.0);
    let mean = if centered { from_origin().fold(zero, |sum, d| sum + d) / n } else { zero };
    let squares = from_origin().fold(zero, |sum, d| sum + (d - mean) * (d - mean));
    // If the row is constant, eps alone is left, and may be out of range.
    let eps = times_power_of_two(problem.eps, 2 * exponent);
    let (v, exponent) = match squares / n {
        squares if squares == 0.0 && eps < f64::MIN_POSITIVE => (TwoFloat::from(problem.eps), 0),
        squares => (squares + eps, exponent),
    };
    let rstd = if v == 0.0 { TwoFloat::from(f64::INFINITY) } else { 1.0 / v.sqrt() };

    let xhat: Vec<TwoFloat> = from_origin().map(|d| if d == mean { zero } else { (d - mean) * rstd }).collect();
    let y: Vec<TwoFloat> = (0..cols).map(|i| xhat[i] * factor(problem, i).wide() + beta(problem, i)).collect();
    let errors = output.y.iter().zip(&y).map(|(y, exact)| f64::from((*exact - y.wide()).abs())).collect();
    let mut mean_error = 0.0;
    if centered {
        let (hi, lo) = (scaled(output.mean[0].wide()), scaled(output.mean_lo[0].wide()));
        let error = f64::from((TwoFloat::new_sub(hi, origin) + lo - mean).abs());
        mean_error = mean_factor::<K>(error, hi, scaled(K::F::SMALLEST.wide())) * f64::from(rstd).min(f64::MAX);
    }
    let exact_rstd = times_power_of_two(rstd.into(), exponent);
    let rstd_error = rstd_error::<K>(output.rstd[0].wide(), exact_rstd);
    let rounded = |v: Vec<TwoFloat>| v.into_iter().map(f64::from).collect();
    Verdict { y: rounded(y), errors, xhat: rounded(xhat), mean_error, rstd: exact_rstd, rstd_error }
}

/// In two steps, since the power may leave the range of f64 where the product does not.
pub(crate) fn times_power_of_two(v: f64, exponent: i32) -> f64 {
    let half = exponent / 2;
    if v == 0.0 { v } else { v * f64::from(half).exp2() * f64::from(exponent - half).exp2() }
}

/// The error of a mean, less what keeping the mean in two numbers may cost.
fn mean_factor<K: Types>(error: f64, mean: f64, smallest: f64) -> f64 {
    (error - (mean.abs() * u::<K>() * u::<K>() + smallest)).max(0.0)
}

/// 0 if rstd is beyond the range of its type and infinite. The last bit of a denormal does not count.
fn rstd_error<K: Types>(rstd: f64, exact: f64) -> f64 {
    if rstd == K::F::of(exact).wide() {
        return 0.0;
    }
    ((rstd - exact).abs() - K::F::SMALLEST.wide()).max(0.0) / exact
}

/// The two oracles agree on a row that both can judge.
#[test]
fn double_double_is_the_reference() {
    use crate::support::{Call, F64};
    for problem in Problem::<F64>::ordinary(1, 1000, 1).in_every_form() {
        let mut problem = problem;
        problem.x.iter_mut().for_each(|x| *x = f64::from(*x as f32));
        let output = problem.run(&Call::plain(lanenorm::Isa::SCALAR));
        let (a, b) = (by_double_double(&problem, &output), by_reference(&problem, &output));
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (1.0 + a.abs());
        assert!(a.xhat.iter().zip(&b.xhat).all(|(&a, &b)| close(a, b)), "{problem}");
        assert!(a.y.iter().zip(&b.y).all(|(&a, &b)| close(a, b)), "{problem}");
        assert!(close(a.rstd, b.rstd), "{problem}: {:e} and {:e}", a.rstd, b.rstd);
    }
}
