//! The results as JSON, with all that a later reader needs to know about where they come from.

use std::path::Path;

use serde::Serialize;

use super::machine::Machine;
use super::report::Measured;

#[derive(Serialize)]
struct Record<'a> {
    machine: &'a Machine,
    results: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    op: &'static str,
    dtype: &'static str,
    case: &'a str,
    cols: usize,
    elements: usize,
    contender: &'static str,
    form: &'static str,
    threads: bool,
    lower_quartile_ns: f64,
    median_ns: f64,
    copies: f64,
    blocks: usize,
}

/// Writes everything that was measured.
pub(crate) fn write(path: &Path, machine: &Machine, measured: &[Measured]) -> std::io::Result<()> {
    let entries = measured.iter().flat_map(|(case, timings)| {
        timings.iter().map(|t| Entry {
            op: case.op.name(),
            dtype: case.dtype.name(),
            case: &case.name,
            cols: case.cols,
            elements: case.elements,
            contender: t.contender.name(),
            form: t.contender.variant().name(),
            threads: t.contender.threads(),
            lower_quartile_ns: t.lower_quartile,
            median_ns: t.median,
            copies: t.copies,
            blocks: t.blocks,
        })
    });
    let record = Record { machine, results: entries.collect() };
    std::fs::write(path, serde_json::to_string_pretty(&record)? + "\n")
}
