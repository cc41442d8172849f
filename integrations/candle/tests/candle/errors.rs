//! Bad input gives an error that names what was given and what was expected.

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use candle_nn::VarBuilder;
use lanenorm_candle::{LayerNorm, LayerNormConfig, RmsNorm, ops};

use crate::support::message;

fn zeros(shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::zeros(shape, dtype, &Device::Cpu)
}

#[test]
fn name_both_numbers() -> Result<()> {
    let f32 = |shape: &[usize]| zeros(shape, DType::F32);
    let (x, gamma) = (f32(&[2, 3])?, f32(&[3])?);

    let error = message(ops::layer_norm(&x, &f32(&[4])?, &gamma, 1e-5));
    assert_eq!(error, "gamma has shape [4], expected [3]: the last dimension of x, [2, 3]");
    let error = message(ops::layer_norm(&x, &gamma, &f32(&[1, 3])?, 1e-5));
    assert_eq!(error, "beta has shape [1, 3], expected [3]: the last dimension of x, [2, 3]");
    let error = message(ops::rms_norm(&x, &f32(&[])?, 1e-5));
    assert_eq!(error, "gamma has shape [], expected [3]: the last dimension of x, [2, 3]");
    let error = message(ops::add_layer_norm(&x, &f32(&[3, 2])?, &gamma, &gamma, 1e-5));
    assert_eq!(error, "residual has shape [3, 2], expected that of x: [2, 3]");
    let error = message(ops::rms_norm(&f32(&[])?, None, 1e-5));
    assert_eq!(error, "x has 0 dimensions, expected at least 1");
    for eps in [-1.0, f64::NAN, f64::INFINITY] {
        let expected = format!("eps is {eps}, expected a finite number not less than 0");
        assert_eq!(message(ops::layer_norm(&x, &gamma, &gamma, eps)), expected);
        assert_eq!(message(ops::add_rms_norm(&x, &x, &gamma, eps)), expected);
    }

    assert!(message(LayerNorm::new(f32(&[4])?, f32(&[4])?, 1e-5).forward(&x)).contains("[4], expected [3]"));
    assert!(message(RmsNorm::new(gamma, -1.0).forward_add(&x, &x)).contains("eps is -1"));
    Ok(())
}

#[test]
fn name_both_types() -> Result<()> {
    let (row, x) = (|dtype| zeros(&[3], dtype), |dtype| zeros(&[2, 3], dtype));
    let (f32, f64, f16, bf16) = (DType::F32, DType::F64, DType::F16, DType::BF16);

    let error = message(ops::rms_norm(&x(f32)?, &row(bf16)?, 1e-5));
    assert_eq!(error, "gamma and beta are BF16, expected F32 as x");
    let error = message(ops::rms_norm(&x(f16)?, &row(bf16)?, 1e-5));
    assert_eq!(error, "gamma and beta are BF16, expected F16 as x, or F32");
    let error = message(ops::layer_norm(&x(f64)?, &row(f32)?, &row(f32)?, 1e-5));
    assert_eq!(error, "gamma and beta are F32, expected F64 as x");
    let error = message(ops::layer_norm(&x(f16)?, &row(f16)?, &row(f32)?, 1e-5));
    assert_eq!(error, "beta is F32, expected F16 as gamma");
    let error = message(ops::add_rms_norm(&x(f16)?, &x(f32)?, None, 1e-5));
    assert_eq!(error, "residual is F32, expected F16 as x");
    let error = message(ops::rms_norm(&x(DType::U32)?, None, 1e-5));
    assert_eq!(error, "x is U32, expected F32, F64, F16 or BF16");
    let error = message(ops::layer_norm(&x(DType::U8)?, &row(f32)?, None, 1e-5));
    assert_eq!(error, "x is U8, expected F32, F64, F16 or BF16");
    Ok(())
}

#[test]
fn say_what_cannot_be_overwritten() -> Result<()> {
    let x = zeros(&[4, 3], DType::F32)?;
    let var = Var::from_tensor(&x)?;
    let weight = Var::ones(3, DType::F32, &Device::Cpu)?;
    let tracked = "is tracked for gradients, which cannot pass an operation in place";
    assert_eq!(message(ops::layer_norm_in_place(&var, None, None, 1e-5)), format!("x {tracked}"));
    assert_eq!(message(ops::add_rms_norm_in_place(&x, &var, None, 1e-5)), format!("residual {tracked}"));
    assert_eq!(message(ops::rms_norm_in_place(&x, weight.as_tensor(), 1e-5)), format!("gamma {tracked}"));

    let error = message(ops::rms_norm_in_place(&x.t()?, None, 1e-5));
    assert_eq!(error, "x cannot be overwritten: it is not made of evenly spaced rows, but has strides [1, 3]");
    let error = message(ops::add_rms_norm_in_place(&x.narrow(1, 0, 2)?, &zeros(&[4, 2], DType::F32)?, None, 1e-5));
    assert_eq!(error, "x cannot be overwritten by a sum: it is not contiguous, but has strides [3, 1]");
    let error = message(ops::add_rms_norm_in_place(&x, &zeros(&[4, 4], DType::F32)?, None, 1e-5));
    assert_eq!(error, "residual has shape [4, 4], expected that of x: [4, 3]");
    assert!(message(ops::add_rms_norm_in_place(&x, &x, None, 1e-5)).contains("shares storage"));
    assert!(
        message(ops::rms_norm_in_place(&zeros(&[3], DType::F32)?.expand((2, 3))?, None, 1e-5)).contains("repeated")
    );

    let rms_with_bias = VarBuilder::from_tensors(
        [("weight".to_owned(), zeros(&[3], DType::F32)?), ("bias".to_owned(), zeros(&[3], DType::F32)?)].into(),
        DType::F32,
        &Device::Cpu,
    );
    let config = LayerNormConfig { remove_mean: false, ..LayerNormConfig::default() };
    let norm = lanenorm_candle::layer_norm(3, config, rms_with_bias)?;
    let error = message(norm.forward_in_place(&x));
    assert_eq!(error, "RMS normalization with a bias, of shape [3], is not done in place");
    Ok(())
}
