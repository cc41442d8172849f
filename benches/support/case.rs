//! The inputs: shapes that models have and shapes that are awkward, filled with random numbers, and real activations.

use lanenorm::Tier;
use lanenorm::kernels::table::{self, Dtype, Op};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::activations;

/// The operations that the default run times on a shape: those that models call with it.
const BOTH: &[Op] = &[Op::LayerNorm, Op::RmsNorm];
const LAYER_NORM: &[Op] = &[Op::LayerNorm];
const RMS_NORM: &[Op] = &[Op::RmsNorm];

/// Rows, columns, which call it is like, and who times it by default.
const SHAPES: [(usize, usize, &str, &[Op]); 18] = [
    (1, 8, "what a call costs", LAYER_NORM),
    (1, 768, "one token of BERT-base", LAYER_NORM),
    (1, 4096, "one token of a 7B model", BOTH),
    (1, 16384, "one token of a very large model", BOTH),
    (7, 333, "a multiple of nothing", LAYER_NORM),
    (8, 768, "a few tokens of BERT-base", BOTH),
    (32, 1024, "a few tokens of BERT-large", LAYER_NORM),
    (128, 768, "a sentence of BERT-base", BOTH),
    (197, 1000, "the tokens of a vision transformer, of an odd width", LAYER_NORM),
    (512, 384, "a paragraph of MiniLM", LAYER_NORM),
    (512, 768, "a paragraph of BERT-base", BOTH),
    (2048, 1024, "beyond the L2 cache", BOTH),
    (16384, 128, "heads", LAYER_NORM),
    (65536, 64, "short heads", LAYER_NORM),
    (65536, 128, "heads of a long prompt", RMS_NORM),
    (4096, 4096, "a long prompt of a 7B model", BOTH),
    (4, 1_000_003, "few rows, and long", LAYER_NORM),
    (1, 16_777_216, "one row to be split over threads", LAYER_NORM),
];

/// A tensor and what normalizes it.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) x: Vec<f32>,
    pub(crate) gamma: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

/// An operation on one or more tensors that are normalized one after the other, and timed together.
pub(crate) struct Case {
    pub(crate) op: Op,
    pub(crate) name: String,
    pub(crate) about: &'static str,
    pub(crate) cols: usize,
    pub(crate) eps: f64,
    /// The number of elements of x, of all tensors together.
    pub(crate) elements: usize,
    in_default_run: bool,
    data: Data,
}

/// Random numbers are made when they are needed: all cases together would fill a gigabyte.
enum Data {
    Random,
    Real(Vec<Tensor>),
}

/// All operations on all inputs. The cases of one operation follow each other.
pub(crate) fn all() -> Vec<Case> {
    // Every operation has a scalar kernel.
    let kernels = table::kernels().filter(|k| (k.dtype, k.tier) == (Dtype::F32, Tier::Scalar));
    let cases_of = |op| {
        let shapes = SHAPES.into_iter().map(move |(rows, cols, about, default)| {
            let name = format!("{rows}x{cols}");
            let in_default_run = default.contains(&op);
            Case { op, name, about, cols, eps: 1e-5, elements: rows * cols, in_default_run, data: Data::Random }
        });
        shapes.chain([activations::case(op)])
    };
    kernels.flat_map(|kernel| cases_of(kernel.op)).collect()
}

/// The cases of the default run.
pub(crate) fn few() -> Vec<Case> {
    all().into_iter().filter(|case| case.in_default_run).collect()
}

impl Case {
    /// A case of given tensors, which have one number of columns and come from LayerNorms.
    pub(crate) fn real(op: Op, name: String, about: &'static str, eps: f64, tensors: Vec<Tensor>) -> Self {
        let cols = tensors[0].gamma.len();
        let elements = tensors.iter().map(|t| t.x.len()).sum();
        let in_default_run = op == Op::LayerNorm;
        Self { op, name, about, cols, eps, elements, in_default_run, data: Data::Real(tensors) }
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
