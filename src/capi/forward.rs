//! Normalizing: of whole tensors, and of ranges of rows.

use std::alloc::Layout;
use std::ffi::c_void;
use std::slice;

use lanenorm_kernels::forward::{Forward, Groups, Params};
use lanenorm_kernels::lanes::{Compiled, Element, Float, RawRows, RowIo, Vector};
use lanenorm_kernels::layer_norm::{LayerNorm, StatsMut};
use lanenorm_kernels::rms_norm::RmsNorm;

use super::places::{PlacedRows, Places, Shape, rows, vector};
use super::plan::{Wide, for_types, initialized, sized};
use super::{guard, lanenorm_plan, lanenorm_status, parallelism, refuse};
use crate::plan::Plan;
use crate::{Error, parallel};

/// Rows to be read: row r starts at element (r / inner_rows) * outer_stride + (r % inner_rows) * row_stride of data.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_rows {
    /// The first element of the first row; NULL where the buffer is optional and absent.
    pub data: *const c_void,
    /// The distance between the starts of two rows, in elements. 0 stands for cols: rows that follow one another.
    pub row_stride: usize,
    /// The distance between the starts of two runs of inner_rows rows, in elements. 0 stands for inner_rows * row_stride.
    pub outer_stride: usize,
}

/// Rows to be written. What lies between them is not touched.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_rows_mut {
    /// As in `lanenorm_rows`.
    pub data: *mut c_void,
    /// As in `lanenorm_rows`.
    pub row_stride: usize,
    /// As in `lanenorm_rows`.
    pub outer_stride: usize,
}

/// The buffers of a forward call. Start from `LANENORM_FORWARD_INIT`, which sets `struct_size` and leaves all else zero
/// and absent.
///
/// y may be x or residual itself, and sum may be residual or x: with the same pointer and strides. No other overlap with
/// an output is allowed, but rows may lie between those of another buffer: columns of the same rows, say.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_forward_buffers {
    /// `sizeof(lanenorm_forward_buffers)`
    pub struct_size: usize,
    /// The number of rows, in all.
    pub rows: usize,
    /// The rows of a run, which must divide the rows; 0 stands for all. See `lanenorm_rows`.
    pub inner_rows: usize,
    /// What is normalized; or what is added to the residual first.
    pub x: lanenorm_rows,
    /// Optional: then x + residual, rounded to the type of x, is normalized.
    pub residual: lanenorm_rows,
    /// Optional, with a residual: where the sum goes. (Without it, y must have the type of x.)
    pub sum: lanenorm_rows_mut,
    /// The result.
    pub y: lanenorm_rows_mut,
    /// Optional, with a residual: cols elements that are added to each x + residual.
    pub bias: *const c_void,
    /// Optional: cols elements of each group.
    pub gamma: *const c_void,
    /// Optional, not for RMS normalization: cols elements of each group.
    pub beta: *const c_void,
    /// Optional, not for RMS normalization: an element for each row; double for rows of double, else float.
    pub mean: *mut c_void,
    /// Optional, not for RMS normalization: what rounding took from the mean, likewise.
    pub mean_lo: *mut c_void,
    /// Optional: 1 / sqrt(var + eps), or 1 / sqrt(mean(x^2) + eps), likewise.
    pub rstd: *mut c_void,
}

/// Which rows, and in how many tasks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    All { threads: usize },
    Rows { first: usize, count: usize },
}

/// Normalizes all rows, on as many threads as asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_forward(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    threads: usize,
) -> lanenorm_status {
    guard(|| {
        // SAFETY: the caller's duty.
        unsafe {
            let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers)?);
            for_types!(inner, forward(&inner.plan, inner.wide, buffers, Part::All { threads }))
        }
    })
}

/// Normalizes `row_count` rows from `first_row` on, on the calling thread, without allocating. An engine's threads call
/// this at once, each for rows of its own, in any order; each row gets the bits that it gets from one call for all. The
/// buffers are those of all rows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_forward_rows(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    first_row: usize,
    row_count: usize,
) -> lanenorm_status {
    guard(|| {
        // SAFETY: the caller's duty.
        unsafe {
            let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers)?);
            let part = Part::Rows { first: first_row, count: row_count };
            for_types!(inner, forward(&inner.plan, inner.wide, buffers, part))
        }
    })
}

