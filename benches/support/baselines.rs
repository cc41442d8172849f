//! What people write who do not use a library, the simplest first.

use std::any::Any;

use lanenorm::kernels::table::{Dtype, Op};
use lanenorm_harness::naive::{self, Forward, Gradients};
use lanenorm_harness::number::Number;

use super::case::Case;
use super::{backward, simd_welford, sums, two_pass};

/// A baseline of one operation or several.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Baseline {
    Naive,
    Welford,
    TwoPass,
    TwoPassSimd,
    SimdWelford,
}

/// A baseline of the backward pass.
pub(crate) type RunBackward<T> = fn(Gradients<'_, T>);

/// The baselines of the plain call, the simplest first. f16 has only the first, since compilers do not vectorize its
/// conversions, and so has `GroupNorm`. Welford's algorithm is for f32.
pub(crate) fn baselines(case: &Case) -> &'static [Baseline] {
    use Baseline::{Naive, SimdWelford, TwoPass, TwoPassSimd, Welford};
    match (case.op, case.dtype) {
        _ if case.is_group_norm() => &[Naive],
        (_, Dtype::F16) => &[Naive],
        (Op::LayerNorm, Dtype::F32) => &[Naive, Welford, TwoPass, TwoPassSimd, SimdWelford],
        _ => &[Naive, TwoPass, TwoPassSimd],
    }
}

impl Baseline {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::Welford => "welford",
            Self::TwoPass => "two_pass",
            Self::TwoPassSimd => "two_pass_simd",
            Self::SimdWelford => "simd_welford",
        }
    }

    /// The number of sums that each row is spread over: the more, the smaller their rounding errors.
    pub(crate) fn sums(self) -> usize {
        match self {
            Self::Naive | Self::Welford => 1,
            Self::TwoPass | Self::TwoPassSimd => sums::SUMS,
            Self::SimdWelford => simd_welford::GROUPS,
        }
    }

    /// # Panics
    /// If the [`baselines`] of the operation and the type do not have it.
    pub(crate) fn run<T: Number>(self, op: Op) -> Forward<T, T::Float> {
        match (op, self) {
            (Op::LayerNorm, Self::Naive) => naive::layer_norm,
            (Op::LayerNorm, Self::Welford) => naive::welford,
            (Op::LayerNorm, Self::TwoPass) => two_pass::layer_norm,
            (Op::LayerNorm, Self::TwoPassSimd) => two_pass::layer_norm_simd,
            (Op::LayerNorm, Self::SimdWelford) => {
                let of_f32: Forward<f32, f32> = simd_welford::simd_welford;
                *(&of_f32 as &dyn Any).downcast_ref().expect("a baseline of f32")
            }
            (Op::RmsNorm, Self::Naive) => naive::rms_norm,
            (Op::RmsNorm, Self::TwoPass) => two_pass::rms_norm,
            (Op::RmsNorm, Self::TwoPassSimd) => two_pass::rms_norm_simd,
            (op, baseline) => panic!("there is no {} of {}", baseline.name(), op.name()),
        }
    }

    /// # Panics
    /// If the [`baselines`] of the operation and the type do not have it.
    pub(crate) fn run_backward<T: Number>(self, op: Op) -> RunBackward<T> {
        match (op, self) {
            (Op::LayerNormBackward, Self::Naive) => naive::layer_norm_backward,
            (Op::LayerNormBackward, Self::TwoPass) => backward::two_pass::layer_norm,
            (Op::LayerNormBackward, Self::TwoPassSimd) => backward::two_pass::layer_norm_simd,
            (Op::RmsNormBackward, Self::Naive) => naive::rms_norm_backward,
            (Op::RmsNormBackward, Self::TwoPass) => backward::two_pass::rms_norm,
            (Op::RmsNormBackward, Self::TwoPassSimd) => backward::two_pass::rms_norm_simd,
            (op, baseline) => panic!("there is no {} of {}", baseline.name(), op.name()),
        }
    }
}
