//! Normalizing: of whole tensors, and of ranges of rows.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::slice;

use lanenorm_kernels::element::Kind as Companion;
use lanenorm_kernels::ops::forward::Forward;
use lanenorm_kernels::ops::layer_norm::LayerNorm;
use lanenorm_kernels::ops::rms_norm::RmsNorm;
use lanenorm_kernels::rows::{Groups, OneRow, Params, RawRows, RowIo, Vector};
use lanenorm_kernels::simd::Float;
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Center, Centered, Compiled, Count, Element, Error as Refused, Uncentered};

use super::check::{Checked, PlainCall, check, check_plain};
use super::places::{Strided, fill_with_zeros};
use super::plan::{Kind, for_types, initialized, sized};
use super::{guard, lanenorm_plan, lanenorm_status, misfit, parallelism, refuse};
use crate::jobs;
use crate::parallel::{self, Tasks};
use crate::plan::Plan;

/// Rows to be read: row r starts at element (r / inner_rows) * outer_stride + (r % inner_rows) * row_stride of data.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_rows {
    /// The first element of the first row; NULL where the buffer is optional and absent.
    pub data: *const c_void,
    /// The distance between the starts of two rows, in elements. 0 stands for cols: rows that follow one another.
    pub row_stride: usize,
    /// The distance between the starts of two runs of inner_rows rows, in elements. 0 stands for inner_rows *
    /// row_stride.
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
/// y may be x or residual itself, and sum may be residual or x: with the same pointer and strides, and elements of one
/// size. No other overlap with an output is allowed, but rows may lie between the rows of another buffer: columns of
/// the same rows, say.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_forward_buffers {
    /// `sizeof(lanenorm_forward_buffers)`. See "Versions" at the top.
    pub struct_size: usize,
    /// The number of rows, in all.
    pub rows: usize,
    /// The rows of a run, which must divide the rows; 0 stands for all. See `lanenorm_rows`.
    pub inner_rows: usize,
    /// What is normalized, or with a residual one of the addends.
    pub x: lanenorm_rows,
    /// Optional: with a residual, x + residual (+ bias), rounded once to the type of the residual, is normalized.
    pub residual: lanenorm_rows,
    /// Optional, with a residual: where the sum goes. (Without a sum, y must have its type.)
    pub sum: lanenorm_rows_mut,
    /// The result.
    pub y: lanenorm_rows_mut,
    /// Optional, with a residual: cols elements that are added to each x + residual before it is rounded.
    pub bias: *const c_void,
    /// Optional: cols elements of each group.
    pub gamma: *const c_void,
    /// Optional, not for RMS normalization: cols elements of each group.
    pub beta: *const c_void,
    /// Optional, not for RMS normalization: an element for each row; double for rows of double, else float.
    pub mean: *mut c_void,
    /// Optional, not for RMS normalization: what rounding took from the mean, of each row, in the type of mean.
    pub mean_lo: *mut c_void,
    /// Optional: 1 / sqrt(var + eps), or 1 / sqrt(mean(x^2) + eps), of each row; double for rows of double, else float.
    pub rstd: *mut c_void,
}

/// The rows of a call, and the number of tasks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    All { threads: usize },
    Rows { first: usize, count: usize },
}

impl Part {
    /// The first of these rows of `rows`, and how many they are.
    #[inline(always)]
    pub(super) fn of(self, rows: usize) -> Result<(usize, usize), lanenorm_status> {
        match self {
            Self::All { .. } => Ok((0, rows)),
            Self::Rows { first, count } if first > rows || count > rows - first => {
                let message = format_args!("{} from row {first} on, but the buffers have {rows}", Count(count, "row"));
                Err(refuse(lanenorm_status::Size, message))
            }
            Self::Rows { first, count } => Ok((first, count)),
        }
    }

    /// The number of tasks of a call. `elements` is the number of elements of all its rows.
    #[inline(always)]
    pub(super) fn tasks(self, elements: usize) -> Tasks<false> {
        match self {
            Self::All { threads } => parallelism(threads).tasks_for(elements),
            Self::Rows { .. } => Tasks::ONE,
        }
    }
}

/// Normalizes all rows, on as many threads as `threads` says.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_forward(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    threads: usize,
) -> lanenorm_status {
    guard(|| {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's duty.
        unsafe {
            let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers, &mut room)?);
            forward(&inner.plan, inner.kind, buffers, Part::All { threads })
        }
    })
}

