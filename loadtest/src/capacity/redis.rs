//! How many Redis processes: time of the fullest one's main thread, its network, and memory.

use super::bound::{self, Bound, NeverEnough, Rule};
use super::load::Stream;
use super::nodes::{Fleet, GIB, NETWORK_SHARE, held_by, holding};
use crate::simulate::rules;

/// How many shards are enough for a planned fleet, and what bounds them.
pub fn plan(fleet: Fleet<'_>) -> Result<(u32, Vec<Bound>), NeverEnough> {
    let stores = Stores { fleet };
    let rules: Vec<Rule> = vec![
        ("main thread at the peak", Box::new(move |shards| stores.cpu_used(shards))),
        ("main thread in a reconnect storm", Box::new(move |shards| stores.storm_used(shards))),
        ("the hottest destination", Box::new(move |_| stores.hottest_used())),
        ("leases, which stand in one shard", Box::new(move |_| stores.leases_used())),
        ("memory", Box::new(move |shards| stores.memory_used(shards))),
        ("network", Box::new(move |shards| stores.network_used(shards))),
    ];
    bound::enough(&rules, 1, 1).map_err(|what| NeverEnough {
        of: "Redis shards",
        what,
        remedy: match what {
            "the hottest destination" => {
                "a destination is in one shard: split it into several, publish less often, or \
                 keep its subscribers on fewer nodes"
            }
            "memory" => "give each more memory (constants: aws.redis_gib), or keep less",
            _ => "every node is known to each shard: have fewer, larger nodes (node.vcpu)",
        },
    })
}

/// The Redis processes of a fleet.
#[derive(Debug, Clone, Copy)]
pub struct Stores<'l> {
    pub fleet: Fleet<'l>,
}

