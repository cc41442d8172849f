//! A last group that serves another number of rows than the others: the bits are those of Rust's plans.

use std::mem::MaybeUninit;
use std::ptr;

use lanenorm::RmsNorm;
use lanenorm::capi::{
    lanenorm_backward_buffers, lanenorm_backward_sizes, lanenorm_desc, lanenorm_forward_buffers, lanenorm_op,
    lanenorm_plan, lanenorm_plan_backward, lanenorm_plan_backward_blocks, lanenorm_plan_backward_finish,
    lanenorm_plan_backward_sizes, lanenorm_plan_forward, lanenorm_plan_forward_rows, lanenorm_plan_init, lanenorm_rows,
    lanenorm_rows_mut, lanenorm_status,
};

use crate::backward::BACKWARD;
use crate::buffer::{NONE, NONE_MUT};
use crate::data::Random;
use crate::forward::{FORWARD, ok};
use crate::{DESC, init, last_error};

const COLS: usize = 24;
const Q: usize = 6;
const K: usize = 2;

fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let random = &mut Random::new(seed);
    (0..len).map(|_| random.signed()).collect()
}

fn rows_of(v: &[f32]) -> lanenorm_rows {
    lanenorm_rows { data: v.as_ptr().cast(), ..NONE }
}

fn rows_mut(v: &mut [f32]) -> lanenorm_rows_mut {
    lanenorm_rows_mut { data: v.as_mut_ptr().cast(), ..NONE_MUT }
}

fn desc() -> lanenorm_desc {
    let op = lanenorm_op::RmsNorm as i32;
    lanenorm_desc { op, cols: COLS, eps: 1e-6, groups: 2, group_repeat: Q, last_group_repeat: K, ..DESC }
}

fn check(tokens: usize) {
    let rows = tokens * (Q + K);
    let ([x, dy], gamma) = ([1, 2].map(|seed| numbers(seed, rows * COLS)), numbers(3, 2 * COLS));
    let [mut y, mut y_of_rows, mut dx, mut dx_of_blocks] = [(); 4].map(|()| vec![0.0; rows * COLS]);
    let [mut dgamma, mut dgamma_of_blocks] = [(); 2].map(|()| vec![0.0f32; 2 * COLS]);
    let plan = init(&desc());
    let gamma_of_c = gamma.as_ptr().cast();
    let forward = lanenorm_forward_buffers { rows, x: rows_of(&x), y: rows_mut(&mut y), gamma: gamma_of_c, ..FORWARD };
    let in_ranges = lanenorm_forward_buffers { y: rows_mut(&mut y_of_rows), ..forward };
    let backward = lanenorm_backward_buffers {
        rows,
        dy: rows_of(&dy),
        x: rows_of(&x),
        dx: rows_mut(&mut dx),
        gamma: gamma_of_c,
        dgamma: dgamma.as_mut_ptr().cast(),
        ..BACKWARD
    };
    let in_blocks = lanenorm_backward_buffers {
        dx: rows_mut(&mut dx_of_blocks),
        dgamma: dgamma_of_blocks.as_mut_ptr().cast(),
        ..backward
    };
    // SAFETY: all buffers have the elements of the calls.
    unsafe {
        ok(lanenorm_plan_forward(&plan, &forward, 2));
        ok(lanenorm_plan_forward_rows(&plan, &in_ranges, 0, Q + 1));
        ok(lanenorm_plan_forward_rows(&plan, &in_ranges, Q + 1, rows - Q - 1));
        ok(lanenorm_plan_backward(&plan, &backward, 2));
        let mut sizes = lanenorm_backward_sizes { blocks: 0, partials_bytes: 0, work_bytes: 0 };
        ok(lanenorm_plan_backward_sizes(&plan, rows, &mut sizes));
        let mut partials = vec![0.0f64; sizes.partials_bytes.div_ceil(8)];
        let mut work = vec![0.0f64; sizes.work_bytes.div_ceil(8)];
        let [partials, work] = [&mut partials, &mut work].map(|v| v.as_mut_ptr().cast());
        let some = sizes.blocks / 2;
        ok(lanenorm_plan_backward_blocks(&plan, &in_blocks, partials, work, some, sizes.blocks - some));
        ok(lanenorm_plan_backward_blocks(&plan, &in_blocks, partials, work, 0, some));
        ok(lanenorm_plan_backward_finish(&plan, &in_blocks, partials));
    }
    let plan = RmsNorm::new(COLS, 1e-6).and_then(|plan| plan.with_groups(2, Q)?.with_last_repeat(K)).expect("a plan");
    let expected: Vec<f32> = plan.call(&x).gamma(&gamma).to_vec().expect("y");
    let mut sums = vec![0.0; 2 * COLS];
    let of_x: Vec<f32> = plan.backward(&dy, &x).gamma(&gamma).dgamma_to(&mut sums).to_vec().expect("dx");
    assert!(y == expected && y_of_rows == expected, "y of {tokens}");
    assert!(dx == of_x && dx_of_blocks == of_x, "dx of {tokens}");
    assert!(dgamma == sums && dgamma_of_blocks == sums, "dgamma of {tokens}");
}

#[test]
fn rows_have_the_vectors_of_their_group() {
    for tokens in [1, 3, 40, 400] {
        check(tokens);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let refuses = |desc: &lanenorm_desc, message: &str| {
        let mut plan = MaybeUninit::<lanenorm_plan>::uninit();
        // SAFETY: both are there.
        let status = unsafe { lanenorm_plan_init(plan.as_mut_ptr(), desc) };
        assert!(status != lanenorm_status::Ok && last_error().contains(message), "{status:?}: {}", last_error());
    };
    refuses(&lanenorm_desc { groups: 0, ..desc() }, "last_group_repeat is 2, but groups is 0");
    refuses(&lanenorm_desc { last_group_repeat: usize::MAX, ..desc() }, "the last of 18446744073709551615");
    let (x, mut y) = ([1.0; 9 * COLS], [7.0; 9 * COLS]);
    let buffers = lanenorm_forward_buffers { rows: 9, x: rows_of(&x), y: rows_mut(&mut y), ..FORWARD };
    // SAFETY: the buffers have these rows.
    let status = unsafe { lanenorm_plan_forward(&init(&desc()), ptr::from_ref(&buffers), 1) };
    assert!(status != lanenorm_status::Ok && last_error().contains("x has 9 rows"), "{}", last_error());
    assert!(last_error().contains("multiple of the 8") && y == [7.0; 9 * COLS], "{}", last_error());
}
