//! The load that somebody describes, as read from a TOML file.

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::strict;

/// A described load.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// What the report calls it.
    pub name: String,
    /// Connections at the peak, by protocol.
    pub connections: Connections,
    /// What they subscribe to.
    #[serde(default)]
    pub subscriptions: Subscriptions,
    /// Streams of publications to destinations that several subscribe to.
    #[serde(default)]
    pub publications: Vec<Stream>,
    /// Streams of sends to users.
    #[serde(default)]
    pub user_sends: Vec<UserSends>,
    /// Who comes and goes.
    #[serde(default)]
    pub churn: Churn,
    /// What must be survived.
    #[serde(default)]
    pub redundancy: Redundancy,
    /// A task that runs a node.
    #[serde(default)]
    pub node: Node,
    /// The Redis processes.
    #[serde(default)]
    pub redis: RedisNode,
    /// The load balancer.
    #[serde(default)]
    pub balancer: Balancer,
}

/// Connections at the peak.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// With the native protocol, over a WebSocket.
    pub native: f64,
    /// With STOMP, over a WebSocket.
    pub stomp: f64,
    /// Server-sent events.
    pub events: f64,
    /// SockJS by streaming requests.
    pub sockjs: f64,
}

/// What connections subscribe to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Subscriptions {
    /// By each connection.
    pub per_connection: f64,
    /// Distinct destinations with a subscriber, those of users included.
    pub destinations: f64,
}

/// Publications of one kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// What the report calls it.
    pub name: String,
    /// To all its destinations together.
    pub per_second: f64,
    /// The size of a body.
    pub body_bytes: f64,
    /// Connections that get each.
    pub subscribers: f64,
    /// Destinations that they are spread over: one destination stays on one Redis process.
    pub destinations: f64,
    /// On how many nodes the subscribers of one destination are; absent: on as many as chance
    /// spreads them over.
    pub nodes: Option<f64>,
    /// How many are sent by one system call, as when they come in bursts.
    #[serde(default = "one")]
    pub burst: f64,
    /// The share of them that is kept.
    #[serde(default)]
    pub history_share: f64,
    /// How many are kept of each destination.
    #[serde(default)]
    pub history_kept: f64,
    /// The share of them that has an idempotency key.
    #[serde(default)]
    pub idempotent_share: f64,
}

/// Sends to users.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSends {
    /// What the report calls it.
    pub name: String,
    /// To all users together.
    pub per_second: f64,
    /// The size of a body.
    pub body_bytes: f64,
    /// Connections that a user has.
    #[serde(default = "one")]
    pub sessions: f64,
    /// The share of them that is kept.
    #[serde(default)]
    pub history_share: f64,
    /// How many are kept of each user.
    #[serde(default)]
    pub history_kept: f64,
    /// Users of whom some are kept.
    #[serde(default)]
    pub users: f64,
}

/// Who comes and goes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Churn {
    /// Connections that begin; as many end.
    pub connects_per_second: f64,
    /// Joins and leaves of presence.
    pub presence_changes_per_second: f64,
    /// Members of all places with presence.
    pub presence_members: f64,
    /// Whether lifecycle events are on.
    pub events: bool,
}

/// What must be survived with everybody served.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redundancy {
    /// Availability zones.
    pub zones: u32,
    /// The largest thing that may be lost.
    pub survive: Survive,
    /// In how many seconds those who lost their connection are to be back.
    pub storm_s: f64,
}

/// The largest thing that may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Survive {
    /// Nothing.
    None,
    /// One node.
    Node,
    /// One zone.
    Zone,
}

/// A task that runs a node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Its cores.
    pub vcpu: f64,
    /// Its memory.
    pub memory_gib: f64,
    /// How much faster a core is than the one that was measured on.
    pub core_speed: f64,
    /// The share of CPU to be used at the peak.
    pub cpu_share: f64,
    /// The share of CPU to be used while lost connections come back.
    pub storm_cpu_share: f64,
    /// The share of memory to be used.
    pub memory_share: f64,
}

/// One Redis process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisNode {
    /// Replicas of each master.
    pub replicas: u32,
    /// How much faster a core is than the one that was measured on.
    pub core_speed: f64,
    /// The share of its main thread to be used.
    pub cpu_share: f64,
    /// The share of its main thread to be used while lost connections come back.
    pub storm_cpu_share: f64,
    /// The share of its memory to be used; ElastiCache reserves a quarter.
    pub memory_share: f64,
}

/// The load balancer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Balancer {
    /// Rules that each request is compared with.
    pub rules: f64,
    /// HTTP requests per second beside WebSocket handshakes, as of polls.
    pub requests_per_second: f64,
}

impl Load {
    /// Reads a description; `what` is how errors call it.
    pub fn read(text: &str, what: &str) -> Result<Self> {
        let load: Self = strict::read(text, what)?;
        load.check()?;
        Ok(load)
    }