/// Normalizes `row_count` rows from `first_row` on, on the calling thread, without allocating. An engine's threads call
/// this at once, each for rows of its own, in any order. Each row gets the bits that one call for all rows gives it.
/// `buffers` is for all rows.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_forward_rows(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    first_row: usize,
    row_count: usize,
) -> lanenorm_status {
    guard(|| {
        let mut room = MaybeUninit::uninit();
        // SAFETY: the caller's duty.
        unsafe {
            let (inner, buffers) = (initialized(plan)?, sized("buffers", buffers, &mut room)?);
            let part = Part::Rows { first: first_row, count: row_count };
            forward(&inner.plan, inner.kind, buffers, part)
        }
    })
}

/// Makes jobs of rows for the two normalizations.
trait Normalization<T: Element, M: Center> {
    fn job<'a>(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Forward<'a, T, M>, Refused>;
}

struct Normalizations;

impl<T: Element> Normalization<T, Centered> for Normalizations {
    #[inline(always)]
    fn job<'a>(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<LayerNorm<'a, T>, Refused> {
        LayerNorm::new(rows, params, eps, streaming, stats)
    }
}

impl<T: Element> Normalization<T, Uncentered> for Normalizations {
    #[inline(always)]
    fn job<'a>(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        streaming: bool,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<RmsNorm<'a, T>, Refused> {
        RmsNorm::new(rows, params, eps, streaming, stats.rstd)
    }
}

/// Checks all, then runs. Inlined: one more call takes 6 ns of a short row.
///
/// # Safety
/// - The buffers are what the head of `capi` says.
#[inline(always)]
pub(super) unsafe fn forward(
    plan: &Plan,
    kind: Kind,
    buffers: &lanenorm_forward_buffers,
    part: Part,
) -> Result<(), lanenorm_status> {
    let rows = buffers.rows;
    let (first, count) = part.of(rows)?;
    // SAFETY: there is this row. The rest is the caller's duty.
    if count == 1 && unsafe { forward_row(plan, kind, buffers, first) } {
        return Ok(());
    }
    let tasks = part.tasks(rows.saturating_mul(plan.cols));
    let run: Run = for_types!(kind.rows(!buffers.residual.data.is_null()), kind.centered, run);
    let Some(plain) = check_plain(plan, kind, buffers) else {
        // SAFETY: the caller's duty.
        return unsafe { forward_checked(plan, kind, buffers, run, (first, count, tasks)) };
    };
    if count > 0 {
        let call = Call { plan, types: Types::OWN, buffers, checked: plain.checked(plan, kind, rows) };
        // SAFETY: the caller's duty.
        unsafe { if tasks.count > 1 { call.share(run, first, count, tasks) } else { run(&call, first, count, tasks) } };
    }
    Ok(())
}

/// [`forward`], compiled once: for calls that have time.
///
/// # Safety
/// - As for [`forward`].
#[inline(never)]
pub(super) unsafe fn forward_out_of_line(
    plan: &Plan,
    kind: Kind,
    buffers: &lanenorm_forward_buffers,
    part: Part,
) -> Result<(), lanenorm_status> {
    // SAFETY: the caller's duty.
    unsafe { forward(plan, kind, buffers, part) }
}

/// Normalizes row `r` of a call where that takes the shortest way. Returns false, and has done nothing, if the call is
/// not plain, or if the row takes the way of all other rows.
///
/// # Safety
/// - The buffers are what the head of `capi` says, and there is such a row.
#[inline(never)]
unsafe fn forward_row(plan: &Plan, kind: Kind, buffers: &lanenorm_forward_buffers, r: usize) -> bool {
    let Some(plain) = check_plain(plan, kind, buffers) else { return false };
    if !plan.takes_one_row(plan.cols) {
        return false;
    }
    let run: RunRow = for_types!(kind.dtype, kind.centered, run_row);
    // SAFETY: `check_plain` has seen that the row, gamma and beta have `cols > 0` elements, that gamma and beta are
    // apart from y, and that x is apart from y or is y. The rest is the caller's duty.
    unsafe { run(plan, &plain, buffers, r) }
}

type RunRow = unsafe fn(&Plan, &PlainCall, &lanenorm_forward_buffers, usize) -> bool;

/// [`forward_row`] for one type.
///
/// # Safety
/// - All buffers have this type, and their places have been checked.
/// - The buffers are what the head of `capi` says, and there is such a row.
unsafe fn run_row<T: Element + Compiled<M>, M: Center>(
    plan: &Plan,
    &PlainCall { x, y, .. }: &PlainCall,
    buffers: &lanenorm_forward_buffers,
    r: usize,
) -> bool {
    // SAFETY: the caller's duty.
    unsafe {
        let start = r * plan.cols;
        let row = OneRow::from_raw(x.cast::<T>().add(start), y.cast::<T>().add(start), plan.cols);
        let gamma = params(buffers.gamma, plan.cols, Companion::Own);
        let beta = if M::CENTERED { params(buffers.beta, plan.cols, Companion::Own) } else { None };
        plan.run_row::<T, M>(row, gamma, beta)
    }
}

