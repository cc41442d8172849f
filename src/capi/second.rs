//! Normalizing into two outputs, each with a gamma and beta of its own: whole tensors, and ranges of rows.

use std::ffi::c_void;
use std::mem::{MaybeUninit, offset_of, size_of};

use lanenorm_kernels::rows::have_no_gaps;

use super::check::{AllRows, Checked, check_places, check_plain, no_centered, params_len, shape, unsupported};
use super::forward::{Call, Part, Runs, Types, forward_out_of_line, lanenorm_forward_buffers, prepare_stats, run_for};
use super::places::{Places, Rows, no_rows};
use super::plan::{HasSize, Inner, Kind, initialized, lanenorm_plan, sized};
use super::{guard, lanenorm_rows_mut, lanenorm_status};
use crate::parallel::Tasks;
use crate::plan::{Plan, Written, y_row_bytes};
use crate::{jobs, parallel, second};

/// The second output of a call that normalizes each row twice. Start from `LANENORM_SECOND_INIT`, which sets
/// `struct_size` and leaves all else absent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct lanenorm_second {
    /// `sizeof(lanenorm_second)`. See "Versions" at the top.
    pub struct_size: usize,
    /// The second output, of the type of y, in as many runs as the buffers. It overlaps nothing, not even x.
    pub y: lanenorm_rows_mut,
    /// Optional: the gamma of the second output, of the type and the length of the first one's.
    pub gamma: *const c_void,
    /// Optional, not for RMS normalization: the beta of the second output, as gamma.
    pub beta: *const c_void,
}

// SAFETY: numbers, and pointers, which are then NULL.
unsafe impl HasSize for lanenorm_second {
    const LEAST: usize = offset_of!(Self, gamma);
    const END: usize = offset_of!(Self, beta) + size_of::<*const c_void>();
}

/// Normalizes all rows into y, and with another gamma and beta into a second y, on as many threads as `threads` says: x
/// is read from memory once. Each output has the bits of a call of its own. y may be x. A residual is refused.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_second(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    second: *const lanenorm_second,
    threads: usize,
) -> lanenorm_status {
    // SAFETY: the caller's duty.
    guard(|| unsafe { run_second(plan, buffers, second, Part::All { threads }) })
}

/// Normalizes `row_count` rows from `first_row` on into both outputs, on the calling thread, without allocating, as
/// `lanenorm_plan_forward_rows` does. `buffers` and `second` are for all rows.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lanenorm_plan_second_rows(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    second: *const lanenorm_second,
    first_row: usize,
    row_count: usize,
) -> lanenorm_status {
    let part = Part::Rows { first: first_row, count: row_count };
    // SAFETY: the caller's duty.
    guard(|| unsafe { run_second(plan, buffers, second, part) })
}

/// Whether both outputs are those of plain calls on a tile or less, and what one of them writes is apart from what the
/// other has. Then two calls, one after the other, are as quick as can be.
fn is_small(plan: &Plan, kind: Kind, buffers: &lanenorm_forward_buffers, of_second: &lanenorm_forward_buffers) -> bool {
    let [Some(first), Some(second)] = [buffers, of_second].map(|buffers| check_plain(plan, kind, buffers)) else {
        return false;
    };
    let (len, row_len) = (first.len, first.row_len);
    // `check_plain` has seen that no sum overflows.
    let apart = |rows: usize, other: usize, other_len: usize| rows >= other + other_len || rows + len <= other;
    let [x, y, second_y] = [first.x, first.y, second.y].map(|p| p.addr());
    let vectors_are_apart = |rows: usize, of: &lanenorm_forward_buffers| {
        apart(rows, of.gamma.addr(), row_len) && apart(rows, of.beta.addr(), row_len)
    };
    len <= second::TILE
        && apart(second_y, x, len)
        && apart(second_y, y, len)
        && vectors_are_apart(second_y, buffers)
        && vectors_are_apart(y, of_second)
}

