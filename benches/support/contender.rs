//! Whatever can be timed: the copies, the baselines, and plans of every tier with their variants.

use std::hint::black_box;
use std::time::Duration;

use lanenorm::kernels::simd::Float;
use lanenorm::kernels::table::Op;
use lanenorm::{Centered, Isa, RowsMut, Uncentered};
use lanenorm_harness::copy::copy_threads;
use lanenorm_harness::measure;
use lanenorm_harness::naive;
use lanenorm_harness::number::Number;

use super::backward;
use super::baselines::Baseline;
use super::case::Case;
use super::gated;
use super::images;
use super::placement::{Call, PACKED, Placement};
use super::plan::{self, Operation, VALID};
use super::quantized;
use super::several;
use super::variant::{GROUPS, Variant};

/// Something that is timed.
#[derive(Clone, Copy)]
pub(crate) enum Contender {
    Copy {
        threads: bool,
    },
    /// A baseline of the plain call, or of a variant that has one.
    Baseline {
        baseline: Baseline,
        variant: Variant,
    },
    Plan {
        isa: Isa,
        threads: bool,
        variant: Variant,
    },
}

impl Contender {
    /// The name of a tier or of a baseline.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Copy { .. } => "copy",
            Self::Baseline { baseline, .. } => baseline.name(),
            Self::Plan { isa, .. } => isa.tier().name(),
        }
    }

    /// The options that distinguish it from others of the same name: empty by default.
    pub(crate) fn options(self) -> String {
        let variant = Some(self.variant()).filter(|&variant| variant != Variant::Default).map(Variant::name);
        let threads = self.threads().then_some("threads");
        variant.into_iter().chain(threads).collect::<Vec<_>>().join("+")
    }

    pub(crate) fn variant(self) -> Variant {
        match self {
            Self::Plan { variant, .. } | Self::Baseline { variant, .. } => variant,
            Self::Copy { .. } => Variant::Default,
        }
    }

    /// Whether it uses all threads of the pool.
    pub(crate) fn threads(self) -> bool {
        match self {
            Self::Copy { threads } | Self::Plan { threads, .. } => threads,
            Self::Baseline { .. } => false,
        }
    }

    /// The time of `repeats` runs over the case, after untimed ones for `wake`, and at least one. With threads, the
    /// caller is a thread of the pool, as in a program that is parallel elsewhere too: waking a pool from outside takes
    /// longer than most of these calls.
    pub(crate) fn time<T: Number>(
        self,
        case: &Case,
        placement: &mut Placement<T>,
        wake: Duration,
        repeats: u64,
    ) -> Duration {
        let mut time = || self.time_here(case, placement, wake, repeats);
        if self.threads() { rayon::scope(|_| time()) } else { time() }
    }

    fn time_here<T: Number>(self, case: &Case, placement: &mut Placement<T>, wake: Duration, repeats: u64) -> Duration {
        let calls = placement.calls();
        match self {
            Self::Copy { threads: false } => repeat(calls, wake, repeats, |c| c.y.copy_from_slice(c.x)),
            Self::Copy { threads: true } => {
                repeat(calls, wake, repeats, |c| copy_threads(c.x, c.y, rayon::current_num_threads()))
            }
            Self::Baseline { baseline, .. } if case.op.is_backward() => {
                backward::time_baseline(baseline, case, calls, wake, repeats)
            }
            Self::Baseline { baseline, variant } => {
                if let Some(images) = case.images.filter(|i| i.groups.is_some() || variant == Variant::ChannelsFirst) {
                    return repeat(calls, wake, repeats, |c| images::naive(case, images, variant, c));
                }
                let (cols, eps) = (case.cols, T::Float::from_f64(case.eps));
                let run = if variant == Variant::L2 { naive::l2_norm } else { baseline.run::<T>(case.op) };
                if let Some(gate) = variant.gate() {
                    let normalize = |x: &[T], [gamma, beta]: [&[T]; 2], y: &mut [T]| run(x, cols, gamma, beta, eps, y);
                    return repeat(calls, wake, repeats, |c| gated::naive(gate, c, normalize));
                }
                let normalize = |c: &mut Call<'_, T>| run(c.x, cols, c.affine[0], c.affine[1], eps, c.y);
                let Some(scheme) = variant.scheme() else { return repeat(calls, wake, repeats, normalize) };
                let quantize = quantized::naive::<T>(variant);
                repeat(calls, wake, repeats, |c| {
                    normalize(c);
                    quantized::second_step(quantize, &scheme, cols, c);
                })
            }
            Self::Plan { isa, threads, variant } => {
                let time = match case.op {
                    _ if case.is_group_norm() => images::time_group_norm::<T>,
                    Op::LayerNorm => time_plan::<Centered, T>,
                    Op::RmsNorm => time_plan::<Uncentered, T>,
                    Op::LayerNormBackward => backward::time_plan::<Centered, T>,
                    Op::RmsNormBackward => backward::time_plan::<Uncentered, T>,
                    op => panic!("the benchmark has no plan for {}", op.name()),
                };
                time(case, isa, threads, variant, calls, wake, repeats)
            }
        }
    }
}