/// [`forward`] for all calls but the plainest. It is out of line to keep the path of those short.
///
/// # Safety
/// - The buffers are what the head of `capi` says, `run` is the function for `kind`, and there are these rows.
#[inline(never)]
unsafe fn forward_checked(
    plan: &Plan,
    kind: Kind,
    buffers: &lanenorm_forward_buffers,
    run: Run,
    (first, count, tasks): (usize, usize, Tasks<false>),
) -> Result<(), lanenorm_status> {
    if let Some(checked) = check(plan, kind, buffers)?
        && count > 0
    {
        let types = Types::of(kind, checked.residual.is_some());
        let call = Call { plan, types, buffers, checked };
        // SAFETY: the caller's duty.
        unsafe {
            prepare_stats(kind, buffers, first, count);
            call.share(run, first, count, tasks);
        }
    }
    Ok(())
}

/// Writes zeros to the statistics of rows: they become slices, whose elements must have a value, and C's memory need
/// not have one.
///
/// # Safety
/// - The buffers are what the head of `capi` says, and there are these rows.
pub(super) unsafe fn prepare_stats(kind: Kind, buffers: &lanenorm_forward_buffers, first: usize, count: usize) {
    let float = kind.float_size();
    for stat in [buffers.mean, buffers.mean_lo, buffers.rstd] {
        // SAFETY: the caller's duty.
        unsafe { fill_with_zeros(stat, first * float, count * float) };
    }
}

/// The types of a call, beside the rows that are normalized.
#[derive(Clone, Copy)]
pub(super) struct Types {
    x: Companion,
    /// The type of gamma and beta.
    gamma: Companion,
    y: Companion,
}

impl Types {
    const OWN: Self = Self { x: Companion::Own, gamma: Companion::Own, y: Companion::Own };

    /// Those of a call, whose rows are sums or not.
    pub(super) fn of(kind: Kind, are_sums: bool) -> Self {
        let rows = kind.rows(are_sums);
        Self { x: kind.dtype.beside(rows), gamma: kind.gamma.beside(rows), y: kind.y.beside(rows) }
    }
}

/// A call that has been checked, from which parts are taken.
pub(super) struct Call<'a> {
    pub(super) plan: &'a Plan,
    pub(super) types: Types,
    pub(super) buffers: &'a lanenorm_forward_buffers,
    pub(super) checked: Checked,
}

/// What a job of rows that are evenly apart is made of.
pub(super) struct Parts<'a, T: Element> {
    pub(super) rows: RowIo<'a, T>,
    pub(super) params: Params<'a, T>,
    pub(super) stats: StatsMut<'a, T::Float>,
    pub(super) bias: Option<&'a [T]>,
}

// SAFETY: threads share it to make jobs for rows of their own, which are Send.
unsafe impl Sync for Call<'_> {}

/// The function for rows of this kind, which are no sums.
pub(super) fn run_for(kind: Kind) -> Run {
    for_types!(kind.rows(false), kind.centered, run)
}

