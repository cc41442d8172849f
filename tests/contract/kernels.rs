//! The kernels crate, for engines with their own threads: a job gives the bits of the plan however it is split, by rows
//! or by columns. Bad lengths give `None`.

use lanenorm::kernels::element::Storage;
use lanenorm::kernels::element::{Companion, Kind};
use lanenorm::kernels::ops::forward::Forward;
use lanenorm::kernels::ops::layer_norm::{LayerNorm, Normalize};
use lanenorm::kernels::ops::moments::RowMoments;
use lanenorm::kernels::ops::rms_norm;
use lanenorm::kernels::ops::rms_norm::RmsNorm;
use lanenorm::kernels::rows::{Groups, Params, RawRows, RowIo, Vector};
use lanenorm::kernels::simd::Float;
use lanenorm::kernels::stats::{CHUNK, Moments, RowNorm, split_point};
use lanenorm::kernels::{Center, Centered, Compiled, Uncentered, table};
use lanenorm::{Element, Isa, Tier, bf16, f16};

use crate::support::forms::StatsMut;
use crate::support::{OPERATIONS, Operation, Output, Problem, TURNING_POINTS, Types, Value, tiers};

/// The jobs of each operation.
trait Jobs<K: Types, M: Center> {
    /// The job that solves the problem, and writes to `output`.
    fn job<'a>(problem: &'a Problem<K>, output: &'a mut Output<K>, streaming: bool) -> Forward<'a, K::X, M>;
}

struct Floor;

impl<K: Types> Jobs<K, Centered> for Floor {
    fn job<'a>(problem: &'a Problem<K>, output: &'a mut Output<K>, streaming: bool) -> LayerNorm<'a, K::X> {
        assert!(problem.operation.is_layer_norm());
        let Output { y, mean, mean_lo, rstd } = output;
        let stats = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
        LayerNorm::new(io(problem, y), params(problem), problem.eps, streaming, stats).expect("the lengths fit")
    }
}

impl<K: Types> Jobs<K, Uncentered> for Floor {
    fn job<'a>(problem: &'a Problem<K>, output: &'a mut Output<K>, streaming: bool) -> RmsNorm<'a, K::X> {
        assert!(!problem.operation.is_layer_norm());
        let Output { y, rstd, .. } = output;
        RmsNorm::new(io(problem, y), params(problem), problem.eps, streaming, Some(rstd)).expect("the lengths fit")
    }
}

fn params<K: Types>(problem: &Problem<K>) -> Params<'_, K::X> {
    let (groups, repeat) = problem.groups;
    Params {
        gamma: problem.gamma.as_deref().map(Vector::from),
        beta: problem.beta.as_deref().map(Vector::from),
        groups: Groups::new(groups, repeat).expect("groups"),
        offset: K::F::of(problem.operation.offset().into()),
        ..Params::default()
    }
}

fn io<'a, K: Types>(problem: &'a Problem<K>, y: &'a mut [K::Y]) -> RowIo<'a, K::X> {
    let (rows, cols) = (problem.rows, problem.cols);
    RowIo::new(&problem.x, cols, y, cols, rows, cols).expect("the rows fit")
}

impl<K: Types> Output<K> {
    /// The sentinel everywhere; zeros for outputs that the operation lacks.
    fn blank(problem: &Problem<K>) -> Self {
        let unwritten = if problem.operation.is_layer_norm() { K::F::SENTINEL } else { K::F::default() };
        let per_row = |value| vec![value; problem.rows];
        let y = vec![K::Y::SENTINEL; problem.x.len()];
        Self { y, mean: per_row(unwritten), mean_lo: per_row(unwritten), rstd: per_row(K::F::SENTINEL) }
    }
}

