//! Normalizing with a gate: whole tensors, and ranges of rows.

use std::ffi::c_void;
use std::mem::{MaybeUninit, offset_of, size_of};

use lanenorm_kernels::element::Kind as Companion;
use lanenorm_kernels::gate::{Function, Gate, Side};
use lanenorm_kernels::half::{bf16, f16};
use lanenorm_kernels::ops::gate::Gated;
use lanenorm_kernels::rows::RawRows;
use lanenorm_kernels::{Center, Centered, Gateable, Gates, Uncentered};

use super::backward::{self, GateGiven, lanenorm_backward_buffers};
use super::check::{AllRows, Checked, check_places, no_centered, shape, unsupported};
use super::forward::{Call, Part, Parts, Runs, Types, lanenorm_forward_buffers, lanenorm_rows, prepare_stats};
use super::places::{Places, Rows, Strided, no_rows};
use super::plan::{Dtype, HasSize, Inner, Kind, initialized, lanenorm_plan, sized, unknown};
use super::{guard, lanenorm_rows_mut, lanenorm_status, misfit};
use crate::parallel;

/// The functions of gates, and what they are multiplied by. sigmoid(z) is 1 / (1 + exp(-z)), silu(z) is z * sigmoid(z),
/// and `gelu_tanh` is the form of GELU with tanh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_gate_kind {
    /// norm(x) * silu(z): Qwen3NextRMSNormGated of transformers, with `LANENORM_ROUNDING_STEPS`
    Silu = 0,
    /// norm(x) * sigmoid(z): KimiLinearRMSNormGated
    Sigmoid = 1,
    /// norm(x) * gelu_tanh(z)
    GeluTanh = 2,
    /// norm(x * silu(z)): MambaRMSNormGated and Zamba2RMSNormGated, with `LANENORM_ROUNDING_STEPS`
    SiluBefore = 3,
    /// norm(x * sigmoid(z))
    SigmoidBefore = 4,
    /// norm(x * gelu_tanh(z))
    GeluTanhBefore = 5,
}

const GATES: [(lanenorm_gate_kind, Function, Side); 6] = [
    (lanenorm_gate_kind::Silu, Function::Silu, Side::After),
    (lanenorm_gate_kind::Sigmoid, Function::Sigmoid, Side::After),
    (lanenorm_gate_kind::GeluTanh, Function::GeluTanh, Side::After),
    (lanenorm_gate_kind::SiluBefore, Function::Silu, Side::Before),
    (lanenorm_gate_kind::SigmoidBefore, Function::Sigmoid, Side::Before),
    (lanenorm_gate_kind::GeluTanhBefore, Function::GeluTanh, Side::Before),
];

/// A gate: rows z, as many as x has, which y is apart from. Start from `LANENORM_GATE_INIT`, which sets `struct_size`
/// and leaves all else zero and absent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_gate {
    /// `sizeof(lanenorm_gate)`. See "Versions" at the top.
    pub struct_size: usize,
    /// The rows of the gate, in as many runs as those of the buffers.
    pub z: lanenorm_rows,
    /// The `lanenorm_dtype` of z: the type of x, f32 beside 16 bits, or 16 bits beside f32.
    pub z_dtype: i32,
    /// A `lanenorm_gate_kind`.
    pub kind: i32,
}

// SAFETY: numbers, and pointers, which are then NULL.
unsafe impl HasSize for lanenorm_gate {
    const LEAST: usize = offset_of!(Self, z_dtype);
    const END: usize = offset_of!(Self, kind) + size_of::<i32>();
}

/// What a backward call of gated rows has beside its buffers and its gate. Start from `LANENORM_GATE_GRADIENTS_INIT`,
/// which sets `struct_size` and leaves all else zero and absent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_gate_gradients {
    /// `sizeof(lanenorm_gate_gradients)`. See "Versions" at the top.
    pub struct_size: usize,
    /// Optional: the gradient of z, of the type of z. It overlaps nothing.
    pub dz: lanenorm_rows_mut,
    /// Optional, not for RMS normalization: the beta of the forward call, of the type of gamma. dz depends on it where
    /// the gate comes after the normalization.
    pub beta: *const c_void,
}

