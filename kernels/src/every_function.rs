//! The functions of gates: each tier of this machine gives the bits of the portable one, errors stay below bounds, and
//! special numbers give what the functions promise.
//!
//! The sample has numbers of all magnitudes, and numbers at equal distances where the functions are neither constant
//! nor linear. The bounds for f32 are errors that were found once among all 2^32 numbers, rounded up. Those for numbers
//! up to -2 are twice the errors of the sample.

use std::vec;
use std::vec::Vec;

use bytemuck::Pod;

use crate::Isa;
use crate::every_loop::{bits, tiers};
use crate::reference;
use crate::simd::{Functions, Kernel, Lanes};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Exp,
    Sigmoid,
    Silu,
    GeluTanh,
}

use Function::{Exp, GeluTanh, Sigmoid, Silu};

const FUNCTIONS: [Function; 4] = [Exp, Sigmoid, Silu, GeluTanh];

/// The values of a function alone, and its values and derivatives together.
struct Each<'a, F> {
    function: Function,
    z: &'a [F],
    alone: &'a mut [F],
    value: &'a mut [F],
    derivative: &'a mut [F],
}

impl<F: Functions> Kernel for Each<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let n = F::lanes::<S>();
        let results = self.alone.chunks_exact_mut(n).zip(self.value.chunks_exact_mut(n));
        let results = results.zip(self.derivative.chunks_exact_mut(n));
        for (z, ((alone, value), derivative)) in self.z.chunks_exact(n).zip(results) {
            // SAFETY: each of these has as many elements as a register.
            unsafe {
                let z = F::load(simd, z.as_ptr());
                let (y, [v, d]) = match self.function {
                    Exp => (F::exp(simd, z), [F::exp(simd, z); 2]),
                    Sigmoid => (F::sigmoid(simd, z), F::sigmoid_with_derivative(simd, z)),
                    Silu => (F::silu(simd, z), F::silu_with_derivative(simd, z)),
                    GeluTanh => (F::gelu_tanh(simd, z), F::gelu_tanh_with_derivative(simd, z)),
                };
                F::store(simd, alone.as_mut_ptr(), y);
                F::store(simd, value.as_mut_ptr(), v);
                F::store(simd, derivative.as_mut_ptr(), d);
            }
        }
    }
}

/// The values and the derivatives of z. Values that come with derivatives have the bits of values alone.
fn evaluate<F: Functions>(isa: Isa, function: Function, z: &[F]) -> [Vec<F>; 2] {
    assert_eq!(z.len() % F::LANES, 0, "whole registers on every tier");
    let [mut alone, mut value, mut derivative] = [(); 3].map(|()| vec![F::ZERO; z.len()]);
    isa.run(Each { function, z, alone: &mut alone, value: &mut value, derivative: &mut derivative });
    assert_eq!(bits(&alone), bits(&value), "{isa}, {function:?}");
    [value, derivative]
}

/// What differs between the floats in these tests.
trait Tested: Functions {
    /// The bits of a mantissa, the implied one included.
    const DIGITS: i32;
    /// The exponents of the smallest subnormal, of the smallest normal, and of the greatest number.
    const EXPONENTS: [i32; 3];
    /// The magnitude of numbers between which the sample is dense.
    const DENSE: f64;
    /// Results below count as this number. The definition loses digits where a factor of it is subnormal in f64.
    const FLOOR: f64;
    /// Where it stands in [`Bound::bounds`].
    const COLUMN: usize;
}

impl Tested for f32 {
    const DIGITS: i32 = 24;
    const EXPONENTS: [i32; 3] = [-149, -126, 127];
    const DENSE: f64 = 110.0;
    const FLOOR: f64 = 0.0;
    const COLUMN: usize = 0;
}

impl Tested for f64 {
    const DIGITS: i32 = 53;
    const EXPONENTS: [i32; 3] = [-1074, -1022, 1023];
    const DENSE: f64 = 760.0;
    const FLOOR: f64 = 1e-300;
    const COLUMN: usize = 1;
}

fn power_of_two(exponent: i32) -> f64 {
    2f64.powi(exponent.max(-1000)) * 2f64.powi(exponent.min(-1000) + 1000)
}

/// A NaN whose sign and digits are not those of the canonical one.
fn other_nan<F: Pod>() -> F {
    bytemuck::pod_read_unaligned(&vec![0xff; size_of::<F>()])
}

