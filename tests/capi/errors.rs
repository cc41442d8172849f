//! Bad calls: each kind has its status, its message names what is wrong, and everything stays as it was.

use std::ffi::c_void;
use std::mem::{MaybeUninit, offset_of};
use std::ptr::{null, null_mut};

use lanenorm::capi::*;

use crate::backward::BACKWARD;
use crate::buffer::{NONE, NONE_MUT};
use crate::forward::FORWARD;
use crate::quantize::{QUANTIZED, preset};
use crate::{BLANK, DESC, Shared, init, is_blank, last_error};

const ROWS: usize = 6;
const COLS: usize = 4;

/// All memory that a bad call could touch: every buffer is a part of it.
struct Memory(Vec<f32>);

/// Where a buffer starts. There is room for a whole buffer of rows with gaps.
#[derive(Clone, Copy)]
enum At {
    X,
    Residual,
    Sum,
    Y,
    Gamma,
    Beta,
    Bias,
    Mean,
    MeanLo,
    Rstd,
    Partials,
    Work,
    Q,
    Scale,
    ZeroPoint,
    Ranges,
}

const ROOM: usize = 1000;

impl Memory {
    fn new() -> Self {
        Self(vec![7.0; 16 * ROOM])
    }

    fn at(&mut self, at: At) -> *mut c_void {
        self.0[at as usize * ROOM..].as_mut_ptr().cast()
    }

    fn rows(&mut self, at: At) -> lanenorm_rows {
        lanenorm_rows { data: self.at(at), ..NONE }
    }

    fn rows_mut(&mut self, at: At) -> lanenorm_rows_mut {
        lanenorm_rows_mut { data: self.at(at), ..NONE_MUT }
    }

    /// A call with all buffers.
    fn forward(&mut self) -> lanenorm_forward_buffers {
        lanenorm_forward_buffers {
            rows: ROWS,
            x: self.rows(At::X),
            residual: self.rows(At::Residual),
            sum: self.rows_mut(At::Sum),
            y: self.rows_mut(At::Y),
            bias: self.at(At::Bias),
            gamma: self.at(At::Gamma),
            beta: self.at(At::Beta),
            mean: self.at(At::Mean),
            mean_lo: self.at(At::MeanLo),
            rstd: self.at(At::Rstd),
            ..FORWARD
        }
    }

    fn backward(&mut self) -> lanenorm_backward_buffers {
        lanenorm_backward_buffers {
            rows: ROWS,
            dy: self.rows(At::Y),
            x: self.rows(At::X),
            ds: self.rows(At::Residual),
            dx: self.rows_mut(At::Sum),
            gamma: self.at(At::Gamma),
            mean: self.at(At::Mean),
            mean_lo: self.at(At::MeanLo),
            rstd: self.at(At::Rstd),
            dgamma: self.at(At::Beta),
            dbeta: self.at(At::Bias),
            ..BACKWARD
        }
    }

    /// Outputs with a scale and a zero point for each row.
    fn quantized(&mut self) -> lanenorm_quantized {
        lanenorm_quantized {
            q: self.rows_mut(At::Q),
            scale: self.at(At::Scale).cast(),
            zero_point: self.at(At::ZeroPoint).cast(),
            ..QUANTIZED
        }
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        assert!(self.0.iter().all(|&v| v == 7.0), "{what}: something was written");
    }
}

#[track_caller]
fn refused(status: lanenorm_status, expected: lanenorm_status, words: &[&str]) {
    assert_eq!(status, expected, "{}", last_error());
    let message = last_error();
    for word in words {
        assert!(message.contains(word), "\"{message}\" does not say {word}");
    }
}

fn layer_norm() -> lanenorm_desc {
    lanenorm_desc { cols: COLS, eps: 1e-5, ..DESC }
}

fn rms_norm() -> lanenorm_desc {
    lanenorm_desc { op: lanenorm_op::RmsNorm as i32, ..layer_norm() }
}

/// Asserts that a forward call that `spoil` makes bad is refused, for all rows and for a range.
#[track_caller]
fn refused_forward(
    desc: lanenorm_desc,
    expected: lanenorm_status,
    words: &[&str],
    spoil: impl Fn(&mut lanenorm_forward_buffers),
) {
    let (plan, mut memory) = (init(&desc), Memory::new());
    let mut buffers = memory.forward();
    spoil(&mut buffers);
    // SAFETY: buffers that are given are valid, or the call is refused.
    unsafe {
        refused(lanenorm_plan_forward(&plan, &buffers, 1), expected, words);
        refused(lanenorm_plan_forward_rows(&plan, &buffers, 0, buffers.rows), expected, words);
        refused(lanenorm_plan_forward_rows(&plan, &buffers, 0, 0), expected, words);
    }
    // Calls that are quantized check all of this too, but may be without y, and are not for f64.
    if !buffers.y.data.is_null() && desc.dtype != lanenorm_dtype::F64 as i32 {
        let (scheme, to, range) = (preset(lanenorm_preset::U8), memory.quantized(), memory.at(At::Ranges).cast());
        // SAFETY: as above.
        unsafe {
            refused(lanenorm_plan_quantize(&plan, &buffers, &scheme, &to, 1), expected, words);
            refused(lanenorm_plan_quantize_rows(&plan, &buffers, &scheme, &to, 0, 0), expected, words);
            refused(lanenorm_plan_range_rows(&plan, &buffers, 0, 0, range), expected, words);
        }
    }
    memory.assert_untouched(&format!("{words:?}"));
}

/// Asserts that a quantized call that `spoil` makes bad is refused, for all rows and for a range.
#[track_caller]
fn refused_quantized(
    desc: lanenorm_desc,
    expected: lanenorm_status,
    words: &[&str],
    spoil: impl Fn(&mut lanenorm_forward_buffers, &mut lanenorm_scheme, &mut lanenorm_quantized),
) {
    let (plan, mut memory) = (init(&desc), Memory::new());
    let (mut buffers, mut scheme, mut to) = (memory.forward(), preset(lanenorm_preset::U8), memory.quantized());
    spoil(&mut buffers, &mut scheme, &mut to);
    // SAFETY: buffers that are given are valid, or the call is refused.
    unsafe {
        refused(lanenorm_plan_quantize(&plan, &buffers, &scheme, &to, 1), expected, words);
        refused(lanenorm_plan_quantize_rows(&plan, &buffers, &scheme, &to, 0, buffers.rows), expected, words);
        refused(lanenorm_plan_quantize_rows(&plan, &buffers, &scheme, &to, 0, 0), expected, words);
    }
    memory.assert_untouched(&format!("{words:?}"));
}

