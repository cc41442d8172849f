//! Normalization: every tier and every form of the call has the bits of the scalar tier in its plainest use, nothing
//! else is written, and the result is within the contract of the reference.

use arbitrary::Arbitrary;
use lanenorm::{Rows, RowsMut};

use crate::accuracy::{oracle, rounding, u};
use crate::shape::{Dtypes, Numbers, Shape, is_finite, with_types};
use crate::support::forms::{Io, StatsMut, Sum};
use crate::support::{Buffer, Call, Problem, Types, Value, assert_same_bits, tiers};

/// A problem, and the form of its call.
#[derive(Arbitrary, Clone, Debug)]
pub struct Input {
    dtypes: Dtypes,
    shape: Shape,
    x: Numbers,
    vectors: [Numbers; 2],
    addends: [Numbers; 2],
}

impl Input {
    /// Runs all checks.
    pub fn run(&self) {
        with_types!(self.dtypes, run(self));
    }
}

fn problem<K: Types>(input: &Input) -> Problem<K> {
    let Input { shape, x, vectors, .. } = input;
    let Shape { rows, cols, groups, eps, has, .. } = *shape;
    let vector = |k: usize| has[k].then(|| vectors[k].fill::<K::G>(groups.0, cols));
    let (gamma, beta) = (vector(0), vector(1).filter(|_| !shape.rms));
    Problem { operation: shape.operation(), groups, rows, cols, x: x.fill(rows, cols), gamma, beta, eps }
}

fn run<K: Types>(input: &Input) {
    let Shape { gaps, misalignment, in_place, .. } = input.shape;
    let problem = problem::<K>(input);
    let expected = problem.expected();
    for &isa in tiers() {
        problem.assert_gives(&expected, &Call::plain(isa));
        let call = Call {
            isa,
            parallelism: input.shape.parallelism(),
            store: input.shape.store(),
            in_place,
            x_gap: gaps[0],
            y_gap: gaps[1],
            misalignment: [misalignment[0], misalignment[1], misalignment[2], misalignment[3]],
            environment: input.shape.environment(),
        };
        problem.assert_gives(&expected, &call);
    }
    for r in 0..problem.rows {
        assert_accurate(&problem.only_row(r));
    }
    sums(input, &problem);
    by_moments(&problem, &expected.y);
}

/// The bound of adversarial rows, which any row may be.
const BOUND: f64 = 16.0;

fn assert_accurate<K: Types>(problem: &Problem<K>) {
    let output = problem.run(&Call::plain(lanenorm::Isa::SCALAR));
    if !is_finite::<K>(&problem.x) {
        assert!(output.y.iter().all(|y| y.bits() == K::Y::QUIET_NAN.bits()), "{problem}: a row with a NaN");
        return;
    }
    let vectors = [&problem.gamma, &problem.beta];
    if !vectors.into_iter().flatten().flatten().all(|v| v.wide().is_finite()) {
        return;
    }
    let verdict = oracle::judge(problem, &output);
    // A number is infinite beyond the range of its type, and beyond the range of f64, in which it is judged.
    let is_in_range = |v: f64| v.abs() < K::Y::MAX.wide() / 2.0 && v.abs() < K::F::MAX.wide().sqrt();
    for (i, y) in output.y.iter().enumerate() {
        let factor = oracle::factor(problem, i).wide();
        let beta = problem.beta.as_ref().map_or(0.0, |b| b[i].wide());
        if !is_in_range(verdict.y[i])
            || !is_in_range(factor)
            || !is_in_range(verdict.xhat[i] * factor)
            || !is_in_range(beta)
        {
            continue;
        }
        let scale = factor.abs() * (1.0 + verdict.xhat[i].abs()) + beta.abs();
        // The bound may reach beyond the range of the type.
        if y.wide().is_infinite() && verdict.y[i].abs() + BOUND * u::<K>() * scale >= K::Y::MAX.wide() {
            continue;
        }
        let forgiven =
            rounding::<K>(verdict.y[i]) + K::Y::SMALLEST.wide() + K::F::SMALLEST.wide() * (1.0 + factor.abs());
        let error = verdict.errors[i] - forgiven;
        assert!(
            error <= BOUND * u::<K>() * scale,
            "{problem}, column {i}: {y:e}, exact {:e}, {} u; x: {:e}",
            verdict.y[i],
            error / (u::<K>() * scale),
            problem.x[i]
        );
    }
}

