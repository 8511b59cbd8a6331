//! Which shard has a partition, in both arrangements of the product.

use sha1::{Digest, Sha1};

use super::rules;

/// How Redis is arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Topology {
    /// A cluster, whose slots are divided evenly and in order.
    Cluster,
    /// Servers that know nothing of each other, by rendezvous hashing.
    Shards,
}

impl Topology {
    /// The shard of each partition.
    pub fn spread(self, shards: usize) -> Vec<usize> {
        let partitions = 0..rules::PARTITIONS as usize;
        match self {
            Self::Cluster => {
                partitions.map(|at| at * shards / rules::PARTITIONS as usize).collect()
            }
            Self::Shards => partitions.map(|at| heaviest(at as u8, shards)).collect(),
        }
    }
}

/// As the broker does it, for servers called `redis-0:6379` and so on.
fn heaviest(partition: u8, shards: usize) -> usize {
    let weight = |shard: &usize| {
        let name = format!("redis-{shard}:6379");
        Sha1::new().chain_update([partition]).chain_update(&name).finalize()
    };
    (0..shards).max_by_key(weight).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_has_its_share() {
        for (topology, least, most) in [(Topology::Cluster, 16, 16), (Topology::Shards, 5, 30)] {
            let spread = topology.spread(16);
            for shard in 0..16 {
                let count = spread.iter().filter(|of| **of == shard).count();
                assert!((least..=most).contains(&count), "{topology:?}: {shard} has {count}");
            }
        }
    }
}
