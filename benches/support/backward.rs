//! The backward pass: how plans take the buffers of a call, and what it is compared with. The statistics are those that
//! forward has kept, as in training.

pub(crate) mod two_pass;

use std::hint::black_box;
use std::time::{Duration, Instant};

use lanenorm::{GradIo, Isa, ParamGrads, Stats};
use lanenorm_harness::naive::Gradients;
use lanenorm_harness::number::Number;

use super::baselines::Baseline;
use super::case::Case;
use super::contender::repeat;
use super::placement::Call;
use super::plan::Plan;
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
pub(crate) fn time_plan<P: Plan, T: Number>(
    case: &Case,
    isa: Isa,
    threads: bool,
    variant: Variant,
    calls: Vec<Call<'_, T>>,
    wake: Duration,
    repeats: u64,
) -> Duration {
    let plan = P::new(case, isa, threads, variant);
    if variant == Variant::InPlace {
        time_restored(case, calls, wake, repeats, |c| run(&plan, variant, c))
    } else {
        repeat(calls, wake, repeats, |c| run(&plan, variant, c))
    }
}

/// With dy put back before each run, outside of what is timed: gradients of gradients soon leave the range of floats.
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

fn run<P: Plan, T: Number>(plan: &P, variant: Variant, c: &mut Call<'_, T>) {
    let io = match variant {
        Variant::InPlace => GradIo::in_place(&mut *c.y, c.x),
        Variant::ParamsOnly => GradIo::without_dx(c.dy, c.x),
        Variant::Ds => GradIo::new(c.dy, c.x, &mut *c.y).with_ds(c.residual),
        _ => GradIo::new(c.dy, c.x, &mut *c.y),
    };
    let stats = match variant {
        Variant::Recomputed => Stats::default(),
        _ => Stats { mean: Some(c.mean), mean_lo: Some(c.mean_lo), rstd: Some(c.rstd) },
    };
    let grads = match variant {
        Variant::DxOnly => ParamGrads::default(),
        _ => ParamGrads { dgamma: Some(&mut *c.dgamma), dbeta: Some(&mut *c.dbeta) },
    };
    let scratch = (variant != Variant::Allocating).then_some(&mut *c.scratch);
    match variant {
        Variant::Mixed => plan.backward(io, Some(c.mixed[0]), stats, grads, scratch),
        Variant::NoAffine => plan.backward::<T, T>(io, None, stats, grads, scratch),
        _ => plan.backward(io, Some(c.affine[0]), stats, grads, scratch),
    }
}
