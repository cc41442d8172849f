//! The exponential function, and the functions of gates that are made of it.
//!
//! ```text
//! sigmoid(z)   = 1 / (1 + e^-z)
//! silu(z)      = z * sigmoid(z)
//! gelu_tanh(z) = z * sigmoid(u),    u = 2 * sqrt(2 / pi) * (z + 0.044715 * z^3)
//! ```
//!
//! **The exponential.** n is v / ln 2 rounded to an integer, and r = v - n * ln 2, so that e^v = 2^n * e^r and |r| is
//! at most ln 2 / 2. ln 2 is the sum of two numbers. In a fused multiply-add the product with the first is exact, and
//! so is the difference, whose digits cancel; the product with the second corrects r. 2^n is added to the exponent of
//! e^r, as an integer. (Cody and Waite, "Software Manual for the Elementary Functions", 1980.)
//!
//! **The polynomial** is e^r = 1 + r * (1 + r * q(r)). The coefficients of q minimize the largest relative error on
//! |r| <= ln 2 / 2: they come from Remez exchange in numbers of 400 bits, rounded to the float, and from a search over
//! their last digits. That error is 2^-28.2 in f32 and 2^-57.4 in f64, a twentieth of half a unit in the last place of
//! 1. q is taken by pairs of coefficients, in powers of r^2: a shorter chain of operations than Horner's rule.
//!
//! **The ends of the range.** 2^n may lie outside the range of the float, where e^v is infinite, subnormal or zero. So
//! what is added to the exponent is n + [`LIFT`](Functions::LIFT), or n - LIFT for positive v, and one multiplication
//! by a power of two makes up for it. That multiplication rounds subnormal numbers alone. v is clamped to where e^v is
//! infinite or zero.
//!
//! **Gates** take e^-|u|, which does not overflow, and no difference of numbers that are nearly equal:
//!
//! ```text
//! sigmoid(u) = 1 / (1 + e^-|u|)  for u >= 0,    e^-|u| / (1 + e^-|u|)  for u < 0
//! ```
//!
//! The numerator of a gate, z * e^-|u|, is multiplied while e^-|u| is lifted. So silu has all its digits also where
//! e^-|u| is subnormal and silu is not.
//!
//! **Derivatives** come with the value, from one exponential. The value has the bits that the function alone gives.
//! With e = e^-|u| and w = z * du/dz (which is z for silu):
//!
//! ```text
//! (z * sigmoid(u))' = (1 + e + w * e) / (1 + e)^2  for u >= 0,    (e * (1 + e) + w * e) / (1 + e)^2  for u < 0
//! ```
//!
//! All operations are rounded correctly, so that all tiers give the same bits. NaN gives the canonical NaN. Where a
//! formula multiplies infinity by zero, the result is NaN as in `PyTorch` 2.15: a gate at -inf, and its derivative at
//! both infinities.
//!
//! **Errors** are given in units in the last place (ulp) of the exact result, or of 1. Those of f32 are the largest of
//! all numbers, those of f64 the largest of 40,000 numbers.

use core::f32::consts as of_f32;
use core::f64::consts as of_f64;

use super::float::Float;
use super::lanes::Lanes;

/// The functions that gates are made of.
pub trait Functions: Float {
    /// Infinity.
    const INFINITY: Self;

    /// 1.
    #[doc(hidden)]
    const ONE: Self;

    /// log2(e).
    #[doc(hidden)]
    const LOG2_E: Self;

    /// Minus ln 2 as a sum, its greater part first.
    #[doc(hidden)]
    const MINUS_LN_2: [Self; 2];

    /// The coefficients of q in e^r = 1 + r * (1 + r * q(r)), from the constant one on.
    #[doc(hidden)]
    const EXP: &'static [Self];

    /// The magnitude beyond which e^v is infinite or zero, and v * e^v is zero if v is negative.
    #[doc(hidden)]
    const LIMIT: Self;

    /// 1.5 * 2^m where m is the number of bits of a mantissa. A number that is added to it is rounded to an integer,
    /// which is in the last bits of the sum.
    #[doc(hidden)]
    const ROUND: Self;

    /// What is added to the exponent of e^v to keep it normal, in magnitude.
    #[doc(hidden)]
    const LIFT: Self;

    /// 2^`LIFT` and 2^-`LIFT`.
    #[doc(hidden)]
    const LIFTED: [Self; 2];

