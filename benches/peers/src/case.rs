//! The cases: what is measured, the inputs, and the right answers.

use clap::ValueEnum;
use lanenorm_harness::answer::{Gradients, Norm, Part};
use lanenorm_harness::input::bells;
use lanenorm_harness::number::{self, Widen};
use serde::Serialize;

use crate::number::Number;

pub(crate) const EPS: f32 = 1e-5;

/// An operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    LayerNorm,
    RmsNorm,
    /// LayerNorm of the sum with a residual; the sum is written too.
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

    /// An error beyond this is not due to rounding: outputs reach 8.
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

/// The shapes for types and operations that few peers have.
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
        let Shape { cols, .. } = case.shape;
        let len = case.shape.elements();
        // All gammas have one magnitude: calls in place are repeated on their own results, which would else grow or
        // vanish.
        let magnitude = |v: &T| <T as number::Number>::narrow(if Widen::widen(*v) < 0.0 { -1.25 } else { 1.25 });
        Self {
            x: bells(1, len, 0.25, 1.0),
            residual: bells(2, if case.op.adds() { len } else { 0 }, -0.5, 1.0),
            dy: bells(3, if case.op.is_backward() { len } else { 0 }, 0.1, 1.0),
            gamma: bells::<T>(4, cols, 0.0, 1.0).iter().map(magnitude).collect(),
            beta: bells(5, cols, 0.0, 1.0),
        }
    }
}

/// The right outputs of a call: y or dx, and the other outputs that the operation has.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) y: Part,
    pub(crate) dgamma: Part,
    pub(crate) dbeta: Part,
}

impl Answers {
    /// The answers for inputs that are rounded to their type. The sum of a fused addition is rounded to that type too,
    /// as it is written.
    pub(crate) fn new<T: Number>(case: Case, inputs: &Inputs<T>) -> Self {
        let wide = |v: &[T]| v.iter().map(|&v| Widen::widen(v).into()).collect::<Vec<f64>>();
        let (gamma, beta) = (wide(&inputs.gamma), wide(&inputs.beta));
        let norm = Norm { centered: case.op.is_centered(), cols: case.shape.cols, eps: EPS.into() };
        if case.op.is_backward() {
            let Gradients { dx: y, dgamma, dbeta } = norm.backward(&inputs.dy, &inputs.x, Some(&gamma));
            return Self { y, dgamma, dbeta };
        }
        let sum: Vec<T> = inputs.x.iter().zip(&inputs.residual).map(|(&x, &r)| x.plus(r)).collect();
        let x = if case.op.adds() { &sum } else { &inputs.x };
        let y = norm.forward(x, |_| [Some(&gamma), Some(&beta[..]).filter(|_| norm.centered)]);
        Self { y, ..Self::default() }
    }
}
