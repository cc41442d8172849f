//! Layer, RMS and group normalization on CPUs, in f32, f64, f16 and bf16: the same bits on every instruction
//! set, accuracy at any offset, the speed of a memory copy.
//!
//! ```
//! // Two rows of four features, row-major.
//! let x = [1.0f32, 2.0, 3.0, 4.0, 1e6, 1e6 + 1.0, 1e6 + 2.0, 1e6 + 3.0];
//! let (gamma, beta) = ([1.0; 4], [0.0; 4]);
//! let mut y = [0.0; 8];
//! lanenorm::layer_norm(&x, 4, Some(&gamma), Some(&beta), 1e-5, &mut y)?;
//! assert_eq!(y[..4], y[4..]); // an offset of a million costs nothing
//! # Ok::<(), lanenorm::Error>(())
//! ```
//!
//! # Three floors
//!
//! - [`layer_norm()`] and [`layer_norm_in_place`], [`rms_norm()`] and [`rms_norm_in_place`], for the common case.
//! - [`LayerNorm`] and [`RmsNorm`], plans: columns (or a normalized shape) and eps, [`Parallelism`], [`Store`] policy,
//!   tier; rows at one stride or two ([`Rows`], [`RowsMut`]), or arrays (feature `ndarray`), in place or not; gamma and
//!   beta per group of rows; L2 norms ([`RmsNorm::with_divisor`]). Calls that are described ([`call`]) keep statistics,
//!   add a residual in one touch, multiply by a gate ([`Gate`]), have a second output ([`Call::second`]), quantize
//!   ([`Scheme`]), take gradients. A valid call cannot fail. [`GroupNorm`] is the plan for groups of channels, and
//!   instance normalization.
//! - [`kernels`], for engines with their own threads: the same code for a block of rows, without allocator,
//!   threads or global state.
//!
//! # The contract
//!
//! **Bits.** For given values of a row, gamma, beta and eps, the bits of y are the same on AVX-512, AVX2, NEON and
//! scalar code; for any number of threads, any batch and any position in it, any stride and alignment; in place or
//! not; with ordinary or streaming stores.
//!
//! **Accuracy.** With u = 2^-24 and xhat the exact normalized value,
//! |y - exact| <= 4 u (|gamma| (1 + |xhat|) + |beta|) on ordinary rows whatever their offset: mean 1e6 with standard
//! deviation 1 is as good as mean 0. On adversarial rows (a step, one huge outlier, a wide lognormal) the factor may
//! reach 16. A constant row gives exactly beta. f64 has u = 2^-53. f16 and bf16 are computed in f32, and add half a
//! unit in the last place, for one rounding to nearest even.
//!
//! **Range.** Every finite input gives the right answer, 3e38 and 1e-40 included. A row with a NaN or an infinity
//! becomes all NaN (the canonical quiet one); its neighbours are untouched.
//!
//! **Errors.** Wrong lengths, overlapping strides or a bad eps give an [`Error`] that names both numbers, before
//! anything is written. Zero rows and zero columns are fine.
//!
//! # Threads
//!
//! Large calls are spread over threads: from a thread of a rayon pool over that pool, from any other thread over
//! threads of the library, as many as `RAYON_NUM_THREADS` says or as there are processors. In a pool that is shared,
//! jobs of yours may run on the calling thread during a call: hold no lock that these jobs want, or choose
//! [`Parallelism::Serial`], [`Parallelism::OwnThreads`] or a pool that does nothing else. [`Parallelism`] tells more,
//! also of `fork` and of pinned threads.
//!
//! # Tiers
//!
//! The widest tier that the processor has is detected once per process. The environment variable `LANENORM_ISA`
//! (`scalar`, `neon`, `avx2`, `avx512`) forces one, and is an error where that tier is absent.
#![deny(unsafe_code)]

mod backward;
mod backward_call;
pub mod call;
#[cfg(feature = "capi")]
pub mod capi;
mod channels;
mod error;
mod gate_backward;
mod gates;
mod gradients;
mod grid;
mod group_norm;
mod input;
mod isa;
mod jobs;
mod layer_norm;
#[cfg(feature = "ndarray")]
mod ndarray;
mod norm;
mod parallel;
mod plan;
mod quantize;
mod rest;
mod rms_norm;
mod room;
mod rows;
mod runs;
mod scratch;
mod second;
mod shape;
mod slice;

pub use call::{BackwardCall, Call};
pub use channels::{ChannelsBackwardCall, ChannelsCall};
pub use error::{Error, Misfit};
pub use gate_backward::GateBackwardCall;
pub use gates::GateCall;
pub use group_norm::{GroupBackwardCall, GroupCall, GroupNorm};
pub use isa::{default_isa, isa};
pub use lanenorm_kernels as kernels;
pub use lanenorm_kernels::divisor::Divisor;
pub use lanenorm_kernels::element::{Addend, Companion};
pub use lanenorm_kernels::gate::{self, Function, Gate};
pub use lanenorm_kernels::half::{bf16, f16};
pub use lanenorm_kernels::rounding::{Rounding, Sums};
pub use lanenorm_kernels::scheme::{self, Scheme};
pub use lanenorm_kernels::stats::Moments;
pub use lanenorm_kernels::{Center, Centered, Element, Gateable, Isa, Quantizable, Tier, Uncentered};
pub use layer_norm::{LayerNorm, layer_norm, layer_norm_in_place};
pub use norm::Norm;
pub use parallel::Parallelism;
pub use plan::Store;
pub use quantize::{GivesNoY, QuantizeCall, Wanted};
pub use rest::RestCall;
pub use rms_norm::{RmsNorm, rms_norm, rms_norm_in_place};
pub use rows::{Rows, RowsMut};
pub use second::SecondCall;
pub use slice::{Slice, SliceMut};

/// Version, compiler, target and profile of this build, for bug reports and benchmark records.
pub const BUILD: &str = env!("LANENORM_BUILD");

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
