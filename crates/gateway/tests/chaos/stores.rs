//! The Redis processes of a run, whatever their arrangement, and what can be done to them.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fanlight_testkit::{RedisCluster, RedisSentinel, RedisServer, RedisShards};

use crate::schedule::Topology;

/// All of them; each call blocks.
pub enum Stores {
    Standalone(RedisServer),
    /// The two servers, and which of them is the primary.
    Replica([RedisServer; 2], usize),
    Sentinel(RedisSentinel),
    Cluster(RedisCluster),
    Shards(RedisShards),
}

/// A Redis to be brought back.
#[derive(Debug, Clone, Copy)]
pub enum Victim {
    Address(SocketAddr),
    Index(usize),
}

impl Stores {
    pub fn start(topology: Topology) -> anyhow::Result<Self> {
        Ok(match topology {
            Topology::Standalone => Self::Standalone(RedisServer::start()?),
            Topology::Replica => {
                let primary = RedisServer::start()?;
                let replica = RedisServer::start_replica_of(&primary)?;
                Self::Replica([primary, replica], 0)
            }
            Topology::Sentinel => Self::Sentinel(RedisSentinel::start(2, SENTINELS)?),
            Topology::Cluster => Self::Cluster(RedisCluster::start(3, 1)?),
            Topology::Shards => Self::Shards(RedisShards::start(2)?),
        })
    }

    /// What to connect to, where no proxy stands between.
    pub fn url(&self) -> String {
        match self {
            Self::Standalone(server) => server.url(),
            Self::Replica(servers, primary) => servers[*primary].url(),
            Self::Sentinel(sentinel) => sentinel.url(),
            Self::Cluster(cluster) => cluster.url(),
            Self::Shards(shards) => shards.url(),
        }
    }

    /// The server that a proxy passes on to.
    pub fn primary(&self) -> Option<SocketAddr> {
        match self {
            Self::Standalone(server) => Some(server.address()),
            Self::Replica(servers, primary) => Some(servers[*primary].address()),
            Self::Sentinel(_) | Self::Cluster(_) | Self::Shards(_) => None,
        }
    }

    /// Every process that nodes speak to.
    pub fn servers(&self) -> Vec<SocketAddr> {
        match self {
            Self::Standalone(server) => vec![server.address()],
            Self::Replica(servers, _) => servers.iter().map(RedisServer::address).collect(),
            Self::Sentinel(sentinel) => {
                let sentinels = (0..SENTINELS).map(|index| sentinel.sentinel(index).address());
                sentinel.servers().into_iter().chain(sentinels).collect()
            }
            Self::Cluster(cluster) => cluster.endpoints(),
            Self::Shards(shards) => shards.endpoints(),
        }
    }

    /// Where one of the masters listens.
    pub fn master(&self, pick: usize) -> anyhow::Result<SocketAddr> {
        let masters = self.masters()?;
        let master = masters.get(pick % masters.len().max(1)).context("no master is up")?;
        Ok(master.address())
    }

