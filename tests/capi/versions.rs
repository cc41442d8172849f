//! Structures whose sizes differ from this header's, and plans of other libraries.

use std::any::type_name;
use std::cell::Cell;
use std::ffi::c_void;
use std::fmt::Debug;
use std::mem::{MaybeUninit, offset_of};

use lanenorm::bf16;
use lanenorm::capi::*;

use crate::backward::BACKWARD;
use crate::buffer::{NONE, NONE_MUT};
use crate::forward::FORWARD;
use crate::quantize::{QUANTIZED, preset};
use crate::{BLANK, DESC, init, is_blank, last_error};

const ROWS: usize = 3;
const COLS: usize = 4;

/// The beginning of a structure, which says that it has `struct_size` bytes, with `behind` in all bytes from `len` on.
fn beginning<T: Copy>(value: &T, len: usize, struct_size: usize, behind: u8) -> MaybeUninit<T> {
    let mut memory = MaybeUninit::<T>::uninit();
    let p = memory.as_mut_ptr().cast::<u8>();
    // SAFETY: both have at least `len` bytes, the memory has all bytes of the structure, and its first field is the
    // size.
    unsafe {
        p.write_bytes(behind, size_of::<T>());
        p.copy_from_nonoverlapping(std::ptr::from_ref(value).cast(), len);
        p.cast::<usize>().write(struct_size);
    }
    memory
}

/// The outcome of a call with a structure in each size that an older header can have given it: whole words, from
/// `least` bytes on. It must be the outcome of the full size with zeros in the place of the fields that are missing.
fn in_each_size<T: Copy, O: PartialEq + Debug>(value: &T, least: usize, call: impl Fn(*const T) -> O) -> Vec<O> {
    let sizes = (least..=size_of::<T>()).step_by(size_of::<usize>());
    let outcome = |size| {
        let (older, zeros) = (beginning(value, size, size, 0x5a), beginning(value, size, size_of::<T>(), 0));
        let outcome = call(older.as_ptr());
        assert_eq!(outcome, call(zeros.as_ptr()), "{size} bytes of {}", type_name::<T>());
        outcome
    };
    sizes.map(outcome).collect()
}

#[track_caller]
fn assert_differ<O: PartialEq + Debug>(outcomes: &[O]) {
    for (i, outcome) in outcomes.iter().enumerate() {
        assert!(!outcomes[..i].contains(outcome), "number {i} is as one of a smaller size: {outcome:?}");
    }
}

/// Memory for outputs.
struct Outputs<const N: usize>([Vec<Cell<f32>>; N]);

impl<const N: usize> Outputs<N> {
    fn new(lengths: [usize; N]) -> Self {
        Self(lengths.map(|len| vec![Cell::new(0.0); len]))
    }

    fn at(&self, i: usize) -> *mut c_void {
        self.0[i].as_ptr().cast_mut().cast()
    }

    /// The status of a call, and the bits that it leaves in all of the memory.
    fn of(&self, call: impl FnOnce() -> lanenorm_status) -> (lanenorm_status, Vec<u32>) {
        self.0.iter().flatten().for_each(|v| v.set(7.0));
        let status = call();
        (status, self.0.iter().flatten().map(|v| v.get().to_bits()).collect())
    }
}

fn both(first: lanenorm_status, then: impl FnOnce() -> lanenorm_status) -> lanenorm_status {
    if first == lanenorm_status::Ok { then() } else { first }
}

fn x() -> [f32; ROWS * COLS] {
    std::array::from_fn(|i| (i * i) as f32)
}

#[test]
fn fields_beyond_a_smaller_descriptor_are_zero() {
    let d = lanenorm_desc {
        gamma_dtype: lanenorm_dtype::Bf16 as i32,
        cols: COLS,
        eps: 1e-5,
        groups: 3,
        group_repeat: 2,
        gamma_offset: 0.5,
        rounding: lanenorm_rounding::Gamma as i32,
        last_group_repeat: 8,
        ..DESC
    };
    let (x, outputs) = ([0; 12].map(|_| [1.0f32, 4.0, 9.0, 25.0]), Outputs::new([12 * COLS]));
    let gamma: [bf16; 3 * COLS] = std::array::from_fn(|i| bf16::from_f32(i as f32 / 7.0));
    let buffers = lanenorm_forward_buffers {
        rows: 12,
        x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
        y: lanenorm_rows_mut { data: outputs.at(0), ..NONE_MUT },
        gamma: gamma.as_ptr().cast(),
        ..FORWARD
    };
    let outcomes = in_each_size(&d, offset_of!(lanenorm_desc, groups), |d| {
        let mut plan = BLANK;
        // SAFETY: the structures have the sizes that they name, and all buffers the elements of the call.
        outputs.of(|| unsafe { both(lanenorm_plan_init(&mut plan, d), || lanenorm_plan_forward(&plan, &buffers, 1)) })
    });
    assert!(outcomes.iter().all(|(status, _)| *status == lanenorm_status::Ok), "{}", last_error());
    assert_differ(&outcomes);
}

