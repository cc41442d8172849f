//! The default run: measures all cases and ends with the tables.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lanenorm::Isa;

use super::case::{self, Case};
use super::grid;
use super::machine::Machine;
use super::measure::measure;
use super::record;
use super::report::{Measured, Report};

/// Measures everything, prints the tables, and writes the files that the environment asks for.
pub(crate) fn run(best: Isa) {
    let full = std::env::var("LANENORM_BENCH").is_ok_and(|mode| mode == "full");
    let command = if full { "LANENORM_BENCH=full cargo bench" } else { "cargo bench" };
    let machine = Machine::this(best.tier().name(), command);
    let start = Instant::now();
    let cases = if full { case::all() } else { case::few() };
    let measured: Vec<Measured> = cases
        .into_iter()
        .map(|case| {
            let contenders = if full { grid::many(&case) } else { grid::few(&case, best) };
            let since = Instant::now();
            let timings = measure(&case, &contenders, budget(&case, contenders.len()));
            eprintln!(
                "{:<19} {:<5} {:<15} {:5.1} s   {}",
                case.op.name(),
                case.dtype.name(),
                case.name,
                since.elapsed().as_secs_f64(),
                case.about
            );
            (case, timings)
        })
        .collect();
    let report = Report::new(&measured, best, &machine);
    println!("{}Measured in {:.0} s.", report.text(), start.elapsed().as_secs_f64());

    let json = std::env::var_os("LANENORM_BENCH_JSON").map(PathBuf::from);
    let json = json.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernels.json"));
    record::write(&json, &machine, &measured).unwrap_or_else(|e| panic!("{}: {e}", json.display()));
    println!("All results: {}", json.display());
    if let Some(path) = std::env::var_os("LANENORM_BENCH_MARKDOWN").map(PathBuf::from) {
        std::fs::write(&path, report.markdown()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// What the contenders of a case may take, checks not counted: in all cases together four minutes, or half an hour in full.
fn budget(case: &Case, contenders: usize) -> Duration {
    let each = Duration::from_millis(match case.elements {
        0..1_000_000 => 200,
        1_000_000..8_000_000 => 450,
        _ => 900,
    });
    each * contenders as u32
}
