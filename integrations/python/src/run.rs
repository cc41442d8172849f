//! What calls of numpy have in common: layouts, errors, and the global interpreter lock.

use lanenorm::capi::lanenorm_status;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::array::{Array, Operand};
use crate::call::{Done, Refused, Statistics};
use crate::dtype::Dtype;
use crate::view::Layout;

impl From<Refused> for PyErr {
    fn from(refused: Refused) -> Self {
        let Refused { status, message } = refused;
        match status {
            lanenorm_status::Unsupported => PyTypeError::new_err(message),
            lanenorm_status::OutOfMemory => PyMemoryError::new_err(message),
            lanenorm_status::Internal => PyRuntimeError::new_err(message),
            _ => PyValueError::new_err(message),
        }
    }
}

/// A call on fewer elements keeps the interpreter: it takes some microseconds, as giving it away may do.
const SHORT: usize = 1 << 13;

/// Runs a call on as many elements, without the interpreter if it is long.
pub(crate) fn run(py: Python<'_>, elements: usize, call: impl FnOnce() -> Done) -> PyResult<()> {
    /// A call whose pointers any thread may use, as the objects that own them live on.
    struct Unlocked<F>(F);
    // SAFETY: the caller keeps the arrays alive, and calls are about memory alone.
    unsafe impl<F> Send for Unlocked<F> {}
    impl<F: FnOnce() -> Done> Unlocked<F> {
        fn run(self) -> Done {
            (self.0)()
        }
    }

    let call = Unlocked(call);
    let done = if elements < SHORT { call.run() } else { py.detach(|| call.run()) };
    done.map_err(PyErr::from)
}

/// The layout of operands whose rows start at axis `first`. Those that no layout fits are put in order.
pub(crate) fn arrange<const N: usize>(operands: &mut [Operand<'_>; N], first: usize) -> PyResult<Layout<N>> {
    let layout = |operands: &[Operand<'_>; N]| {
        let views = operands.each_ref().map(|operand| operand.array.view());
        Layout::new(views.each_ref(), first)
    };
    if let Some(layout) = layout(operands) {
        return Ok(layout);
    }
    operands.iter_mut().try_for_each(Operand::put_in_order)?;
    for (i, operand) in operands.iter().enumerate() {
        for other in &operands[..i] {
            if operand.overlaps(other)? {
                return Err(PyValueError::new_err("two outputs overlap one another"));
            }
        }
    }
    Ok(layout(operands).expect("tensors in the order of C have a layout"))
}

/// Statistics of rows of a shape.
#[derive(Debug)]
pub(crate) struct Kept<'py> {
    mean: Option<Array<'py>>,
    mean_lo: Option<Array<'py>>,
    rstd: Array<'py>,
}

impl<'py> Kept<'py> {
    /// Room for them.
    /// Rows of no elements have NaN.
    pub(crate) fn new(
        py: Python<'py>,
        shape: &[usize],
        cols: usize,
        dtype: Dtype,
        is_centered: bool,
    ) -> PyResult<Self> {
        let array = || {
            let array = Array::empty(py, shape, dtype.of_statistics())?;
            if cols == 0 {
                array.clone().into_any().call_method1("fill", (f64::NAN,))?;
            }
            Ok::<_, PyErr>(array)
        };
        let mean = || is_centered.then(array).transpose();
        Ok(Self { mean: mean()?, mean_lo: mean()?, rstd: array()? })
    }

    /// Those that a forward call has returned.
    pub(crate) fn given(given: &Bound<'py, PyAny>, shape: &[usize], dtype: Dtype, is_centered: bool) -> PyResult<Self> {
        let read = |name: &str| -> PyResult<Option<Array<'py>>> {
            let value = given.getattr(name).map_err(|_| {
                let of = crate::array::type_name(given);
                PyTypeError::new_err(format!("statistics is a {of}, expected lanenorm.Statistics"))
            })?;
            if value.is_none() {
                return Ok(None);
            }
            let array = Array::input(&value, name)?;
            array.expect_shape(name, shape)?;
            if array.dtype() != dtype.of_statistics() {
                let (given, expected) = (array.dtype(), dtype.of_statistics());
                let message = format!("{name} has dtype {given}, expected {expected} for an x of {dtype}");
                return Err(PyTypeError::new_err(message));
            }
            array.in_order().map(Some)
        };
        let rstd = read("rstd")?.ok_or_else(|| PyValueError::new_err("statistics has no rstd"))?;
        let (mean, mean_lo) = if is_centered { (read("mean")?, read("mean_lo")?) } else { (None, None) };
        Ok(Self { mean, mean_lo, rstd })
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let data =
            |array: &Option<Array<'py>>| array.as_ref().map_or(std::ptr::null_mut(), |array| array.data().cast());
        Statistics { mean: data(&self.mean), mean_lo: data(&self.mean_lo), rstd: self.rstd.data().cast() }
    }

    /// A `lanenorm.Statistics`.
    pub(crate) fn into_any(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let any = |array: Option<Array<'py>>| array.map(Array::into_any);
        named_tuple(py, "Statistics", (any(self.mean), any(self.mean_lo), self.rstd.into_any()))
    }
}

/// A named tuple of the package.
pub(crate) fn named_tuple<'py>(
    py: Python<'py>,
    name: &str,
    fields: impl pyo3::call::PyCallArgs<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    static TYPES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let types = TYPES.get_or_try_init(py, || {
        let module = py.import("lanenorm._types")?;
        Ok::<_, PyErr>(module.dict().unbind())
    })?;
    types.bind(py).as_any().get_item(name)?.call1(fields)
}
