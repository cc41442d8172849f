//! The types that kernels compute in.

use core::fmt::Debug;
use core::hint::black_box;
use core::ops::{Add, Mul, Neg, RangeInclusive, Sub};

use pulp::Simd;

use super::lanes::{FOLD_ROWS, Lanes};
use bytemuck::Pod;

/// The number of f64 registers that two f32 registers are widened to, on every tier.
pub(crate) const WIDE_REGS: usize = 4;

/// The number of registers that the virtual lanes of any type take on this tier.
#[inline(always)]
pub(crate) const fn regs<S: Simd>() -> usize {
    const { <f32 as Float>::LANES / S::F32_LANES }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A type that rows are computed in: f32, also for elements of 16 bits, or f64.
pub trait Float:
    Pod
    + sealed::Sealed
    + Debug
    + Default
    + PartialOrd
    + Into<f64>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Neg<Output = Self>
    + Send
    + Sync
{
    /// A register of a tier.
    type Reg<S: Lanes>: Copy + Debug;

    /// The number of virtual lanes on every tier.
    const LANES: usize;

    /// 0.
    const ZERO: Self;

    /// The canonical NaN.
    const NAN: Self;

    /// The element of a chunk from which each lane makes a second sum; `CHUNK` or more if there is none. f64 has half
    /// as many lanes as f32, and the error of a chain of additions grows with its length.
    const SECOND_BANK_AT: usize;

    /// The range of var + eps in which sums of squares are trusted.
    const TRUSTED: RangeInclusive<f64>;

    /// The factors of the slow path for rows above [`TRUSTED`](Self::TRUSTED), below it, and constant rows. With them
    /// f64 holds the squares of the rows. No factor is 1, which is the scale of the fast sums.
    const RESCALE: [f64; 3];

    /// The number of lanes of a register.
    fn lanes<S: Lanes>() -> usize;

    /// v rounded.
    fn from_f64(v: f64) -> Self;

    /// v exactly, in every floating-point environment.
    fn from_f32(v: f32) -> Self;

    /// Whether the number is 0 or -0, in every floating-point environment.
    fn is_zero(self) -> bool;

    /// v in every lane.
    fn splat<S: Lanes>(simd: S, v: Self) -> Self::Reg<S>;

    /// See [`Lanes::load`].
    #[doc(hidden)]
    unsafe fn load<S: Lanes>(simd: S, p: *const Self) -> Self::Reg<S>;

    /// See [`Lanes::store`].
    #[doc(hidden)]
    unsafe fn store<S: Lanes>(simd: S, p: *mut Self, v: Self::Reg<S>);

    /// See [`Lanes::stream`].
    #[doc(hidden)]
    unsafe fn stream<S: Lanes>(simd: S, p: *mut Self, v: Self::Reg<S>);

    /// a + b.
    fn plus<S: Lanes>(simd: S, a: Self::Reg<S>, b: Self::Reg<S>) -> Self::Reg<S>;

    /// a - b.
    fn minus<S: Lanes>(simd: S, a: Self::Reg<S>, b: Self::Reg<S>) -> Self::Reg<S>;

    /// a * b.
    fn times<S: Lanes>(simd: S, a: Self::Reg<S>, b: Self::Reg<S>) -> Self::Reg<S>;

    /// See [`Lanes::fma`].
    fn fma<S: Lanes>(simd: S, a: Self::Reg<S>, b: Self::Reg<S>, c: Self::Reg<S>) -> Self::Reg<S>;

    /// See [`Lanes::fold`].
    fn fold<S: Lanes>(simd: S, v: Self::Reg<S>) -> Self;

    /// See [`Lanes::fold_rows`].
    fn fold_rows<S: Lanes>(simd: S, v: &[Self::Reg<S>; FOLD_ROWS]) -> [Self; FOLD_ROWS];

    /// See [`Lanes::widen`].
    fn widen<S: Lanes>(simd: S, v: &[Self; FOLD_ROWS]) -> [f64; FOLD_ROWS];

    /// See [`Lanes::narrow`].
    fn narrow<S: Lanes>(simd: S, v: &[f64; FOLD_ROWS]) -> [Self; FOLD_ROWS];

    /// Two registers widened to f64. Registers of f64 stay as they are, in the first two.
    #[doc(hidden)]
    fn to_f64s<S: Lanes>(simd: S, v: [Self::Reg<S>; 2]) -> [S::f64s; WIDE_REGS];

    /// The inverse of [`to_f64s`](Self::to_f64s), rounded.
    #[doc(hidden)]
    fn from_f64s<S: Lanes>(simd: S, v: [S::f64s; WIDE_REGS]) -> [Self::Reg<S>; 2];

    /// Whether a lane is NaN.
    fn any_nan<S: Lanes>(simd: S, v: Self::Reg<S>) -> bool;

    /// a where `choice` is not zero, else b.
    fn select_nonzero<S: Lanes>(simd: S, choice: Self::Reg<S>, a: Self::Reg<S>, b: Self::Reg<S>) -> Self::Reg<S>;
}

impl Float for f32 {
    type Reg<S: Lanes> = S::f32s;

    const LANES: usize = 32;
    const ZERO: Self = 0.0;
    const NAN: Self = Self::NAN;
    const SECOND_BANK_AT: usize = usize::MAX;
    /// From 2^-90 to 2^120: no square that matters has under- or overflowed, and rstd is normal.
    const TRUSTED: RangeInclusive<f64> = 8.077935669463161e-28..=1.329227995784916e36;
    const RESCALE: [f64; 3] = [0.5; 3];

    #[inline(always)]
    fn lanes<S: Lanes>() -> usize {
        S::F32_LANES
    }

    #[inline(always)]
    fn from_f64(v: f64) -> Self {
        v as Self
    }

    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        v
    }

    #[inline(always)]
    fn is_zero(self) -> bool {
        // Opaque, or the compiler makes a comparison of floats of it.
        black_box(self.to_bits()) << 1 == 0
    }

    #[inline(always)]
    fn splat<S: Lanes>(simd: S, v: Self) -> S::f32s {
        simd.splat_f32s(v)
    }

    #[inline(always)]
    unsafe fn load<S: Lanes>(simd: S, p: *const Self) -> S::f32s {
        simd.load(p)
    }

    #[inline(always)]
    unsafe fn store<S: Lanes>(simd: S, p: *mut Self, v: S::f32s) {
        simd.store(p, v);
    }

    #[inline(always)]
    unsafe fn stream<S: Lanes>(simd: S, p: *mut Self, v: S::f32s) {
        simd.stream(p, v);
    }

    #[inline(always)]
    fn plus<S: Lanes>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.add_f32s(a, b)
    }

    #[inline(always)]
    fn minus<S: Lanes>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.sub_f32s(a, b)
    }

    #[inline(always)]
    fn times<S: Lanes>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.mul_f32s(a, b)
    }

    #[inline(always)]
    fn fma<S: Lanes>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
        simd.fma(a, b, c)
    }

    #[inline(always)]
    fn fold<S: Lanes>(simd: S, v: S::f32s) -> Self {
        simd.fold(v)
    }

    #[inline(always)]
    fn fold_rows<S: Lanes>(simd: S, v: &[S::f32s; FOLD_ROWS]) -> [Self; FOLD_ROWS] {
        simd.fold_rows(v)
    }

    #[inline(always)]
    fn widen<S: Lanes>(simd: S, v: &[Self; FOLD_ROWS]) -> [f64; FOLD_ROWS] {
        simd.widen(v)
    }

    #[inline(always)]
    fn narrow<S: Lanes>(simd: S, v: &[f64; FOLD_ROWS]) -> [Self; FOLD_ROWS] {
        simd.narrow(v)
    }

    #[inline(always)]
    fn to_f64s<S: Lanes>(simd: S, v: [S::f32s; 2]) -> [S::f64s; WIDE_REGS] {
        let mut wide = [simd.splat_f64s(0.0); WIDE_REGS];
        let (parts, to): (&[[Self; FOLD_ROWS]], &mut [[f64; FOLD_ROWS]]) =
            (bytemuck::cast_slice(&v), bytemuck::cast_slice_mut(&mut wide));
        for (to, part) in to.iter_mut().zip(parts) {
            *to = simd.widen(part);
        }
        wide
    }

    #[inline(always)]
    fn from_f64s<S: Lanes>(simd: S, v: [S::f64s; WIDE_REGS]) -> [S::f32s; 2] {
        let mut narrow = [simd.splat_f32s(0.0); 2];
        let (parts, to): (&[[f64; FOLD_ROWS]], &mut [[Self; FOLD_ROWS]]) =
            (bytemuck::cast_slice(&v), bytemuck::cast_slice_mut(&mut narrow));
        for (to, part) in to.iter_mut().zip(parts) {
            *to = simd.narrow(part);
        }
        narrow
    }

    #[inline(always)]
    fn any_nan<S: Lanes>(simd: S, v: S::f32s) -> bool {
        simd.first_true_m32s(simd.not_m32s(simd.equal_f32s(v, v))) < S::F32_LANES
    }

    #[inline(always)]
    fn select_nonzero<S: Lanes>(simd: S, choice: S::f32s, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.select_f32s(simd.equal_f32s(choice, simd.splat_f32s(0.0)), b, a)
    }
}

