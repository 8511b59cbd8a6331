//! Starts the gateway under test: this workspace's release build, configured for measuring.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::Process;

/// A gateway that ends with this value.
pub struct Gateway {
    child: Child,
    binary: PathBuf,
    /// Where clients connect.
    pub address: SocketAddr,
    _config: tempfile::NamedTempFile,
}

const SECRET: &str = "a secret of the load tester, thirty-two bytes or more";

impl Gateway {
    /// Starts `binary`, or the gateway that was built beside this program.
    pub fn start(binary: Option<PathBuf>, workers: usize) -> Result<Self> {
        let binary = match binary {
            Some(binary) => binary,
            None => std::env::current_exe()?.with_file_name("fanlight"),
        };
        ensure!(
            binary.exists(),
            "{} is missing; build it with `cargo build --release -p fanlight`",
            binary.display()
        );
        let mut config = tempfile::Builder::new().suffix(".toml").tempfile()?;
        write!(config, "{}", configuration(workers))?;
        let mut child = Command::new(&binary)
            .arg("serve")
            .arg("--config")
            .arg(config.path())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let output = child.stdout.take().context("the gateway's output is not there")?;
        let address = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| client_address(&line))
            .context("the gateway ended without saying where it listens")?;
        Ok(Self { child, binary, address, _config: config })
    }

    /// A token for one user, as the operator would make it.
    pub fn token(&self, user: &str) -> Result<String> {
        let output = Command::new(&self.binary)
            .args(["token", "mint", "--secret", SECRET, "--user", user, "--expires", "1d"])
            .output()?;
        ensure!(
            output.status.success(),
            "`token mint` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The process, for its memory and CPU.
    pub fn process(&self) -> Process {
        Process::new(self.child.id())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("ws://")?;
    rest.split('/').next()?.parse().ok()
}

fn configuration(workers: usize) -> String {
    format!(
        r#"
workers = {workers}
[listen]
public = "127.0.0.1:0"
admin = "127.0.0.1:0"
[broker]
kind = "memory"
[limits]
connections_per_ip = 0
sessions_per_user = 0
messages_per_second = 0
[log]
level = "warn"
[[auth.keys]]
algorithm = "HS256"
secret = "{SECRET}"
[[namespaces]]
name = "topic"
match = "/topic/**"
[[policy.rules]]
effect = "allow"
destination = "/topic/**"
"#
    )
}
