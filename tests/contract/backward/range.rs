//! Extreme numbers give the right gradients: x, dy and gamma of every size that a type has. Rows without a deviation,
//! or without gradients, have a dx of 0.

use lanenorm::Isa;

use super::oracle::exact;
use crate::accuracy::u;
use crate::support::{GradCall, GradProblem, Problem, Random, Statistics, TURNING_POINTS, Types, Value, quick, tiers};

/// In the unit of [`accuracy`](super::accuracy): all rows here are ordinary but for their size.
const BOUND: f64 = 8.0;

/// Sizes of x, of dy and of gamma. Sizes that a type cannot hold are left out.
struct Sizes {
    x: &'static [f64],
    dy: &'static [f64],
    gamma: &'static [f64],
}

const OF_F32: Sizes = Sizes {
    x: &[1e-44, 1e-40, 1e-30, 1e-20, 1e-18, 1e-13, 1e-5, 1.0, 1e10, 1e17, 1e19, 1e30, 3e38],
    dy: &[1e-44, 1e-40, 1e-30, 1e-20, 1e-10, 1.0, 1e10, 1e20, 1e30, 1e38],
    gamma: &[1e-40, 1e-30, 1.0, 1e30],
};

const OF_F64: Sizes = Sizes {
    x: &[1e-323, 1e-310, 1e-200, 1e-150, 1e-144, 1e-50, 1.0, 1e100, 1e150, 1e152, 1e250, 1e300],
    dy: &[1e-323, 1e-310, 1e-250, 1e-150, 1.0, 1e150, 1e250, 1e300],
    gamma: &[1e-310, 1e-200, 1.0, 1e200],
};

/// The problem with its numbers multiplied. `None` if they are not all finite, or all zero.
fn scaled<K: Types>(problem: &GradProblem<K>, x: f64, dy: f64, gamma: f64) -> Option<GradProblem<K>> {
    let mut problem = problem.clone();
    let GradProblem { forward: Problem { x: xs, gamma: gammas, .. }, dy: dys, .. } = &mut problem;
    xs.iter_mut().for_each(|v| *v = K::X::of(v.wide() * x));
    dys.iter_mut().for_each(|v| *v = K::X::of(v.wide() * dy));
    gammas.iter_mut().flatten().for_each(|v| *v = K::G::of(v.wide() * gamma));
    let finite = |v: &f64| v.is_finite();
    let holds = [&*xs, &*dys]
        .into_iter()
        .all(|v| v.iter().map(|v| v.wide()).all(|v| finite(&v)) && v.iter().any(|v| v.wide() != 0.0));
    let gammas: Vec<f64> = gammas.iter().flatten().map(|v| v.wide()).collect();
    (holds && gammas.iter().all(finite) && gammas.iter().any(|v| *v != 0.0)).then_some(problem)
}

fn assert_dx_within<K: Types>(problem: &GradProblem<K>, sizes: (f64, f64, f64)) {
    let (rows, cols) = (problem.forward.rows, problem.forward.cols);
    let expected = problem.expected();
    for &isa in tiers() {
        problem.assert_gives(&expected, &GradCall::plain(isa));
    }
    for r in 0..rows {
        let exact = exact(problem, r);
        for (i, &dx) in expected.dx()[r * cols..][..cols].iter().enumerate() {
            let factor = exact.factor::<K>(i, dx) / u::<K>();
            assert!(
                factor <= BOUND,
                "{problem}, x, dy, gamma: {sizes:?}, row {r}, column {i}: {factor:.2} u: {dx:e}, exact {:e}",
                exact.dx(i)
            );
        }
    }
    assert_sums_within(problem, expected.dgamma(), expected.dbeta.as_deref(), sizes);
}

/// Checks gradients whose sums of sizes of terms do not overflow.
fn assert_sums_within<K: Types>(
    problem: &GradProblem<K>,
    dgamma: &[K::F],
    dbeta: Option<&[K::F]>,
    sizes: (f64, f64, f64),
) {
    let (rows, cols) = (problem.forward.rows, problem.forward.cols);
    let xhat: Vec<Vec<f64>> = (0..rows).map(|r| exact(problem, r).xhat.into_iter().map(f64::from).collect()).collect();
    let tolerance = 4.0 * u::<K>();
    // With this scale no sum overflows, and no denormal loses a bit.
    let scale = if sizes.1 > 1.0 { 1.0 / 64.0 } else { 1.0 };
    for i in 0..cols {
        let terms = |of: &dyn Fn(usize) -> f64| {
            let dy = |r: usize| problem.dy[r * cols + i].wide();
            let terms = (0..rows).map(|r| dy(r) * scale * of(r));
            let sizes: f64 = (0..rows).map(|r| dy(r).abs() * scale * (of(r).abs() + 1.0)).sum();
            (terms.sum::<f64>(), sizes)
        };
        let close = |got: K::F, (sum, size): (f64, f64)| {
            let denormal = rows as f64 * K::F::SMALLEST.wide();
            size > K::F::MAX.wide() / 64.0 || (got.wide() * scale - sum).abs() <= tolerance * size + denormal
        };
        let here = || format!("{problem}, x, dy, gamma: {sizes:?}, column {i}");
        assert!(close(dgamma[i], terms(&|r| xhat[r][i])), "{}: dgamma {:e}", here(), dgamma[i]);
        if let Some(dbeta) = dbeta {
            assert!(close(dbeta[i], terms(&|_| 1.0)), "{}: dbeta {:e}", here(), dbeta[i]);
        }
    }
}

