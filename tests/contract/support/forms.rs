//! Calls as values, for tests that run every form of a call.

use lanenorm::call::{BackwardCall, Call, Of, Place};
pub(crate) use lanenorm::kernels::ops::backward::Stats;
pub(crate) use lanenorm::kernels::stats::StatsMut;
use lanenorm::{Center, Centered, Companion, Element, Error, Moments, Norm, Rows, RowsMut, Uncentered};

/// The rows of a forward call.
#[derive(Debug)]
pub(crate) enum Io<'a, T, Y = T> {
    Apart { x: Rows<'a, T>, y: RowsMut<'a, Y> },
    InPlace { x: RowsMut<'a, T> },
    Sum { sum: Sum<'a, T>, y: RowsMut<'a, Y> },
    Dropped { x: Rows<'a, T>, residual: Rows<'a, T>, bias: Option<&'a [T]>, y: RowsMut<'a, T> },
    DroppedInPlace { x: RowsMut<'a, T>, residual: Rows<'a, T>, bias: Option<&'a [T]> },
    Known { x: Rows<'a, T>, moments: &'a [Moments], y: RowsMut<'a, Y> },
    KnownInPlace { x: RowsMut<'a, T>, moments: &'a [Moments] },
}

/// A sum that is written.
#[derive(Debug)]
pub(crate) struct Sum<'a, T> {
    x: Rows<'a, T>,
    goes: Goes<'a, T>,
    bias: Option<&'a [T]>,
}

#[derive(Debug)]
enum Goes<'a, T> {
    OverResidual(RowsMut<'a, T>),
    Apart { residual: Rows<'a, T>, s: RowsMut<'a, T> },
}

impl<'a, T> Sum<'a, T> {
    pub(crate) fn sum_to(
        x: impl Into<Rows<'a, T>>,
        residual: impl Into<Rows<'a, T>>,
        s: impl Into<RowsMut<'a, T>>,
    ) -> Self {
        Self { x: x.into(), goes: Goes::Apart { residual: residual.into(), s: s.into() }, bias: None }
    }

    pub(crate) fn residual_in_place(x: impl Into<Rows<'a, T>>, residual: impl Into<RowsMut<'a, T>>) -> Self {
        Self { x: x.into(), goes: Goes::OverResidual(residual.into()), bias: None }
    }

    pub(crate) fn with_bias(self, bias: &'a [T]) -> Self {
        Self { bias: Some(bias), ..self }
    }
}

impl<'a, T, Y> Io<'a, T, Y> {
    pub(crate) fn new(x: impl Into<Rows<'a, T>>, y: impl Into<RowsMut<'a, Y>>) -> Self {
        Self::Apart { x: x.into(), y: y.into() }
    }

    pub(crate) fn sum(sum: Sum<'a, T>, y: impl Into<RowsMut<'a, Y>>) -> Self {
        Self::Sum { sum, y: y.into() }
    }

    pub(crate) fn moments(x: impl Into<Rows<'a, T>>, moments: &'a [Moments], y: impl Into<RowsMut<'a, Y>>) -> Self {
        Self::Known { x: x.into(), moments, y: y.into() }
    }
}

impl<'a, T> Io<'a, T> {
    pub(crate) fn in_place(x: impl Into<RowsMut<'a, T>>) -> Self {
        Self::InPlace { x: x.into() }
    }

    pub(crate) fn in_place_with_moments(x: impl Into<RowsMut<'a, T>>, moments: &'a [Moments]) -> Self {
        Self::KnownInPlace { x: x.into(), moments }
    }

    pub(crate) fn residual(
        x: impl Into<Rows<'a, T>>,
        residual: impl Into<Rows<'a, T>>,
        bias: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
    ) -> Self {
        Self::Dropped { x: x.into(), residual: residual.into(), bias, y: y.into() }
    }

    /// x + residual, normalized over x.
    pub(crate) fn in_place_with_residual(
        x: impl Into<RowsMut<'a, T>>,
        residual: impl Into<Rows<'a, T>>,
        bias: Option<&'a [T]>,
    ) -> Self {
        Self::DroppedInPlace { x: x.into(), residual: residual.into(), bias }
    }
}

/// The rows of a backward call.
#[derive(Debug)]
pub(crate) struct GradIo<'a, T = f32> {
    goes: DxGoes<'a, T>,
    x: Rows<'a, T>,
    ds: Option<Rows<'a, T>>,
}

