//! Records on disk.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// Writes a record in the place of the last one, which stays whole until then.
pub(crate) fn write(path: &Path, record: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(record)?;
    text.push('\n');
    let beside = path.with_extension("json.part");
    let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
    written.with_context(|| format!("{} cannot be written", path.display()))
}
