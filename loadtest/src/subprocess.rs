//! Another process of this program, told what to do by lines on its input.

use std::ffi::OsStr;
use std::io::BufReader;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

use crate::process::Process;

/// A process of this program. It ends with this value.
pub struct Subprocess {
    child: Child,
    /// What it reads.
    pub input: ChildStdin,
}

impl Subprocess {
    /// Starts one with these arguments; with what it prints.
    pub fn start(
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<(Self, BufReader<ChildStdout>)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let input = child.stdin.take().context("its input is piped")?;
        let output = child.stdout.take().context("its output is piped")?;
        Ok((Self { child, input }, BufReader::new(output)))
    }

    /// It, to be observed.
    pub fn process(&self) -> Process {
        Process::new(self.child.id())
    }
}

impl Drop for Subprocess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
