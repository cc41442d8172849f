//! Forward calls by descriptors: whole, and in ranges of rows.

use std::any::type_name;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

use lanenorm::capi::{
    lanenorm_desc, lanenorm_forward_buffers, lanenorm_plan_forward, lanenorm_plan_forward_rows, lanenorm_status,
    lanenorm_store,
};
use lanenorm::{Parallelism, bf16, f16};

use crate::buffer::{Buffer, LAYOUTS, Layout, NONE, NONE_MUT, as_input};
use crate::data::{KINDS, Random, special_row};
use crate::forms::{Io, StatsMut, Sum};
use crate::plan::{OPERATIONS, Operation, Plan};
use crate::tiers::tiers;
use crate::types::{self, Types, Value};
use crate::{Shared, assert_same_bits, desc, dtype, init, last_error, quick, ranges, tier};

pub(crate) const FORWARD: lanenorm_forward_buffers = lanenorm_forward_buffers {
    struct_size: size_of::<lanenorm_forward_buffers>(),
    rows: 0,
    inner_rows: 0,
    x: NONE,
    residual: NONE,
    sum: NONE_MUT,
    y: NONE_MUT,
    bias: null(),
    gamma: null(),
    beta: null(),
    mean: null_mut(),
    mean_lo: null_mut(),
    rstd: null_mut(),
};

/// Where an output goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Over {
    Nothing,
    X,
    Residual,
    /// It goes nowhere: y of calls that are quantized.
    Nowhere,
}

/// The optional buffers of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Whether there is a residual, and where the sum goes if it is wanted.
    pub(crate) sum: Option<Option<Over>>,
    pub(crate) bias: bool,
    pub(crate) y: Over,
}

/// All forms, or all forms for a y of another type than x.
fn forms(y_may_replace: bool) -> Vec<Form> {
    use Over::{Nothing, Residual, X};
    let mut forms = vec![Form { sum: None, bias: false, y: Nothing }, Form { sum: None, bias: false, y: X }];
    for (i, sum) in [None, Some(Nothing), Some(X), Some(Residual)].into_iter().enumerate() {
        for (j, y) in [Nothing, X, Residual].into_iter().enumerate() {
            if sum != Some(y) || y == Nothing {
                forms.push(Form { sum: Some(sum), bias: (i + j) % 2 == 0, y });
            }
        }
    }
    forms.retain(|form| y_may_replace || (form.y == Nothing && form.sum != Some(None)));
    forms
}

pub(crate) struct Case<K: Types> {
    operation: Operation,
    pub(crate) rows: usize,
    pub(crate) inner_rows: usize,
    pub(crate) cols: usize,
    groups: (usize, usize),
    x: Vec<K::X>,
    residual: Vec<K::X>,
    bias: Vec<K::X>,
    gamma: Vec<K::G>,
    beta: Vec<K::G>,
}

pub(crate) struct Output<K: Types> {
    sum: Vec<K::X>,
    pub(crate) y: Vec<K::Y>,
    stats: [Vec<K::F>; 3],
}

impl<K: Types> Case<K> {
    pub(crate) fn new(
        operation: Operation,
        (rows, inner_rows): (usize, usize),
        cols: usize,
        groups: (usize, usize),
    ) -> Self {
        let random = &mut Random::new((rows * 31 + cols) as u64);
        let mut filled = || {
            let mut rows = vec![K::X::default(); rows * cols];
            rows.chunks_exact_mut(cols).for_each(|row| special_row(random.below(KINDS), random, row));
            rows
        };
        let (x, residual) = (filled(), filled());
        let bias = (0..cols).map(|_| K::X::of(f64::from(random.signed()))).collect();
        let mut params = || (0..groups.0 * cols).map(|_| K::G::of(f64::from(random.signed()))).collect();
        let (gamma, beta) = (params(), params());
        Self { operation, rows, inner_rows, cols, groups, x, residual, bias, gamma, beta }
    }

    pub(crate) fn desc(&self) -> lanenorm_desc {
        desc::<K>(self.operation, self.cols, 1e-5, self.groups)
    }

