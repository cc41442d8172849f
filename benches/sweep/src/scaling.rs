//! Speed against threads: strong scaling (one shape for all numbers of threads) and weak scaling (rows in proportion to
//! the threads), each beside a copy by as many threads.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use lanenorm::{Isa, Tier, bf16};
use lanenorm_harness::clock::Clock;
use lanenorm_harness::machine::Machine;
use lanenorm_harness::measure::{self, Bench, Entry, Pace};
use lanenorm_harness::record;
use lanenorm_harness::table::Table;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};

use crate::tensors::{Number, Op, Tensors};

/// The time after which the threads of a pool, and the cores below them, are awake.
const WAKE: Duration = Duration::from_millis(5);

const COMMAND: &str = "cargo run --release --manifest-path benches/sweep/Cargo.toml --bin scaling";

/// Measures how speed goes with the number of threads.
#[derive(Parser)]
struct Options {
    /// Seconds that the whole run may take.
    #[arg(long, default_value_t = 300)]
    budget: u64,
    /// The largest number of threads; the number of cores if it is not given.
    #[arg(long)]
    max_threads: Option<usize>,
    /// The file that results go to.
    #[arg(long, default_value = "scaling.json")]
    json: PathBuf,
}

/// The number that stays the same as threads are added.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The number of rows.
    Strong,
    /// The number of rows per thread.
    Weak,
}

#[derive(Clone, Copy)]
struct Case {
    kind: Kind,
    op: Op,
    is_bf16: bool,
    /// The number of rows; for weak scaling, per thread.
    rows: usize,
    cols: usize,
    weight: f64,
}

#[derive(Clone, Copy)]
struct Contender {
    op: Op,
    isa: Isa,
    pool: usize,
    threads: usize,
    rows: usize,
}

impl Contender {
    fn name(&self) -> &'static str {
        if self.op == Op::Copy { Op::Copy.name() } else { self.isa.tier().name() }
    }
}

/// One contender with one number of threads.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) scaling: Cow<'static, str>,
    pub(crate) op: Cow<'static, str>,
    pub(crate) dtype: Cow<'static, str>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) threads: usize,
    pub(crate) caller: Cow<'static, str>,
    pub(crate) contender: Cow<'static, str>,
    pub(crate) lower_quartile_ns: f64,
    pub(crate) median_ns: f64,
    pub(crate) copies: f64,
    pub(crate) blocks: usize,
    /// Bytes of x read and of y written, per nanosecond.
    pub(crate) gb_per_s: f64,
    /// Strong scaling: the time of one thread divided by this time. Weak scaling: the same quotient times the number of
    /// threads.
    pub(crate) speedup: f64,
}

/// One run whose bits were hashed.
#[derive(Serialize)]
struct Check {
    scaling: &'static str,
    op: &'static str,
    dtype: &'static str,
    rows: usize,
    cols: usize,
    threads: usize,
    contender: &'static str,
    hash: String,
    same_bits: bool,
    /// The error in units of the allowed rounding error. Only the first run has it: all runs have the same bits.
    error: Option<f64>,
}

#[derive(Serialize)]
struct Record {
    machine: Machine,
    complete: bool,
    results: Vec<Row>,
    checks: Vec<Check>,
}

/// Runs over every case, writes the record after each, and prints it as a table.
///
/// # Errors
/// If a result is wrong, if bits differ, or if the record cannot be written.
pub fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let clock = Clock::start(Duration::from_secs(options.budget));
    ctrlc::set_handler(clock.stopper())?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pools = threads(options.max_threads.unwrap_or(cores).max(1))
        .into_iter()
        .map(|n| ThreadPoolBuilder::new().num_threads(n).build())
        .collect::<Result<Vec<_>, _>>()?;
    let machine = Machine::this(lanenorm::BUILD, lanenorm::default_isa()?.tier().name(), COMMAND);
    println!("{machine}\n");
    let mut record = Record { machine, complete: false, results: Vec::new(), checks: Vec::new() };
    let cases = cases();
    for (i, case) in cases.iter().enumerate() {
        if clock.is_over() {
            break;
        }
        let left: f64 = cases[i..].iter().map(|case| case.weight).sum();
        let run = if case.is_bf16 { run::<bf16> } else { run::<f32> };
        run(case, &pools, left, &clock, &mut record)?;
        record::write(&options.json, &record)?;
    }
    record.complete = cases.iter().all(|case| record.has(case, &pools));
    clock.finish();
    record::write(&options.json, &record)?;
    record.print();
    let different = record.checks.iter().filter(|check| !check.same_bits).count();
    ensure!(different == 0, "{different} runs gave other bits than the first of their shape");
    Ok(())
}

