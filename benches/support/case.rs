//! The inputs: shapes that models have and shapes that are awkward, filled with random numbers, and real activations.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::activations;

/// Rows, columns, and which call it is like.
const SHAPES: [(usize, usize, &str); 17] = [
    (1, 8, "what a call costs"),
    (1, 768, "one token of BERT-base"),
    (1, 4096, "one token of a 7B model"),
    (1, 16384, "one token of a very large model"),
    (7, 333, "a multiple of nothing"),
    (8, 768, "a few tokens of BERT-base"),
    (32, 1024, "a few tokens of BERT-large"),
    (128, 768, "a sentence of BERT-base"),
    (197, 1000, "the tokens of a vision transformer, of an odd width"),
    (512, 384, "a paragraph of MiniLM"),
    (512, 768, "a paragraph of BERT-base"),
    (2048, 1024, "beyond the L2 cache"),
    (16384, 128, "heads"),
    (65536, 64, "short heads"),
    (4096, 4096, "a long prompt of a 7B model"),
    (4, 1_000_003, "few rows, and long"),
    (1, 16_777_216, "one row to be split over threads"),
];

/// A tensor and what normalizes it.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) x: Vec<f32>,
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

/// One or more tensors that are normalized one after the other, and timed together.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) about: &'static str,
    pub(crate) cols: usize,
    pub(crate) eps: f64,
    /// The number of elements of x, of all tensors together.
    pub(crate) elements: usize,
    data: Data,
}

/// Random numbers are made when they are needed: all cases together would fill a gigabyte.
enum Data {
    Random,
    Real(Vec<Tensor>),
}

/// All inputs.
pub(crate) fn all() -> Vec<Case> {
    let mut cases: Vec<_> = SHAPES.into_iter().map(|(rows, cols, about)| Case::random(rows, cols, about)).collect();
    cases.push(activations::case());
    cases
}

impl Case {
    fn random(rows: usize, cols: usize, about: &'static str) -> Self {
        let name = format!("{rows}x{cols}");
        Self { name, about, cols, eps: 1e-5, elements: rows * cols, data: Data::Random }
    }

    /// A case of given tensors, which have one number of columns.
    pub(crate) fn real(name: String, about: &'static str, eps: f64, tensors: Vec<Tensor>) -> Self {
        let cols = tensors[0].gamma.len();
        let elements = tensors.iter().map(|t| t.x.len()).sum();
        Self { name, about, cols, eps, elements, data: Data::Real(tensors) }
    }

    /// The tensors, the same ones in every run.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        match &self.data {
            Data::Real(tensors) => tensors.clone(),
            Data::Random => {
                let rng = &mut SmallRng::seed_from_u64(self.elements as u64);
                let x = bells(rng, self.elements, 0.25, 1.5);
                vec![Tensor { x, gamma: bells(rng, self.cols, 1.0, 0.25), beta: bells(rng, self.cols, 0.0, 0.25) }]
            }
        }
    }

    /// The bytes that cannot be avoided: x read once and y written once.
    pub(crate) fn bytes(&self) -> usize {
        2 * self.elements * size_of::<f32>()
    }
}

/// Numbers of about a normal distribution: the sum of four uniform ones.
fn bells(rng: &mut SmallRng, n: usize, mean: f32, std: f32) -> Vec<f32> {
    let uniform_std = (1.0f32 / 12.0).sqrt();
    let bell = || rng.random::<[u16; 4]>().into_iter().map(|v| f32::from(v) / 65536.0 - 0.5).sum::<f32>() / 2.0;
    std::iter::repeat_with(bell).map(|v| v / uniform_std * std + mean).take(n).collect()
}
