//! What runs lanenorm on the elements of tensors, by type.

use candle_core::{CpuStorage, DType, Device, Error, Result, Tensor, WithDType, bail};
use lanenorm::{Beside, GradIo, Io, ParamGrads, Stats, StatsMut, Sum};
use rayon::prelude::*;

use crate::in_place::overwrite;
use crate::view::{Real, View, rowwise};

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

/// Calls a function for the type of x and that of gamma and beta.
macro_rules! by_type {
    ($x:expr, $affine:expr, $function:ident($($argument:expr),*)) => {
        match ($x.dtype(), $affine.dtype().unwrap_or($x.dtype())) {
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

impl Affine<'_> {
    fn dtype(&self) -> Option<DType> {
        self.gamma.or(self.beta).map(Tensor::dtype)
    }
}

impl Norm {
    pub(crate) fn layer(cols: usize, eps: f64) -> Result<Self> {
        lanenorm::LayerNorm::new(cols, eps).map(Self::Layer).map_err(Error::wrap)
    }

    pub(crate) fn rms(cols: usize, eps: f64, offset: f32) -> Result<Self> {
        let plan = lanenorm::RmsNorm::new(cols, eps).map_err(Error::wrap)?;
        Ok(Self::Rms(plan.with_offset(offset)))
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Layer(_) => "lanenorm layer_norm",
            Self::Rms(_) => "lanenorm rms_norm",
        }
    }

    /// y of x, which is made of rows.
    pub(crate) fn forward(&self, x: &Tensor, affine: Affine<'_>) -> Result<CpuStorage> {
        by_type!(x, affine, forward(self, x, affine))
    }

    /// s = x + residual, both made of rows, and y of s.
    pub(crate) fn forward_sum(
        &self,
        x: &Tensor,
        residual: &Tensor,
        affine: Affine<'_>,
    ) -> Result<(CpuStorage, CpuStorage)> {
        by_type!(x, affine, forward_sum(self, x, residual, affine))
    }

    /// Writes y over x, or over x after residual has been added to it.
    pub(crate) fn overwrite(&self, x: &Tensor, residual: Option<&Tensor>, affine: Affine<'_>) -> Result<()> {
        by_type!(x, affine, overwrite(self, x, residual, affine))
    }

    /// The gradients of those of x, gamma and beta that are tracked.
    pub(crate) fn backward(&self, x: &Tensor, affine: Affine<'_>, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        by_type!(x, affine, backward(self, x, affine, &rowwise(dy)?))
    }

    pub(crate) fn run<'a, T: Real, G: Beside<T>>(
        &self,
        io: Io<'a, T>,
        gamma: Option<&'a [G]>,
        beta: Option<&'a [G]>,
    ) -> Result<()> {
        match self {
            Self::Layer(plan) => plan.forward_mixed(io, gamma, beta, StatsMut::default()),
            Self::Rms(plan) => plan.forward_mixed(io, gamma, None),
        }
        .map_err(Error::wrap)
    }

    fn run_backward<T: Real, G: Beside<T>>(
        &self,
        io: GradIo<'_, T>,
        gamma: Option<&[G]>,
        grads: ParamGrads<'_, T::Float>,
    ) -> Result<()> {
        match self {
            Self::Layer(plan) => plan.backward_mixed(io, gamma, Stats::default(), grads),
            Self::Rms(plan) => plan.backward_mixed(io, gamma, None, grads.dgamma),
        }
        .map_err(Error::wrap)
    }
}

fn forward<T: Real, G: Real + Beside<T>>(norm: &Norm, x: &Tensor, affine: Affine<'_>) -> Result<CpuStorage> {
    let mut y = vec![T::zero(); x.elem_count()];
    let (x, gamma, beta) = (View::new(x), affine.gamma.map(View::new), affine.beta.map(View::new));
    let (gamma, beta) = (row::<G>(&gamma)?, row::<G>(&beta)?);
    norm.run(Io::new(x.rows()?, &mut y), gamma, beta)?;
    Ok(T::to_cpu_storage_owned(y))
}

