//! The functions of the common cases: rows that follow one another, one type, one gamma. Each of the six operations has
//! one for each of the four types.
//!
//! They are written out, since cbindgen, which generates the header, does not expand macros.

use std::ptr::{null, null_mut};

use super::backward::backward;
use super::forward::{Part, forward};
use super::places::no_rows;
use super::plan::{Dtype, Kind};
use super::{
    guard, lanenorm_backward_buffers, lanenorm_forward_buffers, lanenorm_rows, lanenorm_rows_mut, lanenorm_status,
};
use crate::plan::Plan;

/// Layer normalization: y = (x - mean) / sqrt(var + eps) * gamma + beta, for each of `rows` rows of `cols` elements.
/// gamma and beta have `cols` elements. mean and rstd (1 / sqrt(var + eps)) have one element for each row. gamma, beta,
/// mean and rstd may be NULL. y may be x.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_layer_norm_f32(
    x: *const f32,
    rows: usize,
    cols: usize,
    gamma: *const f32,
    beta: *const f32,
    eps: f32,
    y: *mut f32,
    mean: *mut f32,
    rstd: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { layer_norm(Dtype::F32, x, rows, cols, gamma, beta, eps.into(), y, mean, rstd, threads) }
}

/// `lanenorm_layer_norm_f32` in double.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_layer_norm_f64(
    x: *const f64,
    rows: usize,
    cols: usize,
    gamma: *const f64,
    beta: *const f64,
    eps: f64,
    y: *mut f64,
    mean: *mut f64,
    rstd: *mut f64,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { layer_norm(Dtype::F64, x, rows, cols, gamma, beta, eps, y, mean, rstd, threads) }
}

/// `lanenorm_layer_norm_f32` for x, gamma, beta and y in f16 (IEEE 754 binary16), computed in float and rounded once.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_layer_norm_f16(
    x: *const u16,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    beta: *const u16,
    eps: f32,
    y: *mut u16,
    mean: *mut f32,
    rstd: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { layer_norm(Dtype::F16, x, rows, cols, gamma, beta, eps.into(), y, mean, rstd, threads) }
}

/// `lanenorm_layer_norm_f32` for x, gamma, beta and y in bf16, computed in float and rounded once.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_layer_norm_bf16(
    x: *const u16,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    beta: *const u16,
    eps: f32,
    y: *mut u16,
    mean: *mut f32,
    rstd: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { layer_norm(Dtype::Bf16, x, rows, cols, gamma, beta, eps.into(), y, mean, rstd, threads) }
}

/// RMS normalization: y = x / sqrt(mean(x^2) + eps) * (gamma + gamma_offset), for each of `rows` rows of `cols`
/// elements. gamma and rstd (1 / sqrt(mean(x^2) + eps), one for each row) may be NULL. Without gamma, gamma_offset has
/// no effect. y may be x.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_rms_norm_f32(
    x: *const f32,
    rows: usize,
    cols: usize,
    gamma: *const f32,
    gamma_offset: f32,
    eps: f32,
    y: *mut f32,
    rstd: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { rms_norm(Dtype::F32, x, rows, cols, gamma, gamma_offset, eps.into(), y, rstd, threads) }
}

/// `lanenorm_rms_norm_f32` in double.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_rms_norm_f64(
    x: *const f64,
    rows: usize,
    cols: usize,
    gamma: *const f64,
    gamma_offset: f32,
    eps: f64,
    y: *mut f64,
    rstd: *mut f64,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { rms_norm(Dtype::F64, x, rows, cols, gamma, gamma_offset, eps, y, rstd, threads) }
}

/// `lanenorm_rms_norm_f32` for x, gamma and y in f16 (IEEE 754 binary16), computed in float and rounded once.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_rms_norm_f16(
    x: *const u16,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    gamma_offset: f32,
    eps: f32,
    y: *mut u16,
    rstd: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { rms_norm(Dtype::F16, x, rows, cols, gamma, gamma_offset, eps.into(), y, rstd, threads) }
}

