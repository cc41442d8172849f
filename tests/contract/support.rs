//! The parts that all modules share: the tiers to be tested, problems and calls, and the comparison of bits.

mod buffer;
mod data;
mod environment;
pub(crate) mod forms;
mod gradients;
mod plan;
mod problem;
pub(crate) mod quantized;
#[macro_use]
mod types;

use std::fmt;
use std::sync::OnceLock;

use lanenorm::kernels::table;
use lanenorm::{Isa, Tier};

pub(crate) use buffer::{Buffer, bytes};
pub(crate) use data::{KINDS, Random, special_row};
pub(crate) use environment::{DEFAULT, ENVIRONMENTS, Environment};
pub(crate) use gradients::{GradCall, GradProblem, Grads, Scratch, Statistics};
pub(crate) use plan::{OPERATIONS, Operation, Plan};
pub(crate) use problem::{Call, FORMS, Output, Problem};
pub(crate) use types::{Bf16, F16, F32, F64, Sizes, Types, Value};

/// The numbers of columns around which kernels take another path: registers of 2 to 16 lanes, the 16 or 32 virtual
/// lanes, steps of twice as many, samples, blocks up to 192 columns, chunks of 1024, their tree.
pub(crate) const TURNING_POINTS: [usize; 36] = [
    1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 71, 96, 127, 128, 129, 191, 192, 193, 256, 511, 767,
    768, 1023, 1024, 1025, 1088, 2047, 2048, 2049,
];

/// Every tier in the table of kernels that this machine has; says which ones it lacks.
pub(crate) fn tiers() -> &'static [Isa] {
    static TIERS: OnceLock<Vec<Isa>> = OnceLock::new();
    TIERS.get_or_init(|| {
        let least = std::env::var("LANENORM_TEST_MIN_ISA").ok();
        let least: Option<Tier> = least.map(|name| name.parse().unwrap_or_else(|e| panic!("{name}: {e}")));
        let mut here = Vec::new();
        for entry in table::kernels() {
            match lanenorm::isa(entry.tier) {
                Ok(isa) if here.contains(&isa) => {}
                Ok(isa) => here.push(isa),
                Err(e) if least == Some(entry.tier) => panic!("LANENORM_TEST_MIN_ISA: {e}"),
                Err(_) => eprintln!("skipped: {entry}, which this machine lacks"),
            }
        }
        here
    })
}

/// Whether long loops are thinned out.
pub(crate) fn quick() -> bool {
    cfg!(debug_assertions) || std::env::var_os("LANENORM_TEST_QUICK").is_some_and(|v| v == "1")
}

/// Panics at the first element whose bits differ, and names it. Both slices have rows of `cols` elements.
#[track_caller]
pub(crate) fn assert_same_bits<V: Value>(what: fmt::Arguments<'_>, cols: usize, want: &[V], got: &[V]) {
    assert_eq!(want.len(), got.len(), "{what}: lengths differ");
    if bytes(want) != bytes(got) {
        let differs = want.iter().zip(got).position(|(w, g)| w.bits() != g.bits());
        let i = differs.expect("numbers whose memory differs");
        let (want, got) = (want[i], got[i]);
        panic!(
            "{what}: row {} column {}: {got:e} ({:#x}), expected {want:e} ({:#x})",
            i / cols.max(1),
            i % cols.max(1),
            got.bits(),
            want.bits()
        );
    }
}

fn the_comparison_sees_signs_of_zero_and_payloads_of_nan<K: Types>() {
    let fails = |a: K::X, b: K::X| {
        let compare = || assert_same_bits(format_args!("on purpose"), 1, &[a], &[b]);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(compare)).is_err()
    };
    let (one, nan) = (K::X::of(1.0), K::X::QUIET_NAN);
    assert!(!fails(one, one) && !fails(nan, nan));
    assert!(fails(K::X::of(0.0), K::X::of(-0.0)) && fails(nan, -nan) && fails(nan, K::X::SENTINEL));
    assert!(fails(one, K::X::of(1.0 + K::X::EPSILON.wide())));
}

for_every_type!(the_comparison_sees_signs_of_zero_and_payloads_of_nan);
