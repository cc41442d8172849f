//! Normalizing: of whole tensors, and of ranges of rows.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::slice;

use lanenorm_kernels::forward::{Forward, Groups, Params};
use lanenorm_kernels::lanes::{Compiled, Element, Float, RawRows, RowIo, Vector};
use lanenorm_kernels::layer_norm::{LayerNorm, StatsMut};
use lanenorm_kernels::rms_norm::RmsNorm;

use super::places::{Place, Places, Rows, Shape, Span, Strided, vector};
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

/// What is found out about a call by checking it.
#[derive(Clone, Copy)]
struct Checked {
    x: Strided,
    /// The residual, and where the sum goes.
    residual: Option<(Strided, Strided)>,
    y: Strided,
    inner_rows: usize,
    streaming: bool,
}

/// Checks all but the range of rows. Elements of x have `own` bytes, those of statistics `float`. `None` if there is nothing
/// to do.
#[inline(always)]
fn check(
    plan: &Plan,
    wide: Wide,
    centered: bool,
    (own, float): (usize, usize),
    buffers: &lanenorm_forward_buffers,
) -> Result<Option<Checked>, lanenorm_status> {
    if (centered || buffers.beta.is_null())
        && let Some(checked) = check_plain(plan, wide, own, buffers)
    {
        return Ok(Some(checked));
    }
    let shape = Shape::new(buffers.rows, buffers.inner_rows, plan.cols)?;
    let has_residual = !buffers.residual.data.is_null();
    let has_sum = !buffers.sum.data.is_null();
    if !centered && !(buffers.beta.is_null() && buffers.mean.is_null() && buffers.mean_lo.is_null()) {
        return Err(unsupported("beta, mean or mean_lo is given, which RMS normalization does not have"));
    }
    if !has_residual && (has_sum || !buffers.bias.is_null()) {
        return Err(unsupported("sum or bias is given without residual"));
    }
    if has_residual && !has_sum && wide.y {
        return Err(unsupported("sum is NULL, but y, in f32 beside 16 bits, has no room for it"));
    }
    if plan.groups > 1 && !shape.rows.is_multiple_of(plan.groups * plan.repeat) {
        return Err(Error::GroupRows { rows: shape.rows, groups: plan.groups, repeat: plan.repeat }.into());
    }
    if shape.is_empty() {
        return Ok(None);
    }
    let Buffers { x, residual, sum, y, vectors, stats } = Buffers::new(plan, wide, (own, float), buffers, &shape)?;
    let span = |rows: &Option<Rows>| rows.as_ref().map_or(Span::default(), |rows| rows.span);
    let y_is_x = !wide.y && y.are(&x);
    let reads = [span(&residual), vectors[0], vectors[1], vectors[2]];
    let mut doubtful = (!y_is_x && y.span.meets(x.span)) | reads.iter().any(|read| read.meets(y.span));
    let outputs = [span(&sum), stats[0], stats[1], stats[2]];
    for (i, &output) in outputs.iter().enumerate() {
        if output != Span::default() {
            doubtful |= output.meets(x.span) | output.meets(y.span);
            doubtful |= reads.iter().chain(&outputs[..i]).any(|other| other.meets(output));
        }
    }
    if doubtful {
        check_places(plan, wide, (own, float), buffers, &shape)?;
    }

    let s = if has_residual { Some(sum.unwrap_or(y)) } else { None };
    let is_even = |rows: &Option<Rows>| rows.as_ref().is_none_or(|rows| rows.are_even(&shape));
    let even = x.are_even(&shape) && y.are_even(&shape) && is_even(&residual) && is_even(&s);
    let y_is_residual = residual.is_some_and(|residual| !has_sum || (!wide.y && y.are(&residual)));
    let y_size = if wide.y { size_of::<f32>() } else { own };
    let streaming = plan.streams_bytes(shape.rows * shape.cols * y_size, y_is_x || y_is_residual);
    let inner_rows = if even { shape.rows } else { shape.inner_rows };
    let residual = residual.zip(s).map(|(residual, s)| (residual.rows, s.rows));
    Ok(Some(Checked { x: x.rows, residual, y: y.rows, inner_rows, streaming }))
}

/// The bits of pointers and sizes so small that no sum of them overflows.
const SMALL_BITS: u32 = usize::BITS - 4;

