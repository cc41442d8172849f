//! The floor below the plan, for engines with their own threads: however a job is split, by rows or by columns, it
//! gives the bits of the plan, and bad lengths give `None`.

use lanenorm::kernels::forward::{Forward, Groups, Params};
use lanenorm::kernels::lanes::{Compiled, RowIo, Vector};
use lanenorm::kernels::layer_norm::{LayerNorm, Normalize, RowNorm};
use lanenorm::kernels::moments::{CHUNK, Moments, RowMoments, split_point};
use lanenorm::kernels::rms_norm::{self, RmsNorm};
use lanenorm::kernels::table::{self, Dtype, Entry};
use lanenorm::{Isa, StatsMut, Tier};

use crate::support::{OPERATIONS, Operation, Output, Problem, SENTINEL, TURNING_POINTS, tiers};

/// The jobs of each operation.
trait Jobs<const CENTERED: bool> {
    /// The job that solves the problem, with its results going to `output`.
    fn job<'a>(problem: &'a Problem, output: &'a mut Output, streaming: bool) -> Forward<'a, f32, CENTERED>;
}

struct Floor;

impl Jobs<true> for Floor {
    fn job<'a>(problem: &'a Problem, output: &'a mut Output, streaming: bool) -> LayerNorm<'a> {
        assert_eq!(problem.operation, Operation::LayerNorm);
        let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
        let Output { y, mean, mean_lo, rstd } = output;
        let stats = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
        LayerNorm::new(io(problem, y), params(gamma, beta, 0.0), problem.eps, streaming, stats)
            .expect("the lengths fit")
    }
}

impl Jobs<false> for Floor {
    fn job<'a>(problem: &'a Problem, output: &'a mut Output, streaming: bool) -> RmsNorm<'a> {
        let Operation::RmsNorm { offset } = problem.operation else { panic!("not an RMSNorm") };
        let (y, rstd) = (&mut output.y, &mut output.rstd);
        let params = params(problem.gamma.as_deref(), None, offset);
        RmsNorm::new(io(problem, y), params, problem.eps, streaming, Some(rstd)).expect("the lengths fit")
    }
}

fn params<'a>(gamma: Option<&'a [f32]>, beta: Option<&'a [f32]>, offset: f32) -> Params<'a, f32> {
    Params { gamma: gamma.map(Vector::from), beta: beta.map(Vector::from), groups: Groups::ONE, offset }
}

fn io<'a>(problem: &'a Problem, y: &'a mut [f32]) -> RowIo<'a, f32> {
    let (rows, cols) = (problem.rows, problem.cols);
    RowIo::new(&problem.x, cols, y, cols, rows, cols).expect("the rows fit")
}

impl Output {
    /// The sentinel, but where the operation writes nothing.
    fn blank(problem: &Problem) -> Self {
        let unwritten = if problem.operation == Operation::LayerNorm { SENTINEL } else { 0.0 };
        let per_row = |value| vec![value; problem.rows];
        let y = vec![SENTINEL; problem.x.len()];
        Self { y, mean: per_row(unwritten), mean_lo: per_row(unwritten), rstd: per_row(SENTINEL) }
    }
}

fn assert_rows_can_be_split<const CENTERED: bool>(problem: &Problem)
where
    Floor: Jobs<CENTERED>,
    f32: Compiled<CENTERED>,
{
    let expected = problem.expected();
    for &isa in tiers() {
        for (at, streaming) in [(0, false), (1, true), (7, false), (8, true), (18, false), (19, false)] {
            let mut output = Output::blank(problem);
            let (mut a, mut b) = Floor::job(problem, &mut output, streaming).split_at(at);
            assert_eq!((a.rows().rows(), b.rows().rows()), (at, 19 - at));
            b.run_on(isa);
            a.run_on(isa);
            output.assert_same(&expected, problem.cols, format_args!("{isa}, {problem}, split at row {at}"));
        }
    }
}

#[test]
fn jobs_split_by_rows_give_the_same_bits() {
    for cols in TURNING_POINTS {
        let problem = Problem::mixed(19, cols, 1);
        assert_rows_can_be_split::<true>(&problem);
        assert_rows_can_be_split::<false>(&problem.rms_norm(1.0));
    }
}

/// The moments of a row, by subtrees of at most `grain` elements.
fn moments(isa: Isa, row: RowMoments<'_, f32>, grain: usize) -> Moments {
    let part = |x| moments(isa, RowMoments { x, ..row }, grain);
    match split_point(row.x.len()) {
        Some(at) if row.x.len() > grain => part(&row.x[..at]).merge(part(&row.x[at..])),
        _ => row.run_on(isa),
    }
}

