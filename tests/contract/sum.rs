//! A fused sum gives the bits of adding, rounding to the type of x, and then normalizing, on all tiers, wherever the
//! sum goes.

use std::num::NonZeroUsize;

use lanenorm::kernels::Error as Refused;
use lanenorm::{Error, Isa, LayerNorm, Parallelism, RowsMut, Store};

use crate::support::forms::{Io, StatsMut, Sum};
use crate::support::{
    Buffer, KINDS, Output, Plan, Problem, Random, TURNING_POINTS, Types, Value, assert_same_bits, quick, special_row,
    tiers,
};

/// x, residual and bias, and the problem of normalizing their sum.
pub(crate) struct Case<K: Types> {
    x: Vec<K::X>,
    residual: Vec<K::X>,
    bias: Option<Vec<K::X>>,
    /// The problem of normalizing the sum: its x is the right sum.
    of_sum: Problem<K>,
}

const EPS: f64 = 1e-6;

/// Where the sum goes.
#[derive(Clone, Copy, Debug)]
enum Place {
    OverResidual,
    OverX,
    Apart,
}

impl<K: Types> Case<K> {
    pub(crate) fn new(rows: usize, cols: usize, seed: u64) -> Self {
        let problem = Problem::<K>::mixed(rows, cols, seed).with_eps(EPS);
        let residual = Problem::<K>::mixed(rows, cols, seed + 1).x;
        let mut bias = vec![K::X::default(); cols];
        special_row((seed % 2) as usize, &mut Random::new(seed), &mut bias);
        Self::of(problem, residual, (!seed.is_multiple_of(3)).then_some(bias))
    }

    pub(crate) fn of(problem: Problem<K>, residual: Vec<K::X>, bias: Option<Vec<K::X>>) -> Self {
        let x = problem.x.clone();
        let float = |v: K::X| K::F::of(v.wide());
        let sum = |i: usize| {
            let sum: K::F = float(x[i]) + float(residual[i]);
            let sum: K::F = bias.as_ref().map_or(sum, |bias| sum + float(bias[i % problem.cols]));
            if sum.is_nan() { K::X::QUIET_NAN } else { K::X::of(sum.wide()) }
        };
        let s = (0..x.len()).map(sum).collect();
        Self { residual, bias, of_sum: Problem { x: s, ..problem }, x }
    }

    /// The sum normalized by every operation: problems and their solutions.
    pub(crate) fn solutions(&self) -> [(Problem<K>, Output<K>); 2] {
        self.of_sum.clone().of_every_operation().map(|problem| {
            let expected = problem.expected();
            (problem, expected)
        })
    }

    fn check(
        &self,
        (problem, expected): &(Problem<K>, Output<K>),
        plan: Plan,
        place: Place,
        [x_gap, residual_gap, s_gap, y_gap]: [usize; 4],
    ) {
        let Problem { rows, cols, .. } = *problem;
        let what = format!("{problem}, {plan:?}, {place:?}");
        let misalignment = x_gap * 5 % 16;
        let mut x = Buffer::holding(&self.x, cols, x_gap, misalignment);
        let mut residual = Buffer::holding(&self.residual, cols, residual_gap, 0);
        let mut s = Buffer::blank(rows, cols, s_gap, misalignment);
        let mut y = Buffer::blank(rows, cols, y_gap, y_gap);
        let per_row = || vec![K::F::default(); rows];
        let [mut mean, mut mean_lo, mut rstd] = [per_row(), per_row(), per_row()];
        let stats = StatsMut { mean: Some(&mut mean), mean_lo: Some(&mut mean_lo), rstd: Some(&mut rstd) };
        let mut sum = match place {
            Place::OverResidual => Sum::residual_in_place(x.rows(), residual.rows_mut()),
            Place::OverX => Sum::residual_in_place(residual.rows(), x.rows_mut()),
            Place::Apart => Sum::sum_to(x.rows(), residual.rows(), s.rows_mut()),
        };
        if let Some(bias) = &self.bias {
            sum = sum.with_bias(bias);
        }
        let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
        plan.call_mixed(Io::sum(sum, y.rows_mut()), gamma, beta, stats).expect("a valid call");
        let (x, residual, s) = (x.into_rows(), residual.into_rows(), s.into_rows());
        let blank = vec![K::X::SENTINEL; rows * cols];
        let want = match place {
            Place::OverResidual => [&self.x, &problem.x, &blank],
            Place::OverX => [&problem.x, &self.residual, &blank],
            Place::Apart => [&self.x, &self.residual, &problem.x],
        };
        for (name, want, got) in [("x", want[0], &x), ("residual", want[1], &residual), ("s", want[2], &s)] {
            assert_same_bits(format_args!("{what}: {name}"), cols, want, got);
        }
        let output = Output { y: y.into_rows(), mean, mean_lo, rstd };
        output.assert_same(expected, cols, format_args!("{what}"));
    }

