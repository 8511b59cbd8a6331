//! The frames that a server sends ("Protocol and framing"), before a transport wraps them.

use super::{Close, quote};

/// The first frame of a session.
pub const OPEN: &[u8] = b"o";

/// What keeps an idle connection from being cut.
pub const HEARTBEAT: &[u8] = b"h";

/// Begins a frame of messages that are [`super::escape`]d rather than quoted, for those whose
/// messages are in pieces: `MESSAGES_BEGIN`, the messages with [`MESSAGES_BETWEEN`] between them,
/// [`MESSAGES_END`].
pub const MESSAGES_BEGIN: &[u8] = b"a[\"";

/// Comes between two escaped messages.
pub const MESSAGES_BETWEEN: &[u8] = b"\",\"";

/// Ends a frame of escaped messages.
pub const MESSAGES_END: &[u8] = b"\"]";

/// Appends a frame of messages, each as [`quote`] wrote it.
pub fn messages<I>(out: &mut Vec<u8>, quoted: I)
where
    I: IntoIterator,
    I::Item: AsRef<[u8]>,
{
    out.extend_from_slice(b"a[");
    for (at, message) in quoted.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(message.as_ref());
    }
    out.push(b']');
}

/// Appends a close frame, which the session repeats to every request that comes after.
pub fn close(out: &mut Vec<u8>, close: &Close) {
    out.extend_from_slice(format!("c[{},", close.code).as_bytes());
    quote(close.reason, out);
    out.push(b']');
}