fn assert_rows_can_be_split<K: Types, M: Center>(problem: &Problem<K>)
where
    Floor: Jobs<K, M>,
    K::X: Compiled<M>,
{
    let (expected, rows) = (problem.expected(), problem.rows);
    for &isa in tiers() {
        for (at, streaming) in [(0, false), (1, true), (7, false), (8, true), (rows - 1, false), (rows, false)] {
            let mut output = Output::blank(problem);
            let (mut a, mut b) = Floor::job(problem, &mut output, streaming).split_at(at);
            assert_eq!((a.rows().rows(), b.rows().rows()), (at, rows - at));
            b.run_on(isa);
            a.run_on(isa);
            output.assert_same(&expected, problem.cols, format_args!("{isa}, {problem}, split at row {at}"));
        }
    }
}

fn jobs_split_by_rows_give_the_same_bits<K: Types>() {
    for cols in TURNING_POINTS {
        let problem = Problem::<K>::mixed(19, cols, 1);
        assert_rows_can_be_split::<K, Centered>(&problem);
        assert_rows_can_be_split::<K, Uncentered>(&problem.rms_norm(1.0));
        let problem = Problem::<K>::mixed(18, cols, 1).with_groups(3, 2);
        assert_rows_can_be_split::<K, Centered>(&problem);
        assert_rows_can_be_split::<K, Uncentered>(&problem.rms_norm(1.0));
    }
}

/// Jobs of some rows each, all made from the same pointers. Their groups begin in the middle.
fn jobs_of_pointers_give_the_same_bits<K: Types>() {
    for cols in TURNING_POINTS {
        let problem = Problem::<K>::mixed(18, cols, 1).with_groups(3, 2);
        let (expected, groups) = (problem.expected(), Groups::new(3, 2).expect("groups"));
        for &isa in tiers() {
            let mut output = Output::blank(&problem);
            let (x, y) = (problem.x.as_ptr(), output.y.as_mut_ptr());
            for (first, count) in [(7, 4), (0, 7), (17, 1), (11, 6)] {
                // SAFETY: these rows are within x and y, and no other job has them.
                let rows = unsafe {
                    let x = RawRows { p: x.add(first * cols).cast_mut(), stride: cols, kind: Kind::Own };
                    let kind = <K::Y as Companion<K::X>>::KIND;
                    let y = RawRows { p: y.add(first * cols).cast::<K::X>(), stride: cols, kind };
                    RowIo::from_raw(x, None, y, count, cols)
                };
                let vector = |v: &Option<Vec<K::G>>| {
                    let kind = <K::G as Companion<K::X>>::KIND;
                    // SAFETY: the vector has `v.len()` elements of this kind.
                    v.as_ref().map(|v| unsafe { Vector::from_raw(v.as_ptr().cast(), v.len(), kind) })
                };
                let (gamma, beta) = (vector(&problem.gamma), vector(&problem.beta));
                let params = Params { gamma, beta, groups: groups.after(first), ..params(&problem) };
                let part = first..first + count;
                let stats = StatsMut {
                    mean: Some(&mut output.mean[part.clone()]),
                    mean_lo: Some(&mut output.mean_lo[part.clone()]),
                    rstd: Some(&mut output.rstd[part]),
                };
                let job = LayerNorm::new(rows, params, problem.eps, first == 0, stats);
                job.expect("groups need not divide a part of the rows").run_on(isa);
            }
            output.assert_same(&expected, cols, format_args!("{isa}, {problem}, by pointers"));
        }
    }
}

/// The moments of a row, by subtrees of at most `grain` elements.
fn moments<T: Element>(isa: Isa, row: RowMoments<'_, T>, grain: usize) -> Moments {
    let part = |x| moments(isa, row.of(x), grain);
    match split_point(row.x.len()) {
        Some(at) if row.x.len() > grain => part(&row.x[..at]).merge(part(&row.x[at..])),
        _ => row.run_on(isa),
    }
}

