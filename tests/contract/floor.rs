//! Constructors of the kernels crate: arguments that do not fit together are refused, and are not ignored, guessed or
//! read from elsewhere. Arguments that fit give the bits of the plan. `kernels/src/refusals.rs` has the messages.

use lanenorm::kernels::ops::backward::{Backward, Parts, Stats};
use lanenorm::kernels::ops::layer_norm::LayerNorm;
use lanenorm::kernels::ops::moments::RowMoments;
use lanenorm::kernels::ops::rms_norm::RmsNorm;
use lanenorm::kernels::ops::{layer_norm, rms_norm};
use lanenorm::kernels::rows::{GradRows, Groups, Params, RowIo, Vector};
use lanenorm::kernels::simd::Float;
use lanenorm::kernels::stats::{RowNorm, is_slow_scale};
use lanenorm::kernels::{Center, Centered, Compiled, Error, Uncentered};
use lanenorm::{Isa, Moments};

use crate::support::forms::StatsMut;
use crate::support::{Call, GradProblem, Problem, Types, Value, assert_same_bits, tiers};

const NORM: RowNorm = RowNorm { mean: 0.0, mean_lo: 0.0, rstd: 1.0 };

/// The buffer of a sum holds other numbers before the sum is taken.
#[test]
fn a_row_that_is_a_sum_has_no_statistics_yet() {
    let (x, residual) = ([1.0f32, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]);
    let (mut s, mut y) = ([0.0; 4], [0.0; 4]);
    let refused = |row: Result<RowIo<'_, f32>, Error>| {
        let row = row.expect("the rows fit");
        assert!(row.is_sum() && row.x_row(0).is_none());
        let job = layer_norm::Normalize::new(row, Params::default(), NORM, false);
        job.is_err_and(|e| e == Error::UntakenSum { what: "statistics" })
    };
    let rms_refused = |row: Result<RowIo<'_, f32>, Error>| {
        rms_norm::Normalize::new(row.expect("the rows fit"), Params::default(), 1.0, false).is_err()
    };
    assert!(refused(RowIo::sum((&x, 4), (&residual, 4), (&mut s, 4), (&mut y, 4), 1, 4)));
    assert!(refused(RowIo::sum_in_place((&x, 4), (&mut s, 4), (&mut y, 4), 1, 4)));
    assert!(refused(RowIo::sum_into((&x, 4), (&residual, 4), (&mut y, 4), 1, 4)));
    assert!(refused(RowIo::sum_over((&x, 4), (&mut y, 4), 1, 4)));
    assert!(rms_refused(RowIo::sum((&x, 4), (&residual, 4), (&mut s, 4), (&mut y, 4), 1, 4)));
    assert!(rms_refused(RowIo::sum_into((&x, 4), (&residual, 4), (&mut y, 4), 1, 4)));
    assert!(rms_refused(RowIo::sum_over((&x, 4), (&mut y, 4), 1, 4)));
    assert_eq!((s, y), ([0.0; 4], [0.0; 4]));
}

fn params<'a, K: Types>(problem: &'a Problem<K>, groups: Groups) -> Params<'a, K::X> {
    let vector = |v: &'a Option<Vec<K::G>>| v.as_deref().map(Vector::from);
    let (gamma, beta) = (vector(&problem.gamma), vector(&problem.beta));
    Params { gamma, beta, groups, offset: K::F::of(problem.operation.offset().into()), ..Params::default() }
}

