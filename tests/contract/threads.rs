//! The bits do not depend on threads: their number, the pool, how the work is cut. Long rows that are cut over threads
//! are among the shapes, also such as must go back to the slow path.

use std::num::NonZeroUsize;

use lanenorm::{Isa, Parallelism, Store};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::support::{Call, KINDS, Problem, Random, assert_same_bits, quick, special_row, tiers};

fn pools() -> Vec<ThreadPool> {
    [1, 2, 3, 7].map(|n| ThreadPoolBuilder::new().num_threads(n).build().expect("a pool")).into()
}

fn ways(tasks: &[usize]) -> Vec<Parallelism> {
    let tasks = tasks.iter().map(|&n| Parallelism::Tasks(NonZeroUsize::new(n).expect("not zero")));
    [Parallelism::Serial, Parallelism::Auto].into_iter().chain(tasks).collect()
}

/// On all tiers, in all pools and outside of them.
fn assert_threads_agree(problem: &Problem, pools: &[ThreadPool], tasks: &[usize]) {
    let expected = problem.expected();
    for &isa in tiers() {
        for parallelism in ways(tasks) {
            let call = Call { parallelism, ..Call::plain(isa) };
            problem.assert_gives(&expected, &call);
            for pool in pools {
                pool.install(|| problem.assert_gives(&expected, &call));
                pool.install(|| problem.assert_gives(&expected, &Call { in_place: true, ..call }));
            }
        }
        let call = Call { parallelism: Parallelism::Auto, store: Store::Streaming, y_gap: 5, ..Call::plain(isa) };
        pools[0].install(|| problem.assert_gives(&expected, &call));
    }
}

#[test]
fn many_rows() {
    let pools = pools();
    for (rows, cols) in [(0, 5), (2, 1), (5, 3), (301, 64), (1001, 193), (97, 768), (50, 2049), (1700, 41)] {
        for problem in [Problem::ordinary(rows, cols, 1), Problem::mixed(rows, cols, 2)] {
            for problem in problem.of_every_operation() {
                assert_threads_agree(&problem, &pools, &[1, 2, 3, 7, 64]);
            }
        }
    }
}

/// Rows of 65536 elements and more are cut if their number is less than that of the tasks or not a multiple of it.
#[test]
fn few_long_rows() {
    let pools = pools();
    let shapes = [(1, 65_535), (1, 65_536), (3, 65_537), (2, 100_003), (8, 70_001)];
    for (rows, cols) in shapes.into_iter().take(if quick() { 3 } else { 5 }) {
        for problem in [Problem::ordinary(rows, cols, 3), Problem::mixed(rows, cols, 4)] {
            for problem in problem.of_every_operation() {
                assert_threads_agree(&problem, &pools, &[2, 3, 7]);
            }
        }
    }
}

#[test]
fn a_few_million_elements() {
    if quick() {
        return;
    }
    let pools = pools();
    for rows in [1, 4] {
        let [plain, rms_plain, .., affine] = Problem::ordinary(rows, 1_000_003, 5).in_every_form();
        assert_threads_agree(&plain, &pools[3..], &[]);
        assert_threads_agree(&rms_plain, &pools[3..], &[]);
        assert_threads_agree(&affine.clone().rms_norm(1.0), &pools[2..], &[5]);
        assert_threads_agree(&affine, &pools, &[5]);
    }
}

/// Every kind of row, cut: what makes it special may lie in one part only.
#[test]
fn long_rows_of_every_kind() {
    let pools = pools();
    let mut random = Random::new(6);
    for kind in 0..KINDS {
        for eps in [1e-5, 0.0] {
            let mut problem = Problem::ordinary(1, 66_000, 7).with_eps(eps);
            special_row(kind, &mut random, &mut problem.x);
            for problem in problem.of_every_operation() {
                assert_threads_agree(&problem, &pools[1..2], &[3, 8]);
            }
        }
    }
}

/// Gamma and beta that are not finite, in one part of a row only.
#[test]
fn long_rows_with_an_infinite_gamma() {
    let pools = pools();
    for at in [0, 12_345, 65_999] {
        let mut problem = Problem::ordinary(1, 66_000, 8);
        problem.gamma.as_mut().expect("gamma")[at] = f32::INFINITY;
        problem.beta.as_mut().expect("beta")[at] = if problem.x[at] > 0.0 { f32::NEG_INFINITY } else { -f32::NAN };
        for problem in problem.of_every_operation() {
            assert_threads_agree(&problem, &pools[1..2], &[3, 8]);
        }
    }
}

#[test]
fn a_plan_is_shared_between_threads() {
    for problem in Problem::ordinary(40, 333, 9).of_every_operation() {
        let (expected, plan) = (problem.expected(), problem.plan(Isa::best()));
        let solve = || {
            let mut y = vec![0.0; problem.x.len()];
            let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
            assert_eq!(plan.forward(&problem.x, gamma, beta, &mut y), Ok(()));
            assert_same_bits(format_args!("{problem}"), problem.cols, &expected.y, &y);
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(solve))));
    }
}

/// Without optimization a function's frame has room for everything that is inlined into it, which for these kernels is
/// much.
#[test]
fn calls_fit_on_the_stack_of_a_small_thread() {
    let calls = || {
        for &isa in tiers() {
            for (rows, cols) in [(9, 5), (8, 64), (3, 768), (2, 2049), (1, 5000), (1, 100_003)] {
                for problem in Problem::mixed(rows, cols, 5).of_every_operation() {
                    let expected = problem.expected();
                    for store in [Store::Ordinary, Store::Streaming] {
                        problem.assert_gives(&expected, &Call { store, ..Call::plain(isa) });
                    }
                }
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(calls).expect("a thread");
    thread.join().expect("no panic");
}
