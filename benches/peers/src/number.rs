//! The types of elements, as all the crates know them.

use burn_backend::DType;
use lanenorm::{bf16, f16};
use lanenorm_harness::number::{self, Widen};

use crate::case::Case;
use crate::contender::Contender;
use crate::{baselines, slices};

/// A type of elements.
pub(crate) trait Number:
    number::Number<Float = f32> + candle_core::WithDType + numr::dtype::Element + burn_backend::Element
{
    const BURN: DType;

    /// The sum of `self` and `other`, rounded once.
    fn plus(self, other: Self) -> Self {
        <Self as number::Number>::narrow(Widen::widen(self) + Widen::widen(other))
    }

    /// The peers that take slices of this type alone.
    fn peers_of_slices(_: Case) -> Vec<Contender<Self>> {
        Vec::new()
    }

    /// The scalar baselines.
    fn baselines(case: Case) -> Vec<Contender<Self>> {
        baselines::all(case)
    }
}

impl Number for f32 {
    const BURN: DType = DType::F32;

    fn peers_of_slices(case: Case) -> Vec<Contender<Self>> {
        slices::all(case)
    }
}

macro_rules! sixteen_bits {
    ($($t:ident $burn:ident)*) => {$(
        impl Number for $t {
            const BURN: DType = DType::$burn;
        }
    )*};
}

sixteen_bits!(f16 F16 bf16 BF16);