fn sample<F: Tested>() -> Vec<F> {
    let (mantissas, steps) = if cfg!(miri) { (1, 100) } else { (16, 30_000) };
    let [least, _, greatest] = F::EXPONENTS;
    let mut z = vec![F::ZERO, -F::ZERO, F::NAN, -F::NAN, other_nan(), F::INFINITY, -F::INFINITY];
    for exponent in (least..=greatest).step_by(if cfg!(miri) { 20 } else { 1 }) {
        for k in 0..mantissas {
            // Multiples of the golden ratio are spread evenly.
            let magnitude = (1.0 + f64::from(k) * 0.618_033_988_749_894_9 % 1.0) * power_of_two(exponent);
            z.extend([F::from_f64(magnitude), F::from_f64(-magnitude)]);
        }
    }
    for range in [F::DENSE, 20.0, 3.0] {
        z.extend((0..=steps).map(|k| F::from_f64((f64::from(k) / f64::from(steps) * 2.0 - 1.0) * range)));
    }
    z.resize(z.len().next_multiple_of(F::LANES), F::ZERO);
    z
}

fn tiers_agree<F: Tested>() {
    let z = sample::<F>();
    for isa in tiers() {
        for function in FUNCTIONS {
            let (got, expected) = (evaluate(isa, function, &z), evaluate(Isa::SCALAR, function, &z));
            for (got, expected) in got.iter().zip(&expected) {
                for ((&z, &got), &expected) in z.iter().zip(got).zip(expected) {
                    assert_eq!(bits(&[got]), bits(&[expected]), "{isa}, {function:?}({z:?}): {got:?}, {expected:?}");
                }
            }
        }
    }
}

#[test]
fn tiers_agree_on_every_function_of_f32() {
    tiers_agree::<f32>();
}

#[test]
fn tiers_agree_on_every_function_of_f64() {
    tiers_agree::<f64>();
}

fn definition(function: Function, z: f64) -> [f64; 2] {
    match function {
        Exp => [z.exp(); 2],
        Sigmoid => [reference::sigmoid(z), reference::sigmoid_derivative(z)],
        Silu => [reference::silu(z), reference::silu_derivative(z)],
        GeluTanh => [reference::gelu_tanh(z), reference::gelu_tanh_derivative(z)],
    }
}

/// The largest error of a value (0) or a derivative (1) for z up to `up_to`.
struct Bound {
    function: Function,
    part: usize,
    up_to: f64,
    /// Errors count in units in the last place of the exact result, or of this number if that is greater in magnitude.
    floor: f64,
    /// Of f32, and of f64, where the definition in f64 has errors of its own.
    bounds: [f64; 2],
}

const fn bound(function: Function, part: usize, up_to: f64, floor: f64, bounds: [f64; 2]) -> Bound {
    Bound { function, part, up_to, floor, bounds }
}

const BOUNDS: [Bound; 10] = [
    bound(Exp, 0, f64::INFINITY, 0.0, [0.92, 2.0]),
    bound(Sigmoid, 0, f64::INFINITY, 0.0, [2.5, 4.0]),
    bound(Sigmoid, 1, f64::INFINITY, 0.0, [4.3, 6.0]),
    bound(Silu, 0, f64::INFINITY, 0.0, [3.4, 5.0]),
    // Close to the zero of the derivative, at -1.278, the error is that of the terms that cancel each other.
    bound(Silu, 1, f64::INFINITY, 1.0, [2.1, 3.0]),
    bound(Silu, 1, -2.0, 0.0, [8.0, 8.0]),
    // The error of u counts in full in e^u: relative to the result, it grows with |u|.
    bound(GeluTanh, 0, f64::INFINITY, 1.0, [1.6, 3.0]),
    bound(GeluTanh, 0, f64::INFINITY, 0.0, [216.0, 2000.0]),
    // A zero at -0.752.
    bound(GeluTanh, 1, f64::INFINITY, 1.0, [2.3, 4.0]),
    bound(GeluTanh, 1, -2.0, 0.0, [300.0, 4000.0]),
];