/// Asserts that a backward call that `spoil` makes bad is refused, whole and in its steps.
#[track_caller]
fn refused_backward(
    desc: lanenorm_desc,
    expected: lanenorm_status,
    words: &[&str],
    spoil: impl Fn(&mut lanenorm_backward_buffers),
) {
    let (plan, mut memory) = (init(&desc), Memory::new());
    let mut buffers = memory.backward();
    spoil(&mut buffers);
    let (partials, work) = (memory.at(At::Partials), memory.at(At::Work));
    // SAFETY: buffers that are given are valid, or the call is refused.
    unsafe {
        refused(lanenorm_plan_backward(&plan, &buffers, 1), expected, words);
        refused(lanenorm_plan_backward_blocks(&plan, &buffers, partials, work, 0, 1), expected, words);
        refused(lanenorm_plan_backward_finish(&plan, &buffers, partials), expected, words);
    }
    memory.assert_untouched(&format!("{words:?}"));
}

/// The calls of this module succeed if nothing is spoilt.
#[test]
fn the_unspoilt_calls_are_good() {
    let (plan, mut memory) = (init(&layer_norm()), Memory::new());
    let (forward, backward) = (memory.forward(), memory.backward());
    let (partials, work) = (memory.at(At::Partials), memory.at(At::Work));
    let (scheme, to, range) = (preset(lanenorm_preset::U8), memory.quantized(), memory.at(At::Ranges).cast());
    // SAFETY: all buffers are there.
    unsafe {
        assert_eq!(lanenorm_plan_forward(&plan, &forward, 1), lanenorm_status::Ok);
        assert_eq!(lanenorm_plan_quantize(&plan, &forward, &scheme, &to, 1), lanenorm_status::Ok);
        assert_eq!(lanenorm_plan_range_rows(&plan, &forward, 0, ROWS, range), lanenorm_status::Ok);
        assert_eq!(lanenorm_plan_backward(&plan, &backward, 1), lanenorm_status::Ok);
        assert_eq!(lanenorm_plan_backward_blocks(&plan, &backward, partials, work, 0, 1), lanenorm_status::Ok);
        assert_eq!(lanenorm_plan_backward_finish(&plan, &backward, partials), lanenorm_status::Ok);
    }
}

#[test]
fn null_pointers() {
    let (d, expected) = (layer_norm(), lanenorm_status::NullPointer);
    refused_forward(d, expected, &["x", "6", "4"], |b| b.x.data = null());
    refused_forward(d, expected, &["y", "6", "4"], |b| b.y.data = null_mut());
    refused_backward(d, expected, &["dy", "6", "4"], |b| b.dy.data = null());
    refused_backward(d, expected, &["x", "6", "4"], |b| b.x.data = null());
    let (plan, mut memory) = (init(&d), Memory::new());
    let buffers = memory.backward();
    let (partials, work) = (memory.at(At::Partials), memory.at(At::Work));
    // SAFETY: buffers that are not valid are NULL.
    unsafe {
        refused(lanenorm_plan_forward(&plan, null(), 1), expected, &["buffers"]);
        refused(lanenorm_plan_forward(null(), &memory.forward(), 1), expected, &["plan"]);
        refused(lanenorm_plan_backward(&plan, null(), 1), expected, &["buffers"]);
        refused(lanenorm_plan_backward(null(), &buffers, 1), expected, &["plan"]);
        refused(lanenorm_plan_backward_sizes(&plan, 1, null_mut()), expected, &["sizes"]);
        refused(lanenorm_plan_backward_sizes(null(), 1, null_mut()), expected, &["plan"]);
        refused(lanenorm_plan_backward_blocks(&plan, &buffers, null_mut(), work, 0, 1), expected, &["partials"]);
        refused(lanenorm_plan_backward_blocks(&plan, &buffers, partials, null_mut(), 0, 1), expected, &["work"]);
        refused(lanenorm_plan_backward_finish(&plan, &buffers, null()), expected, &["partials"]);
        refused(lanenorm_plan_init(null_mut(), &d), expected, &["plan"]);
        refused(lanenorm_plan_init(&mut BLANK.clone(), null()), expected, &["desc"]);
    }
    memory.assert_untouched("NULL");
}

#[test]
fn misaligned() {
    let (d, expected) = (layer_norm(), lanenorm_status::Misaligned);
    /// Moves a pointer by one byte.
    fn off<T>(p: &mut *mut T) {
        *p = p.wrapping_byte_add(1);
    }
    fn off_const<T>(p: &mut *const T) {
        *p = p.wrapping_byte_add(1);
    }
    refused_forward(d, expected, &["x is at", "4"], |b| off_const(&mut b.x.data));
    refused_forward(d, expected, &["residual is at"], |b| off_const(&mut b.residual.data));
    refused_forward(d, expected, &["sum is at"], |b| off(&mut b.sum.data));
    refused_forward(d, expected, &["y is at"], |b| off(&mut b.y.data));
    refused_forward(d, expected, &["bias is at"], |b| off_const(&mut b.bias));
    refused_forward(d, expected, &["gamma is at"], |b| off_const(&mut b.gamma));
    refused_forward(d, expected, &["beta is at"], |b| off_const(&mut b.beta));
    refused_forward(d, expected, &["mean is at"], |b| off(&mut b.mean));
    refused_forward(d, expected, &["mean_lo is at"], |b| off(&mut b.mean_lo));
    refused_forward(d, expected, &["rstd is at"], |b| off(&mut b.rstd));
    refused_backward(d, expected, &["dy is at"], |b| off_const(&mut b.dy.data));
    refused_backward(d, expected, &["x is at"], |b| off_const(&mut b.x.data));
    refused_backward(d, expected, &["ds is at"], |b| off_const(&mut b.ds.data));
    refused_backward(d, expected, &["dx is at"], |b| off(&mut b.dx.data));
    refused_backward(d, expected, &["gamma is at"], |b| off_const(&mut b.gamma));
    refused_backward(d, expected, &["mean is at"], |b| off_const(&mut b.mean));
    refused_backward(d, expected, &["mean_lo is at"], |b| off_const(&mut b.mean_lo));
    refused_backward(d, expected, &["rstd is at"], |b| off_const(&mut b.rstd));
    refused_backward(d, expected, &["dgamma is at"], |b| off(&mut b.dgamma));
    refused_backward(d, expected, &["dbeta is at"], |b| off(&mut b.dbeta));
    // Elements of 16 bits are aligned to 2 bytes, but an f32 beside them is not.
    let bf16 = lanenorm_desc { dtype: lanenorm_dtype::Bf16 as i32, ..d };
    refused_forward(
        lanenorm_desc { gamma_dtype: lanenorm_dtype::F32 as i32, ..bf16 },
        expected,
        &["gamma", "4"],
        |b| {
            b.gamma = b.gamma.wrapping_byte_add(2);
        },
    );
    refused_forward(bf16, expected, &["x", "2"], |b| off_const(&mut b.x.data));
    let (plan, mut memory) = (init(&d), Memory::new());
    let buffers = memory.backward();
    let (partials, work) = (memory.at(At::Partials), memory.at(At::Work));
    // SAFETY: these calls are refused.
    unsafe {
        let (bad, bad_work) = (partials.wrapping_byte_add(1), work.wrapping_byte_add(2));
        refused(lanenorm_plan_backward_blocks(&plan, &buffers, bad, work, 0, 1), expected, &["partials"]);
        refused(lanenorm_plan_backward_blocks(&plan, &buffers, partials, bad_work, 0, 1), expected, &["work"]);
        refused(lanenorm_plan_backward_finish(&plan, &buffers, bad), expected, &["partials"]);
        let bad = (&raw const plan).wrapping_byte_add(1);
        refused(lanenorm_plan_forward(bad, &memory.forward(), 1), expected, &["plan", "8"]);
        refused(lanenorm_plan_init(bad.cast_mut(), &d), expected, &["plan", "8"]);
    }
    memory.assert_untouched("misaligned");
}

