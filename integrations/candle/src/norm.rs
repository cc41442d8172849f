//! Runs lanenorm on the elements of tensors, for each type.

use candle_core::{CpuStorage, DType, Device, Error, Result, Tensor, WithDType, bail};
use lanenorm::{Companion, Parallelism, Rounding};

use crate::in_place::overwrite;
use crate::twice;
use crate::view::{Real, View, read, read_if_given, rowwise};

/// candle locks elements during a call. Meanwhile no job of a pool may run on a thread that works for the call: the job
/// may want the same lock.
pub(crate) const PARALLELISM: Parallelism = Parallelism::OwnThreads;

/// One of the two normalizations, for rows of some length.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Norm {
    Layer(lanenorm::LayerNorm),
    Rms(lanenorm::RmsNorm),
}

/// gamma and beta, each if given: contiguous, and of one type.
#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    pub(crate) gamma: Option<&'a Tensor>,
    pub(crate) beta: Option<&'a Tensor>,
}

/// Calls a function for the type of x and the type of gamma and beta. Without a gamma both types are the same.
macro_rules! by_type {
    ($x:expr, $gamma:expr, $function:ident($($argument:expr),*)) => {
        match ($x.dtype(), $gamma.as_ref().map_or($x.dtype(), |gamma| gamma.dtype())) {
            (DType::F32, DType::F32) => $function::<f32, f32>($($argument),*),
            (DType::F64, DType::F64) => $function::<f64, f64>($($argument),*),
            (DType::F16, DType::F16) => $function::<lanenorm::f16, lanenorm::f16>($($argument),*),
            (DType::F16, DType::F32) => $function::<lanenorm::f16, f32>($($argument),*),
            (DType::BF16, DType::BF16) => $function::<lanenorm::bf16, lanenorm::bf16>($($argument),*),
            (DType::BF16, DType::F32) => $function::<lanenorm::bf16, f32>($($argument),*),
            (x @ (DType::F32 | DType::F64), other) => bail!("gamma and beta are {other:?}, expected {x:?} as x"),
            (x @ (DType::F16 | DType::BF16), other) => {
                bail!("gamma and beta are {other:?}, expected {x:?} as x, or F32")
            }
            (x, _) => bail!("x is {x:?}, expected F32, F64, F16 or BF16"),
        }
    };
}

pub(crate) use by_type;

impl Norm {
    pub(crate) fn layer(cols: usize, eps: f64) -> Result<Self> {
        let plan = lanenorm::LayerNorm::new(cols, eps).map_err(Error::wrap)?;
        Ok(Self::Layer(plan.with_parallelism(PARALLELISM)))
    }

    pub(crate) fn rms(cols: usize, eps: f64, offset: f32) -> Result<Self> {
        let plan = lanenorm::RmsNorm::new(cols, eps).map_err(Error::wrap)?;
        Ok(Self::Rms(plan.with_offset(offset).with_parallelism(PARALLELISM)))
    }

    pub(crate) fn with_rounding(self, rounding: Rounding) -> Self {
        match self {
            Self::Layer(plan) => Self::Layer(plan.with_rounding(rounding)),
            Self::Rms(plan) => Self::Rms(plan.with_rounding(rounding)),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Layer(_) => "lanenorm layer_norm",
            Self::Rms(_) => "lanenorm rms_norm",
        }
    }

    /// The number added to the variance, or to the mean of squares.
    pub(crate) fn eps(&self) -> f64 {
        match self {
            Self::Layer(plan) => plan.eps(),
            Self::Rms(plan) => plan.eps(),
        }
    }

    /// The number added to gamma.
    pub(crate) fn offset(&self) -> f64 {
        match self {
            Self::Layer(plan) => plan.offset().into(),
            Self::Rms(plan) => plan.offset().into(),
        }
    }

    /// Whether the mean is subtracted.
    pub(crate) fn is_centered(&self) -> bool {
        matches!(self, Self::Layer(_))
    }

    /// y, from x in rows.
    pub(crate) fn forward(&self, x: View<'_>, gamma: Option<View<'_>>, beta: Option<View<'_>>) -> Result<CpuStorage> {
        by_type!(x, gamma, forward(self, x, gamma, beta))
    }

    /// s = x + residual, both in rows, and y from s.
    pub(crate) fn forward_sum(
        &self,
        x: &Tensor,
        residual: &Tensor,
        affine: Affine<'_>,
    ) -> Result<(CpuStorage, CpuStorage)> {
        by_type!(x, affine.gamma, forward_sum(self, x, residual, affine))
    }

    /// Writes y over x, or over x after residual has been added to it.
    pub(crate) fn overwrite(&self, x: &Tensor, residual: Option<&Tensor>, affine: Affine<'_>) -> Result<()> {
        by_type!(x, affine.gamma, overwrite(self, x, residual, affine))
    }

    /// The gradients of x, gamma and beta, as far as they are tracked.
    pub(crate) fn backward(&self, x: &Tensor, affine: Affine<'_>, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        if twice::is_asked_for(dy) && x.elem_count() > 0 {
            return twice::backward(self, x, affine, dy);
        }
        by_type!(x, affine.gamma, backward(self, x, affine, &rowwise(dy)?))
    }
}

