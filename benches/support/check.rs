//! Answers are compared before they are timed: a fast wrong answer is no result.

use lanenorm::kernels::lanes::Float;
use lanenorm::kernels::table::Op;
use lanenorm::{Beside, Element};

use super::case::{Case, Tensor};
use super::contender::Contender;
use super::exact;
use super::number::Number;
use super::placement::{PACKED, Placement};
use super::variant::{Affine, Variant, grouped};

/// The bound that the kernels promise, in units of what rounding to the type that is computed in costs. To this, 16 bits add
/// the half unit in the last place of their own rounding.
const OURS: f64 = 4.0;

/// The answers that are known for one case.
pub(crate) struct Answers<'a, T: Number> {
    case: &'a Case,
    /// By what gamma and beta are.
    known: [Option<Answer<T>>; 3],
}

/// The exact answer, and the error that it allows: |gamma| (1 + |xhat|) + |beta| for each element. RMSNorm has no beta.
struct Answer<T> {
    exact: Vec<f64>,
    scale: Vec<f32>,
    /// What the first tier gave, and all others must.
    ours: Option<Vec<T>>,
}

impl<'a, T: Number> Answers<'a, T> {
    pub(crate) fn new(case: &'a Case) -> Self {
        Self { case, known: [const { None }; 3] }
    }

    /// Runs a contender once.
    ///
    /// # Panics
    /// If its answer is wrong.
    pub(crate) fn check(&mut self, contender: Contender, placement: &mut Placement<T>) {
        let (case, variant) = (self.case, contender.variant());
        prepare(case, variant, placement);
        contender.time(case, placement, 0, 1);
        let got = output(case, variant, placement);
        let who = || format!("{} {} on {} {}", contender.name(), contender.options(), case.dtype.name(), case.name);
        match contender {
            Contender::Copy { .. } => {
                assert!(placement.calls().iter().all(|c| c.x == &*c.y), "{} is no copy", who());
            }
            Contender::Baseline(b) => {
                // Sums of n rounded terms: the error grows as n at worst, and much slower as a rule.
                let bound = 32.0 + (case.cols / b.sums()) as f64 / 8.0;
                let worst = self.answer(variant).worst_error(&got);
                assert!(worst <= bound, "{}: an error of {worst} u, expected at most {bound} u", who());
            }
            Contender::Plan { .. } => {
                let answer = self.answer(variant);
                if let Some(ours) = &answer.ours {
                    // No answer here is NaN, and only the sign of a zero is not seen in its value.
                    let is_positive = |v: &T| v.to_f64().is_sign_positive();
                    let same = |(a, b): (&T, &T)| a == b && is_positive(a) == is_positive(b);
                    assert!(ours.iter().zip(&got).all(same), "{}: other bits than another plan gave", who());
                } else {
                    let (worst, bound) = (answer.worst_error(&got), OURS + exact::own_error::<T>());
                    assert!(worst <= bound, "{}: an error of {worst} u, expected at most {bound} u", who());
                    answer.ours = Some(got);
                }
            }
        }
    }

    fn answer(&mut self, variant: Variant) -> &mut Answer<T> {
        let affine = variant.affine();
        self.known[affine as usize].get_or_insert_with(|| Answer::new(self.case, affine))
    }
}

/// What was written before is gone.
fn prepare<T: Number>(case: &Case, variant: Variant, placement: &mut Placement<T>) {
    for call in placement.calls() {
        match variant {
            Variant::InPlace => call.y.copy_from_slice(call.x),
            Variant::Qk => {
                let queries = call.packed.chunks_exact_mut(PACKED * case.cols);
                queries.zip(call.x.chunks_exact(case.cols)).for_each(|(to, x)| to[..case.cols].copy_from_slice(x));
            }
            _ => call.y.fill(<T as Beside<T>>::NAN),
        }
    }
}

/// What was written to all tensors, one after the other.
fn output<T: Number>(case: &Case, variant: Variant, placement: &mut Placement<T>) -> Vec<T> {
    let calls = placement.calls();
    if variant == Variant::Qk {
        let queries = calls.iter().flat_map(|call| call.packed.chunks_exact(PACKED * case.cols));
        queries.flat_map(|row| &row[..case.cols]).copied().collect()
    } else {
        calls.iter().flat_map(|call| call.y.iter().copied()).collect()
    }
}

impl<T: Number> Answer<T> {
    fn new(case: &Case, affine: Affine) -> Self {
        let &Case { op, rows, cols, eps, .. } = case;
        let (mut exact, mut scale, mut xhat) = (Vec::new(), Vec::new(), vec![0.0; cols]);
        for Tensor { x, gamma, beta } in case.tensors::<T>() {
            let [gamma, beta] = parameters(affine, &gamma, &beta);
            let groups = gamma.len() / cols;
            for (r, x) in x.chunks_exact(cols).enumerate() {
                let start = r / (rows / groups) % groups * cols;
                let gamma = (affine != Affine::Absent).then_some(&gamma[start..][..cols]);
                let beta = (affine != Affine::Absent && op == Op::LayerNorm).then_some(&beta[start..][..cols]);
                let row = exact.len();
                exact.resize(row + cols, 0.0);
                exact::forward(op, x, gamma, beta, eps, &mut exact[row..]);
                exact::forward(op, x, None, None, eps, &mut xhat);
                scale.extend(xhat.iter().enumerate().map(|(i, xhat)| {
                    let (gamma, beta) = (gamma.map_or(1.0, |g| g[i].into()), beta.map_or(0.0, |b| b[i].into()));
                    (gamma.abs() * (1.0 + xhat.abs()) + beta.abs()) as f32
                }));
            }
        }
        Self { exact, scale, ours: None }
    }

    /// In `T::U`. NaN if an element is.
    fn worst_error(&self, got: &[T]) -> f64 {
        let error = |((&got, exact), &scale): ((&T, &f64), &f32)| {
            ((got.to_f64() - exact).abs() - got.half_ulp()) / (T::U * f64::from(scale))
        };
        let errors = got.iter().zip(&self.exact).zip(&self.scale).map(error);
        errors.fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
    }
}

/// What is multiplied by and added, of all groups.
fn parameters<T: Number>(affine: Affine, gamma: &[T], beta: &[T]) -> [Vec<T::Float>; 2] {
    let widen = |v: &[T]| v.iter().map(|v| v.widen()).collect::<Vec<_>>();
    if affine == Affine::Grouped {
        let one = <T as Element>::Float::from_f64(1.0);
        let gamma = widen(&grouped(gamma)).into_iter().map(|gamma| gamma + one).collect();
        [gamma, widen(&grouped(beta))]
    } else {
        [widen(gamma), widen(beta)]
    }
}
