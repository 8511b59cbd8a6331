//! Simulated clients: they publish, subscribe, leave, and return elsewhere with their positions.

use std::sync::Arc;

use bytes::Bytes;
use fanlight_engine::history::Lost;
use fanlight_engine::publication::{ContentType, Publication, PublicationId};
use fanlight_proto::Position;
use uuid::Uuid;

use crate::node::{TIMEOUT_MS, name};
use crate::record::{Content, Heard, Outcome, Send, What};
use crate::world::{AtNode, DESTINATIONS, Event, World};

pub struct Listener {
    pub is_stomp: bool,
    habit: Habit,
    /// Where it is, while it is connected.
    pub node: Option<usize>,
    /// Counts its connections.
    pub connection: u64,
    /// Up to when its connection is taken: it keeps its order.
    pub free_ms: u64,
    positions: [Option<Position>; DESTINATIONS],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    Stays,
    Restless,
    /// Restless, and it returns without positions.
    Forgetful,
}

/// What a node says to a listener.
#[derive(Debug)]
pub enum Said {
    Joined { position: Option<Position>, recovered: Option<Result<(), Lost>> },
    Message(Arc<Publication>),
    Lost { reason: Lost, position: Option<Position> },
}

/// It has one publication under way at a time.
#[derive(Default)]
pub struct Publisher {
    connections: u64,
    sent: u64,
    attempt: u64,
    waiting: Option<(Content, u64)>,
}

impl Listener {
    pub fn new(index: usize) -> Self {
        Self {
            is_stomp: index % 2 == 1,
            habit: match index % 8 {
                0..3 => Habit::Stays,
                3..7 => Habit::Restless,
                _ => Habit::Forgetful,
            },
            node: None,
            connection: 0,
            free_ms: 0,
            positions: [None; DESTINATIONS],
        }
    }
}

impl World {
    pub fn returns(&mut self, listener: usize) {
        let node = self.rng.below(self.nodes.len());
        if !self.nodes[node].is_up || self.nodes[node].paused_until_ms > self.now_ms {
            return self.after(200, Event::Returns(listener));
        }
        let it = &mut self.listeners[listener];
        it.node = Some(node);
        it.connection += 1;
        if it.habit == Habit::Forgetful {
            it.positions = [None; DESTINATIONS];
        }
        let (connection, positions, habit) = (it.connection, it.positions, it.habit);
        for (destination, since) in positions.into_iter().enumerate() {
            self.hear(listener, destination, What::Asks { node, since });
            let delay_ms = 10 + destination as u64;
            let what = AtNode::Asks { listener, connection, destination, since };
            self.at_node(node, delay_ms, what);
        }
        if habit != Habit::Stays && self.is_troubled {
            let stays_ms = self.rng.within(100..5_000);
            self.after(stays_ms, Event::Leaves { listener, connection });
        }
    }

    pub fn leaves(&mut self, listener: usize, connection: u64) {
        let it = &mut self.listeners[listener];
        if it.connection != connection {
            return;
        }
        let Some(node) = it.node.take() else { return };
        for destination in 0..DESTINATIONS {
            self.hear(listener, destination, What::Left);
        }
        // The connection's order: it asked before it left.
        let delay_ms = self.rng.within(20..100);
        self.at_node(node, delay_ms, AtNode::Left { listener, connection });
        let away_ms = self.rng.within(20..2_000);
        self.after(away_ms, Event::Returns(listener));
    }

    pub fn told(&mut self, listener: usize, connection: u64, destination: usize, said: Said) {
        let it = &mut self.listeners[listener];
        if it.connection != connection || it.node.is_none() {
            return;
        }
        let position = &mut it.positions[destination];
        let what = match said {
            Said::Joined { position: joined, recovered } => {
                *position = joined;
                let reason = recovered.and_then(Result::err).map(|lost| lost.code().to_owned());
                let recovered = recovered.map(|recovered| recovered.is_ok());
                What::Joined { position: joined, recovered, reason }
            }
            Said::Message(publication) => {
                *position = publication.position;
                let content = content(&publication);
                What::Message { position: publication.position, content }
            }
            Said::Lost { reason, position: lost } => {
                if lost.is_some() {
                    *position = lost;
                }
                What::Lost { reason: reason.code().to_owned(), position: lost }
            }
        };
        self.hear(listener, destination, what);
    }

    pub fn publisher_acts(&mut self, publisher: usize) {
        if !self.is_troubled {
            return;
        }
        let destination = self.rng.below(DESTINATIONS);
        self.begin_publishing(publisher, destination);
    }

