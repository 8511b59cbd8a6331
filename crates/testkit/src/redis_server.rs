//! A Redis process of a test's own: loopback, a port and a directory of its own, no persistence.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::port::PortLease;
use crate::redis_command::{RedisConnection, Reply};
use crate::redis_tls::TlsFiles;
use crate::redis_wait::wait_for;

/// A child `redis-server`, killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    lease: PortLease,
    directory: TempDir,
    child: Option<Child>,
    paused: AtomicBool,
    options: Vec<String>,
    tls: Option<TlsFiles>,
    sentinel: bool,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one with further options, such as `["--requirepass", "secret"]` or
    /// `["--user", "ann", "on", ">pw", "~*", "&*", "+@all"]`.
    pub fn start_with(options: &[&str]) -> anyhow::Result<Self> {
        let mut server = Self::stopped_with(options)?;
        server.launch()?;
        Ok(server)
    }

    /// Starts one that listens by TLS only, with a certificate from an authority of its own.
    pub fn start_tls() -> anyhow::Result<Self> {
        Self::start_tls_with(&[])
    }

    /// [`start_tls`](Self::start_tls) with further options.
    pub fn start_tls_with(options: &[&str]) -> anyhow::Result<Self> {
        let mut server = Self::stopped_with(options)?;
        server.tls = Some(TlsFiles::generate(server.directory.path())?);
        server.launch()?;
        Ok(server)
    }

    /// The same with a certificate that others have too, whose files outlive it.
    pub(crate) fn start_tls_by(files: &TlsFiles, options: &[&str]) -> anyhow::Result<Self> {
        let mut server = Self::stopped_with(options)?;
        server.tls = Some(files.clone());
        server.launch()?;
        Ok(server)
    }

    /// Starts a replica of a server that needs no login, and waits until it is in step.
    pub fn start_replica_of(master: &Self) -> anyhow::Result<Self> {
        let mut replica = Self::stopped_replica_of(master)?;
        replica.launch()?;
        replica.wait_until_replica_of(master)?;
        Ok(replica)
    }

    /// Takes a port, but starts nothing yet.
    pub fn stopped() -> anyhow::Result<Self> {
        Self::stopped_with(&[])
    }

    /// [`stopped`](Self::stopped) with further options.
    pub fn stopped_with(options: &[&str]) -> anyhow::Result<Self> {
        Ok(Self {
            lease: PortLease::take()?,
            directory: TempDir::new().context("making Redis' directory")?,
            child: None,
            paused: AtomicBool::new(false),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            tls: None,
            sentinel: false,
        })
    }

    /// By TLS, to its master too, if that listens by TLS.
    fn stopped_replica_of(master: &Self) -> anyhow::Result<Self> {
        let port = master.port().to_string();
        let mut replica = Self::stopped_with(&["--replicaof", "127.0.0.1", &port])?;
        replica.speak_by(master.tls.as_ref());
        Ok(replica)
    }

    /// Starts one that masters and replicas are made of, by TLS only if there are files for it.
    pub(crate) fn start_master_by(files: Option<&TlsFiles>) -> anyhow::Result<Self> {
        let mut server = Self::stopped()?;
        server.speak_by(files);
        server.launch()?;
        Ok(server)
    }

    /// Starts a Sentinel; it keeps what it learns in its configuration, also over a relaunch.
    pub(crate) fn start_sentinel_by(
        files: Option<&TlsFiles>,
        configuration: &str,
    ) -> anyhow::Result<Self> {
        let mut server = Self::stopped()?;
        fs::write(server.path(SENTINEL_CONFIGURATION), configuration)?;
        server.sentinel = true;
        server.speak_by(files);
        server.launch()?;
        Ok(server)
    }

    /// Listens, and connects to other servers, by TLS only, if there are files for it.
    fn speak_by(&mut self, files: Option<&TlsFiles>) {
        if files.is_some() {
            self.options.extend(["--tls-replication", "yes"].map(str::to_owned));
        }
        self.tls = files.cloned();
    }

    /// Starts the process, again on the same port and with nothing of its former data.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child {
            ensure!(child.try_wait()?.is_some(), "redis-server on {} is running", self.address());
        }
        // A replica that was killed leaves the copy that it was sent, and would load it.
        let _ = fs::remove_file(self.path("dump.rdb"));
        let log = File::create(self.path(LOG)).context("making Redis' log")?;
        let mut command = Command::new("redis-server");
        if self.sentinel {
            command.arg(self.path(SENTINEL_CONFIGURATION)).arg("--sentinel");
        }
        let child = command
            .args(self.listener_options())
            .args(["--bind", "127.0.0.1", "--unixsocket"])
            .arg(self.path(CONTROL))
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(QUICK_REPLICATION)
            .args(&self.options)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .context("redis-server is not installed; run the tests by `cargo xtask test`")?;
        self.child = Some(child);
        self.paused.store(false, Ordering::Relaxed);
        self.wait_until_it_answers()?;
        if self.sentinel {
            self.call(&QUICK_SENTINEL)?.ok()?;
        }
        Ok(())
    }

    /// Where it listens; by TLS if it was started so.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// Its URL, without a login.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{}", self.address())
    }

    /// The PEM file of the authority that signed its certificate, if it listens by TLS.
    pub fn authority(&self) -> Option<&Path> {
        self.tls.as_ref().map(|tls| tls.authority.as_path())
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
        self.signal("-STOP")?;
        self.paused.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal("-CONT")?;
        self.paused.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it was launched, and neither killed nor paused since.
    pub fn is_up(&self) -> bool {
        self.child.is_some() && !self.paused.load(Ordering::Relaxed)
    }

    /// Runs a command of plain words on a connection of its own; returns the raw RESP2 answer.
    pub fn command(&self, words: &str) -> anyhow::Result<String> {
        let answer = self.control()?.exchange(format!("{words}\r\nQUIT\r\n").as_bytes())?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Runs one command on a connection of its own, whether or not it listens by TLS.
    pub fn call<A: AsRef<[u8]>>(&self, words: &[A]) -> anyhow::Result<Reply> {
        self.control()?.call(words)
    }

    /// A connection of its own, without TLS: by the Unix socket that only the test knows.
    pub fn control(&self) -> anyhow::Result<RedisConnection> {
        RedisConnection::open_unix(&self.path(CONTROL))
    }

    /// Waits until this is a replica of `master` and has all that was written there before.
    pub fn wait_until_replica_of(&self, master: &Self) -> anyhow::Result<()> {
        wait_for("the replica is in step", || self.ensure_replica_of(master))
    }

    pub(crate) fn ensure_replica_of(&self, master: &Self) -> anyhow::Result<()> {
        let theirs = master.info("replication")?;
        let mine = self.info("replication")?;
        for line in [format!("master_port:{}", master.port()), "master_link_status:up".to_owned()] {
            ensure!(mine.lines().any(|each| each == line), "no {line:?} in {mine}");
        }
        let online = format!(",port={},state=online,", self.port());
        let entry = theirs.lines().find(|line| line.contains(&online));
        let entry = entry.with_context(|| format!("no {online:?} in {theirs}"))?;
        // Until its first acknowledgement, the master holds back what is written.
        ensure!(!entry.contains(",offset=0,"), "nothing acknowledged yet: {entry}");
        let (written, received) =
            (number(&theirs, "master_repl_offset")?, number(&mine, "slave_repl_offset")?);
        ensure!(received >= written, "received {received} of {written} bytes");
        Ok(())
    }

    fn info(&self, section: &str) -> anyhow::Result<String> {
        self.call(&["INFO", section])?.text()
    }

    pub(crate) fn port(&self) -> u16 {
        self.lease.port()
    }

    fn listener_options(&self) -> Vec<String> {
        let plain = |port: u16| vec!["--port".to_owned(), port.to_string()];
        match &self.tls {
            Some(tls) => [plain(0), tls.options(self.port())].concat(),
            None => plain(self.port()),
        }
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        // Any answer will do, also a refusal without a login: nobody else has this socket, and
        // Redis opens it after its port.
        while self.call(&["PING"]).is_err() {
            let child = self.child.as_mut().context("it was just started")?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                bail!("redis-server ended at once: {status}: {}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("redis-server on port {} does not answer", self.port());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read(self.path(LOG)).unwrap_or_default();
        let start = log.len().saturating_sub(LAST_WORDS_BYTES);
        String::from_utf8_lossy(&log[start..]).into_owned()
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("redis-server is not running")?;
        let status = Command::new("kill").args([signal, &child.id().to_string()]).status()?;
        ensure!(status.success(), "kill {signal} failed");
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn number(info: &str, field: &str) -> anyhow::Result<u64> {
    let mut pairs = info.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(name, _)| *name == field).context("a field is missing")?;
    Ok(value.parse()?)
}

/// Replicas that are in step, and are missed, within seconds instead of a minute.
const QUICK_REPLICATION: [&str; 6] =
    ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--repl-timeout", "10"];

/// Sentinels ask for roles every 10 seconds, set one right after 8, and after a pause of their own
/// do nothing for 30; a test need not wait so long.
const QUICK_SENTINEL: [&str; 8] =
    ["SENTINEL", "DEBUG", "INFO-PERIOD", "1000", "PUBLISH-PERIOD", "500", "TILT-PERIOD", "3000"];

const SENTINEL_CONFIGURATION: &str = "sentinel.conf";
const CONTROL: &str = "control.sock";
const LOG: &str = "redis.log";
const LAST_WORDS_BYTES: usize = 2048;
const START_MAX: Duration = Duration::from_secs(10);
