//! Tensors of channels: each pixel's channels, where these come first, and groups of channels.

use std::ffi::c_void;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::ptr;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use lanenorm_kernels::gate::Function;
use lanenorm_kernels::half::{bf16, f16};
use lanenorm_kernels::ops::backward::{Parts, Stats};
use lanenorm_kernels::ops::channels::{ChannelsBackward, ChannelsFirst};
use lanenorm_kernels::ops::group_norm::{GroupBackward, GroupNorm, Order, Shape as Tensor};
use lanenorm_kernels::rows::{Params, Vector};
use lanenorm_kernels::simd::Float;
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Center, Compiled, Element, Error as Refused};

use super::check::{no_centered, unsupported};
use super::places::{Places, Rows, Shape, fill_with_zeros};
use super::plan::{Dtype, HasSize, Inner, Kind, for_types, initialized, lanenorm_plan, sized, unknown};
use super::{guard, lanenorm_status, parallelism, refuse};
use crate::gradients::ParamGrads;
use crate::parallel::Tasks;
use crate::plan::Plan;
use crate::scratch::Scratch;
use crate::{Error, Rounding, group_norm, jobs};

/// The order of the elements of a tensor in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_channel_order {
    /// [samples, channels, pixels], also called NCHW.
    First = 0,
    /// [samples, pixels, channels], also called NHWC.
    Last = 1,
}

/// What y goes through, before it is rounded to 16 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum lanenorm_activation {
    /// Nothing.
    None = 0,
    /// y / (1 + exp(-y))
    Silu = 1,
    /// 1 / (1 + exp(-y))
    Sigmoid = 2,
    /// The form of GELU with tanh.
    GeluTanh = 3,
}

/// A tensor of channels, and what goes with it. Its channels are the `cols` of the plan, whose `groups` are one, and
/// whose types are those of x and gamma: y, dy and dx have the type of x. Start from `LANENORM_CHANNELS_INIT`, which
/// sets `struct_size` and leaves all else zero and absent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_channels {
    /// `sizeof(lanenorm_channels)`. See "Versions" at the top.
    pub struct_size: usize,
    /// The number of samples.
    pub samples: usize,
    /// The elements of a channel of a sample: height times width of an image.
    pub pixels: usize,
    /// With zero, the channels of each pixel are a row, and must come first (LayerNorm2d). Otherwise the channels of a
    /// sample are cut into this many groups, which must divide them, and each group is a row (group normalization, for
    /// layer normalization alone, without `gamma_offset` and `rounding`). With a group for each channel it is instance
    /// normalization.
    pub groups: usize,
    /// A `lanenorm_channel_order`: of x, y, dy and dx.
    pub order: i32,
    /// A `lanenorm_activation`, for groups.
    pub activation: i32,
    /// The tensor.
    pub x: *const c_void,
    /// Where the result goes, which may be x. Backward calls do not look at it.
    pub y: *mut c_void,
    /// Optional: an element for each channel.
    pub gamma: *const c_void,
    /// Optional, not for RMS normalization: an element for each channel. A backward call reads it where there is an
    /// activation.
    pub beta: *const c_void,
    /// Optional, not for RMS normalization: the mean of each row, [samples, pixels] or [samples, groups], of float, or
    /// of double for double. A forward call writes it. A backward call reads it, with rstd.
    pub mean: *mut c_void,
    /// Optional, not for RMS normalization: what rounding took from the mean.
    pub mean_lo: *mut c_void,
    /// Optional: 1 / sqrt(var + eps) of each row. A backward call takes mean and rstd again where it is absent.
    pub rstd: *mut c_void,
}

// SAFETY: numbers, and pointers, which are then NULL.
unsafe impl HasSize for lanenorm_channels {
    const LEAST: usize = offset_of!(Self, gamma);
    const END: usize = offset_of!(Self, rstd) + size_of::<*mut c_void>();
}

/// The gradients of a tensor of channels. Start from `LANENORM_CHANNEL_GRADIENTS_INIT`, which sets `struct_size` and
/// leaves all else absent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_channel_gradients {
    /// `sizeof(lanenorm_channel_gradients)`. See "Versions" at the top.
    pub struct_size: usize,
    /// The gradient of y, in the order of x.
    pub dy: *const c_void,
    /// Optional: where the gradient of x goes, which may be dy.
    pub dx: *mut c_void,
    /// Optional: where the gradient of gamma goes, an element for each channel, of float, or of double for double.
    pub dgamma: *mut c_void,
    /// Optional, not for RMS normalization: the gradient of beta, likewise.
    pub dbeta: *mut c_void,
}

