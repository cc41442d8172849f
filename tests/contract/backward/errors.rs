//! Bad input to a backward call: each kind gives its own error, the message has the numbers, and nothing is written.

use lanenorm::kernels::Error as Refused;
use lanenorm::kernels::ops::backward::Parts;
use lanenorm::{Error, Isa, Parallelism, Rows, RowsMut};

use crate::support::forms::{GradIo, ParamGrads, Stats};
use crate::support::{OPERATIONS, Operation, Plan, tiers};

const COLS: usize = 4;

/// Three rows.
const ONES: [f32; 12] = [1.0; 12];

/// The outputs of a call, which must stay as they are.
#[derive(Clone, Debug, PartialEq)]
struct Outputs {
    dx: [f32; 12],
    dgamma: [f32; COLS],
    dbeta: [f32; COLS],
}

const UNTOUCHED: Outputs = Outputs { dx: [7.0; 12], dgamma: [7.0; COLS], dbeta: [7.0; COLS] };

const LAYER_NORM: Operation = Operation::LayerNorm { offset: 0.0 };

/// Asserts that the call fails with this error, with all these words in its message, and has written nothing.
#[track_caller]
fn refused_by(
    operation: Operation,
    expected: &Error,
    words: &[&str],
    call: impl Fn(&Plan, &mut Outputs) -> Result<(), Error>,
) {
    for parallelism in [Parallelism::Serial, Parallelism::Auto] {
        let plan = Plan::new(operation, COLS, 1e-5).expect("a valid eps").with_parallelism(parallelism);
        let mut outputs = UNTOUCHED;
        let error = call(&plan, &mut outputs).expect_err("bad input was accepted");
        assert_eq!(error, *expected, "{operation:?}");
        let message = error.to_string();
        for word in words {
            assert!(message.contains(word), "\"{message}\" does not say {word}");
        }
        assert_eq!(outputs, UNTOUCHED, "{operation:?}: {message}: but something has been written");
    }
}

#[track_caller]
fn refused(expected: Error, words: &[&str], call: impl Fn(&Plan, &mut Outputs) -> Result<(), Error>) {
    for operation in OPERATIONS {
        refused_by(operation, &expected, words, &call);
    }
}

/// dgamma, which every operation has.
fn dgamma(dgamma: &mut [f32]) -> ParamGrads<'_> {
    ParamGrads { dgamma: Some(dgamma), dbeta: None }
}

fn nothing_kept() -> Stats<'static> {
    Stats::default()
}

/// A call with rows that may be bad, and with good other arguments.
fn with_rows(plan: &Plan, io: GradIo<'_>, sums: &mut [f32]) -> Result<(), Error> {
    plan.backward(io, Some(&[1.0; COLS]), nothing_kept(), dgamma(sums))
}

#[test]
fn buffers_that_are_not_whole_rows() {
    let error = |what, len| Error::Ragged { what, len, cols: 4 };
    refused(error("dy", 11), &["dy", "11", "4"], |p, o| {
        with_rows(p, GradIo::new(&ONES[..11], &ONES, &mut o.dx), &mut o.dgamma)
    });
    refused(error("x", 10), &["x", "10", "4"], |p, o| {
        with_rows(p, GradIo::new(&ONES, &ONES[..10], &mut o.dx), &mut o.dgamma)
    });
    refused(error("dx", 9), &["dx", "9", "4"], |p, o| {
        with_rows(p, GradIo::new(&ONES, &ONES, &mut o.dx[..9]), &mut o.dgamma)
    });
    refused(error("ds", 7), &["ds", "7", "4"], |p, o| {
        with_rows(p, GradIo::new(&ONES, &ONES, &mut o.dx).with_ds(&ONES[..7]), &mut o.dgamma)
    });
    refused(error("dy", 6), &["dy", "6", "4"], |p, o| {
        with_rows(p, GradIo::in_place(&mut o.dx[..6], &ONES), &mut o.dgamma)
    });
    refused(error("dy", 5), &["dy", "5", "4"], |p, o| {
        with_rows(p, GradIo::without_dx(&ONES[..5], &ONES), &mut o.dgamma)
    });
}

