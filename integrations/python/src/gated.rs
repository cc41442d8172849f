//! Rows with a gate.

use lanenorm::capi::lanenorm_op;
use pyo3::prelude::*;

use crate::array::{Array, Operand};
use crate::call::{Backward, Forward, Statistics};
use crate::options::{self, Axis};
use crate::rows::{Given, Rows};
use crate::run::{arrange, named_tuple, run};

impl<'py> Rows<'py> {
    /// Normalizes x with a gate.
    fn gate(self, z: &Bound<'py, PyAny>, kind: &str, out: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let kind = options::gate(kind)?;
        let (z, y) = (self.beside(z, "z")?, self.output(out, "out", self.dtype())?);
        let mut operands = [Operand::input(self.x.clone()), z, y];
        let layout = arrange(&mut operands, self.axes.first)?;
        let views = operands.each_ref().map(|operand| operand.array.view());
        let call = Forward::new(&layout, views.each_ref(), self.affine.params());
        let call = Forward { statistics: self.statistics(), ..call };
        // SAFETY: the arrays live on.
        run(self.given.py(), self.elements(), || unsafe { call.run_gated(&self.norm, 1, kind) })?;
        let [_, _, y] = operands;
        let y = self.finish(y, out)?;
        self.with_statistics(y)
    }

    /// Takes the gradients of a call with a gate.
    fn differentiate_gate(
        self,
        dy: &Bound<'py, PyAny>,
        z: &Bound<'py, PyAny>,
        kind: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let kind = options::gate(kind)?;
        let (py, (dgamma, dbeta)) = (self.given.py(), self.of_params()?);
        let z = self.beside(z, "z")?;
        let dz = Operand::output(Array::empty(py, self.x.shape(), z.array.dtype())?);
        let dx = self.gradient_output(None, "out")?;
        let mut operands = [self.gradient(dy, "dy")?, Operand::input(self.x.clone()), z, dz, dx];
        let layout = arrange(&mut operands, self.axes.first)?;
        let views = operands.each_ref().map(|operand| operand.array.view());
        let call = Backward {
            layout: &layout,
            tensors: views.each_ref(),
            dx: Some(4),
            ds: None,
            params: self.affine.params(),
            statistics: Statistics::NONE,
            dgamma: dgamma.data().cast(),
            dbeta: dbeta.as_ref().map_or(std::ptr::null_mut(), |dbeta| dbeta.data().cast()),
        };
        // SAFETY: the arrays live on.
        run(py, self.elements(), || unsafe { call.run_gated(&self.norm, 2, 3, kind) })?;
        let [_, _, _, dz, dx] = operands;
        let (dx, dz) = (self.finish(dx, None)?, self.finish(dz, None)?);
        named_tuple(py, "GateGradients", (dx, dz, dgamma.into_any(), dbeta.map(Array::into_any)))
    }
}

/// Layer normalization with a gate: ``layer_norm(x) * f(z)``, or ``layer_norm(x * f(z))``.
///
/// Parameters
/// ----------
/// x, gamma, beta, eps, axis, out, offset, rounding, statistics, threads
///     As of `layer_norm`, but for x of float64, which is refused.
/// z : array of the shape of x
///     Of its type, of float32 beside 16 bits, or of 16 bits beside float32.
/// gate : {"silu", "sigmoid", "gelu_tanh", "silu_before", "sigmoid_before", "gelu_tanh_before"}
///     The function, and whether x is multiplied by it before it is normalized.
///
/// Returns
/// -------
/// As `layer_norm`. All between is float32, and the result is rounded once.
#[pyfunction]
#[pyo3(signature = (x, z, gamma=None, beta=None, eps=1e-5, *, gate="silu", axis=None, out=None, offset=0.0,
    rounding="once", statistics=false, threads=None))]
#[pyo3(text_signature = "(x, z, gamma=None, beta=None, eps=1e-05, *, gate='silu', axis=-1, out=None, offset=0.0, \
    rounding='once', statistics=False, threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn gated_layer_norm<'py>(
    x: &Bound<'py, PyAny>,
    z: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    beta: Option<&Bound<'py, PyAny>>,
    eps: f64,
    gate: &str,
    axis: Option<Axis>,
    out: Option<&Bound<'py, PyAny>>,
    offset: f32,
    rounding: &str,
    statistics: bool,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let op = lanenorm_op::LayerNorm;
    Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?.gate(z, gate, out)
}

/// RMS normalization with a gate: ``rms_norm(x) * f(z)``, or ``rms_norm(x * f(z))``.
///
/// Arguments and the result are those of `gated_layer_norm`, without beta and the mean. Groups within a row (Mamba 2)
/// are an axis of their own: ``x.reshape(..., groups, columns)``, with gamma of shape ``(groups, columns)``.
#[pyfunction]
#[pyo3(signature = (x, z, gamma=None, eps=1e-6, *, gate="silu", axis=None, out=None, offset=0.0, rounding="once",
    statistics=false, threads=None))]
#[pyo3(text_signature = "(x, z, gamma=None, eps=1e-06, *, gate='silu', axis=-1, out=None, offset=0.0, \
    rounding='once', statistics=False, threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn gated_rms_norm<'py>(
    x: &Bound<'py, PyAny>,
    z: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    eps: f64,
    gate: &str,
    axis: Option<Axis>,
    out: Option<&Bound<'py, PyAny>>,
    offset: f32,
    rounding: &str,
    statistics: bool,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let (op, beta) = (lanenorm_op::RmsNorm, None);
    Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?.gate(z, gate, out)
}

/// The gradients of `gated_layer_norm`: `GateGradients`, where dx and dz have the types of x and z.
///
/// dy is the gradient of the result, of the shape and type of x. The other arguments are those of the forward call.
#[pyfunction]
#[pyo3(signature = (dy, x, z, gamma=None, beta=None, eps=1e-5, *, gate="silu", axis=None, offset=0.0, threads=None))]
#[pyo3(text_signature = "(dy, x, z, gamma=None, beta=None, eps=1e-05, *, gate='silu', axis=-1, offset=0.0, \
    threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn gated_layer_norm_backward<'py>(
    dy: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    z: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    beta: Option<&Bound<'py, PyAny>>,
    eps: f64,
    gate: &str,
    axis: Option<Axis>,
    offset: f32,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let (op, rounding, statistics) = (lanenorm_op::LayerNorm, "once", false);
    let rows = Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?;
    rows.differentiate_gate(dy, z, gate)
}

/// The gradients of `gated_rms_norm`.
///
/// Arguments and the result are those of `gated_layer_norm_backward`, without beta; dbeta is None.
#[pyfunction]
#[pyo3(signature = (dy, x, z, gamma=None, eps=1e-6, *, gate="silu", axis=None, offset=0.0, threads=None))]
#[pyo3(text_signature = "(dy, x, z, gamma=None, eps=1e-06, *, gate='silu', axis=-1, offset=0.0, threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn gated_rms_norm_backward<'py>(
    dy: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    z: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    eps: f64,
    gate: &str,
    axis: Option<Axis>,
    offset: f32,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let (op, beta, rounding, statistics) = (lanenorm_op::RmsNorm, None, "once", false);
    let rows = Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?;
    rows.differentiate_gate(dy, z, gate)
}
