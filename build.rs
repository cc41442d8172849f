//! Puts into the library what a bug report or a benchmark record has to say about its build.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().ok();
    let version = version.and_then(|o| String::from_utf8(o.stdout).ok()).unwrap_or_default();
    let fact = |name| env::var(name).unwrap_or_default();
    println!(
        "cargo::rustc-env=LANENORM_BUILD=lanenorm {}, {}, {}, {} profile",
        fact("CARGO_PKG_VERSION"),
        if version.trim().is_empty() { "rustc unknown" } else { version.trim() },
        fact("TARGET"),
        fact("PROFILE"),
    );
}
