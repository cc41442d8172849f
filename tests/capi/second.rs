//! Calls with a second gamma and beta: each output has the bits of a plain call of Rust, whole and in ranges of rows.

use std::ptr::null;

use lanenorm::capi::*;
use lanenorm::{LayerNorm, RmsNorm, bf16};

use crate::buffer::{NONE, NONE_MUT};
use crate::data::Random;
use crate::forward::{FORWARD, ok};
use crate::tiers::tiers;
use crate::{DESC, init, last_error, ranges, tier};

const SECOND: lanenorm_second =
    lanenorm_second { struct_size: size_of::<lanenorm_second>(), y: NONE_MUT, gamma: null(), beta: null() };

fn numbers(seed: u64, len: usize) -> Vec<bf16> {
    let random = &mut Random::new(seed);
    (0..len).map(|_| bf16::from_f32(random.signed() * 2.0)).collect()
}

/// Rows of bf16 into outputs of f32, with a gamma for each of 3 groups.
fn outputs_are_those_of_rust(rows: usize, cols: usize) {
    let mut x = numbers(1, rows * cols);
    if rows > 6 {
        x[6 * cols] = bf16::NAN;
        x[4 * cols] = bf16::from_f32(1e38);
    }
    let [gamma, beta, second_gamma, second_beta] = [2, 3, 4, 5].map(|seed| numbers(seed, 3 * cols));
    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for isa in tiers() {
        for is_layer_norm in [true, false] {
            let what = format!("{isa}, {is_layer_norm}, {rows}x{cols}");
            let mut expected = [vec![0.0f32; rows * cols], vec![0.0f32; rows * cols]];
            let [y, second_y] = &mut expected;
            let mut rstd = vec![0.0f32; rows];
            if is_layer_norm {
                let plan = LayerNorm::new(cols, 1e-5).and_then(|plan| plan.with_groups(3, 2)).expect("a plan");
                plan.call(&x).gamma(&gamma).beta(&beta).rstd_to(&mut rstd).to(y).expect("y");
                plan.call(&x).gamma(&second_gamma).beta(&second_beta).to(second_y).expect("y");
            } else {
                let plan = RmsNorm::new(cols, 1e-5).and_then(|plan| plan.with_groups(3, 2)).expect("a plan");
                plan.call(&x).gamma(&gamma).rstd_to(&mut rstd).to(y).expect("y");
                plan.call(&x).gamma(&second_gamma).to(second_y).expect("y");
            }
            let op = if is_layer_norm { lanenorm_op::LayerNorm } else { lanenorm_op::RmsNorm };
            let plan = init(&lanenorm_desc {
                op: op as i32,
                dtype: lanenorm_dtype::Bf16 as i32,
                y_dtype: lanenorm_dtype::F32 as i32,
                tier: tier(isa),
                cols,
                eps: 1e-5,
                groups: 3,
                group_repeat: 2,
                ..DESC
            });
            // Rows of the first output with gaps, and of the second woven into runs.
            let mut y = vec![7.0f32; rows * (cols + 3)];
            let (mut second_y, mut rstd_of_c) = (vec![7.0f32; rows * cols], vec![7.0f32; rows]);
            let (y_p, second_p, rstd_p) = (y.as_mut_ptr(), second_y.as_mut_ptr(), rstd_of_c.as_mut_ptr());
            let beta_or_none = |beta: &[bf16]| if is_layer_norm { beta.as_ptr().cast() } else { null() };
            let buffers = lanenorm_forward_buffers {
                rows,
                inner_rows: rows / 2,
                x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
                y: lanenorm_rows_mut { data: y_p.cast(), row_stride: cols + 3, ..NONE_MUT },
                gamma: gamma.as_ptr().cast(),
                beta: beta_or_none(&beta),
                rstd: rstd_p.cast(),
                ..FORWARD
            };
            let given = lanenorm_second {
                y: lanenorm_rows_mut { data: second_p.cast(), row_stride: 2 * cols, outer_stride: cols },
                gamma: second_gamma.as_ptr().cast(),
                beta: beta_or_none(&second_beta),
                ..SECOND
            };
            for threads in [1, 3, 0] {
                // SAFETY: all buffers have the elements of the calls, and nothing else touches them meanwhile.
                unsafe {
                    y_p.write_bytes(0xff, rows * (cols + 3));
                    second_p.write_bytes(0xff, rows * cols);
                    if threads == 0 {
                        for (first, count) in ranges(&mut Random::new(9), rows) {
                            ok(lanenorm_plan_second_rows(&plan, &buffers, &given, first, count));
                        }
                    } else {
                        ok(lanenorm_plan_second(&plan, &buffers, &given, threads));
                    }
                }
                // SAFETY: as above.
                let [y, second_y] = unsafe {
                    [(y_p, rows * (cols + 3)), (second_p, rows * cols)].map(|(p, n)| std::slice::from_raw_parts(p, n))
                };
                let y: Vec<f32> = y.chunks(cols + 3).flat_map(|row| row[..cols].to_vec()).collect();
                let place = |r: usize| r % (rows / 2) * 2 + r / (rows / 2);
                let second_y: Vec<f32> = (0..rows).flat_map(|r| second_y[place(r) * cols..][..cols].to_vec()).collect();
                assert!(bits(&y) == bits(&expected[0]), "y, {threads} threads, {what}");
                assert!(bits(&second_y) == bits(&expected[1]), "second y, {threads} threads, {what}");
            }
            // SAFETY: as above.
            let gaps = unsafe { std::slice::from_raw_parts(y_p, rows * (cols + 3)) };
            assert!(gaps.chunks(cols + 3).all(|row| row[cols..].iter().all(|v| v.to_bits() == u32::MAX)), "{what}");
            assert_eq!(bits(&rstd_of_c), bits(&rstd), "{what}");
        }
    }
}

