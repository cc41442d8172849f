//! Any shape: whatever the types, operation, groups, rows, columns, strides, offsets, stores and tasks, the result has
//! the bits of the plain call, and nothing else is touched. Found by proptest, which shrinks what fails.

use std::num::NonZeroUsize;

use lanenorm::{Isa, Parallelism, Store, bf16, f16};
use proptest::prelude::*;

use crate::support::{Bf16, Call, F16, F32, F64, FORMS, Problem, Types, quick, tiers};

fn isas() -> impl Strategy<Value = Isa> {
    (0..tiers().len()).prop_map(|i| tiers()[i])
}

fn parallelisms() -> impl Strategy<Value = Parallelism> {
    prop_oneof![
        Just(Parallelism::Serial),
        Just(Parallelism::Auto),
        (1usize..20).prop_map(|n| Parallelism::Tasks(NonZeroUsize::new(n).expect("not zero"))),
        (1usize..4).prop_map(|n| Parallelism::AtMost(NonZeroUsize::new(n).expect("not zero"))),
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
            ..Call::plain(isa)
        },
    )
}

/// Numbers of columns: mostly small, now and then more than a chunk.
fn cols() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..70, 4 => 0usize..400, 2 => 0usize..1200, 1 => 0usize..5000]
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

/// The check of each type. f32, which shares its loops with most other types, is tried most often.
const CHECKS: [fn(Recipe, &Call); 12] = [
    check::<F32>,
    check::<F32>,
    check::<F32>,
    check::<F64>,
    check::<F16>,
    check::<Bf16>,
    check::<(f16, f32, f16)>,
    check::<(bf16, f32, bf16)>,
    check::<(f16, f16, f32)>,
    check::<(bf16, bf16, f32)>,
    check::<(f16, f32, f32)>,
    check::<(bf16, f32, f32)>,
];

fn check<K: Types>(recipe: Recipe, call: &Call) {
    let Recipe { groups: (groups, repeat), periods, cols, seed, mixed, form, eps, .. } = recipe;
    let rows = groups * repeat * periods;
    let make = if mixed { Problem::<K>::mixed } else { Problem::ordinary };
    let problem = make(rows, cols, seed).with_groups(groups, repeat).with_eps(eps);
    let problem = problem.in_every_form().into_iter().nth(form).expect("so many forms");
    problem.assert_gives(&problem.expected(), call);
}

/// Groups, repeat and rows: mostly one group, of any number of rows.
fn groups() -> impl Strategy<Value = ((usize, usize), usize)> {
    prop_oneof![2 => (0usize..40).prop_map(|rows| ((1, 1), rows)), 1 => ((1usize..5, 1usize..5), 0usize..4)]
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let eps = prop_oneof![Just(1e-5), Just(0.0), 1e-12f64..1.0];
    let kind = (0..CHECKS.len(), any::<u64>(), any::<bool>(), 0..FORMS, eps);
    (groups(), cols(), kind).prop_map(|((groups, periods), cols, (types, seed, mixed, form, eps))| Recipe {
        types,
        groups,
        periods,
        cols,
        seed,
        mixed,
        form,
        eps,
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if quick() { 400 } else { 8000 },
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_call_gives_the_bits_of_the_plain_one(recipe in recipes(), call in calls()) {
        CHECKS[recipe.types](recipe, &call);
    }
}
