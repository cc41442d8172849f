//! The answers that others are held against: those of the specification, which takes rows of f32, also for what f32 holds;
//! for f64 the same formulas with sums that lose nothing.

use lanenorm::kernels::reference;
use lanenorm::kernels::table::{Dtype, Op};

use super::number::Number;

/// The error of a factor of f64, in units of its rounding: two of the mean, four of rstd and two of the rest.
const OWN: f64 = 8.0;

/// What the exact answers of a type may be off, in `T::U`: in f64 nothing is wider than what is to be checked.
pub(crate) fn own_error<T: Number>() -> f64 {
    if T::DTYPE == Dtype::F64 { OWN } else { 0.0 }
}

/// One row. RMSNorm has no use for beta.
pub(crate) fn forward<T: Number>(
    op: Op,
    x: &[T],
    gamma: Option<&[T::Float]>,
    beta: Option<&[T::Float]>,
    eps: f64,
    y: &mut [f64],
) {
    if T::DTYPE == Dtype::F64 {
        let x: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
        return forward_f64(op, &x, gamma, beta, eps, y);
    }
    let narrow = |v: &[T::Float]| v.iter().map(|&v| v.into() as f32).collect::<Vec<_>>();
    let x: Vec<f32> = x.iter().map(|x| x.to_f64() as f32).collect();
    let (gamma, beta) = (gamma.map(narrow), beta.map(narrow));
    match op {
        Op::LayerNorm => reference::layer_norm(&x, gamma.as_deref(), beta.as_deref(), eps, y),
        Op::RmsNorm => reference::rms_norm(&x, gamma.as_deref(), 0.0, eps, y),
        op => panic!("the benchmark has no reference for {}", op.name()),
    }
}

fn forward_f64<F: Copy + Into<f64>>(
    op: Op,
    x: &[f64],
    gamma: Option<&[F]>,
    beta: Option<&[F]>,
    eps: f64,
    y: &mut [f64],
) {
    let n = x.len() as f64;
    let (mean, beta) = match op {
        Op::LayerNorm => (sum(x.iter().copied()) / n, beta),
        Op::RmsNorm => (0.0, None),
        op => panic!("the benchmark has no reference for {}", op.name()),
    };
    let rstd = 1.0 / (sum(x.iter().map(|x| (x - mean) * (x - mean))) / n + eps).sqrt();
    for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
        let (gamma, beta) = (gamma.map_or(1.0, |g| g[i].into()), beta.map_or(0.0, |b| b[i].into()));
        *y = (x - mean) * rstd * gamma + beta;
    }
}

/// With the error of each addition summed beside it, which is exact (Knuth's two-sum).
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0, 0.0);
    for v in values {
        let next = sum + v;
        let added = next - sum;
        lost += (sum - (next - added)) + (v - added);
        sum = next;
    }
    sum + lost
}
