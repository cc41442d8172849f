//! The bits of a row do not depend on where it lies: its place in the batch, the strides, the alignment of the four
//! buffers, in place or not, the kind of stores. Nothing around the rows of y is written.

use lanenorm::{StatsMut, Store};

use crate::support::{Call, Problem, TURNING_POINTS, assert_same_bits, quick, tiers};

/// Each of the loops: blocks, fused with a delay of two rows and of one, whole rows.
const COLS: [usize; 12] = [1, 3, 16, 64, 65, 100, 192, 193, 333, 1024, 1500, 17_000];

fn columns() -> impl Iterator<Item = usize> {
    COLS.into_iter().filter(|&c| !quick() || c < 1024)
}

#[test]
fn a_row_gives_the_same_bits_in_every_batch() {
    let rows = 20;
    for cols in columns() {
        let problems = [Problem::ordinary(rows, cols, 1), Problem::mixed(rows, cols, 2)];
        for problem in problems.into_iter().flat_map(Problem::of_every_operation) {
            let expected = problem.expected();
            for &isa in tiers() {
                for from in 0..rows {
                    for to in [from + 1, from + 2, from + 8, from + 11].into_iter().filter(|&to| to <= rows) {
                        let got = problem.only_rows(from, to).run(&Call::plain(isa));
                        let what = format_args!("{isa}, rows {from}..{to} of {problem}");
                        assert_same_bits(what, cols, &expected.y[from * cols..to * cols], &got.y);
                        assert_same_bits(what, 1, &expected.mean[from..to], &got.mean);
                        assert_same_bits(what, 1, &expected.mean_lo[from..to], &got.mean_lo);
                        assert_same_bits(what, 1, &expected.rstd[from..to], &got.rstd);
                    }
                }
            }
        }
    }
}

#[test]
fn strides_and_stores_change_nothing() {
    for cols in columns().chain(TURNING_POINTS) {
        for problem in Problem::mixed(11, cols, 3).in_every_form() {
            let expected = problem.expected();
            for &isa in tiers() {
                for (x_gap, y_gap) in [(0, 0), (1, 0), (0, 3), (7, 16), (64, 5)] {
                    for store in [Store::Ordinary, Store::Streaming, Store::Auto] {
                        for in_place in [false, true] {
                            let call = Call { store, in_place, x_gap, y_gap, ..Call::plain(isa) };
                            problem.assert_gives(&expected, &call);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn misalignment_changes_nothing() {
    for cols in columns().filter(|&c| c < 2000) {
        for problem in Problem::ordinary(10, cols, 4).of_every_operation() {
            let expected = problem.expected();
            for &isa in tiers() {
                for at in 0..=16 {
                    let each_alone = (0..4).map(|buffer| {
                        let mut misalignment = [0; 4];
                        misalignment[buffer] = at;
                        misalignment
                    });
                    for misalignment in each_alone.chain([[at; 4], [at, 16 - at, at / 2, 3]]) {
                        for store in [Store::Ordinary, Store::Streaming] {
                            problem.assert_gives(&expected, &Call { misalignment, store, ..Call::plain(isa) });
                        }
                        problem.assert_gives(&expected, &Call { misalignment, in_place: true, ..Call::plain(isa) });
                    }
                }
            }
        }
    }
}

/// 16 MiB and more: where `Store::Auto` streams.
#[test]
fn large_outputs_that_are_streamed() {
    if quick() {
        return;
    }
    for (rows, cols) in [(1030, 4096), (4, 1_100_003), (4200, 1025)] {
        for problem in Problem::ordinary(rows, cols, 5).of_every_operation() {
            let expected = problem.expected();
            for &isa in tiers() {
                for store in [Store::Auto, Store::Ordinary] {
                    problem.assert_gives(&expected, &Call { store, y_gap: 3, ..Call::plain(isa) });
                }
            }
        }
    }
}

#[test]
fn the_free_functions_are_the_plan() {
    let problem = Problem::mixed(9, 100, 6);
    let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
    let mut y = vec![0.0; problem.x.len()];
    lanenorm::layer_norm(&problem.x, 100, gamma, beta, problem.eps, &mut y).expect("a valid call");
    assert_same_bits(format_args!("layer_norm"), 100, &problem.expected().y, &y);
    let mut x = problem.x.clone();
    lanenorm::layer_norm_in_place(&mut x, 100, gamma, beta, problem.eps).expect("a valid call");
    assert_same_bits(format_args!("layer_norm_in_place"), 100, &y, &x);
    lanenorm::rms_norm(&problem.x, 100, gamma, problem.eps, &mut y).expect("a valid call");
    assert_same_bits(format_args!("rms_norm"), 100, &problem.clone().rms_norm(0.0).expected().y, &y);
    x.copy_from_slice(&problem.x);
    lanenorm::rms_norm_in_place(&mut x, 100, gamma, problem.eps).expect("a valid call");
    assert_same_bits(format_args!("rms_norm_in_place"), 100, &y, &x);
}

#[test]
fn statistics_that_are_not_asked_for_change_nothing() {
    for problem in Problem::mixed(19, 70, 7).of_every_operation() {
        let expected = problem.expected();
        for &isa in tiers() {
            for asked in 0..8 {
                let (mut mean, mut mean_lo, mut rstd) = (vec![0.0; 19], vec![0.0; 19], vec![0.0; 19]);
                let stats = StatsMut {
                    mean: (asked & 1 != 0).then_some(&mut mean[..]),
                    mean_lo: (asked & 2 != 0).then_some(&mut mean_lo[..]),
                    rstd: (asked & 4 != 0).then_some(&mut rstd[..]),
                };
                let mut y = vec![0.0; problem.x.len()];
                let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
                let result = problem.plan(isa).forward_with_stats(&problem.x, gamma, beta, &mut y, stats);
                assert_eq!(result, Ok(()));
                let what = format_args!("{isa}, {problem}, statistics {asked:03b}");
                assert_same_bits(format_args!("{what}: y"), 70, &expected.y, &y);
                for (bit, want, got) in
                    [(1, &expected.mean, &mean), (2, &expected.mean_lo, &mean_lo), (4, &expected.rstd, &rstd)]
                {
                    let want = if asked & bit != 0 { want } else { &vec![0.0; 19] };
                    assert_same_bits(format_args!("{what}: {bit:03b}"), 1, want, got);
                }
            }
        }
    }
}
