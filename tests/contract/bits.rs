//! The tiers agree: y, mean, `mean_lo` and rstd have the same bits on all of them, for every number of columns up to
//! 2100 and the widths of real models, for every operation, with and without gamma and beta, on ordinary rows and on all
//! others.

use crate::support::{Call, Problem, TURNING_POINTS, assert_same_bits, quick, tiers};

/// One row and two or three; blocks of eight with one row left over.
const ROWS: [usize; 5] = [1, 2, 3, 9, 17];

/// Hidden and intermediate sizes of models, and two lengths that no power of two divides.
const WIDTHS: [usize; 9] = [2560, 3072, 4096, 5120, 8192, 11008, 16384, 100_003, 1_000_003];

fn columns() -> impl Iterator<Item = usize> {
    (0..=2100).filter(|c| !quick() || *c < 20 || TURNING_POINTS.contains(c) || c % 71 == 0)
}

fn assert_tiers_agree(problem: &Problem) {
    let expected = problem.expected();
    for &isa in tiers() {
        problem.assert_gives(&expected, &Call::plain(isa));
    }
}

#[test]
fn ordinary_rows_of_every_length() {
    for cols in columns() {
        for rows in ROWS {
            for problem in Problem::ordinary(rows, cols, 1).in_every_form() {
                assert_tiers_agree(&problem);
            }
        }
    }
}

#[test]
fn all_kinds_of_rows_of_every_length() {
    for cols in columns() {
        for rows in ROWS {
            let eps = [1e-5, 0.0, 1e-12, 1e40][(cols + rows) % 4];
            let problems = Problem::mixed(rows, cols, 2).with_eps(eps).in_every_form();
            assert_tiers_agree(&problems[(cols + rows / 2) % 7]);
            assert_tiers_agree(&problems[(cols + rows / 2 + 3) % 7]);
        }
    }
}

#[test]
fn widths_of_models() {
    for cols in WIDTHS.into_iter().filter(|&c| !quick() || c < 200_000) {
        for rows in [1, 3] {
            for problem in Problem::ordinary(rows, cols, 3).in_every_form() {
                assert_tiers_agree(&problem);
            }
        }
        for (seed, eps) in [(4, 1e-5), (5, 0.0)] {
            for problem in Problem::mixed(4, cols, seed).with_eps(eps).of_every_operation() {
                assert_tiers_agree(&problem);
            }
        }
    }
}

/// The sign and payload of a NaN that arithmetic makes differ between processors.
#[test]
fn gamma_and_beta_that_are_not_finite() {
    let special = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)];
    for cols in TURNING_POINTS {
        for rows in ROWS {
            for (i, value) in special.into_iter().enumerate() {
                let mut problem = Problem::mixed(rows, cols, 6);
                let at = (i * 37 + rows) % cols;
                let vector = if (i + cols) % 2 == 0 { &mut problem.gamma } else { &mut problem.beta };
                vector.as_mut().expect("gamma and beta")[at] = value;
                assert_tiers_agree(&problem);
                problem.gamma.as_mut().expect("gamma")[at] = value;
                for offset in [0.0, 1.0, f32::INFINITY, -f32::NAN] {
                    assert_tiers_agree(&problem.clone().rms_norm(offset));
                }
            }
        }
    }
}

/// Half-way cases and cancellation, where a fused multiply-add made of two roundings would show.
#[test]
fn gamma_and_beta_that_make_rounding_hard() {
    for cols in TURNING_POINTS {
        let mut problem = Problem::ordinary(9, cols, 7);
        let y = problem.expected().y;
        let (gamma, beta) = (problem.gamma.as_mut().expect("gamma"), problem.beta.as_mut().expect("beta"));
        for i in 0..cols {
            gamma[i] = [1.0, 0.5, 3e38, 1e-38, 1e-45, 1.0 + f32::EPSILON][i % 6];
            beta[i] = [-y[i], 1.0, -3e38, 1e-38, f32::MIN_POSITIVE, (-25f32).exp2()][(i + cols) % 6];
        }
        assert_tiers_agree(&problem);
        for offset in [0.0, -0.0, 1.0, -1.0, (-24f32).exp2(), -3e38, f32::MAX, 1e-45] {
            assert_tiers_agree(&problem.clone().rms_norm(offset));
        }
    }
}

/// What is promised of RMSNorm on ordinary rows to the last bit: (x * rstd) * (gamma + offset), each of them rounded.
#[test]
fn rms_norm_is_a_product_of_rounded_factors() {
    for cols in TURNING_POINTS {
        for offset in [0.0, 1.0, -0.7] {
            let problem = Problem::ordinary(9, cols, 8).rms_norm(offset);
            let gamma = problem.gamma.as_ref().expect("gamma");
            for &isa in tiers() {
                let got = problem.run(&Call::plain(isa));
                let product = |i: usize| (problem.x[i] * got.rstd[i / cols]) * (gamma[i % cols] + offset);
                let expected: Vec<f32> = (0..got.y.len()).map(product).collect();
                assert_same_bits(format_args!("{isa}, {problem}"), cols, &expected, &got.y);
            }
        }
    }
}

#[test]
fn the_offset_has_no_effect_without_gamma() {
    for cols in TURNING_POINTS {
        let plain = Problem { gamma: None, ..Problem::mixed(9, cols, 9).rms_norm(0.0) };
        let expected = plain.expected();
        for offset in [1.0, f32::INFINITY, f32::NAN] {
            for &isa in tiers() {
                plain.clone().rms_norm(offset).assert_gives(&expected, &Call::plain(isa));
            }
        }
    }
}
