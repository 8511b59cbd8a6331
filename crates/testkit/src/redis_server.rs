//! A Redis process of a test's own: loopback, a port and a directory of its own, no persistence.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// A child `redis-server`, killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    directory: TempDir,
    child: Option<Child>,
    options: Vec<String>,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one with further options, such as `["--requirepass", "secret"]`.
    pub fn start_with(options: &[&str]) -> anyhow::Result<Self> {
        let mut server = Self::stopped()?;
        server.options = options.iter().map(|option| (*option).to_owned()).collect();
        server.launch()?;
        Ok(server)
    }

    /// Takes a port, but starts nothing yet.
    pub fn stopped() -> anyhow::Result<Self> {
        Ok(Self {
            port: free_port()?,
            directory: TempDir::new().context("making Redis' directory")?,
            child: None,
            options: Vec::new(),
        })
    }

    /// Starts the process, again on the same port and with nothing of its former data.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("redis-server is not installed; run the tests by `cargo xtask test`")?;
        self.child = Some(child);
        let deadline = Instant::now() + START_MAX;
        while !self.answers() {
            let child = self.child.as_mut().context("it was just started")?;
            if let Some(status) = child.try_wait()? {
                bail!("redis-server on port {} ended at once: {status}", self.port);
            }
            if Instant::now() > deadline {
                bail!("redis-server on port {} does not answer", self.port);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Its URL, without a login.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it keeps its connections, and the kernel accepts more, but it answers nothing.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("-STOP")
    }

    /// SIGCONT.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal("-CONT")
    }

    /// Runs a command of plain words on a connection of its own; returns the raw RESP2 answer.
    pub fn command(&self, words: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(START_MAX))?;
        stream.write_all(format!("{words}\r\nQUIT\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("redis-server is not running")?;
        let status = Command::new("kill").args([signal, &child.id().to_string()]).status()?;
        anyhow::ensure!(status.success(), "kill {signal} failed");
        Ok(())
    }

    /// Whether our process, and no other, answers on the port.
    fn answers(&self) -> bool {
        if self.options.iter().any(|option| option == "--requirepass") {
            return self.command("PING").is_ok_and(|answer| answer.starts_with("-NOAUTH"));
        }
        let Some(child) = &self.child else {
            return false;
        };
        let mine = format!("process_id:{}\r\n", child.id());
        self.command("INFO server").is_ok_and(|answer| answer.contains(&mine))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections, so
/// that it stays free while the server is down.
fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 1000) as u16 * 10;
    for _ in 0..PORTS {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = FIRST_PORT + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {FIRST_PORT} on");
}

const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;
const START_MAX: Duration = Duration::from_secs(10);
