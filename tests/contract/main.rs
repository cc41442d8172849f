//! The contract of lanenorm, one module for each promise. See "The contract" in the README.
//!
//! - `LANENORM_TEST_MIN_ISA=avx512` fails where that tier is absent, instead of skipping it.
//! - `LANENORM_TEST_QUICK=1` thins out the long loops, for emulators. Builds without optimization do so anyway.

mod accuracy;
mod bits;
mod errors;
mod golden;
#[cfg(unix)]
mod guard_pages;
mod kernels;
mod normalized_shape;
mod placement;
mod range;
mod shapes;
mod sum;
mod support;
mod threads;
