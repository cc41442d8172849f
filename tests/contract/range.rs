//! The edges of each type: rows that are not finite are all canonical NaN and harm no neighbour, constant rows give
//! exactly beta, rows of zeros stay zero without a mean, a single column gives beta, no rows or columns give nothing,
//! and extreme finite rows are right.

use lanenorm::kernels::reference;
use lanenorm::{Isa, Store};

use crate::support::forms::StatsMut;
use crate::support::{
    Call, F32, F64, OPERATIONS, Plan, Problem, TURNING_POINTS, Types, Value, assert_same_bits, tiers,
};

/// Numbers of every size that a type has.
fn constants<V: Value>() -> [V; 14] {
    let [huge, small, ..] = V::SIZES.noise;
    let integer = V::of(2.0 / V::EPSILON.wide()).wide() - 1.0;
    let (max, min, smallest) = (V::MAX.wide(), V::MIN_POSITIVE.wide(), V::SMALLEST.wide());
    [0.0, -0.0, 1.0, -1.0, 0.1, 1.0 / 3.0, integer, small, huge, -0.9 * max, max, -max, min, smallest].map(V::of)
}

fn all_nan<V: Value>(v: &[V]) -> bool {
    v.iter().all(|v| v.bits() == V::QUIET_NAN.bits())
}

/// A NaN or an infinity at each column of the first row, of a row in the middle and of the last.
fn rows_that_are_not_finite_are_canonical_nan_and_leave_their_neighbours_alone<K: Types>() {
    let (nan, infinity) = (K::X::QUIET_NAN, K::X::INFINITY);
    let values = [nan, -nan, K::X::SIGNALING_NAN, infinity, -infinity];
    for (rows, cols) in [(1, 40), (3, 5), (9, 70), (17, 193), (3, 300), (4, 1100)] {
        for problem in Problem::<K>::ordinary(rows, cols, 1).of_every_operation() {
            let expected = problem.expected();
            for &isa in tiers() {
                for row in [0, rows / 2, rows - 1] {
                    for col in [0, 1, 4, 7, 31, 32, 63, 64, 68, cols / 2, cols - 2, cols - 1] {
                        if K::is_left_out() && col % 3 != 0 {
                            continue;
                        }
                        let col = col % cols;
                        let mut sick = problem.clone();
                        sick.x[row * cols + col] = values[(row + col) % 5];
                        let got = sick.run(&Call { in_place: col % 2 == 0, ..Call::plain(isa) });
                        let mut want = expected.clone();
                        want.y[row * cols..][..cols].fill(K::Y::QUIET_NAN);
                        want.rstd[row] = K::F::QUIET_NAN;
                        if problem.operation.is_layer_norm() {
                            (want.mean[row], want.mean_lo[row]) = (K::F::QUIET_NAN, K::F::QUIET_NAN);
                        }
                        got.assert_same(&want, cols, format_args!("{isa}, {problem}: column {col} of row {row}"));
                    }
                }
            }
        }
    }
}

/// beta for each row, rounded to the type of y.
fn betas<K: Types>(problem: &Problem<K>) -> Vec<K::Y> {
    let zeros = vec![K::G::default(); problem.cols];
    let beta = problem.beta.as_ref().unwrap_or(&zeros);
    beta.iter().map(|beta| K::Y::of(beta.wide())).collect::<Vec<_>>().repeat(problem.rows)
}

