//! The operations, and one plan type for all of them, so that one test covers each.

use lanenorm::kernels::table::Op;
use lanenorm::{Companion, Element, Error, Isa, LayerNorm, Moments, Parallelism, RmsNorm, Rows, RowsMut, Store};

use super::forms::{self, GradIo, Io, ParamGrads, Stats, StatsMut, Sum};

/// An operation, with its numbers beside eps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    LayerNorm {
        /// The number that is added to gamma.
        offset: f32,
    },
    RmsNorm {
        /// The number that is added to gamma.
        offset: f32,
    },
}

/// Every operation at least once.
pub(crate) const OPERATIONS: [Operation; 4] = [
    Operation::LayerNorm { offset: 0.0 },
    Operation::LayerNorm { offset: 1.0 },
    Operation::RmsNorm { offset: 0.0 },
    Operation::RmsNorm { offset: 1.0 },
];

impl Operation {
    /// The operation in the table of kernels.
    pub(crate) fn op(self) -> Op {
        match self {
            Self::LayerNorm { .. } => Op::LayerNorm,
            Self::RmsNorm { .. } => Op::RmsNorm,
        }
    }

    /// Whether the operation has a mean and a beta.
    pub(crate) fn is_layer_norm(self) -> bool {
        matches!(self, Self::LayerNorm { .. })
    }

    pub(crate) fn offset(self) -> f32 {
        let (Self::LayerNorm { offset } | Self::RmsNorm { offset }) = self;
        offset
    }
}

/// The plan of any operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    LayerNorm(LayerNorm),
    RmsNorm(RmsNorm),
}

/// Evaluates an expression with the plan of either operation.
macro_rules! of_either {
    ($self:ident, $plan:ident => $of_it:expr) => {
        match $self {
            Self::LayerNorm($plan) => $of_it,
            Self::RmsNorm($plan) => $of_it,
        }
    };
}

/// Makes another plan of the same operation.
macro_rules! map_either {
    ($self:ident, $plan:ident => $of_it:expr) => {
        match $self {
            Self::LayerNorm($plan) => Self::LayerNorm($of_it),
            Self::RmsNorm($plan) => Self::RmsNorm($of_it),
        }
    };
}

impl Plan {
    pub(crate) fn new(operation: Operation, cols: usize, eps: f64) -> Result<Self, Error> {
        match operation {
            Operation::LayerNorm { offset } => {
                LayerNorm::new(cols, eps).map(|plan| Self::LayerNorm(plan.with_offset(offset)))
            }
            Operation::RmsNorm { offset } => {
                RmsNorm::new(cols, eps).map(|plan| Self::RmsNorm(plan.with_offset(offset)))
            }
        }
    }

    pub(crate) fn with_isa(self, isa: Isa) -> Self {
        map_either!(self, plan => plan.with_isa(isa))
    }

    pub(crate) fn with_parallelism(self, parallelism: Parallelism) -> Self {
        map_either!(self, plan => plan.with_parallelism(parallelism))
    }

    pub(crate) fn with_store(self, store: Store) -> Self {
        map_either!(self, plan => plan.with_store(store))
    }

    pub(crate) fn with_groups(self, groups: usize, repeat: usize) -> Result<Self, Error> {
        Ok(map_either!(self, plan => plan.with_groups(groups, repeat)?))
    }

