//! Forward calls.

use lanenorm::capi::lanenorm_op;
use pyo3::prelude::*;

use crate::array::{Array, Operand};
use crate::call::{Channels, Forward, Norm};
use crate::dtype::Dtype;
use crate::options::{self, Axis};
use crate::rows::{Given, Rows};
use crate::run::{arrange, run};

impl<'py> Rows<'py> {
    /// Normalizes x.
    fn normalize(self, out: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let py = self.given.py();
        let y = match self.channels(out)? {
            Some(y) => y,
            None => {
                let mut operands = [Operand::input(self.x.clone()), self.output(out, "out", self.dtype())?];
                let layout = arrange(&mut operands, self.axes.first)?;
                let views = operands.each_ref().map(|operand| operand.array.view());
                let call = Forward::new(&layout, views.each_ref(), self.affine.params());
                let call = Forward { statistics: self.statistics(), ..call };
                // SAFETY: the arrays live on.
                run(py, self.elements(), || unsafe { call.run(&self.norm) })?;
                let [_, y] = operands;
                self.finish(y, out)?
            }
        };
        self.with_statistics(y)
    }

    /// Normalizes the channels of a tensor in the order of C where they lie, if that can be done.
    fn channels(&self, out: Option<&Bound<'py, PyAny>>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let shape = self.given.shape();
        let Some([samples, _, pixels]) = self.axes.channels(shape).filter(|_| self.given.is_in_order()) else {
            return Ok(None);
        };
        let y = match out {
            Some(out) => Array::output(out, "out", shape)?,
            None => Array::empty(self.given.py(), shape, self.dtype())?,
        };
        if y.dtype() != self.dtype() || !y.is_in_order() {
            return Ok(None);
        }
        let (x, params, statistics) = (self.given.data().cast(), self.affine.params(), self.statistics());
        let call = Channels { samples, pixels, groups: 0, is_last: false, activation: 0, x, params, statistics };
        let to = y.data().cast();
        // SAFETY: the arrays live on, and have these elements.
        run(self.given.py(), self.elements(), || unsafe { call.run(&self.norm, to) })?;
        Ok(Some(out.cloned().unwrap_or_else(|| y.into_any())))
    }
}

/// What the sum of a call is given.
struct Sum<'a, 'py> {
    residual: &'a Bound<'py, PyAny>,
    bias: Option<&'a Bound<'py, PyAny>>,
    sums: &'a str,
    out: Option<&'a Bound<'py, PyAny>>,
    sum_out: Option<&'a Bound<'py, PyAny>>,
}

impl<'py> Rows<'py> {
    /// Normalizes x + residual. Returns y, the sum, and statistics if they are wanted.
    fn add(self, of: &Sum<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let py = self.given.py();
        let residual = self.beside(of.residual, "residual")?;
        let dtype = residual.array.dtype();
        residual.array.expect_dtype(
            "residual",
            |d| d == self.dtype() || d == Dtype::F32 && self.dtype().size() == 2,
            self.dtype(),
        )?;
        let sum = self.output(of.sum_out, "sum_out", dtype)?;
        sum.array.expect_dtype("sum_out", |given| given == dtype, self.dtype())?;
        let y = self.output(of.out, "out", self.dtype())?;
        let row = &self.x.shape()[self.axes.first..];
        let bias = of.bias.map(|bias| Array::input(bias, "bias")).transpose()?;
        let bias = match bias {
            Some(bias) => {
                bias.expect_shape("bias", row)?;
                bias.expect_dtype("bias", |given| given == dtype, self.dtype())?;
                Some(bias.in_order()?)
            }
            None => None,
        };
        let norm = Norm { sums: options::sums(of.sums)?, ..self.norm };
        let mut operands = [Operand::input(self.x.clone()), residual, sum, y];
        let layout = arrange(&mut operands, self.axes.first)?;
        let views = operands.each_ref().map(|operand| operand.array.view());
        let call = Forward {
            residual: Some(1),
            sum: Some(2),
            bias: bias.as_ref().map_or(std::ptr::null(), |bias| bias.data().cast_const().cast()),
            statistics: self.statistics(),
            ..Forward::new(&layout, views.each_ref(), self.affine.params())
        };
        // SAFETY: the arrays live on.
        run(py, self.elements(), || unsafe { call.run(&norm) })?;
        let [_, _, sum, y] = operands;
        let (y, sum) = (self.finish(y, of.out)?, self.finish(sum, of.sum_out)?);
        Ok(match self.kept {
            Some(kept) => (y, sum, kept.into_any(py)?).into_pyobject(py)?.into_any(),
            None => (y, sum).into_pyobject(py)?.into_any(),
        })
    }
}