#[test]
fn sizes_that_overflow() {
    let (d, expected) = (layer_norm(), lanenorm_status::Overflow);
    let huge = usize::MAX / 8;
    refused_forward(d, expected, &["x", "4"], |b| b.rows = huge);
    refused_forward(d, expected, &["x", "4"], |b| b.rows = usize::MAX);
    refused_forward(lanenorm_desc { cols: huge, ..d }, expected, &["x", "6"], |_| ());
    refused_forward(lanenorm_desc { cols: usize::MAX, ..d }, expected, &["x", "6"], |_| ());
    refused_forward(d, expected, &["x", "6"], |b| b.x.row_stride = huge);
    refused_forward(d, expected, &["x", "6"], |b| b.x.row_stride = usize::MAX);
    refused_forward(d, expected, &["y", "6"], |b| (b.inner_rows, b.y.outer_stride) = (2, usize::MAX));
    refused_forward(d, expected, &["y", "6"], |b| (b.inner_rows, b.y.row_stride) = (2, usize::MAX));
    // The buffer ends past the end of the address space, though memory may have its size.
    refused_forward(d, expected, &["y"], |b| b.y.data = null_mut::<c_void>().wrapping_byte_sub(16));
    refused_forward(d, expected, &["rstd"], |b| b.rstd = null_mut::<c_void>().wrapping_byte_sub(16));
    refused_backward(d, expected, &["dy", "4"], |b| b.rows = huge);
    refused_backward(d, expected, &["dx", "6"], |b| b.dx.row_stride = usize::MAX);
    let groups = lanenorm_desc { cols: usize::MAX / 2, groups: 6, ..d };
    refused_backward(groups, expected, &["gamma"], |_| ());
    let plan = init(&lanenorm_desc { cols: usize::MAX - 1, ..d });
    let mut sizes = lanenorm_backward_sizes { blocks: 7, partials_bytes: 7, work_bytes: 7 };
    // SAFETY: both are there.
    refused(unsafe { lanenorm_plan_backward_sizes(&plan, 1, &mut sizes) }, expected, &["scratch"]);
    assert_eq!(sizes, lanenorm_backward_sizes { blocks: 7, partials_bytes: 7, work_bytes: 7 });
}

#[test]
fn sizes_that_do_not_fit() {
    let (d, expected) = (layer_norm(), lanenorm_status::Size);
    refused_forward(d, expected, &["struct_size", "7"], |b| b.struct_size = 7);
    refused_forward(d, expected, &["struct_size"], |b| b.struct_size += 8);
    // Sizes that end within a pointer.
    for size in (offset_of!(lanenorm_forward_buffers, y)..size_of::<lanenorm_forward_buffers>()).filter(|n| n % 8 != 0)
    {
        refused_forward(d, expected, &["struct_size", &size.to_string()], |b| b.struct_size = size);
    }
    refused_forward(d, expected, &["6", "4"], |b| b.inner_rows = 4);
    refused_forward(lanenorm_desc { groups: 4, ..d }, expected, &["6", "4"], |_| ());
    refused_forward(lanenorm_desc { groups: 2, group_repeat: 2, ..d }, expected, &["6", "2"], |_| ());
    refused_backward(d, expected, &["struct_size", "0"], |b| b.struct_size = 0);
    refused_backward(d, expected, &["6", "5"], |b| b.inner_rows = 5);
    refused_backward(lanenorm_desc { groups: 4, ..d }, expected, &["6", "4"], |_| ());
    let (plan, mut memory) = (init(&d), Memory::new());
    let (forward, backward) = (memory.forward(), memory.backward());
    let (partials, work) = (memory.at(At::Partials), memory.at(At::Work));
    // SAFETY: these calls are refused.
    unsafe {
        for (first, count) in [(7, 0), (0, 7), (6, 1), (usize::MAX, 2), (2, usize::MAX)] {
            let words = [&*count.to_string(), &*first.to_string(), "6"];
            refused(lanenorm_plan_forward_rows(&plan, &forward, first, count), expected, &words);
        }
        for (first, count) in [(2, 0), (0, 2), (1, 1), (usize::MAX, 2), (1, usize::MAX)] {
            let words = [&*count.to_string(), &*first.to_string(), "1"];
            let status = lanenorm_plan_backward_blocks(&plan, &backward, partials, work, first, count);
            refused(status, expected, &words);
        }
        let mut plan = BLANK;
        let bad = lanenorm_desc { struct_size: 96, ..d };
        refused(lanenorm_plan_init(&mut plan, &bad), expected, &["struct_size of desc", "96"]);
        let bad = lanenorm_desc { groups: usize::MAX, group_repeat: 2, ..d };
        refused(lanenorm_plan_init(&mut plan, &bad), expected, &["groups", "2"]);
        assert!(is_blank(&plan));
    }
    memory.assert_untouched("sizes");
}

