//! Times that can be compared on a machine that others use too. All contenders of a case run in one process, in turn,
//! in blocks of about a millisecond and in an order that is drawn anew for each round, so that a slow second slows down
//! all of them. Before each block the contender runs once untimed, to find the caches as it leaves them, and with threads
//! for a few milliseconds, since the threads of a pool, and the cores below them, have gone to sleep; forced streaming
//! stores, after which y takes many runs to come back into the caches, are timed apart, against a copy of their own.
//! This is repeated with buffers at other places. Of the blocks at one place the lower quartile counts
//! (what disturbs only ever adds time), of the places the median.

use std::time::Duration;

use lanenorm::kernels::table::Dtype;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::case::{Case, Tensor};
use super::check::Answers;
use super::contender::Contender;
use super::number::{Number, typed};
use super::placement::Placement;
use super::summary::{Summary, middle};
use super::variant::Variant;

/// The time that a block should take, so that reading the clock costs nothing.
const BLOCK: Duration = Duration::from_millis(1);

/// The time after which all threads are awake.
const WAKE: Duration = Duration::from_millis(8);

/// A contender whose block takes more than this many times as long as the copy's sits rounds out.
const SLOW: f64 = 4.0;

/// The number of times that buffers are placed.
pub(crate) const PLACES: usize = 5;

/// The least and the largest number of rounds at one place.
const ROUNDS: (u32, u32) = (4, 60);

/// What was measured of one contender.
pub(crate) struct Timing {
    pub(crate) contender: Contender,
    /// Of a run over the case, in nanoseconds.
    pub(crate) lower_quartile: f64,
    pub(crate) median: f64,
    /// The lower quartile divided by that of the copy at the same place.
    pub(crate) copies: f64,
    /// The number of blocks.
    pub(crate) blocks: usize,
}

/// Checks and times all contenders of a case in about `budget`. The first of them must be the copy.
pub(crate) fn measure(case: &Case, contenders: &[Contender], budget: Duration) -> Vec<Timing> {
    typed!(case.dtype, measure_as(case, contenders, budget))
}

fn measure_as<T: Number>(case: &Case, contenders: &[Contender], budget: Duration) -> Vec<Timing> {
    let rng = &mut SmallRng::seed_from_u64(0);
    let tensors = case.tensors::<T>();
    check_all(case, &tensors, contenders, rng);

    let (apart, together): (Vec<_>, Vec<_>) = contenders.iter().partition(|c| c.variant() == Variant::Streaming);
    let share = |group: &[Contender]| budget.mul_f64(group.len() as f64 / contenders.len() as f64);
    let mut timings = measure_group(case, &tensors, &together, share(&together), rng);
    if !apart.is_empty() {
        let with_copy: Vec<_> = contenders.iter().take(1).copied().chain(apart.iter().copied()).collect();
        timings.extend(measure_group(case, &tensors, &with_copy, share(&apart), rng).into_iter().skip(1));
    }
    timings
}

/// Times contenders against one another.
fn measure_group<T: Number>(
    case: &Case,
    tensors: &[Tensor<T>],
    contenders: &[Contender],
    budget: Duration,
    rng: &mut SmallRng,
) -> Vec<Timing> {
    let mut paces = Vec::new();
    let mut places: Vec<Vec<Summary>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..PLACES {
        let mut placement = Placement::new(case, tensors, contenders, rng);
        if paces.is_empty() {
            paces = contenders.iter().map(|&c| Pace::new(c, case, &mut placement)).collect();
            let copy = paces[0].block;
            for pace in &mut paces {
                pace.every = ((pace.block / copy / SLOW) as u32).max(1);
            }
        }
        let round: f64 = paces.iter().map(Pace::seconds).sum();
        let rounds = (budget.as_secs_f64() / PLACES as f64 / round) as u32;
        let rounds = rounds.clamp(ROUNDS.0, ROUNDS.1);
        for (place, blocks) in places.iter_mut().zip(run_rounds(case, &paces, rounds, &mut placement, rng)) {
            place.push(Summary::new(blocks));
        }
    }
    let copy: Vec<f64> = places[0].iter().map(|s| s.lower_quartile).collect();
    let timing = |(&contender, places): (&Contender, &Vec<Summary>)| Timing {
        contender,
        lower_quartile: middle(places.iter().map(|s| s.lower_quartile)),
        median: middle(places.iter().map(|s| s.median)),
        copies: middle(places.iter().zip(&copy).map(|(s, copy)| s.lower_quartile / copy)),
        blocks: places.iter().map(|s| s.blocks).sum(),
    };
    contenders.iter().zip(&places).map(timing).collect()
}

fn check_all<T: Number>(case: &Case, tensors: &[Tensor<T>], contenders: &[Contender], rng: &mut SmallRng) {
    let mut answers = Answers::new(case);
    let mut placement = Placement::new(case, tensors, contenders, rng);
    for &contender in contenders {
        answers.check(contender, &mut placement);
    }
}

/// How a contender is run.
struct Pace {
    contender: Contender,
    /// The number of untimed runs before a block, and that of runs in it.
    warm: u64,
    repeats: u64,
    /// The seconds that a block takes.
    block: f64,
    /// It takes part in every such round.
    every: u32,
}

impl Pace {
    fn new<T: Number>(contender: Contender, case: &Case, placement: &mut Placement<T>) -> Self {
        let mut repeats = 1;
        loop {
            let time = contender.time(case, placement, 1, repeats);
            if time * 4 >= BLOCK {
                let fit = ((BLOCK.as_secs_f64() / time.as_secs_f64() * repeats as f64) as u64).max(1);
                let block = time.as_secs_f64() / repeats as f64 * fit as f64;
                let wake = (WAKE.as_secs_f64() / block * fit as f64).ceil() as u64;
                let warm = if contender.threads() { wake } else { 1 };
                return Self { contender, warm, repeats: fit, block, every: 1 };
            }
            repeats *= 2;
        }
    }

    /// What it takes of a round.
    fn seconds(&self) -> f64 {
        self.block * (1.0 + self.warm as f64 / self.repeats as f64) / f64::from(self.every)
    }
}

/// The times of a run in each block of each contender.
fn run_rounds<T: Number>(
    case: &Case,
    paces: &[Pace],
    rounds: u32,
    placement: &mut Placement<T>,
    rng: &mut SmallRng,
) -> Vec<Vec<f64>> {
    let mut blocks: Vec<Vec<f64>> = paces.iter().map(|_| Vec::new()).collect();
    let mut order: Vec<usize> = (0..paces.len()).collect();
    for round in 0..rounds {
        order.shuffle(rng);
        for &i in &order {
            let Pace { contender, warm, repeats, every, .. } = paces[i];
            if round % every == 0 {
                let time = contender.time(case, placement, warm, repeats);
                blocks[i].push(time.as_secs_f64() * 1e9 / repeats as f64);
            }
        }
    }
    blocks
}
