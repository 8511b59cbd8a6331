//! A Redis Cluster that forms, fails over and moves slots.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::cluster_view::{ClusterView, Role, SLOTS};
use crate::port::PortLease;
use crate::redis_command::Reply;
use crate::redis_server::RedisServer;
use crate::redis_tls::{SharedTls, TlsFiles};
use crate::redis_wait::wait_for;

/// Masters with their replicas, each a process; killed when dropped.
///
/// A node keeps its index: first the masters that it started with, then the replicas of the first
/// master, those of the second, and so on. Roles change by failover: see [`masters`](Self::masters).
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Node>,
    groups: usize,
    tls: Option<SharedTls>,
}

#[derive(Debug)]
struct Node {
    server: RedisServer,
    bus: PortLease,
    id: String,
}

impl RedisCluster {
    /// Forms a cluster, its slots spread evenly; returns when every node agrees and every replica
    /// is in step.
    pub fn start(masters: usize, replicas_per_master: usize) -> anyhow::Result<Self> {
        Self::form(masters, replicas_per_master, None)
    }

    /// The same, whose nodes speak TLS only, to clients and to each other. Slots can't be moved.
    pub fn start_tls(masters: usize, replicas_per_master: usize) -> anyhow::Result<Self> {
        Self::form(masters, replicas_per_master, Some(SharedTls::generate()?))
    }

    fn form(
        masters: usize,
        replicas_per_master: usize,
        tls: Option<SharedTls>,
    ) -> anyhow::Result<Self> {
        ensure!(masters > 0, "a cluster without a master");
        let count = masters * (1 + replicas_per_master);
        let files = tls.as_ref().map(|tls| &tls.files);
        let nodes = (0..count).map(|_| Node::start(files)).collect::<anyhow::Result<Vec<_>>>()?;
        let cluster = Self { nodes, groups: masters, tls };
        cluster.introduce()?;
        cluster.assign_slots(masters)?;
        for replica in masters..count {
            cluster.attach(replica, cluster.group(replica))?;
        }
        cluster.wait_until_settled()?;
        Ok(cluster)
    }

