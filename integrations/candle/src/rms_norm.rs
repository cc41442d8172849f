use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use lanenorm::Rounding;

use crate::norm::Norm;
use crate::ops;
use crate::quantized::Q8_0;

/// RMS normalization of the last dimension, as a module that drops in for [`candle_nn::RmsNorm`].
///
/// Unlike candle's module, it has gradients on contiguous tensors too, and takes tensors of 16 bits beside a weight of
/// f32.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
    offset: f32,
    rounding: Rounding,
}

impl RmsNorm {
    /// With a weight (gamma).
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps, offset: 0.0, rounding: Rounding::ONCE }
    }

    /// The same module with an offset: a number that is added to the weight. It is 1 for models that keep gamma - 1, as
    /// Gemma does.
    pub fn with_offset(self, offset: f32) -> Self {
        Self { offset, ..self }
    }

    /// The same module, which rounds to 16 bits where the model does whose bits are wanted: `LlamaRMSNorm` of
    /// `transformers` has [`Rounding::STEPS`]. Gradients do not round.
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// The weight, gamma.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The number added to the mean of squares.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// The number added to the weight.
    pub fn offset(&self) -> f32 {
        self.offset
    }

    /// The same as [`forward`](Module::forward), which has gradients here. (The module of `candle_nn` has them in this
    /// method alone.)
    ///
    /// # Errors
    /// As [`forward_add`](Self::forward_add).
    pub fn forward_diff(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)
    }

    /// The sum s = x + residual and its normalization, (s, y), in one touch.
    ///
    /// # Errors
    /// If shapes or types do not fit together, if eps is negative, infinite or NaN, or if a tensor is not on the CPU.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        ops::apply_sum(self.norm(x)?, x, residual, Some(&self.weight), None)
    }

    /// The normalization of x, written over x: see [`ops::rms_norm_in_place`].
    ///
    /// # Errors
    /// As [`forward_add`](Self::forward_add), if a tensor is tracked, or if x cannot be overwritten where it lies.
    pub fn forward_in_place(&self, x: &Tensor) -> Result<()> {
        ops::overwrite(self.norm(x)?, x, None, Some(&self.weight), None)
    }

    /// The normalization of x + residual, written over x: see [`ops::add_rms_norm_in_place`].
    ///
    /// # Errors
    /// As [`forward_in_place`](Self::forward_in_place), and if x and residual share memory.
    pub fn forward_add_in_place(&self, x: &Tensor, residual: &Tensor) -> Result<()> {
        ops::overwrite(self.norm(x)?, x, Some(residual), Some(&self.weight), None)
    }

    /// The normalization of x in blocks of [`Q8_0`], without gradients. x is f32, f16 or bf16. y is quantized as it is
    /// in f32, whatever the type of x.
    ///
    /// # Errors
    /// As [`forward_add`](Self::forward_add), and if the last dimension is not a multiple of 32.
    pub fn forward_q8_0(&self, x: &Tensor) -> Result<Q8_0> {
        ops::quantize(self.norm(x)?, x, Some(&self.weight), None)
    }

    fn norm(&self, x: &Tensor) -> Result<Norm> {
        Ok(Norm::rms(ops::cols(x)?, self.eps, self.offset)?.with_rounding(self.rounding))
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::apply(self.norm(x)?, x, Some(&self.weight), None)
    }
}

impl From<candle_nn::RmsNorm> for RmsNorm {
    fn from(norm: candle_nn::RmsNorm) -> Self {
        Self::new(norm.weight().clone(), norm.eps())
    }
}

/// Loads a layer as [`candle_nn::rms_norm`] does, or makes it if the variables are new.
///
/// # Errors
/// If there is no weight, or if it has another shape.
pub fn rms_norm(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<RmsNorm> {
    candle_nn::rms_norm(size, eps, vb).map(RmsNorm::from)
}
