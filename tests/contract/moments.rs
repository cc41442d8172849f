//! Rows that several processes share: each takes the moments of its columns, the moments are merged, and each
//! normalizes its columns with the moments of the whole row. y has the bits of one call for the whole rows, on all
//! tiers and for rows of all kinds.

use std::num::NonZeroUsize;

use lanenorm::kernels::Error as Refused;
use lanenorm::kernels::simd::Float;
use lanenorm::kernels::stats::CHUNK;
use lanenorm::{Error, Isa, Moments, Parallelism, Rows, RowsMut, Store};

use crate::support::forms::{Io, StatsMut};
use crate::support::{
    F32, F64, KINDS, OPERATIONS, Output, Plan, Problem, Random, Types, Value, assert_same_bits, special_row, tiers,
};

/// Problems whose vectors and results have the type of x.
pub(crate) trait Own: Types<G = <Self as Types>::X, Y = <Self as Types>::X> {}

impl<K: Types<G = <K as Types>::X, Y = <K as Types>::X>> Own for K {}

/// Some columns of a problem, with the plan of the process that has them.
struct Part<'a, K: Types> {
    problem: &'a Problem<K>,
    plan: Plan,
    from: usize,
    len: usize,
}

impl<'a, K: Own> Part<'a, K> {
    fn x(&self) -> Rows<'a, K::X> {
        Rows::strided(&self.problem.x[self.from..], self.problem.rows, self.problem.cols)
    }

    fn moments(&self) -> Vec<Moments> {
        let mut moments = vec![Moments::EMPTY; self.problem.rows];
        self.plan.moments(self.x(), &mut moments).expect("a valid call");
        moments
    }

    /// The moments of row `r` alone.
    fn moments_at_scale(&self, r: usize, scale: f64) -> Moments {
        let row = &self.problem.x[r * self.problem.cols + self.from..][..self.len];
        let mut moments = [Moments::EMPTY];
        self.plan.moments_at_scale(row, scale, &mut moments).expect("a valid call");
        moments[0]
    }

    fn normalize(&self, moments: &[Moments], y: &mut [K::X]) {
        let of_part = |v: &'a Option<Vec<K::X>>| v.as_deref().map(|v| &v[self.from..][..self.len]);
        let (gamma, beta) = (of_part(&self.problem.gamma), of_part(&self.problem.beta));
        let y = RowsMut::strided(&mut y[self.from..], self.problem.rows, self.problem.cols);
        self.plan.call_with_moments(self.x(), moments, gamma, beta, y).expect("a valid call");
    }
}

/// y, by processes with `len` columns each; the last process has the columns that are left.
pub(crate) fn in_parts<K: Own>(problem: &Problem<K>, len: usize, plan: impl Fn(Plan) -> Plan) -> Vec<K::X> {
    let part = |from: usize| {
        let len = len.min(problem.cols - from);
        let part = Plan::new(problem.operation, len, problem.eps).expect("a valid eps");
        Part { problem, plan: plan(part), from, len }
    };
    let parts: Vec<_> = (0..problem.cols).step_by(len).map(part).collect();
    let moments: Vec<_> = parts.iter().map(Part::moments).collect();
    let whole = |r: usize| {
        let whole = Moments::merge_all(moments.iter().map(|of_part| of_part[r]));
        assert_eq!(whole.count, problem.cols as f64);
        match parts[0].plan.rescale::<K::X>(&whole) {
            Some(scale) => Moments::merge_all(parts.iter().map(|part| part.moments_at_scale(r, scale))),
            None => whole,
        }
    };
    let moments: Vec<_> = (0..problem.rows).map(whole).collect();
    let mut y = vec![K::X::SENTINEL; problem.x.len()];
    parts.iter().for_each(|part| part.normalize(&moments, &mut y));
    y
}

fn assert_parts_give_the_whole<K: Own>(problem: &Problem<K>, chunks: usize) {
    let expected = problem.expected().y;
    for &isa in tiers() {
        let store = if chunks.is_multiple_of(2) { Store::Streaming } else { Store::Auto };
        let y = in_parts(problem, chunks * CHUNK, |plan| {
            plan.with_isa(isa).with_parallelism(Parallelism::Serial).with_store(store)
        });
        assert_same_bits(format_args!("{isa}, {problem}, in parts of {chunks} chunks"), problem.cols, &expected, &y);
    }
}

/// The columns, and the chunks in a part. There are one to eight parts, and the last is whole, shorter, or a single
/// element.
const CUTS: [(usize, usize); 12] = [
    (1, 1),
    (1000, 1),
    (CHUNK, 1),
    (CHUNK + 1, 1),
    (2 * CHUNK, 1),
    (3 * CHUNK - 7, 1),
    (5 * CHUNK, 1),
    (7 * CHUNK + 100, 1),
    (8 * CHUNK, 1),
    (5 * CHUNK + 65, 2),
    (13 * CHUNK + 1, 2),
    (11 * CHUNK - 1, 4),
];

