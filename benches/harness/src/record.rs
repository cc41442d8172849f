//! Records on disk: what was measured, where and when.

use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// A machine and what was measured on it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record<R> {
    /// Where and when.
    pub machine: Machine,
    /// The results.
    pub results: Vec<R>,
}

/// A contender of `cargo bench` on one case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// The operation.
    pub op: String,
    /// The type of elements.
    pub dtype: String,
    /// The name of the input; the name of random inputs is their shape.
    pub case: String,
    /// The length of rows.
    pub cols: usize,
    /// The number of elements of x.
    pub elements: usize,
    /// The name of a tier or of a baseline, or `copy`.
    pub contender: String,
    /// How the call differs from the plain call, which is `default`.
    pub form: String,
    /// Whether the call takes all threads of the pool.
    pub threads: bool,
    /// The time of a run over the case.
    pub lower_quartile_ns: f64,
    /// The time of a run over the case.
    pub median_ns: f64,
    /// The time divided by the time of the copy.
    pub copies: f64,
    /// The number of blocks.
    pub blocks: usize,
}

/// Writes a record in the place of the last one. The last one stays whole until the new one is written.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let beside = path.with_extension("json.part");
    fs::write(&beside, serde_json::to_string_pretty(record)? + "\n")?;
    fs::rename(&beside, path)
}
