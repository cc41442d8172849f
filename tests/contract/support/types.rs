//! The types of elements, with what tests need of each, and the combinations of types that tests are stamped on.

use std::fmt;
use std::ops::Neg;

use lanenorm::kernels::simd::Float;
use lanenorm::{Companion, Element, RowsMut, bf16, f16};

use super::forms::Io;
use super::{Random, quick};

/// A type of numbers.
pub(crate) trait Value:
    Copy + Default + PartialEq + PartialOrd + Neg<Output = Self> + fmt::Debug + fmt::LowerExp + Send + Sync + 'static
{
    /// The canonical NaN.
    const QUIET_NAN: Self;
    const SIGNALING_NAN: Self;
    /// A NaN that no kernel writes.
    const SENTINEL: Self;
    const INFINITY: Self;
    const MAX: Self;
    /// The smallest normal number.
    const MIN_POSITIVE: Self;
    /// The smallest denormal.
    const SMALLEST: Self;
    const EPSILON: Self;
    const SIZES: Sizes;

    /// v rounded to f32 and then to this type, or to f64.
    fn of(v: f64) -> Self;

    fn wide(self) -> f64;

    fn bits(self) -> u64;

    fn of_bits(bits: u64) -> Self;

    /// A number uniform on [-1, 1), with as many digits as the type that rows are computed in.
    fn signed(random: &mut Random) -> f64 {
        f64::from(random.signed())
    }

    fn is_nan(self) -> bool {
        self.wide().is_nan()
    }
}

/// The sizes of the numbers in rows: see [`special_row`](super::special_row).
pub(crate) struct Sizes {
    /// The mean of a row whose deviation is 1.
    pub(crate) offset: f64,
    /// The height of a step in such a row.
    pub(crate) step: f64,
    pub(crate) outlier: f64,
    /// Noise: by far too large for the fast path, by far too small, denormal, at the upper end of the path's range, at
    /// its lower end. All numbers of f16 are within that range, so f16 has the ends of f16 here.
    pub(crate) noise: [f64; 5],
}

macro_rules! value {
    ($t:ident, $bits:ty, $sentinel:literal, $signaling:literal, $of:expr, $sizes:expr $(, $signed:item)?) => {
        impl Value for $t {
            const QUIET_NAN: Self = $t::NAN;
            const SIGNALING_NAN: Self = $t::from_bits($signaling);
            const SENTINEL: Self = $t::from_bits($sentinel);
            const INFINITY: Self = $t::INFINITY;
            const MAX: Self = $t::MAX;
            const MIN_POSITIVE: Self = $t::MIN_POSITIVE;
            const SMALLEST: Self = $t::from_bits(1);
            const EPSILON: Self = $t::EPSILON;
            const SIZES: Sizes = $sizes;

            fn of(v: f64) -> Self {
                $of(v)
            }

            fn wide(self) -> f64 {
                self.into()
            }

            fn bits(self) -> u64 {
                self.to_bits().into()
            }

            fn of_bits(bits: u64) -> Self {
                $t::from_bits(bits as $bits)
            }

            $($signed)?
        }
    };
}

const fn sizes(offset: f64, step: f64, outlier: f64, noise: [f64; 5]) -> Sizes {
    Sizes { offset, step, outlier, noise }
}

value!(f32, u32, 0x7fc5_5aa5, 0x7f80_0001, |v| v as f32, sizes(1e6, 1e3, 1e8, [1e30, 1e-30, 1e-40, 1e18, 3e-14]));
value!(
    f64,
    u64,
    0x7ff8_5aa5_5aa5_5aa5,
    0x7ff0_0000_0000_0001,
    |v| v,
    sizes(1e9, 1e5, 1e16, [1e300, 1e-300, 1e-310, 1e150, 5e-145]),
    fn signed(random: &mut Random) -> f64 {
        (random.bits() >> 11) as f64 * (1.0 / (1u64 << 52) as f64) - 1.0
    }
);
value!(f16, u16, 0x7e5a, 0x7c01, |v| f16::from_f32(v as f32), sizes(100.0, 1e3, 6e4, [6e4, 1e-5, 3e-7, 3e3, 6e-5]));
value!(
    bf16,
    u16,
    0x7fda,
    0x7f81,
    |v| bf16::from_f32(v as f32),
    sizes(16.0, 1e2, 1e8, [1e30, 1e-30, 1e-39, 1e18, 3e-14])
);

