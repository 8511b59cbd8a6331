//! The headers that a publication takes along, and those that no client may set.

use super::Fault;
use crate::limits::Limits;
use crate::publication::CELL_HEADER;

/// Whether a header is the server's own in MESSAGE, or ends at the server: receivers must be able
/// to trust the former, and must not see credentials. Neither case matters nor what stands around
/// the name, since clients exist that care for neither: `@stomp/stompjs` trims names, and in 1.0 a
/// colon or a line's end becomes a space. A name of nothing else is reserved too.
pub(crate) fn is_reserved(name: &str) -> bool {
    let is_trimmed = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '\u{feff}');
    let name = name.trim_matches(is_trimmed);
    name.is_empty() || RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// Checks a header that can't be left out without a word.
pub(super) fn check(name: &str, value: &str, limits: &Limits) -> Result<(), Fault> {
    if is_reserved(name) {
        return Err(Fault::reserved_header(name));
    }
    check_length(name, value, limits)
}

/// Checks that a header is no longer than a STOMP client could have sent it.
pub(super) fn check_length(name: &str, value: &str, limits: &Limits) -> Result<(), Fault> {
    if name.len() + value.len() > limits.header_bytes {
        return Err(Fault::header_too_long(limits.header_bytes));
    }
    Ok(())
}

const RESERVED: [&str; 32] = [
    "accept-version",
    "ack",
    "authorization",
    "code",
    "content-length",
    "content-type",
    "degraded",
    "delivery-count",
    "destination",
    "duplicate",
    "epoch",
    "event",
    "exclude-self",
    CELL_HEADER,
    "heart-beat",
    "idempotency-key",
    "last-event-id",
    "login",
    "lost",
    "message-id",
    "offset",
    "original-destination",
    "passcode",
    "reason",
    "receipt",
    "recovered",
    "redelivered",
    "session",
    "subscription",
    "token",
    "transaction",
    "user-name",
];