#[test]
fn rows_that_overlap_one_another() {
    let (d, expected) = (layer_norm(), lanenorm_status::Stride);
    refused_forward(d, expected, &["x", "4", "3"], |b| b.x.row_stride = 3);
    refused_forward(d, expected, &["residual"], |b| b.residual.row_stride = 1);
    refused_forward(d, expected, &["sum"], |b| b.sum.row_stride = 1);
    refused_forward(d, expected, &["y"], |b| b.y.row_stride = 1);
    // Two runs of three rows that overlap: one behind the other, alternating, and neither.
    refused_forward(d, expected, &["y"], |b| (b.inner_rows, b.y.outer_stride) = (3, 11));
    refused_forward(d, expected, &["y"], |b| (b.inner_rows, b.y.row_stride, b.y.outer_stride) = (3, 7, 4));
    refused_forward(d, expected, &["y"], |b| (b.inner_rows, b.y.row_stride, b.y.outer_stride) = (3, 8, 3));
    // Runs of one row have one stride, and the message names it.
    refused_forward(d, expected, &["y", "start 3 elements apart"], |b| (b.inner_rows, b.y.outer_stride) = (1, 3));
    assert!(last_error().ends_with("apart"), "{}", last_error());
    refused_backward(d, expected, &["dy"], |b| b.dy.row_stride = 3);
    refused_backward(d, expected, &["dx"], |b| (b.inner_rows, b.dx.outer_stride) = (2, 5));
}

#[test]
fn outputs_that_overlap_other_buffers() {
    let (d, expected) = (layer_norm(), lanenorm_status::Overlap);
    type Spoil = fn(&mut lanenorm_forward_buffers);
    let forward: [(&[&str], Spoil); 16] = [
        (&["y", "x"], |b| b.y.data = b.x.data.wrapping_byte_add(4).cast_mut()),
        (&["y", "x"], |b| b.y.data = b.x.data.wrapping_byte_sub(4).cast_mut()),
        (&["y", "x"], |b| (b.y.data, b.y.row_stride) = (b.x.data.cast_mut(), 5)),
        (&["y", "residual"], |b| b.y.data = b.residual.data.wrapping_byte_add(92).cast_mut()),
        (&["y", "sum"], |b| b.y.data = b.sum.data),
        (&["y", "sum"], |b| (b.y.data, b.sum.data) = (b.x.data.cast_mut(), b.x.data.cast_mut())),
        (&["sum", "x"], |b| b.sum.data = b.x.data.wrapping_byte_add(16).cast_mut()),
        (&["sum", "residual"], |b| (b.sum.data, b.sum.row_stride) = (b.residual.data.cast_mut(), 5)),
        (&["y", "gamma"], |b| b.gamma = b.y.data.wrapping_byte_add(80)),
        (&["y", "beta"], |b| b.beta = b.y.data),
        (&["sum", "bias"], |b| b.bias = b.sum.data.wrapping_byte_sub(12)),
        (&["mean", "y"], |b| b.mean = b.y.data),
        (&["mean_lo", "mean"], |b| b.mean_lo = b.mean.wrapping_byte_add(20)),
        (&["rstd", "mean_lo"], |b| b.rstd = b.mean_lo),
        (&["rstd", "x"], |b| b.rstd = b.x.data.cast_mut()),
        // Interleaved columns of the same rows that have one column in common.
        (&["y", "x"], |b| {
            (b.x.row_stride, b.y.row_stride, b.y.data) = (8, 8, b.x.data.wrapping_byte_add(12).cast_mut());
        }),
    ];
    for (words, spoil) in forward {
        refused_forward(d, expected, words, spoil);
    }
    type SpoilBackward = fn(&mut lanenorm_backward_buffers);
    let backward: [(&[&str], SpoilBackward); 9] = [
        (&["dx", "x"], |b| b.dx.data = b.x.data.cast_mut()),
        (&["dx", "ds"], |b| b.dx.data = b.ds.data.cast_mut()),
        (&["dx", "dy"], |b| b.dx.data = b.dy.data.wrapping_byte_add(4).cast_mut()),
        (&["dx", "dy"], |b| (b.dx.data, b.dx.row_stride) = (b.dy.data.cast_mut(), 9)),
        (&["dx", "gamma"], |b| b.gamma = b.dx.data),
        (&["dgamma", "gamma"], |b| b.dgamma = b.gamma.cast_mut()),
        (&["dbeta", "dgamma"], |b| b.dbeta = b.dgamma.wrapping_byte_add(12)),
        (&["dgamma", "rstd"], |b| b.dgamma = b.rstd.cast_mut()),
        (&["dbeta", "dx"], |b| b.dbeta = b.dx.data),
    ];
    for (words, spoil) in backward {
        refused_backward(d, expected, words, spoil);
    }
    let (plan, mut memory) = (init(&d), Memory::new());
    let buffers = memory.backward();
    let (partials, work) = (memory.at(At::Partials), memory.at(At::Work));
    // SAFETY: these calls are refused.
    unsafe {
        let status = lanenorm_plan_backward_blocks(&plan, &buffers, partials, partials, 0, 1);
        refused(status, expected, &["work", "partials"]);
        let status = lanenorm_plan_backward_blocks(&plan, &buffers, buffers.dx.data, work, 0, 1);
        refused(status, expected, &["partials", "dx"]);
        let status = lanenorm_plan_backward_blocks(&plan, &buffers, partials, buffers.x.data.cast_mut(), 0, 1);
        refused(status, expected, &["work", "x"]);
        refused(lanenorm_plan_backward_finish(&plan, &buffers, buffers.dgamma), expected, &["partials", "dgamma"]);
    }
    memory.assert_untouched("overlaps");
}

/// A wide y cannot lie where x does, even if it starts there.
#[test]
fn a_wide_y_replaces_nothing() {
    let bf16 = lanenorm_dtype::Bf16 as i32;
    let desc = lanenorm_desc { dtype: bf16, y_dtype: lanenorm_dtype::F32 as i32, gamma_dtype: bf16, ..layer_norm() };
    refused_forward(desc, lanenorm_status::Overlap, &["y", "x"], |b| b.y.data = b.x.data.cast_mut());
    let one_row = |b: &mut lanenorm_forward_buffers| (b.rows, b.y.data) = (1, b.x.data.cast_mut());
    refused_forward(desc, lanenorm_status::Overlap, &["y", "x"], one_row);
}

