//! The results of a run, as a record and as tables.

use lanenorm_harness::machine::Machine;
use lanenorm_harness::table::Table;
use serde::{Deserialize, Serialize};

use crate::columns::cliffs::{self, Cliff};
use crate::columns::grid::SIZES;

/// One contender at one point.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The cache that the tensor fits into.
    pub(crate) size: String,
    pub(crate) size_bytes: usize,
    pub(crate) op: String,
    pub(crate) dtype: String,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) contender: String,
    pub(crate) lower_quartile_ns: f64,
    pub(crate) median_ns: f64,
    pub(crate) copies: f64,
    pub(crate) blocks: usize,
    /// Bytes of x read and of y written, per nanosecond.
    pub(crate) gb_per_s: f64,
}

#[derive(Serialize)]
pub(crate) struct Record {
    pub(crate) machine: Machine,
    pub(crate) caches: Vec<String>,
    pub(crate) complete: bool,
    pub(crate) results: Vec<Row>,
    pub(crate) cliffs: Vec<Cliff>,
}

impl Record {
    pub(crate) fn print(&self) {
        for size in SIZES {
            let rows: Vec<_> = self.results.iter().filter(|row| row.size == size.name).collect();
            if let Some(first) = rows.first() {
                println!("\n{} {}, x of {}: {}", first.op, first.dtype, size.extent(), size.name);
                print_size(&rows);
            }
        }
        println!("\n{}", cliffs::MEANING);
        for cliff in &self.cliffs {
            let Cliff { size, contender, from, to, copies_from, copies_to } = cliff;
            println!(
                "{size:<7} {contender:<7} {from:>7} to {to:>7} columns: {copies_from:.2} to {copies_to:.2} copies"
            );
        }
        if self.cliffs.is_empty() {
            println!("None.");
        }
        if !self.complete {
            println!("\nCut short: not every point was measured.");
        }
    }
}

/// A line for each number of columns; where a tier was not measured, a dash.
fn print_size(rows: &[&Row]) {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.contender.as_str()) {
            names.push(&row.contender);
        }
    }
    let tiers = || names.iter().filter(|&&name| name != "copy");
    let mut head = vec!["cols".to_owned(), "rows".to_owned()];
    head.extend(names.iter().map(|name| format!("{name} GB/s")));
    head.extend(tiers().map(|name| format!("{name} copies")));
    let mut table = Table::new(head);
    for points in rows.chunk_by(|a, b| a.cols == b.cols) {
        let entry = |name: &str, of: fn(&Row) -> f64| {
            let row = points.iter().find(|row| row.contender == name);
            row.map_or("-".into(), |row| format!("{:.2}", of(row)))
        };
        let mut row = vec![points[0].cols.to_string(), points[0].rows.to_string()];
        row.extend(names.iter().map(|name| entry(name, |row| row.gb_per_s)));
        row.extend(tiers().map(|name| entry(name, |row| row.copies)));
        table.push(row);
    }
    print!("{}", table.text());
}
