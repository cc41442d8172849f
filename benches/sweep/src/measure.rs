//! Times that can be compared: contenders in turn, in short blocks, in an order drawn anew for each round, with buffers
//! at several places. Of the blocks at one place the lower quartile counts, of the places the median.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use crate::clock::Clock;
use crate::summary::{Summary, middle};

/// The time that a block should take, so that reading the clock costs nothing.
const BLOCK: Duration = Duration::from_millis(1);

/// The number of times that buffers are placed.
const PLACES: u32 = 5;

/// What can be timed.
pub(crate) trait Bench {
    /// As [`repeat`] does.
    fn time(&mut self, contender: usize, wake: Duration, repeats: u64) -> Duration;

    /// Puts the buffers at other places.
    fn place(&mut self, rng: &mut SmallRng);
}

/// What was measured of one contender.
pub(crate) struct Timing {
    /// Of a run, in nanoseconds.
    pub(crate) lower_quartile: f64,
    pub(crate) median: f64,
    /// The lower quartile divided by that of its copy at the same place.
    pub(crate) copies: f64,
    pub(crate) blocks: usize,
}

/// The time of `repeats` runs, after untimed ones for at least `wake`, and at least one.
pub(crate) fn repeat(wake: Duration, repeats: u64, mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    run();
    while start.elapsed() < wake {
        run();
    }
    let start = Instant::now();
    (0..repeats).for_each(|_| run());
    start.elapsed()
}

/// Times contenders until `end`, and each at least once. `copies` says which contender is the copy of each, `wakes` for how
/// long each runs before it is timed. `None` if the run was stopped before each was timed.
pub(crate) fn measure(
    bench: &mut dyn Bench,
    copies: &[usize],
    wakes: &[Duration],
    end: Instant,
    clock: &Clock,
    rng: &mut SmallRng,
) -> Option<Vec<Timing>> {
    let start = Instant::now();
    let time = end.saturating_duration_since(start);
    let mut places: Vec<Vec<Vec<f64>>> = Vec::new();
    let mut repeats = Vec::new();
    for place in 1..=PLACES {
        bench.place(rng);
        if repeats.is_empty() {
            repeats = (0..copies.len()).map(|i| fit(bench, i)).collect();
        }
        let blocks = rounds(bench, &repeats, wakes, start + time * place / PLACES, clock, rng);
        if !blocks.is_empty() {
            places.push(blocks);
        }
        if Instant::now() >= end || clock.is_stopped() {
            break;
        }
    }
    (!places.is_empty()).then(|| summarize(places, copies))
}

/// The number of runs in a block.
fn fit(bench: &mut dyn Bench, contender: usize) -> u64 {
    let mut repeats = 1;
    loop {
        let time = bench.time(contender, Duration::ZERO, repeats);
        if time * 4 >= BLOCK {
            return ((BLOCK.as_secs_f64() / time.as_secs_f64() * repeats as f64) as u64).max(1);
        }
        repeats *= 2;
    }
}

/// The times of a run in each block of each contender, in whole rounds: none if not even one was run to its end.
fn rounds(
    bench: &mut dyn Bench,
    repeats: &[u64],
    wakes: &[Duration],
    end: Instant,
    clock: &Clock,
    rng: &mut SmallRng,
) -> Vec<Vec<f64>> {
    let mut order: Vec<usize> = (0..repeats.len()).collect();
    let mut blocks = vec![Vec::new(); repeats.len()];
    loop {
        order.shuffle(rng);
        let mut round = vec![0.0; repeats.len()];
        for &i in &order {
            if clock.is_stopped() {
                return if blocks[0].is_empty() { Vec::new() } else { blocks };
            }
            round[i] = bench.time(i, wakes[i], repeats[i]).as_secs_f64() * 1e9 / repeats[i] as f64;
            clock.tick();
        }
        blocks.iter_mut().zip(round).for_each(|(blocks, time)| blocks.push(time));
        if Instant::now() >= end {
            return blocks;
        }
    }
}

fn summarize(places: Vec<Vec<Vec<f64>>>, copies: &[usize]) -> Vec<Timing> {
    let places: Vec<Vec<Summary>> =
        places.into_iter().map(|place| place.into_iter().map(Summary::new).collect()).collect();
    let timing = |(i, &copy): (usize, &usize)| Timing {
        lower_quartile: middle(places.iter().map(|p| p[i].lower_quartile)),
        median: middle(places.iter().map(|p| p[i].median)),
        copies: middle(places.iter().map(|p| p[i].lower_quartile / p[copy].lower_quartile)),
        blocks: places.iter().map(|p| p[i].blocks).sum(),
    };
    copies.iter().enumerate().map(timing).collect()
}
