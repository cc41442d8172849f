//! Times that can be compared on a machine that others use too: all contenders of a cell run in one process, in blocks of about
//! half a millisecond and in an order that is drawn anew for each round, after a call that finds the caches as it leaves them.
//! This is repeated with buffers at other places. Of the blocks at one place the lower quartile counts, of the places the median.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use crate::case::{Answers, Case, Inputs, Op};
use crate::contender::{About, Buffers, Contender, Mode, contenders};
use crate::number::Number;
use crate::summary::{Summary, middle};

/// Set when the run is to end early.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

/// The time that a block should take, so that reading the clock costs nothing.
const BLOCK: f64 = 5e-4;

/// A contender whose block takes more than this many times as long as the copy's sits rounds out.
const SLOW: f64 = 6.0;

/// The number of times that buffers are placed.
const PLACES: usize = 3;

/// The least and the largest number of rounds at one place.
const ROUNDS: (u32, u32) = (3, 60);

/// What was measured of one contender, per call and in nanoseconds.
pub(crate) struct Timing {
    pub(crate) about: About,
    pub(crate) lower_quartile: f64,
    pub(crate) median: f64,
    /// The lower quartile divided by that of the copy at the same place.
    pub(crate) copies: f64,
    pub(crate) error: f64,
}

pub(crate) struct Plan<'a, T> {
    pub(crate) case: Case,
    pub(crate) inputs: &'a Inputs<T>,
    pub(crate) answers: &'a Answers,
    pub(crate) wanted: &'a [String],
    /// A pool of one thread.
    pub(crate) alone: &'a rayon::ThreadPool,
}

