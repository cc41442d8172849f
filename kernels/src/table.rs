//! The table of kernels: every operation, element type and tier that there is. The tests and the benchmarks
//! run over it, so that nothing is forgotten.

use core::fmt;

use crate::Tier;

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// Layer normalization, forward.
    LayerNorm,
    /// RMS normalization, forward.
    RmsNorm,
}

impl Op {
    /// The name used in bench ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LayerNorm => "layer_norm",
            Self::RmsNorm => "rms_norm",
        }
    }
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
}

impl Dtype {
    /// The name used in bench ids.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The operation.
    pub op: Op,
    /// The element type of x and y.
    pub dtype: Dtype,
    /// The tier.
    pub tier: Tier,
}

/// The operations and the element types that each is made for.
const OPS: [(Op, Dtype); 2] = [(Op::LayerNorm, Dtype::F32), (Op::RmsNorm, Dtype::F32)];

/// Every kernel, also those whose tier this build or machine lacks.
pub fn kernels() -> impl Iterator<Item = Entry> {
    OPS.into_iter().flat_map(|(op, dtype)| Tier::ALL.into_iter().map(move |tier| Entry { op, dtype, tier }))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.op.name(), self.dtype.name(), self.tier)
    }
}
