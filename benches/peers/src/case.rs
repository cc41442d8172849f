//! What is measured, its inputs, and the answers it is held against.

use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::number::Number;

pub(crate) const EPS: f32 = 1e-5;

/// An operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    LayerNorm,
    RmsNorm,
    /// Of the sum with a residual, which is written too.
    AddLayerNorm,
    AddRmsNorm,
    LayerNormBackward,
    RmsNormBackward,
}

impl Op {
    pub(crate) fn is_centered(self) -> bool {
        matches!(self, Self::LayerNorm | Self::AddLayerNorm | Self::LayerNormBackward)
    }

    pub(crate) fn adds(self) -> bool {
        matches!(self, Self::AddLayerNorm | Self::AddRmsNorm)
    }

    pub(crate) fn is_backward(self) -> bool {
        matches!(self, Self::LayerNormBackward | Self::RmsNormBackward)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LayerNorm => "layer_norm",
            Self::RmsNorm => "rms_norm",
            Self::AddLayerNorm => "add_layer_norm",
            Self::AddRmsNorm => "add_rms_norm",
            Self::LayerNormBackward => "layer_norm_backward",
            Self::RmsNormBackward => "rms_norm_backward",
        }
    }
}

/// A type of elements.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Errors beyond this are no matter of rounding: outputs reach 8.
    pub(crate) fn wrong(self) -> f64 {
        match self {
            Self::F32 => 1e-2,
            Self::F16 => 3e-2,
            Self::Bf16 => 1e-1,
        }
    }
}

/// Rows and columns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl Shape {
    pub(crate) fn elements(self) -> usize {
        self.rows * self.cols
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}x{}", self.rows, self.cols))
    }
}

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let parsed = s.split_once('x').and_then(|(rows, cols)| Some((rows.parse().ok()?, cols.parse().ok()?)));
        match parsed {
            Some((rows, cols)) if rows > 0 && cols > 0 => Ok(Self { rows, cols }),
            _ => Err(format!("{s:?} is no shape such as 512x768")),
        }
    }
}

#[rustfmt::skip]
const SHAPES: [(usize, usize); 15] = [
    (1, 8), (1, 4096), (1, 16384), (8, 768), (32, 1024), (128, 768), (512, 384), (512, 768), (2048, 1024), (4096, 4096),
    (65536, 64), (16384, 128), (197, 1000), (7, 333), (4, 1_000_003),
];

/// For the types and operations that few peers have.
const FEW_SHAPES: [(usize, usize); 6] = [(8, 768), (128, 768), (512, 768), (2048, 1024), (4096, 4096), (16384, 128)];

/// The shapes of the grid.
pub(crate) fn shapes(op: Op, dtype: Dtype) -> Vec<Shape> {
    let many = dtype == Dtype::F32 && !op.is_backward();
    let shapes = if many { &SHAPES[..] } else { &FEW_SHAPES[..] };
    shapes.iter().map(|&(rows, cols)| Shape { rows, cols }).collect()
}

/// A cell of the grid, in all thread modes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Case {
    pub(crate) op: Op,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Shape,
}

/// The tensors of a case. Those that the operation does not read are empty.
pub(crate) struct Inputs<T> {
    pub(crate) x: Vec<T>,
    pub(crate) residual: Vec<T>,
    pub(crate) dy: Vec<T>,
    pub(crate) gamma: Vec<T>,
    pub(crate) beta: Vec<T>,
}

impl<T: Number> Inputs<T> {
    pub(crate) fn new(case: Case) -> Self {
        let rng = &mut SmallRng::seed_from_u64(1);
        let Shape { cols, .. } = case.shape;
        let len = case.shape.elements();
        // A uniform variable with variance 1, with an offset.
        let mut draw = |len, offset: f32| -> Vec<T> {
            (0..len).map(|_| T::narrow(offset + 3.46 * (rng.random::<f32>() - 0.5))).collect()
        };
        let x = draw(len, 0.25);
        let residual = draw(if case.op.adds() { len } else { 0 }, -0.5);
        let dy = draw(if case.op.is_backward() { len } else { 0 }, 0.1);
        let beta = draw(cols, 0.0);
        // Of one magnitude: calls in place are repeated on their own results, and others would grow or vanish.
        let gamma = draw(cols, 0.0).iter().map(|v| T::narrow(if v.wide() < 0.0 { -1.25 } else { 1.25 })).collect();
        Self { x, residual, dy, gamma, beta }
    }
}

/// What a call should give: y or dx, and of the other outputs those that the operation has.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) y: Vec<f64>,
    pub(crate) dgamma: Vec<f64>,
    pub(crate) dbeta: Vec<f64>,
}

impl Answers {
    /// In f64, of inputs as they are in their type; the sum of a fused add is rounded to that type, as it is written.
    pub(crate) fn new<T: Number>(case: Case, inputs: &Inputs<T>) -> Self {
        let (Shape { rows, cols }, op) = (case.shape, case.op);
        let wide = |v: &[T]| -> Vec<f64> { v.iter().map(|v| f64::from(v.wide())).collect() };
        let (gamma, beta, n) = (wide(&inputs.gamma), wide(&inputs.beta), cols as f64);
        let mut answers = Self { y: Vec::with_capacity(rows * cols), dgamma: vec![0.0; cols], dbeta: vec![0.0; cols] };
        for row in 0..rows {
            let at = row * cols..(row + 1) * cols;
            let x = if op.adds() {
                let residual = &inputs.residual[at.clone()];
                inputs.x[at.clone()].iter().zip(residual).map(|(&x, &r)| f64::from(x.plus(r).wide())).collect()
            } else {
                wide(&inputs.x[at.clone()])
            };
            let mean = if op.is_centered() { x.iter().sum::<f64>() / n } else { 0.0 };
            let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let rstd = 1.0 / (var + f64::from(EPS)).sqrt();
            if op.is_backward() {
                let dy = wide(&inputs.dy[at]);
                answers.add_gradients(op, &x, &dy, &gamma, mean, rstd);
            } else {
                let shift = if op.is_centered() { 1.0 } else { 0.0 };
                let row = x.iter().zip(&gamma).zip(&beta);
                answers.y.extend(row.map(|((x, gamma), beta)| (x - mean) * rstd * gamma + shift * beta));
            }
        }
        answers
    }

    fn add_gradients(&mut self, op: Op, x: &[f64], dy: &[f64], gamma: &[f64], mean: f64, rstd: f64) {
        let n = x.len() as f64;
        let xhat: Vec<f64> = x.iter().map(|x| (x - mean) * rstd).collect();
        let g: Vec<f64> = dy.iter().zip(gamma).map(|(dy, gamma)| dy * gamma).collect();
        let mean_g = if op.is_centered() { g.iter().sum::<f64>() / n } else { 0.0 };
        let mean_gx = g.iter().zip(&xhat).map(|(g, x)| g * x).sum::<f64>() / n;
        self.y.extend(g.iter().zip(&xhat).map(|(g, x)| rstd * (g - mean_g - x * mean_gx)));
        for (i, (dy, x)) in dy.iter().zip(&xhat).enumerate() {
            self.dgamma[i] += dy * x;
            self.dbeta[i] += dy;
        }
    }
}
