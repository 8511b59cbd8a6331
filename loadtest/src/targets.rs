//! The servers under test: what they are called, how they are built and started, what they can.

pub mod become_server;
mod centrifugo;
pub mod fanlight;
pub mod node;
mod null;
mod redis;
mod socketio;
mod spring;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::adapters::Protocol;
use crate::scenario::{Nodes, RedisKind, Scenario, StormKind};
pub use become_server::{Become, exec};
pub use node::Node;
pub use redis::Redis;

/// What is measured: a kind of server, the protocol, and where it is if the tester does not start it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    kind: Kind,
    /// What clients speak.
    pub protocol: Protocol,
    address: Option<SocketAddr>,
}

/// Kinds of servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Fanlight,
    Centrifugo,
    Spring,
    #[value(name = "socketio")]
    SocketIo,
    Null,
}

/// What is to be started.
#[derive(Clone, Copy, Default)]
pub struct Start<'a> {
    /// How many, with which Redis, and so on.
    pub nodes: Nodes,
    /// Whether topics have presence.
    pub presence: bool,
    /// The secret of all tokens (HS256).
    pub secret: &'a str,
    /// The gateway's binary; the one beside this program when absent.
    pub gateway: Option<&'a Path>,
    /// The process of a server that is running already.
    pub server_pid: Option<u32>,
    /// What the null server does wrong.
    pub null_fault: Option<&'a str>,
}

/// A server that runs; what was started for it ends with this value.
pub struct Server {
    /// Its processes, the first of which is the one that storms are made on.
    pub nodes: Vec<Node>,
    /// The version, as it says itself.
    pub version: String,
    /// The Redis between them.
    pub redis: Option<Redis>,
    collects_garbage: bool,
}

impl Target {
    /// Why this server can't have the scenario, if so.
    pub fn refusal(&self, scenario: &Scenario) -> Option<String> {
        let is_fanlight = self.kind == Kind::Fanlight;
        if scenario.connections.presence && !is_fanlight {
            return Some("its adapter has no presence".into());
        }
        if scenario.connections.private && self.kind == Kind::Null {
            return Some("it knows no users".into());
        }
        if scenario.nodes.count > 1 && matches!(self.kind, Kind::Spring | Kind::Null) {
            return Some("its broker is of one node".into());
        }
        if scenario.nodes.count > 1 && self.address.is_some() {
            return Some("several nodes have to be started by the tester".into());
        }
        let storm = scenario.storm.map(|storm| storm.kind);
        if matches!(storm, Some(StormKind::Drain | StormKind::RedisFailover)) && !is_fanlight {
            return Some("the tester can't do this to it".into());
        }
        if self.address.is_some() && scenario.anew == crate::scenario::Anew::Server {
            return Some("the tester did not start it, so it can't start it anew".into());
        }
        None
    }

    /// Whether clients can give back a position.
    pub fn recovers(&self) -> bool {
        self.kind == Kind::Fanlight
    }

    /// Whether what it needs is there; builds it, where that is yet to be done.
    pub fn prepare(&self) -> Result<()> {
        match self.kind {
            _ if self.address.is_some() => Ok(()),
            Kind::Fanlight | Kind::Null => Ok(()),
            Kind::Centrifugo => centrifugo::binary().map(|_| ()),
            Kind::Spring => spring::jar().map(|_| ()),
            Kind::SocketIo => socketio::install(),
        }
    }

    /// Starts it, or finds it.
    pub fn start(&self, start: &Start<'_>) -> Result<Server> {
        if let Some(address) = self.address {
            let nodes = vec![Node::running(address, start.server_pid)];
            let version = "not started by the tester".into();
            return Ok(Server { nodes, version, redis: None, collects_garbage: false });
        }
        let redis = match start.nodes.redis {
            RedisKind::None => None,
            RedisKind::Single => Some(Redis::start()?),
            RedisKind::Sentinel => Some(Redis::start_with_sentinel()?),
        };
        let node = |_| match self.kind {
            Kind::Fanlight => fanlight::start(start, redis.as_ref()),
            Kind::Centrifugo => centrifugo::start(start, redis.as_ref()),
            Kind::Spring => spring::start(start),
            Kind::SocketIo => socketio::start(start, redis.as_ref()),
            Kind::Null => null::start(start),
        };
        let nodes = (0..start.nodes.count).map(node).collect::<Result<Vec<_>>>()?;
        let version = match self.kind {
            Kind::Fanlight => fanlight::version(start)?,
            Kind::Centrifugo => centrifugo::version()?,
            Kind::Spring => spring::version(),
            Kind::SocketIo => socketio::version()?,
            Kind::Null => concat!("fanlight-loadtest ", env!("CARGO_PKG_VERSION")).into(),
        };
        Ok(Server { nodes, version, redis, collects_garbage: self.kind == Kind::Spring })
    }
}

