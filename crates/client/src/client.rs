//! `Client`: the handle that requests are made with.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanlight_proto::Position;
#[cfg(doc)]
use fanlight_proto::native::{MAX_ACK_IDS, MAX_HISTORY};
use fanlight_proto::native::{Message, PresenceMember};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::consumer::{AckMode, Acks, ConsumeOptions, Consumer, CurrentConnection, Delivery};
use crate::driver::{Answer, Command, Driver, Settlement, Shared};
use crate::error::{LinkError, RequestError};
use crate::link::SessionInfo;
use crate::options::ConnectOptions;
use crate::outgoing::{self, Outgoing, SendOptions};
use crate::subscription::{Begin, SubscribeOptions, Subscription, Wants};

/// A session with Fanlight that outlives its connections. Clones share it; it ends when it is
/// closed or when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    commands: mpsc::Sender<Command>,
    shared: Shared,
    next_id: AtomicU64,
    request_timeout: Duration,
    subscription_queue: usize,
    tracker: TaskTracker,
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
}

/// What became of a `send`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The id under which it was published.
    pub message_id: Option<String>,
    /// Whether the node could not reach its broker.
    pub degraded: bool,
    /// Whether it had been published before under the same key.
    pub duplicate: bool,
    /// Its place in the destination's history, where one is kept.
    pub position: Option<Position>,
}

/// What was published before.
#[derive(Debug, Clone)]
pub struct Page {
    /// Oldest first, without a gap.
    pub messages: Vec<Message>,
    /// The position up to which it goes.
    pub position: Option<Position>,
    /// Whether there is more behind that.
    pub more: bool,
    /// Why what came after the asked position can't be given: a stable code.
    pub lost: Option<String>,
}

/// A page of the members of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The members, with their sessions.
    pub users: Vec<PresenceMember>,
    /// How many members there are in all.
    pub count: u64,
    /// What to ask for the next page with; `None` on the last.
    pub cursor: Option<String>,
}

/// What happens to a client's connection.
#[derive(Debug, Clone)]
pub enum Event {
    /// A session is open; subscriptions are being renewed.
    Connected(SessionInfo),
    /// A backend has subscribed the session to this destination. To get its messages, and to have
    /// the subscription renewed on other connections: [`Client::subscribe`].
    Subscribed(Box<str>),
    /// A backend has ended the session's subscription to this destination.
    Unsubscribed(Box<str>),
    /// The connection, or an attempt at one, failed.
    Disconnected {
        /// Why.
        error: LinkError,
        /// After which time it is tried again; `None`: never, the client has ended.
        retry_in: Option<Duration>,
    },
}

