//! A worker's bounded inbox: how the rest of the node speaks to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanlight_engine::broker::{Delivery, DeliverySink, Full, Notice};
use fanlight_engine::publication::SessionId;
use fanlight_engine::registry::{Handle, Order};
use fanlight_engine::session::{Handshake, Listening, Protocol};
use tokio::sync::{mpsc, oneshot};

use super::mailbox::MailboxOptions;
use crate::admission::{Admission, Admitted};
use crate::mail::Mail;
use crate::session_lookup::Found;
use crate::socket::Socket;

/// What a worker is told.
pub enum Inbox {
    /// A connection was upgraded.
    Adopt(Box<Adopted>),
    /// Publications arrived.
    Deliver(Delivery),
    /// Something about its channels.
    Notice(Notice),
    /// A session is to be opened to which requests will come.
    Open(Box<Opened>),
    /// A request for such a session.
    Mail(Box<Mail>),
    /// Such a session has lost its claim.
    Unclaimed(Handle),
    /// A session is to do something.
    Order(Box<Order>),
    /// Somebody looks for a session.
    Find {
        /// Its id.
        session: SessionId,
        /// Told of it, or dropped where it is not here.
        reply: oneshot::Sender<Found>,
    },
    /// Sessions are to go to other nodes.
    Shed {
        /// So many.
        count: usize,
        /// Told how many were sent away.
        gone: oneshot::Sender<usize>,
    },
    /// The node drains: connections are to be closed evenly over `window`.
    Drain {
        /// How long to take; zero closes all at once.
        window: Duration,
        /// How long after that the rest is cut.
        deadline: Duration,
        /// Counts who was let in by the node, and may still be on the way here.
        let_in: Arc<Admission>,
    },
}

/// An upgraded connection on its way to its slot.
pub struct Adopted {
    /// Non-blocking.
    pub socket: Socket,
    /// What it is to be answered before anything else.
    pub answer: Bytes,
    /// What the client sent behind its handshake.
    pub leftover: Bytes,
    /// Who is to answer on it.
    pub opening: Opening,
    /// How it carries messages.
    pub carrier: Carrier,
    /// Its place in the limits.
    pub admitted: Admitted,
}

/// A session without a connection of its own, on its way to its slot.
pub struct Opened {
    /// What it has in place of a connection.
    pub mailbox: MailboxOptions,
    /// Who is to answer.
    pub opening: Opening,
    /// Its place in the limits.
    pub admitted: Admitted,
    /// Told where it is.
    pub reply: oneshot::Sender<Handle>,
}

/// How a connection carries messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// As WebSocket messages.
    WebSocket {
        /// Whether permessage-deflate was agreed on.
        compression: bool,
    },
    /// As SockJS frames, each a WebSocket message.
    SockJs,
    /// As the protocol's own frames, one behind the other: STOMP over TCP.
    Stream,
    /// As server-sent events, and nothing is read.
    Events {
        /// Whether as chunks of an HTTP/1.1 body.
        chunked: bool,
    },
}

/// Who answers on a new connection.
pub enum Opening {
    /// A session: as whom the handshake said, in the protocol that was agreed on; the first
    /// message tells it where none was.
    Session(Handshake, Option<Protocol>),
    /// The session of a client that only listens.
    Listener(Handshake, Listening),
    /// A service for conformance suites.
    Echo(Echo),
}

impl Opening {
    /// The session as which a backend has let it in.
    pub(super) fn let_in(&self) -> Option<SessionId> {
        match self {
            Self::Session(handshake, _) | Self::Listener(handshake, _) => handshake.let_in,
            Self::Echo(_) => None,
        }
    }
}

/// What a service for conformance suites answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// What it was sent.
    Same,
    /// Two to the power of the number that it was sent, so many times `x`.
    Amplified,
}

/// The sending side of a worker's inbox.
#[derive(Clone)]
pub struct WorkerHandle {
    sender: mpsc::Sender<Inbox>,
    has_missed: Arc<AtomicBool>,
}

/// The worker's own side of its inbox.
pub struct InboxReceiver {
    pub(super) messages: mpsc::Receiver<Inbox>,
    has_missed: Arc<AtomicBool>,
}

/// An inbox with room for `capacity` messages.
pub fn inbox(capacity: usize) -> (WorkerHandle, InboxReceiver) {
    let (sender, messages) = mpsc::channel(capacity);
    let has_missed = Arc::<AtomicBool>::default();
    let receiver = InboxReceiver { messages, has_missed: Arc::clone(&has_missed) };
    (WorkerHandle { sender, has_missed }, receiver)
}

impl InboxReceiver {
    /// Whether there was no room for something since this was last asked.
    pub(super) fn take_missed(&self) -> bool {
        self.has_missed.load(Ordering::Relaxed) && self.has_missed.swap(false, Ordering::AcqRel)
    }
}

impl WorkerHandle {
    /// Hands over, waiting for room; `false` when the worker has ended.
    pub async fn send(&self, message: Inbox) -> bool {
        self.sender.send(message).await.is_ok()
    }

    /// How full the inbox is: 1 is full.
    pub fn used_ratio(&self) -> f64 {
        1.0 - self.sender.capacity() as f64 / self.sender.max_capacity() as f64
    }
}

impl DeliverySink for WorkerHandle {
    fn deliver(&self, delivery: Delivery) -> Result<(), Full> {
        self.sender.try_send(Inbox::Deliver(delivery)).map_err(|_| {
            self.has_missed.store(true, Ordering::Release);
            metrics::counter!("fanlight_deliveries_dropped_total").increment(1);
            Full
        })
    }

    fn notify(&self, notice: Notice) {
        if self.sender.try_send(Inbox::Notice(notice)).is_err() {
            self.has_missed.store(true, Ordering::Release);
        }
    }
}
