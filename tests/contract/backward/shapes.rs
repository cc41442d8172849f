//! Any shape: whatever the types, operation, groups, rows, columns, strides, offsets, stores, tasks, statistics and
//! memory, the gradients have the bits of the plain call, and nothing else is touched. Found by proptest, which shrinks
//! what fails.

use std::num::NonZeroUsize;

use lanenorm::{Isa, Parallelism, Store, bf16, f16};
use proptest::prelude::*;

use crate::support::{Bf16, F16, F32, F64, FORMS, GradCall, GradProblem, Scratch, Types, quick, tiers};

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

prop_compose! {
    fn calls()(
        (isa, parallelism) in (isas(), parallelisms()),
        store in prop_oneof![Just(Store::Auto), Just(Store::Ordinary), Just(Store::Streaming)],
        in_place: bool,
        gaps in prop::array::uniform4(0usize..70),
        misalignment in prop::array::uniform7(0usize..17),
        wanted in prop_oneof![1 => prop::array::uniform3(any::<bool>()), 1 => Just([true; 3])],
        scratch in prop_oneof![Just(Scratch::Allocated), Just(Scratch::Least), Just(Scratch::Planned), Just(Scratch::Long)],
    ) -> GradCall {
        let plain = GradCall::plain(isa);
        GradCall { parallelism, store, in_place, gaps, misalignment, scratch, wanted, ..plain }
    }
}

/// What a problem is made from, in a form short enough to be read in a report.
#[derive(Clone, Copy, Debug)]
struct Recipe {
    types: usize,
    groups: (usize, usize),
    periods: usize,
    cols: usize,
    seed: u64,
    mixed: bool,
    form: usize,
    eps: f64,
}

/// f32, which shares its loops with most other types, is tried most often.
const CHECKS: [fn(Recipe, &GradCall); 7] = [
    check::<F32>,
    check::<F32>,
    check::<F64>,
    check::<F16>,
    check::<Bf16>,
    check::<(f16, f32, f16)>,
    check::<(bf16, f32, bf16)>,
];

prop_compose! {
    fn recipes()(
        types in 0..CHECKS.len(),
        groups in prop_oneof![3 => Just((1, 1)), 2 => (1usize..6, 1usize..9)],
        periods in prop_oneof![4 => 0usize..5, 1 => 5usize..80],
        cols in prop_oneof![4 => 0usize..70, 4 => 0usize..400, 1 => 0usize..2500],
        seed in 0u64..1 << 20,
        mixed: bool,
        form in 0..FORMS,
        eps in prop_oneof![Just(1e-5), Just(0.0), Just(1e-12), Just(1e-40)],
    ) -> Recipe {
        Recipe { types, groups, periods, cols, seed, mixed, form, eps }
    }
}

fn problem<K: Types>(recipe: Recipe) -> GradProblem<K> {
    let Recipe { groups: (groups, repeat), periods, cols, seed, mixed, form, eps, .. } = recipe;
    let make = if mixed { GradProblem::<K>::mixed } else { GradProblem::ordinary };
    let problem = make(groups * repeat * periods, cols, seed).with_eps(eps).in_every_form()[form].clone();
    if problem.forward.gamma.is_none() {
        return problem;
    }
    GradProblem { forward: problem.forward.with_groups(groups, repeat), ..problem }
}

fn check<K: Types>(recipe: Recipe, call: &GradCall) {
    let problem = problem::<K>(recipe);
    let [dx, dgamma, dbeta] = call.wanted;
    let something = dx || dgamma || (dbeta && problem.forward.operation.is_layer_norm());
    let call = &GradCall { wanted: [dx || !something, dgamma, dbeta], ..*call };
    problem.assert_gives(&problem.expected(), call);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if quick() { 60 } else { 3000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_shape_gives_the_bits_of_the_plain_call(recipe in recipes(), call in calls()) {
        CHECKS[recipe.types](recipe, &call);
    }
}