// SAFETY: numbers, and pointers, which are then NULL.
unsafe impl HasSize for lanenorm_gate_gradients {
    const LEAST: usize = offset_of!(Self, beta);
    const END: usize = offset_of!(Self, beta) + size_of::<*const c_void>();
}

/// Normalizes all rows with a gate, on as many threads as `threads` says. The product is taken in float, and y is
/// rounded once. y may be x. Rows of double, and a residual, are refused.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_gate(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    gate: *const lanenorm_gate,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    guard(|| unsafe { run_gated(plan, buffers, gate, Part::All { threads }) })
}

/// Normalizes `row_count` rows from `first_row` on with a gate, on the calling thread, without allocating, as
/// `lanenorm_plan_forward_rows` does. `buffers` and `gate` are for all rows.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_gate_rows(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    gate: *const lanenorm_gate,
    first_row: usize,
    row_count: usize,
) -> lanenorm_status {
    let part = Part::Rows { first: first_row, count: row_count };
    // SAFETY: the caller's duty.
    guard(|| unsafe { run_gated(plan, buffers, gate, part) })
}

/// Takes the gradients of all rows of a call with a gate, on as many threads as `threads` says. dy is the gradient of
/// that call's y, of the type of x. At least one of dx, dz, dgamma and dbeta must be wanted. Rows are normalized again:
/// the mean, mean_lo and rstd of `buffers` are not read. All between is float; dx and dz are rounded once. Memory is
/// allocated for the time of the call. A ds, and rows of double, are refused.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_gate_backward(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_backward_buffers,
    gate: *const lanenorm_gate,
    gradients: *const lanenorm_gate_gradients,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    guard(|| unsafe { run_gate_backward(plan, buffers, gate, gradients, threads) })
}

/// Checks all, then runs.
///
/// # Safety
/// - As of the function that calls it.
unsafe fn run_gate_backward(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_backward_buffers,
    gate: *const lanenorm_gate,
    gradients: *const lanenorm_gate_gradients,
    threads: usize,
) -> Result<(), lanenorm_status> {
    let mut room = (MaybeUninit::uninit(), MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the caller's duty.
    let (inner, buffers, given, gradients) = unsafe {
        let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers, &mut room.0)?);
        let (given, gradients) = (sized("gate", gate, &mut room.1)?, sized("gradients", gradients, &mut room.2)?);
        (inner, buffers, given, gradients)
    };
    let &Inner { ref plan, kind, .. } = inner;
    let (gate, z_dtype) = gate_of(kind, given)?;
    if !buffers.ds.data.is_null() {
        return Err(unsupported("ds is given, but gradients of gated rows have none"));
    }
    if !kind.centered {
        no_centered(["beta"], [gradients.beta])?;
    }
    let gate = GateGiven { gate, z: &given.z, z_dtype, dz: &gradients.dz, beta: gradients.beta };
    // SAFETY: the caller's duty.
    unsafe { backward::backward(plan, kind, buffers, Some(&gate), threads) }
}

/// The gate, and the type of z, if rows of this kind can have it.
fn gate_of(kind: Kind, given: &lanenorm_gate) -> Result<(Gate, Dtype), lanenorm_status> {
    let Some(&(_, function, side)) = GATES.iter().find(|&&(named, ..)| named as i32 == given.kind) else {
        return Err(unknown("kind", given.kind));
    };
    let z_dtype = kind.dtype.beside_it("z_dtype", given.z_dtype, true)?;
    if kind.dtype == Dtype::F64 {
        return Err(unsupported("rows of f64 have no gate, expected f32, f16 or bf16"));
    }
    Ok((Gate { function, side }, z_dtype))
}

