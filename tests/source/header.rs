//! cbindgen makes `include/lanenorm.h` from `src/capi`. `LANENORM_WRITE_HEADER=1` writes it.

#[path = "../support/repository.rs"]
mod repository;

use repository::repository;

/// The files, in the order of their items in the header.
const SOURCES: [&str; 9] = [
    "src/capi.rs",
    "src/capi/functions.rs",
    "src/capi/plan.rs",
    "src/capi/forward.rs",
    "src/capi/backward.rs",
    "src/capi/quantize.rs",
    "src/capi/gate.rs",
    "src/capi/second.rs",
    "src/capi/channels.rs",
];

#[test]
fn the_committed_header_is_the_generated_one() {
    let root = repository();
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
    let header = std::fs::read_to_string(repository().join("include/lanenorm.h"));
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

/// The code of the header without comments and directives, and the names of its macros.
fn code_and_macros() -> (String, Vec<String>) {
    let header = std::fs::read_to_string(repository().join("include/lanenorm.h"));
    let header = header.expect("include/lanenorm.h").replace("\\\n", " ");
    let parts = header.split("/*").map(|part| part.split_once("*/").map_or(part, |(_, code)| code));
    let (directives, code): (Vec<_>, Vec<_>) = parts.flat_map(str::lines).partition(|line| line.starts_with('#'));
    let macros = directives.iter().filter_map(|line| line.strip_prefix("#define ")).map(|line| first_name(line).into());
    (code.join("\n"), macros.collect())
}

fn first_name(text: &str) -> &str {
    let text = text.trim_start();
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().expect("a part")
}

fn last_name(text: &str) -> &str {
    text.trim_end().rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().expect("a part")
}

/// Names begin with the name of the library, so that they do not clash with names of a program.
#[test]
fn all_names_begin_with_that_of_the_library() {
    let (code, macros) = code_and_macros();
    for name in &macros {
        assert!(name.starts_with("LANENORM_"), "the macro {name}");
    }
    let mut tags = 0;
    for keyword in ["enum ", "struct "] {
        for rest in code.split(keyword).skip(1) {
            assert!(first_name(rest).starts_with("lanenorm_"), "{keyword}{}", first_name(rest));
            tags += 1;
        }
    }
    let (mut types, mut constants) = (0, 0);
    for typedef in code.split("typedef ").skip(1) {
        let (body, rest) = typedef.split_once('}').expect("a body");
        assert!(first_name(rest).starts_with("lanenorm_"), "the type {}", first_name(rest));
        types += 1;
        let (head, body) = body.split_once('{').expect("a body");
        if let Some(name) = head.strip_prefix("enum ") {
            let prefix = name.trim().to_uppercase() + "_";
            for constant in body.split(',').map(first_name).filter(|name| !name.is_empty()) {
                assert!(constant.starts_with(&prefix), "the constant {constant}");
                constants += 1;
            }
        }
    }
    let functions: Vec<_> = code.split('(').map(last_name).collect();
    let (_, functions) = functions.split_last().expect("what is behind the last function");
    for name in functions {
        assert!(name.starts_with("lanenorm_"), "the function {name}");
    }
    assert!(macros.len() >= 9 && tags >= 12 && types == 31 && constants == 79, "{macros:?} {tags} {types} {constants}");
    assert_eq!(functions.len(), 48, "{functions:?}");
}

#[test]
fn short_functions_exist_for_all_types() {
    let (code, _) = code_and_macros();
    let operations =
        ["layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm", "layer_norm_backward", "rms_norm_backward"];
    for operation in operations {
        for dtype in ["f32", "f64", "f16", "bf16"] {
            let name = format!("lanenorm_status lanenorm_{operation}_{dtype}(");
            assert_eq!(code.matches(&name).count(), 1, "{name}");
        }
    }
}
