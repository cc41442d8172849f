//! The programs of the README are short, and are those that are compiled elsewhere: the ones in Rust as documentation tests of
//! this crate, the ones in C by `examples/c/run.sh`, the one for candle as a documentation test of its crate.

use std::fs;
use std::path::Path;

fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

#[track_caller]
fn assert_is_short(program: &str, what: &str) {
    assert!(program.trim_end().lines().count() <= 15, "{what} has more than 15 lines");
}

#[track_caller]
fn assert_shows(program: &str, path: &str) {
    let readme = read("README.md").expect("README.md");
    assert!(readme.contains(program.trim_end()), "README.md does not show {path} as it is:\n{program}");
    assert_is_short(program, path);
}

#[test]
fn programs_in_rust_are_short() {
    let readme = read("README.md").expect("README.md");
    let mut programs = 0;
    for block in readme.split("```rust\n").skip(1) {
        let (program, _) = block.split_once("```").expect("its end");
        // Pages leave these lines out.
        let shown: String =
            program.lines().filter(|line| !line.starts_with("# ")).map(|line| format!("{line}\n")).collect();
        assert_is_short(&shown, program);
        programs += 1;
    }
    assert!(programs >= 2, "README.md shows {programs} programs in Rust");
}

#[test]
fn programs_in_c_are_those_of_the_examples() {
    for path in ["examples/c/forward.c", "examples/c/openmp.c"] {
        assert_shows(&read(path).expect(path), path);
    }
}

#[test]
fn the_program_for_candle_is_that_of_its_crate() {
    let path = "integrations/candle/README.md";
    // Not part of the published package.
    let Some(theirs) = read(path) else { return };
    let (_, program) = theirs.split_once("```rust\n").expect("a program");
    let (program, _) = program.split_once("```").expect("its end");
    assert_shows(program, path);
}
