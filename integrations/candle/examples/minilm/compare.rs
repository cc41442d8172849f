//! Sentences through the same encoder with different normalizations: do the embeddings agree, and where does the time
//! go?

use std::error::Error;
use std::fmt::{self, Display};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

use crate::bert::{Bert, Config, InPlace, Times};

/// Sentences of similar length: the tokens, and for each whether it counts.
type Batch = (Tensor, Tensor);

/// The outcome for one encoder.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub name: &'static str,
    /// Medians over rounds, each over all sentences.
    pub norm: Duration,
    pub norm_and_add: Duration,
    pub encoder: Duration,
    /// The least cosine between an embedding and the same embedding by the first encoder.
    pub cosine: f32,
}

/// The sizes of the comparison, and the outcomes: of candle, of lanenorm in its place, and of lanenorm that overwrites
/// its argument, with the residual addition before it or as a part of it.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub config: Config,
    pub sentences: usize,
    /// The number of tokens in the batches, with padding.
    pub tokens: usize,
    pub outcomes: [Outcome; 4],
}

/// Embeds the sentences, `rounds` times with each normalization in turns, with the model in a directory.
pub fn compare(
    model: &Path,
    sentences: &[String],
    batch: usize,
    rounds: usize,
) -> Result<Comparison, Box<dyn Error + Send + Sync>> {
    let config: Config = serde_json::from_slice(&fs::read(model.join("config.json"))?)?;
    let batches = tokenize(&model.join("tokenizer.json"), &config, sentences, batch)?;
    let weights = fs::read(model.join("model.safetensors"))?;
    let vb = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;

    let candle = Bert::<candle_nn::LayerNorm>::load(&config, &vb)?;
    let plain = Bert::<lanenorm_candle::LayerNorm>::load(&config, &vb)?;
    let in_place = Bert::<InPlace<false>>::load(&config, &vb)?;
    let fused = Bert::<InPlace<true>>::load(&config, &vb)?;
    type Encode<'a> = &'a dyn Fn(&Batch, &mut Times) -> CandleResult<Tensor>;
    let encoders: [(&str, Encode<'_>); 4] = [
        ("candle", &|(tokens, counts), times| candle.embed(tokens, counts, times)),
        ("lanenorm", &|(tokens, counts), times| plain.embed(tokens, counts, times)),
        ("lanenorm, in place", &|(tokens, counts), times| in_place.embed(tokens, counts, times)),
        ("lanenorm, in place, add fused", &|(tokens, counts), times| fused.embed(tokens, counts, times)),
    ];

    let mut runs: [Vec<(Times, Duration)>; 4] = Default::default();
    let mut embeddings = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        for ((_, encode), runs) in encoders.iter().zip(&mut runs) {
            let (mut times, start) = (Times::default(), Instant::now());
            let parts: Vec<_> = batches.iter().map(|batch| encode(batch, &mut times)).collect::<CandleResult<_>>()?;
            let run = (times, start.elapsed());
            if round == 0 {
                embeddings.push(Tensor::cat(&parts, 0)?);
            } else {
                runs.push(run);
            }
        }
    }
    let tokens = batches.iter().map(|(tokens, _)| tokens.elem_count()).sum();
    let outcome = |i: usize| {
        let cosines = (&embeddings[i] * &embeddings[0])?.sum(1)?.min(0)?;
        let median = |of: fn(&(Times, Duration)) -> Duration| median(runs[i].iter().map(of).collect());
        CandleResult::Ok(Outcome {
            name: encoders[i].0,
            norm: median(|(times, _)| times.norm),
            norm_and_add: median(|(times, _)| times.norm + times.add),
            encoder: median(|&(_, encoder)| encoder),
            cosine: cosines.to_scalar()?,
        })
    };
    let outcomes = [outcome(0)?, outcome(1)?, outcome(2)?, outcome(3)?];
    Ok(Comparison { config, sentences: sentences.len(), tokens, outcomes })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Batches of the sentences in their order, each padded to its longest.
fn tokenize(
    file: &Path,
    config: &Config,
    sentences: &[String],
    batch: usize,
) -> Result<Vec<Batch>, Box<dyn Error + Send + Sync>> {
    let max_length = config.max_position_embeddings;
    let mut tokenizer = Tokenizer::from_file(file)?;
    tokenizer.with_padding(Some(PaddingParams::default()));
    tokenizer.with_truncation(Some(TruncationParams { max_length, ..TruncationParams::default() }))?;
    let mut batches = Vec::new();
    for sentences in sentences.chunks(batch.max(1)) {
        let encodings = tokenizer.encode_batch(sentences.to_vec(), true)?;
        let tensor = |of: fn(&tokenizers::Encoding) -> &[u32]| {
            let rows: Vec<_> = encodings.iter().map(|encoding| of(encoding).to_vec()).collect();
            Tensor::new(rows, &Device::Cpu)
        };
        batches.push((tensor(|e| e.get_ids())?, tensor(|e| e.get_attention_mask())?));
    }
    Ok(batches)
}

impl Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| 1e3 * time.as_secs_f64();
        let Config { num_hidden_layers: layers, hidden_size: size, .. } = self.config;
        writeln!(
            f,
            "{layers} layers of {size}; {} sentences in {} tokens, padding counted",
            self.sentences, self.tokens
        )?;
        writeln!(f, "\n| ms | norm | add + norm | encoder | least cosine |\n|---|---:|---:|---:|---:|")?;
        for Outcome { name, norm, norm_and_add, encoder, cosine } in &self.outcomes {
            let (norm, both, encoder) = (ms(*norm), ms(*norm_and_add), ms(*encoder));
            writeln!(f, "| {name} | {norm:.2} | {both:.2} | {encoder:.0} | {cosine:.7} |")?;
        }
        let [candle, plain, in_place, fused] = &self.outcomes;
        let ratio = |of: fn(&Outcome) -> Duration, new| of(candle).as_secs_f64() / of(new).as_secs_f64();
        writeln!(
            f,
            "\nnormalization: {:.1} times faster, {:.1} in place",
            ratio(|o| o.norm, plain),
            ratio(|o| o.norm, in_place)
        )?;
        writeln!(f, "with the residual additions: {:.1} times faster, fused", ratio(|o| o.norm_and_add, fused))?;
        write!(f, "the encoder: {:.2} times as fast, fused", ratio(|o| o.encoder, fused))
    }
}
