//! Gradients: of whole tensors, and of ranges of blocks.

use std::ffi::c_void;
use std::slice;

use lanenorm_kernels::backward::{Parts, Stats, merge};
use lanenorm_kernels::lanes::{Compiled, Element, GradRows, RawGradRows, Vector};

use super::check::params_len;
use super::forward::params;
use super::places::{Place, Places, Rows, Shape, Strided, vector};
use super::plan::{for_types, initialized, sized};
use super::{guard, lanenorm_plan, lanenorm_rows, lanenorm_rows_mut, lanenorm_status, parallelism, refuse};
use crate::Error;
use crate::backward::check_stats;
use crate::gradients::ParamGrads;
use crate::plan::Plan;

/// The buffers of a backward call. Start from `LANENORM_BACKWARD_INIT`, which sets `struct_size` and leaves all else zero
/// and absent. At least one of dx, dgamma and dbeta must be wanted.
///
/// dx may be dy itself, with the same strides. Else outputs overlap nothing, as in forward calls.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_backward_buffers {
    /// `sizeof(lanenorm_backward_buffers)`
    pub struct_size: usize,
    /// The number of rows, in all.
    pub rows: usize,
    /// The rows of a run, which must divide the rows; 0 stands for all. See `lanenorm_rows`.
    pub inner_rows: usize,
    /// The gradient of y.
    pub dy: lanenorm_rows,
    /// What was normalized (the sum, if it was one).
    pub x: lanenorm_rows,
    /// Optional, with dx: a gradient that reaches x by another way (a residual connection), to be added to dx.
    pub ds: lanenorm_rows,
    /// Optional: the gradient of x.
    pub dx: lanenorm_rows_mut,
    /// Optional: that of the forward call.
    pub gamma: *const c_void,
    /// Optional, with rstd, not for RMS normalization: as kept by the forward call. Without them they are taken again.
    pub mean: *const c_void,
    /// Optional, with mean: the same. Without it the mean is taken for exact, which costs digits where it is large beside
    /// the standard deviation.
    pub mean_lo: *const c_void,
    /// Optional, with mean unless for RMS normalization: the same.
    pub rstd: *const c_void,
    /// Optional: the gradient of gamma, cols elements of each group; double for rows of double, else float.
    pub dgamma: *mut c_void,
    /// Optional, not for RMS normalization: the gradient of beta, likewise.
    pub dbeta: *mut c_void,
}

/// How a backward call is cut into blocks of rows, each of which sums up gradients of gamma and beta of its own. This
/// depends on the number of rows alone, which is why the bits do not depend on threads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct lanenorm_backward_sizes {
    /// The number of blocks: 32 at most for each group.
    pub blocks: usize,
    /// The bytes of `partials`: the sums of all blocks.
    pub partials_bytes: usize,
    /// The bytes of `work`, of which each thread has its own.
    pub work_bytes: usize,
}

/// Takes the gradients of all rows, on as many threads as asked for. Memory is allocated for the time of the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_backward(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_backward_buffers,
    threads: usize,
) -> lanenorm_status {
    guard(|| {
        // SAFETY: the caller's duty.
        unsafe {
            let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers)?);
            for_types!(inner, backward(&inner.plan, inner.wide.gamma, buffers, threads))
        }
    })
}

/// How many blocks so many rows have, and the memory that takes.
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
        let of = for_types!(inner, block_sizes(&inner.plan, rows))?;
        // SAFETY: the caller's duty.
        unsafe { sizes.write(of.in_bytes) };
        Ok(())
    })
}

/// Takes the gradients of `block_count` blocks from `first_block` on, on the calling thread, without allocating: writes
/// dx, and their part of partials. An engine's threads call this at once, each for blocks of its own, in any order. The
/// buffers and partials are those of all rows; dgamma and dbeta are not touched yet. partials may be NULL if neither is
/// wanted.
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
        // SAFETY: the caller's duty.
        unsafe {
            let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers)?);
            let blocks = (first_block, block_count);
            for_types!(inner, run_blocks(&inner.plan, inner.wide.gamma, buffers, partials, work, blocks))
        }
    })
}

/// Merges the partials of all blocks into dgamma and dbeta, as far as they are wanted, on the calling thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_backward_finish(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_backward_buffers,
    partials: *const c_void,
) -> lanenorm_status {
    guard(|| {
        // SAFETY: the caller's duty.
        unsafe {
            let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers)?);
            for_types!(inner, finish(&inner.plan, inner.wide.gamma, buffers, partials))
        }
    })
}

/// The blocks of a call, which are the parts of each group.
struct Sizes {
    parts: Parts,
    /// The elements of the sums of a block.
    partial: usize,
    work: usize,
    in_bytes: lanenorm_backward_sizes,
}