fn constant_rows_give_exactly_beta<K: Types>() {
    let constants = constants::<K::X>();
    let means = constants.map(|v| K::F::of(v.wide()));
    for (i, cols) in TURNING_POINTS.into_iter().enumerate() {
        for (j, eps) in [1e-5, 0.0, 1e-300, 1e300].into_iter().enumerate() {
            if !K::takes(i + j) {
                continue;
            }
            let mut problem = Problem::<K>::ordinary(constants.len(), cols, 2).with_eps(eps);
            for (row, constant) in problem.x.chunks_exact_mut(cols).zip(constants) {
                row.fill(constant);
            }
            let layer_norms = problem.in_every_form().into_iter().filter(|p| p.operation.is_layer_norm());
            for problem in layer_norms {
                let (beta, rstd) = (betas(&problem), K::F::of(1.0 / eps.sqrt()));
                for &isa in tiers() {
                    let got = problem.run(&Call::plain(isa));
                    assert!(got.y == beta, "{isa}, {problem}: {:?}, expected beta", got.y);
                    assert!(got.mean == means, "{isa}, {problem}: means {:?}", got.mean);
                    assert!(got.mean_lo.iter().all(|&lo| lo == K::F::default()), "{isa}, {problem}: {:?}", got.mean_lo);
                    assert!(got.rstd.iter().all(|&v| v == rstd), "{isa}, {problem}: {:?}", got.rstd);
                }
            }
        }
    }
}

/// Zeros of either sign between ordinary rows: 0 * rstd is not NaN where rstd is infinite, and neighbours stay as they
/// are.
fn rows_of_zeros_stay_zero_without_a_mean<K: Types>() {
    for (i, cols) in TURNING_POINTS.into_iter().chain([2049, 17_000, 100_003]).enumerate() {
        for (j, eps) in [1e-5, 0.0, 1e-300, 1e300].into_iter().enumerate() {
            if !K::takes(i + j) {
                continue;
            }
            let ordinary = Problem::<K>::ordinary(11, cols, 3).with_eps(eps);
            let is_zero = |r: usize| r.is_multiple_of(3);
            let mut zeroed = ordinary.clone();
            for (r, row) in zeroed.x.chunks_exact_mut(cols).enumerate().filter(|(r, _)| is_zero(*r)) {
                row.iter_mut().enumerate().for_each(|(i, x)| *x = K::X::of(if (i + r) % 2 == 0 { 0.0 } else { -0.0 }));
            }
            for (ordinary, problem) in ordinary.in_every_form().into_iter().zip(zeroed.in_every_form()) {
                if problem.operation.is_layer_norm() {
                    continue;
                }
                let neighbours = ordinary.expected();
                for &isa in tiers() {
                    let got = problem.run(&Call::plain(isa));
                    for (r, row) in got.y.chunks_exact(cols).enumerate() {
                        if is_zero(r) {
                            assert!(row.iter().all(|&y| y == K::Y::default()), "{isa}, {problem}: row {r}: {row:?}");
                            assert!(got.rstd[r] == K::F::of(1.0 / eps.sqrt()), "{isa}, {problem}: {:?}", got.rstd);
                        } else {
                            let what = format_args!("{isa}, {problem}: neighbour {r} of zeros");
                            assert_same_bits(what, cols, &neighbours.y[r * cols..][..cols], row);
                        }
                    }
                }
            }
        }
    }
}

/// Rows of more than one chunk, and rows that are too long for fused loops.
fn long_constant_rows_give_exactly_beta<K: Types>() {
    let (most, small) = (K::X::MAX.wide() * 0.9, K::X::SIZES.noise[2]);
    for (cols, constant) in [(2049, 0.1), (17_000, most), (100_003, 1.0 / 3.0), (100_003, small)] {
        for eps in [1e-5, 0.0] {
            let mut problem = Problem::<K>::ordinary(2, cols, 3).with_eps(eps);
            problem.x.fill(K::X::of(constant));
            for &isa in tiers() {
                let got = problem.run(&Call::plain(isa));
                assert_same_bits(format_args!("{isa}, {problem}, all {constant:e}"), cols, &betas(&problem), &got.y);
            }
        }
    }
}

