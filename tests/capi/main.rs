//! The C ABI, called from Rust: the bits of the plans in every form, from any number of threads, in ranges of any
//! order; and every kind of bad call, refused with everything untouched. `examples/c` tests the header with a C
//! compiler.

#[path = "../contract/support/data.rs"]
#[allow(dead_code, reason = "the contract uses the rest")]
mod data;
#[path = "../contract/support/forms.rs"]
#[allow(dead_code, reason = "the contract uses the rest")]
mod forms;
#[path = "../contract/support/plan.rs"]
#[allow(dead_code, reason = "the contract uses the rest")]
mod plan;
#[path = "../contract/support/quantized.rs"]
mod quantized;
#[path = "../contract/support/types.rs"]
#[allow(dead_code, unused_macros, reason = "the contract uses the rest")]
#[macro_use]
mod types;
#[path = "../support/this_program.rs"]
mod this_program;
#[path = "../support/tiers.rs"]
mod tiers;

mod backward;
mod buffer;
mod channels;
mod errors;
mod forward;
mod functions;
mod gate;
mod l2;
mod last_group;
mod names;
mod quantize;
mod rounding;
mod second;
mod versions;

use std::any::TypeId;
use std::ffi::CStr;
use std::mem::MaybeUninit;

use lanenorm::capi::{lanenorm_desc, lanenorm_dtype, lanenorm_op, lanenorm_plan, lanenorm_plan_init, lanenorm_status};
use lanenorm::{Isa, Tier, bf16, f16};

use data::Random;
use plan::Operation;
use types::{Sizes, Types, Value};

/// Whether long loops are thinned out.
fn quick() -> bool {
    cfg!(debug_assertions) || std::env::var_os("LANENORM_TEST_QUICK").is_some_and(|v| v == "1")
}

const DESC: lanenorm_desc = lanenorm_desc {
    struct_size: size_of::<lanenorm_desc>(),
    op: 0,
    dtype: 0,
    gamma_dtype: 0,
    y_dtype: 0,
    store: 0,
    tier: 0,
    cols: 0,
    eps: 0.0,
    groups: 0,
    group_repeat: 0,
    gamma_offset: 0.0,
    sum_dtype: 0,
    rounding: 0,
    sums: 0,
    last_group_repeat: 0,
};

fn dtype<V: Value>() -> i32 {
    let types = [
        (TypeId::of::<f32>(), lanenorm_dtype::F32),
        (TypeId::of::<f64>(), lanenorm_dtype::F64),
        (TypeId::of::<f16>(), lanenorm_dtype::F16),
        (TypeId::of::<bf16>(), lanenorm_dtype::Bf16),
    ];
    types.into_iter().find(|(id, _)| *id == TypeId::of::<V>()).expect("a known type").1 as i32
}

/// The number of a tier in the C enumeration, in which 0 is the default.
fn tier(isa: Isa) -> i32 {
    let at = Tier::ALL.iter().position(|&tier| tier == isa.tier()).expect("a known tier");
    i32::try_from(at + 1).expect("a small number")
}

fn desc<K: Types>(
    operation: Operation,
    cols: usize,
    eps: f64,
    (groups, group_repeat): (usize, usize),
) -> lanenorm_desc {
    let op = if operation.is_layer_norm() { lanenorm_op::LayerNorm } else { lanenorm_op::RmsNorm };
    lanenorm_desc {
        op: op as i32,
        dtype: dtype::<K::X>(),
        gamma_dtype: dtype::<K::G>(),
        y_dtype: dtype::<K::Y>(),
        cols,
        eps,
        groups,
        group_repeat,
        gamma_offset: operation.offset(),
        ..DESC
    }
}

/// A plan that has not been initialized.
const BLANK: lanenorm_plan = lanenorm_plan { opaque: [MaybeUninit::new(0); 16] };

/// Whether a plan that was blank still is.
fn is_blank(plan: &lanenorm_plan) -> bool {
    // SAFETY: all words had been written, and a call that fails writes nothing.
    plan.opaque.iter().all(|word| unsafe { word.assume_init() } == 0)
}

fn init(desc: &lanenorm_desc) -> lanenorm_plan {
    let mut plan = BLANK;
    // SAFETY: both are there.
    let status = unsafe { lanenorm_plan_init(&mut plan, desc) };
    assert_eq!(status, lanenorm_status::Ok, "{desc:?}: {}", last_error());
    plan
}

fn last_error() -> String {
    // SAFETY: it ends with a zero, and this thread makes no other call meanwhile.
    unsafe { CStr::from_ptr(lanenorm::capi::lanenorm_last_error_message()) }.to_string_lossy().into_owned()
}

/// Panics at the first element whose bits differ.
#[track_caller]
fn assert_same_bits<V: Value>(what: &str, want: &[V], got: &[V]) {
    assert_eq!(want.len(), got.len(), "{what}");
    if let Some(i) = want.iter().zip(got).position(|(w, g)| w.bits() != g.bits()) {
        panic!("{what}: element {i} is {:?}, expected {:?}", got[i], want[i]);
    }
}

/// Lets threads share pointers for the C functions, as in C.
#[derive(Clone, Copy)]
struct Shared<T>(T);

// SAFETY: threads use the pointers for rows or blocks of their own only.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    fn get(&self) -> T {
        self.0
    }
}

/// Cuts 0..n into ranges of random lengths, in random order.
fn ranges(random: &mut Random, n: usize) -> Vec<(usize, usize)> {
    let mut ranges = vec![(n, 0)];
    let mut first = 0;
    while first < n {
        let count = 1 + random.below((n - first).min(1 + n / 3));
        ranges.push((first, count));
        first += count;
    }
    for i in (1..ranges.len()).rev() {
        ranges.swap(i, random.below(i + 1));
    }
    ranges
}
