//! Types of 16 bits have few enough values to try them all in x, in dy and in gamma, and as results that dx is rounded
//! to.

use lanenorm::{Isa, Store};

use super::oracle::exact;
use crate::accuracy::u;
use crate::halves::{Half, all, all_finite, columns, rounding_cases, rows_of};
use crate::support::{GradCall, GradProblem, Problem, assert_same_bits, quick, tiers};

/// With a single row dbeta is dy itself: finite values exactly, infinities as they are, a NaN as the canonical one.
fn every_value_of_dy_is_loaded_exactly<V: Half>() {
    let values: Vec<V> = all().collect();
    for cols in columns() {
        let (rows, dy) = rows_of(&values, cols);
        let problem = GradProblem::<V::Own>::ordinary(1, cols, 1);
        for &isa in tiers() {
            for row in dy.chunks_exact(cols).take(rows) {
                let got = GradProblem { dy: row.to_vec(), ..problem.clone() }.run(&GradCall::plain(isa));
                for (dy, &dbeta) in row.iter().zip(got.dbeta()) {
                    let same =
                        if dy.is_nan() { dbeta.to_bits() == f32::NAN.to_bits() } else { f64::from(dbeta) == dy.wide() };
                    assert!(same, "{isa}, {cols} columns: dy {dy:e} ({:#06x}): dbeta {dbeta:e}", dy.bits());
                }
            }
        }
    }
}

/// Each value fills rows of its own. A finite value has an xhat of 0, and with an eps of 1 dx is dy less its mean,
/// which is 0 here. A value that is not finite makes its row NaN.
fn every_value_of_x_is_loaded_exactly<V: Half>() {
    let values: Vec<V> = all().collect();
    for cols in [2, 64].into_iter().take(if quick() { 1 } else { 2 }) {
        let x: Vec<V> = values.iter().flat_map(|&v| std::iter::repeat_n(v, cols)).collect();
        let dy: Vec<V> = (0..x.len()).map(|i| V::of(if i % 2 == 0 { 1.5 } else { -1.5 })).collect();
        let ordinary = Problem::<V::Own>::ordinary(1, cols, 2).with_eps(1.0);
        let forward = Problem { rows: values.len(), x, gamma: None, beta: None, ..ordinary };
        let problem = GradProblem { forward, dy, ds: None };
        let mut finite = problem.clone();
        for (i, (x, dy)) in finite.forward.x.iter_mut().zip(&mut finite.dy).enumerate() {
            if !values[i / cols].wide().is_finite() {
                (*x, *dy) = (V::default(), V::default());
            }
        }
        for &isa in tiers() {
            let got = problem.run(&GradCall { in_place: cols == 64, ..GradCall::plain(isa) });
            for (i, &dx) in got.dx().iter().enumerate() {
                let v = values[i / cols];
                let want = if v.wide().is_finite() { problem.dy[i] } else { V::QUIET_NAN };
                assert!(dx.bits() == want.bits(), "{isa}, {cols} columns of {v:e} ({:#06x}): {dx:e}", v.bits());
            }
            assert!(got.dgamma().iter().all(|v| v.to_bits() == f32::NAN.to_bits()), "{isa}: {:?}", got.dgamma());
            let dgamma = finite.run(&GradCall::plain(isa)).dgamma.expect("dgamma");
            assert!(dgamma.iter().all(|&v| v == 0.0), "{isa}, {cols} columns: {dgamma:?}");
        }
    }
}