#[test]
fn buffers_of_different_rows() {
    let error = |what, rows| Error::GradRows { what, dy: 3, rows };
    refused(error("x", 2), &["dy", "3", "x", "2"], |p, o| {
        with_rows(p, GradIo::new(&ONES, &ONES[..8], &mut o.dx), &mut o.dgamma)
    });
    refused(error("dx", 1), &["dy", "3", "dx", "1"], |p, o| {
        with_rows(p, GradIo::new(&ONES, &ONES, &mut o.dx[..4]), &mut o.dgamma)
    });
    refused(error("ds", 2), &["dy", "3", "ds", "2"], |p, o| {
        with_rows(p, GradIo::new(&ONES, &ONES, &mut o.dx).with_ds(&ONES[..8]), &mut o.dgamma)
    });
    refused(error("x", 0), &["dy", "3", "x", "0"], |p, o| {
        with_rows(p, GradIo::in_place(&mut o.dx, &ONES[..0]), &mut o.dgamma)
    });
    refused(error("x", 5), &["dy", "3", "x", "5"], |p, o| {
        with_rows(p, GradIo::without_dx(&ONES, &[1.0; 20]), &mut o.dgamma)
    });
}

#[test]
fn strides_that_overlap_or_are_too_long() {
    let overlap = |what, stride| Error::Arguments(Refused::Overlap { what, cols: 4, stride });
    let short = |what| Error::Arguments(Refused::TooShort { what, len: 12, rows: 3, cols: 4, stride: 5, needed: 14 });
    let (max, max_text) = (usize::MAX, usize::MAX.to_string());
    let overflow = |what| Error::Arguments(Refused::Overflow { what, rows: 3, stride: max });
    let cases = |what| [(overlap(what, 3), 3, "3"), (short(what), 5, "14"), (overflow(what), max, &max_text)];
    for (error, stride, word) in cases("dy") {
        refused(error, &["dy", word, "3"], |p, o| {
            with_rows(p, GradIo::new(Rows::strided(&ONES, 3, stride), &ONES, &mut o.dx), &mut o.dgamma)
        });
    }
    for (error, stride, word) in cases("x") {
        refused(error, &["x", word, "3"], |p, o| {
            with_rows(p, GradIo::new(&ONES, Rows::strided(&ONES, 3, stride), &mut o.dx), &mut o.dgamma)
        });
    }
    for (error, stride, word) in cases("dx") {
        refused(error, &["dx", word, "3"], |p, o| {
            with_rows(p, GradIo::new(&ONES, &ONES, RowsMut::strided(&mut o.dx, 3, stride)), &mut o.dgamma)
        });
    }
    for (error, stride, word) in cases("ds") {
        refused(error, &["ds", word, "3"], |p, o| {
            let io = GradIo::new(&ONES, &ONES, &mut o.dx).with_ds(Rows::strided(&ONES, 3, stride));
            with_rows(p, io, &mut o.dgamma)
        });
    }
    for (error, stride, word) in cases("dy") {
        refused(error, &["dy", word, "3"], |p, o| {
            with_rows(p, GradIo::in_place(RowsMut::strided(&mut o.dx, 3, stride), &ONES), &mut o.dgamma)
        });
    }
}

#[test]
fn vectors_of_another_length() {
    let error = |what, len| Error::Arguments(Refused::Length { what, len, expected: 4 });
    for len in [0, 3, 5, 12] {
        let word = len.to_string();
        refused(error("gamma", len), &["gamma", &word, "4"], |p, o| {
            let io = GradIo::new(&ONES, &ONES, &mut o.dx);
            p.backward(io, Some(&ONES[..len]), nothing_kept(), dgamma(&mut o.dgamma))
        });
        refused(error("dgamma", len), &["dgamma", &word, "4"], |p, o| {
            let mut other = vec![7.0; len];
            let result = with_rows(p, GradIo::new(&ONES, &ONES, &mut o.dx), &mut other);
            assert_eq!(other, vec![7.0; len], "dgamma has been written");
            result
        });
        refused_by(LAYER_NORM, &error("dbeta", len), &["dbeta", &word, "4"], |p, o| {
            let mut other = vec![7.0; len];
            let grads = ParamGrads { dgamma: Some(&mut o.dgamma), dbeta: Some(&mut other) };
            let result = p.backward(GradIo::new(&ONES, &ONES, &mut o.dx), None, nothing_kept(), grads);
            assert_eq!(other, vec![7.0; len], "dbeta has been written");
            result
        });
    }
}

