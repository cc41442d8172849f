//! The forced tier is the one that runs. `LANENORM_ISA` is read once per process, so this test runs itself anew for
//! each tier, and the child reports its tier.
//!
//! The label alone would prove little. So the child runs a kernel of its own by the plan's `Isa`, the only dispatch:
//! the kernel is entered in the function compiled for the tier, and reports the token type and the number of lanes that
//! it is given there. The child then runs the plan, and the result must have the bits of the scalar tier.

#[path = "support/this_program.rs"]
mod this_program;

use std::process::Output;

use lanenorm::kernels::simd::{Kernel, Lanes};
use lanenorm::{Error, Isa, LayerNorm, Parallelism, RmsNorm, Tier};
use this_program::this_program;

/// A kernel that reports the token that it is given.
struct Probe;

impl Kernel for Probe {
    type Output = (&'static str, usize);

    #[inline(always)]
    fn run<S: Lanes>(self, _: S) -> Self::Output {
        (std::any::type_name::<S>(), S::F32_LANES)
    }
}

/// The right report of a probe: the end of the token's type name, and the number of f32 in a register.
fn evidence(tier: Tier) -> (&'static str, usize) {
    match tier {
        Tier::Scalar => ("::Scalar128b", 4),
        Tier::Neon => ("::Neon", 4),
        Tier::Avx2 => ("::V3", 8),
        Tier::Avx512 => ("::V4", 16),
        _ => panic!("{tier} is new: say what proves it"),
    }
}

fn available() -> String {
    Isa::available().map(|isa| format!("{isa} ")).collect()
}

/// Not a test: the tests below run this in a process of its own.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn child() {
    println!("available: {}", available());
    let plan = LayerNorm::new(100, 1e-5).unwrap_or_else(|e| panic!("{e}")).with_parallelism(Parallelism::Serial);
    let (token, lanes) = plan.isa().run(Probe);
    println!("plan: {}, token: {token}, lanes: {lanes}.", plan.isa());
    println!("best: {}.", Isa::best());
    let x: Vec<f32> = (0..300).map(|i| (i * 37 % 101) as f32).collect();
    let bits = |forward: &dyn Fn(&mut [f32]) -> Result<(), Error>| {
        let mut y = vec![0.0f32; x.len()];
        forward(&mut y).expect("a valid call");
        y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let layer_norm = |plan: LayerNorm| bits(&|y| plan.forward(&x, None, None, y));
    assert_eq!(layer_norm(plan), layer_norm(plan.with_isa(Isa::SCALAR)));
    let rms_plan = RmsNorm::new(100, 1e-5).expect("the same tier as above");
    assert_eq!(rms_plan.isa(), plan.isa());
    let rms_norm = |plan: RmsNorm| bits(&|y| plan.forward(&x, None, y));
    assert_eq!(rms_norm(rms_plan), rms_norm(rms_plan.with_isa(Isa::SCALAR)));
    println!("done");
}

fn run_child(isa: Option<&str>) -> (Output, String) {
    let mut command = this_program();
    command.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]).env_remove("LANENORM_ISA");
    if let Some(name) = isa {
        command.env("LANENORM_ISA", name);
    }
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let same_tiers = text.contains(&format!("available: {}\n", available()));
    assert!(
        same_tiers,
        "the child sees another processor; is there an emulator that CARGO_TARGET_*_RUNNER does not name?\n{text}"
    );
    (output, text)
}

fn assert_runs_on(tier: Tier, asked: Option<&str>) {
    let (output, text) = run_child(asked);
    assert!(output.status.success() && text.contains("done"), "{asked:?}: {text}");
    assert!(text.contains(&format!("plan: {tier}, ")), "{asked:?}: {text}");
    assert!(text.contains(&format!("best: {}.", Isa::best())), "kernels read no environment: {asked:?}: {text}");
    let (token, lanes) = evidence(tier);
    assert!(text.contains(&format!("{token}, lanes: {lanes}.")), "{asked:?}: {text}");
}

#[test]
fn a_forced_tier_is_the_one_that_runs() {
    for isa in Isa::available() {
        assert_runs_on(isa.tier(), Some(isa.tier().name()));
    }
}

#[test]
fn without_force_the_widest_tier_runs() {
    assert_runs_on(Isa::best().tier(), None);
}

#[test]
fn a_tier_that_is_absent_fails_loudly() {
    for tier in Tier::ALL.into_iter().filter(|&t| Isa::new(t).is_none()) {
        let (output, text) = run_child(Some(tier.name()));
        assert!(!output.status.success(), "{tier} was accepted: {text}");
        let message = format!("the {tier} tier is not available here; the widest that is: {}", Isa::best());
        assert!(text.contains(&message), "{text}");
    }
}

#[test]
fn a_name_that_is_no_tier_fails_loudly() {
    for name in ["sse9", "", "AVX2", " scalar"] {
        let (output, text) = run_child(Some(name));
        assert!(!output.status.success(), "\"{name}\" was accepted: {text}");
        assert!(text.contains(&format!("LANENORM_ISA is \"{name}\", expected scalar")), "{text}");
    }
}

#[test]
fn plans_on_a_chosen_tier_run_on_it() {
    for isa in Isa::available() {
        let plan = LayerNorm::new(4, 0.0).expect("a valid eps").with_isa(isa);
        let (token, lanes) = plan.isa().run(Probe);
        let expected = evidence(isa.tier());
        assert!(token.ends_with(expected.0) && lanes == expected.1, "{isa}: {token}, {lanes} lanes");
    }
}
