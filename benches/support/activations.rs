//! The real input: activations of a sentence-embedding model, layer after layer.

use lanenorm::kernels::table::{Dtype, Op};

use super::case::{Case, Tensor};

#[path = "../../tests/data/minilm.rs"]
mod minilm;

/// The case made of every layer of the model, rounded to the type.
pub(crate) fn case(op: Op, dtype: Dtype) -> Case {
    let model = minilm::load();
    let cols = model.layers[0].cols();
    let tensor = |layer: minilm::Layer| Tensor { x: layer.x, gamma: layer.gamma, beta: layer.beta, dy: Vec::new() };
    let tensors: Vec<_> = model.layers.into_iter().map(tensor).collect();
    let rows: usize = tensors.iter().map(|t| t.x.len() / cols).sum();
    Case::real(op, dtype, format!("minilm_{rows}x{cols}"), "real activations, layer by layer", model.eps, tensors)
}
