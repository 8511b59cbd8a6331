//! The metrics of the peers, `fanlight_peer_*`.

use fanlight_engine::peers::{Claim, PeerError};
use metrics::{counter, gauge};

use crate::meters::amount;

pub(super) fn claimed(result: &Result<Claim, PeerError>) {
    let result = match result {
        Ok(Claim::Ours(_)) => "ours",
        Ok(Claim::TakenOver(_)) => "taken_over",
        Ok(Claim::Theirs(_)) => "theirs",
        Err(_) => "unavailable",
    };
    counter!("fanlight_peer_claims_total", "result" => result).increment(1);
}

pub(super) fn claims(count: usize) {
    gauge!("fanlight_peer_claims").set(amount(count));
}

pub(super) fn lost(count: usize) {
    if count > 0 {
        counter!("fanlight_peer_claims_lost_total").increment(count as u64);
    }
}

/// What an ask of this node came to; `None`: it was given up.
pub(super) fn asked(result: Option<Result<(), PeerError>>) {
    let result = match result {
        Some(Ok(())) => "answered",
        Some(Err(PeerError::Unavailable)) => "unavailable",
        Some(Err(PeerError::Gone)) => "gone",
        Some(Err(PeerError::Timeout)) => "timeout",
        Some(Err(PeerError::TooLarge)) => "too_large",
        Some(Err(PeerError::Overloaded)) => "overloaded",
        None => "cancelled",
    };
    counter!("fanlight_peer_asks_total", "result" => result).increment(1);
}

pub(super) fn pending(count: usize) {
    gauge!("fanlight_peer_asks_pending").set(amount(count));
}

pub(super) fn answering(count: usize) {
    gauge!("fanlight_peer_requests_pending").set(amount(count));
}

pub(super) fn dropped(reason: &'static str) {
    counter!("fanlight_peer_messages_dropped_total", "reason" => reason).increment(1);
}