fn rows_in_parts<K: Own>() {
    for (i, (cols, chunks)) in CUTS.into_iter().enumerate() {
        for eps in [1e-5, 0.0] {
            let problem = Problem::<K>::mixed(5, cols, 1).with_eps(eps);
            for (form, problem) in problem.in_every_form().into_iter().enumerate() {
                if K::takes(i + form) {
                    assert_parts_give_the_whole(&problem, chunks);
                }
            }
        }
    }
}

/// What makes a row special may lie in one part only, so that the moments of the other parts can be trusted.
fn rows_of_every_kind_in_parts<K: Own>() {
    let mut random = Random::new(2);
    for (cols, chunks) in [(700, 1), (3 * CHUNK - 7, 1), (5 * CHUNK + 65, 2)] {
        for eps in [1e-5, 0.0, 1e-30, 1e30] {
            let mut problem = Problem::<K>::ordinary(2 * KINDS, cols, 3).with_eps(eps);
            for (r, row) in problem.x.chunks_exact_mut(cols).enumerate() {
                let some = if r < KINDS { cols } else { cols.min(CHUNK + 1) };
                special_row(r % KINDS, &mut random, &mut row[cols - some..]);
            }
            for problem in problem.of_every_operation() {
                assert_parts_give_the_whole(&problem, chunks);
            }
        }
    }
}

