//! The gradients: the same promises as of the normalizations, and what is new in them.

mod accuracy;
mod bits;
mod differences;
mod errors;
mod golden;
mod groups;
#[cfg(unix)]
mod guard_pages;
mod kernels;
mod oracle;
mod placement;
mod sums;
mod threads;