    fn beta(&self) -> Option<&[K::G]> {
        self.operation.is_layer_norm().then_some(&self.beta[..])
    }

    /// The output by a plan of Rust.
    pub(crate) fn expected(&self, form: Form) -> Output<K> {
        let plan = Plan::new(self.operation, self.cols, 1e-5).expect("a valid eps");
        let plan = plan.with_groups(self.groups.0, self.groups.1).expect("groups");
        let plan = plan.with_parallelism(Parallelism::Serial);
        let mut output = self.blank();
        let Output { sum, y, stats: [mean, mean_lo, rstd] } = &mut output;
        let stats = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
        let io = match form.sum {
            None => Io::new(&self.x, y),
            Some(_) => {
                let sum = Sum::sum_to(&self.x, &self.residual, sum);
                Io::sum(if form.bias { sum.with_bias(&self.bias) } else { sum }, y)
            }
        };
        plan.call_mixed(io, Some(&self.gamma), self.beta(), stats).expect("a valid call");
        output
    }

    fn blank(&self) -> Output<K> {
        let stats = [(); 3].map(|()| vec![K::F::SENTINEL; self.rows]);
        Output { sum: vec![K::X::SENTINEL; self.x.len()], y: vec![K::Y::SENTINEL; self.x.len()], stats }
    }

    /// Asserts that a call of C gives it, with a layout of its own for each buffer.
    pub(crate) fn assert_gives(
        &self,
        want: &Output<K>,
        form: Form,
        layout: usize,
        call: impl FnOnce(&lanenorm_forward_buffers),
    ) {
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
        let mut x = Buffer::holding(of(layout), &self.x);
        let mut residual = Buffer::holding(of(layout / LAYOUTS), &self.residual);
        let mut sum = Buffer::<K::X>::blank(of(layout + 1));
        let mut y = Buffer::<K::Y>::blank(of(layout + 2));
        let mut stats = self.blank().stats;
        let (x_rows, residual_rows) = (x.output(), residual.output());
        let mut buffers = lanenorm_forward_buffers {
            rows: self.rows,
            inner_rows: if self.inner_rows == self.rows { 0 } else { self.inner_rows },
            x: as_input(x_rows),
            gamma: self.gamma.as_ptr().cast(),
            rstd: stats[2].as_mut_ptr().cast(),
            y: match form.y {
                Over::Nothing => y.output(),
                Over::X => x_rows,
                Over::Residual => residual_rows,
                Over::Nowhere => NONE_MUT,
            },
            ..FORWARD
        };
        if let Some(place) = form.sum {
            buffers.residual = as_input(residual_rows);
            buffers.bias = if form.bias { self.bias.as_ptr().cast() } else { null() };
            buffers.sum = match place {
                None | Some(Over::Nowhere) => NONE_MUT,
                Some(Over::Nothing) => sum.output(),
                Some(Over::X) => x_rows,
                Some(Over::Residual) => residual_rows,
            };
        }
        if self.operation.is_layer_norm() {
            buffers.beta = self.beta.as_ptr().cast();
            buffers.mean = stats[0].as_mut_ptr().cast();
            buffers.mean_lo = stats[1].as_mut_ptr().cast();
        }
        call(&buffers);

        // What must lie in x, in residual and in the other buffers afterwards.
        let mut lies_in_x = &self.x[..];
        let mut lies_in_residual = &self.residual[..];
        let y_of_x: Vec<K::X> = want.y.iter().map(|v| K::X::of_bits(v.bits())).collect();
        match form.sum {
            Some(Some(Over::X)) => lies_in_x = &want.sum,
            Some(Some(Over::Residual)) => lies_in_residual = &want.sum,
            Some(Some(Over::Nothing)) => assert_same_bits(&format!("sum, {what}"), &want.sum, &sum.values()),
            _ => {}
        }
        match form.y {
            Over::Nothing => assert_same_bits(&format!("y, {what}"), &want.y, &y.values()),
            Over::X => lies_in_x = &y_of_x,
            Over::Residual => lies_in_residual = &y_of_x,
            Over::Nowhere => {}
        }
        assert_same_bits(&format!("x, {what}"), lies_in_x, &x.values());
        assert_same_bits(&format!("residual, {what}"), lies_in_residual, &residual.values());
        for (want, got) in want.stats.iter().zip(&stats) {
            assert_same_bits(&format!("statistics, {what}"), want, got);
        }
        x.assert_gaps(what);
        residual.assert_gaps(what);
        sum.assert_gaps(what);
        y.assert_gaps(what);
    }
}