impl Stores<'_> {
    fn nodes(&self) -> f64 {
        f64::from(self.fleet.nodes)
    }

    /// Microseconds per second that the publications take, in all shards together.
    pub fn publications_us(&self) -> f64 {
        let (load, redis) = (self.fleet.load, &self.fleet.constants.redis);
        let streams = load.publications.iter().map(|of| of.per_second * self.publication_us(of));
        let sends = load.user_sends.iter().map(|sends| {
            let held = holding(sends.sessions, self.nodes()) * redis.publish_node_us;
            let (plain, kept) = (1.0 - sends.history_share, sends.history_share);
            sends.per_second * (plain * redis.publish_us + kept * redis.history_us + held)
        });
        let presence = load.churn.presence_changes_per_second * redis.presence_us;
        streams.chain(sends).sum::<f64>() + presence
    }

    fn publication_us(&self, stream: &Stream) -> f64 {
        let redis = &self.fleet.constants.redis;
        let (plain, kept) = (1.0 - stream.history_share, stream.history_share);
        plain * redis.publish_us
            + kept * redis.history_us
            + stream.idempotent_share * redis.idempotent_us
            + held_by(stream, self.nodes()) * redis.publish_node_us
    }

    /// Microseconds of one entry or exit that comes alone, as it does when there are many nodes.
    fn entry_us(&self) -> f64 {
        let redis = &self.fleet.constants.redis;
        let event_us = if self.fleet.load.churn.events { redis.event_us } else { 0.0 };
        redis.registry_call_us + redis.registry_operation_us + event_us
    }

    /// What the probes of all nodes cost every shard per second.
    fn probes_us(&self) -> f64 {
        let redis = &self.fleet.constants.redis;
        self.nodes() * (redis.canary_us + redis.info_us)
    }

    /// What looking for dead letters costs all shards together, for all nodes once a second.
    fn dead_looks_us(&self) -> f64 {
        f64::from(rules::PARTITIONS) * self.fleet.constants.redis.dead_look_us
    }

    /// What the leases cost the one shard that has them, per second.
    fn leases_us(&self) -> f64 {
        let redis = &self.fleet.constants.redis;
        let renewal_us = redis.lease_us + redis.lease_node_us * self.listed_each();
        let every = rules::LEASE_RENEW.as_secs_f64();
        self.nodes() * ((renewal_us + redis.reap_claim_us) / every + redis.turn_us)
    }

    /// How many nodes a renewal lists on average, at most.
    fn listed_each(&self) -> f64 {
        self.nodes().min(rules::LISTED_EACH as f64)
    }

    /// The fullest shard: the partitions don't divide evenly, and it is the one with the leases.
    fn fullest_us(&self, shards: u32, registry_us: f64) -> f64 {
        let held_pings = self.nodes() * f64::from(rules::HELD_PARTITIONS)
            / rules::LEASE_RENEW.as_secs_f64()
            * self.fleet.constants.redis.ping_us;
        (self.publications_us() + self.dead_looks_us()) * fullest_share(rules::PARTITIONS, shards)
            + (registry_us + held_pings) * fullest_share(rules::HELD_PARTITIONS, shards)
            + self.probes_us()
            + self.leases_us()
            + self.fleet.constants.redis.base_us
    }

    fn available_us(&self) -> f64 {
        self.fleet.load.redis.core_speed * 1e6
    }

    fn cpu_used(&self, shards: u32) -> f64 {
        let registry_us = 2.0 * self.fleet.load.churn.connects_per_second * self.entry_us();
        let share = self.fleet.load.redis.cpu_share;
        self.fullest_us(shards, registry_us) / (self.available_us() * share)
    }

    fn storm_used(&self, shards: u32) -> f64 {
        let load = self.fleet.load;
        let lost_each_second = self.fleet.lost_connections() / load.redundancy.storm_s;
        let reap_us = self.fleet.constants.redis.reap_session_us;
        let registry_us = 2.0 * load.churn.connects_per_second * self.entry_us()
            + lost_each_second * (self.entry_us() + reap_us);
        self.fullest_us(shards, registry_us) / (self.available_us() * load.redis.storm_cpu_share)
    }

    fn hottest_used(&self) -> f64 {
        let streams = self.fleet.load.publications.iter();
        let each = streams.map(|of| of.per_second / of.destinations * self.publication_us(of));
        each.fold(0.0, f64::max) / (self.available_us() * self.fleet.load.redis.cpu_share)
    }

    fn leases_used(&self) -> f64 {
        let us = self.leases_us() + self.probes_us();
        us / (self.available_us() * self.fleet.load.redis.cpu_share)
    }

    /// Bytes in the memory of all shards together.
    pub fn bytes(&self) -> f64 {
        let (load, redis) = (self.fleet.load, &self.fleet.constants.redis);
        let connections = &load.connections;
        let sessions = connections.all() * redis.session_bytes;
        let claims = connections.sockjs * redis.claim_bytes;
        let held = |subscribers: f64| (holding(subscribers, self.nodes()) - 1.0).max(0.0);
        let subscriptions = connections.all() * load.subscriptions.per_connection;
        let destinations = load.subscriptions.destinations.max(1.0);
        let channel =
            redis.channel_bytes + redis.channel_node_bytes * held(subscriptions / destinations);
        let streams = load.publications.iter().filter(|of| of.history_share > 0.0);
        let kept =
            streams.map(|of| of.destinations * of.history_kept * kept_bytes(redis, of.body_bytes));
        let sends = load.user_sends.iter().filter(|of| of.history_share > 0.0);
        let users = sends.map(|of| of.users * of.history_kept * kept_bytes(redis, of.body_bytes));
        sessions
            + claims
            + load.churn.presence_members * redis.member_bytes
            + destinations * channel
            + kept.chain(users).sum::<f64>()
    }

    fn memory_used(&self, shards: u32) -> f64 {
        let Fleet { load, constants, .. } = self.fleet;
        let each = self.bytes() * fullest_share(rules::PARTITIONS, shards);
        let available = constants.aws.redis_gib * GIB * load.redis.memory_share;
        (constants.redis.base_bytes + each) / available
    }

    /// Bytes per second from all shards to nodes.
    pub fn bytes_out(&self) -> f64 {
        let (load, envelope) = (self.fleet.load, self.fleet.constants.redis.envelope_bytes);
        let streams = load
            .publications
            .iter()
            .map(|of| of.per_second * (of.body_bytes + envelope) * held_by(of, self.nodes()));
        let sends = load.user_sends.iter().map(|of| {
            of.per_second * (of.body_bytes + envelope) * holding(of.sessions, self.nodes())
        });
        streams.chain(sends).sum()
    }

    /// Bytes per second of leases, from the shard that has them.
    pub fn lease_bytes_out(&self) -> f64 {
        let listed = self.listed_each() * self.fleet.constants.redis.lease_node_bytes;
        self.nodes() * listed / rules::LEASE_RENEW.as_secs_f64()
    }

    fn network_used(&self, shards: u32) -> f64 {
        let publications = self.bytes_out() * fullest_share(rules::PARTITIONS, shards);
        let bits = (publications + self.lease_bytes_out()) * 8.0;
        bits / (self.fleet.constants.aws.redis_bits * NETWORK_SHARE)
    }
}

/// The share of the shard that has most of so many partitions.
fn fullest_share(partitions: u32, shards: u32) -> f64 {
    f64::from(partitions.div_ceil(shards)) / f64::from(partitions)
}

fn kept_bytes(redis: &super::constants::Redis, body_bytes: f64) -> f64 {
    body_bytes + redis.kept_bytes
}
