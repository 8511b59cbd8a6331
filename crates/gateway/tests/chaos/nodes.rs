//! The gateway processes: started, killed, paused and started again, each with a log of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// All of them.
pub struct Nodes {
    directory: PathBuf,
    nodes: Vec<Mutex<Node>>,
}

#[derive(Default)]
struct Node {
    child: Option<Child>,
    addresses: Option<Addresses>,
    starts: u32,
}

#[derive(Clone, Copy)]
struct Addresses {
    public: SocketAddr,
    admin: SocketAddr,
}

impl Nodes {
    /// Starts one for each configuration; they and their logs are written to `directory`.
    pub async fn start(directory: &Path, configs: &[String]) -> anyhow::Result<Self> {
        let nodes = configs.iter().map(|_| Mutex::default()).collect();
        let nodes = Self { directory: directory.to_owned(), nodes };
        for (index, config) in configs.iter().enumerate() {
            fs::write(nodes.config_path(index), config)?;
            nodes.launch(index).await?;
        }
        Ok(nodes)
    }

    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Where clients connect to a node; it may be dead all the same.
    pub fn address(&self, index: usize) -> Option<SocketAddr> {
        self.node(index).addresses.map(|addresses| addresses.public)
    }

    /// Asks a node on its admin listener; the body of an answer with 200.
    pub async fn ask(
        &self,
        index: usize,
        path: &str,
        body: Option<&str>,
    ) -> anyhow::Result<String> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.unwrap_or_default();
        let answer = self.exchange(index, method, path, body).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok(body.to_owned())
    }

    /// Starts a node's process.
    pub async fn launch(&self, index: usize) -> anyhow::Result<()> {
        let log_path = {
            let mut node = self.node(index);
            node.starts += 1;
            self.directory.join(format!("node-{index}.{}.log", node.starts))
        };
        let log = File::create(&log_path)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_fanlight"))
            .args(["serve", "--config"])
            .arg(self.config_path(index))
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .kill_on_drop(true)
            .spawn()?;
        let deadline = Instant::now() + START_MAX;
        let addresses = loop {
            if let Some(addresses) = read_addresses(&fs::read_to_string(&log_path)?) {
                break addresses;
            }
            let log = log_path.display();
            ensure!(child.try_wait()?.is_none(), "node {index} ended; see {log}");
            ensure!(Instant::now() < deadline, "node {index} does not listen; see {log}");
            sleep(POLL).await;
        };
        let mut node = self.node(index);
        node.child = Some(child);
        node.addresses = Some(addresses);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&self, index: usize) -> anyhow::Result<()> {
        let child = self.node(index).child.take();
        child.context("the node is not running")?.kill().await?;
        Ok(())
    }

    /// Sends a signal by name: `STOP`, `CONT`.
    pub async fn signal(&self, index: usize, name: &str) -> anyhow::Result<()> {
        let id = self.node(index).child.as_ref().and_then(Child::id);
        let id = id.context("the node is not running")?.to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().await?;
        ensure!(status.success(), "kill -s {name} {id} failed");
        Ok(())
    }

    /// Whether a node says that it is ready.
    pub async fn is_ready(&self, index: usize) -> anyhow::Result<bool> {
        Ok(self.exchange(index, "GET", "/readyz", "").await?.starts_with("HTTP/1.1 200"))
    }

    /// Waits until every node says that it is ready.
    pub async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        for index in 0..self.count() {
            loop {
                let why = match self.exchange(index, "GET", "/readyz", "").await {
                    Ok(answer) if answer.starts_with("HTTP/1.1 200") => break,
                    Ok(answer) => answer,
                    Err(error) => format!("{error:#}"),
                };
                ensure!(Instant::now() < deadline, "node {index} does not get ready: {why}");
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// The processes that are not there though nobody killed them.
    pub fn ended(&self) -> Vec<usize> {
        let has_ended = |index: &usize| {
            let mut node = self.node(*index);
            node.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
        };
        (0..self.count()).filter(has_ended).collect()
    }

    async fn exchange(
        &self,
        index: usize,
        method: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<String> {
        let addresses = self.node(index).addresses.context("not started")?;
        let exchange = async {
            let mut socket = TcpStream::connect(addresses.admin).await?;
            let length = body.len();
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            );
            socket.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        timeout(Duration::from_secs(2), exchange).await?
    }

    fn config_path(&self, index: usize) -> PathBuf {
        self.directory.join(format!("node-{index}.toml"))
    }

    fn node(&self, index: usize) -> std::sync::MutexGuard<'_, Node> {
        self.nodes[index].lock().unwrap()
    }
}

/// Where it listens, once it has said both.
fn read_addresses(log: &str) -> Option<Addresses> {
    let after = |mark| log.split_once(mark)?.1.split(['/', '\n']).next()?.parse().ok();
    Some(Addresses { public: after("ws://")?, admin: after("health    http://")? })
}

/// A token for `user`, made by the product's own command.
pub async fn token(secret: &str, user: &str, roles: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanlight"));
    command.args(["token", "mint", "--secret", secret, "--user", user, "--expires", "24h"]);
    for role in roles {
        command.args(["--role", role]);
    }
    let output = command.output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

const POLL: Duration = Duration::from_millis(20);
const START_MAX: Duration = Duration::from_secs(20);
const READY_MAX: Duration = Duration::from_secs(60);
