//! Layer normalization over channels that come first: the bits are those of the module for channels that come last.
//! Group normalization: candle's own module, made of operations that have gradients, is near in f64.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use lanenorm_candle::{Function, GroupNorm, LayerNorm, LayerNorm2d};

use crate::support::{assert_same, normal, var};

const EPS: f64 = 1e-6;

#[test]
fn layer_norm_2d_and_its_gradients() -> Result<()> {
    let types = [
        (DType::F32, DType::F32),
        (DType::F64, DType::F64),
        (DType::F16, DType::F16),
        (DType::BF16, DType::F32),
        (DType::BF16, DType::BF16),
    ];
    for (dtype, params) in types {
        for shape in [[2, 3, 4, 5], [3, 24, 7, 7], [1, 96, 14, 14]] {
            let [_, channels, ..] = shape;
            let x = var(&normal(1, &shape, 0.5)?, dtype)?;
            let gamma = var(&normal(2, &[channels], 1.0)?, params)?;
            let beta = var(&normal(3, &[channels], 0.0)?, params)?;
            let of_y = normal(4, &shape, 0.0)?.to_dtype(dtype)?;
            let (weight, bias) = (gamma.as_tensor().clone(), beta.as_tensor().clone());
            let first = LayerNorm2d::new(weight.clone(), bias.clone(), EPS).forward(&x)?;
            let grads = (&first * &of_y)?.sum_all()?.backward()?;
            let rows = var(&x.permute((0, 2, 3, 1))?.contiguous()?, dtype)?;
            let last = LayerNorm::new(weight, bias, EPS).forward(&rows)?;
            let of_rows = of_y.permute((0, 2, 3, 1))?.contiguous()?;
            let expected = (&last * &of_rows)?.sum_all()?.backward()?;
            assert_same(&first, &last.permute((0, 3, 1, 2))?);
            let dx = expected.get(&rows).expect("a gradient").permute((0, 3, 1, 2))?;
            assert_same(grads.get(&x).expect("a gradient"), &dx);
            for param in [&gamma, &beta] {
                assert_same(grads.get(param).expect("a gradient"), expected.get(param).expect("a gradient"));
            }
        }
    }
    Ok(())
}

#[test]
fn layer_norm_2d_refuses_what_does_not_fit() -> Result<()> {
    let zeros = |channels: usize, dtype| Tensor::zeros(channels, dtype, &Device::Cpu);
    let x = normal(1, &[2, 3, 4, 4], 0.0)?.to_dtype(DType::F32)?;
    let says = |norm: LayerNorm2d, x: &Tensor, words: &[&str]| {
        let error = norm.forward(x).expect_err("it does not fit").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}: {words:?}");
    };
    let (three, four) = (zeros(3, DType::F32)?, zeros(4, DType::F32)?);
    says(LayerNorm2d::new(four.clone(), four, EPS), &x, &["gamma", "[4]", "[3]"]);
    says(LayerNorm2d::new(three.clone(), zeros(3, DType::F64)?, EPS), &x, &["beta", "F64", "F32"]);
    says(LayerNorm2d::new(three.clone(), three.clone(), EPS), &x.get(0)?, &["3"]);
    says(LayerNorm2d::new(three.clone(), three.clone(), -1.0), &x, &["eps", "-1"]);
    // Loaded, and without samples.
    let weights = [("n.weight", three.clone()), ("n.bias", three)].map(|(name, v)| (name.to_owned(), v));
    let vb = VarBuilder::from_tensors(weights.into_iter().collect(), DType::F32, &Device::Cpu);
    let norm = lanenorm_candle::layer_norm_2d(3, EPS, vb.pp("n"))?;
    assert_eq!(norm.forward(&x.narrow(0, 0, 0)?)?.dims(), [0, 3, 4, 4]);
    Ok(())
}

/// y, and the gradients of x, weight and bias, in f64.
fn with_gradients(y: &Tensor, of_y: &Tensor, args: [&Tensor; 3]) -> Result<Vec<Vec<f64>>> {
    let grads = (y * of_y.to_dtype(y.dtype())?)?.sum_all()?.backward()?;
    let all = [Some(y), grads.get(args[0]), grads.get(args[1]), grads.get(args[2])];
    all.into_iter().map(|v| v.expect("a gradient").to_dtype(DType::F64)?.flatten_all()?.to_vec1()).collect()
}

