//! The table of tolerances: every distribution with its bound in units of u, and the reason for it.

use crate::support::{Random, Value};

type Fill<V> = Box<dyn Fn(&mut Random, &mut [V])>;

/// A way to fill rows, and how accurate the result must be.
pub(super) struct Distribution<V> {
    pub(super) name: String,
    pub(super) bound: f64,
    pub(super) eps: f64,
    /// Why the bound is what it is.
    pub(super) why: &'static str,
    pub(super) fill: Fill<V>,
}

const ORDINARY: f64 = 4.0;

const ADVERSARIAL: f64 = 16.0;

const EPS: f64 = 1e-5;

fn row<V>(
    name: impl Into<String>,
    bound: f64,
    eps: f64,
    why: &'static str,
    fill: impl Fn(&mut Random, &mut [V]) + 'static,
) -> Distribution<V> {
    Distribution { name: name.into(), bound, eps, why, fill: Box::new(fill) }
}

/// Sizes that are large or small for the type that rows are computed in.
struct Sizes {
    /// Offsets beside a deviation of 1. The last leaves few digits of the deviation.
    offsets: [f64; 4],
    /// A deviation beside the third offset that leaves few distinct values.
    deviation: f64,
    /// Outliers beside noise. The second leaves no digits of the noise.
    outliers: [f64; 2],
    /// The height of steps, in digits.
    step_digits: f64,
    /// Sizes at the upper end of the range of the fast path, beyond it, and far beyond it.
    large: [f64; 3],
    max: f64,
    /// Sizes on the fast path, at the lower end of its range, below it, denormal, and next to the smallest denormal.
    small: [f64; 5],
}

/// The sizes for 16 bits too: rows that these types cannot hold are left out.
const OF_F32: Sizes = Sizes {
    offsets: [1e2, 1e4, 1e6, 1e7],
    deviation: 0.1,
    outliers: [1e4, 1e8],
    step_digits: 9.0,
    large: [1e18, 1e19, 1e30],
    max: 3.4e38,
    small: [1e-10, 3e-14, 1e-20, 1e-40, 3e-45],
};

const OF_F64: Sizes = Sizes {
    offsets: [1e4, 1e8, 1e12, 1e15],
    deviation: 1e-4,
    outliers: [1e8, 1e17],
    step_digits: 18.0,
    large: [1e150, 1e151, 1e300],
    max: 1.7e308,
    small: [1e-100, 5e-145, 1e-200, 1e-310, 1e-323],
};