/// `lanenorm_rms_norm_f32` for x, gamma and y in bf16, computed in float and rounded once.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_rms_norm_bf16(
    x: *const u16,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    gamma_offset: f32,
    eps: f32,
    y: *mut u16,
    rstd: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { rms_norm(Dtype::Bf16, x, rows, cols, gamma, gamma_offset, eps.into(), y, rstd, threads) }
}

/// Writes x + residual to sum, and the layer normalization of the sum to y, as a transformer does before each sublayer.
/// The bits are as from an addition followed by a layer normalization. gamma, beta and sum may be NULL. sum may be
/// residual or x, and y may be x or residual; but sum is not y.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_add_layer_norm_f32(
    x: *const f32,
    residual: *const f32,
    rows: usize,
    cols: usize,
    gamma: *const f32,
    beta: *const f32,
    eps: f32,
    sum: *mut f32,
    y: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { add_layer_norm(Dtype::F32, x, residual, rows, cols, gamma, beta, eps.into(), sum, y, threads) }
}

/// `lanenorm_add_layer_norm_f32` in double.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_add_layer_norm_f64(
    x: *const f64,
    residual: *const f64,
    rows: usize,
    cols: usize,
    gamma: *const f64,
    beta: *const f64,
    eps: f64,
    sum: *mut f64,
    y: *mut f64,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { add_layer_norm(Dtype::F64, x, residual, rows, cols, gamma, beta, eps, sum, y, threads) }
}

/// `lanenorm_add_layer_norm_f32` in f16: the sum is rounded before it is normalized.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_add_layer_norm_f16(
    x: *const u16,
    residual: *const u16,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    beta: *const u16,
    eps: f32,
    sum: *mut u16,
    y: *mut u16,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { add_layer_norm(Dtype::F16, x, residual, rows, cols, gamma, beta, eps.into(), sum, y, threads) }
}

/// `lanenorm_add_layer_norm_f32` in bf16: the sum is rounded before it is normalized.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_add_layer_norm_bf16(
    x: *const u16,
    residual: *const u16,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    beta: *const u16,
    eps: f32,
    sum: *mut u16,
    y: *mut u16,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { add_layer_norm(Dtype::Bf16, x, residual, rows, cols, gamma, beta, eps.into(), sum, y, threads) }
}

/// Writes x + residual to sum, and the RMS normalization of the sum to y: see `lanenorm_add_layer_norm_f32`. gamma and
/// sum may be NULL.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_add_rms_norm_f32(
    x: *const f32,
    residual: *const f32,
    rows: usize,
    cols: usize,
    gamma: *const f32,
    gamma_offset: f32,
    eps: f32,
    sum: *mut f32,
    y: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { add_rms_norm(Dtype::F32, x, residual, rows, cols, gamma, gamma_offset, eps.into(), sum, y, threads) }
}

/// `lanenorm_add_rms_norm_f32` in double.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_add_rms_norm_f64(
    x: *const f64,
    residual: *const f64,
    rows: usize,
    cols: usize,
    gamma: *const f64,
    gamma_offset: f32,
    eps: f64,
    sum: *mut f64,
    y: *mut f64,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { add_rms_norm(Dtype::F64, x, residual, rows, cols, gamma, gamma_offset, eps, sum, y, threads) }
}

/// `lanenorm_add_rms_norm_f32` in f16: the sum is rounded before it is normalized.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_add_rms_norm_f16(
    x: *const u16,
    residual: *const u16,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    gamma_offset: f32,
    eps: f32,
    sum: *mut u16,
    y: *mut u16,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { add_rms_norm(Dtype::F16, x, residual, rows, cols, gamma, gamma_offset, eps.into(), sum, y, threads) }
}

/// `lanenorm_add_rms_norm_f32` in bf16: the sum is rounded before it is normalized.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_add_rms_norm_bf16(
    x: *const u16,
    residual: *const u16,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    gamma_offset: f32,
    eps: f32,
    sum: *mut u16,
    y: *mut u16,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { add_rms_norm(Dtype::Bf16, x, residual, rows, cols, gamma, gamma_offset, eps.into(), sum, y, threads) }
}