    /// Checks a sum that is not kept, and is normalized into y or over the residual.
    fn check_dropped(
        &self,
        (problem, expected): &(Problem<K>, Output<K>),
        plan: Plan,
        is_over: bool,
        [x_gap, residual_gap, _, y_gap]: [usize; 4],
    ) {
        let Problem { rows, cols, .. } = *problem;
        let what = format!("{problem}, {plan:?}, not kept, over the residual: {is_over}");
        let x = Buffer::holding(&self.x, cols, x_gap, x_gap * 5 % 16);
        let mut residual = Buffer::holding(&self.residual, cols, residual_gap, 0);
        let mut y = Buffer::<K::X>::blank(rows, cols, y_gap, y_gap);
        let per_row = || vec![K::F::default(); rows];
        let [mut mean, mut mean_lo, mut rstd] = [per_row(), per_row(), per_row()];
        let stats = StatsMut { mean: Some(&mut mean), mean_lo: Some(&mut mean_lo), rstd: Some(&mut rstd) };
        let bias = self.bias.as_deref();
        let io = if is_over {
            Io::in_place_with_residual(residual.rows_mut(), x.rows(), bias)
        } else {
            Io::residual(x.rows(), residual.rows(), bias, y.rows_mut())
        };
        plan.call_mixed(io, problem.gamma.as_deref(), problem.beta.as_deref(), stats).expect("a valid call");
        let (x, residual, mut y) = (x.into_rows(), residual.into_rows(), y.into_rows());
        assert_same_bits(format_args!("{what}: x"), cols, &self.x, &x);
        if is_over {
            let blank = vec![K::X::SENTINEL; rows * cols];
            assert_same_bits(format_args!("{what}: nothing"), cols, &blank, &y);
            y = residual;
        } else {
            assert_same_bits(format_args!("{what}: residual"), cols, &self.residual, &residual);
        }
        let y = y.iter().map(|y| K::Y::of_bits(y.bits())).collect();
        let output = Output { y, mean, mean_lo, rstd };
        output.assert_same(expected, cols, format_args!("{what}"));
    }

    pub(crate) fn check_all(&self, isa: Isa, parallelism: Parallelism, store: Store, gaps: [usize; 4]) {
        self.check_against(&self.solutions(), isa, parallelism, store, gaps);
    }

    pub(crate) fn check_against(
        &self,
        solutions: &[(Problem<K>, Output<K>)],
        isa: Isa,
        parallelism: Parallelism,
        store: Store,
        gaps: [usize; 4],
    ) {
        for solution in solutions {
            let plan = solution.0.plan(isa).with_parallelism(parallelism).with_store(store);
            for place in [Place::OverResidual, Place::OverX, Place::Apart] {
                self.check(solution, plan, place, gaps);
            }
            if K::IN_PLACE {
                self.check_dropped(solution, plan, false, gaps);
                self.check_dropped(solution, plan, true, gaps);
            }
        }
    }
}

fn fused_sums_have_the_bits_of_unfused_ones<K: Types>() {
    let mut seed = 0;
    for cols in TURNING_POINTS.into_iter().chain([333, 5000, 17_000]) {
        for rows in [1, 2, 9, 17] {
            if quick() && rows > 9 {
                continue;
            }
            seed += 1;
            if !K::takes(seed as usize) {
                continue;
            }
            let case = Case::<K>::new(rows, cols, seed);
            for &isa in tiers() {
                case.check_all(isa, Parallelism::Serial, Store::Auto, [0; 4]);
                case.check_all(isa, Parallelism::Serial, Store::Streaming, [3, 0, 1, 2]);
            }
        }
    }
}

/// In 16 bits most sums here are half-way cases or next to one, and statistics are of the rounded sums: a sum that
/// stayed in f32 would show in the mean.
fn sums_are_rounded_before_anything_is_made_of_them<K: Types>() {
    for (_, cols) in TURNING_POINTS.into_iter().enumerate().filter(|(i, _)| K::takes(*i)) {
        let mut problem = Problem::<K>::ordinary(9, cols, 40);
        let epsilon = K::X::EPSILON.wide();
        problem.x.iter_mut().enumerate().for_each(|(i, x)| *x = K::X::of(1.0 + (i % 5) as f64 * epsilon));
        let residual = |i: usize| K::X::of([0.5, 0.25, 1.5, -0.5, 0.75][i % 5] * epsilon);
        let residual = (0..problem.x.len()).map(residual).collect();
        let case = Case::of(problem, residual, None);
        for &isa in tiers() {
            case.check_all(isa, Parallelism::Serial, Store::Ordinary, [0; 4]);
        }
    }
}

/// Finite addends whose sum overflows make a row that is not finite.
fn sums_that_overflow<K: Types>() {
    for cols in [1, 7, 64, 100, 1030] {
        let mut problem = Problem::<K>::ordinary(10, cols, 41);
        let mut residual = vec![K::X::default(); problem.x.len()];
        for r in (0..10).step_by(3) {
            (problem.x[r * cols + r % cols], residual[r * cols + r % cols]) = (K::X::MAX, K::X::MAX);
        }
        for r in (1..10).step_by(3) {
            // The sum of opposite infinities is the canonical NaN.
            let at = r * cols + r % cols;
            (problem.x[at], residual[at]) = (K::X::INFINITY, -K::X::INFINITY);
        }
        let case = Case::of(problem, residual, None);
        assert!(case.of_sum.x.iter().any(|s| s.wide().is_infinite()) && case.of_sum.x.iter().any(|s| s.is_nan()));
        for &isa in tiers() {
            case.check_all(isa, Parallelism::Serial, Store::Ordinary, [0; 4]);
        }
    }
}

