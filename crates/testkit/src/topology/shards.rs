//! Standalone servers that know nothing of each other.

use std::net::SocketAddr;

use anyhow::ensure;

use crate::redis_server::RedisServer;

/// Several standalone servers, each a process; killed when dropped.
#[derive(Debug)]
pub struct RedisShards {
    shards: Vec<RedisServer>,
}

impl RedisShards {
    /// Starts `count` servers and waits until they answer.
    pub fn start(count: usize) -> anyhow::Result<Self> {
        ensure!(count > 0, "no shard");
        let shards = (0..count).map(|_| RedisServer::start()).collect::<anyhow::Result<_>>()?;
        Ok(Self { shards })
    }

    /// All shards, in order: `redis-shards://127.0.0.1:20000,127.0.0.1:20001`.
    pub fn url(&self) -> String {
        super::url("redis-shards", &self.endpoints())
    }

    /// Where the shards listen, in order.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.shards.iter().map(RedisServer::address).collect()
    }

    /// A shard, to run commands on, to pause or to resume.
    pub fn shard(&self, index: usize) -> &RedisServer {
        &self.shards[index]
    }

    /// A shard, also to kill or to launch again.
    pub fn shard_mut(&mut self, index: usize) -> &mut RedisServer {
        &mut self.shards[index]
    }
}
