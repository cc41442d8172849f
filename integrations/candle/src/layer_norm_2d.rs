use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use crate::of_channels::OfChannels;

/// Layer normalization over the channels of images, x of [samples, channels, height, width]: each pixel by itself. Of
/// `ConvNeXt` it is the `LayerNorm` with `channels_first`, and elsewhere `LayerNorm2d`.
///
/// x is f32, f64, f16 or bf16. The weight and the bias have its type, or are f32 beside 16 bits. It has gradients,
/// which have no gradients themselves.
#[derive(Clone, Debug)]
pub struct LayerNorm2d {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm2d {
    /// With a weight (gamma) and a bias (beta) of an element for each channel.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    /// The weight, gamma.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, beta.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// The number added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }
}

impl Module for LayerNorm2d {
    /// # Errors
    /// If x does not have four dimensions, if shapes or types do not fit together, if eps is negative, infinite or NaN,
    /// or if a tensor is not on the CPU.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, channels, ..) = x.dims4()?;
        OfChannels::Each { eps: self.eps }.run(x, channels, &self.weight, &self.bias)
    }
}

/// Loads a module, whose variables are named as those of [`candle_nn::layer_norm()`], or makes it if they are new.
///
/// # Errors
/// If there is no weight or no bias, or if one has another shape.
pub fn layer_norm_2d(channels: usize, eps: f64, vb: VarBuilder<'_>) -> Result<LayerNorm2d> {
    let weight = vb.get_with_hints(channels, "weight", candle_nn::Init::Const(1.0))?;
    let bias = vb.get_with_hints(channels, "bias", candle_nn::Init::Const(0.0))?;
    Ok(LayerNorm2d::new(weight, bias, eps))
}
