//! Backward calls by descriptors: whole, and in ranges of blocks.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use lanenorm::capi::{
    lanenorm_backward_buffers, lanenorm_backward_sizes, lanenorm_desc, lanenorm_plan, lanenorm_plan_backward,
    lanenorm_plan_backward_blocks, lanenorm_plan_backward_finish, lanenorm_plan_backward_sizes, lanenorm_status,
    lanenorm_store,
};
use lanenorm::{Isa, Parallelism};

use crate::buffer::{Buffer, LAYOUTS, Layout, NONE, NONE_MUT, as_input};
use crate::data::{KINDS, Random, special_row};
use crate::forms::{GradIo, ParamGrads, Stats, StatsMut};
use crate::plan::{OPERATIONS, Operation, Plan};
use crate::tiers::tiers;
use crate::types::{Types, Value};
use crate::{Shared, assert_same_bits, desc, init, last_error, quick, ranges, tier};

pub(crate) const BACKWARD: lanenorm_backward_buffers = lanenorm_backward_buffers {
    struct_size: size_of::<lanenorm_backward_buffers>(),
    rows: 0,
    inner_rows: 0,
    dy: NONE,
    x: NONE,
    ds: NONE,
    dx: NONE_MUT,
    gamma: null(),
    mean: null(),
    mean_lo: null(),
    rstd: null(),
    dgamma: null_mut(),
    dbeta: null_mut(),
};

/// Which inputs are given, and which outputs are wanted.
#[derive(Clone, Copy, Debug)]
struct Form {
    dx: Dx,
    ds: bool,
    stats: bool,
    gamma: bool,
    dgamma: bool,
    dbeta: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Dx {
    Unwanted,
    Apart,
    OverDy,
}

fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    for (i, dx) in [Dx::Unwanted, Dx::Apart, Dx::OverDy].into_iter().enumerate() {
        for wanted in 0..4 {
            let (dgamma, dbeta) = (wanted & 1 != 0, wanted & 2 != 0);
            if dx != Dx::Unwanted || wanted > 0 {
                let at = i + wanted;
                let (ds, stats, gamma) = (dx != Dx::Unwanted && at % 2 == 0, at % 3 != 0, at % 4 != 0);
                forms.push(Form { dx, ds, stats, gamma, dgamma, dbeta });
            }
        }
    }
    forms
}

struct Case<K: Types> {
    operation: Operation,
    rows: usize,
    inner_rows: usize,
    cols: usize,
    groups: (usize, usize),
    dy: Vec<K::X>,
    x: Vec<K::X>,
    ds: Vec<K::X>,
    gamma: Vec<K::G>,
    stats: [Vec<K::F>; 3],
}

struct Grads<K: Types> {
    dx: Vec<K::X>,
    dgamma: Vec<K::F>,
    dbeta: Vec<K::F>,
}

impl<K: Types> Case<K> {
    fn new(operation: Operation, (rows, inner_rows): (usize, usize), cols: usize, groups: (usize, usize)) -> Self {
        let random = &mut Random::new((rows * 17 + cols) as u64);
        let mut filled = |kinds: usize| {
            let mut rows = vec![K::X::default(); rows * cols];
            rows.chunks_exact_mut(cols).for_each(|row| special_row(random.below(kinds), random, row));
            rows
        };
        let (dy, x, ds) = (filled(2), filled(KINDS), filled(2));
        let gamma: Vec<K::G> = (0..groups.0 * cols).map(|_| K::G::of(f64::from(random.signed()))).collect();
        let mut stats = [(); 3].map(|()| vec![K::F::default(); rows]);
        let [mean, mean_lo, rstd] = &mut stats;
        let kept = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
        let mut y = vec![K::X::default(); rows * cols];
        let plan = Plan::new(operation, cols, 1e-5).expect("a valid eps");
        plan.call(&x, None, None, &mut y, kept).expect("a valid call");
        Self { operation, rows, inner_rows, cols, groups, dy, x, ds, gamma, stats }
    }

    fn desc(&self) -> lanenorm_desc {
        desc::<K>(self.operation, self.cols, 1e-5, self.groups)
    }

    /// The form without what the operation lacks; `None` if nothing is left.
    fn form(&self, form: Form) -> Option<Form> {
        let form = Form { dbeta: form.dbeta && self.operation.is_layer_norm(), ..form };
        (form.dx != Dx::Unwanted || form.dgamma || form.dbeta).then_some(form)
    }

    fn blank(&self) -> Grads<K> {
        let params = || vec![K::F::SENTINEL; self.groups.0 * self.cols];
        Grads { dx: vec![K::X::SENTINEL; self.x.len()], dgamma: params(), dbeta: params() }
    }

