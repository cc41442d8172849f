//! Groups of gamma and beta: a row of a batch has the bits of the row alone with the gamma and beta of its group,
//! wherever the groups begin and end, on all tiers and over all threads.

use std::num::NonZeroUsize;

use lanenorm::kernels::Error as Refused;
use lanenorm::{Error, Parallelism, Store};

use crate::support::{
    Call, OPERATIONS, Output, Plan, Problem, TURNING_POINTS, Types, Value, assert_same_bits, quick, tiers,
};

/// Groups and repeats: one group, alone and of many rows; a group for each row of a period; blocks of eight rows of one
/// group, of two, of eight; groups that end within a pair and within a block.
const GROUPS: [(usize, usize); 10] = [(1, 1), (1, 5), (2, 1), (3, 1), (8, 1), (2, 8), (2, 4), (5, 3), (3, 2), (2, 17)];

/// The yardstick: each row alone, with its own gamma and beta.
fn row_by_row<K: Types>(problem: &Problem<K>) -> Output<K> {
    let mut all = Output { y: Vec::new(), mean: Vec::new(), mean_lo: Vec::new(), rstd: Vec::new() };
    for r in 0..problem.rows {
        let Output { y, mean, mean_lo, rstd } = problem.only_row(r).expected();
        all.y.extend(y);
        all.mean.extend(mean);
        all.mean_lo.extend(mean_lo);
        all.rstd.extend(rstd);
    }
    all
}

/// LayerNorm (also with 1 + gamma, as in adaptive normalization) and RMSNorm, with gamma and beta and with either
/// alone.
fn forms<K: Types>(problem: Problem<K>) -> [Problem<K>; 5] {
    [
        Problem { beta: None, ..problem.clone() },
        Problem { gamma: None, ..problem.clone() },
        problem.clone().rms_norm(1.0),
        problem.clone().with_offset(1.0),
        problem,
    ]
}

fn each_row_has_the_vectors_of_its_group<K: Types>() {
    let mut number = 0;
    for cols in TURNING_POINTS.into_iter().chain([333, 5000, 17_000]).filter(|&c| !quick() || c < 2000) {
        for (i, (groups, repeat)) in GROUPS.into_iter().enumerate().filter(|(i, _)| cols < 200 || (i + cols) % 3 == 0) {
            let periods = [1, 2, 3][(i + cols) % 3];
            let problem = Problem::<K>::mixed(groups * repeat * periods, cols, 1).with_groups(groups, repeat);
            for problem in forms(problem) {
                number += 1;
                if !K::takes(number) {
                    continue;
                }
                let expected = row_by_row(&problem);
                for &isa in tiers() {
                    problem.assert_gives(&expected, &Call::plain(isa));
                    let store = Store::Streaming;
                    problem.assert_gives(&expected, &Call { store, x_gap: 3, y_gap: 1, ..Call::plain(isa) });
                    problem.assert_gives(
                        &expected,
                        &Call { in_place: true, misalignment: [1, 2, 3, 5], ..Call::plain(isa) },
                    );
                }
            }
        }
    }
}

