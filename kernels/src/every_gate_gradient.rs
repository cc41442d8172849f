//! Gradients of gated rows: on every tier, however the job is cut, they have the bits of their parts one after the
//! other, and these are close to the formulas.

use std::vec;
use std::vec::Vec;

use half::{bf16, f16};

use crate::element::{Companion, Storage};
use crate::every_loop::{bits, numbers};
use crate::gate::{Function, Gate, Side};
use crate::ops::backward::Parts;
use crate::ops::gate::GatedBackward;
use crate::reference;
use crate::rows::{GateGradRows, Params, RawGateRows, RawGradRows, Vector};
use crate::stats::CHUNK;
use crate::{Centered, Compiled, GateGradients, Isa, Uncentered};

/// A type beside rows of f32.
trait Beside: Companion<f32> + Storage<Float = f32> {}

impl<G: Companion<f32> + Storage<Float = f32>> Beside for G {}

/// A call.
#[derive(Clone, Copy, Debug)]
struct Case {
    gate: Gate,
    rows: usize,
    cols: usize,
    /// The elements between rows.
    gap: usize,
    /// Whether dx goes over dy, and dz over z.
    in_place: bool,
    /// Whether dx, dz and the sums are wanted.
    wanted: [bool; 3],
}

/// What a call gives: dx, dz, dgamma and dbeta.
#[derive(Clone, Debug, PartialEq)]
struct Gradients<X, Z> {
    dx: Vec<X>,
    dz: Vec<Z>,
    sums: [Vec<f32>; 2],
}

/// The inputs of a call.
struct Given<X, Z> {
    dy: Vec<X>,
    x: Vec<X>,
    z: Vec<Z>,
    gamma: Vec<X>,
    beta: Vec<X>,
}

const EPS: f64 = 1e-5;

impl<X: Beside, Z: Beside> Given<X, Z> {
    fn new(rows: usize, cols: usize) -> Self {
        let of = |len, seed, scale: f32| -> Vec<f32> { numbers::<f32>(len, seed).iter().map(|v| v * scale).collect() };
        let x = |len, seed| of(len, seed, 2.0).into_iter().map(X::from_computed).collect::<Vec<X>>();
        let z = of(rows * cols, 3, 4.0).into_iter().map(Z::from_computed).collect();
        Self { dy: x(rows * cols, 1), x: x(rows * cols, 2), z, gamma: x(cols, 4), beta: x(cols, 5) }
    }

    /// The gradients, by a job that is cut behind `cut` parts.
    fn run<M: GateGradients>(&self, case: Case, isa: Isa, cut: usize) -> Gradients<X, Z>
    where
        f32: Compiled<M>,
    {
        let Case { gate, rows, cols, gap, in_place, wanted: [has_dx, has_dz, sums] } = case;
        let stride = cols + gap;
        let [mut dy, x] = [&self.dy, &self.x].map(|v| spread(v, cols, gap));
        let mut z = spread(&self.z, cols, gap);
        let (mut dx, mut dz) = (vec![X::from_computed(3.0); dy.len()], vec![Z::from_computed(3.0); z.len()]);
        let [p_dy, p_dx] = [&mut dy, &mut dx].map(Vec::as_mut_ptr);
        let [p_z, p_dz] = [&mut z, &mut dz].map(Vec::as_mut_ptr);
        let [to_dx, to_dz] = [
            raw(if in_place { p_dy } else { p_dx }, stride, rows),
            raw(if in_place { p_z } else { p_dz }, stride, rows),
        ];
        let inputs = [raw(p_dy, stride, rows), raw(x.as_ptr().cast_mut(), stride, rows), raw(p_z, stride, rows)];
        let outputs = [has_dx.then_some(to_dx), has_dz.then_some(to_dz)];
        // SAFETY: the buffers have these rows, and live until the job has been run.
        let io = unsafe { GateGradRows::from_raw(inputs, outputs, rows, rows, cols) };
        let beta = M::CENTERED.then(|| Vector::from(&self.beta[..]));
        let params = Params { gamma: Some(Vector::from(&self.gamma[..])), beta, offset: 0.5, ..Params::default() };
        let parts = Parts::new(rows, cols);
        let job = GatedBackward::<M>::new(io, params, EPS, gate, sums).expect("a job");
        assert_eq!(job.parts(), parts.count());
        let len = parts.partial_len::<f32>(M::CENTERED).expect("a length");
        let mut partials = vec![f32::NAN; if sums { len * parts.count() } else { 0 }];
        let work = || vec![f32::NAN; parts.gate_work_len(M::CENTERED).expect("a length")];
        let (mut a, mut b) = job.split_at_part(cut);
        let at = if sums { len * cut.min(parts.count()) } else { 0 };
        let (partials_a, partials_b) = partials.split_at_mut(at);
        b.run_on(isa, partials_b, &mut work());
        a.run_on(isa, partials_a, &mut work());
        let mut of_params = [vec![0.0; cols], vec![0.0; if M::CENTERED { cols } else { 0 }]];
        if sums {
            let [dgamma, dbeta] = &mut of_params;
            let dbeta = M::CENTERED.then_some(&mut dbeta[..]);
            parts.merge::<f32, M>(isa, &partials, Some(dgamma), dbeta);
        }
        let (dx, dz) = if in_place { (dy, z) } else { (dx, dz) };
        let dx = dx.chunks(stride).flat_map(|row| row[..cols].to_vec()).collect();
        let dz = dz.chunks(stride).flat_map(|row| row[..cols].to_vec()).collect();
        Gradients { dx, dz, sums: of_params }
    }

