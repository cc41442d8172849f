//! Results of 8 bits.

use std::mem::size_of;

use lanenorm::capi::{
    lanenorm_format, lanenorm_layout, lanenorm_op, lanenorm_scheme, lanenorm_scheme_init, lanenorm_scope,
    lanenorm_status,
};
use numpy::PyUntypedArray;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::array::{Array, Operand, data};
use crate::call::Forward;
use crate::options;
use crate::rows::{Given, Rows};
use crate::run::{arrange, named_tuple, run};

/// A scheme by its name, with blocks, or with a scale that is given.
fn scheme(name: &str, block: Option<usize>, scale: Option<f32>, zero_point: i32) -> PyResult<lanenorm_scheme> {
    let preset = options::preset(name)?;
    // SAFETY: the structure is one of the C ABI, and may be zero but for its size.
    let (mut scheme, status) = unsafe {
        let mut scheme: lanenorm_scheme = std::mem::zeroed();
        scheme.struct_size = size_of::<lanenorm_scheme>();
        let status = lanenorm_scheme_init(&raw mut scheme, preset);
        (scheme, status)
    };
    debug_assert_eq!(status, lanenorm_status::Ok, "the preset is one of them");
    if block.is_some() && scale.is_some() {
        return Err(PyValueError::new_err("block and scale are given: blocks have scales of their own"));
    }
    if let Some(block) = block {
        if name != "i8" {
            return Err(PyValueError::new_err(format!("scheme is {name:?} with a block, expected \"i8\"")));
        }
        (scheme.scope, scheme.block) = (lanenorm_scope::Block as i32, block);
    }
    if let Some(scale) = scale {
        if !matches!(name, "i8" | "u8" | "e4m3" | "e5m2") {
            let message = format!("scheme is {name:?} with a scale, expected \"i8\", \"u8\", \"e4m3\" or \"e5m2\"");
            return Err(PyValueError::new_err(message));
        }
        (scheme.scope, scheme.given_scale, scheme.given_zero_point) = (lanenorm_scope::Given as i32, scale, zero_point);
        if name == "i8" {
            scheme.least = -128;
        }
    } else if zero_point != 0 {
        return Err(PyValueError::new_err(format!("zero_point is {zero_point} without a scale")));
    }
    Ok(scheme)
}

impl<'py> Rows<'py> {
    /// Normalizes and quantizes x.
    fn quantize(self, name: &str, scheme: &lanenorm_scheme) -> PyResult<Bound<'py, PyAny>> {
        let (py, first) = (self.given.py(), self.axes.first);
        if self.axes.order.is_some() {
            return Err(PyValueError::new_err("quantized rows are the last axes of x: axis names others"));
        }
        let mut operands = [Operand::input(self.x.clone())];
        let layout = arrange(&mut operands, first)?;
        let views = operands.each_ref().map(|operand| operand.array.view());
        let call = Forward::new(&layout, views.each_ref(), self.affine.params());
        let call = Forward { y: None, statistics: self.statistics(), ..call };
        let sizes = call.sizes(&self.norm, scheme)?;
        let (lead, cols) = (&self.x.shape()[..first], self.norm.cols);
        let is_apart = scheme.layout == lanenorm_layout::Apart as i32;
        let q = if !is_apart {
            Array::of::<u8>(py, &[lead, &[sizes.row_bytes]].concat())?
        } else if matches!(name, "e4m3" | "e5m2") {
            fp8(py, self.x.shape(), name)?
        } else if matches!(name, "u8" | "onnx_u8") {
            Array::of::<u8>(py, self.x.shape())?
        } else {
            Array::of::<i8>(py, self.x.shape())?
        };
        // Of those that share a scale. None where it is given, or lies beside the elements.
        let shape = match scheme.scope {
            _ if !is_apart => None,
            scope if scope == lanenorm_scope::Given as i32 => None,
            scope if scope == lanenorm_scope::Tensor as i32 => Some(Vec::new()),
            scope if scope == lanenorm_scope::Block as i32 => Some([lead, &[cols / scheme.block.max(1)]].concat()),
            _ => Some(lead.to_vec()),
        };
        let scale = shape.as_deref().map(|shape| Array::of::<f32>(py, shape)).transpose()?;
        let has_zero_point = scheme.format == lanenorm_format::U8 as i32;
        let zero_point = shape.filter(|_| has_zero_point).map(|shape| Array::of::<u8>(py, &shape)).transpose()?;
        let at = |array: &Option<Bound<'py, PyUntypedArray>>| array.as_ref().map_or(std::ptr::null_mut(), data);
        let (to, to_scale, to_zero_point) = (data(&q), at(&scale), at(&zero_point));
        debug_assert!(!is_apart || sizes.row_bytes == cols);
        // SAFETY: the arrays live on, and are as large as the sizes say.
        run(py, self.elements(), || unsafe {
            call.run_quantized(&self.norm, scheme, to.cast(), sizes.row_bytes, to_scale.cast(), to_zero_point)
        })?;
        let quantized = named_tuple(py, "Quantized", (q, scale, zero_point))?;
        self.with_statistics(quantized)
    }
}