fn one_row_has_the_vectors_of_its_group<K: Types>() {
    for cols in [1, 9, 64, 200, 1025] {
        for rms in [false, true] {
            let problem = Problem::<K>::ordinary(6, cols, 7).with_groups(3, 1);
            let problem = if rms { problem.rms_norm(1.0) } else { problem };
            let expected = problem.expected();
            let groups = Groups::new(3, 1).expect("groups");
            for &isa in tiers() {
                for r in 0..6 {
                    let mut y = vec![K::Y::SENTINEL; cols];
                    let row = RowIo::new(&problem.x[r * cols..][..cols], cols, &mut y, cols, 1, cols);
                    let norm = RowNorm { mean: expected.mean[r], mean_lo: expected.mean_lo[r], rstd: expected.rstd[r] };
                    let (row, params) = (row.expect("the row fits"), params(&problem, groups.after(r)));
                    if rms {
                        let job = rms_norm::Normalize::new(row, params, norm.rstd, false);
                        job.expect("the lengths fit").run_on(isa);
                    } else {
                        let job = layer_norm::Normalize::new(row, params, norm, false);
                        let (a, b) = job.expect("the lengths fit").split_at_col(cols / 2);
                        a.run_on(isa);
                        b.run_on(isa);
                    }
                    let what = format_args!("{isa}, {problem}, row {r} by its statistics");
                    assert_same_bits(what, cols, &expected.y[r * cols..][..cols], &y);
                }
            }
            let mut y = vec![K::Y::SENTINEL; cols];
            let row = RowIo::new(&problem.x[..cols], cols, &mut y, cols, 1, cols).expect("the row fits");
            let norm = RowNorm { mean: K::F::default(), mean_lo: K::F::default(), rstd: K::F::default() };
            let job = layer_norm::Normalize::new(row, params(&problem, groups), norm, false);
            assert!(job.is_err(), "one row is no multiple of three groups");
        }
    }
}

/// Rows from `split_at` are rows of the same buffers, and take the statistics of the buffers.
fn gradients_of_some_rows<K: Types, M: Center>(problem: &GradProblem<K>)
where
    K::X: Compiled<M>,
{
    let (forward, expected) = (&problem.forward, problem.expected());
    let (rows, cols, (groups, repeat)) = (forward.rows, forward.cols, forward.groups);
    let kept = forward.run(&Call::plain(Isa::SCALAR));
    let stats = |rows: usize| {
        let mean = M::CENTERED.then(|| &kept.mean[..rows]);
        Stats { mean, mean_lo: M::CENTERED.then(|| &kept.mean_lo[..rows]), rstd: Some(&kept.rstd[..rows]) }
    };
    for &isa in tiers() {
        for at in [0, 1, 5, rows / groups] {
            let mut dx = vec![K::X::SENTINEL; rows * cols];
            for group in 0..groups {
                let of_group = || {
                    let rows = GradRows::new((&problem.dy, cols), (&forward.x, cols), rows, cols);
                    rows.expect("the rows fit")
                };
                let with_dx = of_group().with_dx((&mut dx, cols));
                let with_dx = with_dx.and_then(|r| r.with_group(group, Groups::new(groups, repeat)?));
                let (a, b) = with_dx.expect("the rows fit").split_at(at);
                let gamma = forward.gamma.as_deref().map(|g| Vector::from(&g[group * cols..][..cols]));
                let offset = K::F::of(forward.operation.offset().into());
                let params = Params { gamma, offset, ..Params::default() };
                for part in [a, b] {
                    let parts = Parts::new(part.rows(), cols);
                    let len = parts.partial_len::<K::X>(M::CENTERED).expect("a length") * parts.count();
                    let work = parts.work_len::<K::X>(M::CENTERED).expect("a length");
                    let job = Backward::<_, M>::new(part, stats(rows), params, forward.eps, true, false);
                    let mut job = job.expect("the statistics are those of all rows of the buffers");
                    job.run_on(isa, &mut vec![K::F::QUIET_NAN; len], &mut vec![K::F::QUIET_NAN; work]);
                }
                let (_, part) = of_group().split_at(2);
                let of_part =
                    Backward::<_, M>::new(part, stats(rows - 2), Params { gamma: None, ..params }, 1e-5, true, false);
                assert!(of_part.is_err(), "statistics of the part alone");
            }
            let dx_wanted = expected.dx.as_deref().expect("dx is wanted");
            assert_same_bits(format_args!("{isa}, {problem}, split at row {at}"), cols, dx_wanted, &dx);
        }
    }
}