#[test]
fn fields_beyond_smaller_forward_buffers_are_zero() {
    let plan = init(&lanenorm_desc { cols: COLS, eps: 1e-5, ..DESC });
    let (x, gamma) = (x(), [3.0f32, 1.0, 4.0, 1.5]);
    let outputs = Outputs::new([ROWS * COLS, ROWS * COLS, ROWS, ROWS, ROWS]);
    let all = lanenorm_forward_buffers {
        rows: ROWS,
        x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
        residual: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
        sum: lanenorm_rows_mut { data: outputs.at(0), ..NONE_MUT },
        y: lanenorm_rows_mut { data: outputs.at(1), ..NONE_MUT },
        bias: gamma.as_ptr().cast(),
        gamma: gamma.as_ptr().cast(),
        beta: gamma.as_ptr().cast(),
        mean: outputs.at(2),
        mean_lo: outputs.at(3),
        rstd: outputs.at(4),
        ..FORWARD
    };
    let least = offset_of!(lanenorm_forward_buffers, bias);
    let outcomes = in_each_size(&all, least, |buffers| {
        // SAFETY: the structures have the sizes that they name, and all buffers the elements of the call.
        outputs.of(|| unsafe { lanenorm_plan_forward(&plan, buffers, 1) })
    });
    assert!(outcomes.iter().all(|(status, _)| *status == lanenorm_status::Ok), "{}", last_error());
    assert_differ(&outcomes);
    let in_ranges = in_each_size(&all, least, |buffers| {
        let rows = |first, count| {
            // SAFETY: as above.
            unsafe { lanenorm_plan_forward_rows(&plan, buffers, first, count) }
        };
        outputs.of(|| both(rows(1, ROWS - 1), || rows(0, 1)))
    });
    assert_eq!(in_ranges, outcomes);
}

#[test]
fn fields_beyond_smaller_backward_buffers_are_zero() {
    let plan = init(&lanenorm_desc { cols: COLS, eps: 1e-5, ..DESC });
    let (x, gamma) = (x(), [3.0f32, 1.0, 4.0, 1.5]);
    let (mean, mean_lo, rstd) = ([3.0f32; ROWS], [0.25f32; ROWS], [0.5f32; ROWS]);
    let outputs = Outputs::new([ROWS * COLS, COLS, COLS]);
    let all = lanenorm_backward_buffers {
        rows: ROWS,
        dy: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
        x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
        dx: lanenorm_rows_mut { data: outputs.at(0), ..NONE_MUT },
        gamma: gamma.as_ptr().cast(),
        mean: mean.as_ptr().cast(),
        mean_lo: mean_lo.as_ptr().cast(),
        rstd: rstd.as_ptr().cast(),
        dgamma: outputs.at(1),
        dbeta: outputs.at(2),
        ..BACKWARD
    };
    let least = offset_of!(lanenorm_backward_buffers, gamma);
    let outcomes = in_each_size(&all, least, |buffers| {
        // SAFETY: the structures have the sizes that they name, and all buffers the elements of the call.
        outputs.of(|| unsafe { lanenorm_plan_backward(&plan, buffers, 1) })
    });
    // The last field is none, gamma, mean, mean_lo, rstd, dgamma and dbeta in turn: a mean is refused without rstd.
    let (ok, refused) = (lanenorm_status::Ok, lanenorm_status::Unsupported);
    let statuses: Vec<_> = outcomes.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [ok, ok, refused, refused, ok, ok, ok], "{}", last_error());
    assert_differ(&outcomes[..3]);
    assert_differ(&outcomes[3..]);
    let mut sizes = lanenorm_backward_sizes { blocks: 0, partials_bytes: 0, work_bytes: 0 };
    // SAFETY: both are there.
    assert_eq!(unsafe { lanenorm_plan_backward_sizes(&plan, ROWS, &mut sizes) }, ok);
    let scratch = Outputs::new([sizes.partials_bytes.div_ceil(4), sizes.work_bytes.div_ceil(4)]);
    let (partials, work) = (scratch.at(0), scratch.at(1));
    let in_blocks = in_each_size(&all, least, |buffers| {
        // SAFETY: as above, and the scratch memory has the sizes that the plan names.
        outputs.of(|| unsafe {
            let first = lanenorm_plan_backward_blocks(&plan, buffers, partials, work, 0, sizes.blocks);
            both(first, || lanenorm_plan_backward_finish(&plan, buffers, partials))
        })
    });
    assert_eq!(in_blocks, outcomes);
}