fn moments_merged_along_the_tree_give_the_same_bits<K: Types>() {
    for (i, cols) in (1..=20).map(|chunks| chunks * CHUNK - 5).chain(TURNING_POINTS).enumerate() {
        let problem = Problem::<K>::ordinary(1, cols, 2);
        let bits = |m: Moments| [m.count, m.origin, m.offset, m.m2, m.scale].map(f64::to_bits);
        for centered in [true, false] {
            // The slow path takes moments in parts too, here at the scales of the type.
            for scale in [None, Some(K::F::RESCALE[i % 3])] {
                let row = RowMoments::new(&problem.x, centered);
                let row = scale.map_or(row, |scale| row.at_scale(scale).expect("a scale of the type"));
                let expected = bits(moments(Isa::SCALAR, row, usize::MAX));
                for &isa in tiers() {
                    for grain in [1, CHUNK, 3 * CHUNK, 8 * CHUNK, usize::MAX] {
                        let got = bits(moments(isa, row, grain));
                        let row = format_args!("{isa}, {}, {cols} columns by {grain}", K::NAME);
                        assert_eq!(got, expected, "{row}, centered: {centered}, scale: {scale:?}");
                    }
                }
            }
        }
    }
}

fn moments_about_zero_are_the_sum_of_squares_alone<K: Types>() {
    for cols in TURNING_POINTS {
        // Small integers: every sum is exact.
        let x: Vec<K::X> = (0..cols).map(|i| K::X::of((i * 37 % 21) as f64 - 3.0)).collect();
        let m2 = x.iter().map(|&x| x.wide() * x.wide()).sum();
        let expected = Moments { count: cols as f64, origin: 0.0, offset: 0.0, m2, scale: 1.0 };
        for &isa in tiers() {
            let got = RowMoments::new(&x, false).run_on(isa);
            assert_eq!(got, expected, "{isa}, {}, {cols} columns", K::NAME);
        }
    }
}

fn assert_columns_can_be_split<K: Types, M: Center>(problem: &Problem<K>)
where
    Floor: Jobs<K, M>,
    K::X: Compiled<M>,
{
    let (cols, expected) = (problem.cols, problem.expected());
    for &isa in tiers() {
        for (at, streaming) in [(0, false), (1, true), (16, false), (cols / 2, true), (cols, false)] {
            let mut output = Output::blank(problem);
            let moments = moments(isa, RowMoments::new(&problem.x, M::CENTERED), CHUNK);
            let job = Floor::job(problem, &mut output, streaming);
            let (a, b) = job.with_moments(&moments).expect("an ordinary row").split_at_col(at);
            assert_eq!(a.cols() + b.cols(), cols);
            b.run_on(isa);
            a.run_on(isa);
            output.assert_same(&expected, cols, format_args!("{isa}, {problem}, split at column {at}"));
        }
    }
}

fn rows_split_by_columns_give_the_same_bits<K: Types>() {
    for cols in TURNING_POINTS.into_iter().chain([17_000, 70_001]).filter(|&c| c < 2000 || !K::is_left_out()) {
        for problem in Problem::<K>::ordinary(1, cols, 3).in_every_form() {
            match problem.operation {
                Operation::LayerNorm { .. } => assert_columns_can_be_split::<K, Centered>(&problem),
                Operation::RmsNorm { .. } => assert_columns_can_be_split::<K, Uncentered>(&problem),
            }
        }
    }
}

/// A job is given back if its row has moments out of range, and if it has two rows.
fn assert_given_back<K: Types, M: Center>(problem: &Problem<K>)
where
    Floor: Jobs<K, M>,
    K::X: Compiled<M>,
{
    let expected = problem.expected();
    for &isa in tiers() {
        let moments = RowMoments::new(&problem.x, M::CENTERED).run_on(isa);
        let mut output = Output::blank(problem);
        let job = Floor::job(problem, &mut output, false).with_moments(&moments);
        job.map(|_| ()).expect_err("given back").run_on(isa);
        output.assert_same(&expected, problem.cols, format_args!("{isa}, {problem}"));
    }
}

