//! Calls with a gate: all forms give the bits of a call on contiguous rows on one thread, which are close to what the
//! formulas say.

use std::fmt::Debug;

use lanenorm::gate::{Function, Gate, Side};
use lanenorm::kernels::element::Storage;
use lanenorm::kernels::reference;
use lanenorm::{Companion, Error, Gateable, LayerNorm, Norm, Parallelism, RmsNorm, Rounding, Rows, RowsMut, bf16, f16};

use crate::support::{Random, quick, tiers};

const GATES: [Gate; 4] = [Gate::SILU, Gate::SIGMOID, Gate::GELU_TANH, Gate::SILU_BEFORE];

fn numbers<T: Storage<Float = f32>>(len: usize, seed: u64, scale: f32) -> Vec<T> {
    let mut random = Random::new(seed);
    (0..len).map(|_| T::from_computed(random.normal() as f32 * scale)).collect()
}

fn wide<T: Storage<Float = f32>>(v: &[T]) -> Vec<f32> {
    v.iter().map(|v| v.to_computed()).collect()
}

fn function(function: Function, z: f32) -> f64 {
    match function {
        Function::Silu => reference::silu(z.into()),
        Function::Sigmoid => reference::sigmoid(z.into()),
        Function::GeluTanh => reference::gelu_tanh(z.into()),
    }
}

/// y of a call on contiguous rows, checked against the formulas in f64 as far as the type of y goes.
fn expected<T: Gateable + Companion<T> + Debug, M: lanenorm::Center>(
    plan: &Norm<M>,
    [x, z, gamma]: [&[T]; 3],
    gate: Gate,
) -> Vec<T>
where
    f32: Companion<T>,
{
    let (cols, groups) = (plan.cols(), gamma.len() / plan.cols());
    let plan = plan.with_parallelism(Parallelism::Serial);
    let (mut y, mut y32) = (x.to_vec(), vec![0.0f32; x.len()]);
    plan.call(x).gamma(gamma).gate(z, gate).to(&mut y).expect("y");
    plan.call(x).gamma(gamma).gate(z, gate).to(&mut y32).expect("y");
    let (x, z, gamma) = (wide(x), wide(z), wide(gamma));
    for (r, row) in x.chunks(cols).enumerate() {
        let before = gate.side == Side::Before;
        let f = |i: usize| function(gate.function, z[r * cols + i]);
        let u: Vec<f64> =
            row.iter().enumerate().map(|(i, &x)| f64::from(x) * if before { f(i) } else { 1.0 }).collect();
        let n = cols as f64;
        let mean = if M::CENTERED { u.iter().sum::<f64>() / n } else { 0.0 };
        let rstd = (u.iter().map(|u| (u - mean) * (u - mean)).sum::<f64>() / n + plan.eps()).sqrt().recip();
        for (i, u) in u.iter().enumerate() {
            let exact = (u - mean) * rstd * f64::from(gamma[r % groups * cols + i]) * if before { 1.0 } else { f(i) };
            let error = (f64::from(y32[r * cols + i]) - exact).abs();
            assert!(error <= 2e-6 * (1.0 + exact.abs()) * f(i).abs().max(1.0), "{gate:?}, row {r}, {i}: {error}");
        }
    }
    y
}

fn check<T: Gateable + Companion<T> + Debug, M: lanenorm::Center>(plan: Norm<M>, rows: usize)
where
    f32: Companion<T>,
{
    let cols = plan.cols();
    let groups = if rows.is_multiple_of(3) { 3 } else { 1 };
    let plan = plan.with_groups(groups, 1).expect("groups");
    let (x, z) = (numbers::<T>(rows * cols, 1, 2.0), numbers::<T>(rows * cols, 2, 3.0));
    let gamma = numbers::<T>(groups * cols, 3, 1.0);
    for gate in GATES {
        let expected = wide(&expected(&plan, [&x, &z, &gamma], gate));
        for isa in tiers() {
            for parallelism in [Parallelism::Serial, Parallelism::tasks(3)] {
                let plan = plan.with_isa(*isa).with_parallelism(parallelism);
                let what = format!("{plan:?}, {gate:?}, {rows}");
                let mut y = x.clone();
                plan.call_in_place(&mut y).gamma(&gamma).gate(&z, gate).run().expect("y");
                assert_eq!(wide(&y), expected, "in place, {what}");
                let new: Vec<T> = plan.call(&x).gamma(&gamma).gate(&z, gate).to_vec().expect("y");
                assert_eq!(wide(&new), expected, "a new vector, {what}");
                // z is f32, at a stride.
                let strided: Vec<f32> = wide(&z).chunks(cols).flat_map(|row| [row, &[7.0; 5][..]].concat()).collect();
                plan.call(&x).gamma(&gamma).gate(Rows::strided(&strided, rows, cols + 5), gate).to(&mut y).expect("y");
                assert_eq!(wide(&y), expected, "at a stride, {what}");
                // Runs that are woven into one another.
                if rows.is_multiple_of(2) {
                    let shape = [2, rows / 2];
                    let woven = |v: &[T]| -> Vec<T> {
                        let mut to = v.to_vec();
                        for r in 0..rows {
                            let at = r % shape[1] * 2 + r / shape[1];
                            to[at * cols..][..cols].copy_from_slice(&v[r * cols..][..cols]);
                        }
                        to
                    };
                    let (x, z, mut y) = (woven(&x), woven(&z), woven(&y));
                    let strides = [cols, 2 * cols];
                    let call = plan.call(Rows::strided_2d(&x, shape, strides)).gamma(&gamma);
                    let call = call.gate(Rows::strided_2d(&z, shape, strides), gate);
                    call.to(RowsMut::strided_2d(&mut y, shape, strides)).expect("y");
                    let expected: Vec<T> = expected.iter().map(|&v| T::from_computed(v)).collect();
                    assert_eq!(wide(&y), wide(&woven(&expected)), "in runs, {what}");
                }
            }
        }
    }
}

