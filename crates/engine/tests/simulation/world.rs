//! One run: a queue of events in simulated time, and the faults.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use fanlight_engine::history::{HistoryError, HistoryPage, HistoryQuery};
use fanlight_engine::publication::Publication;
use fanlight_engine::time::Now;
use fanlight_engine::timeline::{JoinerKey, ReadKey};
use fanlight_proto::Position;

use crate::clients::{Listener, Publisher, Said};
use crate::node::Node;
use crate::record::{Content, Destination, Fault, Run, Strikes, Subscriber};
use crate::rng::Rng;
use crate::servers::Servers;

pub const DESTINATIONS: usize = 3;
const NODES: usize = 3;
const LISTENERS: usize = 8;
const PUBLISHERS: usize = 3;

/// For how long faults are made.
const TROUBLE_MS: u64 = 40_000;
/// From the healing to the last publications, when everybody is back.
const SETTLE_MS: u64 = 15_000;
/// From then to the end: longer than a node takes to find a loss that left no trace.
const CALM_MS: u64 = 60_000;

/// A bug put in on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The broker acknowledges and delivers what it does not keep, and gives its offset again.
    Forget,
    /// The epoch outlives a failover.
    KeepEpoch,
    /// The node delivers what comes as it comes.
    DeliverRaw,
    /// The node tells nobody of a loss.
    HideLoss,
    /// The node says that all was recovered, whether or not.
    ClaimRecovery,
}

pub struct World {
    pub now_ms: u64,
    pub rng: Rng,
    pub servers: Servers,
    pub nodes: Vec<Node>,
    pub listeners: Vec<Listener>,
    pub publishers: Vec<Publisher>,
    pub run: Run,
    pub sabotage: Option<Sabotage>,
    /// Whether restless clients leave, and publishers publish.
    pub is_troubled: bool,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    trace: DefaultHasher,
}

/// Everything that happens. A node's event counts only in the life in which it was scheduled.
#[derive(Debug)]
pub enum Event {
    Strike,
    Heal(Trouble, u64),
    /// What was replaced ends.
    EndOld,
    Calm,
    /// Once more to each destination, on links that lose so much of it.
    PublishToAll {
        loss_percent: u64,
    },
    PublisherActs(usize),
    PublishArrives {
        publisher: usize,
        attempt: u64,
        node: usize,
        server: usize,
        content: Content,
    },
    PublishAnswered {
        publisher: usize,
        attempt: u64,
        position: Option<Position>,
    },
    PublishTimesOut {
        publisher: usize,
        attempt: u64,
    },
    Replicated {
        server: usize,
        destination: usize,
        count: usize,
    },
    ReadArrives {
        node: usize,
        life: u64,
        server: usize,
        key: ReadKey,
        query: HistoryQuery,
    },
    AtNode {
        node: usize,
        life: u64,
        what: AtNode,
    },
    Told {
        listener: usize,
        connection: u64,
        destination: usize,
        said: Said,
    },
    Returns(usize),
    Leaves {
        listener: usize,
        connection: u64,
    },
}

/// What happens at a node.
#[derive(Debug)]
pub enum AtNode {
    Tick,
    Arrives { attachment: u64, destination: usize, publication: Arc<Publication> },
    Subscribed { destination: usize, is_degraded: bool },
    Unlinger { destination: usize },
    AttachCommands,
    AttachSubscriptions,
    Suspect,
    ReadAnswered { key: ReadKey, result: Result<HistoryPage, HistoryError> },
    Given { joiner: JoinerKey },
    Asks { listener: usize, connection: u64, destination: usize, since: Option<Position> },
    Left { listener: usize, connection: u64 },
}

#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    Crash(usize),
    Pause(usize),
    Partition(usize),
    LoseAnswers(usize),
    Lossy(usize),
    PauseServer,
    RestartEmpty,
    FailOver { old_stays_up: bool },
}

struct Scheduled {
    at_ms: u64,
    number: u64,
    event: Event,
}

