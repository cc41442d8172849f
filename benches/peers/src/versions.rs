//! The versions of lanenorm and of the peers, as they are locked.

const LOCK: &str = include_str!("../Cargo.lock");

/// # Panics
/// If the crate is not in the lock file.
pub(crate) fn version(name: &str) -> &'static str {
    let at = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = LOCK.split_once(&at).unwrap_or_else(|| panic!("{name} is not in Cargo.lock"));
    rest.split_once('"').expect("a version in quotes").0
}
