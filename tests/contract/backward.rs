//! The gradients: the same promises as of the normalizations, and what is new in them.

mod accuracy;
mod bits;
mod differences;
mod errors;
mod golden;
mod groups;
#[cfg(unix)]
mod guard_pages;
mod halves;
mod kernels;
mod not_finite;
mod oracle;
mod placement;
mod range;
mod shapes;
mod sums;
mod threads;
