//! Gradients.

use lanenorm::capi::lanenorm_op;
use pyo3::prelude::*;

use crate::array::{Array, Operand};
use crate::call::{Backward, Channels, Statistics};
use crate::options::Axis;
use crate::rows::{Given, Rows};
use crate::run::{Kept, arrange, named_tuple, run};

impl<'py> Rows<'py> {
    /// A gradient of the shape and type of x.
    pub(crate) fn gradient(&self, given: &Bound<'py, PyAny>, what: &str) -> PyResult<Operand<'py>> {
        let operand = self.beside(given, what)?;
        operand.array.expect_dtype(what, |dtype| dtype == self.dtype(), self.dtype())?;
        Ok(operand)
    }

    /// An output for the gradient of x or z.
    pub(crate) fn gradient_output(&self, given: Option<&Bound<'py, PyAny>>, what: &str) -> PyResult<Operand<'py>> {
        let operand = self.output(given, what, self.dtype())?;
        operand.array.expect_dtype(what, |dtype| dtype == self.dtype(), self.dtype())?;
        Ok(operand)
    }

    /// Room for the gradients of gamma and, where rows have a mean, of beta.
    pub(crate) fn of_params(&self) -> PyResult<(Array<'py>, Option<Array<'py>>)> {
        let shape = self.affine.shape(&self.x.shape()[self.axes.first..]);
        let array = || Array::empty(self.given.py(), &shape, self.dtype().of_statistics());
        Ok((array()?, self.norm.is_centered().then(array).transpose()?))
    }

    /// Takes the gradients.
    fn differentiate(
        self,
        dy: &Bound<'py, PyAny>,
        ds: Option<&Bound<'py, PyAny>>,
        statistics: Option<&Bound<'py, PyAny>>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, first) = (self.given.py(), self.axes.first);
        let lead = &self.x.shape()[..first];
        let kept =
            statistics.map(|given| Kept::given(given, lead, self.dtype(), self.norm.is_centered())).transpose()?;
        let statistics = kept.as_ref().map_or(Statistics::NONE, Kept::statistics);
        let (dy, (dgamma, dbeta)) = (self.gradient(dy, "dy")?, self.of_params()?);
        let [to_gamma, to_beta] = [Some(&dgamma), dbeta.as_ref()]
            .map(|array| array.map_or(std::ptr::null_mut(), |array| array.data().cast()));
        let (params, elements) = (self.affine.params(), self.elements());
        let (dx, norm) = (self.gradient_output(out, "out")?, &self.norm);

        let channels = self.axes.channels(self.given.shape()).filter(|_| {
            let are_in_order = self.given.is_in_order() && ds.is_none() && out.is_none();
            are_in_order && self.axes.undo(dy.array.clone()).is_ok_and(|dy| dy.is_in_order())
        });
        let dx = if let Some([samples, _, pixels]) = channels {
            let dx = Array::empty(py, self.given.shape(), self.dtype())?;
            let x = self.given.data().cast();
            let call = Channels { samples, pixels, groups: 0, is_last: false, activation: 0, x, params, statistics };
            let (dy, to) = (dy.array.data().cast(), [dx.data().cast(), to_gamma, to_beta]);
            // SAFETY: the arrays live on, and have these elements.
            run(py, elements, || unsafe { call.run_backward(norm, dy, to) })?;
            dx.into_any()
        } else if let Some(ds) = ds {
            let mut operands = [dy, Operand::input(self.x.clone()), self.gradient(ds, "ds")?, dx];
            let layout = arrange(&mut operands, first)?;
            let views = operands.each_ref().map(|operand| operand.array.view());
            let (tensors, dgamma, dbeta) = (views.each_ref(), to_gamma, to_beta);
            let call =
                Backward { layout: &layout, tensors, dx: Some(3), ds: Some(2), params, statistics, dgamma, dbeta };
            // SAFETY: the arrays live on.
            run(py, elements, || unsafe { call.run(norm) })?;
            let [_, _, _, dx] = operands;
            self.finish(dx, out)?
        } else {
            let mut operands = [dy, Operand::input(self.x.clone()), dx];
            let layout = arrange(&mut operands, first)?;
            let views = operands.each_ref().map(|operand| operand.array.view());
            let (tensors, dgamma, dbeta) = (views.each_ref(), to_gamma, to_beta);
            let call = Backward { layout: &layout, tensors, dx: Some(2), ds: None, params, statistics, dgamma, dbeta };
            // SAFETY: the arrays live on.
            run(py, elements, || unsafe { call.run(norm) })?;
            let [_, _, dx] = operands;
            self.finish(dx, out)?
        };
        gradients(py, dx, dgamma, dbeta)
    }
}

/// A `lanenorm.Gradients`.
pub(crate) fn gradients<'py>(
    py: Python<'py>,
    dx: Bound<'py, PyAny>,
    dgamma: Array<'py>,
    dbeta: Option<Array<'py>>,
) -> PyResult<Bound<'py, PyAny>> {
    named_tuple(py, "Gradients", (dx, dgamma.into_any(), dbeta.map(Array::into_any)))
}