    fn check(&self) -> Result<()> {
        let Redundancy { zones, survive, storm_s } = self.redundancy;
        ensure!(zones >= 1, "redundancy.zones is 0; there is at least one");
        ensure!(
            survive != Survive::Zone || zones >= 2,
            "redundancy.survive is \"zone\" with one zone; set redundancy.zones to 2 or 3"
        );
        ensure!(storm_s > 0.0, "redundancy.storm_s must be above 0; 60 is usual");
        let shares = [
            ("node.cpu_share", self.node.cpu_share),
            ("node.storm_cpu_share", self.node.storm_cpu_share),
            ("node.memory_share", self.node.memory_share),
            ("redis.cpu_share", self.redis.cpu_share),
            ("redis.storm_cpu_share", self.redis.storm_cpu_share),
            ("redis.memory_share", self.redis.memory_share),
        ];
        for (name, share) in shares {
            ensure!(share > 0.0 && share <= 1.0, "{name} is a share: above 0 and at most 1");
        }
        for (name, speed) in [("node", self.node.core_speed), ("redis", self.redis.core_speed)] {
            ensure!(speed > 0.0, "{name}.core_speed must be above 0; 1 is the core measured on");
        }
        ensure!(self.node.vcpu > 0.0, "node.vcpu must be above 0");
        ensure!(self.node.memory_gib > 0.0, "node.memory_gib must be above 0");
        for stream in &self.publications {
            stream.check()?;
        }
        for sends in &self.user_sends {
            ensure!(sends.sessions >= 1.0, "a user of `{}` has less than a session", sends.name);
            ensure!((0.0..=1.0).contains(&sends.history_share), "{HISTORY}{}", sends.name);
        }
        ensure!(self.is_nowhere_negative(), "a number of the description is negative");
        Ok(())
    }

    fn is_nowhere_negative(&self) -> bool {
        let Connections { native, stomp, events, sockjs } = self.connections;
        let streams = self.publications.iter().flat_map(|stream| {
            [stream.per_second, stream.body_bytes, stream.subscribers, stream.history_kept]
        });
        let sends = self.user_sends.iter().flat_map(|sends| {
            [sends.per_second, sends.body_bytes, sends.history_kept, sends.users]
        });
        let all = [
            native,
            stomp,
            events,
            sockjs,
            self.subscriptions.per_connection,
            self.subscriptions.destinations,
            self.churn.connects_per_second,
            self.churn.presence_changes_per_second,
            self.churn.presence_members,
            self.balancer.rules,
            self.balancer.requests_per_second,
        ];
        all.into_iter().chain(streams).chain(sends).all(|number| number >= 0.0)
    }
}

impl Stream {
    fn check(&self) -> Result<()> {
        let Self { name, .. } = self;
        ensure!(self.burst >= 1.0, "the burst of `{name}` is less than one publication");
        ensure!(self.destinations >= 1.0, "`{name}` has no destination; set destinations");
        ensure!((0.0..=1.0).contains(&self.history_share), "{HISTORY}{name}");
        let share = self.idempotent_share;
        ensure!((0.0..=1.0).contains(&share), "idempotent_share of `{name}` is no share");
        Ok(())
    }
}

impl Connections {
    /// All of them.
    pub fn all(&self) -> f64 {
        self.native + self.stomp + self.events + self.sockjs
    }
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self { per_connection: 1.0, destinations: 1.0 }
    }
}

impl Default for Redundancy {
    fn default() -> Self {
        Self { zones: 3, survive: Survive::Zone, storm_s: 60.0 }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            vcpu: 2.0,
            memory_gib: 4.0,
            core_speed: 1.0,
            cpu_share: 0.6,
            storm_cpu_share: 0.9,
            memory_share: 0.7,
        }
    }
}

impl Default for RedisNode {
    fn default() -> Self {
        Self {
            replicas: 1,
            core_speed: 1.0,
            cpu_share: 0.5,
            storm_cpu_share: 0.8,
            memory_share: 0.6,
        }
    }
}

impl Default for Balancer {
    fn default() -> Self {
        Self { rules: 1.0, requests_per_second: 0.0 }
    }
}

fn one() -> f64 {
    1.0
}

const HISTORY: &str = "history_share is no share, which is from 0 to 1, in ";

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = \"x\"\n[connections]\nnative = 10\n";

    fn refusal(text: &str) -> String {
        Load::read(&format!("{LEAST}{text}"), "x.toml").unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_said_is_the_usual() {
        let load = Load::read(LEAST, "x.toml").unwrap();
        assert_eq!(load.redundancy.survive, Survive::Zone);
        assert_eq!(load.redundancy.zones, 3);
    }

    #[test]
    fn what_can_not_be_is_refused_with_a_remedy() {
        for (text, remedy) in [
            ("[redundancy]\nzones = 1", "set redundancy.zones to 2 or 3"),
            ("[redundancy]\nsurvive = \"zome\"", "`zone`"),
            ("[redundancy]\nstorms = 1", "write `storm_s`"),
            ("[node]\ncpu_share = 60", "at most 1"),
            ("[churn]\nconnects_per_second = -1", "negative"),
        ] {
            let told = refusal(text);
            assert!(told.contains(remedy), "{text}: {told}");
        }
    }
}
