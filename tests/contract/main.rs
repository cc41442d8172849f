//! The contract of lanenorm, one module for each promise. See `docs/numerics.md`.
//!
//! - `LANENORM_TEST_MIN_ISA=avx512` fails where that tier is absent, instead of skipping it.
//! - `RUSTFLAGS=--cfg=few_tests` leaves out all but frozen bits and sums, which call every kernel: for a quick build.
//! - `LANENORM_TEST_QUICK=1` thins out the long loops, for emulators. Builds without optimization do so anyway.

#![cfg_attr(few_tests, allow(dead_code, unused_imports, unused_macros))]

#[macro_use]
mod support;

mod accuracy;
mod backward;
#[cfg(not(few_tests))]
mod bits;
#[cfg(not(few_tests))]
mod channels;
#[cfg(not(few_tests))]
mod edges;
#[cfg(not(few_tests))]
mod environment;
#[cfg(not(few_tests))]
mod errors;
#[cfg(not(few_tests))]
mod floor;
mod gate;
mod golden;
#[cfg(not(few_tests))]
mod group_norm;
#[cfg(not(few_tests))]
mod groups;
#[cfg(all(unix, not(few_tests)))]
mod guard_pages;
#[cfg(not(few_tests))]
mod halves;
#[cfg(not(few_tests))]
mod kernels;
#[cfg(not(few_tests))]
mod l2;
mod last_group;
#[cfg(not(few_tests))]
mod moments;
#[cfg(not(few_tests))]
mod normalized_shape;
#[cfg(not(few_tests))]
mod placement;
#[cfg(not(few_tests))]
mod quantize;
#[cfg(not(few_tests))]
mod range;
#[cfg(not(few_tests))]
mod rest;
#[cfg(not(few_tests))]
mod runs;
#[cfg(not(few_tests))]
mod second;
#[cfg(not(few_tests))]
mod shapes;
mod sum;
#[cfg(not(few_tests))]
mod threads;
mod to_vec;
