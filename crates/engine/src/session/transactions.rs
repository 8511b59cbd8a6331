//! STOMP transactions: sends, ACKs and NACKs that wait for their COMMIT, bounded in number and bytes.

use std::collections::VecDeque;

use super::Fault;
use super::live::{Outgoing, Sending};
use super::queue::Verdict;
use crate::app::AppMessage;
use crate::limits::Limits;

/// The open transactions of a session.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: Vec<Transaction>,
    bytes: usize,
}

#[derive(Debug)]
struct Transaction {
    id: Box<str>,
    sends: VecDeque<Sending>,
    verdicts: Vec<Verdict>,
    bytes: usize,
}

impl Transactions {
    pub(super) fn begin(&mut self, id: &str, limits: &Limits) -> Result<(), Fault> {
        if self.contains(id) {
            return Err(Fault::transaction_exists());
        }
        if self.open.len() >= limits.transactions {
            return Err(Fault::too_many_transactions(limits.transactions));
        }
        self.open.push(Transaction {
            id: id.into(),
            sends: VecDeque::new(),
            verdicts: Vec::new(),
            bytes: 0,
        });
        Ok(())
    }

    /// Adds a send.
    pub(super) fn add(&mut self, id: &str, send: Sending, limits: &Limits) -> Result<(), Fault> {
        let bytes = size_of_send(&send);
        self.room(id, bytes, limits)?.sends.push_back(send);
        Ok(())
    }

    /// Adds an ACK or NACK.
    pub(super) fn add_verdict(
        &mut self,
        id: &str,
        verdict: Verdict,
        limits: &Limits,
    ) -> Result<(), Fault> {
        let bytes = size_of::<Verdict>() + verdict.subscription.as_deref().map_or(0, str::len);
        self.room(id, bytes, limits)?.verdicts.push(verdict);
        Ok(())
    }

    /// The transaction, if it has room for one frame more, of so many bytes.
    fn room(&mut self, id: &str, bytes: usize, limits: &Limits) -> Result<&mut Transaction, Fault> {
        if self.bytes + bytes > limits.transaction_bytes {
            return Err(Fault::transaction_too_large(limits.transaction_bytes, "bytes"));
        }
        let found = self.open.iter_mut().find(|transaction| *transaction.id == *id);
        let transaction = found.ok_or_else(Fault::no_transaction)?;
        if transaction.sends.len() + transaction.verdicts.len() >= limits.transaction_frames {
            return Err(Fault::transaction_too_large(limits.transaction_frames, "frames"));
        }
        transaction.bytes += bytes;
        self.bytes += bytes;
        Ok(transaction)
    }

    /// Ends a transaction; its sends and its ACKs and NACKs, each in order.
    pub(super) fn end(&mut self, id: &str) -> Result<(VecDeque<Sending>, Vec<Verdict>), Fault> {
        let at = self.open.iter().position(|transaction| *transaction.id == *id);
        let transaction = self.open.swap_remove(at.ok_or_else(Fault::no_transaction)?);
        self.bytes -= transaction.bytes;
        Ok((transaction.sends, transaction.verdicts))
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.open.iter().any(|transaction| *transaction.id == *id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// What a send takes in memory.
fn size_of_send(send: &Sending) -> usize {
    let (own, destination, body, content_type, headers, key) = match send {
        Sending::Publication(Outgoing { publication, key, .. }) => (
            size_of::<Outgoing>(),
            &publication.destination,
            &publication.body,
            &publication.content_type,
            &publication.headers,
            key.as_ref().map_or(0, |key| key.text.len()),
        ),
        Sending::App(message) => (
            size_of::<AppMessage>(),
            message.destination(),
            &message.body,
            &message.content_type,
            &message.headers,
            message.key.as_ref().map_or(0, |key| key.len()),
        ),
    };
    let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    let content_type = content_type.as_str().map_or(0, str::len);
    own + key + body.len() + content_type + destination.as_str().len() + headers
}
