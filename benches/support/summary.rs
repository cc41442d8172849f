//! The times of repeated runs in few numbers. The programs beside the benchmark share this file.

/// The blocks at one place.
pub(crate) struct Summary {
    pub(crate) lower_quartile: f64,
    pub(crate) median: f64,
    pub(crate) blocks: usize,
}

impl Summary {
    pub(crate) fn new(mut times: Vec<f64>) -> Self {
        times.sort_unstable_by(f64::total_cmp);
        let last = times.len() - 1;
        Self { lower_quartile: times[last / 4], median: times[last / 2], blocks: times.len() }
    }
}

/// The median.
pub(crate) fn middle(values: impl Iterator<Item = f64>) -> f64 {
    Summary::new(values.collect()).median
}