#[test]
fn quantized_calls_that_do_not_fit() {
    use lanenorm_status::{Misaligned, NullPointer, Overflow, Overlap, Scheme, Size, Stride, Unsupported};
    let d = layer_norm();
    refused_quantized(d, NullPointer, &["q", "6", "4"], |_, _, q| q.q.data = null_mut());
    let unrounded = lanenorm_desc { dtype: lanenorm_dtype::Bf16 as i32, sums: lanenorm_sums::Unrounded as i32, ..d };
    let words = &["sums", "Unrounded", "must be Rounded"];
    refused_quantized(unrounded, Unsupported, words, |b, _, _| b.residual.data = b.x.data);
    refused_quantized(d, NullPointer, &["scale", "6"], |_, _, q| q.scale = null_mut());
    refused_quantized(d, NullPointer, &["zero_point", "6"], |_, _, q| q.zero_point = null_mut());
    refused_quantized(d, Misaligned, &["scale", "4"], |_, _, q| q.scale = q.scale.wrapping_byte_add(2));
    refused_quantized(d, Overflow, &["q", "6"], |_, _, q| q.q.row_stride = usize::MAX);
    refused_quantized(d, Stride, &["q", "4", "3"], |_, _, q| q.q.row_stride = 3);
    refused_quantized(d, Size, &["struct_size of scheme", "16"], |_, s, _| s.struct_size = 16);
    refused_quantized(d, Size, &["struct_size of quantized", "8"], |_, _, q| q.struct_size = 8);
    refused_quantized(d, Size, &["4", "32"], |_, s, _| *s = preset(lanenorm_preset::Q8_0));
    refused_quantized(d, Size, &["4", "32"], |_, s, _| {
        *s = preset(lanenorm_preset::I8);
        (s.scope, s.block) = (lanenorm_scope::Block as i32, 32);
    });

    type Spoil = fn(&mut lanenorm_forward_buffers, &mut lanenorm_scheme, &mut lanenorm_quantized);
    let overlaps: [(&[&str], Spoil); 7] = [
        (&["q", "x"], |b, _, q| q.q.data = b.x.data.cast_mut()),
        (&["q", "y"], |b, _, q| q.q.data = b.y.data.wrapping_byte_add(95)),
        (&["q", "gamma"], |b, _, q| q.q.data = b.gamma.cast_mut().wrapping_byte_add(15)),
        (&["scale", "q"], |_, _, q| q.scale = q.q.data.wrapping_byte_add(20).cast()),
        (&["scale", "rstd"], |b, _, q| q.scale = b.rstd.cast()),
        (&["zero_point", "scale"], |_, _, q| q.zero_point = q.scale.wrapping_byte_add(23).cast()),
        (&["zero_point", "residual"], |b, _, q| q.zero_point = b.residual.data.cast_mut().cast()),
    ];
    for (words, spoil) in overlaps {
        refused_quantized(d, Overlap, words, spoil);
    }

    let parts: [(&[&str], Spoil); 8] = [
        (&["divisor", "0"], |_, s, _| s.divisor = 0.0),
        (&["least amax", "-1"], |_, s, _| s.least_amax = -1.0),
        (&["least scale", "inf"], |_, s, _| s.least_scale = f32::INFINITY),
        (&["scale of zeros", "NaN"], |_, s, _| s.zero_scale = f32::NAN),
        (&["least integer", "-5"], |_, s, _| s.least = -5),
        (&["scale", "-2"], |_, s, _| (s.scope, s.given_scale) = (lanenorm_scope::Given as i32, -2.0)),
        (&["zero point", "256"], |_, s, _| {
            (s.scope, s.given_scale, s.given_zero_point) = (lanenorm_scope::Given as i32, 1.0, 256);
        }),
        (&["block", "48"], |_, s, _| (s.scope, s.block) = (lanenorm_scope::Block as i32, 48)),
    ];
    for (words, spoil) in parts {
        refused_quantized(d, Scheme, words, spoil);
    }

    let numbers: [(&[&str], Spoil); 10] = [
        (&["format", "4"], |_, s, _| s.format = 4),
        (&["scope", "-1"], |_, s, _| s.scope = -1),
        (&["layout", "4"], |_, s, _| s.layout = 4),
        (&["quotient", "3"], |_, s, _| s.quotient = 3),
        (&["ties", "2"], |_, s, _| s.ties = 2),
        (&["zero_point", "no array"], |_, s, _| *s = preset(lanenorm_preset::I8)),
        (&["scale", "no array"], |_, s, _| (s.scope, s.given_scale) = (lanenorm_scope::Given as i32, 1.0)),
        (&["ranges", "tensor"], |_, _, q| q.range_count = 1),
        (&["ranges", "tensor"], |_, _, q| q.ranges = q.scale),
        (&["residual", "sum", "y"], |b, _, _| (b.sum, b.y) = (NONE_MUT, NONE_MUT)),
    ];
    for (words, spoil) in numbers {
        refused_quantized(d, Unsupported, words, spoil);
    }
    refused_quantized(lanenorm_desc { dtype: lanenorm_dtype::F64 as i32, ..d }, Unsupported, &["f64"], |_, _, _| ());
}

/// Calls by rows with a scale for the tensor need the range of all rows.
#[test]
fn ranges_that_do_not_fit() {
    use lanenorm_status::{Misaligned, NullPointer, Overflow, Overlap, Scheme, Size, Unsupported};
    let (plan, mut memory) = (init(&layer_norm()), Memory::new());
    let (buffers, scheme, good) = (memory.forward(), preset(lanenorm_preset::OnnxU8), memory.quantized());
    let rows = |ranges: *const f32, range_count| {
        let to = lanenorm_quantized { ranges, range_count, ..good };
        // SAFETY: the calls are refused.
        unsafe { lanenorm_plan_quantize_rows(&plan, &buffers, &scheme, &to, 0, ROWS) }
    };
    refused(rows(null(), 0), NullPointer, &["ranges", "0"]);
    refused(rows(null(), 1), NullPointer, &["ranges", "1"]);
    let ranges = memory.at(At::Ranges).cast::<f32>().cast_const();
    refused(rows(ranges, 0), NullPointer, &["ranges", "0"]);
    refused(rows(ranges.wrapping_byte_add(1), 1), Misaligned, &["ranges"]);
    refused(rows(ranges, usize::MAX), Overflow, &["ranges"]);
    refused(rows(ranges, usize::MAX / 4), Overflow, &["ranges"]);
    refused(rows(good.scale.wrapping_sub(1), 1), Overlap, &["scale", "ranges"]);
    // All memory holds 7.
    refused(rows(ranges, 1), Scheme, &["range 0", "from 7 to 7"]);
    let below = [[-1.0f32, 1.0], [-3.0, -2.0]];
    refused(rows(below.as_ptr().cast(), 2), Scheme, &["range 1", "from -3 to -2"]);
    let range = memory.at(At::Ranges).cast::<f32>();
    let no_y = lanenorm_forward_buffers { sum: NONE_MUT, y: NONE_MUT, ..buffers };
    // SAFETY: as above.
    unsafe {
        let to = lanenorm_quantized { ranges, range_count: 1, ..good };
        refused(lanenorm_plan_quantize(&plan, &buffers, &scheme, &to, 1), Unsupported, &["ranges"]);
        refused(lanenorm_plan_range_rows(&plan, &buffers, 0, 1, null_mut()), NullPointer, &["range"]);
        let bad = range.wrapping_byte_add(2);
        refused(lanenorm_plan_range_rows(&plan, &buffers, 0, 1, bad), Misaligned, &["range"]);
        refused(lanenorm_plan_range_rows(&plan, &buffers, 0, 1, buffers.rstd.cast()), Overlap, &["range", "rstd"]);
        refused(lanenorm_plan_range_rows(&plan, &buffers, 5, 2, range), Size, &["5", "2", "6"]);
        refused(lanenorm_plan_range_rows(&plan, &no_y, 0, 1, range), Unsupported, &["residual", "sum", "y"]);
        let mut sizes = lanenorm_quantized_sizes { row_bytes: 7, scales: 7, zero_points: 7 };
        refused(lanenorm_plan_quantized_sizes(&plan, &scheme, 1, null_mut()), NullPointer, &["sizes"]);
        refused(lanenorm_plan_quantized_sizes(&plan, null(), 1, &mut sizes), NullPointer, &["scheme"]);
        let by_row = preset(lanenorm_preset::U8);
        refused(lanenorm_plan_quantized_sizes(&plan, &by_row, usize::MAX, &mut sizes), Overflow, &["q"]);
        assert_eq!(sizes, lanenorm_quantized_sizes { row_bytes: 7, scales: 7, zero_points: 7 });
        refused(lanenorm_scheme_init(null_mut(), 0), NullPointer, &["scheme"]);
        let mut small = lanenorm_scheme { struct_size: 56, ..by_row };
        refused(lanenorm_scheme_init(&mut small, 0), Size, &["struct_size of scheme", "56", "64"]);
    }
    memory.assert_untouched("ranges");
}

