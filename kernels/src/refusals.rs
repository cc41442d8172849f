//! What constructors and runs refuse, before they write anything, and what their errors say.

use std::format;
use std::string::{String, ToString};
use std::vec;

use half::bf16;

use crate::element::Storage;
use crate::ops::backward::{Backward, Parts, Stats};
use crate::ops::forward::{Forward, ForwardRow, SINGLE_ROW_COLS};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::moments::RowMoments;
use crate::ops::rms_norm::RmsNorm;
use crate::ops::{layer_norm, rms_norm};
use crate::rounding::Rounding;
use crate::rows::{GradRows, Groups, OneRow, Params, RowIo, Vector};
use crate::stats::{Moments, RowNorm, StatsMut};
use crate::{Center, Centered, Count, Error, Isa, Uncentered};

/// The message of an error.
fn says<V>(result: Result<V, Error>) -> String {
    match result {
        Ok(_) => "nothing is refused".to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn rows_that_do_not_lie_in_their_buffer() {
    let (x, residual) = ([0.0f32; 16], [0.0f32; 16]);
    let (mut s, mut y) = ([7.0f32; 16], [7.0f32; 16]);
    let short = Error::TooShort { what: "y", len: 10, rows: 2, cols: 8, stride: 8, needed: 16 };
    assert_eq!(RowIo::new(&x, 8, &mut y[..10], 8, 2, 8).err(), Some(short));
    assert_eq!(short.to_string(), "y has 10 elements, but 2 rows of 8, 8 apart, take 16");
    let overlap = Error::Overlap { what: "y", cols: 8, stride: 4 };
    assert_eq!(RowIo::new(&x, 8, &mut y, 4, 2, 8).err(), Some(overlap));
    assert_eq!(overlap.to_string(), "the rows of y overlap: they have 8 columns and start 4 elements apart");
    let max = usize::MAX;
    let overflow = Error::Overflow { what: "x", rows: 3, stride: max };
    assert_eq!(RowIo::new(&x, max, &mut y, 8, 3, 8).err(), Some(overflow));
    assert_eq!(overflow.to_string(), format!("x is too large: 3 rows, {max} elements apart, overflow usize"));
    assert_eq!(
        RowIo::new(&x, max - 7, &mut y, 8, 2, 8).err(),
        Some(Error::Overflow { what: "x", rows: 2, stride: max - 7 })
    );
    assert_eq!(
        RowIo::new(&x, max - 8, &mut y, 8, 2, 8).err(),
        Some(Error::TooShort { what: "x", len: 16, rows: 2, cols: 8, stride: max - 8, needed: max })
    );
    // Neither no rows nor no columns take elements, however large the other number is.
    assert!(RowIo::new(&x[..0], 0, &mut y[..0], 0, 0, max).is_ok() && RowIo::in_place(&mut y[..0], 0, max, 0).is_ok());
    assert_eq!(says(RowIo::in_place(&mut y, 8, 3, 8)), "y has 16 elements, but 3 rows of 8, 8 apart, take 24");

    // The first buffer that does not fit is named.
    let short = |what: &'static str, wrong: &str| if what == wrong { 15 } else { 16 };
    for wrong in ["x", "residual", "sum", "y"] {
        let expected = format!("{wrong} has 15 elements, but 2 rows of 8, 8 apart, take 16");
        let (x, residual) = ((&x[..short("x", wrong)], 8), (&residual[..short("residual", wrong)], 8));
        assert_eq!(
            says(RowIo::sum(x, residual, (&mut s[..short("sum", wrong)], 8), (&mut y[..short("y", wrong)], 8), 2, 8)),
            expected
        );
        if wrong != "residual" {
            let sum =
                RowIo::sum_in_place(x, (&mut s[..short("sum", wrong)], 8), (&mut y[..short("y", wrong)], 8), 2, 8);
            assert_eq!(says(sum), expected);
        }
        if wrong != "sum" {
            assert_eq!(says(RowIo::sum_into(x, residual, (&mut y[..short("y", wrong)], 8), 2, 8)), expected);
        }
        if wrong != "sum" && wrong != "residual" {
            assert_eq!(says(RowIo::sum_over(x, (&mut y[..short("y", wrong)], 8), 2, 8)), expected);
        }
    }
    assert_eq!((s, y), ([7.0; 16], [7.0; 16]));
}

#[test]
fn the_job_of_one_row_is_made_of_what_fits() {
    /// Whether there is a job of `row`.
    fn is_made<T: Storage, M: Center>(
        row: OneRow<'_, T>,
        gamma: Option<Vector<'_, T>>,
        beta: Option<Vector<'_, T>>,
        eps: f64,
    ) -> bool {
        ForwardRow::<T, M>::new(row, gamma, beta, T::Float::default(), Rounding::ONCE, eps).is_some()
    }

    let (x, mut y) = (vec![0.0f32; SINGLE_ROW_COLS + 1], vec![0.0f32; SINGLE_ROW_COLS + 1]);
    let mut wide = [0.0f64; 4];
    let (narrow, mut narrow_y) = ([bf16::ONE; 4], [bf16::ONE; 4]);
    assert!(OneRow::new(&x[..4], &mut y[..3]).is_none() && OneRow::new(&x[..4], &mut y[..5]).is_none());
    assert!(OneRow::new(&x[..0], &mut y[..0]).is_none() && OneRow::in_place(&mut y[..0]).is_none());
    assert!(OneRow::new(&x[..4], &mut narrow_y).is_none() && OneRow::new(&narrow, &mut y[..4]).is_none());
    assert_eq!(OneRow::new(&x[..4], &mut y[..4]).expect("a row").cols(), 4);

    let of = |len| Some(Vector::from(&x[..len]));
    let mut of_f32 = |cols, gamma, beta, eps| {
        let made = [
            is_made::<f32, Centered>(OneRow::new(&x[..cols], &mut y[..cols]).expect("a row"), gamma, beta, eps),
            is_made::<f32, Uncentered>(OneRow::in_place(&mut y[..cols]).expect("a row"), gamma, beta, eps),
        ];
        assert_eq!(y, [0.0; SINGLE_ROW_COLS + 1]);
        made
    };
    assert_eq!(of_f32(4, None, None, 0.0), [true; 2]);
    assert_eq!(of_f32(SINGLE_ROW_COLS, of(SINGLE_ROW_COLS), None, -0.0), [true; 2]);
    assert_eq!(of_f32(SINGLE_ROW_COLS + 1, None, None, 0.0), [false; 2], "too many columns");
    assert_eq!(of_f32(4, of(4), of(4), 0.0), [true, false], "RMS normalization has no beta");
    for (gamma, beta) in [(of(3), None), (of(5), None), (of(4), of(3)), (None, of(5))] {
        assert_eq!(of_f32(4, gamma, beta, 0.0), [false; 2]);
    }
    for eps in [-1e-5, -f64::MIN_POSITIVE, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN] {
        assert_eq!(of_f32(4, None, None, eps), [false; 2], "{eps}");
    }
    let narrow_vector = Some(Vector::from(&narrow[..]));
    assert_eq!(of_f32(4, narrow_vector, None, 0.0), [false; 2], "16 bits beside f32");
    assert_eq!(of_f32(4, of(4), narrow_vector, 0.0), [false; 2], "gamma and beta differ in type");
    assert!(is_made::<bf16, Centered>(
        OneRow::in_place(&mut narrow_y).expect("a row"),
        Some(Vector::from(&narrow[..])),
        None,
        0.0
    ));
    // f64 has no loop of its own for this.
    assert!(!is_made::<f64, Centered>(OneRow::in_place(&mut wide).expect("a row"), None, None, 0.0));
}

/// The messages of the constructors of both normalizations, of three rows of four columns.
fn messages(params: Params<'_, f32>, eps: f64, stats: [Option<&mut [f32]>; 3]) -> [String; 2] {
    let (x, mut y) = ([0.0f32; 12], [0.0f32; 12]);
    let [mean, mean_lo, rstd] = stats;
    let io = RowIo::new(&x, 4, &mut y, 4, 3, 4).expect("the rows fit");
    let mut rstd_again = rstd.as_ref().map(|rstd| vec![0.0; rstd.len()]);
    let layer_norm = says(LayerNorm::new(io, params, eps, false, StatsMut { mean, mean_lo, rstd }));
    let io = RowIo::new(&x, 4, &mut y, 4, 3, 4).expect("the rows fit");
    [layer_norm, says(RmsNorm::new(io, params, eps, false, rstd_again.as_deref_mut()))]
}

#[test]
fn parameters_statistics_and_eps() {
    let (of, none) = (|v| Some(Vector::from(v)), Params::default);
    let numbers = [0.0f32; 9];
    let both = |params, eps| {
        let [layer_norm, rms_norm] = messages(params, eps, [None, None, None]);
        assert_eq!(layer_norm, rms_norm);
        layer_norm
    };
    assert_eq!(both(none(), 0.0), "nothing is refused");
    assert_eq!(both(Params { gamma: of(&numbers[..5]), ..none() }, 0.0), "gamma has 5 elements, expected 4");
    let groups = Groups::new(3, 1).expect("groups");
    assert_eq!(both(Params { gamma: of(&numbers), groups, ..none() }, 0.0), "gamma has 9 elements, expected 12");
    let groups = Groups::new(2, 1).expect("groups");
    let expected = "x has 3 rows, which is not a multiple of 2 groups of 1";
    assert_eq!(both(Params { groups, ..none() }, 0.0), expected);
    let groups = Groups::new(usize::MAX, 1).expect("groups").after(1);
    let expected = format!("gamma is too large: {} rows, 4 elements apart, overflow usize", usize::MAX);
    assert_eq!(both(Params { gamma: of(&numbers), groups, ..none() }, 0.0), expected);
    assert_eq!(both(Params { groups, ..none() }, 0.0), "nothing is refused");
    assert_eq!(both(none(), -1.5), "eps is -1.5, expected a finite number not less than 0");
    assert_eq!(both(none(), f64::NAN), "eps is NaN, expected a finite number not less than 0");

    let [layer_norm, rms_norm] = messages(Params { beta: of(&numbers[..3]), ..none() }, 0.0, [None, None, None]);
    assert_eq!(layer_norm, "beta has 3 elements, expected 4");
    assert_eq!(rms_norm, "beta has 3 elements, but RMS normalization has no beta");
    let mut stat = [0.0; 2];
    let [layer_norm, _] = messages(none(), 0.0, [Some(&mut stat), None, None]);
    assert_eq!(layer_norm, "mean has 2 elements, expected 3");
    let [layer_norm, _] = messages(none(), 0.0, [None, Some(&mut stat[..1]), None]);
    assert_eq!(layer_norm, "mean_lo has 1 element, expected 3");
    let expected = "rstd has 2 elements, expected 3";
    assert_eq!(messages(none(), 0.0, [None, None, Some(&mut stat)]), [expected; 2]);

    let (narrow, x, mut y) = ([bf16::ONE; 4], [bf16::ONE; 4], [bf16::ONE; 4]);
    let (narrow, wide) = (Vector::from(&narrow[..]), Vector::from(&numbers[..4]));
    let mut types = |gamma, beta| {
        let io = RowIo::new(&x, 4, &mut y, 4, 1, 4).expect("the row fits");
        let params = Params { gamma: Some(gamma), beta: Some(beta), ..Params::default() };
        says(LayerNorm::new(io, params, 0.0, false, StatsMut::default()))
    };
    let expected = "gamma has elements of bf16, but beta has elements of f32: expected one type";
    assert_eq!(types(narrow, wide), expected);
    let expected = "gamma has elements of f32, but beta has elements of bf16: expected one type";
    assert_eq!(types(wide, narrow), expected);
    assert_eq!(types(wide, wide), "nothing is refused");

    for (groups, repeat) in [(0, 5), (5, 0), (usize::MAX, 2)] {
        let expected = format!(
            "{groups} groups of {repeat} rows: expected at least one of each, and a product that does not overflow \
             usize"
        );
        assert_eq!(says(Groups::new(groups, repeat)), expected);
    }
    for (repeat, last) in [(5, 0), (5, usize::MAX)] {
        let expected = format!(
            "2 groups of {repeat} rows, the last of {last}: expected at least one for the last, and a sum that does \
             not overflow usize"
        );
        assert_eq!(says(Groups::new(2, repeat).and_then(|groups| groups.with_last_repeat(last))), expected);
    }
    let groups = Groups::new(2, 3).and_then(|groups| groups.with_last_repeat(1)).expect("groups");
    let expected = "x has 6 rows, which is not a multiple of the 4 that all groups together serve";
    assert_eq!(groups.misfit(6).to_string(), expected);
    assert_eq!(Moments::EMPTY.rescale::<f32>(-2.0), Err(Error::Eps(-2.0)));
}

#[test]
fn single_rows_sums_and_a_bias() {
    let x = [1.0f32; 12];
    let (mut y, norm, none) = ([7.0f32; 12], RowNorm { mean: 0.0, mean_lo: 0.0, rstd: 1.0 }, Params::default());
    for rows in [0, 3] {
        let io = RowIo::new(&x, 4, &mut y, 4, rows, 4).expect("the rows fit");
        assert_eq!(says(layer_norm::Normalize::new(io, none, norm, false)), format!("x has {rows} rows, expected 1"));
        let io = RowIo::new(&x, 4, &mut y, 4, rows, 4).expect("the rows fit");
        assert_eq!(says(rms_norm::Normalize::new(io, none, 1.0, false)), format!("x has {rows} rows, expected 1"));
    }
    let with_beta = Params { beta: Some(Vector::from(&x[..4])), ..none };
    let io = RowIo::new(&x, 4, &mut y, 4, 1, 4).expect("the row fits");
    let expected = "beta has 4 elements, but RMS normalization has no beta";
    assert_eq!(says(rms_norm::Normalize::new(io, with_beta, 1.0, false)), expected);
    let io = RowIo::new(&x, 4, &mut y, 4, 1, 5).expect("one row needs no stride");
    let with_gamma = Params { gamma: Some(Vector::from(&x[..4])), ..none };
    assert_eq!(says(rms_norm::Normalize::new(io, with_gamma, 1.0, false)), "gamma has 4 elements, expected 5");

    fn sum<'a>(x: &'a [f32; 12], y: &'a mut [f32; 12]) -> RowIo<'a, f32> {
        RowIo::sum_over((x, 12), (y, 12), 1, 12).expect("the row fits")
    }
    let expected = "x is a sum that is yet to be taken: its statistics cannot be known";
    assert_eq!(says(layer_norm::Normalize::new(sum(&x, &mut y), none, norm, false)), expected);
    let rms_norm = RmsNorm::new(sum(&x, &mut y), none, 0.0, false, None).expect("the lengths fit");
    let expected = "x is a sum that is yet to be taken: its moments cannot be known";
    assert_eq!(says(rms_norm.run_with(Isa::SCALAR, &[Moments::EMPTY])), expected);

    fn job<'a>(io: RowIo<'a, f32>) -> LayerNorm<'a> {
        LayerNorm::new(io, Params::default(), 0.0, false, StatsMut::default()).expect("the lengths fit")
    }
    let expected = "bias has 9 elements, expected 12";
    assert_eq!(says(job(sum(&x, &mut y)).with_bias(&x[..9])), expected);
    let biased = job(sum(&x, &mut y)).with_bias(&x).expect("the bias fits");
    assert_eq!(says(biased.with_bias(&x)), "bias is given a second time");
    let io = RowIo::in_place(&mut y, 4, 3, 4).expect("the rows fit");
    assert_eq!(says(job(io).with_bias(&x[..4])), "bias has 4 elements, but x is no sum to add a bias to");
    assert_eq!(y, [7.0; 12]);
}