/// Makes jobs of rows for the two normalizations.
pub(super) trait Normalization<T: Element, const CENTERED: bool> {
    fn job<'a>(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Option<Forward<'a, T, CENTERED>>;
}

pub(super) struct Normalizations;

impl<T: Element> Normalization<T, true> for Normalizations {
    #[inline(always)]
    fn job<'a>(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Option<LayerNorm<'a, T>> {
        LayerNorm::new(rows, params, eps, streaming, stats)
    }
}

impl<T: Element> Normalization<T, false> for Normalizations {
    #[inline(always)]
    fn job<'a>(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Option<RmsNorm<'a, T>> {
        RmsNorm::new(rows, params, eps, streaming, stats.rstd)
    }
}

/// A call that has been checked, from which parts are taken.
struct Checked<'a, T: Element> {
    plan: &'a Plan,
    shape: Shape,
    x: PlacedRows,
    /// The residual, and where the sum goes.
    sum: Option<(PlacedRows, PlacedRows)>,
    y: PlacedRows,
    wide_y: bool,
    params: Params<'a, T>,
    bias: Option<&'a [T]>,
    mean: *mut T::Float,
    mean_lo: *mut T::Float,
    rstd: *mut T::Float,
    streaming: bool,
}

// SAFETY: threads share it to make jobs for rows of their own, which are Send.
unsafe impl<T: Element> Sync for Checked<'_, T> {}

/// Checks all, then runs.
///
/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(always)]
pub(super) unsafe fn forward<T, const CENTERED: bool>(
    plan: &Plan,
    wide: Wide,
    buffers: &lanenorm_forward_buffers,
    part: Part,
) -> Result<(), lanenorm_status>
where
    T: Element + Compiled<CENTERED>,
    Normalizations: Normalization<T, CENTERED>,
{
    let shape = Shape::new(buffers.rows, buffers.inner_rows, plan.cols)?;
    let (first, count, tasks) = match part {
        Part::All { threads } => (0, shape.rows, parallelism(threads).tasks(shape.rows.saturating_mul(shape.cols))),
        Part::Rows { first, count } => {
            if first > shape.rows || count > shape.rows - first {
                let message = format_args!("{count} rows from row {first} on, of {} rows", shape.rows);
                return Err(refuse(lanenorm_status::Size, message));
            }
            (first, count, 1)
        }
    };
    check_combination::<CENTERED>(wide, buffers)?;
    let period = plan.groups * plan.repeat;
    if period > 1 && !shape.rows.is_multiple_of(period) {
        return Err(Error::GroupRows { rows: shape.rows, groups: plan.groups, repeat: plan.repeat }.into());
    }
    if shape.is_empty() {
        return Ok(());
    }
    // SAFETY: the caller's duty.
    let checked = unsafe { Checked::<T>::new(plan, wide, buffers, shape) }?;
    if count > 0 {
        // SAFETY: the caller's duty.
        unsafe { checked.run(first, count, tasks) };
    }
    Ok(())
}

/// That the buffers which are there can be used together.
#[inline(always)]
fn check_combination<const CENTERED: bool>(
    wide: Wide,
    buffers: &lanenorm_forward_buffers,
) -> Result<(), lanenorm_status> {
    let unsupported = |message: &str| Err(refuse(lanenorm_status::Unsupported, format_args!("{message}")));
    let has_residual = !buffers.residual.data.is_null();
    if !CENTERED && !(buffers.beta.is_null() && buffers.mean.is_null() && buffers.mean_lo.is_null()) {
        return unsupported("beta, mean or mean_lo is given, which RMS normalization does not have");
    }
    if !has_residual && !(buffers.sum.data.is_null() && buffers.bias.is_null()) {
        return unsupported("sum or bias is given without residual");
    }
    if has_residual && buffers.sum.data.is_null() && wide.y {
        return unsupported("sum is NULL, but y, in f32 beside 16 bits, has no room for it");
    }
    Ok(())
}

