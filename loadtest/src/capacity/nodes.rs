//! How many nodes: memory, CPU, descriptors, ports and network of those that are left after the
//! loss that must be survived.

use super::bound::{self, Bound, NeverEnough, Rule};
use super::constants::Constants;
use super::load::{Load, Stream, Survive};

/// A load on a number of nodes.
#[derive(Debug, Clone, Copy)]
pub struct Fleet<'l> {
    pub load: &'l Load,
    pub constants: &'l Constants,
    /// All of them, those that may be lost included.
    pub nodes: u32,
}

/// How many nodes are enough, and what bounds them.
pub fn plan(load: &Load, constants: &Constants) -> Result<(u32, Vec<Bound>), NeverEnough> {
    let fleet = |nodes| Fleet { load, constants, nodes };
    let rules: Vec<Rule> = vec![
        ("memory", Box::new(move |nodes| fleet(nodes).memory_used())),
        ("CPU at the peak", Box::new(move |nodes| fleet(nodes).cpu_used())),
        ("CPU of a reconnect storm", Box::new(move |nodes| fleet(nodes).storm_used())),
        ("file descriptors", Box::new(move |nodes| fleet(nodes).descriptors_used())),
        ("ports of the load balancer", Box::new(move |nodes| fleet(nodes).ports_used())),
        ("network", Box::new(move |nodes| fleet(nodes).network_used())),
    ];
    let (step, at_least) = match load.redundancy.survive {
        // Zones are loaded alike only if they have as many nodes.
        Survive::Zone => (load.redundancy.zones, load.redundancy.zones),
        Survive::Node => (1, 2),
        Survive::None => (1, 1),
    };
    bound::enough(&rules, step, at_least).map_err(|what| NeverEnough {
        of: "nodes",
        what,
        remedy: "every node gets each publication that it has a subscriber of: give nodes more \
                 cores (node.vcpu), or keep subscribers of one destination together \
                 (publications.nodes)",
    })
}

