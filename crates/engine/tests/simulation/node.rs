//! A simulated node: the engine's real timelines, and around them what a worker and a broker
//! client do.

use std::collections::BTreeSet;
use std::sync::Arc;

use fanlight_engine::broker::Channel;
use fanlight_engine::history::{History, HistoryError, HistoryQuery, Lost};
use fanlight_engine::publication::Publication;
use fanlight_engine::timeline::{
    Event as Outcome, JoinerKey, Offered, ReadKey, Recovered, Start, Timelines,
};
use fanlight_proto::{Destination, Position};

use crate::clients::Said;
use crate::world::{AtNode, DESTINATIONS, Event, Sabotage, World};

pub struct Node {
    pub is_up: bool,
    /// Counts crashes.
    pub life: u64,
    pub paused_until_ms: u64,
    /// Whether what it sends reaches Redis.
    pub is_heard: bool,
    /// Whether what Redis sends reaches it.
    pub hears: bool,
    pub loss_percent: u64,
    /// The server that it sends commands to.
    pub commands: usize,
    /// The server that it receives from.
    subscriptions: usize,
    /// Counts the connections that it received by.
    attachment: u64,
    timelines: Timelines,
    channels: Vec<ChannelState>,
}

/// One destination at a node.
#[derive(Default)]
struct ChannelState {
    interest: Interest,
    live: Vec<Seat>,
    /// Who was live when something was last lost.
    missed: Vec<Seat>,
    joining: Vec<(JoinerKey, Seat)>,
    /// Up to when the link from Redis is taken: one channel keeps its order.
    free_ms: u64,
}

#[derive(Default)]
enum Interest {
    #[default]
    None,
    /// Not confirmed yet; those who wait for it.
    Asked(Vec<(Seat, Option<Position>)>),
    Stands,
}

/// A listener's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seat {
    listener: usize,
    connection: u64,
}

impl Node {
    pub fn new(life: u64, server: usize) -> Self {
        Self {
            is_up: true,
            life,
            paused_until_ms: 0,
            is_heard: true,
            hears: true,
            loss_percent: 0,
            commands: server,
            subscriptions: server,
            attachment: 0,
            timelines: Timelines::new(),
            channels: (0..DESTINATIONS).map(|_| ChannelState::default()).collect(),
        }
    }

    /// The destinations that it wants to receive.
    fn wanted(&self) -> BTreeSet<usize> {
        let none = |index: &usize| matches!(self.channels[*index].interest, Interest::None);
        (0..DESTINATIONS).filter(|index| !none(index)).collect()
    }
}

impl World {
    pub fn crash(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        it.is_up = false;
        it.life += 1;
        self.notice_loss_of(node, 1..1_000);
    }

    pub fn pause(&mut self, node: usize, for_ms: u64) {
        self.nodes[node].paused_until_ms = self.now_ms + for_ms;
        if for_ms > 3_000 {
            self.notice_loss_of(node, 2_000..3_000);
        }
    }

    /// The listeners of a node find out that it does not answer.
    fn notice_loss_of(&mut self, node: usize, range_ms: std::ops::Range<u64>) {
        for listener in 0..self.listeners.len() {
            if self.listeners[listener].node == Some(node) {
                let connection = self.listeners[listener].connection;
                let delay_ms = self.rng.within(range_ms.clone());
                self.after(delay_ms, Event::Leaves { listener, connection });
            }
        }
    }

    /// Sends a publication to every node that receives from `server`.
    pub fn fan_out(&mut self, server: usize, destination: usize, publication: &Arc<Publication>) {
        let subscribers = self.servers.server(server).subscribers[destination].clone();
        for node in subscribers {
            let it = &self.nodes[node];
            let receives = it.is_up && it.hears && it.subscriptions == server;
            let (attachment, loss_percent) = (it.attachment, it.loss_percent);
            if !receives || self.rng.chance(loss_percent) {
                continue;
            }
            let arrives_ms = self.now_ms + self.hop();
            let channel = &mut self.nodes[node].channels[destination];
            channel.free_ms = channel.free_ms.max(arrives_ms);
            let delay_ms = channel.free_ms - self.now_ms;
            let copies = if self.rng.chance(2) { 2 } else { 1 };
            for _ in 0..copies {
                let publication = Arc::clone(publication);
                let what = AtNode::Arrives { attachment, destination, publication };
                self.at_node(node, delay_ms, what);
            }
        }
    }

    pub fn handle_at_node(&mut self, node: usize, what: AtNode) {
        let now = self.now();
        let it = &mut self.nodes[node];
        match what {
            AtNode::Tick => {
                it.timelines.on_tick(now);
                self.at_node(node, 100, AtNode::Tick);
            }
            AtNode::Arrives { attachment, destination, publication } => {
                if it.attachment == attachment && it.hears {
                    self.arrives(node, destination, publication);
                }
            }
            AtNode::Subscribed { destination, is_degraded } => {
                self.subscribed(node, destination, is_degraded);
            }
            AtNode::Unlinger { destination } => self.unlinger(node, destination),
            AtNode::AttachCommands => it.commands = self.servers.primary(),
            AtNode::AttachSubscriptions => self.attach_subscriptions(node),
            AtNode::Suspect => it.timelines.suspect_all(),
            AtNode::ReadAnswered { key, result } => it.timelines.on_read(key, result, now),
            AtNode::Given { joiner } => it.timelines.given(joiner),
            AtNode::Asks { listener, connection, destination, since } => {
                self.asked(node, destination, Seat { listener, connection }, since);
            }
            AtNode::Left { listener, connection } => {
                self.left(node, Seat { listener, connection });
            }
        }
        self.settle(node);
    }

