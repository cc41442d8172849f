//! A valid call allocates nothing, whatever path it takes, and neither does a refused one.
//!
//! Precisely, there is no allocation or reallocation by the calling thread of a serial call; by the calling thread of a
//! call with `Tasks(n)` outside of rayon pools, once the thread has helpers; and by any thread of a rayon pool during a
//! call with `Tasks(n)` *on a thread of that pool* that has made such a call before. The first such call may allocate,
//! because the queues of rayon's workers register themselves and grow.

#[path = "contract/support/data.rs"]
#[allow(dead_code, reason = "the contract uses the rest")]
mod data;
#[path = "contract/support/forms.rs"]
#[allow(dead_code, reason = "the contract uses the rest")]
mod forms;
#[path = "contract/support/plan.rs"]
#[allow(dead_code, reason = "the contract uses the rest")]
mod plan;
#[path = "support/tiers.rs"]
mod tiers;

#[path = "contract/support/types.rs"]
#[allow(dead_code, unused_macros, reason = "the contract uses the rest")]
mod types;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use data::Random;
use forms::{GradIo, Io, ParamGrads, Stats, StatsMut, Sum};
use lanenorm::{LayerNorm, Moments, Parallelism, Rows, RowsMut, Store, bf16, f16};
use plan::{OPERATIONS, Operation, Plan};
use tiers::tiers;
use types::{Bf16, F16, F32, F64, Sizes, Types, Value};

/// Whether long rows are shortened, for emulators and builds without optimization.
fn quick() -> bool {
    cfg!(debug_assertions) || std::env::var_os("LANENORM_TEST_QUICK").is_some_and(|v| v == "1")
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The allocations of all armed threads, by the group of threads that counts them.
static COUNTS: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

thread_local! {
    /// The count that this thread adds to, if it is armed. It needs no destructor, and so no allocation.
    static ARMED: Cell<Option<usize>> = const { Cell::new(None) };
}

fn count() {
    if let Some(group) = ARMED.get() {
        COUNTS[group].fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: the system's allocator does all the work.
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
    /// gamma of two groups.
    gamma: Vec<K::G>,
    beta: Vec<K::G>,
    stats: [Vec<K::F>; 3],
    /// dgamma and dbeta of two groups.
    sums: [Vec<K::F>; 2],
    scratch: Vec<K::F>,
    moments: Vec<Moments>,
    rows: usize,
    cols: usize,
}

impl<K: Types> Buffers<K> {
    /// The first rows take the slow path: one is huge, one has a NaN, one is constant.
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
        let sums = [(); 2].map(|()| vec![K::F::default(); 2 * cols]);
        // Enough for eight tasks, whose columns are padded.
        let scratch = vec![K::F::default(); (2 * rows.div_ceil(32) + 3 * 8) * (cols + 64)];
        Self { x, residual, s, y, gamma, beta, stats, sums, scratch, moments, rows, cols }
    }

    /// Every way to call a plan.
    fn forward_in_every_way(&mut self, operation: Operation, plan: Plan) {
        let Self { x, residual, s, y, gamma, beta, stats: [mean, mean_lo, rstd], rows, cols, .. } = self;
        let (all_gammas, gamma) = (Some(&gamma[..]), Some(&gamma[..*cols]));
        let beta = operation.is_layer_norm().then_some(&beta[..*cols]);
        for store in [Store::Auto, Store::Ordinary, Store::Streaming] {
            let plan = plan.with_store(store);
            let none = StatsMut::default;
            assert_eq!(plan.call_mixed(Io::new(&*x, &mut *y), None::<&[K::G]>, None, none()), Ok(()));
            assert_eq!(plan.call_mixed(Io::new(&*x, &mut *y), gamma, beta, none()), Ok(()));
            let all = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
            assert_eq!(plan.call_mixed(Io::new(&*x, &mut *y), gamma, beta, all), Ok(()));
            let strided = Io::new(Rows::strided(x, *rows, *cols), RowsMut::strided(y, *rows, *cols));
            assert_eq!(plan.call_mixed(strided, gamma, None, none()), Ok(()));
            let sum = Sum::sum_to(&*x, &*residual, &mut *s).with_bias(&residual[..*cols]);
            assert_eq!(plan.call_mixed(Io::sum(sum, &mut *y), gamma, beta, none()), Ok(()));
            if rows.is_multiple_of(2) {
                let plan = plan.with_groups(2, *rows / 2).expect("two groups");
                assert_eq!(plan.call_mixed(Io::new(&*x, &mut *y), all_gammas, None, none()), Ok(()));
            }
        }
        s.copy_from_slice(x);
        let stats = StatsMut { rstd: Some(rstd), ..StatsMut::default() };
        if let Some(io) = K::in_place((&mut s[..]).into()) {
            assert_eq!(plan.call_mixed(io, gamma, beta, stats), Ok(()));
        }
    }
}

impl<K: Types> Buffers<K> {
    /// Every way to take gradients with given scratch memory. dy is the residual, dx goes to s.
    fn backward_in_every_way(&mut self, operation: Operation, plan: Plan) {
        let Self { x, residual: dy, s: dx, gamma, stats, sums: [dgamma, dbeta], scratch, rows, cols, .. } = self;
        let centered = operation.is_layer_norm();
        let (mean, mean_lo) = (centered.then_some(&stats[0][..]), centered.then_some(&stats[1][..]));
        let kept = Stats { mean, mean_lo, rstd: Some(&stats[2]) };
        for store in [Store::Ordinary, Store::Streaming] {
            // Backward does not cut long rows: they take the same paths as shorter ones.
            if *cols > 10_000 && store == Store::Streaming {
                break;
            }
            let plan = plan.with_store(store);
            let mut call = |plan: Plan, io: GradIo<'_, K::X>, groups: usize, stats| {
                let dgamma = Some(&mut dgamma[..groups * *cols]);
                let dbeta = centered.then_some(&mut dbeta[..groups * *cols]);
                let (gamma, grads) = (Some(&gamma[..groups * *cols]), ParamGrads { dgamma, dbeta });
                assert_eq!(plan.backward_with_scratch(io, gamma, stats, grads, scratch), Ok(()));
            };
            call(plan, GradIo::new(&*dy, &*x, &mut *dx), 1, Stats::default());
            call(plan, GradIo::new(&*dy, &*x, &mut *dx).with_ds(&*x), 1, kept);
            call(plan, GradIo::without_dx(&*dy, &*x), 1, kept);
            let strided = RowsMut::strided(dx, *rows, *cols);
            call(plan, GradIo::new(Rows::strided(dy, *rows, *cols), &*x, strided), 1, kept);
            if rows.is_multiple_of(2) {
                let plan = plan.with_groups(2, *rows / 2).expect("two groups");
                call(plan, GradIo::new(&*dy, &*x, &mut *dx), 2, Stats::default());
            }
            dx.copy_from_slice(dy);
            call(plan, GradIo::in_place(&mut *dx, &*x), 1, Stats::default());
        }
    }
}

