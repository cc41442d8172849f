//! What a later reader needs to know about where results come from. The programs beside the benchmark share this file.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;

/// Where and when a run was made.
#[derive(Serialize)]
pub(crate) struct Machine {
    cpu: String,
    logical_cores: usize,
    threads: usize,
    /// The load average of a minute before the run: on a busy machine two threads are as fast as one.
    load: Option<f64>,
    build: &'static str,
    default_tier: &'static str,
    date: String,
    /// What makes such a record again.
    command: &'static str,
}

impl Machine {
    pub(crate) fn this(default_tier: &'static str, command: &'static str) -> Self {
        Self {
            cpu: cpu_model().unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH)),
            logical_cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: rayon::current_num_threads(),
            load: load(),
            build: lanenorm::BUILD,
            default_tier,
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, logical_cores, load, build, date, .. } = self;
        let load = load.map_or_else(|| "unknown".into(), |load| format!("{load:.2}"));
        write!(f, "{cpu}, {logical_cores} logical cores, load {load} at the start. {build}. {date}.")
    }
}

/// As Linux names it; other systems have no such file.
fn cpu_model() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
