//! y, against candle's and against f64.

use candle_core::{DType, Device, Module, Result, Tensor};
use lanenorm_candle::{LayerNorm, RmsNorm, Rounding, ops};

use crate::support::{assert_same, distance, error_in_bounds, exact, layer_norm_f64, normal, rms_norm_f64};

const EPS: f64 = 1e-5;

const SHAPES: [&[usize]; 7] = [&[1], &[5], &[3, 64], &[2, 3, 384], &[4, 1, 7, 33], &[2, 1000], &[600, 768]];

struct Case {
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
}

fn case(shape: &[usize], mean: f64, x: DType, params: DType) -> Result<Case> {
    let cols = &shape[shape.len() - 1..];
    Ok(Case {
        x: normal(1, shape, mean)?.to_dtype(x)?,
        gamma: normal(2, cols, 1.0)?.to_dtype(params)?,
        beta: normal(3, cols, 0.0)?.to_dtype(params)?,
    })
}

const TYPES: [(DType, DType); 6] = [
    (DType::F32, DType::F32),
    (DType::F64, DType::F64),
    (DType::F16, DType::F16),
    (DType::F16, DType::F32),
    (DType::BF16, DType::BF16),
    (DType::BF16, DType::F32),
];

#[test]
fn is_within_the_contract_in_all_types() -> Result<()> {
    for (x, params) in TYPES {
        for shape in SHAPES {
            let Case { x, gamma, beta } = case(shape, 0.5, x, params)?;
            let zeros = beta.zeros_like()?;
            // In f64 the reference is no more accurate than the result that is tested.
            let bound = if x.dtype() == DType::F64 { 20.0 } else { 1.0 };

            let y = ops::layer_norm(&x, &gamma, &beta, EPS)?;
            assert_eq!((y.dtype(), y.dims()), (x.dtype(), shape));
            let error = error_in_bounds(&y, &layer_norm_f64(&x, &gamma, &beta, EPS)?, &gamma, &beta)?;
            assert!(error <= bound, "layer_norm {:?} {shape:?}: {error}", x.dtype());

            let y = ops::rms_norm(&x, &gamma, EPS)?;
            assert_eq!((y.dtype(), y.dims()), (x.dtype(), shape));
            let error = error_in_bounds(&y, &rms_norm_f64(&x, &gamma, EPS)?, &gamma, &zeros)?;
            assert!(error <= bound, "rms_norm {:?} {shape:?}: {error}", x.dtype());
        }
    }
    Ok(())
}

#[test]
fn agrees_with_candle_on_ordinary_rows() -> Result<()> {
    for shape in SHAPES.into_iter().filter(|shape| shape[shape.len() - 1] > 1) {
        let Case { x, gamma, beta } = case(shape, 0.5, DType::F32, DType::F32)?;
        let y = ops::layer_norm(&x, &gamma, &beta, EPS)?;
        assert!(distance(&y, &candle_nn::ops::layer_norm(&x, &gamma, &beta, 1e-5)?)? < 2e-5);
        assert!(distance(&y, &candle_nn::ops::layer_norm_slow(&x, &gamma, &beta, 1e-5)?)? < 2e-5);
        let y = ops::rms_norm(&x, &gamma, EPS)?;
        assert!(distance(&y, &candle_nn::ops::rms_norm(&x, &gamma, 1e-5)?)? < 2e-5);
        assert!(distance(&y, &candle_nn::ops::rms_norm_slow(&x, &gamma, 1e-5)?)? < 2e-5);
    }
    Ok(())
}

#[test]
fn is_right_at_an_offset_where_candle_is_wrong() -> Result<()> {
    for (mean, fast_is_off_by, slow_is_off_by) in
        [(1e2, 1e-4, 1e-6), (1e3, 1e-2, 1e-5), (1e4, 1.0, 1e-4), (1e6, 1.0, 1e-2)]
    {
        let Case { x, gamma, beta } = case(&[64, 384], mean, DType::F32, DType::F32)?;
        let y_exact = layer_norm_f64(&x, &gamma, &beta, EPS)?;
        let ours = ops::layer_norm(&x, &gamma, &beta, EPS)?;
        let error = error_in_bounds(&ours, &y_exact, &gamma, &beta)?;
        assert!(error <= 1.0, "mean {mean}: {error}");
        let fast = distance(&candle_nn::ops::layer_norm(&x, &gamma, &beta, 1e-5)?, &y_exact)?;
        let slow = distance(&candle_nn::ops::layer_norm_slow(&x, &gamma, &beta, 1e-5)?, &y_exact)?;
        println!(
            "mean {mean:e}: {:.1e}, candle's fast path {fast:.1e}, its slow path {slow:.1e}",
            distance(&ours, &y_exact)?
        );
        assert!(fast.is_nan() || fast > fast_is_off_by, "mean {mean}: {fast}");
        assert!(slow > slow_is_off_by, "mean {mean}: {slow}");
    }
    Ok(())
}