#[test]
fn second_outputs_are_those_of_rust() {
    for (rows, cols) in [(12, 70), (36, 768), (6, 5000), (120, 2048)] {
        outputs_are_those_of_rust(rows, cols);
    }
}

/// y over x, in f32: several rows, and one, which takes a way of its own; and rows that are cut for threads.
#[test]
fn the_first_output_may_lie_over_x() {
    for (rows, cols) in [(5, 64), (1, 768), (3, 70_000)] {
        let x: Vec<f32> = numbers(1, rows * cols).iter().map(|x| x.to_f32()).collect();
        let [gamma, second_gamma] =
            [2, 3].map(|seed| -> Vec<f32> { numbers(seed, cols).iter().map(|x| x.to_f32()).collect() });
        let plan = LayerNorm::new(cols, 1e-5).expect("a plan");
        let y: Vec<f32> = plan.call(&x).gamma(&gamma).to_vec().expect("y");
        let second: Vec<f32> = plan.call(&x).gamma(&second_gamma).beta(&gamma).to_vec().expect("y");
        let plan = init(&lanenorm_desc { cols, eps: 1e-5, ..DESC });
        let (mut h, mut second_y) = (x.clone(), x.clone());
        let p = h.as_mut_ptr();
        let buffers = lanenorm_forward_buffers {
            rows,
            x: lanenorm_rows { data: p.cast_const().cast(), ..NONE },
            y: lanenorm_rows_mut { data: p.cast(), ..NONE_MUT },
            gamma: gamma.as_ptr().cast(),
            ..FORWARD
        };
        let given = lanenorm_second {
            y: lanenorm_rows_mut { data: second_y.as_mut_ptr().cast(), ..NONE_MUT },
            gamma: second_gamma.as_ptr().cast(),
            beta: gamma.as_ptr().cast(),
            ..SECOND
        };
        // SAFETY: all buffers have the elements of the call.
        unsafe { ok(lanenorm_plan_second(&plan, &buffers, &given, 2)) };
        assert!(h == y && second_y == second, "{rows}x{cols}");
    }
}