    /// The gradients by a plan of Rust.
    fn expected(&self, form: Form) -> Grads<K> {
        let plan = Plan::new(self.operation, self.cols, 1e-5).expect("a valid eps");
        let plan = plan.with_groups(self.groups.0, self.groups.1).expect("groups");
        let plan = plan.with_parallelism(Parallelism::Serial);
        let mut want = self.blank();
        let Grads { dx, dgamma, dbeta } = &mut want;
        let io = match form.dx {
            Dx::Unwanted => GradIo::without_dx(&self.dy, &self.x),
            _ => GradIo::new(&self.dy, &self.x, dx),
        };
        let io = if form.ds { io.with_ds(&self.ds) } else { io };
        let [mean, mean_lo, rstd] = &self.stats;
        let centered = self.operation.is_layer_norm();
        let kept = |of_it: bool, stat| if form.stats && of_it { Some(stat) } else { None };
        let stats = Stats {
            mean: kept(centered, &mean[..]),
            mean_lo: kept(centered, &mean_lo[..]),
            rstd: kept(true, &rstd[..]),
        };
        let grads =
            ParamGrads { dgamma: form.dgamma.then_some(&mut dgamma[..]), dbeta: form.dbeta.then_some(&mut dbeta[..]) };
        let gamma = form.gamma.then_some(&self.gamma[..]);
        plan.backward_mixed(io, gamma, stats, grads).expect("a valid call");
        want
    }

    /// Asserts that a call of C gives them, with a layout of its own for each buffer.
    fn assert_gives(&self, want: &Grads<K>, form: Form, layout: usize, call: impl FnOnce(&lanenorm_backward_buffers)) {
        let what = &format!(
            "{}, {:?}, {} rows in runs of {}, {} columns, {:?} groups, {form:?}, layout {layout}",
            K::NAME,
            self.operation,
            self.rows,
            self.inner_rows,
            self.cols,
            self.groups
        );
        let of = |kind: usize| Layout::new(kind, self.rows, self.inner_rows, self.cols);
        let mut dy = Buffer::holding(of(layout), &self.dy);
        let x = Buffer::holding(of(layout + 1), &self.x);
        let ds = Buffer::holding(of(layout + 2), &self.ds);
        let mut dx = Buffer::<K::X>::blank(of(layout / LAYOUTS));
        let Grads { mut dgamma, mut dbeta, .. } = self.blank();
        let dy_rows = dy.output();
        let mut buffers = lanenorm_backward_buffers {
            rows: self.rows,
            inner_rows: if self.inner_rows == self.rows { 0 } else { self.inner_rows },
            dy: as_input(dy_rows),
            x: x.input(),
            ds: if form.ds { ds.input() } else { NONE },
            dx: match form.dx {
                Dx::Unwanted => NONE_MUT,
                Dx::Apart => dx.output(),
                Dx::OverDy => dy_rows,
            },
            gamma: if form.gamma { self.gamma.as_ptr().cast() } else { null() },
            dgamma: if form.dgamma { dgamma.as_mut_ptr().cast() } else { null_mut() },
            dbeta: if form.dbeta { dbeta.as_mut_ptr().cast() } else { null_mut() },
            ..BACKWARD
        };
        if form.stats {
            buffers.rstd = self.stats[2].as_ptr().cast();
            if self.operation.is_layer_norm() {
                buffers.mean = self.stats[0].as_ptr().cast();
                buffers.mean_lo = self.stats[1].as_ptr().cast();
            }
        }
        call(&buffers);
        let in_place = form.dx == Dx::OverDy;
        assert_same_bits(&format!("dy, {what}"), if in_place { &want.dx } else { &self.dy }, &dy.values());
        if !in_place {
            assert_same_bits(&format!("dx, {what}"), &want.dx, &dx.values());
        }
        assert_same_bits(&format!("dgamma, {what}"), &want.dgamma, &dgamma);
        assert_same_bits(&format!("dbeta, {what}"), &want.dbeta, &dbeta);
        dy.assert_gaps(what);
        dx.assert_gaps(what);
    }
}

fn ok(status: lanenorm_status) {
    assert_eq!(status, lanenorm_status::Ok, "{}", last_error());
}

/// Rows, rows of a run, columns and groups: blocks of few and of many rows; groups that runs cut through.
type Shape = (usize, usize, usize, (usize, usize));

fn shapes() -> &'static [Shape] {
    let all: &[Shape] = &[
        (1, 1, 8, (1, 1)),
        (150, 50, 33, (1, 1)),
        (132, 4, 5, (2, 3)),
        (200, 1, 3, (4, 1)),
        (75, 5, 70, (1, 1)),
        (2300, 2300, 7, (1, 1)),
    ];
    if quick() { &all[..5] } else { all }
}

fn whole_calls_have_the_bits_of_the_plans<K: Types>() {
    let isas = tiers();
    let mut number = 0;
    for &(rows, inner_rows, cols, groups) in shapes() {
        for operation in OPERATIONS {
            let case = Case::<K>::new(operation, (rows, inner_rows), cols, groups);
            for form in forms().into_iter().filter_map(|form| case.form(form)) {
                let want = case.expected(form);
                number += 1;
                let store = [lanenorm_store::Auto, lanenorm_store::Streaming][number % 2];
                let tier = tier(isas[number % isas.len()]);
                let plan = init(&lanenorm_desc { tier, store: store as i32, ..case.desc() });
                case.assert_gives(&want, form, number * 7, |buffers| {
                    // SAFETY: all buffers are there.
                    ok(unsafe { lanenorm_plan_backward(&plan, buffers, number % 5) });
                });
            }
        }
    }
}

