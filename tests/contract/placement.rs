//! The bits of a row do not depend on where the row lies: its place in the batch, the strides, the alignment of the
//! four buffers, in place or not, the kind of stores. Nothing around the rows of y is written.

use lanenorm::{Error, Isa, Store, bf16};

use crate::support::forms::{Io, StatsMut, Sum};
use crate::support::{
    Call, F32, F64, Operation, Output, Problem, TURNING_POINTS, Types, Value, assert_same_bits, quick, tiers,
};

/// Columns for each of the loops: blocks, fused with a delay of two rows and of one, whole rows.
const COLS: [usize; 12] = [1, 3, 16, 64, 65, 100, 192, 193, 333, 1024, 1500, 17_000];

fn columns() -> impl Iterator<Item = usize> {
    COLS.into_iter().filter(|&c| !quick() || c < 1024)
}

fn a_row_gives_the_same_bits_in_every_batch<K: Types>() {
    let rows = 20;
    for cols in columns() {
        let problems = [Problem::<K>::ordinary(rows, cols, 1), Problem::mixed(rows, cols, 2)];
        for problem in problems.into_iter().flat_map(Problem::of_every_operation) {
            let expected = problem.expected();
            for &isa in tiers() {
                for from in (0..rows).filter(|from| K::takes(from + cols)) {
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

fn strides_and_stores_change_nothing<K: Types>() {
    for cols in columns().chain(TURNING_POINTS) {
        for (form, problem) in Problem::<K>::mixed(11, cols, 3).in_every_form().into_iter().enumerate() {
            let expected = problem.expected();
            for &isa in tiers() {
                for (i, (x_gap, y_gap)) in [(0, 0), (1, 0), (0, 3), (7, 16), (64, 5)].into_iter().enumerate() {
                    if !K::takes(form + i + cols) {
                        continue;
                    }
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

fn misalignment_changes_nothing<K: Types>() {
    for cols in columns().filter(|&c| c < 2000) {
        for problem in Problem::<K>::ordinary(10, cols, 4).of_every_operation() {
            let expected = problem.expected();
            for &isa in tiers() {
                // The elements of a register of AVX-512.
                let most = 64 / size_of::<K::X>();
                for at in (0..=most).filter(|at| K::takes(at + cols)) {
                    let each_alone = (0..4).map(|buffer| {
                        let mut misalignment = [0; 4];
                        misalignment[buffer] = at;
                        misalignment
                    });
                    for misalignment in each_alone.chain([[at; 4], [at, most - at, at / 2, 3]]) {
                        for store in [Store::Ordinary, Store::Streaming] {
                            problem.assert_gives(&expected, &Call { misalignment, store, ..Call::plain(isa) });
                        }
                        if K::IN_PLACE {
                            problem.assert_gives(&expected, &Call { misalignment, in_place: true, ..Call::plain(isa) });
                        }
                    }
                }
            }
        }
    }
}

for_all_types!(
    a_row_gives_the_same_bits_in_every_batch,
    strides_and_stores_change_nothing,
    misalignment_changes_nothing,
);

fn assert_large_outputs<K: Types>(rows: usize, cols: usize) {
    for problem in Problem::<K>::ordinary(rows, cols, 5).of_every_operation() {
        let expected = problem.expected();
        for &isa in tiers() {
            for store in [Store::Auto, Store::Ordinary] {
                problem.assert_gives(&expected, &Call { store, y_gap: 3, ..Call::plain(isa) });
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
        assert_large_outputs::<F32>(rows, cols);
    }
    assert_large_outputs::<F64>(2, 1_100_003);
    assert_large_outputs::<(bf16, bf16, f32)>(4200, 1025);
}

/// A way to call a plan.
type Form<'a, K> = &'a dyn Fn(&mut [<K as Types>::X], StatsMut<'_, <K as Types>::F>) -> Result<(), Error>;

/// All ways to call a plan.
fn every_form_of_a_call_gives_the_same_bits<K: Types<G = <K as Types>::X, Y = <K as Types>::X>>() {
    for problem in
        [Problem::<K>::ordinary(11, 300, 7), Problem::mixed(9, 100, 6)].into_iter().flat_map(Problem::in_every_form)
    {
        for &isa in tiers() {
            check_every_form(&problem, isa);
        }
    }
}

fn check_every_form<K: Types<G = <K as Types>::X, Y = <K as Types>::X>>(problem: &Problem<K>, isa: Isa) {
    let (plan, expected) = (problem.plan(isa), problem.expected());
    let (x, gamma, beta) = (&problem.x, problem.gamma.as_deref(), problem.beta.as_deref());
    // A sum with -0 has the bits of the other addend.
    let nothing = vec![K::X::of(-0.0); x.len()];
    let check = |name: &str, with_stats: bool, call: Form<'_, K>| {
        let per_row = || vec![K::F::default(); problem.rows];
        let mut output = Output { y: x.clone(), mean: per_row(), mean_lo: per_row(), rstd: per_row() };
        let Output { y, mean, mean_lo, rstd } = &mut output;
        let stats = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
        assert_eq!(call(y, if with_stats { stats } else { StatsMut::default() }), Ok(()), "{name}");
        let want = if with_stats { &expected } else { &Output { y: expected.y.clone(), ..output.clone() } };
        output.assert_same(want, problem.cols, format_args!("{name}, {isa}, {problem}"));
    };
    check("forward", false, &|y, _| plan.forward(x, gamma, beta, y));
    check("forward_in_place", false, &|y, _| plan.forward_in_place(y, gamma, beta));
    check("call", true, &|y, stats| plan.call(x, gamma, beta, y, stats));
    check("call_in_place", true, &|y, stats| plan.call_in_place(y, gamma, beta, stats));
    check("call_mixed in place", true, &|y, stats| plan.call_mixed(Io::in_place(y), gamma, beta, stats));
    check("forward_sum", false, &|y, stats| {
        plan.call_sum(Sum::residual_in_place(x, &mut nothing.clone()), gamma, beta, y, stats)
    });
    check("call_sum", true, &|y, stats| {
        plan.call_sum(Sum::sum_to(x, &nothing, &mut nothing.clone()), gamma, beta, y, stats)
    });
    match problem.operation {
        Operation::LayerNorm { offset: 0.0 } => {
            check("layer_norm", false, &|y, _| lanenorm::layer_norm(x, problem.cols, gamma, beta, problem.eps, y));
            check("layer_norm_in_place", false, &|y, _| {
                lanenorm::layer_norm_in_place(y, problem.cols, gamma, beta, problem.eps)
            });
        }
        Operation::RmsNorm { offset: 0.0 } => {
            check("rms_norm", false, &|y, _| lanenorm::rms_norm(x, problem.cols, gamma, problem.eps, y));
            check("rms_norm_in_place", false, &|y, _| lanenorm::rms_norm_in_place(y, problem.cols, gamma, problem.eps));
        }
        _ => {}
    }
}

fn statistics_that_are_not_asked_for_change_nothing<K: Types>() {
    for problem in Problem::<K>::mixed(19, 70, 7).of_every_operation() {
        let expected = problem.expected();
        for &isa in tiers() {
            for asked in 0..8 {
                let per_row = || vec![K::F::default(); 19];
                let mut output =
                    Output { y: vec![K::Y::SENTINEL; 19 * 70], mean: per_row(), mean_lo: per_row(), rstd: per_row() };
                let Output { y, mean, mean_lo, rstd } = &mut output;
                let stats = StatsMut {
                    mean: (asked & 1 != 0).then_some(&mut mean[..]),
                    mean_lo: (asked & 2 != 0).then_some(&mut mean_lo[..]),
                    rstd: (asked & 4 != 0).then_some(&mut rstd[..]),
                };
                let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
                let io = Io::new(&problem.x, y);
                assert_eq!(problem.plan(isa).call_mixed(io, gamma, beta, stats), Ok(()));
                let mut want = expected.clone();
                for (bit, unasked) in [(1, &mut want.mean), (2, &mut want.mean_lo), (4, &mut want.rstd)] {
                    if asked & bit == 0 {
                        *unasked = per_row();
                    }
                }
                output.assert_same(&want, 70, format_args!("{isa}, {problem}, statistics {asked:03b}"));
            }
        }
    }
}

for_every_type!(every_form_of_a_call_gives_the_same_bits, statistics_that_are_not_asked_for_change_nothing);
