//! Where the files of this repository are.

use std::path::{Path, PathBuf};

pub(crate) fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.ancestors().find(|folder| folder.join("Cargo.lock").exists());
    root.expect("the package is in a workspace").to_path_buf()
}