    fn arrives(&mut self, node: usize, destination: usize, publication: Arc<Publication>) {
        let now = self.now();
        let channel = channel(destination);
        let run = [publication];
        let timelines = &mut self.nodes[node].timelines;
        let passes = self.sabotage == Some(Sabotage::DeliverRaw)
            || timelines.offer(&channel, &run, || None, now) == Offered::Next;
        if passes {
            self.deliver(node, destination, &run, None);
        }
    }

    fn attach_subscriptions(&mut self, node: usize) {
        let primary = self.servers.primary();
        let it = &mut self.nodes[node];
        it.subscriptions = primary;
        it.attachment += 1;
        for destination in it.wanted() {
            self.servers.server(primary).subscribers[destination].insert(node);
        }
        // What was published while nobody received is looked for in the history.
        it.timelines.suspect_all();
    }

    fn asked(&mut self, node: usize, destination: usize, seat: Seat, since: Option<Position>) {
        match &mut self.nodes[node].channels[destination].interest {
            Interest::Stands => self.join(node, destination, seat, since, false),
            Interest::Asked(waiting) => waiting.push((seat, since)),
            interest @ Interest::None => {
                *interest = Interest::Asked(vec![(seat, since)]);
                let it = &self.nodes[node];
                let (server, is_reached) = (it.subscriptions, it.is_heard && it.hears);
                let server = self.servers.server(server);
                let is_degraded =
                    !is_reached || !server.is_up || server.paused_until_ms > self.now_ms;
                let delay_ms = if is_degraded { TIMEOUT_MS } else { 2 * self.hop() };
                self.at_node(node, delay_ms, AtNode::Subscribed { destination, is_degraded });
            }
        }
    }

    fn subscribed(&mut self, node: usize, destination: usize, is_degraded: bool) {
        let it = &mut self.nodes[node];
        let interest = &mut it.channels[destination].interest;
        let Interest::Asked(waiting) = std::mem::replace(interest, Interest::Stands) else {
            return;
        };
        // Where it is degraded, the interest becomes live with the next attachment.
        if !is_degraded {
            let server = it.subscriptions;
            self.servers.server(server).subscribers[destination].insert(node);
        }
        if waiting.is_empty() {
            self.at_node(node, 1_000, AtNode::Unlinger { destination });
        }
        for (seat, since) in waiting {
            self.join(node, destination, seat, since, is_degraded);
        }
    }

    fn join(
        &mut self,
        node: usize,
        destination: usize,
        seat: Seat,
        since: Option<Position>,
        is_degraded: bool,
    ) {
        let now = self.now();
        // Some don't want to hear that the history can't be read.
        let is_patient = seat.listener.is_multiple_of(3);
        let from = if is_patient { Start::Resume } else { Start::After };
        let start = since.map_or(Start::Now, from);
        let (channel, name) = (channel(destination), name(destination));
        let it = &mut self.nodes[node];
        let joiner = it.timelines.join(&channel, &name, HISTORY, start, is_degraded, now);
        it.channels[destination].joining.push((joiner, seat));
    }

    fn left(&mut self, node: usize, seat: Seat) {
        for destination in 0..DESTINATIONS {
            let linger_ms = self.rng.within(500..3_000);
            let it = &mut self.nodes[node];
            let channel = &mut it.channels[destination];
            let was_there = !channel.live.is_empty() || !channel.joining.is_empty();
            channel.live.retain(|other| *other != seat);
            for (joiner, _) in channel.joining.extract_if(.., |(_, other)| *other == seat) {
                it.timelines.cancel(joiner);
            }
            if let Interest::Asked(waiting) = &mut channel.interest {
                waiting.retain(|(other, _)| *other != seat);
            }
            if was_there && channel.live.is_empty() && channel.joining.is_empty() {
                it.timelines.vacate(&name(destination), |_| false);
                self.at_node(node, linger_ms, AtNode::Unlinger { destination });
            }
        }
    }

    fn unlinger(&mut self, node: usize, destination: usize) {
        let it = &mut self.nodes[node];
        let channel = &mut it.channels[destination];
        let is_idle = channel.live.is_empty() && channel.joining.is_empty();
        if is_idle && matches!(channel.interest, Interest::Stands) {
            channel.interest = Interest::None;
            let server = it.subscriptions;
            self.servers.server(server).subscribers[destination].remove(&node);
        }
    }

