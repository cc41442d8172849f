//! What the benchmark is made of. A [`case`] is an operation and its input, a [`contender`] something that computes it;
//! [`placement`] lays the input out in memory, [`check`] compares answers, [`measure`] takes times, [`report`] prints them.

pub(crate) mod activations;
pub(crate) mod answer;
pub(crate) mod backward;
pub(crate) mod baselines;
pub(crate) mod buffer;
pub(crate) mod case;
pub(crate) mod check;
pub(crate) mod contender;
pub(crate) mod exact;
pub(crate) mod grid;
pub(crate) mod interleaved;
pub(crate) mod machine;
pub(crate) mod measure;
pub(crate) mod number;
pub(crate) mod placement;
pub(crate) mod plan;
pub(crate) mod record;
pub(crate) mod report;
pub(crate) mod results;
pub(crate) mod simd_welford;
pub(crate) mod summary;
pub(crate) mod sums;
pub(crate) mod table;
pub(crate) mod two_pass;
pub(crate) mod variant;
pub(crate) mod with_criterion;
