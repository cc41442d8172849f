//! temp docs
#![forbid(unsafe_code)]

mod error;
mod isa;
mod layer_norm;
mod parallel;
mod rows;
mod shape;

pub use error::Error;
pub use isa::{default_isa, isa};
pub use lanenorm_kernels as kernels;
pub use lanenorm_kernels::layer_norm::StatsMut;
pub use lanenorm_kernels::{Isa, Tier};
pub use layer_norm::{LayerNorm, Store, layer_norm, layer_norm_in_place};
pub use parallel::Parallelism;
pub use rows::{Rows, RowsMut};
