//! Passes over each row that compilers vectorize ([`sums`](super::sums)): LayerNorm with the two-pass algorithm of the
//! variance, RMSNorm from its sum of squares. Compiled twice, for the build's baseline and for the default tier: the second
//! is what `target-cpu=native` or a multiversioning crate would give.

use lanenorm::Tier;
use lanenorm::kernels::lanes::{Kernel, Lanes};

use super::sums::{mul_add, sum, sum_of_squares};

/// For the build's baseline.
pub(crate) fn layer_norm(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    layer_norm_rows::<false>(x, cols, gamma, beta, eps, y);
}

/// For the default tier.
pub(crate) fn layer_norm_simd(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    let isa = lanenorm::default_isa().expect("checked at the start");
    if isa.tier() == Tier::Scalar {
        isa.run(LayerNorm::<false> { x, cols, gamma, beta, eps, y });
    } else {
        isa.run(LayerNorm::<true> { x, cols, gamma, beta, eps, y });
    }
}

struct LayerNorm<'a, const FMA: bool> {
    x: &'a [f32],
    cols: usize,
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl<const FMA: bool> Kernel for LayerNorm<'_, FMA> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        layer_norm_rows::<FMA>(self.x, self.cols, self.gamma, self.beta, self.eps, self.y);
    }
}

#[inline(always)]
fn layer_norm_rows<const FMA: bool>(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let mean = sum(x) / cols as f32;
        let rstd = 1.0 / (sum_of_squares::<FMA>(x, mean) / cols as f32 + eps).sqrt();
        for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
            *y = mul_add::<FMA>((x - mean) * rstd, gamma, beta);
        }
    }
}

/// For the build's baseline.
pub(crate) fn rms_norm(x: &[f32], cols: usize, gamma: &[f32], eps: f32, y: &mut [f32]) {
    rms_norm_rows::<false>(x, cols, gamma, eps, y);
}

/// For the default tier.
pub(crate) fn rms_norm_simd(x: &[f32], cols: usize, gamma: &[f32], eps: f32, y: &mut [f32]) {
    let isa = lanenorm::default_isa().expect("checked at the start");
    if isa.tier() == Tier::Scalar {
        isa.run(RmsNorm::<false> { x, cols, gamma, eps, y });
    } else {
        isa.run(RmsNorm::<true> { x, cols, gamma, eps, y });
    }
}

struct RmsNorm<'a, const FMA: bool> {
    x: &'a [f32],
    cols: usize,
    gamma: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl<const FMA: bool> Kernel for RmsNorm<'_, FMA> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        rms_norm_rows::<FMA>(self.x, self.cols, self.gamma, self.eps, self.y);
    }
}

#[inline(always)]
fn rms_norm_rows<const FMA: bool>(x: &[f32], cols: usize, gamma: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let rstd = 1.0 / (sum_of_squares::<FMA>(x, 0.0) / cols as f32 + eps).sqrt();
        for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
            *y = x * rstd * gamma;
        }
    }
}
