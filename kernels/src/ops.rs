//! The operations: what callers make and run.

pub mod backward;
pub mod forward;
pub mod layer_norm;
pub mod moments;
pub mod rms_norm;

use crate::element::Storage;
use crate::isa::Isa;
use crate::mean::{Center, Centered, Uncentered};
use crate::stats::Moments;
use backward::{Backward, Merge};
use forward::{Forward, Normalize};
use moments::RowMoments;

/// A type of elements: f32, f64, f16 or bf16.
pub trait Element: Storage + Compiled<Centered> + Compiled<Uncentered> {}

impl<T: Storage + Compiled<Centered> + Compiled<Uncentered>> Element for T {}

/// What is compiled for a type of elements and a kind of normalization.
#[doc(hidden)]
pub trait Compiled<M: Center>: Storage {
    fn forward(job: &mut Forward<'_, Self, M>, isa: Isa)
    where
        Self: Element;
    fn normalize(job: Normalize<'_, Self, M>, isa: Isa)
    where
        Self: Element;
    fn moments(row: RowMoments<'_, Self>, isa: Isa) -> Moments
    where
        Self: Element;
    fn backward(job: &mut Backward<'_, Self, M>, partials: &mut [Self::Float], work: &mut [Self::Float], isa: Isa)
    where
        Self: Element;
    fn merge(merge: Merge<'_, Self::Float>, isa: Isa)
    where
        Self: Element;
}
