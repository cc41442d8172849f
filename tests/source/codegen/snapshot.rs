//! A summary of one compilation, to be compared with the next.

use std::collections::{BTreeMap, BTreeSet};

/// The functions that are not inlined, and the loops.
#[derive(Default)]
pub(crate) struct Snapshot {
    /// The functions of the crate that are not kernels, without generic arguments.
    pub(crate) functions: BTreeSet<String>,
    /// The functions that each kernel calls on each tier, for any type.
    pub(crate) calls: BTreeMap<String, BTreeSet<String>>,
    /// The main loops of each kernel.
    pub(crate) loops: BTreeMap<String, usize>,
}

const HEAD: &str = "# rustc ";

impl Snapshot {
    fn lines(&self) -> BTreeSet<String> {
        let functions = self.functions.iter().map(|name| format!("function {name}"));
        let kernels = self.calls.keys().map(|kernel| format!("kernel {kernel}"));
        let calls = self
            .calls
            .iter()
            .flat_map(|(kernel, calls)| calls.iter().map(move |call| format!("call {kernel}: {call}")));
        functions.chain(kernels).chain(calls).collect()
    }

    pub(crate) fn to_text(&self, release: &str) -> String {
        let mut text = format!("{HEAD}{release}\n");
        for line in self.lines() {
            text += &format!("{line}\n");
        }
        for (kernel, loops) in &self.loops {
            text += &format!("loops {kernel}: {loops}\n");
        }
        text
    }

    /// The differences. Another compiler than the recorded one may inline more, but not less.
    pub(crate) fn differs_from(&self, recorded: &str, release: &str) -> Vec<String> {
        let recorded_release = recorded.lines().next().and_then(|line| line.strip_prefix(HEAD)).unwrap_or("unknown");
        let (mut lines, mut loops) = (BTreeSet::new(), BTreeMap::new());
        for line in recorded.lines().skip(1) {
            match line.strip_prefix("loops ").and_then(|line| line.rsplit_once(": ")) {
                Some((kernel, count)) => _ = loops.insert(kernel.to_owned(), count.parse::<usize>().unwrap_or(0)),
                None => _ = lines.insert(line.to_owned()),
            }
        }
        let same_compiler = recorded_release == release;
        let now = self.lines();
        let mut failures: Vec<String> = now.difference(&lines).map(|line| format!("new: {line}")).collect();
        if same_compiler {
            failures.extend(lines.difference(&now).map(|line| format!("gone: {line}")));
        }
        for (kernel, &before) in &loops {
            let now = self.loops.get(kernel).copied().unwrap_or(0);
            if now < before {
                failures.push(format!("{kernel} has {now} main loops, expected at least {before}"));
            }
        }
        failures.extend(
            self.loops
                .keys()
                .filter(|kernel| !loops.contains_key(*kernel))
                .map(|kernel| format!("new: loops of {kernel}")),
        );
        if !failures.is_empty() {
            failures.push(format!(
                "The snapshot was taken with rustc {recorded_release}, and this is {release}. A new function or call is a helper \
                 that is no longer inlined, where it is not meant: give it #[inline(always)]. Fewer main loops are loops that have \
                 become scalar, or spill. If the change is meant, or is the compiler's and costs no time (cargo bench), \
                 update with: LANENORM_UPDATE_CODEGEN=1 cargo test --release --test codegen -- --ignored"
            ));
        }
        failures
    }
}
