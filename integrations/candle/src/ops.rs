//! The operations, as functions of tensors.
//!
//! x is f32, f64, f16 or bf16, and its last dimension is normalized. gamma and beta have one dimension of that length,
//! and the type of x, or f32 beside 16 bits. 16 bits are computed in f32 and rounded once. A tensor whose rows are
//! contiguous and evenly spaced, such as some columns of a larger tensor, is read where it lies. Any other tensor is
//! copied first.
//!
//! Derivatives reach every argument. Where candle keeps the graph of gradients (`CANDLE_GRAD_DO_NOT_DETACH=1` in the
//! environment), derivatives of gradients do too: the backward pass then consists of operations of candle in f64.
//! Gradients of gamma and beta are summed up in f32 (f64 for f64), and rounded once to their type. Tensors are on the
//! CPU.

use candle_core::{D, Result, Tensor, bail};

use crate::node::Op;
use crate::norm::{Affine, Norm};
use crate::quantized::Q8_0;
use crate::view::rowwise;

/// Layer normalization: y = (x - mean) / sqrt(var + eps) * gamma + beta.
///
/// It takes the arguments of [`candle_nn::ops::layer_norm`]; gamma and beta may also be `None`.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[1f32, 2., 3., 4.], [10001., 10002., 10003., 10004.]], &Device::Cpu)?;
/// let y = lanenorm_candle::ops::layer_norm(&x, None, None, 1e-5)?.to_vec2::<f32>()?;
/// assert_eq!(y[0], y[1]); // an offset costs nothing
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If shapes or types do not fit together, if eps is negative, infinite or NaN, or if a tensor is not on the CPU.
pub fn layer_norm<'a>(
    x: &Tensor,
    gamma: impl Into<Option<&'a Tensor>>,
    beta: impl Into<Option<&'a Tensor>>,
    eps: impl Into<f64>,
) -> Result<Tensor> {
    let norm = Norm::layer(cols(x)?, eps.into())?;
    apply(norm, x, gamma.into(), beta.into())
}

/// RMS normalization: y = x / sqrt(mean(x^2) + eps) * gamma.
///
/// It takes the arguments of [`candle_nn::ops::rms_norm`]; gamma may also be `None`.
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm<'a>(x: &Tensor, gamma: impl Into<Option<&'a Tensor>>, eps: impl Into<f64>) -> Result<Tensor> {
    let norm = Norm::rms(cols(x)?, eps.into(), 0.0)?;
    apply(norm, x, gamma.into(), None)
}

/// The sum s = x + residual and its layer normalization, as (s, y). One touch does both, with the bits of an addition
/// followed by a normalization.
///
/// # Errors
/// As [`layer_norm`], and if x and residual differ in shape or type.
pub fn add_layer_norm<'a>(
    x: &Tensor,
    residual: &Tensor,
    gamma: impl Into<Option<&'a Tensor>>,
    beta: impl Into<Option<&'a Tensor>>,
    eps: impl Into<f64>,
) -> Result<(Tensor, Tensor)> {
    let norm = Norm::layer(cols(x)?, eps.into())?;
    apply_sum(norm, x, residual, gamma.into(), beta.into())
}

/// The sum s = x + residual and its RMS normalization, as (s, y). One touch does both, with the bits of an addition
/// followed by a normalization.
///
/// # Errors
/// As [`add_layer_norm`].
pub fn add_rms_norm<'a>(
    x: &Tensor,
    residual: &Tensor,
    gamma: impl Into<Option<&'a Tensor>>,
    eps: impl Into<f64>,
) -> Result<(Tensor, Tensor)> {
    let norm = Norm::rms(cols(x)?, eps.into(), 0.0)?;
    apply_sum(norm, x, residual, gamma.into(), None)
}

/// [`layer_norm`] of x, written over x: nothing is allocated. Every tensor that shares the memory of x changes with it.
///
/// Gradients cannot pass through it, so no tensor may be tracked. x must have evenly spaced rows.
///
/// # Errors
/// As [`layer_norm`], if a tensor is tracked, or if x cannot be overwritten where it lies.
pub fn layer_norm_in_place<'a>(
    x: &Tensor,
    gamma: impl Into<Option<&'a Tensor>>,
    beta: impl Into<Option<&'a Tensor>>,
    eps: impl Into<f64>,
) -> Result<()> {
    overwrite(Norm::layer(cols(x)?, eps.into())?, x, None, gamma.into(), beta.into())
}

/// [`rms_norm`] of x, written over x, as [`layer_norm_in_place`] does.
///
/// # Errors
/// As [`layer_norm_in_place`].
pub fn rms_norm_in_place<'a>(x: &Tensor, gamma: impl Into<Option<&'a Tensor>>, eps: impl Into<f64>) -> Result<()> {
    overwrite(Norm::rms(cols(x)?, eps.into(), 0.0)?, x, None, gamma.into(), None)
}

