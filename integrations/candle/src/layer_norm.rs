use candle_core::{Module, Result, Tensor, bail};
use candle_nn::{LayerNormConfig, VarBuilder};
use lanenorm::Rounding;

use crate::norm::Norm;
use crate::ops;
use crate::quantized::Q8_0;

/// Layer normalization of the last dimension, as a module that drops in for [`candle_nn::LayerNorm`].
///
/// Unlike candle's module, it has gradients on contiguous tensors too, and takes tensors of 16 bits beside a weight and
/// bias of f32.
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
///
/// let vars = VarMap::new();
/// let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
/// let norm = lanenorm_candle::layer_norm(4, 1e-5, vb.pp("norm"))?;
/// let y = norm.forward(&Tensor::new(&[[1f32, 2., 3., 4.]], &Device::Cpu)?)?;
/// assert_eq!(y.backward()?.get(norm.weight()).unwrap().dims(), [4]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    remove_mean: bool,
    eps: f64,
    rounding: Rounding,
}

impl LayerNorm {
    /// With a weight (gamma) and a bias (beta).
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias: Some(bias), remove_mean: true, eps, rounding: Rounding::ONCE }
    }

    /// With a weight (gamma) only.
    pub fn new_no_bias(weight: Tensor, eps: f64) -> Self {
        Self { weight, bias: None, remove_mean: true, eps, rounding: Rounding::ONCE }
    }

    /// RMS normalization, in which the mean stays.
    pub fn rms_norm(weight: Tensor, eps: f64) -> Self {
        Self { weight, bias: None, remove_mean: false, eps, rounding: Rounding::ONCE }
    }

    /// The same module, which rounds to 16 bits where the model does whose bits are wanted: `DebertaLayerNorm` of
    /// `transformers` has [`Rounding::STEPS`]. Gradients do not round.
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// The weight, gamma.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, beta.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The number added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// Whether this is layer normalization, not RMS normalization.
    pub fn remove_mean(&self) -> bool {
        self.remove_mean
    }

    /// The sum s = x + residual and its normalization, (s, y), in one touch.
    ///
    /// # Errors
    /// If shapes or types do not fit together, if eps is negative, infinite or NaN, or if a tensor is not on the CPU.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        let (s, y) = ops::apply_sum(self.norm(x)?, x, residual, Some(&self.weight), self.fused_bias())?;
        Ok((s, self.add_bias(y)?))
    }

    /// The normalization of x, written over x: see [`ops::layer_norm_in_place`].
    ///
    /// # Errors
    /// As [`forward_add`](Self::forward_add), if a tensor is tracked, or if x cannot be overwritten where it lies.
    pub fn forward_in_place(&self, x: &Tensor) -> Result<()> {
        self.overwrite(x, None)
    }

    /// The normalization of x + residual, written over x: see [`ops::add_layer_norm_in_place`].
    ///
    /// # Errors
    /// As [`forward_in_place`](Self::forward_in_place), and if x and residual share memory.
    pub fn forward_add_in_place(&self, x: &Tensor, residual: &Tensor) -> Result<()> {
        self.overwrite(x, Some(residual))
    }

    /// The normalization of x in blocks of [`Q8_0`]: see [`RmsNorm::forward_q8_0`](crate::RmsNorm::forward_q8_0).
    ///
    /// # Errors
    /// As [`forward_add`](Self::forward_add), if the last dimension is not a multiple of 32, and for RMS normalization
    /// with a bias.
    pub fn forward_q8_0(&self, x: &Tensor) -> Result<Q8_0> {
        self.check_bias("quantized")?;
        ops::quantize(self.norm(x)?, x, Some(&self.weight), self.bias.as_ref())
    }

    fn overwrite(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<()> {
        self.check_bias("done in place")?;
        ops::overwrite(self.norm(x)?, x, residual, Some(&self.weight), self.bias.as_ref())
    }

    /// Refuses a bias that is not part of the normalization itself.
    fn check_bias(&self, done: &str) -> Result<()> {
        match &self.bias {
            Some(bias) if !self.remove_mean => {
                bail!("RMS normalization with a bias, of shape {:?}, is not {done}", bias.dims())
            }
            _ => Ok(()),
        }
    }

    fn norm(&self, x: &Tensor) -> Result<Norm> {
        let cols = ops::cols(x)?;
        let norm = if self.remove_mean { Norm::layer(cols, self.eps) } else { Norm::rms(cols, self.eps, 0.0) };
        Ok(norm?.with_rounding(self.rounding))
    }

    /// The bias, if the normalization itself has one.
    fn fused_bias(&self) -> Option<&Tensor> {
        self.bias.as_ref().filter(|_| self.remove_mean)
    }

    /// y plus a bias that is not part of the normalization itself.
    fn add_bias(&self, y: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) if !self.remove_mean => y.broadcast_add(&bias.to_dtype(y.dtype())?),
            _ => Ok(y),
        }
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.add_bias(ops::apply(self.norm(x)?, x, Some(&self.weight), self.fused_bias())?)
    }
}

impl From<candle_nn::LayerNorm> for LayerNorm {
    fn from(norm: candle_nn::LayerNorm) -> Self {
        let (weight, bias) = (norm.weight().clone(), norm.bias().cloned());
        let (remove_mean, eps) = (norm.remove_mean(), norm.eps());
        Self { weight, bias, remove_mean, eps, rounding: Rounding::ONCE }
    }
}

/// Loads a layer as [`candle_nn::layer_norm()`] does, or makes it if the variables are new.
///
/// # Errors
/// If there is no weight or bias, or if it has another shape.
pub fn layer_norm(size: usize, config: impl Into<LayerNormConfig>, vb: VarBuilder<'_>) -> Result<LayerNorm> {
    candle_nn::layer_norm(size, config, vb).map(LayerNorm::from)
}

/// Loads a layer as [`candle_nn::layer_norm_no_bias`] does, or makes it if the variables are new.
///
/// # Errors
/// If there is no weight, or if it has another shape.
pub fn layer_norm_no_bias(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<LayerNorm> {
    candle_nn::layer_norm_no_bias(size, eps, vb).map(LayerNorm::from)
}
