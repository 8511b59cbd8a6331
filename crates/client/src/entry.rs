//! What a client is subscribed to, as its driver keeps it.

use fanlight_proto::Position;

use crate::consumer::Held;
use crate::driver::{Joined, SubscribeReply};
use crate::outgoing::Outgoing;
use crate::subscription::{Begin, Sink, Wants};

/// All subscriptions to one destination or pattern: one at the server.
pub(crate) struct Entry {
    pub(crate) sinks: Vec<Sink>,
    /// The request that subscribes or subscribed it on this connection.
    pub(crate) request: u64,
    /// What was asked for.
    pub(crate) wants: Wants,
    /// What is to be acknowledged.
    pub(crate) held: Held,
    /// How it began on this connection, once that is known.
    pub(crate) joined: Option<Joined>,
    pub(crate) waiting: Vec<SubscribeReply>,
    /// Where it has come to in the destination's history.
    pub(crate) position: Option<Position>,
    /// Whether it is renewed, so that nobody else learns how that ended.
    pub(crate) is_renewed: bool,
}

impl Entry {
    /// The request that subscribes it anew where it has come to.
    pub(crate) fn renew<'r>(&'r mut self, to: &'r str) -> Outgoing<'r> {
        self.is_renewed = true;
        let begin = self.position.map_or(Begin::Now, Begin::After);
        Outgoing::subscribe(to, begin, &self.wants, self.request)
    }

    /// Takes one more in, who may have brought a capability: the last one that was given counts.
    pub(crate) fn add(&mut self, sink: Sink) {
        if let Some(capability) = &sink.wants.capability {
            self.wants.capability = Some(capability.clone());
        }
        self.sinks.push(sink);
    }

    /// Whether it is to one destination: a pattern has no one position.
    pub(crate) fn is_exact(&self) -> bool {
        self.sinks.first().is_some_and(Sink::is_exact)
    }

    /// Notes where it has come to; whether that is new.
    pub(crate) fn advance(&mut self, position: Position) -> bool {
        if !self.is_exact() {
            return true;
        }
        let is_old = self
            .position
            .is_some_and(|last| last.epoch == position.epoch && position.offset <= last.offset);
        if !is_old {
            self.position = Some(position);
        }
        !is_old
    }
}
