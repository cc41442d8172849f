//! The gradients: the same promises as of the normalizations, and what is new in them.

mod bits;
mod groups;
mod kernels;
mod placement;
mod threads;
