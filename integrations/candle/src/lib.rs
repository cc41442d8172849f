//! LayerNorm and RMSNorm for [candle](candle_core) on CPUs, by [`lanenorm`].
//!
//! [`LayerNorm`], [`RmsNorm`] and [`GroupNorm`] drop in for the modules of `candle_nn`: they have the same
//! constructors, and [`layer_norm()`], [`rms_norm()`] and [`group_norm()`] load them from the same weights. [`ops`] has
//! the operations, fused with a residual addition too. [`RmsNormGated`] multiplies by a gate, and [`LayerNorm2d`] goes
//! over channels that come first. All of them have lanenorm's contract (the same bits on every processor, for any batch
//! and number of threads, right at any offset), and gradients.
#![deny(unsafe_code)]

mod gated;
mod group_norm;
mod in_place;
mod layer_norm;
mod layer_norm_2d;
mod node;
mod norm;
mod of_channels;
pub mod ops;
mod quantized;
mod rms_norm;
mod twice;
mod view;

pub use candle_nn::LayerNormConfig;
pub use gated::{RmsNormGated, rms_norm_gated};
pub use group_norm::{GroupNorm, group_norm};
pub use lanenorm::gate::Function;
pub use lanenorm::{Gate, Rounding, Sums};
pub use layer_norm::{LayerNorm, layer_norm, layer_norm_no_bias};
pub use layer_norm_2d::{LayerNorm2d, layer_norm_2d};
pub use quantized::Q8_0;
pub use rms_norm::{RmsNorm, rms_norm};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
