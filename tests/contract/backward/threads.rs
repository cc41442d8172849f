//! The bits of dx, dgamma and dbeta do not depend on threads: the number of rows alone says where sums are cut, and not
//! the number of tasks.

use std::num::NonZeroUsize;

use lanenorm::{Isa, Parallelism, Store};
use rayon::ThreadPoolBuilder;

use crate::support::{F32, GradCall, GradProblem, Scratch, Statistics, Types, quick, tiers};

fn tasks(n: usize) -> Parallelism {
    Parallelism::Tasks(NonZeroUsize::new(n).expect("not zero"))
}

/// One part, parts of one size or not, the most parts, and larger parts.
const SHAPES: [(usize, usize); 10] =
    [(0, 5), (1, 3000), (2, 1), (33, 40), (64, 65), (301, 64), (1001, 193), (97, 768), (2049, 41), (8200, 9)];

fn threads_agree<K: Types>() {
    if K::is_left_out() {
        return;
    }
    let pools = [1, 2, 3, 8].map(|n| ThreadPoolBuilder::new().num_threads(n).build().expect("a pool"));
    for (i, (rows, cols)) in SHAPES.into_iter().enumerate().filter(|(i, _)| !quick() || *i < 6) {
        for (j, problem) in [GradProblem::<K>::ordinary(rows, cols, 1), GradProblem::mixed(rows, cols, 2).with_ds()]
            .into_iter()
            .flat_map(GradProblem::of_every_operation)
            .enumerate()
        {
            if K::ONE_OF > 1 && !(i + j).is_multiple_of(K::ONE_OF / 2) {
                continue;
            }
            let expected = problem.run(&GradCall::plain(Isa::best()));
            for &isa in tiers() {
                // The tier makes no difference to where pieces begin.
                let pools = if isa == Isa::best() { &pools[..] } else { &pools[2..3] };
                for parallelism in [
                    Parallelism::Auto,
                    Parallelism::OwnThreads,
                    tasks(2),
                    tasks(3),
                    tasks(7),
                    tasks(1000),
                    tasks(usize::MAX),
                ] {
                    let call = GradCall { parallelism, ..GradCall::plain(isa) };
                    problem.assert_gives(&expected, &call);
                    for pool in pools {
                        pool.install(|| problem.assert_gives(&expected, &call));
                    }
                }
                let (parallelism, statistics) = (tasks(5), Statistics::Kept);
                let call = GradCall { parallelism, statistics, ..GradCall::plain(isa) };
                pools[0].install(|| {
                    problem.assert_gives(&expected, &GradCall { in_place: true, gaps: [3; 4], ..call });
                    problem.assert_gives(&expected, &GradCall { store: Store::Streaming, ..call });
                    problem.assert_gives(&expected, &GradCall { wanted: [true, false, true], ..call });
                    problem.assert_gives(&expected, &GradCall { wanted: [false, true, false], ..call });
                });
            }
        }
    }
}

/// With memory for fewer tasks there are fewer tasks.
fn memory_for_fewer_tasks_changes_nothing<K: Types>() {
    let pool = ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    for problem in GradProblem::<K>::ordinary(400, 70, 3).of_every_operation() {
        let expected = problem.expected();
        for &isa in tiers() {
            for parallelism in [Parallelism::Auto, tasks(3), tasks(8), tasks(64)] {
                for scratch in [Scratch::Least, Scratch::Planned, Scratch::Long] {
                    let call = GradCall { parallelism, scratch, ..GradCall::plain(isa) };
                    pool.install(|| problem.assert_gives(&expected, &call));
                }
            }
        }
    }
}

/// Sums so long that dgamma and dbeta are merged on a thread each.
#[test]
fn long_sums() {
    let pool = ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
    for problem in GradProblem::<F32>::ordinary(if quick() { 961 } else { 2000 }, 1050, 4).of_every_operation() {
        let expected = problem.run(&GradCall::plain(Isa::best()));
        for wanted in [[true; 3], [false, true, true], [true, false, true], [true, true, false]] {
            let call = GradCall { wanted, parallelism: tasks(3), ..GradCall::plain(Isa::best()) };
            problem.assert_gives(&expected, &call);
            pool.install(|| problem.assert_gives(&expected, &call));
        }
    }
}

for_all_gradients!(threads_agree, memory_for_fewer_tasks_changes_nothing);
