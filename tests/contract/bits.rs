//! The tiers agree: y, mean, `mean_lo` and rstd have the same bits on all of them, for every number of columns up to
//! 2100 (600 in other types than f32) and the widths of real models, for every operation, with and without gamma and
//! beta, on ordinary rows and on special ones.

use lanenorm::kernels::simd::Float;

use crate::support::{Call, FORMS, Problem, TURNING_POINTS, Types, Value, assert_same_bits, quick, tiers};

/// One row and two or three; blocks of eight with one row left over.
const ROWS: [usize; 5] = [1, 2, 3, 9, 17];

/// Hidden and intermediate sizes of models, and two lengths that no power of two divides.
const WIDTHS: [usize; 9] = [2560, 3072, 4096, 5120, 8192, 11008, 16384, 100_003, 1_000_003];

fn columns<K: Types>() -> impl Iterator<Item = usize> {
    let most = if K::ONE_OF == 1 { 2100 } else { 600 };
    let keep = move |c: usize| if quick() { c < 20 || c.is_multiple_of(71) } else { c <= most };
    (0..=2100).filter(move |&c| keep(c) || TURNING_POINTS.contains(&c))
}

fn assert_tiers_agree<K: Types>(problem: &Problem<K>) {
    let expected = problem.expected();
    for &isa in tiers() {
        problem.assert_gives(&expected, &Call::plain(isa));
    }
}

fn ordinary_rows_of_every_length<K: Types>() {
    for cols in columns::<K>() {
        for rows in ROWS {
            for (form, problem) in Problem::<K>::ordinary(rows, cols, 1).in_every_form().into_iter().enumerate() {
                // Long rows are tried in every other form.
                if K::takes(form + cols + rows / 2) && (cols <= 600 || (form + cols) % 2 == 0) {
                    assert_tiers_agree(&problem);
                }
            }
        }
    }
}

fn all_kinds_of_rows_of_every_length<K: Types>() {
    for cols in columns::<K>() {
        for rows in ROWS {
            let eps = [1e-5, 0.0, 1e-12, 1e40][(cols + rows) % 4];
            let problems = Problem::<K>::mixed(rows, cols, 2).with_eps(eps).in_every_form();
            for (i, form) in [cols + rows / 2, cols + rows / 2 + 3].into_iter().enumerate() {
                if K::takes(i + cols + rows) {
                    assert_tiers_agree(&problems[form % FORMS]);
                }
            }
        }
    }
}

fn widths_of_models<K: Types>() {
    let most = if quick() || K::ONE_OF > 4 {
        100_000
    } else if K::ONE_OF > 1 {
        200_000
    } else {
        usize::MAX
    };
    for (i, cols) in WIDTHS.into_iter().enumerate().filter(|&(_, c)| c < most) {
        for rows in [1, 3] {
            for (form, problem) in Problem::<K>::ordinary(rows, cols, 3).in_every_form().into_iter().enumerate() {
                if K::takes(form + i + rows / 2) {
                    assert_tiers_agree(&problem);
                }
            }
        }
        for (seed, eps) in [(4, 1e-5), (5, 0.0)] {
            if K::takes(seed as usize + i) {
                for problem in Problem::<K>::mixed(4, cols, seed).with_eps(eps).of_every_operation() {
                    assert_tiers_agree(&problem);
                }
            }
        }
    }
}

/// Processors differ in the sign and payload of a NaN that arithmetic makes.
fn gamma_and_beta_that_are_not_finite<K: Types>() {
    let (nan, infinity) = (K::G::QUIET_NAN, K::G::INFINITY);
    let special = [nan, -nan, infinity, -infinity, K::G::SIGNALING_NAN];
    for cols in TURNING_POINTS {
        for rows in ROWS {
            for (i, value) in special.into_iter().enumerate().filter(|(i, _)| K::takes(i + cols + rows)) {
                let mut problem = Problem::<K>::mixed(rows, cols, 6);
                let at = (i * 37 + rows) % cols;
                let vector = if (i + cols) % 2 == 0 { &mut problem.gamma } else { &mut problem.beta };
                vector.as_mut().expect("gamma and beta")[at] = value;
                assert_tiers_agree(&problem);
                problem.gamma.as_mut().expect("gamma")[at] = value;
                for offset in [0.0, 1.0, f32::INFINITY, -f32::NAN] {
                    assert_tiers_agree(&problem.clone().rms_norm(offset));
                    assert_tiers_agree(&problem.clone().with_offset(offset));
                }
            }
        }
    }
}

