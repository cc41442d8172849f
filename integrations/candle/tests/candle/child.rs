//! Tests in a process of their own: with other variables in their environment, and ended if they hang.

use std::env;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::Result;

/// The variable that names the test to its own process.
const CHILD: &str = "LANENORM_TEST_CHILD";

/// Many times as long as any of these tests takes.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs a test in a process of its own that has these variables. `name` is the path of the calling test.
pub fn in_child(name: &str, variables: &[(&str, &str)], test: impl FnOnce() -> Result<()>) -> Result<()> {
    if env::var(CHILD).is_ok_and(|child| child == name) {
        return test();
    }
    let mut child = Command::new(env::current_exe()?)
        .args(["--exact", name, "--test-threads=1"])
        .env(CHILD, name)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .spawn()?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            panic!("{name} hangs: it has not ended in {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let mut output = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut output)?;
    assert!(status.success() && output.contains("1 passed"), "{name}, {status}:\n{output}");
    Ok(())
}
