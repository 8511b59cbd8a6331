//! What is asked of a mailbox, a session without a connection of its own, wherever in the cluster
//! it is: to receive for a request, to send what one brought.

use bytes::{BufMut, Bytes, BytesMut};
use fanlight_engine::peers::{Answerer, ClaimName};
use fanlight_engine::registry::Handle;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::session_lookup;
use crate::worker::{Inbox, WorkerHandle};

/// A request to a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailRequest {
    /// Who asks; the mailbox has been opened by the same.
    pub caller: Option<Box<str>>,
    /// What for.
    pub what: Wish,
}

/// What is asked of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// The next frame, once there is one.
    Receive(Receive),
    /// This receiver asks for no more.
    Leave {
        /// As it has named itself.
        receiver: u64,
        /// Whether its client was lost, and perhaps a frame with it.
        #[serde(default)]
        is_lost: bool,
    },
    /// Hand these messages to the session.
    Send {
        /// In order.
        messages: Vec<Box<str>>,
    },
}

/// How somebody receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receive {
    /// Names the connection that receives: there is one at a time.
    pub receiver: u64,
    /// Whether it will ask for more.
    pub stays: bool,
    /// The most bytes of messages, unless a single one is larger.
    pub max_bytes: u32,
    /// How long to wait for something, in milliseconds.
    pub wait_ms: u32,
    /// Where who polls stands: elsewhere than the mailbox has told, it has missed an answer.
    pub from: Option<Box<str>>,
}

/// What a mailbox answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailReply {
    /// A frame, as yet without what a transport puts around it.
    Frame(Bytes),
    /// The last frame: there is nothing more to receive.
    Last(Bytes),
    /// The messages were handed over, or the receiver is forgotten.
    Sent,
    /// It is somebody else's, or nobody's any more.
    NotHere,
    /// As many requests with messages wait as may.
    Full,
}

/// A request on its way to the worker that has the mailbox.
pub struct Mail {
    /// Where it is.
    pub handle: Handle,
    /// What for.
    pub request: MailRequest,
    /// Who waits.
    pub reply: oneshot::Sender<MailReply>,
}

impl MailRequest {
    /// The request as bytes for another node.
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("texts and numbers are always JSON").into()
    }
}

impl MailReply {
    /// The reply as bytes: what it is, then the frame.
    pub fn encode(&self) -> Bytes {
        let (tag, frame): (u8, &[u8]) = match self {
            Self::Frame(frame) => (b'f', frame),
            Self::Last(frame) => (b'l', frame),
            Self::Sent => (b's', b""),
            Self::NotHere => (b'n', b""),
            Self::Full => (b'o', b""),
        };
        let mut out = BytesMut::with_capacity(1 + frame.len());
        out.put_u8(tag);
        out.extend_from_slice(frame);
        out.freeze()
    }

    /// Reads what another node has answered.
    pub fn decode(mut bytes: Bytes) -> Option<Self> {
        let tag = *bytes.first()?;
        let frame = bytes.split_off(1);
        match tag {
            b'f' => Some(Self::Frame(frame)),
            b'l' => Some(Self::Last(frame)),
            b's' => Some(Self::Sent),
            b'n' => Some(Self::NotHere),
            b'o' => Some(Self::Full),
            _ => None,
        }
    }
}

/// What the other nodes ask this one: its mailboxes, and whether it has a session.
pub struct Mailroom(Vec<WorkerHandle>);

impl Mailroom {
    /// Those of these workers.
    pub fn new(workers: Vec<WorkerHandle>) -> Self {
        Self(workers)
    }

    fn worker(&self, handle: Handle) -> Option<WorkerHandle> {
        self.0.get(usize::from(handle.worker.0)).cloned()
    }
}

impl Answerer for Mailroom {
    fn answer(&self, handle: Handle, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let worker = self.worker(handle);
        async move {
            // What can't be read is of a later version, or of nobody's.
            let request = serde_json::from_slice(&request).ok()?;
            let (reply, answer) = oneshot::channel();
            let mail = Mail { handle, request, reply };
            worker?.send(Inbox::Mail(Box::new(mail))).await;
            Some(answer.await.ok()?.encode())
        }
        .boxed()
    }

    fn answer_node(&self, request: Bytes) -> BoxFuture<'static, Option<Bytes>> {
        let workers = self.0.clone();
        async move { session_lookup::answer(&workers, &request).await }.boxed()
    }

    fn lost(&self, name: ClaimName, handle: Handle) -> BoxFuture<'static, ()> {
        let worker = self.worker(handle);
        async move {
            tracing::warn!(?name, "a session's claim was lost; it ends");
            if let Some(worker) = worker {
                worker.send(Inbox::Unclaimed(handle)).await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_answered_is_read_as_it_was_written() {
        let request = MailRequest {
            caller: Some("a\"b".into()),
            what: Wish::Send { messages: vec!["one\n".into(), "".into()] },
        };
        assert_eq!(serde_json::from_slice::<MailRequest>(&request.encode()).unwrap(), request);
        for reply in [
            MailReply::Frame(Bytes::from_static(b"a[\"x\"]")),
            MailReply::Last(Bytes::from_static(b"c[1000,\"\"]")),
            MailReply::Sent,
            MailReply::NotHere,
            MailReply::Full,
        ] {
            assert_eq!(MailReply::decode(reply.encode()), Some(reply));
        }
        for strange in [&b""[..], b"x", b"\xff"] {
            assert_eq!(MailReply::decode(Bytes::copy_from_slice(strange)), None);
        }
    }
}
