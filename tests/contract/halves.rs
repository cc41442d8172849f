//! Types of 16 bits have few enough values to try them all: as elements, as gamma and beta, in sums, and as results.

use lanenorm::{Parallelism, Store, bf16, f16};

use crate::sum::Case;
use crate::support::{Call, Output, Problem, Types, Value, assert_same_bits, quick, tiers};

/// Elements of 16 bits, alone and with f32 beside them.
pub(crate) trait Half: Value {
    type Own: Types<X = Self, G = Self, Y = Self, F = f32>;
    type WideGamma: Types<X = Self, G = f32, Y = Self, F = f32>;
    type WideY: Types<X = Self, G = Self, Y = f32, F = f32>;
    type AllWide: Types<X = Self, G = f32, Y = f32, F = f32>;
}

impl Half for f16 {
    type Own = (f16, f16, f16);
    type WideGamma = (f16, f32, f16);
    type WideY = (f16, f16, f32);
    type AllWide = (f16, f32, f32);
}

impl Half for bf16 {
    type Own = (bf16, bf16, bf16);
    type WideGamma = (bf16, f32, bf16);
    type WideY = (bf16, bf16, f32);
    type AllWide = (bf16, f32, f32);
}

pub(crate) fn all<V: Value>() -> impl Iterator<Item = V> {
    (0..1 << 16).map(V::of_bits)
}

pub(crate) fn all_finite<V: Value>() -> Vec<V> {
    all::<V>().filter(|v| v.wide().is_finite()).collect()
}

/// The values in rows, one after the other. The last row is filled up with the first values.
pub(crate) fn rows_of<V: Copy>(values: &[V], cols: usize) -> (usize, Vec<V>) {
    let rows = values.len().div_ceil(cols);
    (rows, values.iter().copied().cycle().take(rows * cols).collect())
}

/// Short rows in blocks, rows with steps, pairs and single elements at their end.
const COLS: [usize; 4] = [1, 64, 100, 203];

pub(crate) fn columns() -> impl Iterator<Item = usize> {
    COLS.into_iter().filter(|&cols| !quick() || cols == 100)
}

/// Each value fills rows of its own. A finite value is the mean, exactly, and xhat is 0. A value that is not finite
/// makes all of the row NaN.
fn every_value_is_loaded_exactly<V: Half>() {
    let values: Vec<V> = all().collect();
    for cols in columns() {
        let x = values.iter().flat_map(|&v| std::iter::repeat_n(v, cols)).collect();
        let plain = Problem::<V::Own>::ordinary(1, cols, 1);
        let problem = Problem { rows: values.len(), x, gamma: None, beta: None, ..plain };
        let mean = |v: V| if v.wide().is_finite() { v.wide() as f32 } else { f32::NAN };
        for &isa in tiers() {
            let got = problem.run(&Call { in_place: cols == 64, ..Call::plain(isa) });
            for (r, &v) in values.iter().enumerate() {
                let want = if v.wide().is_finite() { V::default() } else { V::QUIET_NAN };
                let here = || format!("{isa}, {cols} columns of {v:e} ({:#06x})", v.bits());
                let same = got.mean[r] == mean(v) || got.mean[r].to_bits() == mean(v).to_bits();
                assert!(same, "{}: mean {:e}", here(), got.mean[r]);
                let y = &got.y[r * cols..][..cols];
                assert!(y.iter().all(|y| *y == want || y.bits() == want.bits()), "{}: {y:?}", here());
            }
        }
    }
}

/// Every f32 that is a value, half-way between two values, or next to half-way, with the value that it is rounded to.
pub(crate) fn rounding_cases<V: Value>() -> Vec<(f32, V)> {
    let mut cases = Vec::new();
    for negative in [false, true] {
        let signed = |v: f32| if negative { -v } else { v };
        let value = |bits: u64| if negative { -V::of_bits(bits) } else { V::of_bits(bits) };
        for bits in 0..V::INFINITY.bits() {
            let (low, high) = (V::of_bits(bits).wide(), V::of_bits(bits + 1).wide());
            // Beyond the largest number, the next one that there would be.
            let high = if high.is_finite() { high } else { 2.0 * low - V::of_bits(bits - 1).wide() };
            let half_way = f64::midpoint(low, high) as f32;
            cases.extend([
                (signed(low as f32), value(bits)),
                (signed(half_way.next_down()), value(bits)),
                (signed(half_way), value(bits + bits % 2)),
                (signed(half_way.next_up()), value(bits + 1)),
            ]);
        }
        cases.push((signed(f32::MAX), value(V::INFINITY.bits())));
        cases.push((signed(f32::INFINITY), value(V::INFINITY.bits())));
        cases.push((signed(f32::from_bits(1)), value(0)));
    }
    cases.extend(
        [f32::NAN, -f32::NAN, <f32 as Value>::SIGNALING_NAN, <f32 as Value>::SENTINEL].map(|nan| (nan, V::QUIET_NAN)),
    );
    cases
}