/// The events of a client, from when it was asked for them.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Client {
    /// Connects. Fails if the first attempt does, unless
    /// [`retry_first`](ConnectOptions::retry_first) is set.
    pub async fn connect(options: ConnectOptions) -> Result<Self, LinkError> {
        let (commands, requests) = mpsc::channel(options.request_queue.max(1));
        let shared = Shared {
            events: broadcast::channel(EVENTS_KEPT).0,
            session: watch::channel(None).0,
            ended: Arc::default(),
            connection: CurrentConnection::default(),
        };
        let cancel = CancellationToken::new();
        let tracker = TaskTracker::new();
        let inner = Inner {
            commands,
            shared: shared.clone(),
            next_id: AtomicU64::new(1),
            request_timeout: options.request_timeout,
            subscription_queue: options.subscription_queue,
            tracker: tracker.clone(),
            cancel: cancel.clone(),
            _cancel_on_drop: cancel.clone().drop_guard(),
        };
        let (first, outcome) = oneshot::channel();
        let driver = Driver::new(options, requests, shared, cancel);
        tracker.spawn(driver.run(first));
        tracker.close();
        outcome.await.unwrap_or(Err(LinkError::ClosedHere))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Subscribes to a destination or pattern. What is published after this returned is received,
    /// as long as the connection holds; where the server keeps a history, also what is published
    /// while it does not.
    pub async fn subscribe(&self, to: &str) -> Result<Subscription, RequestError> {
        self.subscribe_with(to, SubscribeOptions::default()).await
    }

    /// Subscribes to a destination and begins with a part of its history.
    pub async fn subscribe_from(
        &self,
        to: &str,
        begin: Begin,
    ) -> Result<Subscription, RequestError> {
        self.subscribe_with(to, SubscribeOptions { begin, ..SubscribeOptions::default() }).await
    }

    /// Subscribes to a destination, and [`Subscription::recv_any`] also tells who comes to it and
    /// goes. To begin, read who is there with [`Client::members`] after this has returned.
    ///
    /// Where the client is subscribed to it without presence already, that subscription is made
    /// anew: without a history, what is published at that very moment is missed.
    pub async fn subscribe_with_presence(&self, to: &str) -> Result<Subscription, RequestError> {
        let options = SubscribeOptions { presence: true, ..SubscribeOptions::default() };
        self.subscribe_with(to, options).await
    }

    /// Subscribes as [`subscribe`](Self::subscribe) does, in any way that there is.
    pub async fn subscribe_with(
        &self,
        to: &str,
        options: SubscribeOptions,
    ) -> Result<Subscription, RequestError> {
        let SubscribeOptions { begin, presence, capability } = options;
        self.subscribe_as(to, begin, Wants { presence, acks: None, capability }).await
    }

    async fn subscribe_as(
        &self,
        to: &str,
        begin: Begin,
        wants: Wants,
    ) -> Result<Subscription, RequestError> {
        let id = self.next_id();
        let commands = self.inner.commands.clone();
        // What the server may send before anything is acknowledged always finds room.
        let prefetch = wants.acks.map_or(0, |acks| usize::from(acks.prefetch));
        let capacity = self.inner.subscription_queue.max(prefetch);
        let (mut subscription, sink) = Subscription::new(to, wants, id, capacity, commands);
        let joined = self.request(|reply| Command::Subscribe { sink, begin, id, reply }).await?;
        subscription.set_joined(joined);
        Ok(subscription)
    }

    /// Consumes a queue: each message is to be acknowledged. At most `prefetch` are held at the
    /// same time, or without that as many as the queue's own option says, and no more than
    /// [`subscription_queue`](ConnectOptions::subscription_queue).
    ///
    /// A queue has one consumer or subscription of a client at a time.
    pub async fn consume(
        &self,
        to: &str,
        mode: AckMode,
        prefetch: Option<u16>,
    ) -> Result<Consumer, RequestError> {
        self.consume_with(to, mode, ConsumeOptions { prefetch, capability: None }).await
    }

    /// Consumes a queue as [`consume`](Self::consume) does, also by a capability.
    pub async fn consume_with(
        &self,
        to: &str,
        mode: AckMode,
        options: ConsumeOptions,
    ) -> Result<Consumer, RequestError> {
        let ConsumeOptions { prefetch, capability } = options;
        let room = u16::try_from(self.inner.subscription_queue).unwrap_or(u16::MAX).max(1);
        let acks = Acks { mode, prefetch: prefetch.unwrap_or(room) };
        let wants = Wants { presence: false, acks: Some(acks), capability };
        let subscription = self.subscribe_as(to, Begin::Now, wants).await?;
        Ok(Consumer::new(subscription, self.inner.shared.connection.clone()))
    }

    /// The message is done; in [`AckMode::Client`] all before it are too. Returns once the server
    /// has it. After any error the message may come again.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), RequestError> {
        self.settle([&delivery.id], delivery.connection, true).await
    }

    /// The message is to be delivered again, to anybody; in [`AckMode::Client`] all before it are
    /// too.
    pub async fn nack(&self, delivery: &Delivery) -> Result<(), RequestError> {
        self.settle([&delivery.id], delivery.connection, false).await
    }

    /// Acknowledges messages by their ids, at most [`MAX_ACK_IDS`] in a call. If one of them is
    /// not held on the present connection, nothing is acknowledged.
    pub async fn ack_ids<I: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = I>,
    ) -> Result<(), RequestError> {
        self.settle(ids, self.inner.shared.connection.number(), true).await
    }

    /// Gives back messages by their ids, as [`ack_ids`](Self::ack_ids) acknowledges them.
    pub async fn nack_ids<I: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = I>,
    ) -> Result<(), RequestError> {
        self.settle(ids, self.inner.shared.connection.number(), false).await
    }

    async fn settle<I: AsRef<str>>(
        &self,
        ids: impl IntoIterator<Item = I>,
        connection: u64,
        is_ack: bool,
    ) -> Result<(), RequestError> {
        let ids: Vec<Box<str>> = ids.into_iter().map(|id| id.as_ref().into()).collect();
        let Some(first) = ids.first() else { return Ok(()) };
        if connection != self.inner.shared.connection.number() {
            // No need to wait for a connection only to be told.
            return Err(RequestError::NotHeld { id: first.to_string() });
        }
        let id = self.next_id();
        let settlement = Settlement { ids, is_ack, connection };
        match self.request(|reply| Command::Settle { settlement, id, reply }).await? {
            Answer::Confirmed(_) => Ok(()),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Publishes `body`: JSON, unless a content type says otherwise. Returns once the server has
    /// published it.
    pub async fn send(
        &self,
        to: &str,
        body: &[u8],
        content_type: Option<&str>,
    ) -> Result<Sent, RequestError> {
        self.send_with(to, body, &SendOptions { content_type, ..SendOptions::default() }).await
    }

    /// Publishes as [`send`](Self::send) does: once for a key, to one session, to all but the own
    /// one, or by a capability.
    pub async fn send_with(
        &self,
        to: &str,
        body: &[u8],
        options: &SendOptions<'_>,
    ) -> Result<Sent, RequestError> {
        let id = self.next_id();
        let text = outgoing::send(to, body, options, id)?;
        match self.request(|reply| Command::Request { id, text, reply }).await? {
            Answer::Confirmed(confirmed) => Ok(Sent {
                position: confirmed.position(),
                message_id: confirmed.message_id,
                degraded: confirmed.degraded,
                duplicate: confirmed.duplicate,
            }),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Asks for messages of a destination's history: the oldest after `since`, or else the newest;
    /// at most `limit` of them, 1 to [`MAX_HISTORY`], and no more than fit one message.
    pub async fn history(
        &self,
        to: &str,
        since: Option<Position>,
        limit: u32,
    ) -> Result<Page, RequestError> {
        let id = self.next_id();
        let text = Outgoing::History { to, since: since.map(Into::into), limit, id }.to_text();
        match self.request(|reply| Command::Request { id, text, reply }).await? {
            Answer::History(history) => Ok(Page {
                position: history.position(),
                messages: history.messages,
                more: history.more,
                lost: history.reason.map(Cow::into_owned),
            }),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Who is at a destination: about `limit` members, from where the page before ended. With a
    /// limit of 0 only their count is asked for.
    pub async fn members(
        &self,
        to: &str,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Members, RequestError> {
        let id = self.next_id();
        let text = Outgoing::Presence { to, cursor, limit, id }.to_text();
        match self.request(|reply| Command::Request { id, text, reply }).await? {
            Answer::Members(members) => Ok(members),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// The open session, if there is one just now.
    pub fn session(&self) -> Option<SessionInfo> {
        self.inner.shared.session.borrow().clone()
    }

    /// What happens to the connection from now on.
    pub fn events(&self) -> Events {
        Events(self.inner.shared.events.subscribe())
    }

    /// Says goodbye and waits until the connection is closed.
    pub async fn close(self) {
        self.inner.cancel.cancel();
        self.inner.tracker.wait().await;
    }

    fn next_id(&self) -> u64 {
        self.inner.next_id.fetch_add(1, Ordering::Relaxed)
    }

    async fn request<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, RequestError>>) -> Command,
    ) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        let answered = async {
            if self.inner.commands.send(command(reply)).await.is_err() {
                return Err(RequestError::Ended(self.ended()));
            }
            answer.await.unwrap_or_else(|_| Err(RequestError::Ended(self.ended())))
        };
        let limit = self.inner.request_timeout;
        timeout(limit, answered).await.unwrap_or(Err(RequestError::TimedOut(limit)))
    }

    fn ended(&self) -> LinkError {
        self.inner.shared.ended.get().cloned().unwrap_or(LinkError::ClosedHere)
    }
}

impl Events {
    /// The next event; `None` once the client is dropped. If they are not taken, the oldest are
    /// dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

const EVENTS_KEPT: usize = 16;
