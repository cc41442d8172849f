//! How a plan may differ from the plain call.

use lanenorm::kernels::table::{Dtype, Op};
use lanenorm::{Divisor, Gate, Rounding, Scheme};

use super::case::Case;
use super::several::HEADS;

/// The number of groups of rows with a gamma and a beta each.
pub(crate) const GROUPS: usize = 8;

/// Rows of up to this many columns count as heads.
const HEAD: usize = 256;

/// The elements of a block of `Q8_0`.
pub(crate) const BLOCK: usize = 32;

/// How a plan differs from the default.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    Default,
    Ordinary,
    Streaming,
    InPlace,
    NoAffine,
    Stats,
    /// x is the sum of two tensors, which is written too.
    Sum,
    /// x has 16 bits, and is added to a residual of f32. The sum is f32 too, and is written.
    SumF32,
    /// x of 16 bits is added to a residual of 16 bits. The sum is normalized in f32, and is written, rounded.
    UnroundedSums,
    /// Each step is rounded to 16 bits.
    Steps,
    /// gamma and beta are f32, and x and y have 16 bits.
    Mixed,
    /// In place on the queries of a tensor that has query, key and value of each head side by side.
    Qk,
    /// In place on the queries and keys of a packed tensor, which have a gamma each.
    QAndK,
    /// The same by two calls.
    QAndKTwoCalls,
    /// Two outputs, which have a gamma and a beta each.
    SecondY,
    /// The same by two calls.
    SecondYTwoCalls,
    /// Each group of rows has its own 1 + gamma and beta.
    Adaptive,
    /// Rows are divided by their L2 norm.
    L2,
    /// x is [samples, channels, pixels], and the rows are the channels of each pixel.
    ChannelsFirst,
    /// The result of `GroupNorm` goes through silu.
    Activation,
    /// x of `GroupNorm` is [samples, pixels, channels].
    ChannelsLast,
    /// The result is multiplied by silu(z), where z is a tensor like x.
    Silu,
    /// x is multiplied by silu(z) before it is normalized.
    SiluBefore,
    /// The result has 8 bits, with a scale for each row.
    I8,
    /// The result is GGUF `Q8_0`.
    Q8_0,
    /// The plain call, and then a loop over y that quantizes it by the scheme of `I8`.
    I8TwoSteps,
    /// The same for `Q8_0`.
    Q8_0TwoSteps,
    /// Backward without the statistics that forward has kept.
    Recomputed,
    /// Backward for dx alone.
    DxOnly,
    /// Backward for all but dx.
    ParamsOnly,
    /// Backward of a sum: the gradient ds of the sum is added to dx.
    Ds,
    /// Backward that allocates its scratch memory.
    Allocating,
}

/// Which gamma and beta the rows have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Affine {
    Shared,
    Absent,
    Grouped,
}

