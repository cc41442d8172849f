//! Rows that are quantized by the definition.

use lanenorm::kernels::reference;
use lanenorm::scheme::{Scheme, Scope};

/// Quantized rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Quantized {
    pub(crate) q: Vec<u8>,
    /// The bits, since a scale may be NaN.
    pub(crate) scale: Vec<u32>,
    pub(crate) zero_point: Vec<u8>,
}

/// By the definition.
pub(crate) fn quantized(scheme: &Scheme, y: &[f32], cols: usize) -> Quantized {
    let rows = y.len() / cols;
    let mut q = vec![0; rows * scheme.row_bytes(cols)];
    let (mut scale, mut zero_point) = (vec![], vec![]);
    if let Some((block, bytes)) = scheme.layout.block() {
        q.chunks_mut(bytes).zip(y.chunks(block)).for_each(|(q, y)| reference::quantize_block(scheme, y, q));
    } else {
        let together = match scheme.scope {
            Scope::Row => cols,
            Scope::Block(block) => block,
            Scope::Tensor | Scope::Given { .. } => y.len(),
        };
        for (q, y) in q.chunks_mut(together).zip(y.chunks(together)) {
            let (s, z) = reference::quantize(scheme, y, q);
            scale.push(s.to_bits());
            zero_point.push(z as u8);
        }
    }
    scale.truncate(scheme.scales(rows, cols));
    zero_point.truncate(scheme.zero_points(rows));
    Quantized { q, scale, zero_point }
}

pub(crate) const SCHEMES: [Scheme; 12] = [
    Scheme::I8,
    Scheme::TORCH_AO_I8,
    Scheme::TORCHAO_I8,
    Scheme::U8,
    Scheme::ONNX_U8,
    Scheme::Q8_0,
    Scheme::Q8_1_X86,
    Scheme::Q8_K,
    Scheme::i8_blocks(64),
    Scheme::i8_given(0.02, 3),
    Scheme::E4M3,
    Scheme::E5M2.given(0.01),
];