/// [`layer_norm`] of x + residual, written over x, as [`layer_norm_in_place`] does. It is for calls that do not need
/// the sum itself. x must be contiguous.
///
/// # Errors
/// As [`layer_norm_in_place`], if x and residual differ in shape or type, or if they share memory.
pub fn add_layer_norm_in_place<'a>(
    x: &Tensor,
    residual: &Tensor,
    gamma: impl Into<Option<&'a Tensor>>,
    beta: impl Into<Option<&'a Tensor>>,
    eps: impl Into<f64>,
) -> Result<()> {
    overwrite(Norm::layer(cols(x)?, eps.into())?, x, Some(residual), gamma.into(), beta.into())
}

/// [`rms_norm`] of x + residual, written over x, as [`add_layer_norm_in_place`] does.
///
/// # Errors
/// As [`add_layer_norm_in_place`].
pub fn add_rms_norm_in_place<'a>(
    x: &Tensor,
    residual: &Tensor,
    gamma: impl Into<Option<&'a Tensor>>,
    eps: impl Into<f64>,
) -> Result<()> {
    overwrite(Norm::rms(cols(x)?, eps.into(), 0.0)?, x, Some(residual), gamma.into(), None)
}

/// The length of the rows of x.
pub(crate) fn cols(x: &Tensor) -> Result<usize> {
    match x.rank() {
        0 => bail!("x has 0 dimensions, expected at least 1"),
        _ => x.dim(D::Minus1),
    }
}

pub(crate) fn apply(norm: Norm, x: &Tensor, gamma: Option<&Tensor>, beta: Option<&Tensor>) -> Result<Tensor> {
    let params = Params::new(x, gamma, beta)?;
    Op::Norm(norm).tensor(&params.args(&rowwise(x)?), None)
}

pub(crate) fn quantize(norm: Norm, x: &Tensor, gamma: Option<&Tensor>, beta: Option<&Tensor>) -> Result<Q8_0> {
    let params = Params::new(x, gamma, beta)?;
    norm.quantize(&rowwise(x)?, params.affine())
}

pub(crate) fn apply_sum(
    norm: Norm,
    x: &Tensor,
    residual: &Tensor,
    gamma: Option<&Tensor>,
    beta: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    check_addends(x, residual)?;
    let params = Params::new(x, gamma, beta)?;
    let (x, residual) = (rowwise(x)?, rowwise(residual)?);
    let (s, y) = norm.forward_sum(&x, &residual, params.affine())?;
    let s = Op::Sum.tensor(&[&x, &residual], Some(s))?;
    let y = Op::Norm(norm).tensor(&params.args(&s), Some(y))?;
    Ok((s, y))
}

pub(crate) fn overwrite(
    norm: Norm,
    x: &Tensor,
    residual: Option<&Tensor>,
    gamma: Option<&Tensor>,
    beta: Option<&Tensor>,
) -> Result<()> {
    for (what, tensor) in [("x", Some(x)), ("residual", residual), ("gamma", gamma), ("beta", beta)] {
        if tensor.is_some_and(Tensor::track_op) {
            bail!("{what} is tracked for gradients, which cannot pass an operation in place");
        }
    }
    residual.map_or(Ok(()), |residual| check_addends(x, residual))?;
    let params = Params::new(x, gamma, beta)?;
    if x.elem_count() == 0 { Ok(()) } else { norm.overwrite(x, residual, params.affine()) }
}

fn check_addends(x: &Tensor, residual: &Tensor) -> Result<()> {
    if x.shape() != residual.shape() {
        bail!("residual has shape {:?}, expected that of x: {:?}", residual.dims(), x.dims());
    }
    if x.dtype() != residual.dtype() {
        bail!("residual is {:?}, expected {:?} as x", residual.dtype(), x.dtype());
    }
    Ok(())
}

/// gamma and beta that fit x: contiguous and of one type, and a gamma wherever there is a beta.
struct Params {
    gamma: Option<Tensor>,
    beta: Option<Tensor>,
}

impl Params {
    fn new(x: &Tensor, gamma: Option<&Tensor>, beta: Option<&Tensor>) -> Result<Self> {
        let cols = cols(x)?;
        for (what, param) in [("gamma", gamma), ("beta", beta)] {
            if let Some(param) = param.filter(|param| param.dims() != [cols]) {
                bail!(
                    "{what} has shape {:?}, expected [{cols}]: the last dimension of x, {:?}",
                    param.dims(),
                    x.dims()
                );
            }
        }
        let ones;
        let gamma = match (gamma, beta) {
            (Some(gamma), Some(beta)) if gamma.dtype() != beta.dtype() => {
                bail!("beta is {:?}, expected {:?} as gamma", beta.dtype(), gamma.dtype())
            }
            (None, Some(beta)) => {
                ones = beta.ones_like()?;
                Some(&ones)
            }
            _ => gamma,
        };
        let contiguous = |param: Option<&Tensor>| param.map(Tensor::contiguous).transpose();
        Ok(Self { gamma: contiguous(gamma)?, beta: contiguous(beta)? })
    }

    fn affine(&self) -> Affine<'_> {
        Affine { gamma: self.gamma.as_ref(), beta: self.beta.as_ref() }
    }

    /// The arguments of the node of y.
    fn args<'a>(&'a self, x: &'a Tensor) -> Vec<&'a Tensor> {
        [Some(x), self.gamma.as_ref(), self.beta.as_ref()].into_iter().flatten().collect()
    }
}