/// Takes the gradients dx, dgamma and dbeta of layer normalization, each if it is not NULL, from the gradient dy of y.
/// gamma and eps must be the gamma and eps of the forward call. gamma may be NULL. mean and rstd may be NULL, both
/// together: they are computed again then. That gives the same bits for rows whose mean is small beside their standard
/// deviation, and more digits for other rows (a plan can be given mean_lo). dx may be dy.
///
/// dgamma and dbeta are overwritten. They have the same bits for any number of threads. Memory is allocated for the
/// time of the call.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_layer_norm_backward_f32(
    dy: *const f32,
    x: *const f32,
    mean: *const f32,
    rstd: *const f32,
    rows: usize,
    cols: usize,
    gamma: *const f32,
    eps: f32,
    dx: *mut f32,
    dgamma: *mut f32,
    dbeta: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe {
        layer_norm_backward(Dtype::F32, dy, x, mean, rstd, rows, cols, gamma, eps.into(), dx, dgamma, dbeta, threads)
    }
}

/// `lanenorm_layer_norm_backward_f32` in double.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_layer_norm_backward_f64(
    dy: *const f64,
    x: *const f64,
    mean: *const f64,
    rstd: *const f64,
    rows: usize,
    cols: usize,
    gamma: *const f64,
    eps: f64,
    dx: *mut f64,
    dgamma: *mut f64,
    dbeta: *mut f64,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { layer_norm_backward(Dtype::F64, dy, x, mean, rstd, rows, cols, gamma, eps, dx, dgamma, dbeta, threads) }
}

/// `lanenorm_layer_norm_backward_f32` for dy, x, gamma and dx in f16; dgamma and dbeta are summed up, and written, in
/// float.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_layer_norm_backward_f16(
    dy: *const u16,
    x: *const u16,
    mean: *const f32,
    rstd: *const f32,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    eps: f32,
    dx: *mut u16,
    dgamma: *mut f32,
    dbeta: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe {
        layer_norm_backward(Dtype::F16, dy, x, mean, rstd, rows, cols, gamma, eps.into(), dx, dgamma, dbeta, threads)
    }
}

/// `lanenorm_layer_norm_backward_f32` for dy, x, gamma and dx in bf16; dgamma and dbeta are summed up, and written, in
/// float.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_layer_norm_backward_bf16(
    dy: *const u16,
    x: *const u16,
    mean: *const f32,
    rstd: *const f32,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    eps: f32,
    dx: *mut u16,
    dgamma: *mut f32,
    dbeta: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe {
        layer_norm_backward(Dtype::Bf16, dy, x, mean, rstd, rows, cols, gamma, eps.into(), dx, dgamma, dbeta, threads)
    }
}

/// Takes the gradients dx and dgamma of RMS normalization, each if it is not NULL: see
/// `lanenorm_layer_norm_backward_f32`. gamma and rstd may be NULL.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_rms_norm_backward_f32(
    dy: *const f32,
    x: *const f32,
    rstd: *const f32,
    rows: usize,
    cols: usize,
    gamma: *const f32,
    gamma_offset: f32,
    eps: f32,
    dx: *mut f32,
    dgamma: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe {
        rms_norm_backward(Dtype::F32, dy, x, rstd, rows, cols, gamma, gamma_offset, eps.into(), dx, dgamma, threads)
    }
}

/// `lanenorm_rms_norm_backward_f32` in double.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_rms_norm_backward_f64(
    dy: *const f64,
    x: *const f64,
    rstd: *const f64,
    rows: usize,
    cols: usize,
    gamma: *const f64,
    gamma_offset: f32,
    eps: f64,
    dx: *mut f64,
    dgamma: *mut f64,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe { rms_norm_backward(Dtype::F64, dy, x, rstd, rows, cols, gamma, gamma_offset, eps, dx, dgamma, threads) }
}

/// `lanenorm_rms_norm_backward_f32` for dy, x, gamma and dx in f16; dgamma is summed up, and written, in float.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_rms_norm_backward_f16(
    dy: *const u16,
    x: *const u16,
    rstd: *const f32,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    gamma_offset: f32,
    eps: f32,
    dx: *mut u16,
    dgamma: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe {
        rms_norm_backward(Dtype::F16, dy, x, rstd, rows, cols, gamma, gamma_offset, eps.into(), dx, dgamma, threads)
    }
}

