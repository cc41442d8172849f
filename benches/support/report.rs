//! What a run ends with: one line for each case, then one for each variant of a plan, and what the columns mean.

use lanenorm::Isa;

use super::baselines::BASELINES;
use super::case::Case;
use super::contender::{Contender, tiers};
use super::measure::Timing;
use super::record::Machine;
use super::table::Table;

/// A case and what was measured of it.
pub(crate) type Measured = (Case, Vec<Timing>);

/// The tables of a run.
pub(crate) struct Report {
    main: Table,
    variants: Table,
    legend: String,
}

impl Report {
    pub(crate) fn new(measured: &[Measured], best: Isa, machine: &Machine) -> Self {
        Self { main: main_table(measured, best), variants: variants_table(measured), legend: legend(best, machine) }
    }

    pub(crate) fn text(&self) -> String {
        format!("\n{}\n{}\n{}", self.main.text(), self.variants.text(), self.legend)
    }

    pub(crate) fn markdown(&self) -> String {
        format!("{}\n{}\n{}", self.main.markdown(), self.variants.markdown(), self.legend)
    }
}

/// Narrower tiers than the best, then wider ones that the environment variable left out.
fn other_tiers(best: Isa) -> impl Iterator<Item = &'static str> {
    tiers().filter(move |&isa| isa != best).map(|isa| isa.tier().name())
}

fn main_table(measured: &[Measured], best: Isa) -> Table {
    let best_name = best.tier().name();
    let threads = rayon::current_num_threads();
    let mut head = ["shape", "copy µs", &format!("{best_name} µs"), "GB/s", "copies"].map(String::from).to_vec();
    head.extend(other_tiers(best).map(|name| format!("{name}/{best_name}")));
    head.extend(BASELINES.map(|b| format!("×{}", b.name)));
    head.extend([format!("{threads} thr µs"), "gain".into(), "copy gain".into()]);
    let mut table = Table::new(head);
    for (case, timings) in measured {
        let find = |name: &str, options: &str| {
            let same = |t: &&Timing| t.contender.name() == name && t.contender.options() == options;
            timings.iter().find(same).expect("every run has these contenders")
        };
        let ours = find(best_name, "");
        let times = |other: &Timing| format!("{:.2}", other.copies / ours.copies);
        let mut row = vec![
            case.name.clone(),
            micros(find("copy", "").lower_quartile),
            micros(ours.lower_quartile),
            format!("{:.1}", case.bytes() as f64 / ours.lower_quartile),
            format!("{:.2}", ours.copies),
        ];
        row.extend(other_tiers(best).map(|name| times(find(name, ""))));
        row.extend(BASELINES.map(|b| format!("{:.1}", find(b.name, "").copies / ours.copies)));
        let parallel = find(best_name, "threads");
        row.push(micros(parallel.lower_quartile));
        row.push(format!("{:.2}", ours.copies / parallel.copies));
        row.push(format!("{:.2}", 1.0 / find("copy", "threads").copies));
        table.push(row);
    }
    table
}

fn variants_table(measured: &[Measured]) -> Table {
    let mut table =
        Table::new(["shape", "tier", "variant", "µs", "GB/s", "copies", "of default"].map(String::from).into());
    for (case, timings) in measured {
        for timing in timings {
            let (Contender::Plan { .. }, options) = (timing.contender, timing.contender.options()) else { continue };
            let name = timing.contender.name();
            let default = if timing.contender.threads() { "threads" } else { "" };
            if options == default {
                continue;
            }
            let same = |t: &&Timing| t.contender.name() == name && t.contender.options() == default;
            let default = timings.iter().find(same).expect("every variant has its default");
            table.push(vec![
                case.name.clone(),
                name.into(),
                options,
                micros(timing.lower_quartile),
                format!("{:.1}", case.bytes() as f64 / timing.lower_quartile),
                format!("{:.2}", timing.copies),
                format!("{:.2}", timing.copies / default.copies),
            ]);
        }
    }
    table
}

/// Three digits.
fn micros(nanos: f64) -> String {
    let micros = nanos / 1e3;
    let digits = if micros < 1.0 { 3 } else { 2usize.saturating_sub(micros.log10() as usize) };
    format!("{micros:.digits$}")
}

fn legend(best: Isa, machine: &Machine) -> String {
    let name = best.tier();
    let threads = rayon::current_num_threads();
    format!(
        "{machine}\n\
        f32 with gamma and beta, out of place; one thread up to \"{threads} thr\". {name} is the default tier.\n\
        GB/s: x read and y written once. copies: time divided by that of a plain copy of x to y.\n\
        tier/{name}: time of another tier, in times of {name}. ×baseline: how many times faster {name} is than\n\
        naive: three scalar loops; welford: the textbook; two_pass: auto-vectorized for the build's baseline, with {} sums;\n\
        two_pass_simd: the same for {name}; simd_welford: one Welford per lane, for {name}.\n\
        {threads} thr: all threads of the pool, called from inside it. gain: over one thread. copy gain: what a copy by as many threads gains.\n\
        of default: time divided by that of the same plan with the default store policy, out of place, with gamma and beta.\n\
        Times are lower quartiles of blocks of about 1 ms, interleaved with those of the copy, and medians over five placements of the buffers.\n",
        super::two_pass::PLAIN_SUMS,
    )
}
