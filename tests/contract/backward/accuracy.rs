//! How far dx is from the exact gradient, on a table of distributions of x and dy, each with its bound.
//!
//! With g = dy (gamma + offset), the factor of an element is
//! |dx - exact| / (u (rstd (|g| + mean |g| + (1 + |xhat|) mean |g xhat|) + |ds|)), u = 2^-24, or 2^-53 for f64: the
//! sizes of the three terms of dx and of ds. Without a mean, mean |g| is left out. From an error in 16 bits, half a
//! unit in the last place is subtracted first: the most that rounding the exact value may cost.

use lanenorm::Isa;

use super::oracle::exact;
use crate::accuracy::{Worst, u};
use crate::support::forms::{GradIo, ParamGrads, Stats};
use crate::support::{GradCall, GradProblem, Operation, Problem, Random, Statistics, Types, Value, quick};

const COLS: [usize; 11] = [1, 2, 3, 7, 64, 65, 193, 768, 1025, 4096, 20_000];

type Fill<V> = Box<dyn Fn(&mut Random, &mut [V])>;

/// A way to fill x, one to fill dy, and how accurate dx must be.
struct Distribution<V> {
    name: String,
    bound: f64,
    eps: f64,
    /// Why the bound is what it is.
    why: &'static str,
    x: Fill<V>,
    dy: Fill<V>,
}

const ORDINARY: f64 = 8.0;

const ADVERSARIAL: f64 = 16.0;

fn each<V: Value>(v: &mut [V], mut f: impl FnMut(usize) -> f64) {
    v.iter_mut().enumerate().for_each(|(i, v)| *v = V::of(f(i)));
}

fn normal<V: Value>(mean: f64, deviation: f64) -> Fill<V> {
    Box::new(move |r, v| each(v, |_| mean + deviation * r.normal()))
}

fn ramp<V: Value>(r: &mut Random, v: &mut [V]) {
    let n = v.len() as f64;
    let slope = r.normal();
    each(v, |i| slope * (i as f64 / n - 0.5));
}

fn one_hot<V: Value>(r: &mut Random, v: &mut [V]) {
    v.fill(V::of(0.0));
    v[r.below(v.len())] = V::of(1.0 + r.uniform());
}

fn outlier<V: Value>(size: f64) -> Fill<V> {
    Box::new(move |r, v| {
        each(v, |_| r.normal());
        v[r.below(v.len())] = V::of(size);
    })
}

fn step<V: Value>(r: &mut Random, v: &mut [V]) {
    let (at, height) = (r.below(v.len() + 1), 10f64.powf(5.0 * r.uniform() - 1.0));
    each(v, |i| r.normal() + if i >= at { height } else { 0.0 });
}

fn lognormal<V: Value>(sigma: f64) -> Fill<V> {
    Box::new(move |r, v| each(v, |_| (sigma * r.normal()).exp()))
}