/// `lanenorm_rms_norm_backward_f32` for dy, x, gamma and dx in bf16; dgamma is summed up, and written, in float.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_rms_norm_backward_bf16(
    dy: *const u16,
    x: *const u16,
    rstd: *const f32,
    rows: usize,
    cols: usize,
    gamma: *const u16,
    gamma_offset: f32,
    eps: f32,
    dx: *mut u16,
    dgamma: *mut f32,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    unsafe {
        rms_norm_backward(Dtype::Bf16, dy, x, rstd, rows, cols, gamma, gamma_offset, eps.into(), dx, dgamma, threads)
    }
}

const NO_ROWS: lanenorm_rows = lanenorm_rows { data: null(), row_stride: 0, outer_stride: 0 };

const NO_ROWS_MUT: lanenorm_rows_mut = lanenorm_rows_mut { data: null_mut(), row_stride: 0, outer_stride: 0 };

const FORWARD: lanenorm_forward_buffers = lanenorm_forward_buffers {
    struct_size: size_of::<lanenorm_forward_buffers>(),
    rows: 0,
    inner_rows: 0,
    x: NO_ROWS,
    residual: NO_ROWS,
    sum: NO_ROWS_MUT,
    y: NO_ROWS_MUT,
    bias: null(),
    gamma: null(),
    beta: null(),
    mean: null_mut(),
    mean_lo: null_mut(),
    rstd: null_mut(),
};

const BACKWARD: lanenorm_backward_buffers = lanenorm_backward_buffers {
    struct_size: size_of::<lanenorm_backward_buffers>(),
    rows: 0,
    inner_rows: 0,
    dy: NO_ROWS,
    x: NO_ROWS,
    ds: NO_ROWS,
    dx: NO_ROWS_MUT,
    gamma: null(),
    mean: null(),
    mean_lo: null(),
    rstd: null(),
    dgamma: null_mut(),
    dbeta: null_mut(),
};

fn input<T>(data: *const T) -> lanenorm_rows {
    lanenorm_rows { data: data.cast(), ..NO_ROWS }
}

fn output<T>(data: *mut T) -> lanenorm_rows_mut {
    lanenorm_rows_mut { data: data.cast(), ..NO_ROWS_MUT }
}

fn plan((cols, eps, offset): (usize, f64, f32)) -> Result<Plan, lanenorm_status> {
    let plan = Plan::new(cols, eps)?;
    Ok(Plan { offset, ..plan })
}

/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(always)]
unsafe fn layer_norm<T, F>(
    dtype: Dtype,
    x: *const T,
    rows: usize,
    cols: usize,
    gamma: *const T,
    beta: *const T,
    eps: f64,
    y: *mut T,
    mean: *mut F,
    rstd: *mut F,
    threads: usize,
) -> lanenorm_status {
    let buffers = lanenorm_forward_buffers {
        rows,
        x: input(x),
        y: output(y),
        gamma: gamma.cast(),
        beta: beta.cast(),
        mean: mean.cast(),
        rstd: rstd.cast(),
        ..FORWARD
    };
    // SAFETY: the caller's duty.
    unsafe { run_forward(Kind::new(dtype, true), (cols, eps, 0.0), &buffers, threads) }
}

/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(always)]
unsafe fn rms_norm<T, F>(
    dtype: Dtype,
    x: *const T,
    rows: usize,
    cols: usize,
    gamma: *const T,
    gamma_offset: f32,
    eps: f64,
    y: *mut T,
    rstd: *mut F,
    threads: usize,
) -> lanenorm_status {
    let buffers =
        lanenorm_forward_buffers { rows, x: input(x), y: output(y), gamma: gamma.cast(), rstd: rstd.cast(), ..FORWARD };
    // SAFETY: the caller's duty.
    unsafe { run_forward(Kind::new(dtype, false), (cols, eps, gamma_offset), &buffers, threads) }
}