/// Half-way cases and cancellation would show a fused multiply-add that rounds twice.
fn gamma_and_beta_that_make_rounding_hard<K: Types>() {
    for cols in TURNING_POINTS.into_iter().filter(|c| !K::is_left_out() || c % 3 == 0) {
        let mut problem = Problem::<K>::ordinary(9, cols, 7);
        let y = problem.expected().y;
        let (gamma, beta) = (problem.gamma.as_mut().expect("gamma"), problem.beta.as_mut().expect("beta"));
        let (one, max, min, smallest) = (K::G::of(1.0), K::G::MAX, K::G::MIN_POSITIVE, K::G::SMALLEST);
        let quarter = K::G::of(K::G::EPSILON.wide() / 4.0);
        for i in 0..cols {
            let epsilon_more = K::G::of(1.0 + K::G::EPSILON.wide());
            gamma[i] = [one, K::G::of(0.5), max, min, smallest, epsilon_more][i % 6];
            beta[i] = [-K::G::of(y[i].wide()), one, -max, smallest, min, quarter][(i + cols) % 6];
        }
        assert_tiers_agree(&problem);
        for (i, offset) in [0.0, -0.0, 1.0, -1.0, (-24f32).exp2(), -3e38, f32::MAX, 1e-45].into_iter().enumerate() {
            if K::takes(i + cols) {
                assert_tiers_agree(&problem.clone().rms_norm(offset));
                assert_tiers_agree(&problem.clone().with_offset(offset));
            }
        }
    }
}

/// On ordinary rows RMSNorm is promised to the last bit: (x * rstd) * (gamma + offset), with each operation rounded.
fn rms_norm_is_a_product_of_rounded_factors<K: Types>() {
    for cols in TURNING_POINTS {
        for (i, offset) in [0.0, 1.0, -0.7].into_iter().enumerate() {
            if !K::takes(i + cols) {
                continue;
            }
            let problem = Problem::<K>::ordinary(9, cols, 8).rms_norm(offset);
            let gamma = problem.gamma.as_ref().expect("gamma");
            for &isa in tiers() {
                let got = problem.run(&Call::plain(isa));
                let product = |i: usize| {
                    let (x, gamma) = (K::F::of(problem.x[i].wide()), K::F::of(gamma[i % cols].wide()));
                    let y: K::F = (x * got.rstd[i / cols]) * (gamma + K::F::from_f64(offset.into()));
                    K::Y::of(y.wide())
                };
                let expected: Vec<K::Y> = (0..got.y.len()).map(product).collect();
                assert_same_bits(format_args!("{isa}, {problem}"), cols, &expected, &got.y);
            }
        }
    }
}

fn the_offset_has_no_effect_without_gamma<K: Types>() {
    for cols in TURNING_POINTS {
        for plain in Problem::<K>::mixed(9, cols, 9).of_every_operation() {
            let plain = Problem { gamma: None, ..plain }.with_offset(0.0);
            let expected = plain.expected();
            for offset in [1.0, f32::INFINITY, f32::NAN] {
                for &isa in tiers() {
                    plain.clone().with_offset(offset).assert_gives(&expected, &Call::plain(isa));
                }
            }
        }
    }
}

/// Tensors larger than caches: their rows are taken in another order.
fn short_rows_from_memory<K: Types>() {
    if K::is_left_out() {
        return;
    }
    let cols = 131;
    let rows = (9 << 20) / (cols * size_of::<K::X>()) + 3;
    for problem in Problem::<K>::mixed(rows, cols, 11).of_every_operation() {
        assert_tiers_agree(&problem);
    }
}

for_all_types!(
    short_rows_from_memory,
    ordinary_rows_of_every_length,
    all_kinds_of_rows_of_every_length,
    widths_of_models,
    gamma_and_beta_that_are_not_finite,
    gamma_and_beta_that_make_rounding_hard,
    rms_norm_is_a_product_of_rounded_factors,
);

for_every_type!(the_offset_has_no_effect_without_gamma);