/// dx of a row of zeros, with an eps of 1, is gamma times dy. The products here are f32 of every case of rounding.
fn dx_is_rounded_to_nearest_even<V: Half>() {
    let cases = rounding_cases::<V>().into_iter().filter(|(v, _)| v.is_finite());
    let (f32s, want): (Vec<f32>, Vec<V>) = cases.unzip();
    for cols in [1003, 100].into_iter().take(if quick() { 1 } else { 2 }) {
        let (rows, gamma) = rows_of(&f32s, cols);
        let (_, want) = rows_of(&want, cols);
        let ordinary = Problem::<V::WideGamma>::ordinary(rows, cols, 3).with_eps(1.0).rms_norm(0.0);
        let x = vec![V::default(); rows * cols];
        let forward = Problem { groups: (rows, 1), x, gamma: Some(gamma), ..ordinary };
        let problem = GradProblem { dy: vec![V::of(1.0); rows * cols], forward, ds: None };
        for &isa in tiers() {
            for store in [Store::Ordinary, Store::Streaming] {
                let got = problem.run(&GradCall { store, ..GradCall::plain(isa) });
                assert_same_bits(format_args!("{isa}, {problem}, {store:?}"), cols, &want, got.dx());
            }
        }
    }
}

/// Problems with all finite values in x, dy and gamma, in another order in each.
fn problems<V: Half>() -> Vec<GradProblem<V::Own>> {
    let finite = all_finite::<V>();
    let scattered: Vec<V> = (0..finite.len()).map(|i| finite[i * 4099 % finite.len()]).collect();
    let mut problems = Vec::new();
    for (i, cols) in columns().chain([1030]).enumerate() {
        for (j, (x, dy)) in [(&finite, &scattered), (&scattered, &finite)].into_iter().enumerate() {
            let (rows, x) = rows_of(x, cols);
            let (_, dy) = rows_of(dy, cols);
            let (_, mut gamma) = rows_of(&finite, cols);
            gamma.reverse();
            let ordinary = Problem::<V::Own>::ordinary(1, cols, 3).with_eps([1e-5, 0.0][(i + j) % 2]);
            let forward = Problem { groups: (rows, 1), rows, x, gamma: Some(gamma), beta: None, ..ordinary };
            problems.extend(GradProblem { forward, dy, ds: None }.of_every_operation());
        }
    }
    problems
}

/// A gamma of 16 bits gives the same bits as the same gamma in f32.
fn types_of_gamma_agree<V: Half>() {
    for problem in problems::<V>() {
        let GradProblem { forward: Problem { operation, groups, rows, cols, x, gamma, eps, .. }, dy, .. } =
            problem.clone();
        let gamma = gamma.map(|gamma| gamma.iter().map(|v| v.wide() as f32).collect());
        let forward = Problem::<V::WideGamma> { operation, groups, rows, cols, x, gamma, beta: None, eps };
        let wide = GradProblem { forward, dy, ds: None };
        let expected = wide.expected();
        for &isa in tiers() {
            for store in [Store::Ordinary, Store::Streaming] {
                let call = GradCall { store, ..GradCall::plain(isa) };
                let (wide, narrow) = (wide.run(&call), problem.run(&call));
                let what = format_args!("{isa}, {problem}, {store:?}");
                wide.assert_same(&expected, cols, what);
                assert_same_bits(what, cols, expected.dx(), narrow.dx());
                assert_same_bits(what, cols, expected.dgamma(), narrow.dgamma());
            }
        }
    }
}

/// Rows of numbers of all sizes are the hardest: a few elements make up all of the variance and of the sums.
const BOUND: f64 = 16.0;

fn every_value_has_the_right_gradient<V: Half>() {
    for problem in problems::<V>() {
        let (rows, cols) = (problem.forward.rows, problem.forward.cols);
        let got = problem.run(&GradCall::plain(Isa::best()));
        for r in (0..rows).filter(|r| !quick() || r % 7 == 0) {
            let exact = exact(&problem, r);
            for (i, &dx) in got.dx()[r * cols..][..cols].iter().enumerate() {
                let factor = exact.factor::<V::Own>(i, dx) / u::<V::Own>();
                assert!(
                    factor <= BOUND,
                    "{problem}, row {r}, column {i}: {factor:.2} u: {dx:e}, exact {:e}, xhat {:e}",
                    exact.dx(i),
                    f64::from(exact.xhat[i])
                );
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
    every_value_of_dy_is_loaded_exactly,
    every_value_of_x_is_loaded_exactly,
    dx_is_rounded_to_nearest_even,
    types_of_gamma_agree,
    every_value_has_the_right_gradient,
);