#[test]
fn moments_of_other_rows() {
    let x = [1.0f32, 2.0, 3.0, 6.0, -1.0, -1.0, 1.0, 1.0];
    let mut y = [7.0f32; 8];
    let moments: vec::Vec<_> =
        x.chunks(4).map(|x| RowMoments { x, centered: true, scale: None }.run_on(Isa::SCALAR)).collect();
    let mut run = |moments: &[Moments]| {
        let io = RowIo::new(&x, 4, &mut y, 4, 2, 4).expect("the rows fit");
        let job = LayerNorm::new(io, Params::default(), 0.0, false, StatsMut::default()).expect("the lengths fit");
        let result = says(job.run_with(Isa::SCALAR, moments));
        assert_eq!(result == "nothing is refused", y != [7.0; 8], "{result}");
        result
    };
    assert_eq!(run(&moments[..1]), "moments has 1 element, expected 2");
    let of = |moments: Moments| [Moments { count: 5.0, ..moments }, moments];
    let mut bad = |changed| run(&[moments[0], changed]);
    assert_eq!(
        bad(Moments { count: 3.0, ..moments[0] }),
        "the moments of row 1 are of 3 elements at a scale of 1, with a mean of 3 and an m2 of 14, which no row of 4 \
         columns of f32 has"
    );
    assert_eq!(
        bad(Moments { scale: 2.0, m2: -1.0, ..moments[0] }),
        "the moments of row 1 are of 4 elements at a scale of 2, with a mean of 1.5 and an m2 of -1, which no row of 4 \
         columns of f32 has"
    );
    assert_eq!(run(&of(moments[1])), "nothing is refused");
}

