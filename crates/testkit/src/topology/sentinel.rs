//! A master with replicas, watched by Sentinels that replace it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::redis_command::Reply;
use crate::redis_server::RedisServer;
use crate::redis_tls::SharedTls;
use crate::redis_wait::wait_for;

/// One master, its replicas and their Sentinels, each a process; killed when dropped.
///
/// Which server is the master changes by failover: see [`master`](Self::master).
#[derive(Debug)]
pub struct RedisSentinel {
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
    tls: Option<SharedTls>,
}

impl RedisSentinel {
    /// The name by which the Sentinels know the master.
    pub const MASTER_NAME: &str = "fanlight";

    /// Starts all; returns when each replica is in step and each Sentinel knows all others.
    ///
    /// A failover needs most of the Sentinels.
    pub fn start(replicas: usize, sentinels: usize) -> anyhow::Result<Self> {
        Self::form(replicas, sentinels, None)
    }

    /// The same, where all speak TLS only, to clients and to each other.
    pub fn start_tls(replicas: usize, sentinels: usize) -> anyhow::Result<Self> {
        Self::form(replicas, sentinels, Some(SharedTls::generate()?))
    }

    fn form(replicas: usize, sentinels: usize, tls: Option<SharedTls>) -> anyhow::Result<Self> {
        ensure!(sentinels > 0, "a master without a Sentinel");
        let files = tls.as_ref().map(|tls| &tls.files);
        let master = RedisServer::start_master_by(files)?;
        let replicas = (0..replicas)
            .map(|_| RedisServer::start_replica_of(&master))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let configuration = configuration(master.address(), sentinels / 2 + 1);
        let sentinels = (0..sentinels)
            .map(|_| RedisServer::start_sentinel_by(files, &configuration))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let servers = std::iter::once(master).chain(replicas).collect();
        let started = Self { servers, sentinels, tls };
        started.wait_until_settled()?;
        Ok(started)
    }