// SAFETY: as above.
unsafe impl HasSize for lanenorm_channel_gradients {
    const LEAST: usize = offset_of!(Self, dx);
    const END: usize = offset_of!(Self, dbeta) + size_of::<*mut c_void>();
}

/// Normalizes a tensor of channels, on as many threads as `threads` says. Memory is allocated for the time of the call
/// where elements of a row are not next to one another.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_channels(
    plan: *const lanenorm_plan,
    channels: *const lanenorm_channels,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    guard(|| unsafe { forward(plan, channels, threads) })
}

/// Takes the gradients of a tensor of channels, on as many threads as `threads` says. At least one of dx, dgamma and
/// dbeta must be wanted. Memory is allocated for the time of the call.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_channels_backward(
    plan: *const lanenorm_plan,
    channels: *const lanenorm_channels,
    gradients: *const lanenorm_channel_gradients,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    guard(|| unsafe { backward(plan, channels, gradients, threads) })
}

/// A call whose numbers have been checked.
struct Call<'a> {
    plan: Plan,
    kind: Kind,
    given: &'a lanenorm_channels,
    activation: Option<Function>,
    /// The sizes, if rows are groups.
    groups: Option<Tensor>,
    elements: usize,
    rows: usize,
}

impl<'a> Call<'a> {
    fn new(inner: &Inner, given: &'a lanenorm_channels, threads: usize) -> Result<Self, lanenorm_status> {
        let &Inner { plan, kind, .. } = inner;
        let &lanenorm_channels { samples, pixels, groups, .. } = given;
        let order = match given.order {
            order if order == lanenorm_channel_order::First as i32 => Order::ChannelsFirst,
            order if order == lanenorm_channel_order::Last as i32 => Order::ChannelsLast,
            order => return Err(unknown("order", order)),
        };
        let activation = match given.activation {
            function if function == lanenorm_activation::None as i32 => None,
            function if function == lanenorm_activation::Silu as i32 => Some(Function::Silu),
            function if function == lanenorm_activation::Sigmoid as i32 => Some(Function::Sigmoid),
            function if function == lanenorm_activation::GeluTanh as i32 => Some(Function::GeluTanh),
            function => return Err(unknown("activation", function)),
        };
        if plan.groups.period() != 1 {
            let (groups, repeat) = (plan.groups.groups(), plan.groups.repeat());
            return Err(Error::ChannelGroups { groups, repeat }.into());
        }
        if !kind.centered {
            no_centered(
                ["beta", "mean", "mean_lo"],
                [given.beta, given.mean.cast_const(), given.mean_lo.cast_const()],
            )?;
        }
        let is_plain = plan.offset.to_bits() << 1 == 0 && plan.rounding == Rounding::ONCE;
        match groups {
            0 if order == Order::ChannelsLast => {
                return Err(unsupported("order is LAST without groups: these are rows of lanenorm_plan_forward"));
            }
            0 if activation.is_some() => return Err(unsupported("activation is given without groups")),
            1.. if !kind.centered => return Err(unsupported("groups are given, but op is not LAYER_NORM")),
            1.. if !is_plain => return Err(unsupported("groups are given beside gamma_offset or rounding")),
            _ => {}
        }
        let overflow = || Refused::Overflow { what: "x", rows: samples.max(pixels), stride: plan.cols };
        let pixels_of_all = samples.checked_mul(pixels).ok_or_else(overflow)?;
        let elements = pixels_of_all.checked_mul(plan.cols).ok_or_else(overflow)?;
        let tensor = (groups > 0).then_some(Tensor { channels: plan.cols, groups, pixels, order });
        let rows = match &tensor {
            Some(tensor) => tensor.rows("x", elements)?,
            None => pixels_of_all,
        };
        let plan = Plan { parallelism: parallelism(threads), ..plan };
        Ok(Self { plan, kind, given, activation, groups: tensor, elements, rows })
    }

    /// The elements of x, y, dy or dx, which are read.
    fn read(
        &self,
        places: &mut Places,
        what: &'static str,
        p: *const c_void,
        may: bool,
    ) -> Result<(), lanenorm_status> {
        let (shape, size) = (Shape::new(1, 0, self.elements)?, self.kind.size());
        let rows = Rows::checked(what, p, (0, 0), &shape, size)?;
        places.read_rows(what, &rows, &shape, size, may);
        Ok(())
    }

    /// The same where they are written.
    fn write(&self, places: &mut Places, what: &'static str, p: *mut c_void) -> Result<(), lanenorm_status> {
        let (shape, size) = (Shape::new(1, 0, self.elements)?, self.kind.size());
        let rows = Rows::checked(what, p.cast_const(), (0, 0), &shape, size)?;
        places.write_rows(what, &rows, &shape, size, true)
    }

