//! All sockets of a worker in one poll, watched by tokio.

use std::io;
use std::time::Duration;

use mio::Events;
use tokio::io::unix::AsyncFd;

/// Lets tokio watch the poll, so that this thread also accepts, and waits for the broker.
#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that lie about their descriptor; a mio::Poll owns its own"
)]
pub(super) fn watch(poll: mio::Poll) -> io::Result<AsyncFd<mio::Poll>> {
    AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)
}

/// Waits until a socket is ready and takes the events of those that are.
pub(super) async fn poll_sockets(
    poll: &mut AsyncFd<mio::Poll>,
    events: &mut Events,
) -> io::Result<()> {
    let mut ready = poll.readable_mut().await?;
    let result = ready.get_inner_mut().poll(events, Some(Duration::ZERO));
    // A full batch may not be all of them, so the poll stays ready. What becomes ready after this
    // is a new edge and sets it again.
    if result.is_ok() && events.iter().count() < EVENTS {
        ready.clear_ready();
    }
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        result => result,
    }
}

/// Sockets that one look at the poll tells of.
pub(super) const EVENTS: usize = 1024;
