//! Gated modules, against candle's own operations.

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::VarBuilder;
use lanenorm_candle::{Gate, RmsNormGated};

use crate::support::{distance, elements, normal, var};

const EPS: f64 = 1e-5;

/// silu(z), or before the normalization of groups, by candle's operations in f64.
fn exact(x: &Tensor, z: &Tensor, gamma: &Tensor, before: bool, groups: usize) -> Result<Tensor> {
    let [x, z, gamma] = [x, z, gamma].map(|v| v.to_dtype(DType::F64));
    let (x, z, gamma) = (x?, z?, gamma?);
    let silu = z.silu()?;
    let u = if before { (&x * &silu)? } else { x.clone() };
    let cols = x.dim(D::Minus1)?;
    let u = u.reshape((x.elem_count() / cols, groups, cols / groups))?;
    let rms = (u.sqr()?.mean_keepdim(D::Minus1)? + EPS)?.sqrt()?;
    let n = u.broadcast_div(&rms)?.reshape(x.shape())?.broadcast_mul(&gamma)?;
    if before { Ok(n) } else { n * silu }
}

#[test]
fn gated_modules_and_their_gradients() -> Result<()> {
    let types = [
        (DType::F32, DType::F32, DType::F32, 4e-6),
        (DType::F16, DType::F16, DType::F16, 2e-3),
        (DType::F16, DType::F32, DType::F32, 2e-3),
        (DType::BF16, DType::F32, DType::BF16, 1.6e-2),
        (DType::BF16, DType::BF16, DType::F32, 1.6e-2),
        (DType::BF16, DType::BF16, DType::BF16, 1.6e-2),
    ];
    for (dtype, of_z, of_gamma, bound) in types {
        for (gate, before) in [(Gate::SILU, false), (Gate::SILU_BEFORE, true)] {
            for groups in [1, 4] {
                let shape = [3, 5, 96];
                let x = var(&normal(1, &shape, 0.5)?, dtype)?;
                let z = var(&normal(2, &shape, 0.0)?, of_z)?;
                let gamma = var(&normal(3, &[96], 1.0)?, of_gamma)?;
                let of_y = normal(4, &shape, 0.0)?.to_dtype(dtype)?;
                let norm = RmsNormGated::new(gamma.as_tensor().clone(), EPS).with_gate(gate).with_groups(groups);
                let y = norm.forward(&x, &z)?;
                let [x64, z64, gamma64] = [&x, &z, &gamma].map(|v| var(v, DType::F64));
                let (x64, z64, gamma64) = (x64?, z64?, gamma64?);
                let expected = exact(&x64, &z64, &gamma64, before, groups)?;
                let what = format!("{dtype:?}, {of_z:?}, {of_gamma:?}, {gate:?}, {groups}");
                let close = |a: &Tensor, b: &Tensor| -> Result<()> {
                    let largest = elements(b)?.into_iter().map(f64::abs).fold(0.0, f64::max);
                    assert!(distance(a, b)? <= bound * largest, "{what}: {} of {largest}", distance(a, b)?);
                    Ok(())
                };
                assert_eq!(y.dtype(), dtype);
                close(&y, &expected)?;
                let grads = (&y * &of_y)?.sum_all()?.backward()?;
                let grads64 = (&expected * of_y.to_dtype(DType::F64)?)?.sum_all()?.backward()?;
                for (v, v64) in [(&x, &x64), (&z, &z64), (&gamma, &gamma64)] {
                    let (grad, grad64) = (grads.get(v).expect("a gradient"), grads64.get(v64).expect("a gradient"));
                    assert_eq!(grad.dtype(), v.dtype());
                    close(grad, grad64)?;
                }
                // Some columns of wider tensors, and no weight.
                let wide = Tensor::cat(&[&*x, &*x], 2)?;
                let no_weight = RmsNormGated::new_no_weight(EPS).with_gate(gate).with_groups(groups);
                let y = no_weight.forward(&wide.narrow(2, 96, 96)?, &z)?;
                let ones = Tensor::ones(96, DType::F64, &Device::Cpu)?;
                close(&y, &exact(&x64, &z64, &ones, before, groups)?)?;
            }
        }
    }
    Ok(())
}

#[test]
fn gated_modules_refuse_what_does_not_fit() -> Result<()> {
    let x = normal(1, &[3, 8], 0.0)?.to_dtype(DType::F32)?;
    let norm = RmsNormGated::new(Tensor::ones(8, DType::F32, &Device::Cpu)?, EPS);
    let says = |norm: &RmsNormGated, x: &Tensor, z: &Tensor, words: &[&str]| {
        let error = norm.forward(x, z).expect_err("it does not fit").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}: {words:?}");
    };
    says(&norm, &x, &x.narrow(0, 0, 2)?, &["z", "[2, 8]", "[3, 8]"]);
    says(&norm.clone().with_groups(3), &x, &x, &["8", "3 groups"]);
    says(&norm, &x, &x.to_dtype(DType::BF16)?, &["z is BF16", "F32"]);
    says(&norm, &x.to_dtype(DType::F64)?, &x, &["x is F64"]);
    says(&RmsNormGated::new(x.get(0)?.narrow(0, 0, 7)?, EPS), &x, &x, &["gamma", "[7]", "[8]"]);
    // A z that is tracked alone.
    let z = Var::from_tensor(&x)?;
    let grads = norm.forward(&x, &z)?.sum_all()?.backward()?;
    assert!(grads.get(&z).is_some());
    let empty = x.narrow(0, 0, 0)?;
    assert_eq!(norm.forward(&empty, &empty)?.dims(), [0, 8]);
    Ok(())
}

#[test]
fn gated_modules_are_loaded_as_those_of_candle() -> Result<()> {
    let weights = [("g.weight".to_owned(), normal(3, &[8], 1.0)?.to_dtype(DType::F32)?)];
    let vb = VarBuilder::from_tensors(weights.into_iter().collect(), DType::F32, &Device::Cpu);
    let x = normal(1, &[3, 8], 0.0)?.to_dtype(DType::F32)?;
    let norm = lanenorm_candle::rms_norm_gated(8, EPS, vb.pp("g"))?;
    let weight = norm.weight().expect("a weight").clone();
    let same = RmsNormGated::new(weight, EPS).forward(&x, &x)?;
    assert_eq!(elements(&norm.forward(&x, &x)?)?, elements(&same)?);
    assert!(lanenorm_candle::rms_norm_gated(9, EPS, vb.pp("g")).is_err());
    Ok(())
}