#[test]
fn is_right_where_squares_leave_the_range() -> Result<()> {
    for scale in [1e-30, 1e25, 5e37] {
        let Case { x, gamma, beta } = case(&[4, 384], 0.0, DType::F64, DType::F32)?;
        let x = (x * scale)?.to_dtype(DType::F32)?;
        let y = ops::layer_norm(&x, &gamma, &beta, 0.0)?;
        assert!(error_in_bounds(&y, &layer_norm_f64(&x, &gamma, &beta, 0.0)?, &gamma, &beta)? <= 1.0, "{scale:e}");
        let zeros = beta.zeros_like()?;
        let y = ops::rms_norm(&x, &gamma, 0.0)?;
        assert!(error_in_bounds(&y, &rms_norm_f64(&x, &gamma, 0.0)?, &gamma, &zeros)? <= 1.0, "{scale:e}");
    }
    Ok(())
}

#[test]
fn rounds_16_bits_once_where_candle_rounds_more_often() -> Result<()> {
    for dtype in [DType::F16, DType::BF16] {
        let Case { x, gamma, beta } = case(&[64, 384], 0.5, dtype, dtype)?;
        let zeros = beta.zeros_like()?;
        let y_exact = rms_norm_f64(&x, &gamma, EPS)?;
        let error = |y: &Tensor| error_in_bounds(y, &y_exact, &gamma, &zeros);
        let (ours, candle) =
            (error(&ops::rms_norm(&x, &gamma, EPS)?)?, error(&candle_nn::ops::rms_norm(&x, &gamma, 1e-5)?)?);
        println!("rms_norm {dtype:?}: {ours:.2} half units in the last place, candle {candle:.2}");
        assert!(ours <= 1.0 && candle > 2.0, "{dtype:?}: {ours}, {candle}");
    }
    Ok(())
}

#[test]
fn absent_gamma_and_beta_count_as_one_and_zero() -> Result<()> {
    let Case { x, gamma, beta } = case(&[3, 100], 0.5, DType::BF16, DType::BF16)?;
    let (ones, zeros) = (gamma.ones_like()?, beta.zeros_like()?);
    assert_same(&ops::layer_norm(&x, &gamma, None, EPS)?, &ops::layer_norm(&x, &gamma, &zeros, EPS)?);
    assert_same(&ops::layer_norm(&x, None, &beta, EPS)?, &ops::layer_norm(&x, &ones, &beta, EPS)?);
    assert_same(&ops::layer_norm(&x, None, None, EPS)?, &ops::layer_norm(&x, &ones, &zeros, EPS)?);
    assert_same(&ops::rms_norm(&x, None, EPS)?, &ops::rms_norm(&x, &ones, EPS)?);
    Ok(())
}

#[test]
fn views_have_the_bits_of_copies() -> Result<()> {
    let x = normal(1, &[4, 6, 96], 3.0)?.to_dtype(DType::F32)?;
    let views = [
        ("some columns", x.narrow(2, 5, 64)?),
        ("heads in a packed buffer", x.reshape((4, 6, 3, 32))?.narrow(2, 1, 1)?),
        ("a sample", x.get(2)?),
        ("some rows of each sample", x.narrow(1, 1, 3)?),
        ("exchanged dimensions", x.transpose(0, 1)?),
        ("columns apart", x.transpose(1, 2)?),
        ("one row again and again", x.get(0)?.get(0)?.expand((5, 96))?),
    ];
    for (what, x) in views {
        let cols = x.dims()[x.rank() - 1];
        // Every other element of longer vectors.
        let param = |seed| normal(seed, &[cols, 2], 1.0)?.to_dtype(DType::F32)?.narrow(1, 0, 1)?.squeeze(1);
        let (gamma, beta): (Tensor, Tensor) = (param(2)?, param(3)?);
        let copies = (x.copy()?.contiguous()?, gamma.contiguous()?, beta.contiguous()?);
        println!("{what}");
        let y = ops::layer_norm(&x, &gamma, &beta, EPS)?;
        assert_same(&y, &ops::layer_norm(&copies.0, &copies.1, &copies.2, EPS)?);
        let y = ops::rms_norm(&x, &gamma, EPS)?;
        assert_same(&y, &ops::rms_norm(&copies.0, &copies.1, EPS)?);
        let residual = normal(4, &[cols], 0.0)?.to_dtype(DType::F32)?.broadcast_as(x.shape())?;
        let (s, y) = ops::add_layer_norm(&x, &residual, &gamma, &beta, EPS)?;
        assert_same(&s, &(&x + &residual)?);
        assert_same(&y, &ops::layer_norm(&s, &gamma, &beta, EPS)?);
    }
    Ok(())
}