/// A NaN in the range of some rows is one in the range of all.
#[test]
fn ranges_that_are_not_finite_merge_to_nan() {
    let (plan, mut memory) = (init(&layer_norm()), Memory::new());
    let (buffers, scheme) = (memory.forward(), preset(lanenorm_preset::OnnxU8));
    for bad in [[f32::NAN; 2], [-1.0, f32::INFINITY]] {
        let ranges = [[-1.0f32, 1.0], bad, [-2.0, 0.0]];
        let to = lanenorm_quantized { ranges: ranges.as_ptr().cast(), range_count: 3, ..memory.quantized() };
        // SAFETY: all buffers are there.
        let status = unsafe { lanenorm_plan_quantize_rows(&plan, &buffers, &scheme, &to, 0, ROWS) };
        assert_eq!(status, lanenorm_status::Ok, "{}", last_error());
        // SAFETY: they have been written.
        let (scale, zero_point) = unsafe { (*to.scale, *to.zero_point) };
        assert!(scale.is_nan() && zero_point == 0);
    }
}

#[test]
fn combinations_that_do_not_exist() {
    use lanenorm_dtype::{Bf16, Default, F16, F32, F64};
    let (d, rms, expected) = (layer_norm(), rms_norm(), lanenorm_status::Unsupported);
    let no_mean = |b: &mut lanenorm_forward_buffers| (b.beta, b.mean, b.mean_lo) = (null(), null_mut(), null_mut());
    refused_forward(rms, expected, &["beta"], |b| (b.mean, b.mean_lo) = (null_mut(), null_mut()));
    refused_forward(rms, expected, &["mean"], |b| (b.beta, b.mean_lo) = (null(), null_mut()));
    refused_forward(rms, expected, &["mean_lo"], |b| (b.beta, b.mean) = (null(), null_mut()));
    refused_forward(d, expected, &["residual"], |b| (b.residual, b.bias) = (NONE, null()));
    refused_forward(rms, expected, &["residual"], |b| {
        no_mean(b);
        (b.residual, b.sum) = (NONE, NONE_MUT);
    });
    let wide = lanenorm_desc { dtype: F16 as i32, y_dtype: F32 as i32, ..d };
    refused_forward(wide, expected, &["y is f32", "residual is f16", "sum"], |b| b.sum = NONE_MUT);
    let stream = lanenorm_desc { dtype: F16 as i32, sum_dtype: F32 as i32, ..d };
    refused_forward(stream, expected, &["y is f16", "residual is f32", "sum"], |b| b.sum = NONE_MUT);
    refused_backward(stream, expected, &["sum_dtype is f32", "dtype of f16"], |_| {});

    refused_backward(rms, expected, &["dbeta"], |b| (b.mean, b.mean_lo) = (null(), null()));
    refused_backward(rms, expected, &["mean"], |b| (b.dbeta, b.mean_lo) = (null_mut(), null()));
    refused_backward(d, expected, &["mean", "rstd", "6"], |b| b.rstd = null());
    refused_backward(d, expected, &["rstd", "mean", "6"], |b| (b.mean, b.mean_lo) = (null(), null()));
    refused_backward(d, expected, &["mean_lo", "6"], |b| (b.mean, b.rstd) = (null(), null()));
    refused_backward(d, expected, &["dx", "dgamma", "dbeta"], |b| {
        (b.dx, b.ds, b.dgamma, b.dbeta) = (NONE_MUT, NONE, null_mut(), null_mut());
    });
    refused_backward(d, expected, &["ds", "6"], |b| b.dx = NONE_MUT);

    let mut plan = BLANK;
    let types = |dtype: lanenorm_dtype, gamma: lanenorm_dtype, y: lanenorm_dtype| lanenorm_desc {
        dtype: dtype as i32,
        gamma_dtype: gamma as i32,
        y_dtype: y as i32,
        ..d
    };
    let bad: [(&[&str], lanenorm_desc); 18] = [
        (&["op", "4"], lanenorm_desc { op: 4, ..d }),
        (&["op", "-1"], lanenorm_desc { op: -1, ..d }),
        (&["dtype", "5"], lanenorm_desc { dtype: 5, ..d }),
        (&["gamma_dtype", "9"], lanenorm_desc { gamma_dtype: 9, ..d }),
        (&["y_dtype", "-2"], lanenorm_desc { y_dtype: -2, ..d }),
        (&["store", "3"], lanenorm_desc { store: 3, ..d }),
        (&["tier", "5"], lanenorm_desc { tier: 5, ..d }),
        (&["gamma_dtype is f64", "expected f32, f16 or bf16"], types(F32, F64, Default)),
        (&["gamma_dtype is f32", "expected f64"], types(F64, F32, Default)),
        (&["y_dtype is bf16", "expected f16 or f32"], types(F16, Default, Bf16)),
        (&["y_dtype", "f16", "f64"], types(F64, Default, F16)),
        (&["gamma_dtype", "f16", "bf16"], types(Bf16, F16, Default)),
        (&["rounding", "4"], lanenorm_desc { rounding: 4, ..d }),
        (&["rounding", "-1"], lanenorm_desc { rounding: -1, ..d }),
        (&["sums", "3"], lanenorm_desc { sums: 3, ..d }),
        (&["sum_dtype", "6"], lanenorm_desc { sum_dtype: 6, ..d }),
        (&["sum_dtype is bf16", "expected f32"], lanenorm_desc { sum_dtype: Bf16 as i32, ..d }),
        (&["sum_dtype", "f32", "f64"], lanenorm_desc { sum_dtype: F32 as i32, dtype: F64 as i32, ..d }),
    ];
    for (words, desc) in bad {
        // SAFETY: both are there.
        refused(unsafe { lanenorm_plan_init(&mut plan, &desc) }, expected, words);
        assert!(is_blank(&plan));
    }
}

