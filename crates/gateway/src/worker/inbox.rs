//! A worker's bounded inbox: how the rest of the node speaks to it.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanlight_engine::broker::{Delivery, DeliverySink, Full, Notice};
use fanlight_engine::registry::Order;
use fanlight_engine::session::{Handshake, Protocol};
use tokio::sync::mpsc;

use crate::admission::Admitted;

/// What a worker is told.
pub enum Inbox {
    /// A connection was upgraded.
    Adopt(Box<Adopted>),
    /// Publications arrived.
    Deliver(Delivery),
    /// Something about its channels.
    Notice(Notice),
    /// A session is to end.
    Disconnect(Box<Order>),
    /// The node drains: connections are to be closed evenly over `window`.
    Drain {
        /// How long to take; zero closes all at once.
        window: Duration,
        /// How long after that the rest is cut.
        deadline: Duration,
    },
}

/// An upgraded connection on its way to its slot.
pub struct Adopted {
    /// The raw socket, non-blocking.
    pub socket: TcpStream,
    /// What the client sent behind its handshake.
    pub leftover: Bytes,
    /// Who the handshake said it is.
    pub handshake: Handshake,
    /// What the subprotocol said; `None` is decided by the first message.
    pub protocol: Option<Protocol>,
    /// Whether permessage-deflate was agreed on.
    pub compression: bool,
    /// The conformance echo instead of a session.
    pub echo: bool,
    /// Its place in the limits.
    pub admitted: Admitted,
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
