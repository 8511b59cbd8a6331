//! Which shard a partition belongs to, and where that shard's master is now.

use std::fmt;
use std::sync::Arc;

use sha1::{Digest, Sha1};

use crate::config::{Endpoint, RedisConfig};
use crate::connection::{Connection, ConnectionError, Peer};
use crate::names::Partition;
use crate::sentinel::Sentinels;

/// One part of the partitions with a master of its own; the number is free again when it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShardId(pub(crate) u16);

impl ShardId {
    /// What has no master.
    pub(crate) const NONE: Self = Self(u16::MAX);
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("none"),
            Self(number) => number.fmt(f),
        }
    }
}

/// Where a shard's master is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// At one endpoint for as long as the shard lives.
    Fixed(Endpoint),
    /// Wherever the sentinels say.
    Sentinel(Arc<Sentinels>),
    /// Nowhere: what has no master is kept here until it has one.
    Nowhere,
}

impl Place {
    /// Opens a connection to the master.
    pub(crate) async fn connect(
        &self,
        config: &RedisConfig,
        client_name: &str,
    ) -> Result<Connection, ConnectionError> {
        let endpoint = match self {
            Self::Fixed(endpoint) => endpoint.clone(),
            Self::Sentinel(sentinels) => sentinels.locate(config).await?,
            Self::Nowhere => return Err(ConnectionError::NoMaster),
        };
        Connection::open(endpoint, Peer::Master, config, client_name).await
    }

    /// Whether the master is, as far as is known, still there.
    pub(crate) fn is_still_at(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Sentinel(sentinels) => sentinels.is_still_at(endpoint),
            Self::Fixed(_) | Self::Nowhere => true,
        }
    }

    /// How logs call it; holds no secret.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Fixed(endpoint) => format!("Redis at {endpoint}"),
            Self::Sentinel(sentinels) => sentinels.describe(),
            Self::Nowhere => "Redis Cluster".to_owned(),
        }
    }
}

/// The index of each partition's endpoint, by rendezvous hashing: all nodes agree whatever the
/// order in which they list the endpoints, and a further endpoint only takes partitions over.
pub(crate) fn spread(endpoints: &[Endpoint]) -> Vec<u16> {
    let names: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
    let weight = |name: &String, partition: Partition| {
        let hash = Sha1::new().chain_update([partition.0]).chain_update(name).finalize();
        (hash, name.clone())
    };
    Partition::all()
        .map(|partition| {
            let indices = 0..names.len();
            let heaviest = indices.max_by_key(|index| weight(&names[*index], partition));
            heaviest.unwrap_or_default() as u16
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(hosts: &[&str]) -> Vec<Endpoint> {
        hosts.iter().map(|host| host.parse().unwrap()).collect()
    }

    fn hosts<'h>(hosts: &[&'h str]) -> Vec<&'h str> {
        spread(&endpoints(hosts)).into_iter().map(|index| hosts[usize::from(index)]).collect()
    }

    #[test]
    fn all_nodes_agree_whatever_the_order_of_their_lists() {
        assert_eq!(hosts(&["a:1", "b:1", "c:1"]), hosts(&["c:1", "a:1", "b:1"]));
    }

    #[test]
    fn each_endpoint_gets_its_share() {
        let spread = hosts(&["a:1", "b:1", "c:1", "d:1"]);
        for host in ["a:1", "b:1", "c:1", "d:1"] {
            let share = spread.iter().filter(|of| **of == host).count();
            assert!((40..=90).contains(&share), "{host} has {share} of 256");
        }
    }

    #[test]
    fn a_further_endpoint_only_takes_over() {
        let (before, after) = (hosts(&["a:1", "b:1", "c:1"]), hosts(&["a:1", "b:1", "c:1", "d:1"]));
        let moved: Vec<_> =
            after.iter().zip(&before).filter(|(after, before)| after != before).collect();
        assert!(moved.iter().all(|(after, _)| **after == "d:1"));
        assert!((40..=90).contains(&moved.len()), "{} of 256 moved", moved.len());
    }
}