#[rustfmt::skip]
pub(super) fn distributions<V: Value>() -> Vec<Distribution<V>> {
    let sizes = if size_of::<V>() == size_of::<f64>() { OF_F64 } else { OF_F32 };
    let Sizes { offsets: [small_offset, offset, large_offset, huge_offset], deviation, outliers, step_digits, .. } = sizes;
    let ([edge, large, huge], max, [small, lower_edge, tiny, denormal, smallest]) = (sizes.large, sizes.max, sizes.small);
    let mut table = vec![
        row("normal", ORDINARY, EPS, "the usual case", |r, x| normal(r, x, 0.0, 1.0)),
        row("normal, mean 1", ORDINARY, EPS, "an offset costs nothing", |r, x| normal(r, x, 1.0, 1.0)),
        row(format!("normal, mean {small_offset:e}"), ORDINARY, EPS, "an offset costs nothing", move |r, x| normal(r, x, small_offset, 1.0)),
        row(format!("normal, mean {offset:e}"), ORDINARY, EPS, "an offset costs nothing", move |r, x| normal(r, x, offset, 1.0)),
        row(format!("normal, mean {large_offset:e}"), ORDINARY, EPS, "an offset costs nothing", move |r, x| normal(r, x, large_offset, 1.0)),
        row(format!("normal, mean {huge_offset:e}"), ORDINARY, EPS, "x is rounded to few digits, which the reference sees too", move |r, x| normal(r, x, huge_offset, 1.0)),
        row(format!("normal, mean -{large_offset:e}, deviation {deviation:e}"), ORDINARY, 0.0, "few distinct values, close to one another", move |r, x| normal(r, x, -large_offset, deviation)),
        row("uniform 100..101", ORDINARY, EPS, "offset 350 deviations", |r, x| each(x, |_| 100.0 + r.uniform())),
        row("uniform -1..1, eps 1e-12", ORDINARY, 1e-12, "eps of BERT-like models", |r, x| each(x, |_| V::signed(r))),
        row("ramp", ORDINARY, EPS, "samples are spread, so the shift is near the mean", |r, x| { let a = r.normal(); each(x, |i| a * i as f64) }),
        row("ramp from 1e5", ORDINARY, EPS, "the same with an offset", |r, x| { let a = r.normal(); each(x, |i| 1e5 + a * i as f64) }),
        row("alternating +-", ORDINARY, EPS, "every sum is exact", |_, x| each(x, |i| if i % 2 == 0 { 1.0 } else { -1.0 })),
        row("alternating runs of 8", ORDINARY, EPS, "all samples may come from one side", |_, x| each(x, |i| if i / 8 % 2 == 0 { 1.0 } else { -1.0 })),
        row("one ulp in a constant", ORDINARY, 0.0, "the mean is kept as a difference from an element", |r, x| { x.fill(V::of(1.9)); let i = r.below(x.len()); x[i] = V::of(x[i].wide() + V::EPSILON.wide()); }),
        row("constant", ORDINARY, EPS, "exactly beta", |r, x| x.fill(V::of(r.normal()))),
        row("constant, eps 0", ORDINARY, 0.0, "exactly beta", |r, x| x.fill(V::of(r.normal() * 1e10))),
        row("lognormal, sigma 1", ORDINARY, EPS, "a mild tail", |r, x| each(x, |_| r.normal().exp())),
        row("sparse", ORDINARY, EPS, "most elements are 0, as after a ReLU", |r, x| each(x, |_| if r.below(10) == 0 { r.normal() } else { 0.0 })),
        row("lognormal, sigma 4", ADVERSARIAL, EPS, "a few elements hold all of the variance", |r, x| each(x, |_| (4.0 * r.normal()).exp())),
        row("step of any height", ADVERSARIAL, EPS, "the shift may lie many deviations of its chunk away", move |r, x| step(r, x, 0.0, step_digits)),
        row(format!("step of any height, mean {offset:e}"), ADVERSARIAL, EPS, "the same with an offset", move |r, x| step(r, x, offset, step_digits)),
        row("step without noise", ADVERSARIAL, EPS, "every rounding goes the same way", flat_step),
        row("outlier ahead of a constant", ADVERSARIAL, 0.0, "every rounding goes the same way, at the size of the outlier", |r, x| { x.fill(V::of(10f64.powf(-3.0 * r.uniform()))); x[0] = V::of(1.0 + r.uniform()); }),
    ];
    for size in outliers {
        table.extend([
            row(format!("outlier {size:e} at the front"), ADVERSARIAL, EPS, "the shift starts from the outlier", move |r, x| outlier(r, x, size, 0.0)),
            row(format!("outlier {size:e} in the middle"), ADVERSARIAL, EPS, "one element holds the variance", move |r, x| outlier(r, x, size, 0.5)),
            row(format!("outlier {size:e} at the end"), ADVERSARIAL, EPS, "one element holds the variance", move |r, x| outlier(r, x, size, 1.0)),
        ]);
    }
    table.extend([
        row(format!("outlier {0:e} anywhere, mean {0:e}", offset), ADVERSARIAL, EPS, "the same with an offset", move |r, x| { let at = r.uniform(); outlier(r, x, offset, at); each_add(x, offset) }),
        row(format!("normal * {edge:e}"), ORDINARY, EPS, "at the edge of the range of the fast path", move |r, x| normal(r, x, 0.0, edge)),
        row(format!("normal * {large:e}"), ORDINARY, EPS, "squares overflow: the slow path", move |r, x| normal(r, x, 0.0, large)),
        row(format!("normal * {huge:e}"), ORDINARY, EPS, "squares overflow: the slow path", move |r, x| normal(r, x, 0.0, huge)),
        row(format!("uniform +-{max:e}"), ORDINARY, EPS, "differences overflow: the slow path", move |r, x| each(x, |_| V::signed(r) * max)),
        row(format!("{:e}, and 1 % of it as noise", 0.9 * max), ORDINARY, EPS, "sums overflow: the slow path", move |r, x| each(x, |_| 0.9 * max + 0.009 * max * V::signed(r))),
        row(format!("normal * {small:e}, eps 0"), ORDINARY, 0.0, "on the fast path", move |r, x| normal(r, x, 0.0, small)),
        row(format!("normal * {lower_edge:e}, eps 0"), ORDINARY, 0.0, "at the edge of the range of the fast path", move |r, x| normal(r, x, 0.0, lower_edge)),
        row(format!("normal * {tiny:e}, eps 0"), ORDINARY, 0.0, "squares underflow: the slow path", move |r, x| normal(r, x, 0.0, tiny)),
        row(format!("normal * {tiny:e}"), ORDINARY, EPS, "squares underflow, and eps hides it", move |r, x| normal(r, x, 0.0, tiny)),
        row("denormals, eps 0", ORDINARY, 0.0, "the slow path", move |r, x| normal(r, x, 0.0, denormal)),
        row("smallest denormals, eps 0", ORDINARY, 0.0, "the slow path", move |r, x| normal(r, x, 0.0, smallest)),
        row("denormals", ORDINARY, EPS, "eps hides them", move |r, x| normal(r, x, 0.0, denormal)),
        row("zeros, eps 0", ORDINARY, 0.0, "exactly beta; without a mean exactly 0", |_, x| each(x, |i| if i % 2 == 0 { 0.0 } else { -0.0 })),
        row("zeros but for one, eps 0", ADVERSARIAL, 0.0, "one element holds all", |r, x| { x.fill(V::of(0.0)); let i = r.below(x.len()); x[i] = V::of((30.0 * r.normal()).exp2()); }),
        row(format!("1 and {:e} by turns, eps 0", 1.0 / huge), ORDINARY, 0.0, "squares of half the elements underflow, and do not count", move |_, x| each(x, |i| if i % 2 == 0 { 1.0 } else { 1.0 / huge })),
    ]);
    table
}

