//! Rows that are normalized and quantized at once, and their products with quantized weights.

use candle_core::quantized::k_quants::{self, BlockQ4_0, BlockQ8_0};
use candle_core::quantized::{GgmlDType, GgmlType, QMatMul, QTensor};
use candle_core::{D, DType, Module, Result, Tensor};
use candle_nn::VarBuilder;
use lanenorm_candle::{LayerNorm, LayerNormConfig, RmsNorm};

use crate::support::{assert_same, distance, elements, message, normal};

fn f32(seed: u64, shape: &[usize], mean: f64) -> Result<Tensor> {
    normal(seed, shape, mean)?.to_dtype(DType::F32)
}

/// The product of y and a weight, both quantized by candle.
fn product<B: GgmlType>(y: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((n, k), m) = (weight.dims2()?, y.elem_count() / y.dim(D::Minus1)?);
    let mut blocks = vec![B::zeros(); n * k / B::BLCK_SIZE];
    B::from_float(&weight.flatten_all()?.to_vec1::<f32>()?, &mut blocks);
    let mut product = vec![0.0; m * n];
    k_quants::matmul::<B>((m, k, n), &y.flatten_all()?.to_vec1::<f32>()?, &blocks, &mut product)?;
    let dims: Vec<usize> = y.dims().iter().copied().take(y.rank() - 1).chain([n]).collect();
    Tensor::from_vec(product, dims, y.device())
}

#[test]
fn products_have_the_bits_of_candle() -> Result<()> {
    for (i, (shape, n)) in
        [([1, 1, 32], 1), ([1, 1, 768], 67), ([2, 3, 96], 130), ([1, 20, 256], 64)].iter().enumerate()
    {
        let (seed, cols) = (i as u64, shape[2]);
        let (gamma, beta) = (f32(seed, &[cols], 1.0)?, f32(seed + 1, &[cols], 0.0)?);
        let weight = f32(seed + 2, &[*n, cols], 0.0)?;
        let (layer, rms) = (LayerNorm::new(gamma.clone(), beta, 1e-5), RmsNorm::new(gamma, 1e-6).with_offset(1.0));
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let x = f32(seed + 3, shape, 3.0)?.to_dtype(dtype)?;
            // y is not rounded to 16 bits.
            let wide = x.to_dtype(DType::F32)?;
            let cases =
                [(layer.forward_q8_0(&x)?, layer.forward(&wide)?), (rms.forward_q8_0(&x)?, rms.forward(&wide)?)];
            for (q, y) in cases {
                assert_eq!(q.dims(), x.dims());
                assert_same(&q.dequantize()?, &QTensor::quantize(&y, GgmlDType::Q8_0)?.dequantize(y.device())?);
                let by = |dtype| q.matmul(&QTensor::quantize(&weight, dtype)?);
                assert_same(&by(GgmlDType::Q4_0)?, &product::<BlockQ4_0>(&y, &weight)?);
                assert_same(&by(GgmlDType::Q8_0)?, &product::<BlockQ8_0>(&y, &weight)?);
            }
        }
    }
    Ok(())
}

/// Both ways from x to a product: with lanenorm's blocks, and with candle's modules alone.
#[test]
fn products_are_as_near_as_those_of_candle() -> Result<()> {
    let (rows, cols, n) = (5, 512, 64);
    let (x, gamma) = (f32(1, &[rows, cols], 0.5)?, f32(2, &[cols], 1.0)?);
    let (ours, theirs) = (RmsNorm::new(gamma.clone(), 1e-6), candle_nn::RmsNorm::new(gamma, 1e-6));
    for dtype in [GgmlDType::Q4_0, GgmlDType::Q8_0] {
        let weight = QTensor::quantize(&f32(3, &[n, cols], 0.0)?, dtype)?;
        let wide = weight.dequantize(x.device())?.to_dtype(DType::F64)?;
        let y = ours.forward(&x)?.to_dtype(DType::F64)?;
        let exact = y.matmul(&wide.t()?)?;
        // Half a step of the elements, and of the f16 that has the scale. A step is at most that of the greatest.
        let step = y.abs()?.max_keepdim(D::Minus1)? / 127.0;
        let bound = step?.broadcast_mul(&wide.abs()?.sum(D::Minus1)?.unsqueeze(0)?)? * (0.5 + 127.0 / 2048.0 + 1e-3);
        let bound = elements(&bound?)?;
        let products = [
            ("lanenorm", ours.forward_q8_0(&x)?.matmul(&weight)?),
            ("candle", QMatMul::from_qtensor(weight)?.forward(&theirs.forward(&x)?)?),
        ];
        for (who, product) in &products {
            let errors = elements(product)?.into_iter().zip(elements(&exact)?).map(|(y, exact)| (y - exact).abs());
            let worst = errors.zip(&bound).map(|(error, bound)| error / bound).fold(0.0, f64::max);
            println!("{who}, {dtype:?}: {worst:.3} of the bound");
            assert!(worst < 1.0, "{who}, {dtype:?}: {worst}");
        }
        let apart = distance(&products[0].1, &products[1].1)?;
        println!("{dtype:?}: lanenorm and candle differ by {apart:.1e}");
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() -> Result<()> {
    let norm =
        |cols: usize, dtype| Ok::<_, candle_core::Error>(RmsNorm::new(f32(1, &[cols], 0.0)?.to_dtype(dtype)?, 0.0));
    let (x, weight) = (f32(2, &[3, 64], 0.0)?, f32(3, &[8, 32], 0.0)?);
    let error = message(norm(64, DType::F32)?.forward_q8_0(&x)?.matmul(&QTensor::quantize(&weight, GgmlDType::Q8_0)?));
    assert_eq!(error, "the weight has shape [8, 32], expected 64 columns as rows have");
    let q = norm(32, DType::F32)?.forward_q8_0(&weight)?;
    let error = message(q.matmul(&QTensor::quantize(&weight, GgmlDType::Q8_1)?));
    assert_eq!(error, "the weight is Q8_1, expected Q4_0 or Q8_0");
    let error = message(norm(33, DType::F32)?.forward_q8_0(&f32(4, &[3, 33], 0.0)?));
    assert_eq!(error, "x has 33 columns, which is not a multiple of the 32 elements of a block");
    let error = message(norm(64, DType::F64)?.forward_q8_0(&x.to_dtype(DType::F64)?));
    assert_eq!(error, "x is F64, expected F32, F16 or BF16");
    let error = message(norm(64, DType::BF16)?.forward_q8_0(&x.to_dtype(DType::F16)?));
    assert_eq!(error, "gamma and beta are BF16, expected F16 as x, or F32");
    let config = LayerNormConfig { remove_mean: false, ..LayerNormConfig::default() };
    let biased = lanenorm_candle::layer_norm(64, config, VarBuilder::zeros(DType::F32, x.device()))?;
    let error = message(biased.forward_q8_0(&x));
    assert_eq!(error, "RMS normalization with a bias, of shape [64], is not quantized");
    // No rows.
    let none = norm(64, DType::F32)?.forward_q8_0(&x.narrow(0, 0, 0)?)?;
    assert_eq!(none.matmul(&QTensor::quantize(&f32(3, &[8, 64], 0.0)?, GgmlDType::Q8_0)?)?.dims(), [0, 8]);
    Ok(())
}