#[test]
fn gates_have_the_same_bits_in_every_form() {
    let sizes: &[(usize, usize)] = &[(6, 7), (12, 128), (5, 768), (4, 5000)];
    for &(rows, cols) in sizes.iter().take(if quick() { 3 } else { 4 }) {
        let (layer_norm, rms_norm) = (LayerNorm::new(cols, 1e-5).expect("a plan"), RmsNorm::new(cols, 1e-6));
        let rms_norm = rms_norm.expect("a plan");
        check::<f32, _>(layer_norm, rows);
        check::<f32, _>(rms_norm, rows);
        check::<bf16, _>(rms_norm, rows);
        check::<f16, _>(layer_norm, rows);
    }
}

/// `Qwen3NextRMSNormGated` and `MambaRMSNormGated` of transformers, step by step.
#[test]
fn gates_round_as_models_do() -> Result<(), Error> {
    let (rows, cols) = (8, 256);
    let (x, z, gamma) =
        (numbers::<bf16>(rows * cols, 1, 2.0), numbers::<bf16>(rows * cols, 2, 3.0), numbers::<bf16>(cols, 3, 1.0));
    let plan = RmsNorm::new(cols, 1e-6)?;
    let round = |v: f64| bf16::from_f32(v as f32);
    let mut y = x.clone();
    plan.with_rounding(Rounding::STEPS).call(&x).gamma(&gamma).gate(&z, Gate::SILU).to(&mut y)?;
    let n: Vec<bf16> = plan.with_rounding(Rounding::STEPS).call(&x).gamma(&gamma).to_vec()?;
    let expected: Vec<bf16> = n.iter().zip(&z).map(|(n, z)| round(n.to_f64() * reference::silu(z.to_f64()))).collect();
    assert!(differ(&y, &expected) <= 2, "{} of {}", differ(&y, &expected), y.len());

    plan.with_rounding(Rounding::STEPS).call(&x).gamma(&gamma).gate(&z, Gate::SILU_BEFORE).to(&mut y)?;
    let u: Vec<f32> = x.iter().zip(&z).map(|(x, z)| (x.to_f64() * reference::silu(z.to_f64())) as f32).collect();
    let xhat: Vec<f32> = plan.call(&u).to_vec()?;
    let expected: Vec<bf16> = xhat
        .iter()
        .enumerate()
        .map(|(i, &xhat)| round(bf16::from_f32(xhat).to_f64() * gamma[i % cols].to_f64()))
        .collect();
    assert!(differ(&y, &expected) <= 2, "{} of {}", differ(&y, &expected), y.len());
    Ok(())
}

/// Pieces of long rows have pieces of gamma, whose sums with the offset are rounded elsewhere than in gamma itself.
#[test]
fn long_rows_round_gamma() -> Result<(), Error> {
    for cols in [4096, 4097, 9000] {
        let [x, z, gamma] = [1, 2, 3].map(|seed| numbers::<bf16>(2 * cols, seed, 2.0));
        let gamma = &gamma[..cols];
        let (before, rounded): (Vec<u16>, Vec<bf16>) =
            gamma.iter().map(|v| (v.to_bits(), bf16::from_f32(v.to_f32() + 1.0))).unzip();
        for gate in GATES {
            for (with_offset, without) in
                [(Rounding::GAMMA, Rounding::ONCE), (Rounding::STEPS_AND_GAMMA, Rounding::STEPS)]
            {
                let plan = RmsNorm::new(cols, 1e-6)?;
                let [mut y, mut expected] = [x.clone(), x.clone()];
                plan.with_rounding(without).call(&x).gamma(&rounded).gate(&z, gate).to(&mut expected)?;
                let plan = plan.with_offset(1.0).with_rounding(with_offset);
                plan.call(&x).gamma(gamma).gate(&z, gate).to(&mut y)?;
                assert_eq!(differ(&y, &expected), 0, "{cols}, {gate:?}");
                assert!(gamma.iter().map(|v| v.to_bits()).eq(before.iter().copied()), "{cols}, {gate:?}");
            }
        }
    }
    Ok(())
}

/// How many elements differ: the functions of z have errors of a few units of f32.
fn differ(a: &[bf16], b: &[bf16]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count()
}

#[test]
fn gates_that_do_not_fit_are_refused() -> Result<(), Error> {
    let plan = RmsNorm::new(4, 1e-6)?;
    let (x, mut y) = ([1.0f32; 8], [7.0f32; 8]);
    let mut says = |z: Rows<'_, f32>, expected: &str| {
        let error = plan.call(&x).gate(z, Gate::SILU).to(&mut y).expect_err("it does not fit");
        assert_eq!((error.to_string().as_str(), y), (expected, [7.0; 8]));
    };
    says((&[0.0; 7][..]).into(), "z has 7 elements, which is not a whole number of rows of 4");
    says((&[0.0; 12][..]).into(), "x has 2 rows, but z has 3");
    says(Rows::strided(&[0.0; 8], 2, 3), "the rows of z overlap: they have 4 columns and start 3 elements apart");
    let error = plan.call(&x).gate(&[0.0f32; 7], Gate::SILU).to_vec::<f32>().expect_err("it does not fit");
    assert_eq!(error.to_string(), "z has 7 elements, which is not a whole number of rows of 4");
    // Nothing to do.
    plan.call(&[0.0f32; 0]).gate(&[0.0f32; 0], Gate::SILU).to(&mut [0.0f32; 0])?;
    Ok(())
}
