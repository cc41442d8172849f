//! lanenorm beside the Rust crates that normalize: how fast each is, and how far off.

mod baselines;
mod case;
mod contender;
mod images;
mod measure;
mod number;
mod ours;
mod report;
mod slices;
mod tensors;
#[cfg(test)]
mod tests;
mod versions;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use lanenorm_harness::clock::Clock;
use lanenorm_harness::machine::Machine;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use case::{Answers, Case, Dtype, Inputs, Op, Shape};
use contender::{Mode, PEERS};
use measure::Plan;
use number::Number;
use report::Cell;

const COMMAND: &str = "cargo run --release --manifest-path benches/peers/Cargo.toml";

/// Times lanenorm beside other Rust crates that normalize, and prints tables. Ctrl-C and SIGTERM end it early, with the
/// results so far.
#[derive(Parser)]
struct Args {
    /// Only these operations.
    #[arg(long, value_enum, value_delimiter = ',')]
    ops: Vec<Op>,
    /// Only these types.
    #[arg(long, value_enum, value_delimiter = ',')]
    dtypes: Vec<Dtype>,
    /// These shapes instead of the grid, such as 8x768,512x768 for rows, 1x320/32x4096 for groups of channels, and
    /// 8x96x3136 for channels of pixels.
    #[arg(long, value_delimiter = ',')]
    shapes: Vec<Shape>,
    /// Only these peers, beside lanenorm and the copy.
    #[arg(long, value_delimiter = ',', value_parser = PEERS)]
    peers: Vec<String>,
    /// Seconds that the run should take.
    #[arg(long, default_value_t = 240.0)]
    budget: f64,
    /// Where to write all results.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Shapes of up to this many elements are called from outside of the pool too. It makes no difference to larger ones.
const OUTSIDE: usize = 1_000_000;

/// Cells to measure, with the time that each should have, relatively.
fn cells(args: &Args) -> Vec<(Case, Vec<Mode>, f64)> {
    let mut all = Vec::new();
    for &op in Op::value_variants().iter().filter(|op| args.ops.is_empty() || args.ops.contains(op)) {
        let dtypes = [Dtype::F32, Dtype::F16, Dtype::Bf16];
        for dtype in dtypes.into_iter().filter(|dtype| args.dtypes.is_empty() || args.dtypes.contains(dtype)) {
            let shapes = if args.shapes.is_empty() { case::shapes(op, dtype) } else { args.shapes.clone() };
            for shape in shapes.into_iter().filter(|&shape| op.takes(shape)) {
                let outside = op == Op::LayerNorm && dtype == Dtype::F32 && shape.elements() <= OUTSIDE;
                let modes = [Mode::One, Mode::Inside].into_iter().chain(outside.then_some(Mode::Outside)).collect();
                // The time of making inputs and checking answers is included.
                let weight = 1.0 + shape.elements() as f64 / 2e6;
                all.push((Case { op, dtype, shape }, modes, weight));
            }
        }
    }
    all
}

fn measure_case<T: Number>(run: &mut Run<'_>, case: Case, modes: &[Mode], budget: Duration) {
    let end = Instant::now() + budget;
    let inputs = Inputs::<T>::new(case);
    let answers = Answers::new(case, &inputs);
    let plan = Plan { case, inputs: &inputs, answers: &answers, wanted: &run.args.peers, alone: &run.alone };
    for (i, &mode) in modes.iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let budget = left / (modes.len() - i) as u32;
        match plan.measure(mode, budget, run.clock, &mut run.rng) {
            Some(all) => run.cells.push(Cell { case, mode, all }),
            None => return,
        }
    }
}

struct Run<'a> {
    args: &'a Args,
    clock: &'a Clock,
    alone: rayon::ThreadPool,
    rng: SmallRng,
    cells: Vec<Cell>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let clock = Clock::start(Duration::from_secs_f64(args.budget));
    ctrlc::set_handler(clock.stopper())?;
    let machine = Machine::this(lanenorm::BUILD, lanenorm::default_isa()?.tier().name(), COMMAND);
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let mut run = Run { args: &args, clock: &clock, alone, rng: SmallRng::seed_from_u64(0), cells: Vec::new() };
    let todo = cells(&args);
    let mut weight_left: f64 = todo.iter().map(|(.., weight)| weight).sum();
    for (case, modes, weight) in todo {
        clock.show(format!("{} {} {}", case.op.name(), case.dtype.name(), case.shape));
        let budget = clock.share(weight, weight_left);
        match case.dtype {
            Dtype::F32 => measure_case::<f32>(&mut run, case, &modes, budget),
            Dtype::F16 => measure_case::<lanenorm::f16>(&mut run, case, &modes, budget),
            Dtype::Bf16 => measure_case::<lanenorm::bf16>(&mut run, case, &modes, budget),
        }
        if clock.is_stopped() {
            break;
        }
        weight_left -= weight;
    }
    clock.finish();
    let partial = clock.is_stopped();
    print!("{}", report::text(&run.cells, &machine));
    if partial {
        println!("The run was ended early: the tables are partial.");
    }
    if let Some(path) = &args.json {
        report::write_json(path, &machine, &run.cells, partial)?;
        println!("All results: {}", path.display());
    }
    Ok(())
}
