//! The headers that a publication takes along, and those that no client may set.

use super::Fault;
use crate::limits::Limits;

/// Whether a header is the server's own in MESSAGE, or ends at the server: receivers must be able
/// to trust the former, and must not see credentials. Case does not matter, to be safe with
/// clients that do not care for it.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// Checks a header that can't be left out without a word.
pub(super) fn check(name: &str, value: &str, limits: &Limits) -> Result<(), Fault> {
    if is_reserved(name) || name.is_empty() {
        return Err(Fault::reserved_header(name));
    }
    if name.len() + value.len() > limits.header_bytes {
        return Err(Fault::header_too_long(limits.header_bytes));
    }
    Ok(())
}

const RESERVED: [&str; 21] = [
    "accept-version",
    "ack",
    "authorization",
    "code",
    "content-length",
    "content-type",
    "degraded",
    "destination",
    "epoch",
    "heart-beat",
    "login",
    "message-id",
    "offset",
    "passcode",
    "receipt",
    "recovered",
    "redelivered",
    "session",
    "subscription",
    "transaction",
    "user-name",
];
