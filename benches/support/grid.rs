//! The contenders of the default run, and of the whole grid.

use lanenorm::Isa;
use lanenorm::kernels::table::{self, Dtype, Op};

use super::baselines::{Baseline, baselines};
use super::case::Case;
use super::contender::Contender;
use super::variant::Variant;

/// Stores past the caches are timed for outputs of at least this many bytes.
const LARGE_BYTES: usize = 8 << 20;

/// The variants that the default run times, beside the choices of stores and the variants of images. With a variant go
/// the same in two steps or calls, and its baseline, if it has them.
const VARIANTS: [(Op, Dtype, &str, &[Variant]); 22] = {
    use Variant::{
        Adaptive, Allocating, Ds, DxOnly, I8, InPlace, L2, Mixed, NoAffine, ParamsOnly, Q8_0, QAndK, Qk, Recomputed,
        SecondY, Silu, SiluBefore, Steps, Sum, SumF32, UnroundedSums,
    };
    const OF_BACKWARD: &[Variant] = &[InPlace, NoAffine, Recomputed, DxOnly, ParamsOnly, Ds, Allocating];
    [
        (Op::LayerNorm, Dtype::F32, "512x768", &[InPlace, NoAffine, Sum, Adaptive, SecondY, I8, Q8_0]),
        (Op::LayerNorm, Dtype::Bf16, "512x768", &[Sum, Steps, Mixed, SecondY, I8, Q8_0]),
        (Op::LayerNorm, Dtype::F32, "8x4096", &[I8, Q8_0]),
        (Op::LayerNorm, Dtype::Bf16, "8x4096", &[Steps, I8, Q8_0]),
        (Op::LayerNorm, Dtype::F32, "4096x4096", &[InPlace, Sum, SecondY, I8]),
        (Op::LayerNorm, Dtype::Bf16, "4096x4096", &[Sum]),
        (Op::RmsNorm, Dtype::F32, "512x768", &[InPlace, Sum, Silu, SiluBefore, I8, Q8_0]),
        (Op::RmsNorm, Dtype::Bf16, "512x768", &[Sum, SumF32, UnroundedSums, Steps, Silu, SiluBefore, I8, Q8_0]),
        (Op::RmsNorm, Dtype::F32, "32x128", &[QAndK]),
        (Op::RmsNorm, Dtype::F32, "512x128", &[L2, QAndK]),
        (Op::RmsNorm, Dtype::F32, "512x4096", &[L2]),
        (Op::RmsNorm, Dtype::F32, "65536x128", &[InPlace, Qk, QAndK]),
        (Op::RmsNorm, Dtype::Bf16, "65536x128", &[InPlace, Qk, QAndK]),
        (Op::RmsNorm, Dtype::F32, "8x4096", &[Silu, SiluBefore, I8, Q8_0]),
        (Op::RmsNorm, Dtype::Bf16, "8x4096", &[Steps, Silu, SiluBefore, I8, Q8_0]),
        (Op::RmsNorm, Dtype::F32, "4096x4096", &[InPlace, Sum, I8, Q8_0]),
        (Op::RmsNorm, Dtype::Bf16, "4096x4096", &[I8, Q8_0]),
        (Op::LayerNormBackward, Dtype::F32, "512x768", OF_BACKWARD),
        (Op::LayerNormBackward, Dtype::Bf16, "512x768", &[Mixed, Recomputed, Ds]),
        (Op::LayerNormBackward, Dtype::F32, "65536x64", &[Recomputed]),
        (Op::LayerNormBackward, Dtype::F32, "4096x4096", &[InPlace, Recomputed, Ds]),
        (Op::RmsNormBackward, Dtype::F32, "512x768", &[InPlace, Recomputed, Ds]),
    ]
};

/// The variants of images, all of which the default run times.
const OF_IMAGES: [Variant; 3] = [Variant::ChannelsFirst, Variant::Activation, Variant::ChannelsLast];

/// The tiers of the kernel table that this machine has, narrowest first.
pub(crate) fn tiers(op: Op, dtype: Dtype) -> impl Iterator<Item = Isa> {
    let ours = table::kernels().filter(move |k| (k.op, k.dtype) == (op, dtype));
    ours.filter_map(|kernel| Isa::new(kernel.tier))
}

/// The contenders of the default run: `best` is the default tier.
pub(crate) fn few(case: &Case, best: Isa) -> Vec<Contender> {
    let mut all = common(case);
    let mut add = |threads, variant| all.push(Contender::Plan { isa: best, threads, variant });
    if case.dtype == Dtype::F32 {
        add(true, Variant::Default);
        if case.bytes() >= LARGE_BYTES {
            add(false, Variant::Ordinary);
            add(false, Variant::Streaming);
        }
    }
    for (op, dtype, name, variants) in VARIANTS {
        if (op, dtype, name) == (case.op, case.dtype, case.name.as_str()) {
            variants.iter().for_each(|&variant| all.extend(with_rivals(best, variant)));
        }
    }
    for variant in OF_IMAGES.into_iter().filter(|v| v.fits(case)) {
        all.extend(with_rivals(best, variant));
    }
    if case.dtype == Dtype::F32 {
        all.push(Contender::Copy { threads: true });
    }
    all
}

/// A variant on one thread, and what it is compared with.
fn with_rivals(isa: Isa, variant: Variant) -> Vec<Contender> {
    let plan = |variant| Contender::Plan { isa, threads: false, variant };
    let mut all = vec![plan(variant)];
    if let Some(two_steps) = variant.in_two_steps() {
        all.push(plan(two_steps));
    }
    if variant.has_baseline() {
        all.push(naive(variant));
    }
    all
}

/// The scalar baseline of a variant.
fn naive(variant: Variant) -> Contender {
    Contender::Baseline { baseline: Baseline::Naive, variant }
}

/// The contenders of the whole grid.
pub(crate) fn many(case: &Case) -> Vec<Contender> {
    let mut all = common(case);
    all.push(Contender::Copy { threads: true });
    all.extend(Variant::ALL.into_iter().filter(|v| v.has_baseline() && v.fits(case)).map(naive));
    for isa in tiers(case.op, case.dtype) {
        all.push(Contender::Plan { isa, threads: true, variant: Variant::Default });
        for variant in Variant::ALL.into_iter().filter(|v| *v != Variant::Default && v.fits(case)) {
            // The second step has one thread and the default tier.
            if variant.has_two_steps() {
                if Ok(isa) == lanenorm::default_isa() {
                    all.push(Contender::Plan { isa, threads: false, variant });
                }
                continue;
            }
            all.extend([false, true].map(|threads| Contender::Plan { isa, threads, variant }));
        }
    }
    all
}

/// The contenders of both runs. The copy comes first.
fn common(case: &Case) -> Vec<Contender> {
    let mut all = vec![Contender::Copy { threads: false }];
    all.extend(baselines(case).iter().map(|&baseline| Contender::Baseline { baseline, variant: Variant::Default }));
    let plan = |isa| Contender::Plan { isa, threads: false, variant: Variant::Default };
    all.extend(tiers(case.op, case.dtype).map(plan));
    all
}