/// The powers of two up to the largest number of threads, and that number.
fn threads(most: usize) -> Vec<usize> {
    let mut threads: Vec<usize> = (0..).map(|i| 1 << i).take_while(|&n| n < most).collect();
    threads.push(most);
    threads
}

/// The most important cases come first, for runs that are cut short.
fn cases() -> Vec<Case> {
    let ops = [(Op::LayerNorm, false), (Op::LayerNormBackward, false), (Op::RmsNorm, false), (Op::LayerNorm, true)];
    let strong = [(512, 768, 1.0), (2048, 1024, 1.0), (8192, 1024, 1.5), (16384, 4096, 4.0)];
    let weak = [(256, 1024, 1.0), (2048, 4096, 4.0)];
    let shapes = strong.map(|shape| (Kind::Strong, shape)).into_iter().chain(weak.map(|shape| (Kind::Weak, shape)));
    let shapes: Vec<_> = shapes.collect();
    let of_op = |(op, is_bf16)| {
        shapes.iter().map(move |&(kind, (rows, cols, weight))| Case { kind, op, is_bf16, rows, cols, weight })
    };
    ops.into_iter().flat_map(of_op).collect()
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Weak => "weak",
        }
    }
}

impl Case {
    fn rows(&self, threads: usize) -> usize {
        match self.kind {
            Kind::Strong => self.rows,
            Kind::Weak => self.rows * threads,
        }
    }

    /// The contenders: for each number of threads the copy, then the tiers.
    fn contenders(&self, pools: &[ThreadPool]) -> Vec<Contender> {
        let vectors = Isa::available().filter(|isa| isa.tier() != Tier::Scalar);
        let mut tiers: Vec<Isa> = vectors.collect();
        if tiers.is_empty() {
            tiers.push(Isa::SCALAR);
        }
        let of_pool = |(pool, threads): (usize, usize)| {
            let rows = self.rows(threads);
            let contender = move |op, isa| Contender { op, isa, pool, threads, rows };
            let tiers = tiers.iter().map(move |&isa| contender(self.op, isa));
            std::iter::once(contender(Op::Copy, Isa::SCALAR)).chain(tiers).collect::<Vec<_>>()
        };
        pools.iter().map(ThreadPool::current_num_threads).enumerate().flat_map(of_pool).collect()
    }
}

struct Pools<'a, T: Number> {
    pools: &'a [ThreadPool],
    contenders: &'a [Contender],
    tensors: Tensors<T>,
    clock: &'a Clock,
}

impl<T: Number> Bench for Pools<'_, T> {
    fn time(&mut self, contender: usize, wake: Duration, repeats: u64) -> Duration {
        let Contender { op, isa, pool, rows, .. } = self.contenders[contender];
        let tensors = &mut self.tensors;
        self.pools[pool].install(|| measure::repeat(wake, repeats, || tensors.run(op, isa, rows)))
    }

    fn place(&mut self, rng: &mut SmallRng) {
        self.tensors.place(rng);
    }

    fn is_stopped(&self) -> bool {
        self.clock.tick();
        self.clock.is_stopped()
    }
}

fn run<T: Number>(
    case: &Case,
    pools: &[ThreadPool],
    weights_left: f64,
    clock: &Clock,
    record: &mut Record,
) -> anyhow::Result<()> {
    let budget = clock.share(case.weight, weights_left);
    let contenders = case.contenders(pools);
    let (most, cols) = (pools.len() - 1, case.cols);
    let (op, dtype, kind) = (case.op.name(), T::NAME, case.kind.name());
    clock.show(format!("{op} {dtype} {}x{cols}, {kind} scaling", case.rows));
    let rows = case.rows(pools[most].current_num_threads());
    let make = || Tensors::<T>::new(rows, cols, case.op == Op::LayerNormBackward);
    let mut bench = Pools { pools, contenders: &contenders, tensors: pools[most].install(make), clock };
    check(case, &mut bench, clock, record)?;

    let copy_of = |c: &Contender| contenders.iter().position(|copy| copy.pool == c.pool);
    let entry = |c| Some(Entry { copy: copy_of(c)?, wake: if c.threads == 1 { Duration::ZERO } else { WAKE } });
    let entries = contenders.iter().map(entry).collect::<Option<Vec<_>>>().context("a copy for each pool")?;
    let (pace, rng) = (Pace { rounds: (1, 200), ..Pace::default() }, &mut SmallRng::seed_from_u64(0));
    let Some(timings) = measure::measure(&mut bench, &entries, &pace, budget, rng) else { return Ok(()) };
    let alone = |c: &Contender| contenders.iter().position(|one| one.threads == 1 && one.name() == c.name());
    for (contender, timing) in contenders.iter().zip(&timings) {
        let alone = &timings[alone(contender).context("a pool of one thread")?];
        let work = contender.rows as f64 / case.rows(1) as f64;
        record.results.push(Row {
            scaling: kind.into(),
            op: op.into(),
            dtype: dtype.into(),
            rows: contender.rows,
            cols,
            threads: contender.threads,
            caller: "inside".into(),
            contender: contender.name().into(),
            lower_quartile_ns: timing.lower_quartile,
            median_ns: timing.median,
            copies: timing.copies,
            blocks: timing.blocks,
            gb_per_s: (2 * contender.rows * cols * size_of::<T>()) as f64 / timing.lower_quartile,
            speedup: alone.lower_quartile / timing.lower_quartile * work,
        });
    }
    Ok(())
}

