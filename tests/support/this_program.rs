//! Tests that need a process of their own run themselves anew.

use std::process::Command;

/// The command that runs this very program: under an emulator if the environment tells cargo to use one.
pub(crate) fn this_program() -> Command {
    let program = std::env::current_exe().expect("a path to this program");
    let arch = std::env::consts::ARCH.to_uppercase();
    let runner = std::env::vars().find_map(|(name, value)| {
        let target = name.strip_prefix("CARGO_TARGET_")?.strip_suffix("_RUNNER")?;
        target.starts_with(&arch).then_some(value)
    });
    match runner.as_deref().map(|r| r.split_whitespace().collect::<Vec<_>>()).as_deref() {
        Some([emulator, arguments @ ..]) => {
            let mut command = Command::new(emulator);
            command.args(arguments).arg(program);
            command
        }
        _ => Command::new(program),
    }
}
