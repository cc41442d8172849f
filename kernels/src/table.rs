//! The table of kernels: every operation, element type and tier that there is. The tests and the benchmarks
//! run over it, so that nothing is forgotten.

use crate::isa::Tier;
use core::fmt;

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// Layer normalization, forward.
    LayerNorm,
    /// RMS normalization, forward.
    RmsNorm,
    /// The gradients of layer normalization.
    LayerNormBackward,
    /// The gradients of RMS normalization.
    RmsNormBackward,
}

impl Op {
    /// All operations.
    pub const ALL: [Self; 4] = [Self::LayerNorm, Self::RmsNorm, Self::LayerNormBackward, Self::RmsNormBackward];

    /// The name used in bench ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LayerNorm => "layer_norm",
            Self::RmsNorm => "rms_norm",
            Self::LayerNormBackward => "layer_norm_backward",
            Self::RmsNormBackward => "rms_norm_backward",
        }
    }

    /// Whether it takes gradients.
    pub const fn is_backward(self) -> bool {
        matches!(self, Self::LayerNormBackward | Self::RmsNormBackward)
    }
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl Dtype {
    /// All types.
    pub const ALL: [Self; 4] = [Self::F32, Self::F64, Self::F16, Self::Bf16];

    /// The name used in bench ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The operation.
    pub op: Op,
    /// The element type of x and y, or of dy, x and dx.
    pub dtype: Dtype,
    /// The tier.
    pub tier: Tier,
}

/// Every kernel, also those whose tier this build or machine lacks: all operations are made for all types on all tiers.
pub fn kernels() -> impl Iterator<Item = Entry> {
    let typed = Op::ALL.into_iter().flat_map(|op| Dtype::ALL.into_iter().map(move |dtype| (op, dtype)));
    typed.flat_map(|(op, dtype)| Tier::ALL.into_iter().map(move |tier| Entry { op, dtype, tier }))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.op.name(), self.dtype.name(), self.tier)
    }
}
