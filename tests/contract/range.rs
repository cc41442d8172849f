//! The edges of f32: rows that are not finite are all canonical NaN and harm no neighbour, constant rows give exactly
//! beta, rows of zeros stay zero without a mean, a single column gives beta, no rows or columns give nothing, and extreme
//! finite rows are right.

use lanenorm::kernels::reference;
use lanenorm::{Isa, StatsMut, Store};

use crate::support::{Call, OPERATIONS, Operation, Plan, Problem, TURNING_POINTS, assert_same_bits, tiers};

const NAN: u32 = f32::NAN.to_bits();

const CONSTANTS: [f32; 14] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.1,
    1.0 / 3.0,
    16_777_215.0,
    1e-20,
    1e20,
    -3e38,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    f32::from_bits(1),
];

fn all_nan(v: &[f32]) -> bool {
    v.iter().all(|v| v.to_bits() == NAN)
}

/// A NaN or an infinity at each column of the first row, of one in the middle and of the last.
#[test]
fn rows_that_are_not_finite_are_canonical_nan_and_leave_their_neighbours_alone() {
    let values = [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY, f32::NEG_INFINITY];
    for (rows, cols) in [(1, 40), (3, 5), (9, 70), (17, 193), (3, 300), (4, 1100)] {
        for problem in Problem::ordinary(rows, cols, 1).of_every_operation() {
            let expected = problem.expected();
            for &isa in tiers() {
                for row in [0, rows / 2, rows - 1] {
                    for col in [0, 1, 4, 7, 31, 32, 63, 64, 68, cols / 2, cols - 2, cols - 1] {
                        let col = col % cols;
                        let mut sick = problem.clone();
                        sick.x[row * cols + col] = values[(row + col) % 5];
                        let got = sick.run(&Call { in_place: col % 2 == 0, ..Call::plain(isa) });
                        let mut want = expected.clone();
                        want.y[row * cols..][..cols].fill(f32::NAN);
                        want.rstd[row] = f32::NAN;
                        if problem.operation == Operation::LayerNorm {
                            (want.mean[row], want.mean_lo[row]) = (f32::NAN, f32::NAN);
                        }
                        got.assert_same(&want, cols, format_args!("{isa}, {problem}: column {col} of row {row}"));
                    }
                }
            }
        }
    }
}

#[test]
fn constant_rows_give_exactly_beta() {
    for cols in TURNING_POINTS {
        for eps in [1e-5, 0.0, 1e-300, 1e300] {
            let mut problem = Problem::ordinary(CONSTANTS.len(), cols, 2).with_eps(eps);
            for (row, constant) in problem.x.chunks_exact_mut(cols).zip(CONSTANTS) {
                row.fill(constant);
            }
            let beta = problem.beta.clone().expect("beta").repeat(CONSTANTS.len());
            let layer_norms = problem.in_every_form().into_iter().filter(|p| p.operation == Operation::LayerNorm);
            for problem in layer_norms {
                let beta = if problem.beta.is_some() { beta.clone() } else { vec![0.0; beta.len()] };
                for &isa in tiers() {
                    let got = problem.run(&Call::plain(isa));
                    assert!(got.y == beta, "{isa}, {problem}: {:?}, expected beta", got.y);
                    assert!(got.mean == CONSTANTS, "{isa}, {problem}: means {:?}", got.mean);
                    assert!(got.mean_lo.iter().all(|&lo| lo == 0.0), "{isa}, {problem}: {:?}", got.mean_lo);
                    assert!(got.rstd.iter().all(|&rstd| rstd == (1.0 / eps.sqrt()) as f32), "{isa}: {:?}", got.rstd);
                }
            }
        }
    }
}