#[test]
fn a_sum_has_the_bits_of_adding_first() -> Result<()> {
    for (dtype, params) in TYPES {
        for shape in SHAPES {
            let Case { x, gamma, beta } = case(shape, 0.5, dtype, params)?;
            let residual = normal(4, shape, 0.0)?.to_dtype(dtype)?;
            let sum = (&x + &residual)?;
            let (s, y) = ops::add_layer_norm(&x, &residual, &gamma, &beta, EPS)?;
            assert_same(&s, &sum);
            assert_same(&y, &ops::layer_norm(&sum, &gamma, &beta, EPS)?);
            let (s, y) = ops::add_rms_norm(&x, &residual, &gamma, EPS)?;
            assert_same(&s, &sum);
            assert_same(&y, &ops::rms_norm(&sum, &gamma, EPS)?);
        }
    }
    Ok(())
}

#[test]
fn in_place_has_the_bits_of_out_of_place() -> Result<()> {
    for (dtype, params) in TYPES {
        for shape in SHAPES {
            let Case { x, gamma, beta } = case(shape, 0.5, dtype, params)?;
            let residual = normal(4, shape, 0.0)?.to_dtype(dtype)?;
            let sum = (&x + &residual)?;
            let over_x = |run: &dyn Fn(&Tensor) -> Result<()>| {
                let x = x.copy()?;
                run(&x)?;
                Ok::<_, candle_core::Error>(x)
            };
            assert_same(
                &over_x(&|x| ops::layer_norm_in_place(x, &gamma, &beta, EPS))?,
                &ops::layer_norm(&x, &gamma, &beta, EPS)?,
            );
            assert_same(&over_x(&|x| ops::rms_norm_in_place(x, &gamma, EPS))?, &ops::rms_norm(&x, &gamma, EPS)?);
            assert_same(
                &over_x(&|x| ops::add_layer_norm_in_place(x, &residual, &gamma, &beta, EPS))?,
                &ops::layer_norm(&sum, &gamma, &beta, EPS)?,
            );
            assert_same(
                &over_x(&|x| ops::add_rms_norm_in_place(x, &residual, &gamma, EPS))?,
                &ops::rms_norm(&sum, &gamma, EPS)?,
            );
        }
    }
    Ok(())
}

#[test]
fn in_place_leaves_the_rest_of_a_buffer_alone() -> Result<()> {
    let buffer = normal(1, &[6, 96], 3.0)?.to_dtype(DType::F32)?;
    let before = buffer.copy()?;
    ops::layer_norm_in_place(&buffer.narrow(1, 32, 32)?, None, None, EPS)?;
    let residual = before.narrow(0, 5, 1)?;
    ops::add_rms_norm_in_place(&buffer.narrow(0, 4, 1)?, &residual, None, EPS)?;
    let columns = |x: &Tensor, from| x.narrow(0, 0, 4)?.narrow(1, from, 32);
    assert_same(
        &columns(&buffer, 32)?,
        &columns(&ops::layer_norm(&before.narrow(1, 32, 32)?, None, None, EPS)?.pad_with_zeros(1, 32, 0)?, 32)?,
    );
    for from in [0, 64] {
        assert_same(&columns(&buffer, from)?, &columns(&before, from)?);
    }
    assert_same(&buffer.narrow(0, 5, 1)?.narrow(1, 0, 32)?, &before.narrow(0, 5, 1)?.narrow(1, 0, 32)?);
    assert!(distance(&buffer.get(4)?, &before.get(4)?)? > 0.1);
    // A gamma that lies in the same buffer.
    let x = before.copy()?;
    ops::rms_norm_in_place(&x.narrow(0, 0, 2)?, &x.get(3)?, EPS)?;
    assert_same(&x.narrow(0, 0, 2)?, &ops::rms_norm(&before.narrow(0, 0, 2)?, &before.get(3)?, EPS)?);
    Ok(())
}

