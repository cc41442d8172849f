//! The types of elements, as all the crates know them.

use burn_backend::DType;
use lanenorm::{bf16, f16};

use crate::baselines;
use crate::case::Case;
use crate::contender::Contender;
use crate::slices;

/// A type of elements.
pub(crate) trait Number:
    lanenorm::Element<Float = f32>
    + candle_core::WithDType
    + numr::dtype::Element
    + burn_backend::Element
    + Default
    + Send
    + Sync
    + 'static
{
    const BURN: DType;

    fn narrow(v: f32) -> Self;

    fn wide(self) -> f32;

    /// The sum, rounded once.
    fn plus(self, other: Self) -> Self {
        Self::narrow(self.wide() + other.wide())
    }

    /// The peers that have no other type.
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

    fn narrow(v: f32) -> Self {
        v
    }

    fn wide(self) -> f32 {
        self
    }

    fn peers_of_slices(case: Case) -> Vec<Contender<Self>> {
        slices::all(case)
    }
}

macro_rules! sixteen_bits {
    ($($t:ident $burn:ident)*) => {$(
        impl Number for $t {
            const BURN: DType = DType::$burn;

            fn narrow(v: f32) -> Self {
                Self::from_f32(v)
            }

            fn wide(self) -> f32 {
                self.to_f32()
            }
        }
    )*};
}

sixteen_bits!(f16 F16 bf16 BF16);
