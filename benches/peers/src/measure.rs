//! Checks and times the contenders of a cell.

use std::time::Duration;

use lanenorm_harness::answer::larger;
use lanenorm_harness::clock::Clock;
use lanenorm_harness::measure::{self, Bench, Entry, Pace, Timing};
use lanenorm_harness::number::Widen;
use rand::rngs::SmallRng;

use crate::case::{Answers, Case, Inputs, Op};
use crate::contender::{About, Buffers, Contender, Mode, Note, contenders};
use crate::images;
use crate::number::Number;

/// Coarser than elsewhere, as there are more contenders, shapes and operations.
const PACE: Pace = Pace { block: Duration::from_micros(500), places: 3, rounds: (3, 60), slow: 6.0 };

/// The times of one contender, and its largest error.
pub(crate) struct Measured {
    pub(crate) about: About,
    pub(crate) timing: Timing,
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

/// The contenders of a cell at one place.
struct Placed<'a, T> {
    plan: &'a Plan<'a, T>,
    mode: Mode,
    clock: &'a Clock,
    contenders: Vec<Contender<T>>,
    buffers: Buffers<T>,
}

impl<T: Number> Bench for Placed<'_, T> {
    fn time(&mut self, contender: usize, _: Duration, repeats: u64) -> Duration {
        let (contender, buffers) = (&mut self.contenders[contender], &mut self.buffers);
        self.plan.call(self.mode, || {
            (contender.time)(buffers, 1);
            (contender.time)(buffers, repeats)
        })
    }

    /// The tensors of the peers are made anew.
    fn place(&mut self, rng: &mut SmallRng) {
        let Plan { case, inputs, wanted, .. } = *self.plan;
        self.buffers = Buffers::new(case, inputs, rng);
        self.contenders = contenders(case, self.mode, inputs, wanted);
    }

    fn is_stopped(&self) -> bool {
        self.clock.tick();
        self.clock.is_stopped()
    }
}

impl<T: Number> Plan<'_, T> {
    /// Checks and times all contenders in about `budget`; none if the run is to end early.
    pub(crate) fn measure(
        &self,
        mode: Mode,
        budget: Duration,
        clock: &Clock,
        rng: &mut SmallRng,
    ) -> Option<Vec<Measured>> {
        let mut contenders = contenders(self.case, mode, self.inputs, self.wanted);
        let errors = self.errors(mode, &mut contenders, rng);
        let entries = vec![Entry { copy: 0, wake: Duration::ZERO }; contenders.len()];
        let buffers = Buffers::new(self.case, self.inputs, rng);
        let mut bench = Placed { plan: self, mode, clock, contenders, buffers };
        let timings = measure::measure(&mut bench, &entries, &PACE, budget, rng)?;
        let all = bench.contenders.iter().zip(timings).zip(errors);
        Some(all.map(|((c, timing), error)| Measured { about: c.about, timing, error }).collect())
    }

    /// Runs `run` on a thread from which the calls of the mode come.
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

    /// The error of y or dx. Errors of dgamma and dbeta, which are sums over all rows, are divided by the square root
    /// of the number of rows.
    fn error(&self, contender: &Contender<T>, buffers: &Buffers<T>) -> f64 {
        let (Case { op, shape, .. }, Answers { y, dgamma, dbeta }) = (self.case, self.answers);
        let mut error = y.absolute_error(&images::rows(shape, buffers.y.get()));
        if op.adds() && contender.about.note != Note::NoSum {
            let sums = buffers.x.get().iter().zip(buffers.residual.get()).map(|(&x, &r)| x.plus(r));
            let off = sums.zip(buffers.s.get()).map(|(sum, &s)| f64::from((Widen::widen(s) - Widen::widen(sum)).abs()));
            error = off.fold(error, larger);
        }
        if op.is_backward() {
            let scale = (shape.rows as f64).sqrt();
            error = larger(error, dgamma.absolute_error(buffers.dgamma.get()) / scale);
            if op == Op::LayerNormBackward {
                error = larger(error, dbeta.absolute_error(buffers.dbeta.get()) / scale);
            }
        }
        if error.is_nan() { f64::INFINITY } else { error }
    }
}
