//! What the fuzz targets check. Inputs are structured: see the `Input` of each target.
//!
//! ```sh
//! cargo install cargo-fuzz
//! RUSTC_BOOTSTRAP=1 cargo fuzz run -s none forward fuzz/corpus/forward fuzz/seeds/forward
//! ```
//!
//! (libFuzzer wants flags that are not stable, hence `RUSTC_BOOTSTRAP`. Without `-s none` there is AddressSanitizer too, with
//! which the kernels take many minutes to compile: the tests run under it instead.)
//!
//! Problems, calls and oracles are those of the contract tests.

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
pub mod forward;
pub mod pointers;
pub mod shape;
