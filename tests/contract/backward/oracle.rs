//! The exact gradients, row by row.
//!
//! The reference, in f64, judges results that are computed in f32. The same formulas in double-double arithmetic judge
//! f64, with x, dy and gamma each brought near 1 by a power of two. [`accuracy`](crate::accuracy) does likewise, and
//! says why rows are counted from their first element.

use lanenorm::kernels::reference;
use twofloat::TwoFloat;

use crate::accuracy::oracle::{count_from_first, factor, times_power_of_two};
use crate::accuracy::rounding;
use crate::support::{GradProblem, Types, Value};

/// The exact gradients of one row.
pub(crate) struct Exact {
    /// dx times 2^-exponent.
    dx: Vec<TwoFloat>,
    exponent: i32,
    pub(crate) xhat: Vec<TwoFloat>,
    /// The unit of errors of dx, times 2^-exponent: rstd (|g| + mean |g| + (1 + |xhat|) mean |g xhat|) +
    /// |ds|, mean |g| being left out without a mean.
    scale: Vec<f64>,
    /// The least scale of elements whose products are in the range of the arithmetic here.
    least_scale: f64,
}

/// The gradients of row `r`, with the gamma of its group.
pub(crate) fn exact<K: Types>(problem: &GradProblem<K>, r: usize) -> Exact {
    let row = problem.only(&[r]);
    if size_of::<K::F>() == size_of::<f64>() { by_double_double(&row) } else { by_reference(&row) }
}

fn by_reference<K: Types>(problem: &GradProblem<K>) -> Exact {
    let GradProblem { forward, dy, ds } = problem;
    let (cols, eps, centered) = (forward.cols, forward.eps, forward.operation.is_layer_norm());
    let f32s = |v: &[K::X]| v.iter().map(|v| v.wide() as f32).collect::<Vec<_>>();
    let (x, dy) = (f32s(&forward.x), f32s(dy));
    let gamma: Vec<f32> = (0..cols).map(|i| factor(forward, i).wide() as f32).collect();
    let [mut dx, mut dgamma, mut dbeta] = [vec![0.0; cols], vec![0.0; cols], vec![0.0; cols]];
    let (xhat, rstd): (Vec<f64>, f64) = if centered {
        let (_, x) = count_from_first(&x);
        reference::layer_norm_backward(&dy, &x, Some(&gamma), eps, &mut dx, &mut dgamma, &mut dbeta);
        let stats = reference::stats(&x, eps);
        (x.iter().map(|&x| reference::xhat(x, &stats)).collect(), stats.rstd)
    } else {
        reference::rms_norm_backward(&dy, &x, Some(&gamma), eps, &mut dx, &mut dgamma);
        let rstd = reference::rms_rstd(&x, eps);
        (x.iter().map(|&x| if x == 0.0 { 0.0 } else { f64::from(x) * rstd }).collect(), rstd)
    };
    let g: Vec<f64> = (0..cols).map(|i| f64::from(dy[i]) * f64::from(gamma[i])).collect();
    let mut scale = scales(&g, &xhat, rstd.min(f64::MAX), centered);
    for (i, ds) in ds.iter().flatten().enumerate() {
        dx[i] += ds.wide();
        scale[i] += ds.wide().abs();
    }
    let wide = |v: Vec<f64>| v.into_iter().map(TwoFloat::from).collect();
    Exact { dx: wide(dx), exponent: 0, xhat: wide(xhat), scale, least_scale: 0.0 }
}

fn scales(g: &[f64], xhat: &[f64], rstd: f64, centered: bool) -> Vec<f64> {
    let n = g.len() as f64;
    let mean_g = if centered { g.iter().map(|g| g.abs()).sum::<f64>() / n } else { 0.0 };
    let mean_product = g.iter().zip(xhat).map(|(g, xhat)| (g * xhat).abs()).sum::<f64>() / n;
    g.iter().zip(xhat).map(|(g, xhat)| rstd * (g.abs() + mean_g + (1.0 + xhat.abs()) * mean_product)).collect()
}

/// The exponent of the power of two that brings the largest number near 1.
fn to_one(v: &[f64], least: f64) -> i32 {
    let largest = v.iter().map(|v| v.abs()).fold(least, f64::max);
    if largest == 0.0 { 0 } else { -largest.log2().floor() as i32 }
}