#[track_caller]
pub(crate) fn ok(status: lanenorm_status) {
    assert_eq!(status, lanenorm_status::Ok, "{}", last_error());
}

/// Rows, rows of a run, columns and groups.
type Shape = (usize, usize, usize, (usize, usize));

/// Rows for all loops: blocks, fused, whole rows. Runs of one row, of some rows and of all; groups that runs cut
/// through.
fn shapes() -> &'static [Shape] {
    let all: &[Shape] = &[
        (1, 1, 8, (1, 1)),
        (24, 24, 64, (1, 1)),
        (24, 8, 33, (8, 1)),
        (21, 1, 5, (3, 7)),
        (20, 5, 200, (2, 5)),
        (18, 6, 193, (3, 2)),
        (6, 3, 2100, (1, 1)),
        (12, 4, 1, (1, 1)),
        (3, 3, 17_000, (1, 1)),
    ];
    if quick() { &all[..8] } else { all }
}

fn whole_calls_have_the_bits_of_the_plans<K: Types>() {
    let isas = tiers();
    let mut number = 0;
    for &(rows, inner_rows, cols, groups) in shapes() {
        for operation in OPERATIONS {
            let case = Case::<K>::new(operation, (rows, inner_rows), cols, groups);
            for form in forms(K::IN_PLACE) {
                let want = case.expected(form);
                for _ in 0..if quick() { 1 } else { 4 } {
                    number += 1;
                    let store = [lanenorm_store::Auto, lanenorm_store::Ordinary, lanenorm_store::Streaming][number % 3];
                    let tier = if number % 4 == 0 { 0 } else { tier(isas[number % isas.len()]) };
                    let plan = init(&lanenorm_desc { tier, store: store as i32, ..case.desc() });
                    case.assert_gives(&want, form, number * 7, |buffers| {
                        // SAFETY: all buffers are valid.
                        ok(unsafe { lanenorm_plan_forward(&plan, buffers, number % 5) });
                    });
                }
            }
        }
    }
}

fn ranges_of_rows_have_the_bits_of_the_whole<K: Types>() {
    let random = &mut Random::new(5);
    let mut number = 0;
    for &(rows, inner_rows, cols, groups) in shapes() {
        for operation in OPERATIONS {
            let case = Case::<K>::new(operation, (rows, inner_rows), cols, groups);
            let plan = &init(&case.desc());
            for form in forms(K::IN_PLACE) {
                let want = case.expected(form);
                number += 1;
                case.assert_gives(&want, form, number * 3, |buffers| {
                    let ranges = ranges(random, rows);
                    let threads = number % 4;
                    if threads == 0 {
                        // SAFETY: all buffers are valid.
                        let run =
                            |&(first, count)| ok(unsafe { lanenorm_plan_forward_rows(plan, buffers, first, count) });
                        return ranges.iter().for_each(run);
                    }
                    let shared = Shared(buffers as *const lanenorm_forward_buffers);
                    std::thread::scope(|scope| {
                        for thread in 0..threads {
                            let (shared, ranges) = (&shared, &ranges);
                            scope.spawn(move || {
                                for &(first, count) in ranges.iter().skip(thread).step_by(threads) {
                                    // SAFETY: all buffers are valid, and no two ranges have a row in common.
                                    ok(unsafe { lanenorm_plan_forward_rows(plan, shared.get(), first, count) });
                                }
                            });
                        }
                    });
                });
            }
        }
    }
}

for_all_types! {
    whole_calls_have_the_bits_of_the_plans,
    ranges_of_rows_have_the_bits_of_the_whole,
}