fn time_plan<M: Operation, T: Number>(
    case: &Case,
    isa: Isa,
    threads: bool,
    variant: Variant,
    calls: Vec<Call<'_, T>>,
    wake: Duration,
    repeats: u64,
) -> Duration {
    let &Case { rows, cols, .. } = case;
    let plan = plan::plan::<M>(case, isa, threads, variant);
    match variant {
        Variant::Default | Variant::Ordinary | Variant::Streaming | Variant::Steps | Variant::L2 => {
            repeat(calls, wake, repeats, |c| M::forward(&plan, c))
        }
        Variant::InPlace => repeat(calls, wake, repeats, |c| {
            let [gamma, beta] = c.affine;
            M::beta(plan.call_in_place(&mut *c.y).gamma(gamma), beta).run().expect(VALID);
        }),
        Variant::NoAffine => repeat(calls, wake, repeats, |c| plan.call(c.x).to(&mut *c.y).expect(VALID)),
        Variant::Stats => repeat(calls, wake, repeats, |c| {
            let [gamma, beta] = c.affine;
            let call = M::beta(plan.call(c.x).gamma(gamma), beta);
            M::mean_to(call, &mut *c.mean).rstd_to(&mut *c.rstd).to(&mut *c.y).expect(VALID);
        }),
        Variant::Sum => repeat(calls, wake, repeats, |c| {
            let [gamma, beta] = c.affine;
            let call = plan.call(c.x).residual(c.residual).sum_to(&mut *c.s).gamma(gamma);
            M::beta(call, beta).to(&mut *c.y).expect(VALID);
        }),
        Variant::UnroundedSums => repeat(calls, wake, repeats, |c| {
            let [gamma, beta] = c.affine;
            let call = plan.call(c.x).residual(c.z).sum_to(&mut *c.s).gamma(gamma);
            M::beta(call, beta).to(&mut *c.y).expect(VALID);
        }),
        Variant::SumF32 => repeat(calls, wake, repeats, |c| {
            let [gamma, beta] = c.affine;
            let call = plan.call(c.x).residual(c.wide_residual).sum_to(&mut *c.wide_s).gamma(gamma);
            M::beta(call, beta).to(&mut *c.y).expect(VALID);
        }),
        Variant::Mixed => repeat(calls, wake, repeats, |c| {
            let [gamma, beta] = c.mixed;
            M::beta(plan.call(c.x).gamma(gamma), beta).to(&mut *c.y).expect(VALID);
        }),
        Variant::Qk => repeat(calls, wake, repeats, |c| {
            let [gamma, beta] = c.affine;
            let queries = RowsMut::strided(&mut *c.packed, rows, PACKED * cols);
            M::beta(plan.call_in_place(queries).gamma(gamma), beta).run().expect(VALID);
        }),
        Variant::QAndK => {
            let plan = several::plan_of_heads(plan);
            repeat(calls, wake, repeats, |c| several::heads(&plan, c))
        }
        Variant::QAndKTwoCalls => repeat(calls, wake, repeats, |c| several::heads_in_two_calls(&plan, c)),
        Variant::SecondY => repeat(calls, wake, repeats, |c| several::second(&plan, c)),
        Variant::SecondYTwoCalls => repeat(calls, wake, repeats, |c| several::second_in_two_calls(&plan, c)),
        Variant::Adaptive => {
            let plan = plan.with_groups(GROUPS, rows / GROUPS).expect(VALID).with_offset(1.0);
            repeat(calls, wake, repeats, |c| {
                let [gamma, beta] = c.grouped;
                M::beta(plan.call(c.x).gamma(gamma), beta).to(&mut *c.y).expect(VALID);
            })
        }
        Variant::ChannelsFirst => {
            let pixels = case.images.expect("a case of images").pixels;
            repeat(calls, wake, repeats, |c| {
                let [gamma, beta] = c.affine;
                M::beta(plan.call(c.x).gamma(gamma), beta).channels_first(pixels).to(&mut *c.y).expect(VALID);
            })
        }
        Variant::Silu | Variant::SiluBefore => {
            let (run, gate) = (gated::fused::<M, T>(), variant.gate().expect("they have gates"));
            repeat(calls, wake, repeats, |c| run(&plan, gate, c))
        }
        Variant::I8 | Variant::Q8_0 => {
            let (run, scheme) = (quantized::fused::<M, T>(), variant.scheme().expect("they quantize"));
            repeat(calls, wake, repeats, |c| run(&plan, &scheme, c))
        }
        Variant::I8TwoSteps | Variant::Q8_0TwoSteps => {
            let (quantize, scheme) = (quantized::vectorized::<T>(variant), variant.scheme().expect("they quantize"));
            repeat(calls, wake, repeats, |c| {
                M::forward(&plan, c);
                quantized::second_step(quantize, &scheme, cols, c);
            })
        }
        Variant::Recomputed | Variant::DxOnly | Variant::ParamsOnly | Variant::Ds | Variant::Allocating => {
            panic!("{} is of the backward pass", variant.name())
        }
        Variant::Activation | Variant::ChannelsLast => panic!("{} is of GroupNorm", variant.name()),
    }
}

/// Repeats `run`. What to run is chosen outside of this loop, since a call of eight elements takes a few nanoseconds.
pub(crate) fn repeat<'a, T: Number>(
    mut calls: Vec<Call<'a, T>>,
    wake: Duration,
    repeats: u64,
    mut run: impl FnMut(&mut Call<'a, T>),
) -> Duration {
    measure::repeat(wake, repeats, || calls.iter_mut().for_each(|call| run(black_box(call))))
}
