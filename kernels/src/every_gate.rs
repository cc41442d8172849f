//! Gates: every form of a call gives, on every tier, what its parts give one after the other.

use std::vec;
use std::vec::Vec;

use half::{bf16, f16};

use crate::element::{Companion, Storage};
use crate::every_loop::{bits, numbers};
use crate::gate::{Function, Gate, Side};
use crate::ops::forward::Forward;
use crate::ops::gate::Gated;
use crate::reference;
use crate::rounding::Rounding;
use crate::rows::{Groups, Params, RowIo, Vector};
use crate::simd::{Functions, Kernel, Lanes};
use crate::stats::{CHUNK, StatsMut};
use crate::{Center, Centered, Compiled, Element, Gateable, Gates, Isa, Uncentered};

/// A type beside rows of `T`.
trait Beside<T>: Companion<T> + Storage<Float = f32> {}

impl<T, G: Companion<T> + Storage<Float = f32>> Beside<T> for G {}

/// A call.
#[derive(Clone, Copy, Debug)]
struct Case {
    gate: Gate,
    rounding: Rounding,
    rows: usize,
    cols: usize,
    groups: usize,
    /// The elements between rows.
    gap: usize,
    in_place: bool,
    is_affine: bool,
}

/// The function of one number, by the portable tier.
struct Of(Function, f32);

impl Kernel for Of {
    type Output = f32;

    fn run<S: Lanes>(self, simd: S) -> f32 {
        let z = simd.splat_f32s(self.1);
        let v = match self.0 {
            Function::Silu => f32::silu(simd, z),
            Function::Sigmoid => f32::sigmoid(simd, z),
            Function::GeluTanh => f32::gelu_tanh(simd, z),
        };
        bytemuck::cast_slice::<_, f32>(&[v])[0]
    }
}

fn of(function: Function, z: f32) -> f32 {
    Isa::SCALAR.run(Of(function, z))
}

fn rounded<T, Y: Beside<T>>(v: f32) -> Y {
    if v.is_nan() { <Y as Companion<T>>::NAN } else { Y::from_computed(v) }
}

/// Rows with gaps, whose elements are these.
fn spread<T: Copy>(v: &[T], cols: usize, gap: usize) -> Vec<T> {
    v.chunks(cols).flat_map(|row| row.iter().copied().chain(vec![row[0]; gap])).collect()
}

/// y of f32 rows, or of rows of `T`, in f32, by a plain call.
fn plain<T: Element + Compiled<M>, G: Beside<T>, M: Center>(x: &[T], case: Case, [gamma, beta]: [&[G]; 2]) -> Vec<f32>
where
    f32: Companion<T>,
{
    let Case { rows, cols, .. } = case;
    let mut y = vec![0.0f32; x.len()];
    let io = RowIo::new(x, cols, &mut y, cols, rows, cols).expect("rows");
    let job = Forward::<T, M>::checked(io, params(case, gamma, beta, M::CENTERED), 0.0, false, StatsMut::default());
    job.expect("a job").run_on(Isa::SCALAR);
    y
}

fn params<'a, T: Element, G: Companion<T>>(case: Case, gamma: &'a [G], beta: &'a [G], centered: bool) -> Params<'a, T> {
    let Case { groups, rounding, is_affine, .. } = case;
    Params {
        gamma: is_affine.then(|| Vector::from(gamma)),
        beta: (is_affine && centered).then(|| Vector::from(beta)),
        groups: Groups::new(groups, 1).expect("groups"),
        offset: T::Float::default(),
        rounding,
        ..Params::default()
    }
}

/// Asserts that a case gives what its parts give, on every tier.
fn check<T, Z: Beside<T>, G: Beside<T> + Beside<f32> + bytemuck::Pod, Y: Beside<T>, M: Center>(case: Case)
where
    T: Gateable + Gates<M> + Compiled<M> + Companion<T>,
    f32: Companion<T> + Compiled<M>,
{
    let Case { gate: Gate { function, side }, rows, cols, groups, gap, in_place, .. } = case;
    let mut x = numbers::<T>(rows * cols, 1);
    let mut z: Vec<Z> = numbers::<f32>(rows * cols, 2).into_iter().map(|v| Z::from_computed(v * 8.0)).collect();
    let vector = |seed| numbers::<f32>(groups * cols, seed).into_iter().map(G::from_computed).collect::<Vec<G>>();
    let (gamma, beta) = (vector(3), vector(4));
    if rows > 5 {
        // Rows that are not finite, of zeros, and out of the range of the loops.
        x[cols + cols / 2] = <T as Companion<T>>::NAN;
        z[2 * cols] = Z::from_computed(f32::NEG_INFINITY);
        x[3 * cols..4 * cols].fill(T::from_computed(0.0));
        x[4 * cols] = T::from_computed(6e4);
        z[5 * cols..6 * cols].fill(Z::from_computed(-60.0));
    }
    let z32: Vec<f32> = z.iter().map(|z| of(function, z.to_computed())).collect();

    let expected: Vec<f32> = match side {
        Side::After => {
            let n = plain::<T, G, M>(&x, case, [&gamma, &beta]);
            n.iter().zip(&z32).map(|(n, z)| n * z).collect()
        }
        Side::Before => {
            let u: Vec<f32> = x.iter().zip(&z32).map(|(x, z)| x.to_computed() * z).collect();
            if case.rounding.steps && T::ROUNDS {
                // xhat, and what the steps make of it. gamma has the type of x here.
                let xhat = plain::<f32, f32, M>(&u, Case { is_affine: false, ..case }, [&[], &[]]);
                let round = |v: f32| T::from_computed(v).to_computed();
                let at = |i: usize| i / cols % groups * cols + i % cols;
                let gamma = |i| case.is_affine.then(|| gamma[at(i)].to_computed());
                let beta = |i| (case.is_affine && M::CENTERED).then(|| beta[at(i)].to_computed());
                (0..u.len())
                    .map(|i| reference::affine(&case.rounding, xhat[i], gamma(i), -0.0, beta(i), false, round))
                    .collect()
            } else {
                plain::<f32, G, M>(&u, case, [&gamma, &beta])
            }
        }
    };
    let expected: Vec<Y> = expected.into_iter().map(rounded::<T, Y>).collect();

    for isa in Isa::available() {
        let stride = cols + gap;
        let (mut x, z) = (spread(&x, cols, gap), spread(&z, cols, gap));
        let mut y = vec![Y::from_computed(3.0); x.len()];
        let params = params(case, &gamma, &beta, M::CENTERED);
        let io = if in_place {
            RowIo::in_place(&mut x, stride, rows, cols)
        } else {
            RowIo::new(&x, stride, &mut y, stride, rows, cols)
        };
        let job = Gated::<T, M>::new(io.expect("rows"), params, 0.0, StatsMut::default(), case.gate, (&z, stride));
        let (mut a, mut b) = job.expect("a job").split_at(rows / 3 / groups * groups);
        a.run_on(isa);
        b.run_on(isa);
        let got: Vec<Y> = if in_place { bytemuck::cast_slice(&x).to_vec() } else { y };
        let got: Vec<Y> = got.chunks(stride).flat_map(|row| row[..cols].to_vec()).collect();
        let first = got.iter().zip(&expected).position(|(a, b)| bits(&[*a]) != bits(&[*b]));
        let what = (T::DTYPE, Z::DTYPE, G::DTYPE, Y::DTYPE, M::CENTERED);
        let pair = first.map(|i| (got[i], expected[i]));
        assert!(first.is_none(), "{isa}, {what:?}, {case:?}: element {first:?}: {pair:?}");
    }
}