#[test]
fn nothing_comes_of_nothing() -> Result<()> {
    for shape in [[0, 8], [3, 0], [0, 0]] {
        let x = Tensor::zeros(&shape, DType::F32, &Device::Cpu)?;
        let gamma = Tensor::ones(shape[1], DType::F32, &Device::Cpu)?;
        assert_eq!(ops::layer_norm(&x, &gamma, &gamma, EPS)?.dims(), shape);
        assert_eq!(ops::rms_norm(&x, &gamma, EPS)?.dims(), shape);
        assert_eq!(ops::add_rms_norm(&x, &x, &gamma, EPS)?.1.dims(), shape);
        ops::layer_norm_in_place(&x, &gamma, &gamma, EPS)?;
        ops::add_rms_norm_in_place(&x, &x.copy()?, &gamma, EPS)?;
    }
    Ok(())
}

#[test]
fn a_row_that_is_not_finite_leaves_the_others_alone() -> Result<()> {
    let x = Tensor::new(
        &[[1f32, 2.0, 4.0], [f32::NAN, 2.0, 4.0], [1.0, f32::INFINITY, 4.0], [1.0, 2.0, 4.0]],
        &Device::Cpu,
    )?;
    let y = ops::layer_norm(&x, None, None, EPS)?.to_vec2::<f32>()?;
    assert!(y[1].iter().chain(&y[2]).all(|y| y.is_nan()));
    assert!(y[0] == y[3] && y[0].iter().all(|y| y.is_finite()));
    Ok(())
}

#[test]
fn modules_are_the_operations() -> Result<()> {
    let Case { x, gamma, beta } = case(&[2, 3, 100], 0.5, DType::F32, DType::F32)?;
    let residual = normal(4, &[2, 3, 100], 0.0)?.to_dtype(DType::F32)?;
    let with_bias = LayerNorm::new(gamma.clone(), beta.clone(), EPS);
    assert_same(&with_bias.forward(&x)?, &ops::layer_norm(&x, &gamma, &beta, EPS)?);
    assert_same(&with_bias.forward_add(&x, &residual)?.1, &ops::add_layer_norm(&x, &residual, &gamma, &beta, EPS)?.1);
    let without = LayerNorm::new_no_bias(gamma.clone(), EPS);
    assert_same(&without.forward(&x)?, &ops::layer_norm(&x, &gamma, None, EPS)?);
    let rms = ops::rms_norm(&x, &gamma, EPS)?;
    assert_same(&LayerNorm::rms_norm(gamma.clone(), EPS).forward(&x)?, &rms);
    let norm = RmsNorm::new(gamma.clone(), EPS);
    assert_same(&norm.forward(&x)?, &rms);
    assert_same(&norm.forward_diff(&x)?, &rms);
    assert_same(&norm.forward_add(&x, &residual)?.1, &ops::add_rms_norm(&x, &residual, &gamma, EPS)?.1);
    let in_place = [x.copy()?, x.copy()?, x.copy()?, x.copy()?];
    with_bias.forward_in_place(&in_place[0])?;
    with_bias.forward_add_in_place(&in_place[1], &residual)?;
    norm.forward_in_place(&in_place[2])?;
    norm.forward_add_in_place(&in_place[3], &residual)?;
    assert_same(&in_place[0], &with_bias.forward(&x)?);
    assert_same(&in_place[1], &with_bias.forward_add(&x, &residual)?.1);
    assert_same(&in_place[2], &rms);
    assert_same(&in_place[3], &norm.forward_add(&x, &residual)?.1);
    let [x16, gamma16] = [&x, &gamma].map(|t| t.to_dtype(DType::BF16));
    let (x16, gamma16) = (x16?, gamma16?);
    // Each step rounded, as an operation of its own.
    let xhat = ops::rms_norm(&x16, None, EPS)?;
    let llama = RmsNorm::new(gamma16.clone(), EPS).with_rounding(Rounding::STEPS);
    assert_same(&llama.forward(&x16)?, &xhat.broadcast_mul(&gamma16)?);
    let xhat = ops::layer_norm(&x16, None, None, EPS)?;
    let deberta = LayerNorm::new(gamma16.clone(), gamma16.clone(), EPS).with_rounding(Rounding::STEPS);
    assert_same(&deberta.forward(&x16)?, &xhat.broadcast_mul(&gamma16)?.broadcast_add(&gamma16)?);
    let gemma = RmsNorm::new(gamma.clone(), EPS).with_offset(1.0);
    assert!(distance(&gemma.forward(&x)?, &rms_norm_f64(&x, &(exact(&gamma)? + 1.0)?, EPS)?)? < 1e-5);
    Ok(())
}
