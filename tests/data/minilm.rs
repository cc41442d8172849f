//! The activations of a real model: see `README.md` beside this file.
#![allow(dead_code, unreachable_pub, reason = "the test, the example and the benchmark each take what they need")]

use lanenorm::kernels::reference;
use safetensors::SafeTensors;

/// One LayerNorm of the model and its input.
pub struct Layer {
    pub name: String,
    /// x + residual of the model, rows x cols.
    pub x: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
    /// The normalization in f64, rounded to f32.
    pub expected: Vec<f32>,
}

impl Layer {
    pub fn cols(&self) -> usize {
        self.gamma.len()
    }

    /// The worst error of y, in units of u (|gamma| (1 + |xhat|) + |beta|) with u = 2^-24.
    pub fn worst_error(&self, eps: f64, y: &[f32]) -> f64 {
        let mut worst: f64 = 0.0;
        for (x, y) in self.x.chunks_exact(self.cols()).zip(y.chunks_exact(self.cols())) {
            let stats = reference::stats(x, eps);
            for (i, &y) in y.iter().enumerate() {
                let (xhat, gamma, beta) =
                    (reference::xhat(x[i], &stats), f64::from(self.gamma[i]), f64::from(self.beta[i]));
                let scale = gamma.abs() * (1.0 + xhat.abs()) + beta.abs();
                worst = worst.max((f64::from(y) - (xhat * gamma + beta)).abs() / scale);
            }
        }
        worst * f64::from(1 << 24)
    }
}

pub struct Model {
    pub eps: f64,
    pub layers: Vec<Layer>,
}

/// Reads the file.
pub fn load() -> Model {
    let file = include_bytes!("minilm.safetensors");
    let (_, header) = SafeTensors::read_metadata(file).expect("a safetensors header");
    let tensors = SafeTensors::deserialize(file).expect("a safetensors file");
    let metadata = header.metadata().as_ref().expect("metadata");
    let tensor = |layer: &str, name: &str| -> Vec<f32> {
        let tensor = tensors.tensor(&format!("{layer}.{name}")).expect("a tensor of every layer");
        tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    };
    let layer = |name: &str| Layer {
        name: name.to_owned(),
        x: tensor(name, "x").iter().zip(tensor(name, "residual")).map(|(x, residual)| x + residual).collect(),
        gamma: tensor(name, "gamma"),
        beta: tensor(name, "beta"),
        expected: tensor(name, "expected"),
    };
    Model {
        eps: metadata["eps"].parse().expect("eps is a number"),
        layers: metadata["layers"].split(',').map(layer).collect(),
    }
}