/// (x + residual) + bias. Each addition is rounded to the type that rows are computed in, and the sum to the type of x.
pub(crate) fn added<K: Types>(x: &[K::X], residual: &[K::X], bias: Option<&[K::X]>, cols: usize) -> Vec<K::X> {
    let add = |i: usize| {
        let bias = bias.map_or(-0.0, |b| b[i % cols].wide());
        let (x, residual) = (K::F::of(x[i].wide()), K::F::of(residual[i].wide()));
        let sum = K::F::of(x.wide() + residual.wide());
        K::X::of(K::F::of(sum.wide() + K::F::of(bias).wide()).wide())
    };
    (0..x.len()).map(add).collect()
}

/// Sums have the bits of an addition followed by a normalization.
fn sums<K: Types>(input: &Input, problem: &Problem<K>) {
    let Problem { rows, cols, .. } = *problem;
    let Shape { gaps, misalignment, has, in_place, .. } = input.shape;
    let residual: Vec<K::X> = input.addends[0].fill(rows, cols);
    let bias: Option<Vec<K::X>> = has[2].then(|| input.addends[1].fill(1, cols));
    let sum = added::<K>(&problem.x, &residual, bias.as_deref(), cols);
    let expected = Problem { x: sum.clone(), ..problem.clone() }.expected();
    for &isa in tiers() {
        let plan = problem.plan(isa).with_parallelism(input.shape.parallelism()).with_store(input.shape.store());
        let x = Buffer::holding(&problem.x, cols, gaps[0], misalignment[0]);
        let mut y = Buffer::blank(rows, cols, gaps[1], misalignment[1]);
        let mut over = Buffer::holding(&residual, cols, gaps[2], misalignment[2]);
        let mut s = Buffer::blank(rows, cols, gaps[3], misalignment[3]);
        let taken = if in_place {
            Sum::residual_in_place(x.rows(), over.rows_mut())
        } else {
            Sum::sum_to(x.rows(), over.rows(), s.rows_mut())
        };
        let taken = if let Some(bias) = &bias { taken.with_bias(bias) } else { taken };
        let (gamma, beta) = (problem.gamma.as_deref(), problem.beta.as_deref());
        let io = Io::sum(taken, y.rows_mut());
        assert_eq!(plan.call_mixed(io, gamma, beta, StatsMut::default()), Ok(()));
        let written = if in_place { over.into_rows() } else { s.into_rows() };
        let differs = written.iter().zip(&sum).position(|(a, b)| a.bits() != b.bits() && !(a.is_nan() && b.is_nan()));
        assert_eq!(differs, None, "{problem}, {isa}: the sum");
        assert_same_bits(format_args!("{problem}, {isa}: y of a sum"), cols, &expected.y, &y.into_rows());
    }
}

/// Rows in two parts, merged, have the bits of the whole.
fn by_moments<K: Types>(problem: &Problem<K>, expected: &[K::Y]) {
    if size_of::<K::X>() != size_of::<K::Y>() || size_of::<K::X>() != size_of::<K::G>() || problem.rows == 0 {
        return;
    }
    let Problem { rows, cols, .. } = *problem;
    for &isa in tiers() {
        let plan = problem.plan(isa);
        let mut moments = vec![lanenorm::Moments::EMPTY; rows];
        assert_eq!(plan.moments(Rows::from(&problem.x), &mut moments), Ok(()));
        for (r, moments) in moments.iter_mut().enumerate() {
            if let Some(scale) = plan.rescale::<K::X>(moments) {
                let row = &problem.x[r * cols..][..cols];
                assert_eq!(plan.moments_at_scale(row, scale, std::slice::from_mut(moments)), Ok(()));
            }
        }
        let same =
            |v: &Option<Vec<K::G>>| v.as_ref().map(|v| v.iter().map(|v| K::X::of_bits(v.bits())).collect::<Vec<_>>());
        let (gamma, beta) = (same(&problem.gamma), same(&problem.beta));
        let mut y = vec![K::X::default(); rows * cols];
        let out = RowsMut::from(&mut y);
        let done = plan.call_with_moments(Rows::from(&problem.x), &moments, gamma.as_deref(), beta.as_deref(), out);
        assert_eq!(done, Ok(()));
        let y: Vec<K::Y> = y.into_iter().map(|y| K::Y::of_bits(y.bits())).collect();
        assert_same_bits(format_args!("{problem}, {isa}: by moments"), cols, expected, &y);
    }
}
