//! Gradients: of whole tensors, and of ranges of blocks.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::{ptr, slice};

use lanenorm_kernels::element::Storage;
use lanenorm_kernels::gate::Gate;
use lanenorm_kernels::half::{bf16, f16};
use lanenorm_kernels::ops::backward::{Backward, Parts, Stats};
use lanenorm_kernels::ops::gate::GatedBackward;
use lanenorm_kernels::rows::{GateGradRows, GradRows, LINE, Params, RawGateRows, RawGradRows, Vector};
use lanenorm_kernels::simd::Float;
use lanenorm_kernels::{Center, Centered, Compiled, Count, Element, Error as Refused, GateGradients, Uncentered};

use super::check::{no_centered, params_len};
use super::places::{Places, Rows, Shape, Strided, fill_with_zeros};
use super::plan::{Dtype, Kind, for_types, initialized, sized};
use super::{guard, lanenorm_plan, lanenorm_rows, lanenorm_rows_mut, lanenorm_status, misfit, parallelism, refuse};
use crate::backward::check_stats_together;
use crate::gradients::ParamGrads;
use crate::jobs;
use crate::parallel::{self, Tasks};
use crate::plan::{Plan, Written, dx_row_bytes};
use crate::scratch::{GroupParts, Scratch};

/// The buffers of a backward call. Start from `LANENORM_BACKWARD_INIT`, which sets `struct_size` and leaves all else
/// zero and absent. At least one of dx, dgamma and dbeta must be wanted.
///
/// dx may be dy itself, with the same strides. Otherwise outputs overlap nothing, as in forward calls.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_backward_buffers {
    /// `sizeof(lanenorm_backward_buffers)`. See "Versions" at the top.
    pub struct_size: usize,
    /// The number of rows, in all.
    pub rows: usize,
    /// The rows of a run, which must divide the rows; 0 stands for all. See `lanenorm_rows`.
    pub inner_rows: usize,
    /// The gradient of y. It has the type of x.
    pub dy: lanenorm_rows,
    /// The rows that were normalized: x of the forward call, or its sum if there was a residual. Their type is the
    /// `dtype` of the plan.
    pub x: lanenorm_rows,
    /// Optional, with dx: a gradient that reaches x by another way (a residual connection), to be added to dx.
    pub ds: lanenorm_rows,
    /// Optional: the gradient of x.
    pub dx: lanenorm_rows_mut,
    /// Optional: the gamma of the forward call.
    pub gamma: *const c_void,
    /// Optional, with rstd, not for RMS normalization: the mean of each row, as kept by the forward call. Without it
    /// the mean is computed again.
    pub mean: *const c_void,
    /// Optional, with mean: what rounding took from the mean, as kept by the forward call. Without it the mean counts
    /// as exact, which costs digits where the mean is large beside the standard deviation.
    pub mean_lo: *const c_void,
    /// Optional, with mean unless for RMS normalization: rstd of each row, as kept by the forward call. Without it rstd
    /// is computed again.
    pub rstd: *const c_void,
    /// Optional: the gradient of gamma, cols elements of each group; double for rows of double, else float.
    pub dgamma: *mut c_void,
    /// Optional, not for RMS normalization: the gradient of beta, likewise.
    pub dbeta: *mut c_void,
}

/// How a backward call is cut into blocks of rows. Each block sums up gradients of gamma and beta of its own. The cut
/// depends on the number of rows alone, so that the bits do not depend on threads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct lanenorm_backward_sizes {
    /// The number of blocks: 32 at most for each group.
    pub blocks: usize,
    /// The bytes of `partials`: the sums of all blocks.
    pub partials_bytes: usize,
    /// The bytes of `work`. Each thread needs its own.
    pub work_bytes: usize,
}

/// Takes the gradients of all rows, on as many threads as `threads` says. Memory is allocated for the time of the call.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_backward(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_backward_buffers,
    threads: usize,
) -> lanenorm_status {
    guard(|| {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's duty.
        unsafe {
            let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers, &mut room)?);
            backward(&inner.plan, inner.kind, buffers, None, threads)
        }
    })
}

