//! The encoder of the example, on a small random model in a directory as the real one has it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};

use crate::bert::{Bert, Config, InPlace, Times};
use crate::compare::compare;
use crate::support::{distance, normal};

const CONFIG: &str = r#"{
    "vocab_size": 12, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 16, "type_vocab_size": 2, "layer_norm_eps": 1e-12
}"#;

const TOKENIZER: &str = r###"{
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
        "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "decoder": null,
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "row": 4, "##s": 5,
        "of": 6, "number": 7, "a": 8, "the": 9, "sum": 10, ".": 11}}
}"###;

fn config() -> Config {
    serde_json::from_str(CONFIG).expect("a configuration")
}

/// The weights of a model, of its embeddings and its layers.
fn weights() -> Result<HashMap<String, Tensor>> {
    let vars = VarMap::new();
    // Loading makes the variables that it asks for.
    Bert::<candle_nn::LayerNorm>::load(&config(), &VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
    let vars = vars.data().lock().expect("no panic");
    let mut names: Vec<_> = vars.keys().collect();
    names.sort();
    names
        .into_iter()
        .enumerate()
        .map(|(seed, name)| {
            let shape = vars[name].dims();
            let (mean, deviation) = if name.contains("LayerNorm.weight") { (1.0, 0.2) } else { (0.0, 0.2) };
            Ok((name.clone(), ((normal(seed as u64, shape, 0.0)? * deviation)? + mean)?.to_dtype(DType::F32)?))
        })
        .collect()
}

/// A directory that is removed in the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> std::io::Result<Self> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("model-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn of_the_example_agrees_with_all_normalizations() {
    let directory = Directory::new().expect("a directory");
    let file = |name: &str| directory.0.join(name);
    fs::write(file("config.json"), CONFIG).expect("written");
    fs::write(file("tokenizer.json"), TOKENIZER).expect("written");
    candle_core::safetensors::save(&weights().expect("weights"), file("model.safetensors")).expect("written");

    let sentences = ["The sum of a row.", "Rows", "a number, numbers and the sums of numbers of a row of rows"];
    let sentences = sentences.map(str::to_owned);
    let comparison = compare(&directory.0, &sentences, 2, 1).expect("a comparison");
    println!("{comparison}");
    // Two sentences are "[CLS] the sum of a row . [SEP]", and one is cut off.
    assert_eq!((comparison.sentences, comparison.tokens), (3, 2 * 8 + 16));
    for outcome in &comparison.outcomes {
        assert!((outcome.cosine - 1.0).abs() < 1e-5, "{outcome:?}");
    }
    assert!(compare(&directory.0.join("absent"), &sentences, 2, 1).is_err());
}

#[test]
fn does_not_see_the_padding() -> Result<()> {
    let vb = VarBuilder::from_tensors(weights()?, DType::F32, &Device::Cpu);
    let bert = Bert::<InPlace<true>>::load(&config(), &vb)?;
    let embed = |tokens: &[u32], counts: &[u32]| {
        let row = |of: &[u32]| Tensor::new(of, &Device::Cpu)?.unsqueeze(0);
        bert.embed(&row(tokens)?, &row(counts)?, &mut Times::default())
    };
    let sentence = embed(&[2, 9, 10, 3], &[1, 1, 1, 1])?;
    let padded = embed(&[2, 9, 10, 3, 0, 0], &[1, 1, 1, 1, 0, 0])?;
    assert!(distance(&sentence, &padded)? < 1e-5);
    assert!(distance(&sentence, &embed(&[2, 9, 10, 3, 4, 4], &[1; 6])?)? > 1e-3);
    Ok(())
}
