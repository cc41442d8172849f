//! The results as tables and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use lanenorm_harness::machine::Machine;
use lanenorm_harness::record;
use lanenorm_harness::table::Table;
use serde::Serialize;

use crate::case::Case;
use crate::contender::{Mode, Note};
use crate::measure::Measured;
use crate::ours::{COPY, IN_PLACE, PLAIN};

/// All contenders of a case in one mode.
pub(crate) struct Cell {
    pub(crate) case: Case,
    pub(crate) mode: Mode,
    pub(crate) all: Vec<Measured>,
}

impl Cell {
    fn find(&self, name: &str) -> Option<&Measured> {
        self.all.iter().find(|t| t.about.name == name)
    }

    /// The call of lanenorm that is most like the call of the contender.
    fn counterpart(&self, timing: &Measured) -> Option<&Measured> {
        self.find(if matches!(timing.about.note, Note::InPlace | Note::NoSum) { IN_PLACE } else { PLAIN })
    }

    fn peers(&self) -> impl Iterator<Item = &Measured> {
        self.all.iter().filter(|t| ![COPY, PLAIN, IN_PLACE].contains(&t.about.name))
    }

    /// The fastest of the peers.
    fn best(&self) -> Option<&Measured> {
        self.peers().min_by(|a, b| a.timing.lower_quartile.total_cmp(&b.timing.lower_quartile))
    }

    /// The peers that are faster, and how many times.
    fn losses(&self) -> Vec<(&Measured, f64)> {
        let ratio = |t| Some(self.counterpart(t)?.timing.lower_quartile / t.timing.lower_quartile);
        self.peers().filter_map(|t| Some((t, ratio(t)?))).filter(|&(_, ratio)| ratio > 1.0).collect()
    }
}

fn heading(cell: &Cell) -> String {
    let mode = match cell.mode {
        Mode::One => "1 thread".into(),
        mode => format!("{} threads, called from {} the pool", mode.threads(), mode.caller()),
    };
    format!("{} {}, {mode}", cell.case.op.name(), cell.case.dtype.name())
}

/// All tables, and a summary.
pub(crate) fn text(cells: &[Cell], machine: &Machine) -> String {
    let mut out = format!("{machine}\nEntries: times in plain copies of one tensor of the case, by as many threads.\n");
    out += "*: the fastest peer. !: the answer is wrong. (s): does not thread.\n";
    let mut tables: BTreeMap<_, Vec<&Cell>> = BTreeMap::new();
    for cell in cells {
        tables.entry((cell.case.op, cell.case.dtype, cell.mode)).or_default().push(cell);
    }
    for cells in tables.values() {
        table(&mut out, cells);
    }
    summary(&mut out, cells);
    out
}

fn table(out: &mut String, cells: &[&Cell]) {
    let mut columns: Vec<&Measured> = Vec::new();
    for timing in cells.iter().flat_map(|c| &c.all) {
        if columns.iter().all(|c| c.about.name != timing.about.name) {
            columns.push(timing);
        }
    }
    let threaded = cells[0].mode != Mode::One;
    let title = |t: &Measured| {
        let serial = if threaded && !t.about.threads { "(s)" } else { "" };
        format!("{}{serial}{}", t.about.name, t.about.note.mark())
    };
    let shown: Vec<&Measured> = columns.iter().copied().filter(|c| c.about.name != COPY).collect();
    let head = ["shape".into(), "copy, us".into()].into_iter().chain(shown.iter().map(|c| title(c)));
    let mut table = Table::new(head.collect());
    for cell in cells {
        let copy = cell.find(COPY).map_or(f64::NAN, |t| t.timing.lower_quartile / 1e3);
        let entries = shown.iter().map(|c| entry(cell, c.about.name));
        table.push([cell.case.shape.to_string(), format!("{copy:.3}")].into_iter().chain(entries).collect());
    }
    let _ = write!(out, "\n{}\n{}", heading(cells[0]), table.text());
    let notes: BTreeSet<Note> = columns.iter().map(|c| c.about.note).filter(|&n| n != Note::Plain).collect();
    for note in notes {
        let _ = writeln!(out, "  {} {}", note.mark(), note.text());
    }
    let errors = shown.iter().map(|c| {
        let of_cell = |cell: &&Cell| cell.find(c.about.name).map(|t| t.error);
        format!("{} {:.1e}", c.about.name, cells.iter().filter_map(of_cell).fold(0.0, f64::max))
    });
    let _ = writeln!(out, "  largest errors: {}", errors.collect::<Vec<_>>().join(", "));
}

fn entry(cell: &Cell, name: &str) -> String {
    let best = cell.best().map(|t| t.about.name);
    cell.find(name).map_or("-".into(), |t| {
        let best = if best == Some(name) { "*" } else { "" };
        let wrong = if t.error > cell.case.dtype.wrong() { "!" } else { "" };
        format!("{:.2}{best}{wrong}", t.timing.copies)
    })
}

fn summary(out: &mut String, cells: &[Cell]) {
    let with_peers: Vec<&Cell> = cells.iter().filter(|c| c.peers().next().is_some()).collect();
    let won = with_peers.iter().filter(|c| c.losses().is_empty()).count();
    let _ = writeln!(out, "\nlanenorm is faster than every peer on {won} of {} cells.", with_peers.len());
    for cell in with_peers {
        for (peer, ratio) in cell.losses() {
            let (name, mark) = (peer.about.name, peer.about.note.mark());
            let _ =
                writeln!(out, "  {} {}: {name}{mark} takes 1/{ratio:.2} of its time", heading(cell), cell.case.shape);
        }
    }
}

#[derive(Serialize)]
struct Record<'a> {
    machine: &'a Machine,
    /// Whether the run was ended early.
    partial: bool,
    results: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    op: &'static str,
    dtype: &'static str,
    shape: String,
    rows: usize,
    cols: usize,
    threads: usize,
    caller: &'static str,
    contender: &'static str,
    version: &'static str,
    /// Whether the contender spreads work over the pool.
    threaded: bool,
    note: &'static str,
    lower_quartile_ns: f64,
    median_ns: f64,
    copies: f64,
    max_abs_error: Option<f64>,
}

/// Writes everything that was measured.
pub(crate) fn write_json(path: &Path, machine: &Machine, cells: &[Cell], partial: bool) -> std::io::Result<()> {
    let entry = |cell: &Cell, t: &Measured| Entry {
        op: cell.case.op.name(),
        dtype: cell.case.dtype.name(),
        shape: cell.case.shape.to_string(),
        rows: cell.case.shape.rows,
        cols: cell.case.shape.cols,
        threads: cell.mode.threads(),
        caller: cell.mode.caller(),
        contender: t.about.name,
        version: t.about.version,
        threaded: t.about.threads,
        note: t.about.note.text(),
        lower_quartile_ns: t.timing.lower_quartile,
        median_ns: t.timing.median,
        copies: t.timing.copies,
        max_abs_error: t.error.is_finite().then_some(t.error),
    };
    let results = cells.iter().flat_map(|cell| cell.all.iter().map(move |t| entry(cell, t))).collect();
    record::write(path, &Record { machine, partial, results })
}