fn one_column_gives_beta<K: Types>() {
    for rows in [1, 2, 7, 8, 9, 100] {
        for eps in [1e-5, 0.0] {
            let problem = Problem::<K>::ordinary(rows, 1, 4).with_eps(eps);
            let x: Vec<K::F> = problem.x.iter().map(|x| K::F::of(x.wide())).collect();
            for &isa in tiers() {
                let got = problem.run(&Call::plain(isa));
                assert_same_bits(format_args!("{isa}, {problem}"), 1, &betas(&problem), &got.y);
                assert_same_bits(format_args!("{isa}, {problem}: mean"), 1, &x, &got.mean);
            }
        }
    }
}

for_all_types!(
    rows_that_are_not_finite_are_canonical_nan_and_leave_their_neighbours_alone,
    constant_rows_give_exactly_beta,
    rows_of_zeros_stay_zero_without_a_mean,
    long_constant_rows_give_exactly_beta,
    one_column_gives_beta,
);

#[test]
fn no_rows_or_no_columns_do_nothing() {
    use lanenorm::{Rows, RowsMut};
    let mut y = [7.0f32; 12];
    for (operation, &isa) in OPERATIONS.into_iter().flat_map(|op| tiers().iter().map(move |isa| (op, isa))) {
        let plan = |cols| Plan::new(operation, cols, 1e-5).expect("a valid eps").with_isa(isa);
        let (ones, empty): (&[f32], &[f32]) = (&[1.0; 4], &[]);
        let beta = |beta| operation.is_layer_norm().then_some(beta);
        assert_eq!(plan(4).forward(empty, Some(ones), beta(ones), &mut y[..0]), Ok(()));
        assert_eq!(plan(4).forward_in_place(&mut y[..0], None, beta(ones)), Ok(()));
        assert_eq!(plan(4).forward(Rows::strided(ones, 0, 0), None, None, RowsMut::strided(&mut y, 0, 9)), Ok(()));
        assert_eq!(plan(0).forward(empty, Some(empty), beta(empty), &mut y[..0]), Ok(()));
        let (mut mean, mut rstd) = ([7.0; 3], [7.0; 3]);
        let stats = StatsMut { mean: Some(&mut mean), rstd: Some(&mut rstd), ..StatsMut::default() };
        let rows = RowsMut::strided(&mut y, 3, 4);
        assert_eq!(plan(0).call(Rows::strided(ones, 3, 0), None, None, rows, stats), Ok(()));
        assert_eq!((y, mean, rstd), ([7.0; 12], [7.0; 3], [7.0; 3]), "{isa}, {operation:?}: something was written");
    }
}

/// If gamma or beta is not finite, each NaN of y is the canonical one, and other elements are what arithmetic says.
fn gamma_and_beta_that_are_not_finite<K: Types>() {
    for (rows, cols) in [(1, 7), (2, 70), (9, 100), (3, 1030)] {
        let mut problem = Problem::<K>::ordinary(rows, cols, 5);
        let (nan, infinity) = (K::G::QUIET_NAN, K::G::INFINITY);
        let (gamma, beta) = (problem.gamma.as_mut().expect("gamma"), problem.beta.as_mut().expect("beta"));
        (gamma[1], gamma[2], gamma[3]) = (-nan, infinity, infinity);
        (beta[4], beta[5]) = (K::G::SIGNALING_NAN, -infinity);
        let healthy = Problem::<K>::ordinary(rows, cols, 5).expected();
        for &isa in tiers() {
            let y = problem.run(&Call::plain(isa)).y;
            for (y, healthy) in y.chunks_exact(cols).zip(healthy.y.chunks_exact(cols)) {
                assert!(all_nan(&[y[1], y[4]]), "{isa}, {problem}: {:?}", &y[..6]);
                let infinite = y[2].wide().is_infinite() && y[3].wide().is_infinite() && y[5] == -K::Y::INFINITY;
                assert!(infinite, "{isa}, {problem}: {:?}", &y[..6]);
                assert_same_bits(format_args!("{isa}, {problem}: the rest"), cols, &healthy[6..], &y[6..]);
            }
        }
    }
}