/// Writes to `sizes` how many blocks `rows` rows have, and how much memory they take.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_backward_sizes(
    plan: *const lanenorm_plan,
    rows: usize,
    sizes: *mut lanenorm_backward_sizes,
) -> lanenorm_status {
    guard(|| {
        // SAFETY: the caller's duty.
        let inner = unsafe { initialized(plan) }?;
        if sizes.is_null() {
            return Err(refuse(lanenorm_status::NullPointer, format_args!("sizes is NULL")));
        }
        let (_, in_bytes) = block_sizes(&inner.plan, inner.kind, rows)?;
        // SAFETY: the caller's duty.
        unsafe { sizes.write(in_bytes) };
        Ok(())
    })
}

/// Takes the gradients of `block_count` blocks from `first_block` on, on the calling thread, without allocating: writes
/// dx, and their part of partials. An engine's threads call this at once, each for blocks of its own, in any order.
/// `buffers` and `partials` are for all rows. dgamma and dbeta are not touched yet. `partials` may be NULL if neither
/// is wanted.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_backward_blocks(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_backward_buffers,
    partials: *mut c_void,
    work: *mut c_void,
    first_block: usize,
    block_count: usize,
) -> lanenorm_status {
    guard(|| {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's duty.
        unsafe {
            let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers, &mut room)?);
            run_blocks(&inner.plan, inner.kind, buffers, partials, work, (first_block, block_count))
        }
    })
}

/// Merges the partials of all blocks into dgamma and dbeta, either of which may be NULL, on the calling thread.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_backward_finish(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_backward_buffers,
    partials: *const c_void,
) -> lanenorm_status {
    guard(|| {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's duty.
        unsafe {
            let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers, &mut room)?);
            finish(&inner.plan, inner.kind, buffers, partials)
        }
    })
}

/// The blocks of a call, which are the parts of each group, and the memory that they take.
struct Sizes {
    parts: GroupParts,
    /// Memory in which each group has room.
    lens: Scratch,
}

// The lengths of f32 hold for 16 bits too, and the lengths of any type are whole cache lines.
const _: () = assert!(f16::STEP == f32::STEP && bf16::STEP == f32::STEP);
const _: () = assert!((f32::STEP * size_of::<f32>()).is_multiple_of(LINE));
const _: () = assert!((f64::STEP * size_of::<f64>()).is_multiple_of(LINE));

impl Sizes {
    fn new(plan: &Plan, kind: Kind, rows: usize, is_gated: bool) -> Option<Self> {
        let of = match kind.float_size() {
            _ if is_gated => Scratch::gated,
            size if size == size_of::<f64>() => Scratch::new::<f64>,
            _ => Scratch::new::<f32>,
        };
        let parts = GroupParts::new(plan.groups, (rows, plan.cols), |parts| of(parts, kind.centered))?;
        Some(Self { lens: parts.room(), parts })
    }

    /// The parts of a group.
    fn parts_of(&self, plan: &Plan, group: usize) -> &Parts {
        &self.parts.of(plan.groups, group).0
    }

    fn in_bytes(&self, plan: &Plan, kind: Kind) -> Option<lanenorm_backward_sizes> {
        let (last, per_group) = (plan.groups.groups() - 1, self.parts_of(plan, 0).count());
        let blocks = per_group.checked_mul(last)?.checked_add(self.parts_of(plan, last).count())?;
        let bytes = |len: usize| len.checked_mul(kind.float_size()).filter(|&n| n <= isize::MAX as usize);
        let partials_bytes = bytes(self.lens.partial.checked_mul(blocks)?)?;
        Some(lanenorm_backward_sizes { blocks, partials_bytes, work_bytes: bytes(self.lens.work)? })
    }
}

