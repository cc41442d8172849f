//! The two-pass algorithm as someone writes it who knows how compilers vectorize: many independent sums in an array,
//! so that additions need not wait for each other. Compiled twice, for the build's baseline and for the widest tier:
//! the second is what `target-cpu=native` or a multiversioning crate would give.

use lanenorm::Tier;
use lanenorm::kernels::lanes::{Kernel, Lanes};

/// Eight SSE or NEON registers: with twice as many, sums spill.
pub(crate) const PLAIN_SUMS: usize = 32;

/// Four AVX-512 registers: as many additions as are in flight.
pub(crate) const SIMD_SUMS: usize = 64;

/// For the build's baseline.
pub(crate) fn plain(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    forward::<PLAIN_SUMS, false>(x, cols, gamma, beta, eps, y);
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
        forward::<SIMD_SUMS, FMA>(self.x, self.cols, self.gamma, self.beta, self.eps, self.y);
    }
}

#[inline(always)]
fn forward<const N: usize, const FMA: bool>(
    x: &[f32],
    cols: usize,
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    y: &mut [f32],
) {
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        let mean = sum::<N>(x) / cols as f32;
        let rstd = 1.0 / (sum_of_squares::<N, FMA>(x, mean) / cols as f32 + eps).sqrt();
        for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
            *y = mul_add::<FMA>((x - mean) * rstd, gamma, beta);
        }
    }
}

#[inline(always)]
fn sum<const N: usize>(x: &[f32]) -> f32 {
    let (blocks, tail) = x.as_chunks::<N>();
    let mut sums = [0.0; N];
    for block in blocks {
        for (sum, &x) in sums.iter_mut().zip(block) {
            *sum += x;
        }
    }
    for (sum, &x) in sums.iter_mut().zip(tail) {
        *sum += x;
    }
    fold(sums)
}

#[inline(always)]
fn sum_of_squares<const N: usize, const FMA: bool>(x: &[f32], mean: f32) -> f32 {
    let (blocks, tail) = x.as_chunks::<N>();
    let mut sums = [0.0; N];
    for block in blocks {
        for (sum, &x) in sums.iter_mut().zip(block) {
            *sum = mul_add::<FMA>(x - mean, x - mean, *sum);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(tail) {
        *sum = mul_add::<FMA>(x - mean, x - mean, *sum);
    }
    fold(sums)
}

/// By halves, which compilers vectorize.
#[inline(always)]
fn fold<const N: usize>(mut sums: [f32; N]) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[half + i];
        }
        half /= 2;
    }
    sums[0]
}

/// Fused only where it is one instruction.
#[inline(always)]
fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