    /// The factors of z and z^3 in the argument u of [`gelu_tanh`](Self::gelu_tanh).
    #[doc(hidden)]
    const GELU: [Self; 2];

    /// The magnitude of z beyond which the argument of [`gelu_tanh`](Self::gelu_tanh) passes [`LIMIT`](Self::LIMIT).
    #[doc(hidden)]
    const GELU_LIMIT: Self;

    /// a / b.
    fn over<S: Lanes>(simd: S, a: Self::Reg<S>, b: Self::Reg<S>) -> Self::Reg<S>;

    /// The greater of v and a bound that is not zero. Where v is NaN, it depends on the tier.
    #[doc(hidden)]
    fn at_least<S: Lanes>(simd: S, v: Self::Reg<S>, bound: Self) -> Self::Reg<S>;

    /// The smaller of v and a bound that is not zero. Where v is NaN, it depends on the tier.
    #[doc(hidden)]
    fn at_most<S: Lanes>(simd: S, v: Self::Reg<S>, bound: Self) -> Self::Reg<S>;

    /// -|v|.
    fn minus_abs<S: Lanes>(simd: S, v: Self::Reg<S>) -> Self::Reg<S>;

    /// `yes` where the sign of v is that of -0 and negative numbers, else `no`. This costs less than a comparison.
    #[doc(hidden)]
    fn select_negative<S: Lanes>(simd: S, v: Self::Reg<S>, yes: Self::Reg<S>, no: Self::Reg<S>) -> Self::Reg<S>;

    /// `yes` where a > b, else `no`: also where a or b is NaN.
    fn select_greater<S: Lanes>(
        simd: S,
        a: Self::Reg<S>,
        b: Self::Reg<S>,
        yes: Self::Reg<S>,
        no: Self::Reg<S>,
    ) -> Self::Reg<S>;

    /// v * 2^k where `rounded` is [`ROUND`](Self::ROUND) + k. Both v and the result are normal.
    #[doc(hidden)]
    fn times_power<S: Lanes>(simd: S, v: Self::Reg<S>, rounded: Self::Reg<S>) -> Self::Reg<S>;

    /// e^v, also where it is subnormal. The error is at most 0.92 ulp in f32 (and 1.3 * 2^-24 of the result), and 0.81
    /// ulp in f64.
    #[inline(always)]
    fn exp<S: Lanes>(simd: S, v: Self::Reg<S>) -> Self::Reg<S> {
        let clamped = Self::at_most(simd, Self::at_least(simd, v, -Self::LIMIT), Self::LIMIT);
        let (up, down) = (Self::splat(simd, Self::ROUND + Self::LIFT), Self::splat(simd, Self::ROUND - Self::LIFT));
        let lifted = power::<S, Self>(simd, clamped, Self::select_negative(simd, v, up, down));
        let [up, down] = Self::LIFTED;
        let back = Self::select_negative(simd, v, Self::splat(simd, down), Self::splat(simd, up));
        or_nan::<S, Self>(simd, v, Self::times(simd, lifted, back))
    }

    /// 1 / (1 + e^-z). The error is at most 2.5 ulp in f32, and 2.3 ulp in f64.
    #[inline(always)]
    fn sigmoid<S: Lanes>(simd: S, z: Self::Reg<S>) -> Self::Reg<S> {
        sigmoid::<S, Self>(simd, z, &Decay::new(simd, z))
    }

    /// [`sigmoid`](Self::sigmoid) and its derivative, whose error is at most 4.3 ulp in f32, and 3.4 ulp in f64.
    #[inline(always)]
    fn sigmoid_with_derivative<S: Lanes>(simd: S, z: Self::Reg<S>) -> [Self::Reg<S>; 2] {
        let decay = Decay::<S, Self>::new(simd, z);
        let e = Self::times(simd, decay.lifted, Self::splat(simd, Self::LIFTED[1]));
        let derivative = Self::over(simd, e, Self::times(simd, decay.plus_1, decay.plus_1));
        [sigmoid::<S, Self>(simd, z, &decay), or_nan::<S, Self>(simd, z, derivative)]
    }

    /// z * sigmoid(z), also called swish: NaN at -inf. The error is at most 3.4 ulp in f32, and 2.4 ulp in f64.
    #[inline(always)]
    fn silu<S: Lanes>(simd: S, z: Self::Reg<S>) -> Self::Reg<S> {
        let decay = Decay::<S, Self>::new(simd, z);
        gate::<S, Self>(simd, z, decay.exponent, &decay)
    }