    pub fn publish_to_all(&mut self, loss_percent: u64) {
        for node in &mut self.nodes {
            node.loss_percent = loss_percent;
        }
        for destination in 0..DESTINATIONS {
            self.begin_publishing(destination, destination);
        }
    }

    fn begin_publishing(&mut self, publisher: usize, destination: usize) {
        let node = self.rng.below(self.nodes.len());
        let it = &self.nodes[node];
        if !it.is_up || it.paused_until_ms > self.now_ms {
            return self.after(50, Event::PublisherActs(publisher));
        }
        let (server, is_heard) = (it.commands, it.is_heard);
        let (now_ms, hop_ms) = (self.now_ms, self.hop());
        let it = &mut self.publishers[publisher];
        it.sent += 1;
        it.attempt += 1;
        let attempt = it.attempt;
        let content = Content { publisher, number: it.sent, destination };
        it.waiting = Some((content, now_ms));
        let arrives = Event::PublishArrives { publisher, attempt, node, server, content };
        if is_heard {
            self.after(hop_ms, arrives);
        } else if self.rng.chance(30) {
            self.end_publishing(publisher, Outcome::Refused("unavailable".to_owned()));
            return;
        } else if self.rng.chance(50) {
            // Held back somewhere, it comes through when nobody waits for it any more.
            let late_ms = self.rng.within(1_000..5_000);
            self.after(late_ms, arrives);
        }
        self.after(TIMEOUT_MS, Event::PublishTimesOut { publisher, attempt });
    }

    pub fn publish_arrives(
        &mut self,
        publisher: usize,
        attempt: u64,
        node: usize,
        server: usize,
        content: Content,
    ) {
        let it = self.servers.server(server);
        let resumes_ms = it.paused_until_ms;
        if !it.is_up {
            return;
        }
        if resumes_ms > self.now_ms {
            let again = Event::PublishArrives { publisher, attempt, node, server, content };
            return self.after(resumes_ms - self.now_ms, again);
        }
        let Content { destination, .. } = content;
        let publication = publication(content, self.now().unix_ms);
        let publication = self.servers.publish(server, destination, publication);
        let count = self.servers.length(server, destination);
        let lag_ms = self.rng.within(1..600);
        self.after(lag_ms, Event::Replicated { server, destination, count });
        self.fan_out(server, destination, &publication);
        if self.nodes[node].hears && self.nodes[node].is_up {
            let delay_ms = self.hop();
            let position = publication.position;
            self.after(delay_ms, Event::PublishAnswered { publisher, attempt, position });
        }
    }

    pub fn publish_answered(&mut self, publisher: usize, attempt: u64, position: Option<Position>) {
        if self.publishers[publisher].attempt == attempt {
            self.end_publishing(publisher, Outcome::Acked { position, degraded: false });
        }
    }

    pub fn publish_times_out(&mut self, publisher: usize, attempt: u64) {
        if self.publishers[publisher].attempt == attempt {
            self.end_publishing(publisher, Outcome::Unknown);
        }
    }

    fn end_publishing(&mut self, publisher: usize, outcome: Outcome) {
        let it = &mut self.publishers[publisher];
        let Some((content, sent_at_ms)) = it.waiting.take() else { return };
        let (connection, ended_at_ms) = (it.connections, self.now_ms);
        if !matches!(outcome, Outcome::Acked { .. }) {
            it.connections += 1;
        }
        let repeated = false;
        let send = Send { content, connection, sent_at_ms, ended_at_ms, outcome, repeated };
        self.run.sends.push(send);
        let pause_ms = self.rng.within(5..150);
        self.after(pause_ms, Event::PublisherActs(publisher));
    }

    fn hear(&mut self, listener: usize, destination: usize, what: What) {
        let heard = Heard { at_ms: self.now_ms, destination, what };
        self.run.subscribers[listener].heard.push(heard);
    }
}

/// What a publication's body says of itself.
pub fn content(publication: &Publication) -> Option<Content> {
    let text = std::str::from_utf8(&publication.body).ok()?;
    let mut numbers = text.split(' ').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (publisher, number, destination) = (next()?, next()?, next()?);
    Some(Content { publisher: publisher as usize, number, destination: destination as usize })
}

fn publication(content: Content, at_unix_ms: u64) -> Publication {
    let Content { publisher, number, destination } = content;
    Publication {
        id: PublicationId(Uuid::from_u128((publisher as u128) << 64 | u128::from(number))),
        destination: name(destination),
        body: Bytes::from(format!("{publisher} {number} {destination}")),
        content_type: ContentType::Text,
        headers: Box::default(),
        publisher: None,
        at_unix_ms,
        position: None,
        only_for: None,
        except: None,
        is_json: false,
    }
}
