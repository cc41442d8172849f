//! The types of elements, with what inputs, baselines and checks need beyond the library's own traits.

use std::ops::{AddAssign, Div};

use lanenorm_kernels::Element;
use lanenorm_kernels::element::{Addend, Companion, Storage};
pub use lanenorm_kernels::half::{bf16, f16};
use lanenorm_kernels::simd::Float;
pub use lanenorm_kernels::table::Dtype;

/// Calls a function for the type that a `Dtype` stands for.
#[macro_export]
macro_rules! typed {
    ($dtype:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $dtype {
            $crate::number::Dtype::F32 => $function::<f32>($($argument),*),
            $crate::number::Dtype::F64 => $function::<f64>($($argument),*),
            $crate::number::Dtype::F16 => $function::<$crate::number::f16>($($argument),*),
            $crate::number::Dtype::Bf16 => $function::<$crate::number::bf16>($($argument),*),
            dtype => panic!("the benchmark has no {}", dtype.name()),
        }
    };
}

/// Conversion to the type that rows are computed in.
pub trait Widen<F>: Copy {
    /// The number as a value of the wider type.
    fn widen(self) -> F;
}

/// A type whose values are compared with exact answers.
pub trait Value: Copy + PartialEq + Send + Sync {
    /// The number as a value of the wider type.
    fn to_f64(self) -> f64;

    /// The most that rounding to this type may have cost, beyond rounding to the type that rows are computed in: half
    /// the distance to the next element away from zero.
    fn half_ulp(self) -> f64 {
        0.0
    }
}

/// A type of elements.
pub trait Number:
    Element<Float: Real> + Addend<<Self as Number>::Mixed> + Widen<<Self as Storage>::Float> + Value + Default
{
    /// The other type of mixed calls: f32 beside 16 bits, or else the type itself.
    type Mixed: Number<Float = Self::Float> + Companion<Self> + From<Self>;

    /// The largest relative error of rounding to the type that rows are computed in.
    const U: f64;

    /// Rounds to nearest.
    fn narrow(v: Self::Float) -> Self;

    /// Rounds to nearest, by way of the type that rows are computed in.
    fn from_f64(v: f64) -> Self {
        Self::narrow(Self::Float::from_f64(v))
    }
}

/// A type that rows are computed in.
pub trait Real: Float + Value + Widen<Self> + Div<Output = Self> + AddAssign {
    /// The square root.
    fn sqrt(self) -> Self;

    /// e to the power of `self`.
    fn exp(self) -> Self;

    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
}

macro_rules! real {
    ($($t:ident)*) => {$(
        impl Widen<$t> for $t {
            #[inline(always)]
            fn widen(self) -> $t {
                self
            }
        }

        impl Value for $t {
            fn to_f64(self) -> f64 {
                self.into()
            }
        }

        impl Real for $t {
            #[inline(always)]
            fn sqrt(self) -> $t {
                self.sqrt()
            }

            #[inline(always)]
            fn exp(self) -> $t {
                self.exp()
            }

            #[inline(always)]
            fn mul_add(self, a: $t, b: $t) -> $t {
                self.mul_add(a, b)
            }
        }
    )*};
}

/// Types of 16 bits, with the conversions of `half`, which people use.
macro_rules! sixteen_bits {
    ($($t:ident)*) => {$(
        impl Widen<f32> for $t {
            #[inline(always)]
            fn widen(self) -> f32 {
                self.to_f32()
            }
        }

        impl Value for $t {
            fn to_f64(self) -> f64 {
                self.widen().into()
            }

            fn half_ulp(self) -> f64 {
                (Self::from_bits(self.to_bits() + 1).to_f64() - self.to_f64()).abs() / 2.0
            }
        }

        impl Number for $t {
            type Mixed = f32;
            const U: f64 = f32::U;

            #[inline(always)]
            fn narrow(v: f32) -> Self {
                Self::from_f32(v)
            }
        }
    )*};
}

real!(f32 f64);
sixteen_bits!(f16 bf16);

impl Number for f32 {
    type Mixed = f32;
    const U: f64 = 1.0 / (1u64 << 24) as f64;

    #[inline(always)]
    fn narrow(v: f32) -> f32 {
        v
    }
}

impl Number for f64 {
    type Mixed = f64;
    const U: f64 = 1.0 / (1u64 << 53) as f64;

    #[inline(always)]
    fn narrow(v: f64) -> f64 {
        v
    }
}