fn block_sizes<T: Element, const CENTERED: bool>(plan: &Plan, rows: usize) -> Result<Sizes, lanenorm_status> {
    check_groups(plan, rows)?;
    let parts = Parts::new(rows / plan.groups, plan.cols);
    let sizes = || {
        let blocks = parts.count().checked_mul(plan.groups)?;
        let (partial, work) = (parts.partial_len::<T>(CENTERED)?, parts.work_len::<T>(CENTERED)?);
        let bytes = |len: usize| len.checked_mul(size_of::<T::Float>()).filter(|&n| n <= isize::MAX as usize);
        let partials_bytes = bytes(partial.checked_mul(blocks)?)?;
        let in_bytes = lanenorm_backward_sizes { blocks, partials_bytes, work_bytes: bytes(work)? };
        Some(Sizes { parts, partial, work, in_bytes })
    };
    sizes().ok_or_else(|| Error::Overflow { what: "scratch", rows, stride: plan.cols }.into())
}

fn check_groups(plan: &Plan, rows: usize) -> Result<(), lanenorm_status> {
    let &Plan { groups, repeat, .. } = plan;
    if rows.is_multiple_of(groups * repeat) { Ok(()) } else { Err(Error::GroupRows { rows, groups, repeat }.into()) }
}

/// A call that has been checked.
struct Checked<'a, T: Element> {
    shape: Shape,
    dy: Option<Rows>,
    x: Option<Rows>,
    ds: Option<Rows>,
    dx: Option<Rows>,
    gamma: Option<Vector<'a, T>>,
    stats: Stats<'a, T::Float>,
    /// Whether dgamma or dbeta is wanted.
    sums: bool,
    params_len: usize,
    places: Places,
}

impl<'a, T: Element> Checked<'a, T> {
    /// # Safety
    /// - The buffers are what the head of `capi` says.
    unsafe fn new<const CENTERED: bool>(
        plan: &Plan,
        wide_gamma: bool,
        buffers: &lanenorm_backward_buffers,
    ) -> Result<Self, lanenorm_status> {
        let &lanenorm_backward_buffers { gamma, mean, mean_lo, rstd, dgamma, dbeta, .. } = buffers;
        let shape = Shape::new(buffers.rows, buffers.inner_rows, plan.cols)?;
        let sums = !(dgamma.is_null() && dbeta.is_null());
        let has_dx = !buffers.dx.data.is_null();
        if !(CENTERED || dbeta.is_null() && mean.is_null() && mean_lo.is_null()) {
            let message = format_args!("dbeta, mean or mean_lo is given, which RMS normalization does not have");
            return Err(refuse(lanenorm_status::Unsupported, message));
        }
        if !has_dx && !sums && !shape.is_empty() {
            return Err(Error::NoGradient.into());
        }
        if !has_dx && !buffers.ds.data.is_null() {
            return Err(Error::DsWithoutDx { rows: shape.rows }.into());
        }
        check_groups(plan, shape.rows)?;
        let params_len = params_len(plan)?;

        let (own, float) = (size_of::<T>(), size_of::<T::Float>());
        let of = |what, optional: bool, data: *const c_void, strides| {
            if shape.is_empty() || (optional && data.is_null()) {
                return Ok(None);
            }
            Rows::new(what, data, strides, &shape, own).map(Some)
        };
        let strides = |rows: &lanenorm_rows| (rows.row_stride, rows.outer_stride);
        let dy = of("dy", false, buffers.dy.data, strides(&buffers.dy))?;
        let x = of("x", false, buffers.x.data, strides(&buffers.x))?;
        let ds = of("ds", true, buffers.ds.data, strides(&buffers.ds))?;
        let dx = of("dx", true, buffers.dx.data, (buffers.dx.row_stride, buffers.dx.outer_stride))?;
        let place = |what, rows: Option<Rows>| rows.map(|rows| rows.place(what, &shape, own));
        let vector = |what, p, len, element| vector(what, p, len, element).map(|span| Place::vector(what, span));
        let mut places = Places::default();
        places.read(place("dy", dy).map(|place| place.replaceable()));
        places.read(place("x", x));
        places.read(place("ds", ds));
        if !shape.is_empty() {
            let gamma_size = if wide_gamma { size_of::<f32>() } else { own };
            places.read(vector("gamma", gamma, params_len, gamma_size)?);
            places.read(vector("mean", mean, shape.rows, float)?);
            places.read(vector("mean_lo", mean_lo, shape.rows, float)?);
            places.read(vector("rstd", rstd, shape.rows, float)?);
        }
        places.write(place("dx", dx).map(|place| place.replaceable()))?;
        places.write(vector("dgamma", dgamma, params_len, float)?)?;
        places.write(vector("dbeta", dbeta, params_len, float)?)?;

        let stats_len = if shape.is_empty() { 0 } else { shape.rows };
        // SAFETY: the caller's duty; lengths and alignment have been checked.
        let (gamma, stats) = unsafe {
            let stats = Stats {
                mean: whole(mean.cast(), stats_len),
                mean_lo: whole(mean_lo.cast(), stats_len),
                rstd: whole(rstd.cast(), stats_len),
            };
            (if shape.is_empty() { None } else { params(gamma, params_len, wide_gamma) }, stats)
        };
        check_stats::<_, CENTERED>(stats_len, &stats)?;
        Ok(Self { shape, dy, x, ds, dx, gamma, stats, sums, params_len, places })
    }