/// Tasks begin in the middle of a period, and of a group.
fn groups_do_not_depend_on_threads<K: Types>() {
    if K::is_left_out() {
        return;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    for (rows, cols, groups, repeat) in
        [(84, 41, 4, 7), (300, 193, 3, 1), (12, 5000, 2, 3), (3, 66_000, 3, 1), (2, 70_001, 1, 2)]
    {
        let problem = Problem::<K>::mixed(rows, cols, 2).with_groups(groups, repeat);
        for problem in problem.of_every_operation() {
            let expected = row_by_row(&problem);
            for &isa in tiers() {
                for tasks in [2, 3, 5, 7, 64] {
                    let parallelism = Parallelism::Tasks(NonZeroUsize::new(tasks).expect("not zero"));
                    pool.install(|| problem.assert_gives(&expected, &Call { parallelism, ..Call::plain(isa) }));
                }
            }
        }
    }
}

/// Vectors of one group that are not finite give canonical NaNs in its rows, and do not touch rows of other groups.
fn what_is_not_finite_stays_in_its_group<K: Types>() {
    let values = [K::G::QUIET_NAN, -K::G::QUIET_NAN, K::G::SIGNALING_NAN, K::G::INFINITY, -K::G::INFINITY];
    for (i, cols) in TURNING_POINTS.into_iter().enumerate() {
        for (j, (groups, repeat)) in [(2, 1), (3, 4), (8, 1), (2, 9)].into_iter().enumerate() {
            let healthy = Problem::<K>::ordinary(groups * repeat * 2, cols, 3).with_groups(groups, repeat);
            for (k, healthy) in healthy.of_every_operation().into_iter().enumerate() {
                if !K::takes(i + j + 2 * k) {
                    continue;
                }
                let mut sick = healthy.clone();
                let (group, value) = ((i + j) % groups, values[(i + 2 * j + k) % 5]);
                let vector = if i % 2 == 0 && k == 0 { &mut sick.beta } else { &mut sick.gamma };
                vector.as_mut().expect("gamma or beta")[group * cols + i * 37 % cols] = value;
                let (expected, neighbours) = (row_by_row(&sick), row_by_row(&healthy));
                for &isa in tiers() {
                    for store in [Store::Ordinary, Store::Streaming] {
                        let got = sick.run(&Call { store, ..Call::plain(isa) });
                        got.assert_same(&expected, cols, format_args!("{isa}, {sick}, {value:e} in group {group}"));
                        for (r, y) in got.y.chunks_exact(cols).enumerate().filter(|(r, _)| r / repeat % groups != group)
                        {
                            let what = format_args!("{isa}, {sick}: row {r} of another group");
                            assert_same_bits(what, cols, &neighbours.y[r * cols..][..cols], y);
                        }
                        let canonical = got.y.iter().all(|y| !y.is_nan() || y.bits() == K::Y::QUIET_NAN.bits());
                        assert!(canonical, "{isa}, {sick}, {value:e}: a NaN that is not canonical");
                    }
                }
            }
        }
    }
}

for_all_types!(
    each_row_has_the_vectors_of_its_group,
    groups_do_not_depend_on_threads,
    what_is_not_finite_stays_in_its_group,
);

/// No groups, or too many, are refused when the plan is made.
#[test]
fn groups_that_are_none_or_overflow_are_refused() {
    for operation in OPERATIONS {
        let plan = Plan::new(operation, 4, 1e-5).expect("a valid eps");
        for (groups, repeat) in [(0, 1), (1, 0), (0, 0), (usize::MAX, 2), (1 << 33, 1 << 33)] {
            let error = plan.with_groups(groups, repeat).expect_err("bad groups were accepted");
            assert_eq!(error, Error::Arguments(Refused::Groups { groups, repeat }));
            let message = error.to_string();
            assert!(message.contains(&groups.to_string()) && message.contains(&repeat.to_string()), "{message}");
        }
        assert!(plan.with_groups(usize::MAX, 1).is_ok() && plan.with_groups(1, usize::MAX).is_ok());
    }
}

/// Calls that do not fit the groups: an error with both numbers, and nothing is written.
#[test]
fn calls_that_do_not_fit_the_groups_are_refused() {
    for operation in OPERATIONS {
        let plan = |groups, repeat| {
            Plan::new(operation, 4, 1e-5).and_then(|plan| plan.with_groups(groups, repeat)).expect("a valid plan")
        };
        let x = [1.0f32; 24];
        let refused = |plan: Plan, gamma: Option<&[f32]>, beta: Option<&[f32]>, expected: Error, words: &[&str]| {
            let (mut y, mut in_place) = ([7.0; 24], x);
            let results = [plan.forward(&x, gamma, beta, &mut y), plan.forward_in_place(&mut in_place, gamma, beta)];
            for result in results {
                let error = result.expect_err("bad input was accepted");
                assert_eq!(error, expected, "{operation:?}");
                let message = error.to_string();
                assert!(words.iter().all(|word| message.contains(word)), "{message}: {words:?}");
            }
            assert!(y == [7.0; 24] && in_place == x, "{operation:?}: something was written");
        };
        let gamma = |len: usize| vec![1.0; len];
        let rows = |groups, repeat| Error::Arguments(Refused::GroupRows { rows: 6, groups, repeat });
        refused(plan(4, 1), Some(&gamma(16)), None, rows(4, 1), &["6", "4", "1"]);
        refused(plan(2, 2), Some(&gamma(8)), None, rows(2, 2), &["6", "2"]);
        refused(plan(2, 6), None, None, rows(2, 6), &["6", "2"]);
        let length = |what, len, expected| Error::Arguments(Refused::Length { what, len, expected });
        refused(plan(3, 2), Some(&gamma(4)), None, length("gamma", 4, 12), &["gamma", "4", "12"]);
        refused(plan(3, 2), Some(&gamma(13)), None, length("gamma", 13, 12), &["gamma", "13", "12"]);
        refused(plan(1, 6), Some(&gamma(24)), None, length("gamma", 24, 4), &["gamma", "24", "4"]);
        if operation.is_layer_norm() {
            refused(plan(6, 1), Some(&gamma(24)), Some(&gamma(20)), length("beta", 20, 24), &["beta", "20", "24"]);
        }
        let too_many = usize::MAX / 2;
        let overflow = Error::Arguments(Refused::Overflow { what: "gamma", rows: too_many, stride: 4 });
        refused(plan(too_many, 1), Some(&gamma(4)), None, overflow, &["gamma", &too_many.to_string(), "4"]);
    }
}

/// Valid, but close to the errors: zero rows are a multiple of any period.
#[test]
fn no_rows_are_of_any_groups() {
    for operation in OPERATIONS {
        let plan = Plan::new(operation, 4, 1e-5).and_then(|plan| plan.with_groups(3, 5)).expect("a valid plan");
        let (empty, gamma): (&[f32], &[f32]) = (&[], &[1.0; 12]);
        assert_eq!(plan.forward(empty, Some(gamma), None, &mut [0.0; 0]), Ok(()));
        let plan = Plan::new(operation, 0, 1e-5).and_then(|plan| plan.with_groups(3, 5)).expect("a valid plan");
        assert_eq!(plan.forward(empty, Some(empty), None, &mut [0.0; 0]), Ok(()));
    }
}