/// Moments at a scale that no row has.
#[test]
fn scales_of_moments() {
    let (x, wide) = ([1.0f32, 2.0, 3.0, 6.0], [1.0f64, 2.0, 3.0, 6.0]);
    for scale in [0.0, -0.5, 3.0, 1.0, 2.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
        let expected = format!("scale is {scale}, expected one that rescale gives for rows of ");
        for centered in [true, false] {
            assert_eq!(says(RowMoments::new(&x, centered).at_scale(scale)), format!("{expected}f32"));
            assert_eq!(says(RowMoments::new(&wide, centered).at_scale(scale)), format!("{expected}f64"));
        }
    }
    let moments = RowMoments::new(&x, true).at_scale(0.5).expect("rescale gives it for f32").run_on(Isa::SCALAR);
    assert_eq!((moments.mean(), moments.m2, moments.scale), (3.0, 3.5, 0.5));
}

/// One thing of a kind is named in the singular, none and several in the plural.
#[test]
fn numbers_of_things() {
    let counts = [0, 1, 2].map(|n| Count(n, "row").to_string());
    assert_eq!(counts, ["0 rows", "1 row", "2 rows"]);
    assert_eq!([1.0, 1.5].map(|n| Count(n, "element").to_string()), ["1 element", "1.5 elements"]);
    let short = Error::TooShort { what: "x", len: 1, rows: 1, cols: 4, stride: 4, needed: 4 };
    assert_eq!(short.to_string(), "x has 1 element, but 1 row of 4, 4 apart, take 4");
    let overlap = Error::Overlap { what: "x", cols: 2, stride: 1 };
    assert_eq!(overlap.to_string(), "the rows of x overlap: they have 2 columns and start 1 element apart");
    let groups = Error::GroupRows { rows: 1, groups: 1, repeat: 3 };
    assert_eq!(groups.to_string(), "x has 1 row, which is not a multiple of 1 group of 3");
}