fn sizes(plan: &lanenorm_plan, rows: usize) -> lanenorm_backward_sizes {
    let mut sizes = lanenorm_backward_sizes { blocks: 0, partials_bytes: 0, work_bytes: 0 };
    // SAFETY: both are there.
    ok(unsafe { lanenorm_plan_backward_sizes(plan, rows, &mut sizes) });
    sizes
}

/// Aligned memory for `bytes` bytes, without any zeros.
fn scratch<K: Types>(bytes: usize) -> Vec<K::F> {
    assert!(bytes.is_multiple_of(size_of::<K::F>()));
    vec![K::F::SENTINEL; bytes / size_of::<K::F>()]
}

fn ranges_of_blocks_have_the_bits_of_the_whole<K: Types>() {
    let random = &mut Random::new(6);
    let mut number = 0;
    for &(rows, inner_rows, cols, groups) in shapes() {
        for operation in OPERATIONS {
            let case = Case::<K>::new(operation, (rows, inner_rows), cols, groups);
            let plan = &init(&case.desc());
            // Any tier may merge the sums of another tier.
            let merges = &init(&lanenorm_desc { tier: tier(Isa::SCALAR), ..case.desc() });
            let sizes = sizes(plan, rows);
            assert!(sizes.blocks >= groups.0 && sizes.blocks <= 32 * groups.0, "{sizes:?}");
            for form in forms().into_iter().filter_map(|form| case.form(form)) {
                let want = case.expected(form);
                number += 1;
                case.assert_gives(&want, form, number * 3, |buffers| {
                    let threads = 1 + number % 3;
                    let ranges = &ranges(random, sizes.blocks);
                    let mut partials = scratch::<K>(sizes.partials_bytes);
                    let sums = form.dgamma || form.dbeta;
                    let p = if sums { partials.as_mut_ptr().cast::<c_void>() } else { null_mut() };
                    let shared = Shared((buffers as *const lanenorm_backward_buffers, p));
                    std::thread::scope(|scope| {
                        for thread in 0..threads {
                            let shared = &shared;
                            scope.spawn(move || {
                                let (buffers, partials) = shared.get();
                                let mut work = scratch::<K>(sizes.work_bytes);
                                let work = work.as_mut_ptr().cast();
                                for &(first, n) in ranges.iter().skip(thread).step_by(threads) {
                                    // SAFETY: all buffers are there, and no two ranges have a block in common.
                                    ok(unsafe {
                                        lanenorm_plan_backward_blocks(plan, buffers, partials, work, first, n)
                                    });
                                }
                            });
                        }
                    });
                    // SAFETY: all buffers are there, and the partials of all blocks.
                    ok(unsafe { lanenorm_plan_backward_finish(merges, buffers, p) });
                });
            }
        }
    }
}

for_all_gradients! {
    whole_calls_have_the_bits_of_the_plans,
    ranges_of_blocks_have_the_bits_of_the_whole,
}

#[test]
fn threads_do_not_change_bits() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    let form = Form { dx: Dx::Apart, ds: true, stats: false, gamma: true, dgamma: true, dbeta: true };
    // The sums of the second shape are merged on two threads.
    for (rows, cols) in [(900, 120), (960, 1200)] {
        let case = Case::<(f32, f32, f32)>::new(OPERATIONS[0], (rows, 30), cols, (1, 1));
        let (want, plan) = (case.expected(form), init(&case.desc()));
        for threads in [0, 1, 2, 3, 8] {
            let run = || {
                case.assert_gives(&want, form, 2, |buffers| {
                    // SAFETY: all buffers are there.
                    ok(unsafe { lanenorm_plan_backward(&plan, buffers, threads) });
                });
            };
            run();
            pool.install(run);
        }
    }
}

/// Sums over no rows, whether by one call or by no blocks.
#[test]
fn no_rows_have_gradients_of_zero() {
    let plan = init(&desc::<(f32, f32, f32)>(OPERATIONS[0], 3, 1e-5, (2, 1)));
    for caller_driven in [false, true] {
        let (mut dgamma, mut dbeta) = ([7.0f32; 6], [7.0f32; 6]);
        let (dgamma_p, dbeta_p) = (dgamma.as_mut_ptr().cast(), dbeta.as_mut_ptr().cast());
        let buffers = lanenorm_backward_buffers { dgamma: dgamma_p, dbeta: dbeta_p, ..BACKWARD };
        // SAFETY: all buffers are valid; buffers of no rows are NULL.
        unsafe {
            if caller_driven {
                assert_eq!(sizes(&plan, 0).blocks, 0);
                ok(lanenorm_plan_backward_blocks(&plan, &buffers, null_mut(), null_mut(), 0, 0));
                ok(lanenorm_plan_backward_finish(&plan, &buffers, null()));
            } else {
                ok(lanenorm_plan_backward(&plan, &buffers, 0));
            }
        }
        assert_eq!((dgamma, dbeta), ([0.0; 6], [0.0; 6]));
    }
}
