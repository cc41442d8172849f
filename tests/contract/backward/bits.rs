//! The tiers agree: dx, dgamma and dbeta have the same bits on all of them, for any number of rows and columns. The
//! bits are the same with statistics that forward has kept or that are computed again, with memory given or allocated,
//! and with any subset of the gradients.

use lanenorm::{Isa, Store};

use crate::support::{
    GradCall, GradProblem, KINDS, Problem, Random, Scratch, Statistics, TURNING_POINTS, Types, Value, quick,
    special_row, tiers,
};

/// Blocks of two rows, leaves of 16, parts of 64 rows, then of 80, and of 272.
const ROWS: [usize; 14] = [1, 2, 3, 4, 5, 15, 16, 17, 33, 64, 65, 130, 2049, 8193];

/// The number of elements of the largest problems.
fn most() -> usize {
    if quick() { 5_000 } else { 40_000 }
}

fn shapes<K: Types>() -> impl Iterator<Item = (usize, usize)> {
    let all = TURNING_POINTS.into_iter().flat_map(|cols| ROWS.map(|rows| (rows, cols)));
    all.filter(|(rows, cols)| *rows <= 5 || rows * cols <= most())
        .filter(|(rows, cols)| !quick() || (rows + cols) % 3 == 0)
        .filter(|_| !K::is_left_out() || K::ONE_OF <= 4)
}

fn assert_tiers_agree<K: Types>(problem: &GradProblem<K>, call: impl Fn(Isa) -> GradCall) {
    let expected = problem.expected();
    for &isa in tiers() {
        problem.assert_gives(&expected, &call(isa));
    }
}

fn ordinary_rows<K: Types>() {
    for (i, (rows, cols)) in shapes::<K>().enumerate() {
        for (form, problem) in GradProblem::<K>::ordinary(rows, cols, 1).in_every_form().into_iter().enumerate() {
            if K::takes(i + form) && (rows * cols < 2_000 || (i + form) % 8 < 2) {
                assert_tiers_agree(&problem, GradCall::plain);
            }
        }
    }
}

fn all_kinds_of_rows<K: Types>() {
    for (i, (rows, cols)) in shapes::<K>().enumerate() {
        let eps = [1e-5, 0.0, 1e-12, 1e40][i % 4];
        let problems = GradProblem::<K>::mixed(rows, cols, 2).with_eps(eps).in_every_form();
        for (form, problem) in problems.into_iter().enumerate() {
            if K::takes(i + form) && (rows * cols < 500 || (i / 4 + form) % 4 == 0) {
                assert_tiers_agree(&problem, GradCall::plain);
            }
        }
    }
}

/// Rows of models, and many chunks with a tail.
fn widths_of_models<K: Types>() {
    for (i, cols) in [2560, 4096, 11_008, 100_003].into_iter().enumerate() {
        let rows = if cols > 20_000 { 2 } else { 5 };
        for (j, problem) in [GradProblem::<K>::ordinary(rows, cols, 3), GradProblem::mixed(rows, cols, 4)]
            .into_iter()
            .flat_map(GradProblem::of_every_operation)
            .enumerate()
        {
            if K::takes(i + j) && (!quick() || cols < 4000) {
                assert_tiers_agree(&problem, GradCall::plain);
            }
        }
    }
}

/// Processors differ in the sign and payload of a NaN that arithmetic makes.
fn gamma_that_is_not_finite_or_extreme<K: Types>() {
    let special = [K::G::QUIET_NAN, -K::G::INFINITY, K::G::SIGNALING_NAN, K::G::MAX, K::G::SMALLEST, K::G::of(-0.0)];
    for (i, cols) in TURNING_POINTS.into_iter().enumerate() {
        for (j, value) in special.into_iter().enumerate() {
            if K::takes(i + j) {
                let mut problem = GradProblem::<K>::mixed(9, cols, 5).with_ds();
                problem.forward.gamma.as_mut().expect("gamma")[(i * 37 + j) % cols] = value;
                for offset in [0.0, 1.0, f32::INFINITY] {
                    let layer_norm = Problem { beta: None, ..problem.forward.clone() }.with_offset(offset);
                    assert_tiers_agree(&GradProblem { forward: layer_norm, ..problem.clone() }, GradCall::plain);
                    assert_tiers_agree(&problem.clone().rms_norm(offset), GradCall::plain);
                }
            }
        }
    }
}