impl<K: Types<G = <K as Types>::X, Y = <K as Types>::X>> Buffers<K> {
    /// Every way to call a plan with one type for everything.
    fn forward_in_every_way_of_one_type(&mut self, operation: Operation, plan: Plan) {
        let Self { x, s, y, gamma, beta, stats: [.., rstd], moments, cols, .. } = self;
        let gamma = Some(&gamma[..*cols]);
        let beta = operation.is_layer_norm().then_some(&beta[..*cols]);
        assert_eq!(plan.forward(&*x, gamma, beta, &mut *y), Ok(()));
        assert_eq!(plan.forward_in_place(&mut *y, gamma, beta), Ok(()));
        s.copy_from_slice(x);
        let stats = StatsMut { rstd: Some(rstd), ..StatsMut::default() };
        assert_eq!(plan.call_sum(Sum::residual_in_place(&*x, &mut *s), gamma, beta, &mut *y, stats), Ok(()));
        assert_eq!(plan.moments(&*x, moments), Ok(()));
        for (row, moments) in x.chunks_exact(*cols).zip(&mut *moments) {
            if let Some(scale) = plan.rescale::<K::X>(&Moments::merge_all([*moments])) {
                assert_eq!(plan.moments_at_scale(row, scale, std::slice::from_mut(moments)), Ok(()));
            }
        }
        assert_eq!(plan.call_with_moments(&*x, moments, gamma, beta, &mut *y), Ok(()));
    }
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(0, || drop(std::hint::black_box(vec![1u8; 100]))), 1);
    assert_eq!(allocations(0, || ()), 0);
}