/// The offset, or the sum of a finite gamma and a finite offset, is not finite. Zeros are in every row, since 0 *
/// infinity is a NaN whose sign differs between processors.
fn gamma_and_offset_whose_sum_is_not_finite<K: Types>() {
    let (nan, infinity, max) = (K::G::QUIET_NAN, K::G::INFINITY, K::G::MAX);
    let one = K::G::of(1.0);
    for (i, (rows, cols)) in
        [(1, 7), (2, 70), (9, 100), (17, 64), (3, 1030), (1, 20_000), (1, 70_000)].into_iter().enumerate()
    {
        for (j, (gamma, offset)) in [
            (infinity, 1.0),
            (-nan, 0.0),
            (one, f32::NEG_INFINITY),
            (one, -f32::NAN),
            (infinity, f32::NEG_INFINITY),
            (max, f32::MAX),
            (-max, f32::MIN),
        ]
        .into_iter()
        .enumerate()
        {
            if !K::takes(i + j) {
                continue;
            }
            let sum: K::F = K::F::of(gamma.wide()) + K::F::of(offset.into());
            let is_finite = sum.wide().is_finite();
            let mut problem = Problem::<K>::mixed(rows, cols, 7).rms_norm(offset);
            problem.x[0] = K::X::of(1.5);
            for row in problem.x.chunks_exact_mut(cols) {
                (row[1], row[2]) = (K::X::of(0.0), K::X::of(-0.0));
            }
            problem.gamma.as_mut().expect("gamma")[1..cols - 1].fill(gamma);
            let sick: Vec<bool> =
                problem.x.chunks_exact(cols).map(|row| row.iter().any(|x| !x.wide().is_finite())).collect();
            for &isa in tiers() {
                for call in [Call::plain(isa), Call { store: Store::Streaming, ..Call::plain(isa) }] {
                    let y = problem.run(&call).y;
                    for (i, y) in y.iter().enumerate() {
                        let here = || format!("{isa}, {problem}, gamma {gamma:e}: {i}: {:#x}", y.bits());
                        assert!(!y.is_nan() || all_nan(&[*y]), "{}: not the canonical NaN", here());
                        if (1..3).contains(&(i % cols)) && !sick[i / cols] {
                            assert!(y.is_nan() != is_finite, "{}: 0 times a finite number or not", here());
                        }
                    }
                }
            }
        }
    }
}

/// An infinite gamma does not change the results of its neighbours, here a denormal one, nor they its own.
fn an_infinite_gamma_beside_a_denormal_result<K: Types>() {
    let x = [1.0, 3.0, -2.0, 5.0].map(K::X::of).to_vec();
    let (infinity, denormal) = (K::G::INFINITY, K::G::of(8.0 * K::G::SMALLEST.wide()));
    let gamma = Some(vec![infinity, denormal, K::G::of(1.0), -infinity]);
    let problem = Problem::<K> { x, gamma, beta: None, ..Problem::ordinary(1, 4, 1) };
    let infinity = K::Y::INFINITY;
    for (problem, first) in [(problem.clone(), -infinity), (problem.rms_norm(0.0), infinity)] {
        for &isa in tiers() {
            let y = problem.run(&Call::plain(isa)).y;
            assert!(y[0] == first && y[3] == -infinity, "{isa}, {problem}: {y:?}");
        }
    }
}

for_all_types!(
    gamma_and_beta_that_are_not_finite,
    gamma_and_offset_whose_sum_is_not_finite,
    an_infinite_gamma_beside_a_denormal_result,
);

