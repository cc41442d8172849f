//! The table of tolerances: every distribution with its bound in units of 2^-24, and the reason for it.

use crate::support::Random;

/// A way to fill rows, and how accurate the result must be.
pub(super) struct Distribution {
    pub(super) name: &'static str,
    pub(super) bound: f64,
    pub(super) eps: f64,
    /// Why the bound is what it is.
    pub(super) why: &'static str,
    pub(super) fill: fn(&mut Random, &mut [f32]),
}

const ORDINARY: f64 = 4.0;

const ADVERSARIAL: f64 = 16.0;

const EPS: f64 = 1e-5;

const fn row(
    name: &'static str,
    bound: f64,
    eps: f64,
    why: &'static str,
    fill: fn(&mut Random, &mut [f32]),
) -> Distribution {
    Distribution { name, bound, eps, why, fill }
}

#[rustfmt::skip]
pub(super) const DISTRIBUTIONS: &[Distribution] = &[
    row("normal", ORDINARY, EPS, "the usual case", |r, x| normal(r, x, 0.0, 1.0)),
    row("normal, mean 1", ORDINARY, EPS, "an offset costs nothing", |r, x| normal(r, x, 1.0, 1.0)),
    row("normal, mean 1e2", ORDINARY, EPS, "an offset costs nothing", |r, x| normal(r, x, 1e2, 1.0)),
    row("normal, mean 1e4", ORDINARY, EPS, "an offset costs nothing", |r, x| normal(r, x, 1e4, 1.0)),
    row("normal, mean 1e6", ORDINARY, EPS, "an offset costs nothing", |r, x| normal(r, x, 1e6, 1.0)),
    row("normal, mean 1e7", ORDINARY, EPS, "x is rounded to integers, which the reference sees too", |r, x| normal(r, x, 1e7, 1.0)),
    row("normal, mean -1e6, deviation 1e-1", ORDINARY, 0.0, "few distinct values, close to one another", |r, x| normal(r, x, -1e6, 0.1)),
    row("uniform 100..101", ORDINARY, EPS, "offset 350 deviations", |r, x| each(x, |_| 100.0 + r.uniform())),
    row("uniform -1..1, eps 1e-12", ORDINARY, 1e-12, "eps of BERT-like models", |r, x| each(x, |_| f64::from(r.signed()))),
    row("ramp", ORDINARY, EPS, "samples are spread, so the shift is near the mean", |r, x| { let a = r.normal(); each(x, |i| a * i as f64) }),
    row("ramp from 1e5", ORDINARY, EPS, "the same with an offset", |r, x| { let a = r.normal(); each(x, |i| 1e5 + a * i as f64) }),
    row("alternating +-", ORDINARY, EPS, "every sum is exact", |_, x| each(x, |i| if i % 2 == 0 { 1.0 } else { -1.0 })),
    row("alternating runs of 8", ORDINARY, EPS, "all samples may come from one side", |_, x| each(x, |i| if i / 8 % 2 == 0 { 1.0 } else { -1.0 })),
    row("one ulp in a constant", ORDINARY, 0.0, "the mean is kept as a difference from an element", |r, x| { x.fill(1.9); let i = r.below(x.len()); x[i] += f32::EPSILON; }),
    row("constant", ORDINARY, EPS, "exactly beta", |r, x| x.fill(r.normal() as f32)),
    row("constant, eps 0", ORDINARY, 0.0, "exactly beta", |r, x| x.fill((r.normal() * 1e10) as f32)),
    row("lognormal, sigma 1", ORDINARY, EPS, "a mild tail", |r, x| each(x, |_| r.normal().exp())),
    row("sparse", ORDINARY, EPS, "most elements are 0, as after a ReLU", |r, x| each(x, |_| if r.below(10) == 0 { r.normal() } else { 0.0 })),
    row("lognormal, sigma 4", ADVERSARIAL, EPS, "a few elements hold all of the variance", |r, x| each(x, |_| (4.0 * r.normal()).exp())),
    row("step of any height", ADVERSARIAL, EPS, "the shift may lie many deviations of its chunk away", |r, x| step(r, x, 0.0)),
    row("step of any height, mean 1e4", ADVERSARIAL, EPS, "the same with an offset", |r, x| step(r, x, 1e4)),
    row("step without noise", ADVERSARIAL, EPS, "every rounding goes the same way", flat_step),
    row("outlier ahead of a constant", ADVERSARIAL, 0.0, "every rounding goes the same way, at the size of the outlier", |r, x| { x.fill(10f64.powf(-3.0 * r.uniform()) as f32); x[0] = (1.0 + r.uniform()) as f32; }),
    row("outlier 1e4 at the front", ADVERSARIAL, EPS, "the shift starts from the outlier", |r, x| outlier(r, x, 1e4, 0.0)),
    row("outlier 1e4 in the middle", ADVERSARIAL, EPS, "one element holds the variance", |r, x| outlier(r, x, 1e4, 0.5)),
    row("outlier 1e4 at the end", ADVERSARIAL, EPS, "one element holds the variance", |r, x| outlier(r, x, 1e4, 1.0)),
    row("outlier 1e8 at the front", ADVERSARIAL, EPS, "the shift starts from the outlier", |r, x| outlier(r, x, 1e8, 0.0)),
    row("outlier 1e8 in the middle", ADVERSARIAL, EPS, "one element holds the variance", |r, x| outlier(r, x, 1e8, 0.5)),
    row("outlier 1e8 at the end", ADVERSARIAL, EPS, "one element holds the variance", |r, x| outlier(r, x, 1e8, 1.0)),
    row("outlier 1e4 anywhere, mean 1e4", ADVERSARIAL, EPS, "the same with an offset", |r, x| { let at = r.uniform(); outlier(r, x, 1e4, at); each_add(x, 1e4) }),
    row("normal * 1e18", ORDINARY, EPS, "at the edge of the range of the fast path", |r, x| normal(r, x, 0.0, 1e18)),
    row("normal * 1e19", ORDINARY, EPS, "squares overflow: the slow path, in f64", |r, x| normal(r, x, 0.0, 1e19)),
    row("normal * 1e30", ORDINARY, EPS, "squares overflow: the slow path, in f64", |r, x| normal(r, x, 0.0, 1e30)),
    row("uniform +-3.4e38", ORDINARY, EPS, "differences overflow: the slow path, in f64", |r, x| each(x, |_| f64::from(r.signed()) * 3.4e38)),
    row("3e38, and 1 % of it as noise", ORDINARY, EPS, "sums overflow: the slow path, in f64", |r, x| each(x, |_| 3e38 + 3e36 * f64::from(r.signed()))),
    row("normal * 1e-10, eps 0", ORDINARY, 0.0, "on the fast path", |r, x| normal(r, x, 0.0, 1e-10)),
    row("normal * 3e-14, eps 0", ORDINARY, 0.0, "at the edge of the range of the fast path", |r, x| normal(r, x, 0.0, 3e-14)),
    row("normal * 1e-20, eps 0", ORDINARY, 0.0, "squares underflow: the slow path, in f64", |r, x| normal(r, x, 0.0, 1e-20)),
    row("normal * 1e-20", ORDINARY, EPS, "squares underflow, and eps hides it", |r, x| normal(r, x, 0.0, 1e-20)),
    row("denormals, eps 0", ORDINARY, 0.0, "the slow path, in f64", |r, x| normal(r, x, 0.0, 1e-40)),
    row("smallest denormals, eps 0", ORDINARY, 0.0, "the slow path, in f64", |r, x| normal(r, x, 0.0, 3e-45)),
    row("denormals", ORDINARY, EPS, "eps hides them", |r, x| normal(r, x, 0.0, 1e-40)),
    row("zeros, eps 0", ORDINARY, 0.0, "exactly beta; without a mean exactly 0", |_, x| each(x, |i| if i % 2 == 0 { 0.0 } else { -0.0 })),
    row("zeros but for one, eps 0", ADVERSARIAL, 0.0, "one element holds all", |r, x| { x.fill(0.0); let i = r.below(x.len()); x[i] = (30.0 * r.normal()).exp2() as f32; }),
    row("1 and 1e-30 by turns, eps 0", ORDINARY, 0.0, "squares of half the elements underflow, and do not count", |_, x| each(x, |i| if i % 2 == 0 { 1.0 } else { 1e-30 })),
];

