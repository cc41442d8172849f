//! How far y and the statistics are from the f64 reference, on a table of distributions with the bound of each.
//!
//! The factor of an element is |y - exact| / (u * (|gamma| * (1 + |xhat|) + |beta|)), with u = 2^-24. For RMSNorm
//! gamma + offset, rounded to f32, is in the place of gamma, and there is no beta.
//!
//! Is f64 exact enough to judge by? Sums of n terms, one after the other, are off by at most n * 2^-53 of the sum of
//! their sizes: 1e-11 at the longest rows here, against u = 6e-8. But the mean itself, rounded to f64, is off by
//! 2^-54 of its size, which is more than u of a deviation where the row is constant but for a last bit. So the row is
//! counted from its first element, a difference that f64 holds exactly wherever that matters, and the reference sees
//! that row: shifted rows have the same xhat. RMSNorm, which has no mean, needs none of this.

mod table;

use lanenorm::kernels::reference;
use lanenorm::{Isa, LayerNorm, RmsNorm, StatsMut};

use crate::support::{Random, quick};
use table::{DISTRIBUTIONS, Distribution};

const U: f64 = 1.0 / (1 << 24) as f64;

/// Short rows of every loop, lengths around a chunk, and long ones.
const COLS: [usize; 18] = [1, 2, 3, 7, 31, 64, 65, 192, 193, 333, 768, 1000, 1024, 1025, 2100, 4096, 16_384, 100_003];

fn seeds(cols: usize) -> u64 {
    let seeds = if cols <= 4096 { 100 } else { 4 };
    if quick() { seeds / 20 } else { seeds }
}

/// The worst that was seen, and where.
#[derive(Default)]
struct Worst {
    factor: f64,
    at: String,
}

impl Worst {
    fn see(&mut self, factor: f64, at: impl FnOnce() -> String) {
        // A NaN is the worst of all.
        if self.factor >= factor || self.factor.is_nan() {
            return;
        }
        *self = Self { factor, at: at() };
    }
}

/// The worst of one distribution. There is no mean in RMSNorm.
#[derive(Default)]
struct Report {
    y: Worst,
    mean: Worst,
    rstd: Worst,
}

fn affine(random: &mut Random, cols: usize) -> (Vec<f32>, Vec<f32>) {
    let mut vector = |scale: f64| (0..cols).map(|_| (random.normal() * scale) as f32).collect();
    (vector(1.0), vector(0.5))
}

/// The factors of one row under LayerNorm. The bits of all tiers are the same (see `bits`), so that one speaks for all.
fn measure_layer_norm(report: &mut Report, distribution: &Distribution, cols: usize, seed: u64) {
    let mut random = Random::new(seed << 32 | cols as u64);
    let (mut x, mut y) = (vec![0.0; cols], vec![0.0; cols]);
    (distribution.fill)(&mut random, &mut x);
    let (gamma, beta) = affine(&mut random, cols);
    let (gamma, beta) = if seed % 4 == 3 { (None, None) } else { (Some(&gamma[..]), Some(&beta[..])) };
    let ([mut mean], [mut mean_lo], [mut rstd]) = ([0.0], [0.0], [0.0]);
    let stats = StatsMut {
        mean: Some(std::slice::from_mut(&mut mean)),
        mean_lo: Some(std::slice::from_mut(&mut mean_lo)),
        rstd: Some(std::slice::from_mut(&mut rstd)),
    };
    let plan = LayerNorm::new(cols, distribution.eps).expect("a valid eps").with_isa(Isa::best());
    plan.forward_with_stats(&x, gamma, beta, &mut y, stats).expect("a valid call");

    let (origin, row) = count_from_first(&x);
    let exact = reference::stats(&row, distribution.eps);
    let mut exact_y = vec![0.0; cols];
    reference::layer_norm(&row, gamma, beta, distribution.eps, &mut exact_y);
    let here = || format!("{cols} columns, seed {seed}");
    for i in 0..cols {
        let xhat = reference::xhat(row[i], &exact);
        let (gamma, beta) = (gamma.map_or(1.0, |g| g[i]), beta.map_or(0.0, |b| b[i]));
        let scale = f64::from(gamma.abs()) * (1.0 + xhat.abs()) + f64::from(beta.abs());
        let factor = (f64::from(y[i]) - exact_y[i]).abs() / (U * scale);
        report.y.see(factor, || format!("{}, column {i} (x = {:e}): {:e}, exact {:e}", here(), x[i], y[i], exact_y[i]));
    }
    let (mean_error, mean_rounding) = mean_error(mean, mean_lo, origin, &exact);
    report.mean.see((mean_error - mean_rounding).max(0.0) * exact.rstd.min(f64::MAX) / U, || {
        format!("{}: {mean:e} + {mean_lo:e}, exact {origin:e} + {:e}", here(), exact.mean)
    });
    report.rstd.see(rstd_error(rstd, exact.rstd) / U, || format!("{}: {rstd:e}, exact {:e}", here(), exact.rstd));
}

