//! A layer-normalized LSTM over a sequence, beside the same cell written out in f64.
//!
//! ```sh
//! cargo run --release --example lstm
//! ```
//!
//! The cell of Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450 (2016), with each of the four gates
//! normalized by itself, as common implementations do:
//!
//! ```text
//! f, i, o, g = LN(W h; gamma_w, beta_w) + LN(U x; gamma_u, beta_u)
//! c          = sigmoid(f) * c + sigmoid(i) * tanh(g)
//! h          = sigmoid(o) * tanh(LN(c; gamma_c, beta_c))
//! ```
//!
//! W h and U x are [batch, 4, hidden] each: rows of `hidden` columns, where row r belongs to gate r mod 4. One call
//! normalizes all rows, each with gamma and beta of its gate.

use std::time::{Duration, Instant};

use lanenorm::{Error, LayerNorm, Parallelism};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const HIDDEN: usize = 320;
const INPUTS: usize = 160;
const GATES: usize = 4;
const STEPS: usize = 50;
const EPS: f64 = 1e-5;
/// The unit roundoff of f32.
const U: f64 = 1.0 / (1 << 24) as f64;

/// How far h may be from h of the f64 cell.
///
/// A sum of 320 products in f32 is off by 5 U of the sums' deviation, and the worst of many by 30 U; normalizing adds
/// 4 U (1 + |xhat|). Two such terms, each times a gamma below 0.75, make a gate; c adds up the gates of the few steps
/// that it remembers.
const TOLERANCE: f64 = 128.0 * U;

/// gamma and beta of some rows.
struct Affine {
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

/// The parameters. Matrices are stored by input: row k is what an input k of 1 adds to the outputs.
struct Weights {
    /// W, [hidden, 4 * hidden].
    recurrent: Vec<f32>,
    /// U, [inputs, 4 * hidden].
    input: Vec<f32>,
    recurrent_norm: Affine,
    input_norm: Affine,
    cell_norm: Affine,
}

impl Weights {
    fn random(rng: &mut SmallRng) -> Self {
        let mut uniform = |n: usize, mean: f32, width: f32| -> Vec<f32> {
            (0..n).map(|_| mean + width * (rng.random::<f32>() - 0.5)).collect()
        };
        // With gammas of 1, an LSTM of random weights is near chaos, and doubles any error every few steps.
        let mut affine = |n: usize| Affine { gamma: uniform(n, 0.5, 0.5), beta: uniform(n, 0.0, 0.5) };
        let (recurrent_norm, input_norm, cell_norm) = (affine(GATES * HIDDEN), affine(GATES * HIDDEN), affine(HIDDEN));
        Self {
            recurrent: uniform(HIDDEN * GATES * HIDDEN, 0.0, 1.0),
            input: uniform(INPUTS * GATES * HIDDEN, 0.0, 1.0),
            recurrent_norm,
            input_norm,
            cell_norm,
        }
    }
}

fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + (-v).exp())
}

/// The outputs of a matrix for a batch of inputs.
fn multiply(weights: &[f32], x: &[f32], inputs: usize, y: &mut [f32]) {
    y.fill(0.0);
    let outputs = weights.len() / inputs;
    for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
        for (&x, row) in x.iter().zip(weights.chunks_exact(outputs)) {
            for (y, &w) in y.iter_mut().zip(row) {
                *y += x * w;
            }
        }
    }
}

/// The cell in f32: plans, state and buffers.
struct Cell {
    gates_plan: LayerNorm,
    cell_plan: LayerNorm,
    h: Vec<f32>,
    c: Vec<f32>,
    recurrent: Vec<f32>,
    input: Vec<f32>,
}

impl Cell {
    fn new(batch: usize) -> Result<Self, Error> {
        // One thread, as in the rest of the cell.
        let plan = LayerNorm::new(HIDDEN, EPS)?.with_parallelism(Parallelism::Serial);
        Ok(Self {
            gates_plan: plan.with_groups(GATES, 1)?,
            cell_plan: plan,
            h: vec![0.0; batch * HIDDEN],
            c: vec![0.0; batch * HIDDEN],
            recurrent: vec![0.0; batch * GATES * HIDDEN],
            input: vec![0.0; batch * GATES * HIDDEN],
        })
    }