/// Layer normalization: ``(x - mean) / sqrt(var + eps) * (gamma + offset) + beta`` of each row.
///
/// Parameters
/// ----------
/// x : array of float32, float64, float16 or bfloat16 (of ``ml_dtypes``)
///     A numpy array, or what numpy or DLPack can look at: tensors of jax or PyTorch on a CPU, buffers. Rows may lie at
///     one or two strides; other layouts are copied once.
/// gamma, beta : arrays, optional
///     Of the shape of the axes that are normalized; of the type of x, or of float32 beside 16 bits, or of 16 bits
///     beside float32. Where the last axes are normalized, they may also broadcast to x, such that groups of rows have
///     their own: ``(samples, 1, columns)`` or ``(heads, columns)``. Without gamma, 1 takes its place, without offset.
/// eps : float
///     Added to the variance.
/// axis : int or sequence of ints
///     The axes over which the mean is taken. A tensor whose axes are other than the last ones is copied once, unless
///     it is in the order of C and one axis is normalized: channels of images, say.
/// out : numpy array, optional
///     Where the result goes: of the shape of x, and of its type, of float32 beside 16 bits, or of 16 bits beside
///     float32. It may be x.
/// offset : float
///     Added to gamma, as a number of float32: 1 where gamma - 1 is kept.
/// rounding : {"once", "steps", "gamma", "steps_and_gamma"}
///     Where a result of 16 bits is rounded before the end: see the presets in docs/numerics.md.
/// statistics : bool
///     Whether to return `Statistics` too, for the gradients.
/// threads : int, optional
///     ``threads`` is the greatest number of threads; 1 is the calling one alone. Without it there are as many as pay,
///     up to the number of processors or ``RAYON_NUM_THREADS``. They are threads of the library, not of OpenMP. The
///     result has the same bits.
///
/// Returns
/// -------
/// numpy array of the shape and type of x, or ``out``; with `Statistics`, of the shape of x without the axes that are
/// normalized, if they are wanted.
///
/// Raises
/// ------
/// ValueError
///     If shapes do not fit, ``out`` is read-only or overlaps another array, or eps is negative or NaN.
/// TypeError
///     If types do not go together, or x is on another device than a CPU. Nothing has been written then.
///
/// Calls of some microseconds and more release the global interpreter lock: do not write to the arrays meanwhile.
#[pyfunction]
#[pyo3(signature = (x, gamma=None, beta=None, eps=1e-5, *, axis=None, out=None, offset=0.0, rounding="once",
    statistics=false, threads=None))]
#[pyo3(text_signature = "(x, gamma=None, beta=None, eps=1e-05, *, axis=-1, out=None, offset=0.0, rounding='once', \
    statistics=False, threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn layer_norm<'py>(
    x: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    beta: Option<&Bound<'py, PyAny>>,
    eps: f64,
    axis: Option<Axis>,
    out: Option<&Bound<'py, PyAny>>,
    offset: f32,
    rounding: &str,
    statistics: bool,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let op = lanenorm_op::LayerNorm;
    Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?.normalize(out)
}

/// RMS normalization: ``x / sqrt(mean(x**2) + eps) * (gamma + offset)`` of each row.
///
/// Arguments, errors and the result are those of `layer_norm`, without beta and the mean.
#[pyfunction]
#[pyo3(signature = (x, gamma=None, eps=1e-6, *, axis=None, out=None, offset=0.0, rounding="once", statistics=false,
    threads=None))]
#[pyo3(text_signature = "(x, gamma=None, eps=1e-06, *, axis=-1, out=None, offset=0.0, rounding='once', \
    statistics=False, threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn rms_norm<'py>(
    x: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    eps: f64,
    axis: Option<Axis>,
    out: Option<&Bound<'py, PyAny>>,
    offset: f32,
    rounding: &str,
    statistics: bool,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let (op, beta) = (lanenorm_op::RmsNorm, None);
    Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?.normalize(out)
}

