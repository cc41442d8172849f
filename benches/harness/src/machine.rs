//! The origin of results, for later readers.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Where and when a run was made.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    cpu: String,
    logical_cores: usize,
    /// The number of threads of the pool.
    pub threads: usize,
    /// The load average of a minute before the run: on a busy machine two threads are as fast as one.
    load: Option<f64>,
    build: String,
    /// The tier of plans that name none.
    pub default_tier: String,
    date: String,
    /// The command that makes such a record again.
    command: String,
}

impl Machine {
    /// This machine, at this moment. `build` is the build of the library.
    pub fn this(build: &str, default_tier: &str, command: &str) -> Self {
        Self {
            cpu: cpu_model().unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH)),
            logical_cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            load: load(),
            build: build.into(),
            default_tier: default_tier.into(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command: command.into(),
        }
    }

    /// The day of the run, as in 2026-11-29.
    pub fn day(&self) -> &str {
        self.date.split('T').next().unwrap_or_default()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, logical_cores, load, build, date, .. } = self;
        let load = load.map_or_else(|| "unknown".into(), |load| format!("{load:.2}"));
        write!(f, "{cpu}, {logical_cores} logical cores, load {load} at the start. {build}. {date}.")
    }
}

/// The processor as Linux names it; other systems have no such file.
fn cpu_model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