fn cases() -> Vec<Case> {
    let shapes: &[(usize, usize)] =
        if cfg!(miri) { &[(2, 70)] } else { &[(9, 5), (8, 64), (17, 130), (6, CHUNK + 9), (6, 5000)] };
    let mut cases = vec![];
    for &(rows, cols) in shapes {
        for (i, gate) in [Gate::SILU, Gate::SIGMOID, Gate::GELU_TANH, Gate::SILU_BEFORE].into_iter().enumerate() {
            for rounding in [Rounding::ONCE, Rounding::STEPS] {
                let case = Case { gate, rounding, rows, cols, groups: 1, gap: 0, in_place: false, is_affine: true };
                cases.push(case);
                cases.push(Case { groups: rows, gap: 3, ..case });
                cases.push(Case { is_affine: i % 2 == 0, in_place: true, ..case });
            }
        }
    }
    cases
}

#[test]
fn gates_of_f32() {
    for case in cases() {
        check::<f32, f32, f32, f32, Centered>(case);
        check::<f32, f32, f32, f32, Uncentered>(case);
        if !case.in_place {
            check::<f32, bf16, bf16, f32, Uncentered>(case);
            check::<f32, f32, bf16, bf16, Centered>(case);
        }
    }
}

#[test]
fn gates_of_bf16() {
    for case in cases() {
        check::<bf16, bf16, bf16, bf16, Uncentered>(case);
        check::<bf16, f32, bf16, bf16, Centered>(case);
        if !case.in_place {
            check::<bf16, bf16, bf16, f32, Centered>(case);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no conversion to f16")]
fn gates_of_f16() {
    for case in cases() {
        check::<f16, f16, f16, f16, Uncentered>(case);
        check::<f16, f32, f16, f16, Centered>(case);
    }
}

/// A gate is close to what its formula says.
#[test]
fn gates_are_close_to_their_formulas() {
    let (rows, cols) = (3, 1000);
    let (x, z) = (numbers::<f32>(rows * cols, 1), numbers::<f32>(rows * cols, 2));
    let z: Vec<f32> = z.iter().map(|z| z * 20.0).collect();
    let exact = |gate: Gate, i: usize| -> f64 {
        let z = f64::from(z[i]);
        match gate.function {
            Function::Silu => reference::silu(z),
            Function::Sigmoid => reference::sigmoid(z),
            Function::GeluTanh => reference::gelu_tanh(z),
        }
    };
    for gate in [Gate::SILU, Gate::SIGMOID, Gate::GELU_TANH, Gate::SILU_BEFORE] {
        let mut y = vec![0.0f32; x.len()];
        let io = RowIo::new(&x, cols, &mut y, cols, rows, cols).expect("rows");
        let job = Gated::<f32, Uncentered>::new(io, Params::default(), 1e-6, StatsMut::default(), gate, (&z, cols));
        job.expect("a job").run_on(Isa::SCALAR);
        for r in 0..rows {
            let row = r * cols..(r + 1) * cols;
            let u: Vec<f64> = row.clone().map(|i| f64::from(x[i])).collect();
            let u: Vec<f64> = match gate.side {
                Side::After => u,
                Side::Before => row.clone().zip(u).map(|(i, x)| x * exact(gate, i)).collect(),
            };
            let rstd = (u.iter().map(|u| u * u).sum::<f64>() / cols as f64 + 1e-6).sqrt().recip();
            for (i, u) in row.zip(u) {
                let expected = u * rstd * if gate.side == Side::After { exact(gate, i) } else { 1.0 };
                assert!((f64::from(y[i]) - expected).abs() <= 1e-6 * expected.abs().max(1e-6), "{gate:?}, {i}");
            }
        }
    }
}
