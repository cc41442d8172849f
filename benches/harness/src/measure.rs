//! Times that can be compared on a machine that others use too. All contenders run in one process, in turn, in short
//! blocks and in an order that is drawn anew for each round, so that a slow second slows down all of them. Before each
//! block the contender runs untimed, to find the caches as it leaves them. This is repeated with buffers at other
//! places. The result is the lower quartile of the blocks at one place (a disturbance only ever adds time), and then
//! the median of the places.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

/// Contenders that can be timed.
pub trait Bench {
    /// The time of `repeats` runs of a contender, after untimed ones as [`repeat`] has them.
    fn time(&mut self, contender: usize, wake: Duration, repeats: u64) -> Duration;

    /// Puts the buffers at other places.
    fn place(&mut self, rng: &mut SmallRng);

    /// Whether the run is to end early. Called before each block.
    fn is_stopped(&self) -> bool {
        false
    }
}

/// How a contender is timed.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The contender that is its copy.
    pub copy: usize,
    /// For how long it runs before each block: threads of a pool, and the cores below them, have gone to sleep.
    pub wake: Duration,
}

/// How finely times are taken.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The time that a block should take, so that reading the clock costs nothing.
    pub block: Duration,
    /// The number of times that buffers are placed.
    pub places: u32,
    /// The least and the largest number of rounds at one place.
    pub rounds: (u32, u32),
    /// A contender whose block takes more than this many times as long as the copy's sits rounds out.
    pub slow: f64,
}

impl Pace {
    /// For tensors far beyond the caches: the run of a slow contender takes a large part of a second, and where the
    /// buffers lie matters less.
    pub fn of_large() -> Self {
        Self { places: 3, rounds: (3, 60), ..Self::default() }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { block: Duration::from_millis(1), places: 5, rounds: (4, 60), slow: 4.0 }
    }
}

/// The times of one contender.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The time of a run, in nanoseconds.
    pub lower_quartile: f64,
    /// The time of a run, in nanoseconds.
    pub median: f64,
    /// The lower quartile divided by the lower quartile of its copy at the same place.
    pub copies: f64,
    /// The number of blocks.
    pub blocks: usize,
}

/// The time of `repeats` runs, after untimed ones for at least `wake`, and at least one.
#[inline(always)]
pub fn repeat(wake: Duration, repeats: u64, mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    run();
    if !wake.is_zero() {
        while start.elapsed() < wake {
            run();
        }
    }
    let start = Instant::now();
    for _ in 0..repeats {
        run();
    }
    start.elapsed()
}

/// Times contenders in about `budget`. `None` if the run was stopped before each contender was timed at one place.
pub fn measure(
    bench: &mut dyn Bench,
    entries: &[Entry],
    pace: &Pace,
    budget: Duration,
    rng: &mut SmallRng,
) -> Option<Vec<Timing>> {
    let mut shares: Vec<Share> = Vec::new();
    let mut places: Vec<Vec<Summary>> = Vec::new();
    for _ in 0..pace.places {
        bench.place(rng);
        if shares.is_empty() {
            shares = (0..entries.len()).map(|i| Share::new(bench, i, pace.block)).collect();
            let blocks: Vec<f64> = shares.iter().map(|share| share.block).collect();
            for (share, entry) in shares.iter_mut().zip(entries) {
                share.every = ((share.block / blocks[entry.copy] / pace.slow) as u32).max(1);
            }
        }
        let end = Instant::now() + budget / pace.places;
        let Some(blocks) = run_rounds(bench, entries, &shares, pace.rounds, end, rng) else { break };
        places.push(blocks.into_iter().map(Summary::new).collect());
    }
    if places.is_empty() {
        return None;
    }
    let timing = |(i, entry): (usize, &Entry)| Timing {
        lower_quartile: middle(places.iter().map(|place| place[i].lower_quartile)),
        median: middle(places.iter().map(|place| place[i].median)),
        copies: middle(places.iter().map(|place| place[i].lower_quartile / place[entry.copy].lower_quartile)),
        blocks: places.iter().map(|place| place[i].blocks).sum(),
    };
    Some(entries.iter().enumerate().map(timing).collect())
}