fn block_sizes(plan: &Plan, kind: Kind, rows: usize) -> Result<(Sizes, lanenorm_backward_sizes), lanenorm_status> {
    check_groups(plan, rows)?;
    let sizes = Sizes::new(plan, kind, rows, false);
    let sizes = sizes.and_then(|sizes| sizes.in_bytes(plan, kind).map(|in_bytes| (sizes, in_bytes)));
    sizes.ok_or_else(|| overflows(plan, rows))
}

#[cold]
fn overflows(plan: &Plan, rows: usize) -> lanenorm_status {
    Refused::Overflow { what: "scratch", rows, stride: plan.cols }.into()
}

fn check_groups(plan: &Plan, rows: usize) -> Result<(), lanenorm_status> {
    if rows.is_multiple_of(plan.groups.period()) { Ok(()) } else { Err(plan.groups.misfit(rows).into()) }
}

/// A call that has been checked, and has rows and columns.
struct Call<'a> {
    plan: &'a Plan,
    kind: Kind,
    buffers: &'a lanenorm_backward_buffers,
    shape: Shape,
    dy: Strided,
    x: Strided,
    ds: Option<Strided>,
    dx: Option<Strided>,
    /// Whether dgamma or dbeta is wanted.
    sums: bool,
    /// Whether dx is written past the caches.
    streaming: bool,
    places: Places,
    gate: Option<Gated>,
}

/// The gate of a call, before it is checked.
pub(super) struct GateGiven<'a> {
    pub(super) gate: Gate,
    pub(super) z: &'a lanenorm_rows,
    pub(super) z_dtype: Dtype,
    pub(super) dz: &'a lanenorm_rows_mut,
    pub(super) beta: *const c_void,
}

/// The gate of a call that has been checked.
struct Gated {
    gate: Gate,
    z: Strided,
    z_dtype: Dtype,
    dz: Option<Strided>,
    beta: *const c_void,
}

// SAFETY: threads share it to make jobs for parts of their own, which are Send.
unsafe impl Sync for Call<'_> {}

