//! The worker-local hub: which sessions get a publication, and in which encoding.

use std::collections::HashMap;
use std::sync::Arc;

use fanlight_proto::stomp::Version;
use fanlight_proto::{Destination, DestinationPattern};

use crate::broker::Channel;

/// Names a session within its worker; reused once the session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub u32);

/// Names a subscription within its hub; reused once it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionKey(u32);

/// What a subscription is for.
#[derive(Debug, Clone)]
pub enum Target {
    /// One destination, resolved.
    Destination(Destination),
    /// All destinations of the channel that match.
    Pattern(Arc<DestinationPattern>),
}

/// How a subscriber wants its messages written.
#[derive(Debug, Clone, Copy)]
pub enum Wire<'a> {
    /// Native JSON: the same bytes for every subscriber.
    Native,
    /// STOMP: the frame names the subscription.
    Stomp {
        /// The session's version.
        version: Version,
        /// The client's subscription id.
        id: &'a str,
        /// Whether messages carry an `ack` header.
        ack: bool,
    },
}

/// Which sessions of one worker get a publication.
#[derive(Debug, Default)]
pub struct Hub {
    subscriptions: HashMap<u32, (SessionKey, Target, Channel)>,
    next: u32,
}

impl Hub {
    /// An empty hub.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a subscriber of `target`, whose publications come on `channel`.
    pub fn subscribe(
        &mut self,
        session: SessionKey,
        target: Target,
        channel: Channel,
        _wire: Wire<'_>,
    ) -> SubscriptionKey {
        self.next += 1;
        self.subscriptions.insert(self.next, (session, target, channel));
        SubscriptionKey(self.next)
    }

    /// Removes a subscription.
    pub fn unsubscribe(&mut self, key: SubscriptionKey) {
        let removed = self.subscriptions.remove(&key.0);
        debug_assert!(removed.is_some(), "unsubscribed twice");
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }
}
