//! The specification: each normalization as its formula has it, in f64, one row at a time. Slow and obvious.
//!
//! Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450 (2016):
//!
//! ```text
//! mean = sum(x) / n
//! var  = sum((x - mean)^2) / n
//! xhat = (x - mean) / sqrt(var + eps)
//! y    = xhat * gamma + beta
//! ```
//!
//! Rows are f32 here. Rows of 16 bits are widened to f32, and y is rounded once more. f64 has the same formulas.
//!
//! The kernels differ from this by rounding alone. Two cases are settled by decree: a row with a NaN or an
//! infinity is all NaN, and a row whose elements are all equal has xhat = 0 even if eps is 0.

use pulp::Simd;

/// Mean, variance and reciprocal standard deviation of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// The mean.
    pub mean: f64,
    /// The biased variance (divided by n).
    pub var: f64,
    /// 1 / sqrt(var + eps): infinite if both are zero.
    pub rstd: f64,
}

/// The statistics of a row, which must not be empty. All NaN if an element is not finite.
pub fn stats(x: &[f32], eps: f64) -> Stats {
    if x.iter().any(|v| !v.is_finite()) {
        return Stats { mean: f64::NAN, var: f64::NAN, rstd: f64::NAN };
    }
    let n = x.len() as f64;
    // Counted from the first element, so that the mean of equal elements is that element.
    let x0 = f64::from(x[0]);
    let mean = x0 + x.iter().map(|&v| f64::from(v) - x0).sum::<f64>() / n;
    let var = x.iter().map(|&v| (f64::from(v) - mean) * (f64::from(v) - mean)).sum::<f64>() / n;
    Stats { mean, var, rstd: 1.0 / pulp::Scalar.sqrt_f64s(var + eps) }
}

/// The normalized element: xhat.
pub fn xhat(x: f32, stats: &Stats) -> f64 {
    let d = f64::from(x) - stats.mean;
    if d == 0.0 { 0.0 } else { d * stats.rstd }
}

/// One row: y = xhat * gamma + beta. Absent gamma counts as 1, absent beta as 0. (With an offset, `gamma` is the sum of
/// gamma and offset, rounded to f32.)
///
/// # Panics
/// If the lengths differ.
pub fn layer_norm(x: &[f32], gamma: Option<&[f32]>, beta: Option<&[f32]>, eps: f64, y: &mut [f64]) {
    assert_eq!(x.len(), y.len(), "x and y differ in length");
    if x.is_empty() {
        return;
    }
    let stats = stats(x, eps);
    for (i, y) in y.iter_mut().enumerate() {
        let gamma = gamma.map_or(1.0, |g| f64::from(g[i]));
        let beta = beta.map_or(0.0, |b| f64::from(b[i]));
        *y = xhat(x[i], &stats) * gamma + beta;
    }
}

/// 1 / sqrt(mean(x^2) + eps) of a row, which must not be empty: infinite if all is zero, NaN if an element is not
/// finite.
pub fn rms_rstd(x: &[f32], eps: f64) -> f64 {
    if x.iter().any(|v| !v.is_finite()) {
        return f64::NAN;
    }
    let squares = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    1.0 / pulp::Scalar.sqrt_f64s(squares / x.len() as f64 + eps)
}

/// One row of RMS normalization (Zhang and Sennrich, arXiv:1910.07467, 2019): y = x * rstd * (gamma + offset), where
/// gamma + offset is rounded to f32. Without gamma the factor is 1. A row of zeros is zero even if eps is 0.
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm(x: &[f32], gamma: Option<&[f32]>, offset: f32, eps: f64, y: &mut [f64]) {
    assert_eq!(x.len(), y.len(), "x and y differ in length");
    if x.is_empty() {
        return;
    }
    let rstd = rms_rstd(x, eps);
    for (i, y) in y.iter_mut().enumerate() {
        let factor = gamma.map_or(1.0, |g| f64::from(g[i] + offset));
        let xhat = if x[i] == 0.0 && !rstd.is_nan() { 0.0 } else { f64::from(x[i]) * rstd };
        *y = xhat * factor;
    }
}

/// The gradients of one row: the derivative of sum(y * dy) by x, and what the row adds to the derivatives by gamma and
/// beta.
///
/// ```text
/// g      = dy * gamma
/// dx     = rstd * (g - mean(g) - xhat * mean(g * xhat))
/// dgamma = dy * xhat,    dbeta = dy
/// ```
///
/// A row whose elements are all equal has dx = 0 if eps is 0.
///
/// # Panics
/// If the lengths differ.
pub fn layer_norm_backward(
    dy: &[f32],
    x: &[f32],
    gamma: Option<&[f32]>,
    eps: f64,
    dx: &mut [f64],
    dgamma: &mut [f64],
    dbeta: &mut [f64],
) {
    if x.is_empty() {
        return;
    }
    let stats = stats(x, eps);
    backward(dy, gamma, true, stats.rstd, |i| xhat(x[i], &stats), dx, dgamma);
    dbeta.iter_mut().zip(dy).for_each(|(dbeta, &dy)| *dbeta += f64::from(dy));
}

/// The gradients of one row of RMS normalization, by the formulas of layer normalization without mean(g). `gamma` is
/// the sum of gamma and offset, rounded to f32.
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm_backward(dy: &[f32], x: &[f32], gamma: Option<&[f32]>, eps: f64, dx: &mut [f64], dgamma: &mut [f64]) {
    if x.is_empty() {
        return;
    }
    let rstd = rms_rstd(x, eps);
    let xhat = |i: usize| if x[i] == 0.0 && !rstd.is_nan() { 0.0 } else { f64::from(x[i]) * rstd };
    backward(dy, gamma, false, rstd, xhat, dx, dgamma);
}

fn backward(
    dy: &[f32],
    gamma: Option<&[f32]>,
    centered: bool,
    rstd: f64,
    xhat: impl Fn(usize) -> f64,
    dx: &mut [f64],
    dgamma: &mut [f64],
) {
    let n = dy.len() as f64;
    let g = |i: usize| f64::from(dy[i]) * gamma.map_or(1.0, |gamma| f64::from(gamma[i]));
    let c1 = if centered { (0..dy.len()).map(g).sum::<f64>() / n } else { 0.0 };
    let c2 = (0..dy.len()).map(|i| g(i) * xhat(i)).sum::<f64>() / n;
    // NaN or infinite if any of its inputs is.
    let rstd = if rstd == f64::INFINITY { 0.0 * c2 } else { rstd };
    for i in 0..dy.len() {
        dx[i] = rstd * (g(i) - c1 - xhat(i) * c2);
        dgamma[i] += dy[i] as f64 * xhat(i);
    }
}