/// Enough rows and columns for every way of cutting the work, on a pool of several threads.
#[test]
fn threads_do_not_change_bits() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    type F32 = (f32, f32, f32);
    for (rows, inner_rows, cols) in [(600, 600, 200), (600, 30, 200), (2, 2, 70_000), (4, 2, 70_000)] {
        for operation in [OPERATIONS[0], OPERATIONS[3]] {
            let case = Case::<F32>::new(operation, (rows, inner_rows), cols, (1, 1));
            let plan = init(&case.desc());
            for form in
                [Form { sum: None, bias: false, y: Over::Nothing }, Form { sum: Some(None), bias: true, y: Over::X }]
            {
                let want = case.expected(form);
                for threads in [0, 1, 2, 3, 8] {
                    let run = || {
                        case.assert_gives(&want, form, 2, |buffers| {
                            // SAFETY: all buffers are valid.
                            ok(unsafe { lanenorm_plan_forward(&plan, buffers, threads) });
                        });
                    };
                    run();
                    pool.install(run);
                }
            }
        }
    }
}

/// Columns of the same rows: an output that lies between the rows of an input.
#[test]
fn buffers_may_be_interleaved() {
    let (rows, cols) = (9, 40);
    let case = Case::<(f32, f32, f32)>::new(OPERATIONS[0], (rows, rows), cols, (1, 1));
    let want = case.expected(Form { sum: None, bias: false, y: Over::Nothing });
    let plan = init(&case.desc());
    let mut data = vec![0.0f32; rows * 2 * cols];
    for (row, x) in data.chunks_exact_mut(2 * cols).zip(case.x.chunks_exact(cols)) {
        row[..cols].copy_from_slice(x);
    }
    let p = data.as_mut_ptr();
    let rows_at = |column: usize| lanenorm::capi::lanenorm_rows_mut {
        data: p.wrapping_add(column).cast::<c_void>(),
        row_stride: 2 * cols,
        outer_stride: 0,
    };
    let buffers = lanenorm_forward_buffers {
        rows,
        x: as_input(rows_at(0)),
        y: rows_at(cols),
        gamma: case.gamma.as_ptr().cast(),
        beta: case.beta.as_ptr().cast(),
        ..FORWARD
    };
    // SAFETY: all buffers are valid.
    ok(unsafe { lanenorm_plan_forward(&plan, &buffers, 1) });
    for (r, row) in data.chunks_exact(2 * cols).enumerate() {
        assert_same_bits("x", &case.x[r * cols..][..cols], &row[..cols]);
        assert_same_bits("y", &want.y[r * cols..][..cols], &row[cols..]);
    }
}

/// x of 16 bits, added to a residual of f32, has the bits of the same x in f32; y, where it has 16 bits, is rounded.
fn sums_of_16_bits_and_f32_have_the_bits_of_f32<G: Value>() {
    let mut number = 0;
    for &(rows, inner_rows, cols, groups) in shapes() {
        for operation in OPERATIONS {
            let mut case = Case::<types::F32>::new(operation, (rows, inner_rows), cols, groups);
            let x: Vec<G> = case.x.iter().map(|v| G::of(v.wide())).collect();
            case.x = x.iter().map(|v| f32::of(v.wide())).collect();
            for (sum, bias) in [(None, true), (Some(Over::Nothing), false), (Some(Over::Residual), true)] {
                let want = case.expected(Form { sum: Some(sum), bias, y: Over::Nothing });
                for y in [Over::Nothing, Over::X, Over::Residual] {
                    // A y of 16 bits, and one of f32. Each may lie where elements of its size are read.
                    let form = Form { sum: Some(sum), bias, y };
                    number += 2;
                    if sum.is_some() && y != Over::Residual {
                        case.assert_gives_beside(&x, &want, form, number, G::of);
                    }
                    if y != Over::X && sum != Some(Over::Residual) {
                        case.assert_gives_beside(&x, &want, form, number + 1, f32::of);
                    }
                }
            }
        }
    }
}

fn bits<V: Value>(values: &[V]) -> Vec<u64> {
    values.iter().map(|v| v.bits()).collect()
}

