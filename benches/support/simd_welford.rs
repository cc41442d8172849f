//! The classic form of Welford's algorithm in SIMD lanes: each lane keeps a mean and a sum of squares of every n-th
//! element, and the lanes are merged at the end (Chan, Golub and `LeVeque`, 1979). It is made fast: four registers run
//! side by side to hide the latency of the chain, and all lanes share one reciprocal in the place of divisions.

use lanenorm::Tier;
use lanenorm::kernels::simd::{Kernel, Lanes};
use lanenorm::kernels::stats::Moments;

/// The registers that run side by side.
pub(crate) const GROUPS: usize = 4;

/// Runs on the default tier.
pub(crate) fn simd_welford(x: &[f32], cols: usize, gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    let isa = lanenorm::default_isa().expect("checked at the start");
    if isa.tier() == Tier::Scalar {
        isa.run(Welford::<false> { x, cols, gamma, beta, eps, y });
    } else {
        isa.run(Welford::<true> { x, cols, gamma, beta, eps, y });
    }
}

struct Welford<'a, const FMA: bool> {
    x: &'a [f32],
    cols: usize,
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl<const FMA: bool> Kernel for Welford<'_, FMA> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { x, cols, gamma, beta, eps, y } = self;
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let moments = moments::<S, FMA>(simd, x);
            let rstd = 1.0 / ((moments.m2 / moments.count) as f32 + eps).sqrt();
            normalize::<S, FMA>(simd, x, gamma, beta, (moments.origin + moments.offset) as f32, rstd, y);
        }
    }
}

#[inline(always)]
fn moments<S: Lanes, const FMA: bool>(simd: S, x: &[f32]) -> Moments {
    let (registers, tail) = S::as_simd_f32s(x);
    let (steps, rest) = registers.as_chunks::<GROUPS>();
    let zero = simd.splat_f32s(0.0);
    let (mut mean, mut m2) = ([zero; GROUPS], [zero; GROUPS]);
    for (i, step) in steps.iter().enumerate() {
        let reciprocal = simd.splat_f32s(1.0 / (i + 1) as f32);
        for group in 0..GROUPS {
            update::<S, FMA>(simd, step[group], reciprocal, &mut mean[group], &mut m2[group]);
        }
    }
    let reciprocal = simd.splat_f32s(1.0 / (steps.len() + 1) as f32);
    for (group, &x) in rest.iter().enumerate() {
        update::<S, FMA>(simd, x, reciprocal, &mut mean[group], &mut m2[group]);
    }

    let mut total = Moments::EMPTY;
    for group in 0..GROUPS {
        let count = steps.len() + usize::from(group < rest.len());
        if count > 0 {
            total = total.merge(merge_lanes(simd, count, mean[group], m2[group]));
        }
    }
    if tail.is_empty() { total } else { total.merge(moments_of_tail(tail)) }
}

#[inline(always)]
fn update<S: Lanes, const FMA: bool>(simd: S, x: S::f32s, reciprocal: S::f32s, mean: &mut S::f32s, m2: &mut S::f32s) {
    let delta = simd.sub_f32s(x, *mean);
    *mean = mul_add::<S, FMA>(simd, delta, reciprocal, *mean);
    *m2 = mul_add::<S, FMA>(simd, delta, simd.sub_f32s(x, *mean), *m2);
}

/// Two passes, for a tail of less than a register.
#[inline(always)]
fn moments_of_tail(x: &[f32]) -> Moments {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    let m2 = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
    Moments { count: x.len() as f64, origin: 0.0, offset: f64::from(mean), m2: f64::from(m2), scale: 1.0 }
}

/// Merges the lanes of one register. They have counted equally many elements, so that the mean of all elements is the
/// mean of their means.
#[inline(always)]
fn merge_lanes<S: Lanes>(simd: S, count: usize, means: S::f32s, m2: S::f32s) -> Moments {
    let mean = simd.reduce_sum_f32s(means) / S::F32_LANES as f32;
    let delta = simd.sub_f32s(means, simd.splat_f32s(mean));
    let between = simd.mul_f32s(simd.mul_f32s(delta, delta), simd.splat_f32s(count as f32));
    let m2 = simd.reduce_sum_f32s(simd.add_f32s(m2, between));
    Moments {
        count: (count * S::F32_LANES) as f64,
        origin: 0.0,
        offset: f64::from(mean),
        m2: f64::from(m2),
        scale: 1.0,
    }
}

#[inline(always)]
fn normalize<S: Lanes, const FMA: bool>(
    simd: S,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    mean: f32,
    rstd: f32,
    y: &mut [f32],
) {
    let (x, x_tail) = S::as_simd_f32s(x);
    let (gamma, gamma_tail) = S::as_simd_f32s(gamma);
    let (beta, beta_tail) = S::as_simd_f32s(beta);
    let (y, y_tail) = S::as_mut_simd_f32s(y);
    let (means, rstds) = (simd.splat_f32s(mean), simd.splat_f32s(rstd));
    for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
        let xhat = simd.mul_f32s(simd.sub_f32s(x, means), rstds);
        *y = mul_add::<S, FMA>(simd, xhat, gamma, beta);
    }
    for (((y, &x), &gamma), &beta) in y_tail.iter_mut().zip(x_tail).zip(gamma_tail).zip(beta_tail) {
        *y = (x - mean) * rstd * gamma + beta;
    }
}

/// `a * b + c`, fused only where that is one instruction.
#[inline(always)]
fn mul_add<S: Lanes, const FMA: bool>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    if FMA { simd.mul_add_f32s(a, b, c) } else { simd.add_f32s(simd.mul_f32s(a, b), c) }
}