/// With an eps of 0, rows that are scaled by a power of two are normalized to the same values, up to the last bit of
/// two ways of rounding.
fn assert_scale_does_not_matter<K: Types>(exponents: &[i32]) {
    for cols in [2, 3, 64, 192, 333, 1024, 3000] {
        let mut problem = Problem::<K>::ordinary(9, cols, 6).with_eps(0.0);
        // Numbers of eight bits stay exact among the denormals.
        for x in &mut problem.x {
            *x = K::X::of((x.wide() * 128.0).rem_euclid(256.0).floor() - 128.0);
        }
        for problem in [problem.clone(), problem.rms_norm(0.0)] {
            let expected = problem.expected();
            for &exponent in exponents {
                let mut scaled = problem.clone();
                scaled.x.iter_mut().for_each(|x| *x = K::X::of(x.wide() * f64::from(exponent).exp2()));
                for &isa in tiers() {
                    let got = scaled.run(&Call::plain(isa));
                    for (i, (want, got)) in expected.y.iter().zip(&got.y).enumerate() {
                        let (want, got) = (want.wide(), got.wide());
                        let scale = 1.0 + problem.gamma.as_ref().expect("gamma")[i % cols].wide().abs() + want.abs();
                        let tolerance = 16.0 * K::Y::EPSILON.wide() * scale * (cols as f64).sqrt().min(8.0);
                        assert!(
                            (want - got).abs() <= tolerance,
                            "{isa}, {problem}, 2^{exponent}, {i}: {got:e}, not {want:e}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn scale_does_not_matter_without_eps() {
    assert_scale_does_not_matter::<F32>(&[-149, -130, -110, -70, -46, -40, 40, 50, 53, 60, 63, 100, 120]);
    assert_scale_does_not_matter::<F64>(&[
        -1074, -1060, -900, -561, -500, -481, -478, 470, 493, 500, 501, 560, 900, 1015,
    ]);
}

/// The largest numbers of both signs: xhat is exactly +-1 with as many of either.
fn rows_of_the_largest_numbers<K: Types<G = <K as Types>::X, Y = <K as Types>::X>>() {
    for cols in [2, 4, 64, 66, 192, 1024, 4098] {
        let by_turns = |v: K::X| (0..9 * cols).map(|i| if i % 2 == 0 { v } else { -v }).collect::<Vec<_>>();
        let (x, want) = (by_turns(K::X::MAX), by_turns(K::X::of(1.0)));
        for &isa in tiers() {
            let mut y = vec![K::X::default(); x.len()];
            for operation in OPERATIONS {
                let plan = Plan::new(operation, cols, 1e-5).expect("a valid eps").with_isa(isa);
                assert_eq!(plan.forward(&x, None, None, &mut y), Ok(()));
                let what = format_args!("{isa}, {}, {operation:?}, {cols} columns of +-MAX", K::NAME);
                assert_same_bits(what, cols, &want, &y);
            }
        }
    }
    assert!(tiers().contains(&Isa::SCALAR));
}

for_every_type!(rows_of_the_largest_numbers);

/// Without a mean, y of rows that leave the range of the fast path is the reference, rounded once.
#[test]
fn rms_norm_out_of_range_is_the_reference_rounded_once() {
    for scale in [1e30, 1e-20, 1e-40] {
        for cols in [1, 3, 8, 64, 100, 193, 1030, 3000] {
            for offset in [0.0, 1.0, -0.7] {
                let mut problem = Problem::<F32>::ordinary(9, cols, 8).with_eps(0.0).rms_norm(offset);
                problem.x.iter_mut().for_each(|x| *x *= scale);
                let got = problem.run(&Call::plain(Isa::best()));
                for (r, x) in problem.x.chunks_exact(cols).enumerate() {
                    let mut exact = vec![0.0; cols];
                    reference::rms_norm(x, problem.gamma.as_deref(), offset, problem.eps, &mut exact);
                    let rounded: Vec<f32> = exact.into_iter().map(|y| y as f32).collect();
                    let what = format_args!("{problem}, times {scale:e}, row {r}");
                    assert_same_bits(what, cols, &rounded, &got.y[r * cols..][..cols]);
                    let rstd = reference::rms_rstd(x, problem.eps) as f32;
                    assert_same_bits(format_args!("{what}: rstd"), 1, &[rstd], &[got.rstd[r]]);
                }
            }
        }
    }
}
