//! Gradients: every tier and every form of the call has the bits of the scalar tier in its plainest use, nothing else
//! is written, and dx is within the bounds of the reference.

use arbitrary::Arbitrary;

use crate::accuracy::u;
use crate::contract::backward::oracle;
use crate::shape::{Dtypes, Numbers, Shape, is_finite, with_types};
use crate::support::{GradCall, GradProblem, Problem, Scratch, Statistics, Types, Value, tiers};

/// A problem, and the form of its call.
#[derive(Arbitrary, Clone, Debug)]
pub struct Input {
    dtypes: Dtypes,
    shape: Shape,
    x: Numbers,
    gamma: Numbers,
    dy: Numbers,
    ds: Numbers,
    kept: bool,
    scratch: u8,
    wanted: [bool; 3],
}

impl Input {
    /// Runs all checks.
    pub fn run(&self) {
        // The type of y makes no difference to gradients.
        let dtypes = match self.dtypes {
            Dtypes::F16IntoF32 => Dtypes::F16,
            Dtypes::Bf16IntoF32 => Dtypes::Bf16,
            Dtypes::F16AllF32 => Dtypes::F16GammaF32,
            Dtypes::Bf16AllF32 => Dtypes::Bf16GammaF32,
            dtypes => dtypes,
        };
        with_types!(dtypes, run(self));
    }
}

fn run<K: Types>(input: &Input) {
    let shape = &input.shape;
    let Shape { rows, cols, groups, eps, has, .. } = *shape;
    let gamma = has[0].then(|| input.gamma.fill(groups.0, cols));
    let forward = Problem {
        operation: shape.operation(),
        groups,
        rows,
        cols,
        x: input.x.fill(rows, cols),
        gamma,
        beta: None,
        eps,
    };
    let (dy, ds) = (input.dy.fill(rows, cols), has[1].then(|| input.ds.fill(rows, cols)));
    let problem = GradProblem::<K> { forward, dy, ds };
    let expected = problem.expected();
    let mut wanted = input.wanted;
    // One gradient at least, and RMSNorm has no dbeta.
    wanted[0] |= !wanted[1] && (shape.rms || !wanted[2]);
    for &isa in tiers() {
        problem.assert_gives(&expected, &GradCall::plain(isa));
        let call = GradCall {
            isa,
            parallelism: shape.parallelism(),
            store: shape.store(),
            in_place: shape.in_place,
            gaps: shape.gaps,
            misalignment: shape.misalignment,
            statistics: if input.kept { Statistics::Kept } else { Statistics::Taken },
            scratch: [Scratch::Allocated, Scratch::Least, Scratch::Planned, Scratch::Long]
                [usize::from(input.scratch % 4)],
            wanted,
            environment: shape.environment(),
        };
        problem.assert_gives(&expected, &call);
    }
    for r in 0..rows {
        assert_accurate(&problem.only(&[r]));
    }
}

/// The bound of adversarial rows, which any row may be.
const BOUND: f64 = 16.0;

fn assert_accurate<K: Types>(problem: &GradProblem<K>) {
    let GradProblem { forward, dy, ds } = problem;
    let dx = problem.run(&GradCall::plain(lanenorm::Isa::SCALAR));
    let dx = dx.dx();
    let gamma_is_finite = forward.gamma.iter().flatten().all(|v| v.wide().is_finite());
    if !is_finite::<K>(&forward.x) || !is_finite::<K>(dy) || !gamma_is_finite {
        assert!(dx.iter().all(|v| v.bits() == K::X::QUIET_NAN.bits()), "{problem}: a row with a NaN");
        return;
    }
    if !ds.as_deref().is_none_or(is_finite::<K>) {
        return;
    }
    let exact = oracle::exact(problem, 0);
    for (i, &dx) in dx.iter().enumerate() {
        if !exact.is_known(i) {
            continue;
        }
        // The bound may reach beyond the range of the type.
        if dx.wide().is_infinite() && exact.dx(i).abs() + BOUND * u::<K>() * exact.scale(i) >= K::X::MAX.wide() {
            continue;
        }
        let factor = exact.factor::<K>(i, dx) / u::<K>();
        assert!(factor <= BOUND, "{problem}, column {i}: {dx:e}, exact {:e}, {factor} u", exact.dx(i));
    }
}