    /// All rows.
    ///
    /// # Safety
    /// - Of the rows that a job of these is run on, nothing else touches dx meanwhile.
    unsafe fn grad_rows(&self) -> Option<GradRows<'_, T>> {
        let raw = |Rows { rows: Strided { data, stride, outer_stride }, .. }| RawGradRows {
            p: data.cast::<T>(),
            stride,
            outer_stride,
        };
        let &Shape { rows, inner_rows, cols, .. } = &self.shape;
        let (dy, x, ds, dx) = (self.dy?, self.x?, self.ds.map(raw), self.dx.map(raw));
        // SAFETY: places have been checked: dx is apart from all else, or is dy. The rest is the caller's duty.
        Some(unsafe { GradRows::from_raw(raw(dy), raw(x), ds, dx, inner_rows, rows, cols) })
    }

    /// Whether dx is to be written past the caches.
    fn streams(&self, plan: &Plan) -> bool {
        // SAFETY: no job of these rows is run.
        unsafe { self.grad_rows() }.is_some_and(|rows| plan.streams_dx(&rows))
    }

    /// dgamma and dbeta.
    ///
    /// # Safety
    /// - The buffers are those that have been checked, and nothing else touches these two while the slices live.
    unsafe fn grads<'g>(&self, buffers: &lanenorm_backward_buffers) -> ParamGrads<'g, T::Float> {
        // SAFETY: the caller's duty.
        let whole = |p: *mut c_void| {
            let p = if self.params_len == 0 { std::ptr::NonNull::dangling().as_ptr() } else { p.cast::<T::Float>() };
            // SAFETY: the caller's duty; length and alignment have been checked.
            unsafe { slice::from_raw_parts_mut(p, self.params_len) }
        };
        let if_wanted = |p: *mut c_void| if p.is_null() { None } else { Some(whole(p)) };
        ParamGrads { dgamma: if_wanted(buffers.dgamma), dbeta: if_wanted(buffers.dbeta) }
    }
}

/// A buffer, if it is there.
///
/// # Safety
/// - It has so many elements, which nothing writes while the slice lives.
unsafe fn whole<'a, F>(p: *const F, len: usize) -> Option<&'a [F]> {
    // SAFETY: the caller's duty.
    (!p.is_null()).then(|| if len == 0 { &[][..] } else { unsafe { slice::from_raw_parts(p, len) } })
}

/// Checks all, then runs.
///
/// # Safety
/// - The buffers are what the head of `capi` says.
pub(super) unsafe fn backward<T, const CENTERED: bool>(
    plan: &Plan,
    wide_gamma: bool,
    buffers: &lanenorm_backward_buffers,
    threads: usize,
) -> Result<(), lanenorm_status>
where
    T: Element + Compiled<CENTERED>,
{
    // SAFETY: the caller's duty.
    let checked = unsafe { Checked::<T>::new::<CENTERED>(plan, wide_gamma, buffers) }?;
    let plan = Plan { parallelism: parallelism(threads), ..*plan };
    // SAFETY: the caller's duty.
    let (rows, mut grads) = unsafe { (checked.grad_rows(), checked.grads(buffers)) };
    let Some(rows) = rows else {
        fill_with_zeros::<T>(&mut grads);
        return Ok(());
    };
    let len = plan.backward_scratch_len::<T>(checked.shape.rows, CENTERED)?;
    let mut scratch = Vec::new();
    if scratch.try_reserve_exact(len).is_err() {
        let message = format_args!("scratch of {len} elements of {} bytes", size_of::<T::Float>());
        return Err(refuse(lanenorm_status::OutOfMemory, message));
    }
    scratch.resize(len, T::Float::default());
    plan.backward_rows::<T, CENTERED>(rows, checked.gamma, checked.stats, grads, Some(&mut scratch))?;
    Ok(())
}

fn fill_with_zeros<T: Element>(grads: &mut ParamGrads<'_, T::Float>) {
    [&mut grads.dgamma, &mut grads.dbeta].into_iter().flatten().for_each(|grad| grad.fill(T::Float::default()));
}

