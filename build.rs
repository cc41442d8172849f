//! Puts into the library what a bug report or a benchmark record has to say about its build, and names the shared
//! library.

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
    // The version up to its first number that is not zero, as cargo-c has it: what changes when the ABI does.
    let soname = match fact("CARGO_PKG_VERSION_MAJOR").as_str() {
        "0" => format!("liblanenorm.so.0.{}", fact("CARGO_PKG_VERSION_MINOR")),
        major => format!("liblanenorm.so.{major}"),
    };
    let has_sonames = fact("CARGO_CFG_TARGET_FAMILY") == "unix" && fact("CARGO_CFG_TARGET_VENDOR") != "apple";
    if has_sonames && env::var_os("CARGO_FEATURE_CAPI").is_some() {
        // For all that is linked, since a cdylib is none of our targets unless asked for; programs have no use for it.
        println!("cargo::rustc-link-arg=-Wl,-soname,{soname}");
    }
}
