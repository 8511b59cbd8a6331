//! What can go wrong, and what to do then.

use std::time::Duration;

use fanlight_proto::native::SUBPROTOCOL;
use fanlight_proto::{CloseReason, ReconnectAdvice};

/// Why a URL can't be connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL with a host.
    #[error("{url:?} is not a URL; write one as in ws://host:8080/ws")]
    Malformed {
        /// What was given.
        url: String,
    },
    /// `wss://`.
    #[error(
        "{url:?} needs TLS, which this client does not have yet; use ws:// to a proxy that has"
    )]
    Tls {
        /// What was given.
        url: String,
    },
    /// Neither `ws://` nor `wss://`.
    #[error("{url:?} is not a WebSocket URL; it must begin with ws://")]
    Scheme {
        /// What was given.
        url: String,
    },
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Nobody there, or not reachable.
    #[error("can't reach {address}: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// Not connected in time.
    #[error("{address} did not answer within {}s", timeout.as_secs_f32())]
    TimedOut {
        /// Host and port.
        address: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The handshake was answered with another status than 101.
    #[error("the server refused the connection: HTTP {status}{}", after_colon(detail))]
    Refused {
        /// The status.
        status: u16,
        /// The beginning of the answer's body.
        detail: String,
        /// What `Retry-After` says.
        retry_after: Option<Duration>,
    },
    /// The handshake was answered, but not as it must be.
    #[error("the server does not speak {SUBPROTOCOL}: {what}")]
    WrongProtocol {
        /// What was wrong.
        what: String,
    },
    /// The server closed the session.
    #[error("the server closed the session: {}", described(*code, reason))]
    Closed {
        /// The close code (RFC 6455 §7.4); 1005 where there was none.
        code: u16,
        /// The server's last error, or the close frame's reason.
        reason: String,
    },
    /// The connection ended without a goodbye.
    #[error("the connection was lost: {reason}")]
    Lost {
        /// What the system says.
        reason: String,
    },
    /// Nothing was heard for twice the heartbeat, not even an answer to a ping.
    #[error("nothing was heard for {}s", silence.as_secs_f32())]
    Silent {
        /// For how long.
        silence: Duration,
    },
    /// The server broke the protocol.
    #[error("the server broke the protocol: {what}")]
    Protocol {
        /// How.
        what: String,
    },
    /// The token callback failed.
    #[error("no token: {reason}")]
    NoToken {
        /// What the callback says.
        reason: String,
    },
    /// The client was closed or dropped.
    #[error("the client was closed")]
    ClosedHere,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The server refused it.
    #[error("refused ({code}): {message}")]
    Refused {
        /// A stable code to switch on.
        code: String,
        /// What is wrong and what to do, for people.
        message: String,
        /// When to try again.
        retry_after: Option<Duration>,
    },
    /// Not answered in time. It may have been done, unless the client was not connected.
    #[error("not answered within {}s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The connection was lost before the answer; it may have been done.
    #[error("the connection was lost before the answer, so it may or may not have been done")]
    ConnectionLost,
    /// The server answered with something else.
    #[error("the server gave an answer to another question")]
    Unexpected,
    /// There is a subscription to the same destination already, which has begun elsewhere, or
    /// whose messages are acknowledged.
    #[error(
        "there is a subscription to this already, so this one can't begin with its history or \
         have acknowledgements; drop the other one first"
    )]
    AlreadySubscribed,
    /// A message can't be acknowledged or given back, as this connection does not hold it, or no
    /// longer: it is done, or its subscription has ended, or it came on a former connection. What
    /// is not done is delivered again, to anybody.
    #[error("the message {id} is not held on this connection; what is not done comes again")]
    NotHeld {
        /// The first such message.
        id: String,
    },
    /// The client has ended.
    #[error("the client has ended: {0}")]
    Ended(LinkError),
    /// A body without a content type, or with that of JSON, is not JSON.
    #[error("the body is not JSON ({reason}); correct it, or give its content type")]
    NotJson {
        /// What the parser says.
        reason: String,
    },
}

/// Why a subscription has no message to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    /// So many messages came while the subscription's queue was full, and were dropped. Later
    /// ones follow.
    #[error("{0} messages were missed, because they were not received fast enough")]
    Missed(u64),
    /// Messages were missed while there was no connection, or by the server itself, and can't be
    /// had any more: fetch anew what they would have told. The reason is a stable code. Later
    /// ones follow.
    #[error("messages were lost ({0}); fetch the state anew")]
    Lost(String),
    /// No more will come.
    #[error("the subscription has ended: {0}")]
    Ended(String),
}

impl LinkError {
    /// Whether, and how, connecting anew would help.
    pub fn advice(&self) -> ReconnectAdvice {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Lost { .. }
            | Self::Silent { .. }
            | Self::NoToken { .. } => ReconnectAdvice::Reconnect,
            Self::Refused { status, .. } => match status {
                401 => ReconnectAdvice::RefreshToken,
                408 | 425 | 429 | 500..=599 => ReconnectAdvice::Reconnect,
                _ => ReconnectAdvice::Stop,
            },
            Self::Closed { code, .. } => close_code_advice(*code),
            Self::WrongProtocol { .. } | Self::Protocol { .. } | Self::ClosedHere => {
                ReconnectAdvice::Stop
            }
        }
    }
}

/// A known code's own advice; for others what their class says.
fn close_code_advice(code: u16) -> ReconnectAdvice {
    let known = CloseReason::ALL.into_iter().find(|reason| reason.websocket_code() == code);
    match (known, code) {
        (Some(reason), _) => reason.advice(),
        // Going away, no code, abnormal, service restart, try again, bad gateway; 44xx is ours.
        (None, 1001 | 1005 | 1006 | 1012..=1014 | 4400..=4499) => ReconnectAdvice::Reconnect,
        (None, _) => ReconnectAdvice::Stop,
    }
}

fn after_colon(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

fn described(code: u16, reason: &str) -> String {
    let known = CloseReason::ALL.into_iter().find(|reason| reason.websocket_code() == code);
    let name = known.map_or(String::new(), |reason| format!(" {reason}"));
    format!("{code}{name}{}", after_colon(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_a_close_code_tells_whether_to_reconnect() {
        use ReconnectAdvice::{Reconnect, RefreshToken, Stop};
        for (code, advice) in [
            (1000, Stop),
            (1001, Reconnect),
            (1002, Stop),
            (1005, Reconnect),
            (1006, Reconnect),
            (1009, Stop),
            (1011, Reconnect),
            (1012, Reconnect),
            (1013, Reconnect),
            (4408, Reconnect),
            (4499, Reconnect),
            (4501, RefreshToken),
            (4502, RefreshToken),
            (4503, Stop),
            (4599, Stop),
            (3000, Stop),
        ] {
            let closed = LinkError::Closed { code, reason: String::new() };
            assert_eq!(closed.advice(), advice, "{code}");
        }
    }
}
