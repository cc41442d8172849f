//! Arrays of numpy, and what becomes one.

use std::sync::atomic::{AtomicI32, Ordering};

use numpy::npyffi::{NPY_ARRAY_ALIGNED, NPY_ARRAY_WRITEABLE, NPY_ORDER, NPY_TYPES, PY_ARRAY_API, npy_intp};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods, npyffi};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::dlpack;
use crate::dtype::Dtype;
use crate::view::View;

/// The types of elements that there are, for messages.
pub(crate) const ANY_DTYPE: &str = "float32, float64, float16 or bfloat16";

/// An array, and the type of its elements.
#[derive(Clone, Debug)]
pub(crate) struct Array<'py> {
    array: Bound<'py, PyUntypedArray>,
    dtype: Dtype,
}

/// The name of the type of an object.
pub(crate) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().fully_qualified_name().map_or_else(|_| "object".into(), |name| name.to_string())
}

/// A shape, as Python writes it.
pub(crate) fn tuple(shape: &[usize]) -> String {
    match shape {
        [n] => format!("({n},)"),
        _ => format!("({})", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// What numpy calls bfloat16, once it has been seen.
static BF16: AtomicI32 = AtomicI32::new(-1);

const FLOAT: i32 = NPY_TYPES::NPY_FLOAT as i32;
const DOUBLE: i32 = NPY_TYPES::NPY_DOUBLE as i32;
const HALF: i32 = NPY_TYPES::NPY_HALF as i32;

/// The type of elements that numpy's stands for.
fn dtype_of(array: &Bound<'_, PyUntypedArray>, what: &str) -> PyResult<Dtype> {
    let descr = array.dtype();
    let dtype = match descr.num() {
        FLOAT => Some(Dtype::F32),
        DOUBLE => Some(Dtype::F64),
        HALF => Some(Dtype::F16),
        num if num == BF16.load(Ordering::Relaxed) => Some(Dtype::Bf16),
        num => {
            let name: String = descr.getattr(intern!(array.py(), "name"))?.extract()?;
            (num >= 256 && name == Dtype::Bf16.name() && descr.itemsize() == 2).then(|| {
                BF16.store(num, Ordering::Relaxed);
                Dtype::Bf16
            })
        }
    };
    let is_native = descr.is_native_byteorder() != Some(false);
    match dtype {
        Some(dtype) if is_native => Ok(dtype),
        Some(_) => {
            Err(PyTypeError::new_err(format!("{what} has dtype {descr}, expected the byte order of this machine")))
        }
        None => Err(PyTypeError::new_err(format!("{what} has dtype {descr}, expected {ANY_DTYPE}"))),
    }
}

/// numpy's type of these elements.
fn descr(py: Python<'_>, dtype: Dtype) -> PyResult<Bound<'_, PyArrayDescr>> {
    static OF_BF16: PyOnceLock<Py<PyArrayDescr>> = PyOnceLock::new();
    match dtype {
        Dtype::F32 => Ok(numpy::dtype::<f32>(py)),
        Dtype::F64 => Ok(numpy::dtype::<f64>(py)),
        Dtype::F16 => {
            // SAFETY: the type is one of numpy's own.
            unsafe {
                let descr = PY_ARRAY_API.PyArray_DescrFromType(py, HALF);
                Bound::from_owned_ptr_or_err(py, descr.cast()).map(|descr| descr.cast_into_unchecked())
            }
        }
        Dtype::Bf16 => OF_BF16
            .get_or_try_init(py, || {
                let module = py.import("ml_dtypes").map_err(|_| {
                    PyTypeError::new_err("the result has dtype bfloat16, which numpy has with the package ml_dtypes")
                })?;
                PyArrayDescr::new(py, module.getattr("bfloat16")?).map(Bound::unbind)
            })
            .map(|descr| descr.bind(py).clone()),
    }
}

impl<'py> Array<'py> {
    /// What an object is or holds, to be read.
    pub(crate) fn input(object: &Bound<'py, PyAny>, what: &str) -> PyResult<Self> {
        let py = object.py();
        if let Ok(array) = object.cast_exact::<PyUntypedArray>() {
            return Ok(Self { dtype: dtype_of(array, what)?, array: array.clone() });
        }
        if let Ok(array) = object.cast::<PyUntypedArray>() {
            static MASKED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let masked = MASKED
                .get_or_try_init(py, || py.import("numpy")?.getattr("ma")?.getattr("MaskedArray").map(Bound::unbind))?;
            if array.is_instance(masked.bind(py))? {
                let message = format!("{what} is a masked array, whose mask would be ignored: expected an array");
                return Err(PyTypeError::new_err(message));
            }
            return Ok(Self { dtype: dtype_of(array, what)?, array: plain(array)? });
        }
        if object.hasattr(intern!(py, "__dlpack__"))? {
            let (array, dtype) = dlpack::array(object, what)?;
            return Ok(Self { array, dtype });
        }
        let array = py.import("numpy")?.getattr("asarray")?.call1((object,))?;
        let array = array.cast_into::<PyUntypedArray>()?;
        match dtype_of(&array, what) {
            Ok(dtype) => Ok(Self { array, dtype }),
            Err(error) if array.dtype().kind() != b'O' => Err(error),
            Err(_) => {
                let message = format!("{what} is a {}, expected an array of {ANY_DTYPE}", type_name(object));
                Err(PyTypeError::new_err(message))
            }
        }
    }

    /// An array to be written, which must have a shape.
    pub(crate) fn output(object: &Bound<'py, PyAny>, what: &str, shape: &[usize]) -> PyResult<Self> {
        let Ok(array) = object.cast::<PyUntypedArray>() else {
            let message = format!("{what} is a {}, expected a numpy.ndarray", type_name(object));
            return Err(PyTypeError::new_err(message));
        };
        let array = Self { dtype: dtype_of(array, what)?, array: plain(array)? };
        array.expect_shape(what, shape)?;
        if !array.has_flag(NPY_ARRAY_WRITEABLE) {
            return Err(PyValueError::new_err(format!("{what} is read-only, expected an array that can be written")));
        }
        Ok(array)
    }

    /// A new array in the order of C.
    pub(crate) fn empty(py: Python<'py>, shape: &[usize], dtype: Dtype) -> PyResult<Self> {
        Ok(Self { array: empty(py, shape, descr(py, dtype)?)?, dtype })
    }

    /// A new array of a type of elements that calls do not take.
    pub(crate) fn of<T: numpy::Element>(py: Python<'py>, shape: &[usize]) -> PyResult<Bound<'py, PyUntypedArray>> {
        empty(py, shape, numpy::dtype::<T>(py))
    }

    /// A new array of the same shape and type in the order of C. Where `copies`, it has the same elements.
    fn contiguous(&self, copies: bool) -> PyResult<Self> {
        let py = self.array.py();
        if !copies {
            return Ok(Self { array: empty(py, self.shape(), self.array.dtype())?, dtype: self.dtype });
        }
        // SAFETY: the array is one.
        let copy = unsafe {
            let p = PY_ARRAY_API.PyArray_NewCopy(py, self.array.as_array_ptr(), NPY_ORDER::NPY_CORDER);
            Bound::from_owned_ptr_or_err(py, p)?.cast_into_unchecked()
        };
        Ok(Self { array: copy, dtype: self.dtype })
    }

    /// The same array, or a copy in the order of C if its elements do not lie so.
    pub(crate) fn in_order(self) -> PyResult<Self> {
        if self.is_in_order() { Ok(self) } else { self.contiguous(true) }
    }

    /// Whether the elements lie in the order of C.
    pub(crate) fn is_in_order(&self) -> bool {
        self.array.is_c_contiguous() && self.has_flag(NPY_ARRAY_ALIGNED)
    }

    /// The same array with its axes in another order.
    pub(crate) fn transposed(&self, axes: &[usize]) -> PyResult<Self> {
        let array = self.array.call_method1(intern!(self.array.py(), "transpose"), (axes.to_vec(),))?;
        Ok(Self { array: array.cast_into()?, dtype: self.dtype })
    }

    /// Whether some elements may lie over others, as in views that numpy's `as_strided` makes.
    fn overlaps_itself(&self) -> bool {
        let axes = self.shape().iter().zip(self.array.strides()).filter(|&(&n, _)| n > 1);
        let mut axes: Vec<_> = axes.map(|(&n, &stride)| (stride.unsigned_abs(), n)).collect();
        axes.sort_unstable();
        let mut end = self.dtype.size();
        axes.iter().any(|&(stride, n)| {
            let overlaps = stride < end;
            end += (n - 1) * stride;
            overlaps
        })
    }

    /// Takes the elements of an array of the same shape and type.
    fn copy_from(&self, other: &Self) -> PyResult<()> {
        let py = self.array.py();
        // SAFETY: both are arrays.
        let failed =
            unsafe { PY_ARRAY_API.PyArray_CopyInto(py, self.array.as_array_ptr(), other.array.as_array_ptr()) };
        if failed == 0 { Ok(()) } else { Err(PyErr::fetch(py)) }
    }

    /// An error, unless the array has this shape.
    pub(crate) fn expect_shape(&self, what: &str, shape: &[usize]) -> PyResult<()> {
        if self.shape() == shape {
            return Ok(());
        }
        let (given, expected) = (tuple(self.shape()), tuple(shape));
        Err(PyValueError::new_err(format!("{what} has shape {given}, expected {expected}")))
    }

    /// An error, unless the type is one of these.
    pub(crate) fn expect_dtype(&self, what: &str, expected: impl Fn(Dtype) -> bool, beside: Dtype) -> PyResult<()> {
        if expected(self.dtype) {
            return Ok(());
        }
        let names: Vec<_> = Dtype::ALL.into_iter().filter(|&dtype| expected(dtype)).map(Dtype::name).collect();
        let (given, names) = (self.dtype, names.join(" or "));
        Err(PyTypeError::new_err(format!("{what} has dtype {given}, expected {names} beside an x of {beside}")))
    }

    pub(crate) fn py(&self) -> Python<'py> {
        self.array.py()
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    pub(crate) fn view(&self) -> View<'_> {
        let (shape, strides) = (self.array.shape(), self.array.strides());
        View { data: self.data().cast(), dtype: self.dtype, shape, strides, step: 1 }
    }

    pub(crate) fn data(&self) -> *mut u8 {
        data(&self.array)
    }

    pub(crate) fn into_any(self) -> Bound<'py, PyAny> {
        self.array.into_any()
    }

    fn has_flag(&self, flag: i32) -> bool {
        // SAFETY: the array is one.
        unsafe { (*npyffi::_PyArray_GET_ITEM_DATA(self.array.as_array_ptr().cast_const())).flags & flag != 0 }
    }
}

/// An array of numpy's own class over the same memory: others may have methods of their own.
fn plain<'py>(array: &Bound<'py, PyUntypedArray>) -> PyResult<Bound<'py, PyUntypedArray>> {
    if array.is_exact_instance_of::<PyUntypedArray>() {
        return Ok(array.clone());
    }
    let py = array.py();
    let class = py.get_type::<PyUntypedArray>();
    Ok(class.getattr(intern!(py, "view"))?.call1((array, &class))?.cast_into_exact()?)
}

/// Where the first element of an array is.
pub(crate) fn data(array: &Bound<'_, PyUntypedArray>) -> *mut u8 {
    // SAFETY: the array is one.
    unsafe { (*npyffi::_PyArray_GET_ITEM_DATA(array.as_array_ptr().cast_const())).data.cast() }
}

fn empty<'py>(
    py: Python<'py>,
    shape: &[usize],
    descr: Bound<'py, PyArrayDescr>,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    // SAFETY: numpy takes the type, and only reads the shape.
    unsafe {
        let dims = shape.as_ptr().cast_mut().cast::<npy_intp>();
        let p = PY_ARRAY_API.PyArray_Empty(py, shape.len() as i32, dims, descr.into_dtype_ptr(), 0);
        Ok(Bound::from_owned_ptr_or_err(py, p)?.cast_into_unchecked())
    }
}