    /// beta must be absent if the operation has none.
    pub(crate) fn forward<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        gamma: Option<&[T]>,
        beta: Option<&[T]>,
        y: impl Into<RowsMut<'a, T>>,
    ) -> Result<(), Error> {
        match self {
            Self::LayerNorm(plan) => plan.forward(x, gamma, beta, y),
            Self::RmsNorm(plan) => {
                assert!(beta.is_none());
                plan.forward(x, gamma, y)
            }
        }
    }

    /// Statistics that the operation lacks stay as they are.
    pub(crate) fn call<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        gamma: Option<&'a [T]>,
        beta: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        self.call_mixed(Io::new(x, y), gamma, beta, stats)
    }

    /// beta must be absent if the operation has none.
    pub(crate) fn forward_in_place<'a, T: Element>(
        &self,
        x: impl Into<RowsMut<'a, T>>,
        gamma: Option<&[T]>,
        beta: Option<&[T]>,
    ) -> Result<(), Error> {
        match self {
            Self::LayerNorm(plan) => plan.forward_in_place(x, gamma, beta),
            Self::RmsNorm(plan) => {
                assert!(beta.is_none());
                plan.forward_in_place(x, gamma)
            }
        }
    }

    /// Statistics that the operation lacks stay as they are.
    pub(crate) fn call_in_place<'a, T: Element>(
        &self,
        x: impl Into<RowsMut<'a, T>>,
        gamma: Option<&'a [T]>,
        beta: Option<&'a [T]>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        self.call_mixed::<T, T, T>(Io::in_place(x), gamma, beta, stats)
    }

    /// Statistics that the operation lacks stay as they are.
    pub(crate) fn call_sum<'a, T: Element>(
        &self,
        sum: Sum<'a, T>,
        gamma: Option<&'a [T]>,
        beta: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        self.call_mixed(Io::sum(sum, y), gamma, beta, stats)
    }

    /// Statistics that the operation lacks stay as they are.
    pub(crate) fn call_mixed<'a, T: Element, G: Companion<T>, Y: Companion<T>>(
        &self,
        io: Io<'a, T, Y>,
        gamma: Option<&'a [G]>,
        beta: Option<&'a [G]>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        of_either!(self, plan => forms::forward(plan, io, gamma, beta, stats))
    }

    pub(crate) fn moments<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        moments: &mut [Moments],
    ) -> Result<(), Error> {
        of_either!(self, plan => plan.moments(x, moments))
    }

    pub(crate) fn rescale<T: Element>(&self, moments: &Moments) -> Option<f64> {
        of_either!(self, plan => plan.rescale::<T>(moments))
    }

    pub(crate) fn moments_at_scale<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        scale: f64,
        moments: &mut [Moments],
    ) -> Result<(), Error> {
        of_either!(self, plan => plan.moments_at_scale(x, scale, moments))
    }

    /// beta must be absent if the operation has none.
    pub(crate) fn call_with_moments<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        moments: &'a [Moments],
        gamma: Option<&'a [T]>,
        beta: Option<&'a [T]>,
        y: impl Into<RowsMut<'a, T>>,
    ) -> Result<(), Error> {
        self.call_mixed(Io::moments(x, moments, y), gamma, beta, StatsMut::default())
    }

    /// mean, `mean_lo` and dbeta must be absent if the operation has none.
    pub(crate) fn backward<'a, T: Element>(
        &self,
        io: GradIo<'a, T>,
        gamma: Option<&'a [T]>,
        stats: Stats<'a, T::Float>,
        grads: ParamGrads<'a, T::Float>,
    ) -> Result<(), Error> {
        self.backward_mixed(io, gamma, stats, grads)
    }

    /// As [`backward`](Self::backward).
    pub(crate) fn backward_mixed<'a, T: Element, G: Companion<T>>(
        &self,
        io: GradIo<'a, T>,
        gamma: Option<&'a [G]>,
        stats: Stats<'a, T::Float>,
        grads: ParamGrads<'a, T::Float>,
    ) -> Result<(), Error> {
        of_either!(self, plan => forms::backward(plan, io, gamma, stats, grads, None))
    }

    /// As [`backward`](Self::backward).
    pub(crate) fn backward_with_scratch<'a, T: Element, G: Companion<T>>(
        &self,
        io: GradIo<'a, T>,
        gamma: Option<&'a [G]>,
        stats: Stats<'a, T::Float>,
        grads: ParamGrads<'a, T::Float>,
        scratch: &'a mut [T::Float],
    ) -> Result<(), Error> {
        of_either!(self, plan => forms::backward(plan, io, gamma, stats, grads, Some(scratch)))
    }

    pub(crate) fn backward_scratch_len<T: Element>(&self, rows: usize) -> Result<usize, Error> {
        of_either!(self, plan => plan.backward_scratch_len::<T>(rows))
    }
}