/// The outcome for what is called most, in the few instructions that a short row allows: x, y, gamma and beta of rows that follow
/// one another. `None` if the call is another one, or if anything about it is in doubt.
#[inline(always)]
fn check_plain(plan: &Plan, wide: Wide, own: usize, buffers: &lanenorm_forward_buffers) -> Option<Checked> {
    let &lanenorm_forward_buffers {
        rows, inner_rows, x, residual, sum, y, bias, gamma, beta, mean, mean_lo, rstd, ..
    } = buffers;
    let [x_at, y_at, gamma_at, beta_at] = [x.data.addr(), y.data.addr(), gamma.addr(), beta.addr()];
    let strides = inner_rows | x.row_stride | x.outer_stride | y.row_stride | y.outer_stride;
    let others = residual.data.addr() | sum.data.addr() | bias.addr() | mean.addr() | mean_lo.addr() | rstd.addr();
    let elements = rows.checked_mul(plan.cols)?;
    let is_plain = (strides | others) == 0 && plan.groups == 1 && !wide.gamma && !wide.y && elements != 0;
    let pointers = x_at | y_at | gamma_at | beta_at;
    let is_small = (pointers | elements) >> (SMALL_BITS - 3) == 0;
    if !is_plain || !is_small || x_at == 0 || y_at == 0 || pointers & (own - 1) != 0 {
        return None;
    }
    let (len, y_end) = (elements * own, y_at + elements * own);
    let apart = |at: usize, len: usize| at >= y_end || at + len <= y_at;
    let row_len = plan.cols * own;
    let is_apart = (x_at == y_at || apart(x_at, len)) && apart(gamma_at, row_len) && apart(beta_at, row_len);
    if !is_apart {
        return None;
    }
    let streaming = plan.streams_bytes(len, x_at == y_at);
    let (x, y) = (
        Strided { data: x.data.cast_mut(), stride: plan.cols, outer_stride: 0 },
        Strided { data: y.data, stride: plan.cols, outer_stride: 0 },
    );
    Some(Checked { x, residual: None, y, inner_rows: rows, streaming })
}

/// The buffers of a call, each checked by itself.
struct Buffers {
    x: Rows,
    residual: Option<Rows>,
    sum: Option<Rows>,
    y: Rows,
    /// bias, gamma, beta
    vectors: [Span; 3],
    /// mean, `mean_lo`, rstd
    stats: [Span; 3],
}

impl Buffers {
    #[inline(always)]
    fn new(
        plan: &Plan,
        wide: Wide,
        (own, float): (usize, usize),
        buffers: &lanenorm_forward_buffers,
        shape: &Shape,
    ) -> Result<Self, lanenorm_status> {
        let beside = |wide: bool| if wide { size_of::<f32>() } else { own };
        let read =
            |what, rows: &lanenorm_rows| Rows::new(what, rows.data, (rows.row_stride, rows.outer_stride), shape, own);
        let write = |what, rows: &lanenorm_rows_mut, size| {
            Rows::new(what, rows.data, (rows.row_stride, rows.outer_stride), shape, size)
        };
        let (len, gamma_size) = (params_len(plan)?, beside(wide.gamma));
        let has = |data: *const c_void| !data.is_null();
        Ok(Self {
            x: read("x", &buffers.x)?,
            residual: if has(buffers.residual.data) { Some(read("residual", &buffers.residual)?) } else { None },
            sum: if has(buffers.sum.data) { Some(write("sum", &buffers.sum, own)?) } else { None },
            y: write("y", &buffers.y, beside(wide.y))?,
            vectors: [
                vector("bias", buffers.bias, shape.cols, own)?,
                vector("gamma", buffers.gamma, len, gamma_size)?,
                vector("beta", buffers.beta, len, gamma_size)?,
            ],
            stats: [
                vector("mean", buffers.mean, shape.rows, float)?,
                vector("mean_lo", buffers.mean_lo, shape.rows, float)?,
                vector("rstd", buffers.rstd, shape.rows, float)?,
            ],
        })
    }
}

/// That no output overlaps another buffer, to the element.
#[cold]
#[inline(never)]
fn check_places(
    plan: &Plan,
    wide: Wide,
    (own, float): (usize, usize),
    buffers: &lanenorm_forward_buffers,
    shape: &Shape,
) -> Result<(), lanenorm_status> {
    let Buffers { x, residual, sum, y, vectors, stats } = Buffers::new(plan, wide, (own, float), buffers, shape)?;
    let mut places = Places::default();
    places.read(x.place("x", shape, own).replaceable());
    places.read(residual.map(|residual| residual.place("residual", shape, own).replaceable()));
    for (what, vector) in ["bias", "gamma", "beta"].into_iter().zip(vectors) {
        places.read(Place::vector(what, vector));
    }
    places.write(sum.map(|sum| sum.place("sum", shape, own).replaceable()))?;
    let y_size = if wide.y { size_of::<f32>() } else { own };
    let y = y.place("y", shape, y_size);
    places.write(if wide.y { y } else { y.replaceable() })?;
    for (what, stat) in ["mean", "mean_lo", "rstd"].into_iter().zip(stats) {
        places.write(Place::vector(what, stat))?;
    }
    Ok(())
}

