//! Group normalization.

use lanenorm::capi::lanenorm_op;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::array::{Array, Operand, tuple};
use crate::backward::gradients;
use crate::call::{Channels, Norm, Statistics};
use crate::options::{self, Affine};
use crate::run::{Kept, run};

/// A tensor whose channels are cut into groups.
struct Tensor<'py> {
    x: Array<'py>,
    affine: Affine<'py>,
    norm: Norm,
    samples: usize,
    pixels: usize,
    groups: usize,
    is_last: bool,
    activation: i32,
}

/// What a call is given beside its tensors.
struct Given<'a, 'py> {
    groups: usize,
    gamma: Option<&'a Bound<'py, PyAny>>,
    beta: Option<&'a Bound<'py, PyAny>>,
    eps: f64,
    channels_last: bool,
    activation: Option<&'a str>,
    threads: Option<usize>,
}

impl<'py> Tensor<'py> {
    fn new(x: &Bound<'py, PyAny>, of: &Given<'_, 'py>) -> PyResult<Self> {
        let x = Array::input(x, "x")?.in_order()?;
        let (shape, dtype, is_last) = (x.shape(), x.dtype(), of.channels_last);
        let ([samples, .., last], true) = (shape, shape.len() >= 2) else {
            let shape = tuple(shape);
            return Err(PyValueError::new_err(format!(
                "x has shape {shape}, expected samples, channels and more axes"
            )));
        };
        let (channels, pixels) = if is_last {
            (*last, shape[1..shape.len() - 1].iter().product())
        } else {
            (shape[1], shape[2..].iter().product())
        };
        let groups = of.groups;
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(PyValueError::new_err(format!(
                "x has {channels} channels, which {groups} groups do not divide"
            )));
        }
        let affine = Affine::new(of.gamma, of.beta, dtype, &[channels], 0, false)?;
        let norm = options::norm(lanenorm_op::LayerNorm, dtype, channels, of.eps, of.threads)?;
        let activation = options::activation(of.activation)?;
        Ok(Self { samples: *samples, pixels, groups, is_last, activation, affine, norm, x })
    }

    /// The statistics of all groups have this shape.
    fn lead(&self) -> [usize; 2] {
        [self.samples, self.groups]
    }

    fn call(&self, statistics: Statistics) -> Channels {
        let &Self { samples, pixels, groups, is_last, activation, .. } = self;
        let (x, params) = (self.x.data().cast(), self.affine.params());
        Channels { samples, pixels, groups, is_last, activation, x, params, statistics }
    }

    /// An output of the shape and type of x.
    fn output(&self, given: Option<&Bound<'py, PyAny>>) -> PyResult<Operand<'py>> {
        let (shape, dtype) = (self.x.shape(), self.x.dtype());
        let array = match given {
            Some(given) => Array::output(given, "out", shape)?,
            None => Array::empty(self.x.py(), shape, dtype)?,
        };
        array.expect_dtype("out", |given| given == dtype, dtype)?;
        let mut operand = Operand::output(array);
        operand.put_in_order()?;
        Ok(operand)
    }

    fn elements(&self) -> usize {
        self.x.shape().iter().product()
    }
}

/// Group normalization: the channels of each sample are cut into groups, and each group is normalized like a row of
/// `layer_norm`; ``y = f((x - mean) / sqrt(var + eps) * gamma + beta)`` with the gamma and beta of a channel.
///
/// With a group for each channel it is instance normalization.
///
/// Parameters
/// ----------
/// x : array of shape ``(samples, channels, ...)``, or ``(samples, ..., channels)`` if ``channels_last``
///     Of a type that `layer_norm` takes. Layouts other than the order of C are copied once.
/// groups : int
///     The number of groups, which divides the channels.
/// gamma, beta : arrays of shape ``(channels,)``, optional
/// activation : {"silu", "sigmoid", "gelu_tanh"}, optional
///     The function f.
/// eps, out, statistics, threads
///     As of `layer_norm`; ``out`` has the type of x, and statistics the shape ``(samples, groups)``.
#[pyfunction]
#[pyo3(signature = (x, groups, gamma=None, beta=None, eps=1e-5, *, channels_last=false, activation=None, out=None,
    statistics=false, threads=None))]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn group_norm<'py>(
    x: &Bound<'py, PyAny>,
    groups: usize,
    gamma: Option<&Bound<'py, PyAny>>,
    beta: Option<&Bound<'py, PyAny>>,
    eps: f64,
    channels_last: bool,
    activation: Option<&str>,
    out: Option<&Bound<'py, PyAny>>,
    statistics: bool,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let tensor = Tensor::new(x, &Given { groups, gamma, beta, eps, channels_last, activation, threads })?;
    let (py, y) = (x.py(), tensor.output(out)?);
    let kept = |()| Kept::new(py, &tensor.lead(), tensor.elements(), tensor.x.dtype(), true);
    let kept = statistics.then_some(()).map(kept).transpose()?;
    let call = tensor.call(kept.as_ref().map_or(Statistics::NONE, Kept::statistics));
    let to = y.array.data().cast();
    // SAFETY: the arrays live on, and have these elements.
    run(py, tensor.elements(), || unsafe { call.run(&tensor.norm, to) })?;
    let y = y.finish()?;
    let y = out.cloned().unwrap_or_else(|| y.into_any());
    match kept {
        Some(kept) => Ok((y, kept.into_any(py)?).into_pyobject(py)?.into_any()),
        None => Ok(y),
    }
}

/// The gradients of `group_norm`: `Gradients`, with dgamma and dbeta of shape ``(channels,)``.
///
/// dy is the gradient of the result, of the shape and type of x; ``statistics`` is what the forward call has returned,
/// without which the mean and the root are taken again. The other arguments are those of the forward call.
#[pyfunction]
#[pyo3(signature = (dy, x, groups, gamma=None, beta=None, eps=1e-5, *, channels_last=false, activation=None,
    statistics=None, threads=None))]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn group_norm_backward<'py>(
    dy: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    groups: usize,
    gamma: Option<&Bound<'py, PyAny>>,
    beta: Option<&Bound<'py, PyAny>>,
    eps: f64,
    channels_last: bool,
    activation: Option<&str>,
    statistics: Option<&Bound<'py, PyAny>>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let tensor = Tensor::new(x, &Given { groups, gamma, beta, eps, channels_last, activation, threads })?;
    let (py, dtype) = (x.py(), tensor.x.dtype());
    let dy = Array::input(dy, "dy")?.in_order()?;
    dy.expect_shape("dy", tensor.x.shape())?;
    dy.expect_dtype("dy", |given| given == dtype, dtype)?;
    let kept = statistics.map(|given| Kept::given(given, &tensor.lead(), dtype, true)).transpose()?;
    let dx = Array::empty(py, tensor.x.shape(), dtype)?;
    let of_params = || Array::empty(py, &[tensor.norm.cols], dtype.of_statistics());
    let (dgamma, dbeta) = (of_params()?, of_params()?);
    let call = tensor.call(kept.as_ref().map_or(Statistics::NONE, Kept::statistics));
    let (dy, to) = (dy.data().cast_const().cast(), [&dx, &dgamma, &dbeta].map(|array| array.data().cast()));
    // SAFETY: the arrays live on, and have these elements.
    run(py, tensor.elements(), || unsafe { call.run_backward(&tensor.norm, dy, to) })?;
    gradients(py, dx.into_any(), dgamma, Some(dbeta))
}
