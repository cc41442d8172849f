//! Any shape: whatever the operation, rows, columns, strides, offsets, stores and tasks, the result has the bits of the plain
//! call, and nothing else is touched. Found by proptest, which shrinks what fails.

use std::num::NonZeroUsize;

use lanenorm::{Isa, Parallelism, Store};
use proptest::prelude::*;

use crate::support::{Call, Problem, quick, tiers};

fn isas() -> impl Strategy<Value = Isa> {
    (0..tiers().len()).prop_map(|i| tiers()[i])
}

fn parallelisms() -> impl Strategy<Value = Parallelism> {
    prop_oneof![
        Just(Parallelism::Serial),
        Just(Parallelism::Auto),
        (1usize..20).prop_map(|n| Parallelism::Tasks(NonZeroUsize::new(n).expect("not zero"))),
    ]
}

fn calls() -> impl Strategy<Value = Call> {
    let stores = prop_oneof![Just(Store::Auto), Just(Store::Ordinary), Just(Store::Streaming)];
    let gaps = (0usize..70, 0usize..70);
    (isas(), parallelisms(), stores, any::<bool>(), gaps, prop::array::uniform4(0usize..17)).prop_map(
        |(isa, parallelism, store, in_place, (x_gap, y_gap), misalignment)| Call {
            isa,
            parallelism,
            store,
            in_place,
            x_gap,
            y_gap,
            misalignment,
        },
    )
}

/// Mostly small, now and then beyond a chunk.
fn cols() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..70, 4 => 0usize..400, 2 => 0usize..1200, 1 => 0usize..5000]
}

/// What a problem is made from, in a form short enough to be read in a report.
#[derive(Clone, Copy, Debug)]
struct Recipe {
    rows: usize,
    cols: usize,
    seed: u64,
    mixed: bool,
    form: usize,
    eps: f64,
}

impl Recipe {
    fn problem(self) -> Problem {
        let make = if self.mixed { Problem::mixed } else { Problem::ordinary };
        let problems = make(self.rows, self.cols, self.seed).with_eps(self.eps).in_every_form();
        problems.into_iter().nth(self.form).expect("seven of them")
    }
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let eps = prop_oneof![Just(1e-5), Just(0.0), 1e-12f64..1.0];
    (0usize..40, cols(), any::<u64>(), any::<bool>(), 0usize..7, eps)
        .prop_map(|(rows, cols, seed, mixed, form, eps)| Recipe { rows, cols, seed, mixed, form, eps })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if quick() { 300 } else { 6000 },
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_call_gives_the_bits_of_the_plain_one(recipe in recipes(), call in calls()) {
        let problem = recipe.problem();
        problem.assert_gives(&problem.expected(), &call);
    }
}
