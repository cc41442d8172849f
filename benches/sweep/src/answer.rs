//! How far results are from what f64 gives. Errors are in units of the type's rounding times the size of the terms that are
//! added up.

use rayon::prelude::*;

use crate::tensors::{EPS, Number};

/// What is taken for right, of results that are rounded once and computed in f32.
pub(crate) const BOUND: f64 = 16.0;

/// mean and rstd of a row. RMSNorm has no mean.
fn stats<T: Number>(x: &[T], centered: bool) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = if centered { x.iter().map(|x| x.wide()).sum::<f64>() / n } else { 0.0 };
    let var = x.iter().map(|x| (x.wide() - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (var + EPS).sqrt())
}

/// NaN counts as an infinite error.
fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() { f64::INFINITY } else { a.max(b) }
}

/// The largest error of y; without beta that of RMSNorm.
pub(crate) fn forward_error<T: Number>(x: &[T], beta: Option<&[T]>, gamma: &[T], y: &[T]) -> f64 {
    let cols = gamma.len();
    let row = |(x, y): (&[T], &[T])| {
        let (mean, rstd) = stats(x, beta.is_some());
        let error = |i: usize| {
            let (xhat, gamma) = ((x[i].wide() - mean) * rstd, gamma[i].wide());
            let beta = beta.map_or(0.0, |beta| beta[i].wide());
            let scale = gamma.abs() * (1.0 + xhat.abs()) + beta.abs();
            (y[i].wide() - (xhat * gamma + beta)).abs() / (T::UNIT * scale)
        };
        (0..cols).map(error).fold(0.0, larger)
    };
    x.par_chunks(cols).zip(y.par_chunks(cols)).map(row).reduce(|| 0.0, larger)
}

/// The sums over rows for one column.
#[derive(Clone, Copy, Default)]
struct Sums {
    dgamma: f64,
    dbeta: f64,
    dgamma_squares: f64,
    dbeta_squares: f64,
}

impl Sums {
    fn add(self, other: Self) -> Self {
        Self {
            dgamma: self.dgamma + other.dgamma,
            dbeta: self.dbeta + other.dbeta,
            dgamma_squares: self.dgamma_squares + other.dgamma_squares,
            dbeta_squares: self.dbeta_squares + other.dbeta_squares,
        }
    }
}

/// The largest error of dx, dgamma and dbeta.
pub(crate) fn backward_error<T: Number>(dy: &[T], x: &[T], gamma: &[T], dx: &[T], grads: [&[f32]; 2]) -> f64 {
    let cols = gamma.len();
    let none = || (0.0, vec![Sums::default(); cols]);
    let rows = dy.par_chunks(cols).zip(x.par_chunks(cols)).zip(dx.par_chunks(cols));
    let (worst, sums) = rows
        .fold(none, |(worst, mut sums), ((dy, x), dx)| {
            let error = backward_row(dy, x, gamma, dx, &mut sums);
            (larger(worst, error), sums)
        })
        .reduce(none, |(a, sums_a), (b, sums_b)| {
            (larger(a, b), sums_a.into_iter().zip(sums_b).map(|(a, b)| a.add(b)).collect())
        });
    let [dgamma, dbeta] = grads;
    let unit = f64::from(f32::EPSILON) / 2.0;
    let errors = sums.iter().zip(dgamma).zip(dbeta).map(|((sums, &dgamma), &dbeta)| {
        let of_gamma = (f64::from(dgamma) - sums.dgamma).abs() / (unit * sums.dgamma_squares.sqrt());
        larger(of_gamma, (f64::from(dbeta) - sums.dbeta).abs() / (unit * sums.dbeta_squares.sqrt()))
    });
    errors.fold(worst, larger)
}

fn backward_row<T: Number>(dy: &[T], x: &[T], gamma: &[T], dx: &[T], sums: &mut [Sums]) -> f64 {
    let (mean, rstd) = stats(x, true);
    let xhat = |i: usize| (x[i].wide() - mean) * rstd;
    let g = |i: usize| dy[i].wide() * gamma[i].wide();
    let (mut c1, mut c2, mut c1_size, mut c2_size) = (0.0, 0.0, 0.0, 0.0);
    for (i, sums) in sums.iter_mut().enumerate() {
        let (dy, xhat, g) = (dy[i].wide(), xhat(i), g(i));
        (c1, c2) = (c1 + g, c2 + g * xhat);
        (c1_size, c2_size) = (c1_size + g.abs(), c2_size + (g * xhat).abs());
        let squares = (dy * (1.0 + xhat.abs())).powi(2);
        *sums = sums.add(Sums { dgamma: dy * xhat, dbeta: dy, dgamma_squares: squares, dbeta_squares: dy * dy });
    }
    let n = x.len() as f64;
    let error = |i: usize| {
        let exact = rstd * (g(i) - c1 / n - xhat(i) * c2 / n);
        let scale = rstd * (g(i).abs() + c1_size / n + xhat(i).abs() * c2_size / n);
        (dx[i].wide() - exact).abs() / (T::UNIT * scale)
    };
    (0..x.len()).map(error).fold(0.0, larger)
}
