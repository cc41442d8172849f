//! The programs of the README and of `docs/embedding.md` are short, and other tests compile them: the programs in Rust
//! are documentation tests of this crate, `examples/c/run.sh` compiles the programs in C, and the program for candle is
//! a documentation test of its crate. Links between pages lead to files and headings, and lines have at most 120
//! columns.

#[path = "support/repository.rs"]
mod repository;

use std::fs;
use std::path::{Path, PathBuf};

use repository::repository;

const README: &str = "README.md";
const EMBEDDING: &str = "docs/embedding.md";

fn read(path: &str) -> Option<String> {
    fs::read_to_string(repository().join(path)).ok()
}

fn page(path: &str) -> String {
    read(path).unwrap_or_else(|| panic!("there is no {path}"))
}

#[track_caller]
fn assert_is_short(program: &str, what: &str) {
    assert!(program.trim_end().lines().count() <= 15, "{what} has more than 15 lines");
}

#[track_caller]
fn assert_shows(program: &str, path: &str) {
    assert!(page(EMBEDDING).contains(program.trim_end()), "{EMBEDDING} does not show {path} as it is:\n{program}");
    assert_is_short(program, path);
}

#[test]
fn programs_in_rust_are_short() {
    for path in [README, EMBEDDING] {
        let page = page(path);
        let mut programs = 0;
        for block in page.split("```rust\n").skip(1) {
            let (program, _) = block.split_once("```").expect("its end");
            assert_is_short(program, program);
            // GitHub shows such lines.
            assert!(!program.lines().any(|line| line.starts_with("# ")), "{path} hides lines:\n{program}");
            programs += 1;
        }
        assert!(programs >= 2, "{path} shows {programs} programs in Rust");
    }
}

#[test]
fn programs_in_c_are_those_of_the_examples() {
    for path in ["examples/c/forward.c", "examples/c/openmp.c", "examples/c/int8.c"] {
        assert_shows(&read(path).expect(path), path);
    }
    assert!(page(README).contains("(examples/c/forward.c)"), "{README} does not link to the first program in C");
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

/// The targets of links and pictures.
fn targets(page: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    for (open, close) in [("](", ')'), ("srcset=\"", '"'), ("src=\"", '"'), ("]: ", '\n')] {
        targets.extend(page.split(open).skip(1).filter_map(|rest| Some(rest.split_once(close)?.0)));
    }
    targets
}

/// The names by which GitHub links to the headings of a page.
fn anchors(page: &str) -> Vec<String> {
    let name = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    page.lines().filter(|line| line.starts_with('#')).map(|line| name(line.trim_start_matches('#').trim())).collect()
}

#[test]
fn links_lead_somewhere() {
    let pages = fs::read_dir(repository().join("docs")).expect("docs");
    let mut paths: Vec<String> =
        pages.map(|page| format!("docs/{}", page.expect("a page").file_name().display())).collect();
    paths.sort();
    paths.extend(
        [README, "CONTRIBUTING.md", "benches/record/README.md", "integrations/candle/README.md"].map(str::to_owned),
    );
    let mut links = 0;
    for path in paths {
        let from = page(&path);
        for target in targets(&from).into_iter().filter(|target| !target.starts_with("https://")) {
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let to = repository().join(&path).parent().expect("a folder").join(file);
            assert!(file.is_empty() || to.exists(), "{path} links to {target}, which is not there");
            if let Some(anchor) = anchor {
                let to = if file.is_empty() { from.clone() } else { fs::read_to_string(to).expect(target) };
                assert!(
                    anchors(&to).iter().any(|name| name == anchor),
                    "{path} links to {target}, which has no such heading"
                );
            }
            links += 1;
        }
    }
    assert!(links > 100, "there are only {links} links");
}

#[test]
fn the_readme_is_short() {
    let lines = page(README).lines().count();
    assert!(lines <= 180, "{README} has {lines} lines, and may have 180: docs/ is for the rest");
}

/// All files below a folder that end in `.rs` or `.md`, but for files that are built or recorded, or belong to another
/// repository.
fn texts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !(name.starts_with('.') || name == "target" || name == "record") {
                texts(&path, found);
            }
        } else if name.ends_with(".rs") || name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// rustfmt wraps code, but neither comments nor pages. A table, a block of code and a word may be longer.
#[test]
fn comments_and_pages_have_lines_of_120_columns() {
    let mut files = Vec::new();
    texts(&repository(), &mut files);
    assert!(files.len() > 100, "{} files", files.len());
    let mut long = Vec::new();
    for file in files {
        let (is_page, mut is_code) = (file.extension().is_some_and(|e| e == "md"), false);
        let text = fs::read_to_string(&file).expect("a text");
        for (number, line) in text.lines().enumerate() {
            let start = line.trim_start();
            let is_comment = start.starts_with("//");
            let words = if is_page { start } else { start.trim_start_matches(['/', '!']).trim_start() };
            is_code = if is_page || is_comment { is_code != words.starts_with("```") } else { false };
            let may = is_code || words.starts_with(['|', '<']) || !words.trim_start_matches("- ").contains(' ');
            if line.chars().count() > 120 && (is_page || is_comment) && !may {
                long.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    assert_eq!(long, [""; 0]);
}
