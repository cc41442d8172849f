//! Answers are compared before they are timed: a fast wrong answer is no result.

use lanenorm::Beside;
use lanenorm::kernels::simd::Float;

use super::answer::{Answer, Output};
use super::case::Case;
use super::contender::Contender;
use super::exact;
use super::number::Number;
use super::placement::{PACKED, Placement};
use super::variant::Variant;

/// The bounds that the kernels promise for y and dx, in units of what rounding to the type that is computed in costs. To this, 16
/// bits add the half unit in the last place of their own rounding.
const OURS_Y: f64 = 4.0;
const OURS_DX: f64 = 8.0;

/// The same for dgamma and dbeta, where errors add up at random: about one column in a thousand is beyond 8.
const OURS_PARAMS: f64 = 12.0;

/// The answers that are known for one case.
pub(crate) struct Answers<'a, T: Number> {
    case: &'a Case,
    /// By what gamma and beta are.
    known: [Option<Answer<T>>; 3],
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
        let who = || format!("{} {} on {} {}", contender.name(), contender.options(), case.dtype.name(), case.name);
        // Sums of n rounded terms: the error grows as n at worst, and much slower as a rule.
        let bound_of_sums = |n: usize| 32.0 + n as f64 / 8.0;
        let bounds = match contender {
            Contender::Copy { .. } => {
                return assert!(placement.calls().iter().all(|c| c.x == &*c.y), "{} is no copy", who());
            }
            Contender::Baseline(b) => [bound_of_sums(case.cols / b.sums()), bound_of_sums(case.rows)],
            Contender::Plan { .. } => {
                let rows = if case.op.is_backward() { OURS_DX } else { OURS_Y };
                [rows, OURS_PARAMS].map(|bound| bound + exact::own_error::<T>())
            }
        };
        let got = output(case, variant, placement);
        let answer = self.known[variant.affine() as usize].get_or_insert_with(|| Answer::new(case, variant.affine()));
        let is_plan = matches!(contender, Contender::Plan { .. });
        let rows = answer.rows.check(got.rows, T::U, bounds[0], is_plan);
        let params = answer.params.check(got.params, T::U, bounds[1], is_plan);
        rows.and(params).unwrap_or_else(|wrong| panic!("{}: {wrong}", who()));
    }
}

/// What was written before is gone.
fn prepare<T: Number>(case: &Case, variant: Variant, placement: &mut Placement<T>) {
    for mut call in placement.calls() {
        call.dgamma.fill(T::Float::NAN);
        call.dbeta.fill(T::Float::NAN);
        match variant {
            Variant::InPlace => call.restore(case.op),
            Variant::Qk => {
                let queries = call.packed.chunks_exact_mut(PACKED * case.cols);
                queries.zip(call.x.chunks_exact(case.cols)).for_each(|(to, x)| to[..case.cols].copy_from_slice(x));
            }
            _ => call.y.fill(<T as Beside<T>>::NAN),
        }
    }
}

/// What was written to all tensors, one after the other.
fn output<T: Number>(case: &Case, variant: Variant, placement: &mut Placement<T>) -> Output<T> {
    let mut got = Output { rows: Vec::new(), params: Vec::new() };
    for call in placement.calls() {
        if variant == Variant::Qk {
            let queries = call.packed.chunks_exact(PACKED * case.cols);
            got.rows.extend(queries.flat_map(|row| &row[..case.cols]));
        } else if variant != Variant::ParamsOnly {
            got.rows.extend(&*call.y);
        }
        if case.op.is_backward() && variant != Variant::DxOnly {
            got.params.extend(&*call.dgamma);
            got.params.extend(call.dbeta.iter().filter(|_| case.is_centered()));
        }
    }
    got
}