/// The share of a contender in a round.
struct Share {
    /// The number of runs in a block.
    repeats: u64,
    /// The seconds that a block takes.
    block: f64,
    /// The contender takes part in one of `every` rounds.
    every: u32,
}

impl Share {
    fn new(bench: &mut dyn Bench, contender: usize, block: Duration) -> Self {
        let mut repeats = 1;
        loop {
            let time = bench.time(contender, Duration::ZERO, repeats);
            if time * 4 >= block {
                let each = time.as_secs_f64() / repeats as f64;
                let repeats = ((block.as_secs_f64() / each) as u64).max(1);
                return Self { repeats, block: each * repeats as f64, every: 1 };
            }
            repeats *= 2;
        }
    }
}

/// The times of a run in each block of each contender, in nanoseconds. `None` if the run was stopped.
fn run_rounds(
    bench: &mut dyn Bench,
    entries: &[Entry],
    shares: &[Share],
    (least, most): (u32, u32),
    end: Instant,
    rng: &mut SmallRng,
) -> Option<Vec<Vec<f64>>> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    let mut blocks = vec![Vec::new(); entries.len()];
    for round in 0..most {
        if round >= least && Instant::now() >= end {
            break;
        }
        order.shuffle(rng);
        for &i in &order {
            let Share { repeats, every, .. } = shares[i];
            if bench.is_stopped() {
                return None;
            }
            if round.is_multiple_of(every) {
                let time = bench.time(i, entries[i].wake, repeats);
                blocks[i].push(time.as_secs_f64() * 1e9 / repeats as f64);
            }
        }
    }
    Some(blocks)
}

/// The blocks at one place.
struct Summary {
    lower_quartile: f64,
    median: f64,
    blocks: usize,
}

impl Summary {
    fn new(mut times: Vec<f64>) -> Self {
        times.sort_unstable_by(f64::total_cmp);
        let last = times.len() - 1;
        Self { lower_quartile: times[last / 4], median: times[last / 2], blocks: times.len() }
    }
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    Summary::new(values.collect()).median
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    /// Contenders of given speeds, which are half as fast at every second place.
    struct Given {
        micros: Vec<u64>,
        places: u64,
        runs: Vec<u64>,
        stop_after: u64,
    }

    impl Bench for Given {
        fn time(&mut self, contender: usize, _: Duration, repeats: u64) -> Duration {
            self.runs[contender] += 1;
            Duration::from_micros(self.micros[contender] * repeats * (1 + self.places % 2))
        }

        fn place(&mut self, _: &mut SmallRng) {
            self.places += 1;
        }

        fn is_stopped(&self) -> bool {
            self.places > self.stop_after
        }
    }

    fn run(stop_after: u64) -> (Given, Option<Vec<Timing>>) {
        let mut bench = Given { micros: vec![10, 20, 9000], places: 0, runs: vec![0; 3], stop_after };
        let entry = Entry { copy: 0, wake: Duration::ZERO };
        let rng = &mut SmallRng::seed_from_u64(0);
        let timings = measure(&mut bench, &[entry; 3], &Pace::default(), Duration::ZERO, rng);
        (bench, timings)
    }

    #[test]
    fn ratios_are_of_one_place_and_slow_contenders_sit_out() {
        let (bench, timings) = run(u64::MAX);
        let timings = timings.unwrap();
        assert_eq!(bench.places, 5);
        let copies: Vec<f64> = timings.iter().map(|t| t.copies.round()).collect();
        assert_eq!(copies, [1.0, 2.0, 900.0]);
        // Three of five places are slow.
        assert_eq!(timings[1].lower_quartile.round(), 40e3);
        // Four rounds at each place; the slow contender takes part in one of the four.
        assert_eq!(timings.iter().map(|t| t.blocks).collect::<Vec<_>>(), [20, 20, 5]);
    }

    #[test]
    fn a_stopped_run_has_the_places_that_were_finished() {
        assert!(run(0).1.is_none());
        assert_eq!(run(2).1.unwrap()[0].blocks, 8);
    }

    #[test]
    fn quartiles_are_of_sorted_times() {
        let Summary { lower_quartile, median, blocks } = Summary::new(vec![5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!((lower_quartile, median, blocks), (2.0, 3.0, 5));
    }
}
