//! Where calls round, by descriptors: the bits are those of Rust's plans.

use lanenorm::capi::{
    lanenorm_backward_buffers, lanenorm_desc, lanenorm_dtype, lanenorm_forward_buffers, lanenorm_op,
    lanenorm_plan_backward, lanenorm_plan_forward, lanenorm_plan_forward_rows, lanenorm_rounding, lanenorm_rows,
    lanenorm_rows_mut, lanenorm_sums,
};
use lanenorm::{LayerNorm, RmsNorm, Rounding, Sums, bf16};

use crate::backward::BACKWARD;
use crate::buffer::{NONE, NONE_MUT};
use crate::data::Random;
use crate::forward::{FORWARD, ok};
use crate::{DESC, init};

const ROWS: usize = 7;
const COLS: usize = 1100;

fn numbers(seed: u64, len: usize) -> Vec<bf16> {
    let random = &mut Random::new(seed);
    (0..len).map(|_| bf16::from_f32(random.signed())).collect()
}

fn rows(v: &[bf16]) -> lanenorm_rows {
    lanenorm_rows { data: v.as_ptr().cast(), ..NONE }
}

fn rows_mut(v: &mut [bf16]) -> lanenorm_rows_mut {
    lanenorm_rows_mut { data: v.as_mut_ptr().cast(), ..NONE_MUT }
}

/// y, the sums and dx, by a descriptor and by a plan.
fn both(is_layer_norm: bool, rounding: Rounding, numbers_of: (i32, i32)) {
    let [x, residual, dy] = [1, 2, 3].map(|seed| numbers(seed, ROWS * COLS));
    let (gamma, beta) = (numbers(4, COLS), numbers(5, COLS));
    let [mut y, mut y_of_rows, mut s, mut dx] = [(); 4].map(|()| vec![bf16::ZERO; ROWS * COLS]);
    let op = if is_layer_norm { lanenorm_op::LayerNorm } else { lanenorm_op::RmsNorm };
    let (dtype, (rounding_of_c, sums)) = (lanenorm_dtype::Bf16 as i32, numbers_of);
    let plan = init(&lanenorm_desc {
        op: op as i32,
        dtype,
        cols: COLS,
        eps: 1e-6,
        gamma_offset: 1.0,
        rounding: rounding_of_c,
        sums,
        ..DESC
    });
    let forward = lanenorm_forward_buffers {
        rows: ROWS,
        x: rows(&x),
        residual: rows(&residual),
        sum: rows_mut(&mut s),
        y: rows_mut(&mut y),
        gamma: gamma.as_ptr().cast(),
        beta: if is_layer_norm { beta.as_ptr().cast() } else { std::ptr::null() },
        ..FORWARD
    };
    let in_ranges = lanenorm_forward_buffers { y: rows_mut(&mut y_of_rows), ..forward };
    let backward = lanenorm_backward_buffers {
        rows: ROWS,
        dy: rows(&dy),
        x: rows(&x),
        dx: rows_mut(&mut dx),
        gamma: gamma.as_ptr().cast(),
        ..BACKWARD
    };
    // SAFETY: all buffers have the elements of the calls.
    unsafe {
        ok(lanenorm_plan_forward(&plan, &forward, 2));
        ok(lanenorm_plan_forward_rows(&plan, &in_ranges, 0, 3));
        ok(lanenorm_plan_forward_rows(&plan, &in_ranges, 3, ROWS - 3));
        ok(lanenorm_plan_backward(&plan, &backward, 1));
    }
    let (of_rust, dx_of_rust): ((Vec<bf16>, Vec<bf16>), Vec<bf16>) = if is_layer_norm {
        let plan = LayerNorm::new(COLS, 1e-6).expect("a plan").with_offset(1.0).with_rounding(rounding);
        let call = plan.call(&x).residual(&residual).gamma(&gamma).beta(&beta);
        (call.to_vecs().expect("y"), plan.backward(&dy, &x).gamma(&gamma).to_vec().expect("dx"))
    } else {
        let plan = RmsNorm::new(COLS, 1e-6).expect("a plan").with_offset(1.0).with_rounding(rounding);
        let call = plan.call(&x).residual(&residual).gamma(&gamma);
        (call.to_vecs().expect("y"), plan.backward(&dy, &x).gamma(&gamma).to_vec().expect("dx"))
    };
    let what = format!("{rounding:?}, a mean: {is_layer_norm}");
    assert_eq!((&s, &y), (&of_rust.0, &of_rust.1), "{what}");
    assert_eq!(y_of_rows, y, "in ranges, {what}");
    assert_eq!(dx, dx_of_rust, "dx, {what}");
}

#[test]
fn roundings_are_those_of_rust() {
    use lanenorm_rounding::{Gamma, Once, Steps};
    let sums = [
        (Sums::Rounded, lanenorm_sums::Rounded),
        (Sums::Statistics, lanenorm_sums::Statistics),
        (Sums::Unrounded, lanenorm_sums::Unrounded),
    ];
    for (sums, sums_of_c) in sums {
        for (steps, of_steps) in [(false, Once), (true, Steps)] {
            for (gamma, of_gamma) in [(false, Once), (true, Gamma)] {
                let rounding = Rounding { steps, gamma, sums };
                for is_layer_norm in [true, false] {
                    both(is_layer_norm, rounding, (of_steps as i32 | of_gamma as i32, sums_of_c as i32));
                }
            }
        }
    }
}