#[test]
fn statistics_of_another_shape() {
    let error = |what, len| Error::Arguments(Refused::Length { what, len, expected: 3 });
    let call = |p: &Plan, o: &mut Outputs, stats| {
        p.backward(GradIo::new(&ONES, &ONES, &mut o.dx), None, stats, dgamma(&mut o.dgamma))
    };
    for len in [0, 2, 4, 12] {
        let (three, other, word) = (Some(&ONES[..3]), Some(&ONES[..len]), len.to_string());
        let stats = |mean, mean_lo, rstd| Stats { mean, mean_lo, rstd };
        refused_by(LAYER_NORM, &error("mean", len), &["mean", &word, "3"], |p, o| {
            call(p, o, stats(other, three, three))
        });
        refused_by(LAYER_NORM, &error("mean_lo", len), &["mean_lo", &word, "3"], |p, o| {
            call(p, o, stats(three, other, three))
        });
        refused_by(LAYER_NORM, &error("rstd", len), &["rstd", &word, "3"], |p, o| {
            call(p, o, stats(three, None, other))
        });
        refused(error("rstd", len), &["rstd", &word, "3"], |p, o| {
            let mean = matches!(p, Plan::LayerNorm(_)).then_some(&ONES[..3]);
            call(p, o, stats(mean, None, other))
        });
    }
}

#[test]
fn statistics_without_those_that_belong_to_them() {
    let three = Some(&ONES[..3]);
    for (mean, mean_lo, rstd, given, missing) in [
        (three, None, None, "mean", "rstd"),
        (three, three, None, "mean", "rstd"),
        (None, None, three, "rstd", "mean"),
        (None, three, three, "rstd", "mean"),
        (None, three, None, "mean_lo", "mean"),
    ] {
        let error = Error::Arguments(Refused::Statistics { rows: 3, given, missing });
        refused_by(LAYER_NORM, &error, &["3", given, missing], |p, o| {
            let (stats, grads) = (Stats { mean, mean_lo, rstd }, dgamma(&mut o.dgamma));
            p.backward(GradIo::new(&ONES, &ONES, &mut o.dx), None, stats, grads)
        });
    }
}

#[test]
fn no_gradient_is_wanted() {
    refused(Error::Arguments(Refused::NoGradient), &["dx", "dgamma", "dbeta"], |p, _| {
        p.backward(GradIo::without_dx(&ONES, &ONES), None, nothing_kept(), ParamGrads::default())
    });
}

/// One element less than one task takes is an error; as many as one task takes are enough.
#[test]
fn scratch_that_is_too_short() {
    for operation in OPERATIONS {
        let (parts, centered) = (Parts::new(3, COLS), operation.is_layer_norm());
        let sums = parts.partial_len::<f32>(centered).expect("a length") * parts.count();
        let needed = sums + parts.work_len::<f32>(centered).expect("a length");
        for len in [0, 1, needed - 1] {
            let error = Error::Scratch { len, needed, rows: 3, cols: 4 };
            refused_by(operation, &error, &[&len.to_string(), &needed.to_string(), "3", "4"], |p, o| {
                let (io, mut scratch) = (GradIo::new(&ONES, &ONES, &mut o.dx), vec![7.0; len]);
                let grads = dgamma(&mut o.dgamma);
                let result = p.backward_with_scratch(io, None::<&[f32]>, nothing_kept(), grads, &mut scratch);
                assert_eq!(scratch, vec![7.0; len], "scratch has been written");
                result
            });
        }
        let plan = Plan::new(operation, COLS, 1e-5).expect("a valid eps");
        let (io, mut sums) = (GradIo::without_dx(&ONES, &ONES), [0.0; COLS]);
        let grads = dgamma(&mut sums);
        assert_eq!(
            plan.backward_with_scratch(io, None::<&[f32]>, nothing_kept(), grads, &mut vec![0.0; needed]),
            Ok(())
        );
    }
}

/// The length is as documented, and an error where it overflows.
#[test]
fn the_length_of_scratch() {
    for operation in OPERATIONS {
        let centered = operation.is_layer_norm();
        let plan = |cols| Plan::new(operation, cols, 1e-5).expect("a valid eps").with_parallelism(Parallelism::Serial);
        for cols in [0, 1, 64, 65, 768] {
            for rows in [0, 1, 65, 2049, 1 << 30] {
                let parts = Parts::new(rows, cols);
                let sums = parts.partial_len::<f32>(centered).expect("a length") * parts.count();
                let work = parts.work_len::<f32>(centered).expect("a length");
                let nothing = rows == 0 || cols == 0;
                let expected = if nothing { 0 } else { sums + work + 64 / size_of::<f32>() };
                assert_eq!(plan(cols).backward_scratch_len::<f32>(rows), Ok(expected), "{rows} x {cols}");
                let padded = cols.next_multiple_of(64);
                let (most, task) = if centered { (128 * padded, 3 * padded) } else { (64 * padded, 2 * padded) };
                assert!(sums <= most && work == task, "{operation:?}, {rows} x {cols}: {sums} and {work}");
            }
        }
        let cols = usize::MAX / 3;
        let error = plan(cols).backward_scratch_len::<f32>(5).expect_err("a length that overflows");
        assert_eq!(error, Error::Arguments(Refused::Overflow { what: "scratch", rows: 5, stride: cols }));
        assert!(error.to_string().contains(&cols.to_string()));
    }
}