fn by_double_double<K: Types>(problem: &GradProblem<K>) -> Exact {
    let GradProblem { forward, dy, ds } = problem;
    let (cols, eps, centered) = (forward.cols, forward.eps, forward.operation.is_layer_norm());
    let n = cols as f64;
    let x: Vec<f64> = forward.x.iter().map(|x| x.wide()).collect();
    let dy: Vec<f64> = dy.iter().map(|dy| dy.wide()).collect();
    let gamma: Vec<f64> = (0..cols).map(|i| factor(forward, i).wide()).collect();
    let exponents = [to_one(&x, eps.sqrt()), to_one(&dy, 0.0), to_one(&gamma, 0.0)];
    let [x, dy, gamma] = [(x, exponents[0]), (dy, exponents[1]), (gamma, exponents[2])]
        .map(|(v, exponent)| v.into_iter().map(|v| times_power_of_two(v, exponent)).collect::<Vec<_>>());

    let zero = TwoFloat::from(0.0);
    let mean_of = |v: &[TwoFloat]| v.iter().fold(zero, |sum, &v| sum + v) / n;
    let origin = if centered { x[0] } else { 0.0 };
    let from_origin: Vec<TwoFloat> = x.iter().map(|&x| TwoFloat::new_sub(x, origin)).collect();
    let mean = if centered { mean_of(&from_origin) } else { zero };
    let d: Vec<TwoFloat> = from_origin.iter().map(|&d| if d == mean { zero } else { d - mean }).collect();
    let squares = mean_of(&d.iter().map(|&d| d * d).collect::<Vec<_>>());
    // If the row is constant, eps alone is left, and may be out of range.
    let scaled_eps = times_power_of_two(eps, 2 * exponents[0]);
    let (v, of_x) = match squares {
        squares if squares == 0.0 && scaled_eps < f64::MIN_POSITIVE => (TwoFloat::from(eps), 0),
        squares => (squares + scaled_eps, exponents[0]),
    };
    // dx of a constant row is defined to be 0 if eps is 0.
    let rstd = if v == 0.0 { zero } else { 1.0 / v.sqrt() };
    let xhat: Vec<TwoFloat> = d.iter().map(|&d| d * rstd).collect();
    let g: Vec<TwoFloat> = dy.iter().zip(&gamma).map(|(&dy, &gamma)| TwoFloat::new_mul(dy, gamma)).collect();
    let c1 = if centered { mean_of(&g) } else { zero };
    let c2 = mean_of(&g.iter().zip(&xhat).map(|(&g, &xhat)| g * xhat).collect::<Vec<_>>());

    let exponent = of_x - exponents[1] - exponents[2];
    let rounded = |v: &[TwoFloat]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let mut scale = scales(&rounded(&g), &rounded(&xhat), rstd.into(), centered);
    // The lower half of a smaller product is beyond the range of f64.
    let least_scale = f64::from(rstd) * f64::MIN_POSITIVE * (106f64).exp2();
    let mut dx: Vec<TwoFloat> = g.iter().zip(&xhat).map(|(&g, &xhat)| (g - c1 - xhat * c2) * rstd).collect();
    for (i, ds) in ds.iter().flatten().enumerate() {
        let ds = times_power_of_two(ds.wide(), -exponent);
        dx[i] += ds;
        scale[i] += ds.abs();
    }
    Exact { dx, exponent, xhat, scale, least_scale }
}

impl Exact {
    /// The exact dx, rounded to f64.
    pub(crate) fn dx(&self, i: usize) -> f64 {
        times_power_of_two(self.dx[i].into(), self.exponent)
    }

    /// The unit of the error of element `i`.
    pub(crate) fn scale(&self, i: usize) -> f64 {
        times_power_of_two(self.scale[i], self.exponent)
    }

    /// Whether the oracle has stayed in its own range for element `i`.
    pub(crate) fn is_known(&self, i: usize) -> bool {
        let scale = self.scale(i);
        scale.is_finite() && scale >= f64::MIN_POSITIVE && self.scale[i] >= self.least_scale
    }

    /// The error of an element in its unit, less what the type of dx may cost: half the distance between two numbers of
    /// 16 bits, the last bit of a denormal, and infinity beyond the largest number.
    pub(crate) fn factor<K: Types>(&self, i: usize, dx: K::X) -> f64 {
        let exact = self.dx(i);
        let beyond = K::X::MAX.wide() * (1.0 - K::X::EPSILON.wide());
        if dx.wide().is_infinite() && (exact * dx.wide().signum() > beyond || K::X::of(exact) == dx) {
            return 0.0;
        }
        let error = f64::from((self.dx[i] - times_power_of_two(dx.wide(), -self.exponent)).abs());
        let forgiven = rounding::<K>(exact) + K::X::SMALLEST.wide();
        let error = error - times_power_of_two(forgiven, -self.exponent);
        if error <= 0.0 { 0.0 } else { error / self.scale[i] }
    }
}

/// The two oracles know the same of a row that both can judge.
#[test]
fn double_double_is_the_reference() {
    use crate::support::F64;
    for problem in GradProblem::<F64>::ordinary(1, 300, 1).in_every_form() {
        let mut problem = problem;
        let round = |v: &mut Vec<f64>| v.iter_mut().for_each(|v| *v = f64::from(*v as f32));
        let GradProblem { forward, dy, ds } = &mut problem;
        [&mut forward.x, dy].into_iter().chain(&mut forward.gamma).for_each(round);
        ds.iter_mut().for_each(round);
        ds.iter_mut().flatten().filter(|ds| !ds.is_finite()).for_each(|ds| *ds = 0.0);
        // gamma + offset is not a number of f32.
        *forward = forward.clone().with_offset(0.0);
        let (a, b) = (by_double_double(&problem), by_reference(&problem));
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (1.0 + a.abs());
        for i in 0..300 {
            assert!(close(a.dx(i), b.dx(i)), "{problem}: {:e} and {:e}", a.dx(i), b.dx(i));
            assert!(close(a.xhat[i].into(), b.xhat[i].into()), "{problem}");
            assert!(close(a.scale(i), b.scale(i)), "{problem}");
        }
    }
}
