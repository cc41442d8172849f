//! Answers are compared before they are timed: a fast wrong answer is no result.

use lanenorm::kernels::reference;
use lanenorm::kernels::table::Op;

use super::case::{Case, Tensor};
use super::contender::{Contender, Variant};
use super::placement::Placement;

/// 2^-24: what rounding to f32 costs at most, relatively.
const U: f64 = 1.0 / (1 << 24) as f64;

/// The bound that the kernels promise, in U.
const OURS: f64 = 4.0;

/// The answers that are known for one case.
pub(crate) struct Answers<'a> {
    case: &'a Case,
    with_affine: Option<Answer>,
    without_affine: Option<Answer>,
}

/// The reference, and the error that it allows: |gamma| (1 + |xhat|) + |beta| for each element. RMSNorm has no beta.
struct Answer {
    exact: Vec<f64>,
    scale: Vec<f32>,
    /// What the first tier gave, and all others must.
    bits: Option<Vec<f32>>,
}

impl<'a> Answers<'a> {
    pub(crate) fn new(case: &'a Case) -> Self {
        Self { case, with_affine: None, without_affine: None }
    }

    /// Runs a contender once.
    ///
    /// # Panics
    /// If its answer is wrong.
    pub(crate) fn check(&mut self, contender: Contender, placement: &mut Placement) {
        let variant = match contender {
            Contender::Plan { variant, .. } => variant,
            Contender::Copy { .. } | Contender::Baseline(_) => Variant::Default,
        };
        for call in placement.calls() {
            if variant == Variant::InPlace {
                call.y.copy_from_slice(call.x);
            } else {
                call.y.fill(f32::NAN);
            }
        }
        contender.time(self.case, placement, 0, 1);
        let who = || format!("{} {} on {}", contender.name(), contender.options(), self.case.name);
        match contender {
            Contender::Copy { .. } => {
                assert!(placement.calls().iter().all(|c| c.x == &*c.y), "{} is no copy", who());
            }
            Contender::Baseline(b) => {
                // Sums of n rounded terms: the error grows as n at worst, and much slower as a rule.
                let bound = 32.0 + (self.case.cols / b.sums) as f64 / 8.0;
                let worst = self.answer(variant).worst_error(&output(placement));
                assert!(worst <= bound, "{}: an error of {worst} u, expected at most {bound} u", who());
            }
            Contender::Plan { .. } => {
                let (answer, got) = (self.answer(variant), output(placement));
                if let Some(bits) = &answer.bits {
                    let same = bits.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{}: other bits than another tier or option gave", who());
                } else {
                    let worst = answer.worst_error(&got);
                    assert!(worst <= OURS, "{}: an error of {worst} u, expected at most {OURS} u", who());
                    answer.bits = Some(got);
                }
            }
        }
    }

    fn answer(&mut self, variant: Variant) -> &mut Answer {
        let affine = variant != Variant::NoAffine;
        let known = if affine { &mut self.with_affine } else { &mut self.without_affine };
        known.get_or_insert_with(|| Answer::new(self.case, affine))
    }
}

impl Answer {
    fn new(case: &Case, affine: bool) -> Self {
        let (mut exact, mut scale, mut xhat) = (Vec::new(), Vec::new(), vec![0.0; case.cols]);
        for Tensor { x, gamma, beta } in case.tensors() {
            for x in x.chunks_exact(gamma.len()) {
                let row = exact.len();
                exact.resize(row + x.len(), 0.0);
                let gamma = affine.then_some(&gamma[..]);
                let beta = (affine && case.op == Op::LayerNorm).then_some(&beta[..]);
                forward(case, x, gamma, beta, &mut exact[row..]);
                forward(case, x, None, None, &mut xhat);
                scale.extend(xhat.iter().enumerate().map(|(i, &xhat)| {
                    let (gamma, beta) = (gamma.map_or(1.0, |g| g[i]), beta.map_or(0.0, |b| b[i]));
                    gamma.abs() * (1.0 + xhat.abs() as f32) + beta.abs()
                }));
            }
        }
        Self { exact, scale, bits: None }
    }

    /// In U. NaN if an element is.
    fn worst_error(&self, got: &[f32]) -> f64 {
        let errors = got.iter().zip(&self.exact).zip(&self.scale);
        let errors = errors.map(|((&got, exact), &scale)| (f64::from(got) - exact).abs() / (U * f64::from(scale)));
        errors.fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
    }
}

/// The reference of a row.
fn forward(case: &Case, x: &[f32], gamma: Option<&[f32]>, beta: Option<&[f32]>, y: &mut [f64]) {
    match case.op {
        Op::LayerNorm => reference::layer_norm(x, gamma, beta, case.eps, y),
        Op::RmsNorm => reference::rms_norm(x, gamma, 0.0, case.eps, y),
        op => panic!("the benchmark has no reference for {}", op.name()),
    }
}

/// All tensors of y, one after the other.
fn output(placement: &mut Placement) -> Vec<f32> {
    placement.calls().iter().flat_map(|call| call.y.iter().copied()).collect()
}