fn gradients_of_some_rows_take_the_statistics_of_all<K: Types>() {
    for cols in [1, 33, 200] {
        let problem = GradProblem::<K>::ordinary(12, cols, 8);
        gradients_of_some_rows::<K, Centered>(&problem);
        gradients_of_some_rows::<K, Uncentered>(&problem.rms_norm(1.0));
        let problem = GradProblem::<K>::of(Problem::ordinary(12, cols, 8).with_groups(2, 3), |_, _| 0);
        gradients_of_some_rows::<K, Centered>(&problem);
        gradients_of_some_rows::<K, Uncentered>(&problem.rms_norm(1.0));
    }
}

for_all_types!(one_row_has_the_vectors_of_its_group);
for_all_gradients!(gradients_of_some_rows_take_the_statistics_of_all);

#[test]
fn eps_is_finite_and_not_negative() {
    let (x, mut y) = ([1.0f32, 2.0, 3.0, 4.0], [0.0f32; 4]);
    for (eps, fits) in [
        (0.0, true),
        (-0.0, true),
        (1e-5, true),
        (f64::MAX, true),
        (-1e-300, false),
        (-1.0, false),
        (f64::INFINITY, false),
        (f64::NEG_INFINITY, false),
        (f64::NAN, false),
        (-f64::NAN, false),
    ] {
        let io = RowIo::new(&x, 4, &mut y, 4, 1, 4).expect("the row fits");
        assert_eq!(LayerNorm::new(io, Params::default(), eps, false, StatsMut::default()).is_ok(), fits, "{eps}");
        let io = RowIo::in_place(&mut y, 4, 1, 4).expect("the row fits");
        assert_eq!(RmsNorm::new(io, Params::default(), eps, false, None).is_ok(), fits, "{eps}");
        let grads = || GradRows::new((&x, 4), (&x, 4), 1, 4).expect("the row fits");
        let backward = Backward::<_, Centered>::new(grads(), Stats::default(), Params::default(), eps, true, false);
        assert_eq!(backward.is_ok(), fits, "{eps}");
        let backward = Backward::<_, Uncentered>::new(grads(), Stats::default(), Params::default(), eps, true, false);
        assert_eq!(backward.is_ok(), fits, "{eps}");
        let moments = RowMoments::new(&x, true).run_on(Isa::SCALAR);
        match moments.rescale::<f32>(eps) {
            Ok(_) => assert!(fits, "{eps}"),
            Err(error) => {
                assert!(!fits && matches!(error, Error::Eps(e) if e.to_bits() == eps.to_bits()), "{eps}");
                assert_eq!(error.to_string(), format!("eps is {eps}, expected a finite number not less than 0"));
            }
        }
    }
    assert_eq!(Moments::EMPTY.rescale::<f64>(-1.0), Err(Error::Eps(-1.0)));
}

