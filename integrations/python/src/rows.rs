//! Rows of x, which most calls have in common.

use lanenorm::capi::lanenorm_op;
use pyo3::prelude::*;

use crate::array::{Array, Operand};
use crate::call::{Norm, Statistics};
use crate::dtype::Dtype;
use crate::options::{self, Affine, Axes, Axis};
use crate::run::Kept;

/// What a call is given beside its tensors.
pub(crate) struct Given<'a, 'py> {
    pub(crate) op: lanenorm_op,
    pub(crate) gamma: Option<&'a Bound<'py, PyAny>>,
    pub(crate) beta: Option<&'a Bound<'py, PyAny>>,
    pub(crate) eps: f64,
    pub(crate) axis: Option<Axis>,
    pub(crate) offset: f32,
    pub(crate) rounding: &'a str,
    pub(crate) threads: Option<usize>,
    pub(crate) statistics: bool,
}

/// Rows of x, and how they are normalized.
pub(crate) struct Rows<'py> {
    /// The array as it was given.
    pub(crate) given: Array<'py>,
    /// The array with the axes that are normalized at the end.
    pub(crate) x: Array<'py>,
    pub(crate) axes: Axes,
    pub(crate) affine: Affine<'py>,
    pub(crate) norm: Norm,
    pub(crate) kept: Option<Kept<'py>>,
}

impl<'py> Rows<'py> {
    pub(crate) fn new(x: &Bound<'py, PyAny>, of: Given<'_, 'py>) -> PyResult<Self> {
        let given = Array::input(x, "x")?;
        let axes = Axes::new(of.axis, given.shape())?;
        let x = axes.apply(given.clone())?;
        let (dtype, first) = (x.dtype(), axes.first);
        let affine = Affine::new(of.gamma, of.beta, dtype, x.shape(), first, axes.order.is_none())?;
        let cols = x.shape()[first..].iter().product();
        let rounding = options::rounding(of.rounding)?;
        let norm = Norm { offset: of.offset, rounding, ..options::norm(of.op, dtype, cols, of.eps, of.threads)? };
        let kept = |()| Kept::new(given.py(), &x.shape()[..first], cols, dtype, norm.is_centered());
        let kept = of.statistics.then_some(()).map(kept).transpose()?;
        Ok(Self { given, x, axes, affine, norm, kept })
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.norm.dtype
    }

    pub(crate) fn elements(&self) -> usize {
        self.x.shape().iter().product()
    }

    pub(crate) fn statistics(&self) -> Statistics {
        self.kept.as_ref().map_or(Statistics::NONE, Kept::statistics)
    }

    /// Another tensor of the shape of x, to be read.
    pub(crate) fn beside(&self, given: &Bound<'py, PyAny>, what: &str) -> PyResult<Operand<'py>> {
        let array = Array::input(given, what)?;
        array.expect_shape(what, self.given.shape())?;
        array.expect_dtype(what, |dtype| dtype.goes_with(self.dtype()), self.dtype())?;
        self.axes.apply(array).map(Operand::input)
    }

    /// An output of the shape of x: the one that is given, or a new one.
    pub(crate) fn output(&self, given: Option<&Bound<'py, PyAny>>, what: &str, dtype: Dtype) -> PyResult<Operand<'py>> {
        let array = match given {
            Some(given) => {
                let array = Array::output(given, what, self.given.shape())?;
                array.expect_dtype(what, |dtype| dtype.goes_with(self.dtype()), self.dtype())?;
                self.axes.apply(array)?
            }
            None => Array::empty(self.given.py(), self.x.shape(), dtype)?,
        };
        Ok(Operand::output(array))
    }

    /// An output as the caller sees it.
    pub(crate) fn finish(
        &self,
        operand: Operand<'py>,
        given: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let array = operand.finish()?;
        match given {
            Some(given) => Ok(given.clone()),
            None => Ok(self.axes.undo(array)?.into_any()),
        }
    }

    /// The result, with the statistics if they are wanted.
    pub(crate) fn with_statistics(self, result: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = result.py();
        match self.kept {
            Some(kept) => Ok((result, kept.into_any(py)?).into_pyobject(py)?.into_any()),
            None => Ok(result),
        }
    }
}