/// Problems for all paths, for tests of what must change nothing.
fn some_problems<K: Types>() -> impl Iterator<Item = GradProblem<K>> {
    let shapes = [(1, 1), (3, 5), (9, 64), (70, 33), (6, 193), (5, 1030), (2100, 3)];
    shapes.into_iter().enumerate().flat_map(|(i, (rows, cols))| {
        let eps = [1e-5, 0.0][i % 2];
        let problems = [GradProblem::<K>::ordinary(rows, cols, 6), GradProblem::mixed(rows, cols, 7).with_eps(eps)];
        let forms = problems.into_iter().flat_map(GradProblem::in_every_form).enumerate();
        forms.filter(move |(form, _)| K::takes(i + form)).map(|(_, problem)| problem)
    })
}

fn statistics_that_were_kept_change_nothing<K: Types>() {
    for problem in some_problems::<K>() {
        assert_tiers_agree(&problem, |isa| GradCall { statistics: Statistics::Kept, ..GradCall::plain(isa) });
    }
    // Rows and gradients of every size, also where the slow path begins.
    for (i, exponent) in (-160..130).step_by(if quick() { 7 } else { 1 }).enumerate() {
        let mut problem = GradProblem::<K>::ordinary(5, 9, 8).with_eps(0.0);
        let scale = f64::from(exponent).exp2();
        problem.forward.x.iter_mut().for_each(|x| *x = K::X::of(x.wide() * scale));
        for problem in problem.of_every_operation() {
            let expected = problem.expected();
            let isa = tiers()[i % tiers().len()];
            problem.assert_gives(&expected, &GradCall { statistics: Statistics::Kept, ..GradCall::plain(isa) });
        }
    }
}

fn memory_that_is_handed_in_changes_nothing<K: Types>() {
    for problem in some_problems::<K>() {
        for scratch in [Scratch::Least, Scratch::Planned, Scratch::Long] {
            assert_tiers_agree(&problem, |isa| GradCall { scratch, ..GradCall::plain(isa) });
        }
    }
}

/// The statistics alone decide where the slow path begins, and they are the same kept or computed again. Rows and
/// gradients here have every size, with sums of squares next to the ends of the range.
fn statistics_that_were_kept_change_nothing_at_any_size<K: Types>() {
    for (i, cols) in [9, 64, 193, 1023, 2048].into_iter().enumerate() {
        for kind in 0..KINDS {
            if !K::takes(i + kind) {
                continue;
            }
            let eps = [0.0, 1e-5][(i + kind) % 2];
            let mut problem = GradProblem::<K>::ordinary(8, cols, 10).with_eps(eps);
            let mut random = Random::new(kind as u64);
            problem.forward.x.chunks_exact_mut(cols).for_each(|row| special_row(kind, &mut random, row));
            for problem in problem.of_every_operation() {
                assert_tiers_agree(&problem, |isa| GradCall { statistics: Statistics::Kept, ..GradCall::plain(isa) });
            }
        }
    }
}

fn gradients_do_not_depend_on_which_are_wanted<K: Types>() {
    for problem in some_problems::<K>() {
        for wanted in 1..8 {
            let wanted = [1, 2, 4].map(|bit| wanted & bit != 0);
            if problem.forward.operation.is_layer_norm() || wanted[..2] != [false; 2] {
                for store in [Store::Ordinary, Store::Streaming] {
                    assert_tiers_agree(&problem, |isa| GradCall { wanted, store, ..GradCall::plain(isa) });
                }
            }
        }
    }
}

fn the_offset_has_no_effect_without_gamma<K: Types>() {
    for cols in TURNING_POINTS {
        for problem in GradProblem::<K>::mixed(9, cols, 9).of_every_operation() {
            let without = |offset| {
                let forward = Problem { gamma: None, ..problem.forward.clone() }.with_offset(offset);
                GradProblem { forward, ..problem.clone() }
            };
            let expected = without(0.0).expected();
            for offset in [1.0, f32::INFINITY, f32::NAN] {
                for &isa in tiers() {
                    without(offset).assert_gives(&expected, &GradCall::plain(isa));
                }
            }
        }
    }
}

for_all_gradients!(
    ordinary_rows,
    all_kinds_of_rows,
    widths_of_models,
    gamma_that_is_not_finite_or_extreme,
    statistics_that_were_kept_change_nothing,
    memory_that_is_handed_in_changes_nothing,
    statistics_that_were_kept_change_nothing_at_any_size,
    gradients_do_not_depend_on_which_are_wanted,
);

for_every_type!(the_offset_has_no_effect_without_gamma);
