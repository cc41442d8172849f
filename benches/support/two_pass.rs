//! Passes over each row that compilers vectorize ([`sums`](super::sums)): LayerNorm with the two-pass algorithm of the
//! variance, RMSNorm from its sum of squares. Compiled twice, for the processor that the build is for and for the
//! default tier. The second is what `target-cpu=native` or a multiversioning crate would give.

use lanenorm::Tier;
use lanenorm::kernels::simd::{Kernel, Lanes};
use lanenorm_harness::naive::constants;
use lanenorm_harness::number::{Number, Real};

use super::sums::{mul_add, sum, sum_of_squares};

/// Compiled for the processor that the build is for.
pub(crate) fn layer_norm<T: Number>(x: &[T], cols: usize, gamma: &[T], beta: &[T], eps: T::Float, y: &mut [T]) {
    layer_norm_rows::<T, false>(x, cols, gamma, beta, eps, y);
}

/// Compiled for the default tier.
pub(crate) fn layer_norm_simd<T: Number>(x: &[T], cols: usize, gamma: &[T], beta: &[T], eps: T::Float, y: &mut [T]) {
    let isa = lanenorm::default_isa().expect("checked at the start");
    if isa.tier() == Tier::Scalar {
        isa.run(LayerNorm::<T, false> { x, cols, gamma, beta, eps, y });
    } else {
        isa.run(LayerNorm::<T, true> { x, cols, gamma, beta, eps, y });
    }
}

struct LayerNorm<'a, T: Number, const FMA: bool> {
    x: &'a [T],
    cols: usize,
    gamma: &'a [T],
    beta: &'a [T],
    eps: T::Float,
    y: &'a mut [T],
}

impl<T: Number, const FMA: bool> Kernel for LayerNorm<'_, T, FMA> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        layer_norm_rows::<T, FMA>(self.x, self.cols, self.gamma, self.beta, self.eps, self.y);
    }
}

#[inline(always)]
fn layer_norm_rows<T: Number, const FMA: bool>(
    x: &[T],
    cols: usize,
    gamma: &[T],
    beta: &[T],
    eps: T::Float,
    y: &mut [T],
) {
    let (_, one, n) = constants::<T>(cols);
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let mean = sum(x) / n;
        let rstd = one / (sum_of_squares::<T, FMA>(x, mean) / n + eps).sqrt();
        for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
            *y = T::narrow(mul_add::<T::Float, FMA>((x.widen() - mean) * rstd, gamma.widen(), beta.widen()));
        }
    }
}

/// Compiled for the processor that the build is for.
pub(crate) fn rms_norm<T: Number>(x: &[T], cols: usize, gamma: &[T], _: &[T], eps: T::Float, y: &mut [T]) {
    rms_norm_rows::<T, false>(x, cols, gamma, eps, y);
}

/// Compiled for the default tier.
pub(crate) fn rms_norm_simd<T: Number>(x: &[T], cols: usize, gamma: &[T], _: &[T], eps: T::Float, y: &mut [T]) {
    let isa = lanenorm::default_isa().expect("checked at the start");
    if isa.tier() == Tier::Scalar {
        isa.run(RmsNorm::<T, false> { x, cols, gamma, eps, y });
    } else {
        isa.run(RmsNorm::<T, true> { x, cols, gamma, eps, y });
    }
}

struct RmsNorm<'a, T: Number, const FMA: bool> {
    x: &'a [T],
    cols: usize,
    gamma: &'a [T],
    eps: T::Float,
    y: &'a mut [T],
}

impl<T: Number, const FMA: bool> Kernel for RmsNorm<'_, T, FMA> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        rms_norm_rows::<T, FMA>(self.x, self.cols, self.gamma, self.eps, self.y);
    }
}

#[inline(always)]
fn rms_norm_rows<T: Number, const FMA: bool>(x: &[T], cols: usize, gamma: &[T], eps: T::Float, y: &mut [T]) {
    let (zero, one, n) = constants::<T>(cols);
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let rstd = one / (sum_of_squares::<T, FMA>(x, zero) / n + eps).sqrt();
        for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
            *y = T::narrow(x.widen() * rstd * gamma.widen());
        }
    }
}