/// L2 normalization: ``x / max(sqrt(sum(x**2)), eps) * gamma`` of each row, as ``torch.nn.functional.normalize``; or
/// ``x / sqrt(sum(x**2) + eps) * gamma`` if ``inside``.
///
/// Arguments, errors and the result are those of `rms_norm`. Unless ``inside``, eps is 0 or lies between 1e-150 and
/// 1e150.
#[pyfunction]
#[pyo3(signature = (x, gamma=None, eps=1e-12, *, inside=false, axis=None, out=None, threads=None))]
#[pyo3(text_signature = "(x, gamma=None, eps=1e-12, *, inside=False, axis=-1, out=None, threads=None)")]
pub(crate) fn l2_norm<'py>(
    x: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    eps: f64,
    inside: bool,
    axis: Option<Axis>,
    out: Option<&Bound<'py, PyAny>>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let op = if inside { lanenorm_op::L2Norm } else { lanenorm_op::L2NormAtLeast };
    let (beta, offset, rounding, statistics) = (None, 0.0, "once", false);
    Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?.normalize(out)
}

/// Layer normalization of ``x + residual``, in one touch of memory. The sum is returned too: the residual stream.
///
/// Parameters
/// ----------
/// x, gamma, beta, eps, axis, out, offset, rounding, statistics, threads
///     As of `layer_norm`. ``out`` may be x or the residual.
/// residual : array of the shape of x
///     Of its type, or of float32 beside 16 bits.
/// bias : array, optional
///     Of the shape of a row, and of the type of the residual: added to each row before the sum is rounded.
/// sums : {"rounded", "statistics", "unrounded"}
///     Which sums of 16 bits are normalized: the rounded ones; these, with the statistics of the sums in float32
///     (vLLM); or the sums in float32 (ONNX Runtime). Sums that are returned are always rounded.
/// sum_out : numpy array, optional
///     Where the sum goes, of the type of the residual. It may be the residual or x.
///
/// Returns
/// -------
/// The result and the sum, and `Statistics` if they are wanted.
#[pyfunction]
#[pyo3(signature = (x, residual, gamma=None, beta=None, eps=1e-5, *, bias=None, axis=None, out=None, sum_out=None,
    offset=0.0, rounding="once", sums="rounded", statistics=false, threads=None))]
#[pyo3(text_signature = "(x, residual, gamma=None, beta=None, eps=1e-05, *, bias=None, axis=-1, out=None, \
    sum_out=None, offset=0.0, rounding='once', sums='rounded', statistics=False, threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn add_layer_norm<'py>(
    x: &Bound<'py, PyAny>,
    residual: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    beta: Option<&Bound<'py, PyAny>>,
    eps: f64,
    bias: Option<&Bound<'py, PyAny>>,
    axis: Option<Axis>,
    out: Option<&Bound<'py, PyAny>>,
    sum_out: Option<&Bound<'py, PyAny>>,
    offset: f32,
    rounding: &str,
    sums: &str,
    statistics: bool,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let op = lanenorm_op::LayerNorm;
    let rows = Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?;
    rows.add(&Sum { residual, bias, sums, out, sum_out })
}

/// RMS normalization of ``x + residual``, in one touch of memory.
///
/// Arguments, errors and the result are those of `add_layer_norm`, without beta and the mean.
#[pyfunction]
#[pyo3(signature = (x, residual, gamma=None, eps=1e-6, *, bias=None, axis=None, out=None, sum_out=None, offset=0.0,
    rounding="once", sums="rounded", statistics=false, threads=None))]
#[pyo3(text_signature = "(x, residual, gamma=None, eps=1e-06, *, bias=None, axis=-1, out=None, sum_out=None, \
    offset=0.0, rounding='once', sums='rounded', statistics=False, threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn add_rms_norm<'py>(
    x: &Bound<'py, PyAny>,
    residual: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    eps: f64,
    bias: Option<&Bound<'py, PyAny>>,
    axis: Option<Axis>,
    out: Option<&Bound<'py, PyAny>>,
    sum_out: Option<&Bound<'py, PyAny>>,
    offset: f32,
    rounding: &str,
    sums: &str,
    statistics: bool,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let (op, beta) = (lanenorm_op::RmsNorm, None);
    let rows = Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?;
    rows.add(&Sum { residual, bias, sums, out, sum_out })
}