#[test]
fn second_outputs_that_do_not_fit() {
    use lanenorm_status::{Misaligned, NullPointer, Overlap, Size, Stride, Unsupported};
    let x = [1.0f32; 2 * 4];
    let [mut y, mut second_y] = [[7.0f32; 2 * 4]; 2];
    let (y_p, second_p) = (y.as_mut_ptr(), second_y.as_mut_ptr());
    let plan = init(&lanenorm_desc { cols: 4, eps: 1e-5, ..DESC });
    let rms = init(&lanenorm_desc { op: lanenorm_op::RmsNorm as i32, cols: 4, eps: 1e-5, ..DESC });
    let buffers = lanenorm_forward_buffers {
        rows: 2,
        x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
        y: lanenorm_rows_mut { data: y_p.cast(), ..NONE_MUT },
        ..FORWARD
    };
    let second = lanenorm_second { y: lanenorm_rows_mut { data: second_p.cast(), ..NONE_MUT }, ..SECOND };
    let to = |p: *mut f32| lanenorm_second { y: lanenorm_rows_mut { data: p.cast(), ..NONE_MUT }, ..second };
    let refused = |plan: &lanenorm_plan, b: lanenorm_forward_buffers, s: lanenorm_second, expected, words: &[&str]| {
        // SAFETY: buffers that are given are valid, or the call is refused.
        let both = unsafe { [lanenorm_plan_second(plan, &b, &s, 1), lanenorm_plan_second_rows(plan, &b, &s, 0, 2)] };
        for status in both {
            let message = last_error();
            assert_eq!(status, expected, "{message}");
            assert!(words.iter().all(|word| message.contains(word)), "{message}: {words:?}");
        }
    };
    refused(&plan, buffers, lanenorm_second { y: NONE_MUT, ..second }, NullPointer, &["second y", "2", "4"]);
    refused(&plan, lanenorm_forward_buffers { y: NONE_MUT, ..buffers }, second, NullPointer, &["y", "2", "4"]);
    refused(&plan, buffers, lanenorm_second { struct_size: 100, ..second }, Size, &["second", "100"]);
    refused(&plan, buffers, lanenorm_second { struct_size: 16, ..second }, Size, &["second", "16"]);
    let narrow = lanenorm_second { y: lanenorm_rows_mut { row_stride: 3, ..second.y }, ..second };
    refused(&plan, buffers, narrow, Stride, &["second y", "4", "3"]);
    refused(&plan, buffers, to(y_p), Overlap, &["second y", "y"]);
    refused(&plan, buffers, to(x.as_ptr().cast_mut()), Overlap, &["second y", "x"]);
    refused(&plan, buffers, to(second_p.wrapping_byte_add(1)), Misaligned, &["second y", "4"]);
    let misaligned = lanenorm_second { gamma: x.as_ptr().cast::<u8>().wrapping_add(2).cast(), ..second };
    refused(&plan, buffers, misaligned, Misaligned, &["second gamma", "4"]);
    refused(&plan, buffers, lanenorm_second { gamma: y_p.cast(), ..second }, Overlap, &["y", "second gamma"]);
    refused(&plan, buffers, lanenorm_second { beta: second_p.cast(), ..second }, Overlap, &["second beta"]);
    let sum = lanenorm_forward_buffers { residual: buffers.x, ..buffers };
    refused(&plan, sum, second, Unsupported, &["residual"]);
    refused(&rms, buffers, lanenorm_second { beta: x.as_ptr().cast(), ..second }, Unsupported, &["beta", "RMS"]);
    // In place, the second y is not x either.
    let in_place = lanenorm_forward_buffers { x: lanenorm_rows { data: y_p.cast(), ..NONE }, ..buffers };
    refused(&plan, in_place, to(y_p), Overlap, &["second y"]);
    // SAFETY: as above.
    assert_eq!(unsafe { lanenorm_plan_second_rows(&plan, &buffers, &second, 1, 2) }, Size);
    assert_eq!((y, second_y), ([7.0; 8], [7.0; 8]));
    // A structure that ends behind the second y.
    let shorter = lanenorm_second { struct_size: std::mem::offset_of!(lanenorm_second, gamma), ..second };
    // SAFETY: as above.
    unsafe { ok(lanenorm_plan_second(&plan, &buffers, &shorter, 1)) };
    assert_eq!((y, second_y), ([0.0; 8], [0.0; 8]));
}
