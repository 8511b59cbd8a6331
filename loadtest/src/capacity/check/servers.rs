//! The processes of a check: one Redis and several gateways over it, ended with these values.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::process::Process;

/// A `redis-server` that keeps nothing.
pub struct Redis {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

/// A gateway over it.
pub struct Gateway {
    child: Child,
    /// Where clients connect.
    pub address: SocketAddr,
    _config: tempfile::NamedTempFile,
}

impl Redis {
    pub fn start() -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let folder = tempfile::tempdir()?;
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .context("starting redis-server")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let redis = Self { child, address, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(redis)
    }

    pub fn process(&self) -> Process {
        Process::new(self.child.id())
    }

    /// The bytes that it says its data and connections take.
    pub fn used_bytes(&self) -> Result<f64> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.write_all(b"INFO memory\r\nQUIT\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        let bytes = text.lines().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(bytes.context("INFO does not tell used_memory")?.trim().parse()?)
    }
}

impl Gateway {
    /// Starts `binary` over `redis`.
    pub fn start(binary: &Path, redis: &Redis) -> Result<Self> {
        let mut config = tempfile::Builder::new().suffix(".toml").tempfile()?;
        write!(config, "{}", configuration(redis.address))?;
        let mut child = Command::new(binary)
            .arg("serve")
            .arg("--config")
            .arg(config.path())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let output = child.stdout.take().context("the gateway's output is not there")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let address = lines
            .find_map(|line| client_address(&line))
            .context("the gateway ended without saying where it listens")?;
        // What it says later has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address, _config: config })
    }

    pub fn process(&self) -> Process {
        Process::new(self.child.id())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends and awaits a process of ours.
pub fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The gateway's binary: the one that is named, or that was built beside this program.
pub fn gateway_binary(named: Option<&Path>) -> Result<PathBuf> {
    let binary = match named {
        Some(binary) => binary.to_owned(),
        None => std::env::current_exe()?.with_file_name("fanlight"),
    };
    let remedy = "build it with `cargo build --release -p fanlight`";
    ensure!(binary.exists(), "{} is missing; {remedy}", binary.display());
    Ok(binary)
}

/// Tokens of so many users, one a line.
pub fn write_tokens(binary: &Path, users: usize, mut file: &File) -> Result<()> {
    for user in 0..users {
        let output = Command::new(binary)
            .args(["token", "mint", "--secret", SECRET, "--user", &format!("user-{user}")])
            .args(["--expires", "1d"])
            .output()?;
        ensure!(output.status.success(), "`token mint` failed");
        file.write_all(&output.stdout)?;
    }
    Ok(())
}

fn client_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("ws://")?;
    rest.split('/').next()?.parse().ok()
}

fn configuration(redis: SocketAddr) -> String {
    format!(
        r#"
workers = 1
[listen]
public = "127.0.0.1:0"
admin = "127.0.0.1:0"
[broker]
kind = "redis"
[redis]
url = "redis://{redis}"
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

const SECRET: &str = "a secret of the capacity check, thirty-two bytes or more";
