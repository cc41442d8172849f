//! The checks of a forward call: of each buffer by itself, then of all against one another.
//!
//! A short row takes some tens of nanoseconds, so the checks are made in three steps: the plainest calls in a few
//! instructions; all others by the spans of bytes in which buffers lie; and only if these overlap, by their elements.

use std::ffi::c_void;

use lanenorm_kernels::Error as Refused;
use lanenorm_kernels::rows::have_no_gaps;

use super::places::{Places, Rows, Shape, Span, Strided, vector};
use super::plan::Kind;
use super::{lanenorm_forward_buffers, lanenorm_rows, lanenorm_rows_mut, lanenorm_status, refuse};
use crate::plan::{Plan, Written, y_row_bytes};

/// Where the buffers of a call lie, as the checks have found.
#[derive(Clone, Copy)]
pub(super) struct Checked {
    pub(super) x: Strided,
    /// The residual, and where the sum goes.
    pub(super) residual: Option<(Strided, Strided)>,
    pub(super) y: Strided,
    pub(super) inner_rows: usize,
    pub(super) streaming: bool,
}

impl Checked {
    /// The run of a row, and which row of the run it is.
    #[inline(always)]
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        let inner_rows = self.inner_rows;
        if row < inner_rows { (0, row) } else { (row / inner_rows, row % inner_rows) }
    }

    /// Gives `run` the rows of each run among some rows: the first, and how many they are.
    #[inline(always)]
    pub(super) fn runs(&self, first: usize, count: usize, mut run: impl FnMut(usize, usize)) {
        let (mut row, end) = (first, first + count);
        while row < end {
            let n = (self.inner_rows - row % self.inner_rows).min(end - row);
            run(row, n);
            row += n;
        }
    }
}

/// Checks all of a call but its range of rows. `None` if there is nothing to do.
#[inline(always)]
pub(super) fn check(
    plan: &Plan,
    kind: Kind,
    buffers: &lanenorm_forward_buffers,
) -> Result<Option<Checked>, lanenorm_status> {
    let shape = shape(plan, kind, buffers)?;
    let has_residual = !buffers.residual.data.is_null();
    let has_sum = !buffers.sum.data.is_null();
    if shape.is_empty() {
        return Ok(None);
    }
    let Buffers { x, residual, sum, y, vectors, stats } = Buffers::new(plan, kind, buffers, &shape)?;
    let span = |rows: &Option<Rows>| rows.as_ref().map_or(Span::default(), |rows| rows.span);
    let y_is_x = y.are(&x);
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
        check_places(&mut Places::default(), plan, kind, buffers, &shape)?;
    }

    let s = if has_residual { Some(sum.unwrap_or(y)) } else { None };
    let is_even = |rows: &Option<Rows>| rows.as_ref().is_none_or(|rows| rows.are_even(&shape));
    let even = x.are_even(&shape) && y.are_even(&shape) && is_even(&residual) && is_even(&s);
    let y_is_residual = residual.is_some_and(|residual| !has_sum || y.are(&residual));
    let y_size = kind.y.size();
    let streaming = plan.streams_to(&Written {
        bytes: shape.rows * shape.cols * y_size,
        row_bytes: shape.cols * y_size,
        tensors: if has_residual { 4 } else { 2 },
        on_lines: y.rows.are_on_lines(y_size) || even && have_no_gaps(y.rows.stride, shape.cols, shape.cols * y_size),
        in_place: y_is_x || y_is_residual,
        least_row_bytes: y_row_bytes(kind.rows(has_residual).size(), has_residual),
    });
    let inner_rows = if even { shape.rows } else { shape.inner_rows };
    let residual = residual.zip(s).map(|(residual, s)| (residual.rows, s.rows));
    Ok(Some(Checked { x: x.rows, residual, y: y.rows, inner_rows, streaming }))
}