impl<'a> Call<'a> {
    /// Checks the plan and the buffers; what a function is given beside them is still to be checked. `None` if there
    /// are no rows or no columns: dgamma and dbeta have been checked then.
    fn new(
        plan: &'a Plan,
        kind: Kind,
        buffers: &'a lanenorm_backward_buffers,
        gate: Option<&GateGiven<'_>>,
    ) -> Result<Option<Self>, lanenorm_status> {
        let &lanenorm_backward_buffers { gamma, mean, mean_lo, rstd, dgamma, dbeta, .. } = buffers;
        let shape = Shape::new(buffers.rows, buffers.inner_rows, plan.cols)?;
        let sums = !(dgamma.is_null() && dbeta.is_null());
        let has_dx = !buffers.dx.data.is_null();
        if !kind.centered {
            no_centered(["dbeta", "mean", "mean_lo"], [dbeta.cast_const(), mean, mean_lo])?;
        }
        if kind.sum != kind.dtype {
            let (sum, dtype) = (kind.sum.name(), kind.dtype.name());
            let message = format_args!(
                "sum_dtype is {sum} beside a dtype of {dtype}: gradients of sums of {sum} take a plan whose dtype is {sum}"
            );
            return Err(refuse(lanenorm_status::Unsupported, message));
        }
        let has_dz = gate.is_some_and(|gate| !gate.dz.data.is_null());
        if !has_dx && !has_dz && !sums && !shape.is_empty() {
            return Err(Refused::NoGradient.into());
        }
        if !has_dx && !buffers.ds.data.is_null() {
            return Err(Refused::DsWithoutDx { rows: shape.rows }.into());
        }
        check_groups(plan, shape.rows)?;
        let params_len = params_len(plan)?;

        let (own, float) = (kind.size(), kind.float_size());
        let given = |p: *const c_void| !p.is_null();
        let stats = [given(mean), given(mean_lo), given(rstd)];
        let mut places = Places::default();
        if shape.is_empty() {
            places.write_vector("dgamma", dgamma, params_len, float)?;
            places.write_vector("dbeta", dbeta, params_len, float)?;
            check_stats_together(0, kind.centered, stats)?;
            return Ok(None);
        }
        let of = |what, data, strides| Rows::checked(what, data, strides, &shape, own);
        let of_optional = |what, data: *const c_void, strides| {
            if data.is_null() { Ok(None) } else { of(what, data, strides).map(Some) }
        };
        let strides = |rows: &lanenorm_rows| (rows.row_stride, rows.outer_stride);
        let dy = of("dy", buffers.dy.data, strides(&buffers.dy))?;
        let x = of("x", buffers.x.data, strides(&buffers.x))?;
        let ds = of_optional("ds", buffers.ds.data, strides(&buffers.ds))?;
        let strides_mut = |rows: &lanenorm_rows_mut| (rows.row_stride, rows.outer_stride);
        let dx = of_optional("dx", buffers.dx.data, strides_mut(&buffers.dx))?;
        let gated = match gate {
            None => None,
            Some(&GateGiven { z, z_dtype, dz, .. }) => {
                let of = |what, data, strides| Rows::checked(what, data, strides, &shape, z_dtype.size());
                let z = of("z", z.data, strides(z))?;
                let dz = if has_dz { Some(of("dz", dz.data, strides_mut(dz))?) } else { None };
                Some((z, dz, z_dtype.size()))
            }
        };
        places.read_rows("dy", &dy, &shape, own, true);
        places.read_rows("x", &x, &shape, own, false);
        if let Some(ds) = &ds {
            places.read_rows("ds", ds, &shape, own, false);
        }
        if let Some((z, _, size)) = &gated {
            places.read_rows("z", z, &shape, *size, false);
        }
        places.read_vector("gamma", gamma, params_len, kind.gamma.size())?;
        if let Some(gate) = gate {
            places.read_vector("beta", gate.beta, params_len, kind.gamma.size())?;
        }
        places.read_vector("mean", mean, shape.rows, float)?;
        places.read_vector("mean_lo", mean_lo, shape.rows, float)?;
        places.read_vector("rstd", rstd, shape.rows, float)?;
        if let Some(dx) = &dx {
            places.write_rows("dx", dx, &shape, own, true)?;
        }
        if let Some((_, Some(dz), size)) = &gated {
            places.write_rows("dz", dz, &shape, *size, false)?;
        }
        places.write_vector("dgamma", dgamma, params_len, float)?;
        places.write_vector("dbeta", dbeta, params_len, float)?;
        check_stats_together(shape.rows, kind.centered, stats)?;

        let (dy, x, ds, dx) = (dy.rows, x.rows, ds.map(|ds| ds.rows), dx.map(|dx| dx.rows));
        let row_bytes = shape.cols * own;
        let streaming = dx.is_some_and(|dx| {
            plan.streams_to(&Written {
                bytes: shape.rows * row_bytes,
                row_bytes,
                tensors: if ds.is_some() { 4 } else { 3 },
                on_lines: dx.are_on_lines(own),
                in_place: dx.data == dy.data,
                least_row_bytes: dx_row_bytes(own),
            })
        });
        let gate = gate.zip(gated).map(|(&GateGiven { gate, z_dtype, beta, .. }, (z, dz, _))| Gated {
            gate,
            z: z.rows,
            z_dtype,
            dz: dz.map(|dz| dz.rows),
            beta,
        });
        Ok(Some(Self { plan, kind, buffers, shape, dy, x, ds, dx, sums, streaming, places, gate }))
    }
}

/// Some parts of a group, for several threads to share. Whoever makes this knows that the duties of [`run_parts`] are
/// met.
struct SomeParts<'a> {
    call: &'a Call<'a>,
    sizes: &'a Sizes,
    run: Run,
    task: Task,
}

