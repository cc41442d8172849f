//! How far dgamma and dbeta are from the exact sums over the rows, on random data and whatever the offset of x: within
//! 4 u sqrt(rows) of the size of a term. Where the terms are whole numbers the sums are exact.
//!
//! Errors add up at random, so that no bound holds for all columns. Two things are asserted: three standard deviations
//! of the errors are within the bound with the typical size of a term (the root of the mean square), and all columns
//! are within the bound with the largest term.

use lanenorm::{Isa, RmsNorm};
use twofloat::TwoFloat;

use super::oracle::exact;
use crate::accuracy::{Worst, u};
use crate::support::{GradCall, GradProblem, Problem, Random, Types, Value, assert_same_bits, quick, tiers};

/// The bound, in units of u sqrt(rows) times the size of a term: few roundings follow one another, and they have either
/// sign.
const BOUND: f64 = 4.0;

/// From one row to many times the rows of the smallest parts.
const SHAPES: [(usize, usize); 11] = [
    (1, 300),
    (4, 100),
    (16, 65),
    (65, 65),
    (100, 64),
    (1000, 7),
    (2048, 9),
    (2049, 3),
    (8192, 5),
    (20_000, 3),
    (65_536, 2),
];

fn random_problem<K: Types>(rows: usize, cols: usize, offset: f64, seed: u64) -> GradProblem<K> {
    let mut random = Random::new(seed << 40 | (rows as u64) << 8 | cols as u64);
    let mut problem = GradProblem::<K>::ordinary(rows, cols, seed);
    problem.forward.x.iter_mut().for_each(|x| *x = K::X::of(offset + random.normal()));
    problem.dy.iter_mut().for_each(|dy| *dy = K::X::of(random.normal()));
    problem
}

/// An exact sum, and the sizes of its terms: |dy| (1 + |xhat|) in dgamma, as in the errors of y, and |dy| in dbeta.
struct Sum {
    sum: TwoFloat,
    squares: f64,
    largest: f64,
}

impl Sum {
    const NONE: Self = Self { sum: TwoFloat::from_f64(0.0), squares: 0.0, largest: 0.0 };

    fn add(&mut self, term: TwoFloat, size: f64) {
        self.sum += term;
        self.squares += size * size;
        self.largest = self.largest.max(size);
    }
}

/// The exact dgamma and dbeta.
fn exact_sums<K: Types>(problem: &GradProblem<K>) -> [Vec<Sum>; 2] {
    let cols = problem.forward.cols;
    let [mut dgamma, mut dbeta] = [(); 2].map(|()| (0..cols).map(|_| Sum::NONE).collect::<Vec<_>>());
    for (r, dy) in problem.dy.chunks_exact(cols).enumerate() {
        let exact = exact(problem, r);
        for (i, dy) in dy.iter().enumerate() {
            let (xhat, size) = (exact.xhat[i], dy.wide().abs());
            dgamma[i].add(xhat * dy.wide(), size * (1.0 + f64::from(xhat).abs()));
            dbeta[i].add(TwoFloat::from(dy.wide()), size);
        }
    }
    [dgamma, dbeta]
}

/// The errors of one vector at one offset, in units of u sqrt(rows).
#[derive(Default)]
struct Report {
    /// The sum of the squares of all errors, with the root of the mean square of the terms as the size of a term.
    squares: f64,
    number: f64,
    /// The worst error with that size, and the worst with the largest term as the size.
    worst_typical: f64,
    worst: Worst,
}

impl Report {
    fn see<K: Types>(&mut self, problem: &GradProblem<K>, sums: &[Sum], got: &[K::F]) {
        let rows = problem.forward.rows as f64;
        for (col, (exact, &got)) in sums.iter().zip(got).enumerate() {
            let error = f64::from((exact.sum - got.wide()).abs()) / u::<K>();
            if error == 0.0 {
                continue;
            }
            self.squares += error * error / exact.squares;
            self.number += 1.0;
            self.worst_typical = self.worst_typical.max(error / exact.squares.sqrt());
            self.worst.see(error / (rows.sqrt() * exact.largest), || {
                format!("{problem}, column {col}: {got:e}, exact {:e}", f64::from(exact.sum))
            });
        }
    }
}