    /// The gradients by the formulas.
    fn exact<M: GateGradients>(&self, Case { gate, rows, cols, .. }: Case) -> [Vec<f64>; 4] {
        let wide = |v: &[X]| v.iter().map(|v| f64::from(v.to_computed())).collect::<Vec<f64>>();
        let (dy, x, gamma, beta) = (wide(&self.dy), wide(&self.x), wide(&self.gamma), wide(&self.beta));
        let z: Vec<f64> = self.z.iter().map(|v| f64::from(v.to_computed())).collect();
        let f = |z| match gate.function {
            Function::Silu => reference::silu(z),
            Function::Sigmoid => reference::sigmoid(z),
            Function::GeluTanh => reference::gelu_tanh(z),
        };
        let derivative = |z| match gate.function {
            Function::Silu => reference::silu_derivative(z),
            Function::Sigmoid => reference::sigmoid_derivative(z),
            Function::GeluTanh => reference::gelu_tanh_derivative(z),
        };
        let n = cols as f64;
        let [mut dx, mut dz] = [vec![0.0; rows * cols], vec![0.0; rows * cols]];
        let [mut dgamma, mut dbeta] = [vec![0.0; cols], vec![0.0; cols]];
        for r in 0..rows {
            let at = |i: usize| r * cols + i;
            let u: Vec<f64> =
                (0..cols).map(|i| x[at(i)] * if gate.side == Side::Before { f(z[at(i)]) } else { 1.0 }).collect();
            let mean = if M::CENTERED { u.iter().sum::<f64>() / n } else { 0.0 };
            let rstd = (u.iter().map(|u| (u - mean).powi(2)).sum::<f64>() / n + EPS).sqrt().recip();
            let xhat: Vec<f64> = u.iter().map(|u| (u - mean) * rstd).collect();
            let dn: Vec<f64> =
                (0..cols).map(|i| dy[at(i)] * if gate.side == Side::After { f(z[at(i)]) } else { 1.0 }).collect();
            let g: Vec<f64> = (0..cols).map(|i| dn[i] * (gamma[i] + 0.5)).collect();
            let c1 = if M::CENTERED { g.iter().sum::<f64>() / n } else { 0.0 };
            let c2 = g.iter().zip(&xhat).map(|(g, xhat)| g * xhat).sum::<f64>() / n;
            for i in 0..cols {
                let du = rstd * (g[i] - c1 - xhat[i] * c2);
                let normalized = xhat[i] * (gamma[i] + 0.5) + if M::CENTERED { beta[i] } else { 0.0 };
                (dx[at(i)], dz[at(i)]) = match gate.side {
                    Side::After => (du, dy[at(i)] * normalized * derivative(z[at(i)])),
                    Side::Before => (du * f(z[at(i)]), du * x[at(i)] * derivative(z[at(i)])),
                };
                dgamma[i] += dn[i] * xhat[i];
                dbeta[i] += dn[i];
            }
        }
        [dx, dz, dgamma, dbeta]
    }
}

/// Rows with gaps, whose elements are these.
fn spread<T: Copy>(v: &[T], cols: usize, gap: usize) -> Vec<T> {
    v.chunks(cols).flat_map(|row| row.iter().copied().chain(vec![row[0]; gap])).collect()
}

fn raw<G: Beside>(p: *mut G, stride: usize, rows: usize) -> RawGateRows {
    let rows = RawGradRows { p: p.cast(), stride, outer_stride: rows * stride };
    RawGateRows { rows, kind: <G as Companion<f32>>::KIND }
}

