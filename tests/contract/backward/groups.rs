//! Groups of rows: dx, dgamma and dbeta of each group are as from a call on its rows alone, with its own gamma.

use std::num::NonZeroUsize;

use lanenorm::{Parallelism, Store};

use crate::support::{
    GradCall, GradProblem, Grads, Problem, TURNING_POINTS, Types, Value, assert_same_bits, quick, tiers,
};

/// Runs of rows that are shorter than a block, as long, and longer; groups of one part and of several.
const GROUPS: [(usize, usize, usize); 8] =
    [(1, 5, 2), (2, 1, 5), (3, 1, 40), (2, 4, 3), (5, 3, 1), (3, 2, 20), (2, 35, 2), (70, 1, 1)];

fn grouped<K: Types>(problem: GradProblem<K>, groups: usize, repeat: usize) -> GradProblem<K> {
    GradProblem { forward: problem.forward.with_groups(groups, repeat), ..problem }
}

/// The rows of a group.
fn rows_of<K: Types>(problem: &Problem<K>, group: usize) -> Vec<usize> {
    let (groups, repeat) = problem.groups;
    (0..problem.rows).filter(|r| r / repeat % groups == group).collect()
}

/// The yardstick: each group alone.
fn group_by_group<K: Types>(problem: &GradProblem<K>) -> Grads<K> {
    let Problem { groups: (groups, _), rows, cols, operation, .. } = problem.forward;
    let mut dx = vec![K::X::SENTINEL; rows * cols];
    let (mut dgamma, mut dbeta) = (Vec::new(), Vec::new());
    for group in 0..groups {
        let rows = rows_of(&problem.forward, group);
        let alone = problem.only(&rows).expected();
        for (&r, of_row) in rows.iter().zip(alone.dx().chunks_exact(cols)) {
            dx[r * cols..][..cols].copy_from_slice(of_row);
        }
        dgamma.extend_from_slice(alone.dgamma());
        dbeta.extend(alone.dbeta.iter().flatten());
    }
    Grads { dx: Some(dx), dgamma: Some(dgamma), dbeta: operation.is_layer_norm().then_some(dbeta) }
}

fn each_group_has_the_gradients_of_its_rows_alone<K: Types>() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    let mut number = 0;
    for (i, cols) in TURNING_POINTS.into_iter().chain([333]).enumerate().filter(|(_, c)| !quick() || *c < 1000) {
        for (groups, repeat, periods) in GROUPS.into_iter().skip(i % 3).step_by(if cols < 70 { 1 } else { 3 }) {
            let problem = GradProblem::<K>::mixed(groups * repeat * periods, cols, 1);
            for problem in grouped(problem, groups, repeat).in_every_form() {
                number += 1;
                if !K::takes(number) || (cols > 200 && number % 3 != 0) {
                    continue;
                }
                let expected = group_by_group(&problem);
                for &isa in tiers() {
                    problem.assert_gives(&expected, &GradCall::plain(isa));
                    let call = GradCall { in_place: true, gaps: [1, 0, 2, 0], ..GradCall::plain(isa) };
                    problem.assert_gives(&expected, &call);
                    let parallelism = Parallelism::Tasks(NonZeroUsize::new(3).expect("not zero"));
                    let call = GradCall { parallelism, store: Store::Streaming, ..GradCall::plain(isa) };
                    pool.install(|| problem.assert_gives(&expected, &call));
                }
            }
        }
    }
}

/// Numbers that are not finite in one group do not reach the other groups.
fn what_is_not_finite_stays_in_its_group<K: Types>() {
    let values = [K::X::QUIET_NAN, K::X::INFINITY, -K::X::INFINITY, K::X::SIGNALING_NAN];
    for (i, cols) in TURNING_POINTS.into_iter().enumerate() {
        for (j, (groups, repeat, periods)) in GROUPS.into_iter().enumerate().filter(|(_, (groups, ..))| *groups > 1) {
            if !(i + j).is_multiple_of(K::ONE_OF.max(4)) {
                continue;
            }
            let healthy = GradProblem::<K>::ordinary(groups * repeat * periods, cols, 3);
            let healthy = grouped(healthy, groups, repeat);
            let mut sick = healthy.clone();
            let group = (i + j) % groups;
            let rows = rows_of(&sick.forward, group);
            let (row, col, value) = (rows[i % rows.len()], i * 37 % cols, values[(i / 2 + j) % 4]);
            match i % 3 {
                0 => sick.forward.x[row * cols + col] = value,
                1 => sick.dy[row * cols + col] = value,
                _ => sick.forward.gamma.as_mut().expect("gamma")[group * cols + col] = K::G::of(value.wide()),
            }
            let neighbours = healthy.expected();
            for &isa in tiers() {
                let got = sick.run(&GradCall::plain(isa));
                for other in (0..groups).filter(|other| *other != group) {
                    let what = format_args!("{isa}, {sick}: group {other}, not {group} of {value:e}");
                    for r in rows_of(&sick.forward, other) {
                        let row = |dx: &[K::X]| dx[r * cols..][..cols].to_vec();
                        assert_same_bits(what, cols, &row(neighbours.dx()), &row(got.dx()));
                    }
                    let part = |v: &[K::F]| v[other * cols..][..cols].to_vec();
                    assert_same_bits(what, cols, &part(neighbours.dgamma()), &part(got.dgamma()));
                    assert_same_bits(what, cols, &part(neighbours.dbeta()), &part(got.dbeta()));
                }
            }
        }
    }
}

for_all_gradients!(each_group_has_the_gradients_of_its_rows_alone, what_is_not_finite_stays_in_its_group);

fn no_rows_give_every_group_zeros<K: Types>() {
    for problem in grouped(GradProblem::<K>::ordinary(0, 7, 4), 3, 5).of_every_operation() {
        for &isa in tiers() {
            let got = problem.run(&GradCall::plain(isa));
            let zeros = vec![K::F::default(); 21];
            assert_same_bits(format_args!("{isa}, {problem}: dgamma"), 7, &zeros, got.dgamma());
            got.dbeta.iter().for_each(|dbeta| assert_same_bits(format_args!("{isa}: dbeta"), 7, &zeros, dbeta));
        }
    }
}

for_every_type!(no_rows_give_every_group_zeros);