/// gamma is 0, and beta is such an f32 for each group, so that results before rounding are these f32.
fn results_are_rounded_to_nearest_even<V: Half>() {
    let (f32s, want): (Vec<f32>, Vec<V>) = rounding_cases::<V>().into_iter().unzip();
    for cols in [1003, 100, 8192].into_iter().take(if quick() { 1 } else { 3 }) {
        let (rows, beta) = rows_of(&f32s, cols);
        let (_, mut want) = rows_of(&want, cols);
        let ordinary = Problem::<V::WideGamma>::ordinary(rows, cols, 2);
        let gamma = Some(vec![0.0; rows * cols]);
        let problem = Problem { groups: (rows, 1), gamma, beta: Some(beta.clone()), ..ordinary };
        let wide = with_types::<_, V::AllWide>(&problem).expected();
        for ((y, want), beta) in wide.y.iter().zip(&mut want).zip(&beta) {
            assert!(y == beta || y.is_nan() && beta.is_nan());
            if *y == 0.0 {
                // The sign of a sum of zeros may differ.
                *want = V::of((*y).into());
            }
            assert_eq!(V::of((*y).into()).bits(), want.bits(), "{y:e}");
        }
        for &isa in tiers() {
            for store in [Store::Ordinary, Store::Streaming] {
                for in_place in [false, true] {
                    let got = problem.run(&Call { store, in_place, ..Call::plain(isa) });
                    assert_same_bits(format_args!("{isa}, {problem}, {store:?}"), cols, &want, &got.y);
                }
            }
        }
    }
}

/// The same values with f32 for some of the types.
fn with_types<K: Types, L: Types<X = K::X>>(problem: &Problem<K>) -> Problem<L> {
    let Problem { operation, groups, rows, cols, x, gamma, beta, eps } = problem.clone();
    let vector = |v: Option<Vec<K::G>>| v.map(|v| v.into_iter().map(|v| L::G::of(v.wide())).collect());
    Problem { operation, groups, rows, cols, x, gamma: vector(gamma), beta: vector(beta), eps }
}

/// Results in f32, rounded to the type of another.
fn rounded<K: Types, L: Types<F = K::F>>(output: Output<K>) -> Output<L> {
    let Output { y, mean, mean_lo, rstd } = output;
    let round = |y: K::Y| if y.is_nan() { L::Y::QUIET_NAN } else { L::Y::of(y.wide()) };
    Output { y: y.into_iter().map(round).collect(), mean, mean_lo, rstd }
}

/// gamma and beta of 16 bits give the bits of the same numbers in f32, and y of 16 bits is y in f32, rounded. So all
/// mixtures of types have the bits of the mixture with f32 for everything but x, on all tiers.
fn assert_types_agree<V: Half>(problem: &Problem<V::Own>) {
    let cols = problem.cols;
    let wide_gamma = with_types::<_, V::WideGamma>(problem);
    let wide_y = with_types::<_, V::WideY>(problem);
    let all_wide = with_types::<_, V::AllWide>(problem);
    let expected = all_wide.expected();
    let narrow = rounded::<_, V::Own>(expected.clone());
    for &isa in tiers() {
        for store in [Store::Ordinary, Store::Streaming] {
            let call = Call { store, ..Call::plain(isa) };
            let what = format_args!("{isa}, {problem}, {store:?}");
            problem.run(&call).assert_same(&narrow, cols, what);
            assert_same_bits(what, cols, &narrow.y, &wide_gamma.run(&call).y);
            assert_same_bits(what, cols, &expected.y, &wide_y.run(&call).y);
            assert_same_bits(what, cols, &expected.y, &all_wide.run(&call).y);
        }
    }
}

