//! What people write who do not use a library: the plain copy that no normalization can beat by much, each formula as
//! scalar loops, and Welford's algorithm from the textbook. The SIMD ones have files of their own.

use lanenorm::kernels::element::Storage;
use lanenorm::kernels::simd::Float;
use lanenorm::kernels::table::{Dtype, Op};

use super::backward::{self, Gradients};
use super::number::{Number, Real};
use super::{simd_welford, sums, two_pass};

/// A baseline of one operation or several.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Baseline {
    Naive,
    Welford,
    TwoPass,
    TwoPassSimd,
    SimdWelford,
}

/// The arguments are x, cols, gamma, beta, eps and y. RMSNorm has no use for beta.
pub(crate) type Run<T> = fn(&[T], usize, &[T], &[T], <T as Storage>::Float, &mut [T]);

/// The same of the backward pass.
pub(crate) type RunBackward<T> = fn(Gradients<'_, T>);

/// The baselines of an operation, the simplest first. Of f16, whose conversions compilers do not vectorize, there is no other;
/// Welford's algorithm is for f32.
pub(crate) fn baselines(op: Op, dtype: Dtype) -> &'static [Baseline] {
    use Baseline::{Naive, SimdWelford, TwoPass, TwoPassSimd, Welford};
    match (op, dtype) {
        (_, Dtype::F16) => &[Naive],
        (Op::LayerNorm, Dtype::F32) => &[Naive, Welford, TwoPass, TwoPassSimd, SimdWelford],
        _ => &[Naive, TwoPass, TwoPassSimd],
    }
}

impl Baseline {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Welford => "welford",
            Self::TwoPass => "two_pass",
            Self::TwoPassSimd => "two_pass_simd",
            Self::SimdWelford => "simd_welford",
        }
    }

    /// The number of sums that each row is spread over: the more, the smaller their rounding errors.
    pub(crate) fn sums(self) -> usize {
        match self {
            Self::Naive | Self::Welford => 1,
            Self::TwoPass | Self::TwoPassSimd => sums::SUMS,
            Self::SimdWelford => simd_welford::GROUPS,
        }
    }

    /// # Panics
    /// If it is none of the [`baselines`] of the operation and the type.
    pub(crate) fn run<T: Number>(self, op: Op) -> Run<T> {
        match (op, self) {
            (Op::LayerNorm, Self::Naive) => naive_layer_norm,
            (Op::LayerNorm, Self::Welford) => welford,
            (Op::LayerNorm, Self::TwoPass) => two_pass::layer_norm,
            (Op::LayerNorm, Self::TwoPassSimd) => two_pass::layer_norm_simd,
            (Op::LayerNorm, Self::SimdWelford) => T::SIMD_WELFORD.expect("a baseline of f32"),
            (Op::RmsNorm, Self::Naive) => naive_rms_norm,
            (Op::RmsNorm, Self::TwoPass) => two_pass::rms_norm,
            (Op::RmsNorm, Self::TwoPassSimd) => two_pass::rms_norm_simd,
            (op, baseline) => panic!("there is no {} of {}", baseline.name(), op.name()),
        }
    }

    /// # Panics
    /// If it is none of the [`baselines`] of the operation and the type.
    pub(crate) fn run_backward<T: Number>(self, op: Op) -> RunBackward<T> {
        match (op, self) {
            (Op::LayerNormBackward, Self::Naive) => backward::naive::layer_norm,
            (Op::LayerNormBackward, Self::TwoPass) => backward::two_pass::layer_norm,
            (Op::LayerNormBackward, Self::TwoPassSimd) => backward::two_pass::layer_norm_simd,
            (Op::RmsNormBackward, Self::Naive) => backward::naive::rms_norm,
            (Op::RmsNormBackward, Self::TwoPass) => backward::two_pass::rms_norm,
            (Op::RmsNormBackward, Self::TwoPassSimd) => backward::two_pass::rms_norm_simd,
            (op, baseline) => panic!("there is no {} of {}", baseline.name(), op.name()),
        }
    }
}

/// The formula: a loop for the mean, one for the variance, one for the output.
fn naive_layer_norm<T: Number>(x: &[T], cols: usize, gamma: &[T], beta: &[T], eps: T::Float, y: &mut [T]) {
    let (zero, one, n) = constants::<T>(cols);
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let mut mean = zero;
        for &x in x {
            mean += x.widen();
        }
        mean = mean / n;
        let mut var = zero;
        for &x in x {
            var += (x.widen() - mean) * (x.widen() - mean);
        }
        var = var / n;
        normalize(x, gamma, beta, mean, one / (var + eps).sqrt(), y);
    }
}

/// B. P. Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4(3), 1962.
fn welford<T: Number>(x: &[T], cols: usize, gamma: &[T], beta: &[T], eps: T::Float, y: &mut [T]) {
    let (zero, one, n) = constants::<T>(cols);
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let (mut mean, mut m2) = (zero, zero);
        for (i, &x) in x.iter().enumerate() {
            let delta = x.widen() - mean;
            mean += delta / T::Float::from_f64((i + 1) as f64);
            m2 += delta * (x.widen() - mean);
        }
        normalize(x, gamma, beta, mean, one / (m2 / n + eps).sqrt(), y);
    }
}

/// The last loop of both, which compilers vectorize.
fn normalize<T: Number>(x: &[T], gamma: &[T], beta: &[T], mean: T::Float, rstd: T::Float, y: &mut [T]) {
    for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
        *y = T::narrow((x.widen() - mean) * rstd * gamma.widen() + beta.widen());
    }
}

/// The formula: a loop for the mean of squares, one for the output.
fn naive_rms_norm<T: Number>(x: &[T], cols: usize, gamma: &[T], _: &[T], eps: T::Float, y: &mut [T]) {
    let (zero, one, n) = constants::<T>(cols);
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let mut squares = zero;
        for &x in x {
            squares += x.widen() * x.widen();
        }
        let rstd = one / (squares / n + eps).sqrt();
        for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
            *y = T::narrow(x.widen() * rstd * gamma.widen());
        }
    }
}

/// 0, 1 and the number of columns.
#[inline(always)]
pub(crate) fn constants<T: Number>(cols: usize) -> (T::Float, T::Float, T::Float) {
    (T::Float::from_f64(0.0), T::Float::from_f64(1.0), T::Float::from_f64(cols as f64))
}
