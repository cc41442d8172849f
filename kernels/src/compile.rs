//! What is compiled: the loops of each operation for each type of elements. No other crate compiles them again.

use half::{bf16, f16};

use crate::element::Storage;
use crate::isa::{Isa, Tier};
use crate::mean::{Center, Centered, Either, Uncentered};
use crate::ops::Compiled;
use crate::ops::backward::{Backward, Merge};
use crate::ops::forward::{Forward, Normalize};
use crate::ops::moments::RowMoments;
use crate::simd::in_default_environment;
use crate::stats::Moments;

/// Calls a method for the loops that jobs go through: `$loops`, and on the portable tier, which has one piece of code
/// for both normalizations, those of layer normalization.
macro_rules! through {
    ($loops:ty, $isa:ident, $job:ident.$run:ident($($arg:ident),*)) => {
        if $isa.tier() == Tier::Scalar {
            $job.$run::<<$loops as Portable>::Loops>($($arg),*)
        } else {
            $job.$run::<$loops>($($arg),*)
        }
    };
}

/// The loops of the portable tier.
trait Portable {
    type Loops: Center;
}

impl Portable for Centered {
    type Loops = Self;
}

impl Portable for Uncentered {
    type Loops = Centered;
}

impl Portable for Either {
    type Loops = Self;
}

macro_rules! compiled {
    ($($t:ty, $center:ty => $loops:ty;)*) => {$(
        impl Compiled<$center> for $t {
            fn forward(job: &mut Forward<'_, Self, $center>, isa: Isa) {
                in_default_environment(|| through!($loops, isa, job.run_here(isa)));
            }

            fn normalize(job: Normalize<'_, Self, $center>, isa: Isa) {
                in_default_environment(|| through!($loops, isa, job.run_here(isa)));
            }

            fn moments(row: RowMoments<'_, Self>, isa: Isa) -> Moments {
                in_default_environment(|| through!($loops, isa, row.run_here(isa)))
            }

            fn backward(
                job: &mut Backward<'_, Self, $center>,
                partials: &mut [<Self as Storage>::Float],
                work: &mut [<Self as Storage>::Float],
                isa: Isa,
            ) {
                in_default_environment(|| through!($loops, isa, job.run_here(isa, partials, work)));
            }

            fn merge(merge: Merge<'_, <Self as Storage>::Float>, isa: Isa) {
                in_default_environment(|| merge.run_on(isa));
            }
        }
    )*};
}

// Rows of f64, whose speed matters less than their code, have one set of loops.
compiled! {
    f32, Centered => Centered;
    f32, Uncentered => Uncentered;
    f64, Centered => Either;
    f64, Uncentered => Either;
    f16, Centered => Centered;
    f16, Uncentered => Uncentered;
    bf16, Centered => Centered;
    bf16, Uncentered => Uncentered;
}
