//! The types of elements, and how the virtual lanes take them.
//!
//! A *step* of the loops takes two elements for each virtual lane, a *pair of registers* at a time.
//!
//! - f32, f64, f16: the elements `i` and `i + LANES` of a step belong to lane `i`.
//! - bf16: the elements `2 * i` and `2 * i + 1` do. See [`Bf16Lanes`](crate::simd::Bf16Lanes).
//!
//! Where the order of the elements makes no difference, pairs of registers are taken as they come cheapest: as the two
//! registers of consecutive elements, or as their even and odd ones.

#[macro_use]
mod consecutive;
mod of_bf16;
mod of_f16;
mod of_floats;

use core::fmt::Debug;

use bytemuck::Pod;
use half::{bf16, f16};

use crate::simd::{Float, Functions, Lanes};
use crate::table::Dtype;

/// Two registers of elements in the type that they are computed in.
pub(crate) type Pair<S, T> = [Reg<S, T>; 2];

/// One of the two registers of a [`Pair`].
pub(crate) type Reg<S, T> = <<T as Storage>::Float as Float>::Reg<S>;

/// How a vector is kept beside rows of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// In the type of the elements.
    Own,
    /// In f32.
    Wide,
    /// In f32, in the order of the pairs of registers.
    Packed,
}

/// No register of it lies across two cache lines.
#[repr(align(64))]
struct Aligned<V>(V);

/// How elements of a type are stored, and how the virtual lanes take them. [`Element`](crate::Element) is the name for
/// callers.
///
/// The hidden items are what the kernels do with a pair of registers. Where an item takes a pointer `p`, the elements
/// that it names must be there. Tails have `n` elements, at most as many as a pair, and `fill` in the lanes beyond.
pub trait Storage: Pod + Addend<Self> + Debug + PartialEq + Send + Sync {
    /// The type that rows of these elements are computed in, and that their statistics have.
    type Float: Functions;

    /// The type in the table of kernels.
    const DTYPE: Dtype;

    /// The elements that one step of the loops takes: one pair for each virtual lane.
    #[doc(hidden)]
    const STEP: usize = 2 * <Self::Float as Float>::LANES;

    /// Whether the type is narrower than [`Float`](Self::Float), so that storing rounds.
    #[doc(hidden)]
    const ROUNDS: bool;

    /// Whether a call for one row has a loop of its own. Rows go through it as through the loops of layer
    /// normalization or of RMS normalization, and not through loops for both.
    #[doc(hidden)]
    const SINGLE_ROWS: bool = true;

    /// Whether streamed rows have fused loops of their own, which prefetch more. In the common loops that would spill
    /// registers.
    #[doc(hidden)]
    const STREAMS_APART: bool = false;

    /// Whether the two registers of a pair hold the even and the odd ones of consecutive elements.
    #[doc(hidden)]
    const SPLITS: bool = false;

    /// Whether rows may have buffers of 16 bits beside them, which the type can hold exactly. Loops see none of these:
    /// see `ops::mixed`.
    #[doc(hidden)]
    const MIXES: bool = false;

    /// The number of samples in a run.
    #[doc(hidden)]
    const RUN: usize;

    /// A step of elements that are 1, and a step of elements that are -0: they stand in for an absent gamma and beta.
    #[doc(hidden)]
    fn step_of_ones() -> &'static [Self];
    #[doc(hidden)]
    fn step_of_negative_zeros() -> &'static [Self];

    /// The element, exactly.
    #[doc(hidden)]
    fn to_computed(self) -> Self::Float;

    /// Rounded to nearest even.
    #[doc(hidden)]
    fn from_computed(v: Self::Float) -> Self;

    /// Whether the sum with a finite offset is finite.
    #[doc(hidden)]
    fn is_finite_with(self, offset: Self::Float) -> bool;

    /// Where pair `j` of a step starts.
    #[doc(hidden)]
    fn simd_pair_start<S: Lanes>(j: usize) -> usize;

    /// Where pair `j` of a step ends.
    #[doc(hidden)]
    #[inline(always)]
    fn simd_pair_end<S: Lanes>(j: usize) -> usize {
        let lanes = Self::Float::lanes::<S>();
        Self::simd_pair_start::<S>(j) + if Self::SPLITS { 2 * lanes } else { Self::Float::LANES + lanes }
    }

