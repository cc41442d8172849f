//! Calls that round each step, by their definition.

use lanenorm::Rounding;
use lanenorm::kernels::reference;
use lanenorm_harness::number::{Number, Value};

use super::case::Case;
use super::placement::{Call, Placement};
use super::plan::{self, Operation, VALID};
use super::variant::Variant;

/// The normalized elements of all tensors in f32, and what the definition makes of them.
pub(crate) fn definition<T: Number>(case: &Case, placement: &mut Placement<T>) -> (Vec<T::Mixed>, Vec<T>) {
    if case.is_centered() {
        of_norm::<lanenorm::Centered, T>(case, placement)
    } else {
        of_norm::<lanenorm::Uncentered, T>(case, placement)
    }
}

fn of_norm<M: Operation, T: Number>(case: &Case, placement: &mut Placement<T>) -> (Vec<T::Mixed>, Vec<T>) {
    let isa = lanenorm::default_isa().expect("checked at the start");
    let plan = plan::plan::<M>(case, isa, false, Variant::Default);
    let (mut all, mut y) = (Vec::new(), Vec::new());
    for Call { x, affine: [gamma, beta], .. } in placement.calls() {
        let mut xhat = vec![T::Mixed::default(); x.len()];
        plan.call(x).to(&mut xhat).expect(VALID);
        let beta = case.is_centered().then_some(beta);
        // No offset is -0, as plans have it: a gamma of -0 stays what it is.
        let no_offset = -0.0;
        y.extend(xhat.iter().enumerate().map(|(i, &xhat)| {
            let (gamma, beta) = (f32_of(gamma[i % case.cols]), beta.map(|beta| f32_of(beta[i % case.cols])));
            let round = |v: f32| f32_of(T::from_f64(v.into()));
            let y = reference::affine(&Rounding::STEPS, f32_of(xhat), Some(gamma), no_offset, beta, false, round);
            T::from_f64(y.into())
        }));
        all.extend(xhat);
    }
    (all, y)
}

fn f32_of(v: impl Value) -> f32 {
    v.to_f64() as f32
}