/// The rows of a call whose buffers go together.
#[inline(always)]
pub(super) fn shape(plan: &Plan, kind: Kind, buffers: &lanenorm_forward_buffers) -> Result<Shape, lanenorm_status> {
    let shape = Shape::new(buffers.rows, buffers.inner_rows, plan.cols)?;
    let has_residual = !buffers.residual.data.is_null();
    let has_sum = !buffers.sum.data.is_null();
    if !kind.centered {
        let given = [buffers.beta, buffers.mean.cast_const(), buffers.mean_lo.cast_const()];
        no_centered(["beta", "mean", "mean_lo"], given)?;
    }
    if !has_residual && has_sum {
        return Err(unsupported("sum is given without residual"));
    }
    if !has_residual && !buffers.bias.is_null() {
        return Err(unsupported("bias is given without residual"));
    }
    if has_residual && !has_sum && kind.y != kind.sum {
        let (y, sum) = (kind.y.name(), kind.sum.name());
        let message =
            format_args!("y is {y}, but residual is {sum}: expected one type, or a sum, which may be residual");
        return Err(refuse(lanenorm_status::Unsupported, message));
    }
    if plan.groups.period() > 1 && !shape.rows.is_multiple_of(plan.groups.period()) {
        return Err(plan.groups.misfit(shape.rows).into());
    }
    Ok(shape)
}

/// The bits of pointers and sizes so small that no sum of them overflows.
const SMALL_BITS: u32 = usize::BITS - 4;

/// The buffers of a plain call, which have been checked.
pub(super) struct PlainCall {
    pub(super) x: *mut c_void,
    pub(super) y: *mut c_void,
    /// The bytes of all rows, and of one.
    pub(super) len: usize,
    pub(super) row_len: usize,
}

impl PlainCall {
    /// The same for all kinds of calls.
    #[inline(always)]
    pub(super) fn checked(&self, plan: &Plan, kind: Kind, rows: usize) -> Checked {
        let &Self { x, y, len, row_len } = self;
        let [x, y] = [x, y].map(|data| Strided { data, stride: plan.cols, outer_stride: 0 });
        let streaming = plan.streams_to(&Written {
            bytes: len,
            row_bytes: row_len,
            tensors: 2,
            on_lines: y.are_on_lines(kind.size()) || have_no_gaps(plan.cols, plan.cols, row_len),
            in_place: x.data == y.data,
            least_row_bytes: y_row_bytes(kind.size(), false),
        });
        Checked { x, residual: None, y, inner_rows: rows, streaming }
    }
}

