//! Structures of other sizes than the present ones, and plans of other libraries.

use std::mem::{MaybeUninit, offset_of};

use lanenorm::capi::*;

use crate::backward::BACKWARD;
use crate::buffer::{NONE, NONE_MUT};
use crate::forward::FORWARD;
use crate::{BLANK, DESC, init, is_blank, last_error};

const ROWS: usize = 3;
const COLS: usize = 4;

/// The beginning of a structure, as an older header has it, with something else behind it.
fn with_other_memory<T: Copy>(value: &T, len: usize) -> MaybeUninit<T> {
    let mut memory = MaybeUninit::<T>::uninit();
    let p = memory.as_mut_ptr().cast::<u8>();
    // SAFETY: both have `len` bytes at least, and the memory all those of the structure.
    unsafe {
        p.write_bytes(0x5a, size_of::<T>());
        p.copy_from_nonoverlapping(std::ptr::from_ref(value).cast(), len);
    }
    memory
}

fn x() -> [f32; ROWS * COLS] {
    std::array::from_fn(|i| (i * i) as f32)
}

#[test]
fn fields_beyond_a_smaller_size_are_zero() {
    let layer_norm = lanenorm_desc { cols: COLS, eps: 1e-5, ..DESC };
    for size in [offset_of!(lanenorm_desc, groups), offset_of!(lanenorm_desc, gamma_offset)] {
        let desc = with_other_memory(&lanenorm_desc { struct_size: size, ..layer_norm }, size);
        let (mut plan, x) = (BLANK, x());
        let [mut y, mut expected, mut dx] = [[7.0f32; ROWS * COLS]; 3];
        // SAFETY: all structures have the sizes that they name, and all buffers the elements of the calls.
        unsafe {
            let status = lanenorm_plan_init(&mut plan, desc.as_ptr());
            assert_eq!(status, lanenorm_status::Ok, "{}", last_error());
            let all = lanenorm_forward_buffers {
                rows: ROWS,
                x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
                y: lanenorm_rows_mut { data: expected.as_mut_ptr().cast(), ..NONE_MUT },
                ..FORWARD
            };
            assert_eq!(lanenorm_plan_forward(&init(&layer_norm), &all, 1), lanenorm_status::Ok);
            let size = offset_of!(lanenorm_forward_buffers, bias);
            let y = lanenorm_rows_mut { data: y.as_mut_ptr().cast(), ..NONE_MUT };
            let less = with_other_memory(&lanenorm_forward_buffers { struct_size: size, y, ..all }, size);
            assert_eq!(lanenorm_plan_forward(&plan, less.as_ptr(), 1), lanenorm_status::Ok, "{}", last_error());
            assert_eq!(lanenorm_plan_forward_rows(&plan, less.as_ptr(), 0, ROWS), lanenorm_status::Ok);
            let size = offset_of!(lanenorm_backward_buffers, gamma);
            let backward = lanenorm_backward_buffers {
                struct_size: size,
                rows: ROWS,
                dy: all.x,
                x: all.x,
                dx: lanenorm_rows_mut { data: dx.as_mut_ptr().cast(), ..NONE_MUT },
                ..BACKWARD
            };
            let less = with_other_memory(&backward, size);
            assert_eq!(lanenorm_plan_backward(&plan, less.as_ptr(), 1), lanenorm_status::Ok, "{}", last_error());
        }
        assert_eq!(y, expected);
        assert!(y.iter().chain(&dx).all(|&v| v.abs() < 2.0), "{y:?}, {dx:?}");
    }
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
    // SAFETY: these calls are refused before anything is read but the sizes.
    unsafe {
        let (least, size) = (offset_of!(lanenorm_desc, groups), size_of::<lanenorm_desc>());
        for given in [0, 8, least - 1, least + 4, size - 1, size + 1, size + 8, usize::MAX] {
            let mut plan = BLANK;
            // What is behind it is zero, which makes no difference.
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
    // The last is a mark that every version could have.
    for other in (0..64).map(|bit| mark ^ 1 << bit).chain([0, u64::from_le_bytes(*b"lanenorm")]) {
        let mut plan = plan;
        plan.opaque[0] = MaybeUninit::new(other);
        // SAFETY: the plan does not begin as those that have been initialized do.
        let status = unsafe { lanenorm_plan_forward(&plan, &buffers, 1) };
        assert_eq!(status, lanenorm_status::Uninitialized);
        let message = last_error();
        assert!(message.contains(&format!("{other:#x}")) && message.contains(&format!("{mark:#x}")), "{message}");
    }
    assert_eq!(y, [7.0; ROWS * COLS]);
}
