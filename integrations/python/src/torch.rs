//! Operators of PyTorch's dispatcher, `torch.ops.lanenorm.*`. `python/lanenorm/torch` gives them gradients and
//! implementations for fake tensors.

mod kernels;
mod shim;

use std::ffi::CString;

use pyo3::exceptions::{PyImportError, PyRuntimeError};
use pyo3::prelude::*;

/// Registers the operators with the PyTorch whose libraries `libtorch_cpu` and `libc10` have been loaded. Another call
/// does nothing.
#[pyfunction]
pub(crate) fn register_torch(libtorch_cpu: &str, libc10: &str) -> PyResult<()> {
    let path = |path: &str| CString::new(path).map_err(|_| PyImportError::new_err(format!("{path:?} is no path")));
    let shim = shim::open(&path(libtorch_cpu)?, &path(libc10)?).map_err(PyImportError::new_err)?;
    kernels::register(shim).map_err(PyRuntimeError::new_err)
}
