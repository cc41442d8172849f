//! Statistics of rows: moments and the tree that merges them, their sums in SIMD, and the slow path of both.

pub(crate) mod exact;
mod moments;
mod norm;
mod root;
pub(crate) mod sums;

pub use moments::{CHUNK, Moments, is_slow_scale, split_point};
pub(crate) use moments::{Tree, check_eps, no_subtrees, scale_for};
pub use norm::{RowNorm, StatsMut};
pub(crate) use root::Root;
