//! The cases: what is measured, the inputs, and the right answers.

use clap::ValueEnum;
use lanenorm::kernels::reference;
use lanenorm_harness::answer::{Gradients, Norm, Part};
use lanenorm_harness::input::bells;
use lanenorm_harness::number::{self, Widen};
use serde::Serialize;

use crate::images::{self, Images};
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
    GroupNorm,
    /// With `SiLU` behind.
    GroupNormSilu,
    /// LayerNorm over the channels of each pixel, which come first.
    LayerNormChannels,
}

impl Op {
    pub(crate) fn is_centered(self) -> bool {
        !matches!(self, Self::RmsNorm | Self::AddRmsNorm | Self::RmsNormBackward)
    }

    pub(crate) fn adds(self) -> bool {
        matches!(self, Self::AddLayerNorm | Self::AddRmsNorm)
    }

    pub(crate) fn is_backward(self) -> bool {
        matches!(self, Self::LayerNormBackward | Self::RmsNormBackward)
    }

    pub(crate) fn has_groups(self) -> bool {
        matches!(self, Self::GroupNorm | Self::GroupNormSilu)
    }

    pub(crate) fn is_of_images(self) -> bool {
        self.has_groups() || self == Self::LayerNormChannels
    }

    pub(crate) fn has_silu(self) -> bool {
        self == Self::GroupNormSilu
    }

    /// Whether the shape is of the form that the operation takes.
    pub(crate) fn takes(self, shape: Shape) -> bool {
        match shape.images {
            Some(images) => self.is_of_images() && images.groups.is_some() == self.has_groups(),
            None => !self.is_of_images(),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LayerNorm => "layer_norm",
            Self::RmsNorm => "rms_norm",
            Self::AddLayerNorm => "add_layer_norm",
            Self::AddRmsNorm => "add_rms_norm",
            Self::LayerNormBackward => "layer_norm_backward",
            Self::RmsNormBackward => "rms_norm_backward",
            Self::GroupNorm => "group_norm",
            Self::GroupNormSilu => "group_norm_silu",
            Self::LayerNormChannels => "layer_norm_channels",
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

/// Rows and columns, also of images: those that are normalized.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) images: Option<Images>,
}

impl Shape {
    pub(crate) const fn rows(rows: usize, cols: usize) -> Self {
        Self { rows, cols, images: None }
    }

    pub(crate) fn images(samples: usize, images: Images) -> Self {
        let cols = images.cols();
        Self { rows: samples * images.channels * images.pixels / cols, cols, images: Some(images) }
    }

    pub(crate) fn elements(self) -> usize {
        self.rows * self.cols
    }

    /// The length of gamma.
    pub(crate) fn params(self) -> usize {
        self.images.map_or(self.cols, |images| images.channels)
    }

    /// The dimensions of x.
    pub(crate) fn dims(self) -> Vec<usize> {
        match self.images {
            Some(Images { channels, pixels, .. }) => vec![self.elements() / (channels * pixels), channels, pixels],
            None => vec![self.rows, self.cols],
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&match (&self.dims()[..], self.images.and_then(|images| images.groups)) {
            ([samples, channels, pixels], Some(groups)) => format!("{samples}x{channels}/{groups}x{pixels}"),
            (dims, _) => dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x"),
        })
    }
}

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = |s: &str| s.parse().ok().filter(|&n| n > 0);
        let parsed = || match s.split('x').collect::<Vec<_>>()[..] {
            [rows, cols] => Some(Self::rows(number(rows)?, number(cols)?)),
            [samples, channels, pixels] => {
                let (channels, groups) = match channels.split_once('/') {
                    Some((channels, groups)) => (channels, Some(number(groups)?)),
                    None => (channels, None),
                };
                let (samples, channels, pixels) = (number(samples)?, number(channels)?, number(pixels)?);
                let is_whole = groups.is_none_or(|groups| channels.is_multiple_of(groups));
                is_whole.then(|| Self::images(samples, Images { channels, pixels, groups }))
            }
            _ => None,
        };
        parsed().ok_or_else(|| format!("{s:?} is no shape such as 512x768, 1x320/32x4096 or 8x96x3136"))
    }
}