/// The gradients of `layer_norm`.
///
/// Parameters
/// ----------
/// dy : array
///     The gradient of the result, of the shape and type of x.
/// x, gamma, eps, axis, offset, threads
///     As of the forward call; after `add_layer_norm`, x is the sum that it has returned.
/// statistics : Statistics, optional
///     What the forward call has returned. Without it the mean and the root are taken again.
/// ds : array, optional
///     A gradient that reaches x by another way, to be added to dx: that of the sum of `add_layer_norm`.
/// out : numpy array, optional
///     Where dx goes. It may be dy.
///
/// Returns
/// -------
/// `Gradients`: dx, of the type of x, and dgamma and dbeta, of the shape of gamma (without gamma, of that of a row), in
/// float64 for float64 and else in float32.
#[pyfunction]
#[pyo3(signature = (dy, x, gamma=None, eps=1e-5, *, statistics=None, ds=None, axis=None, out=None, offset=0.0,
    threads=None))]
#[pyo3(text_signature = "(dy, x, gamma=None, eps=1e-05, *, statistics=None, ds=None, axis=-1, out=None, offset=0.0, \
    threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn layer_norm_backward<'py>(
    dy: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    eps: f64,
    statistics: Option<&Bound<'py, PyAny>>,
    ds: Option<&Bound<'py, PyAny>>,
    axis: Option<Axis>,
    out: Option<&Bound<'py, PyAny>>,
    offset: f32,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let (op, beta, rounding) = (lanenorm_op::LayerNorm, None, "once");
    let of = Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics: false };
    Rows::new(x, of)?.differentiate(dy, ds, statistics, out)
}

/// The gradients of `rms_norm`.
///
/// Arguments and the result are those of `layer_norm_backward`; dbeta is None.
#[pyfunction]
#[pyo3(signature = (dy, x, gamma=None, eps=1e-6, *, statistics=None, ds=None, axis=None, out=None, offset=0.0,
    threads=None))]
#[pyo3(text_signature = "(dy, x, gamma=None, eps=1e-06, *, statistics=None, ds=None, axis=-1, out=None, offset=0.0, \
    threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn rms_norm_backward<'py>(
    dy: &Bound<'py, PyAny>,
    x: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    eps: f64,
    statistics: Option<&Bound<'py, PyAny>>,
    ds: Option<&Bound<'py, PyAny>>,
    axis: Option<Axis>,
    out: Option<&Bound<'py, PyAny>>,
    offset: f32,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let (op, beta, rounding) = (lanenorm_op::RmsNorm, None, "once");
    let of = Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics: false };
    Rows::new(x, of)?.differentiate(dy, ds, statistics, out)
}