#[test]
fn group_norm_and_its_gradients() -> Result<()> {
    let types = [(DType::F32, DType::F32, 1e-5), (DType::F64, DType::F64, 1e-12), (DType::BF16, DType::F32, 4e-2)];
    for (dtype, params, tolerance) in types {
        for (shape, groups) in [(vec![2, 6, 5, 7], 3), (vec![3, 8, 33], 8), (vec![1, 4, 3, 2, 5], 1)] {
            for activates in [false, true] {
                let channels = shape[1];
                let x = var(&normal(1, &shape, 0.5)?, dtype)?;
                let (gamma, beta) = (normal(2, &[channels], 1.0)?, normal(3, &[channels], 0.0)?);
                let (gamma, beta) = (var(&gamma, params)?, var(&beta, params)?);
                let of_y = normal(4, &shape, 0.0)?.to_dtype(dtype)?;
                let (weight, bias) = (gamma.as_tensor().clone(), beta.as_tensor().clone());
                let mut norm = GroupNorm::new(weight, bias, channels, groups, EPS)?;
                if activates {
                    norm = norm.with_activation(Function::Silu);
                }
                let got = with_gradients(&norm.forward(&x)?, &of_y, [&x, &gamma, &beta])?;

                let [x, gamma, beta] = [&x, &gamma, &beta].map(|v| var(&v.to_dtype(DType::F64)?, DType::F64));
                let (x, gamma, beta) = (x?, gamma?, beta?);
                let (weight, bias) = (gamma.as_tensor().clone(), beta.as_tensor().clone());
                let mut y = candle_nn::GroupNorm::new(weight, bias, channels, groups, EPS)?.forward(&x)?;
                if activates {
                    y = y.silu()?;
                }
                let expected = with_gradients(&y, &of_y, [&x, &gamma, &beta])?;
                for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    assert_eq!(got.len(), expected.len());
                    for (got, expected) in got.iter().zip(expected) {
                        let error = (got - expected).abs();
                        assert!(
                            error <= tolerance * (1.0 + expected.abs()),
                            "{dtype:?}, {shape:?}, {i}: {got}, {expected}"
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn group_norm_refuses_what_does_not_fit() -> Result<()> {
    let zeros = |channels: usize, dtype| Tensor::zeros(channels, dtype, &Device::Cpu);
    let (six, four) = (zeros(6, DType::F32)?, zeros(4, DType::F32)?);
    let error = GroupNorm::new(six.clone(), six.clone(), 6, 4, EPS).expect_err("4 does not divide 6").to_string();
    assert!(error.contains('4') && error.contains('6'), "{error}");
    let x = normal(1, &[2, 6, 4, 4], 0.0)?.to_dtype(DType::F32)?;
    let says = |norm: GroupNorm, x: &Tensor, words: &[&str]| {
        let error = norm.forward(x).expect_err("it does not fit").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}: {words:?}");
    };
    let norm =
        |weight: &Tensor, bias: &Tensor, channels| GroupNorm::new(weight.clone(), bias.clone(), channels, 2, EPS);
    says(norm(&four, &four, 4)?, &x, &["[2, 6, 4, 4]", "4"]);
    says(norm(&four, &six, 6)?, &x, &["gamma", "[4]", "[6]"]);
    says(norm(&six, &zeros(6, DType::F64)?, 6)?, &x, &["beta", "F64", "F32"]);
    says(norm(&six, &six, 6)?, &x.narrow(2, 0, 1)?.reshape((2, 24))?, &["[2, 24]"]);
    says(GroupNorm::new(six.clone(), six.clone(), 6, 2, -1.0)?, &x, &["eps", "-1"]);
    let weights = [("n.weight", six.clone()), ("n.bias", six)].map(|(name, v)| (name.to_owned(), v));
    let vb = VarBuilder::from_tensors(weights.into_iter().collect(), DType::F32, &Device::Cpu);
    let norm = lanenorm_candle::group_norm(3, 6, EPS, vb.pp("n"))?;
    assert_eq!(norm.forward(&x.narrow(0, 0, 0)?)?.dims(), [0, 6, 4, 4]);
    Ok(())
}