fn x_dy_and_gamma_of_every_size<K: Types>() {
    let Sizes { x, dy, gamma } = if size_of::<K::X>() == size_of::<f64>() { OF_F64 } else { OF_F32 };
    let mut number = 0;
    for (i, (rows, cols)) in [(5, 7), (3, 64), (5, 100), (1, 1030)].into_iter().enumerate() {
        let thinner = [1, 3, 7, 17][i] * if K::ONE_OF == 1 { 1 } else { 4 } * if quick() { 5 } else { 1 };
        for problem in GradProblem::<K>::ordinary(rows, cols, 1).of_every_operation() {
            // Noise without the offset of every other row.
            let mut random = Random::new(i as u64);
            let mut problem = GradProblem { forward: problem.forward.with_offset(0.0), ..problem };
            problem.forward.x.iter_mut().for_each(|x| *x = K::X::of(K::X::signed(&mut random)));
            for &of_x in x {
                for &of_dy in dy {
                    for &of_gamma in gamma {
                        number += 1;
                        if number % thinner != 0 {
                            continue;
                        }
                        let eps = if number / thinner % 3 == 0 { 1e-5 } else { 0.0 };
                        if let Some(problem) = scaled(&problem, of_x, of_dy, of_gamma) {
                            assert_dx_within(&problem.with_eps(eps), (of_x, of_dy, of_gamma));
                        }
                    }
                }
            }
        }
    }
}

/// x, dy and gamma have a few elements that are far larger than the others in the row.
fn sizes_mixed_within_a_row<K: Types>() {
    let Sizes { dy, gamma, .. } = if size_of::<K::X>() == size_of::<f64>() { OF_F64 } else { OF_F32 };
    for (i, cols) in [3, 9, 70, 193, 1030].into_iter().enumerate() {
        for (j, (&of_dy, &of_gamma)) in dy.iter().flat_map(|dy| gamma.iter().map(move |gamma| (dy, gamma))).enumerate()
        {
            if !K::takes(i + j) || (i + j) % 2 == 0 {
                continue;
            }
            for mut problem in GradProblem::<K>::ordinary(1, cols, 2).of_every_operation() {
                let mut random = Random::new((i * 100 + j) as u64);
                let (a, b) = (random.below(cols), random.below(cols));
                problem.forward.x.iter_mut().for_each(|x| *x = K::X::of(K::X::signed(&mut random)));
                problem.dy[a] = K::X::of(of_dy);
                problem.forward.gamma.as_mut().expect("gamma")[b] = K::G::of(of_gamma);
                if problem.dy[a].wide().is_finite() && of_gamma < K::G::MAX.wide() {
                    assert_dx_within(&problem, (1.0, of_dy, of_gamma));
                }
            }
        }
    }
}

fn constants<V: Value>() -> [V; 8] {
    let [huge, small, denormal, ..] = V::SIZES.noise;
    [0.0, 1.0, -0.1, 1.0 / 3.0, V::MAX.wide(), huge, small, denormal].map(V::of)
}

/// By decree, dx is 0 if rstd would be infinite; with ds it is ds. Such rows add nothing to dgamma.
fn constant_rows_without_eps_have_a_dx_of_zero<K: Types>() {
    let constants = constants::<K::X>();
    for (i, cols) in TURNING_POINTS.into_iter().enumerate() {
        let mut problem = GradProblem::<K>::ordinary(constants.len(), cols, 3).with_eps(0.0);
        for (row, constant) in problem.forward.x.chunks_exact_mut(cols).zip(constants) {
            row.fill(constant);
        }
        let mut zeros = problem.clone().rms_norm(1.0);
        zeros.forward.x.iter_mut().enumerate().for_each(|(i, x)| *x = K::X::of(if i % 3 == 0 { -0.0 } else { 0.0 }));
        for problem in [problem.clone(), problem.with_ds(), zeros.clone(), zeros.with_ds()] {
            for &isa in tiers() {
                let statistics = if i % 2 == 0 { Statistics::Taken } else { Statistics::Kept };
                let got = problem.run(&GradCall { statistics, ..GradCall::plain(isa) });
                for (at, &dx) in got.dx().iter().enumerate() {
                    let ds = problem.ds.as_ref().map_or(K::X::default(), |ds| ds[at]);
                    assert!(dx == ds || (dx.is_nan() && ds.is_nan()), "{isa}, {problem}, {at}: {dx:e}, ds {ds:e}");
                }
                assert!(got.dgamma().iter().all(|&v| v == K::F::default()), "{isa}, {problem}: {:?}", got.dgamma());
            }
        }
    }
}