/// A new array of fp8, whose types are those of `ml_dtypes`.
fn fp8<'py>(py: Python<'py>, shape: &[usize], name: &str) -> PyResult<Bound<'py, PyUntypedArray>> {
    let module = py.import("ml_dtypes").map_err(|_| {
        PyTypeError::new_err(format!("the result has {name}, which numpy has with the package ml_dtypes"))
    })?;
    let dtype = module.getattr(if name == "e4m3" { "float8_e4m3fn" } else { "float8_e5m2" })?;
    let array = Array::of::<u8>(py, shape)?;
    Ok(array.call_method1("view", (dtype,))?.cast_into()?)
}

/// Layer normalization with a result of 8 bits, in one touch of memory. The bits are those of quantizing the result of
/// float32.
///
/// Parameters
/// ----------
/// x, gamma, beta, eps, offset, statistics, threads
///     As of `layer_norm`, but for x of float64, which is refused.
/// scheme : str
///     How rows are quantized: "i8" (amax / 127 of each row, ties to even), "torch_ao_i8", "torchao_i8", "vllm_i8",
///     "u8" (with a zero point for each row), "onnx_u8" (DynamicQuantizeLinear: one scale for the tensor), "e4m3",
///     "e5m2" (of ``ml_dtypes``), and the blocks of GGUF "q8_0", "q8_0_x86", "q8_1", "q8_1_x86", "q8_k". See the table
///     in docs/numerics.md.
/// axis : int or sequence of ints
///     Last axes.
/// block : int, optional
///     ``block`` is the number of elements that share a scale, with "i8": a multiple of 32, at most 256, that divides
///     the row.
/// scale, zero_point : float and int, optional
///     With "i8", "u8", "e4m3" or "e5m2": the scale of all elements, and the integer that stands for 0 (ONNX
///     QuantizeLinear).
///
/// Returns
/// -------
/// `Quantized`: q, of int8, uint8 or fp8, of the shape of x, or of uint8 with the bytes of blocks in the place of the
/// last axes; scale, of float32, and zero_point, of uint8, where the scheme has them: of the shape of x without the
/// axes that are normalized, with an axis for blocks behind, or of shape ``()``.
#[pyfunction]
#[pyo3(signature = (x, gamma=None, beta=None, eps=1e-5, *, scheme="i8", block=None, scale=None, zero_point=0, axis=None,
    offset=0.0, statistics=false, threads=None))]
#[pyo3(text_signature = "(x, gamma=None, beta=None, eps=1e-05, *, scheme='i8', block=None, scale=None, zero_point=0, \
    axis=-1, offset=0.0, statistics=False, threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn layer_norm_quantized<'py>(
    x: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    beta: Option<&Bound<'py, PyAny>>,
    eps: f64,
    scheme: &str,
    block: Option<usize>,
    scale: Option<f32>,
    zero_point: i32,
    axis: Option<options::Axis>,
    offset: f32,
    statistics: bool,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let parts = self::scheme(scheme, block, scale, zero_point)?;
    let (op, rounding) = (lanenorm_op::LayerNorm, "once");
    Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?.quantize(scheme, &parts)
}

/// RMS normalization with a result of 8 bits, in one touch of memory.
///
/// Arguments and the result are those of `layer_norm_quantized`, without beta and the mean.
#[pyfunction]
#[pyo3(signature = (x, gamma=None, eps=1e-6, *, scheme="i8", block=None, scale=None, zero_point=0, axis=None,
    offset=0.0, statistics=false, threads=None))]
#[pyo3(text_signature = "(x, gamma=None, eps=1e-06, *, scheme='i8', block=None, scale=None, zero_point=0, axis=-1, \
    offset=0.0, statistics=False, threads=None)")]
#[expect(clippy::too_many_arguments, reason = "those of Python")]
pub(crate) fn rms_norm_quantized<'py>(
    x: &Bound<'py, PyAny>,
    gamma: Option<&Bound<'py, PyAny>>,
    eps: f64,
    scheme: &str,
    block: Option<usize>,
    scale: Option<f32>,
    zero_point: i32,
    axis: Option<options::Axis>,
    offset: f32,
    statistics: bool,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let parts = self::scheme(scheme, block, scale, zero_point)?;
    let (op, beta, rounding) = (lanenorm_op::RmsNorm, None, "once");
    Rows::new(x, Given { op, gamma, beta, eps, axis, offset, rounding, threads, statistics })?.quantize(scheme, &parts)
}
