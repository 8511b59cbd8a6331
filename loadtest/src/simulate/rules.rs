//! The rules of the product that decide how a large cluster behaves, each with where it stands.

use std::time::Duration;

/// How long a lease lasts.
pub const LEASE: Duration = Duration::from_secs(15);
/// How long a node waits after one renewal for the next, and after one turn of reaping.
pub const LEASE_RENEW: Duration = Duration::from_secs(5);
/// How many nodes each renewal lists on average, where there are more: it is every so many that
/// lists all, the others tell what has changed.
pub const LISTED_EACH: usize = 64;
/// How soon a renewal that failed is tried again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long an answer of Redis is waited for, and a session for its entry.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often each connection to a shard probes itself.
pub const CANARY_INTERVAL: Duration = Duration::from_secs(1);
/// For how long one look for dead letters is enough for all nodes.
pub const DEAD_LETTER_TURN: Duration = Duration::from_millis(900);
/// Partitions of channels and keys.
pub const PARTITIONS: u32 = 256;
/// Those of them in which nodes hold sessions.
pub const HELD_PARTITIONS: u32 = 32;
/// Sessions that one call enters or removes.
pub const BATCH: usize = 128;
/// Operations of the registry that wait on one node; with more, it enters all of them anew.
pub const REGISTRY_QUEUE: usize = 64 * 1024;
/// Dead owners that one node claims at a time.
pub const OWNERS_MAX: usize = 16;
/// Of registry, presence and queues: partitions that are reaped, and how many at a time.
pub const REAPED: [(u32, usize); 3] = [(HELD_PARTITIONS, 8), (PARTITIONS, 8), (PARTITIONS, 32)];
/// Calls that find out that there is nothing in a partition, of each of these.
pub const LOOKS: [u32; 3] = [1, 2, 1];
/// The first and the longest wait of a client before it connects again; both fully jittered.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));
/// How long a client waits for its connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    /// A source, and what it must say for the rules above to be true.
    #[test]
    fn the_rules_are_those_of_the_product() {
        let config = include_str!("../../../crates/redis/src/config.rs");
        let lease = include_str!("../../../crates/redis/src/lease.rs");
        let members = include_str!("../../../crates/redis/src/lease/members.rs");
        let lanes = include_str!("../../../crates/redis/src/registry/lanes.rs");
        let registry = include_str!("../../../crates/redis/src/registry.rs");
        let reap = include_str!("../../../crates/redis/src/registry/reap.rs");
        let reaper = include_str!("../../../crates/redis/src/reaper.rs");
        let presence = include_str!("../../../crates/redis/src/presence/tasks.rs");
        let queue = include_str!("../../../crates/redis/src/queue/reap.rs");
        let renewal = include_str!("../../../crates/redis/lua/lease.lua");
        let client = include_str!("../../../crates/client/src/options.rs");
        for (source, says) in [
            (config, "lease: Duration::from_secs(15),"),
            (config, "lease_renew: Duration::from_secs(5),"),
            (config, "response_timeout: Duration::from_secs(2),"),
            (config, "canary_interval: Duration::from_secs(1),"),
            (lease, "const RETRY_AFTER: Duration = Duration::from_secs(1);"),
            (lease, "const HELD_PARTITIONS: usize = 32;"),
            (lease, "const PARTITION: Partition = Partition(0);"),
            (members, "const LISTED_EACH: usize = 64;"),
            (members, "let every = self.nodes.len() / LISTED_EACH + 1;"),
            (renewal, "#owners > redis.call('ZCARD', KEYS[1]) / 2"),
            (lanes, "const BATCH_MAX: usize = 128;"),
            (registry, "pub const QUEUE: usize = 64 * 1024;"),
            (reap, "const BATCH: usize = 128;"),
            (reap, "const PARTITIONS_AT_ONCE: usize = 8;"),
            (reap, "reap_each(held_partitions(), PARTITIONS_AT_ONCE, reap)"),
            (reaper, "const OWNERS_MAX: usize = 16;"),
            (reaper, "sleep(self.lease.renew_every())"),
            (presence, "reap_each(Partition::all(), REAP_PARTITIONS, reap)"),
            (presence, "const REAP_PARTITIONS: usize = 8;"),
            (queue, "reap_each(Partition::all(), PARTITIONS_AT_ONCE, reap)"),
            (queue, "const PARTITIONS_AT_ONCE: usize = 32;"),
            (include_str!("../../../crates/redis/src/queue/dead.rs"), "const TURN_MS: u64 = 900;"),
            (client, "first: Duration::from_millis(500), longest: Duration::from_secs(20)"),
            (client, "connect_timeout: Duration::from_secs(10),"),
            (include_str!("../../../crates/redis/src/names.rs"), "const COUNT: usize = 256;"),
        ] {
            assert!(source.contains(says), "the product no longer says `{says}`");
        }
    }
}
