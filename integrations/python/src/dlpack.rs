//! Tensors of other libraries by DLPack (<https://dmlc.github.io/dlpack/latest/>).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;

use numpy::npyffi::{self, PY_ARRAY_API, npy_intp};
use numpy::{PyArrayDescr, PyArrayDescrMethods, PyUntypedArray};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use crate::array;
use crate::dtype::Dtype;

const CPU: i32 = 1;
const FLOAT: u8 = 2;
const BFLOAT: u8 = 4;

/// `DLTensor`.
#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

/// `DLManagedTensorVersioned`, up to its tensor.
#[repr(C)]
struct Versioned {
    major: u32,
    minor: u32,
    manager: *mut c_void,
    deleter: *mut c_void,
    flags: u64,
    tensor: Tensor,
}

/// The names of capsules that nobody has taken a tensor from. Their destructors free the tensor.
const UNVERSIONED: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";

/// An array over the memory of a tensor, to be read, and the type of its elements. The array keeps the capsule, which
/// keeps the tensor.
pub(crate) fn array<'py>(tensor: &Bound<'py, PyAny>, what: &str) -> PyResult<(Bound<'py, PyUntypedArray>, Dtype)> {
    let py = tensor.py();
    let device = tensor.call_method0(intern!(py, "__dlpack_device__"))?;
    let (kind, _): (i32, i64) = device.extract()?;
    if kind != CPU {
        let of = array::type_name(tensor);
        return Err(PyTypeError::new_err(format!("{what} is a {of} on a device of type {kind}, expected 1: a CPU")));
    }
    let capsule = tensor.call_method0(intern!(py, "__dlpack__"))?;
    let dltensor = |name: &CStr| {
        // SAFETY: a capsule of this name holds such a structure.
        unsafe {
            let is_named = ffi::PyCapsule_IsValid(capsule.as_ptr(), name.as_ptr()) == 1;
            is_named.then(|| ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr()))
        }
    };
    let dltensor: *const Tensor = if let Some(p) = dltensor(UNVERSIONED) {
        p.cast()
    } else if let Some(p) = dltensor(VERSIONED) {
        let p: *const Versioned = p.cast();
        // SAFETY: the structure begins like this in all versions.
        let (major, minor) = unsafe { ((*p).major, (*p).minor) };
        if major != 1 {
            let message = format!("{what} comes by version {major}.{minor} of DLPack, expected 1");
            return Err(PyTypeError::new_err(message));
        }
        // SAFETY: the structure is one of this version.
        unsafe { &raw const (*p).tensor }
    } else {
        let of = array::type_name(&capsule);
        return Err(PyTypeError::new_err(format!("__dlpack__ of {what} gives a {of}, expected a capsule of a tensor")));
    };
    // SAFETY: the capsule holds the tensor.
    let dltensor = unsafe { &*dltensor };
    let dtype = match (dltensor.code, dltensor.bits, dltensor.lanes) {
        (FLOAT, 32, 1) => Dtype::F32,
        (FLOAT, 64, 1) => Dtype::F64,
        (FLOAT, 16, 1) => Dtype::F16,
        (BFLOAT, 16, 1) => Dtype::Bf16,
        (code, bits, lanes) => {
            let given = format!("elements of type code {code}, {bits} bits and {lanes} lanes");
            return Err(PyTypeError::new_err(format!("{what} has {given}, expected {}", array::ANY_DTYPE)));
        }
    };
    let ndim = usize::try_from(dltensor.ndim).map_err(|_| PyValueError::new_err(format!("{what} has no shape")))?;
    let read = |p: *const i64| -> Vec<npy_intp> {
        // SAFETY: the tensor has as many dimensions, and strides if there are any.
        (0..ndim).map(|i| unsafe { *p.add(i) } as npy_intp).collect()
    };
    let mut shape = read(dltensor.shape);
    let size = dtype.size() as npy_intp;
    let mut strides: Vec<_> = if dltensor.strides.is_null() {
        let after = |axis: usize| shape[axis + 1..].iter().product::<npy_intp>();
        (0..ndim).map(|axis| after(axis) * size).collect()
    } else {
        read(dltensor.strides).into_iter().map(|stride| stride * size).collect()
    };
    // Numpy has no bfloat16 of its own. What is made of this array is cast by its type, not by that of numpy.
    let descr: Bound<'py, PyArrayDescr> = match dtype {
        Dtype::F32 => numpy::dtype::<f32>(py),
        Dtype::F64 => numpy::dtype::<f64>(py),
        Dtype::F16 | Dtype::Bf16 => numpy::dtype::<u16>(py),
    };
    let data: *mut c_char = dltensor.data.cast::<c_char>().wrapping_add(dltensor.byte_offset as usize);
    // SAFETY: the array gets the memory of the tensor with its shape and strides, and keeps it by the capsule. It
    // cannot be written.
    unsafe {
        let array_type = npyffi::get_type_object(py, npyffi::NpyTypes::PyArray_Type);
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            array_type,
            descr.into_dtype_ptr(),
            ndim as c_int,
            shape.as_mut_ptr(),
            strides.as_mut_ptr(),
            data.cast(),
            0,
            null_mut(),
        );
        let array: Bound<'py, PyUntypedArray> = Bound::from_owned_ptr_or_err(py, array)?.cast_into_unchecked();
        if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), capsule.into_ptr()) != 0 {
            return Err(PyErr::fetch(py));
        }
        Ok((array, dtype))
    }
}
