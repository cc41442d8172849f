//! How much of the stack the loops take. `stack.rs` places that much within a page.
//!
//! The check is of forward passes of f32 and f64 on the SIMD tiers. Only SIMD tiers stream. Rows of 16 bits keep 8 KiB
//! of gamma and beta on the stack, and backward passes have frames within frames: both are longer than fits a page with
//! room to choose from.

use std::collections::HashMap;

use crate::asm::{self, Function};
use crate::names::{self, Tier};
use crate::repository::repository;

/// The functions that look for a place on the stack, and the functions that these call there, unless they have been
/// inlined.
const ROOTS: [&str; 4] = [
    "lanenorm_kernels::stack::within_a_page::",
    "lanenorm_kernels::loops::choice::run_job::",
    "lanenorm_kernels::loops::choice::run_some::",
    "lanenorm_kernels::loops::columns::run_columns::",
];

fn is_root(name: &str) -> bool {
    ROOTS.iter().any(|root| name.starts_with(root)) && !name.contains("f16") && !name.contains("RunParts")
}

/// The number that `stack.rs` has for `FRAME`.
pub(crate) fn allowed() -> usize {
    let path = repository().join("kernels/src/stack.rs");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (_, rest) = text.split_once("const FRAME: usize = ").expect("a constant FRAME");
    rest.split(';').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// The loop over rows that are transposed, and what quantizes rows: these stream nothing.
const NEVER_STREAMS: [&str; 2] = ["lanenorm_kernels::loops::transposed::", "lanenorm_kernels::quants::"];

/// The deepest chain of calls from a function through kernels, in bytes, and the names along it. Slow paths are not
/// part of it: there nothing waits for a streaming store.
fn depth<'a>(
    function: &Function<'a>,
    all: &HashMap<&'a str, &Function<'a>>,
    path: &mut Vec<&'a str>,
) -> (usize, String) {
    path.push(function.symbol);
    let mut deepest = (0, String::new());
    for symbol in function.references() {
        if let Some(callee) = all.get(symbol).filter(|_| !path.contains(&symbol)) {
            deepest = deepest.max(depth(callee, all, path));
        }
    }
    path.pop();
    let name = names::demangle(function.symbol);
    let name = names::kernel(&name, "x86_64").map_or(name, |(tier, kernel)| format!("{} {kernel}", tier.name()));
    (function.frame() + deepest.0, format!("{name} ({}), {}", function.frame(), deepest.1))
}

/// The functions that take more than `allowed` bytes.
pub(crate) fn examine(text: &str, allowed: usize) -> Vec<String> {
    let functions = asm::functions(text);
    let concerned = |f: &&Function<'_>| {
        let name = names::demangle(f.symbol);
        let is_kernel = names::kernel(&name, "x86_64").is_some_and(|(tier, _)| tier != Tier::Scalar);
        is_kernel && !NEVER_STREAMS.iter().any(|module| name.contains(module)) || is_root(&name)
    };
    let all: HashMap<_, _> = functions.iter().filter(concerned).map(|f| (f.symbol, f)).collect();
    let roots = functions.iter().filter(|f| is_root(&names::demangle(f.symbol)));
    let depths: Vec<_> = roots.map(|root| depth(root, &all, &mut Vec::new())).collect();
    let Some((most, way)) = depths.iter().max() else {
        return vec!["there is no function that the loops run in".into()];
    };
    println!("frames of {most} bytes at most, of {allowed}: {way}");
    let beyond = depths.iter().filter(|(bytes, _)| *bytes > allowed);
    beyond.map(|(bytes, way)| format!("frames of {bytes} bytes, {allowed} are FRAME in stack.rs: {way}")).collect()
}

mod tools {
    use super::*;

    const CALLS: &str = "
\t.type\t_RINvNtCs1_16lanenorm_kernels5stack13within_a_pagehE,@function
_RINvNtCs1_16lanenorm_kernels5stack13within_a_pagehE:
\tpushq\t%rbp
\tmovq\t%rsp, %rbp
\tpushq\t%rbx
\tandq\t$-64, %rsp
\tsubq\t$1024, %rsp
\tcallq\t*%rax
\taddq\t$1024, %rsp
.Lfunc_end0:
";

    #[test]
    fn frames_are_added_up() {
        let functions = asm::functions(CALLS);
        assert_eq!(functions[0].frame(), 8 + 2 * 8 + 56 + 1024);
        assert_eq!(examine(CALLS, 1104), [""; 0]);
        assert_eq!(examine(CALLS, 1103).len(), 1);
        assert_eq!(examine("", 4096).len(), 1, "nothing is not enough");
        assert!((1024..4096).contains(&allowed()));
    }
}
