//! The modules and operations against candle's own, and against f64.
#![allow(unreachable_pub, reason = "nothing in a program is reachable from outside")]

mod channels;
mod child;
mod encoder;
mod errors;
mod forward;
mod gated;
mod gradients;
mod locks;
mod modules;
mod quantized;
mod second;
mod support;

#[path = "../../examples/minilm/bert.rs"]
mod bert;
#[path = "../../examples/minilm/compare.rs"]
mod compare;
