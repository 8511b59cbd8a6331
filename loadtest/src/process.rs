//! What the kernel says of another process: memory and CPU time.

use std::fs;

use anyhow::{Context, Result};

/// A process under observation.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    id: u32,
}

impl Process {
    /// The process with this id.
    pub fn new(id: u32) -> Self {
        Self { id }
    }

    /// Its id.
    pub fn id(self) -> u32 {
        self.id
    }

    /// Anonymous resident memory in bytes: what the program itself holds, without mapped files.
    pub fn anonymous_rss_bytes(self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.id);
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .and_then(|value| value.trim().strip_suffix("kB"))
            .context("no RssAnon in the process' status")?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    /// How many file descriptors it has open.
    pub fn file_descriptors(self) -> Result<usize> {
        let path = format!("/proc/{}/fd", self.id);
        Ok(fs::read_dir(&path).with_context(|| format!("reading {path}"))?.count())
    }

    /// CPU time of all its threads so far, in nanoseconds.
    pub fn cpu_ns(self) -> Result<u64> {
        let path = format!("/proc/{}/task", self.id);
        let mut total = 0;
        for task in fs::read_dir(&path).with_context(|| format!("reading {path}"))? {
            // A thread that has just ended takes its share with it; workers don't end.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let on_cpu = text.split_whitespace().next().context("an empty schedstat")?;
            total += on_cpu.parse::<u64>()?;
        }
        Ok(total)
    }
}
