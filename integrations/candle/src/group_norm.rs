use candle_core::{Module, Result, Tensor, bail};
use candle_nn::VarBuilder;
use lanenorm::gate::Function;

use crate::of_channels::OfChannels;

/// Group normalization of x of [samples, channels, ..]: this drops in for [`candle_nn::GroupNorm`].
///
/// x is f32, f64, f16 or bf16. The weight and the bias have its type, or are f32 beside 16 bits. It has gradients,
/// which have no gradients themselves.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    num_channels: usize,
    num_groups: usize,
    eps: f64,
    activation: Option<Function>,
}

impl GroupNorm {
    /// With a weight (gamma) and a bias (beta) of an element for each channel. With a group for each channel it is
    /// instance normalization.
    ///
    /// # Errors
    /// If the groups do not divide the channels.
    pub fn new(weight: Tensor, bias: Tensor, num_channels: usize, num_groups: usize, eps: f64) -> Result<Self> {
        if num_groups == 0 || !num_channels.is_multiple_of(num_groups) {
            bail!("num_groups is {num_groups}, expected a divisor of the {num_channels} channels");
        }
        Ok(Self { weight, bias, num_channels, num_groups, eps, activation: None })
    }

    /// The same module, whose result goes through a function: [`Function::Silu`] in most diffusion models. What the
    /// function takes is not rounded to 16 bits before.
    pub fn with_activation(self, function: Function) -> Self {
        Self { activation: Some(function), ..self }
    }

    /// The weight, gamma.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, beta.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// The number of groups.
    pub fn num_groups(&self) -> usize {
        self.num_groups
    }

    /// The number added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }
}

impl Module for GroupNorm {
    /// # Errors
    /// If x has less than three dimensions or other channels, if shapes or types do not fit together, if eps is
    /// negative, infinite or NaN, or if a tensor is not on the CPU.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let &Self { num_channels, num_groups: groups, eps, activation, .. } = self;
        match x.dims() {
            [_, channels, _, ..] if *channels == num_channels => {}
            dims => bail!("x has shape {dims:?}, expected [samples, {num_channels}, ..], of three dimensions at least"),
        }
        OfChannels::Groups { groups, eps, activation }.run(x, num_channels, &self.weight, &self.bias)
    }
}

/// Loads a module, as [`candle_nn::group_norm()`] does, or makes it if its variables are new.
///
/// # Errors
/// If there is no weight or no bias, if one has another shape, or if the groups do not divide the channels.
pub fn group_norm(num_groups: usize, num_channels: usize, eps: f64, vb: VarBuilder<'_>) -> Result<GroupNorm> {
    let weight = vb.get_with_hints(num_channels, "weight", candle_nn::Init::Const(1.0))?;
    let bias = vb.get_with_hints(num_channels, "bias", candle_nn::Init::Const(0.0))?;
    GroupNorm::new(weight, bias, num_channels, num_groups, eps)
}
