//! The checks of the fuzz targets. The README here tells how to run them. Inputs are structured: see the `Input` of
//! each target.
//!
//! Problems, calls and oracles come from the contract tests.

#[allow(dead_code, unused_imports, unused_macros, reason = "the tests use the rest")]
#[path = "../../tests/contract"]
mod contract {
    #[macro_use]
    pub(crate) mod support;
    pub(crate) mod accuracy;
    pub(crate) mod backward {
        pub(crate) mod oracle;
    }
}

use contract::{accuracy, support};

pub mod backward;
pub mod capi;
pub mod floor;
pub mod forward;
pub mod pointers;
pub mod quantize;
pub mod shape;
