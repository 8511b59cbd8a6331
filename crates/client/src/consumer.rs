//! Consuming a queue: messages that are to be acknowledged, each on the connection it came on.

use std::collections::VecDeque;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use fanlight_proto::native::Message;
use futures_util::Stream;
use serde::Serialize;

use crate::capability::Capability;
#[cfg(doc)]
use crate::client::Client;
use crate::error::RecvError;
#[cfg(doc)]
use crate::error::RequestError;
#[cfg(doc)]
use crate::subscription::SubscribeOptions;
use crate::subscription::{Item, Missed, Subscription};

/// What acknowledging a message means for those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AckMode {
    /// It is for all that came before it too, and so is giving it back.
    Client,
    /// It is for this message alone.
    ClientIndividual,
}

/// How a queue is consumed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumeOptions {
    /// How many messages are held at the same time; `None`: as many as the queue's own option says.
    pub prefetch: Option<u16>,
    /// What allows it, where the session's own token does not: as
    /// [`SubscribeOptions::capability`].
    pub capability: Option<Capability>,
}

/// A consumer's share of the messages of a queue. Each is to be acknowledged with [`Client::ack`],
/// or given back with [`Client::nack`]. Dropping it ends the subscription, and the server gives
/// what is not acknowledged to others.
///
/// So it does when a connection is lost. What had come on it and was not received yet is then not
/// received any more: it comes again, here or elsewhere.
#[derive(Debug)]
pub struct Consumer {
    subscription: Subscription,
    current: CurrentConnection,
}

/// A message of a queue, as it came on one connection.
#[derive(Debug, Clone)]
pub struct Delivery {
    message: Arc<Message>,
    pub(crate) connection: u64,
}

/// The number of a client's connection; a new one when that is lost.
#[derive(Debug, Clone, Default)]
pub(crate) struct CurrentConnection(Arc<AtomicU64>);

/// How a subscription acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acks {
    pub(crate) mode: AckMode,
    pub(crate) prefetch: u16,
}

/// The ids of what came on this connection and is not acknowledged, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Held(VecDeque<Box<str>>);

impl Consumer {
    pub(crate) fn new(subscription: Subscription, current: CurrentConnection) -> Self {
        Self { subscription, current }
    }

    /// The queue, as it was subscribed.
    pub fn to(&self) -> &str {
        self.subscription.to()
    }

    /// Whether the node could not reach its broker when this began: it comes alive with it.
    pub fn is_degraded(&self) -> bool {
        self.subscription.is_degraded()
    }

    /// The next message, or that no more will come. [`RecvError::Missed`] tells of messages that
    /// had no room here, because earlier ones were not received within the queue's `ack_timeout`;
    /// they come again.
    pub async fn recv(&mut self) -> Result<Delivery, RecvError> {
        loop {
            let item = self.subscription.next_item().await?;
            if let Some(delivery) = self.delivery(item)? {
                return Ok(delivery);
            }
        }
    }

    /// The delivery, unless it can't be acknowledged any more.
    fn delivery(&self, item: Item) -> Result<Option<Delivery>, Missed> {
        match item {
            Item::Message { message, connection } if connection == self.current.number() => {
                Ok(Some(Delivery { message, connection }))
            }
            Item::Message { .. } | Item::Presence(_) => Ok(None),
            Item::Missed(missed) => Err(missed),
        }
    }
}

/// Ends when the subscription does; [`Consumer::recv`] tells why.
impl Stream for Consumer {
    type Item = Result<Delivery, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while let Some(item) = ready!(self.subscription.poll_item(cx)) {
            if let Some(delivery) = self.delivery(item).transpose() {
                return Poll::Ready(Some(delivery));
            }
        }
        Poll::Ready(None)
    }
}

impl Delivery {
    /// The message, which outlives this.
    pub fn message(&self) -> &Arc<Message> {
        &self.message
    }
}

impl Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl CurrentConnection {
    pub(crate) fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What came on the connection until now can't be acknowledged any more.
    pub(crate) fn lost(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Held {
    /// Notes what came, of which the server lets `prefetch` wait at the same time. More are kept
    /// here only when some have timed out at the server, and those are the oldest.
    pub(crate) fn add(&mut self, id: &str, prefetch: u16) {
        self.0.retain(|held| **held != *id);
        self.0.push_back(id.into());
        if self.0.len() > usize::from(prefetch) {
            self.0.pop_front();
        }
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|held| **held == *id)
    }

    /// The server has the acknowledgement of `id`.
    pub(crate) fn settle(&mut self, id: &str, mode: AckMode) {
        let Some(at) = self.0.iter().position(|held| **held == *id) else { return };
        match mode {
            AckMode::Client => drop(self.0.drain(..=at)),
            AckMode::ClientIndividual => drop(self.0.remove(at)),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(ids: &[&str]) -> Held {
        Held(ids.iter().map(|id| (*id).into()).collect())
    }

    #[test]
    fn settling_a_message_settles_those_before_it_in_client_mode_only() {
        for (mode, left) in
            [(AckMode::Client, &["c", "d"][..]), (AckMode::ClientIndividual, &["a", "c", "d"])]
        {
            let mut all = held(&["a", "b", "c", "d"]);
            all.settle("b", mode);
            all.settle("unknown", mode);
            assert_eq!(all.0, held(left).0, "{mode:?}");
        }
    }

    #[test]
    fn what_comes_again_is_the_newest_and_the_oldest_give_way() {
        let mut all = Held::default();
        for id in ["a", "b", "c", "a", "d"] {
            all.add(id, 3);
        }
        assert_eq!(all.0, held(&["c", "a", "d"]).0);
        assert!(all.has("a") && !all.has("b"));
    }
}