/// Checks all, then runs.
///
/// # Safety
/// - As of the functions that call it.
unsafe fn run_gated(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    gate: *const lanenorm_gate,
    part: Part,
) -> Result<(), lanenorm_status> {
    let mut room = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the caller's duty.
    let (inner, buffers, given) =
        unsafe { (initialized(plan)?, sized("buffers", buffers, &mut room.0)?, sized("gate", gate, &mut room.1)?) };
    let &Inner { ref plan, kind, .. } = inner;
    let (gate, z_dtype) = gate_of(kind, given)?;
    let (first, count) = part.of(buffers.rows)?;
    if !buffers.residual.data.is_null() {
        return Err(unsupported("residual is given, but sums have no gate"));
    }
    let shape = shape(plan, kind, buffers)?;
    if shape.is_empty() {
        return Ok(());
    }
    let mut places = Places::default();
    let z = Rows::checked("z", given.z.data, (given.z.row_stride, given.z.outer_stride), &shape, z_dtype.size())?;
    places.read_rows("z", &z, &shape, z_dtype.size(), false);
    let AllRows { x, y, .. } = check_places(&mut places, plan, kind, buffers, &shape)?;
    let Some(y) = y else { return Err(no_rows("y", shape.rows, shape.cols)) };
    if count == 0 {
        return Ok(());
    }
    let even = [x, y, z].iter().all(|rows| rows.are_even(&shape));
    let inner_rows = if even { shape.rows } else { shape.inner_rows };
    let checked = Checked { x: x.rows, residual: None, y: y.rows, inner_rows, streaming: false };
    let call = Call { plan, types: Types::of(kind, false), buffers, checked };
    let call = GateCall { call, gate, z: z.rows, z_kind: z_dtype.beside(kind.dtype) };
    let tasks = part.tasks(buffers.rows.saturating_mul(plan.cols));
    // SAFETY: the caller's duty, and all has been checked.
    unsafe { prepare_stats(kind, buffers, first, count) };
    let (this, run) = (&call, run_for(kind));
    // SAFETY: these rows are in one run, and the work has them.
    let run = |first, count| unsafe { run(this, first, count) };
    let run: &(dyn Fn(usize, usize) + Sync) = &run;
    parallel::share(Runs { call: &this.call, run, first, count }, &mut [], tasks);
    Ok(())
}

/// A call that has been checked, from which parts are taken.
struct GateCall<'a> {
    call: Call<'a>,
    gate: Gate,
    z: Strided,
    z_kind: Companion,
}

// SAFETY: threads share it to make jobs for rows of their own, which are Send.
unsafe impl Sync for GateCall<'_> {}

/// [`run`] for some types.
type Run = unsafe fn(&GateCall<'_>, usize, usize);

fn run_for(kind: Kind) -> Run {
    match (kind.dtype, kind.centered) {
        (Dtype::F32, true) => run::<f32, Centered>,
        (Dtype::F32, false) => run::<f32, Uncentered>,
        (Dtype::F16, true) => run::<f16, Centered>,
        (Dtype::F16, false) => run::<f16, Uncentered>,
        (Dtype::Bf16, true) => run::<bf16, Centered>,
        (Dtype::Bf16, false) => run::<bf16, Uncentered>,
        (Dtype::F64, _) => misfit(),
    }
}

/// Normalizes `count` rows from `first` on, which are evenly apart, on the calling thread.
///
/// # Safety
/// - The types belong to the call.
/// - There are these rows, in one run or evenly apart in all buffers.
/// - Nothing else touches them meanwhile.
#[inline(never)]
unsafe fn run<T: Gateable + Gates<M>, M: Center>(this: &GateCall<'_>, first: usize, count: usize) {
    let &GateCall { ref call, gate, z, z_kind } = this;
    let (run, row) = call.checked.place(first);
    let at = run.wrapping_mul(z.outer_stride).wrapping_add(row.wrapping_mul(z.stride));
    let p = z.data.wrapping_byte_add(at.wrapping_mul(z_kind.size::<T>()));
    let z = RawRows { p: p.cast::<T>(), stride: z.stride, kind: z_kind };
    // SAFETY: the caller's duty; places have been checked.
    let job = unsafe {
        call.parts::<T>(first, count).and_then(|Parts { rows, params, stats, .. }| {
            Gated::<T, M>::from_raw(rows, params, call.plan.eps, stats, gate, z)
        })
    };
    match job {
        Err(_) => misfit(),
        Ok(mut job) => job.run_on(call.plan.isa),
    }
}
