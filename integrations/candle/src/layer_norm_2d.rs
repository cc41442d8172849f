use candle_core::{
    CpuStorage, CustomOp3, DType, Device, Error, Layout, Module, Result, Shape, Tensor, WithDType, bail,
};
use candle_nn::VarBuilder;
use lanenorm::Companion;

use crate::norm::{PARALLELISM, by_type};
use crate::twice;
use crate::view::{Real, View, read};

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

/// The numbers of a module.
#[derive(Clone, Copy, Debug)]
struct ChannelsFirst {
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
        for (what, param) in [("gamma", &self.weight), ("beta", &self.bias)] {
            if param.dims() != [channels] {
                bail!("{what} has shape {:?}, expected [{channels}]: the channels of x, {:?}", param.dims(), x.dims());
            }
        }
        if self.bias.dtype() != self.weight.dtype() {
            bail!("beta is {:?}, expected {:?} as gamma", self.bias.dtype(), self.weight.dtype());
        }
        let (x, weight, bias) = (x.contiguous()?, self.weight.contiguous()?, self.bias.contiguous()?);
        let op = ChannelsFirst { eps: self.eps };
        if x.track_op() || weight.track_op() || bias.track_op() {
            x.apply_op3(&weight, &bias, op)
        } else {
            x.apply_op3_no_bwd(&weight, &bias, &op)
        }
    }
}

/// Loads a module, whose variables are named as those of [`candle_nn::layer_norm`], or makes it if they are new.
///
/// # Errors
/// If there is no weight or no bias, or if one has another shape.
pub fn layer_norm_2d(channels: usize, eps: f64, vb: VarBuilder<'_>) -> Result<LayerNorm2d> {
    let weight = vb.get_with_hints(channels, "weight", candle_nn::Init::Const(1.0))?;
    let bias = vb.get_with_hints(channels, "bias", candle_nn::Init::Const(0.0))?;
    Ok(LayerNorm2d::new(weight, bias, eps))
}

impl ChannelsFirst {
    /// The plan for x of this shape, and the number of its pixels.
    fn plan(self, shape: &Shape) -> Result<(lanenorm::LayerNorm, usize)> {
        let (_, channels, height, width) = shape.dims4()?;
        let plan = lanenorm::LayerNorm::new(channels, self.eps).map_err(Error::wrap)?;
        Ok((plan.with_parallelism(PARALLELISM), height * width))
    }
}

fn forward<T: Real, G: Real + Companion<T>>(
    op: ChannelsFirst,
    x: View<'_>,
    gamma: View<'_>,
    beta: View<'_>,
) -> Result<CpuStorage> {
    let mut y = vec![<T as WithDType>::from_f64(0.0); x.shape().elem_count()];
    let (plan, pixels) = op.plan(x.shape())?;
    let call = plan.call(x.row::<T>()?).gamma(gamma.row::<G>()?).beta(beta.row::<G>()?);
    call.channels_first(pixels).to(&mut y).map_err(Error::wrap)?;
    Ok(T::to_cpu_storage_owned(y))
}

fn backward<T: Real, G: Real + Companion<T>>(
    op: ChannelsFirst,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    dy: &Tensor,
) -> Result<[Option<Tensor>; 3]> {
    let zeros =
        |param: &Tensor| param.track_op().then(|| vec![<T::Float as WithDType>::from_f64(0.0); param.elem_count()]);
    let mut dx = x.track_op().then(|| vec![<T as WithDType>::from_f64(0.0); x.elem_count()]);
    let (mut dgamma, mut dbeta) = (zeros(gamma), zeros(beta));
    read(dy, |dy| {
        read(x, |x| {
            read(gamma, |gamma| {
                let (plan, pixels) = op.plan(x.shape())?;
                let call = plan.backward(dy.row::<T>()?, x.row::<T>()?).gamma(gamma.row::<G>()?);
                let call = call.dgamma_to(dgamma.as_deref_mut()).dbeta_to(dbeta.as_deref_mut());
                match &mut dx {
                    Some(dx) => call.channels_first(pixels).to(dx).map_err(Error::wrap),
                    None => call.channels_first(pixels).run().map_err(Error::wrap),
                }
            })
        })
    })?;
    let dx = dx.map(|dx| Tensor::from_vec(dx, x.shape(), &Device::Cpu)).transpose()?;
    // candle adds this gradient to other gradients of the argument, in the type of the argument.
    let of = |param: &Tensor, grad: Option<Vec<T::Float>>| {
        grad.map(|grad| Tensor::from_vec(grad, param.shape(), &Device::Cpu)?.to_dtype(param.dtype())).transpose()
    };
    Ok([dx, of(gamma, dgamma)?, of(beta, dbeta)?])
}

impl CustomOp3 for ChannelsFirst {
    fn name(&self) -> &'static str {
        "lanenorm layer_norm_2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        gamma: &CpuStorage,
        gamma_at: &Layout,
        beta: &CpuStorage,
        beta_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gamma, beta) = (View::new(x, x_at), View::new(gamma, gamma_at), View::new(beta, beta_at));
        let given = Some(gamma);
        Ok((by_type!(x, given, forward(*self, x, gamma, beta))?, x.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if twice::is_asked_for(grad) {
            bail!("gradients of LayerNorm2d have no gradients");
        }
        let (dy, given) = (grad.contiguous()?, Some(gamma));
        let [dx, dgamma, dbeta] = by_type!(x, given, backward(*self, x, gamma, beta, &dy))?;
        Ok((dx, dgamma, dbeta))
    }
}