#[test]
fn moments_merged_along_the_tree_give_the_same_bits() {
    for cols in (1..=20).map(|chunks| chunks * CHUNK - 5).chain(TURNING_POINTS) {
        let problem = Problem::ordinary(1, cols, 2);
        let bits = |m: Moments| [m.count, m.origin, m.offset, m.m2, m.scale].map(f64::to_bits);
        for centered in [true, false] {
            let row = RowMoments { x: &problem.x, centered, scale: None };
            let expected = bits(moments(Isa::SCALAR, row, usize::MAX));
            for &isa in tiers() {
                for grain in [1, CHUNK, 3 * CHUNK, 8 * CHUNK, usize::MAX] {
                    let got = bits(moments(isa, row, grain));
                    assert_eq!(got, expected, "{isa}, {cols} columns by {grain}, centered: {centered}");
                }
            }
        }
    }
}

#[test]
fn moments_about_zero_are_the_sum_of_squares_alone() {
    for cols in TURNING_POINTS {
        // Small integers: every sum is exact.
        let x: Vec<f32> = (0..cols).map(|i| (i * 37 % 21) as f32 - 3.0).collect();
        let m2 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let expected = Moments { count: cols as f64, origin: 0.0, offset: 0.0, m2, scale: 1.0 };
        for &isa in tiers() {
            assert_eq!(
                RowMoments { x: &x, centered: false, scale: None }.run_on(isa),
                expected,
                "{isa}, {cols} columns"
            );
        }
    }
}

fn assert_columns_can_be_split<const CENTERED: bool>(problem: &Problem)
where
    Floor: Jobs<CENTERED>,
    f32: Compiled<CENTERED>,
{
    let (cols, expected) = (problem.cols, problem.expected());
    for &isa in tiers() {
        for (at, streaming) in [(0, false), (1, true), (16, false), (cols / 2, true), (cols, false)] {
            let mut output = Output::blank(problem);
            let moments = moments(isa, RowMoments { x: &problem.x, centered: CENTERED, scale: None }, CHUNK);
            let job = Floor::job(problem, &mut output, streaming);
            let (a, b) = job.with_moments(&moments).expect("an ordinary row").split_at_col(at);
            assert_eq!(a.cols() + b.cols(), cols);
            b.run_on(isa);
            a.run_on(isa);
            output.assert_same(&expected, cols, format_args!("{isa}, {problem}, split at column {at}"));
        }
    }
}

#[test]
fn rows_split_by_columns_give_the_same_bits() {
    for cols in TURNING_POINTS.into_iter().chain([17_000, 70_001]) {
        for problem in Problem::ordinary(1, cols, 3).in_every_form() {
            match problem.operation {
                Operation::LayerNorm => assert_columns_can_be_split::<true>(&problem),
                Operation::RmsNorm { .. } => assert_columns_can_be_split::<false>(&problem),
            }
        }
    }
}

/// The row has moments out of range; two rows have none that are theirs.
fn assert_given_back<const CENTERED: bool>(problem: &Problem)
where
    Floor: Jobs<CENTERED>,
    f32: Compiled<CENTERED>,
{
    let expected = problem.expected();
    for &isa in tiers() {
        let moments = RowMoments { x: &problem.x, centered: CENTERED, scale: None }.run_on(isa);
        let mut output = Output::blank(problem);
        let job = Floor::job(problem, &mut output, false).with_moments(&moments);
        job.map(|_| ()).expect_err("given back").run_on(isa);
        output.assert_same(&expected, problem.cols, format_args!("{isa}, {problem}"));
    }
}

#[test]
fn a_row_whose_moments_cannot_be_trusted_is_given_back() {
    for (value, eps) in [(f32::NAN, 1e-5), (f32::INFINITY, 1e-5), (1e30, 1e-5), (1e-30, 0.0)] {
        let mut problem = Problem::ordinary(1, 100, 4).with_eps(eps);
        problem.x.fill(0.0);
        problem.x[50] = value;
        assert_given_back::<true>(&problem);
        assert_given_back::<false>(&problem.rms_norm(1.0));
    }
    let two_rows = Problem::ordinary(2, 8, 5);
    assert_given_back::<true>(&two_rows);
    assert_given_back::<false>(&two_rows.rms_norm(1.0));
}

#[test]
fn one_row_can_be_normalized_by_an_rstd_known_before() {
    for cols in TURNING_POINTS {
        let problem = Problem::ordinary(1, cols, 6).rms_norm(1.0);
        let (gamma, expected) = (problem.gamma.as_deref(), problem.expected());
        for &isa in tiers() {
            let mut output = Output { y: vec![SENTINEL; cols], ..expected.clone() };
            let row = io(&problem, &mut output.y);
            let job = rms_norm::Normalize::new(row, params(gamma, None, 1.0), expected.rstd[0], false)
                .expect("the lengths fit");
            job.run_on(isa);
            output.assert_same(&expected, cols, format_args!("{isa}, {problem}"));
        }
    }
}

