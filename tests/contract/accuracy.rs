//! How far y and the statistics are from their exact values, on a table of distributions, each with its bound.
//!
//! The factor of an element is |y - exact| / (u * (|gamma + offset| * (1 + |xhat|) + |beta|)), with u = 2^-24, or 2^-53
//! for f64; gamma + offset is rounded to the type that rows are computed in, and RMSNorm has no beta. From an error in
//! 16 bits, half a unit in the last place is subtracted first: the most that rounding the exact value may cost.
//!
//! f64 is exact enough to judge results in f32: see [`oracle`], which also says what judges f64.

pub(crate) mod oracle;
mod table;

use lanenorm::Isa;

use crate::support::{Call, Operation, Problem, Random, Types, Value, quick};
use oracle::Verdict;
use table::{Distribution, distributions};

/// Short rows of every loop, lengths around a chunk, and long ones.
const COLS: [usize; 18] = [1, 2, 3, 7, 31, 64, 65, 192, 193, 333, 768, 1000, 1024, 1025, 2100, 4096, 16_384, 100_003];

/// The unit of the bounds: half an epsilon of the type that rows are computed in.
pub(crate) fn u<K: Types>() -> f64 {
    K::F::EPSILON.wide() / 2.0
}

fn seeds<K: Types>(cols: usize) -> u64 {
    let seeds: u64 = if cols <= 4096 { 64 } else { 3 };
    let seeds = seeds / if quick() { 20 } else { 1 };
    match K::ONE_OF {
        1 => seeds,
        _ if size_of::<K::X>() == size_of::<f64>() => seeds.div_ceil(8),
        // Long rows of 16 bits are summed as rows of f32 are.
        _ if cols > 4096 => 0,
        one_of => seeds.div_ceil(8 * one_of as u64),
    }
}

/// The worst factor so far, and its place.
#[derive(Default)]
pub(crate) struct Worst {
    pub(crate) factor: f64,
    pub(crate) at: String,
}

impl Worst {
    pub(crate) fn see(&mut self, factor: f64, at: impl FnOnce() -> String) {
        // A NaN counts as the worst.
        if self.factor >= factor || self.factor.is_nan() {
            return;
        }
        *self = Self { factor, at: at() };
    }
}

/// The worst factors of one distribution. RMSNorm has no mean.
#[derive(Default)]
struct Report {
    y: Worst,
    mean: Worst,
    rstd: Worst,
    rows: usize,
}

/// A row of the distribution, with or without gamma and beta. `None` if the type cannot hold the row.
fn problem<K: Types>(
    distribution: &Distribution<K::X>,
    layer_norm: bool,
    cols: usize,
    seed: u64,
) -> Option<Problem<K>> {
    let mut random = Random::new(seed << 32 | cols as u64);
    let mut x = vec![K::X::default(); cols];
    (distribution.fill)(&mut random, &mut x);
    let mut vector = |scale: f64| Some((0..cols).map(|_| K::G::of(random.normal() * scale)).collect());
    let (gamma, beta) = (vector(1.0), vector(0.5));
    let (gamma, beta) = if seed % 4 == 3 { (None, None) } else { (gamma, beta.filter(|_| layer_norm)) };
    let offset = [0.0, 1.0][(seed % 2) as usize];
    let operation = if layer_norm { Operation::LayerNorm { offset } } else { Operation::RmsNorm { offset } };
    let is_held = x.iter().all(|x| x.wide().is_finite());
    is_held.then_some(Problem { operation, groups: (1, 1), rows: 1, cols, x, gamma, beta, eps: distribution.eps })
}

/// The factors of one row. All tiers have the same bits (see `bits`), so that one tier is enough.
fn measure<K: Types>(report: &mut Report, problem: &Problem<K>, seed: u64) {
    let output = problem.run(&Call::plain(Isa::best()));
    let Verdict { y: exact_y, errors, xhat, mean_error, rstd, rstd_error } = oracle::judge(problem, &output);
    let u = u::<K>();
    let here = || format!("{} columns, seed {seed}", problem.cols);
    for (i, (x, y)) in problem.x.iter().zip(&output.y).enumerate() {
        let beta = problem.beta.as_ref().map_or(0.0, |b| b[i].wide());
        let scale = oracle::factor(problem, i).wide().abs() * (1.0 + xhat[i].abs()) + beta.abs();
        let error = (errors[i] - rounding::<K>(exact_y[i])).max(0.0);
        let factor = if error == 0.0 { 0.0 } else { error / (u * scale) };
        report.y.see(factor, || format!("{}, column {i} (x = {x:e}): {y:e}, exact {:e}", here(), exact_y[i]));
    }
    report.mean.see(mean_error / u, || format!("{}: {:e} + {:e}", here(), output.mean[0], output.mean_lo[0]));
    report.rstd.see(rstd_error / u, || format!("{}: {:e}, exact {rstd:e}", here(), output.rstd[0]));
    report.rows += 1;
}

/// The most that rounding an exact value to a y of 16 bits may cost: half the distance to its neighbour.
pub(crate) fn rounding<K: Types>(exact: f64) -> f64 {
    if size_of::<K::Y>() >= size_of::<K::F>() {
        return 0.0;
    }
    let power_of_two = f64::from_bits(exact.to_bits() & f64::INFINITY.to_bits());
    0.5 * K::Y::EPSILON.wide() * power_of_two.max(K::Y::MIN_POSITIVE.wide())
}

/// Measures all distributions, and compares the worst factor of each with its bound.
fn assert_within<K: Types>(layer_norm: bool) {
    let mut failures = String::new();
    println!("{}", K::NAME);
    println!("{:<34} {:>5} {:>7} {:>7} {:>7}  worst y", "distribution", "bound", "y", "mean", "rstd");
    for distribution in distributions::<K::X>() {
        let mut report = Report::default();
        for cols in COLS.into_iter().filter(|&c| !quick() || c < 16_384) {
            for seed in 0..seeds::<K>(cols) {
                if let Some(problem) = problem::<K>(&distribution, layer_norm, cols, seed) {
                    measure(&mut report, &problem, seed);
                }
            }
        }
        let Distribution { name, why, bound, .. } = &distribution;
        let (y, mean, rstd) = (report.y.factor, report.mean.factor, report.rstd.factor);
        if report.rows > 0 {
            println!("{name:<34} {bound:>5} {y:>7.2} {mean:>7.2} {rstd:>7.2}  {}", report.y.at);
        }
        for (what, worst) in [("y", report.y), ("mean", report.mean), ("rstd", report.rstd)] {
            if worst.factor.is_nan() || worst.factor > *bound {
                failures += &format!("\n{name} ({why}): {what} {:.2} u, bound {bound}: {}", worst.factor, worst.at);
            }
        }
    }
    assert!(failures.is_empty(), "{}: errors beyond their bounds:{failures}", K::NAME);
}

fn errors_of_layer_norm_stay_within_their_bounds<K: Types>() {
    assert_within::<K>(true);
}

fn errors_of_rms_norm_stay_within_their_bounds<K: Types>() {
    assert_within::<K>(false);
}

for_all_types!(errors_of_layer_norm_stay_within_their_bounds, errors_of_rms_norm_stay_within_their_bounds);
