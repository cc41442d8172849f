//! Bad input: each kind gives its own error, the message has both numbers, and nothing is written.

use lanenorm::kernels::Error as Refused;
use lanenorm::{Error, LayerNorm, Parallelism, RmsNorm, Rows, RowsMut, Store, Tier};

use crate::support::forms::StatsMut;
use crate::support::{OPERATIONS, Operation, Plan};

const COLS: usize = 4;

/// Three rows that must stay as they are.
const UNTOUCHED: [f32; 12] = [7.0; 12];

/// Asserts that the call fails with this error for every operation, with all these words in its message, and has
/// written nothing.
#[track_caller]
fn refused(expected: Error, words: &[&str], call: impl Fn(&Plan, &mut [f32; 12]) -> Result<(), Error>) {
    for operation in OPERATIONS {
        refused_by(operation, &expected, words, &call);
    }
}

/// [`refused`] for a call that only one operation has.
#[track_caller]
fn refused_by(
    operation: Operation,
    expected: &Error,
    words: &[&str],
    call: impl Fn(&Plan, &mut [f32; 12]) -> Result<(), Error>,
) {
    let plan = Plan::new(operation, COLS, 1e-5).expect("a valid eps");
    for plan in [plan.with_parallelism(Parallelism::Serial), plan.with_store(Store::Streaming)] {
        let mut y = UNTOUCHED;
        let error = call(&plan, &mut y).expect_err("bad input was accepted");
        assert_eq!(error, *expected, "{operation:?}");
        let message = error.to_string();
        for word in words {
            assert!(message.contains(word), "\"{message}\" does not say {word}");
        }
        assert_eq!(y, UNTOUCHED, "{operation:?}: {message}: but y has been written");
    }
}

#[test]
fn gamma_and_beta_of_another_length() {
    let (x, short, long) = ([1.0; 12], [1.0; 3], [1.0; 5]);
    let error = |what, len| Error::Arguments(Refused::Length { what, len, expected: 4 });
    refused(error("gamma", 3), &["gamma", "3", "4"], |p, y| p.forward(&x, Some(&short), None, y));
    refused(error("gamma", 5), &["gamma", "5", "4"], |p, y| p.forward_in_place(y, Some(&long), None));
    let layer_norm = Operation::LayerNorm { offset: 0.0 };
    refused_by(layer_norm, &error("beta", 0), &["beta", "0", "4"], |p, y| p.forward(&x, Some(&[1.0; 4]), Some(&[]), y));
    refused_by(layer_norm, &error("beta", 5), &["beta", "5", "4"], |p, y| p.forward_in_place(y, None, Some(&long)));
}

#[test]
fn statistics_of_another_length() {
    let x = [1.0; 12];
    let error = |what, len| Error::Arguments(Refused::Length { what, len, expected: 3 });
    refused_by(Operation::LayerNorm { offset: 0.0 }, &error("mean", 2), &["mean", "2", "3"], |p, y| {
        let (mut mean, mut rstd) = ([0.0; 2], [0.0; 3]);
        let stats = StatsMut { mean: Some(&mut mean), rstd: Some(&mut rstd), ..StatsMut::default() };
        let result = p.call(&x, None, None, y, stats);
        assert_eq!((mean, rstd), ([0.0; 2], [0.0; 3]), "statistics have been written");
        result
    });
    refused_by(Operation::LayerNorm { offset: 0.0 }, &error("mean_lo", 4), &["mean_lo", "4", "3"], |p, y| {
        let stats = StatsMut { mean_lo: Some(&mut [0.0; 4]), ..StatsMut::default() };
        p.call_in_place(y, None, None, stats)
    });
    refused(error("rstd", 12), &["rstd", "12", "3"], |p, y| {
        let stats = StatsMut { rstd: Some(&mut [0.0; 12]), ..StatsMut::default() };
        p.call(&x, None, None, y, stats)
    });
    refused(error("rstd", 2), &["rstd", "2", "3"], |p, y| {
        let mut rstd = [7.0; 2];
        let stats = StatsMut { rstd: Some(&mut rstd), ..StatsMut::default() };
        let result = p.call_in_place(y, None, None, stats);
        assert_eq!(rstd, [7.0; 2], "rstd has been written");
        result
    });
}

#[test]
fn buffers_that_are_not_whole_rows() {
    let error = |what, len| Error::Ragged { what, len, cols: 4 };
    refused(error("x", 11), &["x", "11", "4"], |p, y| p.forward(&[1.0; 11], None, None, y));
    refused(error("y", 10), &["y", "10", "4"], |p, y| p.forward(&[1.0; 12], None, None, &mut y[..10]));
    refused(error("x", 1), &["x", "1", "4"], |p, y| p.forward_in_place(&mut y[..1], None, None));
    for operation in OPERATIONS {
        let mut y = UNTOUCHED;
        let error = Plan::new(operation, 0, 1e-5).expect("a valid eps").forward(&[1.0], None, None, &mut y);
        assert_eq!(error, Err(Error::Ragged { what: "x", len: 1, cols: 0 }));
    }
}

#[test]
fn x_and_y_of_different_rows() {
    refused(Error::Rows { x: 2, y: 3 }, &["2", "3"], |p, y| p.forward(&[1.0; 8], None, None, y));
    refused(Error::Rows { x: 5, y: 0 }, &["5", "0"], |p, y| {
        p.forward(&[1.0; 20], None, None, RowsMut::strided(y, 0, 4))
    });
}