#[rustfmt::skip]
const SHAPES: [(usize, usize); 15] = [
    (1, 8), (1, 4096), (1, 16384), (8, 768), (32, 1024), (128, 768), (512, 384), (512, 768), (2048, 1024), (4096, 4096),
    (65536, 64), (16384, 128), (197, 1000), (7, 333), (4, 1_000_003),
];

/// The shapes for types and operations that few peers have.
const FEW_SHAPES: [(usize, usize); 6] = [(8, 768), (128, 768), (512, 768), (2048, 1024), (4096, 4096), (16384, 128)];

/// Samples, channels, groups and pixels: of diffusion models, and of a `ResNet`.
const GROUPS: [(usize, usize, usize, usize); 4] =
    [(1, 320, 32, 4096), (2, 640, 32, 1024), (2, 1280, 32, 64), (8, 256, 32, 49)];

/// Samples, channels and pixels, of `ConvNeXt`.
const CHANNELS: [(usize, usize, usize); 3] = [(8, 96, 3136), (8, 384, 196), (8, 768, 49)];

/// The shapes of the grid.
pub(crate) fn shapes(op: Op, dtype: Dtype) -> Vec<Shape> {
    if op.has_groups() {
        let shape = |&(samples, channels, groups, pixels): &_| {
            Shape::images(samples, Images { channels, pixels, groups: Some(groups) })
        };
        return GROUPS.iter().map(shape).collect();
    }
    if op.is_of_images() {
        let shape =
            |&(samples, channels, pixels): &_| Shape::images(samples, Images { channels, pixels, groups: None });
        return CHANNELS.iter().map(shape).collect();
    }
    let many = dtype == Dtype::F32 && !op.is_backward();
    let shapes = if many { &SHAPES[..] } else { &FEW_SHAPES[..] };
    shapes.iter().map(|&(rows, cols)| Shape::rows(rows, cols)).collect()
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
        let (len, params) = (case.shape.elements(), case.shape.params());
        // All gammas have one magnitude: calls in place are repeated on their own results, which would else grow or
        // vanish.
        let magnitude = |v: &T| <T as number::Number>::narrow(if Widen::widen(*v) < 0.0 { -1.25 } else { 1.25 });
        Self {
            x: bells(1, len, 0.25, 1.0),
            residual: bells(2, if case.op.adds() { len } else { 0 }, -0.5, 1.0),
            dy: bells(3, if case.op.is_backward() { len } else { 0 }, 0.1, 1.0),
            gamma: bells::<T>(4, params, 0.0, 1.0).iter().map(magnitude).collect(),
            beta: bells(5, params, 0.0, 1.0),
        }
    }
}

/// The right outputs of a call: y or dx, row after row, and the other outputs that the operation has.
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
        let Shape { cols, .. } = case.shape;
        let norm = Norm { centered: case.op.is_centered(), cols, eps: EPS.into() };
        if case.op.is_backward() {
            let Gradients { dx: y, dgamma, dbeta } = norm.backward(&inputs.dy, &inputs.x, Some(&gamma));
            return Self { y, dgamma, dbeta };
        }
        let sum: Vec<T> = inputs.x.iter().zip(&inputs.residual).map(|(&x, &r)| x.plus(r)).collect();
        let x = images::rows(case.shape, if case.op.adds() { &sum } else { &inputs.x });
        let [gamma, beta] = [gamma, beta].map(|v| images::of_elements(case.shape, v));
        let y = norm.forward(&x, |row| {
            let start = row * cols % gamma.len();
            let [gamma, beta] = [&gamma, &beta].map(|v| Some(&v[start..][..cols]));
            [gamma, beta.filter(|_| norm.centered)]
        });
        let y = if case.op.has_silu() { y.through(reference::silu, reference::silu_derivative) } else { y };
        Self { y, ..Self::default() }
    }
}
