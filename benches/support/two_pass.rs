//! The two-pass algorithm, from loops that compilers vectorize ([`sums`](super::sums)). Compiled twice, for the build's
//! baseline and for the default tier: the second is what `target-cpu=native` or a multiversioning crate would give.

use lanenorm::Tier;
use lanenorm::kernels::lanes::{Kernel, Lanes};

use super::sums::{mul_add, sum, sum_of_squares};

/// For the build's baseline.
pub(crate) fn plain(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    forward::<false>(x, cols, gamma, beta, eps, y);
}

/// For the default tier.
pub(crate) fn simd(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    let isa = lanenorm::default_isa().expect("checked at the start");
    if isa.tier() == Tier::Scalar {
        isa.run(TwoPass::<false> { x, cols, gamma, beta, eps, y });
    } else {
        isa.run(TwoPass::<true> { x, cols, gamma, beta, eps, y });
    }
}

struct TwoPass<'a, const FMA: bool> {
    x: &'a [f32],
    cols: usize,
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl<const FMA: bool> Kernel for TwoPass<'_, FMA> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) {
        forward::<FMA>(self.x, self.cols, self.gamma, self.beta, self.eps, self.y);
    }
}

#[inline(always)]
fn forward<const FMA: bool>(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let mean = sum(x) / cols as f32;
        let rstd = 1.0 / (sum_of_squares::<FMA>(x, mean) / cols as f32 + eps).sqrt();
        for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
            *y = mul_add::<FMA>((x - mean) * rstd, gamma, beta);
        }
    }
}
