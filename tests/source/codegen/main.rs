//! Reads the assembly that the compiler makes of the kernels. Other tests check the results of the tiers. These check
//! how the tiers compute them:
//!
//! - main loops work on whole registers of their tier, call nothing, and touch the stack only as [`limits`] allows;
//! - functions of a SIMD tier call only one another and the slow paths: no `fma` of libm, and no helper that ought to
//!   have been inlined, since such a helper lacks the instructions of the tier;
//! - the functions out of line, the calls of kernels, and the number of main loops are as in the snapshot beside this
//!   file;
//! - on x86-64, the frames of the loops, with what calls them, are within the `FRAME` of `stack.rs`.
//!
//! It builds the kernels anew, so it is not one of the everyday tests:
//!
//! ```sh
//! cargo test --release --test codegen -- --ignored --nocapture      # lists all kernels with their main loops
//! LANENORM_UPDATE_CODEGEN=1 cargo test --release --test codegen -- --ignored
//! ```
//!
//! `LANENORM_CODEGEN_TARGET` names another target than the host, and `LANENORM_CODEGEN_RUSTC` another compiler.

mod asm;
mod frames;
mod limits;
mod names;
#[path = "../../support/repository.rs"]
mod repository;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use asm::{Function, Loop};
use names::Tier;
use repository::repository;
use snapshot::Snapshot;

/// The findings in the assembly of one target.
#[derive(Default)]
struct Report {
    snapshot: Snapshot,
    failures: Vec<String>,
}

/// A kernel compiled for a tier.
struct Compiled<'a> {
    tier: Tier,
    kernel: String,
    function: Function<'a>,
}

/// Whether a loop is a main loop, where the time goes: a good part of its instructions are arithmetic on whole
/// registers, and it calls nothing. Loops of 16-bit types need a smaller part, since they convert too. Loops of tails
/// have less arithmetic, or call memcpy.
fn is_main(kernel: &str, of: &Loop) -> bool {
    let of_16_bits = kernel.contains("f16");
    let (least, part) = if of_16_bits { (7, 9) } else { (4, 5) };
    of.packed >= least && of.packed * part >= of.instructions && of.calls == 0
}

fn examine(text: &str, arch: &str) -> Report {
    let mut report = Report::default();
    let objects = asm::objects(text);
    if arch == "x86_64" {
        report.failures.extend(frames::examine(text, frames::allowed()));
    }
    for function in asm::functions(text) {
        let name = names::demangle(function.symbol);
        match names::kernel(&name, arch) {
            Some((tier, kernel)) => examine_kernel(&mut report, &Compiled { tier, kernel, function }, &objects),
            None => {
                if names::TOKENS.iter().any(|token| name.contains(token)) {
                    report.failures.push(format!(
                        "{name} is out of line, and so lacks the instructions of its tier: it wants #[inline(always)]"
                    ));
                }
                if names::is_ours(&name) {
                    report.snapshot.functions.insert(names::family(&name));
                }
            }
        }
    }
    report
}

fn examine_kernel(report: &mut Report, compiled: &Compiled<'_>, objects: &BTreeSet<&str>) {
    let Compiled { tier, kernel, function } = compiled;
    let here = format!("{} {kernel}", tier.name());
    let calls = report.snapshot.calls.entry(names::family(&here)).or_default();
    for symbol in function.references().difference(objects) {
        let name = names::demangle(symbol);
        let callee = match names::kernel(&name, "") {
            Some((other, callee)) if other == *tier => {
                calls.insert(names::family(&callee));
                continue;
            }
            _ => names::family(&name),
        };
        if *tier != Tier::Scalar && !limits::may_be_called(&callee) {
            report.failures.push(format!("{here} calls {callee}, which lacks the instructions of the tier"));
        }
        calls.insert(callee);
    }
    if *tier == Tier::Scalar {
        for register in ["%ymm", "%zmm"].into_iter().filter(|register| function.mentions(register)) {
            report.failures.push(format!("{here} uses {register}, which not every processor has"));
        }
        return;
    }
    let loops = function.innermost_loops(tier.registers());
    let main: Vec<&Loop> = loops.iter().filter(|of| is_main(kernel, of)).collect();
    let (allowed, why) = limits::stack(*tier, kernel);
    for Loop { instructions, packed, stack, .. } in &main {
        println!("{here}: {instructions} instructions, {packed} of them packed arithmetic, {stack} touch the stack");
        if *stack > allowed {
            report.failures.push(format!(
                "{here}: a main loop of {instructions} instructions touches the stack {stack} times, allowed: {allowed} ({why})"
            ));
        }
    }
    report.snapshot.loops.insert(here, main.len());
}