/// [`run`] for some types.
pub(super) type Run = unsafe fn(&Call<'_>, usize, usize, Tasks<false>);

/// Normalizes `count` rows from `first` on, which are evenly apart, on the calling thread. A single row that is not a
/// sum takes up to `tasks` threads.
///
/// This is the only code of forward calls for each type and normalization, eight times in all. The job is run where it
/// is made: see `Forward::run_on`.
///
/// # Safety
/// - The types belong to the call.
/// - There are these rows, in one run or evenly apart in all buffers.
/// - Nothing else touches them meanwhile.
#[inline(never)]
unsafe fn run<T, M: Center>(call: &Call<'_>, first: usize, count: usize, tasks: Tasks<false>)
where
    T: Element + Compiled<M>,
    Normalizations: Normalization<T, M>,
{
    // SAFETY: the caller's duty.
    let mut job = unsafe { call.job::<T, M>(first, count) };
    match &mut job {
        Err(_) => misfit(),
        Ok(job) if tasks.count <= 1 => job.run_on(call.plan.isa),
        Ok(_) => job.into_iter().for_each(|job| jobs::cut_row(call.plan.isa, job, tasks)),
    }
}

impl Call<'_> {
    /// The job of rows that are evenly apart.
    ///
    /// # Safety
    /// - As [`run`], while the job lives.
    #[inline(always)]
    unsafe fn job<T: Element, M: Center>(&self, first: usize, count: usize) -> Result<Forward<'_, T, M>, Refused>
    where
        Normalizations: Normalization<T, M>,
    {
        // SAFETY: the caller's duty.
        let Parts { rows, params, stats, bias } = unsafe { self.parts(first, count) }?;
        let job = Normalizations::job(rows, params, self.plan.eps, self.checked.streaming, stats);
        match bias {
            None => job,
            Some(bias) => job.and_then(|job| job.with_bias(bias)),
        }
    }

    /// What the job of rows that are evenly apart is made of.
    ///
    /// # Safety
    /// - As [`run`], while the parts live.
    #[inline(always)]
    pub(super) unsafe fn parts<T: Element>(&self, first: usize, count: usize) -> Result<Parts<'_, T>, Refused> {
        let &Self { plan, types, buffers, ref checked } = self;
        let (run, row) = checked.place(first);
        let raw = |rows: &Strided, kind: Companion| {
            let start = run * rows.outer_stride + row * rows.stride;
            // SAFETY: there is such a row, and all rows lie in one allocation.
            let p = unsafe { rows.data.byte_add(start * kind.size::<T>()).cast::<T>() };
            RawRows { p, stride: rows.stride, kind }
        };
        let own = |rows| raw(rows, Companion::Own);
        let addends = checked.residual.as_ref().map(|(residual, s)| (own(residual), own(s)));
        let (x, y) = (raw(&checked.x, types.x), raw(&checked.y, types.y));
        // SAFETY: places have been checked: the outputs are apart from all else, or are what they replace. The rest is
        // the caller's duty.
        let rows = unsafe { RowIo::from_raw(x, addends, y, count, plan.cols) };
        // SAFETY: statistics, where they are wanted, have an element for each row; the elements of these rows are this
        // job's.
        let stats = unsafe {
            StatsMut {
                mean: part_of(buffers.mean.cast(), first, count),
                mean_lo: part_of(buffers.mean_lo.cast(), first, count),
                rstd: part_of(buffers.rstd.cast(), first, count),
            }
        };
        let groups = if plan.groups.groups() > 1 { plan.groups.after(first) } else { Groups::ONE };
        // SAFETY: lengths and alignment have been checked.
        let (gamma, beta, bias) = unsafe {
            let len = plan.cols * plan.groups.groups();
            let bias = buffers.bias.cast::<T>();
            let bias = if bias.is_null() { None } else { Some(slice::from_raw_parts(bias, plan.cols)) };
            (params(buffers.gamma, len, types.gamma), params(buffers.beta, len, types.gamma), bias)
        };
        let offset = T::Float::from_f32(plan.offset);
        let params = Params { gamma, beta, groups, offset, rounding: plan.rounding, divisor: plan.divisor };
        Ok(Parts { rows, params, stats, bias })
    }

    /// Normalizes rows, of one run or several, on up to `tasks` threads.
    ///
    /// # Safety
    /// - `run` is that for the types of the call.
    /// - There are these rows.
    /// - Nothing else touches them meanwhile.
    #[inline(never)]
    unsafe fn share(&self, run: Run, mut first: usize, mut count: usize, tasks: Tasks<false>) {
        let is_sum = self.checked.residual.is_some();
        while jobs::first_is_cut(count, self.plan.cols, is_sum, tasks.count) {
            // SAFETY: there is this row.
            unsafe { run(self, first, 1, tasks) };
            (first, count) = (first + 1, count - 1);
        }
        // SAFETY: these rows are in one run, and the work has them.
        let run = |first, count| unsafe { run(self, first, count, Tasks::ONE) };
        parallel::share(Runs { call: self, run, first, count }, &mut [], tasks);
    }
}

/// Some rows of a call, which are given to `run`: the first of a run, or of a part of one, and how many they are.
pub(super) struct Runs<'a, F> {
    pub(super) call: &'a Call<'a>,
    pub(super) run: F,
    pub(super) first: usize,
    pub(super) count: usize,
}

impl<F: Fn(usize, usize) + Copy + Send> parallel::Work for Runs<'_, F> {
    type Memory = ();

    fn len(&self) -> usize {
        self.count
    }

    fn elements(&self) -> usize {
        self.count * self.call.plan.cols
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        (Self { count: at, ..self }, Self { first: self.first + at, count: self.count - at, ..self })
    }

    fn run(self, _: &mut [()]) {
        let Self { call, run, first, count } = self;
        call.checked.runs(first, count, run);
    }
}

/// gamma or beta, if it is there.
///
/// # Safety
/// - If it is there, it has `len` elements of this kind.
#[inline(always)]
unsafe fn params<'a, T: Element>(p: *const c_void, len: usize, kind: Companion) -> Option<Vector<'a, T>> {
    // SAFETY: the caller's duty; that the kind may lie beside these rows was checked when the plan was made.
    (!p.is_null()).then(|| unsafe { Vector::from_raw(p.cast(), len, kind) })
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