impl<T: Number> Plan<'_, T> {
    /// Checks and times all contenders in about `budget`; none if the run is to end early.
    pub(crate) fn measure(&self, mode: Mode, budget: Duration, rng: &mut SmallRng) -> Option<Vec<Timing>> {
        let mut all = contenders(self.case, mode, self.inputs, self.wanted);
        let errors = self.errors(mode, &mut all, rng);
        let mut paces: Vec<Pace> = Vec::new();
        let mut places: Vec<Vec<Summary>> = all.iter().map(|_| Vec::new()).collect();
        for place in 0..PLACES {
            let mut buffers = Buffers::new(self.case, self.inputs, rng);
            if place > 0 {
                all = contenders(self.case, mode, self.inputs, self.wanted);
            } else {
                paces = self.paces(mode, &mut all, &mut buffers);
            }
            let round: f64 = paces.iter().map(Pace::seconds).sum();
            let rounds = (budget.as_secs_f64() / PLACES as f64 / round) as u32;
            let blocks = self.rounds(mode, rounds.clamp(ROUNDS.0, ROUNDS.1), &paces, &mut all, &mut buffers, rng)?;
            for (places, blocks) in places.iter_mut().zip(blocks) {
                places.push(Summary::new(blocks));
            }
        }
        let copy: Vec<f64> = places[0].iter().map(|s| s.lower_quartile).collect();
        let timing = |((c, places), error): ((&Contender<T>, &Vec<Summary>), f64)| Timing {
            about: c.about,
            lower_quartile: 1e9 * middle(places.iter().map(|s| s.lower_quartile)),
            median: 1e9 * middle(places.iter().map(|s| s.median)),
            copies: middle(places.iter().zip(&copy).map(|(s, copy)| s.lower_quartile / copy)),
            error,
        };
        Some(all.iter().zip(&places).zip(errors).map(timing).collect())
    }

    /// Runs something where the calls of a mode come from.
    fn call<R: Send>(&self, mode: Mode, run: impl FnOnce() -> R + Send) -> R {
        match mode {
            Mode::One => self.alone.install(run),
            Mode::Inside => rayon::scope(|_| run()),
            Mode::Outside => run(),
        }
    }

    /// The largest error of each contender; 0 for the copy.
    pub(crate) fn errors(&self, mode: Mode, all: &mut [Contender<T>], rng: &mut SmallRng) -> Vec<f64> {
        let mut buffers = Buffers::new(self.case, self.inputs, rng);
        let errors = all.iter_mut().enumerate().map(|(i, contender)| {
            buffers.reset();
            self.call(mode, || (contender.answer)(&mut buffers));
            if i == 0 { 0.0 } else { self.error(contender, &buffers) }
        });
        errors.collect()
    }

    /// Of y or dx; those of dgamma and dbeta, which are sums over all rows, count by the square root of the number of rows.
    fn error(&self, contender: &Contender<T>, buffers: &Buffers<T>) -> f64 {
        let Case { op, shape, .. } = self.case;
        let largest = |errors: &mut dyn Iterator<Item = f64>| {
            errors.fold(0.0, |a: f64, b| if b.is_nan() { f64::INFINITY } else { a.max(b) })
        };
        let against = |wide: &mut dyn Iterator<Item = f32>, right: &[f64]| {
            largest(&mut wide.zip(right).map(|(v, right)| (f64::from(v) - right).abs()))
        };
        let mut error = against(&mut buffers.y.get().iter().map(|v| v.wide()), &self.answers.y);
        if op.adds() && contender.about.note != crate::contender::Note::NoSum {
            let sums = buffers.x.get().iter().zip(buffers.residual.get()).map(|(&x, &r)| x.plus(r).wide());
            let right: Vec<f64> = sums.map(f64::from).collect();
            error = error.max(against(&mut buffers.s.get().iter().map(|v| v.wide()), &right));
        }
        if op.is_backward() {
            let scale = (shape.rows as f64).sqrt();
            error = error.max(against(&mut buffers.dgamma.get().iter().copied(), &self.answers.dgamma) / scale);
            if op == Op::LayerNormBackward {
                error = error.max(against(&mut buffers.dbeta.get().iter().copied(), &self.answers.dbeta) / scale);
            }
        }
        error
    }

    fn paces(&self, mode: Mode, all: &mut [Contender<T>], buffers: &mut Buffers<T>) -> Vec<Pace> {
        let mut paces: Vec<Pace> = all.iter_mut().map(|c| self.call(mode, || Pace::new(c, buffers))).collect();
        let copy = paces[0].block();
        for pace in &mut paces {
            pace.every = ((pace.block() / copy / SLOW) as u32).max(1);
        }
        paces
    }

    /// The times per call, in seconds, of the blocks of each contender.
    fn rounds(
        &self,
        mode: Mode,
        rounds: u32,
        paces: &[Pace],
        all: &mut [Contender<T>],
        buffers: &mut Buffers<T>,
        rng: &mut SmallRng,
    ) -> Option<Vec<Vec<f64>>> {
        let mut blocks: Vec<Vec<f64>> = all.iter().map(|_| Vec::new()).collect();
        let mut order: Vec<usize> = (0..all.len()).collect();
        for round in 0..rounds {
            order.shuffle(rng);
            for &i in &order {
                if STOP.load(Ordering::Relaxed) {
                    return None;
                }
                let Pace { every, repeats, .. } = paces[i];
                if !round.is_multiple_of(every) {
                    continue;
                }
                let contender = &mut all[i];
                let time = self.call(mode, || {
                    (contender.time)(buffers, 1);
                    (contender.time)(buffers, repeats)
                });
                blocks[i].push(time.as_secs_f64() / repeats as f64);
            }
        }
        Some(blocks)
    }
}

/// How long a contender takes.
struct Pace {
    /// Of a call, in seconds.
    each: f64,
    /// Calls in a block.
    repeats: u64,
    /// It runs in one round of so many.
    every: u32,
}

impl Pace {
    fn new<T>(contender: &mut Contender<T>, buffers: &mut Buffers<T>) -> Self {
        (contender.time)(buffers, 1);
        let mut repeats = 1;
        loop {
            let time = (contender.time)(buffers, repeats).as_secs_f64();
            if time > BLOCK / 8.0 {
                let each = time / repeats as f64;
                return Self { each, repeats: ((BLOCK / each) as u64).max(1), every: 1 };
            }
            repeats *= 4;
        }
    }

    fn block(&self) -> f64 {
        self.each * self.repeats as f64
    }

    /// In a round, with the untimed call before.
    fn seconds(&self) -> f64 {
        (self.block() + self.each) / f64::from(self.every)
    }
}
