//! The operations, and one plan for all of them, so that what holds for each is tested in one place.

use lanenorm::kernels::table::Op;
use lanenorm::{Error, Isa, LayerNorm, Parallelism, RmsNorm, Rows, RowsMut, StatsMut, Store};

/// An operation with what it has beside the vectors and eps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    LayerNorm,
    RmsNorm {
        /// What is added to gamma.
        offset: f32,
    },
}

/// Every operation at least once.
pub(crate) const OPERATIONS: [Operation; 3] =
    [Operation::LayerNorm, Operation::RmsNorm { offset: 0.0 }, Operation::RmsNorm { offset: 1.0 }];

impl Operation {
    /// The operation in the table of kernels.
    pub(crate) fn op(self) -> Op {
        match self {
            Self::LayerNorm => Op::LayerNorm,
            Self::RmsNorm { .. } => Op::RmsNorm,
        }
    }
}

/// The plan of any operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    LayerNorm(LayerNorm),
    RmsNorm(RmsNorm),
}

impl Plan {
    pub(crate) fn new(operation: Operation, cols: usize, eps: f64) -> Result<Self, Error> {
        match operation {
            Operation::LayerNorm => LayerNorm::new(cols, eps).map(Self::LayerNorm),
            Operation::RmsNorm { offset } => {
                RmsNorm::new(cols, eps).map(|plan| Self::RmsNorm(plan.with_offset(offset)))
            }
        }
    }

    pub(crate) fn with_isa(self, isa: Isa) -> Self {
        match self {
            Self::LayerNorm(plan) => Self::LayerNorm(plan.with_isa(isa)),
            Self::RmsNorm(plan) => Self::RmsNorm(plan.with_isa(isa)),
        }
    }

    pub(crate) fn with_parallelism(self, parallelism: Parallelism) -> Self {
        match self {
            Self::LayerNorm(plan) => Self::LayerNorm(plan.with_parallelism(parallelism)),
            Self::RmsNorm(plan) => Self::RmsNorm(plan.with_parallelism(parallelism)),
        }
    }

    pub(crate) fn with_store(self, store: Store) -> Self {
        match self {
            Self::LayerNorm(plan) => Self::LayerNorm(plan.with_store(store)),
            Self::RmsNorm(plan) => Self::RmsNorm(plan.with_store(store)),
        }
    }

    /// beta must be absent where the operation has none.
    pub(crate) fn forward<'a>(
        &self,
        x: impl Into<Rows<'a>>,
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
        y: impl Into<RowsMut<'a>>,
    ) -> Result<(), Error> {
        match self {
            Self::LayerNorm(plan) => plan.forward(x, gamma, beta, y),
            Self::RmsNorm(plan) => {
                assert_eq!(beta, None);
                plan.forward(x, gamma, y)
            }
        }
    }

    /// With those of the statistics that the operation has; the others stay as they are.
    pub(crate) fn forward_with_stats<'a>(
        &self,
        x: impl Into<Rows<'a>>,
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
        y: impl Into<RowsMut<'a>>,
        stats: StatsMut<'_>,
    ) -> Result<(), Error> {
        match self {
            Self::LayerNorm(plan) => plan.forward_with_stats(x, gamma, beta, y, stats),
            Self::RmsNorm(plan) => {
                assert_eq!(beta, None);
                match stats.rstd {
                    Some(rstd) => plan.forward_with_rstd(x, gamma, y, rstd),
                    None => plan.forward(x, gamma, y),
                }
            }
        }
    }

    /// beta must be absent where the operation has none.
    pub(crate) fn forward_in_place<'a>(
        &self,
        x: impl Into<RowsMut<'a>>,
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
    ) -> Result<(), Error> {
        match self {
            Self::LayerNorm(plan) => plan.forward_in_place(x, gamma, beta),
            Self::RmsNorm(plan) => {
                assert_eq!(beta, None);
                plan.forward_in_place(x, gamma)
            }
        }
    }

    /// With those of the statistics that the operation has; the others stay as they are.
    pub(crate) fn forward_in_place_with_stats<'a>(
        &self,
        x: impl Into<RowsMut<'a>>,
        gamma: Option<&[f32]>,
        beta: Option<&[f32]>,
        stats: StatsMut<'_>,
    ) -> Result<(), Error> {
        match self {
            Self::LayerNorm(plan) => plan.forward_in_place_with_stats(x, gamma, beta, stats),
            Self::RmsNorm(plan) => {
                assert_eq!(beta, None);
                match stats.rstd {
                    Some(rstd) => plan.forward_in_place_with_rstd(x, gamma, rstd),
                    None => plan.forward_in_place(x, gamma),
                }
            }
        }
    }
}