    /// [`silu`](Self::silu) and its derivative, which is NaN at both infinities. The error of the derivative is at most
    /// 2.1 ulp of 1 in f32, and 1.8 in f64: close to its zero at z = -1.278, two terms cancel each other.
    #[inline(always)]
    fn silu_with_derivative<S: Lanes>(simd: S, z: Self::Reg<S>) -> [Self::Reg<S>; 2] {
        let clamped = Self::at_most(simd, Self::at_least(simd, z, -Self::LIMIT), Self::LIMIT);
        let decay = Decay::<S, Self>::new(simd, clamped);
        let derivative = gate_derivative::<S, Self>(simd, z, clamped, &decay);
        [gate::<S, Self>(simd, z, clamped, &decay), derivative]
    }

    /// z * sigmoid(u) where u = 2 * sqrt(2 / pi) * (z + 0.044715 * z^3), which is z / 2 * (1 + tanh(u / 2)): NaN at
    /// -inf.
    ///
    /// The error is at most 1.6 ulp of the result or of 1, whichever is greater, in f32, and 1.4 in f64. Relative to
    /// results close to 0 it grows with |u|, since e^u has the error of u. It is up to 215 ulp of the result in f32,
    /// where z is -10 and the result -1e-36, and up to 1,000 ulp in f64.
    #[inline(always)]
    fn gelu_tanh<S: Lanes>(simd: S, z: Self::Reg<S>) -> Self::Reg<S> {
        let clamped = Self::at_least(simd, z, -Self::GELU_LIMIT);
        let square = Self::times(simd, clamped, clamped);
        let [a, b] = Self::GELU;
        let quotient = Self::fma(simd, square, Self::splat(simd, b), Self::splat(simd, a));
        let decay = Decay::<S, Self>::new(simd, Self::times(simd, clamped, quotient));
        gate::<S, Self>(simd, z, clamped, &decay)
    }

    /// [`gelu_tanh`](Self::gelu_tanh) and its derivative, which is NaN at both infinities. The error of the derivative
    /// is at most 2.3 ulp of 1 in f32, and 1.9 in f64.
    #[inline(always)]
    fn gelu_tanh_with_derivative<S: Lanes>(simd: S, z: Self::Reg<S>) -> [Self::Reg<S>; 2] {
        let clamped = Self::at_most(simd, Self::at_least(simd, z, -Self::GELU_LIMIT), Self::GELU_LIMIT);
        let square = Self::times(simd, clamped, clamped);
        let [a, b] = Self::GELU;
        let quotient = Self::fma(simd, square, Self::splat(simd, b), Self::splat(simd, a));
        let slope = Self::fma(simd, square, Self::splat(simd, b + b + b), Self::splat(simd, a));
        let decay = Decay::<S, Self>::new(simd, Self::times(simd, clamped, quotient));
        let derivative = gate_derivative::<S, Self>(simd, z, Self::times(simd, clamped, slope), &decay);
        [gate::<S, Self>(simd, z, clamped, &decay), derivative]
    }
}

/// e^v * 2^k, which must be normal. `round` is [`Functions::ROUND`] + k.
#[inline(always)]
fn power<S: Lanes, F: Functions>(simd: S, v: F::Reg<S>, round: F::Reg<S>) -> F::Reg<S> {
    let rounded = F::fma(simd, v, F::splat(simd, F::LOG2_E), round);
    let n = F::minus(simd, rounded, round);
    let r = F::fma(simd, n, F::splat(simd, F::MINUS_LN_2[0]), v);
    let r = F::fma(simd, n, F::splat(simd, F::MINUS_LN_2[1]), r);
    let square = F::times(simd, r, r);
    let mut p = F::splat(simd, F::ZERO);
    for (i, c) in F::EXP.chunks(2).rev().enumerate() {
        let pair = match *c {
            [a, b] => F::fma(simd, F::splat(simd, b), r, F::splat(simd, a)),
            _ => F::splat(simd, c[0]),
        };
        p = if i == 0 { pair } else { F::fma(simd, p, square, pair) };
    }
    let one = F::splat(simd, F::ONE);
    let p = F::fma(simd, F::fma(simd, p, r, one), r, one);
    F::times_power(simd, p, rounded)
}

/// e^-|u|, from which gates are made.
struct Decay<S: Lanes, F: Functions> {
    /// -|u|, but not below -[`LIMIT`](Functions::LIMIT).
    exponent: F::Reg<S>,
    /// e^-|u| * 2^[`LIFT`](Functions::LIFT).
    lifted: F::Reg<S>,
    /// 1 + e^-|u|.
    plus_1: F::Reg<S>,
}

