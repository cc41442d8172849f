//! SIMD kernels of [lanenorm](https://docs.rs/lanenorm): layer and RMS normalization over rows of f32, f64, f16 or
//! bf16, written once and compiled for AVX-512, AVX2, NEON and plain scalar code, with the same bits on all of them.
//!
//! The kernels are *caller-driven*: they take a block of rows, use no allocator, no threads and no global
//! state, and can be run by rayon, OpenMP or an engine's own threads. Most users want the safe plans of the
//! `lanenorm` crate; this crate is for those who bring their own scheduler.
//!
//! Where to start reading: [`mod@reference`] is the specification. [`ops`] has the operations, each with its formula:
//! [`layer_norm`](ops::layer_norm), [`rms_norm`](ops::rms_norm), their [gradients](ops::backward) and the
//! [moments](ops::moments) of rows.
//!
//! Each module imports only modules that stand before it in this list: `error`, why jobs are refused; [`scheme`], how
//! rows are quantized; [`simd`], what a tier has to provide; `mean`, whether rows have one; [`isa`], the one place
//! where a tier is chosen; [`table`]; [`element`], the order of the lanes of each type; [`rows`], where elements lie;
//! `quants`, which quantizes rows; [`stats`], the moments and their sums; `loops`, which go over the rows; [`ops`]; and
//! `compile`, which names what is compiled for which type.
//!
//! [`simd`] exposes traits of pulp, and says there what this means for versions. Jobs and plans expose nothing of pulp.
#![no_std]
#![allow(clippy::needless_range_loop, reason = "loops over registers and rows index several arrays")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(test, feature = "std"))]
extern crate std;

#[cfg(all(target_arch = "x86", not(target_feature = "sse2")))]
compile_error!(
    "lanenorm needs SSE2 on x86: without it floats are computed in 80 bits, and results have other bits than on all \
     other processors, and fewer right digits (build for i686, or with -C target-feature=+sse2)"
);

mod compile;
pub mod divisor;
#[allow(unsafe_op_in_unsafe_fn, reason = "most of what is unsafe there hands on the duty of the caller")]
pub mod element;
mod error;
#[cfg(test)]
mod every_channel;
#[cfg(test)]
mod every_divisor;
#[cfg(test)]
mod every_function;
#[cfg(test)]
mod every_gate;
#[cfg(test)]
mod every_gate_gradient;
#[cfg(test)]
mod every_group;
#[cfg(test)]
mod every_loop;
#[cfg(test)]
mod every_mix;
#[cfg(test)]
mod every_rounding;
#[cfg(test)]
mod every_scheme;
pub mod gate;
pub mod isa;
mod loops;
mod mean;
pub mod ops;
mod quants;
pub mod reference;
#[cfg(test)]
mod refusals;
pub mod rounding;
pub mod rows;
pub mod scheme;
#[allow(unsafe_op_in_unsafe_fn, reason = "most of what is unsafe there hands on the duty of the caller")]
pub mod simd;
mod stack;
pub mod stats;
pub mod table;

#[doc(hidden)]
pub use compile::{Compiled, GateGradients, Gates, NormalizesGroups, Quantizes};
pub use compile::{Element, Gateable, Quantizable};
#[doc(hidden)]
pub use error::Count;
pub use error::Error;
pub use half;
pub use isa::{Isa, Tier};
pub use mean::{Center, Centered, Uncentered};

#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../README.md")]
struct Readme;
