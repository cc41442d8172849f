//! The results as JSON, with all that a later reader needs to know about where they come from.

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use super::report::Measured;

/// Where and when a run was made.
#[derive(Serialize)]
pub(crate) struct Machine {
    cpu: String,
    logical_cores: usize,
    threads: usize,
    /// The load average of a minute before the run: on a busy machine two threads are as fast as one.
    load: Option<f64>,
    build: &'static str,
    default_tier: &'static str,
    date: String,
}

impl Machine {
    pub(crate) fn this(default_tier: &'static str) -> Self {
        Self {
            cpu: cpu_model().unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH)),
            logical_cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            load: load(),
            build: lanenorm::BUILD,
            default_tier,
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, logical_cores, load, build, date, .. } = self;
        let load = load.map_or_else(|| "unknown".into(), |load| format!("{load:.2}"));
        write!(f, "{cpu}, {logical_cores} logical cores, load {load} at the start. {build}. {date}.")
    }
}

/// As Linux names it; other systems have no such file.
fn cpu_model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

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
