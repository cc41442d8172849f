//! Calls with a gate: the bits are those of Rust's plans, whole and in ranges of rows.

use std::ptr::null;

use lanenorm::capi::*;
use lanenorm::gate::{Function, Gate, Side};
use lanenorm::{LayerNorm, Parallelism, RmsNorm, Rows, RowsMut, bf16};

use crate::buffer::{NONE, NONE_MUT};
use crate::data::Random;
use crate::forward::{FORWARD, ok};
use crate::tiers::tiers;
use crate::{DESC, init, last_error, tier};

pub(crate) const GATE: lanenorm_gate =
    lanenorm_gate { struct_size: size_of::<lanenorm_gate>(), z: NONE, z_dtype: 0, kind: 0 };

const ROWS: usize = 12;
const COLS: usize = 70;

fn numbers(seed: u64, len: usize, scale: f32) -> Vec<bf16> {
    let random = &mut Random::new(seed);
    (0..len).map(|_| bf16::from_f32(random.signed() * scale)).collect()
}

fn kinds() -> [(lanenorm_gate_kind, Gate); 6] {
    use lanenorm_gate_kind::{GeluTanh, GeluTanhBefore, Sigmoid, SigmoidBefore, Silu, SiluBefore};
    let gate = |function, side| Gate { function, side };
    [
        (Silu, gate(Function::Silu, Side::After)),
        (Sigmoid, gate(Function::Sigmoid, Side::After)),
        (GeluTanh, gate(Function::GeluTanh, Side::After)),
        (SiluBefore, gate(Function::Silu, Side::Before)),
        (SigmoidBefore, gate(Function::Sigmoid, Side::Before)),
        (GeluTanhBefore, gate(Function::GeluTanh, Side::Before)),
    ]
}

#[test]
fn gates_are_those_of_rust() {
    let (x, z) = (numbers(1, ROWS * COLS, 2.0), numbers(2, ROWS * COLS, 4.0));
    let (gamma, beta) = (numbers(3, 3 * COLS, 1.0), numbers(4, 3 * COLS, 1.0));
    let z32: Vec<f32> = z.iter().map(|z| z.to_f32()).collect();
    for isa in tiers() {
        for (kind, gate) in kinds() {
            for is_layer_norm in [true, false] {
                let what = format!("{isa}, {gate:?}, {is_layer_norm}");
                let mut expected = x.clone();
                let mut rstd = [0.0f32; ROWS];
                if is_layer_norm {
                    let plan = LayerNorm::new(COLS, 1e-5).and_then(|plan| plan.with_groups(3, 2)).expect("a plan");
                    let call = plan.call(&x).gamma(&gamma).beta(&beta).rstd_to(&mut rstd);
                    call.gate(&z, gate).to(&mut expected).expect("y");
                } else {
                    let plan = RmsNorm::new(COLS, 1e-5).and_then(|plan| plan.with_groups(3, 2)).expect("a plan");
                    plan.call(&x).gamma(&gamma).rstd_to(&mut rstd).gate(&z, gate).to(&mut expected).expect("y");
                }
                let op = if is_layer_norm { lanenorm_op::LayerNorm } else { lanenorm_op::RmsNorm };
                let plan = init(&lanenorm_desc {
                    op: op as i32,
                    dtype: lanenorm_dtype::Bf16 as i32,
                    tier: tier(isa),
                    cols: COLS,
                    eps: 1e-5,
                    groups: 3,
                    group_repeat: 2,
                    ..DESC
                });
                let mut y = x.clone();
                let mut rstd_of_c = [7.0f32; ROWS];
                let y_rows = lanenorm_rows_mut { data: y.as_mut_ptr().cast(), ..NONE_MUT };
                let buffers = lanenorm_forward_buffers {
                    rows: ROWS,
                    // In place.
                    x: lanenorm_rows { data: y.as_ptr().cast(), ..NONE },
                    y: y_rows,
                    gamma: gamma.as_ptr().cast(),
                    beta: if is_layer_norm { beta.as_ptr().cast() } else { null() },
                    rstd: rstd_of_c.as_mut_ptr().cast(),
                    ..FORWARD
                };
                let given = lanenorm_gate {
                    z: lanenorm_rows { data: z32.as_ptr().cast(), ..NONE },
                    z_dtype: lanenorm_dtype::F32 as i32,
                    kind: kind as i32,
                    ..GATE
                };
                // SAFETY: all buffers have the elements of the calls.
                unsafe { ok(lanenorm_plan_gate(&plan, &buffers, &given, 2)) };
                assert_eq!((&y, rstd_of_c), (&expected, rstd), "{what}");

                // Ranges of rows in runs: the rows of z are woven.
                let woven: Vec<bf16> =
                    (0..ROWS).flat_map(|at| z[(at % 2 * (ROWS / 2) + at / 2) * COLS..][..COLS].to_vec()).collect();
                y.fill(bf16::ZERO);
                let buffers = lanenorm_forward_buffers {
                    inner_rows: ROWS / 2,
                    x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
                    y: lanenorm_rows_mut { data: y.as_mut_ptr().cast(), ..NONE_MUT },
                    ..buffers
                };
                let given = lanenorm_gate {
                    z: lanenorm_rows { data: woven.as_ptr().cast(), row_stride: 2 * COLS, outer_stride: COLS },
                    z_dtype: 0,
                    ..given
                };
                // SAFETY: as above.
                unsafe {
                    ok(lanenorm_plan_gate_rows(&plan, &buffers, &given, 5, ROWS - 5));
                    ok(lanenorm_plan_gate_rows(&plan, &buffers, &given, 0, 5));
                }
                assert_eq!(y, expected, "in ranges, {what}");
            }
        }
    }
}