fn errors_are_bounded<F: Tested>() {
    let z = sample::<F>();
    for Bound { function, part, up_to, floor, bounds } in BOUNDS {
        let got = &evaluate(Isa::best(), function, &z)[part];
        let mut worst = (0.0, F::ZERO);
        for (&z, &got) in z.iter().zip(got) {
            let exact = definition(function, z.into())[part];
            if exact.is_nan() && z.into().is_finite() {
                // z^3 overflows in the definition of the derivative, and e^-u is 0.
                continue;
            }
            let rounded = F::from_f64(exact);
            if exact.is_nan() || rounded == F::INFINITY {
                let is_nan = bits(&[got]) == bits(&[F::NAN]);
                assert!(is_nan && exact.is_nan() || got == rounded, "{function:?}({z:?}): {got:?}, not {exact:e}");
            } else if z.into() <= up_to {
                let exponent =
                    ((exact.abs().max(floor).max(F::FLOOR).to_bits() >> 52) as i32 - 1023).max(F::EXPONENTS[1]);
                let error = (got.into() - exact).abs() / power_of_two(exponent + 1 - F::DIGITS);
                worst = if error.is_nan() || error > worst.0 { (error, z) } else { worst };
            }
        }
        let (error, at) = worst;
        let bound = bounds[F::COLUMN];
        assert!(error <= bound, "{function:?}, part {part}: {error} units at {at:?}, and not up to {bound}");
    }
}

#[test]
fn errors_of_every_function_are_bounded() {
    errors_are_bounded::<f32>();
    errors_are_bounded::<f64>();
}

/// The value and the derivative of one z, which are the same on all tiers.
fn one<F: Tested>(function: Function, z: F) -> [F; 2] {
    let z = vec![z; F::LANES];
    let [value, derivative] = evaluate(Isa::best(), function, &z);
    [value[0], derivative[0]]
}

fn special_numbers<F: Tested>(max: F, least: F) {
    let (inf, nan, half) = (F::INFINITY, F::NAN, F::from_f64(0.5));
    let expect = |function, z: F, expected: [F; 2]| {
        let got = one(function, z);
        assert_eq!(bits(&got), bits(&expected), "{function:?}({z:?}): {got:?}, not {expected:?}");
    };
    let (zero, one, quarter) = (F::ZERO, F::from_f64(1.0), F::from_f64(0.25));
    for z in [nan, -nan, other_nan()] {
        FUNCTIONS.iter().for_each(|&function| expect(function, z, [nan; 2]));
    }
    for z in [zero, -zero] {
        expect(Exp, z, [one; 2]);
        expect(Sigmoid, z, [half, quarter]);
        expect(Silu, z, [z, half]);
        expect(GeluTanh, z, [z, half]);
    }
    expect(Exp, inf, [inf; 2]);
    expect(Exp, -inf, [zero; 2]);
    expect(Exp, max, [inf; 2]);
    expect(Exp, -max, [zero; 2]);
    expect(Exp, least, [one; 2]);
    expect(Sigmoid, inf, [one, zero]);
    expect(Sigmoid, -inf, [zero; 2]);
    expect(Sigmoid, max, [one, zero]);
    expect(Sigmoid, -max, [zero; 2]);
    for gate in [Silu, GeluTanh] {
        expect(gate, inf, [inf, nan]);
        expect(gate, -inf, [nan; 2]);
        expect(gate, max, [max, one]);
        // A product of a negative number and zero.
        expect(gate, -max, [-zero, -zero]);
    }
}

#[test]
fn special_numbers_give_what_is_promised() {
    special_numbers(f32::MAX, f32::from_bits(1));
    special_numbers(f64::MAX, f64::from_bits(1));
}

/// The numbers next to where the exponential function overflows, and to where it underflows to zero.
#[test]
fn the_exponential_ends_where_it_should() {
    let exp_f32 = |bits| one(Exp, f32::from_bits(bits))[0];
    // 88.72284 and -103.97208, and their neighbours farther from zero.
    assert_eq!([0x42b1_7217, 0x42b1_7218].map(exp_f32), [f32::from_bits(0x7f7f_ff84), f32::INFINITY]);
    assert_eq!([0xc2cf_f1b4, 0xc2cf_f1b5].map(exp_f32), [f32::from_bits(1), 0.0]);
    let exp_f64 = |bits| one(Exp, f64::from_bits(bits))[0];
    // 709.782712893384 and -745.1332191019411, and their neighbours farther from zero.
    let greatest = f64::from_bits(0x7fef_ffff_ffff_ff2a);
    assert_eq!([0x4086_2e42_fefa_39ef, 0x4086_2e42_fefa_39f0].map(exp_f64), [greatest, f64::INFINITY]);
    assert_eq!([0xc087_4910_d52d_3051, 0xc087_4910_d52d_3052].map(exp_f64), [f64::from_bits(1), 0.0]);
}
