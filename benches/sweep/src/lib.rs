//! How lanenorm's speed goes with the number of threads and of columns, and pictures of what was recorded.

pub mod columns;
pub mod docs;
pub mod pictures;
pub mod scaling;
mod tensors;