impl<S: Lanes, F: Functions> Decay<S, F> {
    #[inline(always)]
    fn new(simd: S, u: F::Reg<S>) -> Self {
        let exponent = F::at_least(simd, F::minus_abs(simd, u), -F::LIMIT);
        let lifted = power::<S, F>(simd, exponent, F::splat(simd, F::ROUND + F::LIFT));
        let plus_1 = F::fma(simd, lifted, F::splat(simd, F::LIFTED[1]), F::splat(simd, F::ONE));
        Self { exponent, lifted, plus_1 }
    }
}

/// `v`, but NaN where z is NaN.
#[inline(always)]
fn or_nan<S: Lanes, F: Functions>(simd: S, z: F::Reg<S>, v: F::Reg<S>) -> F::Reg<S> {
    F::select_greater(simd, F::splat(simd, F::ONE), F::minus_abs(simd, z), v, F::splat(simd, F::NAN))
}

#[inline(always)]
fn sigmoid<S: Lanes, F: Functions>(simd: S, z: F::Reg<S>, decay: &Decay<S, F>) -> F::Reg<S> {
    let e = F::times(simd, decay.lifted, F::splat(simd, F::LIFTED[1]));
    let numerator = F::select_negative(simd, z, e, F::splat(simd, F::ONE));
    or_nan::<S, F>(simd, z, F::over(simd, numerator, decay.plus_1))
}

/// z * sigmoid(u). `negative` is z where z is negative and e^-|u| is not zero.
#[inline(always)]
fn gate<S: Lanes, F: Functions>(simd: S, z: F::Reg<S>, negative: F::Reg<S>, decay: &Decay<S, F>) -> F::Reg<S> {
    let product = F::times(simd, F::times(simd, negative, decay.lifted), F::splat(simd, F::LIFTED[1]));
    let numerator = F::select_negative(simd, z, product, z);
    let y = F::over(simd, numerator, decay.plus_1);
    F::select_greater(simd, z, F::splat(simd, -F::INFINITY), y, F::splat(simd, F::NAN))
}

/// The derivative of z * sigmoid(u). `w` is z * du/dz where e^-|u| is not zero, and finite elsewhere.
#[inline(always)]
fn gate_derivative<S: Lanes, F: Functions>(simd: S, z: F::Reg<S>, w: F::Reg<S>, decay: &Decay<S, F>) -> F::Reg<S> {
    let [one, down] = [F::splat(simd, F::LIFTED[0]), F::splat(simd, F::LIFTED[1])];
    let sigmoid = F::select_negative(simd, z, decay.lifted, one);
    let numerator = F::fma(simd, decay.lifted, w, F::times(simd, sigmoid, decay.plus_1));
    let square = F::times(simd, decay.plus_1, decay.plus_1);
    let derivative = F::over(simd, F::times(simd, numerator, down), square);
    let is_finite = F::minus_abs(simd, z);
    F::select_greater(simd, is_finite, F::splat(simd, -F::INFINITY), derivative, F::splat(simd, F::NAN))
}

impl Functions for f32 {
    const INFINITY: Self = Self::INFINITY;
    const ONE: Self = 1.0;
    const LOG2_E: Self = of_f32::LOG2_E;
    const MINUS_LN_2: [Self; 2] = [-of_f32::LN_2, 1.904_654_2e-9];
    const EXP: &'static [Self] = &[0.499_999_94, 0.166_665_21, 0.041_668_33, 0.008_368_707, 0.001_381_460_5];
    const LIMIT: Self = 120.0;
    const ROUND: Self = 12_582_912.0;
    const LIFT: Self = 64.0;
    const LIFTED: [Self; 2] = [18_446_744_073_709_551_616.0, 1.0 / 18_446_744_073_709_551_616.0];
    const GELU: [Self; 2] = [1.595_769_2, 0.071_354_814];
    const GELU_LIMIT: Self = 24.0;

