//! The floor below the plan, for engines with their own threads: however a job is split, by rows or by columns, it
//! gives the bits of the plan, and bad lengths give `None`.

use lanenorm::kernels::lanes::RowIo;
use lanenorm::kernels::layer_norm::{LayerNorm, Normalize, RowNorm};
use lanenorm::kernels::moments::{CHUNK, Moments, RowMoments, split_point};
use lanenorm::kernels::table;
use lanenorm::{Isa, StatsMut, Tier};

use crate::support::{Output, Problem, SENTINEL, TURNING_POINTS, tiers};

impl Output {
    fn blank(problem: &Problem) -> Self {
        let per_row = || vec![SENTINEL; problem.rows];
        Self { y: vec![SENTINEL; problem.x.len()], mean: per_row(), mean_lo: per_row(), rstd: per_row() }
    }

    /// The job that solves the problem, with its results going here.
    fn job<'a>(&'a mut self, problem: &'a Problem, streaming: bool) -> LayerNorm<'a> {
        let (rows, cols) = (problem.rows, problem.cols);
        let Self { y, mean, mean_lo, rstd } = self;
        let stats = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
        let io = RowIo::new(&problem.x, cols, y, cols, rows, cols).expect("the rows fit");
        let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
        LayerNorm::new(io, gamma, beta, problem.eps, streaming, stats).expect("the lengths fit")
    }
}

#[test]
fn jobs_split_by_rows_give_the_same_bits() {
    for cols in TURNING_POINTS {
        let problem = Problem::mixed(19, cols, 1);
        let expected = problem.expected();
        for &isa in tiers() {
            for (at, streaming) in [(0, false), (1, true), (7, false), (8, true), (18, false), (19, false)] {
                let mut output = Output::blank(&problem);
                let (mut a, mut b) = output.job(&problem, streaming).split_at(at);
                assert_eq!((a.rows().rows(), b.rows().rows()), (at, 19 - at));
                b.run_on(isa);
                a.run_on(isa);
                output.assert_same(&expected, cols, format_args!("{isa}, {problem}, split at row {at}"));
            }
        }
    }
}

/// The moments of a row, by subtrees of at most `grain` elements.
fn moments(isa: Isa, x: &[f32], grain: usize) -> Moments {
    match split_point(x.len()) {
        Some(at) if x.len() > grain => moments(isa, &x[..at], grain).merge(moments(isa, &x[at..], grain)),
        _ => RowMoments { x, centered: true }.run_on(isa),
    }
}

#[test]
fn moments_merged_along_the_tree_give_the_same_bits() {
    for cols in (1..=20).map(|chunks| chunks * CHUNK - 5).chain(TURNING_POINTS) {
        let problem = Problem::ordinary(1, cols, 2);
        let bits = |m: Moments| [m.count, m.origin, m.offset, m.m2].map(f64::to_bits);
        let expected = bits(moments(Isa::SCALAR, &problem.x, usize::MAX));
        for &isa in tiers() {
            for grain in [1, CHUNK, 3 * CHUNK, 8 * CHUNK, usize::MAX] {
                assert_eq!(bits(moments(isa, &problem.x, grain)), expected, "{isa}, {cols} columns by {grain}");
            }
        }
    }
}

#[test]
fn rows_split_by_columns_give_the_same_bits() {
    for cols in TURNING_POINTS.into_iter().chain([17_000, 70_001]) {
        for problem in Problem::ordinary(1, cols, 3).with_and_without_affine() {
            let expected = problem.expected();
            for &isa in tiers() {
                for (at, streaming) in [(0, false), (1, true), (16, false), (cols / 2, true), (cols, false)] {
                    let mut output = Output::blank(&problem);
                    let moments = moments(isa, &problem.x, CHUNK);
                    let whole = output.job(&problem, streaming).with_moments(&moments).expect("an ordinary row");
                    let (a, b) = whole.split_at_col(at);
                    assert_eq!(a.cols() + b.cols(), cols);
                    b.run_on(isa);
                    a.run_on(isa);
                    output.assert_same(&expected, cols, format_args!("{isa}, {problem}, split at column {at}"));
                }
            }
        }
    }
}

#[test]
fn a_row_whose_moments_cannot_be_trusted_is_given_back() {
    for (value, eps) in [(f32::NAN, 1e-5), (f32::INFINITY, 1e-5), (1e30, 1e-5), (1e-30, 0.0)] {
        let mut problem = Problem::ordinary(1, 100, 4).with_eps(eps);
        problem.x.fill(0.0);
        problem.x[50] = value;
        let expected = problem.expected();
        for &isa in tiers() {
            let mut output = Output::blank(&problem);
            let job =
                output.job(&problem, false).with_moments(&RowMoments { x: &problem.x, centered: true }.run_on(isa));
            job.map(|_| ()).expect_err("moments out of range").run_on(isa);
            output.assert_same(&expected, 100, format_args!("{isa}, one {value:e}"));
        }
    }
    let problem = Problem::ordinary(2, 8, 5);
    let moments = RowMoments { x: &problem.x[..8], centered: true }.run_on(Isa::SCALAR);
    assert!(Output::blank(&problem).job(&problem, false).with_moments(&moments).is_err(), "there are two rows");
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
        LayerNorm::new(io, gamma, beta, 1e-5, false, stats).is_some()
    };
    assert!(job(Some(&five[..4]), Some(&five[..4]), StatsMut { mean: Some(&mut [0.0; 3]), ..StatsMut::default() }));
    assert!(!job(Some(&five), None, StatsMut::default()));
    assert!(!job(None, Some(&five[..3]), StatsMut::default()));
    assert!(!job(None, None, StatsMut { mean: Some(&mut [0.0; 2]), ..StatsMut::default() }));
    assert!(!job(None, None, StatsMut { mean_lo: Some(&mut [0.0; 4]), ..StatsMut::default() }));
    assert!(!job(None, None, StatsMut { rstd: Some(&mut []), ..StatsMut::default() }));
    let mut normalize = |rows, gamma| {
        let io = RowIo::new(&x, 4, &mut y, 4, rows, 4).expect("the rows fit");
        Normalize::new(io, gamma, None, norm, false).is_some()
    };
    assert!(normalize(1, None) && !normalize(2, None) && !normalize(0, None) && !normalize(1, Some(&five[..])));
}

#[test]
fn the_table_holds_every_tier_once() {
    for tier in Tier::ALL {
        assert_eq!(table::kernels().filter(|entry| entry.tier == tier).count(), 2, "{tier}");
        assert_eq!(tier.name().parse(), Ok(tier));
    }
    assert_eq!(table::kernels().next().map(|e| e.to_string()).as_deref(), Some("layer_norm/f32/scalar"));
}
