//! Normalizing with a gate: whole tensors, and ranges of rows.

use std::mem::{MaybeUninit, offset_of, size_of};

use lanenorm_kernels::element::Kind as Companion;
use lanenorm_kernels::gate::{Function, Gate, Side};
use lanenorm_kernels::half::{bf16, f16};
use lanenorm_kernels::ops::gate::Gated;
use lanenorm_kernels::rows::RawRows;
use lanenorm_kernels::{Center, Centered, Gateable, Gates, Uncentered};

use super::check::{AllRows, Checked, check_places, shape, unsupported};
use super::forward::{Call, Part, Parts, Runs, Types, lanenorm_forward_buffers, lanenorm_rows, prepare_stats};
use super::places::{Places, Rows, Strided, no_rows};
use super::plan::{Dtype, HasSize, Inner, Kind, initialized, lanenorm_plan, sized, unknown};
use super::{guard, lanenorm_status, misfit};
use crate::parallel;

/// The functions of gates, and what they are multiplied by. sigmoid(z) is 1 / (1 + exp(-z)), silu(z) is z * sigmoid(z),
/// and `gelu_tanh` is the form of GELU with tanh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_gate_kind {
    /// norm(x) * silu(z)
    Silu = 0,
    /// norm(x) * sigmoid(z)
    Sigmoid = 1,
    /// norm(x) * gelu_tanh(z)
    GeluTanh = 2,
    /// norm(x * silu(z)) (Mamba 2)
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
    let Some(&(_, function, side)) = GATES.iter().find(|&&(named, ..)| named as i32 == given.kind) else {
        return Err(unknown("kind", given.kind));
    };
    let z_dtype = kind.dtype.beside_it("z_dtype", given.z_dtype, true)?;
    let (first, count) = part.of(buffers.rows)?;
    if kind.dtype == Dtype::F64 {
        return Err(unsupported("rows of f64 have no gate, expected f32, f16 or bf16"));
    }
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
    let call = GateCall { call, gate: Gate { function, side }, z: z.rows, z_kind: z_dtype.beside(kind.dtype) };
    let tasks = part.tasks(buffers.rows.saturating_mul(plan.cols));
    // SAFETY: the caller's duty, and all has been checked.
    unsafe { prepare_stats(kind, buffers, first, count) };
    let (this, run) = (&call, run_for(kind));
    // SAFETY: these rows are in one run, and the work has them.
    let run = |first, count| unsafe { run(this, first, count) };
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