#[rustfmt::skip]
fn distributions<V: Value>() -> Vec<Distribution<V>> {
    let is_f64 = size_of::<V>() == size_of::<f64>();
    let offsets = if is_f64 { [1.0, 1e4, 1e8, 1e12] } else { [1.0, 1e2, 1e4, 1e6] };
    let (huge, tiny) = if is_f64 { (1e200, 1e-200) } else { (1e25, 1e-25) };
    let row = |name: &str, bound, eps, why, x, dy| Distribution { name: name.into(), bound, eps, why, x, dy };
    let unit = || normal(0.0, 1.0);
    let mut table = vec![
        row("normal", ORDINARY, 1e-5, "the usual case", unit(), unit()),
        row("normal, eps 1e-12", ORDINARY, 1e-12, "eps of BERT-like models", unit(), unit()),
        row("dy with an offset", ORDINARY, 1e-5, "c1 takes most of g", unit(), normal(100.0, 1.0)),
        row("dy constant", ORDINARY, 1e-5, "c1 takes all of g", unit(), Box::new(|r, v| { let a = r.normal(); each(v, |_| a); })),
        row("x and dy both a ramp", ORDINARY, 1e-5, "c2 takes most of g", Box::new(ramp), Box::new(ramp)),
        row("dy one-hot", ORDINARY, 1e-5, "as of a loss that picks one element", unit(), Box::new(one_hot)),
        row("dy lognormal, sigma 4", ORDINARY, 1e-5, "a few elements hold all of the sums", unit(), lognormal(4.0)),
        row("dy with an outlier", ADVERSARIAL, 1e-5, "every later addition in its lane rounds the sum at the size of the outlier", unit(), outlier(1e4)),
        row("x lognormal, sigma 1", ORDINARY, 1e-5, "a mild tail", lognormal(1.0), unit()),
        row("x constant", ORDINARY, 1e-5, "xhat is 0", Box::new(|r, v| { let a = r.normal(); each(v, |_| a); }), unit()),
        row("x constant, eps 0", ORDINARY, 0.0, "0 by decree", Box::new(|r, v| { let a = r.normal(); each(v, |_| a); }), unit()),
        row("x lognormal, sigma 4", ADVERSARIAL, 1e-5, "a few elements hold all of the variance", lognormal(4.0), unit()),
        row("x a step of any height", ADVERSARIAL, 1e-5, "the shift may lie many deviations of its chunk away", Box::new(step), unit()),
        row("x with an outlier", ADVERSARIAL, 1e-5, "one element holds the variance", outlier(1e4), unit()),
        row("x and dy with outliers", ADVERSARIAL, 1e-5, "the same of the sums", outlier(1e4), outlier(1e4)),
        row("x huge", ORDINARY, 1e-5, "the slow path", normal(0.0, huge), unit()),
        row("x tiny, eps 0", ORDINARY, 0.0, "the slow path", normal(0.0, tiny), unit()),
        row("x tiny", ORDINARY, 1e-5, "eps hides its variance", normal(0.0, tiny), unit()),
        row("dy huge", ORDINARY, 1e-5, "at the edge of what the loops are trusted with", unit(), normal(0.0, huge)),
        row("dy tiny", ORDINARY, 1e-5, "at the edge of what the loops are trusted with", unit(), normal(0.0, tiny)),
    ];
    for offset in offsets {
        table.push(row(&format!("normal, mean {offset:e}"), ORDINARY, 1e-5, "an offset costs nothing", normal(offset, 1.0), unit()));
    }
    table
}

fn seeds<K: Types>(cols: usize) -> u64 {
    let seeds: u64 = if cols <= 1025 { 48 } else { 6 };
    (seeds / if quick() { 16 } else { 1 }).div_ceil(K::ONE_OF as u64)
}

/// A row of the distribution. `None` if the type cannot hold the row.
fn problem<K: Types>(of: &Distribution<K::X>, layer_norm: bool, cols: usize, seed: u64) -> Option<GradProblem<K>> {
    let mut random = Random::new(seed << 32 | cols as u64);
    let [mut x, mut dy] = [vec![K::X::default(); cols], vec![K::X::default(); cols]];
    (of.x)(&mut random, &mut x);
    (of.dy)(&mut random, &mut dy);
    let gamma = (seed % 4 != 3).then(|| (0..cols).map(|_| K::G::of(random.normal())).collect());
    let ds = (seed % 4 == 2).then(|| (0..cols).map(|_| K::X::of(random.normal())).collect());
    let offset = [0.0, 1.0][(seed % 2) as usize];
    let operation = if layer_norm { Operation::LayerNorm { offset } } else { Operation::RmsNorm { offset } };
    let is_held = x.iter().chain(&dy).all(|v| v.wide().is_finite());
    let forward = Problem { operation, groups: (1, 1), rows: 1, cols, x, gamma, beta: None, eps: of.eps };
    is_held.then_some(GradProblem { forward, dy, ds })
}

