//! Joins a stream of HTTP/2, which is no socket, to a worker, which polls sockets only: a pair
//! of sockets stands between, and one thin task carries bytes both ways.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::descriptors::Allowance;

/// The task's side of a socket pair.
#[derive(Debug)]
pub struct Bridge(UnixStream);

/// A socket pair: what the worker takes for its connection's socket, and the bridge from it.
pub fn pair() -> io::Result<(TcpStream, Bridge)> {
    let (worker, task) = StdUnixStream::pair()?;
    if !Allowance::AllButSpare.covers(&worker) || !Allowance::AllButSpare.covers(&task) {
        return Err(io::Error::other("its file descriptors would be among the last"));
    }
    worker.set_nonblocking(true)?;
    task.set_nonblocking(true)?;
    // What waits for a slow peer is to wait in its outbox, where it is bounded and seen.
    for socket in [SockRef::from(&worker), SockRef::from(&task)] {
        socket.set_send_buffer_size(SOCKET_BYTES)?;
    }
    // All that a worker does with a socket, any stream socket can.
    let worker = TcpStream::from(OwnedFd::from(worker));
    Ok((worker, Bridge(UnixStream::from_std(task)?)))
}

impl Bridge {
    /// Carries bytes between `peer` and the worker until either has ended. What the worker has
    /// written before its end still goes out; a peer that takes nothing for `patience` is given up.
    pub async fn carry<S: AsyncRead + AsyncWrite>(self, peer: S, patience: Duration) {
        let (from_peer, to_peer) = tokio::io::split(peer);
        let (from_worker, to_worker) = self.0.into_split();
        let mut inward = std::pin::pin!(carry_one_way(from_peer, to_worker, None));
        let mut outward = std::pin::pin!(carry_one_way(from_worker, to_peer, Some(patience)));
        tokio::select! {
            // The worker has ended, or the peer does not read. The peer may still end by itself:
            // cut at once, what it sends meanwhile would make a reset that overtakes the last words.
            () = &mut outward => {
                let _ = timeout(LINGER, inward).await;
            }
            // The peer has ended. The worker has learned that, and ends once it has said its last.
            () = &mut inward => outward.await,
        }
    }

    /// What the worker writes, until it ends. Dropped, it ends the worker.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        let Self(mut socket) = self;
        futures_util::stream::poll_fn(move |context| {
            poll_some(&mut socket, context).map(Result::transpose)
        })
    }
}

/// Copies until the end of `from`, which is then that of `to` too, or until `to` takes nothing for
/// `patience`. Without it, `to` may take all the time it wants.
async fn carry_one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    patience: Option<Duration>,
) {
    while let Ok(Some(bytes)) = poll_fn(|context| poll_some(&mut from, context)).await {
        let written = async {
            to.write_all(&bytes).await?;
            to.flush().await
        };
        if !is_done(written, patience).await {
            return;
        }
    }
    is_done(to.shutdown(), patience).await;
}

/// What `from` has; `None` at its end. Until it has something, there is no buffer for it.
fn poll_some(
    from: &mut (impl AsyncRead + Unpin),
    context: &mut Context<'_>,
) -> Poll<io::Result<Option<Bytes>>> {
    let mut buffer = [const { MaybeUninit::uninit() }; BUFFER_BYTES];
    let mut buffer = ReadBuf::uninit(&mut buffer);
    ready!(Pin::new(from).poll_read(context, &mut buffer))?;
    let bytes = buffer.filled();
    Poll::Ready(Ok((!bytes.is_empty()).then(|| Bytes::copy_from_slice(bytes))))
}

async fn is_done(step: impl Future<Output = io::Result<()>>, patience: Option<Duration>) -> bool {
    match patience {
        Some(patience) => matches!(timeout(patience, step).await, Ok(Ok(()))),
        None => step.await.is_ok(),
    }
}

const BUFFER_BYTES: usize = 16 * 1024;
/// How much the kernel keeps of what was written and not read.
const SOCKET_BYTES: usize = 32 * 1024;
/// How long a peer has to end after the worker has.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    /// A worker's blocking socket, the peer's stream, and the task between them.
    fn bridged() -> (TcpStream, tokio::io::DuplexStream, impl Future<Output = ()>) {
        let (worker, bridge) = pair().unwrap();
        worker.set_nonblocking(false).unwrap();
        let (peer, outer) = duplex(64);
        (worker, peer, bridge.carry(outer, PATIENCE))
    }

    #[tokio::test]
    async fn the_end_of_the_peer_ends_the_worker_which_may_still_say_its_last() {
        let (mut worker, mut peer, carried) = bridged();
        let side = async {
            peer.write_all(b"hello").await.unwrap();
            peer.shutdown().await.unwrap();
            let said = tokio::task::spawn_blocking(move || {
                let mut heard = String::new();
                worker.read_to_string(&mut heard).unwrap();
                worker.write_all(b"goodbye").unwrap();
                heard
            });
            assert_eq!(said.await.unwrap(), "hello");
            let mut heard = String::new();
            peer.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "goodbye");
        };
        tokio::join!(side, carried);
    }

    #[tokio::test]
    async fn the_end_of_the_worker_ends_a_peer_that_stays_silent() {
        let (mut worker, mut peer, carried) = bridged();
        let side = async {
            worker.write_all(b"goodbye").unwrap();
            drop(worker);
            let mut heard = String::new();
            peer.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "goodbye");
        };
        tokio::join!(side, carried);
        // The other half had been left open.
        assert!(peer.write_all(&[0; 1000]).await.is_err());
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (mut worker, _peer, carried) = bridged();
        worker.write_all(&[0; 1000]).unwrap();
        carried.await;
        let mut rest = Vec::new();
        assert!(worker.read_to_end(&mut rest).is_ok());
    }
}
