//! The real input: activations of a sentence-embedding model, layer after layer.

use std::path::Path;

use safetensors::SafeTensors;

use super::case::{Case, Tensor};

/// The columns of the model, and its eps.
const COLS: usize = 384;
const EPS: f64 = 1e-12;

/// The case made of every layer of the fixture, or `None`, with a line that says so, if the fixture is not there.
pub(crate) fn case() -> Option<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/minilm.safetensors");
    let Ok(bytes) = std::fs::read(&path) else {
        eprintln!("no real activations: {} cannot be read", path.display());
        return None;
    };
    let file = SafeTensors::deserialize(&bytes).expect("the fixture is a safetensors file");
    let mut layers: Vec<_> = file.names().into_iter().filter_map(|name| name.strip_suffix(".x")).collect();
    layers.sort_unstable();
    let tensors: Vec<_> = layers.into_iter().filter_map(|layer| tensor(&file, layer)).collect();
    assert!(!tensors.is_empty(), "{} has no tensor named *.x of {COLS} columns", path.display());
    let rows: usize = tensors.iter().map(|t| t.x.len() / COLS).sum();
    let name = format!("minilm_{rows}x{COLS}");
    Some(Case::real(name, "real activations, layer by layer", EPS, tensors))
}

/// x, gamma and beta of one layer.
fn tensor(file: &SafeTensors<'_>, layer: &str) -> Option<Tensor> {
    let x = file.tensor(&format!("{layer}.x")).ok()?;
    let values = |what: &str| {
        let view = file.tensor(&format!("{layer}.{what}")).ok()?;
        let (words, _) = view.data().as_chunks();
        Some(words.iter().map(|&word| f32::from_le_bytes(word)).collect())
    };
    (x.shape().last() == Some(&COLS)).then_some(())?;
    Some(Tensor { x: values("x")?, gamma: values("gamma")?, beta: values("beta")? })
}
