//! What a run ends with: for each operation one line for each case, then one for each variant of a plan; and what the
//! columns mean.

use lanenorm::Isa;
use lanenorm::kernels::table::Op;

use super::baselines::baselines;
use super::case::Case;
use super::contender::{Contender, Variant, tiers};
use super::measure::{PLACES, Timing};
use super::record::Machine;
use super::table::Table;

/// A case and what was measured of it.
pub(crate) type Measured = (Case, Vec<Timing>);

/// The tables of a run.
pub(crate) struct Report {
    /// Two of each operation: its cases, and its variants of plans.
    tables: Vec<Table>,
    legend: String,
}

impl Report {
    pub(crate) fn new(measured: &[Measured], best: Isa, machine: &Machine) -> Self {
        let ops = measured.chunk_by(|(a, _), (b, _)| a.op == b.op);
        let tables = ops.flat_map(|measured| [main_table(measured, best), variants_table(measured)]);
        Self { tables: tables.collect(), legend: legend(best, machine) }
    }

    pub(crate) fn text(&self) -> String {
        let tables: String = self.tables.iter().map(|table| format!("\n{}", table.text())).collect();
        format!("{tables}\n{}", self.legend)
    }

    pub(crate) fn markdown(&self) -> String {
        let tables: String = self.tables.iter().map(|table| table.markdown() + "\n").collect();
        tables + &self.legend
    }
}

/// The tiers that are not the default.
fn other_tiers(op: Op, best: &str) -> impl Iterator<Item = &'static str> {
    tiers(op).map(|isa| isa.tier().name()).filter(move |&name| name != best)
}

/// That of all cases of a table.
fn op(measured: &[Measured]) -> Op {
    measured[0].0.op
}

fn main_table(measured: &[Measured], best: Isa) -> Table {
    let (op, best) = (op(measured), best.tier().name());
    let others: Vec<_> = other_tiers(op, best).chain(baselines(op).map(|b| b.name)).collect();
    let mut head = [op.name(), "copy µs", &format!("{best} µs"), "GB/s", "copies"].map(String::from).to_vec();
    head.extend(others.iter().map(|&name| name.into()));
    head.extend([format!("{} thr µs", rayon::current_num_threads()), "gain".into(), "copy gain".into()]);
    let mut table = Table::new(head);
    for (case, timings) in measured {
        let (ours, copy) = (find(timings, best, ""), find(timings, "copy", ""));
        let (ours_threads, copy_threads) = (find(timings, best, "threads"), find(timings, "copy", "threads"));
        let mut row =
            vec![case.name.clone(), micros(copy), micros(ours), gigabytes(case, ours), three_digits(ours.copies)];
        row.extend(others.iter().map(|name| three_digits(find(timings, name, "").copies / ours.copies)));
        row.push(micros(ours_threads));
        row.push(three_digits(ours.copies / ours_threads.copies));
        row.push(three_digits(copy.copies / copy_threads.copies));
        table.push(row);
    }
    table
}

fn variants_table(measured: &[Measured]) -> Table {
    let mut table = Table::new(
        [op(measured).name(), "tier", "variant", "µs", "GB/s", "copies", "of default"].map(String::from).into(),
    );
    for (case, timings) in measured {
        for timing in timings {
            let Contender::Plan { variant, threads, .. } = timing.contender else { continue };
            if variant == Variant::Default {
                continue;
            }
            let name = timing.contender.name();
            let default = find(timings, name, if threads { "threads" } else { "" });
            table.push(vec![
                case.name.clone(),
                name.into(),
                timing.contender.options(),
                micros(timing),
                gigabytes(case, timing),
                three_digits(timing.copies),
                three_digits(timing.copies / default.copies),
            ]);
        }
    }
    table
}

fn find<'a>(timings: &'a [Timing], name: &str, options: &str) -> &'a Timing {
    let same = |t: &&Timing| t.contender.name() == name && t.contender.options() == options;
    timings.iter().find(same).expect("every run has the copies, the baselines and the default plans")
}

fn micros(timing: &Timing) -> String {
    three_digits(timing.lower_quartile / 1e3)
}

fn gigabytes(case: &Case, timing: &Timing) -> String {
    three_digits(case.bytes() as f64 / timing.lower_quartile)
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

fn legend(best: Isa, machine: &Machine) -> String {
    let threads = rayon::current_num_threads();
    format!(
        "{machine}
layer_norm with gamma and beta, rms_norm with gamma: f32, out of place, by one thread unless it says otherwise.
Default tier: {best}. Shapes: rows x columns.
GB/s: x read and y written once. copies: time divided by that of a plain copy of x to y.
Other tiers and baselines: their time divided by that of {best}. naive: scalar loops, one for each sum and one for y.
  welford: the textbook. two_pass: auto-vectorized for the build's baseline. two_pass_simd: the same for {best}.
  simd_welford: one Welford per lane, for {best}.
{threads} thr: all threads of the pool, called from inside it; below its threshold a plan uses one. gain: over one thread.
  copy gain: of a copy by {threads} threads.
sum: x is the sum of two tensors and is written too, twice the bytes of the copy.
of default: time divided by that of the default plan with as many threads.
Times are lower quartiles of blocks of a millisecond or one call, interleaved with those of the copy, and medians over
  {PLACES} placements of the buffers.
"
    )
}
