//! The time that a run may take, shown while it passes, and the wish to end it early.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The clock of a run.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    budget: Duration,
    stop: Arc<AtomicBool>,
    bar: ProgressBar,
}

impl Clock {
    /// Starts the clock.
    pub fn start(budget: Duration) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos} of {len} s, {wide_msg}").expect("a valid template");
        let bar = ProgressBar::new(budget.as_secs()).with_style(style);
        Self { start: Instant::now(), budget, stop: Arc::default(), bar }
    }

    /// A function that stops the clock, for handlers of signals.
    pub fn stopper(&self) -> impl Fn() + Send + use<> {
        let stop = Arc::clone(&self.stop);
        move || stop.store(true, Ordering::Relaxed)
    }

    /// The time that the next part may take. Its weight is `weight`, and the parts that are left have `weights_left`
    /// with it.
    pub fn share(&self, weight: f64, weights_left: f64) -> Duration {
        self.budget.saturating_sub(self.start.elapsed()).mul_f64(weight / weights_left)
    }

    /// Shows how much time has passed.
    pub fn tick(&self) {
        self.bar.set_position(self.start.elapsed().as_secs().min(self.budget.as_secs()));
    }

    /// Shows what is being done.
    pub fn show(&self, what: String) {
        self.bar.set_message(what);
        self.tick();
    }

    /// Whether the clock was stopped.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether nothing more should be begun.
    pub fn is_over(&self) -> bool {
        self.is_stopped() || self.start.elapsed() >= self.budget
    }

    /// Clears what is shown.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
