//! A subscription: a bounded queue of messages, and what happens when it is full.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

#[cfg(doc)]
use fanlight_proto::native::MAX_HISTORY;
use fanlight_proto::native::Message;
use fanlight_proto::{DestinationPattern, Position};
use futures_util::Stream;
use tokio::sync::mpsc;

use crate::driver::Command;
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
    degraded: bool,
    recovered: Option<bool>,
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

/// What a subscription's queue holds.
#[derive(Debug)]
pub(crate) enum Item {
    Message(Arc<Message>),
    Missed(Missed),
}

/// The driver's end of a subscription.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) key: u64,
    pub(crate) to: Arc<str>,
    pattern: Option<DestinationPattern>,
    queue: mpsc::Sender<Item>,
    missed: u64,
    ended: Arc<OnceLock<String>>,
}

impl Subscription {
    pub(crate) fn new(
        to: &str,
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
            pattern: pattern.filter(|pattern| !pattern.is_literal()),
            queue: sender,
            missed: 0,
            ended: Arc::clone(&ended),
        };
        (Self { to, key, degraded: false, recovered: None, queue, ended, commands }, sink)
    }

    /// Whether the node could not reach its broker when this subscription began: it comes alive
    /// with the broker, and what is published meanwhile is missed.
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// Whether it was given all that came after its position; `None` where it began without one.
    pub fn is_recovered(&self) -> Option<bool> {
        self.recovered
    }

    pub(crate) fn set_joined(&mut self, degraded: bool, recovered: Option<bool>) {
        self.degraded = degraded;
        self.recovered = recovered;
    }

    /// The destination or pattern, as it was subscribed.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// The next message, or that some were missed, or that no more will come.
    pub async fn recv(&mut self) -> Result<Arc<Message>, RecvError> {
        match self.queue.recv().await {
            Some(Item::Message(message)) => Ok(message),
            Some(Item::Missed(Missed::Dropped(missed))) => Err(RecvError::Missed(missed)),
            Some(Item::Missed(Missed::Lost(reason))) => Err(RecvError::Lost(reason)),
            None => Err(RecvError::Ended(self.end())),
        }
    }

    fn end(&self) -> String {
        self.ended.get().cloned().unwrap_or_else(|| "the client has ended".into())
    }
}

/// Ends when the subscription does; [`Subscription::recv`] tells why.
impl Stream for Subscription {
    type Item = Result<Arc<Message>, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(ready!(self.queue.poll_recv(cx)).map(|item| match item {
            Item::Message(message) => Ok(message),
            Item::Missed(missed) => Err(missed),
        }))
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

    /// Queues a message, or counts it as missed.
    pub(crate) fn push(&mut self, message: &Arc<Message>) {
        self.queue_up(Item::Message(Arc::clone(message)));
    }

    /// Tells that messages were lost; without room, that counts as one more missed.
    pub(crate) fn push_lost(&mut self, reason: &str) {
        self.queue_up(Item::Missed(Missed::Lost(reason.to_owned())));
    }

    fn queue_up(&mut self, item: Item) {
        let dropped = Item::Missed(Missed::Dropped(self.missed));
        if self.missed > 0 && self.queue.try_send(dropped).is_ok() {
            self.missed = 0;
        }
        if self.missed > 0 || self.queue.try_send(item).is_err() {
            self.missed += 1;
        }
    }

    /// Whether it is to one destination, whose positions can be told.
    pub(crate) fn is_exact(&self) -> bool {
        self.pattern.is_none()
    }

    /// Whether the subscription was dropped.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.queue.is_closed()
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
            let (_subscription, sink) = Subscription::new(to, 1, 2, commands);
            assert_eq!(sink.takes(destination), takes, "{to} {destination}");
        }
    }

    #[tokio::test]
    async fn what_a_slow_reader_misses_is_counted_in_its_place() {
        let (commands, _kept) = mpsc::channel(1);
        let (mut subscription, mut sink) = Subscription::new("/topic/a", 1, 2, commands);
        for id in 0..5 {
            sink.push(&message(id));
        }
        assert_eq!(subscription.recv().await.unwrap().id, "0");
        assert_eq!(subscription.recv().await.unwrap().id, "1");
        sink.push(&message(5));
        assert_eq!(subscription.recv().await.unwrap_err(), RecvError::Missed(3));
        assert_eq!(subscription.recv().await.unwrap().id, "5");
        sink.end("the policy changed");
        let ended = RecvError::Ended("the policy changed".into());
        assert_eq!(subscription.recv().await.unwrap_err(), ended);
    }
}