fn forward_sum<T: Real, G: Real + Beside<T>>(
    norm: &Norm,
    x: &Tensor,
    residual: &Tensor,
    affine: Affine<'_>,
) -> Result<(CpuStorage, CpuStorage)> {
    let mut y = vec![T::zero(); x.elem_count()];
    let contiguous = x.is_contiguous() && residual.is_contiguous();
    let (x, residual) = (View::new(x), View::new(residual));
    let (gamma, beta) = (affine.gamma.map(View::new), affine.beta.map(View::new));
    let (gamma, beta) = (row::<G>(&gamma)?, row::<G>(&beta)?);
    let s = if contiguous && !is_narrow::<T>() {
        // Writing s only once saves more than not reading it again: the kernel for sums needs memory that was zeroed before.
        let s = sum(x.row()?, residual.row()?);
        norm.run(Io::new(&s, &mut y), gamma, beta)?;
        s
    } else {
        let mut s = vec![T::zero(); y.len()];
        norm.run(Io::sum(Sum::new(x.rows()?, residual.rows()?, &mut s), &mut y), gamma, beta)?;
        s
    };
    Ok((T::to_cpu_storage_owned(s), T::to_cpu_storage_owned(y)))
}

/// Whether a loop over elements cannot add them in vectors, so that the kernel must.
fn is_narrow<T>() -> bool {
    size_of::<T>() == 2
}

/// The least number of elements that are worth waking other threads for, as lanenorm has it.
const PARALLEL: usize = 256 * 1024;

/// The least number of elements per task.
const TASK: usize = 32 * 1024;

fn is_parallel(elements: usize) -> bool {
    elements >= PARALLEL && rayon::current_num_threads() > 1
}

fn sum<T: Real>(x: &[T], residual: &[T]) -> Vec<T> {
    if is_parallel(x.len()) {
        x.par_iter().zip(residual).with_min_len(TASK).map(|(&x, &residual)| x + residual).collect()
    } else {
        x.iter().zip(residual).map(|(&x, &residual)| x + residual).collect()
    }
}

fn backward<T: Real, G: Real + Beside<T>>(
    norm: &Norm,
    x: &Tensor,
    Affine { gamma, beta }: Affine<'_>,
    dy: &Tensor,
) -> Result<[Option<Tensor>; 3]> {
    let shape = x.shape();
    let tracked = |tensor: &&Tensor| tensor.track_op();
    let zeros = |of: &Tensor| vec![<T::Float as WithDType>::from_f64(0.0); of.elem_count()];
    let mut dx = x.track_op().then(|| vec![T::zero(); x.elem_count()]);
    let mut dgamma = gamma.filter(tracked).map(zeros);
    let mut dbeta = beta.filter(tracked).map(zeros);
    if dx.is_none() && dgamma.is_none() && dbeta.is_none() {
        return Ok([None, None, None]);
    }
    {
        let (dy, x, gamma) = (View::new(dy), View::new(x), gamma.map(View::new));
        let (dy, x) = (dy.rows()?, x.rows()?);
        let io = match &mut dx {
            Some(dx) => GradIo::new(dy, x, dx),
            None => GradIo::without_dx(dy, x),
        };
        let grads = ParamGrads { dgamma: dgamma.as_deref_mut(), dbeta: dbeta.as_deref_mut() };
        norm.run_backward(io, row::<G>(&gamma)?, grads)?;
    }
    // candle adds a gradient to others of the same argument, in its type.
    let of = |tensor: Option<&Tensor>, grad: Option<Vec<T::Float>>| match (tensor, grad) {
        (Some(tensor), Some(grad)) => {
            Tensor::from_vec(grad, tensor.shape(), &Device::Cpu)?.to_dtype(tensor.dtype()).map(Some)
        }
        _ => Ok(None),
    };
    let dx = dx.map(|dx| Tensor::from_vec(dx, shape, &Device::Cpu)).transpose()?;
    Ok([dx, of(gamma, dgamma)?, of(beta, dbeta)?])
}

fn row<'a, G: Real>(view: &'a Option<View<'_>>) -> Result<Option<&'a [G]>> {
    view.as_ref().map(View::row).transpose()
}