/// Arguments that are given twice, or that are of no use.
#[test]
fn nothing_that_is_given_is_ignored() {
    let (x, bias) = ([1.0f32; 8], [1.0f32; 4]);
    let (mut y, mut other) = ([0.0f32; 8], [0.0f32; 8]);
    let io = RowIo::sum_over((&x, 4), (&mut y, 4), 2, 4).expect("the rows fit");
    let job = LayerNorm::new(io, Params::default(), 1e-5, false, StatsMut::default()).expect("the lengths fit");
    let job = job.with_bias(&bias).expect("a bias fits a sum");
    assert!(job.with_bias(&bias).is_err(), "a second bias");

    let rows = || GradRows::new((&x, 4), (&x, 4), 2, 4).expect("the rows fit");
    let with_dx = rows().with_dx((&mut y, 4)).expect("dx fits");
    assert!(with_dx.with_dx((&mut other, 4)).is_err(), "a second dx");
    let with_ds = rows().with_ds((&x, 4)).expect("ds fits");
    assert!(with_ds.with_ds((&x, 4)).is_err(), "a second ds");
    for (at, first, second) in [(0, false, true), (1, false, false), (2, true, false)] {
        let (a, b) = rows().split_at(at);
        assert_eq!((a.with_ds((&x, 4)).is_ok(), b.with_ds((&x, 4)).is_ok()), (first, second), "split at {at}");
    }

    let two = [1.0f32; 2];
    let job = |rows: GradRows<'_, f32>, stats, sums, centered| {
        if centered {
            Backward::<_, Centered>::new(rows, stats, Params::default(), 1e-5, sums, false).is_ok()
        } else {
            Backward::<_, Uncentered>::new(rows, stats, Params::default(), 1e-5, sums, false).is_ok()
        }
    };
    for centered in [true, false] {
        assert!(job(rows(), Stats::default(), true, centered));
        assert!(!job(rows(), Stats::default(), false, centered), "no gradient is wanted");
        assert!(!job(rows().with_ds((&x, 4)).expect("ds fits"), Stats::default(), true, centered), "ds without dx");
        let with_dx = rows().with_dx((&mut y, 4)).and_then(|rows| rows.with_ds((&x, 4))).expect("both fit");
        assert!(job(with_dx, Stats::default(), false, centered));
        let stats = |mean: bool, mean_lo: bool, rstd: bool| {
            let of = |given: bool| given.then_some(&two[..]);
            Stats { mean: of(mean), mean_lo: of(mean_lo), rstd: of(rstd) }
        };
        // RMS normalization has no mean.
        for (mean, mean_lo, fits) in [(true, true, centered), (true, false, centered), (false, false, !centered)] {
            assert_eq!(job(rows(), stats(mean, mean_lo, true), true, centered), fits, "{mean}, {mean_lo}");
        }
        for (mean, mean_lo, rstd) in
            [(true, false, false), (false, true, false), (false, true, true), (true, true, false)]
        {
            assert!(!job(rows(), stats(mean, mean_lo, rstd), true, centered), "{mean}, {mean_lo}, {rstd}");
        }
    }
}

#[test]
fn outputs_are_cut_as_rows_are() {
    let (mut mean, mut rstd) = ([0.0f32; 3], [0.0f32; 3]);
    for (at, lens) in [(0, (0, 3)), (2, (2, 1)), (3, (3, 0)), (4, (3, 0)), (usize::MAX, (3, 0))] {
        let stats = StatsMut { mean: Some(&mut mean[..]), mean_lo: None, rstd: Some(&mut rstd[..]) };
        let (a, b) = stats.split_at(at);
        let len = |s: Option<&mut [f32]>| s.map(|s| s.len());
        assert_eq!((len(a.mean), len(b.mean)), (Some(lens.0), Some(lens.1)));
        assert_eq!((len(a.rstd), len(b.rstd)), (Some(lens.0), Some(lens.1)));
        assert!(a.mean_lo.is_none() && b.mean_lo.is_none());
    }
}

/// The job of both rows.
fn job<'a, K: Types>(problem: &'a Problem<K>, y: &'a mut [K::Y]) -> LayerNorm<'a, K::X> {
    let Problem { rows, cols, eps, .. } = *problem;
    let io = RowIo::new(&problem.x, cols, y, cols, rows, cols).expect("the rows fit");
    LayerNorm::new(io, params(problem, Groups::ONE), eps, false, StatsMut::default()).expect("the lengths fit")
}

