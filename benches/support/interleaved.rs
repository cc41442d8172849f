//! The default run: measures all cases and ends with the report. All contenders of a case are timed in turn, except
//! those with forced streaming stores: after these, y takes many runs to come back into the caches. They are timed
//! apart, against a copy of their own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lanenorm::Isa;
use lanenorm_harness::machine::Machine;
use lanenorm_harness::measure::{self, Bench, Entry, Pace, Timing};
use lanenorm_harness::number::Number;
use lanenorm_harness::record::{self, Kernel, Record};
use lanenorm_harness::typed;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::case::{self, Case, Tensor};
use super::check::Answers;
use super::contender::Contender;
use super::grid;
use super::placement::Placement;
use super::variant::Variant;

/// The time after which all threads are awake.
const WAKE: Duration = Duration::from_millis(8);

/// Tensors of this many elements are far beyond the caches.
const LARGE: usize = 8_000_000;

/// Measures everything, prints the report, and writes the files that the environment asks for.
pub(crate) fn run(best: Isa) {
    let full = std::env::var("LANENORM_BENCH").is_ok_and(|mode| mode == "full");
    let command = if full { "LANENORM_BENCH=full cargo bench" } else { "cargo bench" };
    let machine = Machine::this(lanenorm::BUILD, best.tier().name(), command);
    let start = Instant::now();
    let cases = if full { case::all() } else { case::few() };
    let mut results = Vec::new();
    for case in cases {
        let contenders = if full { grid::many(&case) } else { grid::few(&case, best) };
        let (since, budget) = (Instant::now(), budget(&case, contenders.len()));
        let timings = typed!(case.dtype, measure_case(&case, &contenders, budget));
        results.extend(timings.into_iter().map(|(contender, timing)| result(&case, contender, timing)));
        let (op, dtype, seconds) = (case.op_name(), case.dtype.name(), since.elapsed().as_secs_f64());
        eprintln!("{op:<19} {dtype:<5} {:<15} {seconds:5.1} s   {}", case.name, case.about);
    }
    let record = Record { machine, results };
    println!("\n{}Measured in {:.0} s.", record.text(), start.elapsed().as_secs_f64());

    // As the command is given there, whatever folder cargo runs this in.
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = |variable| std::env::var_os(variable).map(|path| repository.join(path));
    let json = path("LANENORM_BENCH_JSON");
    let json = json.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kernels.json"));
    record::write(&json, &record).unwrap_or_else(|e| panic!("{}: {e}", json.display()));
    println!("All results: {}", json.display());
    if let Some(path) = path("LANENORM_BENCH_MARKDOWN") {
        std::fs::write(&path, record.markdown()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

fn result(case: &Case, contender: Contender, timing: Timing) -> Kernel {
    Kernel {
        op: case.op_name().into(),
        dtype: case.dtype.name().into(),
        case: case.name.clone(),
        cols: case.cols,
        elements: case.elements,
        contender: contender.name().into(),
        form: contender.variant().name().into(),
        threads: contender.threads(),
        lower_quartile_ns: timing.lower_quartile,
        median_ns: timing.median,
        copies: timing.copies,
        blocks: timing.blocks,
    }
}

/// The time for the contenders of a case, without checks. All cases together take six minutes, or an hour in full.
fn budget(case: &Case, contenders: usize) -> Duration {
    let each = Duration::from_millis(match case.elements {
        0..1_000_000 => 200,
        1_000_000..LARGE => 450,
        _ => 900,
    });
    each * contenders as u32
}

/// Checks and times all contenders of a case in about `budget`. The first of them must be the copy.
fn measure_case<T: Number>(case: &Case, contenders: &[Contender], budget: Duration) -> Vec<(Contender, Timing)> {
    let rng = &mut SmallRng::seed_from_u64(0);
    let tensors = case.tensors::<T>();
    let (mut answers, mut placement) = (Answers::new(case), Placement::new(case, &tensors, contenders, rng));
    contenders.iter().for_each(|&contender| answers.check(contender, &mut placement));

    let pace = if case.elements < LARGE { Pace::default() } else { Pace::of_large() };
    let (apart, together): (Vec<_>, Vec<_>) = contenders.iter().partition(|c| c.variant() == Variant::Streaming);
    let mut measure = |group: &[Contender], weight: usize| {
        let entry = |c: &Contender| Entry { copy: 0, wake: if c.threads() { WAKE } else { Duration::ZERO } };
        let entries: Vec<_> = group.iter().map(entry).collect();
        let share = budget.mul_f64(weight as f64 / contenders.len() as f64);
        let mut bench = Placed { case, tensors: &tensors, contenders: group, placement: None };
        let timings = measure::measure(&mut bench, &entries, &pace, share, rng).expect("nothing stops it");
        group.iter().copied().zip(timings).collect::<Vec<_>>()
    };
    let mut timings = measure(&together, together.len());
    if !apart.is_empty() {
        let with_copy: Vec<_> = contenders.iter().take(1).chain(&apart).copied().collect();
        timings.extend(measure(&with_copy, apart.len()).into_iter().skip(1));
    }
    timings
}

/// Contenders, and the buffers that they take turns on.
struct Placed<'a, T: Number> {
    case: &'a Case,
    tensors: &'a [Tensor<T>],
    contenders: &'a [Contender],
    placement: Option<Placement<T>>,
}

impl<T: Number> Bench for Placed<'_, T> {
    fn time(&mut self, contender: usize, wake: Duration, repeats: u64) -> Duration {
        let placement = self.placement.as_mut().expect("buffers are placed first");
        self.contenders[contender].time(self.case, placement, wake, repeats)
    }

    fn place(&mut self, rng: &mut SmallRng) {
        self.placement = Some(Placement::new(self.case, self.tensors, self.contenders, rng));
    }
}
