//! The backward pass: plans and baselines, and how they take the buffers of a call. The statistics have been kept by
//! forward, as in training.

pub(crate) mod two_pass;

use std::hint::black_box;
use std::time::{Duration, Instant};

use lanenorm::call::{BackwardCall, Place};
use lanenorm::{Isa, Norm};
use lanenorm_harness::naive::Gradients;
use lanenorm_harness::number::Number;

use super::baselines::Baseline;
use super::case::Case;
use super::contender::repeat;
use super::placement::Call;
use super::plan::{self, Operation, VALID};
use super::variant::Variant;

/// The time of `repeats` runs of a baseline.
pub(crate) fn time_baseline<T: Number>(
    baseline: Baseline,
    case: &Case,
    calls: Vec<Call<'_, T>>,
    wake: Duration,
    repeats: u64,
) -> Duration {
    let (run, cols) = (baseline.run_backward::<T>(case.op), case.cols);
    repeat(calls, wake, repeats, |c| {
        let (dx, dgamma, dbeta) = (&mut *c.y, &mut *c.dgamma, &mut *c.dbeta);
        run(Gradients { dy: c.dy, x: c.x, cols, gamma: c.affine[0], mean: c.mean, rstd: c.rstd, dx, dgamma, dbeta });
    })
}

/// The time of `repeats` runs of a plan.
pub(crate) fn time_plan<M: Operation, T: Number>(
    case: &Case,
    isa: Isa,
    threads: bool,
    variant: Variant,
    calls: Vec<Call<'_, T>>,
    wake: Duration,
    repeats: u64,
) -> Duration {
    let plan = plan::plan::<M>(case, isa, threads, variant);
    if variant == Variant::InPlace {
        time_restored(case, calls, wake, repeats, |c| run(&plan, variant, c))
    } else {
        repeat(calls, wake, repeats, |c| run(&plan, variant, c))
    }
}

/// The time of runs that overwrite dy. dy is put back before each run, outside of the time: gradients of gradients soon
/// leave the range of floats.
fn time_restored<'a, T: Number>(
    case: &Case,
    mut calls: Vec<Call<'a, T>>,
    wake: Duration,
    repeats: u64,
    mut run: impl FnMut(&mut Call<'a, T>),
) -> Duration {
    let mut time = Duration::ZERO;
    let mut once = || {
        for call in &mut calls {
            call.restore(case.op);
            let start = Instant::now();
            run(black_box(call));
            time += start.elapsed();
        }
        std::mem::take(&mut time)
    };
    let start = Instant::now();
    once();
    while start.elapsed() < wake {
        once();
    }
    (0..repeats).map(|_| once()).sum()
}

fn run<M: Operation, T: Number>(plan: &Norm<M>, variant: Variant, c: &mut Call<'_, T>) {
    let Call { x, y, dy, residual, affine, mixed, mean, mean_lo, rstd, dgamma, dbeta, scratch, .. } = c;
    let (wants_params, is_kept) = (variant != Variant::DxOnly, variant != Variant::Recomputed);
    let rest = Rest {
        gamma: (variant != Variant::NoAffine && variant != Variant::Mixed).then_some(affine[0]),
        mixed: (variant == Variant::Mixed).then_some(mixed[0]),
        stats: is_kept.then_some([&**mean, &**mean_lo, &**rstd]),
        params: wants_params.then_some([&mut **dgamma, &mut **dbeta]),
        scratch: (variant != Variant::Allocating).then_some(&mut **scratch),
    };
    match variant {
        Variant::InPlace => rest.of(plan.backward_in_place(&mut **y, *x)).run(),
        Variant::ParamsOnly => rest.of(plan.backward(*dy, *x)).run(),
        Variant::Ds => rest.of(plan.backward(*dy, *x).ds(*residual)).to(&mut **y),
        _ => rest.of(plan.backward(*dy, *x)).to(&mut **y),
    }
    .expect(VALID);
}

/// The arguments of a backward call beside its rows.
struct Rest<'a, T: Number> {
    gamma: Option<&'a [T]>,
    mixed: Option<&'a [T::Mixed]>,
    stats: Option<[&'a [T::Float]; 3]>,
    params: Option<[&'a mut [T::Float]; 2]>,
    scratch: Option<&'a mut [T::Float]>,
}

impl<'a, T: Number> Rest<'a, T> {
    fn of<M: Operation, D: Place, S>(self, call: BackwardCall<'a, T, M, D, S>) -> BackwardCall<'a, T, M, D, S> {
        let Self { gamma, mixed, stats, params, scratch } = self;
        let ([mean, mean_lo, rstd], [dgamma, dbeta]) = (all(stats), all(params));
        let call = M::mean(call.rstd(rstd).dgamma_to(dgamma).scratch(scratch), mean, mean_lo);
        let call = M::dbeta_to(call, dbeta);
        if mixed.is_some() { call.gamma(mixed) } else { call.gamma(gamma) }
    }
}

/// All values, or none.
fn all<V, const N: usize>(values: Option<[V; N]>) -> [Option<V>; N] {
    values.map_or([const { None }; N], |values| values.map(Some))
}