/// Checks all, then runs.
///
/// # Safety
/// - As of the functions that call it.
unsafe fn run_second(
    plan: *const lanenorm_plan,
    buffers: *const lanenorm_forward_buffers,
    second: *const lanenorm_second,
    part: Part,
) -> Result<(), lanenorm_status> {
    let mut room = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the caller's duty.
    let (inner, buffers, given) =
        unsafe { (initialized(plan)?, sized("buffers", buffers, &mut room.0)?, sized("second", second, &mut room.1)?) };
    let &Inner { ref plan, kind, .. } = inner;
    let (mut first, mut count) = part.of(buffers.rows)?;
    if !buffers.residual.data.is_null() {
        return Err(unsupported("residual is given, but sums have no second output"));
    }
    if !kind.centered {
        no_centered(["beta"], [given.beta])?;
    }
    let none = std::ptr::null_mut();
    let of_second = lanenorm_forward_buffers {
        y: given.y,
        gamma: given.gamma,
        beta: given.beta,
        mean: none,
        mean_lo: none,
        rstd: none,
        ..*buffers
    };
    // The second output is written first: y may lie over x.
    if is_small(plan, kind, buffers, &of_second) {
        // SAFETY: the caller's duty.
        return unsafe {
            forward_out_of_line(plan, kind, &of_second, part)
                .and_then(|()| forward_out_of_line(plan, kind, buffers, part))
        };
    }
    let shape = shape(plan, kind, buffers)?;
    if shape.is_empty() {
        return Ok(());
    }
    let (mut places, len, y_size) = (Places::default(), params_len(plan)?, kind.y.size());
    places.read_vector("second gamma", given.gamma, len, kind.gamma.size())?;
    places.read_vector("second beta", given.beta, len, kind.gamma.size())?;
    let AllRows { x, y, .. } = check_places(&mut places, plan, kind, buffers, &shape)?;
    let Some(y) = y else { return Err(no_rows("y", shape.rows, shape.cols)) };
    let strides = (given.y.row_stride, given.y.outer_stride);
    let second_y = Rows::checked("second y", given.y.data, strides, &shape, y_size)?;
    places.write_rows("second y", &second_y, &shape, y_size, false)?;
    if count == 0 {
        return Ok(());
    }
    let even = [x, y, second_y].iter().all(|rows| rows.are_even(&shape));
    let inner_rows = if even { shape.rows } else { shape.inner_rows };
    let row_bytes = shape.cols * y_size;
    let checked = |y: &Rows| Checked {
        x: x.rows,
        residual: None,
        y: y.rows,
        inner_rows,
        streaming: plan.streams_to(&Written {
            bytes: shape.rows * row_bytes,
            row_bytes,
            tensors: 3,
            on_lines: y.rows.are_on_lines(y_size) || even && have_no_gaps(y.rows.stride, shape.cols, row_bytes),
            in_place: y.are(&x),
            least_row_bytes: y_row_bytes(kind.size(), false),
        }),
    };
    let types = Types::of(kind, false);
    let calls = [
        &Call { plan, types, buffers: &of_second, checked: checked(&second_y) },
        &Call { plan, types, buffers, checked: checked(&y) },
    ];
    let run = run_for(kind);
    // Each element is normalized twice.
    let tasks = part.tasks(buffers.rows.saturating_mul(plan.cols).saturating_mul(2));
    // SAFETY: the caller's duty, and all has been checked.
    unsafe { prepare_stats(kind, buffers, first, count) };
    while jobs::first_is_cut(count, plan.cols, false, tasks.count) {
        for call in calls {
            // SAFETY: there is this row.
            unsafe { run(call, first, 1, tasks) };
        }
        (first, count) = (first + 1, count - 1);
    }
    let tile = second::tile(shape.cols, kind.size());
    let run = |first: usize, count: usize| {
        for at in (0..count).step_by(tile) {
            for call in calls {
                // SAFETY: these rows are in one run, and the work has them.
                unsafe { run(call, first + at, tile.min(count - at), Tasks::ONE) };
            }
        }
    };
    let run: &(dyn Fn(usize, usize) + Sync) = &run;
    parallel::share(Runs { call: calls[0], run, first, count }, &mut [], tasks);
    Ok(())
}