    /// The Sentinels and the master's name: `redis-sentinel://127.0.0.1:20000,.../fanlight`.
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.sentinels.iter().map(RedisServer::address).collect();
        let scheme = if self.tls.is_some() { "rediss-sentinel" } else { "redis-sentinel" };
        format!("{}/{}", super::url(scheme, &addresses), Self::MASTER_NAME)
    }

    /// The PEM file of the authority that signed the certificate of all, if they speak TLS.
    pub fn authority(&self) -> Option<&Path> {
        self.tls.as_ref().map(|tls| tls.files.authority.as_path())
    }

    /// The master's address, in the words of most of the Sentinels that are up.
    pub fn master(&self) -> anyhow::Result<SocketAddr> {
        let mut votes = BTreeMap::<SocketAddr, usize>::new();
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.is_up()) {
            *votes.entry(named_master(sentinel)?).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
        most.map(|(address, _)| address).context("no Sentinel is up")
    }

    /// The servers' addresses: first the master that it started with.
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(RedisServer::address).collect()
    }

    /// The process of a server, to run commands on, to pause or to resume.
    pub fn server(&self, address: SocketAddr) -> anyhow::Result<&RedisServer> {
        let mut servers = self.servers.iter();
        servers.find(|server| server.address() == address).context("no server has this address")
    }

    /// A Sentinel's process, to pause or to resume.
    pub fn sentinel(&self, index: usize) -> &RedisServer {
        &self.sentinels[index]
    }

    /// A Sentinel's process, also to kill or to launch again.
    pub fn sentinel_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.sentinels[index]
    }

    /// `kill -9` for the master; returns its address.
    pub fn kill_master(&mut self) -> anyhow::Result<SocketAddr> {
        let master = self.master()?;
        self.server_mut(master)?.kill();
        Ok(master)
    }

    /// SIGSTOP for the master; returns its address, for [`server`](Self::server) to resume it.
    pub fn pause_master(&self) -> anyhow::Result<SocketAddr> {
        let master = self.master()?;
        self.server(master)?.pause()?;
        Ok(master)
    }

    /// Waits until all agree on another master than `old`; returns it.
    pub fn wait_for_failover(&self, old: SocketAddr) -> anyhow::Result<SocketAddr> {
        wait_for("the Sentinels replace the master", || {
            let master = self.master()?;
            ensure!(master != old, "the master is still {old}");
            self.ensure_settled()?;
            Ok(master)
        })
    }

    /// Starts a killed server again, empty. It comes up in the role that it was first started in,
    /// until the Sentinels tell it otherwise: see [`wait_until_settled`](Self::wait_until_settled).
    pub fn relaunch(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        self.server_mut(address)?.launch()
    }

    /// Waits until the Sentinels that are up agree on the master and know each other and all
    /// servers, and each server that is up is the master or in step with it.
    pub fn wait_until_settled(&self) -> anyhow::Result<()> {
        wait_for("servers and Sentinels settle", || self.ensure_settled())
    }

    fn ensure_settled(&self) -> anyhow::Result<()> {
        let address = self.master()?;
        let master = self.server(address)?;
        ensure!(master.is_up(), "the master {address} is down");
        let role = master.call(&["ROLE"])?.array()?.into_iter().next();
        let role = role.context("a role without a name")?.text()?;
        ensure!(role == "master", "the master {address} is still a {role}");
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.is_up()) {
            self.ensure_knows_all(sentinel, address)?;
        }
        for server in self.servers.iter().filter(|server| server.is_up()) {
            if server.address() != address {
                server.ensure_replica_of(master)?;
            }
        }
        Ok(())
    }

    fn ensure_knows_all(&self, sentinel: &RedisServer, master: SocketAddr) -> anyhow::Result<()> {
        let named = named_master(sentinel)?;
        ensure!(named == master, "a Sentinel has {named} as the master, not {master}");
        let state = ask(sentinel, &["SENTINEL", "MASTER", Self::MASTER_NAME])?;
        let state = fields(state)?;
        ensure!(state.get("flags").is_some_and(|flags| flags == "master"), "{state:?}");

        let replicas = ask(sentinel, &["SENTINEL", "REPLICAS", Self::MASTER_NAME])?;
        let others = self.servers.iter().filter(|server| server.address() != master);
        ensure_known(replicas, others)?;
        let sentinels = ask(sentinel, &["SENTINEL", "SENTINELS", Self::MASTER_NAME])?;
        let others = self.sentinels.iter().filter(|each| each.address() != sentinel.address());
        ensure_known(sentinels, others)
    }

    fn server_mut(&mut self, address: SocketAddr) -> anyhow::Result<&mut RedisServer> {
        let mut servers = self.servers.iter_mut();
        servers.find(|server| server.address() == address).context("no server has this address")
    }
}

/// That each of `peers` is listed and, if it is up, reached.
fn ensure_known<'s>(
    listed: Reply,
    peers: impl Iterator<Item = &'s RedisServer>,
) -> anyhow::Result<()> {
    let listed = listed.array()?.into_iter().map(fields).collect::<anyhow::Result<Vec<_>>>()?;
    for peer in peers {
        let port = peer.address().port().to_string();
        let Some(entry) = listed.iter().find(|entry| entry.get("port") == Some(&port)) else {
            bail!("{} is not known: {listed:?}", peer.address());
        };
        let flags = entry.get("flags").context("no flags")?;
        let is_ill = ["s_down", "o_down", "disconnected"].iter().any(|ill| flags.contains(ill));
        ensure!(!is_ill || !peer.is_up(), "not well: {entry:?}");
    }
    Ok(())
}

fn named_master(sentinel: &RedisServer) -> anyhow::Result<SocketAddr> {
    let reply =
        ask(sentinel, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", RedisSentinel::MASTER_NAME])?;
    let parts = reply.array()?.into_iter().map(Reply::text).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(parts.join(":").parse()?)
}

/// The names and values of a flat array.
fn fields(reply: Reply) -> anyhow::Result<BTreeMap<String, String>> {
    let words = reply.array()?.into_iter().map(Reply::text).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
}

fn ask(sentinel: &RedisServer, words: &[&str]) -> anyhow::Result<Reply> {
    sentinel.call(words)?.ok()
}

fn configuration(master: SocketAddr, quorum: usize) -> String {
    let name = RedisSentinel::MASTER_NAME;
    let (ip, port) = (master.ip(), master.port());
    format!(
        "sentinel monitor {name} {ip} {port} {quorum}\n\
         sentinel down-after-milliseconds {name} 1000\n\
         sentinel failover-timeout {name} 3000\n\
         sentinel parallel-syncs {name} 8\n"
    )
}