impl parallel::Work for SomeParts<'_> {
    type Memory = MaybeUninit<Line>;

    fn len(&self) -> usize {
        self.task.count
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let Self { sizes, task, .. } = self;
        let sums = at * sizes.lens.partial * self.call.kind.float_size();
        let (first, count) = (task.first + at, task.count - at);
        let rest = Task { first, count, partials: task.partials.wrapping_byte_add(sums), ..task };
        (Self { task: Task { count: at, ..task }, ..self }, Self { task: rest, ..self })
    }

    fn memory(&self) -> usize {
        (self.sizes.lens.work * self.call.kind.float_size()).div_ceil(LINE)
    }

    fn run(self, memory: &mut [MaybeUninit<Line>]) {
        let Self { call, sizes, run, task } = self;
        // SAFETY: these parts are this work's, and the memory is this thread's. Sums become slices, whose elements must
        // have a value. They get it here and not all at once, so that they are in the caches of their thread.
        unsafe {
            if call.sums && task.group == 0 {
                fill_with_zeros(task.partials, 0, task.count * sizes.lens.partial * call.kind.float_size());
            }
            run(call, sizes, Task { work: memory.as_mut_ptr().cast(), ..task });
        }
    }
}

/// Some parts of a group, and the memory for them.
#[derive(Clone, Copy)]
struct Task {
    group: usize,
    first: usize,
    count: usize,
    /// The sums of these parts. May dangle if no sums are wanted.
    partials: *mut c_void,
    work: *mut c_void,
}

// SAFETY: it stands for two mutable slices of floats, which are Send.
unsafe impl Send for Task {}

