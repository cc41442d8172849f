//! Calls with a gate: the bits are those of Rust's plans, whole and in ranges of rows.

use std::ptr::{null, null_mut};

use lanenorm::capi::*;
use lanenorm::gate::{Function, Gate, Side};
use lanenorm::{LayerNorm, Parallelism, RmsNorm, Rows, RowsMut, bf16};

use crate::backward::BACKWARD;
use crate::buffer::{NONE, NONE_MUT};
use crate::data::Random;
use crate::forward::{FORWARD, ok};
use crate::tiers::tiers;
use crate::{DESC, init, last_error, tier};

pub(crate) const GATE: lanenorm_gate =
    lanenorm_gate { struct_size: size_of::<lanenorm_gate>(), z: NONE, z_dtype: 0, kind: 0 };

const GRADIENTS: lanenorm_gate_gradients =
    lanenorm_gate_gradients { struct_size: size_of::<lanenorm_gate_gradients>(), dz: NONE_MUT, beta: null() };

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
fn gradients_of_gates_are_those_of_rust() {
    let (rows, cols) = (2 * 6 * 11, 70);
    let [dy, x, z] = [1, 2, 3].map(|seed| numbers(seed, rows * cols, 2.0));
    let [gamma, beta] = [4, 5].map(|seed| numbers(seed, 3 * cols, 1.0));
    let z32: Vec<f32> = z.iter().map(|z| z.to_f32()).collect();
    for isa in tiers() {
        for (kind, gate) in kinds() {
            for is_layer_norm in [true, false] {
                let what = format!("{isa}, {gate:?}, {is_layer_norm}");
                let (mut dx, mut dz) = (x.clone(), z32.clone());
                let [mut dgamma, mut dbeta] = [[7.0f32; 210]; 2];
                if is_layer_norm {
                    let plan = LayerNorm::new(cols, 1e-5).and_then(|plan| plan.with_groups(3, 2)).expect("a plan");
                    let call = plan.backward(&dy, &x).gamma(&gamma).dgamma_to(&mut dgamma).dbeta_to(&mut dbeta);
                    call.gate(&z32, gate).beta(&beta).dz_to(&mut dz).to(&mut dx).expect("gradients");
                } else {
                    let plan = RmsNorm::new(cols, 1e-5).and_then(|plan| plan.with_groups(3, 2)).expect("a plan");
                    let call = plan.backward(&dy, &x).gamma(&gamma).dgamma_to(&mut dgamma);
                    call.gate(&z32, gate).dz_to(&mut dz).to(&mut dx).expect("gradients");
                }
                let op = if is_layer_norm { lanenorm_op::LayerNorm } else { lanenorm_op::RmsNorm };
                let plan = init(&lanenorm_desc {
                    op: op as i32,
                    dtype: lanenorm_dtype::Bf16 as i32,
                    tier: tier(isa),
                    cols,
                    eps: 1e-5,
                    groups: 3,
                    group_repeat: 2,
                    ..DESC
                });
                // dx over dy, and rows of dz with gaps.
                let mut dx_of_c = dy.clone();
                let mut dz_of_c = vec![7.0f32; rows * (cols + 2)];
                let [mut dgamma_of_c, mut dbeta_of_c] = [[7.0f32; 210]; 2];
                let (dx_p, dbeta_p) = (dx_of_c.as_mut_ptr(), dbeta_of_c.as_mut_ptr());
                let buffers = lanenorm_backward_buffers {
                    rows,
                    dy: lanenorm_rows { data: dx_p.cast_const().cast(), ..NONE },
                    x: lanenorm_rows { data: x.as_ptr().cast(), ..NONE },
                    dx: lanenorm_rows_mut { data: dx_p.cast(), ..NONE_MUT },
                    gamma: gamma.as_ptr().cast(),
                    dgamma: dgamma_of_c.as_mut_ptr().cast(),
                    dbeta: if is_layer_norm { dbeta_p.cast() } else { null_mut() },
                    ..BACKWARD
                };
                let given = lanenorm_gate {
                    z: lanenorm_rows { data: z32.as_ptr().cast(), ..NONE },
                    z_dtype: lanenorm_dtype::F32 as i32,
                    kind: kind as i32,
                    ..GATE
                };
                let gradients = lanenorm_gate_gradients {
                    dz: lanenorm_rows_mut { data: dz_of_c.as_mut_ptr().cast(), row_stride: cols + 2, ..NONE_MUT },
                    beta: if is_layer_norm { beta.as_ptr().cast() } else { null() },
                    ..GRADIENTS
                };
                // SAFETY: all buffers have the elements of the call.
                unsafe { ok(lanenorm_plan_gate_backward(&plan, &buffers, &given, &gradients, 2)) };
                assert!(dx_of_c == dx && dgamma_of_c == dgamma && dbeta_of_c == dbeta, "{what}");
                let expected = dz.chunks(cols).flat_map(|row| [row, &[7.0; 2]].concat());
                assert!(expected.eq(dz_of_c), "dz, {what}");
            }
        }
    }
}

