//! Speed against columns: LayerNorm on one thread over single rows, and over tensors of three sizes that are cut into
//! rows of 8 to a million columns, each tier beside a copy of the same tensor. A kernel that is slow for some numbers
//! of columns only shows here.

mod caches;
mod cliffs;
mod grid;
pub(crate) mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use lanenorm::{Isa, Tier, bf16};
use lanenorm_harness::clock::Clock;
use lanenorm_harness::machine::Machine;
use lanenorm_harness::measure::{self, Bench, Entry, Pace};
use lanenorm_harness::record;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::columns::grid::{SIZES, Size};
use crate::columns::report::{Record, Row};
use crate::tensors::{Number, Op, Tensors};

const COMMAND: &str = "cargo run --release --manifest-path benches/sweep/Cargo.toml --bin columns";

/// The number of elements whose answer is compared with f64. The bits of all elements are compared.
const CHECKED: usize = 1 << 20;

/// Measures how speed goes with the number of columns.
#[derive(Parser)]
struct Options {
    /// Seconds that the whole run may take.
    #[arg(long, default_value_t = 300)]
    budget: u64,
    /// The powers of two only, a quarter of the points.
    #[arg(long)]
    coarse: bool,
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// The file that results go to.
    #[arg(long, default_value = "columns.json")]
    json: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

#[derive(Clone, Copy)]
struct Contender {
    op: Op,
    isa: Isa,
}

impl Contender {
    fn name(&self) -> &'static str {
        if self.op == Op::Copy { Op::Copy.name() } else { self.isa.tier().name() }
    }
}

/// Runs over every point, writes the record after each, and prints it as tables.
///
/// # Errors
/// If a result is wrong, if bits differ, or if the record cannot be written.
pub fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let clock = Clock::start(Duration::from_secs(options.budget));
    ctrlc::set_handler(clock.stopper())?;
    let machine = Machine::this(lanenorm::BUILD, lanenorm::default_isa()?.tier().name(), COMMAND);
    println!("{machine}\n\n{}", grid::explain());
    let mut record =
        Record { machine, caches: caches::list(), complete: false, results: Vec::new(), cliffs: Vec::new() };
    let run = match options.dtype {
        Dtype::F32 => run::<f32>,
        Dtype::Bf16 => run::<bf16>,
    };
    record.complete = run(&options, &clock, &mut record)?;
    clock.finish();
    record.cliffs = cliffs::find(&record.results);
    record::write(&options.json, &record)?;
    record.print();
    Ok(())
}

/// The copy and the tiers. Scalar code is slow, and takes the powers of two only, where there are vectors.
fn contenders(cols: usize) -> Vec<Contender> {
    let copy = Contender { op: Op::Copy, isa: Isa::SCALAR };
    let tiers = || Isa::available().map(|isa| Contender { op: Op::LayerNorm, isa });
    let is_measured = |c: &Contender| cols.is_power_of_two() || c.isa.tier() != Tier::Scalar || tiers().count() == 1;
    std::iter::once(copy).chain(tiers().filter(is_measured)).collect()
}

/// Measures all points. Returns false if the run was stopped before.
fn run<T: Number>(options: &Options, clock: &Clock, record: &mut Record) -> anyhow::Result<bool> {
    let one = ThreadPoolBuilder::new().num_threads(1).build()?;
    let points = SIZES.map(|size| (size, grid::points(size.most_cols(size_of::<T>()), options.coarse)));
    let mut left: f64 = points.iter().map(|(size, cols)| size.weight * cols.len() as f64).sum();
    for (size, points) in points {
        if clock.is_over() {
            return Ok(false);
        }
        clock.show(format!("{}, making the tensor", size.name));
        let mut bench = Columns::<T>::new(size, &one, clock);
        for cols in points {
            if clock.is_over() {
                return Ok(false);
            }
            bench.cut(cols);
            clock.show(format!("{}, {}x{cols}", size.name, bench.rows));
            let budget = clock.share(size.weight, left);
            left -= size.weight;
            if !bench.point(budget, record)? {
                return Ok(false);
            }
            record::write(&options.json, record)?;
        }
    }
    Ok(true)
}

/// A tensor that is cut into rows anew for each point.
struct Columns<'a, T: Number> {
    size: Size,
    one: &'a ThreadPool,
    clock: &'a Clock,
    tensors: Tensors<T>,
    rows: usize,
    cols: usize,
    contenders: Vec<Contender>,
}

impl<T: Number> Bench for Columns<'_, T> {
    fn time(&mut self, contender: usize, wake: Duration, repeats: u64) -> Duration {
        let (Contender { op, isa }, rows) = (self.contenders[contender], self.rows);
        let tensors = &mut self.tensors;
        self.one.install(|| measure::repeat(wake, repeats, || tensors.run(op, isa, rows)))
    }

    fn place(&mut self, rng: &mut SmallRng) {
        self.tensors.place(rng);
    }

    fn is_stopped(&self) -> bool {
        self.clock.tick();
        self.clock.is_stopped()
    }
}

impl<'a, T: Number> Columns<'a, T> {
    fn new(size: Size, one: &'a ThreadPool, clock: &'a Clock) -> Self {
        let cols = size.most_cols(size_of::<T>());
        let rows = (size.bytes / size_of::<T>()).div_ceil(cols);
        Self { size, one, clock, tensors: Tensors::new(rows, cols, false), rows, cols, contenders: Vec::new() }
    }

    fn cut(&mut self, cols: usize) {
        self.tensors.set_cols(cols);
        (self.rows, self.cols) = (self.size.rows(cols, size_of::<T>()), cols);
        self.contenders = contenders(cols);
    }

    /// Checks and times all contenders. Returns false if the run was stopped before.
    fn point(&mut self, budget: Duration, record: &mut Record) -> anyhow::Result<bool> {
        self.check()?;
        let entries = vec![Entry { copy: 0, wake: Duration::ZERO }; self.contenders.len()];
        let (pace, rng) = (Pace { rounds: (1, 200), ..Pace::default() }, &mut SmallRng::seed_from_u64(0));
        let Some(timings) = measure::measure(self, &entries, &pace, budget, rng) else { return Ok(false) };
        let size = self.size;
        record.results.extend(self.contenders.iter().zip(timings).map(|(contender, timing)| Row {
            size: size.name.into(),
            size_bytes: size.bytes,
            op: Op::LayerNorm.name().into(),
            dtype: T::NAME.into(),
            rows: self.rows,
            cols: self.cols,
            contender: contender.name().into(),
            lower_quartile_ns: timing.lower_quartile,
            median_ns: timing.median,
            copies: timing.copies,
            blocks: timing.blocks,
            gb_per_s: (2 * self.rows * self.cols * size_of::<T>()) as f64 / timing.lower_quartile,
        }));
        Ok(true)
    }

    /// Compares the answer of the first tier with f64, and the bits of all other tiers with the bits of the first.
    fn check(&mut self) -> anyhow::Result<()> {
        let (rows, cols) = (self.rows, self.cols);
        let mut first = None;
        for Contender { op, isa } in self.contenders.clone().into_iter().filter(|c| c.op != Op::Copy) {
            self.tensors.spoil();
            self.one.install(|| self.tensors.run(op, isa, rows));
            let hash = self.tensors.hash(op, rows);
            if first.is_none() {
                self.tensors.error(op, rows.min(CHECKED.div_ceil(cols)))?;
            }
            let expected = *first.get_or_insert(hash);
            ensure!(hash == expected, "{} {rows}x{cols}: {} gives other bits", T::NAME, isa.tier().name());
            self.clock.tick();
        }
        Ok(())
    }
}
