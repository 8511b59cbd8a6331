//! A subscription: a bounded queue of messages, and what happens when it is full.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

#[cfg(doc)]
use fanlight_proto::native::MAX_HISTORY;
use fanlight_proto::native::{Message, PresenceChange};
use fanlight_proto::{DestinationPattern, Position};
use futures_util::Stream;
use tokio::sync::mpsc;

use crate::capability::Capability;
use crate::consumer::Acks;
use crate::driver::{Command, Joined};
use crate::error::RecvError;

/// Messages of one destination or pattern. Dropping it ends the subscription.
///
/// Its queue is bounded: when it is full, later messages are dropped and counted, and the next
/// that finds room is preceded by [`RecvError::Missed`]. So one slow reader holds up neither the
/// connection nor other subscriptions.
#[derive(Debug)]
pub struct Subscription {
    to: Arc<str>,
    key: u64,
    joined: Joined,
    queue: mpsc::Receiver<Item>,
    ended: Arc<OnceLock<String>>,
    commands: mpsc::Sender<Command>,
}

/// Messages that a subscription does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missed {
    /// So many were dropped here, because they were not received fast enough.
    Dropped(u64),
    /// The server can't say which or how many; fetch anew what they would have told. The reason
    /// is a stable code.
    Lost(String),
}

/// What a subscription begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Begin {
    /// What comes.
    #[default]
    Now,
    /// The newest messages of the history, at most so many: 1 to [`MAX_HISTORY`].
    Newest(u32),
    /// What came after this position.
    After(Position),
}

/// How a subscription is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// What it begins with.
    pub begin: Begin,
    /// Whether it also tells who comes to the destination and goes.
    pub presence: bool,
    /// What allows it, where the session's own token does not. It is given again whenever the
    /// subscription is renewed; once it has expired, the subscription ends
    /// ([`RecvError::Ended`]), and that of others of this client to the same destination.
    pub capability: Option<Capability>,
}

/// What comes on a subscription with presence.
#[derive(Debug, Clone)]
pub enum Received {
    /// A message.
    Message(Arc<Message>),
    /// Who came and went. After a reconnect, or when it is truncated, read the members anew.
    Presence(Arc<PresenceChange>),
}

/// What a subscription's queue holds.
#[derive(Debug)]
pub(crate) enum Item {
    /// A message, and the number of the connection that it came on.
    Message {
        message: Arc<Message>,
        connection: u64,
    },
    Presence(Arc<PresenceChange>),
    Missed(Missed),
}

/// What a subscription wants besides messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wants {
    /// Changes of presence.
    pub(crate) presence: bool,
    /// To acknowledge.
    pub(crate) acks: Option<Acks>,
    /// With what it is asked for.
    pub(crate) capability: Option<Capability>,
}

/// The driver's end of a subscription.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) key: u64,
    pub(crate) to: Arc<str>,
    pub(crate) wants: Wants,
    pattern: Option<DestinationPattern>,
    queue: mpsc::Sender<Item>,
    missed: u64,
    ended: Arc<OnceLock<String>>,
}

impl Subscription {
    pub(crate) fn new(
        to: &str,
        wants: Wants,
        key: u64,
        capacity: usize,
        commands: mpsc::Sender<Command>,
    ) -> (Self, Sink) {
        // Room for the note that some were missed, and for the message after it.
        let (sender, queue) = mpsc::channel(capacity.max(2));
        let (to, ended): (Arc<str>, _) = (to.into(), Arc::new(OnceLock::new()));
        let pattern = to.parse::<DestinationPattern>().ok();
        let sink = Sink {
            key,
            to: Arc::clone(&to),
            wants,
            pattern: pattern.filter(|pattern| !pattern.is_literal()),
            queue: sender,
            missed: 0,
            ended: Arc::clone(&ended),
        };
        (Self { to, key, joined: Joined::default(), queue, ended, commands }, sink)
    }

    /// Whether the node could not reach its broker when this subscription began: it comes alive
    /// with the broker, and what is published meanwhile is missed.
    pub fn is_degraded(&self) -> bool {
        self.joined.degraded
    }

    /// Whether it was given all that came after its position; `None` where it began without one.
    pub fn is_recovered(&self) -> Option<bool> {
        self.joined.recovered
    }

    /// Why it was not given all of that: a stable code.
    pub fn lost_reason(&self) -> Option<&str> {
        self.joined.reason.as_deref()
    }

    /// Behind which position it began, where the server keeps a history.
    pub fn begun_at(&self) -> Option<Position> {
        self.joined.position
    }

    pub(crate) fn set_joined(&mut self, joined: Joined) {
        self.joined = joined;
    }

    /// The destination or pattern, as it was subscribed.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// The next message, or that some were missed, or that no more will come. Changes of presence
    /// are passed over.
    pub async fn recv(&mut self) -> Result<Arc<Message>, RecvError> {
        loop {
            if let Received::Message(message) = self.recv_any().await? {
                return Ok(message);
            }
        }
    }

    /// The next message or change of presence, or that some were missed, or that no more will come.
    pub async fn recv_any(&mut self) -> Result<Received, RecvError> {
        match self.next_item().await? {
            Item::Message { message, .. } => Ok(Received::Message(message)),
            Item::Presence(change) => Ok(Received::Presence(change)),
            Item::Missed(missed) => Err(missed.into()),
        }
    }