fn sums_are_accurate<K: Types>() {
    let offsets = if size_of::<K::X>() == size_of::<f64>() { [0.0, 1e4, 1e12] } else { [0.0, 1e2, 1e6] };
    let most = if quick() {
        1000
    } else if K::ONE_OF == 1 {
        100_000
    } else {
        10_000
    };
    let mut failures = String::new();
    for offset in offsets {
        let [mut dgamma, mut dbeta] = [Report::default(), Report::default()];
        for (rows, cols) in SHAPES.into_iter().filter(|(rows, _)| *rows <= most) {
            for seed in 0..if rows < 2000 && !quick() { 4 } else { 1 } {
                let [layer_norm, rms_norm] = random_problem::<K>(rows, cols, offset, seed).of_every_operation();
                // f16 cannot hold such an offset. Without a mean, an offset only makes x larger.
                if !layer_norm.forward.x[0].wide().is_finite() {
                    continue;
                }
                for problem in [layer_norm, rms_norm].iter().take(if offset == 0.0 { 2 } else { 1 }) {
                    let got = problem.run(&GradCall::plain(Isa::best()));
                    let [of_gamma, of_beta] = exact_sums(problem);
                    dgamma.see(problem, &of_gamma, got.dgamma());
                    dbeta.see(problem, &of_beta, got.dbeta.as_deref().unwrap_or_default());
                }
            }
        }
        for (name, Report { squares, number, worst_typical, worst: Worst { factor, at } }) in
            [("dgamma", dgamma), ("dbeta", dbeta)]
        {
            let deviation = if number == 0.0 { 0.0 } else { (squares / number).sqrt() };
            println!(
                "{:<14} offset {offset:<6e} {name:<6} {deviation:>5.2} worst {worst_typical:>5.2} {factor:>5.2}  {at}",
                K::NAME
            );
            if ![3.0 * deviation, factor].iter().all(|factor| *factor <= BOUND) {
                failures += &format!("\n{name}, offset {offset:e}: deviation {deviation:.2}, worst {factor:.2}: {at}");
            }
        }
    }
    assert!(failures.is_empty(), "{}: errors beyond their bounds:{failures}", K::NAME);
}

/// A sum in the type of x would stop growing: at 256 in bf16, at 2048 in f16.
fn rows_of_ones_are_counted_exactly<K: Types>() {
    for (rows, cols) in [(256, 3), (8192, 2), (8193, 64), (100_000, 4)] {
        if quick() && rows > 10_000 {
            continue;
        }
        // Without eps, xhat is 1 and -1 by turns.
        let mut problem = GradProblem::<K>::ordinary(rows, cols, 1).with_eps(0.0);
        let by_turns = |i: usize| K::X::of(if (i % cols).is_multiple_of(2) { 3.0 } else { -3.0 });
        problem.forward.x.iter_mut().enumerate().for_each(|(i, x)| *x = by_turns(i));
        problem.dy.fill(K::X::of(1.0));
        let even = cols % 2 == 0;
        for problem in problem.of_every_operation() {
            let centered = problem.forward.operation.is_layer_norm();
            let n = rows as f64;
            let dgamma: Vec<_> = (0..cols).map(|i| K::F::of(if i % 2 == 0 { n } else { -n })).collect();
            for &isa in tiers() {
                let got = problem.run(&GradCall::plain(isa));
                if even || !centered {
                    assert_same_bits(format_args!("{isa}, {problem}: dgamma"), cols, &dgamma, got.dgamma());
                }
                if centered {
                    let ones = vec![K::F::of(n); cols];
                    assert_same_bits(format_args!("{isa}, {problem}: dbeta"), cols, &ones, got.dbeta());
                }
            }
        }
    }
}