impl<'a, T: Element> Checked<'a, T> {
    /// # Safety
    /// - As [`forward`].
    #[inline(always)]
    unsafe fn new(
        plan: &'a Plan,
        wide: Wide,
        buffers: &lanenorm_forward_buffers,
        mut shape: Shape,
    ) -> Result<Self, lanenorm_status> {
        let (own, float) = (Layout::new::<T>(), Layout::new::<T::Float>());
        let beside = |wide: bool| if wide { Layout::new::<f32>() } else { own };
        let of = |what, buffer: &lanenorm_rows| {
            rows(what, buffer.data, (buffer.row_stride, buffer.outer_stride), &shape, own)
        };
        let of_mut = |what, buffer: &lanenorm_rows_mut, element| {
            rows(what, buffer.data, (buffer.row_stride, buffer.outer_stride), &shape, element)
        };
        let x = of("x", &buffers.x)?;
        let residual = if buffers.residual.data.is_null() { None } else { Some(of("residual", &buffers.residual)?) };
        let y = of_mut("y", &buffers.y, beside(wide.y))?;
        let sum = if buffers.sum.data.is_null() { None } else { Some(of_mut("sum", &buffers.sum, own)?) };
        let params_len = plan.cols.checked_mul(plan.groups).ok_or_else(|| {
            lanenorm_status::from(Error::Overflow { what: "gamma", rows: plan.groups, stride: plan.cols })
        })?;

        let mut places = Places::default();
        places.read(x.place.replaceable());
        places.read(residual.map(|residual| residual.place.replaceable()));
        places.read(vector("bias", buffers.bias, shape.cols, own)?);
        places.read(vector("gamma", buffers.gamma, params_len, beside(wide.gamma))?);
        places.read(vector("beta", buffers.beta, params_len, beside(wide.gamma))?);
        places.write(sum.map(|sum| sum.place.replaceable()))?;
        places.write(if wide.y { y.place } else { y.place.replaceable() })?;
        places.write(vector("mean", buffers.mean, shape.rows, float)?)?;
        places.write(vector("mean_lo", buffers.mean_lo, shape.rows, float)?)?;
        places.write(vector("rstd", buffers.rstd, shape.rows, float)?)?;

        let in_place =
            !wide.y && (y.place.is(&x.place) || residual.is_some_and(|residual| y.place.is(&residual.place)));
        let sum = residual.map(|residual| (residual, sum.unwrap_or(y)));
        let y_bytes = shape.rows * shape.cols * beside(wide.y).size();
        let streaming = plan.streams_bytes(y_bytes, in_place || sum.is_some_and(|(_, s)| s.data == y.data));
        // SAFETY: the caller's duty; lengths and alignment have been checked.
        let (gamma, beta, bias) = unsafe {
            (
                params(buffers.gamma, params_len, wide.gamma),
                params(buffers.beta, params_len, wide.gamma),
                (!buffers.bias.is_null()).then(|| slice::from_raw_parts(buffers.bias.cast::<T>(), shape.cols)),
            )
        };
        let uniform = x.uniform && y.uniform && sum.is_none_or(|(residual, s)| residual.uniform && s.uniform);
        if uniform {
            shape.inner_rows = shape.rows;
        }
        let offset = T::Float::from_f64(plan.offset.into());
        let mut groups = Groups::ONE;
        if plan.groups > 1 {
            groups = Groups::new(plan.groups, plan.repeat).unwrap_or(groups);
        }
        Ok(Self {
            plan,
            shape,
            x,
            sum,
            y,
            wide_y: wide.y,
            params: Params { gamma, beta, groups, offset },
            bias,
            mean: buffers.mean.cast(),
            mean_lo: buffers.mean_lo.cast(),
            rstd: buffers.rstd.cast(),
            streaming,
        })
    }

