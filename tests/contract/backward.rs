//! The gradients: the promises of the normalizations, and some of their own.

#[cfg(not(few_tests))]
mod accuracy;
#[cfg(not(few_tests))]
mod bits;
#[cfg(not(few_tests))]
mod differences;
#[cfg(not(few_tests))]
mod errors;
#[cfg(not(few_tests))]
mod gate;
mod golden;
#[cfg(not(few_tests))]
mod groups;
#[cfg(all(unix, not(few_tests)))]
mod guard_pages;
#[cfg(not(few_tests))]
mod halves;
#[cfg(not(few_tests))]
mod kernels;
#[cfg(not(few_tests))]
mod not_finite;
mod oracle;
#[cfg(not(few_tests))]
mod placement;
#[cfg(not(few_tests))]
mod range;
#[cfg(not(few_tests))]
mod shapes;
mod sums;
#[cfg(not(few_tests))]
mod threads;