/// Runs a call of either plan: first the methods that both calls have, then the methods of layer normalization alone,
/// then the end.
macro_rules! run {
    ($norm:expr, $plan:ident => $call:expr, $more:ident($argument:expr), $end:ident($($to:expr)?)) => {
        match $norm {
            $crate::norm::Norm::Layer($plan) => $call.$more($argument).$end($($to)?),
            $crate::norm::Norm::Rms($plan) => $call.$end($($to)?),
        }
        .map_err(candle_core::Error::wrap)
    };
}
pub(crate) use run;

fn forward<T: Real, G: Real + Companion<T>>(
    norm: &Norm,
    x: View<'_>,
    gamma: Option<View<'_>>,
    beta: Option<View<'_>>,
) -> Result<CpuStorage> {
    let (x, gamma, beta) = (x.rows::<T>()?, row::<G>(gamma)?, row::<G>(beta)?);
    let y: Vec<T> = run!(norm, plan => plan.call(x).gamma(gamma), beta(beta), to_vec())?;
    Ok(T::to_cpu_storage_owned(y))
}

fn forward_sum<T: Real, G: Real + Companion<T>>(
    norm: &Norm,
    x: &Tensor,
    residual: &Tensor,
    affine: Affine<'_>,
) -> Result<(CpuStorage, CpuStorage)> {
    let (s, y): (Vec<T>, Vec<T>) = read(x, |x| {
        read(residual, |residual| {
            read_if_given(affine.gamma, |gamma| {
                read_if_given(affine.beta, |beta| {
                    let (x, residual) = (x.rows::<T>()?, residual.rows::<T>()?);
                    let (gamma, beta) = (row::<G>(gamma)?, row::<G>(beta)?);
                    run!(norm, plan => plan.call(x).residual(residual).gamma(gamma), beta(beta), to_vecs())
                })
            })
        })
    })?;
    Ok((T::to_cpu_storage_owned(s), T::to_cpu_storage_owned(y)))
}

/// x + residual, both contiguous.
pub(crate) fn sum(x: View<'_>, residual: View<'_>) -> Result<CpuStorage> {
    #[expect(clippy::extra_unused_type_parameters, reason = "by_type! gives the type of gamma too")]
    fn sum<T: Real, G>(x: View<'_>, residual: View<'_>) -> Result<CpuStorage> {
        let sum = x.row::<T>()?.iter().zip(residual.row()?).map(|(&x, &residual)| x + residual);
        Ok(T::to_cpu_storage_owned(sum.collect()))
    }
    by_type!(x, None::<View<'_>>, sum(x, residual))
}

fn backward<T: Real, G: Real + Companion<T>>(
    norm: &Norm,
    x: &Tensor,
    Affine { gamma, beta }: Affine<'_>,
    dy: &Tensor,
) -> Result<[Option<Tensor>; 3]> {
    let shape = x.shape();
    let tracked = |tensor: &&Tensor| tensor.track_op();
    let zeros = |of: &Tensor| vec![<T::Float as WithDType>::from_f64(0.0); of.elem_count()];
    let mut dgamma = gamma.filter(tracked).map(zeros);
    let mut dbeta = beta.filter(tracked).map(zeros);
    if !x.track_op() && dgamma.is_none() && dbeta.is_none() {
        return Ok([None, None, None]);
    }
    let has_dx = x.track_op();
    let dx: Option<Vec<T>> = read(dy, |dy| {
        read(x, |x| {
            read_if_given(gamma, |gamma| {
                let (dy, x, gamma) = (dy.rows::<T>()?, x.rows::<T>()?, row::<G>(gamma)?);
                let (dgamma, dbeta) = (dgamma.as_deref_mut(), dbeta.as_deref_mut());
                if has_dx {
                    run!(norm, plan => plan.backward(dy, x).gamma(gamma).dgamma_to(dgamma), dbeta_to(dbeta), to_vec())
                        .map(Some)
                } else {
                    run!(norm, plan => plan.backward(dy, x).gamma(gamma).dgamma_to(dgamma), dbeta_to(dbeta), run())
                        .map(|()| None)
                }
            })
        })
    })?;
    // candle adds this gradient to other gradients of the argument, in the type of the argument.
    let of = |tensor: Option<&Tensor>, grad: Option<Vec<T::Float>>| match (tensor, grad) {
        (Some(tensor), Some(grad)) => {
            Tensor::from_vec(grad, tensor.shape(), &Device::Cpu)?.to_dtype(tensor.dtype()).map(Some)
        }
        _ => Ok(None),
    };
    let dx = dx.map(|dx| Tensor::from_vec(dx, shape, &Device::Cpu)).transpose()?;
    Ok([dx, of(gamma, dgamma)?, of(beta, dbeta)?])
}

/// The elements of gamma or beta.
pub(crate) fn row<G: Real>(param: Option<View<'_>>) -> Result<Option<&[G]>> {
    param.map(|param| param.row()).transpose()
}