fn backward<M: Center>(rows: GradRows<'_, f32>, stats: Stats<'_>, gamma: Option<&[f32]>, sums: bool) -> String {
    let params = Params { gamma: gamma.map(Vector::from), ..Params::default() };
    says(Backward::<_, M>::new(rows, stats, params, 0.0, sums, false))
}

#[test]
fn gradients() {
    let (dy, x) = ([1.0f32; 24], [1.0f32; 24]);
    let (mut over, mut dx) = (dy, [7.0f32; 24]);
    assert_eq!(
        says(GradRows::new((&dy[..23], 4), (&x, 4), 6, 4)),
        "dy has 23 elements, but 6 rows of 4, 4 apart, take 24"
    );
    assert_eq!(
        says(GradRows::new((&dy, 4), (&x[..23], 4), 6, 4)),
        "x has 23 elements, but 6 rows of 4, 4 apart, take 24"
    );
    let expected = "the rows of dy overlap: they have 4 columns and start 3 elements apart";
    assert_eq!(says(GradRows::in_place((&mut over, 3), (&x, 4), 6, 4)), expected);
    let in_place = GradRows::in_place((&mut over, 4), (&x, 4), 6, 4).expect("the rows fit");
    assert_eq!(says(in_place.with_dx((&mut dx, 4))), "dx is given a second time");

    let rows = || GradRows::new((&dy, 4), (&x, 4), 6, 4).expect("the rows fit");
    let expected = "dx has 20 elements, but 6 rows of 4, 4 apart, take 24";
    assert_eq!(says(rows().with_dx((&mut dx[..20], 4))), expected);
    let expected = "the rows of ds overlap: they have 4 columns and start 0 elements apart";
    assert_eq!(says(rows().with_ds((&x, 0))), expected);
    assert_eq!(says(rows().with_ds((&x, 4)).and_then(|rows| rows.with_ds((&x, 4)))), "ds is given a second time");
    let part = |what| format!("{what} is given for 2 of the 6 rows of the buffers, expected for all of them");
    assert_eq!(says(rows().split_at(2).0.with_dx((&mut dx, 4))), part("dx"));
    assert_eq!(says(rows().split_at(2).0.with_ds((&x, 4))), part("ds"));
    let groups = |groups, repeat| Groups::new(groups, repeat).expect("groups");
    assert_eq!(
        says(rows().with_group(0, groups(3, 1)).and_then(|rows| rows.with_group(0, groups(2, 1)))),
        part("a group")
    );
    assert_eq!(says(rows().with_group(3, groups(3, 2))), "the group has index 3, but the number of groups is 3");
    let expected = "x has 6 rows, which is not a multiple of 2 groups of 2";
    assert_eq!(says(rows().with_group(0, groups(2, 2))), expected);

    let none = Stats::default();
    for run in [backward::<Centered>, backward::<Uncentered>] {
        assert_eq!(run(rows(), none, None, true), "nothing is refused");
        assert_eq!(run(rows(), none, Some(&x[..5]), true), "gamma has 5 elements, expected 4");
        assert_eq!(run(rows(), none, None, false), "no gradient is wanted: none of dx, dgamma and dbeta is given");
        let with_ds = rows().with_ds((&x, 4)).expect("ds fits");
        assert_eq!(run(with_ds, none, None, true), "ds has 6 rows, but there is no dx to add ds to");
        let of_group = rows().with_ds((&x, 4)).and_then(|rows| rows.with_group(0, groups(3, 1))).expect("ds fits");
        assert_eq!(run(of_group, none, None, true), "ds has 6 rows, but there is no dx to add ds to");
        let rstd = Stats { rstd: Some(&x[..5]), ..none };
        assert_eq!(run(rows(), rstd, None, true), "rstd has 5 elements, expected 6");
    }
    let eps = Backward::<_, Centered>::new(rows(), none, Params::default(), f64::INFINITY, true, false);
    assert_eq!(says(eps), "eps is inf, expected a finite number not less than 0");
    let of = |given: bool| given.then_some(&x[..6]);
    for (given, missing, [mean, mean_lo, rstd]) in [
        ("mean", "rstd", [true, false, false]),
        ("mean", "rstd", [true, true, false]),
        ("rstd", "mean", [false, false, true]),
        ("rstd", "mean", [false, true, true]),
        ("mean_lo", "mean", [false, true, false]),
    ] {
        let stats = Stats { mean: of(mean), mean_lo: of(mean_lo), rstd: of(rstd) };
        let expected = format!("{given} of 6 rows is given without {missing}: expected both or neither");
        assert_eq!(backward::<Centered>(rows(), stats, None, true), expected);
    }
    for (what, mean, mean_lo) in [("mean", true, false), ("mean", true, true), ("mean_lo", false, true)] {
        let stats = Stats { mean: of(mean), mean_lo: of(mean_lo), rstd: of(true) };
        let expected = format!("{what} has 6 elements, but RMS normalization has no {what}");
        assert_eq!(backward::<Uncentered>(rows(), stats, None, true), expected);
    }
    let stats = Stats { rstd: of(true), ..none };
    assert_eq!(backward::<Uncentered>(rows(), stats, None, true), "nothing is refused");
    assert_eq!(dx, [7.0; 24]);
}

