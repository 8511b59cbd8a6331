//! The way to mailboxes: opening one at this worker, and asking one wherever it is.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use fanlight_engine::peers::{Holder, PeerError};
use fanlight_engine::registry::Handle;
use http::HeaderMap;
use tokio::sync::oneshot;

use super::{Station, door};
use crate::mail::{MailReply, MailRequest, Receive, Wish};
use crate::problem::Problem;
use crate::worker::{Inbox, MailboxOptions, Opened, Opening};

impl Station {
    /// Opens a mailbox at this worker; unclaimed and unattended it ends by itself.
    pub(super) async fn open(
        &self,
        peer: SocketAddr,
        headers: &HeaderMap,
        mailbox: MailboxOptions,
        opening: Opening,
    ) -> Result<Handle, Box<Problem>> {
        let admitted = door::admit(&self.node, peer, headers)?;
        let (reply, handle) = oneshot::channel();
        let opened = Opened { mailbox, opening, admitted, reply };
        self.worker.send(Inbox::Open(Box::new(opened))).await;
        handle.await.map_err(|_| Box::new(door::unavailable("draining", "this node has ended")))
    }

    /// Receives from the mailbox of `holder`. `None`: this thread ends, and nothing was received.
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
        let answer = self.node.peers.ask(holder, request.encode(), wait + PATIENCE).await?;
        Ok(MailReply::decode(answer).unwrap_or(MailReply::NotHere))
    }
}

/// The answer to who can't be served now.
pub(super) fn peers_failed(error: PeerError) -> Problem {
    door::unavailable("unavailable", &error.to_string())
}

/// How much longer than it was asked to wait a mailbox may take.
const PATIENCE: Duration = Duration::from_secs(5);
