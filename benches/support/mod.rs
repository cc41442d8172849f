//! The parts of the benchmark, beside those that it shares with other benchmarks (`benches/harness`). A [`case`] is an
//! operation and its input, and a [`contender`] something that computes it. [`placement`] lays the input out in memory,
//! [`check`] compares answers, and [`interleaved`] and [`with_criterion`] run all of it.

pub(crate) mod activations;
pub(crate) mod backward;
pub(crate) mod baselines;
pub(crate) mod case;
pub(crate) mod check;
pub(crate) mod contender;
pub(crate) mod gated;
pub(crate) mod grid;
pub(crate) mod images;
pub(crate) mod interleaved;
pub(crate) mod placement;
pub(crate) mod plan;
pub(crate) mod quantized;
pub(crate) mod several;
mod simd_welford;
pub(crate) mod steps;
pub(crate) mod sums;
pub(crate) mod two_pass;
pub(crate) mod variant;
pub(crate) mod with_criterion;
