//! The way to mailboxes: opening one at this worker, and asking one wherever it is.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use fanlight_engine::peers::{Holder, PeerError};
use fanlight_engine::registry::Handle;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Station, door};
use crate::admission::Admitted;
use crate::mail::{MailReply, MailRequest, Receive, Wish};
use crate::problem::Problem;
use crate::worker::{Inbox, MailboxOptions, Opened, Opening};

impl Station {
    /// A place for the session of a mailbox that is about to be opened; who gets none is counted.
    pub(super) fn admit(
        &self,
        peer: SocketAddr,
        headers: &HeaderMap,
    ) -> Result<Admitted, Box<Problem>> {
        door::admit(&self.node, peer, headers)
            .inspect_err(|problem| door::count_session(problem.code()))
    }

    /// Opens a mailbox at this worker; unclaimed and unattended it ends by itself.
    pub(super) async fn open(
        &self,
        admitted: Admitted,
        mailbox: MailboxOptions,
        opening: Opening,
    ) -> Result<Handle, Box<Problem>> {
        let (reply, handle) = oneshot::channel();
        let opened = Opened { mailbox, opening, admitted, reply };
        self.worker.send(Inbox::Open(Box::new(opened))).await;
        let handle = handle.await.map_err(|_| door::unavailable("draining", "this node has ended"));
        door::count_session(handle.as_ref().map_or_else(Problem::code, |_| "accepted"));
        Ok(handle?)
    }

    /// Refuses a poll that would wait for the mailbox of `holder` where that is another node's and
    /// this one's sessions leave: a proxy that prefers the node with the fewest connections would
    /// bring all polls here, to be sent on at once when this node ends.
    pub(super) fn may_wait(&self, holder: &Holder) -> Result<(), Box<Problem>> {
        if self.node.leaving.is_cancelled() && !self.node.holds(holder) {
            return Err(ask_another().into());
        }
        Ok(())
    }

    /// Receives from the mailbox of `holder`. `None`: this node leaves, and nothing was received.
    pub(super) async fn receive(
        &self,
        holder: &Holder,
        caller: Option<Box<str>>,
        receive: Receive,
    ) -> Option<Result<MailReply, PeerError>> {
        let (receiver, wait) = (receive.receiver, Duration::from_millis(receive.wait_ms.into()));
        let request = MailRequest { caller: caller.clone(), what: Wish::Receive(receive) };
        let mut answer = pin!(self.ask(holder, request, wait));
        tokio::select! {
            answer = &mut answer => return Some(answer),
            () = self.ending.cancelled() => {}
            () = self.node.parting(), if !self.node.holds(holder) => {}
        }
        // It may have answered already, and then the answer is on its way: it must not be lost.
        let leave = MailRequest { caller, what: Wish::Leave { receiver, is_lost: false } };
        let _ = self.ask(holder, leave, Duration::ZERO).await;
        answer.await.ok().filter(|reply| *reply != MailReply::NotHere).map(Ok)
    }

    /// Asks the mailbox of `holder`, which may take `wait` for its answer.
    pub(super) async fn ask(
        &self,
        holder: &Holder,
        request: MailRequest,
        wait: Duration,
    ) -> Result<MailReply, PeerError> {
        let (peers, request) = (&self.node.peers, request.encode());
        let ask = || peers.ask(holder, request.clone(), wait + PATIENCE);
        let answer = through_outage(ask).await?;
        Ok(MailReply::decode(answer).unwrap_or(MailReply::NotHere))
    }
}

/// Tries again while nothing was done because Redis can't be reached: so a failover costs the
/// clients that come by requests a pause, as it does those that are connected.
pub(super) async fn through_outage<T>(
    mut attempt: impl FnMut() -> BoxFuture<'static, Result<T, PeerError>>,
) -> Result<T, PeerError> {
    let until = Instant::now() + OUTAGE_TIME;
    loop {
        match attempt().await {
            Err(PeerError::Unavailable) if Instant::now() < until => {
                tokio::time::sleep(OUTAGE_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// The answer to who waits better at another node, as this one leaves.
pub(super) fn ask_another() -> Problem {
    door::unavailable("draining", "this node is draining; ask again, another")
}

/// The answer to who can't be served now.
pub(super) fn peers_failed(error: PeerError) -> Problem {
    door::unavailable("unavailable", &error.to_string())
}

/// How much longer than it was asked to wait a mailbox may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest outage that a request waits for.
const OUTAGE_TIME: Duration = Duration::from_secs(4);
const OUTAGE_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_was_surely_not_done_is_tried_again_and_only_for_a_short_outage() {
        for (error, is_tried_again) in [
            (PeerError::Unavailable, true),
            (PeerError::Gone, false),
            (PeerError::Timeout, false),
            (PeerError::Overloaded, false),
        ] {
            let (begun, tries) = (Instant::now(), Cell::new(0));
            let fails = || {
                tries.set(tries.get() + 1);
                async move { Err::<(), _>(error) }.boxed()
            };
            assert_eq!(through_outage(fails).await, Err(error));
            assert_eq!(tries.get() > 1, is_tried_again, "{error}");
            assert!(begun.elapsed() <= OUTAGE_TIME + OUTAGE_PAUSE);
        }
        let mut left = 3;
        let recovers = || {
            left -= 1;
            let result = if left == 0 { Ok(7) } else { Err(PeerError::Unavailable) };
            async move { result }.boxed()
        };
        assert_eq!(through_outage(recovers).await, Ok(7));
    }
}