    /// Where the nodes listen, by index.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.server.address()).collect()
    }

    /// All nodes: `redis-cluster://127.0.0.1:20000,127.0.0.1:20002`.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss-cluster" } else { "redis-cluster" };
        super::url(scheme, &self.endpoints())
    }

    /// The PEM file of the authority that signed the nodes' certificate, if they speak TLS.
    pub fn authority(&self) -> Option<&Path> {
        self.tls.as_ref().map(|tls| tls.files.authority.as_path())
    }

    /// The process of a node, to run commands on.
    pub fn node(&self, index: usize) -> &RedisServer {
        &self.nodes[index].server
    }

    /// The nodes that are up and call themselves masters.
    pub fn masters(&self) -> anyhow::Result<Vec<usize>> {
        Ok(self.view()?.masters().collect())
    }

    /// The nodes that are up and call themselves replicas of a node.
    pub fn replicas_of(&self, master: usize) -> anyhow::Result<Vec<usize>> {
        Ok(self.view()?.replicas_of(master).collect())
    }

    /// The master that serves a slot.
    pub fn master_of_slot(&self, slot: u16) -> anyhow::Result<usize> {
        self.view()?.owner(slot).with_context(|| format!("no node that is up serves slot {slot}"))
    }

    /// The slot of a key, its `{tag}` obeyed.
    pub fn slot_of(&self, key: impl AsRef<[u8]>) -> anyhow::Result<u16> {
        let up = self.up().next().context("no node is up")?;
        let words = [b"CLUSTER", b"KEYSLOT".as_slice(), key.as_ref()];
        Ok(u16::try_from(self.node(up).call(&words)?.integer()?)?)
    }

    /// `kill -9`.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].server.kill();
    }

    /// Starts a killed node again: empty, but knowing the cluster that it was in.
    pub fn launch(&mut self, index: usize) -> anyhow::Result<()> {
        self.nodes[index].server.launch()
    }

    /// SIGSTOP.
    pub fn pause(&self, index: usize) -> anyhow::Result<()> {
        self.node(index).pause()
    }

    /// SIGCONT.
    pub fn resume(&self, index: usize) -> anyhow::Result<()> {
        self.node(index).resume()
    }

    /// Has a replica take over from its living master, without loss; returns the new master.
    pub fn failover(&self, master: usize) -> anyhow::Result<usize> {
        let replica = self.replicas_of(master)?.first().copied();
        let replica = replica.with_context(|| format!("node {master} has no replica"))?;
        let mut asked: Option<Instant> = None;
        wait_for("the replica takes over", || {
            if self.view()?.role(replica) == Some(&Role::Master) {
                return Ok(());
            }
            // Redis gives an attempt up after five seconds, in silence.
            if asked.is_none_or(|at| at.elapsed() > MANUAL_FAILOVER_MAX) {
                self.order(replica, "CLUSTER FAILOVER")?;
                asked = Some(Instant::now());
            }
            bail!("node {replica} is still a replica")
        })?;
        self.wait_until_settled()?;
        Ok(replica)
    }

    /// Kills a master and waits until a replica of its own has taken over; returns that.
    ///
    /// Needs a majority of the masters to live on, so at least three.
    pub fn promote_by_killing(&mut self, master: usize) -> anyhow::Result<usize> {
        let view = self.view()?;
        ensure!(view.replicas_of(master).next().is_some(), "node {master} has no replica");
        ensure!(view.masters().count() > 2, "no majority is left to elect a new master");
        self.kill(master);
        self.wait_for_takeover(master)
    }

    /// Waits until a replica of a dead or paused master has taken over; returns the new master.
    pub fn wait_for_takeover(&self, old: usize) -> anyhow::Result<usize> {
        let new = wait_for("a replica takes over from its master", || {
            let view = self.view()?;
            let new =
                view.masters().find(|each| *each != old && self.group(*each) == self.group(old));
            new.context("no replica calls itself a master")
        })?;
        self.wait_until_settled()?;
        Ok(new)
    }

    /// Moves a slot with its keys, and returns when every node knows.
    pub fn migrate_slot(&self, slot: u16, to: usize) -> anyhow::Result<()> {
        if self.master_of_slot(slot)? == to {
            return Ok(());
        }
        self.begin_migration(slot, to)?;
        self.finish_migration(slot, to)
    }

    /// Marks a slot as being moved: from here on its master redirects by ASK what it lacks.
    pub fn begin_migration(&self, slot: u16, to: usize) -> anyhow::Result<()> {
        let from = self.master_of_slot(slot)?;
        let (from_id, to_id) = (&self.nodes[from].id, &self.nodes[to].id);
        self.order(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"))?;
        self.order(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"))
    }

    /// Moves the keys of a slot that [`begin_migration`](Self::begin_migration) marked, and hands
    /// the slot over.
    pub fn finish_migration(&self, slot: u16, to: usize) -> anyhow::Result<()> {
        let from = self.master_of_slot(slot)?;
        self.move_keys(slot, from, to)?;
        // First the receiver, so that there is a master of the slot at any time.
        let others = self.masters()?.into_iter().filter(|index| ![from, to].contains(index));
        for index in [to, from].into_iter().chain(others) {
            self.order(index, &format!("CLUSTER SETSLOT {slot} NODE {}", self.nodes[to].id))?;
        }
        self.wait_until_settled()?;
        ensure!(self.master_of_slot(slot)? == to, "slot {slot} went elsewhere");
        Ok(())
    }

    /// Waits until the nodes that are up agree on roles and slots, have the cluster as working,
    /// and every replica whose master is up is in step.
    pub fn wait_until_settled(&self) -> anyhow::Result<()> {
        wait_for("the cluster settles", || self.ensure_settled())
    }

    fn ensure_settled(&self) -> anyhow::Result<()> {
        let view = self.view()?;
        let reports = view.reports();
        ensure!(reports.windows(2).all(|pair| pair[0] == pair[1]), "no agreement: {reports:?}");
        for index in self.up() {
            let info = self.node(index).call(&["CLUSTER", "INFO"])?.text()?;
            ensure!(info.contains("cluster_state:ok"), "node {index}: {info}");
            if let Some(Role::ReplicaOf(master)) = view.role(index)
                && self.node(*master).is_up()
            {
                self.node(index).ensure_replica_of(self.node(*master))?;
            }
        }
        Ok(())
    }

    /// The master that a node started as or under: replicas never go to another master's.
    fn group(&self, index: usize) -> usize {
        let replicas_per_master = self.nodes.len() / self.groups - 1;
        index.checked_sub(self.groups).map_or(index, |replica| replica / replicas_per_master)
    }

    /// What the nodes that are up say.
    fn view(&self) -> anyhow::Result<ClusterView> {
        let ids: Vec<&str> = self.nodes.iter().map(|node| node.id.as_str()).collect();
        let up: BTreeSet<usize> = self.up().collect();
        let texts = up
            .iter()
            .map(|index| self.node(*index).call(&["CLUSTER", "NODES"])?.text())
            .collect::<anyhow::Result<Vec<_>>>()?;
        ClusterView::parse(&ids, &up, &texts)
    }

    fn up(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|index| self.node(*index).is_up())
    }

    /// Has each pair of nodes meet, so that nobody waits for gossip.
    fn introduce(&self) -> anyhow::Result<()> {
        for (index, node) in self.nodes.iter().enumerate() {
            self.order(index, &format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1))?;
            for earlier in 0..index {
                let (port, bus) = (node.server.port(), node.bus.port());
                self.order(earlier, &format!("CLUSTER MEET 127.0.0.1 {port} {bus}"))?;
            }
        }
        wait_for("every node knows every other", || self.view().map(drop))
    }

    fn assign_slots(&self, masters: usize) -> anyhow::Result<()> {
        for master in 0..masters {
            let first = usize::from(SLOTS) * master / masters;
            let last = usize::from(SLOTS) * (master + 1) / masters - 1;
            self.order(master, &format!("CLUSTER ADDSLOTSRANGE {first} {last}"))?;
        }
        Ok(())
    }

    fn attach(&self, replica: usize, master: usize) -> anyhow::Result<()> {
        self.order(replica, &format!("CLUSTER REPLICATE {}", self.nodes[master].id))
    }

    fn move_keys(&self, slot: u16, from: usize, to: usize) -> anyhow::Result<()> {
        let mut source = self.node(from).control()?;
        let port = self.node(to).port().to_string();
        let slot = slot.to_string();
        loop {
            let keys = source.call(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"])?.array()?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut migrate: Vec<Vec<u8>> =
                ["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "KEYS"]
                    .map(|word| word.as_bytes().to_vec())
                    .into();
            migrate.extend(keys.into_iter().filter_map(|key| match key {
                Reply::Bulk(key) => Some(key),
                _ => None,
            }));
            source.call(&migrate)?.ok()?;
        }
    }

    fn order(&self, index: usize, words: &str) -> anyhow::Result<()> {
        let words: Vec<&str> = words.split(' ').collect();
        let reply = self.node(index).call(&words).and_then(Reply::ok);
        reply.with_context(|| format!("{words:?} on node {index}")).map(drop)
    }
}

impl Node {
    fn start(tls: Option<&TlsFiles>) -> anyhow::Result<Self> {
        let bus = PortLease::take()?;
        let port = bus.port().to_string();
        let mut options = vec!["--cluster-port", &port];
        options.extend(CLUSTER_OPTIONS);
        let server = if let Some(files) = tls {
            options.extend(["--tls-cluster", "yes", "--tls-replication", "yes"]);
            RedisServer::start_tls_by(files, &options)?
        } else {
            RedisServer::start_with(&options)?
        };
        let id = server.call(&["CLUSTER", "MYID"])?.text()?;
        Ok(Self { server, bus, id })
    }
}

const CLUSTER_OPTIONS: [&str; 14] = [
    "--cluster-enabled",
    "yes",
    "--cluster-config-file",
    "nodes.conf",
    "--cluster-announce-ip",
    "127.0.0.1",
    "--cluster-node-timeout",
    "2000",
    "--cluster-require-full-coverage",
    "no",
    "--cluster-allow-replica-migration",
    "no",
    // However long a busy machine kept it from its master, the only replica may take over.
    "--cluster-replica-validity-factor",
    "0",
];

/// Redis' own limit is 5 seconds (`CLUSTER_MF_TIMEOUT`).
const MANUAL_FAILOVER_MAX: Duration = Duration::from_secs(6);