    fn read_params(&self, places: &mut Places) -> Result<(), lanenorm_status> {
        for (what, p) in [("gamma", self.given.gamma), ("beta", self.given.beta)] {
            places.read_vector(what, p, self.plan.cols, self.kind.gamma.size())?;
        }
        Ok(())
    }

    fn stats(&self) -> [(&'static str, *mut c_void); 3] {
        let &lanenorm_channels { mean, mean_lo, rstd, .. } = self.given;
        [("mean", mean), ("mean_lo", mean_lo), ("rstd", rstd)]
    }

    /// gamma and beta.
    ///
    /// # Safety
    /// - `T` is the type of x, and both have been checked.
    unsafe fn params<'v, T: Element>(&self) -> [Option<Vector<'v, T>>; 2] {
        let kind = self.kind.gamma.beside(self.kind.dtype);
        [self.given.gamma, self.given.beta].map(|p| {
            // SAFETY: the caller's duty.
            (!p.is_null()).then(|| unsafe { Vector::from_raw(p.cast(), self.plan.cols, kind) })
        })
    }

    /// The same for rows of the channels of pixels.
    ///
    /// # Safety
    /// - As of [`params`](Self::params).
    unsafe fn row_params<'v, T: Element>(&self) -> Params<'v, T> {
        let Plan { offset, rounding, divisor, .. } = self.plan;
        // SAFETY: the caller's duty.
        let [gamma, beta] = unsafe { self.params() };
        Params { gamma, beta, offset: T::Float::from_f32(offset), rounding, divisor, ..Params::default() }
    }

    /// # Safety
    /// - `T` is the type of x, and the statistics have been checked. Nothing else uses them.
    unsafe fn stats_mut<'v, T: Element>(&self) -> StatsMut<'v, T::Float> {
        let [mean, mean_lo, rstd] = self.stats().map(|(_, p)| {
            // SAFETY: the caller's duty.
            (!p.is_null()).then(|| unsafe { slice_mut(p, self.rows) })
        });
        StatsMut { mean, mean_lo, rstd }
    }

    /// # Safety
    /// - `T` is the type of x, and the statistics have been checked.
    unsafe fn stats_read<'v, T: Element>(&self) -> Stats<'v, T::Float> {
        let [mean, mean_lo, rstd] = self.stats().map(|(_, p)| {
            // SAFETY: the caller's duty.
            (!p.is_null()).then(|| unsafe { from_raw_parts(p.cast_const().cast(), self.rows) })
        });
        Stats { mean, mean_lo, rstd }
    }
}