fn each(x: &mut [f32], mut f: impl FnMut(usize) -> f64) {
    for (i, x) in x.iter_mut().enumerate() {
        *x = f(i) as f32;
    }
}

fn each_add(x: &mut [f32], offset: f32) {
    x.iter_mut().for_each(|x| *x += offset);
}

fn normal(random: &mut Random, x: &mut [f32], mean: f64, deviation: f64) {
    each(x, |_| mean + deviation * random.normal());
}

/// Noise of deviation 1 that rises by 0.1 to 1e8, somewhere.
fn step(random: &mut Random, x: &mut [f32], mean: f64) {
    let (at, height) = (random.below(x.len() + 1), 10f64.powf(9.0 * random.uniform() - 1.0));
    each(x, |i| mean + random.normal() + if i >= at { height } else { 0.0 });
}

fn flat_step(random: &mut Random, x: &mut [f32]) {
    let (at, low, high) = (random.below(x.len() + 1), random.normal(), random.normal());
    each(x, |i| if i >= at { high } else { low });
}

/// Noise of deviation 1 with one element of the given size, `at` of the way through.
fn outlier(random: &mut Random, x: &mut [f32], size: f32, at: f64) {
    normal(random, x, 0.0, 1.0);
    let at = ((x.len() - 1) as f64 * at) as usize;
    x[at] = size;
}