    #[inline(always)]
    fn over<S: Lanes>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.div_f32s(a, b)
    }

    #[inline(always)]
    fn at_least<S: Lanes>(simd: S, v: S::f32s, bound: Self) -> S::f32s {
        simd.max_f32s(v, simd.splat_f32s(bound))
    }

    #[inline(always)]
    fn at_most<S: Lanes>(simd: S, v: S::f32s, bound: Self) -> S::f32s {
        simd.min_f32s(v, simd.splat_f32s(bound))
    }

    #[inline(always)]
    fn minus_abs<S: Lanes>(simd: S, v: S::f32s) -> S::f32s {
        simd.or_f32s(v, simd.splat_f32s(-0.0))
    }

    #[inline(always)]
    fn select_negative<S: Lanes>(simd: S, v: S::f32s, yes: S::f32s, no: S::f32s) -> S::f32s {
        simd.select_f32s(simd.less_than_i32s(simd.transmute_i32s_f32s(v), simd.splat_i32s(0)), yes, no)
    }

    #[inline(always)]
    fn select_greater<S: Lanes>(simd: S, a: S::f32s, b: S::f32s, yes: S::f32s, no: S::f32s) -> S::f32s {
        simd.select_f32s(simd.greater_than_f32s(a, b), yes, no)
    }

    #[inline(always)]
    fn times_power<S: Lanes>(simd: S, v: S::f32s, rounded: S::f32s) -> S::f32s {
        let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(rounded), simd.splat_u32s(23));
        simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(v), exponent))
    }
}

impl Functions for f64 {
    const INFINITY: Self = Self::INFINITY;
    const ONE: Self = 1.0;
    const LOG2_E: Self = of_f64::LOG2_E;
    const MINUS_LN_2: [Self; 2] = [-of_f64::LN_2, -2.3190468138462996e-17];
    const EXP: &'static [Self] = &[
        0.500_000_000_000_001_1,
        0.166_666_666_666_664_16,
        0.041_666_666_666_529_88,
        0.008_333_333_333_494_33,
        0.001_388_888_894_359_764_6,
        0.000_198_412_695_067_774_14,
        2.480_149_313_623_750_5e-5,
        2.755_758_626_852_047e-6,
        2.763_023_390_209_662e-7,
        2.500_007_161_494_080_6e-8,
    ];
    const LIMIT: Self = 800.0;
    const ROUND: Self = 6_755_399_441_055_744.0;
    const LIFT: Self = 512.0;
    const LIFTED: [Self; 2] = [Self::from_bits((1023 + 512) << 52), Self::from_bits((1023 - 512) << 52)];
    const GELU: [Self; 2] = [1.595_769_121_605_730_8, 0.071_354_816_272_600_25];
    const GELU_LIMIT: Self = 24.0;

    #[inline(always)]
    fn over<S: Lanes>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.div_f64s(a, b)
    }

    #[inline(always)]
    fn at_least<S: Lanes>(simd: S, v: S::f64s, bound: Self) -> S::f64s {
        simd.max_f64s(v, simd.splat_f64s(bound))
    }

    #[inline(always)]
    fn at_most<S: Lanes>(simd: S, v: S::f64s, bound: Self) -> S::f64s {
        simd.min_f64s(v, simd.splat_f64s(bound))
    }

    #[inline(always)]
    fn minus_abs<S: Lanes>(simd: S, v: S::f64s) -> S::f64s {
        simd.or_f64s(v, simd.splat_f64s(-0.0))
    }

    #[inline(always)]
    fn select_negative<S: Lanes>(simd: S, v: S::f64s, yes: S::f64s, no: S::f64s) -> S::f64s {
        simd.select_f64s(simd.less_than_i64s(simd.transmute_i64s_f64s(v), simd.splat_i64s(0)), yes, no)
    }

    #[inline(always)]
    fn select_greater<S: Lanes>(simd: S, a: S::f64s, b: S::f64s, yes: S::f64s, no: S::f64s) -> S::f64s {
        simd.select_f64s(simd.greater_than_f64s(a, b), yes, no)
    }

    /// By integers of 32 bits, since pulp shifts no others: k + 1.5 * 2^20 has k in the upper half of its bits, and
    /// zeros in the lower half.
    #[inline(always)]
    fn times_power<S: Lanes>(simd: S, v: S::f64s, rounded: S::f64s) -> S::f64s {
        const TO_UPPER_HALF: f64 = 1_572_864.0 - f64::ROUND;
        let upper: S::u32s = pulp::cast(simd.add_f64s(rounded, simd.splat_f64s(TO_UPPER_HALF)));
        let exponent = simd.wrapping_dyn_shl_u32s(upper, simd.splat_u32s(20));
        pulp::cast(simd.add_u32s(pulp::cast(v), exponent))
    }
}
