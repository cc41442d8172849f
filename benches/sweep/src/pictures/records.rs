//! The fields of the records that pictures need. Other fields are not read, and may change.

use std::path::Path;
use std::{fs, io};

use anyhow::Context;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A record with results of one kind.
#[derive(Deserialize)]
pub(crate) struct Record<R> {
    pub(crate) machine: Machine,
    pub(crate) results: Vec<R>,
    /// Only the record of the peers in Python has these.
    #[serde(default)]
    pub(crate) accuracy: Vec<Accuracy>,
}

#[derive(Deserialize)]
pub(crate) struct Machine {
    cpu: String,
    logical_cores: usize,
    date: String,
}

impl Machine {
    /// Which machine, and on what day.
    pub(crate) fn line(&self) -> String {
        let day = self.date.split('T').next().unwrap_or_default();
        format!("{}, {} logical cores, {day}", self.cpu, self.logical_cores)
    }
}

/// A peer at one shape.
#[derive(Deserialize)]
pub(crate) struct Peer {
    pub(crate) op: String,
    pub(crate) dtype: String,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) threads: usize,
    pub(crate) contender: String,
    pub(crate) copies: f64,
}

/// The largest error of a peer on one kind of rows.
#[derive(Deserialize)]
pub(crate) struct Accuracy {
    /// The mean of the rows, if the mean is what is hard about them.
    pub(crate) offset: Option<f64>,
    pub(crate) contender: String,
    /// `None` if the answer was not finite.
    pub(crate) max_abs_error: Option<f64>,
}

/// `None` if the folder has no such record.
pub(crate) fn read<R: DeserializeOwned>(folder: &Path, name: &str) -> anyhow::Result<Option<Record<R>>> {
    let path = folder.join(name);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("{} cannot be read", path.display()))?,
    };
    serde_json::from_str(&text).map(Some).with_context(|| format!("{} is not such a record", path.display()))
}

/// Each value once, in the order in which it comes first.
pub(crate) fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}