    /// The job of rows that are evenly apart.
    ///
    /// # Safety
    /// - There are these rows, in one run or evenly apart in all buffers.
    /// - Nothing else touches these rows while the job lives.
    #[inline(always)]
    unsafe fn part<const CENTERED: bool>(&self, first: usize, count: usize) -> Option<Forward<'_, T, CENTERED>>
    where
        Normalizations: Normalization<T, CENTERED>,
    {
        let inner_rows = self.shape.inner_rows;
        let (run, row) = if first < inner_rows { (0, first) } else { (first / inner_rows, first % inner_rows) };
        let raw = |rows: &PlacedRows, wide: bool| {
            let start = run * rows.outer_stride + row * rows.stride;
            // SAFETY: there is such a row, and all rows lie in one allocation.
            let p = unsafe {
                if wide { rows.data.cast::<f32>().add(start).cast() } else { rows.data.cast::<T>().add(start) }
            };
            RawRows { p, stride: rows.stride }
        };
        let sum = self.sum.as_ref().map(|(residual, s)| (raw(residual, false), raw(s, false)));
        let (x, y) = (raw(&self.x, false), raw(&self.y, self.wide_y));
        // SAFETY: places have been checked: the outputs are apart from all else, or are what they replace. The rest is the
        // caller's duty.
        let rows = unsafe { RowIo::from_raw(x, sum, y, self.wide_y, count, self.shape.cols) };
        // SAFETY: statistics, where they are wanted, have an element for each row; those of these rows are this job's.
        let stats = unsafe {
            StatsMut {
                mean: part_of(self.mean, first, count),
                mean_lo: part_of(self.mean_lo, first, count),
                rstd: part_of(self.rstd, first, count),
            }
        };
        let mut params = self.params;
        if params.groups != Groups::ONE {
            params.groups = params.groups.after(first);
        }
        let job = Normalizations::job(rows, params, self.plan.eps, self.streaming, stats);
        match self.bias {
            Some(bias) => job.and_then(|job| job.with_bias(bias)),
            None => job,
        }
    }

    /// # Safety
    /// - There are these rows.
    /// - Nothing else touches them meanwhile.
    #[inline(always)]
    unsafe fn run<const CENTERED: bool>(&self, first: usize, count: usize, tasks: usize)
    where
        T: Compiled<CENTERED>,
        Normalizations: Normalization<T, CENTERED>,
    {
        let one_run = self.shape.inner_rows == self.shape.rows;
        if !one_run {
            // SAFETY: the caller's duty.
            return unsafe { self.run_runs(first, count, tasks) };
        }
        // SAFETY: the caller's duty.
        let mut job = unsafe { self.part::<CENTERED>(first, count) };
        debug_assert!(job.is_some(), "all lengths have been checked");
        if tasks > 1 {
            job.into_iter().for_each(|job| parallel::run(self.plan.isa, job, tasks));
        } else if let Some(job) = &mut job {
            job.run_on(self.plan.isa);
        }
    }

    /// Rows of several runs.
    ///
    /// # Safety
    /// - As [`run`](Self::run).
    unsafe fn run_runs<const CENTERED: bool>(&self, first: usize, count: usize, tasks: usize)
    where
        T: Compiled<CENTERED>,
        Normalizations: Normalization<T, CENTERED>,
    {
        if tasks > 1 && count > 1 {
            let left = tasks / 2;
            let at = (count * left).div_ceil(tasks);
            // SAFETY: the caller's duty, for two parts.
            let part = |first, count, tasks| unsafe { self.run_runs::<CENTERED>(first, count, tasks) };
            rayon::join(|| part(first, at, left), || part(first + at, count - at, tasks - left));
            return;
        }
        let (mut row, end) = (first, first + count);
        while row < end {
            let n = (self.shape.inner_rows - row % self.shape.inner_rows).min(end - row);
            // SAFETY: these rows are in one run, and among the caller's.
            if let Some(job) = &mut unsafe { self.part::<CENTERED>(row, n) } {
                job.run_on(self.plan.isa);
            }
            row += n;
        }
    }
}

/// gamma or beta, if it is there.
///
/// # Safety
/// - It has so many elements, of f32 if `wide`.
#[inline(always)]
pub(super) unsafe fn params<'a, T: Element>(p: *const c_void, len: usize, wide: bool) -> Option<Vector<'a, T>> {
    // SAFETY: the caller's duty; that only 16 bits have f32 beside them was checked when the plan was made.
    (!p.is_null()).then(|| unsafe { Vector::from_raw(p.cast(), len, wide) })
}

/// Some elements of a buffer, if it is there.
///
/// # Safety
/// - It has these elements, and nothing else touches them while the slice lives.
#[inline(always)]
unsafe fn part_of<'a, F>(p: *mut F, first: usize, count: usize) -> Option<&'a mut [F]> {
    // SAFETY: the caller's duty.
    (!p.is_null()).then(|| unsafe { slice::from_raw_parts_mut(p.add(first), count) })
}