#[test]
fn gradients_of_gates_that_do_not_fit() {
    use lanenorm_status::{NullPointer, Overlap, Size, Unsupported};
    let x = [1.0f32; 2 * 4];
    let [mut dx, mut dz] = [[7.0f32; 2 * 4]; 2];
    let dz_p = dz.as_mut_ptr();
    let rows = lanenorm_rows { data: x.as_ptr().cast(), ..NONE };
    let desc = lanenorm_desc { op: lanenorm_op::RmsNorm as i32, cols: 4, eps: 1e-5, ..DESC };
    let (plan, wide) = (init(&desc), init(&lanenorm_desc { dtype: lanenorm_dtype::F64 as i32, ..desc }));
    let dx_rows = lanenorm_rows_mut { data: dx.as_mut_ptr().cast(), ..NONE_MUT };
    let buffers = lanenorm_backward_buffers { rows: 2, dy: rows, x: rows, dx: dx_rows, ..BACKWARD };
    let gate = lanenorm_gate { z: rows, ..GATE };
    let gradients = lanenorm_gate_gradients { dz: lanenorm_rows_mut { data: dz_p.cast(), ..NONE_MUT }, ..GRADIENTS };
    let refused = |plan: &lanenorm_plan,
                   b: lanenorm_backward_buffers,
                   gate: lanenorm_gate,
                   given: lanenorm_gate_gradients,
                   expected,
                   words: &[&str]| {
        // SAFETY: buffers that are given are valid, or the call is refused.
        let status = unsafe { lanenorm_plan_gate_backward(plan, &b, &gate, &given, 1) };
        let message = last_error();
        assert_eq!(status, expected, "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}: {words:?}");
    };
    refused(&wide, buffers, gate, gradients, Unsupported, &["f64"]);
    refused(&plan, buffers, lanenorm_gate { kind: -1, ..gate }, gradients, Unsupported, &["kind", "-1"]);
    refused(&plan, buffers, lanenorm_gate { z: NONE, ..gate }, gradients, NullPointer, &["z", "2", "4"]);
    refused(&plan, lanenorm_backward_buffers { ds: rows, ..buffers }, gate, gradients, Unsupported, &["ds"]);
    let with_beta = lanenorm_gate_gradients { beta: x.as_ptr().cast(), ..gradients };
    refused(&plan, buffers, gate, with_beta, Unsupported, &["beta", "RMS"]);
    let too_large = lanenorm_gate_gradients { struct_size: 100, ..gradients };
    refused(&plan, buffers, gate, too_large, Size, &["gradients", "100"]);
    let over_dx = lanenorm_gate_gradients { dz: dx_rows, ..gradients };
    refused(&plan, buffers, gate, over_dx, Overlap, &["dz", "dx"]);
    let over_z = lanenorm_gate { z: lanenorm_rows { data: dz_p.cast(), ..NONE }, ..gate };
    refused(&plan, buffers, over_z, gradients, Overlap, &["dz", "z"]);
    let nothing = lanenorm_backward_buffers { dx: NONE_MUT, ..buffers };
    refused(&plan, nothing, gate, GRADIENTS, Unsupported, &["no gradient"]);
    assert_eq!((dx, dz), ([7.0; 8], [7.0; 8]));
    // dz alone is something.
    // SAFETY: all buffers have the elements of the call.
    unsafe { ok(lanenorm_plan_gate_backward(&plan, &nothing, &gate, &gradients, 1)) };
    assert!(dz.iter().all(|&dz| dz != 7.0));
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