/// [`forward_pixels`] for some types.
type RunForward = unsafe fn(&Call<'_>) -> Result<(), lanenorm_status>;

/// [`backward_pixels`] for some types.
type RunBackward = unsafe fn(&Call<'_>, &lanenorm_channel_gradients) -> Result<(), lanenorm_status>;

/// A slice of some elements.
///
/// # Safety
/// - They are there, and nothing else uses them.
unsafe fn slice_mut<'v, F>(p: *mut c_void, len: usize) -> &'v mut [F] {
    // SAFETY: the caller's duty.
    unsafe { from_raw_parts_mut(p.cast(), len) }
}

/// Memory that may be refused.
fn allocate<T: Clone>(len: usize, of: T) -> Result<Vec<T>, lanenorm_status> {
    let mut memory = Vec::new();
    if memory.try_reserve_exact(len).is_err() {
        let message = format_args!("scratch of {len} elements of {} bytes", size_of::<T>());
        return Err(refuse(lanenorm_status::OutOfMemory, message));
    }
    memory.resize(len, of);
    Ok(memory)
}

/// Checks all, then runs.
///
/// # Safety
/// - As of the function that calls it.
unsafe fn forward(
    plan: *const lanenorm_plan,
    channels: *const lanenorm_channels,
    threads: usize,
) -> Result<(), lanenorm_status> {
    let mut room = MaybeUninit::uninit();
    // SAFETY: the caller's duty.
    let (inner, given) = unsafe { (initialized(plan)?, sized("channels", channels, &mut room)?) };
    let call = Call::new(inner, given, threads)?;
    if call.kind.y != call.kind.dtype {
        return Err(unsupported("y_dtype is not the dtype of the plan, but tensors of channels have one type"));
    }
    if call.elements == 0 {
        return Ok(());
    }
    let mut places = Places::default();
    call.read(&mut places, "x", given.x, true)?;
    call.read_params(&mut places)?;
    call.write(&mut places, "y", given.y)?;
    for (what, p) in call.stats() {
        places.write_vector(what, p.cast_const(), call.rows, call.kind.float_size())?;
    }
    // SAFETY: the caller's duty, and all has been checked.
    unsafe {
        match (&call.groups, call.kind.dtype) {
            (None, dtype) => {
                let run: RunForward = for_types!(dtype, call.kind.centered, forward_pixels);
                run(&call)
            }
            (Some(tensor), Dtype::F32) => forward_groups::<f32>(&call, *tensor),
            (Some(tensor), Dtype::F64) => forward_groups::<f64>(&call, *tensor),
            (Some(tensor), Dtype::F16) => forward_groups::<f16>(&call, *tensor),
            (Some(tensor), Dtype::Bf16) => forward_groups::<bf16>(&call, *tensor),
        }
    }
}

/// # Safety
/// - The types are those of the call, whose buffers have been checked.
unsafe fn forward_pixels<T: Element + Compiled<M>, M: Center>(call: &Call<'_>) -> Result<(), lanenorm_status> {
    let &Call { ref plan, given, elements, .. } = call;
    let size = (plan.cols, given.pixels);
    // SAFETY: the caller's duty.
    let job = unsafe {
        let (params, stats, y) = (call.row_params(), call.stats_mut::<T>(), slice_mut::<T>(given.y, elements));
        if ptr::eq(given.x, given.y) {
            ChannelsFirst::<T, M>::in_place(y, size, params, plan.eps, stats)
        } else {
            ChannelsFirst::new(from_raw_parts(given.x.cast(), elements), y, size, params, plan.eps, stats)
        }
    };
    plan.run_channels::<T, M, _, false>(job, allocate)
}

/// # Safety
/// - As of [`forward_pixels`].
unsafe fn forward_groups<T: Element>(call: &Call<'_>, tensor: Tensor) -> Result<(), lanenorm_status> {
    let &Call { ref plan, given, elements, activation, .. } = call;
    // SAFETY: the caller's duty.
    let job = unsafe {
        let (params, stats, y) = (call.params(), call.stats_mut::<T>(), slice_mut::<T>(given.y, elements));
        if ptr::eq(given.x, given.y) {
            GroupNorm::in_place(y, tensor, params, plan.eps, stats)
        } else {
            let streaming = group_norm::streams(plan, size_of_val(y), given.pixels.saturating_mul(size_of::<T>()));
            GroupNorm::new(from_raw_parts(given.x.cast(), elements), y, tensor, params, plan.eps, streaming, stats)
        }
    };
    group_norm::run::<T, _, false>(plan, job, activation, allocate)
}

/// Checks all, then runs.
///
/// # Safety
/// - As of the function that calls it.
unsafe fn backward(
    plan: *const lanenorm_plan,
    channels: *const lanenorm_channels,
    gradients: *const lanenorm_channel_gradients,
    threads: usize,
) -> Result<(), lanenorm_status> {
    let mut room = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the caller's duty.
    let (inner, given, gradients) = unsafe {
        let (inner, given) = (initialized(plan)?, sized("channels", channels, &mut room.0)?);
        (inner, given, sized("gradients", gradients, &mut room.1)?)
    };
    let call = Call::new(inner, given, threads)?;
    let &lanenorm_channel_gradients { dy, dx, dgamma, dbeta, .. } = gradients;
    if !call.kind.centered {
        no_centered(["dbeta"], [dbeta.cast_const()])?;
    }
    if dx.is_null() && dgamma.is_null() && dbeta.is_null() {
        return Err(Refused::NoGradient.into());
    }
    let (cols, float) = (call.plan.cols, call.kind.float_size());
    let mut places = Places::default();
    if call.elements > 0 {
        call.read(&mut places, "dy", dy, true)?;
        call.read(&mut places, "x", given.x, false)?;
        call.read_params(&mut places)?;
        for (what, p) in call.stats() {
            places.read_vector(what, p.cast_const(), call.rows, float)?;
        }
        if !dx.is_null() {
            call.write(&mut places, "dx", dx)?;
        }
    }
    for (what, p) in [("dgamma", dgamma), ("dbeta", dbeta)] {
        places.write_vector(what, p.cast_const(), cols, float)?;
    }
    if call.elements == 0 {
        for p in [dgamma, dbeta] {
            // SAFETY: both have been checked.
            unsafe { fill_with_zeros(p, 0, cols * float) };
        }
        return Ok(());
    }
    // SAFETY: the caller's duty, and all has been checked.
    unsafe {
        match (&call.groups, call.kind.dtype) {
            (None, dtype) => {
                let run: RunBackward = for_types!(dtype, call.kind.centered, backward_pixels);
                run(&call, gradients)
            }
            (Some(tensor), Dtype::F32) => backward_groups::<f32>(&call, gradients, *tensor),
            (Some(tensor), Dtype::F64) => backward_groups::<f64>(&call, gradients, *tensor),
            (Some(tensor), Dtype::F16) => backward_groups::<f16>(&call, gradients, *tensor),
            (Some(tensor), Dtype::Bf16) => backward_groups::<bf16>(&call, gradients, *tensor),
        }
    }
}

/// Where the gradients of gamma and beta go.
///
/// # Safety
/// - `F` is their type, and they have been checked.
unsafe fn sums<'v, F>(call: &Call<'_>, gradients: &lanenorm_channel_gradients) -> [Option<&'v mut [F]>; 2] {
    [gradients.dgamma, gradients.dbeta].map(|p| {
        // SAFETY: the caller's duty.
        (!p.is_null()).then(|| unsafe { slice_mut(p, call.plan.cols) })
    })
}

/// # Safety
/// - As of [`forward_pixels`].
unsafe fn backward_pixels<T: Element + Compiled<M>, M: Center>(
    call: &Call<'_>,
    gradients: &lanenorm_channel_gradients,
) -> Result<(), lanenorm_status> {
    let &Call { ref plan, given, elements, rows, .. } = call;
    let size = (plan.cols, given.pixels);
    let &lanenorm_channel_gradients { dy, dx, .. } = gradients;
    // SAFETY: the caller's duty.
    let (job, [dgamma, dbeta]) = unsafe {
        let [dgamma, dbeta] = sums::<T::Float>(call, gradients);
        let are_wanted = dgamma.is_some() || dbeta.is_some();
        let params = Params { beta: None, ..call.row_params::<T>() };
        let (x, stats) = (from_raw_parts(given.x.cast::<T>(), elements), call.stats_read::<T>());
        let job = if ptr::eq(dy, dx) {
            let dy = slice_mut(dx, elements);
            ChannelsBackward::<T, M>::in_place((dy, x), size, stats, params, plan.eps, are_wanted)
        } else {
            let dx = (!dx.is_null()).then(|| slice_mut(dx, elements));
            let dy = from_raw_parts(dy.cast::<T>(), elements);
            ChannelsBackward::<T, M>::new((dy, x, dx), size, stats, params, plan.eps, are_wanted)
        };
        (job?, [dgamma, dbeta])
    };
    let parts = Parts::new(rows, plan.cols);
    let tasks: Tasks<false> = plan.backward_tasks(rows, parts.count());
    let scratch = Scratch::channels::<T>(&parts, M::CENTERED);
    let total = scratch.as_ref().and_then(|scratch| scratch.total(tasks.count));
    let (Some(scratch), Some(total)) = (scratch, total) else {
        return Err(Refused::Overflow { what: "scratch", rows, stride: plan.cols }.into());
    };
    let mut memory = allocate(total, T::Float::default())?;
    let (partials, work) = memory.split_at_mut(scratch.partials);
    jobs::backward(plan.isa, job, partials, work, &scratch, tasks);
    if dgamma.is_some() || dbeta.is_some() {
        jobs::merge::<T, M, false>(plan.isa, &parts, partials, ParamGrads { dgamma, dbeta }, tasks);
    }
    Ok(())
}

/// # Safety
/// - As of [`forward_pixels`].
unsafe fn backward_groups<T: Element>(
    call: &Call<'_>,
    gradients: &lanenorm_channel_gradients,
    tensor: Tensor,
) -> Result<(), lanenorm_status> {
    let &Call { ref plan, given, elements, activation, .. } = call;
    let &lanenorm_channel_gradients { dy, dx, .. } = gradients;
    // SAFETY: the caller's duty.
    let job = unsafe {
        let (params, sums) = (call.params(), sums(call, gradients));
        let (x, stats) = (from_raw_parts(given.x.cast::<T>(), elements), call.stats_read::<T>());
        if ptr::eq(dy, dx) {
            GroupBackward::in_place((slice_mut(dx, elements), x), tensor, stats, params, plan.eps, sums)
        } else {
            let dx = (!dx.is_null()).then(|| slice_mut(dx, elements));
            let dy = from_raw_parts(dy.cast::<T>(), elements);
            GroupBackward::new((dy, x, dx), tensor, stats, params, plan.eps, sums)
        }
    };
    group_norm::run_backward::<T, _, false>(plan, job, elements, activation, allocate)
}