/// The factors of one row under RMSNorm.
fn measure_rms_norm(report: &mut Report, distribution: &Distribution, cols: usize, seed: u64) {
    let mut random = Random::new(seed << 32 | cols as u64);
    let (mut x, mut y) = (vec![0.0; cols], vec![0.0; cols]);
    (distribution.fill)(&mut random, &mut x);
    let (gamma, _) = affine(&mut random, cols);
    let gamma = if seed % 4 == 3 { None } else { Some(&gamma[..]) };
    let offset = [0.0, 1.0][(seed % 2) as usize];
    let mut rstd = 0.0;
    let plan = RmsNorm::new(cols, distribution.eps).expect("a valid eps").with_offset(offset).with_isa(Isa::best());
    plan.forward_with_rstd(&x, gamma, &mut y, std::slice::from_mut(&mut rstd)).expect("a valid call");

    let (mut xhat, mut exact_y) = (vec![0.0; cols], vec![0.0; cols]);
    reference::rms_norm(&x, None, 0.0, distribution.eps, &mut xhat);
    reference::rms_norm(&x, gamma, offset, distribution.eps, &mut exact_y);
    let exact_rstd = reference::rms_rstd(&x, distribution.eps);
    let here = || format!("{cols} columns, seed {seed}");
    for i in 0..cols {
        let error = (f64::from(y[i]) - exact_y[i]).abs();
        let scale = f64::from(gamma.map_or(1.0, |g| g[i] + offset).abs()) * (1.0 + xhat[i].abs());
        let factor = if error == 0.0 { 0.0 } else { error / (U * scale) };
        report.y.see(factor, || format!("{}, column {i} (x = {:e}): {:e}, exact {:e}", here(), x[i], y[i], exact_y[i]));
    }
    report.rstd.see(rstd_error(rstd, exact_rstd) / U, || format!("{}: {rstd:e}, exact {exact_rstd:e}", here()));
}

/// The row less its first element, and that element, if all differences are exact in f32: so they are wherever the
/// row is small beside its offset. Else the row as it is.
fn count_from_first(x: &[f32]) -> (f64, Vec<f32>) {
    let shifted: Vec<f32> = x.iter().map(|v| v - x[0]).collect();
    let exact = x.iter().zip(&shifted).all(|(&v, &s)| f64::from(v) - f64::from(x[0]) == f64::from(s));
    if exact { (f64::from(x[0]), shifted) } else { (0.0, x.to_vec()) }
}

/// The error of mean + `mean_lo`, and what of it is due to keeping the mean in two f32: 2^-48 of it, or the last bit of a
/// denormal. The rest counts in standard deviations.
fn mean_error(mean: f32, mean_lo: f32, origin: f64, exact: &reference::Stats) -> (f64, f64) {
    let error = (f64::from(mean) - origin + f64::from(mean_lo) - exact.mean).abs();
    (error, f64::from(mean.abs()) * (-48f64).exp2() + f64::from(f32::from_bits(1)))
}

/// The relative error of rstd: none where it is beyond the range of f32 and infinite; the last bit of a denormal is
/// forgiven.
fn rstd_error(rstd: f32, exact: f64) -> f64 {
    if rstd == exact as f32 {
        return 0.0;
    }
    ((f64::from(rstd) - exact).abs() - f64::from(f32::from_bits(1))).max(0.0) / exact
}

/// Measures all distributions, and holds the worst of each against its bound.
fn assert_within(measure: impl Fn(&mut Report, &Distribution, usize, u64)) {
    let mut failures = String::new();
    println!("{:<34} {:>5} {:>7} {:>7} {:>7}  worst y", "distribution", "bound", "y", "mean", "rstd");
    for distribution in DISTRIBUTIONS {
        let mut report = Report::default();
        for cols in COLS.into_iter().filter(|&c| !quick() || c < 16_384) {
            for seed in 0..seeds(cols) {
                measure(&mut report, distribution, cols, seed);
            }
        }
        let Distribution { name, why, bound, .. } = distribution;
        let (y, mean, rstd) = (report.y.factor, report.mean.factor, report.rstd.factor);
        println!("{name:<34} {bound:>5} {y:>7.2} {mean:>7.2} {rstd:>7.2}  {}", report.y.at);
        for (what, worst) in [("y", report.y), ("mean", report.mean), ("rstd", report.rstd)] {
            if worst.factor.is_nan() || worst.factor > *bound {
                failures += &format!("\n{name} ({why}): {what} {:.2} u, bound {bound}: {}", worst.factor, worst.at);
            }
        }
    }
    assert!(failures.is_empty(), "errors beyond their bounds:{failures}");
}

#[test]
fn errors_of_layer_norm_stay_within_their_bounds() {
    assert_within(measure_layer_norm);
}

#[test]
fn errors_of_rms_norm_stay_within_their_bounds() {
    assert_within(measure_rms_norm);
}
