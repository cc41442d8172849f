//! Normalization of tensors of [samples, channels, ..], whose weight and bias have an element for each channel.

use candle_core::{CpuStorage, CustomOp3, DType, Device, Error, Layout, Result, Shape, Tensor, WithDType, bail};
use lanenorm::{Companion, gate::Function};

use crate::norm::{PARALLELISM, by_type};
use crate::twice;
use crate::view::{Real, View, read};

/// What is normalized.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OfChannels {
    /// The channels of each pixel.
    Each { eps: f64 },
    /// Groups of channels, whose result may go through a function.
    Groups { groups: usize, eps: f64, activation: Option<Function> },
}

impl OfChannels {
    /// Normalizes x, whose dimension of channels comes second.
    ///
    /// # Errors
    /// If shapes or types do not fit together, or if a tensor is not on the CPU.
    pub(crate) fn run(self, x: &Tensor, channels: usize, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        for (what, param) in [("gamma", weight), ("beta", bias)] {
            if param.dims() != [channels] {
                bail!("{what} has shape {:?}, expected [{channels}]: the channels of x, {:?}", param.dims(), x.dims());
            }
        }
        if bias.dtype() != weight.dtype() {
            bail!("beta is {:?}, expected {:?} as gamma", bias.dtype(), weight.dtype());
        }
        let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
        if x.track_op() || weight.track_op() || bias.track_op() {
            x.apply_op3(&weight, &bias, self)
        } else {
            x.apply_op3_no_bwd(&weight, &bias, &self)
        }
    }

    /// The numbers of channels and pixels of x.
    fn size(shape: &Shape) -> Result<(usize, usize)> {
        match shape.dims() {
            [_, channels, pixels @ ..] => Ok((*channels, pixels.iter().product())),
            dims => bail!("x has shape {dims:?}, expected two dimensions at least"),
        }
    }
}

fn layer_norm(channels: usize, eps: f64) -> Result<lanenorm::LayerNorm> {
    Ok(lanenorm::LayerNorm::new(channels, eps).map_err(Error::wrap)?.with_parallelism(PARALLELISM))
}

fn group_norm(channels: usize, groups: usize, eps: f64) -> Result<lanenorm::GroupNorm> {
    Ok(lanenorm::GroupNorm::new(channels, groups, eps).map_err(Error::wrap)?.with_parallelism(PARALLELISM))
}

fn forward<T: Real, G: Real + Companion<T>>(
    op: OfChannels,
    x: View<'_>,
    gamma: View<'_>,
    beta: View<'_>,
) -> Result<CpuStorage> {
    let mut y = vec![<T as WithDType>::from_f64(0.0); x.shape().elem_count()];
    let (channels, pixels) = OfChannels::size(x.shape())?;
    let (x, gamma, beta) = (x.row::<T>()?, gamma.row::<G>()?, beta.row::<G>()?);
    match op {
        OfChannels::Each { eps } => {
            layer_norm(channels, eps)?.call(x).gamma(gamma).beta(beta).channels_first(pixels).to(&mut y)
        }
        OfChannels::Groups { groups, eps, activation } => {
            let plan = group_norm(channels, groups, eps)?;
            let call = plan.call(x, pixels).gamma(gamma).beta(beta);
            match activation {
                Some(function) => call.activation(function).to(&mut y),
                None => call.to(&mut y),
            }
        }
    }
    .map_err(Error::wrap)?;
    Ok(T::to_cpu_storage_owned(y))
}

fn backward<T: Real, G: Real + Companion<T>>(
    op: OfChannels,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    dy: &Tensor,
) -> Result<[Option<Tensor>; 3]> {
    let zeros =
        |param: &Tensor| param.track_op().then(|| vec![<T::Float as WithDType>::from_f64(0.0); param.elem_count()]);
    let mut dx = x.track_op().then(|| vec![<T as WithDType>::from_f64(0.0); x.elem_count()]);
    let (mut dgamma, mut dbeta) = (zeros(gamma), zeros(beta));
    let (channels, pixels) = OfChannels::size(x.shape())?;
    read(dy, |dy| {
        read(x, |x| {
            read(gamma, |gamma| {
                read(beta, |beta| {
                    let (dy, x, gamma, beta) = (dy.row::<T>()?, x.row::<T>()?, gamma.row::<G>()?, beta.row::<G>()?);
                    let (dgamma, dbeta) = (dgamma.as_deref_mut(), dbeta.as_deref_mut());
                    match op {
                        OfChannels::Each { eps } => {
                            let plan = layer_norm(channels, eps)?;
                            let call = plan.backward(dy, x).gamma(gamma).dgamma_to(dgamma).dbeta_to(dbeta);
                            let call = call.channels_first(pixels);
                            if let Some(dx) = &mut dx { call.to(dx) } else { call.run() }
                        }
                        OfChannels::Groups { groups, eps, activation } => {
                            let plan = group_norm(channels, groups, eps)?;
                            let call = plan.backward(dy, x, pixels).gamma(gamma).beta(beta);
                            let mut call = call.dgamma_to(dgamma).dbeta_to(dbeta);
                            if let Some(function) = activation {
                                call = call.activation(function);
                            }
                            if let Some(dx) = &mut dx { call.to(dx) } else { call.run() }
                        }
                    }
                    .map_err(Error::wrap)
                })
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

impl CustomOp3 for OfChannels {
    fn name(&self) -> &'static str {
        match self {
            Self::Each { .. } => "lanenorm layer_norm_2d",
            Self::Groups { .. } => "lanenorm group_norm",
        }
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
            bail!("gradients of {} have no gradients", self.name());
        }
        let (dy, given) = (grad.contiguous()?, Some(gamma));
        let [dx, dgamma, dbeta] = by_type!(x, given, backward(*self, x, gamma, beta, &dy))?;
        Ok((dx, dgamma, dbeta))
    }
}
