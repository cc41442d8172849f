//! Rows sharded over the processes of an MPI job, as in tensor parallelism: each rank holds some columns of every row,
//! takes the moments of its part, and exchanges them. No element ever moves, and y has the bits of a single process.
//!
//! ```sh
//! cargo build --release && mpirun -n 4 target/release/lanenorm-mpi
//! ```
//!
//! ```text
//! mine  = moments of each row of my shard                     five numbers a row
//! whole = allgather(mine), merged in the order of the ranks   the same numbers on every rank
//! where a row needs another scale: moments at that scale, and the two lines above again for these rows alone
//! y     = normalize my shard with whole
//! ```

#![forbid(unsafe_code)]

mod norm;
mod rows;
mod sharded;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use lanenorm::{Error, LayerNorm, RmsNorm, bf16};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use norm::Norm;
use rows::{Bits, ROWS, Tensor};

/// The columns of a shard. It is a power of two times lanenorm's chunk of 1024: then the parts are subtrees of the tree
/// along which the whole row is merged.
const SHARD: usize = 2048;

/// Columns missing at the end of the last shard, which may have any length, and eps. Without eps, small and constant
/// rows are of extreme range too.
const CASES: [(usize, f64); 2] = [(0, 1e-5), (333, 0.0)];

/// The outcome on one rank.
struct Outcome {
    different: usize,
    rescaled: usize,
}

/// Normalizes this rank's columns of all rows, and compares with a run on whole rows.
fn check<T: Bits>(
    world: &SimpleCommunicator,
    missing: usize,
    plan: impl Fn(usize) -> Result<Norm, Error>,
) -> Result<Outcome, Error> {
    let (rank, ranks) = (world.rank() as usize, world.size() as usize);
    let cols = ranks * SHARD - missing;
    let whole = Tensor::<T>::random(cols);
    let mut expected = vec![T::default(); whole.x.len()];
    plan(cols)?.forward(&whole.x, &whole.gamma, &whole.beta, &mut expected)?;

    let mine = rank * SHARD..cols.min((rank + 1) * SHARD);
    let shard = whole.columns(mine.clone());
    let mut y = vec![T::default(); shard.x.len()];
    let plan = plan(mine.len())?;
    let rescaled = sharded::forward(world, &plan, &shard, &mut y)?;

    let expected = rows::columns(&expected, cols, mine);
    let mut different = 0;
    for (i, (y, expected)) in y.iter().zip(&expected).enumerate().filter(|(_, (y, e))| y.bits() != e.bits()) {
        if different == 0 {
            let (row, col) = (ROWS[i / plan.cols()].0, i % plan.cols());
            eprintln!("rank {rank}, row \"{row}\", column {col} of its shard: {y:?}, one process {expected:?}");
        }
        different += 1;
    }
    Ok(Outcome { different, rescaled })
}

/// Checks both operations in three types, and prints a line for each on rank 0. (A difference in the last bits of
/// moments shows in f64, and seldom in the other types.) Returns whether all ranks agree with one process.
fn run(world: &SimpleCommunicator) -> Result<bool, Error> {
    let first = world.rank() == 0;
    if first {
        println!("{} rows, shards of {SHARD} columns, {} ranks; {}", ROWS.len(), world.size(), lanenorm::BUILD);
        println!("{:16} {:>8} {:>6} {:>9}  bits, by rank", "", "cols", "eps", "rescaled");
    }
    let mut all_equal = true;
    for (missing, eps) in CASES {
        let layer_norm = |cols| LayerNorm::new(cols, eps).map(Norm::Layer);
        let rms_norm = |cols| RmsNorm::new(cols, eps).map(Norm::Rms);
        for (name, outcome) in [
            ("layer_norm f64", check::<f64>(world, missing, layer_norm)?),
            ("layer_norm f32", check::<f32>(world, missing, layer_norm)?),
            ("layer_norm bf16", check::<bf16>(world, missing, layer_norm)?),
            ("rms_norm f64", check::<f64>(world, missing, rms_norm)?),
            ("rms_norm f32", check::<f32>(world, missing, rms_norm)?),
            ("rms_norm bf16", check::<bf16>(world, missing, rms_norm)?),
        ] {
            let mut different = vec![0_u64; world.size() as usize];
            world.all_gather_into(&(outcome.different as u64), &mut different[..]);
            all_equal &= different.iter().all(|&n| n == 0);
            if first {
                let cols = world.size() as usize * SHARD - missing;
                print!("{name:16} {cols:>8} {eps:>6.0e} {:>9} ", outcome.rescaled);
                for n in different {
                    if n == 0 { print!(" equal") } else { print!(" {n} DIFFER") }
                }
                println!();
            }
        }
    }
    Ok(all_equal)
}

fn main() -> ExitCode {
    let universe = mpi::initialize().expect("MPI is initialized once");
    let world = universe.world();
    // If this rank ended in any other way, the other ranks would wait for it. A panic that unwound from here would wait
    // too: it would drop the MPI universe, which finalizes MPI.
    match panic::catch_unwind(AssertUnwindSafe(|| run(&world))) {
        // Every rank has all counts, so that all exit alike.
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            eprintln!("rank {} ends the job: {error}", world.rank());
            world.abort(1)
        }
        Err(_) => {
            eprintln!("rank {} ends the job: it panicked", world.rank());
            world.abort(1)
        }
    }
}