#[test]
fn groups_that_do_not_fit() {
    let grouped = |plan: &Plan, groups, repeat| plan.with_groups(groups, repeat).expect("groups");
    for (groups, repeat) in [(2, 1), (1, 2), (3, 2), (4, 1)] {
        let error = Error::Arguments(Refused::GroupRows { rows: 3, groups, repeat });
        refused(error, &["3", &groups.to_string(), &repeat.to_string()], |p, o| {
            let (io, mut sums) = (GradIo::new(&ONES, &ONES, &mut o.dx), vec![7.0; 4 * groups]);
            let result = grouped(p, groups, repeat).backward(io, None, nothing_kept(), dgamma(&mut sums));
            assert_eq!(sums, vec![7.0; 4 * groups], "dgamma has been written");
            result
        });
    }
    let error = |what, len| Error::Arguments(Refused::Length { what, len, expected: 12 });
    refused(error("gamma", 4), &["gamma", "4", "12"], |p, o| {
        let io = GradIo::new(&ONES, &ONES, &mut o.dx);
        grouped(p, 3, 1).backward(io, Some(&ONES[..4]), nothing_kept(), dgamma(&mut o.dgamma))
    });
    refused(error("dgamma", 4), &["dgamma", "4", "12"], |p, o| {
        let io = GradIo::new(&ONES, &ONES, &mut o.dx);
        grouped(p, 3, 1).backward(io, None, nothing_kept(), dgamma(&mut o.dgamma))
    });
    refused_by(LAYER_NORM, &error("dbeta", 4), &["dbeta", "4", "12"], |p, o| {
        let grads = ParamGrads { dgamma: None, dbeta: Some(&mut o.dbeta) };
        grouped(p, 3, 1).backward(GradIo::new(&ONES, &ONES, &mut o.dx), None, nothing_kept(), grads)
    });
}

/// Sums over no rows are 0. Without columns nothing is written.
#[test]
fn no_rows_or_no_columns() {
    for operation in OPERATIONS {
        for &isa in tiers() {
            let plan = |cols| Plan::new(operation, cols, 1e-5).expect("a valid eps").with_isa(isa);
            let mut o = UNTOUCHED;
            let dbeta = operation.is_layer_norm().then_some(&mut o.dbeta[..]);
            let grads = ParamGrads { dgamma: Some(&mut o.dgamma), dbeta };
            let empty: &[f32] = &[];
            let io = GradIo::new(empty, empty, &mut o.dx[..0]);
            assert_eq!(plan(COLS).backward(io, Some(&ONES[..4]), nothing_kept(), grads), Ok(()));
            assert_eq!((o.dgamma, o.dx), ([0.0; 4], [7.0; 12]), "{isa}, {operation:?}");
            assert_eq!(o.dbeta, if operation.is_layer_norm() { [0.0; 4] } else { [7.0; 4] });

            let mut o = UNTOUCHED;
            let io = GradIo::in_place(RowsMut::strided(&mut o.dx, 0, 1), Rows::strided(empty, 0, 9));
            assert_eq!(plan(COLS).backward(io, None, nothing_kept(), dgamma(&mut o.dgamma)), Ok(()));
            assert_eq!((o.dgamma, o.dx), ([0.0; 4], [7.0; 12]), "{isa}, {operation:?}");

            let mut o = UNTOUCHED;
            for rows in [3, usize::MAX] {
                let dx = RowsMut::strided(&mut o.dx, rows, 4);
                let io = GradIo::new(Rows::strided(empty, rows, 0), Rows::strided(&ONES, rows, 0), dx);
                assert_eq!(plan(0).backward(io, Some(empty), nothing_kept(), dgamma(&mut [])), Ok(()));
            }
            assert_eq!(
                plan(0).backward(GradIo::new(empty, empty, &mut o.dx[..0]), None, nothing_kept(), dgamma(&mut [])),
                Ok(())
            );
            assert_eq!(o, UNTOUCHED, "{isa}, {operation:?}");
        }
    }
    assert!(tiers().contains(&Isa::SCALAR));
}