fn each<V: Value>(x: &mut [V], mut f: impl FnMut(usize) -> f64) {
    for (i, x) in x.iter_mut().enumerate() {
        *x = V::of(f(i));
    }
}

fn each_add<V: Value>(x: &mut [V], offset: f64) {
    x.iter_mut().for_each(|x| *x = V::of(x.wide() + offset));
}

fn normal<V: Value>(random: &mut Random, x: &mut [V], mean: f64, deviation: f64) {
    each(x, |_| mean + deviation * random.normal());
}

/// Noise of deviation 1 that rises somewhere, by 0.1 to a number of `digits` digits.
fn step<V: Value>(random: &mut Random, x: &mut [V], mean: f64, digits: f64) {
    let (at, height) = (random.below(x.len() + 1), 10f64.powf(digits * random.uniform() - 1.0));
    each(x, |i| mean + random.normal() + if i >= at { height } else { 0.0 });
}

fn flat_step<V: Value>(random: &mut Random, x: &mut [V]) {
    let (at, low, high) = (random.below(x.len() + 1), random.normal(), random.normal());
    each(x, |i| if i >= at { high } else { low });
}

/// Noise of deviation 1 with one element of the given size, `at` of the way through.
fn outlier<V: Value>(random: &mut Random, x: &mut [V], size: f64, at: f64) {
    normal(random, x, 0.0, 1.0);
    let at = ((x.len() - 1) as f64 * at) as usize;
    x[at] = V::of(size);
}
