//! Modules that are loaded, trained and shared.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Optimizer, SGD, VarBuilder, VarMap};
use lanenorm_candle::{LayerNorm, LayerNormConfig, RmsNorm};

use crate::support::{assert_same, distance, normal};

#[test]
fn load_what_those_of_candle_load() -> Result<()> {
    let weights = [("w.weight", 2), ("w.bias", 3), ("g.gamma", 4), ("g.beta", 5)];
    let weights =
        weights.into_iter().map(|(name, seed)| Ok((name.to_owned(), normal(seed, &[33], 1.0)?.to_dtype(DType::F32)?)));
    let vb = VarBuilder::from_tensors(weights.collect::<Result<_>>()?, DType::F32, &Device::Cpu);
    let x = normal(1, &[4, 33], 0.5)?.to_dtype(DType::F32)?;
    let configs = [(true, true), (true, false), (false, true), (false, false)]
        .map(|(remove_mean, affine)| LayerNormConfig { eps: 1e-6, remove_mean, affine });
    for name in ["w", "g"] {
        for config in configs {
            let ours = lanenorm_candle::layer_norm(33, config, vb.pp(name))?;
            let theirs = candle_nn::layer_norm(33, config, vb.pp(name))?;
            assert_eq!((ours.eps(), ours.remove_mean()), (theirs.eps(), theirs.remove_mean()));
            assert_eq!(ours.bias().is_some(), theirs.bias().is_some());
            assert!(distance(&ours.forward(&x)?, &theirs.forward(&x)?)? < 1e-5, "{name} {config:?}");
            let (s, y) = ours.forward_add(&x, &x)?;
            assert_same(&y, &ours.forward(&s)?);
            assert_same(&ours.forward(&x)?, &LayerNorm::from(theirs).forward(&x)?);
        }
        let ours = lanenorm_candle::rms_norm(33, 1e-6, vb.pp(name))?;
        let theirs = candle_nn::rms_norm(33, 1e-6, vb.pp(name))?;
        assert!(distance(&ours.forward(&x)?, &theirs.forward(&x)?)? < 1e-5, "{name}");
        assert_same(&ours.forward(&x)?, &RmsNorm::from(theirs).forward(&x)?);
        let ours = lanenorm_candle::layer_norm_no_bias(33, 1e-6, vb.pp(name))?;
        assert!(ours.bias().is_none());
    }
    assert!(lanenorm_candle::layer_norm(33, 1e-5, vb.pp("absent")).is_err());
    assert!(lanenorm_candle::rms_norm(34, 1e-5, vb.pp("w")).is_err());
    Ok(())
}

#[test]
fn are_trained() -> Result<()> {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let norm = lanenorm_candle::layer_norm(16, 1e-5, vb.pp("norm"))?;
    let rms = lanenorm_candle::rms_norm(16, 1e-5, vb.pp("rms"))?;
    let x = normal(1, &[64, 16], 2.0)?.to_dtype(DType::F32)?;
    let wanted = ((normal(2, &[64, 16], 0.0)?.to_dtype(DType::F32)? * 0.1)? + &x)?;
    let mut optimizer = SGD::new(vars.all_vars(), 0.5)?;
    let mut losses = Vec::new();
    for _ in 0..200 {
        let (s, y) = norm.forward_add(&x, &x)?;
        let y = (rms.forward(&y)? + s * 0.25)?;
        let loss = (y - &wanted)?.sqr()?.mean_all()?;
        optimizer.backward_step(&loss)?;
        losses.push(loss.to_scalar::<f32>()?);
    }
    assert!(losses[199] < 0.5 * losses[0], "{} {}", losses[0], losses[199]);
    Ok(())
}

#[test]
fn are_shared_between_threads() -> Result<()> {
    let x = normal(1, &[8, 64], 0.5)?.to_dtype(DType::F32)?;
    let norm =
        LayerNorm::new(Tensor::ones(64, DType::F32, &Device::Cpu)?, Tensor::zeros(64, DType::F32, &Device::Cpu)?, 1e-5);
    let y = norm.forward(&x)?;
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| norm.forward_add(&x, &x.zeros_like()?))).collect();
        runs.into_iter().try_for_each(|run| {
            assert_same(&run.join().expect("no panic")?.1, &y);
            Ok(())
        })
    })
}