impl Float for f64 {
    type Reg<S: Lanes> = S::f64s;

    const LANES: usize = 16;
    const ZERO: Self = 0.0;
    const NAN: Self = Self::NAN;
    const SECOND_BANK_AT: usize = 512;
    /// From 2^-960 to 2^1000, for the same reasons as in f32.
    const TRUSTED: RangeInclusive<f64> = 1.0261342003245941e-289..=1.0715086071862673e301;
    /// 2^-560 and 2^700: the largest squares come down to 2^928, and the smallest up to 2^-748.
    const RESCALE: [f64; 3] = [2.6497349136889905e-169, 5.260135901548374e+210, 0.25];

    #[inline(always)]
    fn lanes<S: Lanes>() -> usize {
        S::F64_LANES
    }

    #[inline(always)]
    fn from_f64(v: f64) -> Self {
        v
    }

    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        const MANTISSA: u32 = 0x7f_ffff;
        const SIGN: u32 = 1 << 31;
        const LEAST_SUBNORMAL: f64 = f64::from_bits((1023 - 149) << 52);
        let bits = black_box(v.to_bits());
        if bits & !(MANTISSA | SIGN) == 0 {
            // Where subnormal operands count as zeros, a conversion would lose the number.
            let magnitude = f64::from(bits & MANTISSA) * LEAST_SUBNORMAL;
            if bits & SIGN == 0 { magnitude } else { -magnitude }
        } else {
            f64::from(v)
        }
    }

    #[inline(always)]
    fn is_zero(self) -> bool {
        // Opaque, or the compiler makes a comparison of floats of it.
        black_box(self.to_bits()) << 1 == 0
    }

    #[inline(always)]
    fn splat<S: Lanes>(simd: S, v: Self) -> S::f64s {
        simd.splat_f64s(v)
    }

    #[inline(always)]
    unsafe fn load<S: Lanes>(simd: S, p: *const Self) -> S::f64s {
        simd.load(p)
    }

    #[inline(always)]
    unsafe fn store<S: Lanes>(simd: S, p: *mut Self, v: S::f64s) {
        simd.store(p, v);
    }

    #[inline(always)]
    unsafe fn stream<S: Lanes>(simd: S, p: *mut Self, v: S::f64s) {
        simd.stream(p, v);
    }

    #[inline(always)]
    fn plus<S: Lanes>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.add_f64s(a, b)
    }

    #[inline(always)]
    fn minus<S: Lanes>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.sub_f64s(a, b)
    }

    #[inline(always)]
    fn times<S: Lanes>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.mul_f64s(a, b)
    }

    #[inline(always)]
    fn fma<S: Lanes>(simd: S, a: S::f64s, b: S::f64s, c: S::f64s) -> S::f64s {
        simd.fma_f64(a, b, c)
    }

    #[inline(always)]
    fn fold<S: Lanes>(simd: S, v: S::f64s) -> Self {
        simd.fold_f64(v)
    }

    #[inline(always)]
    fn fold_rows<S: Lanes>(simd: S, v: &[S::f64s; FOLD_ROWS]) -> [Self; FOLD_ROWS] {
        let mut folded = [0.0; FOLD_ROWS];
        for k in 0..FOLD_ROWS {
            folded[k] = simd.fold_f64(v[k]);
        }
        folded
    }

    #[inline(always)]
    fn widen<S: Lanes>(_: S, v: &[Self; FOLD_ROWS]) -> [f64; FOLD_ROWS] {
        *v
    }

    #[inline(always)]
    fn narrow<S: Lanes>(_: S, v: &[f64; FOLD_ROWS]) -> [Self; FOLD_ROWS] {
        *v
    }

    #[inline(always)]
    fn to_f64s<S: Lanes>(_: S, [a, b]: [S::f64s; 2]) -> [S::f64s; WIDE_REGS] {
        [a, b, a, b]
    }

    #[inline(always)]
    fn from_f64s<S: Lanes>(_: S, [a, b, ..]: [S::f64s; WIDE_REGS]) -> [S::f64s; 2] {
        [a, b]
    }

    #[inline(always)]
    fn any_nan<S: Lanes>(simd: S, v: S::f64s) -> bool {
        simd.first_true_m64s(simd.not_m64s(simd.equal_f64s(v, v))) < S::F64_LANES
    }

    #[inline(always)]
    fn select_nonzero<S: Lanes>(simd: S, choice: S::f64s, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.select_f64s(simd.equal_f64s(choice, simd.splat_f64s(0.0)), b, a)
    }
}
