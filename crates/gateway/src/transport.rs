//! The transports: how a session's messages travel.

pub mod cors;
pub mod door;
pub mod events;
mod mailboxes;
pub mod poll;
pub mod publish;
pub mod sockjs;
pub mod stomp_tcp;
pub mod ws;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::worker::WorkerHandle;

/// What the transports' endpoints need.
#[derive(Clone)]
pub struct Station {
    /// The node.
    pub node: Arc<Node>,
    /// The worker on whose thread they run: it takes the connections.
    pub worker: WorkerHandle,
    /// The worker has ended, and its thread follows: requests that wait for other workers or nodes
    /// are to end.
    pub ending: CancellationToken,
}