/// With eps, dx of a constant row is (g - mean(g)) / sqrt(eps).
fn constant_rows_with_eps<K: Types>() {
    for cols in [1, 2, 7, 64, 65, 193, 1025] {
        let constants = constants::<K::X>();
        let mut problem = GradProblem::<K>::ordinary(constants.len(), cols, 4);
        for (row, constant) in problem.forward.x.chunks_exact_mut(cols).zip(constants) {
            row.fill(constant);
        }
        assert_dx_within(&problem, (0.0, 1.0, 1.0));
    }
}

/// A dy of zeros, of either sign, has a dx of 0 whatever x is, as long as it is finite.
fn rows_without_a_gradient_have_a_dx_of_zero<K: Types>() {
    let mut random = Random::new(5);
    for cols in TURNING_POINTS {
        for problem in GradProblem::<K>::ordinary(9, cols, 5).of_every_operation() {
            for (i, eps) in [1e-5, 0.0].into_iter().enumerate() {
                let mut problem = problem.clone().with_eps(eps);
                problem
                    .dy
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, dy)| *dy = K::X::of(if i % 5 == 0 { -0.0 } else { 0.0 }));
                for (kind, row) in
                    [0, 1, 2, 3, 4, 8, 9, 12, 13].into_iter().zip(problem.forward.x.chunks_exact_mut(cols))
                {
                    crate::support::special_row(kind, &mut random, row);
                }
                for &isa in tiers() {
                    let statistics = if i == 0 { Statistics::Taken } else { Statistics::Kept };
                    let got = problem.run(&GradCall { statistics, ..GradCall::plain(isa) });
                    assert!(got.dx().iter().all(|&dx| dx == K::X::default()), "{isa}, {problem}: {:?}", got.dx());
                    let sums = got.dgamma().iter().chain(got.dbeta.iter().flatten());
                    assert!(sums.into_iter().all(|&v| v == K::F::default()), "{isa}, {problem}: {:?}", got.dgamma());
                }
            }
        }
    }
}

for_all_gradients!(x_dy_and_gamma_of_every_size, sizes_mixed_within_a_row);

for_every_type!(
    constant_rows_without_eps_have_a_dx_of_zero,
    constant_rows_with_eps,
    rows_without_a_gradient_have_a_dx_of_zero,
);

/// Rows of the largest numbers of both signs: xhat is exactly +-1, and a dy in proportion to it has a dx of 0.
#[test]
fn rows_of_the_largest_numbers() {
    type K = crate::support::F32;
    for cols in [2, 4, 64, 66, 1024, 4098] {
        let mut problem = GradProblem::<K>::ordinary(4, cols, 6).with_eps(0.0);
        let by_turns = |v: f32| (0..4 * cols).map(|i| if i % 2 == 0 { v } else { -v }).collect::<Vec<_>>();
        (problem.forward.x, problem.dy) = (by_turns(f32::MAX), by_turns(2.0));
        problem.forward.gamma = None;
        for problem in problem.of_every_operation() {
            let got = problem.run(&GradCall::plain(Isa::best()));
            assert!(got.dx().iter().all(|&dx| dx == 0.0), "{problem}");
            assert!(got.dgamma().iter().all(|&v| v == 8.0), "{problem}: {:?}", got.dgamma());
        }
    }
}

/// One x is so large that the others vanish beside it, and its gamma is small beside the others: g - xhat * c2 times
/// rstd is out of range unless exponents are kept apart.
#[test]
fn an_outlier_whose_gamma_is_small() {
    for seed in 0..10 {
        let mut problem = GradProblem::<crate::support::F64>::ordinary(1, 64, seed).with_eps(1e-300);
        problem.forward.x[40] = -2.2e307;
        problem.forward.gamma.iter_mut().flatten().for_each(|gamma| *gamma *= 1e299);
        problem.forward.gamma.as_mut().expect("gamma")[40] = 0.3;
        for problem in problem.of_every_operation() {
            assert_dx_within(&problem, (-2.2e307, 1.0, 1e299));
        }
    }
}

/// x is all zeros, and one gamma has few digits, since it is denormal, beside one near 1: dx has all digits. (The
/// expected value is worked out in fractions, since it is out of the oracle's range.)
#[test]
fn zeros_beside_a_denormal_gamma() {
    let mut problem = GradProblem::<crate::support::F64>::ordinary(1, 2, 0).with_eps(1e-12).rms_norm(0.0);
    problem.forward.x.fill(0.0);
    problem.forward.gamma = Some(vec![1.0, 6.8769304581e-313]);
    problem.dy.copy_from_slice(&[1.0, 0.7963544074973794]);
    let exact = exact(&problem, 0);
    assert!(exact.is_known(0) && !exact.is_known(1));
    for &isa in tiers() {
        assert_eq!(problem.run(&GradCall::plain(isa)).dx()[1], 5.476473880372255e-307, "{problem} on {isa}");
    }
}
