//! Whatever can be timed: the copies, the baselines, and plans of every tier with their options.

use std::hint::black_box;
use std::time::{Duration, Instant};

use lanenorm::kernels::table::{self, Dtype, Op};
use lanenorm::{Isa, LayerNorm, Parallelism, StatsMut, Store};

use super::baselines::{BASELINES, Baseline, copy_threads};
use super::case::Case;
use super::placement::{Call, Placement};

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
}

/// Something that is timed.
#[derive(Clone, Copy)]
pub(crate) enum Contender {
    Copy { threads: bool },
    Baseline(Baseline),
    Plan { isa: Isa, threads: bool, variant: Variant },
}

/// The tiers of the kernel table that this machine has, narrowest first.
pub(crate) fn tiers() -> impl Iterator<Item = Isa> {
    let ours = table::kernels().filter(|k| (k.op, k.dtype) == (Op::LayerNorm, Dtype::F32));
    ours.filter_map(|kernel| Isa::new(kernel.tier))
}

/// The contenders of the default run: `best` is the default tier.
pub(crate) fn few(case: &Case, best: Isa) -> Vec<Contender> {
    let mut all = common();
    let mut add = |threads, variant| all.push(Contender::Plan { isa: best, threads, variant });
    add(true, Variant::Default);
    if case.elements * size_of::<f32>() >= LARGE_BYTES {
        add(false, Variant::Ordinary);
        add(false, Variant::Streaming);
    }
    if ["512x768", "4096x4096"].contains(&case.name.as_str()) {
        add(false, Variant::InPlace);
    }
    all
}

/// The contenders of the whole grid.
pub(crate) fn many() -> Vec<Contender> {
    use Variant::{Default, InPlace, NoAffine, Ordinary, Stats, Streaming};
    let mut all = common();
    for isa in tiers() {
        all.push(Contender::Plan { isa, threads: true, variant: Default });
        for variant in [Ordinary, Streaming, InPlace, NoAffine, Stats] {
            all.extend([false, true].map(|threads| Contender::Plan { isa, threads, variant }));
        }
    }
    all
}

fn common() -> Vec<Contender> {
    let mut all = vec![Contender::Copy { threads: false }, Contender::Copy { threads: true }];
    all.extend(BASELINES.map(Contender::Baseline));
    all.extend(tiers().map(|isa| Contender::Plan { isa, threads: false, variant: Variant::Default }));
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
                let eps = case.eps as f32;
                repeat(calls, repeats, |c| run(c.x, case.cols, c.gamma, c.beta, eps, c.y))
            }
            Self::Plan { isa, threads, variant } => {
                let parallelism = if threads { Parallelism::Auto } else { Parallelism::Serial };
                let plan = LayerNorm::new(case.cols, case.eps).expect("the cases are valid");
                run_plan(plan.with_isa(isa).with_parallelism(parallelism), variant, calls, repeats)
            }
        }
    }
}

fn run_plan(plan: LayerNorm, variant: Variant, calls: Vec<Call<'_>>, repeats: u64) -> Duration {
    const VALID: &str = "the lengths fit";
    let forward = |plan: LayerNorm, calls| {
        repeat(calls, repeats, |c| plan.forward(c.x, Some(c.gamma), Some(c.beta), &mut *c.y).expect(VALID))
    };
    match variant {
        Variant::Default => forward(plan, calls),
        Variant::Ordinary => forward(plan.with_store(Store::Ordinary), calls),
        Variant::Streaming => forward(plan.with_store(Store::Streaming), calls),
        Variant::InPlace => repeat(calls, repeats, |c| {
            plan.forward_in_place(&mut *c.y, Some(c.gamma), Some(c.beta)).expect(VALID);
        }),
        Variant::NoAffine => repeat(calls, repeats, |c| plan.forward(c.x, None, None, &mut *c.y).expect(VALID)),
        Variant::Stats => repeat(calls, repeats, |c| {
            let stats = StatsMut { mean: Some(c.mean), rstd: Some(c.rstd), ..StatsMut::default() };
            plan.forward_with_stats(c.x, Some(c.gamma), Some(c.beta), &mut *c.y, stats).expect(VALID);
        }),
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