fn a_row_whose_moments_cannot_be_trusted_is_given_back<K: Types>() {
    let [huge, small, ..] = K::X::SIZES.noise;
    let mut values = vec![(f64::NAN, 1e-5), (f64::INFINITY, 1e-5), (0.0, 0.0)];
    if K::F::of(K::X::MAX.wide() * K::X::MAX.wide()).wide().is_infinite() {
        values.extend([(huge, 1e-5), (small, 0.0)]);
    }
    for (value, eps) in values {
        let mut problem = Problem::<K>::ordinary(1, 100, 4).with_eps(eps);
        problem.x.fill(K::X::default());
        problem.x[50] = K::X::of(value);
        assert_given_back::<K, Centered>(&problem);
        assert_given_back::<K, Uncentered>(&problem.rms_norm(1.0));
    }
    let two_rows = Problem::<K>::ordinary(2, 8, 5);
    assert_given_back::<K, Centered>(&two_rows);
    assert_given_back::<K, Uncentered>(&two_rows.rms_norm(1.0));
}

fn one_row_can_be_normalized_by_an_rstd_known_before<K: Types>() {
    for cols in TURNING_POINTS {
        let problem = Problem::<K>::ordinary(1, cols, 6).rms_norm(1.0);
        let expected = problem.expected();
        for &isa in tiers() {
            let mut output = Output { y: vec![K::Y::SENTINEL; cols], ..expected.clone() };
            let row = io(&problem, &mut output.y);
            let job =
                rms_norm::Normalize::new(row, params(&problem), expected.rstd[0], false).expect("the lengths fit");
            job.run_on(isa);
            output.assert_same(&expected, cols, format_args!("{isa}, {problem}"));
        }
    }
}

for_all_types!(
    jobs_split_by_rows_give_the_same_bits,
    jobs_of_pointers_give_the_same_bits,
    rows_split_by_columns_give_the_same_bits,
    a_row_whose_moments_cannot_be_trusted_is_given_back,
    one_row_can_be_normalized_by_an_rstd_known_before,
);

for_every_type!(moments_merged_along_the_tree_give_the_same_bits, moments_about_zero_are_the_sum_of_squares_alone,);

#[test]
fn rows_that_do_not_fit_are_refused() {
    let (x, mut y) = (vec![0.0; 20], vec![0.0; 20]);
    let mut io = |x_len: usize, x_stride, y_len: usize, y_stride, rows, cols| {
        RowIo::new(&x[..x_len], x_stride, &mut y[..y_len], y_stride, rows, cols).is_ok()
    };
    assert!(io(20, 5, 20, 5, 4, 5) && io(14, 5, 20, 8, 3, 4) && io(0, 0, 0, 0, 0, 9) && io(0, 0, 0, 0, 9, 0));
    assert!(io(5, 0, 5, 0, 1, 5), "one row needs no stride");
    assert!(!io(19, 5, 20, 5, 4, 5) && !io(20, 5, 19, 5, 4, 5), "too short");
    assert!(!io(20, 4, 20, 5, 4, 5) && !io(20, 5, 20, 0, 4, 5), "rows overlap");
    assert!(!io(20, usize::MAX, 20, 5, 3, 5) && !io(20, 5, 20, 5, usize::MAX, 5), "overflow");
    assert!(RowIo::in_place(&mut y, 5, 4, 5).is_ok_and(|io| io.is_in_place()));
    assert!(RowIo::in_place(&mut y, 4, 4, 5).is_err() && RowIo::in_place(&mut y, 6, 4, 5).is_err());
}