impl Server {
    /// Where clients connect.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// CPU time of all nodes so far, in nanoseconds. `None`: no process is known.
    pub fn cpu_ns(&self) -> Result<Option<u64>> {
        self.sum(Node::cpu_ns)
    }

    /// Memory of all nodes in bytes, once those that collect garbage have.
    pub fn memory_bytes(&self) -> Result<Option<u64>> {
        if self.collects_garbage {
            for node in &self.nodes {
                spring::collect_garbage(node)?;
            }
        }
        self.sum(|node| {
            node.process().map(super::process::Process::anonymous_rss_bytes).transpose()
        })
    }

    /// File descriptors of all nodes.
    pub fn file_descriptors(&self) -> Result<Option<u64>> {
        self.sum(|node| {
            let open = node.process().map(super::process::Process::file_descriptors).transpose()?;
            Ok(open.map(|open| open as u64))
        })
    }

    fn sum(&self, of: impl Fn(&Node) -> Result<Option<u64>>) -> Result<Option<u64>> {
        let values = self.nodes.iter().map(of).collect::<Result<Option<Vec<_>>>>()?;
        Ok(values.map(|values| values.iter().sum()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&name(&self.kind))?;
        if self.protocol != default_protocol(self.kind) {
            write!(f, ":{}", name(&self.protocol))?;
        }
        if let Some(address) = self.address {
            write!(f, "@{address}")?;
        }
        Ok(())
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (rest, address) = match text.split_once('@') {
            Some((rest, address)) => (rest, Some(address)),
            None => (text, None),
        };
        let (kind, protocol) = match rest.split_once(':') {
            Some((kind, protocol)) => (kind, Some(protocol)),
            None => (rest, None),
        };
        let kind: Kind = parse("server", kind)?;
        let protocol = match protocol {
            Some(protocol) => parse("protocol", protocol)?,
            None => default_protocol(kind),
        };
        let address = address
            .map(|address| {
                let what = || format!("{address} is no address and port, as 127.0.0.1:8080 is");
                address.parse().with_context(what)
            })
            .transpose()?;
        Ok(Self { kind, protocol, address })
    }
}

fn default_protocol(kind: Kind) -> Protocol {
    match kind {
        Kind::Fanlight | Kind::Null => Protocol::Native,
        Kind::Centrifugo => Protocol::Centrifugo,
        Kind::Spring => Protocol::SpringStomp,
        Kind::SocketIo => Protocol::SocketIo,
    }
}

fn parse<T: clap::ValueEnum>(what: &str, text: &str) -> Result<T> {
    if let Ok(value) = T::from_str(text, false) {
        return Ok(value);
    }
    let known: Vec<String> = T::value_variants().iter().map(name).collect();
    bail!("there is no {what} {text:?}; there are {}", known.join(", "))
}

fn name<T: clap::ValueEnum>(value: &T) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Of servers that are started for the purpose and end with it.
pub const SECRET: &str = "a secret of the load tester, thirty-two bytes or more";

/// Where the peers' sources and configurations are.
fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// Where a program is on the `PATH`.
pub fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where Debian puts servers is not on everybody's path.
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("there is no {name} on the PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_server_its_protocol_and_where_it_is() {
        for text in
            ["fanlight", "fanlight:stomp", "fanlight:sockjs", "centrifugo@127.0.0.1:8000", "null"]
        {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let target: Target = "spring".parse().unwrap();
        assert_eq!(target.protocol, Protocol::SpringStomp);
    }

    #[test]
    fn a_target_that_is_not_known_is_refused_with_those_that_are() {
        let error = "fanlite".parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("fanlight, centrifugo, spring, socketio, null"), "{error}");
        assert!("fanlight:smoke".parse::<Target>().is_err());
        assert!("fanlight@nowhere".parse::<Target>().is_err());
    }
}