/// Compares the answer of the first tier with f64, and the bits of all other tiers with the bits of the first.
fn check<T: Number>(case: &Case, bench: &mut Pools<'_, T>, clock: &Clock, record: &mut Record) -> anyhow::Result<()> {
    let largest = bench.pools.last().context("a pool")?;
    let mut first: Option<(usize, u64)> = None;
    for contender in bench.contenders.iter().filter(|c| c.op != Op::Copy) {
        if clock.is_stopped() {
            break;
        }
        let (op, rows, cols) = (contender.op, contender.rows, case.cols);
        bench.tensors.spoil();
        bench.pools[contender.pool].install(|| bench.tensors.run(op, contender.isa, rows));
        let hash = largest.install(|| bench.tensors.hash(op, rows));
        let known = first.filter(|&(of, _)| of == rows).map(|(_, hash)| hash);
        let error = if known.is_none() { Some(largest.install(|| bench.tensors.error(op, rows))?) } else { None };
        if error.is_some() {
            first = Some((rows, hash));
        }
        record.checks.push(Check {
            scaling: case.kind.name(),
            op: op.name(),
            dtype: T::NAME,
            rows,
            cols,
            threads: contender.threads,
            contender: contender.name(),
            hash: format!("{hash:016x}"),
            same_bits: known.is_none_or(|known| known == hash),
            error,
        });
        clock.tick();
    }
    Ok(())
}

impl Record {
    fn has(&self, case: &Case, pools: &[ThreadPool]) -> bool {
        let dtype = if case.is_bf16 { bf16::NAME } else { f32::NAME };
        case.contenders(pools).iter().all(|c| {
            self.results.iter().any(|row| {
                (&*row.scaling, &*row.op, &*row.dtype) == (case.kind.name(), case.op.name(), dtype)
                    && (row.rows, row.cols, row.threads) == (c.rows, case.cols, c.threads)
                    && row.contender == c.name()
            })
        })
    }

    fn print(&self) {
        let head = ["scaling", "op", "dtype", "shape", "threads", "contender", "us", "GB/s", "speedup", "copies"];
        let mut table = Table::new(head.map(String::from).into());
        for row in &self.results {
            let mut cells = [&row.scaling, &row.op, &row.dtype].map(ToString::to_string).to_vec();
            cells.extend([format!("{}x{}", row.rows, row.cols), row.threads.to_string(), row.contender.to_string()]);
            cells.push(format!("{:.1}", row.lower_quartile_ns / 1e3));
            cells.push(format!("{:.1}", row.gb_per_s));
            cells.extend([row.speedup, row.copies].map(|v| format!("{v:.2}")));
            table.push(cells);
        }
        print!("{}", table.text());
        self.print_checks();
        if !self.complete {
            println!("\nCut short: not every case was measured.");
        }
    }

    fn print_checks(&self) {
        let firsts = self.checks.iter().filter(|check| check.error.is_some());
        println!("\nBits, hashed over y or dx, dgamma and dbeta:");
        for first in firsts {
            let key = |c: &Check| (c.scaling, c.op, c.dtype, c.rows, c.cols);
            let all: Vec<_> = self.checks.iter().filter(|c| key(c) == key(first)).collect();
            let same = all.iter().filter(|c| c.same_bits).count();
            let shape = format!("{}x{}", first.rows, first.cols);
            let (op, dtype, hash) = (first.op, first.dtype, &first.hash);
            println!("{op:<20} {dtype:<5} {shape:>12} {hash}: {same} of {} runs agree", all.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_powers_of_two_and_the_most() {
        assert_eq!(threads(1), [1]);
        assert_eq!(threads(2), [1, 2]);
        assert_eq!(threads(16), [1, 2, 4, 8, 16]);
        assert_eq!(threads(12), [1, 2, 4, 8, 12]);
    }
}