/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(always)]
unsafe fn add_layer_norm<T>(
    dtype: Dtype,
    x: *const T,
    residual: *const T,
    rows: usize,
    cols: usize,
    gamma: *const T,
    beta: *const T,
    eps: f64,
    sum: *mut T,
    y: *mut T,
    threads: usize,
) -> lanenorm_status {
    let buffers = lanenorm_forward_buffers {
        rows,
        x: input(x),
        residual: input(residual),
        sum: output(sum),
        y: output(y),
        gamma: gamma.cast(),
        beta: beta.cast(),
        ..FORWARD
    };
    // SAFETY: the caller's duty.
    unsafe { run_sum(Kind::new(dtype, true), (cols, eps, 0.0), &buffers, threads) }
}

/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(always)]
unsafe fn add_rms_norm<T>(
    dtype: Dtype,
    x: *const T,
    residual: *const T,
    rows: usize,
    cols: usize,
    gamma: *const T,
    gamma_offset: f32,
    eps: f64,
    sum: *mut T,
    y: *mut T,
    threads: usize,
) -> lanenorm_status {
    let buffers = lanenorm_forward_buffers {
        rows,
        x: input(x),
        residual: input(residual),
        sum: output(sum),
        y: output(y),
        gamma: gamma.cast(),
        ..FORWARD
    };
    // SAFETY: the caller's duty.
    unsafe { run_sum(Kind::new(dtype, false), (cols, eps, gamma_offset), &buffers, threads) }
}

/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(never)]
unsafe fn layer_norm_backward<T, F>(
    dtype: Dtype,
    dy: *const T,
    x: *const T,
    mean: *const F,
    rstd: *const F,
    rows: usize,
    cols: usize,
    gamma: *const T,
    eps: f64,
    dx: *mut T,
    dgamma: *mut F,
    dbeta: *mut F,
    threads: usize,
) -> lanenorm_status {
    let buffers = lanenorm_backward_buffers {
        rows,
        dy: input(dy),
        x: input(x),
        dx: output(dx),
        gamma: gamma.cast(),
        mean: mean.cast(),
        rstd: rstd.cast(),
        dgamma: dgamma.cast(),
        dbeta: dbeta.cast(),
        ..BACKWARD
    };
    // SAFETY: the caller's duty.
    unsafe { run_backward(Kind::new(dtype, true), (cols, eps, 0.0), &buffers, threads) }
}

/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(never)]
unsafe fn rms_norm_backward<T, F>(
    dtype: Dtype,
    dy: *const T,
    x: *const T,
    rstd: *const F,
    rows: usize,
    cols: usize,
    gamma: *const T,
    gamma_offset: f32,
    eps: f64,
    dx: *mut T,
    dgamma: *mut F,
    threads: usize,
) -> lanenorm_status {
    let buffers = lanenorm_backward_buffers {
        rows,
        dy: input(dy),
        x: input(x),
        dx: output(dx),
        gamma: gamma.cast(),
        rstd: rstd.cast(),
        dgamma: dgamma.cast(),
        ..BACKWARD
    };
    // SAFETY: the caller's duty.
    unsafe { run_backward(Kind::new(dtype, false), (cols, eps, gamma_offset), &buffers, threads) }
}

/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(never)]
unsafe fn run_forward(
    kind: Kind,
    numbers: (usize, f64, f32),
    buffers: &lanenorm_forward_buffers,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    guard(|| unsafe { forward(&plan(numbers)?, kind, buffers, Part::All { threads }) })
}

/// `forward` for functions that must have a residual, which a plan can do without.
///
/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(never)]
unsafe fn run_sum(
    kind: Kind,
    numbers: (usize, f64, f32),
    buffers: &lanenorm_forward_buffers,
    threads: usize,
) -> lanenorm_status {
    let (rows, cols) = (buffers.rows, numbers.0);
    if buffers.residual.data.is_null() && rows > 0 && cols > 0 {
        return no_rows("residual", rows, cols);
    }
    // SAFETY: the caller's duty.
    unsafe { run_forward(kind, numbers, buffers, threads) }
}

/// # Safety
/// - The buffers are what the head of `capi` says.
unsafe fn run_backward(
    kind: Kind,
    numbers: (usize, f64, f32),
    buffers: &lanenorm_backward_buffers,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    guard(|| unsafe { backward(&plan(numbers)?, kind, buffers, None, threads) })
}