    /// Carries out what the timelines want, and sends their reads.
    fn settle(&mut self, node: usize) {
        while let Some(outcome) = self.nodes[node].timelines.next_event() {
            self.carry_out(node, outcome);
        }
        while let Some((key, query)) = self.nodes[node].timelines.next_read() {
            let it = &self.nodes[node];
            let (life, server, is_heard) = (it.life, it.commands, it.is_heard);
            if is_heard {
                let delay_ms = self.hop();
                self.after(delay_ms, Event::ReadArrives { node, life, server, key, query });
            } else {
                let result = Err(HistoryError::Unavailable);
                self.at_node(node, TIMEOUT_MS, AtNode::ReadAnswered { key, result });
            }
        }
    }

    fn carry_out(&mut self, node: usize, outcome: Outcome) {
        match outcome {
            Outcome::Deliver { channel, publications, lost } => {
                self.deliver(node, index_of(channel.as_str()), &publications, lost);
            }
            Outcome::Lost { channel, reason, position, .. } => {
                let destination = index_of(channel.as_str());
                if self.sabotage == Some(Sabotage::HideLoss) {
                    return;
                }
                let channel = &mut self.nodes[node].channels[destination];
                channel.missed = channel.live.clone();
                for seat in channel.live.clone() {
                    if !self.listeners[seat.listener].is_stomp {
                        let said = Said::Lost { reason, position: Some(position) };
                        self.tell(seat, destination, said);
                    }
                }
            }
            Outcome::Give { joiner, publications } => {
                let Some((destination, seat)) = self.seat(node, joiner) else { return };
                for publication in publications {
                    self.tell(seat, destination, Said::Message(publication));
                }
                let delay_ms = self.hop();
                self.at_node(node, delay_ms, AtNode::Given { joiner });
            }
            Outcome::Live { joiner, recovered } => {
                let Some((destination, seat)) = self.seat(node, joiner) else { return };
                let channel = &mut self.nodes[node].channels[destination];
                channel.joining.retain(|(other, _)| *other != joiner);
                channel.live.push(seat);
                let Recovered { position, outcome, .. } = recovered;
                let recovered = match outcome {
                    Some(_) if self.sabotage == Some(Sabotage::ClaimRecovery) => Some(Ok(())),
                    outcome => outcome,
                };
                self.tell(seat, destination, Said::Joined { position, recovered });
            }
        }
    }

    fn deliver(
        &mut self,
        node: usize,
        destination: usize,
        publications: &[Arc<Publication>],
        lost: Option<Lost>,
    ) {
        let channel = &self.nodes[node].channels[destination];
        let missed = channel.missed.clone();
        for seat in channel.live.clone() {
            // STOMP has no message of its own for a loss: the next one carries it.
            if let Some(reason) = lost
                && missed.contains(&seat)
                && self.listeners[seat.listener].is_stomp
                && self.sabotage != Some(Sabotage::HideLoss)
            {
                self.tell(seat, destination, Said::Lost { reason, position: None });
            }
            for publication in publications {
                self.tell(seat, destination, Said::Message(Arc::clone(publication)));
            }
        }
    }

    fn tell(&mut self, seat: Seat, destination: usize, said: Said) {
        let Seat { listener, connection } = seat;
        let arrives_ms = self.now_ms + self.hop();
        let free_ms = &mut self.listeners[listener].free_ms;
        *free_ms = arrives_ms.max(*free_ms);
        let delay_ms = *free_ms - self.now_ms;
        self.after(delay_ms, Event::Told { listener, connection, destination, said });
    }

    fn seat(&self, node: usize, joiner: JoinerKey) -> Option<(usize, Seat)> {
        let channels = self.nodes[node].channels.iter().enumerate();
        let mut joining = channels.flat_map(|(destination, channel)| {
            channel.joining.iter().map(move |(joiner, seat)| (joiner, destination, *seat))
        });
        let (_, destination, seat) = joining.find(|(other, _, _)| **other == joiner)?;
        Some((destination, seat))
    }

    pub fn read_arrives(
        &mut self,
        node: usize,
        life: u64,
        server: usize,
        key: ReadKey,
        query: &HistoryQuery,
    ) {
        let destination = index_of(query.channel.as_str());
        let it = self.servers.server(server);
        let is_there = it.is_up && it.paused_until_ms <= self.now_ms;
        let result = if is_there && self.nodes[node].hears {
            Ok(self.servers.read(server, destination, query.range, query.limit))
        } else {
            Err(HistoryError::Unavailable)
        };
        let delay_ms = if result.is_ok() { self.hop() } else { TIMEOUT_MS };
        let what = AtNode::ReadAnswered { key, result };
        self.after(delay_ms, Event::AtNode { node, life, what });
    }
}

pub fn name(destination: usize) -> Destination {
    format!("/topic/{destination}").parse().expect("the name is a good one")
}

fn channel(destination: usize) -> Channel {
    Channel::of_destination(format!("/topic/{destination}").into())
}

fn index_of(channel: &str) -> usize {
    let digits = channel.strip_prefix("/topic/").expect("channels are destinations here");
    digits.parse().expect("destinations are numbers here")
}

/// More than any run publishes.
const HISTORY: History = History { size: 100_000, ttl_ms: 3_600_000 };
/// How long a node waits for Redis.
pub const TIMEOUT_MS: u64 = 2_000;