    /// `CLIENT KILL` on every master.
    pub fn kill_clients(&self, kind: &str) -> anyhow::Result<()> {
        for master in self.masters()? {
            master.call(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])?.ok()?;
        }
        Ok(())
    }

    /// SIGSTOP for a master.
    pub fn pause(&self, pick: usize) -> anyhow::Result<Victim> {
        match self {
            Self::Standalone(server) => server.pause().map(|()| Victim::Index(0)),
            Self::Replica(servers, primary) => {
                servers[*primary].pause().map(|()| Victim::Index(*primary))
            }
            Self::Sentinel(sentinel) => sentinel.pause_master().map(Victim::Address),
            Self::Cluster(cluster) => {
                let index = one_of(&cluster.masters()?, pick)?;
                cluster.pause(index).map(|()| Victim::Index(index))
            }
            Self::Shards(shards) => {
                let index = pick % shards.endpoints().len();
                shards.shard(index).pause().map(|()| Victim::Index(index))
            }
        }
    }

    /// SIGCONT.
    pub fn resume(&self, victim: Victim) -> anyhow::Result<()> {
        match (self, victim) {
            (Self::Standalone(server), _) => server.resume(),
            (Self::Replica(servers, _), Victim::Index(index)) => servers[index].resume(),
            (Self::Sentinel(sentinel), Victim::Address(address)) => {
                sentinel.server(address)?.resume()
            }
            (Self::Cluster(cluster), Victim::Index(index)) => cluster.resume(index),
            (Self::Shards(shards), Victim::Index(index)) => shards.shard(index).resume(),
            (_, victim) => anyhow::bail!("{victim:?} is of another topology"),
        }
    }

    /// `kill -9` for a master. Where this can be brought about, its replicas have fallen behind by
    /// then: what it accepted last is lost.
    pub fn kill(&mut self, pick: usize) -> anyhow::Result<Victim> {
        Ok(match self {
            Self::Standalone(server) => {
                server.kill();
                Victim::Index(0)
            }
            Self::Replica(servers, primary) => {
                let old = *primary;
                *primary = 1 - old;
                servers[*primary].call(&["REPLICAOF", "NO", "ONE"])?.ok()?;
                sleep(lag(pick));
                servers[old].kill();
                Victim::Index(old)
            }
            Self::Sentinel(sentinel) => {
                let master = sentinel.master()?;
                let servers = sentinel.servers();
                for replica in servers.into_iter().filter(|server| *server != master) {
                    // Nobody is there, until the Sentinels name its new master.
                    sentinel.server(replica)?.call(&["REPLICAOF", "127.0.0.1", "1"])?.ok()?;
                }
                sleep(lag(pick));
                Victim::Address(sentinel.kill_master()?)
            }
            Self::Cluster(cluster) => {
                let index = one_of(&cluster.masters()?, pick)?;
                cluster.kill(index);
                Victim::Index(index)
            }
            Self::Shards(shards) => {
                let index = pick % shards.endpoints().len();
                shards.shard_mut(index).kill();
                Victim::Index(index)
            }
        })
    }

    /// Starts a killed one again, empty; where there are replicas, as one.
    pub fn relaunch(&mut self, victim: Victim) -> anyhow::Result<()> {
        match (self, victim) {
            (Self::Standalone(server), _) => server.launch(),
            (Self::Replica(servers, primary), Victim::Index(index)) => {
                servers[index].launch()?;
                let port = servers[*primary].address().port().to_string();
                servers[index].call(&["REPLICAOF", "127.0.0.1", &port])?.ok()?;
                servers[index].wait_until_replica_of(&servers[*primary])
            }
            (Self::Sentinel(sentinel), Victim::Address(address)) => {
                // Before the Sentinels have replaced it, it would be the master again, and have
                // its replicas throw away what they hold.
                wait_for_another(address, || sentinel.master())?;
                sentinel.relaunch(address)
            }
            (Self::Cluster(cluster), Victim::Index(index)) => {
                cluster.wait_for_takeover(index)?;
                cluster.launch(index)
            }
            (Self::Shards(shards), Victim::Index(index)) => shards.shard_mut(index).launch(),
            (_, victim) => anyhow::bail!("{victim:?} is of another topology"),
        }
    }

    /// Waits until all agree again on who is who.
    pub fn settle(&self) -> anyhow::Result<()> {
        match self {
            Self::Standalone(_) | Self::Shards(_) => Ok(()),
            Self::Replica(servers, primary) => {
                servers[1 - *primary].wait_until_replica_of(&servers[*primary])
            }
            Self::Sentinel(sentinel) => sentinel.wait_until_settled(),
            Self::Cluster(cluster) => cluster.wait_until_settled(),
        }
    }

    fn masters(&self) -> anyhow::Result<Vec<&RedisServer>> {
        Ok(match self {
            Self::Standalone(server) => vec![server],
            Self::Replica(servers, primary) => vec![&servers[*primary]],
            Self::Sentinel(sentinel) => vec![sentinel.server(sentinel.master()?)?],
            Self::Cluster(cluster) => {
                cluster.masters()?.into_iter().map(|index| cluster.node(index)).collect()
            }
            Self::Shards(shards) => {
                (0..shards.endpoints().len()).map(|index| shards.shard(index)).collect()
            }
        })
    }
}

fn one_of(masters: &[usize], pick: usize) -> anyhow::Result<usize> {
    ensure!(!masters.is_empty(), "no master is up");
    masters.get(pick % masters.len()).copied().context("no master is up")
}

/// For how long replicas hear nothing before their master is killed.
fn lag(pick: usize) -> Duration {
    Duration::from_millis(100 + 10 * pick as u64)
}

fn wait_for_another(
    old: SocketAddr,
    master: impl Fn() -> anyhow::Result<SocketAddr>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + TAKEOVER_MAX;
    while master().is_ok_and(|address| address == old) {
        ensure!(Instant::now() < deadline, "{old} is not replaced");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

const SENTINELS: usize = 3;
const TAKEOVER_MAX: Duration = Duration::from_secs(30);