#[test]
fn bad_eps() {
    let mut plan = BLANK;
    let mut memory = Memory::new();
    let (x, y) = (memory.at(At::X).cast::<f32>(), memory.at(At::Y).cast::<f32>());
    for eps in [-1.0f32, f32::NAN, f32::INFINITY, -f32::MIN_POSITIVE] {
        let desc = lanenorm_desc { eps: eps.into(), ..layer_norm() };
        // SAFETY: all is there.
        unsafe {
            refused(lanenorm_plan_init(&mut plan, &desc), lanenorm_status::Eps, &["eps"]);
            let status = lanenorm_layer_norm_f32(x, 2, 4, null(), null(), eps, y, null_mut(), null_mut(), 1);
            refused(status, lanenorm_status::Eps, &["eps"]);
            // Also if there is nothing to do.
            let status = lanenorm_rms_norm_f32(null(), 0, 4, null(), 0.0, eps, null_mut(), null_mut(), 0);
            refused(status, lanenorm_status::Eps, &["eps"]);
        }
        assert!(is_blank(&plan));
    }
    memory.assert_untouched("eps");
}

#[test]
fn plans_that_are_not_initialized() {
    let (mut memory, expected) = (Memory::new(), lanenorm_status::Uninitialized);
    let (forward, backward) = (memory.forward(), memory.backward());
    let (partials, work) = (memory.at(At::Partials), memory.at(At::Work));
    for plan in [BLANK, lanenorm_plan { opaque: [MaybeUninit::new(u64::MAX); 16] }] {
        let mut sizes = lanenorm_backward_sizes { blocks: 7, partials_bytes: 7, work_bytes: 7 };
        // SAFETY: all buffers are valid, and the plan starts with another number.
        unsafe {
            refused(lanenorm_plan_forward(&plan, &forward, 1), expected, &["initialized"]);
            refused(lanenorm_plan_forward_rows(&plan, &forward, 0, 1), expected, &[]);
            refused(lanenorm_plan_backward(&plan, &backward, 1), expected, &[]);
            refused(lanenorm_plan_backward_sizes(&plan, 1, &mut sizes), expected, &[]);
            refused(lanenorm_plan_backward_blocks(&plan, &backward, partials, work, 0, 1), expected, &[]);
            refused(lanenorm_plan_backward_finish(&plan, &backward, partials), expected, &[]);
        }
        assert_eq!(sizes.blocks, 7);
    }
    memory.assert_untouched("uninitialized");
}

/// The functions of the common cases pass each pointer on to its place, where it is checked.
#[test]
fn functions_of_the_common_cases_refuse_too() {
    let mut memory = Memory::new();
    let f = |memory: &mut Memory, at| memory.at(at).cast::<f32>();
    let (x, r, y) = (f(&mut memory, At::X), f(&mut memory, At::Residual), f(&mut memory, At::Y));
    let (sum, gamma, rstd) = (f(&mut memory, At::Sum), f(&mut memory, At::Gamma), f(&mut memory, At::Rstd));
    let h = |p: *mut f32| p.cast::<u16>();
    let d = |p: *mut f32| p.cast::<f64>();
    let (n0, m0) = (null::<f32>(), null_mut::<f32>());
    let (hn0, hm0) = (null::<u16>(), null_mut::<u16>());
    use lanenorm_status::{Misaligned, NullPointer, Overflow, Overlap, Unsupported};
    // SAFETY: these calls are refused.
    unsafe {
        refused(lanenorm_layer_norm_f32(n0, 6, 4, gamma, n0, 0.0, y, m0, m0, 1), NullPointer, &["x", "6", "4"]);
        refused(lanenorm_layer_norm_f32(x, 6, 4, gamma, n0, 0.0, m0, m0, m0, 0), NullPointer, &["y"]);
        refused(lanenorm_layer_norm_f32(x, 6, 4, gamma, n0, 0.0, y, rstd, rstd, 1), Overlap, &["rstd", "mean"]);
        for (at, words) in [(1, ["y", "x"]), (-1, ["y", "x"]), (23, ["y", "x"])] {
            let y = x.wrapping_offset(at);
            refused(lanenorm_layer_norm_f32(x, 6, 4, gamma, n0, 0.0, y, m0, m0, 1), Overlap, &words);
        }
        for at in [-3, 0, 23] {
            let over = y.wrapping_offset(at);
            refused(lanenorm_layer_norm_f32(x, 6, 4, over, n0, 0.0, y, m0, m0, 1), Overlap, &["y", "gamma"]);
            refused(lanenorm_layer_norm_f32(x, 6, 4, n0, over, 0.0, y, m0, m0, 1), Overlap, &["y", "beta"]);
        }
        refused(lanenorm_layer_norm_f32(x, usize::MAX, 4, n0, n0, 0.0, y, m0, m0, 0), Overflow, &["x"]);
        let status = lanenorm_layer_norm_f64(
            d(x).wrapping_byte_add(4),
            6,
            4,
            null(),
            null(),
            0.0,
            d(y),
            null_mut(),
            null_mut(),
            1,
        );
        refused(status, Misaligned, &["x", "8"]);
        let status = lanenorm_layer_norm_f16(h(x), 6, 4, hn0, h(y).wrapping_byte_add(1), 0.0, h(y), m0, m0, 1);
        refused(status, Misaligned, &["beta", "2"]);
        refused(lanenorm_layer_norm_bf16(h(x), 6, 4, h(y), hn0, 0.0, h(y), m0, m0, 1), Overlap, &["y", "gamma"]);
        refused(lanenorm_rms_norm_f32(x, 6, 4, y, 0.0, 0.0, y, m0, 1), Overlap, &["y", "gamma"]);
        refused(lanenorm_rms_norm_f16(h(x), 6, 4, hn0, 0.0, 0.0, hm0, m0, 1), NullPointer, &["y"]);
        refused(lanenorm_rms_norm_bf16(hn0, 6, 4, hn0, 0.0, 0.0, h(y), m0, 1), NullPointer, &["x"]);
        refused(lanenorm_add_layer_norm_f32(x, n0, 6, 4, n0, n0, 0.0, sum, y, 1), NullPointer, &["residual", "6", "4"]);
        refused(lanenorm_add_layer_norm_f32(x, r, 6, 4, n0, n0, 0.0, y, y, 1), Overlap, &["y", "sum"]);
        refused(lanenorm_add_layer_norm_f16(h(x), hn0, 6, 4, hn0, hn0, 0.0, hm0, h(y), 1), NullPointer, &["residual"]);
        refused(lanenorm_add_layer_norm_bf16(h(x), h(r), 6, 4, hn0, hn0, 0.0, hm0, hm0, 1), NullPointer, &["y"]);
        refused(lanenorm_add_rms_norm_f32(x, n0, 6, 4, n0, 0.0, 0.0, m0, y, 1), NullPointer, &["residual"]);
        refused(lanenorm_add_rms_norm_f16(h(x), hn0, 6, 4, hn0, 0.0, 0.0, hm0, h(y), 1), NullPointer, &["residual"]);
        refused(lanenorm_add_rms_norm_bf16(h(x), hn0, 6, 4, hn0, 0.0, 0.0, hm0, h(y), 1), NullPointer, &["residual"]);
        let status = lanenorm_layer_norm_backward_f32(y, x, rstd, n0, 6, 4, gamma, 0.0, r, m0, m0, 1);
        refused(status, Unsupported, &["mean", "rstd", "6"]);
        let status = lanenorm_layer_norm_backward_f32(y, x, n0, n0, 6, 4, gamma, 0.0, m0, m0, m0, 1);
        refused(status, Unsupported, &["dx", "dgamma", "dbeta"]);
        let status = lanenorm_layer_norm_backward_bf16(h(y), h(x), n0, n0, 6, 4, hn0, 0.0, h(x), m0, m0, 1);
        refused(status, Overlap, &["dx", "x"]);
        let status = lanenorm_rms_norm_backward_f32(y, n0, n0, 6, 4, gamma, 0.0, 0.0, r, m0, 1);
        refused(status, NullPointer, &["x"]);
    }
    memory.assert_untouched("functions");
}