    /// Pair `j` of the step at `p`.
    #[doc(hidden)]
    unsafe fn simd_load_lanes<S: Lanes>(simd: S, p: *const Self, j: usize) -> Pair<S, Self>;

    /// Pair `j` of the step at `p`, where the step has only `n` elements.
    #[doc(hidden)]
    unsafe fn simd_load_lanes_tail<S: Lanes>(
        simd: S,
        p: *const Self,
        j: usize,
        n: usize,
        fill: <Self::Float as Float>::Reg<S>,
    ) -> Pair<S, Self>;

    /// Pair `j` of a step that is made of runs of [`RUN`](Self::RUN) elements.
    #[doc(hidden)]
    unsafe fn simd_load_runs<S: Lanes>(simd: S, p: *const Self, stride: usize, j: usize) -> Pair<S, Self>;

    /// Elements rounded to this type. The caller has the duty that [`F16Lanes::round_f16`](super::F16Lanes::round_f16)
    /// names.
    #[doc(hidden)]
    unsafe fn simd_round<S: Lanes>(simd: S, v: Pair<S, Self>) -> Pair<S, Self>;

    /// A pair of consecutive elements.
    #[doc(hidden)]
    unsafe fn simd_load<S: Lanes>(simd: S, p: *const Self) -> Pair<S, Self>;

    #[doc(hidden)]
    unsafe fn simd_load_tail<S: Lanes>(
        simd: S,
        p: *const Self,
        n: usize,
        fill: <Self::Float as Float>::Reg<S>,
    ) -> Pair<S, Self>;

    /// A pair of consecutive elements, from element `i` of a vector of the given format.
    #[doc(hidden)]
    unsafe fn simd_load_beside<S: Lanes>(simd: S, p: *const Self, format: Format, i: usize) -> Pair<S, Self>;

    #[doc(hidden)]
    unsafe fn simd_load_beside_tail<S: Lanes>(
        simd: S,
        p: *const Self,
        format: Format,
        i: usize,
        n: usize,
    ) -> Pair<S, Self>;

    /// The inverse of [`simd_load`](Self::simd_load): stores to element `i` of a vector of this type or, if `wide`, of
    /// f32.
    #[doc(hidden)]
    unsafe fn simd_store_beside<S: Lanes, const STREAM: bool>(
        simd: S,
        p: *mut Self,
        wide: bool,
        i: usize,
        v: Pair<S, Self>,
    );

    #[doc(hidden)]
    unsafe fn simd_store_beside_tail<S: Lanes>(simd: S, p: *mut Self, wide: bool, i: usize, n: usize, v: Pair<S, Self>);

    /// A pair in the order that [`simd_load`](Self::simd_load) gives, from a vector of [`Float`](Self::Float) that is
    /// kept in that order.
    #[doc(hidden)]
    #[inline(always)]
    unsafe fn simd_load_computed<S: Lanes>(simd: S, p: *const Self::Float) -> Pair<S, Self> {
        [Self::Float::load(simd, p), Self::Float::load(simd, p.add(Self::Float::lanes::<S>()))]
    }

    /// The inverse of [`simd_load_computed`](Self::simd_load_computed).
    #[doc(hidden)]
    #[inline(always)]
    unsafe fn simd_store_computed<S: Lanes>(simd: S, p: *mut Self::Float, [a, b]: Pair<S, Self>) {
        Self::Float::store(simd, p, a);
        Self::Float::store(simd, p.add(Self::Float::lanes::<S>()), b);
    }

    /// Pair `j` of the step at `p` as [`simd_load_lanes`](Self::simd_load_lanes) gives it, from a vector that
    /// [`simd_load_computed`](Self::simd_load_computed) reads.
    #[doc(hidden)]
    #[inline(always)]
    unsafe fn simd_load_lanes_computed<S: Lanes>(simd: S, p: *const Self::Float, j: usize) -> Pair<S, Self> {
        let apart = if Self::SPLITS { Self::Float::lanes::<S>() } else { Self::Float::LANES };
        let p = p.add(Self::simd_pair_start::<S>(j));
        [Self::Float::load(simd, p), Self::Float::load(simd, p.add(apart))]
    }

    /// A pair in the order of the elements.
    #[doc(hidden)]
    #[inline(always)]
    fn simd_in_order<S: Lanes>(_: S, v: Pair<S, Self>) -> Pair<S, Self> {
        v
    }