    pub(crate) async fn next_item(&mut self) -> Result<Item, RecvError> {
        self.queue.recv().await.ok_or_else(|| RecvError::Ended(self.end()))
    }

    pub(crate) fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.queue.poll_recv(cx)
    }

    fn end(&self) -> String {
        self.ended.get().cloned().unwrap_or_else(|| "the client has ended".into())
    }
}

/// Ends when the subscription does; [`Subscription::recv`] tells why.
impl Stream for Subscription {
    type Item = Result<Arc<Message>, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return Poll::Ready(match ready!(self.poll_item(cx)) {
                Some(Item::Presence(_)) => continue,
                Some(Item::Message { message, .. }) => Some(Ok(message)),
                Some(Item::Missed(missed)) => Some(Err(missed)),
                None => None,
            });
        }
    }
}

impl From<Missed> for RecvError {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Dropped(missed) => Self::Missed(missed),
            Missed::Lost(reason) => Self::Lost(reason),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // If there is no room, the driver notices the closed queue at the next message.
        let _ = self.commands.try_send(Command::Unsubscribe { key: self.key });
    }
}

impl Sink {
    /// Whether a message to `destination` belongs here.
    pub(crate) fn takes(&self, destination: &str) -> bool {
        match &self.pattern {
            Some(pattern) => pattern.matches(destination),
            None => *self.to == *destination,
        }
    }

    /// Queues a message that came on this connection, or counts it as missed; whether there was
    /// room.
    pub(crate) fn push(&mut self, message: &Arc<Message>, connection: u64) -> bool {
        self.queue_up(Item::Message { message: Arc::clone(message), connection })
    }

    /// Queues a change of presence, or counts it as missed.
    pub(crate) fn push_presence(&mut self, change: &Arc<PresenceChange>) {
        self.queue_up(Item::Presence(Arc::clone(change)));
    }

    /// Tells that messages were lost; without room, that counts as one more missed.
    pub(crate) fn push_lost(&mut self, reason: &str) {
        self.queue_up(Item::Missed(Missed::Lost(reason.to_owned())));
    }

    fn queue_up(&mut self, item: Item) -> bool {
        let dropped = Item::Missed(Missed::Dropped(self.missed));
        if self.missed > 0 && self.queue.try_send(dropped).is_ok() {
            self.missed = 0;
        }
        let has_room = self.missed == 0 && self.queue.try_send(item).is_ok();
        self.missed += u64::from(!has_room);
        has_room
    }

    /// Whether it is to one destination, whose positions can be told.
    pub(crate) fn is_exact(&self) -> bool {
        self.pattern.is_none()
    }

    /// Whether the subscription was dropped.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.queue.is_closed()
    }

    /// Its key, if the subscription was dropped.
    pub(crate) fn abandoned(&self) -> Option<u64> {
        self.is_abandoned().then_some(self.key)
    }

    /// Ends the subscription, with the reason.
    pub(crate) fn end(self, reason: impl Into<String>) {
        let _ = self.ended.set(reason.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanlight_proto::native::ServerMessage;

    fn message(id: u32) -> Arc<Message> {
        let text = format!(r#"{{"type":"message","to":"/topic/a","id":"{id}","data":1,"at":1}}"#);
        let Ok(ServerMessage::Message(message)) = serde_json::from_str(&text) else { panic!() };
        Arc::new(message)
    }

    #[test]
    fn a_message_goes_to_the_subscriptions_it_belongs_to() {
        for (to, destination, takes) in [
            ("/topic/a", "/topic/a", true),
            ("/topic/a", "/topic/b", false),
            ("/topic/*", "/topic/b", true),
            ("/topic/*", "/topic/b/c", false),
            ("/user/queue/x", "/user/queue/x", true),
            ("/user/ann/queue/x", "/user/ann/queue/x", true),
            ("/user/ann/queue/x", "/user/queue/x", false),
        ] {
            let (commands, _kept) = mpsc::channel(1);
            let wants = Wants::default();
            let (_subscription, sink) = Subscription::new(to, wants, 1, 2, commands);
            assert_eq!(sink.takes(destination), takes, "{to} {destination}");
        }
    }

    #[tokio::test]
    async fn what_a_slow_reader_misses_is_counted_in_its_place() {
        let (commands, _kept) = mpsc::channel(1);
        let wants = Wants::default();
        let (mut subscription, mut sink) = Subscription::new("/topic/a", wants, 1, 2, commands);
        for id in 0..5 {
            assert_eq!(sink.push(&message(id), 0), id < 2);
        }
        assert_eq!(subscription.recv().await.unwrap().id, "0");
        assert_eq!(subscription.recv().await.unwrap().id, "1");
        sink.push(&message(5), 0);
        assert_eq!(subscription.recv().await.unwrap_err(), RecvError::Missed(3));
        assert_eq!(subscription.recv().await.unwrap().id, "5");
        sink.end("the policy changed");
        let ended = RecvError::Ended("the policy changed".into());
        assert_eq!(subscription.recv().await.unwrap_err(), ended);
    }
}
