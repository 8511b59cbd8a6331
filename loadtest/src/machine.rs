//! Where and when figures were taken.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

/// The machine, the moment, and the state of the sources.
pub struct Machine {
    /// Processor, cores, memory, kernel.
    pub hardware: String,
    /// The commit, marked if files differ from it.
    pub commit: String,
    /// By the system's clock, in UTC.
    pub at: String,
    /// How busy it was at the beginning.
    pub load: String,
}

impl Machine {
    /// This one, now.
    pub fn now() -> Self {
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self { hardware: hardware(), commit: commit(), at, load: load_average() }
    }
}

/// The load average of the last minutes.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn hardware() -> String {
    let of = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_kib: u64 = of("/proc/meminfo", "MemTotal")
        .split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores of {}, {} GiB, Linux {}",
        of("/proc/cpuinfo", "model name"),
        memory_kib >> 20,
        kernel.trim()
    )
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    let is_clean = git(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
    if is_clean { commit } else { format!("{commit} and changes") }
}
