//! The bits do not depend on where the rows lie: strides, alignment, dx over dy or apart, the kind of stores. The bits
//! of dx do not depend on other rows either. Nothing around dx, dgamma and dbeta is written.

use lanenorm::{Error, Isa, Store};

use crate::support::forms::{GradIo, ParamGrads, Stats};
use crate::support::{
    Call, GradCall, GradProblem, Grads, Statistics, TURNING_POINTS, Types, Value, assert_same_bits, quick, tiers,
};

const COLS: [usize; 9] = [1, 3, 16, 64, 65, 100, 193, 1024, 1500];

fn columns() -> impl Iterator<Item = usize> {
    COLS.into_iter().filter(|&cols| !quick() || cols < 1000)
}

/// A row lies within blocks of two rows and at their ends, and beside rows of all kinds.
fn dx_of_a_row_does_not_depend_on_the_other_rows<K: Types>() {
    let rows = 11;
    for cols in columns() {
        let problems = [GradProblem::<K>::ordinary(rows, cols, 1), GradProblem::mixed(rows, cols, 2).with_ds()];
        for problem in problems.into_iter().flat_map(GradProblem::of_every_operation) {
            let expected = problem.expected();
            for &isa in tiers() {
                for from in (0..rows).filter(|from| K::takes(from + cols)) {
                    for to in [from + 1, from + 2, from + 4, from + 7].into_iter().filter(|&to| to <= rows) {
                        let some: Vec<usize> = (from..to).collect();
                        let got = problem.only(&some).run(&GradCall::plain(isa));
                        let what = format_args!("{isa}, rows {from}..{to} of {problem}");
                        assert_same_bits(what, cols, &expected.dx()[from * cols..to * cols], got.dx());
                    }
                }
            }
        }
    }
}

fn strides_and_stores_change_nothing<K: Types>() {
    for cols in columns().chain(TURNING_POINTS) {
        for (form, problem) in GradProblem::<K>::mixed(11, cols, 3).in_every_form().into_iter().enumerate() {
            let expected = problem.expected();
            for &isa in tiers() {
                let gaps = [[0; 4], [1, 0, 0, 0], [0, 3, 0, 1], [7, 16, 5, 16], [0, 0, 64, 0], [64, 5, 1, 64]];
                for (i, gaps) in gaps.into_iter().enumerate().filter(|(i, _)| K::takes(form + i + cols)) {
                    if cols > 200 && (i + form) % 4 != 0 {
                        continue;
                    }
                    for store in [Store::Ordinary, Store::Streaming, Store::Auto] {
                        for in_place in [false, true] {
                            problem
                                .assert_gives(&expected, &GradCall { store, in_place, gaps, ..GradCall::plain(isa) });
                        }
                    }
                }
            }
        }
    }
}

fn misalignment_changes_nothing<K: Types>() {
    for cols in columns().filter(|&cols| cols < 1100) {
        for problem in GradProblem::<K>::ordinary(10, cols, 4).of_every_operation() {
            let problem = if cols % 2 == 0 { problem.with_ds() } else { problem };
            let expected = problem.expected();
            for &isa in tiers() {
                // The elements of a register of AVX-512.
                let most = 64 / size_of::<K::X>();
                for at in (0..=most).filter(|at| K::takes(at + cols)) {
                    let each_alone = (0..7).map(|buffer| {
                        let mut misalignment = [0; 7];
                        misalignment[buffer] = at;
                        misalignment
                    });
                    for misalignment in each_alone.chain([[at; 7], [at, most - at, at / 2, 3, 1, at, 5]]) {
                        for (store, in_place) in
                            [(Store::Ordinary, false), (Store::Streaming, false), (Store::Ordinary, true)]
                        {
                            problem.assert_gives(
                                &expected,
                                &GradCall { misalignment, store, in_place, ..GradCall::plain(isa) },
                            );
                        }
                    }
                }
            }
        }
    }
}

for_all_gradients!(
    dx_of_a_row_does_not_depend_on_the_other_rows,
    strides_and_stores_change_nothing,
    misalignment_changes_nothing,
);

/// 16 MiB and more: where `Store::Auto` streams.
fn large_gradients_that_are_streamed<K: Types>() {
    if quick() {
        return;
    }
    let rows = (17 << 20) / 1025 / size_of::<K::X>();
    for problem in GradProblem::<K>::ordinary(rows, 1025, 5).of_every_operation() {
        let expected = problem.run(&GradCall::plain(Isa::best()));
        for &isa in tiers().iter().filter(|&&isa| isa != Isa::SCALAR) {
            let call = GradCall { store: Store::Auto, statistics: Statistics::Kept, ..GradCall::plain(isa) };
            problem.assert_gives(&expected, &call);
        }
    }
}

/// A way to call a plan.
type Form<'a, K> = &'a dyn Fn(
    GradIo<'_, <K as Types>::X>,
    Stats<'_, <K as Types>::F>,
    ParamGrads<'_, <K as Types>::F>,
) -> Result<(), Error>;

/// All ways to call a plan.
fn every_form_of_a_call_gives_the_same_bits<K: Types<G = <K as Types>::X>>() {
    let problems = [GradProblem::<K>::ordinary(40, 300, 7), GradProblem::mixed(9, 100, 6)];
    for problem in problems.into_iter().flat_map(GradProblem::in_every_form) {
        for &isa in tiers() {
            check_every_form(&problem, isa);
        }
    }
}

fn check_every_form<K: Types<G = <K as Types>::X>>(problem: &GradProblem<K>, isa: Isa) {
    let GradProblem { forward, dy, ds } = problem;
    let (plan, expected, kept) = (forward.plan(isa), problem.expected(), forward.run(&Call::plain(isa)));
    let (cols, gamma, centered) = (forward.cols, forward.gamma.as_deref(), forward.operation.is_layer_norm());
    let (mean, mean_lo) = (centered.then_some(&kept.mean[..]), centered.then_some(&kept.mean_lo[..]));
    let stats = Stats { mean, mean_lo, rstd: Some(&kept.rstd) };
    let check = |name: &str, call: Form<'_, K>| {
        for (in_place, stats) in [(false, stats), (true, stats), (false, Stats::default())] {
            let sums = || vec![K::F::SENTINEL; cols];
            let (mut dx, mut dgamma, mut dbeta) = (dy.clone(), sums(), centered.then(sums));
            let io =
                if in_place { GradIo::in_place(&mut dx, &forward.x) } else { GradIo::new(dy, &forward.x, &mut dx) };
            let io = if let Some(ds) = ds { io.with_ds(ds) } else { io };
            let grads = ParamGrads { dgamma: Some(&mut dgamma), dbeta: dbeta.as_deref_mut() };
            assert_eq!(call(io, stats, grads), Ok(()), "{name}");
            let got = Grads::<K> { dx: Some(dx), dgamma: Some(dgamma), dbeta };
            got.assert_same(&expected, cols, format_args!("{name}, {isa}, {problem}, in place: {in_place}"));
        }
    };
    check("backward", &|io, stats, grads| plan.backward(io, gamma, stats, grads));
    check("backward_mixed", &|io, stats, grads| plan.backward_mixed(io, gamma, stats, grads));
    check("backward_with_scratch", &|io, stats, grads| {
        let len = plan.backward_scratch_len::<K::X>(forward.rows).expect("a length");
        plan.backward_with_scratch(io, gamma, stats, grads, &mut vec![K::F::QUIET_NAN; len])
    });
}

for_every_type!(large_gradients_that_are_streamed, every_form_of_a_call_gives_the_same_bits);