/// Moments of other elements than the row's, moments at a scale that no row has, and moments of no elements.
fn moments_that_are_not_of_the_row<K: Types>() {
    let problem = Problem::<K>::ordinary(2, 100, 9);
    let cols = problem.cols;
    let row = |r: usize| &problem.x[r * cols..][..cols];
    let of = |x| RowMoments::new(x, true).run_on(Isa::SCALAR);
    let whole = [of(row(0)), of(row(1))];
    let refuses = |result, of| matches!(result, Err(Error::Moments { row, .. }) if row == of);
    let expected = problem.expected();
    let mut y = vec![K::Y::SENTINEL; 2 * cols];
    for &isa in tiers() {
        for count in [99.0, 0.0, -100.0, f64::NAN] {
            let few = Moments { count, ..whole[1] };
            assert!(
                !few.are_of::<K::X>(cols) && refuses(job(&problem, &mut y).run_with(isa, &[whole[0], few]), 1),
                "{count}"
            );
        }
        for scale in [0.0, -1.0, 3.0, f64::NAN, f64::INFINITY] {
            let scaled = Moments { scale, ..whole[0] };
            assert!(
                !scaled.are_of::<K::X>(cols) && refuses(job(&problem, &mut y).run_with(isa, &[scaled, whole[1]]), 0),
                "{scale}"
            );
            assert!(!is_slow_scale::<K::X>(scale));
            let refused = RowMoments::new(row(0), true).at_scale(scale).err();
            let names = |s: f64| s.to_bits() == scale.to_bits();
            assert!(matches!(refused, Some(Error::Scale { scale, .. }) if names(scale)), "{refused:?}");
        }
        let few = job(&problem, &mut y).run_with(isa, &whole[..1]);
        assert_eq!(few, Err(Error::Length { what: "moments", len: 1, expected: 2 }));
        assert!(y.iter().all(|y| y.bits() == K::Y::SENTINEL.bits()), "{isa}: something was written");

        // A single row is given back as it is.
        let (row, rest) = job(&problem, &mut y).split_at(1);
        let half = of(&problem.x[..cols / 2]);
        row.with_moments(&half).map(|_| ()).expect_err("moments of half a row").run_on(isa);
        assert_eq!(rest.run_with(isa, &whole[1..]), Ok(()));
        assert_same_bits(format_args!("{isa}, {problem}"), cols, &expected.y, &y);
        y.fill(K::Y::SENTINEL);
    }
    let [a, b] = whole;
    assert!(K::F::RESCALE.into_iter().all(is_slow_scale::<K::X>));
    assert_eq!((Moments::EMPTY.merge(a), a.merge(Moments::EMPTY)), (a, a));
    assert_eq!(Moments::EMPTY.merge(Moments::EMPTY), Moments::EMPTY);
    assert_eq!(Moments::merge_all([Moments::EMPTY, a, Moments::EMPTY, b]), a.merge(b));
    let scaled = RowMoments::new(row(1), true).at_scale(K::F::RESCALE[0]).expect("a scale of the type");
    let scaled = scaled.run_on(Isa::SCALAR);
    for mixed in [a.merge(scaled), Moments::merge_all([a, scaled]), Moments::merge_all([a, b, scaled])] {
        assert!(mixed.m2.is_nan() && !mixed.are_of::<K::X>(1), "moments at two scales");
    }
    assert!(!Moments::merge_all([a, Moments { count: f64::NAN, ..b }]).are_of::<K::X>(1));
}

for_every_type!(moments_that_are_not_of_the_row);

/// Without columns nothing is written, whatever is run.
#[test]
fn rows_of_no_elements_have_no_statistics() {
    for &isa in tiers() {
        let (mut y, mut stats) = ([0.0f64; 0], [7.0; 3]);
        for by_moments in [false, true] {
            let io = RowIo::new(&[], 0, &mut y, 0, 3, 0).expect("rows of nothing");
            let job = RmsNorm::new(io, Params::default(), 1e-5, false, Some(&mut stats));
            let mut job = job.expect("the lengths fit");
            if by_moments {
                assert_eq!(job.run_with(isa, &[Moments::EMPTY; 3]), Ok(()));
            } else {
                job.run_on(isa);
            }
        }
        assert_eq!(stats, [7.0; 3], "{isa}");
    }
}