impl Fleet<'_> {
    /// Nodes that are left after the loss.
    pub fn survivors(&self) -> f64 {
        f64::from(self.nodes) - self.lost()
    }

    fn lost(&self) -> f64 {
        let lost = match self.load.redundancy.survive {
            Survive::None => 0,
            Survive::Node => 1,
            Survive::Zone => self.nodes / self.load.redundancy.zones,
        };
        // At least one is left to reckon with; with one alone, nothing is survived.
        f64::from(lost.min(self.nodes - 1))
    }

    /// Connections that have to come back after the loss.
    pub fn lost_connections(&self) -> f64 {
        self.load.connections.all() * self.lost() / f64::from(self.nodes)
    }

    fn share(&self, of_all: f64) -> f64 {
        of_all / self.survivors()
    }

    fn memory_used(&self) -> f64 {
        let (connections, gateway) = (&self.load.connections, &self.constants.gateway);
        let further = (self.load.subscriptions.per_connection - 1.0).max(0.0);
        let each = further * gateway.subscription_bytes + gateway.kernel_bytes;
        let all = connections.native * gateway.native_bytes
            + connections.stomp * gateway.stomp_bytes
            + connections.events * gateway.events_bytes
            + connections.sockjs * gateway.sockjs_bytes
            + connections.all() * each;
        let node = &self.load.node;
        (gateway.base_bytes + self.share(all)) / (node.memory_gib * GIB * node.memory_share)
    }

    /// Microseconds of CPU per second, of one node that is left.
    pub fn cpu_us(&self) -> f64 {
        let gateway = &self.constants.gateway;
        let streams = self.load.publications.iter().map(|stream| {
            let delivery = gateway.send_us / stream.burst + gateway.message_us;
            let received = self.share(held_by(stream, self.survivors())) * gateway.receive_us;
            let sent = self.share(gateway.publish_us + stream.subscribers * delivery);
            stream.per_second * (sent + received)
        });
        let sends = self.load.user_sends.iter().map(|sends| {
            let delivery = gateway.send_us + gateway.message_us;
            let received = self.share(holding(sends.sessions, self.survivors()));
            let sent = self.share(gateway.publish_us + sends.sessions * delivery);
            sends.per_second * (sent + received * gateway.receive_us)
        });
        let idle = self.share(self.load.connections.all()) * gateway.idle_us;
        let connects = self.share(self.load.churn.connects_per_second) * gateway.connect_us;
        streams.chain(sends).sum::<f64>() + idle + connects + gateway.base_us
    }

    fn cpu_available_us(&self) -> f64 {
        self.load.node.vcpu * self.load.node.core_speed * 1e6
    }

    fn cpu_used(&self) -> f64 {
        self.cpu_us() / (self.cpu_available_us() * self.load.node.cpu_share)
    }

    fn storm_used(&self) -> f64 {
        let each_second = self.share(self.lost_connections()) / self.load.redundancy.storm_s;
        let storm_us = each_second * self.constants.gateway.connect_us;
        let available_us = self.cpu_available_us() * self.load.node.storm_cpu_share;
        (self.cpu_us() + storm_us) / available_us
    }

    fn descriptors_used(&self) -> f64 {
        let (gateway, aws) = (&self.constants.gateway, &self.constants.aws);
        (self.share(self.load.connections.all()) + gateway.fds_reserved) / aws.task_nofile
    }

    /// The balancer has an address in each zone that is left, at least.
    fn ports_used(&self) -> f64 {
        let Load { redundancy, connections, .. } = self.load;
        let zones = match redundancy.survive {
            Survive::Zone => redundancy.zones - 1,
            Survive::None | Survive::Node => redundancy.zones,
        };
        self.share(connections.all()) / (self.constants.aws.alb_ports * f64::from(zones))
    }

    fn network_used(&self) -> f64 {
        let inward = self.load.publications.iter().map(|stream| {
            let bytes = stream.body_bytes + self.constants.redis.envelope_bytes;
            stream.per_second * bytes * held_by(stream, self.survivors())
        });
        let bytes = self.share(self.client_bytes() + inward.sum::<f64>());
        bytes * 8.0 / (self.constants.aws.task_bits * NETWORK_SHARE)
    }

    /// Bytes per second from and to clients, of all nodes.
    pub fn client_bytes(&self) -> f64 {
        self.carried(|receivers| receivers + 1.0)
    }

    /// Bytes per second to clients.
    pub fn client_bytes_out(&self) -> f64 {
        self.carried(|receivers| receivers)
    }

    /// The bytes of all messages, each so many times as `times` makes of its receivers.
    fn carried(&self, times: impl Fn(f64) -> f64) -> f64 {
        let head = self.constants.gateway.head_bytes;
        let streams = self.load.publications.iter();
        let streams = streams.map(|of| (of.per_second, of.body_bytes, of.subscribers));
        let sends = self.load.user_sends.iter();
        let sends = sends.map(|of| (of.per_second, of.body_bytes, of.sessions));
        let bytes = |(per_second, body, receivers): (f64, f64, f64)| {
            per_second * (body + head) * times(receivers)
        };
        streams.chain(sends).map(bytes).sum()
    }

    /// Deliveries per second.
    pub fn deliveries(&self) -> f64 {
        let streams = self.load.publications.iter().map(|of| of.per_second * of.subscribers);
        let sends = self.load.user_sends.iter().map(|of| of.per_second * of.sessions);
        streams.chain(sends).sum()
    }
}

/// On how many of `nodes` a destination of `stream` has a subscriber.
pub fn held_by(stream: &Stream, nodes: f64) -> f64 {
    let chance = holding(stream.subscribers, nodes);
    stream.nodes.map_or(chance, |nodes| chance.min(nodes))
}

/// On how many of `nodes` so many connections are, of which each is anywhere: what is expected.
pub fn holding(connections: f64, nodes: f64) -> f64 {
    nodes * (1.0 - (1.0 - 1.0 / nodes).powf(connections))
}

/// Of a network's bandwidth, as bursts need room.
pub const NETWORK_SHARE: f64 = 0.7;
pub const GIB: f64 = (1_u64 << 30) as f64;