impl World {
    pub fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let destination = |index| Destination {
            name: format!("/topic/{index}"),
            history: true,
            queue: None,
            owner: None,
        };
        let subscriber = |index| Subscriber {
            name: format!("listener {index}"),
            user: format!("user {index}"),
            heard: Vec::new(),
        };
        let mut world = Self {
            now_ms: 0,
            rng: Rng::new(seed),
            servers: Servers::new(sabotage),
            nodes: (0..NODES).map(|_| Node::new(0, 0)).collect(),
            listeners: (0..LISTENERS).map(Listener::new).collect(),
            publishers: (0..PUBLISHERS).map(|_| Publisher::default()).collect(),
            run: Run {
                destinations: (0..DESTINATIONS).map(destination).collect(),
                subscribers: (0..LISTENERS).map(subscriber).collect(),
                ..Run::default()
            },
            sabotage,
            is_troubled: true,
            queue: BinaryHeap::new(),
            scheduled: 0,
            trace: DefaultHasher::new(),
        };
        for node in 0..NODES {
            world.at_node(node, 1, AtNode::Tick);
        }
        for listener in 0..LISTENERS {
            world.after(listener as u64, Event::Returns(listener));
        }
        for publisher in 0..PUBLISHERS {
            world.after(100, Event::PublisherActs(publisher));
        }
        world.after(1_000, Event::Strike);
        world.after(TROUBLE_MS, Event::Calm);
        world
    }

    /// Runs to the end; the record, and a hash of everything that happened.
    pub fn finish(mut self) -> (Run, u64) {
        let end_ms = TROUBLE_MS + 2 * MOST_MS + SETTLE_MS + CALM_MS;
        while let Some(Scheduled { at_ms, event, .. }) = self.queue.pop() {
            if at_ms > end_ms {
                break;
            }
            self.now_ms = at_ms;
            format!("{at_ms} {event:?}").hash(&mut self.trace);
            self.handle(event);
        }
        for destination in 0..DESTINATIONS {
            let history = self.servers.history(destination).iter();
            let known = history.filter_map(|it| Some((it.position?, crate::clients::content(it)?)));
            self.run.finals.insert(destination, known.collect());
        }
        (self.run, self.trace.finish())
    }

    pub fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, unix_ms: 1_700_000_000_000 + self.now_ms }
    }

    pub fn after(&mut self, delay_ms: u64, event: Event) {
        self.scheduled += 1;
        let at_ms = self.now_ms + delay_ms;
        self.queue.push(Scheduled { at_ms, number: self.scheduled, event });
    }

    /// Has something happen at a node in its present life.
    pub fn at_node(&mut self, node: usize, delay_ms: u64, what: AtNode) {
        let life = self.nodes[node].life;
        self.after(delay_ms, Event::AtNode { node, life, what });
    }

    /// A message's way through a network that is well.
    pub fn hop(&mut self) -> u64 {
        if self.rng.chance(5) { self.rng.within(30..400) } else { self.rng.within(1..20) }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Strike => self.strike(),
            Event::Heal(trouble, from_ms) => self.heal(trouble, from_ms),
            Event::EndOld => self.servers.end_old(),
            Event::Calm => self.calm(),
            Event::PublishToAll { loss_percent } => self.publish_to_all(loss_percent),
            Event::PublisherActs(publisher) => self.publisher_acts(publisher),
            Event::PublishArrives { publisher, attempt, node, server, content } => {
                self.publish_arrives(publisher, attempt, node, server, content);
            }
            Event::PublishAnswered { publisher, attempt, position } => {
                self.publish_answered(publisher, attempt, position);
            }
            Event::PublishTimesOut { publisher, attempt } => {
                self.publish_times_out(publisher, attempt);
            }
            Event::Replicated { server, destination, count } => {
                self.servers.replicate(server, destination, count);
            }
            Event::ReadArrives { node, life, server, key, query } => {
                self.read_arrives(node, life, server, key, &query);
            }
            Event::AtNode { node, life, what } => {
                if self.nodes[node].life != life {
                    return;
                }
                let resumes_ms = self.nodes[node].paused_until_ms;
                if resumes_ms > self.now_ms {
                    // In their order: those of one moment go by their number.
                    self.after(resumes_ms - self.now_ms, Event::AtNode { node, life, what });
                } else {
                    self.handle_at_node(node, what);
                }
            }
            Event::Told { listener, connection, destination, said } => {
                self.told(listener, connection, destination, said);
            }
            Event::Returns(listener) => self.returns(listener),
            Event::Leaves { listener, connection } => self.leaves(listener, connection),
        }
    }

    fn strike(&mut self) {
        if !self.is_troubled {
            return;
        }
        let node = self.rng.below(NODES);
        let trouble = match self.rng.below(8) {
            0 => Trouble::Crash(node),
            1 => Trouble::Pause(node),
            2 => Trouble::Partition(node),
            3 => Trouble::LoseAnswers(node),
            4 => Trouble::Lossy(node),
            5 => Trouble::PauseServer,
            6 => Trouble::RestartEmpty,
            _ => Trouble::FailOver { old_stays_up: self.rng.chance(50) },
        };
        let for_ms = self.rng.within(200..MOST_MS);
        match trouble {
            Trouble::Crash(node) => self.crash(node),
            Trouble::Pause(node) => self.pause(node, for_ms),
            Trouble::Partition(node) => {
                self.nodes[node].is_heard = false;
                self.nodes[node].hears = false;
            }
            Trouble::LoseAnswers(node) => self.nodes[node].hears = false,
            Trouble::Lossy(node) => self.nodes[node].loss_percent = 20,
            Trouble::PauseServer => {
                let primary = self.servers.primary();
                self.servers.server(primary).paused_until_ms = self.now_ms + for_ms;
            }
            Trouble::RestartEmpty => {
                self.servers.restart_empty();
                self.reattach_all();
            }
            Trouble::FailOver { old_stays_up } => {
                self.servers.fail_over(old_stays_up);
                self.reattach_all();
                self.after(SWITCH_MAX_MS, Event::EndOld);
            }
        }
        self.after(for_ms, Event::Heal(trouble, self.now_ms));
        let calm_ms = self.rng.within(0..3_000);
        self.after(for_ms + calm_ms, Event::Strike);
    }

    fn heal(&mut self, trouble: Trouble, from_ms: u64) {
        match trouble {
            Trouble::Crash(node) => {
                let life = self.nodes[node].life;
                self.nodes[node] = Node::new(life, self.servers.primary());
                self.at_node(node, 1, AtNode::Tick);
            }
            Trouble::Partition(node) | Trouble::LoseAnswers(node) => {
                self.nodes[node].is_heard = true;
                self.nodes[node].hears = true;
                self.reattach(node);
            }
            Trouble::Lossy(node) => {
                self.nodes[node].loss_percent = 0;
                // An inbox that was full tells; a message that got lost elsewhere does not.
                if self.rng.chance(50) {
                    self.at_node(node, 1, AtNode::Suspect);
                }
            }
            Trouble::Pause(_)
            | Trouble::PauseServer
            | Trouble::RestartEmpty
            | Trouble::FailOver { .. } => {}
        }
        let loses_data = matches!(trouble, Trouble::RestartEmpty | Trouble::FailOver { .. });
        let (to_ms, what) = (self.now_ms, format!("{trouble:?}"));
        let strikes = match trouble {
            Trouble::Crash(node) => Strikes::KilledNode(node),
            Trouble::Pause(node) | Trouble::Partition(node) | Trouble::LoseAnswers(node) => {
                Strikes::Node(node)
            }
            Trouble::Lossy(_) => Strikes::Nobody,
            Trouble::PauseServer | Trouble::RestartEmpty | Trouble::FailOver { .. } => {
                Strikes::Redis
            }
        };
        let wipes = matches!(trouble, Trouble::RestartEmpty);
        // Its broker has no replicas to wait for.
        let loses_copied = loses_data;
        let fault = Fault { from_ms, to_ms, what, loses_data, loses_copied, wipes, strikes };
        self.run.faults.push(fault);
    }

    fn calm(&mut self) {
        self.is_troubled = false;
        // Who is told of a loss by the next message has one to be told by.
        self.after(2 * MOST_MS + SETTLE_MS - 5_000, Event::PublishToAll { loss_percent: 0 });
        self.after(2 * MOST_MS + SETTLE_MS, Event::PublishToAll { loss_percent: 40 });
    }

    fn reattach_all(&mut self) {
        for node in 0..NODES {
            self.reattach(node);
        }
    }

    /// A node finds the primary: for its commands and its subscriptions at different times.
    fn reattach(&mut self, node: usize) {
        for what in [AtNode::AttachCommands, AtNode::AttachSubscriptions] {
            let delay_ms = self.rng.within(50..SWITCH_MAX_MS);
            self.at_node(node, delay_ms, what);
        }
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The greatest is the earliest, as the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ms, other.number).cmp(&(self.at_ms, self.number))
    }
}

/// The longest fault.
const MOST_MS: u64 = 6_000;
/// Within this time every node has found a new primary.
const SWITCH_MAX_MS: u64 = 3_000;