    /// A pair to a packed vector, if the type rounds.
    #[doc(hidden)]
    unsafe fn simd_store_packed<S: Lanes>(simd: S, p: *mut f32, v: Pair<S, Self>);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// The type of a buffer beside rows, as a value: see [`Companion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The type of the rows.
    Own,
    /// f32, beside rows of 16 bits.
    F32,
    /// f16, beside rows of f32.
    F16,
    /// bf16, beside rows of f32.
    Bf16,
}

impl Kind {
    /// The type, beside rows of `T`.
    #[inline(always)]
    pub fn dtype<T: Storage>(self) -> Dtype {
        match self {
            Self::Own => T::DTYPE,
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }

    /// The size of an element, beside rows of `T`.
    #[inline(always)]
    pub fn size<T>(self) -> usize {
        match self {
            Self::Own => size_of::<T>(),
            Self::F32 => size_of::<f32>(),
            Self::F16 | Self::Bf16 => size_of::<u16>(),
        }
    }

    /// Whether it is a type of 16 bits beside rows of f32.
    #[inline(always)]
    pub(crate) fn is_narrow(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16)
    }

    /// `v` rounded to this type, beside rows of `T`.
    pub(crate) fn rounded<T: Storage>(self, v: T::Float) -> T::Float {
        let rounded = |v: T::Float, round: fn(f32) -> f32| {
            // Only rows that are computed in f32 have other types beside them.
            let v: f64 = v.into();
            T::Float::from_f32(round(v as f32))
        };
        match self {
            Self::Own => T::from_computed(v).to_computed(),
            Self::F32 => v,
            Self::F16 => rounded(v, |v| f16::from_computed(v).to_computed()),
            Self::Bf16 => rounded(v, |v| bf16::from_computed(v).to_computed()),
        }
    }

    /// Where element `i` is, of elements of this kind that start at `p`.
    ///
    /// # Safety
    /// - There are at least `i` elements.
    #[inline(always)]
    pub(crate) unsafe fn at<T>(self, p: *const T, i: usize) -> *const T {
        p.byte_add(i * self.size::<T>())
    }
}

/// A type that gamma, beta and y may have beside an x of type `T`: `T` itself, f32 beside 16 bits, or 16 bits beside
/// f32.
#[diagnostic::on_unimplemented(
    message = "a buffer of `{Self}` cannot go with rows of `{T}`",
    label = "expected the type of the rows, f32 beside rows of 16 bits, or 16 bits beside rows of f32",
    note = "where no f64 was meant: a number without a suffix may be one, and `1.0f32` is not"
)]
pub trait Companion<T>: Pod + sealed::Sealed {
    /// The type as a value.
    const KIND: Kind;

    /// The canonical NaN.
    const NAN: Self;
}

/// A type that x may have where it is added to a residual of type `R`: `R` itself, or 16 bits beside f32.
#[diagnostic::on_unimplemented(
    message = "elements of `{Self}` cannot be added to elements of `{R}`",
    label = "expected elements of one type, or elements of 16 bits added to f32"
)]
pub trait Addend<R>: Companion<R> {}

impl Companion<Self> for f32 {
    const KIND: Kind = Kind::Own;
    const NAN: Self = Self::NAN;
}

impl Companion<f32> for f16 {
    const KIND: Kind = Kind::F16;
    const NAN: Self = Self::NAN;
}

impl Companion<f32> for bf16 {
    const KIND: Kind = Kind::Bf16;
    const NAN: Self = Self::NAN;
}

impl Companion<Self> for f64 {
    const KIND: Kind = Kind::Own;
    const NAN: Self = Self::NAN;
}

impl Companion<Self> for f16 {
    const KIND: Kind = Kind::Own;
    const NAN: Self = Self::NAN;
}

impl Companion<f16> for f32 {
    const KIND: Kind = Kind::F32;
    const NAN: Self = Self::NAN;
}

impl Companion<Self> for bf16 {
    const KIND: Kind = Kind::Own;
    const NAN: Self = Self::NAN;
}

impl Companion<bf16> for f32 {
    const KIND: Kind = Kind::F32;
    const NAN: Self = Self::NAN;
}

impl Addend<Self> for f32 {}
impl Addend<f32> for f16 {}
impl Addend<f32> for bf16 {}
impl Addend<Self> for f64 {}
impl Addend<Self> for f16 {}
impl Addend<Self> for bf16 {}
