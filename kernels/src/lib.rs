//! SIMD kernels of [lanenorm](https://docs.rs/lanenorm): layer and RMS normalization over rows of f32, f64, f16 or
//! bf16, written once and compiled for AVX-512, AVX2, NEON and plain scalar code, with the same bits on all of them.
//!
//! The kernels are *caller-driven*: they take a block of rows, use no allocator, no threads and no global
//! state, and can be run by rayon, OpenMP or an engine's own threads. Most users want the safe plans of the
//! `lanenorm` crate; this crate is for those who bring their own scheduler.
//!
//! Where to start reading: [`mod@reference`] is the specification. [`forward`] has the jobs and the loops that
//! normalize, of which [`layer_norm`] and [`rms_norm`] are the two names; [`backward`] has the gradients and
//! [`moments`] the statistics. [`lanes`] is what a tier has to provide, and [`isa`] the one place where a tier is
//! chosen.
//!
//! [`lanes`] shows traits of pulp: see there what this means for versions. Jobs and plans do not.
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

pub mod backward;
#[cfg(test)]
mod every_loop;
pub mod forward;
pub mod isa;
pub mod lanes;
pub mod layer_norm;
pub mod moments;
pub mod reference;
mod rescue;
pub mod rms_norm;
mod stack;
pub mod table;

pub use half;
pub use isa::{Isa, Tier};
pub use lanes::{Center, Centered, Uncentered};

#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../README.md")]
struct Readme;