/// Rows that are so long that streaming, threads and the cutting of rows matter.
fn long_rows() -> [(usize, usize); 2] {
    if quick() { [(1, 66_000), (2, 3000)] } else { [(1, 66_000), (4, 70_000)] }
}

type Calls<'a> = &'a mut (dyn FnMut(Plan) + Send);

/// Makes every call of every operation on every type, one after the other, by `make_calls`.
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
        F32: [forward_in_every_way, forward_in_every_way_of_one_type, backward_in_every_way];
        F64: [forward_in_every_way, forward_in_every_way_of_one_type, backward_in_every_way];
        F16: [forward_in_every_way, forward_in_every_way_of_one_type, backward_in_every_way];
        Bf16: [forward_in_every_way, forward_in_every_way_of_one_type, backward_in_every_way];
        (f16, f32, f16): [forward_in_every_way, backward_in_every_way];
        (bf16, f32, bf16): [forward_in_every_way, backward_in_every_way];
        (f16, f16, f32): [forward_in_every_way];
        (bf16, f32, f32): [forward_in_every_way];
    }
}

#[test]
fn serial_calls_allocate_nothing() {
    for isa in tiers() {
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
fn second_outputs_and_the_rest_of_rows_allocate_nothing() {
    // Two calls, tiles, and rows that are a tile.
    for (rows, cols) in [(5, 768), (150, 1000), long_rows()[1]] {
        let x: Vec<f32> = (0..rows * cols).map(|i| (i * 37 % 101) as f32).collect();
        let (gamma, mut y, mut second_y) = (&x[..cols], x.clone(), x.clone());
        let made = allocations(7, || {
            let plan = LayerNorm::new(cols, 0.0).expect("a plan").with_parallelism(Parallelism::Serial);
            plan.call(&x).gamma(gamma).second().beta(gamma).to(&mut y, &mut second_y).expect("two outputs");
            plan.call_in_place(&mut y).second().gamma(gamma).run(&mut second_y).expect("two outputs");
            let plan = LayerNorm::new(cols - 1, 0.0).expect("a plan").with_parallelism(Parallelism::Serial);
            let call = plan.call(Rows::strided(&x, rows, cols)).copy_rest();
            call.to(RowsMut::strided(&mut y, rows, cols)).expect("y");
        });
        assert_eq!(made, 0, "{rows} x {cols}");
    }
}

/// Without given memory, a backward call allocates once, whatever the tasks and groups.
#[test]
fn backward_calls_without_scratch_allocate_once() {
    let (dy, x) = ([1.0f32; 24 * 70], [0.5f32; 24 * 70]);
    let (mut dx, mut dgamma) = ([0.0; 24 * 70], [0.0; 3 * 70]);
    for operation in OPERATIONS {
        for groups in [1, 3] {
            let plan = Plan::new(operation, 70, 1e-5).and_then(|plan| plan.with_groups(groups, 2)).expect("a plan");
            let made = allocations(4, || {
                let plan = plan.with_parallelism(Parallelism::Serial);
                let grads = ParamGrads { dgamma: Some(&mut dgamma[..groups * 70]), dbeta: None };
                assert_eq!(plan.backward(GradIo::new(&dy, &x, &mut dx), None, Stats::default(), grads), Ok(()));
            });
            assert_eq!(made, 1, "{operation:?}, {groups} groups");
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
            assert!(plan.call_with_moments(&[0.0; 8], &[Moments::EMPTY; 2], None, None, &mut y).is_err());
            let (nothing, mut dgamma) = (Stats::default, [0.0; 4]);
            let grads = ParamGrads { dgamma: Some(&mut dgamma), dbeta: None };
            assert!(plan.backward(GradIo::new(&[0.0; 8], &[0.0; 4], &mut y), None, nothing(), grads).is_err());
            let io = GradIo::<f64>::without_dx(&[0.0; 8], &[0.0; 8]);
            assert!(plan.backward(io, None, Stats::default(), ParamGrads::default()).is_err());
            let (io, grads) = (GradIo::in_place(&mut y, &[0.0; 8]), ParamGrads::default());
            assert!(plan.backward_with_scratch(io, None::<&[f64]>, nothing(), grads, &mut []).is_err());
        }
        // New vectors get their memory once all has been checked.
        let plan = LayerNorm::new(4, 1e-5).expect("a valid eps");
        let (x, short) = ([0.0f32; 8], [0.0f32; 3]);
        assert!(plan.call(&x).gamma(&short).to_vec::<f32>().is_err());
        assert!(plan.call(&x).residual(&short).to_vec::<f32>().is_err());
        assert!(plan.call(&x).residual(&x).bias(&short).to_vecs::<f32>().is_err());
        assert!(plan.call(&x).moments(&[Moments::EMPTY; 2]).to_vec::<f32>().is_err());
        assert!(plan.forward_to_vec(&x, None, Some(&short)).is_err());
        assert!(plan.backward(&x, &x).gamma(&short).to_vec().is_err());
        assert!(plan.backward(&x, &x).scratch(&mut []).to_vec().is_err());
    });
    assert_eq!(made, 0);
}

#[test]
fn calls_on_a_warm_pool_allocate_nothing() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    let [long, longer] = long_rows();
    let shapes = [(50, 64), (20, 768), longer, long];
    // An emulator takes a minute for each of the long shapes.
    let shapes = if quick() { &shapes[..3] } else { &shapes[..] };
    for &(rows, cols) in shapes {
        for_all_calls(rows, cols, &mut |types, operation, calls| {
            let plan = Plan::new(operation, cols, 1e-5).expect("a valid eps");
            let plan = plan.with_parallelism(Parallelism::Tasks(NonZeroUsize::new(7).expect("not zero")));
            // The queues have grown before later shapes.
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

/// Only on Linux: locks are plain memory there.
#[cfg(target_os = "linux")]
#[test]
fn calls_with_helpers_allocate_nothing() {
    let shapes = [(50, 64), (20, 768), long_rows()[0]];
    for &(rows, cols) in if quick() { &shapes[..2] } else { &shapes[..] } {
        for_all_calls(rows, cols, &mut |types, operation, calls| {
            let plan = Plan::new(operation, cols, 1e-5).expect("a valid eps");
            let plan = plan.with_parallelism(Parallelism::Tasks(NonZeroUsize::new(7).expect("not zero")));
            calls(plan);
            assert_eq!(allocations(6, || calls(plan)), 0, "{types}, {operation:?}, {rows} x {cols}");
        });
    }
}

/// Calls of C for ranges of rows and blocks, and for all rows on the calling thread. Of these only whole backward calls
/// allocate, for scratch memory.
#[cfg(feature = "capi")]
#[test]
fn calls_of_c_allocate_nothing() {
    use std::ffi::c_void;
    use std::ptr::{null, null_mut};

    use lanenorm::capi::*;

    const ROWS: usize = 130;
    const COLS: usize = 70;
    let read = |data: &[f32]| lanenorm_rows { data: data.as_ptr().cast(), row_stride: 0, outer_stride: 0 };
    let write = |data: &mut [f32]| lanenorm_rows_mut { data: data.as_mut_ptr().cast(), row_stride: 0, outer_stride: 0 };
    let (x, dy, gamma) = (vec![1.0f32; ROWS * COLS], vec![0.5f32; ROWS * COLS], [2.0f32; COLS]);
    let (mut y, mut dx, mut dgamma) = (vec![0.0f32; ROWS * COLS], vec![0.0f32; ROWS * COLS], [0.0f32; COLS]);
    let (no_rows, no_rows_mut) = (
        lanenorm_rows { data: null(), row_stride: 0, outer_stride: 0 },
        lanenorm_rows_mut { data: null_mut(), row_stride: 0, outer_stride: 0 },
    );
    let forward = lanenorm_forward_buffers {
        struct_size: size_of::<lanenorm_forward_buffers>(),
        rows: ROWS,
        inner_rows: 13,
        x: read(&x),
        residual: read(&dy),
        sum: no_rows_mut,
        y: write(&mut y),
        bias: null(),
        gamma: gamma.as_ptr().cast(),
        beta: null(),
        mean: null_mut(),
        mean_lo: null_mut(),
        rstd: null_mut(),
    };
    let backward = lanenorm_backward_buffers {
        struct_size: size_of::<lanenorm_backward_buffers>(),
        rows: ROWS,
        inner_rows: 0,
        dy: read(&dy),
        x: read(&x),
        ds: no_rows,
        dx: write(&mut dx),
        gamma: gamma.as_ptr().cast(),
        mean: null(),
        mean_lo: null(),
        rstd: null(),
        dgamma: dgamma.as_mut_ptr().cast(),
        dbeta: null_mut(),
    };
    let desc = lanenorm_desc {
        struct_size: size_of::<lanenorm_desc>(),
        op: lanenorm_op::LayerNorm as i32,
        dtype: 0,
        gamma_dtype: 0,
        y_dtype: 0,
        store: 0,
        tier: 0,
        cols: COLS,
        eps: 1e-5,
        groups: 0,
        group_repeat: 0,
        gamma_offset: 0.0,
        sum_dtype: 0,
        rounding: 0,
        sums: 0,
        last_group_repeat: 0,
    };
    let mut plan = lanenorm_plan { opaque: [std::mem::MaybeUninit::new(0); 16] };
    let mut sizes = lanenorm_backward_sizes { blocks: 0, partials_bytes: 0, work_bytes: 0 };
    let ok = |status| assert_eq!(status, lanenorm_status::Ok);
    // SAFETY: the plan and the descriptor are valid.
    unsafe {
        ok(lanenorm_plan_init(&mut plan, &desc));
        ok(lanenorm_plan_backward_sizes(&plan, ROWS, &mut sizes));
    }
    let (mut scheme, mut q, mut scale) =
        (std::mem::MaybeUninit::<lanenorm_scheme>::zeroed(), vec![0i8; ROWS * COLS], [0.0; ROWS]);
    // SAFETY: numbers may be zero, and the structure has this size.
    let scheme = unsafe {
        scheme.as_mut_ptr().cast::<usize>().write(size_of::<lanenorm_scheme>());
        ok(lanenorm_scheme_init(scheme.as_mut_ptr(), lanenorm_preset::I8 as i32));
        scheme.assume_init()
    };
    let q = lanenorm_rows_mut { data: q.as_mut_ptr().cast(), row_stride: 0, outer_stride: 0 };
    let quantized = lanenorm_quantized {
        struct_size: size_of::<lanenorm_quantized>(),
        q,
        scale: scale.as_mut_ptr(),
        zero_point: null_mut(),
        ranges: null(),
        range_count: 0,
    };
    let plain = lanenorm_forward_buffers { residual: no_rows, ..forward };
    let gate = lanenorm_gate { struct_size: size_of::<lanenorm_gate>(), z: forward.x, z_dtype: 0, kind: 0 };
    let (mut second_y, gamma_p) = (vec![0.0f32; ROWS * COLS], gamma.as_ptr().cast());
    let second = lanenorm_second {
        struct_size: size_of::<lanenorm_second>(),
        y: write(&mut second_y),
        gamma: gamma_p,
        beta: gamma_p,
    };
    let before = lanenorm_gate { kind: lanenorm_gate_kind::SiluBefore as i32, ..gate };
    let (mut partials, mut work) = (vec![0u64; sizes.partials_bytes / 8 + 1], vec![0u64; sizes.work_bytes / 8 + 1]);
    let (partials, work) = (partials.as_mut_ptr().cast::<c_void>(), work.as_mut_ptr().cast::<c_void>());
    // SAFETY: all buffers are valid.
    let made = allocations(5, || unsafe {
        ok(lanenorm_plan_init(&mut plan, &desc));
        ok(lanenorm_plan_forward(&plan, &forward, 1));
        ok(lanenorm_plan_forward_rows(&plan, &forward, 5, 100));
        ok(lanenorm_plan_quantize(&plan, &forward, &scheme, &quantized, 1));
        ok(lanenorm_plan_quantize_rows(&plan, &forward, &scheme, &quantized, 5, 100));
        ok(lanenorm_plan_gate(&plan, &plain, &gate, 1));
        ok(lanenorm_plan_gate_rows(&plan, &plain, &before, 5, 100));
        ok(lanenorm_plan_second(&plan, &plain, &second, 1));
        ok(lanenorm_plan_second_rows(&plan, &plain, &second, 5, 100));
        ok(lanenorm_plan_backward_blocks(&plan, &backward, partials, work, 0, sizes.blocks));
        ok(lanenorm_plan_backward_finish(&plan, &backward, partials));
        // A refused call writes its message.
        assert_eq!(lanenorm_plan_forward_rows(&plan, &forward, ROWS, 1), lanenorm_status::Size);
    });
    assert_eq!(made, 0);
    // SAFETY: all buffers are valid.
    let made = allocations(5, || ok(unsafe { lanenorm_plan_backward(&plan, &backward, 1) }));
    assert_eq!(made, 1);
}