/// The message of the panic.
fn panic_says(run: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).expect_err("a panic");
    let message = panic.downcast_ref::<String>().cloned();
    message.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).expect("a message")
}

#[test]
fn memory_for_sums() {
    let (dy, x, mut dx) = ([1.0f32; 12], [1.0f32; 12], [7.0f32; 12]);
    let parts = Parts::new(3, 4);
    let (partial, work) = (parts.partial_len::<f32>(true).expect("a length"), parts.work_len::<f32>(true));
    let work = work.expect("a length");
    let mut run = |partials: usize, work: usize| {
        let rows = GradRows::new((&dy, 4), (&x, 4), 3, 4).and_then(|rows| rows.with_dx((&mut dx, 4)));
        let rows = rows.expect("the rows fit");
        let job = Backward::<_, Centered>::new(rows, Stats::default(), Params::default(), 0.0, true, false);
        let mut job = job.expect("the lengths fit");
        panic_says(|| job.run_on(Isa::SCALAR, &mut vec![0.0; partials], &mut vec![0.0; work]))
    };
    assert_eq!(run(partial - 1, work), format!("partials has {} elements, expected {partial}", partial - 1));
    assert_eq!(run(partial, work - 1), format!("work has {} elements, expected at least {work}", work - 1));
    assert_eq!(dx, [7.0; 12]);

    let sums = vec![1.0; partial];
    let (mut dgamma, mut dbeta) = ([7.0f32; 5], [7.0f32; 5]);
    let mut merge = |partials, dgamma_len: usize, dbeta_len: usize| {
        let out = (Some(&mut dgamma[..dgamma_len]), Some(&mut dbeta[..dbeta_len]));
        panic_says(|| parts.merge::<f32, Centered>(Isa::SCALAR, &sums[..partials], out.0, out.1))
    };
    assert_eq!(merge(2, 4, 4), format!("partials has 2 elements, expected {partial}"));
    assert_eq!(merge(partial, 5, 4), "dgamma has 5 elements, expected 4");
    assert_eq!(merge(partial, 4, 3), "dbeta has 3 elements, expected 4");
    let sums = vec![1.0; parts.partial_len::<f32>(false).expect("a length")];
    let message = panic_says(|| parts.merge::<f32, Uncentered>(Isa::SCALAR, &sums, None, Some(&mut dbeta[..4])));
    assert_eq!(message, "there is a dbeta, but RMS normalization has no beta");
    assert_eq!((dgamma, dbeta), ([7.0; 5], [7.0; 5]), "nothing has been written");
    let message = panic_says(|| Parts::new(3, usize::MAX).merge::<f32, Centered>(Isa::SCALAR, &[0.0; 9], None, None));
    assert_eq!(message, "partials has 9 elements, expected more than usize can count");
    Parts::new(0, usize::MAX).merge::<f32, Centered>(Isa::SCALAR, &[], None, None);
}

/// Errors are small enough to be returned, and travel as errors do.
#[test]
fn errors_are_values() {
    fn is_error<E: core::error::Error + Copy + Send + Sync + 'static>() {}
    is_error::<Error>();
    assert!(size_of::<Error>() <= 80 && size_of::<Forward<'_, f32, Centered>>() > size_of::<Error>());
}
