//! The cluster that is rolled: Redis, and nodes that keep their addresses from one start to the next.

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::targets::{Node, Redis, fanlight};

/// How sessions leave a node that is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Stop {
    /// SIGTERM, as Kubernetes and systemd do it.
    Sigterm,
    /// `POST /drain`, as a deployment that waits for it does.
    Drain,
}

/// How nodes are configured.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The gateway's binary.
    pub gateway: PathBuf,
    /// The secret of all tokens (HS256).
    pub secret: String,
    /// From the end of readiness to the first close.
    pub grace: Duration,
    /// The time over which a node's sessions are closed.
    pub window: Duration,
    /// Handshakes per second that a node admits.
    pub admitted: u32,
    /// How many more at once.
    pub burst: u32,
    /// Publications that each destination keeps.
    pub history: usize,
    /// How sessions move to the node that is added.
    pub rebalance: Rebalance,
}

/// `[rebalance]`, and what it builds on.
#[derive(Debug, Clone, Copy)]
pub struct Rebalance {
    /// How often nodes tell of themselves.
    pub renew: Duration,
    /// How long a node is left alone after its start.
    pub settle: Duration,
    /// The time over which a node gives away what it has too many.
    pub window: Duration,
    /// After that: how long it waits before it looks again.
    pub cooldown: Duration,
    /// What a node has at least.
    pub min_sessions: usize,
}

/// Redis and the nodes; they end with this value.
pub struct Nodes {
    setting: Setting,
    redis: Redis,
    members: Vec<Member>,
    folder: TempDir,
}

struct Member {
    public: SocketAddr,
    admin: SocketAddr,
    node: Option<Node>,
}

impl Nodes {
    /// Redis, and as many places for nodes, none of which is started.
    pub fn new(setting: Setting, count: usize) -> Result<Self> {
        let member = |_| Ok(Member { public: low_address()?, admin: low_address()?, node: None });
        let members = (0..count).map(member).collect::<Result<_>>()?;
        let (redis, folder) = (Redis::start()?, tempfile::tempdir()?);
        Ok(Self { setting, redis, members, folder })
    }

    /// Where the proxy finds them.
    pub fn publics(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.public).collect()
    }

    /// Where they are administered.
    pub fn admins(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.admin).collect()
    }

    /// Starts a node, and waits until it is ready.
    pub fn start(&mut self, number: usize) -> Result<()> {
        let config = self.folder.path().join(format!("node{number}.toml"));
        fs::write(&config, self.config(number))?;
        let mut command = Command::new(&self.setting.gateway);
        command.arg("serve").arg("--config").arg(config);
        let member = &mut self.members[number];
        let mut node = Node::start(&command, member.public, tempfile::tempdir()?)?;
        node.admin = Some(member.admin);
        node.eventually(|| Ok(fanlight::is_ready(&node)))?;
        member.node = Some(node);
        Ok(())
    }

    /// Tells a node to go.
    pub fn begin_stop(&self, number: usize, stop: Stop) -> Result<()> {
        let node = self.node(number)?;
        match stop {
            Stop::Sigterm => node.terminate(),
            Stop::Drain => fanlight::drain(node),
        }
    }

    /// Whether it has gone, which it must do well.
    pub fn has_stopped(&mut self, number: usize) -> Result<bool> {
        let node = self.node(number)?;
        let Some(status) = node.ended()? else { return Ok(false) };
        ensure!(status.success(), "node {number} ended with {status}: {}", node.said());
        self.members[number].node = None;
        Ok(true)
    }

    /// By when a node that is told to go must have gone.
    pub fn stop_time(&self) -> Duration {
        self.setting.grace + self.setting.window + DEADLINE + Duration::from_secs(15)
    }

    /// What each node that runs has said, the end of it.
    pub fn said(&self) -> String {
        let mut text = String::new();
        for (number, member) in self.members.iter().enumerate() {
            if let Some(node) = &member.node {
                let _ = write!(text, "node {}:\n{}\n", number + 1, node.said());
            }
        }
        text
    }

    fn node(&self, number: usize) -> Result<&Node> {
        self.members[number].node.as_ref().with_context(|| format!("node {number} does not run"))
    }

    fn config(&self, number: usize) -> String {
        let Member { public, admin, .. } = &self.members[number];
        let Setting { secret, grace, window, admitted, burst, history, .. } = &self.setting;
        let time = |time: Duration| humantime::format_duration(time).to_string().replace(' ', "");
        let whole = *grace + *window + DEADLINE;
        let Rebalance { renew, settle, window: moving, cooldown, min_sessions } =
            self.setting.rebalance;
        format!(
            r#"workers = 1
[cluster]
name = "node{}"
lease_renew = "{}"
[listen]
public = "{public}"
admin = "{admin}"
[broker]
kind = "redis"
[redis]
url = "{}"
[limits]
connections_per_ip = 0
handshakes_per_second_per_ip = 0
handshakes_per_second_per_user = 0
messages_per_second = 0
commands_per_second = 0
handshakes_per_second = {admitted}
handshakes_burst = {burst}
[drain]
grace = "{}"
window = "{}"
deadline = "{}"
shutdown_timeout = "{}"
[rebalance]
enabled = true
threshold_percent = {THRESHOLD_PERCENT}
min_sessions = {min_sessions}
settle = "{}"
window = "{}"
cooldown = "{}"
[log]
level = "warn"
[[auth.keys]]
algorithm = "HS256"
secret = "{secret}"
[[namespaces]]
name = "rooms"
match = "/topic/**"
history = {{ size = {history}, ttl = "5m" }}
[[policy.rules]]
effect = "allow"
destination = "/topic/**"
"#,
            number + 1,
            time(renew),
            self.redis.url(),
            time(*grace),
            time(*window),
            time(DEADLINE),
            // Of which SIGTERM gives a third to the grace, and a sixth to the deadline, at most.
            time(whole.max(*grace * 3).max(DEADLINE * 6)),
            time(settle),
            time(moving),
            time(cooldown),
        )
    }
}

/// A port that is free now, and that the kernel does not give to outgoing connections: the proxy's
/// would take it while its node is away.
pub fn low_address() -> Result<SocketAddr> {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(PORTS)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port among {PORTS:?}")
}

/// By how much a node may have more sessions than the mean.
pub const THRESHOLD_PERCENT: u64 = 10;
/// Below them are those of the tests, which run beside each other.
const PORTS: std::ops::Range<u16> = 10_000..20_000;
/// After the window: how long sockets that have not closed are waited for.
const DEADLINE: Duration = Duration::from_secs(5);
