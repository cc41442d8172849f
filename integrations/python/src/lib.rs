//! The extension module of the package `lanenorm`: functions for numpy, and operators of PyTorch.

mod array;
mod backward;
mod call;
mod channels;
mod dlpack;
mod dtype;
mod forward;
mod gated;
mod options;
mod quantized;
mod rows;
mod run;
mod torch;
mod view;

use std::ffi::CStr;

use pyo3::prelude::*;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("shapes of numpy and of PyTorch are read as they lie, which have 64 bits");

/// The instruction set that is used: "avx512", "avx2", "neon" or "scalar".
#[pyfunction]
fn isa() -> PyResult<String> {
    // SAFETY: the name is a constant.
    Ok(unsafe { CStr::from_ptr(lanenorm::capi::lanenorm_isa_name()) }.to_string_lossy().into_owned())
}

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(isa, module)?)?;
    module.add_function(wrap_pyfunction!(forward::layer_norm, module)?)?;
    module.add_function(wrap_pyfunction!(forward::rms_norm, module)?)?;
    module.add_function(wrap_pyfunction!(forward::l2_norm, module)?)?;
    module.add_function(wrap_pyfunction!(forward::add_layer_norm, module)?)?;
    module.add_function(wrap_pyfunction!(forward::add_rms_norm, module)?)?;
    module.add_function(wrap_pyfunction!(backward::layer_norm_backward, module)?)?;
    module.add_function(wrap_pyfunction!(backward::rms_norm_backward, module)?)?;
    module.add_function(wrap_pyfunction!(gated::gated_layer_norm, module)?)?;
    module.add_function(wrap_pyfunction!(gated::gated_rms_norm, module)?)?;
    module.add_function(wrap_pyfunction!(gated::gated_layer_norm_backward, module)?)?;
    module.add_function(wrap_pyfunction!(gated::gated_rms_norm_backward, module)?)?;
    module.add_function(wrap_pyfunction!(channels::group_norm, module)?)?;
    module.add_function(wrap_pyfunction!(channels::group_norm_backward, module)?)?;
    module.add_function(wrap_pyfunction!(quantized::layer_norm_quantized, module)?)?;
    module.add_function(wrap_pyfunction!(quantized::rms_norm_quantized, module)?)?;
    module.add_function(wrap_pyfunction!(torch::register_torch, module)?)?;
    Ok(())
}
