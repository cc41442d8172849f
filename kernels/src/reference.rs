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

use half::f16;
use pulp::Simd;

use crate::divisor::Divisor;
use crate::rounding::Rounding;
use crate::scheme::{Format, Layout, Quotient, Range, Scheme, Scope, Ties};

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

/// 1 / divisor of a row of finite numbers, for any [`Divisor`]: infinite if that is 0.
pub fn rstd_of(x: &[f64], divisor: Divisor, eps: f64) -> f64 {
    let squares = x.iter().map(|&v| v * v).sum::<f64>();
    1.0 / match divisor {
        Divisor::RootMeanSquare => pulp::Scalar.sqrt_f64s(squares / x.len() as f64 + eps),
        Divisor::Norm => pulp::Scalar.sqrt_f64s(squares + eps),
        Divisor::NormAtLeast => pulp::Scalar.sqrt_f64s(squares).max(eps),
    }
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

/// One element of y, from xhat in f32, as [`Rounding`] has it. `round` rounds to 16 bits, which x has, and gamma and
/// beta too unless they are wide: f32. y is yet to be rounded to its type.
pub fn affine(
    rounding: &Rounding,
    xhat: f32,
    gamma: Option<f32>,
    offset: f32,
    beta: Option<f32>,
    is_wide: bool,
    round: impl Fn(f32) -> f32,
) -> f32 {
    let factor = match gamma {
        None => 1.0,
        Some(gamma) if rounding.gamma && !is_wide => round(gamma + offset),
        Some(gamma) => gamma + offset,
    };
    if !rounding.steps {
        return beta.map_or(xhat * factor, |beta| pulp::Scalar.mul_add_f32s(xhat, factor, beta));
    }
    let round_step = |v| if is_wide { v } else { round(v) };
    let product = round_step(round(xhat) * factor);
    beta.map_or(product, |beta| round_step(product + beta))
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

/// 1 / (1 + e^-z), which is e^z / (1 + e^z): neither overflows on its side of 0.
pub fn sigmoid(z: f64) -> f64 {
    if z < 0.0 { exp(z) / (1.0 + exp(z)) } else { 1.0 / (1.0 + exp(-z)) }
}

/// z * sigmoid(z) (Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", arXiv:1606.08415, 2016), also called
/// swish. NaN at -inf, as in `PyTorch`: -inf * 0.
pub fn silu(z: f64) -> f64 {
    z * sigmoid(z)
}

/// The form of GELU with tanh (the same paper): z / 2 * (1 + tanh(u / 2)), which is z * sigmoid(u), where u is
/// 2 * sqrt(2 / pi) * (z + 0.044715 * z^3). NaN at -inf.
pub fn gelu_tanh(z: f64) -> f64 {
    z * sigmoid(gelu_argument(z))
}

/// The derivative of [`sigmoid`]: sigmoid(z) * (1 - sigmoid(z)), where 1 - sigmoid(z) is sigmoid(-z).
pub fn sigmoid_derivative(z: f64) -> f64 {
    sigmoid(z) * sigmoid(-z)
}

/// The derivative of [`silu`]. NaN at both infinities, as in `PyTorch`.
pub fn silu_derivative(z: f64) -> f64 {
    sigmoid(z) + z * sigmoid_derivative(z)
}

/// The derivative of [`gelu_tanh`]. NaN at both infinities.
pub fn gelu_tanh_derivative(z: f64) -> f64 {
    let u = gelu_argument(z);
    let slope = TWO_SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * z * z);
    sigmoid(u) + z * sigmoid_derivative(u) * slope
}

/// 2 * sqrt(2 / pi).
const TWO_SQRT_2_OVER_PI: f64 = 2.0 * core::f64::consts::FRAC_2_SQRT_PI * core::f64::consts::FRAC_1_SQRT_2;

fn gelu_argument(z: f64) -> f64 {
    TWO_SQRT_2_OVER_PI * (z + 0.044715 * z * z * z)
}

/// e^v as 2^n * e^r, where v = n * ln 2 + r, and e^r is its series.
fn exp(v: f64) -> f64 {
    if v.is_nan() || v > 710.0 {
        return v * f64::INFINITY;
    }
    if v < -746.0 {
        return 0.0;
    }
    // n times the upper part of ln 2 is exact.
    let upper = f64::from(core::f32::consts::LN_2);
    let lower = -1.904654299957768e-9;
    let n = (v * core::f64::consts::LOG2_E) as i32;
    let r = (v - f64::from(n) * upper) - f64::from(n) * lower;
    let series = (1..=24).rev().fold(1.0, |sum, k| 1.0 + sum * r / f64::from(k));
    // In two steps, for the ends of the range.
    series * power_of_two(n / 2) * power_of_two(n - n / 2)
}

/// Quantizes elements that share a scale, by the formulas of [`Scheme`]: y in f32, normalized. Returns the scale and
/// the zero point. All arithmetic is in f32, each operation rounded to nearest even.
///
/// # Panics
/// If the lengths differ.
pub fn quantize(scheme: &Scheme, y: &[f32], q: &mut [u8]) -> (f32, i32) {
    let range = range(y);
    let (scale, zero_point) = scheme.scale_for(range);
    quantize_with(scheme, y, scale, zero_point, range.amax(), q);
    (scale, zero_point)
}

/// The least and the greatest of y and 0: NaN if an element is NaN or infinite.
pub fn range(y: &[f32]) -> Range {
    y.iter().fold(Range::EMPTY, |range, &v| range.join(Range { min: v.min(0.0), max: v.max(0.0) }.or_nan(v)))
}

/// Quantizes elements whose scale is known. `amax` is their greatest magnitude, which [`Quotient::Ratio`] asks for.
///
/// # Panics
/// If the lengths differ.
pub fn quantize_with(scheme: &Scheme, y: &[f32], scale: f32, zero_point: i32, amax: f32, q: &mut [u8]) {
    assert_eq!(y.len(), q.len(), "y and q differ in length");
    let given = matches!(scheme.scope, Scope::Given { .. });
    let inverse = match scheme.quotient {
        Quotient::Divide => scale,
        Quotient::Reciprocal => 1.0 / scale,
        Quotient::Ratio if given => 1.0 / scale,
        Quotient::Ratio => scheme.divisor / amax,
    };
    // What these would be quantized to is of no use: the scale is 0 or NaN, or quotients would be infinite.
    let vanish = scale.is_nan() || scale == 0.0 || !inverse.is_finite() && scale.is_finite();
    for (q, &y) in q.iter_mut().zip(y) {
        let quotient = if scheme.quotient == Quotient::Divide { y / scale } else { y * inverse };
        *q = if vanish && !given { 0 } else { encode(scheme, quotient, zero_point) };
    }
}

/// One element of 8 bits, of y divided by its scale.
pub fn encode(scheme: &Scheme, quotient: f32, zero_point: i32) -> u8 {
    match scheme.format {
        Format::I8 => integer(scheme, quotient, zero_point).clamp(scheme.least, 127) as i8 as u8,
        Format::U8 => integer(scheme, quotient, zero_point).clamp(0, 255) as u8,
        Format::E4m3 => float(quotient, 3, 7, 0x7f),
        Format::E5m2 => float(quotient, 2, 15, 0x7e),
    }
}

/// `quotient` rounded to an integer, and the zero point added. NaN counts as 0.
fn integer(scheme: &Scheme, quotient: f32, zero_point: i32) -> i32 {
    // Beyond these, everything saturates.
    let quotient = if quotient.is_nan() { 0.0 } else { quotient.clamp(-1024.0, 1024.0) };
    let toward_zero = quotient as i32;
    let rest = (quotient - toward_zero as f32).abs();
    let up = rest > 0.5 || rest == 0.5 && (scheme.ties == Ties::Away || toward_zero % 2 != 0);
    let step = if quotient < 0.0 { -1 } else { 1 };
    toward_zero + if up { step } else { 0 } + zero_point
}

/// `v` is rounded to nearest even, and saturated, to a number of 8 bits: its mantissa has `mantissa` bits and its
/// exponent has the bias `bias`. This returns the code of that number, or `nan` where `v` is NaN.
fn float(v: f32, mantissa: i32, bias: i32, nan: u8) -> u8 {
    if v.is_nan() {
        return nan;
    }
    let (sign, magnitude) = (if v.is_sign_negative() { 0x80 } else { 0 }, f64::from(v.abs()));
    // The codes of positive numbers count up with them, from 0 at 0. Infinities and NaN follow the greatest.
    let greatest = if mantissa == 3 { 0x7e } else { 0x7b };
    let value = |code: u8| {
        let (exponent, bits) = (i32::from(code >> mantissa), f64::from(code & ((1 << mantissa) - 1)));
        let unit = power_of_two(exponent.max(1) - bias - mantissa);
        if exponent == 0 { bits * unit } else { (bits + f64::from(1 << mantissa)) * unit }
    };
    let below = (0..=greatest).rev().find(|&code| value(code) <= magnitude).unwrap_or(0);
    let up = below < greatest && {
        let middle = (value(below) + value(below + 1)) / 2.0;
        magnitude > middle || magnitude == middle && below % 2 == 1
    };
    sign | (below + u8::from(up))
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

/// Quantizes a block of a [`Layout`] of GGUF, from as many elements of y as it has, into its bytes.
///
/// # Panics
/// If the layout is [`Layout::Apart`], or if a length is not that of a block.
pub fn quantize_block(scheme: &Scheme, y: &[f32], bytes: &mut [u8]) {
    let Some((elements, size)) = scheme.layout.block() else { panic!("the layout has no blocks") };
    assert!(y.len() == elements && bytes.len() == size, "a block has another length");
    match scheme.layout {
        Layout::Q8K => quantize_q8_k(y, bytes),
        Layout::Q8_0 | Layout::Q8_1 | Layout::Apart => {
            let (head, q) = bytes.split_at_mut(size - elements);
            let (scale, _) = quantize(scheme, y, q);
            head[..2].copy_from_slice(&f16::from_f32_const(scale).to_le_bytes());
            if scheme.layout == Layout::Q8_1 {
                let sum: i32 = q.iter().map(|&q| i32::from(q as i8)).sum();
                head[2..].copy_from_slice(&f16::from_f32_const(sum as f32 * scale).to_le_bytes());
            }
        }
    }
}

/// ```text
/// extreme = the element of greatest magnitude: the first of several
/// q       = min(round(y * (-127 / extreme)), 127), ties to even
/// scale   = 1 / (-127 / extreme)
/// ```
fn quantize_q8_k(y: &[f32], bytes: &mut [u8]) {
    let extreme = y.iter().fold(0.0f32, |extreme, &v| if v.abs() > extreme.abs() { v } else { extreme });
    let inverse = -127.0 / extreme;
    let is_finite = range(y).is_finite();
    let (scale, inverse) = match (is_finite, extreme == 0.0, inverse.is_finite()) {
        (false, ..) => (f32::NAN, 0.0),
        (_, true, _) => (0.0, 0.0),
        (_, _, false) => (1.0 / inverse, 0.0),
        _ => (1.0 / inverse, inverse),
    };
    let (head, rest) = bytes.split_at_mut(4);
    let (q, sums) = rest.split_at_mut(256);
    head.copy_from_slice(&scale.to_le_bytes());
    for (q, &y) in q.iter_mut().zip(y) {
        *q = if is_finite { encode(&Scheme::Q8_K, y * inverse, 0) } else { 0 };
    }
    for (sum, q) in sums.chunks_mut(2).zip(q.chunks(16)) {
        let of_16: i16 = q.iter().map(|&q| i16::from(q as i8)).sum();
        sum.copy_from_slice(&of_16.to_le_bytes());
    }
}