impl Variant {
    pub(crate) const ALL: [Self; 32] = [
        Self::Default,
        Self::Ordinary,
        Self::Streaming,
        Self::InPlace,
        Self::NoAffine,
        Self::Stats,
        Self::Sum,
        Self::SumF32,
        Self::UnroundedSums,
        Self::Steps,
        Self::Mixed,
        Self::Qk,
        Self::QAndK,
        Self::QAndKTwoCalls,
        Self::SecondY,
        Self::SecondYTwoCalls,
        Self::Adaptive,
        Self::L2,
        Self::ChannelsFirst,
        Self::Activation,
        Self::ChannelsLast,
        Self::Silu,
        Self::SiluBefore,
        Self::I8,
        Self::Q8_0,
        Self::I8TwoSteps,
        Self::Q8_0TwoSteps,
        Self::Recomputed,
        Self::DxOnly,
        Self::ParamsOnly,
        Self::Ds,
        Self::Allocating,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Ordinary => "ordinary",
            Self::Streaming => "streaming",
            Self::InPlace => "in_place",
            Self::NoAffine => "no_affine",
            Self::Stats => "stats",
            Self::Sum => "sum",
            Self::SumF32 => "sum_f32",
            Self::UnroundedSums => "unrounded_sums",
            Self::Steps => "steps",
            Self::Mixed => "mixed",
            Self::Qk => "qk",
            Self::QAndK => "q_and_k",
            Self::QAndKTwoCalls => "q_and_k_two_calls",
            Self::SecondY => "second_y",
            Self::SecondYTwoCalls => "second_y_two_calls",
            Self::Adaptive => "adaptive",
            Self::L2 => "l2",
            Self::ChannelsFirst => "channels_first",
            Self::Activation => "activation",
            Self::ChannelsLast => "channels_last",
            Self::Silu => "silu",
            Self::SiluBefore => "silu_before",
            Self::I8 => "i8",
            Self::Q8_0 => "q8_0",
            Self::I8TwoSteps => "i8_two_steps",
            Self::Q8_0TwoSteps => "q8_0_two_steps",
            Self::Recomputed => "recomputed",
            Self::DxOnly => "dx_only",
            Self::ParamsOnly => "params_only",
            Self::Ds => "ds",
            Self::Allocating => "allocating",
        }
    }

    /// Whether the case has such a variant.
    pub(crate) fn fits(self, case: &Case) -> bool {
        let is_backward = case.op.is_backward();
        match self {
            Self::Default => true,
            Self::Activation | Self::ChannelsLast => case.is_group_norm(),
            _ if case.is_group_norm() => false,
            Self::ChannelsFirst => case.images.is_some(),
            Self::L2 => case.op == Op::RmsNorm,
            Self::Ordinary | Self::Streaming | Self::InPlace | Self::NoAffine => true,
            Self::Stats | Self::Sum | Self::SecondY | Self::SecondYTwoCalls => !is_backward,
            Self::Mixed => case.has_16_bits(),
            Self::SumF32 | Self::UnroundedSums | Self::Steps => !is_backward && case.has_16_bits(),
            Self::Qk => case.op == Op::RmsNorm && case.cols <= HEAD,
            Self::QAndK | Self::QAndKTwoCalls => Self::Qk.fits(case) && case.rows.is_multiple_of(HEADS),
            Self::Adaptive => !is_backward && case.rows.is_multiple_of(GROUPS),
            Self::Silu | Self::SiluBefore | Self::I8 => !is_backward && case.dtype != Dtype::F64,
            Self::Q8_0 => Self::I8.fits(case) && case.cols.is_multiple_of(BLOCK),
            // Compilers do not vectorize conversions of f16.
            Self::I8TwoSteps => Self::I8.fits(case) && case.dtype != Dtype::F16,
            Self::Q8_0TwoSteps => Self::Q8_0.fits(case) && case.dtype != Dtype::F16,
            Self::Recomputed | Self::DxOnly | Self::ParamsOnly | Self::Ds | Self::Allocating => is_backward,
        }
    }

    /// How the result is quantized.
    pub(crate) fn scheme(self) -> Option<Scheme> {
        match self {
            Self::I8 | Self::I8TwoSteps => Some(Scheme::I8),
            Self::Q8_0 | Self::Q8_0TwoSteps => Some(Scheme::Q8_0),
            _ => None,
        }
    }

    /// What x or the result is multiplied by.
    pub(crate) fn gate(self) -> Option<Gate> {
        match self {
            Self::Silu => Some(Gate::SILU),
            Self::SiluBefore => Some(Gate::SILU_BEFORE),
            _ => None,
        }
    }

    /// What rows without a mean are divided by.
    pub(crate) fn divisor(self) -> Divisor {
        if self == Self::L2 { Divisor::Norm } else { Divisor::RootMeanSquare }
    }

    /// Whether sums are written in the type of x, or another output. Loops that multiply by a gate first have their
    /// results there.
    pub(crate) fn has_s(self) -> bool {
        matches!(self, Self::Sum | Self::UnroundedSums | Self::SiluBefore) || self.has_second_y()
    }

    /// Whether there are two outputs.
    pub(crate) fn has_second_y(self) -> bool {
        matches!(self, Self::SecondY | Self::SecondYTwoCalls)
    }

    /// Whether queries and keys of a packed tensor are normalized.
    pub(crate) fn has_heads(self) -> bool {
        matches!(self, Self::QAndK | Self::QAndKTwoCalls)
    }

    /// Whether there are several gammas and betas.
    pub(crate) fn has_groups(self) -> bool {
        self == Self::Adaptive || self.has_second_y() || self.has_heads()
    }

    /// Whether the call has the tensor z.
    pub(crate) fn has_z(self) -> bool {
        self == Self::UnroundedSums || self.gate().is_some()
    }

    /// Where the plan rounds.
    pub(crate) fn rounding(self) -> Rounding {
        match self {
            Self::UnroundedSums => Rounding::UNROUNDED_SUMS,
            Self::Steps => Rounding::STEPS,
            _ => Rounding::ONCE,
        }
    }

    /// The same result in two steps, for calls that quantize, or by two calls.
    pub(crate) fn in_two_steps(self) -> Option<Self> {
        match self {
            Self::I8 => Some(Self::I8TwoSteps),
            Self::Q8_0 => Some(Self::Q8_0TwoSteps),
            Self::QAndK => Some(Self::QAndKTwoCalls),
            Self::SecondY => Some(Self::SecondYTwoCalls),
            _ => None,
        }
    }

    /// Whether it has a scalar baseline of its own.
    pub(crate) fn has_baseline(self) -> bool {
        let has_loops = matches!(self, Self::L2 | Self::ChannelsFirst | Self::Activation | Self::ChannelsLast);
        has_loops || matches!(self, Self::I8 | Self::Q8_0) || self.gate().is_some()
    }

    /// Whether it is a plain call and a loop behind it, which has one thread.
    pub(crate) fn has_two_steps(self) -> bool {
        matches!(self, Self::I8TwoSteps | Self::Q8_0TwoSteps)
    }

    pub(crate) fn affine(self) -> Affine {
        match self {
            Self::NoAffine => Affine::Absent,
            Self::Adaptive => Affine::Grouped,
            _ => Affine::Shared,
        }
    }
}

/// The tensor z of a call: a gate, or a residual. It is x backwards.
pub(crate) fn z<T: Copy>(x: &[T]) -> Vec<T> {
    x.iter().rev().copied().collect()
}

/// The gamma or beta of all groups, made of the vector `v`: each group has it rotated by one element more than the
/// group before.
pub(crate) fn grouped<T: Copy>(v: &[T]) -> Vec<T> {
    let rotated = |group: usize| v.split_at(group.min(v.len()));
    (0..GROUPS).map(rotated).flat_map(|(a, b)| b.iter().chain(a)).copied().collect()
}
