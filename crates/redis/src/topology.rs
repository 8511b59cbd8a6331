//! Which Redis a channel lives on, and where that Redis is now.

use std::io;
use std::net::SocketAddr;

use crate::config::Endpoint;
use crate::names::Partition;

/// How the Redis processes are arranged.
///
/// Everything else asks this type and keeps no address of its own: a channel's shard is asked for
/// at each call, a shard's address at each connect. So other arrangements are further variants.
#[derive(Debug)]
pub(crate) enum Topology {
    /// One process that holds everything.
    Standalone(Endpoint),
}

/// One part of the channels with a master of its own, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShardId(pub(crate) u16);

impl Topology {
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> {
        match self {
            Self::Standalone(_) => std::iter::once(ShardId(0)),
        }
    }

    pub(crate) fn shard_of(&self, _partition: Partition) -> ShardId {
        match self {
            Self::Standalone(_) => ShardId(0),
        }
    }

    /// Where a shard's master is now: the name is resolved again at every call.
    pub(crate) async fn locate(&self, _shard: ShardId) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Standalone(endpoint) => {
                let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
                Ok(found.await?.collect())
            }
        }
    }

    /// How a shard is called in logs; holds no secret.
    pub(crate) fn describe(&self, _shard: ShardId) -> String {
        match self {
            Self::Standalone(endpoint) => format!("Redis at {endpoint}"),
        }
    }
}
