//! What a session is subscribed to: a short list, searched from end to end.

use std::sync::Arc;

use crate::auth::Capability;
use crate::broker::Channel;
use crate::hook::Actions;
use crate::hub::SubscriptionKey;
use crate::policy::Action;
use crate::presence::Place;
use crate::queue::ConsumerKey;

/// One subscription of a session.
#[derive(Debug)]
pub(super) struct Subscription {
    /// STOMP: the client's id. Native: the destination or pattern as it was asked for.
    pub(super) id: Box<str>,
    pub(super) feed: Feed,
    pub(super) channel: Channel,
    /// Where it makes its session a member, once it is live.
    pub(super) place: Option<Box<Place>>,
    /// Whether it gets changes of presence.
    pub(super) presence: bool,
    /// Whether a backend has made it, and not the client.
    pub(super) by_server: bool,
    /// Whether its beginning was recorded, so that its end is to be too.
    pub(super) recorded: bool,
    /// What the backend that has a say in it has agreed to.
    pub(super) agreed: Actions,
    /// By what it is allowed, where the session's own token does not allow it.
    pub(super) capability: Option<Arc<Capability>>,
}

/// Where a subscription's messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    Hub(SubscriptionKey),
    Queue(ConsumerKey),
    /// Nowhere: a backend has ended it, and the client, which may not know, can still end it too.
    Ended,
}

impl Subscription {
    /// Whether its backend need not be asked whether its session may do this there. What a backend
    /// has made itself is its word.
    pub(super) fn is_agreed(&self, action: Action) -> bool {
        self.by_server || self.agreed.has(action)
    }

    /// What is left of one that a backend has ended.
    pub(super) fn ended(id: Box<str>, channel: Channel) -> Self {
        Self {
            id,
            feed: Feed::Ended,
            channel,
            place: None,
            presence: false,
            by_server: true,
            recorded: false,
            agreed: Actions::default(),
            capability: None,
        }
    }
}

/// The subscriptions of a session. Most sessions have one to three, so a list beats a map.
#[derive(Debug, Default)]
pub(super) struct Subscriptions(Vec<Subscription>);

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.iter().any(|subscription| *subscription.id == *id)
    }

    /// Whether the client itself has made one with this id.
    pub(super) fn is_clients(&self, id: &str) -> bool {
        self.0.iter().any(|subscription| *subscription.id == *id && !subscription.by_server)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Subscription> {
        self.0.iter_mut()
    }

    /// Whether one of them makes the session a member at `place`.
    pub(super) fn is_at(&self, place: &Place) -> bool {
        self.0.iter().any(|subscription| subscription.place.as_deref() == Some(place))
    }

    /// Those that consume a queue.
    pub(super) fn consumers(&self) -> impl Iterator<Item = (&str, ConsumerKey)> {
        self.0.iter().filter_map(|subscription| match subscription.feed {
            Feed::Queue(key) => Some((&*subscription.id, key)),
            Feed::Hub(_) | Feed::Ended => None,
        })
    }

    pub(super) fn add(&mut self, subscription: Subscription) {
        if self.0.len() == self.0.capacity() {
            // A `Vec` would begin with room for four.
            self.0.reserve_exact(self.0.len().max(1));
        }
        self.0.push(subscription);
    }

    pub(super) fn by_feed(&mut self, feed: Feed) -> Option<&mut Subscription> {
        self.0.iter_mut().find(|subscription| subscription.feed == feed)
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<Subscription> {
        let at = self.0.iter().position(|subscription| *subscription.id == *id)?;
        let removed = self.0.swap_remove(at);
        if self.0.len() * 4 <= self.0.capacity() {
            self.0.shrink_to(self.0.len());
        }
        Some(removed)
    }

    /// Takes the first.
    pub(super) fn take_first(&mut self) -> Option<Subscription> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }
}