/// Rows in runs, by a plan on several threads, give the bits of contiguous ones.
#[test]
fn runs_are_shared_by_threads() {
    let (rows, cols) = (64, 1024);
    let (x, z) = (numbers(1, rows * cols, 2.0), numbers(2, rows * cols, 4.0));
    let plan = RmsNorm::new(cols, 1e-5).expect("a plan").with_parallelism(Parallelism::tasks(3));
    let (mut y, mut woven) = (x.clone(), x.clone());
    plan.call(&x).gate(&z, Gate::SILU).to(&mut y).expect("y");
    let (shape, strides) = ([2, rows / 2], [cols, 2 * cols]);
    let call = plan.call(Rows::strided_2d(&x, shape, strides)).gate(Rows::strided_2d(&z, shape, strides), Gate::SILU);
    call.to(RowsMut::strided_2d(&mut woven, shape, strides)).expect("y");
    assert_eq!(y, woven);
}

#[test]
fn gates_that_do_not_fit() {
    use lanenorm_status::{NullPointer, Overlap, Size, Stride, Unsupported};
    let x = [1.0f32; 2 * 4];
    let mut y = [7.0f32; 2 * 4];
    let y_p = y.as_mut_ptr();
    let plan = init(&lanenorm_desc { cols: 4, eps: 1e-5, ..DESC });
    let wide = init(&lanenorm_desc { cols: 4, eps: 1e-5, dtype: lanenorm_dtype::F64 as i32, ..DESC });
    let buffers = lanenorm_forward_buffers {
        rows: 2,
        x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
        y: lanenorm_rows_mut { data: y_p.cast(), ..NONE_MUT },
        ..FORWARD
    };
    let gate = lanenorm_gate { z: lanenorm_rows { data: x.as_ptr().cast(), ..NONE }, ..GATE };
    let refused = |plan: &lanenorm_plan, b: lanenorm_forward_buffers, g: lanenorm_gate, expected, words: &[&str]| {
        // SAFETY: buffers that are given are valid, or the call is refused.
        let both = unsafe { [lanenorm_plan_gate(plan, &b, &g, 1), lanenorm_plan_gate_rows(plan, &b, &g, 0, 2)] };
        for status in both {
            let message = last_error();
            assert_eq!(status, expected, "{message}");
            assert!(words.iter().all(|word| message.contains(word)), "{message}: {words:?}");
        }
    };
    refused(&plan, buffers, lanenorm_gate { kind: 6, ..gate }, Unsupported, &["kind", "6"]);
    refused(&plan, buffers, lanenorm_gate { z_dtype: 9, ..gate }, Unsupported, &["z_dtype", "9"]);
    refused(&plan, buffers, lanenorm_gate { z_dtype: 2, ..gate }, Unsupported, &["z_dtype is f64", "f32"]);
    refused(&plan, buffers, lanenorm_gate { z: NONE, ..gate }, NullPointer, &["z", "2", "4"]);
    refused(&plan, buffers, lanenorm_gate { struct_size: 100, ..gate }, Size, &["gate", "100"]);
    let narrow = lanenorm_gate { z: lanenorm_rows { row_stride: 3, ..gate.z }, ..gate };
    refused(&plan, buffers, narrow, Stride, &["z", "4", "3"]);
    let over_y = lanenorm_gate { z: lanenorm_rows { data: y_p.cast(), ..NONE }, ..gate };
    refused(&plan, buffers, over_y, Overlap, &["y", "z"]);
    refused(&plan, lanenorm_forward_buffers { residual: buffers.x, ..buffers }, gate, Unsupported, &["residual"]);
    refused(&plan, lanenorm_forward_buffers { y: NONE_MUT, ..buffers }, gate, NullPointer, &["y"]);
    refused(&wide, buffers, gate, Unsupported, &["f64"]);
    // SAFETY: as above.
    let beyond = unsafe { lanenorm_plan_gate_rows(&plan, &buffers, &gate, 1, 2) };
    assert_eq!(beyond, Size);
    assert_eq!(y, [7.0; 8]);
}
