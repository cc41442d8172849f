//! The bits do not depend on threads: their number, the pool, how the work is cut. The shapes include long rows that
//! are cut over threads, also rows that must go back to the slow path.

use std::num::NonZeroUsize;

use lanenorm::{Isa, Parallelism, Store};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::support::{
    Call, F32, GradCall, GradProblem, KINDS, Problem, Random, Types, Value, assert_same_bits, quick, special_row, tiers,
};

/// The pools. f32 is tried in all of them.
fn pools<K: Types>() -> Vec<ThreadPool> {
    let threads: &[usize] = if K::ONE_OF == 1 { &[1, 2, 3, 7] } else { &[3] };
    threads.iter().map(|&n| ThreadPoolBuilder::new().num_threads(n).build().expect("a pool")).collect()
}

fn ways(tasks: &[usize]) -> Vec<Parallelism> {
    let n = |n: usize| NonZeroUsize::new(n).expect("not zero");
    let tasks = tasks.iter().map(|&tasks| Parallelism::Tasks(n(tasks)));
    [Parallelism::Serial, Parallelism::Auto, Parallelism::OwnThreads, Parallelism::AtMost(n(2))]
        .into_iter()
        .chain(tasks)
        .collect()
}

/// Checks all tiers, in all pools and outside of them.
fn assert_threads_agree<K: Types>(problem: &Problem<K>, pools: &[ThreadPool], tasks: &[usize]) {
    let expected = problem.expected();
    for &isa in tiers() {
        for parallelism in ways(tasks) {
            let call = Call { parallelism, ..Call::plain(isa) };
            problem.assert_gives(&expected, &call);
            for pool in pools {
                pool.install(|| problem.assert_gives(&expected, &call));
                if K::IN_PLACE {
                    pool.install(|| problem.assert_gives(&expected, &Call { in_place: true, ..call }));
                }
            }
        }
        let call = Call { parallelism: Parallelism::Auto, store: Store::Streaming, y_gap: 5, ..Call::plain(isa) };
        pools[0].install(|| problem.assert_gives(&expected, &call));
    }
}

fn many_rows<K: Types>() {
    if K::is_left_out() {
        return;
    }
    let pools = pools::<K>();
    let shapes = [(0, 5), (2, 1), (5, 3), (301, 64), (1001, 193), (97, 768), (50, 2049), (1700, 41)];
    for (i, (rows, cols)) in shapes.into_iter().enumerate() {
        for (seed, problem) in
            [Problem::<K>::ordinary(rows, cols, 1), Problem::mixed(rows, cols, 2)].into_iter().enumerate()
        {
            for problem in problem.of_every_operation() {
                if K::takes(i + seed) {
                    assert_threads_agree(&problem, &pools, &[1, 2, 3, 7, 64]);
                }
            }
        }
    }
}

/// Rows of 65536 elements and more are cut if there are fewer rows than tasks, or no multiple of the tasks.
fn few_long_rows<K: Types>() {
    let pools = pools::<K>();
    let shapes = [(1, 65_535), (1, 65_536), (3, 65_537), (2, 100_003), (8, 70_001)];
    let some = if quick() || K::ONE_OF > 1 { 3 } else { 5 };
    for (i, (rows, cols)) in shapes.into_iter().take(some).enumerate() {
        for (seed, problem) in
            [Problem::<K>::ordinary(rows, cols, 3), Problem::mixed(rows, cols, 4)].into_iter().enumerate()
        {
            for problem in problem.of_every_operation() {
                if !quick() || K::takes(i + seed) {
                    assert_threads_agree(&problem, &pools, if K::ONE_OF == 1 { &[2, 3, 7] } else { &[3] });
                }
            }
        }
    }
}

#[test]
fn a_few_million_elements() {
    if quick() {
        return;
    }
    let pools = pools::<F32>();
    for rows in [1, 4] {
        let problem = Problem::<F32>::ordinary(rows, 1_000_003, 5);
        let plain = Problem { gamma: None, beta: None, ..problem.clone() };
        assert_threads_agree(&plain, &pools[3..], &[]);
        assert_threads_agree(&plain.rms_norm(0.0), &pools[3..], &[]);
        assert_threads_agree(&problem.clone().rms_norm(1.0), &pools[2..], &[5]);
        assert_threads_agree(&problem, &pools, &[5]);
    }
}

/// Every kind of row, cut: what makes it special may lie in one part only.
fn long_rows_of_every_kind<K: Types>() {
    let pools = pools::<K>();
    let mut random = Random::new(6);
    for kind in 0..KINDS {
        for (i, eps) in [0.0, 1e-5].into_iter().enumerate() {
            let mut problem = Problem::<K>::ordinary(1, 66_000, 7).with_eps(eps);
            special_row(kind, &mut random, &mut problem.x);
            for (j, problem) in problem.of_every_operation().into_iter().enumerate() {
                if K::takes(kind + i + 2 * j) {
                    assert_threads_agree(&problem, &pools[pools.len() / 4..][..1], if i == j { &[3] } else { &[8] });
                }
            }
        }
    }
}

/// Gamma and beta that are not finite, in one part of a row only.
fn long_rows_with_an_infinite_gamma<K: Types>() {
    if K::is_left_out() {
        return;
    }
    let pools = pools::<K>();
    for at in [0, 12_345, 65_999] {
        let mut problem = Problem::<K>::ordinary(1, 66_000, 8);
        let (infinity, nan) = (K::G::INFINITY, K::G::QUIET_NAN);
        problem.gamma.as_mut().expect("gamma")[at] = infinity;
        problem.beta.as_mut().expect("beta")[at] = if problem.x[at].wide() > 0.0 { -infinity } else { -nan };
        for problem in problem.of_every_operation() {
            assert_threads_agree(&problem, &pools[pools.len() / 4..][..1], &[3, 8]);
        }
    }
}

for_all_types!(many_rows, few_long_rows, long_rows_of_every_kind, long_rows_with_an_infinite_gamma);

#[test]
fn a_plan_is_shared_between_threads() {
    for problem in Problem::<F32>::ordinary(40, 333, 9).of_every_operation() {
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

fn calls_on_every_path<K: Types>() {
    for &isa in tiers() {
        for (rows, cols) in [(9, 5), (8, 64), (3, 768), (2, 2049), (1, 20_003)] {
            for problem in Problem::<K>::mixed(rows, cols, 5).of_every_operation() {
                let expected = problem.expected();
                for store in [Store::Ordinary, Store::Streaming] {
                    problem.assert_gives(&expected, &Call { store, ..Call::plain(isa) });
                }
            }
            // The type of y makes no difference to gradients.
            let gradients = GradProblem::<K>::mixed(rows, cols, 5).of_every_operation();
            for problem in gradients.into_iter().filter(|_| K::IN_PLACE) {
                for problem in [problem.clone(), problem.with_ds()] {
                    let expected = problem.expected();
                    for store in [Store::Ordinary, Store::Streaming] {
                        problem.assert_gives(&expected, &GradCall { store, ..GradCall::plain(isa) });
                    }
                }
            }
        }
    }
}

/// Without optimization the frame of a function has room for everything that is inlined into it. For these kernels that
/// is much.
fn calls_fit_on_the_stack_of_a_small_thread<K: Types>() {
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(calls_on_every_path::<K>).expect("a thread");
    thread.join().expect("no panic");
}

for_all_types!(calls_fit_on_the_stack_of_a_small_thread);