/// Asserts that all forms of a call have the same bits, which are close to the formulas where all is f32.
fn check<X: Beside + bytemuck::Pod, Z: Beside + bytemuck::Pod, M: GateGradients>(case: Case)
where
    f32: Compiled<M>,
{
    let Case { rows, cols, .. } = case;
    let mut given = Given::<X, Z>::new(rows, cols);
    let plain = Case { gap: 0, in_place: false, wanted: [true; 3], ..case };
    if X::DTYPE == f32::DTYPE && Z::DTYPE == f32::DTYPE {
        let got = given.run::<M>(plain, Isa::SCALAR, 0);
        let [dx, dz, dgamma, dbeta] = given.exact::<M>(case);
        let wide = |v: &[X]| v.iter().map(|v| v.to_computed()).collect::<Vec<f32>>();
        let dz_of: Vec<f32> = got.dz.iter().map(|v| v.to_computed()).collect();
        let results = [(wide(&got.dx), dx), (dz_of, dz), (got.sums[0].clone(), dgamma), (got.sums[1].clone(), dbeta)];
        for (which, (got, exact)) in results.into_iter().enumerate() {
            let size = exact.iter().fold(1.0, |max: f64, v| max.max(v.abs()));
            for (i, (got, exact)) in got.iter().zip(&exact).enumerate() {
                let error = (f64::from(*got) - exact).abs();
                assert!(error <= 1e-6 * size, "{case:?}: gradient {which} of {i}: {got}, expected {exact}");
            }
        }
    }
    if rows > 5 {
        // Rows that are not finite, of zeros, and whose gate is closed.
        given.x[cols + cols / 2] = <X as Companion<f32>>::NAN;
        given.z[2 * cols] = Z::from_computed(f32::NEG_INFINITY);
        given.x[3 * cols..4 * cols].fill(X::from_computed(0.0));
        given.dy[4 * cols] = X::from_computed(f32::INFINITY);
        given.z[5 * cols..6 * cols].fill(Z::from_computed(-60.0));
    }
    let expected = given.run::<M>(plain, Isa::SCALAR, 0);
    let [dx_bits, dz_bits] = [bits(&expected.dx), bits(&expected.dz)];
    let sums_bits = expected.sums.each_ref().map(|v| bits(v));
    for isa in Isa::available() {
        for cut in [0, 1] {
            let got = given.run::<M>(case, isa, cut);
            let what = (X::DTYPE, Z::DTYPE, M::CENTERED);
            let [has_dx, has_dz, has_sums] = case.wanted;
            assert!(!has_dx || bits(&got.dx) == dx_bits, "{isa}, {what:?}, {case:?}: dx");
            assert!(!has_dz || bits(&got.dz) == dz_bits, "{isa}, {what:?}, {case:?}: dz");
            let sums = got.sums.each_ref().map(|v| bits(v));
            assert!(!has_sums || sums == sums_bits, "{isa}, {what:?}, {case:?}: dgamma or dbeta");
        }
    }
}

fn cases() -> Vec<Case> {
    let shapes: &[(usize, usize)] =
        if cfg!(miri) { &[(3, 40)] } else { &[(9, 5), (70, 64), (17, 130), (6, CHUNK + 9), (7, 5000)] };
    let mut cases = vec![];
    for &(rows, cols) in shapes {
        for gate in [Gate::SILU, Gate::SIGMOID, Gate::GELU_TANH, Gate::SILU_BEFORE] {
            let case = Case { gate, rows, cols, gap: 0, in_place: false, wanted: [true; 3] };
            cases.push(Case { gap: 3, ..case });
            cases.push(Case { in_place: true, ..case });
            cases.push(Case { wanted: [true, false, true], ..case });
            cases.push(Case { wanted: [false, true, false], ..case });
            cases.push(Case { wanted: [false, false, true], ..case });
        }
    }
    cases
}

#[test]
fn gate_gradients_of_f32() {
    for case in cases() {
        check::<f32, f32, Centered>(case);
        check::<f32, f32, Uncentered>(case);
        check::<f32, bf16, Uncentered>(case);
    }
}

#[test]
fn gate_gradients_of_bf16() {
    for case in cases() {
        check::<bf16, bf16, Uncentered>(case);
        check::<bf16, f32, Centered>(case);
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no conversion to f16")]
fn gate_gradients_of_f16() {
    for case in cases() {
        check::<f16, f16, Centered>(case);
    }
}