#[test]
fn fields_beyond_smaller_quantized_outputs_are_zero() {
    let plan = init(&lanenorm_desc { cols: COLS, eps: 1e-5, ..DESC });
    let (x, outputs) = (x(), Outputs::new([COLS, ROWS]));
    let buffers =
        lanenorm_forward_buffers { rows: ROWS, x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE }, ..FORWARD };
    let ranges = [-1.0f32, 1.0];
    let all = lanenorm_quantized {
        q: lanenorm_rows_mut { data: outputs.at(0), ..NONE_MUT },
        scale: outputs.at(1).cast(),
        ranges: ranges.as_ptr(),
        range_count: 1,
        ..QUANTIZED
    };
    let scheme = lanenorm_scheme { scope: lanenorm_scope::Tensor as i32, ..preset(lanenorm_preset::I8) };
    let statuses: Vec<_> = in_each_size(&all, offset_of!(lanenorm_quantized, ranges), |to| {
        // SAFETY: the structures have the sizes that they name, and all buffers the elements of the call.
        outputs.of(|| unsafe { lanenorm_plan_quantize_rows(&plan, &buffers, &scheme, to, 0, ROWS) }).0
    });
    // Without ranges, without their number, and with both.
    assert_eq!(statuses, [lanenorm_status::NullPointer, lanenorm_status::NullPointer, lanenorm_status::Ok]);
}

#[test]
fn structures_that_end_too_early_or_are_larger_are_refused() {
    let d = lanenorm_desc { cols: COLS, eps: 1e-5, ..DESC };
    let plan = init(&d);
    let refused = |status, what: &str, given: usize, least: usize, size: usize| {
        assert_eq!(status, lanenorm_status::Size);
        let word = size_of::<usize>();
        let expected = format!("struct_size of {what} is {given}, expected {least} to {size}, a multiple of {word}");
        assert_eq!(last_error(), expected);
    };
    // SAFETY: these calls are refused before anything but the sizes is read.
    unsafe {
        let (least, size) = (offset_of!(lanenorm_desc, groups), size_of::<lanenorm_desc>());
        for given in [0, 8, least - 1, least + 4, size - 1, size + 1, size + 8, usize::MAX] {
            let mut plan = BLANK;
            // The memory behind the structure is zero, which makes no difference.
            let longer = [lanenorm_desc { struct_size: given, ..d }, lanenorm_desc { struct_size: 0, ..DESC }];
            refused(lanenorm_plan_init(&mut plan, longer.as_ptr()), "desc", given, least, size);
            assert!(is_blank(&plan));
        }
        let (least, size) = (offset_of!(lanenorm_forward_buffers, bias), size_of::<lanenorm_forward_buffers>());
        for given in [0, least - 1, least + 4, size - 4, size + 1] {
            let buffers = lanenorm_forward_buffers { struct_size: given, ..FORWARD };
            refused(lanenorm_plan_forward(&plan, &buffers, 1), "buffers", given, least, size);
        }
        let (least, size) = (offset_of!(lanenorm_backward_buffers, gamma), size_of::<lanenorm_backward_buffers>());
        for given in [0, least - 1, least + 4, size - 4, size + 1] {
            let buffers = lanenorm_backward_buffers { struct_size: given, ..BACKWARD };
            refused(lanenorm_plan_backward(&plan, &buffers, 1), "buffers", given, least, size);
        }
    }
}

#[test]
fn a_plan_of_another_library_is_not_initialized() {
    let plan = init(&lanenorm_desc { cols: COLS, eps: 1e-5, ..DESC });
    let mut y = [7.0f32; ROWS * COLS];
    let x = x();
    let buffers = lanenorm_forward_buffers {
        rows: ROWS,
        x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
        y: lanenorm_rows_mut { data: y.as_mut_ptr().cast(), ..NONE_MUT },
        ..FORWARD
    };
    // SAFETY: the plan has been initialized.
    let mark = unsafe { plan.opaque[0].assume_init() };
    // The last number is a mark that any version could have.
    for other in (0..64).map(|bit| mark ^ 1 << bit).chain([0, u64::from_le_bytes(*b"lanenorm")]) {
        let mut plan = plan;
        plan.opaque[0] = MaybeUninit::new(other);
        // SAFETY: the plan does not begin with the mark of an initialized plan.
        let status = unsafe { lanenorm_plan_forward(&plan, &buffers, 1) };
        assert_eq!(status, lanenorm_status::Uninitialized);
        let message = last_error();
        assert!(message.contains(&format!("{other:#x}")) && message.contains(&format!("{mark:#x}")), "{message}");
    }
    assert_eq!(y, [7.0; ROWS * COLS]);
}