/// All tiers have the same bits (see `bits`), so that one tier is enough.
fn assert_within<K: Types>(layer_norm: bool) {
    let mut failures = String::new();
    println!("{}", K::NAME);
    for of in distributions::<K::X>() {
        let (mut worst, mut rows) = (Worst::default(), 0);
        for cols in COLS.into_iter().filter(|&cols| !quick() || cols <= 4096) {
            for seed in 0..seeds::<K>(cols) {
                let Some(problem) = problem::<K>(&of, layer_norm, cols, seed) else { continue };
                let (exact, got) = (exact(&problem, 0), problem.run(&GradCall::plain(Isa::best())));
                for (i, &dx) in got.dx().iter().enumerate() {
                    let factor = exact.factor::<K>(i, dx) / u::<K>();
                    worst.see(factor, || {
                        format!("{cols} columns, seed {seed}, column {i}: {dx:e}, exact {:e}", exact.dx(i))
                    });
                }
                rows += 1;
            }
        }
        let (Distribution { name, why, bound, .. }, Worst { factor, at }) = (&of, worst);
        if rows > 0 {
            println!("{name:<26} {bound:>5} {factor:>7.2}  {at}");
        }
        if factor.is_nan() || factor > *bound {
            failures += &format!("\n{name} ({why}): {factor:.2} u, bound {bound}: {at}");
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

for_all_gradients!(errors_of_layer_norm_stay_within_their_bounds, errors_of_rms_norm_stay_within_their_bounds);

/// Other frameworks keep the mean in one number. The error of its last bit grows with the mean, in deviations.
fn a_mean_without_its_low_part_is_accurate_at_small_offsets<K: Types>() {
    for cols in COLS.into_iter().filter(|&cols| cols <= 4096) {
        for seed in 0..seeds::<K>(cols) {
            let Some(problem) = problem::<K>(&distributions()[0], true, cols, seed) else { continue };
            let kept = problem.forward.run(&crate::support::Call::plain(Isa::best()));
            let stats = Stats { mean: Some(&kept.mean), mean_lo: None, rstd: Some(&kept.rstd) };
            let (exact, mut dx) = (exact(&problem, 0), vec![K::X::default(); cols]);
            let io = GradIo::new(&problem.dy, &problem.forward.x, &mut dx);
            let io = if let Some(ds) = &problem.ds { io.with_ds(ds) } else { io };
            let (plan, gamma) = (problem.forward.plan(Isa::best()), problem.forward.gamma.as_deref());
            assert_eq!(plan.backward_mixed(io, gamma, stats, ParamGrads::default()), Ok(()));
            for (i, &dx) in dx.iter().enumerate() {
                let factor = exact.factor::<K>(i, dx) / u::<K>();
                let bound = ORDINARY * (1.0 + (kept.mean[0] * kept.rstd[0]).wide().abs());
                assert!(factor <= bound, "{problem}, column {i}: {factor:.2} u: {dx:e}, exact {:e}", exact.dx(i));
            }
        }
    }
}

/// To the last bit: dx is rounded to the type that rows are computed in, and so is its sum with ds.
fn ds_is_added_last<K: Types>() {
    for cols in COLS.into_iter().filter(|&cols| cols <= 2000) {
        let problems = GradProblem::<K>::ordinary(9, cols, 3).of_every_operation();
        for problem in problems.map(GradProblem::with_ds) {
            let call = GradCall { statistics: Statistics::Kept, ..GradCall::plain(Isa::best()) };
            let with_ds = problem.run(&call);
            let without = GradProblem { ds: None, ..problem.clone() }.run(&call);
            let ds = problem.ds.as_ref().expect("ds");
            for (i, (&dx, ds)) in without.dx().iter().zip(ds).enumerate() {
                // A dx in 16 bits has been rounded again, so that adding ds to it gives another number.
                if size_of::<K::X>() < size_of::<f32>() {
                    break;
                }
                let sum = K::F::of(dx.wide()) + K::F::of(ds.wide());
                let sum = if sum.is_nan() { K::X::QUIET_NAN } else { K::X::of(sum.wide()) };
                let got = with_ds.dx()[i];
                assert_eq!(got.bits(), sum.bits(), "{problem}, {i}: {got:e}, expected {sum:e}");
            }
        }
    }
}

for_every_type!(a_mean_without_its_low_part_is_accurate_at_small_offsets, ds_is_added_last);
