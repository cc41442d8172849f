//! The plans of both operations, and how their calls differ.

use lanenorm::call::{Apart, BackwardCall, Call, Of, Place};
use lanenorm::{
    Center, Centered, Companion, Divisor, Element, Isa, LayerNorm, Norm, Parallelism, RmsNorm, SecondCall, Store,
    Uncentered,
};

use lanenorm_harness::number::Number;

use super::case::Case;
use super::placement;
use super::variant::Variant;

/// The message of errors that cannot come: cases are valid and buffers fit.
pub(crate) const VALID: &str = "the cases are valid";

/// A plan with all threads of the pool, or only the calling thread.
pub(crate) fn plan<M: Operation>(case: &Case, isa: Isa, threads: bool, variant: Variant) -> Norm<M> {
    let store = match variant {
        Variant::Ordinary => Store::Ordinary,
        Variant::Streaming => Store::Streaming,
        _ => Store::Auto,
    };
    let plan = Norm::new(case.cols, case.eps).expect(VALID).with_isa(isa).with_parallelism(parallelism(threads));
    M::with_divisor(plan.with_store(store).with_rounding(variant.rounding()), variant.divisor())
}

/// All threads of the pool, or only the calling thread.
pub(crate) fn parallelism(threads: bool) -> Parallelism {
    if threads { Parallelism::Auto } else { Parallelism::Serial }
}

/// An operation: RMS normalization leaves out beta and the mean.
pub(crate) trait Operation: Center {
    /// The plain call.
    fn forward<T: Number>(plan: &Norm<Self>, call: &mut placement::Call<'_, T>);

    /// LayerNorm has one divisor.
    fn with_divisor(plan: Norm<Self>, divisor: Divisor) -> Norm<Self>;

    fn beta<'a, T: Element, I, D: Place, G: Companion<T>>(
        call: Call<'a, T, Self, I, D, Of<G>>,
        beta: &'a [G],
    ) -> Call<'a, T, Self, I, D, Of<G>>;

    fn second_beta<'a, T: Element, P, G: Companion<T>>(
        call: SecondCall<'a, T, Self, Apart, P, Of<G>>,
        beta: &'a [G],
    ) -> SecondCall<'a, T, Self, Apart, P, Of<G>>;

    fn mean_to<'a, T: Element, I, D: Place, P>(
        call: Call<'a, T, Self, I, D, P>,
        mean: &'a mut [T::Float],
    ) -> Call<'a, T, Self, I, D, P>;

    fn mean_lo_to<'a, T: Element, I, D: Place, P>(
        call: Call<'a, T, Self, I, D, P>,
        mean_lo: &'a mut [T::Float],
    ) -> Call<'a, T, Self, I, D, P>;

    fn mean<'a, T: Element, D: Place, S>(
        call: BackwardCall<'a, T, Self, D, S>,
        mean: Option<&'a [T::Float]>,
        mean_lo: Option<&'a [T::Float]>,
    ) -> BackwardCall<'a, T, Self, D, S>;

    fn dbeta_to<'a, T: Element, D: Place, S>(
        call: BackwardCall<'a, T, Self, D, S>,
        dbeta: Option<&'a mut [T::Float]>,
    ) -> BackwardCall<'a, T, Self, D, S>;
}

impl Operation for Centered {
    fn forward<T: Number>(plan: &LayerNorm, c: &mut placement::Call<'_, T>) {
        let [gamma, beta] = c.affine;
        plan.forward(c.x, Some(gamma), Some(beta), &mut *c.y).expect(VALID);
    }

    fn with_divisor(plan: LayerNorm, _: Divisor) -> LayerNorm {
        plan
    }

    #[inline(always)]
    fn beta<'a, T: Element, I, D: Place, G: Companion<T>>(
        call: Call<'a, T, Self, I, D, Of<G>>,
        beta: &'a [G],
    ) -> Call<'a, T, Self, I, D, Of<G>> {
        call.beta(beta)
    }

    #[inline(always)]
    fn second_beta<'a, T: Element, P, G: Companion<T>>(
        call: SecondCall<'a, T, Self, Apart, P, Of<G>>,
        beta: &'a [G],
    ) -> SecondCall<'a, T, Self, Apart, P, Of<G>> {
        call.beta(beta)
    }

    #[inline(always)]
    fn mean_to<'a, T: Element, I, D: Place, P>(
        call: Call<'a, T, Self, I, D, P>,
        mean: &'a mut [T::Float],
    ) -> Call<'a, T, Self, I, D, P> {
        call.mean_to(mean)
    }

    fn mean_lo_to<'a, T: Element, I, D: Place, P>(
        call: Call<'a, T, Self, I, D, P>,
        mean_lo: &'a mut [T::Float],
    ) -> Call<'a, T, Self, I, D, P> {
        call.mean_lo_to(mean_lo)
    }

    fn mean<'a, T: Element, D: Place, S>(
        call: BackwardCall<'a, T, Self, D, S>,
        mean: Option<&'a [T::Float]>,
        mean_lo: Option<&'a [T::Float]>,
    ) -> BackwardCall<'a, T, Self, D, S> {
        call.mean(mean).mean_lo(mean_lo)
    }

    fn dbeta_to<'a, T: Element, D: Place, S>(
        call: BackwardCall<'a, T, Self, D, S>,
        dbeta: Option<&'a mut [T::Float]>,
    ) -> BackwardCall<'a, T, Self, D, S> {
        call.dbeta_to(dbeta)
    }
}

impl Operation for Uncentered {
    fn forward<T: Number>(plan: &RmsNorm, c: &mut placement::Call<'_, T>) {
        let [gamma, _] = c.affine;
        plan.forward(c.x, Some(gamma), &mut *c.y).expect(VALID);
    }

    fn with_divisor(plan: RmsNorm, divisor: Divisor) -> RmsNorm {
        plan.with_divisor(divisor)
    }

    #[inline(always)]
    fn beta<'a, T: Element, I, D: Place, G: Companion<T>>(
        call: Call<'a, T, Self, I, D, Of<G>>,
        _: &'a [G],
    ) -> Call<'a, T, Self, I, D, Of<G>> {
        call
    }

    #[inline(always)]
    fn second_beta<'a, T: Element, P, G: Companion<T>>(
        call: SecondCall<'a, T, Self, Apart, P, Of<G>>,
        _: &'a [G],
    ) -> SecondCall<'a, T, Self, Apart, P, Of<G>> {
        call
    }

    #[inline(always)]
    fn mean_to<'a, T: Element, I, D: Place, P>(
        call: Call<'a, T, Self, I, D, P>,
        _: &'a mut [T::Float],
    ) -> Call<'a, T, Self, I, D, P> {
        call
    }

    fn mean_lo_to<'a, T: Element, I, D: Place, P>(
        call: Call<'a, T, Self, I, D, P>,
        _: &'a mut [T::Float],
    ) -> Call<'a, T, Self, I, D, P> {
        call
    }

    fn mean<'a, T: Element, D: Place, S>(
        call: BackwardCall<'a, T, Self, D, S>,
        _: Option<&'a [T::Float]>,
        _: Option<&'a [T::Float]>,
    ) -> BackwardCall<'a, T, Self, D, S> {
        call
    }

    fn dbeta_to<'a, T: Element, D: Place, S>(
        call: BackwardCall<'a, T, Self, D, S>,
        _: Option<&'a mut [T::Float]>,
    ) -> BackwardCall<'a, T, Self, D, S> {
        call
    }
}
