//! A worker's bounded inbox: how the rest of the node speaks to it.

use std::net::TcpStream;
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
pub struct WorkerHandle(mpsc::Sender<Inbox>);

/// An inbox with room for `capacity` messages.
pub fn inbox(capacity: usize) -> (WorkerHandle, mpsc::Receiver<Inbox>) {
    let (sender, receiver) = mpsc::channel(capacity);
    (WorkerHandle(sender), receiver)
}

impl WorkerHandle {
    /// Hands over, waiting for room; `false` when the worker has ended.
    pub async fn send(&self, message: Inbox) -> bool {
        self.0.send(message).await.is_ok()
    }
}

impl DeliverySink for WorkerHandle {
    fn deliver(&self, delivery: Delivery) -> Result<(), Full> {
        self.0.try_send(Inbox::Deliver(delivery)).map_err(|_| {
            metrics::counter!("fanlight_deliveries_dropped_total").increment(1);
            Full
        })
    }

    fn notify(&self, notice: Notice) {
        let _ = self.0.try_send(Inbox::Notice(notice));
    }
}