#[test]
fn vectors_of_another_length_are_refused() {
    fn params<'a>(gamma: Option<&'a [f32]>, beta: Option<&'a [f32]>) -> Params<'a, f32> {
        Params { gamma: gamma.map(Vector::from), beta: beta.map(Vector::from), ..Params::default() }
    }
    let (x, five) = ([0.0; 12], [1.0; 5]);
    let norm = RowNorm { mean: 0.0, mean_lo: 0.0, rstd: 1.0 };
    let mut y = [0.0; 12];
    let mut job = |gamma, beta, stats: StatsMut<'_>| {
        let io = RowIo::new(&x, 4, &mut y, 4, 3, 4).expect("the rows fit");
        LayerNorm::new(io, params(gamma, beta), 1e-5, false, stats).is_ok()
    };
    assert!(job(Some(&five[..4]), Some(&five[..4]), StatsMut { mean: Some(&mut [0.0; 3]), ..StatsMut::default() }));
    assert!(!job(Some(&five), None, StatsMut::default()));
    assert!(!job(None, Some(&five[..3]), StatsMut::default()));
    assert!(!job(None, None, StatsMut { mean: Some(&mut [0.0; 2]), ..StatsMut::default() }));
    assert!(!job(None, None, StatsMut { mean_lo: Some(&mut [0.0; 4]), ..StatsMut::default() }));
    assert!(!job(None, None, StatsMut { rstd: Some(&mut []), ..StatsMut::default() }));
    let mut normalize = |rows, gamma| {
        let io = RowIo::new(&x, 4, &mut y, 4, rows, 4).expect("the rows fit");
        Normalize::new(io, params(gamma, None), norm, false).is_ok()
    };
    assert!(normalize(1, None) && !normalize(2, None) && !normalize(0, None) && !normalize(1, Some(&five[..])));
    let mut job = |gamma, rstd: Option<&mut [f32]>| {
        let io = RowIo::new(&x, 4, &mut y, 4, 3, 4).expect("the rows fit");
        RmsNorm::new(io, params(gamma, None), 1e-5, false, rstd).is_ok()
    };
    assert!(job(Some(&five[..4]), Some(&mut [0.0; 3])) && job(None, None));
    assert!(!job(Some(&five), None) && !job(Some(&five[..3]), None));
    assert!(!job(None, Some(&mut [0.0; 2])) && !job(None, Some(&mut [0.0; 12])));
    let mut normalize = |rows, gamma| {
        let io = RowIo::new(&x, 4, &mut y, 4, rows, 4).expect("the rows fit");
        rms_norm::Normalize::new(io, params(gamma, None), 1.0, false).is_ok()
    };
    assert!(normalize(1, None) && !normalize(2, None) && !normalize(0, None) && !normalize(1, Some(&five[..])));
}

#[test]
fn gamma_and_beta_of_two_types_are_refused() {
    let (x, mut y) = ([bf16::ONE; 12], [bf16::ZERO; 12]);
    let (narrow, wide) = ([bf16::ONE; 4], [1.0; 4]);
    let (narrow, wide) = (Vector::from(&narrow[..]), Vector::from(&wide[..]));
    let mut job = |gamma, beta| {
        let io = RowIo::new(&x, 4, &mut y, 4, 3, 4).expect("the rows fit");
        let params = Params { gamma: Some(gamma), beta: Some(beta), ..Params::default() };
        LayerNorm::new(io, params, 1e-5, false, StatsMut::default()).is_ok()
    };
    assert!(job(narrow, narrow) && job(wide, wide) && !job(narrow, wide) && !job(wide, narrow));
}

/// The types that tests are stamped on.
macro_rules! dtypes {
    (: $($name:ident = $types:ty,)+) => {
        [$(<<$types as Types>::X as Storage>::DTYPE),+]
    };
}

/// The table has no operation or type that these tests do not know.
#[test]
fn the_table_holds_every_operation_on_every_type_and_tier_once() {
    let dtypes = for_every_type!(@dtypes);
    for tier in Tier::ALL {
        for dtype in dtypes {
            for op in OPERATIONS.map(Operation::op) {
                let here = table::kernels().filter(|entry| (entry.op, entry.dtype, entry.tier) == (op, dtype, tier));
                assert_eq!(here.count(), 1, "{op:?}, {dtype:?}, {tier}");
            }
        }
        assert_eq!(tier.name().parse(), Ok(tier));
    }
    for entry in table::kernels().filter(|entry| !entry.op.is_backward()) {
        let known = OPERATIONS.iter().any(|operation| operation.op() == entry.op) && dtypes.contains(&entry.dtype);
        assert!(known, "{entry} is new: test it");
    }
    let names: Vec<_> = table::kernels().map(|entry| entry.to_string()).collect();
    for name in ["layer_norm/f32/scalar", "rms_norm/f64/neon", "layer_norm/f16/avx2", "rms_norm/bf16/avx512"] {
        assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
    }
}
