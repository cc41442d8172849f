//! Layer normalization over channels that come first: the bits are those of the module for channels that come last.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use lanenorm_candle::{LayerNorm, LayerNorm2d};

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
