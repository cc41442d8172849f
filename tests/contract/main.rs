//! The contract of lanenorm, one module for each promise. See "The contract" in the README.
//!
//! - `LANENORM_TEST_MIN_ISA=avx512` fails where that tier is absent, instead of skipping it.
//! - `LANENORM_TEST_QUICK=1` thins out the long loops, for emulators. Builds without optimization do so anyway.

#[macro_use]
mod support;

mod accuracy;
mod backward;
mod bits;
mod edges;
mod environment;
mod errors;
mod floor;
mod golden;
mod groups;
#[cfg(unix)]
mod guard_pages;
mod halves;
mod kernels;
mod moments;
mod normalized_shape;
mod placement;
mod range;
mod shapes;
mod sum;
mod threads;