#[derive(Debug)]
enum DxGoes<'a, T> {
    Apart { dy: Rows<'a, T>, dx: RowsMut<'a, T> },
    OverDy { dy: RowsMut<'a, T> },
    Nowhere { dy: Rows<'a, T> },
}

impl<'a, T> GradIo<'a, T> {
    pub(crate) fn new(dy: impl Into<Rows<'a, T>>, x: impl Into<Rows<'a, T>>, dx: impl Into<RowsMut<'a, T>>) -> Self {
        Self { goes: DxGoes::Apart { dy: dy.into(), dx: dx.into() }, x: x.into(), ds: None }
    }

    pub(crate) fn in_place(dy: impl Into<RowsMut<'a, T>>, x: impl Into<Rows<'a, T>>) -> Self {
        Self { goes: DxGoes::OverDy { dy: dy.into() }, x: x.into(), ds: None }
    }

    pub(crate) fn without_dx(dy: impl Into<Rows<'a, T>>, x: impl Into<Rows<'a, T>>) -> Self {
        Self { goes: DxGoes::Nowhere { dy: dy.into() }, x: x.into(), ds: None }
    }

    /// dx must be wanted.
    pub(crate) fn with_ds(self, ds: impl Into<Rows<'a, T>>) -> Self {
        Self { ds: Some(ds.into()), ..self }
    }
}

/// Where the gradients of gamma and beta go.
#[derive(Debug)]
pub(crate) struct ParamGrads<'a, F = f32> {
    pub(crate) dgamma: Option<&'a mut [F]>,
    pub(crate) dbeta: Option<&'a mut [F]>,
}

impl<F> Default for ParamGrads<'_, F> {
    fn default() -> Self {
        Self { dgamma: None, dbeta: None }
    }
}

/// An operation, for calls that pass on what RMS normalization lacks only where it exists.
pub(crate) trait Operation: Center {
    /// beta must be absent if the operation has none. Statistics that the operation lacks stay as they are.
    fn with_rest<'a, T: Element, G: Companion<T>, I, D: Place>(
        call: Call<'a, T, Self, I, D, Of<G>>,
        beta: Option<&'a [G]>,
        stats: StatsMut<'a, T::Float>,
    ) -> Call<'a, T, Self, I, D, Of<G>>;

    /// mean, `mean_lo` and dbeta must be absent if the operation has none.
    fn with_rest_of_backward<'a, T: Element, D: Place, S>(
        call: BackwardCall<'a, T, Self, D, S>,
        stats: Stats<'a, T::Float>,
        dbeta: Option<&'a mut [T::Float]>,
    ) -> BackwardCall<'a, T, Self, D, S>;
}

impl Operation for Centered {
    fn with_rest<'a, T: Element, G: Companion<T>, I, D: Place>(
        call: Call<'a, T, Self, I, D, Of<G>>,
        beta: Option<&'a [G]>,
        stats: StatsMut<'a, T::Float>,
    ) -> Call<'a, T, Self, I, D, Of<G>> {
        call.beta(beta).mean_to(stats.mean).mean_lo_to(stats.mean_lo).rstd_to(stats.rstd)
    }

    fn with_rest_of_backward<'a, T: Element, D: Place, S>(
        call: BackwardCall<'a, T, Self, D, S>,
        stats: Stats<'a, T::Float>,
        dbeta: Option<&'a mut [T::Float]>,
    ) -> BackwardCall<'a, T, Self, D, S> {
        call.mean(stats.mean).mean_lo(stats.mean_lo).rstd(stats.rstd).dbeta_to(dbeta)
    }
}

impl Operation for Uncentered {
    fn with_rest<'a, T: Element, G: Companion<T>, I, D: Place>(
        call: Call<'a, T, Self, I, D, Of<G>>,
        beta: Option<&'a [G]>,
        stats: StatsMut<'a, T::Float>,
    ) -> Call<'a, T, Self, I, D, Of<G>> {
        assert!(beta.is_none());
        call.rstd_to(stats.rstd)
    }

    fn with_rest_of_backward<'a, T: Element, D: Place, S>(
        call: BackwardCall<'a, T, Self, D, S>,
        stats: Stats<'a, T::Float>,
        dbeta: Option<&'a mut [T::Float]>,
    ) -> BackwardCall<'a, T, Self, D, S> {
        assert!(stats.mean.is_none() && stats.mean_lo.is_none() && dbeta.is_none());
        call.rstd(stats.rstd)
    }
}