/// Rows of all finite numbers: neighbours, which have one exponent, and numbers of all exponents.
fn every_element_gamma_and_beta_has_the_bits_of_f32<V: Half>() {
    let finite = all_finite::<V>();
    for cols in columns().chain([1030, 20_000]) {
        let scattered: Vec<V> = (0..finite.len()).map(|i| finite[i * 4099 % finite.len()]).collect();
        for (i, values) in [&finite, &scattered].into_iter().enumerate() {
            let (rows, x) = rows_of(values, cols);
            let (_, gamma) = rows_of(&scattered, cols);
            let (_, mut beta) = rows_of(&finite, cols);
            beta.reverse();
            let ordinary = Problem::<V::Own>::ordinary(1, cols, 3).with_eps([1e-5, 0.0][i]);
            let problem = Problem { groups: (rows, 1), rows, x, gamma: Some(gamma), beta: Some(beta), ..ordinary };
            let problems = problem.in_every_form();
            for (form, problem) in problems.iter().enumerate() {
                if (cols != 100 || quick()) && form % 4 != i {
                    continue;
                }
                assert_types_agree::<V>(problem);
            }
        }
    }
}

/// All values that are not finite, in gamma and in beta. A NaN becomes the canonical NaN.
fn every_gamma_and_beta_that_is_not_finite<V: Half>() {
    let values: Vec<V> = all::<V>().filter(|v| !v.wide().is_finite()).collect();
    for cols in [1, 9, 100, values.len()] {
        let (groups, vector) = rows_of(&values, cols);
        let ordinary = Problem::<V::Own>::ordinary(groups, cols, 4);
        let ones = Some(vec![V::of(1.0); groups * cols]);
        let ordinary = Problem { groups: (groups, 1), rows: groups, gamma: ones.clone(), beta: ones, ..ordinary };
        let in_gamma = Problem { gamma: Some(vector.clone()), ..ordinary.clone() };
        let in_beta = Problem { beta: Some(vector.clone()), ..ordinary };
        for problem in [in_gamma.clone(), in_gamma.rms_norm(1.0), in_beta] {
            for (y, v) in problem.expected().y.iter().zip(&vector) {
                assert!(
                    !v.is_nan() || y.bits() == V::QUIET_NAN.bits(),
                    "{problem}: {v:e} gives {y:e} ({:#06x})",
                    y.bits()
                );
                assert!(!y.wide().is_finite(), "{problem}: {v:e} gives {y:e}");
            }
            assert_types_agree::<V>(&problem);
        }
    }
}

/// Each value plus a number that makes the sum a value, half-way between two values, or next to half-way.
fn every_sum_is_rounded_to_nearest_even<V: Half>() {
    let values: Vec<V> = all().collect();
    for (i, cols) in [8, 100, 203].into_iter().enumerate() {
        let (rows, x) = rows_of(&values, cols);
        for (j, share) in [0.5, -0.5, 0.25, 0.75, 1.5, 0.0].into_iter().enumerate() {
            if (cols != 8 && (i + j) % 3 != 0) || (quick() && i > 0) {
                continue;
            }
            let residual = x.iter().map(|v| V::of(share * (V::of_bits(v.bits() + 1).wide() - v.wide()))).collect();
            let bias = (j % 2 == 1).then(|| vec![V::SMALLEST; cols]);
            let problem = Problem::<V::Own>::ordinary(1, cols, 5);
            let case = Case::of(Problem { rows, x: x.clone(), ..problem }, residual, bias);
            for &isa in tiers() {
                case.check_all(isa, Parallelism::Serial, Store::Ordinary, [0; 4]);
            }
        }
    }
}

macro_rules! for_halves {
    ($($test:ident),+ $(,)?) => {$(
        mod $test {
            #[test]
            fn f16() {
                super::$test::<lanenorm::f16>();
            }

            #[test]
            fn bf16() {
                super::$test::<lanenorm::bf16>();
            }
        }
    )+};
}

for_halves!(
    every_value_is_loaded_exactly,
    results_are_rounded_to_nearest_even,
    every_element_gamma_and_beta_has_the_bits_of_f32,
    every_gamma_and_beta_that_is_not_finite,
    every_sum_is_rounded_to_nearest_even,
);