#[test]
fn rows_that_do_not_fit_give_none() {
    let (x, mut y) = (vec![0.0; 20], vec![0.0; 20]);
    let mut io = |x_len: usize, x_stride, y_len: usize, y_stride, rows, cols| {
        RowIo::new(&x[..x_len], x_stride, &mut y[..y_len], y_stride, rows, cols).is_some()
    };
    assert!(io(20, 5, 20, 5, 4, 5) && io(14, 5, 20, 8, 3, 4) && io(0, 0, 0, 0, 0, 9) && io(0, 0, 0, 0, 9, 0));
    assert!(io(5, 0, 5, 0, 1, 5), "one row needs no stride");
    assert!(!io(19, 5, 20, 5, 4, 5) && !io(20, 5, 19, 5, 4, 5), "too short");
    assert!(!io(20, 4, 20, 5, 4, 5) && !io(20, 5, 20, 0, 4, 5), "rows overlap");
    assert!(!io(20, usize::MAX, 20, 5, 3, 5) && !io(20, 5, 20, 5, usize::MAX, 5), "overflow");
    assert!(RowIo::in_place(&mut y, 5, 4, 5).is_some_and(|io| io.is_in_place()));
    assert!(RowIo::in_place(&mut y, 4, 4, 5).is_none() && RowIo::in_place(&mut y, 6, 4, 5).is_none());
}

#[test]
fn vectors_of_another_length_give_none() {
    let (x, five) = ([0.0; 12], [1.0; 5]);
    let norm = RowNorm { mean: 0.0, mean_lo: 0.0, rstd: 1.0 };
    let mut y = [0.0; 12];
    let mut job = |gamma, beta, stats: StatsMut<'_>| {
        let io = RowIo::new(&x, 4, &mut y, 4, 3, 4).expect("the rows fit");
        LayerNorm::new(io, params(gamma, beta, 0.0), 1e-5, false, stats).is_some()
    };
    assert!(job(Some(&five[..4]), Some(&five[..4]), StatsMut { mean: Some(&mut [0.0; 3]), ..StatsMut::default() }));
    assert!(!job(Some(&five), None, StatsMut::default()));
    assert!(!job(None, Some(&five[..3]), StatsMut::default()));
    assert!(!job(None, None, StatsMut { mean: Some(&mut [0.0; 2]), ..StatsMut::default() }));
    assert!(!job(None, None, StatsMut { mean_lo: Some(&mut [0.0; 4]), ..StatsMut::default() }));
    assert!(!job(None, None, StatsMut { rstd: Some(&mut []), ..StatsMut::default() }));
    let mut normalize = |rows, gamma| {
        let io = RowIo::new(&x, 4, &mut y, 4, rows, 4).expect("the rows fit");
        Normalize::new(io, params(gamma, None, 0.0), norm, false).is_some()
    };
    assert!(normalize(1, None) && !normalize(2, None) && !normalize(0, None) && !normalize(1, Some(&five[..])));
    let mut job = |gamma, rstd: Option<&mut [f32]>| {
        let io = RowIo::new(&x, 4, &mut y, 4, 3, 4).expect("the rows fit");
        RmsNorm::new(io, params(gamma, None, 0.0), 1e-5, false, rstd).is_some()
    };
    assert!(job(Some(&five[..4]), Some(&mut [0.0; 3])) && job(None, None));
    assert!(!job(Some(&five), None) && !job(Some(&five[..3]), None));
    assert!(!job(None, Some(&mut [0.0; 2])) && !job(None, Some(&mut [0.0; 12])));
    let mut normalize = |rows, gamma| {
        let io = RowIo::new(&x, 4, &mut y, 4, rows, 4).expect("the rows fit");
        rms_norm::Normalize::new(io, params(gamma, None, 1.0), 1.0, false).is_some()
    };
    assert!(normalize(1, None) && !normalize(2, None) && !normalize(0, None) && !normalize(1, Some(&five[..])));
}

/// And there is no operation in it that these tests do not know.
#[test]
fn the_table_holds_every_operation_on_every_tier_once() {
    for tier in Tier::ALL {
        for operation in OPERATIONS {
            for dtype in Dtype::ALL {
                let here = |e: &Entry| (e.tier, e.op, e.dtype) == (tier, operation.op(), dtype);
                assert_eq!(table::kernels().filter(here).count(), 1, "{operation:?}, {dtype:?}, {tier}");
            }
        }
        assert_eq!(tier.name().parse(), Ok(tier));
    }
    for entry in table::kernels() {
        assert!(OPERATIONS.iter().any(|operation| operation.op() == entry.op), "{entry} is new: test it");
    }
    let names: Vec<_> = table::kernels().map(|entry| entry.to_string()).collect();
    assert!(
        names.contains(&"layer_norm/f32/scalar".into()) && names.contains(&"rms_norm/f32/neon".into()),
        "{names:?}"
    );
}
