//! A BERT encoder, generic over its normalization.

use std::time::{Duration, Instant};

use candle_core::{D, DType, Module, Result, Tensor};
use candle_nn::{Embedding, Linear, VarBuilder, embedding, linear, ops};
use serde::Deserialize;

/// The fields of `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
}

/// The time of normalizations, and of the residual additions before them that are not a part of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub norm: Duration,
    pub add: Duration,
}

fn timed<T>(time: &mut Duration, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = run();
    *time += start.elapsed();
    result
}

/// A layer normalization that may overwrite its argument.
pub trait Norm: Sized {
    fn load(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self>;

    fn norm(&self, x: Tensor, times: &mut Times) -> Result<Tensor>;

    /// The normalization of x + residual.
    fn norm_sum(&self, x: Tensor, residual: &Tensor, times: &mut Times) -> Result<Tensor> {
        let s = timed(&mut times.add, || &x + residual)?;
        self.norm(s, times)
    }
}

impl Norm for candle_nn::LayerNorm {
    fn load(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        candle_nn::layer_norm(size, eps, vb)
    }

    fn norm(&self, x: Tensor, times: &mut Times) -> Result<Tensor> {
        timed(&mut times.norm, || self.forward(&x))
    }
}

/// lanenorm's module in the place of candle's.
impl Norm for lanenorm_candle::LayerNorm {
    fn load(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        lanenorm_candle::layer_norm(size, eps, vb)
    }

    fn norm(&self, x: Tensor, times: &mut Times) -> Result<Tensor> {
        timed(&mut times.norm, || self.forward(&x))
    }
}

/// lanenorm's module, which overwrites its argument, and may add the residual too.
pub struct InPlace<const ADDS: bool>(lanenorm_candle::LayerNorm);

impl<const ADDS: bool> Norm for InPlace<ADDS> {
    fn load(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        lanenorm_candle::layer_norm(size, eps, vb).map(Self)
    }

    fn norm(&self, x: Tensor, times: &mut Times) -> Result<Tensor> {
        timed(&mut times.norm, || self.0.forward_in_place(&x))?;
        Ok(x)
    }

    fn norm_sum(&self, x: Tensor, residual: &Tensor, times: &mut Times) -> Result<Tensor> {
        if !ADDS {
            let s = timed(&mut times.add, || x + residual)?;
            return self.norm(s, times);
        }
        timed(&mut times.norm, || self.0.forward_add_in_place(&x, residual))?;
        Ok(x)
    }
}

struct Layer<N> {
    heads: usize,
    query: Linear,
    key: Linear,
    value: Linear,
    attention: Linear,
    attention_norm: N,
    intermediate: Linear,
    output: Linear,
    output_norm: N,
}

impl<N: Norm> Layer<N> {
    fn load(config: &Config, vb: &VarBuilder<'_>) -> Result<Self> {
        let &Config { hidden_size: size, intermediate_size: wide, layer_norm_eps: eps, .. } = config;
        Ok(Self {
            heads: config.num_attention_heads,
            query: linear(size, size, vb.pp("attention.self.query"))?,
            key: linear(size, size, vb.pp("attention.self.key"))?,
            value: linear(size, size, vb.pp("attention.self.value"))?,
            attention: linear(size, size, vb.pp("attention.output.dense"))?,
            attention_norm: N::load(size, eps, vb.pp("attention.output.LayerNorm"))?,
            intermediate: linear(size, wide, vb.pp("intermediate.dense"))?,
            output: linear(wide, size, vb.pp("output.dense"))?,
            output_norm: N::load(size, eps, vb.pp("output.LayerNorm"))?,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor, times: &mut Times) -> Result<Tensor> {
        let attention = self.attention.forward(&self.attend(x, mask)?)?;
        let x = self.attention_norm.norm_sum(attention, x, times)?;
        let output = self.output.forward(&self.intermediate.forward(&x)?.gelu_erf()?)?;
        self.output_norm.norm_sum(output, &x, times)
    }

    fn attend(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (batch, tokens, size) = x.dims3()?;
        let head = size / self.heads;
        let split = |x: Tensor| x.reshape((batch, tokens, self.heads, head))?.transpose(1, 2)?.contiguous();
        let (query, key, value) =
            (split(self.query.forward(x)?)?, split(self.key.forward(x)?)?, split(self.value.forward(x)?)?);
        let scores = (query.matmul(&key.t()?)? / (head as f64).sqrt())?.broadcast_add(mask)?;
        let mixed = ops::softmax_last_dim(&scores)?.matmul(&value)?;
        mixed.transpose(1, 2)?.reshape((batch, tokens, size))
    }
}

/// The encoder of sentences: BERT, the mean over tokens, and a scale to length 1.
pub struct Bert<N> {
    words: Embedding,
    positions: Embedding,
    types: Embedding,
    norm: N,
    layers: Vec<Layer<N>>,
}

impl<N: Norm> Bert<N> {
    pub fn load(config: &Config, vb: &VarBuilder<'_>) -> Result<Self> {
        let (size, embeddings) = (config.hidden_size, vb.pp("embeddings"));
        let layer = |i| Layer::load(config, &vb.pp(format!("encoder.layer.{i}")));
        Ok(Self {
            words: embedding(config.vocab_size, size, embeddings.pp("word_embeddings"))?,
            positions: embedding(config.max_position_embeddings, size, embeddings.pp("position_embeddings"))?,
            types: embedding(config.type_vocab_size, size, embeddings.pp("token_type_embeddings"))?,
            norm: N::load(size, config.layer_norm_eps, embeddings.pp("LayerNorm"))?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
        })
    }

    /// The embeddings of sentences, one row each. `counts` says which of the tokens count (1) or pad (0).
    pub fn embed(&self, tokens: &Tensor, counts: &Tensor, times: &mut Times) -> Result<Tensor> {
        let counts = counts.to_dtype(DType::F32)?;
        let padding = ((&counts - 1.0)? * 1e9)?.unsqueeze(1)?.unsqueeze(1)?;
        let positions = Tensor::arange(0, tokens.dim(1)? as u32, tokens.device())?;
        let words = (self.words.forward(tokens)? + self.types.forward(&tokens.zeros_like()?)?)?;
        let x = words.broadcast_add(&self.positions.forward(&positions)?)?;
        let mut x = self.norm.norm(x, times)?;
        for layer in &self.layers {
            x = layer.forward(&x, &padding, times)?;
        }
        let counts = counts.unsqueeze(2)?;
        let mean = x.broadcast_mul(&counts)?.sum(1)?.broadcast_div(&counts.sum(1)?)?;
        mean.broadcast_div(&mean.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
    }
}
