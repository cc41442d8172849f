//! Whatever can be timed: the copies, the baselines, and plans of every tier with their options.

use std::hint::black_box;
use std::time::{Duration, Instant};

use lanenorm::kernels::table::{self, Dtype, Op};
use lanenorm::{Isa, LayerNorm, Parallelism, RmsNorm, Store};

use super::baselines::{Baseline, Run, baselines, copy_threads};
use super::case::Case;
use super::placement::{Call, Placement};
use super::plan::Plan;

/// The outputs from which on stores past the caches are worth a look.
const LARGE_BYTES: usize = 8 << 20;

/// How a plan differs from the default.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    Default,
    Ordinary,
    Streaming,
    InPlace,
    NoAffine,
    Stats,
    /// x is the sum of two tensors, which is written too.
    Sum,
}

/// Something that is timed.
#[derive(Clone, Copy)]
pub(crate) enum Contender {
    Copy { threads: bool },
    Baseline(Baseline),
    Plan { isa: Isa, threads: bool, variant: Variant },
}

/// The tiers of the kernel table that this machine has, narrowest first.
pub(crate) fn tiers(op: Op) -> impl Iterator<Item = Isa> {
    let ours = table::kernels().filter(move |k| (k.op, k.dtype) == (op, Dtype::F32));
    ours.filter_map(|kernel| Isa::new(kernel.tier))
}

/// The contenders of the default run: `best` is the default tier.
pub(crate) fn few(case: &Case, best: Isa) -> Vec<Contender> {
    let mut all = common(case.op);
    let mut add = |threads, variant| all.push(Contender::Plan { isa: best, threads, variant });
    add(true, Variant::Default);
    if case.elements * size_of::<f32>() >= LARGE_BYTES {
        add(false, Variant::Ordinary);
        add(false, Variant::Streaming);
    }
    if ["512x768", "4096x4096"].contains(&case.name.as_str()) {
        add(false, Variant::InPlace);
        add(false, Variant::Sum);
    }
    all
}

/// The contenders of the whole grid.
pub(crate) fn many(op: Op) -> Vec<Contender> {
    use Variant::{Default, InPlace, NoAffine, Ordinary, Stats, Streaming, Sum};
    let mut all = common(op);
    for isa in tiers(op) {
        all.push(Contender::Plan { isa, threads: true, variant: Default });
        for variant in [Ordinary, Streaming, InPlace, NoAffine, Stats, Sum] {
            all.extend([false, true].map(|threads| Contender::Plan { isa, threads, variant }));
        }
    }
    all
}

fn common(op: Op) -> Vec<Contender> {
    let mut all = vec![Contender::Copy { threads: false }, Contender::Copy { threads: true }];
    all.extend(baselines(op).map(Contender::Baseline));
    all.extend(tiers(op).map(|isa| Contender::Plan { isa, threads: false, variant: Variant::Default }));
    all
}

impl Contender {
    /// Who it is: the name of a tier or of a baseline.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Copy { .. } => "copy",
            Self::Baseline(b) => b.name,
            Self::Plan { isa, .. } => isa.tier().name(),
        }
    }

    /// What distinguishes it from others of the same name: empty by default.
    pub(crate) fn options(self) -> String {
        let variant = match self {
            Self::Plan { variant, .. } => match variant {
                Variant::Default => None,
                Variant::Ordinary => Some("ordinary"),
                Variant::Streaming => Some("streaming"),
                Variant::InPlace => Some("in_place"),
                Variant::NoAffine => Some("no_affine"),
                Variant::Stats => Some("stats"),
                Variant::Sum => Some("sum"),
            },
            Self::Copy { .. } | Self::Baseline(_) => None,
        };
        let threads = self.threads().then_some("threads");
        variant.into_iter().chain(threads).collect::<Vec<_>>().join("+")
    }

    /// Whether it uses all threads of the pool.
    pub(crate) fn threads(self) -> bool {
        match self {
            Self::Copy { threads } | Self::Plan { threads, .. } => threads,
            Self::Baseline(_) => false,
        }
    }

    /// Whether it writes past the caches whatever the size.
    pub(crate) fn streams(self) -> bool {
        matches!(self, Self::Plan { variant: Variant::Streaming, .. })
    }

    /// The time of `repeats` runs over the case, after `warm` others. With threads, the caller is one of the pool, as in a
    /// program that is parallel elsewhere too: to wake a pool from outside takes longer than most of these calls.
    pub(crate) fn time(self, case: &Case, placement: &mut Placement, warm: u64, repeats: u64) -> Duration {
        let mut time = || {
            self.time_here(case, placement, warm);
            self.time_here(case, placement, repeats)
        };
        if self.threads() { rayon::scope(|_| time()) } else { time() }
    }

    fn time_here(self, case: &Case, placement: &mut Placement, repeats: u64) -> Duration {
        let calls = placement.calls();
        match self {
            Self::Copy { threads: false } => repeat(calls, repeats, |c| c.y.copy_from_slice(c.x)),
            Self::Copy { threads: true } => {
                repeat(calls, repeats, |c| copy_threads(c.x, c.y, rayon::current_num_threads()))
            }
            Self::Baseline(Baseline { run, .. }) => {
                let (cols, eps) = (case.cols, case.eps as f32);
                match run {
                    Run::LayerNorm(run) => repeat(calls, repeats, |c| run(c.x, cols, c.gamma, c.beta, eps, c.y)),
                    Run::RmsNorm(run) => repeat(calls, repeats, |c| run(c.x, cols, c.gamma, eps, c.y)),
                }
            }
            Self::Plan { isa, threads, variant } => {
                let time = match case.op {
                    Op::LayerNorm => time_plan::<LayerNorm>,
                    Op::RmsNorm => time_plan::<RmsNorm>,
                    op => panic!("the benchmark has no plan for {}", op.name()),
                };
                time(case, isa, threads, variant, calls, repeats)
            }
        }
    }
}

fn time_plan<P: Plan>(
    case: &Case,
    isa: Isa,
    threads: bool,
    variant: Variant,
    calls: Vec<Call<'_>>,
    repeats: u64,
) -> Duration {
    let parallelism = if threads { Parallelism::Auto } else { Parallelism::Serial };
    let store = match variant {
        Variant::Ordinary => Store::Ordinary,
        Variant::Streaming => Store::Streaming,
        Variant::Default | Variant::InPlace | Variant::NoAffine | Variant::Stats | Variant::Sum => Store::Auto,
    };
    let plan = P::new(case, isa, parallelism, store);
    match variant {
        Variant::Default | Variant::Ordinary | Variant::Streaming => repeat(calls, repeats, |c| plan.forward(c)),
        Variant::InPlace => repeat(calls, repeats, |c| plan.forward_in_place(c)),
        Variant::NoAffine => repeat(calls, repeats, |c| plan.forward_without_affine(c)),
        Variant::Stats => repeat(calls, repeats, |c| plan.forward_with_stats(c)),
        Variant::Sum => repeat(calls, repeats, |c| plan.forward_sum(c)),
    }
}

/// The choice of what to run is made outside of this loop: a call of eight elements takes a few nanoseconds.
fn repeat(mut calls: Vec<Call<'_>>, repeats: u64, mut run: impl FnMut(&mut Call<'_>)) -> Duration {
    let start = Instant::now();
    for _ in 0..repeats {
        for call in &mut calls {
            run(black_box(call));
        }
    }
    start.elapsed()
}