/// Compiles the kernels crate to assembly, and returns it.
fn compile(target: Option<&str>, rustc: Option<&str>) -> String {
    // Where users build too: the dependencies have the same features in the C library, and are built once for both.
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the folder of what is built");
    let file = target_dir.join(target.unwrap_or_default()).join("release/lanenorm_kernels.s");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(repository()).args(["rustc", "--release", "-p", "lanenorm-kernels", "--lib"]);
    cargo.arg("--target-dir").arg(target_dir);
    target.iter().for_each(|target| _ = cargo.args(["--target", target]));
    cargo.args(["--", "-Csymbol-mangling-version=v0"]).arg(format!("--emit=asm={}", file.display()));
    // Users get code without these variables of the shell.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
        cargo.env_remove(variable);
    }
    rustc.iter().for_each(|rustc| _ = cargo.env("RUSTC", rustc));
    let status = cargo.status().unwrap_or_else(|e| panic!("{cargo:?}: {e}"));
    assert!(status.success(), "{cargo:?}: {status}");
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// The compiler's version and host.
fn version(rustc: Option<&str>) -> BTreeMap<String, String> {
    let rustc = rustc.map_or_else(|| std::env::var("RUSTC").unwrap_or("rustc".into()), Into::into);
    let output = Command::new(&rustc).arg("-vV").output().unwrap_or_else(|e| panic!("{rustc}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split_once(": ")).map(|(key, value)| (key.into(), value.into())).collect()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[test]
#[ignore = "builds the kernels anew"]
fn kernels_are_compiled_as_they_should_be() {
    let (target, rustc) = (variable("LANENORM_CODEGEN_TARGET"), variable("LANENORM_CODEGEN_RUSTC"));
    let (target, rustc) = (target.as_deref(), rustc.as_deref());
    let version = version(rustc);
    let arch = target.unwrap_or(&version["host"]).split('-').next().expect("an architecture");
    let Report { snapshot, mut failures } = examine(&compile(target, rustc), arch);
    let path = repository().join(format!("tests/source/codegen/{arch}.txt"));
    if variable("LANENORM_UPDATE_CODEGEN").is_some() {
        std::fs::write(&path, snapshot.to_text(&version["release"]))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    } else {
        let recorded = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        failures.extend(snapshot.differs_from(&recorded, &version["release"]));
    }
    assert!(failures.is_empty(), "{} findings on {arch}:\n{}", failures.len(), failures.join("\n"));
}

/// Tests of the tools of these checks.
mod tools {
    use super::*;

    const LOOP: &str = "
\t.type\tkernel,@function
kernel:
\tmovq\t%rsp, %rbp
\tleaq\t.LJTI0(%rip), %rax
.LBB0_1:
\txorl\t%eax, %eax
.LBB0_2:
\tvmovups\t(%rdi,%rax), %ymm0
\tvfmadd231ps\t%ymm1, %ymm2, %ymm0
\tvaddpd\t32(%rsp), %ymm0, %ymm0
\tvaddss\t%xmm0, %xmm1, %xmm1
\tvmovups\t%ymm0, -64(%rbp)
\tcallq\t*_RNv6helper@GOTPCREL(%rip)
\tjne\t.LBB0_2
\tjmp\t.LBB0_1
\tjmp\tother
.Lfunc_end0:
\tvaddps\t%ymm0, %ymm0, %ymm0
";

    #[test]
    fn loops_are_found_and_counted() {
        let functions = asm::functions(LOOP);
        assert_eq!(functions.len(), 1);
        let loops = functions[0].innermost_loops(Tier::Avx2.registers());
        assert_eq!(loops, [Loop { instructions: 7, packed: 2, stack: 2, calls: 1 }]);
        assert_eq!(functions[0].innermost_loops(Tier::Avx512.registers())[0].packed, 0);
        assert_eq!(functions[0].references().into_iter().collect::<Vec<_>>(), ["_RNv6helper", "other"]);
    }

    #[test]
    fn loops_of_neon_too() {
        let text = "\t.type f,@function\nf:\n.LBB1_1:\n\tfmla v0.4s, v1.4s, v2.4s\n\tfadd s0, s1, s2\n\tstr q0, [sp, #16]\n\tbl\tfmaf\n\tcbnz x8, .LBB1_1\n";
        let functions = asm::functions(text);
        let loops = functions[0].innermost_loops(Tier::Neon.registers());
        assert_eq!(loops, [Loop { instructions: 5, packed: 1, stack: 1, calls: 1 }]);
        assert_eq!(functions[0].references().into_iter().collect::<Vec<_>>(), ["fmaf"]);
    }

    #[test]
    fn names_are_those_of_kernels_and_families() {
        let entry = "<lanenorm_kernels::simd::tokens::Avx2>::vectorize::imp_fastcall::<lanenorm_kernels::simd::lanes::Entry<pulp::x86::v3::V3, \
                     lanenorm_kernels::loops::fused::Fused<half::bfloat::bf16, lanenorm_kernels::mean::Centered>>>";
        assert_eq!(names::kernel(entry, "x86_64"), Some((Tier::Avx2, "Fused<bf16, Centered>".into())));
        let job = "lanenorm_kernels::loops::choice::run_some::<half::bfloat::bf16, lanenorm_kernels::mean::Centered>";
        assert_eq!(names::kernel(job, "aarch64"), Some((Tier::Neon, "forward<bf16, Centered>".into())));
        let merge = "<lanenorm_kernels::ops::backward::merge::Merge<f64>>::run_on";
        assert_eq!(names::kernel(merge, "aarch64"), Some((Tier::Neon, "merge<f64>".into())));
        assert_eq!(names::kernel(merge, "x86_64"), None);
        let moments = "<lanenorm_kernels::ops::moments::RowMoments<half::binary16::f16>>::run_here::<lanenorm_kernels::mean::Centered>";
        assert_eq!(names::kernel(moments, "aarch64"), Some((Tier::Neon, "moments<f16, Centered>".into())));
        let dispatch = "<f64 as lanenorm_kernels::compile::Compiled<lanenorm_kernels::mean::Centered>>::merge";
        assert_eq!(names::kernel(dispatch, "aarch64"), None);
        assert_eq!(names::family(dispatch), "<T as compile::Compiled>::merge");
        assert_eq!(names::family("lanenorm_kernels::a::f::<g<u8>, 3>::{closure#0}"), "a::f::{closure#0}");
        assert!(names::is_ours(dispatch) && !names::is_ours("core::f::<lanenorm_kernels::G>"));
    }

    #[test]
    fn a_snapshot_differs_in_what_is_new_and_lost() {
        let mut snapshot = Snapshot::default();
        snapshot.functions.insert("f".into());
        snapshot.loops.insert("avx2 K<f32>".into(), 3);
        let text = snapshot.to_text("1.2.3");
        assert_eq!(snapshot.differs_from(&text, "1.2.3"), [""; 0]);
        snapshot.functions.insert("helper".into());
        snapshot.loops.insert("avx2 K<f32>".into(), 2);
        let found = snapshot.differs_from(&text, "1.2.4");
        assert_eq!(found[..2], ["new: function helper", "avx2 K<f32> has 2 main loops, expected at least 3"]);
        // Another compiler may make more loops, and fewer functions.
        snapshot.functions.clear();
        snapshot.loops.insert("avx2 K<f32>".into(), 4);
        assert_eq!(snapshot.differs_from(&text, "1.2.4"), [""; 0]);
        assert_eq!(snapshot.differs_from(&text, "1.2.3")[0], "gone: function f");
    }

    #[test]
    fn helpers_and_libm_may_not_be_called() {
        for callee in [
            "fma",
            "fmaf",
            "<pulp::Scalar128b as simd::lanes::F64Lanes>::fma_f64",
            "simd::scalar::fma_to_odd",
            "loops::job::finish",
        ] {
            assert!(!limits::may_be_called(callee), "{callee}");
        }
        assert!(limits::may_be_called("loops::job::rescue_row"));
    }
}