/// Each process has threads of its own, which may share one long row.
fn parts_do_not_depend_on_threads<K: Own>() {
    if K::is_left_out() {
        return;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    for (rows, cols, chunks) in [(50, 3000, 1), (1, 70_001, 32), (3, 66_000, 16)] {
        for problem in Problem::<K>::mixed(rows, cols, 4).of_every_operation() {
            let expected = problem.expected().y;
            for tasks in [1, 3, 8] {
                let tasks = Parallelism::Tasks(NonZeroUsize::new(tasks).expect("not zero"));
                for parallelism in [tasks, Parallelism::Auto] {
                    let plan = |plan: Plan| plan.with_parallelism(parallelism);
                    let y = pool.install(|| in_parts(&problem, chunks * CHUNK, plan));
                    assert_same_bits(format_args!("{problem}, {parallelism:?}"), cols, &expected, &y);
                }
            }
        }
    }
}

for_every_type!(rows_in_parts, rows_of_every_kind_in_parts, parts_do_not_depend_on_threads);

/// In f32, whose range 16 bits share or lack, and in f64.
#[test]
fn only_rows_of_extreme_range_are_taken_again() {
    fn scales<K: Own>(x: [f64; 4], eps: f64) -> Option<f64> {
        let plan = Plan::new(OPERATIONS[0], 4, eps).expect("a valid eps");
        let mut moments = [Moments::EMPTY];
        plan.moments(&x.map(K::X::of), &mut moments).expect("a valid call");
        plan.rescale::<K::X>(&moments[0])
    }
    let ([down, up, constant], [slow, ..]) = (f64::RESCALE, f32::RESCALE);
    assert!(f32::RESCALE == [slow; 3] && slow != 1.0 && constant != 1.0, "1 is the scale of fast sums");
    assert!(down < 1.0 && up > 1.0);
    let ordinary = [1.0, -2.0, 3.0, 4.0];
    let times = |scale: f64| ordinary.map(|x| x * scale);
    assert_eq!((scales::<F32>(ordinary, 0.0), scales::<F64>(ordinary, 0.0)), (None, None));
    assert_eq!((scales::<F32>([5.0; 4], 1e-5), scales::<F64>([5.0; 4], 1e-5)), (None, None));
    assert_eq!((scales::<F32>([5.0; 4], 0.0), scales::<F64>([5.0; 4], 0.0)), (Some(slow), Some(constant)));
    assert_eq!((scales::<F32>(times(1e30), 0.0), scales::<F64>(times(1e30), 0.0)), (Some(slow), None));
    assert_eq!((scales::<F32>(times(1e-30), 0.0), scales::<F64>(times(1e-30), 0.0)), (Some(slow), None));
    assert_eq!((scales::<F64>(times(1e300), 0.0), scales::<F64>(times(1e-310), 0.0)), (Some(down), Some(up)));
    assert!(scales::<F32>([f64::NAN; 4], 1.0).is_some() && scales::<F64>([f64::INFINITY; 4], 1.0).is_some());
}

/// One process has columns, and another has none.
#[test]
fn parts_may_be_empty() {
    let plan = |cols| Plan::new(OPERATIONS[0], cols, 1e-5).expect("a valid eps");
    let mut empty = [Moments { count: 7.0, ..Moments::EMPTY }; 3];
    plan(0).moments(Rows::strided(&[1.0f32; 0], 3, 0), &mut empty).expect("a valid call");
    assert_eq!(empty, [Moments::EMPTY; 3]);
    plan(4).moments(&[1.0f32; 0], &mut []).expect("no rows");
    plan(4).call_with_moments(&[1.0f32; 0], &[], None, None, &mut [0.0; 0]).expect("no rows");
    assert_eq!(Moments::merge_all([]), Moments::EMPTY);
    let mut some = [Moments::EMPTY];
    plan(4).moments(&[1.0f32, 2.0, 3.0, 5.0], &mut some).expect("a valid call");
    assert_eq!(Moments::merge_all(some), some[0]);
}

/// Asserts that the call fails for every operation, with all these words in its message, and has written nothing.
fn refused(expected: &Error, words: &[&str], call: impl Fn(&Plan, &mut [Moments], &mut [f32]) -> Result<(), Error>) {
    for operation in OPERATIONS {
        for isa in [Isa::SCALAR, Isa::best()] {
            let plan = Plan::new(operation, 4, 1e-5).expect("a valid eps").with_isa(isa);
            let untouched = ([Moments { count: 7.0, ..Moments::EMPTY }; 3], [7.0; 12]);
            let (mut moments, mut y) = untouched;
            let error = call(&plan, &mut moments, &mut y).expect_err("bad input was accepted");
            assert_eq!(error, *expected, "{operation:?}");
            let message = error.to_string();
            for word in words {
                assert!(message.contains(word), "\"{message}\" does not say {word}");
            }
            assert_eq!((moments, y), untouched, "{operation:?}: {message}: but something has been written");
        }
    }
}

/// The moments of all rows of a problem, taken again on the slow path where needed.
fn moments_of<K: Types>(problem: &Problem<K>, plan: &Plan) -> Vec<Moments> {
    let mut moments = vec![Moments::EMPTY; problem.rows];
    plan.moments(&problem.x, &mut moments).expect("a valid call");
    for (moments, row) in moments.iter_mut().zip(problem.x.chunks_exact(problem.cols)) {
        if let Some(scale) = plan.rescale::<K::X>(moments) {
            plan.moments_at_scale(row, scale, std::slice::from_mut(moments)).expect("a valid call");
        }
    }
    moments
}

/// Calls with all vectors and types, with statistics, and in place.
fn known_moments_have_the_bits_of_taken_ones<K: Types>() {
    for (cols, seed) in [(1, 60), (7, 61), (64, 62), (333, 63), (2100, 64)] {
        for problem in Problem::<K>::mixed(11, cols, seed).in_every_form() {
            let expected = problem.expected();
            let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
            for &isa in tiers() {
                let plan = problem.plan(isa);
                let moments = moments_of(&problem, &plan);
                let per_row = || vec![K::F::default(); problem.rows];
                let mut output = Output { y: vec![K::Y::SENTINEL; problem.x.len()], ..expected.clone() };
                (output.mean, output.mean_lo, output.rstd) = (per_row(), per_row(), per_row());
                let Output { y, mean, mean_lo, rstd } = &mut output;
                let stats = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
                let done = plan.call_mixed(Io::moments(&problem.x, &moments, y), gamma, beta, stats);
                assert_eq!(done, Ok(()), "{problem}");
                output.assert_same(&expected, cols, format_args!("{problem}, {isa}, known moments"));
                if K::IN_PLACE {
                    let mut x = problem.x.clone();
                    let io = Io::in_place_with_moments(&mut x, &moments);
                    assert_eq!(plan.call_mixed(io, gamma, beta, StatsMut::default()), Ok(()), "{problem}");
                    let y: Vec<_> = x.iter().map(|y| K::Y::of_bits(y.bits())).collect();
                    assert_same_bits(format_args!("{problem}, {isa}, in place"), cols, &expected.y, &y);
                }
            }
        }
    }
}

for_all_types!(known_moments_have_the_bits_of_taken_ones);

const X: [f32; 12] = [1.0, 2.0, 3.0, 5.0, 2.0, 3.0, 5.0, 7.0, -1.0, 1.0, -1.0, 0.5];

/// Moments of whole rows with these numbers of elements.
fn known(counts: [f64; 3]) -> [Moments; 3] {
    counts.map(|count| Moments { count, origin: 1.0, m2: count, ..Moments::EMPTY })
}

#[test]
fn moments_of_another_number_of_rows_are_refused() {
    let length = |len| Error::Arguments(Refused::Length { what: "moments", len, expected: 3 });
    refused(&length(2), &["moments", "2", "3"], |plan, moments, _| plan.moments(&X, &mut moments[..2]));
    refused(&length(0), &["moments", "0", "3"], |plan, _, _| plan.moments_at_scale(&X, 0.5, &mut []));
    let four = [known([4.0; 3])[0]; 4];
    refused(&length(4), &["moments", "4", "3"], |plan, _, y| plan.call_with_moments(&X, &four, None, None, y));
    refused(&length(2), &["moments", "2", "3"], |plan, _, y| plan.call_with_moments(&X, &four[..2], None, None, y));
}

#[test]
fn moments_of_other_elements_are_refused() {
    let of = |row, [count, mean, m2, scale]: [f64; 4], dtype| {
        Error::Arguments(Refused::Moments { row, count, scale, mean, m2, cols: 4, dtype })
    };
    let error = |row, count, scale, dtype| of(row, [count, 1.0 / scale, count, scale], dtype);
    refused(&error(1, 3.0, 1.0, "f32"), &["row 1", "3", "4", "f32"], |plan, _, y| {
        plan.call_with_moments(&X, &known([4.0, 3.0, 9.0]), None, None, y)
    });
    refused(&of(0, [0.0, 0.0, 0.0, 1.0], "f32"), &["row 0", "0", "4"], |plan, _, y| {
        plan.call_with_moments(&X, &[Moments::EMPTY; 3], None, None, y)
    });
    // No row has such moments.
    let [one, two, _] = known([4.0; 3]);
    for (m2, origin, scale) in [(-1.0, 0.0, 0.5), (-1e-300, 1.0, 1.0), (5.0, f64::INFINITY, 1.0)] {
        let bad = Moments { origin, m2, scale, ..two };
        refused(&of(1, [4.0, origin / scale, m2, scale], "f32"), &["row 1", &m2.to_string()], |plan, _, y| {
            plan.call_with_moments(&X, &[one, bad, two], None, None, y)
        });
    }
    // Scales of another type, and of no type.
    for scale in [f64::RESCALE[0], f64::RESCALE[1], 2.0, 0.0] {
        refused(&error(2, 4.0, scale, "f32"), &["row 2", &scale.to_string(), "f32"], |plan, _, y| {
            let mut moments = known([4.0; 3]);
            moments[2].scale = scale;
            plan.call_with_moments(&X, &moments, None, None, y)
        });
    }
    let mut moments = known([4.0; 3]);
    (moments[0].scale, moments[1].scale, moments[2].scale) = (f64::RESCALE[0], 1.0, 0.5);
    let mut y = [7.0; 12];
    let plan = Plan::new(OPERATIONS[0], 4, 1e-5).expect("a valid eps");
    let refused = plan.call_with_moments(&X.map(f64::from), &moments, None, None, &mut y);
    assert_eq!((refused, y), (Err(error(2, 4.0, 0.5, "f64")), [7.0; 12]));
    moments[2] = Moments { count: f64::NAN, ..moments[1] };
    let refused = plan.call_with_moments(&X.map(f64::from), &moments, None, None, &mut y);
    assert!(matches!(refused, Err(Error::Arguments(Refused::Moments { row: 2, .. }))) && y == [7.0; 12]);
    moments[2] = Moments { origin: f64::NAN, m2: 0.0, ..moments[1] };
    let refused = plan.call_with_moments(&X.map(f64::from), &moments, None, None, &mut y);
    assert!(matches!(refused, Err(Error::Arguments(Refused::Moments { row: 2, .. }))) && y == [7.0; 12]);
}

#[test]
fn rows_and_vectors_that_do_not_fit_are_refused_with_moments_as_well() {
    let known = known([4.0; 3]);
    refused(&Error::Rows { x: 3, y: 2 }, &["3", "2"], |plan, _, y| {
        plan.call_with_moments(&X, &known, None, None, &mut y[..8])
    });
    refused(
        &Error::Arguments(Refused::Length { what: "gamma", len: 3, expected: 4 }),
        &["gamma", "3", "4"],
        |plan, _, y| plan.call_with_moments(&X, &known, Some(&X[..3]), None, y),
    );
    refused(&Error::Ragged { what: "x", len: 11, cols: 4 }, &["x", "11", "4"], |plan, moments, _| {
        plan.moments(&X[..11], moments)
    });
    refused(
        &Error::Arguments(Refused::Overlap { what: "x", cols: 4, stride: 3 }),
        &["x", "4", "3"],
        |plan, moments, _| plan.moments_at_scale(Rows::strided(&X, 3, 3), 0.5, moments),
    );
}