/// Both are sums of `rows` terms of size 1, and differ by rounding alone.
fn assert_close<K: Types>(what: std::fmt::Arguments<'_>, rows: usize, want: &[K::F], got: &[K::F]) {
    let tolerance = 8.0 * K::F::EPSILON.wide() * (rows as f64).sqrt();
    for (i, (want, got)) in want.iter().zip(got).enumerate() {
        let (want, got) = (want.wide(), got.wide());
        assert!((want - got).abs() <= tolerance, "{what}: column {i}: {got:e}, expected {want:e}");
    }
}

/// Rows whose dy is zero (padding, say) add nothing, wherever they are, and their dx is 0. They change which rows are
/// added to each other, and with that the last bits of the sums.
fn masked_rows_add_nothing<K: Types>() {
    for (i, (rows, cols)) in [(8, 1), (9, 7), (30, 64), (32, 193), (17, 1030)].into_iter().enumerate() {
        let ordinary = GradProblem::<K>::ordinary(rows, cols, 2);
        for problem in ordinary.of_every_operation() {
            let mut masked = problem.clone();
            let is_masked = |r: usize| [r.is_multiple_of(3), r >= rows / 2, r != rows - 1, (4..8).contains(&r)][i % 4];
            for (r, dy) in masked.dy.chunks_exact_mut(cols).enumerate().filter(|(r, _)| is_masked(*r)) {
                dy.iter_mut().enumerate().for_each(|(i, dy)| *dy = K::X::of(if (i + r) % 2 == 0 { 0.0 } else { -0.0 }));
            }
            let others: Vec<usize> = (0..rows).filter(|r| !is_masked(*r)).collect();
            let expected = problem.only(&others).expected();
            for &isa in tiers() {
                let got = masked.run(&GradCall::plain(isa));
                let what = format_args!("{isa}, {masked}");
                assert_close::<K>(what, rows, expected.dgamma(), got.dgamma());
                if let Some(dbeta) = &got.dbeta {
                    assert_close::<K>(what, rows, expected.dbeta(), dbeta);
                }
                let mut of_others = expected.dx().chunks_exact(cols);
                for (r, dx) in got.dx().chunks_exact(cols).enumerate() {
                    if is_masked(r) {
                        assert!(dx.iter().all(|&dx| dx == K::X::default()), "{what}: row {r}: {dx:?}");
                    } else {
                        assert_same_bits(what, cols, of_others.next().expect("a row"), dx);
                    }
                }
            }
        }
    }
}

/// gamma does not enter the sums.
fn sums_do_not_depend_on_gamma<K: Types>() {
    for problem in GradProblem::<K>::ordinary(70, 100, 3).of_every_operation() {
        let without = GradProblem { forward: Problem { gamma: None, ..problem.forward.clone() }, ..problem.clone() };
        let (a, b) = (problem.expected(), without.expected());
        assert_same_bits(format_args!("{problem}"), 100, a.dgamma(), b.dgamma());
        assert_eq!(a.dbeta, b.dbeta, "{problem}");
    }
}

for_every_type!(
    sums_are_accurate,
    rows_of_ones_are_counted_exactly,
    masked_rows_add_nothing,
    sums_do_not_depend_on_gamma,
);

/// A sum whose terms all underflow to -0 is +0, for one leaf of rows as for many.
#[test]
fn sums_of_nothing_are_positive_zeros() {
    for (isa, rows) in tiers().iter().flat_map(|&isa| [1, 2, 3, 16, 17, 64, 65, 1000].map(|rows| (isa, rows))) {
        let (x, dy) = ([1e-20_f32, 1.0].repeat(rows), [-1e-30_f32, -0.0].repeat(rows));
        let mut dgamma = [1.0_f32; 2];
        let plan = RmsNorm::new(2, 0.0).expect("a plan").with_isa(isa);
        plan.backward(&x, &x).dgamma_to(&mut dgamma).run().expect("a valid call");
        assert!(dgamma[1] > 0.0);
        plan.backward(&dy, &x).dgamma_to(&mut dgamma).run().expect("a valid call");
        assert_eq!(dgamma.map(f32::to_bits), [0; 2], "{isa}, {rows} rows");
    }
}
