//! The operations: jobs that callers make and run.

pub mod backward;
pub mod channels;
pub mod forward;
pub mod gate;
pub mod group_norm;
pub mod layer_norm;
mod mixed;
pub mod moments;
pub mod quantize;
pub mod rms_norm;
mod unrounded;
