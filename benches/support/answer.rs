//! The exact answer to a case, and how far an answer may be from it.

use lanenorm::kernels::simd::Float;

use super::backward::exact::Exact;
use super::case::{Case, Tensor};
use super::exact;
use super::number::{Number, Value};
use super::variant::{Affine, grouped};

/// The answer for all tensors of a case, one after the other.
pub(crate) struct Answer<T: Number> {
    /// y, or dx.
    pub(crate) rows: Part<T>,
    /// dgamma and dbeta, of the backward pass.
    pub(crate) params: Part<T::Float>,
}

/// What was computed, of which a plan may lack either.
pub(crate) struct Output<T: Number> {
    pub(crate) rows: Vec<T>,
    pub(crate) params: Vec<T::Float>,
}

/// One output: each exact element, and the scale of the error that it allows.
pub(crate) struct Part<V> {
    exact: Vec<f64>,
    scale: Vec<f32>,
    /// What the first tier gave, and all others must.
    ours: Option<Vec<V>>,
}

impl<V> Default for Part<V> {
    fn default() -> Self {
        Self { exact: Vec::new(), scale: Vec::new(), ours: None }
    }
}

impl<V: Value> Part<V> {
    /// Says what is wrong with an answer, if anything is: an error of more than `bound` times `u` times the scale, or of a plan
    /// other bits than the first plan gave.
    pub(crate) fn check(&mut self, got: Vec<V>, u: f64, bound: f64, is_plan: bool) -> Result<(), String> {
        if let Some(ours) = self.ours.as_ref().filter(|_| is_plan) {
            // No answer here is NaN, and only the sign of a zero is not seen in its value.
            let is_positive = |v: &V| v.to_f64().is_sign_positive();
            let same = |(a, b): (&V, &V)| a == b && is_positive(a) == is_positive(b);
            return ours
                .iter()
                .zip(&got)
                .all(same)
                .then_some(())
                .ok_or_else(|| "other bits than another plan gave".into());
        }
        let worst = self.worst_error(&got, u);
        if worst > bound || worst.is_nan() {
            return Err(format!("an error of {worst} u, expected at most {bound} u"));
        }
        if is_plan && !got.is_empty() {
            self.ours = Some(got);
        }
        Ok(())
    }

    /// NaN if an element is.
    fn worst_error(&self, got: &[V], u: f64) -> f64 {
        let error = |((&got, exact), &scale): ((&V, &f64), &f32)| {
            ((got.to_f64() - exact).abs() - got.half_ulp()) / (u * f64::from(scale))
        };
        let errors = got.iter().zip(&self.exact).zip(&self.scale).map(error);
        errors.fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
    }
}

impl<T: Number> Answer<T> {
    pub(crate) fn new(case: &Case, affine: Affine) -> Self {
        let mut answer = Self { rows: Part::default(), params: Part::default() };
        for tensor in case.tensors::<T>() {
            if case.op.is_backward() {
                answer.add_backward(case, &tensor, affine);
            } else {
                answer.add_forward(case, &tensor, affine);
            }
        }
        answer
    }

    /// The scale of y: |gamma| (1 + |xhat|) + |beta|. RMSNorm has no beta.
    fn add_forward(&mut self, case: &Case, tensor: &Tensor<T>, affine: Affine) {
        let &Case { rows, cols, eps, .. } = case;
        let (Part { exact, scale, .. }, mut xhat) = (&mut self.rows, vec![0.0; cols]);
        let [gamma, beta] = parameters(affine, &tensor.gamma, &tensor.beta);
        let groups = gamma.len() / cols;
        for (r, x) in tensor.x.chunks_exact(cols).enumerate() {
            let start = r / (rows / groups) % groups * cols;
            let gamma = (affine != Affine::Absent).then_some(&gamma[start..][..cols]);
            let beta = (affine != Affine::Absent && case.is_centered()).then_some(&beta[start..][..cols]);
            let row = exact.len();
            exact.resize(row + cols, 0.0);
            exact::forward(case.is_centered(), x, gamma, beta, eps, &mut exact[row..]);
            exact::forward(case.is_centered(), x, None, None, eps, &mut xhat);
            scale.extend(xhat.iter().enumerate().map(|(i, xhat)| {
                let (gamma, beta) = (gamma.map_or(1.0, |g| g[i].into()), beta.map_or(0.0, |b| b[i].into()));
                (gamma.abs() * (1.0 + xhat.abs()) + beta.abs()) as f32
            }));
        }
    }

    /// The scale of dx: what its terms would be if those of c1 and c2 did not cancel. That of dgamma and dbeta: the root of the sum
    /// of squares of what the rows add, with 1 + |xhat| for xhat: the root of their number times the size of one.
    fn add_backward(&mut self, case: &Case, Tensor { x, gamma, dy, .. }: &Tensor<T>, affine: Affine) {
        let &Case { cols, eps, .. } = case;
        let centered = case.is_centered();
        let gamma = (affine != Affine::Absent).then_some(&gamma[..]);
        let exact = Exact::new(centered, dy, x, cols, gamma, eps);
        let mut squares = [vec![0.0; exact.dgamma.len()], vec![0.0; exact.dbeta.len()]];
        self.rows.exact.extend(exact.dx);
        self.params.exact.extend(exact.dgamma.into_iter().chain(exact.dbeta));
        for (dy, x) in dy.chunks_exact(cols).zip(x.chunks_exact(cols)) {
            let x = exact::to_f64(x);
            let (mean, rstd) = exact::stats_f64(centered, &x, eps);
            let xhat: Vec<f64> = x.iter().map(|x| ((x - mean) * rstd).abs()).collect();
            let g = |i: usize| (dy[i].to_f64() * gamma.map_or(1.0, |g| g[i].to_f64())).abs();
            let mean = |term: &dyn Fn(usize) -> f64| (0..cols).map(term).sum::<f64>() / cols as f64;
            let (c1, c2) = (if centered { mean(&g) } else { 0.0 }, mean(&|i| g(i) * xhat[i]));
            self.rows.scale.extend((0..cols).map(|i| (rstd * (g(i) + c1 + xhat[i] * c2)) as f32));
            let [dgamma, dbeta] = &mut squares;
            dgamma.iter_mut().zip(dy).zip(&xhat).for_each(|((v, dy), xhat)| *v += (dy.to_f64() * (1.0 + xhat)).powi(2));
            dbeta.iter_mut().zip(dy).for_each(|(v, dy)| *v += dy.to_f64().powi(2));
        }
        self.params.scale.extend(squares.into_iter().flatten().map(|v: f64| v.sqrt() as f32));
    }
}

/// What is multiplied by and added, of all groups.
fn parameters<T: Number>(affine: Affine, gamma: &[T], beta: &[T]) -> [Vec<T::Float>; 2] {
    let widen = |v: &[T]| v.iter().map(|v| v.widen()).collect::<Vec<_>>();
    if affine == Affine::Grouped {
        let one = T::Float::from_f64(1.0);
        let gamma = widen(&grouped(gamma)).into_iter().map(|gamma| gamma + one).collect();
        [gamma, widen(&grouped(beta))]
    } else {
        [widen(gamma), widen(beta)]
    }
}
