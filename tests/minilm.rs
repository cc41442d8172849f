//! Every LayerNorm of a real model: accurate, and the same bits on every tier.

#[path = "data/minilm.rs"]
mod minilm;
#[path = "support/tiers.rs"]
mod tiers;

use lanenorm::kernels::reference;
use lanenorm::{LayerNorm, Parallelism};
use tiers::tiers;

#[test]
fn real_activations_are_accurate_and_tiers_agree() {
    let model = minilm::load();
    assert_eq!(model.layers.len(), 13);
    for layer in &model.layers {
        let mut scalar = Vec::new();
        for isa in tiers() {
            let plan = LayerNorm::new(layer.cols(), model.eps).unwrap().with_isa(isa);
            let plan = plan.with_parallelism(Parallelism::Serial);
            let mut y = vec![f32::NAN; layer.x.len()];
            plan.forward(&layer.x, Some(&layer.gamma), Some(&layer.beta), &mut y).unwrap();
            let error = layer.worst_error(model.eps, &y);
            assert!(error <= 4.0, "{} on {isa}: {error} u", layer.name);
            let bits: Vec<u32> = y.iter().map(|v| v.to_bits()).collect();
            if scalar.is_empty() {
                scalar = bits;
            } else {
                assert!(bits == scalar, "{}: {isa} and scalar differ", layer.name);
            }
        }
    }
}

/// Compares the results in the file, which other code has made, with the specification.
#[test]
fn the_reference_agrees_with_the_model() {
    let model = minilm::load();
    for layer in &model.layers {
        let cols = layer.cols();
        let mut y = vec![0.0; cols];
        for (x, expected) in layer.x.chunks_exact(cols).zip(layer.expected.chunks_exact(cols)) {
            reference::layer_norm(x, Some(&layer.gamma), Some(&layer.beta), model.eps, &mut y);
            for (i, (&y, &expected)) in y.iter().zip(expected).enumerate() {
                let ulp = f64::from(expected.abs().next_up() - expected.abs());
                let error = (y - f64::from(expected)).abs() / ulp;
                assert!(error <= 0.51, "{}, column {i}: {y} is {error} ulp from {expected}", layer.name);
            }
        }
    }
}