#[cold]
fn unsupported(message: &str) -> lanenorm_status {
    refuse(lanenorm_status::Unsupported, format_args!("{message}"))
}

/// The elements of gamma, and of beta.
#[inline(always)]
pub(super) fn params_len(plan: &Plan) -> Result<usize, lanenorm_status> {
    let overflow = || Error::Overflow { what: "gamma", rows: plan.groups, stride: plan.cols };
    Ok(plan.cols.checked_mul(plan.groups).ok_or_else(overflow)?)
}

/// Checks all, then runs.
///
/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(never)]
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
    let rows = buffers.rows;
    let (first, count, tasks) = match part {
        Part::All { threads } => (0, rows, parallelism(threads).tasks(rows.saturating_mul(plan.cols))),
        Part::Rows { first, count } => {
            if first > rows || count > rows - first {
                let message = format_args!("{count} rows from row {first} on, of {rows} rows");
                return Err(refuse(lanenorm_status::Size, message));
            }
            (first, count, 1)
        }
    };
    let sizes = (size_of::<T>(), size_of::<T::Float>());
    if let Some(checked) = check(plan, wide, CENTERED, sizes, buffers)?
        && count > 0
    {
        let call = Call::<T> { plan, wide, buffers, checked, marker: PhantomData };
        // SAFETY: the caller's duty.
        unsafe { call.run::<CENTERED>(first, count, tasks) };
    }
    Ok(())
}

/// A call that has been checked, from which parts are taken.
struct Call<'a, T> {
    plan: &'a Plan,
    wide: Wide,
    buffers: &'a lanenorm_forward_buffers,
    checked: Checked,
    marker: PhantomData<T>,
}

// SAFETY: threads share it to make jobs for rows of their own, which are Send.
unsafe impl<T> Sync for Call<'_, T> {}

impl<T: Element> Call<'_, T> {
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
        let &Self { plan, wide, buffers, ref checked, .. } = self;
        let &Checked { inner_rows, streaming, .. } = checked;
        let (run, row) = if first < inner_rows { (0, first) } else { (first / inner_rows, first % inner_rows) };
        let raw = |rows: &Strided, wide: bool| {
            let start = run * rows.outer_stride + row * rows.stride;
            // SAFETY: there is such a row, and all rows lie in one allocation.
            let p = unsafe {
                if wide { rows.data.cast::<f32>().add(start).cast() } else { rows.data.cast::<T>().add(start) }
            };
            RawRows { p, stride: rows.stride }
        };
        let addends = checked.residual.as_ref().map(|(residual, s)| (raw(residual, false), raw(s, false)));
        let (x, y) = (raw(&checked.x, false), raw(&checked.y, wide.y));
        // SAFETY: places have been checked: the outputs are apart from all else, or are what they replace. The rest is the
        // caller's duty.
        let rows = unsafe { RowIo::from_raw(x, addends, y, wide.y, count, plan.cols) };
        // SAFETY: statistics, where they are wanted, have an element for each row; those of these rows are this job's.
        let stats = unsafe {
            StatsMut {
                mean: part_of(buffers.mean.cast(), first, count),
                mean_lo: part_of(buffers.mean_lo.cast(), first, count),
                rstd: part_of(buffers.rstd.cast(), first, count),
            }
        };
        let mut groups = Groups::ONE;
        if plan.groups > 1 {
            groups = Groups::new(plan.groups, plan.repeat)?.after(first);
        }
        // SAFETY: lengths and alignment have been checked.
        let (gamma, beta, offset) = unsafe {
            let len = plan.cols * plan.groups;
            let offset = T::Float::from_f64(plan.offset.into());
            (params(buffers.gamma, len, wide.gamma), params(buffers.beta, len, wide.gamma), offset)
        };
        let params = Params { gamma, beta, groups, offset };
        let job = Normalizations::job(rows, params, plan.eps, streaming, stats);
        if buffers.bias.is_null() {
            return job;
        }
        // SAFETY: as above.
        let bias = unsafe { slice::from_raw_parts(buffers.bias.cast::<T>(), plan.cols) };
        job.and_then(|job| job.with_bias(bias))
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
        if self.checked.inner_rows != self.buffers.rows {
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
        let (mut row, end, inner_rows) = (first, first + count, self.checked.inner_rows);
        while row < end {
            let n = (inner_rows - row % inner_rows).min(end - row);
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
