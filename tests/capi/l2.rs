//! L2 normalization: the bits are those of Rust's plans, forward and backward.

use std::ptr::null_mut;

use lanenorm::capi::*;
use lanenorm::{Divisor, RmsNorm};

use crate::backward::BACKWARD;
use crate::buffer::{NONE, NONE_MUT};
use crate::data::Random;
use crate::forward::{FORWARD, ok};
use crate::tiers::tiers;
use crate::{DESC, init, last_error, tier};

#[test]
fn least_norms_out_of_range_are_refused() {
    let mut plan = init(&DESC);
    let desc = lanenorm_desc { op: lanenorm_op::L2NormAtLeast as i32, cols: 2, eps: 1e200, ..DESC };
    // SAFETY: both are there.
    let status = unsafe { lanenorm_plan_init(&mut plan, &desc) };
    let message = last_error();
    assert!(status != lanenorm_status::Ok && message.contains("1e200") && message.contains("1e150"), "{message}");
}

#[test]
fn l2_normalization_is_that_of_rust() {
    let (rows, cols, eps) = (20, 70, 1e-2);
    let random = &mut Random::new(1);
    let mut x: Vec<f32> = (0..rows * cols).map(|_| random.signed()).collect();
    // Rows whose norm is less than eps, and one of zeros.
    x[cols..3 * cols].iter_mut().for_each(|v| *v *= 1e-5);
    x[3 * cols..4 * cols].fill(0.0);
    let dy: Vec<f32> = (0..rows * cols).map(|_| random.signed()).collect();
    for isa in tiers() {
        for (op, divisor) in [(lanenorm_op::L2Norm, Divisor::Norm), (lanenorm_op::L2NormAtLeast, Divisor::NormAtLeast)]
        {
            let plan = RmsNorm::new(cols, eps).expect("a plan").with_divisor(divisor);
            let mut expected_rstd = vec![0.0f32; rows];
            let expected: Vec<f32> = plan.call(&x).rstd_to(&mut expected_rstd).to_vec().expect("y");
            let expected_dx = plan.backward(&dy, &x).to_vec().expect("dx");
            let plan = init(&lanenorm_desc { op: op as i32, tier: tier(isa), cols, eps, ..DESC });
            let (mut y, mut dx, mut rstd) = (x.clone(), x.clone(), vec![7.0f32; rows]);
            let x = lanenorm_rows { data: x.as_ptr().cast(), ..NONE };
            let forward = lanenorm_forward_buffers {
                rows,
                x,
                y: lanenorm_rows_mut { data: y.as_mut_ptr().cast(), ..NONE_MUT },
                rstd: rstd.as_mut_ptr().cast(),
                ..FORWARD
            };
            let backward = lanenorm_backward_buffers {
                rows,
                dy: lanenorm_rows { data: dy.as_ptr().cast(), ..NONE },
                x,
                dx: lanenorm_rows_mut { data: dx.as_mut_ptr().cast(), ..NONE_MUT },
                ..BACKWARD
            };
            // SAFETY: all buffers have the elements of the calls.
            unsafe {
                ok(lanenorm_plan_forward(&plan, &forward, 2));
                ok(lanenorm_plan_backward(&plan, &backward, 2));
            }
            assert!((&y, &rstd, &dx) == (&expected, &expected_rstd, &expected_dx), "{isa}, {divisor:?}");
            // One row, without statistics.
            let y_p = y.as_mut_ptr();
            let one = lanenorm_forward_buffers {
                rows: 1,
                y: lanenorm_rows_mut { data: y_p.cast(), ..NONE_MUT },
                rstd: null_mut(),
                ..forward
            };
            // SAFETY: as above.
            unsafe {
                y_p.write(7.0);
                ok(lanenorm_plan_forward(&plan, &one, 1));
            }
            assert_eq!(y, expected);
        }
    }
}
