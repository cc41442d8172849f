//! The answers that others are held against: those of the specification, which takes rows of f32, also for what f32 holds;
//! for f64 the same formulas with sums that lose nothing.

use lanenorm::kernels::reference;
use lanenorm::kernels::table::Dtype;

use super::number::{Number, Value};

/// The error of a factor of f64, in units of its rounding: two of the mean, four of rstd and two of the rest.
const OWN: f64 = 8.0;

/// What the exact answers of a type may be off, in `T::U`: in f64 nothing is wider than what is to be checked.
pub(crate) fn own_error<T: Number>() -> f64 {
    if T::DTYPE == Dtype::F64 { OWN } else { 0.0 }
}

/// One row, of LayerNorm if `centered`. RMSNorm has no use for beta.
pub(crate) fn forward<T: Number>(
    centered: bool,
    x: &[T],
    gamma: Option<&[T::Float]>,
    beta: Option<&[T::Float]>,
    eps: f64,
    y: &mut [f64],
) {
    if T::DTYPE == Dtype::F64 {
        return forward_f64(centered, &to_f64(x), gamma, beta, eps, y);
    }
    let (x, gamma, beta) = (to_f32(x), gamma.map(to_f32), beta.map(to_f32));
    if centered {
        reference::layer_norm(&x, gamma.as_deref(), beta.as_deref(), eps, y);
    } else {
        reference::rms_norm(&x, gamma.as_deref(), 0.0, eps, y);
    }
}

fn forward_f64<F: Copy + Into<f64>>(
    centered: bool,
    x: &[f64],
    gamma: Option<&[F]>,
    beta: Option<&[F]>,
    eps: f64,
    y: &mut [f64],
) {
    let (mean, rstd) = stats_f64(centered, x, eps);
    let beta = beta.filter(|_| centered);
    for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
        let (gamma, beta) = (gamma.map_or(1.0, |g| g[i].into()), beta.map_or(0.0, |b| b[i].into()));
        *y = (x - mean) * rstd * gamma + beta;
    }
}

/// The mean, 0 for RMSNorm, and the reciprocal standard deviation.
pub(crate) fn stats_f64(centered: bool, x: &[f64], eps: f64) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = if centered { sum(x.iter().copied()) / n } else { 0.0 };
    let var = sum(x.iter().map(|x| (x - mean) * (x - mean))) / n;
    (mean, 1.0 / (var + eps).sqrt())
}

pub(crate) fn to_f64(v: &[impl Value]) -> Vec<f64> {
    v.iter().map(|v| v.to_f64()).collect()
}

/// Of what f32 holds.
pub(crate) fn to_f32(v: &[impl Value]) -> Vec<f32> {
    v.iter().map(|v| v.to_f64() as f32).collect()
}

/// With the error of each addition summed beside it, which is exact (Knuth's two-sum).
pub(crate) fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0, 0.0);
    for v in values {
        let next = sum + v;
        let added = next - sum;
        lost += (sum - (next - added)) + (v - added);
        sum = next;
    }
    sum + lost
}