/// A tensor of a call: the array that the kernels see, and for outputs the one whose elements it is to become.
#[derive(Clone, Debug)]
pub(crate) struct Operand<'py> {
    pub(crate) array: Array<'py>,
    is_output: bool,
    target: Option<Array<'py>>,
}

impl<'py> Operand<'py> {
    pub(crate) fn input(array: Array<'py>) -> Self {
        Self { array, is_output: false, target: None }
    }

    pub(crate) fn output(array: Array<'py>) -> Self {
        Self { array, is_output: true, target: None }
    }

    /// Takes an array in the order of C in the place of one that has another.
    pub(crate) fn put_in_order(&mut self) -> PyResult<()> {
        if self.array.is_in_order() {
            return Ok(());
        }
        let given = self.array.clone();
        self.array = given.contiguous(!self.is_output)?;
        if self.is_output {
            if given.overlaps_itself() {
                return Err(PyValueError::new_err("elements of an output overlap one another"));
            }
            self.target = Some(given);
        }
        Ok(())
    }

    /// Whether the elements of two outputs, of which one at least has been put in order, overlap.
    pub(crate) fn overlaps(&self, other: &Self) -> PyResult<bool> {
        if !(self.is_output && other.is_output) || (self.target.is_none() && other.target.is_none()) {
            return Ok(false);
        }
        let of = |operand: &Self| operand.target.as_ref().unwrap_or(&operand.array).array.clone();
        let numpy = self.array.py().import(intern!(self.array.py(), "numpy"))?;
        numpy.getattr("shares_memory")?.call1((of(self), of(other)))?.extract()
    }

    /// The array with the result.
    pub(crate) fn finish(self) -> PyResult<Array<'py>> {
        match self.target {
            Some(target) => target.copy_from(&self.array).map(|()| target),
            None => Ok(self.array),
        }
    }
}