/// Checks the most common calls, in the few instructions that a short row allows: x, y, gamma and beta of rows that
/// follow one another. `None` if the call is not of this form, or if anything about it is in doubt.
#[inline(always)]
pub(super) fn check_plain(plan: &Plan, kind: Kind, buffers: &lanenorm_forward_buffers) -> Option<PlainCall> {
    let &lanenorm_forward_buffers {
        rows, inner_rows, x, residual, sum, y, bias, gamma, beta, mean, mean_lo, rstd, ..
    } = buffers;
    let own = kind.size();
    let [x_at, y_at, gamma_at, beta_at] = [x.data.addr(), y.data.addr(), gamma.addr(), beta.addr()];
    let strides = inner_rows | x.row_stride | x.outer_stride | y.row_stride | y.outer_stride;
    let others = residual.data.addr() | sum.data.addr() | bias.addr() | mean.addr() | mean_lo.addr() | rstd.addr();
    let elements = rows.checked_mul(plan.cols)?;
    let is_plain = (kind.centered || beta_at == 0)
        && (strides | others) == 0
        && plan.groups.period() == 1
        && kind.gamma == kind.dtype
        && kind.y == kind.dtype
        && elements != 0;
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
    Some(PlainCall { x: x.data.cast_mut(), y: y.data, len, row_len })
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
        kind: Kind,
        buffers: &lanenorm_forward_buffers,
        shape: &Shape,
    ) -> Result<Self, lanenorm_status> {
        let (float, gamma_size, sum_size) = (kind.float_size(), kind.gamma.size(), kind.sum.size());
        let read = |what, rows: &lanenorm_rows, size| {
            Rows::new(what, rows.data, (rows.row_stride, rows.outer_stride), shape, size)
        };
        let write = |what, rows: &lanenorm_rows_mut, size| {
            Rows::new(what, rows.data, (rows.row_stride, rows.outer_stride), shape, size)
        };
        let len = params_len(plan)?;
        let has = |data: *const c_void| !data.is_null();
        Ok(Self {
            x: read("x", &buffers.x, kind.size())?,
            residual: if has(buffers.residual.data) {
                Some(read("residual", &buffers.residual, sum_size)?)
            } else {
                None
            },
            sum: if has(buffers.sum.data) { Some(write("sum", &buffers.sum, sum_size)?) } else { None },
            y: write("y", &buffers.y, kind.y.size())?,
            vectors: [
                vector("bias", buffers.bias, shape.cols, sum_size)?,
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

/// The rows of a call, each checked by itself.
pub(super) struct AllRows {
    pub(super) x: Rows,
    pub(super) residual: Option<Rows>,
    pub(super) sum: Option<Rows>,
    /// Calls that are not quantized always have one.
    pub(super) y: Option<Rows>,
}

/// Checks each buffer by itself, and that no output overlaps another buffer, element by element. The places are added
/// to those that are there.
#[cold]
#[inline(never)]
pub(super) fn check_places(
    places: &mut Places,
    plan: &Plan,
    kind: Kind,
    buffers: &lanenorm_forward_buffers,
    shape: &Shape,
) -> Result<AllRows, lanenorm_status> {
    let &lanenorm_forward_buffers { x, residual, sum, y, bias, gamma, beta, mean, mean_lo, rstd, .. } = buffers;
    let (own, float, gamma_size, sum_size) = (kind.size(), kind.float_size(), kind.gamma.size(), kind.sum.size());
    let (len, y_size) = (params_len(plan)?, kind.y.size());
    let rows = |what, data: *const c_void, strides, size| Rows::checked(what, data, strides, shape, size);
    let optional = |what, rows: lanenorm_rows_mut, size| {
        let strides = (rows.row_stride, rows.outer_stride);
        if rows.data.is_null() { Ok(None) } else { Rows::checked(what, rows.data, strides, shape, size).map(Some) }
    };
    let x = rows("x", x.data, (x.row_stride, x.outer_stride), own)?;
    places.read_rows("x", &x, shape, own, true);
    let strides = (residual.row_stride, residual.outer_stride);
    let residual = if residual.data.is_null() {
        None
    } else {
        let residual = rows("residual", residual.data, strides, sum_size)?;
        places.read_rows("residual", &residual, shape, sum_size, true);
        Some(residual)
    };
    places.read_vector("bias", bias, shape.cols, sum_size)?;
    places.read_vector("gamma", gamma, len, gamma_size)?;
    places.read_vector("beta", beta, len, gamma_size)?;
    let sum = optional("sum", sum, sum_size)?;
    if let Some(sum) = &sum {
        places.write_rows("sum", sum, shape, sum_size, true)?;
    }
    let y = optional("y", y, y_size)?;
    if let Some(y) = &y {
        places.write_rows("y", y, shape, y_size, true)?;
    }
    places.write_vector("mean", mean, shape.rows, float)?;
    places.write_vector("mean_lo", mean_lo, shape.rows, float)?;
    places.write_vector("rstd", rstd, shape.rows, float)?;
    Ok(AllRows { x, residual, sum, y })
}

/// Refuses what RMS normalization does not have.
#[inline(always)]
pub(super) fn no_centered<const N: usize>(names: [&str; N], given: [*const c_void; N]) -> Result<(), lanenorm_status> {
    match given.iter().position(|p| !p.is_null()) {
        None => Ok(()),
        Some(i) => Err(not_in_rms(names[i])),
    }
}

#[cold]
fn not_in_rms(what: &str) -> lanenorm_status {
    refuse(lanenorm_status::Unsupported, format_args!("{what} is given, but RMS normalization has no {what}"))
}

#[cold]
pub(super) fn unsupported(message: &str) -> lanenorm_status {
    refuse(lanenorm_status::Unsupported, format_args!("{message}"))
}

/// The number of elements of gamma, and of beta.
#[inline(always)]
pub(super) fn params_len(plan: &Plan) -> Result<usize, lanenorm_status> {
    let groups = plan.groups.groups();
    let overflow = || Refused::Overflow { what: "gamma", rows: groups, stride: plan.cols };
    Ok(plan.cols.checked_mul(groups).ok_or_else(overflow)?)
}
