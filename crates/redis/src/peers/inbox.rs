//! What other nodes send to this one's peers, bounded in messages and bytes.

use std::sync::Arc;

use bytes::Bytes;
use fanlight_engine::broker::Full;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::meters;

/// What comes for this node's peers; [`control`](crate::control) has it.
#[derive(Debug)]
pub struct PeerInbox(mpsc::Receiver<Incoming>);

/// The other end.
#[derive(Debug)]
pub(crate) struct PeerSink {
    sender: mpsc::Sender<Incoming>,
    room: Arc<Semaphore>,
}

/// A message, and the room that it takes for as long as it is here.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) body: Bytes,
    pub(super) room: OwnedSemaphorePermit,
}

/// Both ends.
pub(crate) fn inbox() -> (PeerSink, PeerInbox) {
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    (PeerSink { sender, room: Arc::new(Semaphore::new(BYTES_MAX)) }, PeerInbox(receiver))
}

impl PeerSink {
    /// Without waiting; what has no room is dropped, and its asker told nothing.
    pub(crate) fn push(&self, body: Bytes) -> Result<(), Full> {
        let bytes = u32::try_from(body.len()).map_err(|_| Full)?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes).map_err(|_| Full);
        let pushed =
            room.and_then(|room| self.sender.try_send(Incoming { body, room }).map_err(|_| Full));
        pushed.inspect_err(|Full| meters::dropped("full"))
    }
}

impl PeerInbox {
    pub(super) async fn next(&mut self) -> Option<Incoming> {
        self.0.recv().await
    }
}

/// Messages that wait to be read.
const MESSAGES_MAX: usize = 8 << 10;
/// Of those, and of requests that are being answered.
const BYTES_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_bounded_in_messages_and_bytes() {
        let (sink, mut inbox) = inbox();
        let large = Bytes::from(vec![0; BYTES_MAX / 4]);
        for _ in 0..4 {
            assert_eq!(sink.push(large.clone()), Ok(()));
        }
        assert_eq!(sink.push(Bytes::from_static(b"x")), Err(Full));
        let first = inbox.next().await.unwrap();
        drop(first.body);
        assert_eq!(sink.push(Bytes::from_static(b"x")), Err(Full), "its room is still taken");
        drop(first.room);
        while sink.push(Bytes::from_static(b"x")).is_ok() {}
        let mut count = 0;
        drop(sink);
        while inbox.next().await.is_some() {
            count += 1;
        }
        assert_eq!(count, MESSAGES_MAX);
    }
}
