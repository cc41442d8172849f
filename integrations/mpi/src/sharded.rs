//! The exchange: everything that an engine would take over from here.

use lanenorm::{Error, Moments};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::norm::Norm;
use crate::rows::{Bits, Tensor};

/// The numbers that make [`Moments`]. They are sent as they are: the mean stays in two parts, and no bit is lost.
const NUMBERS: usize = 5;

/// The moments of whole rows, from the moments of each rank's part.
fn exchange(world: &SimpleCommunicator, mine: &[Moments]) -> Vec<Moments> {
    let (rows, ranks) = (mine.len(), world.size() as usize);
    let mine: Vec<f64> = mine.iter().flat_map(|&m| <[f64; NUMBERS]>::from(m)).collect();
    let mut all = vec![0.0; ranks * rows * NUMBERS];
    world.all_gather_into(&mine[..], &mut all[..]);
    // Rank after rank, and within a rank row after row.
    let (all, _) = all.as_chunks::<NUMBERS>();
    (0..rows).map(|row| Moments::merge_all((0..ranks).map(|rank| Moments::from(all[rank * rows + row])))).collect()
}

/// Normalizes this rank's columns of each row, and returns how many rows took the second exchange.
pub(crate) fn forward<T: Bits>(
    world: &SimpleCommunicator,
    plan: &Norm,
    shard: &Tensor<T>,
    y: &mut [T],
) -> Result<usize, Error> {
    let cols = plan.cols();
    let mut mine = vec![Moments::EMPTY; shard.x.len() / cols];
    plan.moments(&shard.x, &mut mine)?;
    let mut whole = exchange(world, &mine);

    // All ranks hold the same numbers here, and so agree on which rows and on their scales.
    let again: Vec<(usize, f64)> =
        whole.iter().enumerate().filter_map(|(row, m)| Some((row, plan.rescale::<T>(m)?))).collect();
    if !again.is_empty() {
        mine.truncate(again.len());
        for (&(row, scale), mine) in again.iter().zip(&mut mine) {
            plan.moments_at_scale(&shard.x[row * cols..][..cols], scale, std::slice::from_mut(mine))?;
        }
        for (&(row, _), redone) in again.iter().zip(exchange(world, &mine)) {
            whole[row] = redone;
        }
    }
    plan.normalize_with(&shard.x, &whole, &shard.gamma, &shard.beta, y)?;
    Ok(again.len())
}