impl Case<types::F32> {
    /// Asserts that a sum with an x of `G`, which has the numbers of this x, gives `want`, with y rounded.
    fn assert_gives_beside<G: Value, Y: Value>(
        &self,
        x: &[G],
        want: &Output<types::F32>,
        form: Form,
        number: usize,
        round: impl Fn(f64) -> Y,
    ) {
        let isas = tiers();
        let isa = isas[number / 2 % isas.len()];
        let what = &format!(
            "{} and {}, {:?}, {} rows in runs of {}, {} columns, {:?} groups, {form:?}, {isa}, {number}",
            type_name::<G>(),
            type_name::<Y>(),
            self.operation,
            self.rows,
            self.inner_rows,
            self.cols,
            self.groups
        );
        let desc = lanenorm_desc {
            dtype: dtype::<G>(),
            gamma_dtype: dtype::<f32>(),
            y_dtype: dtype::<Y>(),
            sum_dtype: dtype::<f32>(),
            tier: tier(isa),
            ..self.desc()
        };
        let plan = init(&desc);
        let of = |kind: usize| Layout::new(kind, self.rows, self.inner_rows, self.cols);
        let mut x_buffer = Buffer::holding(of(number), x);
        let mut residual = Buffer::holding(of(number / LAYOUTS), &self.residual);
        let mut s = Buffer::<f32>::blank(of(number + 1));
        let mut y_buffer = Buffer::<Y>::blank(of(number + 2));
        let mut rstd = vec![f32::SENTINEL; self.rows];
        let buffers = lanenorm_forward_buffers {
            rows: self.rows,
            inner_rows: self.inner_rows,
            x: as_input(x_buffer.output()),
            residual: as_input(residual.output()),
            sum: match form.sum.flatten() {
                None => NONE_MUT,
                Some(Over::Residual) => residual.output(),
                Some(_) => s.output(),
            },
            y: match form.y {
                Over::Nothing => y_buffer.output(),
                Over::X => x_buffer.output(),
                Over::Residual => residual.output(),
                Over::Nowhere => NONE_MUT,
            },
            bias: if form.bias { self.bias.as_ptr().cast() } else { null() },
            gamma: self.gamma.as_ptr().cast(),
            beta: self.beta().map_or(null(), |beta| beta.as_ptr().cast()),
            rstd: rstd.as_mut_ptr().cast(),
            ..FORWARD
        };
        if number % 4 < 2 {
            // SAFETY: all buffers are valid.
            ok(unsafe { lanenorm_plan_forward(&plan, &buffers, number % 3) });
        } else {
            for (first, count) in ranges(&mut Random::new(number as u64), self.rows) {
                // SAFETY: as above.
                ok(unsafe { lanenorm_plan_forward_rows(&plan, &buffers, first, count) });
            }
        }
        let want_y: Vec<Y> = want.y.iter().map(|v| round(v.wide())).collect();
        let (mut lies_in_x, mut lies_in_residual) = (bits(x), bits(&self.residual));
        match form.sum.flatten() {
            None => {}
            Some(Over::Residual) => lies_in_residual = bits(&want.sum),
            Some(_) => assert_same_bits(&format!("sum, {what}"), &want.sum, &s.values()),
        }
        match form.y {
            Over::Nothing => assert_same_bits(&format!("y, {what}"), &want_y, &y_buffer.values()),
            Over::X => lies_in_x = bits(&want_y),
            Over::Residual => lies_in_residual = bits(&want_y),
            Over::Nowhere => {}
        }
        assert!(lies_in_x == bits(&x_buffer.values()), "x, {what}");
        assert!(lies_in_residual == bits(&residual.values()), "residual, {what}");
        assert_same_bits(&format!("rstd, {what}"), &want.stats[2], &rstd);
        x_buffer.assert_gaps(what);
        residual.assert_gaps(what);
        s.assert_gaps(what);
        y_buffer.assert_gaps(what);
    }
}

#[test]
fn f16_is_added_to_f32() {
    sums_of_16_bits_and_f32_have_the_bits_of_f32::<f16>();
}

#[test]
fn bf16_is_added_to_f32() {
    sums_of_16_bits_and_f32_have_the_bits_of_f32::<bf16>();
}