    /// Takes one step, and returns the time that normalization took.
    fn step(&mut self, weights: &Weights, x: &[f32]) -> Result<Duration, Error> {
        multiply(&weights.recurrent, &self.h, HIDDEN, &mut self.recurrent);
        multiply(&weights.input, x, INPUTS, &mut self.input);

        let start = Instant::now();
        for (gates, Affine { gamma, beta }) in
            [(&mut self.recurrent, &weights.recurrent_norm), (&mut self.input, &weights.input_norm)]
        {
            self.gates_plan.forward_in_place(gates, Some(gamma), Some(beta))?;
        }
        let mut normalizing = start.elapsed();

        let gates = self.recurrent.chunks_exact(GATES * HIDDEN).zip(self.input.chunks_exact(GATES * HIDDEN));
        for (c, (w, u)) in self.c.chunks_exact_mut(HIDDEN).zip(gates.clone()) {
            for (j, c) in c.iter_mut().enumerate() {
                let [f, i, _, g] = [0, 1, 2, 3].map(|gate| w[gate * HIDDEN + j] + u[gate * HIDDEN + j]);
                *c = sigmoid(f) * *c + sigmoid(i) * g.tanh();
            }
        }

        let start = Instant::now();
        let Affine { gamma, beta } = &weights.cell_norm;
        self.cell_plan.forward(&self.c, Some(gamma), Some(beta), &mut self.h)?;
        normalizing += start.elapsed();

        for (h, (w, u)) in self.h.chunks_exact_mut(HIDDEN).zip(gates) {
            for (j, h) in h.iter_mut().enumerate() {
                let o = w[2 * HIDDEN + j] + u[2 * HIDDEN + j];
                *h = sigmoid(o) * h.tanh();
            }
        }
        Ok(normalizing)
    }
}

/// The same cell in f64, for one sequence: the formulas and nothing else.
struct Reference {
    h: Vec<f64>,
    c: Vec<f64>,
}

impl Reference {
    fn step(&mut self, weights: &Weights, x: &[f32]) {
        let x: Vec<f64> = x.iter().map(|&v| v.into()).collect();
        let mut recurrent = Self::multiply(&weights.recurrent, &self.h);
        let mut input = Self::multiply(&weights.input, &x);
        for gate in 0..GATES {
            let of_gate = gate * HIDDEN..(gate + 1) * HIDDEN;
            for (part, Affine { gamma, beta }) in
                [(&mut recurrent, &weights.recurrent_norm), (&mut input, &weights.input_norm)]
            {
                Self::layer_norm(&mut part[of_gate.clone()], &gamma[of_gate.clone()], &beta[of_gate.clone()]);
            }
        }
        let gate = |gate: usize, j: usize| recurrent[gate * HIDDEN + j] + input[gate * HIDDEN + j];
        let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
        for j in 0..HIDDEN {
            self.c[j] = sigmoid(gate(0, j)) * self.c[j] + sigmoid(gate(1, j)) * gate(3, j).tanh();
        }
        self.h.copy_from_slice(&self.c);
        Self::layer_norm(&mut self.h, &weights.cell_norm.gamma, &weights.cell_norm.beta);
        for j in 0..HIDDEN {
            self.h[j] = sigmoid(gate(2, j)) * self.h[j].tanh();
        }
    }

    fn multiply(weights: &[f32], x: &[f64]) -> Vec<f64> {
        let outputs = weights.len() / x.len();
        let mut y = vec![0.0; outputs];
        for (x, row) in x.iter().zip(weights.chunks_exact(outputs)) {
            y.iter_mut().zip(row).for_each(|(y, &w)| *y += x * f64::from(w));
        }
        y
    }

    fn layer_norm(x: &mut [f64], gamma: &[f32], beta: &[f32]) {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let var = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        let rstd = 1.0 / (var + EPS).sqrt();
        for (v, (&gamma, &beta)) in x.iter_mut().zip(gamma.iter().zip(beta)) {
            *v = (*v - mean) * rstd * f64::from(gamma) + f64::from(beta);
        }
    }
}

fn main() -> Result<(), Error> {
    let rng = &mut SmallRng::seed_from_u64(1);
    let weights = Weights::random(rng);
    println!("{HIDDEN} hidden units, {INPUTS} inputs, {STEPS} steps; one thread, {}\n", lanenorm::BUILD);
    println!("{:>5} {:>22} {:>22} {:>12}", "batch", "normalization, µs/step", "all, µs/step", "max |h - f64|");
    for batch in [1, 32] {
        let mut cell = Cell::new(batch)?;
        let mut references: Vec<_> =
            (0..batch).map(|_| Reference { h: vec![0.0; HIDDEN], c: vec![0.0; HIDDEN] }).collect();
        let (mut normalizing, mut all, mut worst) = (Vec::new(), Vec::new(), 0.0_f64);
        for _ in 0..STEPS {
            let x: Vec<f32> = (0..batch * INPUTS).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect();
            let start = Instant::now();
            normalizing.push(cell.step(&weights, &x)?);
            all.push(start.elapsed());

            for ((reference, x), h) in
                references.iter_mut().zip(x.chunks_exact(INPUTS)).zip(cell.h.chunks_exact(HIDDEN))
            {
                reference.step(&weights, x);
                // Not f64::max, which would drop a NaN.
                for (&h, reference) in h.iter().zip(&reference.h) {
                    let difference = (f64::from(h) - reference).abs();
                    assert!(difference <= TOLERANCE, "{h} is more than {TOLERANCE:.1e} from {reference}");
                    worst = worst.max(difference);
                }
            }
        }
        let [normalizing, all] = [normalizing, all].map(|mut times| {
            times.sort();
            times[STEPS / 2].as_secs_f64() * 1e6
        });
        println!("{batch:5} {normalizing:22.2} {all:22.1} {worst:12.1e}");
    }
    println!("\ntolerance {TOLERANCE:.1e}");
    Ok(())
}
