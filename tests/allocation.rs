//! A valid call allocates nothing, whatever path it takes, and neither does a refused one.
//!
//! What is asserted, precisely: no allocation or reallocation by the calling thread when the call is serial; and none by
//! any thread of a rayon pool when a call with `Tasks(n)` is made *on a thread of that pool* that has done the same
//! before. The first such call may allocate, because the queues of rayon's workers register themselves and grow. A call
//! from outside the pool hands its first task over through a shared queue of rayon's, which grows by a block from time to
//! time: nothing is asserted there.

#[path = "contract/support/plan.rs"]
#[allow(dead_code, reason = "the contract uses the rest")]
mod plan;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use lanenorm::{Parallelism, Rows, RowsMut, StatsMut, Store};
use plan::{OPERATIONS, Operation, Plan};

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
struct Buffers {
    x: Vec<f32>,
    y: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    stats: [Vec<f32>; 3],
    rows: usize,
    cols: usize,
}

impl Buffers {
    /// The first rows call for the slow path: one huge, one of NaN, one constant.
    fn new(rows: usize, cols: usize) -> Self {
        let mut x: Vec<f32> = (0..rows * cols).map(|i| (i * 37 % 101) as f32).collect();
        for (row, value) in x.chunks_exact_mut(cols).zip([1e30, f32::NAN, 5.0]) {
            row[..cols / 2].fill(value);
            row[cols / 2..].fill(if value == 5.0 { 5.0 } else { 0.0 });
        }
        let (y, gamma, beta) = (vec![0.0; rows * cols], vec![1.5; cols], vec![0.5; cols]);
        Self { x, y, gamma, beta, stats: [(); 3].map(|()| vec![0.0; rows]), rows, cols }
    }

    /// Every way to call a plan.
    fn forward_in_every_way(&mut self, operation: Operation, plan: Plan) {
        let Self { x, y, gamma, beta, stats: [mean, mean_lo, rstd], rows, cols } = self;
        let (gamma, beta) = (Some(&gamma[..]), (operation == Operation::LayerNorm).then_some(&beta[..]));
        for store in [Store::Auto, Store::Ordinary, Store::Streaming] {
            let plan = plan.with_store(store);
            assert_eq!(plan.forward(&*x, None, None, &mut *y), Ok(()));
            assert_eq!(plan.forward(&*x, gamma, beta, &mut *y), Ok(()));
            let stats = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
            assert_eq!(plan.forward_with_stats(&*x, gamma, beta, &mut *y, stats), Ok(()));
            let (x, y) = (Rows::strided(x, *rows, *cols), RowsMut::strided(y, *rows, *cols));
            assert_eq!(plan.forward(x, gamma, None, y), Ok(()));
        }
        assert_eq!(plan.forward_in_place(&mut *y, gamma, beta), Ok(()));
        y.copy_from_slice(x);
        let stats = StatsMut { rstd: Some(rstd), ..StatsMut::default() };
        assert_eq!(plan.forward_in_place_with_stats(&mut *y, gamma, beta, stats), Ok(()));
        y.copy_from_slice(x);
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(0, || drop(std::hint::black_box(vec![1u8; 100]))), 1);
    assert_eq!(allocations(0, || ()), 0);
}

#[test]
fn serial_calls_allocate_nothing() {
    for isa in lanenorm::Isa::available() {
        for (rows, cols) in [(1, 8), (20, 64), (5, 768), (4, 5000), (3, 70_000)] {
            let mut buffers = Buffers::new(rows, cols);
            for operation in OPERATIONS {
                let made = allocations(1, || {
                    let plan = Plan::new(operation, cols, 0.0).expect("a valid eps").with_isa(isa);
                    buffers.forward_in_every_way(operation, plan.with_parallelism(Parallelism::Serial));
                });
                assert_eq!(made, 0, "{operation:?}, {isa}, {rows} x {cols}");
            }
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
        }
    });
    assert_eq!(made, 0);
}

#[test]
fn calls_on_a_warm_pool_allocate_nothing() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    for (rows, cols) in [(50, 64), (20, 768), (1, 100_003), (4, 70_000)] {
        let mut buffers = Buffers::new(rows, cols);
        for operation in OPERATIONS {
            let plan = Plan::new(operation, cols, 1e-5).expect("a valid eps");
            let plan = plan.with_parallelism(Parallelism::Tasks(NonZeroUsize::new(7).expect("not zero")));
            pool.install(|| (0..20).for_each(|_| buffers.forward_in_every_way(operation, plan)));
            pool.broadcast(|_| ARMED.set(Some(3)));
            let made = pool.install(|| {
                let before = COUNTS[3].load(Ordering::SeqCst);
                buffers.forward_in_every_way(operation, plan);
                COUNTS[3].load(Ordering::SeqCst) - before
            });
            pool.broadcast(|_| ARMED.set(None));
            assert_eq!(made, 0, "{operation:?}, {rows} x {cols}");
        }
    }
}