/// Checks all, then runs.
///
/// # Safety
/// - The buffers are what the head of `capi` says, and so are partials and work.
unsafe fn run_blocks<T, const CENTERED: bool>(
    plan: &Plan,
    wide_gamma: bool,
    buffers: &lanenorm_backward_buffers,
    partials: *mut c_void,
    work: *mut c_void,
    (first, count): (usize, usize),
) -> Result<(), lanenorm_status>
where
    T: Element + Compiled<CENTERED>,
{
    // SAFETY: the caller's duty.
    let mut checked = unsafe { Checked::<T>::new::<CENTERED>(plan, wide_gamma, buffers) }?;
    if checked.shape.is_empty() {
        return Ok(());
    }
    let sizes = block_sizes::<T, CENTERED>(plan, checked.shape.rows)?;
    let blocks = sizes.in_bytes.blocks;
    if first > blocks || count > blocks - first {
        let message = format_args!("{count} blocks from block {first} on, of {blocks} blocks");
        return Err(refuse(lanenorm_status::Size, message));
    }
    let float = size_of::<T::Float>();
    let mut scratch = |what, p: *mut c_void, len, needed: bool| {
        if p.is_null() && needed {
            let message = format_args!("{what} is NULL, expected {len} elements of {} bytes", float);
            return Err(refuse(lanenorm_status::NullPointer, message));
        }
        checked.places.write(Place::vector(what, vector(what, p, len, float)?))
    };
    scratch("partials", partials, sizes.partial * blocks, checked.sums)?;
    scratch("work", work, sizes.work, true)?;
    // SAFETY: the caller's duty; the length has been checked.
    let work = unsafe { slice::from_raw_parts_mut(work.cast::<T::Float>(), sizes.work) };
    let (per_group, streaming) = (sizes.parts.count(), checked.streams(plan));
    let (mut block, end) = (first, first + count);
    while block < end {
        let (group, part) = (block / per_group, block % per_group);
        let n = (per_group - part).min(end - block);
        // SAFETY: the caller's duty, for the rows of these blocks.
        let rows = unsafe { checked.grad_rows() };
        let job = rows.and_then(|rows| {
            plan.grad_job::<T, CENTERED>(rows, group, checked.gamma, checked.stats, checked.sums, streaming)
        });
        let partials: &mut [T::Float] = if checked.sums {
            // SAFETY: there is room for all blocks; that of these is this call's.
            unsafe {
                slice::from_raw_parts_mut(partials.cast::<T::Float>().add(block * sizes.partial), n * sizes.partial)
            }
        } else {
            &mut []
        };
        let job = job.map(|job| job.split_at_part(part).1.split_at_part(n).0);
        debug_assert!(job.is_some(), "all lengths have been checked");
        job.into_iter().for_each(|mut job| job.run_on(plan.isa, partials, work));
        block += n;
    }
    Ok(())
}

/// Checks all, then merges.
///
/// # Safety
/// - The buffers are what the head of `capi` says, and so are the partials, of all blocks.
unsafe fn finish<T, const CENTERED: bool>(
    plan: &Plan,
    wide_gamma: bool,
    buffers: &lanenorm_backward_buffers,
    partials: *const c_void,
) -> Result<(), lanenorm_status>
where
    T: Element + Compiled<CENTERED>,
{
    // SAFETY: the caller's duty.
    let mut checked = unsafe { Checked::<T>::new::<CENTERED>(plan, wide_gamma, buffers) }?;
    if checked.shape.is_empty() {
        // SAFETY: the caller's duty.
        fill_with_zeros::<T>(&mut unsafe { checked.grads(buffers) });
        return Ok(());
    }
    if !checked.sums {
        return Ok(());
    }
    let sizes = block_sizes::<T, CENTERED>(plan, checked.shape.rows)?;
    let all = sizes.partial * sizes.in_bytes.blocks;
    if partials.is_null() {
        let message = format_args!("partials is NULL, expected {all} elements");
        return Err(refuse(lanenorm_status::NullPointer, message));
    }
    // That they are apart from dgamma and dbeta is asked the other way round.
    let span = vector("partials", partials, all, size_of::<T::Float>())?;
    checked.places.write(Place::vector("partials", span))?;
    // SAFETY: the caller's duty.
    let mut grads = unsafe { checked.grads(buffers) };
    let len = sizes.parts.count() * sizes.partial;
    for group in 0..plan.groups {
        // SAFETY: the caller's duty; the length has been checked.
        let partials = unsafe { slice::from_raw_parts(partials.cast::<T::Float>().add(group * len), len) };
        let of_group = group * plan.cols..(group + 1) * plan.cols;
        let dgamma = grads.dgamma.as_deref_mut().map(|dgamma| &mut dgamma[of_group.clone()]);
        let dbeta = grads.dbeta.as_deref_mut().map(|dbeta| &mut dbeta[of_group]);
        merge::<T, CENTERED>(plan.isa, &sizes.parts, partials, dgamma, dbeta);
    }
    Ok(())
}