/// The types of a problem: of x, of gamma and beta, of y.
pub(crate) trait Types: Clone + 'static {
    type X: Value + Element<Float = Self::F>;
    type G: Value + Companion<Self::X>;
    type Y: Value + Companion<Self::X>;
    /// The type that rows are computed in.
    type F: Value + Float;
    const NAME: &str;
    /// Long loops take one problem in this many.
    const ONE_OF: usize;
    /// Whether y has the type of x, and may lie where x does.
    const IN_PLACE: bool;

    /// `None` unless y has the type of x.
    fn in_place(x: RowsMut<'_, Self::X>) -> Option<Io<'_, Self::X, Self::Y>>;

    /// Whether a long loop takes problem number `number`.
    fn takes(number: usize) -> bool {
        let thinner = if quick() && Self::ONE_OF > 1 { 4 } else { 1 };
        number.is_multiple_of(Self::ONE_OF * thinner)
    }

    /// Whether this type leaves out a test that is slow under an emulator. f32 and f64 do not.
    fn is_left_out() -> bool {
        quick() && size_of::<Self::X>() == size_of::<u16>()
    }
}

pub(crate) type F32 = (f32, f32, f32);
pub(crate) type F64 = (f64, f64, f64);
pub(crate) type F16 = (f16, f16, f16);
pub(crate) type Bf16 = (bf16, bf16, bf16);

macro_rules! types {
    ($($x:ident $g:ident $y:ident, $float:ident, $one_of:literal, $in_place:expr;)*) => {$(
        impl Types for ($x, $g, $y) {
            type X = $x;
            type G = $g;
            type Y = $y;
            type F = $float;
            const NAME: &str = concat!(stringify!($x), " ", stringify!($g), " ", stringify!($y));
            const ONE_OF: usize = $one_of;
            const IN_PLACE: bool = size_of::<$x>() == size_of::<$y>();

            fn in_place(x: RowsMut<'_, $x>) -> Option<Io<'_, $x, $y>> {
                let in_place: fn(RowsMut<'_, $x>) -> Option<Io<'_, $x, $y>> = $in_place;
                in_place(x)
            }
        }
    )*};
}

types! {
    f32 f32 f32, f32, 1, |x| Some(Io::in_place(x));
    f64 f64 f64, f64, 4, |x| Some(Io::in_place(x));
    f16 f16 f16, f32, 4, |x| Some(Io::in_place(x));
    bf16 bf16 bf16, f32, 4, |x| Some(Io::in_place(x));
    f16 f32 f16, f32, 16, |x| Some(Io::in_place(x));
    bf16 f32 bf16, f32, 16, |x| Some(Io::in_place(x));
    f16 f16 f32, f32, 16, |_| None;
    bf16 bf16 f32, f32, 16, |_| None;
    f16 f32 f32, f32, 16, |_| None;
    bf16 f32 f32, f32, 16, |_| None;
    f32 f16 f32, f32, 16, |x| Some(Io::in_place(x));
    f32 bf16 bf16, f32, 16, |_| None;
}

/// Makes a test of each function for each of the types, in a module of the function's name.
macro_rules! stamp {
    ($test:ident: $($name:ident = $types:ty,)+) => {
        mod $test {
            use lanenorm::{bf16, f16};

            $(
                #[test]
                fn $name() {
                    super::$test::<$types>();
                }
            )+
        }
    };
}

/// Tests of functions that are generic over [`Types`], for every type of rows.
macro_rules! for_every_type {
    (@$then:ident $($test:ident)?) => {
        $then! {
            $($test)?:
            f32 = (f32, f32, f32),
            f64 = (f64, f64, f64),
            f16 = (f16, f16, f16),
            bf16 = (bf16, bf16, bf16),
        }
    };
    ($($test:ident),+ $(,)?) => {
        $(for_every_type! { @stamp $test })+
    };
}

/// Tests for every type of rows, for f32 beside 16 bits, and for 16 bits beside f32.
macro_rules! for_all_types {
    ($($test:ident),+ $(,)?) => {$(
        stamp! {
            $test:
            f32 = (f32, f32, f32),
            f64 = (f64, f64, f64),
            f16 = (f16, f16, f16),
            bf16 = (bf16, bf16, bf16),
            f16_with_f32_gamma = (f16, f32, f16),
            bf16_with_f32_gamma = (bf16, f32, bf16),
            f16_into_f32 = (f16, f16, f32),
            bf16_into_f32 = (bf16, bf16, f32),
            f16_with_f32_gamma_into_f32 = (f16, f32, f32),
            bf16_with_f32_gamma_into_f32 = (bf16, f32, f32),
            f32_with_f16_gamma = (f32, f16, f32),
            f32_with_bf16_gamma_into_bf16 = (f32, bf16, bf16),
        }
    )+};
}

/// Tests of gradients, for every type of rows, for a gamma of f32 beside 16 bits, and for one of 16 bits beside f32.
/// The type of y makes no difference.
macro_rules! for_all_gradients {
    ($($test:ident),+ $(,)?) => {$(
        stamp! {
            $test:
            f32 = (f32, f32, f32),
            f64 = (f64, f64, f64),
            f16 = (f16, f16, f16),
            bf16 = (bf16, bf16, bf16),
            f16_with_f32_gamma = (f16, f32, f16),
            bf16_with_f32_gamma = (bf16, f32, bf16),
            f32_with_f16_gamma = (f32, f16, f32),
        }
    )+};
}