/// Without rows or columns no buffer has to be valid, and nothing happens.
#[test]
fn nothing_to_do() {
    let ok = |status| assert_eq!(status, lanenorm_status::Ok, "{}", last_error());
    let (n, m) = (null::<f32>(), null_mut::<f32>());
    for (rows, cols) in [(0, 0), (0, 5), (5, 0), (0, usize::MAX), (usize::MAX, 0)] {
        // SAFETY: no buffer has to be valid.
        unsafe {
            ok(lanenorm_layer_norm_f32(n, rows, cols, n, n, 0.0, m, m, m, 0));
            ok(lanenorm_layer_norm_f64(null(), rows, cols, null(), null(), 0.0, null_mut(), null_mut(), null_mut(), 0));
            ok(lanenorm_rms_norm_bf16(null(), rows, cols, null(), 0.0, 0.0, null_mut(), m, 0));
            ok(lanenorm_add_layer_norm_f32(n, n, rows, cols, n, n, 0.0, m, m, 0));
            ok(lanenorm_add_rms_norm_f16(null(), null(), rows, cols, null(), 0.0, 0.0, null_mut(), null_mut(), 0));
            ok(lanenorm_layer_norm_backward_f32(n, n, n, n, rows, cols, n, 0.0, m, m, m, 0));
            ok(lanenorm_rms_norm_backward_f32(n, n, n, rows, cols, n, 0.0, 0.0, m, m, 0));
        }
        let plan = init(&lanenorm_desc { cols, ..layer_norm() });
        let (forward, backward) =
            (lanenorm_forward_buffers { rows, ..FORWARD }, lanenorm_backward_buffers { rows, ..BACKWARD });
        // SAFETY: no buffer has to be valid.
        unsafe {
            ok(lanenorm_plan_forward(&plan, &forward, 0));
            ok(lanenorm_plan_forward_rows(&plan, &forward, 0, rows));
            for named in [lanenorm_preset::I8, lanenorm_preset::OnnxU8] {
                ok(lanenorm_plan_quantize(&plan, &forward, &preset(named), &QUANTIZED, 0));
            }
            ok(lanenorm_plan_quantize_rows(&plan, &forward, &preset(lanenorm_preset::I8), &QUANTIZED, 0, rows));
            let (mut scale, mut zero_point) = ([7.0; 5], [7; 5]);
            let to = lanenorm_quantized { scale: &mut scale[0], zero_point: &mut zero_point[0], ..QUANTIZED };
            ok(lanenorm_plan_quantize(&plan, &forward, &preset(lanenorm_preset::OnnxU8), &to, 0));
            assert_eq!((scale, zero_point), ([1.0, 7.0, 7.0, 7.0, 7.0], [0, 7, 7, 7, 7]));
            if rows <= 5 {
                let to = lanenorm_quantized { scale: scale.as_mut_ptr(), zero_point: zero_point.as_mut_ptr(), ..to };
                ok(lanenorm_plan_quantize_rows(&plan, &forward, &preset(lanenorm_preset::U8), &to, 0, rows));
                let of_rows = if rows == 0 { ([1.0, 7.0, 7.0, 7.0, 7.0], [0, 7, 7, 7, 7]) } else { ([1.0; 5], [0; 5]) };
                assert_eq!((scale, zero_point), of_rows);
            }
            let mut range = [7.0; 2];
            ok(lanenorm_plan_range_rows(&plan, &forward, 0, rows, range.as_mut_ptr()));
            assert_eq!(range, [0.0; 2]);
            ok(lanenorm_plan_backward(&plan, &backward, 0));
            ok(lanenorm_plan_backward_blocks(&plan, &backward, null_mut(), null_mut(), 0, 0));
            ok(lanenorm_plan_backward_finish(&plan, &backward, null()));
        }
    }
}

/// Each thread has a message of its own, which stays until the next error of the thread.
#[test]
fn messages_are_kept_for_each_thread() {
    let mut plan = BLANK;
    let bad = Shared(lanenorm_desc { eps: -2.5, ..layer_norm() });
    // SAFETY: both are there.
    refused(unsafe { lanenorm_plan_init(&mut plan, &bad.get()) }, lanenorm_status::Eps, &["-2.5"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(last_error(), "");
            // SAFETY: the plan is NULL.
            refused(unsafe { lanenorm_plan_init(null_mut(), &bad.get()) }, lanenorm_status::NullPointer, &["plan"]);
        });
    });
    init(&layer_norm());
    assert!(last_error().contains("-2.5"), "{}", last_error());
}
