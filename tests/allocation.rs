//! A valid call allocates nothing, whatever path it takes, and neither does a refused one.
//!
//! What is asserted, precisely: no allocation or reallocation by the calling thread when the call is serial; and none
//! by any thread of a rayon pool when a call with `Tasks(n)` is made *on a thread of that pool* that has done the same
//! before. The first such call may allocate, because the queues of rayon's workers register themselves and grow. A call
//! from outside the pool hands its first task over through a shared queue of rayon's, which grows by a block from time
//! to time: nothing is asserted there.

#[path = "contract/support/data.rs"]
#[allow(dead_code, reason = "the contract uses the rest")]
mod data;
#[path = "contract/support/plan.rs"]
#[allow(dead_code, reason = "the contract uses the rest")]
mod plan;
#[path = "contract/support/types.rs"]
#[allow(dead_code, unused_macros, reason = "the contract uses the rest")]
mod types;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use data::Random;
use lanenorm::{Io, Moments, Parallelism, Rows, RowsMut, StatsMut, Store, Sum, bf16, f16};
use plan::{OPERATIONS, Operation, Plan};
use types::{Bf16, F16, F32, F64, Sizes, Types, Value};

/// Whether long rows are to be shorter, for emulators and builds without optimization.
fn quick() -> bool {
    cfg!(debug_assertions) || std::env::var_os("LANENORM_TEST_QUICK").is_some_and(|v| v == "1")
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The allocations of all armed threads, by the group of threads that counts them.
static COUNTS: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

thread_local! {
    /// Which count this thread adds to, if it is armed. Needs no destructor and so no allocation.
    static ARMED: Cell<Option<usize>> = const { Cell::new(None) };
}

fn count() {
    if let Some(group) = ARMED.get() {
        COUNTS[group].fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's duty.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe { System.dealloc(p, layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's duty.
        unsafe { System.realloc(p, layout, size) }
    }
}

/// The allocations of this thread while `f` runs. Every test has a group of its own.
fn allocations(group: usize, f: impl FnOnce()) -> usize {
    // The first plan of a process reads LANENORM_ISA, which allocates.
    lanenorm::default_isa().expect("a tier that is here");
    let before = COUNTS[group].load(Ordering::SeqCst);
    ARMED.set(Some(group));
    f();
    ARMED.set(None);
    COUNTS[group].load(Ordering::SeqCst) - before
}

/// Everything that calls need, allocated ahead of them.
struct Buffers<K: Types> {
    x: Vec<K::X>,
    residual: Vec<K::X>,
    s: Vec<K::X>,
    y: Vec<K::Y>,
    /// Of two groups.
    gamma: Vec<K::G>,
    beta: Vec<K::G>,
    stats: [Vec<K::F>; 3],
    moments: Vec<Moments>,
    rows: usize,
    cols: usize,
}

impl<K: Types> Buffers<K> {
    /// The first rows call for the slow path: one huge, one of NaN, one constant.
    fn new(rows: usize, cols: usize) -> Self {
        let mut x: Vec<K::X> = (0..rows * cols).map(|i| K::X::of((i * 37 % 101) as f64)).collect();
        for (row, value) in x.chunks_exact_mut(cols).zip([K::X::SIZES.noise[0], f64::NAN, 5.0]) {
            row[..cols / 2].fill(K::X::of(value));
            row[cols / 2..].fill(K::X::of(if value == 5.0 { 5.0 } else { 0.0 }));
        }
        let (residual, s) = (x.clone(), x.clone());
        let (gamma, beta) = (vec![K::G::of(1.5); 2 * cols], vec![K::G::of(0.5); 2 * cols]);
        let (y, moments) = (vec![K::Y::default(); rows * cols], vec![Moments::EMPTY; rows]);
        let stats = [(); 3].map(|()| vec![K::F::default(); rows]);
        Self { x, residual, s, y, gamma, beta, stats, moments, rows, cols }
    }

    /// Every way to call a plan.
    fn forward_in_every_way(&mut self, operation: Operation, plan: Plan) {
        let Self { x, residual, s, y, gamma, beta, stats: [mean, mean_lo, rstd], rows, cols, .. } = self;
        let (all_gammas, gamma) = (Some(&gamma[..]), Some(&gamma[..*cols]));
        let beta = operation.is_layer_norm().then_some(&beta[..*cols]);
        for store in [Store::Auto, Store::Ordinary, Store::Streaming] {
            let plan = plan.with_store(store);
            let none = StatsMut::default;
            assert_eq!(plan.forward_mixed(Io::new(&*x, &mut *y), None::<&[K::G]>, None, none()), Ok(()));
            assert_eq!(plan.forward_mixed(Io::new(&*x, &mut *y), gamma, beta, none()), Ok(()));
            let all = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
            assert_eq!(plan.forward_mixed(Io::new(&*x, &mut *y), gamma, beta, all), Ok(()));
            let strided = Io::new(Rows::strided(x, *rows, *cols), RowsMut::strided(y, *rows, *cols));
            assert_eq!(plan.forward_mixed(strided, gamma, None, none()), Ok(()));
            let sum = Sum::new(&*x, &*residual, &mut *s).with_bias(&residual[..*cols]);
            assert_eq!(plan.forward_mixed(Io::sum(sum, &mut *y), gamma, beta, none()), Ok(()));
            if rows.is_multiple_of(2) {
                let plan = plan.with_groups(2, *rows / 2).expect("two groups");
                assert_eq!(plan.forward_mixed(Io::new(&*x, &mut *y), all_gammas, None, none()), Ok(()));
            }
        }
        s.copy_from_slice(x);
        let stats = StatsMut { rstd: Some(rstd), ..StatsMut::default() };
        if let Some(io) = K::in_place((&mut s[..]).into()) {
            assert_eq!(plan.forward_mixed(io, gamma, beta, stats), Ok(()));
        }
    }
}

impl<K: Types<G = <K as Types>::X, Y = <K as Types>::X>> Buffers<K> {
    /// The ways that one type alone has.
    fn forward_in_every_way_of_one_type(&mut self, operation: Operation, plan: Plan) {
        let Self { x, s, y, gamma, beta, stats: [.., rstd], moments, cols, .. } = self;
        let gamma = Some(&gamma[..*cols]);
        let beta = operation.is_layer_norm().then_some(&beta[..*cols]);
        assert_eq!(plan.forward(&*x, gamma, beta, &mut *y), Ok(()));
        assert_eq!(plan.forward_in_place(&mut *y, gamma, beta), Ok(()));
        s.copy_from_slice(x);
        let stats = StatsMut { rstd: Some(rstd), ..StatsMut::default() };
        assert_eq!(plan.forward_sum_with_stats(Sum::in_place(&*x, &mut *s), gamma, beta, &mut *y, stats), Ok(()));
        assert_eq!(plan.moments(&*x, moments), Ok(()));
        for (row, moments) in x.chunks_exact(*cols).zip(&mut *moments) {
            if let Some(scale) = plan.rescale::<K::X>(&Moments::merge_all([*moments])) {
                assert_eq!(plan.moments_at_scale(row, scale, std::slice::from_mut(moments)), Ok(()));
            }
        }
        assert_eq!(plan.normalize_with(&*x, moments, gamma, beta, &mut *y), Ok(()));
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(0, || drop(std::hint::black_box(vec![1u8; 100]))), 1);
    assert_eq!(allocations(0, || ()), 0);
}

/// Where streaming, threads and the cutting of rows differ.
fn long_rows() -> [(usize, usize); 2] {
    if quick() { [(1, 66_000), (2, 3000)] } else { [(1, 66_000), (4, 70_000)] }
}

type Calls<'a> = &'a mut (dyn FnMut(Plan) + Send);

/// Has `make_calls` make every call of every operation on every type, one after the other.
fn for_all_calls(rows: usize, cols: usize, make_calls: &mut dyn FnMut(&str, Operation, Calls<'_>)) {
    macro_rules! calls {
        ($($types:ty: [$($way:ident),+];)+) => {$(
            let mut buffers = Buffers::<$types>::new(rows, cols);
            for operation in OPERATIONS {
                make_calls(<$types>::NAME, operation, &mut |plan| {$( buffers.$way(operation, plan); )+});
            }
        )+};
    }
    calls! {
        F32: [forward_in_every_way, forward_in_every_way_of_one_type];
        F64: [forward_in_every_way, forward_in_every_way_of_one_type];
        F16: [forward_in_every_way, forward_in_every_way_of_one_type];
        Bf16: [forward_in_every_way, forward_in_every_way_of_one_type];
        (f16, f32, f16): [forward_in_every_way];
        (bf16, f32, bf16): [forward_in_every_way];
        (f16, f16, f32): [forward_in_every_way];
        (bf16, f32, f32): [forward_in_every_way];
    }
}

#[test]
fn serial_calls_allocate_nothing() {
    for isa in lanenorm::Isa::available() {
        for (rows, cols) in [(1, 8), (20, 64), (5, 768), (4, 5000), long_rows()[1]] {
            for_all_calls(rows, cols, &mut |types, operation, calls| {
                let made = allocations(1, || {
                    let plan = Plan::new(operation, cols, 0.0).expect("a valid eps").with_isa(isa);
                    calls(plan.with_parallelism(Parallelism::Serial));
                });
                assert_eq!(made, 0, "{types}, {operation:?}, {isa}, {rows} x {cols}");
            });
        }
    }
}

#[test]
fn refused_calls_allocate_nothing() {
    let mut y = [0.0; 8];
    let made = allocations(2, || {
        for operation in OPERATIONS {
            assert!(Plan::new(operation, 4, -1.0).is_err());
            let plan = Plan::new(operation, 4, 1e-5).expect("a valid eps");
            assert!(plan.forward(&[0.0; 8], Some(&[0.0; 3]), None, &mut y).is_err());
            assert!(plan.forward(&[0.0; 7], None, None, &mut y).is_err());
            assert!(plan.forward(&[0.0; 4], None, None, &mut y).is_err());
            assert!(plan.forward(Rows::strided(&[0.0; 8], 2, 3), None, None, &mut y).is_err());
            assert!(plan.forward(Rows::strided(&[0.0; 8], 2, 9), None, None, &mut y).is_err());
            assert!(plan.forward(Rows::strided(&[0.0; 8], 3, usize::MAX), None, None, &mut y).is_err());
            assert!(plan.with_groups(0, 1).is_err());
            let groups = plan.with_groups(2, 2).expect("two groups");
            assert!(groups.forward(&[0.0; 8], None, None, &mut y).is_err());
            assert!(plan.moments(&[0.0; 8], &mut [Moments::EMPTY]).is_err());
            assert!(plan.normalize_with(&[0.0; 8], &[Moments::EMPTY; 2], None, None, &mut y).is_err());
        }
    });
    assert_eq!(made, 0);
}

#[test]
fn calls_on_a_warm_pool_allocate_nothing() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    let [long, longer] = long_rows();
    let shapes = [(50, 64), (20, 768), longer, long];
    // An emulator takes a minute for each of the long ones.
    let shapes = if quick() { &shapes[..3] } else { &shapes[..] };
    for &(rows, cols) in shapes {
        for_all_calls(rows, cols, &mut |types, operation, calls| {
            let plan = Plan::new(operation, cols, 1e-5).expect("a valid eps");
            let plan = plan.with_parallelism(Parallelism::Tasks(NonZeroUsize::new(7).expect("not zero")));
            // Later shapes find the queues grown.
            let times = if cols < 1000 { 10 } else { 2 };
            pool.install(|| (0..times).for_each(|_| calls(plan)));
            pool.broadcast(|_| ARMED.set(Some(3)));
            let made = pool.install(|| {
                let before = COUNTS[3].load(Ordering::SeqCst);
                calls(plan);
                COUNTS[3].load(Ordering::SeqCst) - before
            });
            pool.broadcast(|_| ARMED.set(None));
            assert_eq!(made, 0, "{types}, {operation:?}, {rows} x {cols}");
        });
    }
}