/// Zeros of either sign between ordinary rows: 0 * rstd is not NaN where rstd is infinite, and neighbours stay as they are.
#[test]
fn rows_of_zeros_stay_zero_without_a_mean() {
    for cols in TURNING_POINTS.into_iter().chain([2049, 17_000, 100_003]) {
        for eps in [1e-5, 0.0, 1e-300, 1e300] {
            let ordinary = Problem::ordinary(11, cols, 3).with_eps(eps);
            let is_zero = |r: usize| r.is_multiple_of(3);
            let mut zeroed = ordinary.clone();
            for (r, row) in zeroed.x.chunks_exact_mut(cols).enumerate().filter(|(r, _)| is_zero(*r)) {
                row.iter_mut().enumerate().for_each(|(i, x)| *x = if (i + r) % 2 == 0 { 0.0 } else { -0.0 });
            }
            for (ordinary, problem) in ordinary.in_every_form().into_iter().zip(zeroed.in_every_form()) {
                if problem.operation == Operation::LayerNorm {
                    continue;
                }
                let neighbours = ordinary.expected();
                for &isa in tiers() {
                    let got = problem.run(&Call::plain(isa));
                    for (r, row) in got.y.chunks_exact(cols).enumerate() {
                        if is_zero(r) {
                            assert!(row.iter().all(|&y| y == 0.0), "{isa}, {problem}: row {r}: {row:?}");
                            assert!(got.rstd[r] == (1.0 / eps.sqrt()) as f32, "{isa}, {problem}: {:?}", got.rstd);
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

/// Beyond one chunk, and beyond what is fused.
#[test]
fn long_constant_rows_give_exactly_beta() {
    for (cols, constant) in [(2049, 0.1), (17_000, 3e38), (100_003, 1.0 / 3.0), (100_003, 1e-40)] {
        for eps in [1e-5, 0.0] {
            let mut problem = Problem::ordinary(2, cols, 3).with_eps(eps);
            problem.x.fill(constant);
            for &isa in tiers() {
                let got = problem.run(&Call::plain(isa));
                let beta = problem.beta.clone().expect("beta").repeat(2);
                assert_same_bits(format_args!("{isa}, {problem}, all {constant:e}"), cols, &beta, &got.y);
            }
        }
    }
}

#[test]
fn one_column_gives_beta() {
    for rows in [1, 2, 7, 8, 9, 100] {
        for eps in [1e-5, 0.0] {
            let problem = Problem::ordinary(rows, 1, 4).with_eps(eps);
            for &isa in tiers() {
                let got = problem.run(&Call::plain(isa));
                let beta = problem.beta.clone().expect("beta").repeat(rows);
                assert_same_bits(format_args!("{isa}, {problem}"), 1, &beta, &got.y);
                assert_same_bits(format_args!("{isa}, {problem}: mean"), 1, &problem.x, &got.mean);
            }
        }
    }
}

#[test]
fn no_rows_or_no_columns_do_nothing() {
    use lanenorm::{Rows, RowsMut};
    let mut y = [7.0f32; 12];
    for (operation, &isa) in OPERATIONS.into_iter().flat_map(|op| tiers().iter().map(move |isa| (op, isa))) {
        let plan = |cols| Plan::new(operation, cols, 1e-5).expect("a valid eps").with_isa(isa);
        let (ones, empty): (&[f32], &[f32]) = (&[1.0; 4], &[]);
        let beta = |beta| (operation == Operation::LayerNorm).then_some(beta);
        assert_eq!(plan(4).forward(empty, Some(ones), beta(ones), &mut y[..0]), Ok(()));
        assert_eq!(plan(4).forward_in_place(&mut y[..0], None, beta(ones)), Ok(()));
        assert_eq!(plan(4).forward(Rows::strided(ones, 0, 0), None, None, RowsMut::strided(&mut y, 0, 9)), Ok(()));
        assert_eq!(plan(0).forward(empty, Some(empty), beta(empty), &mut y[..0]), Ok(()));
        let (mut mean, mut rstd) = ([7.0; 3], [7.0; 3]);
        let stats = StatsMut { mean: Some(&mut mean), rstd: Some(&mut rstd), ..StatsMut::default() };
        let rows = RowsMut::strided(&mut y, 3, 4);
        assert_eq!(plan(0).forward_with_stats(Rows::strided(ones, 3, 0), None, None, rows, stats), Ok(()));
        assert_eq!((y, mean, rstd), ([7.0; 12], [7.0; 3], [7.0; 3]), "{isa}, {operation:?}: something was written");
    }
}

/// On gamma and beta that are not finite, what is NaN is the canonical one, and the rest is what arithmetic says.
#[test]
fn gamma_and_beta_that_are_not_finite() {
    for (rows, cols) in [(1, 7), (2, 70), (9, 100), (3, 1030)] {
        let mut problem = Problem::ordinary(rows, cols, 5);
        let (gamma, beta) = (problem.gamma.as_mut().expect("gamma"), problem.beta.as_mut().expect("beta"));
        (gamma[1], gamma[2], gamma[3]) = (-f32::NAN, f32::INFINITY, f32::INFINITY);
        (beta[4], beta[5]) = (f32::from_bits(0x7f80_0001), f32::NEG_INFINITY);
        let healthy = Problem::ordinary(rows, cols, 5).expected();
        for &isa in tiers() {
            let y = problem.run(&Call::plain(isa)).y;
            for (y, healthy) in y.chunks_exact(cols).zip(healthy.y.chunks_exact(cols)) {
                assert!(all_nan(&[y[1], y[4]]), "{isa}: {:?}", &y[..6]);
                assert!(y[2].is_infinite() && y[3].is_infinite() && y[5] == f32::NEG_INFINITY, "{isa}: {:?}", &y[..6]);
                assert_same_bits(format_args!("{isa}, {problem}: the rest"), cols, &healthy[6..], &y[6..]);
            }
        }
    }
}

/// The same for RMSNorm, where the offset may be what is not finite, or the sum of two finite numbers. Zeros are in every
/// row, since 0 * infinity is a NaN whose sign differs between processors.
#[test]
fn gamma_and_offset_whose_sum_is_not_finite() {
    for (rows, cols) in [(1, 7), (2, 70), (9, 100), (17, 64), (3, 1030), (1, 20_000), (1, 70_000)] {
        for (gamma, offset) in [
            (f32::INFINITY, 1.0),
            (-f32::NAN, 0.0),
            (1.0, f32::NEG_INFINITY),
            (1.0, -f32::NAN),
            (f32::INFINITY, f32::NEG_INFINITY),
            (f32::MAX, f32::MAX),
            (-3e38, -3e38),
        ] {
            let mut problem = Problem::mixed(rows, cols, 7).rms_norm(offset);
            problem.x[0] = 1.5;
            for row in problem.x.chunks_exact_mut(cols) {
                (row[1], row[2]) = (0.0, -0.0);
            }
            problem.gamma.as_mut().expect("gamma")[1..cols - 1].fill(gamma);
            for &isa in tiers() {
                for call in [Call::plain(isa), Call { store: Store::Streaming, ..Call::plain(isa) }] {
                    let y = problem.run(&call).y;
                    for (i, y) in y.iter().enumerate() {
                        let here = || format!("{isa}, {problem}, gamma {gamma:e}: {i}: {:#010x}", y.to_bits());
                        assert!(!y.is_nan() || all_nan(&[*y]), "{}: not the canonical NaN", here());
                        assert!(!(1..3).contains(&(i % cols)) || y.is_nan(), "{}: 0 times not finite", here());
                    }
                }
            }
        }
    }
}

/// An infinite gamma is not the business of its neighbours, nor they of it: here one whose result is denormal.
#[test]
fn an_infinite_gamma_beside_a_denormal_result() {
    let x = vec![1.0, 3.0, -2.0, 5.0];
    let gamma = Some(vec![f32::INFINITY, 1e-40, 1.0, f32::NEG_INFINITY]);
    let problem = Problem { operation: Operation::LayerNorm, rows: 1, cols: 4, x, gamma, beta: None, eps: 1e-5 };
    for (problem, first) in [(problem.clone(), f32::NEG_INFINITY), (problem.rms_norm(0.0), f32::INFINITY)] {
        for &isa in tiers() {
            let y = problem.run(&Call::plain(isa)).y;
            assert!(y[0] == first && y[3] == f32::NEG_INFINITY, "{isa}, {problem}: {y:?}");
        }
    }
}

/// Rows scaled by a power of two are normalized to the same values when eps is 0, up to the last bit of two ways of rounding.
#[test]
fn scale_does_not_matter_without_eps() {
    for cols in [2, 3, 64, 192, 333, 1024, 3000] {
        let mut problem = Problem::ordinary(9, cols, 6).with_eps(0.0);
        // Eight bits each, so that they stay exact down among the denormals.
        problem.x.iter_mut().for_each(|x| *x = (*x * 128.0).rem_euclid(256.0).floor() - 128.0);
        for problem in [problem.clone(), problem.rms_norm(0.0)] {
            let expected = problem.expected();
            for exponent in [-149, -130, -110, -70, -46, -40, 40, 50, 53, 60, 63, 100, 120] {
                let mut scaled = problem.clone();
                scaled.x.iter_mut().for_each(|x| *x = (f64::from(*x) * f64::from(exponent).exp2()) as f32);
                for &isa in tiers() {
                    let got = scaled.run(&Call::plain(isa));
                    for (i, (&want, &got)) in expected.y.iter().zip(&got.y).enumerate() {
                        let scale = 1.0 + problem.gamma.as_ref().expect("gamma")[i % cols].abs() + want.abs();
                        let tolerance = 16.0 * f32::EPSILON * scale * (cols as f32).sqrt().min(8.0);
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

/// The largest numbers of both signs: xhat is exactly +-1 with as many of either.
#[test]
fn rows_of_the_largest_numbers() {
    for cols in [2, 4, 64, 66, 192, 1024, 4098] {
        let x: Vec<f32> = (0..9 * cols).map(|i| if i % 2 == 0 { f32::MAX } else { f32::MIN }).collect();
        let want: Vec<f32> = (0..9 * cols).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        for &isa in tiers() {
            let mut y = vec![0.0; x.len()];
            for operation in OPERATIONS {
                let plan = Plan::new(operation, cols, 1e-5).expect("a valid eps").with_isa(isa);
                assert_eq!(plan.forward(&x, None, None, &mut y), Ok(()));
                assert_same_bits(format_args!("{isa}, {operation:?}, {cols} columns of +-f32::MAX"), cols, &want, &y);
            }
        }
    }
    assert!(tiers().contains(&Isa::SCALAR));
}

/// Without a mean, rows that leave the range of the fast path are those of the reference, rounded once.
#[test]
fn rms_norm_out_of_range_is_the_reference_rounded_once() {
    for scale in [1e30, 1e-20, 1e-40] {
        for cols in [1, 3, 8, 64, 100, 193, 1030, 3000] {
            for offset in [0.0, 1.0, -0.7] {
                let mut problem = Problem::ordinary(9, cols, 8).with_eps(0.0).rms_norm(offset);
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