#[test]
fn strides_that_overlap() {
    let x = [1.0; 12];
    let error = |what, stride| Error::Arguments(Refused::Overlap { what, cols: 4, stride });
    refused(error("x", 3), &["x", "3", "4"], |p, y| p.forward(Rows::strided(&x, 3, 3), None, None, y));
    refused(error("x", 0), &["x", "0", "4"], |p, y| p.forward(Rows::strided(&x, 3, 0), None, None, y));
    refused(error("y", 2), &["y", "2", "4"], |p, y| p.forward(&x, None, None, RowsMut::strided(y, 3, 2)));
    refused(error("x", 1), &["x", "1", "4"], |p, y| p.forward_in_place(RowsMut::strided(y, 2, 1), None, None));
}

#[test]
fn strided_buffers_that_are_too_short() {
    let x = [1.0; 13];
    let error = |what, len, rows, stride, needed| {
        Error::Arguments(Refused::TooShort { what, len, rows, cols: 4, stride, needed })
    };
    refused(error("x", 13, 3, 5, 14), &["13", "14", "3", "5"], |p, y| {
        p.forward(Rows::strided(&x, 3, 5), None, None, y)
    });
    refused(error("y", 12, 3, 5, 14), &["12", "14", "3", "5"], |p, y| {
        p.forward(&x[..12], None, None, RowsMut::strided(y, 3, 5))
    });
    refused(error("x", 3, 1, 0, 4), &["3", "4", "1"], |p, y| {
        p.forward_in_place(RowsMut::strided(&mut y[..3], 1, 0), None, None)
    });
}

#[test]
fn products_that_overflow() {
    let x = [1.0; 12];
    let (max, half) = (usize::MAX, usize::MAX / 2);
    let (max_text, half_text) = (max.to_string(), half.to_string());
    let error = |what, rows, stride| Error::Arguments(Refused::Overflow { what, rows, stride });
    refused(error("x", 3, max), &["x", "3", &max_text], |p, y| p.forward(Rows::strided(&x, 3, max), None, None, y));
    refused(error("y", 4, half), &["y", "4", &half_text], |p, y| {
        p.forward(&[1.0; 16], None, None, RowsMut::strided(y, 4, half))
    });
    refused(error("x", max, 4), &["x", "4", &max_text], |p, y| {
        p.forward_in_place(RowsMut::strided(y, max, 4), None, None)
    });
    // The product alone does not overflow, but it does with the last row.
    refused(error("x", 2, max - 2), &["x", "2"], |p, y| p.forward(Rows::strided(&x, 2, max - 2), None, None, y));
}

#[test]
fn eps_that_is_no_length() {
    for (eps, text) in [(-1e-5, "-0.00001"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf"), (f64::NAN, "NaN")] {
        let mut y = UNTOUCHED;
        let results = [
            LayerNorm::new(4, eps).map(|_| ()),
            lanenorm::layer_norm(&[1.0; 12], 4, None, None, eps, &mut y),
            lanenorm::layer_norm_in_place(&mut y, 4, None, None, eps),
            RmsNorm::new(4, eps).map(|_| ()),
            lanenorm::rms_norm(&[1.0; 12], 4, None, eps, &mut y),
            lanenorm::rms_norm_in_place(&mut y, 4, None, eps),
        ];
        for result in results {
            let error = result.expect_err("bad eps was accepted");
            assert!(matches!(error, Error::Arguments(Refused::Eps(e)) if e.to_bits() == eps.to_bits()), "{error:?}");
            let message = error.to_string();
            assert!(message.contains(text) && message.contains('0'), "{message}");
        }
        assert_eq!(y, UNTOUCHED);
    }
    for operation in OPERATIONS {
        assert!([0.0, -0.0, f64::MAX].into_iter().all(|eps| Plan::new(operation, 4, eps).is_ok()));
    }
}

#[test]
fn tiers_that_are_not_here() {
    for tier in Tier::ALL {
        match lanenorm::isa(tier) {
            Ok(isa) => assert_eq!(isa.tier(), tier),
            Err(error) => {
                let widest = lanenorm::Isa::best().tier();
                assert_eq!(error, Error::Isa { asked: tier, widest });
                let message = error.to_string();
                assert!(message.contains(tier.name()) && message.contains(widest.name()), "{message}");
            }
        }
    }
    let unknown = Error::UnknownIsa("sse9".into()).to_string();
    assert!(unknown.contains("sse9") && Tier::ALL.iter().all(|t| unknown.contains(t.name())), "{unknown}");
}

/// Next to the errors: calls that look odd, and are valid.
#[test]
fn valid_calls_at_the_edge() {
    for operation in OPERATIONS {
        let plan = |cols| Plan::new(operation, cols, 1e-5).expect("a valid eps");
        let (x, mut y) = ([1.0; 14], [0.0; 14]);
        assert_eq!(plan(4).forward(Rows::strided(&x[..4], 1, 0), None, None, RowsMut::strided(&mut y, 1, 99)), Ok(()));
        assert_eq!(plan(4).forward(Rows::strided(&x, 3, 5), None, None, RowsMut::strided(&mut y, 3, 4)), Ok(()));
        assert_eq!(plan(4).forward(Rows::strided(&x, 0, 0), None, None, RowsMut::strided(&mut [], 0, 0)), Ok(()));
        assert_eq!(plan(4).forward_in_place(RowsMut::strided(&mut y, 1, usize::MAX), None, None), Ok(()));
        assert_eq!(plan(4).forward_in_place(RowsMut::strided(&mut y, 0, usize::MAX), None, None), Ok(()));
        let endless = RowsMut::<f32>::strided(&mut [], usize::MAX, usize::MAX);
        assert_eq!(plan(0).forward_in_place(endless, None, None), Ok(()));
    }
}
