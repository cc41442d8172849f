//! `include/lanenorm.h` is what cbindgen makes of `src/capi`. `LANENORM_WRITE_HEADER=1` writes it.

use std::path::Path;

/// In the order of their items in the header.
const SOURCES: [&str; 5] =
    ["src/capi.rs", "src/capi/functions.rs", "src/capi/plan.rs", "src/capi/forward.rs", "src/capi/backward.rs"];

#[test]
fn the_committed_header_is_the_generated_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("a valid configuration");
    let builder = SOURCES
        .iter()
        .fold(cbindgen::Builder::new().with_config(config), |builder, source| builder.with_src(root.join(source)));
    let mut generated = Vec::new();
    builder.generate().expect("sources that can be parsed").write(&mut generated);
    let generated = String::from_utf8(generated).expect("UTF-8");
    let header = root.join("include/lanenorm.h");
    if std::env::var_os("LANENORM_WRITE_HEADER").is_some() {
        std::fs::write(&header, &generated).expect("a writable header");
    }
    let committed = std::fs::read_to_string(&header).unwrap_or_default();
    assert!(
        committed == generated,
        "include/lanenorm.h is not that of src/capi: run LANENORM_WRITE_HEADER=1 cargo test --test header"
    );
}

#[test]
fn the_header_has_the_version_of_the_library() {
    let header = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("include/lanenorm.h"));
    let header = header.expect("include/lanenorm.h");
    let macros = [
        ("", concat!('"', env!("CARGO_PKG_VERSION"), '"')),
        ("_MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("_MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("_PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ];
    for (name, value) in macros {
        let line = format!("\n#define LANENORM_VERSION{name} {value}\n");
        assert!(header.contains(&line), "include/lanenorm.h lacks {line:?}");
    }
}
