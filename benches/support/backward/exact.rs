//! The gradients that others are held against: those of the specification, or for f64 the same formulas with sums that lose
//! nothing.

use lanenorm::kernels::reference;
use lanenorm::kernels::table::Dtype;

use crate::support::exact::{stats_f64, sum, to_f32, to_f64};
use crate::support::number::Number;

/// The gradients of a tensor, of LayerNorm if `centered`, else without dbeta.
pub(crate) struct Exact {
    pub(crate) dx: Vec<f64>,
    pub(crate) dgamma: Vec<f64>,
    pub(crate) dbeta: Vec<f64>,
}

impl Exact {
    pub(crate) fn new<T: Number>(
        centered: bool,
        dy: &[T],
        x: &[T],
        cols: usize,
        gamma: Option<&[T]>,
        eps: f64,
    ) -> Self {
        if T::DTYPE == Dtype::F64 {
            return Self::of_f64(centered, &to_f64(dy), &to_f64(x), cols, gamma.map(to_f64).as_deref(), eps);
        }
        let gamma = gamma.map(to_f32);
        let (mut dx, mut dgamma, mut dbeta) = (vec![0.0; x.len()], vec![0.0; cols], Vec::new());
        if centered {
            dbeta.resize(cols, 0.0);
        }
        for ((dy, x), dx) in dy.chunks_exact(cols).zip(x.chunks_exact(cols)).zip(dx.chunks_exact_mut(cols)) {
            let (dy, x, gamma) = (to_f32(dy), to_f32(x), gamma.as_deref());
            if centered {
                reference::layer_norm_backward(&dy, &x, gamma, eps, dx, &mut dgamma, &mut dbeta);
            } else {
                reference::rms_norm_backward(&dy, &x, gamma, eps, dx, &mut dgamma);
            }
        }
        Self { dx, dgamma, dbeta }
    }

    fn of_f64(centered: bool, dy: &[f64], x: &[f64], cols: usize, gamma: Option<&[f64]>, eps: f64) -> Self {
        let (mut dx, mut xhat) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
        let n = cols as f64;
        for (dy, x) in dy.chunks_exact(cols).zip(x.chunks_exact(cols)) {
            let (mean, rstd) = stats_f64(centered, x, eps);
            let row = xhat.len();
            xhat.extend(x.iter().map(|x| (x - mean) * rstd));
            let xhat = &xhat[row..];
            let g: Vec<f64> = dy.iter().enumerate().map(|(i, dy)| dy * gamma.map_or(1.0, |gamma| gamma[i])).collect();
            let c1 = if centered { sum(g.iter().copied()) / n } else { 0.0 };
            let c2 = sum(g.iter().zip(xhat).map(|(g, xhat)| g * xhat)) / n;
            dx.extend(g.iter().zip(xhat).map(|(g, xhat)| rstd * (g - c1 - xhat * c2)));
        }
        let column = |i: usize| (i..x.len()).step_by(cols);
        let dgamma = (0..cols).map(|i| sum(column(i).map(|at| dy[at] * xhat[at]))).collect();
        let dbeta = (0..if centered { cols } else { 0 }).map(|i| sum(column(i).map(|at| dy[at]))).collect();
        Self { dx, dgamma, dbeta }
    }
}
