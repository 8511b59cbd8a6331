//! Finding a session by its id. Nothing leads from an id to its node, so every node is asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanlight_engine::peers::PeerError;
use fanlight_engine::publication::SessionId;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::node::Node;
use crate::worker::{Inbox, WorkerHandle};

/// A connected session, as its node tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Whose it is; `None`: nobody's.
    pub user: Option<String>,
    /// When it began, in Unix milliseconds.
    pub since_unix_ms: u64,
    /// Its transport, as metrics call it.
    pub transport: String,
    /// Its protocol, as metrics call it.
    pub protocol: String,
    /// From where its client comes, as it counts for the limits of addresses; `None` where it
    /// counts for none.
    pub address: Option<String>,
    /// How many subscriptions it has.
    pub subscriptions: usize,
}

/// It is not known whether the session is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// This node has no lease, so it does not know which others there are.
    #[error("this node can't reach Redis, so it does not know the other nodes; try again later")]
    Alone,
    /// Nodes did not answer.
    #[error("{0} of the nodes that may have this session did not answer; try again later")]
    Silent(usize),
}

/// What nodes ask each other.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// Whether there is a session with this id.
    Session(String),
}

/// The session with this id, and the node that has it.
pub async fn find(
    node: &Node,
    session: SessionId,
) -> Result<Option<(Arc<str>, Found)>, LookupError> {
    let question = Question::Session(session.to_string());
    let question: Bytes = serde_json::to_vec(&question).expect("a text is always JSON").into();
    let ask = |id: Arc<str>| {
        let asked = node.peers.ask_node(&id, question.clone(), PATIENCE);
        async move {
            let found = serde_json::from_slice::<Option<Found>>(&asked.await?);
            Ok(found.map_err(|_| PeerError::Gone)?.map(|found| (id, found)))
        }
    };
    let nodes = node.registry.nodes();
    let own = match &node.lease {
        Some(lease) => Some(lease.owner()),
        None => nodes.iter().find(|node| node.is_self).map(|node| Arc::clone(&node.id)),
    };
    let mut silent = 0;
    // Itself first: to find its own sessions it needs no other, nor Redis.
    let others = nodes.iter().filter(|node| !node.is_self && node.lease_left_ms > 0);
    let others = others.map(|node| Arc::clone(&node.id));
    for some in [own.into_iter().collect::<Vec<_>>(), others.collect()] {
        let mut asked = stream::iter(some).map(&ask).buffer_unordered(ASKED_AT_ONCE);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err::<_, PeerError>(_) => silent += 1,
            }
        }
    }
    if silent > 0 {
        return Err(LookupError::Silent(silent));
    }
    if node.lease.as_ref().is_some_and(|lease| !lease.is_held()) {
        return Err(LookupError::Alone);
    }
    Ok(None)
}

/// What this node answers to another, or to itself; `None`: it does not understand that.
pub(crate) async fn answer(workers: &[WorkerHandle], question: &[u8]) -> Option<Bytes> {
    let Question::Session(id) = serde_json::from_slice(question).ok()?;
    let session: SessionId = id.parse().ok()?;
    let asked = workers.iter().map(async |worker| {
        let (reply, answer) = oneshot::channel();
        worker.send(Inbox::Find { session, reply }).await;
        answer.await.ok()
    });
    let found = join_all(asked).await.into_iter().flatten().next();
    Some(serde_json::to_vec(&found).expect("texts and numbers are always JSON").into())
}

/// How long a node may take.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Nodes that are asked at the same time.
const ASKED_AT_ONCE: usize = 64;
