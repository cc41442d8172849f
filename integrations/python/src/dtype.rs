//! The types of elements.

use std::fmt;

use lanenorm::capi::lanenorm_dtype;

/// A type of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    F64,
    F16,
    Bf16,
}

impl Dtype {
    pub(crate) const ALL: [Self; 4] = [Self::F32, Self::F64, Self::F16, Self::Bf16];

    /// As numpy has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// The number of the C ABI.
    pub(crate) fn number(self) -> i32 {
        (match self {
            Self::F32 => lanenorm_dtype::F32,
            Self::F64 => lanenorm_dtype::F64,
            Self::F16 => lanenorm_dtype::F16,
            Self::Bf16 => lanenorm_dtype::Bf16,
        }) as i32
    }

    /// The bytes of an element.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Whether elements of 16 bits stand beside f32, or both types are the same.
    pub(crate) fn goes_with(self, other: Self) -> bool {
        self == other || (self.size() + other.size() == 6)
    }

    /// The type of statistics and of the gradients of gamma and beta.
    pub(crate) fn of_statistics(self) -> Self {
        if self == Self::F64 { Self::F64 } else { Self::F32 }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