/// [`run_parts`] for some types.
type Run = unsafe fn(&Call<'_>, &Sizes, Task);

/// Takes the gradients of a task's parts, on the calling thread.
///
/// # Safety
/// - The types and sizes belong to the call.
/// - There are these parts, memory for their sums if sums are wanted, and work memory for one thread.
/// - Nothing else touches this memory, or dx of the rows of these parts, meanwhile.
#[inline(never)]
unsafe fn run_parts<T, M: Center>(call: &Call<'_>, sizes: &Sizes, task: Task)
where
    T: Element + Compiled<M>,
{
    let &Call { plan, kind, buffers, shape: Shape { rows, inner_rows, .. }, .. } = call;
    let &Plan { cols, groups, offset, rounding, divisor, eps, isa, .. } = plan;
    let raw = |Strided { data, stride, outer_stride }| RawGradRows { p: data.cast::<T>(), stride, outer_stride };
    let (ds, dx) = (call.ds.map(raw), call.dx.map(raw));
    // SAFETY: places have been checked: dx is apart from all else, or is dy. The rest is the caller's duty.
    let grad_rows = unsafe { GradRows::from_raw(raw(call.dy), raw(call.x), ds, dx, inner_rows, rows, cols) };
    // SAFETY: lengths and alignment have been checked; the rest is the caller's duty.
    let (gamma, stats, partials, work) = unsafe {
        let stat = |p: *const c_void| (!p.is_null()).then(|| slice::from_raw_parts(p.cast::<T::Float>(), rows));
        let stats = Stats { mean: stat(buffers.mean), mean_lo: stat(buffers.mean_lo), rstd: stat(buffers.rstd) };
        let scratch = |p: *mut c_void, len| slice::from_raw_parts_mut(p.cast::<T::Float>(), len);
        let partials = if call.sums { scratch(task.partials, task.count * sizes.lens.partial) } else { &mut [] };
        let work = scratch(task.work, sizes.lens.work);
        let gamma = buffers.gamma.wrapping_byte_add(task.group * cols * kind.gamma.size());
        let gamma =
            (!buffers.gamma.is_null()).then(|| Vector::from_raw(gamma.cast(), cols, kind.gamma.beside(kind.dtype)));
        (gamma, stats, partials, work)
    };
    let params = Params { gamma, offset: T::Float::from_f32(offset), rounding, divisor, ..Params::default() };
    let job = grad_rows.with_group(task.group, groups);
    let job = job.and_then(|rows| Backward::new(rows, stats, params, eps, call.sums, call.streaming));
    let job = job.map(|job: Backward<'_, T, M>| job.split_at_part(task.first).1.split_at_part(task.count).0);
    match job {
        Err(_) => misfit(),
        Ok(mut job) => job.run_on(isa, partials, work),
    }
}

/// [`run_parts`] for gated rows, which are computed in f32.
///
/// # Safety
/// - As of [`run_parts`]. The call has a gate.
#[inline(never)]
unsafe fn run_gated_parts<M: GateGradients>(call: &Call<'_>, sizes: &Sizes, task: Task) {
    let &Call { plan, kind, buffers, shape: Shape { rows, inner_rows, .. }, .. } = call;
    let &Plan { cols, groups, offset, rounding, divisor, eps, isa, .. } = plan;
    let Some(&Gated { gate, z, z_dtype, dz, beta }) = call.gate.as_ref() else { misfit() };
    let raw = |Strided { data, stride, outer_stride }, dtype: Dtype| RawGateRows {
        rows: RawGradRows { p: data.cast::<f32>(), stride, outer_stride },
        kind: dtype.beside(Dtype::F32),
    };
    let own = |rows| raw(rows, kind.dtype);
    let inputs = [own(call.dy), own(call.x), raw(z, z_dtype)];
    let outputs = [call.dx.map(own), dz.map(|dz| raw(dz, z_dtype))];
    let vector = |p: *const c_void| {
        let of_group = p.wrapping_byte_add(task.group * cols * kind.gamma.size());
        // SAFETY: the length and the alignment have been checked; the rest is the caller's duty.
        (!p.is_null()).then(|| unsafe { Vector::from_raw(of_group.cast(), cols, kind.gamma.beside(Dtype::F32)) })
    };
    let (gamma, beta) = (vector(buffers.gamma), vector(beta));
    // SAFETY: as in `run_parts`.
    let (grad_rows, partials, work) = unsafe {
        let scratch = |p: *mut c_void, len| slice::from_raw_parts_mut(p.cast::<f32>(), len);
        let partials = if call.sums { scratch(task.partials, task.count * sizes.lens.partial) } else { &mut [] };
        let grad_rows = GateGradRows::from_raw(inputs, outputs, inner_rows, rows, cols);
        (grad_rows, partials, scratch(task.work, sizes.lens.work))
    };
    let params = Params { gamma, beta, offset, rounding, divisor, ..Params::default() };
    let job = grad_rows.with_group(task.group, groups);
    let job = job.and_then(|rows| GatedBackward::<M>::new(rows, params, eps, gate, call.sums));
    match job.map(|job| job.split_at_part(task.first).1.split_at_part(task.count).0) {
        Err(_) => misfit(),
        Ok(mut job) => job.run_on(isa, partials, work),
    }
}

/// [`merge_group`] for some types.
type MergeGroup = unsafe fn(&Call<'_>, &Sizes, usize, *const c_void, Tasks<false>);

/// Merges the sums of all parts of a group into its dgamma and dbeta, on up to `tasks` threads.
///
/// # Safety
/// - The types and sizes belong to the call.
/// - There are the sums, and nothing else touches these elements of dgamma and dbeta meanwhile.
#[inline(never)]
unsafe fn merge_group<T, M: Center>(
    call: &Call<'_>,
    sizes: &Sizes,
    group: usize,
    partials: *const c_void,
    tasks: Tasks<false>,
) where
    T: Element + Compiled<M>,
{
    let &Plan { cols, isa, .. } = call.plan;
    // SAFETY: the caller's duty; lengths and alignment have been checked.
    let (partials, dgamma, dbeta) = unsafe {
        let grad = |p: *mut c_void| {
            (!p.is_null()).then(|| slice::from_raw_parts_mut(p.cast::<T::Float>().add(group * cols), cols))
        };
        let partials =
            slice::from_raw_parts(partials.cast::<T::Float>(), sizes.parts.of(call.plan.groups, group).1.partials);
        (partials, grad(call.buffers.dgamma), grad(call.buffers.dbeta))
    };
    jobs::merge::<T, M, false>(isa, sizes.parts_of(call.plan, group), partials, ParamGrads { dgamma, dbeta }, tasks);
}

/// Writes zeros to dgamma and dbeta. These are the gradients if there are no rows. Otherwise the zeros are needed
/// before dgamma and dbeta become slices: C's memory need not have a value.
///
/// # Safety
/// - The buffers have been checked, and nothing else touches dgamma and dbeta meanwhile.
unsafe fn fill_sums(plan: &Plan, kind: Kind, buffers: &lanenorm_backward_buffers) {
    for grad in [buffers.dgamma, buffers.dbeta] {
        // That the length does not overflow has been checked only for a gradient that is given.
        if !grad.is_null() {
            // SAFETY: the caller's duty.
            unsafe { fill_with_zeros(grad, 0, plan.cols * plan.groups.groups() * kind.float_size()) };
        }
    }
}

/// Registers of scratch memory that straddle two cache lines cost a fifth of the time.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "what counts is its size")] [u8; LINE]);

/// Checks all, then runs.
///
/// # Safety
/// - The buffers are what the head of `capi` says.
pub(super) unsafe fn backward(
    plan: &Plan,
    kind: Kind,
    buffers: &lanenorm_backward_buffers,
    gate: Option<&GateGiven<'_>>,
    threads: usize,
) -> Result<(), lanenorm_status> {
    let Some(call) = Call::new(plan, kind, buffers, gate)? else {
        // SAFETY: the caller's duty.
        unsafe { fill_sums(plan, kind, buffers) };
        return Ok(());
    };
    let (rows, float) = (call.shape.rows, kind.float_size());
    let overflow = || overflows(plan, rows);
    let sizes = Sizes::new(plan, kind, rows, gate.is_some()).ok_or_else(overflow)?;
    let tasks: Tasks<false> =
        Plan { parallelism: parallelism(threads), ..*plan }.backward_tasks(rows, sizes.parts.most());
    let len = sizes.lens.total(tasks.count).ok_or_else(overflow)?;
    let mut scratch: Vec<Line> = Vec::new();
    let lines = len.checked_mul(float).map_or(usize::MAX, |bytes| bytes.div_ceil(LINE));
    if scratch.try_reserve_exact(lines).is_err() {
        let message = format_args!("scratch of {len} elements of {float} bytes");
        return Err(refuse(lanenorm_status::OutOfMemory, message));
    }
    let (partials, work) = scratch.spare_capacity_mut()[..lines].split_at_mut(sizes.lens.partials * float / LINE);
    let partials = partials.as_mut_ptr().cast::<c_void>();
    work.fill(MaybeUninit::new(Line([0; LINE])));
    let run: Run = match (gate, kind.centered) {
        (None, _) => for_types!(kind.dtype, kind.centered, run_parts),
        (Some(_), true) => run_gated_parts::<Centered>,
        (Some(_), false) => run_gated_parts::<Uncentered>,
    };
    let merge: MergeGroup = for_types!(kind.dtype, kind.centered, merge_group);
    // SAFETY: the caller's duty.
    unsafe { fill_sums(plan, kind, buffers) };
    for group in 0..plan.groups.groups() {
        let count = sizes.parts_of(plan, group).count();
        let task = Task { group, first: 0, count, partials, work: ptr::null_mut() };
        parallel::share(SomeParts { call: &call, sizes: &sizes, run, task }, work, tasks);
        if call.sums {
            // SAFETY: the caller's duty; these sums are of this group, and this call's.
            unsafe { merge(&call, &sizes, group, partials, tasks) };
        }
    }
    Ok(())
}

/// Checks all, then runs.
///
/// # Safety
/// - The buffers are what the head of `capi` says, and so are partials and work.
unsafe fn run_blocks(
    plan: &Plan,
    kind: Kind,
    buffers: &lanenorm_backward_buffers,
    partials: *mut c_void,
    work: *mut c_void,
    (first, count): (usize, usize),
) -> Result<(), lanenorm_status> {
    let Some(mut call) = Call::new(plan, kind, buffers, None)? else { return Ok(()) };
    let (sizes, lanenorm_backward_sizes { blocks, .. }) = block_sizes(plan, kind, call.shape.rows)?;
    if first > blocks || count > blocks - first {
        let message = format_args!("{} from block {first} on, but there are {blocks}", Count(count, "block"));
        return Err(refuse(lanenorm_status::Size, message));
    }
    let (float, partial) = (kind.float_size(), sizes.lens.partial);
    let mut scratch = |what, p: *mut c_void, len, needed: bool| {
        if p.is_null() && needed {
            let message = format_args!("{what} is NULL, expected {len} elements of {float} bytes");
            return Err(refuse(lanenorm_status::NullPointer, message));
        }
        call.places.write_vector(what, p, len, float)
    };
    scratch("partials", partials, partial * blocks, call.sums)?;
    scratch("work", work, sizes.lens.work, true)?;
    let run: Run = for_types!(kind.dtype, kind.centered, run_parts);
    let (last, per_group) = (plan.groups.groups() - 1, sizes.parts_of(plan, 0).count());
    // SAFETY: the caller's duty. Both become slices, whose elements must have a value; C's memory need not have one.
    unsafe {
        if call.sums {
            fill_with_zeros(partials, first * partial * float, count * partial * float);
        }
        fill_with_zeros(work, 0, sizes.lens.work * float);
    }
    let (mut block, end) = (first, first + count);
    while block < end {
        let group = (block / per_group).min(last);
        let part = block - group * per_group;
        let n = (sizes.parts_of(plan, group).count() - part).min(end - block);
        let partials = partials.wrapping_byte_add(block * partial * float);
        // SAFETY: the caller's duty, for the rows of these blocks; there is room for the sums of all blocks.
        unsafe { run(&call, &sizes, Task { group, first: part, count: n, partials, work }) };
        block += n;
    }
    Ok(())
}

/// Checks all, then merges.
///
/// # Safety
/// - The buffers are what the head of `capi` says, and so are the partials, of all blocks.
unsafe fn finish(
    plan: &Plan,
    kind: Kind,
    buffers: &lanenorm_backward_buffers,
    partials: *const c_void,
) -> Result<(), lanenorm_status> {
    let Some(mut call) = Call::new(plan, kind, buffers, None)? else {
        // SAFETY: the caller's duty.
        unsafe { fill_sums(plan, kind, buffers) };
        return Ok(());
    };
    if !call.sums {
        return Ok(());
    }
    let (sizes, lanenorm_backward_sizes { blocks, .. }) = block_sizes(plan, kind, call.shape.rows)?;
    let all = sizes.lens.partial * blocks;
    if partials.is_null() {
        let message = format_args!("partials is NULL, expected {all} elements");
        return Err(refuse(lanenorm_status::NullPointer, message));
    }
    // `partials` is only read, but is checked like an output: that finds an overlap with dgamma or dbeta.
    call.places.write_vector("partials", partials, all, kind.float_size())?;
    let merge: MergeGroup = for_types!(kind.dtype, kind.centered, merge_group);
    // SAFETY: the caller's duty.
    unsafe { fill_sums(plan, kind, buffers) };
    let of_group = sizes.parts_of(plan, 0).count() * sizes.lens.partial * kind.float_size();
    for group in 0..plan.groups.groups() {
        let partials = partials.wrapping_byte_add(group * of_group);
        // SAFETY: the caller's duty.
        unsafe { merge(&call, &sizes, group, partials, Tasks::ONE) };
    }
    Ok(())
}