/// Every kind of row plus every other kind.
fn sums_of_every_two_kinds<K: Types>() {
    for cols in [100, 5, 300].into_iter().take(if quick() { 1 } else { 3 }) {
        let mut random = Random::new(42);
        let mut problem = Problem::<K>::ordinary(KINDS * KINDS, cols, 42);
        let mut residual = problem.x.clone();
        for (r, (x, residual)) in problem.x.chunks_exact_mut(cols).zip(residual.chunks_exact_mut(cols)).enumerate() {
            special_row(r % KINDS, &mut random, x);
            special_row(r / KINDS, &mut random, residual);
        }
        let bias = (cols == 100).then(|| problem.x[..cols].to_vec());
        let case = Case::of(problem, residual, bias);
        for &isa in tiers() {
            case.check_all(isa, Parallelism::Serial, Store::Ordinary, [0; 4]);
        }
    }
}

fn sums_do_not_depend_on_threads<K: Types>() {
    if K::is_left_out() {
        return;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
    for (rows, cols) in [(301, 64), (37, 768), (2, 70_000)] {
        let case = Case::<K>::new(rows, cols, 30);
        for &isa in tiers() {
            let tasks = Parallelism::Tasks(NonZeroUsize::new(5).expect("not zero"));
            pool.install(|| case.check_all(isa, tasks, Store::Auto, [0, 1, 0, 3]));
        }
    }
}

fn sums_with_groups<K: Types>() {
    for (cols, groups, repeat) in [(7, 3, 1), (64, 2, 5), (300, 1, 4), (1030, 4, 2)] {
        let mut case = Case::<K>::new(2 * groups * repeat, cols, 50);
        case.of_sum = case.of_sum.with_groups(groups, repeat);
        for &isa in tiers() {
            case.check_all(isa, Parallelism::Serial, Store::Ordinary, [0; 4]);
        }
    }
}

for_all_types!(
    fused_sums_have_the_bits_of_unfused_ones,
    sums_are_rounded_before_anything_is_made_of_them,
    sums_that_overflow,
    sums_of_every_two_kinds,
    sums_do_not_depend_on_threads,
    sums_with_groups,
);

#[test]
fn sums_that_do_not_fit_are_refused() {
    let plan = LayerNorm::new(4, EPS).unwrap();
    let (x, short) = ([1.0; 8], [1.0; 4]);
    let (mut s, mut y) = ([f32::SENTINEL; 8], [f32::SENTINEL; 8]);
    let refused = plan.call(&x).residual(&short).sum_to(&mut s).to(&mut y);
    assert_eq!(refused, Err(Error::SumRows { what: "residual", x: 2, rows: 1 }));
    assert_eq!(refused.unwrap_err().to_string(), "x has 2 rows, but residual has 1");
    let refused = plan.call(&short).residual(&short).sum_to(&mut s).to(&mut y);
    assert_eq!(refused, Err(Error::SumRows { what: "y", x: 1, rows: 2 }));
    let refused = plan.call(&x).residual(&x).sum_to(&mut s[..4]).to(&mut y);
    assert_eq!(refused, Err(Error::SumRows { what: "sum", x: 2, rows: 1 }));
    let refused = plan.call(&x).residual(&x).sum_to(&mut s).bias(&x[..3]).to(&mut y);
    assert_eq!(refused, Err(Error::Arguments(Refused::Length { what: "bias", len: 3, expected: 4 })));
    let refused = plan.call(&x).residual_in_place(RowsMut::strided(&mut s, 2, 3)).to(&mut y);
    assert_eq!(refused, Err(Error::Arguments(Refused::Overlap { what: "residual", cols: 4, stride: 3 })));
    let refused = plan.call(&x).residual_in_place(&mut s).gamma(&short[..3]).to(&mut y);
    assert_eq!(refused, Err(Error::Arguments(Refused::Length { what: "gamma", len: 3, expected: 4 })));
    let refused = plan.call(&x).residual(&short).to(&mut y);
    assert_eq!(refused, Err(Error::SumRows { what: "residual", x: 2, rows: 1 }));
    let refused = plan.call(&short).residual(&short).to(&mut y);
    assert_eq!(refused, Err(Error::SumRows { what: "y", x: 1, rows: 2 }));
    let refused = plan.call_in_place(&mut s).residual(&short).run();
    assert_eq!(refused, Err(Error::SumRows { what: "residual", x: 2, rows: 1 }));
    let refused = plan.call_in_place(&mut s).residual(&x).bias(&x[..3]).run();
    assert_eq!(refused, Err(Error::Arguments(Refused::Length { what: "bias", len: 3, expected: 4 })));
    assert_same_bits(format_args!("s"), 4, &[f32::SENTINEL; 8], &s);
    assert_same_bits(format_args!("y"), 4, &[f32::SENTINEL; 8], &y);
}
