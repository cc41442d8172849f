//! Both operations behind one name.

use lanenorm::{Error, LayerNorm, Moments, RmsNorm};

use crate::rows::Bits;

/// A plan of either operation. RMS normalization has no use for beta.
pub(crate) enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

impl Norm {
    pub(crate) fn cols(&self) -> usize {
        match self {
            Self::Layer(plan) => plan.cols(),
            Self::Rms(plan) => plan.cols(),
        }
    }

    pub(crate) fn forward<T: Bits>(&self, x: &[T], gamma: &[T], beta: &[T], y: &mut [T]) -> Result<(), Error> {
        match self {
            Self::Layer(plan) => plan.forward(x, Some(gamma), Some(beta), y),
            Self::Rms(plan) => plan.forward(x, Some(gamma), y),
        }
    }

    pub(crate) fn moments<T: Bits>(&self, x: &[T], moments: &mut [Moments]) -> Result<(), Error> {
        match self {
            Self::Layer(plan) => plan.moments(x, moments),
            Self::Rms(plan) => plan.moments(x, moments),
        }
    }

    pub(crate) fn rescale<T: Bits>(&self, moments: &Moments) -> Option<f64> {
        match self {
            Self::Layer(plan) => plan.rescale::<T>(moments),
            Self::Rms(plan) => plan.rescale::<T>(moments),
        }
    }

    pub(crate) fn moments_at_scale<T: Bits>(&self, x: &[T], scale: f64, moments: &mut [Moments]) -> Result<(), Error> {
        match self {
            Self::Layer(plan) => plan.moments_at_scale(x, scale, moments),
            Self::Rms(plan) => plan.moments_at_scale(x, scale, moments),
        }
    }

    pub(crate) fn normalize_with<T: Bits>(
        &self,
        x: &[T],
        moments: &[Moments],
        gamma: &[T],
        beta: &[T],
        y: &mut [T],
    ) -> Result<(), Error> {
        match self {
            Self::Layer(plan) => plan.call(x).moments(moments).gamma(gamma).beta(beta).to(y),
            Self::Rms(plan) => plan.call(x).moments(moments).gamma(gamma).to(y),
        }
    }
}
