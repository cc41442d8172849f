//! The tables: of each operation in f32, of the other types, and of what plans do beside the plain call.

use lanenorm::Isa;
use lanenorm::kernels::table::{Dtype, Op};

use super::baselines::baselines;
use super::case::Case;
use super::contender::Contender;
use super::grid::tiers;
use super::measure::Timing;
use super::report::Measured;
use super::table::Table;
use super::variant::Variant;

/// What stands where nothing was measured.
const NOTHING: &str = "-";

/// An operation in f32, on all inputs.
pub(crate) fn of_op(measured: &[Measured], op: Op, best: Isa) -> Table {
    let rivals = rivals(&[(op, Dtype::F32)], best);
    let mut head = common_head(op.name(), best);
    head.extend(rivals.iter().map(|&name| name.into()));
    head.extend([format!("{} thr µs", rayon::current_num_threads()), "gain".into(), "copy gain".into()]);
    let mut table = Table::new(head);
    let best = best.tier().name();
    for (case, timings) in measured.iter().filter(|(case, _)| (case.op, case.dtype) == (op, Dtype::F32)) {
        let (ours, copy) = (expect(timings, best, ""), expect(timings, "copy", ""));
        let (ours_threads, copy_threads) = (expect(timings, best, "threads"), expect(timings, "copy", "threads"));
        let mut row = common_row(case.name.clone(), case, copy, ours);
        row.extend(rivals.iter().map(|name| ratio(find(timings, name, ""), ours)));
        row.push(micros(ours_threads));
        row.push(three_digits(ours.copies / ours_threads.copies));
        row.push(three_digits(copy.copies / copy_threads.copies));
        table.push(row);
    }
    table
}

/// All operations in types that are not f32, beside f32.
pub(crate) fn of_types(measured: &[Measured], best: Isa) -> Table {
    let others: Vec<_> = measured.iter().filter(|(case, _)| case.dtype != Dtype::F32).collect();
    let rivals = rivals(&others.iter().map(|(case, _)| (case.op, case.dtype)).collect::<Vec<_>>(), best);
    let mut head = common_head("other types", best);
    head.push("of f32".into());
    head.extend(rivals.iter().map(|&name| name.into()));
    let mut table = Table::new(head);
    let best = best.tier().name();
    for (case, timings) in others {
        let ours = expect(timings, best, "");
        let same = |other: &&Measured| (other.0.op, other.0.dtype, &other.0.name) == (case.op, Dtype::F32, &case.name);
        let in_f32 = measured.iter().find(same).map(|(_, timings)| expect(timings, best, ""));
        let of_f32 = in_f32.map(|in_f32| three_digits(ours.lower_quartile / in_f32.lower_quartile));
        let mut row = common_row(full_name(case), case, expect(timings, "copy", ""), ours);
        row.push(of_f32.unwrap_or_else(|| NOTHING.into()));
        row.extend(rivals.iter().map(|name| ratio(find(timings, name, ""), ours)));
        table.push(row);
    }
    table
}

/// All plans that are not the plain call.
pub(crate) fn of_forms(measured: &[Measured]) -> Table {
    let head = ["beside the plain call", "tier", "form", "µs", "GB/s", "copies", "of default"];
    let mut table = Table::new(head.map(String::from).into());
    for (case, timings) in measured {
        for timing in timings {
            let Contender::Plan { variant, threads, .. } = timing.contender else { continue };
            if variant == Variant::Default {
                continue;
            }
            let name = timing.contender.name();
            table.push(vec![
                full_name(case),
                name.into(),
                timing.contender.options(),
                micros(timing),
                gigabytes(case, timing),
                three_digits(timing.copies),
                ratio(Some(timing), expect(timings, name, if threads { "threads" } else { "" })),
            ]);
        }
    }
    table
}

/// The names of the tiers that are not the default and of the baselines, each once.
fn rivals(of: &[(Op, Dtype)], best: Isa) -> Vec<&'static str> {
    let tiers = of.iter().flat_map(|&(op, dtype)| tiers(op, dtype)).filter(|&isa| isa != best);
    let baselines = of.iter().flat_map(|&(op, dtype)| baselines(op, dtype)).map(|b| b.name());
    let mut names = Vec::new();
    for name in tiers.map(|isa| isa.tier().name()).chain(baselines) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn full_name(case: &Case) -> String {
    format!("{} {} {}", case.op.name(), case.dtype.name(), case.name)
}

fn common_head(first: &str, best: Isa) -> Vec<String> {
    [first, "copy µs", &format!("{} µs", best.tier().name()), "GB/s", "copies"].map(String::from).into()
}

fn common_row(name: String, case: &Case, copy: &Timing, ours: &Timing) -> Vec<String> {
    vec![name, micros(copy), micros(ours), gigabytes(case, ours), three_digits(ours.copies)]
}

fn find<'a>(timings: &'a [Timing], name: &str, options: &str) -> Option<&'a Timing> {
    timings.iter().find(|t| t.contender.name() == name && t.contender.options() == options)
}

fn expect<'a>(timings: &'a [Timing], name: &str, options: &str) -> &'a Timing {
    find(timings, name, options).expect("every run has the copies and the default plans")
}

fn ratio(timing: Option<&Timing>, to: &Timing) -> String {
    timing.map_or_else(|| NOTHING.into(), |timing| three_digits(timing.copies / to.copies))
}

fn micros(timing: &Timing) -> String {
    three_digits(timing.lower_quartile / 1e3)
}

fn gigabytes(case: &Case, timing: &Timing) -> String {
    three_digits((timing.contender.variant().tensors(case.op) * case.bytes()) as f64 / timing.lower_quartile)
}

/// Of a positive number, unless it is below 0.1.
fn three_digits(v: f64) -> String {
    let decimals = match v {
        ..1.0 => 3,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{v:.decimals$}")
}
