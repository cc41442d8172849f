//! How lanenorm's speed goes with the number of threads and of columns, and pictures of what was recorded.

mod answer;
mod clock;
pub mod columns;
mod measure;
pub mod pictures;
mod record;
pub mod scaling;
mod tensors;

#[path = "../../support/buffer.rs"]
mod buffer;
#[path = "../../support/copy.rs"]
mod copy;
#[path = "../../support/machine.rs"]
mod machine;
#[path = "../../support/summary.rs"]
mod summary;