pub(crate) fn forward<'a, M: Operation, T: Element, G: Companion<T>, Y: Companion<T>>(
    plan: &'a Norm<M>,
    io: Io<'a, T, Y>,
    gamma: Option<&'a [G]>,
    beta: Option<&'a [G]>,
    stats: StatsMut<'a, T::Float>,
) -> Result<(), Error> {
    match io {
        Io::Apart { x, y } => M::with_rest(plan.call(x).gamma(gamma), beta, stats).to(y),
        Io::InPlace { x } => M::with_rest(plan.call_in_place(x).gamma(gamma), beta, stats).run(),
        Io::Sum { sum: Sum { x, goes: Goes::Apart { residual, s }, bias }, y } => {
            let call = plan.call(x).residual(residual).bias(bias).sum_to(s).gamma(gamma);
            M::with_rest(call, beta, stats).to(y)
        }
        Io::Sum { sum: Sum { x, goes: Goes::OverResidual(residual), bias }, y } => {
            let call = plan.call(x).residual_in_place(residual).bias(bias).gamma(gamma);
            M::with_rest(call, beta, stats).to(y)
        }
        Io::Dropped { x, residual, bias, y } => {
            M::with_rest(plan.call(x).residual(residual).bias(bias).gamma(gamma), beta, stats).to(y)
        }
        Io::Known { x, moments, y } => M::with_rest(plan.call(x).moments(moments).gamma(gamma), beta, stats).to(y),
        Io::KnownInPlace { x, moments } => {
            M::with_rest(plan.call_in_place(x).moments(moments).gamma(gamma), beta, stats).run()
        }
        Io::DroppedInPlace { x, residual, bias } => {
            let call = plan.call_in_place(x).residual(residual).bias(bias).gamma(gamma);
            M::with_rest(call, beta, stats).run()
        }
    }
}

pub(crate) fn backward<'a, M: Operation, T: Element, G: Companion<T>>(
    plan: &'a Norm<M>,
    io: GradIo<'a, T>,
    gamma: Option<&'a [G]>,
    stats: Stats<'a, T::Float>,
    grads: ParamGrads<'a, T::Float>,
    scratch: Option<&'a mut [T::Float]>,
) -> Result<(), Error> {
    let GradIo { goes, x, ds } = io;
    let ParamGrads { dgamma, dbeta } = grads;
    match (goes, ds) {
        (DxGoes::Apart { dy, dx }, None) => {
            let call = plan.backward(dy, x).gamma(gamma).dgamma_to(dgamma).scratch(scratch);
            M::with_rest_of_backward(call, stats, dbeta).to(dx)
        }
        (DxGoes::Apart { dy, dx }, Some(ds)) => {
            let call = plan.backward(dy, x).gamma(gamma).dgamma_to(dgamma).scratch(scratch).ds(ds);
            M::with_rest_of_backward(call, stats, dbeta).to(dx)
        }
        (DxGoes::OverDy { dy }, None) => {
            let call = plan.backward_in_place(dy, x).gamma(gamma).dgamma_to(dgamma).scratch(scratch);
            M::with_rest_of_backward(call, stats, dbeta).run()
        }
        (DxGoes::OverDy { dy }, Some(ds)) => {
            let call = plan.backward_in_place(dy, x).gamma(gamma).dgamma_to(dgamma).scratch(scratch).ds(ds);
            M::with_rest_of_backward(call, stats, dbeta).run()
        }
        (DxGoes::Nowhere { dy }, None) => {
            let call = plan.backward(dy, x).gamma(gamma).dgamma_to(dgamma).scratch(scratch);
            M::with_rest_of_backward(call, stats, dbeta).run()
        }
        (DxGoes::Nowhere { .. }, Some(_)) => panic!("there is no dx that ds could be added to"),
    }
}
