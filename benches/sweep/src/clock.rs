//! The time that a run may take, shown while it passes, and the wish to end it early.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The clock of a run.
pub(crate) struct Clock {
    start: Instant,
    budget: Duration,
    stop: Arc<AtomicBool>,
    bar: ProgressBar,
}

impl Clock {
    /// Starts the clock. SIGINT and SIGTERM stop it.
    pub(crate) fn start(budget: Duration) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
        let bar = ProgressBar::new(budget.as_secs());
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos} of {len} s, {wide_msg}")?);
        Ok(Self { start: Instant::now(), budget, stop, bar })
    }

    /// When a part that is the next of parts with these weights has to end, so that the rest have their share.
    pub(crate) fn end_of(&self, weight: f64, weights_left: f64) -> Instant {
        let left = self.budget.saturating_sub(self.start.elapsed());
        Instant::now() + left.mul_f64(weight / weights_left)
    }

    pub(crate) fn tick(&self) {
        self.bar.set_position(self.start.elapsed().as_secs().min(self.budget.as_secs()));
    }

    pub(crate) fn show(&self, what: String) {
        self.bar.set_message(what);
        self.tick();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether nothing more should be begun.
    pub(crate) fn is_over(&self) -> bool {
        self.is_stopped() || self.start.elapsed() >= self.budget
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
