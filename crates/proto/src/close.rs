//! Why a session ends: one closed list, mapped to every protocol's own terms.

use std::fmt;

/// Why a session ended (design invariant 7).
///
/// Each reason has one WebSocket close code, one error code that STOMP's ERROR and the native
/// `error` carry, one metric label and one piece of reconnect advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client said goodbye: DISCONNECT, or a WebSocket close frame.
    ClientClosed,
    /// The connection ended without a goodbye.
    ConnectionLost,
    /// This node is draining; another one takes over.
    Draining,
    /// This node has more sessions than others; one of them takes over.
    Rebalanced,
    /// A frame broke its protocol's rules.
    ProtocolError,
    /// A text message was not UTF-8 (RFC 6455 §8.1).
    InvalidUtf8,
    /// A message or frame exceeded its size limit.
    TooLarge,
    /// The first message was in no protocol spoken here.
    UnknownProtocol,
    /// No protocol version in common.
    UnsupportedVersion,
    /// The token was missing, malformed, or refused.
    Unauthorized,
    /// The token expired and was not refreshed in time.
    TokenExpired,
    /// The token was revoked, or all that its user had been given.
    Revoked,
    /// The policy refused a SEND or SUBSCRIBE and is configured to close.
    Forbidden,
    /// No CONNECT within the time for it.
    ConnectTimeout,
    /// Nothing heard for longer than the heartbeat contract allows.
    HeartbeatTimeout,
    /// The outbox exceeded its bytes or frames.
    SlowConsumer,
    /// Nothing could be written for longer than the send time.
    SendTimeout,
    /// The session's message rate was exceeded.
    RateLimited,
    /// A subscription, header or transaction limit was exceeded.
    LimitExceeded,
    /// Removed by an operator or by the cluster.
    Disconnected,
    /// The user has as many sessions as allowed, and the limit refuses further ones.
    SessionLimit,
    /// A newer session of the same user took its place under the limit.
    Replaced,
    /// A service behind this node did not answer.
    Unavailable,
    /// A fault of ours.
    Internal,
}

/// What a client should do after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconnectAdvice {
    /// Reconnect with the client's usual, jittered backoff.
    Reconnect,
    /// Fetch a new token, then reconnect.
    RefreshToken,
    /// Reconnecting would only repeat the failure.
    Stop,
}

impl CloseReason {
    /// Every reason, for tables and metric registration.
    pub const ALL: [Self; 24] = [
        Self::ClientClosed,
        Self::ConnectionLost,
        Self::Draining,
        Self::Rebalanced,
        Self::ProtocolError,
        Self::InvalidUtf8,
        Self::TooLarge,
        Self::UnknownProtocol,
        Self::UnsupportedVersion,
        Self::Unauthorized,
        Self::TokenExpired,
        Self::Revoked,
        Self::Forbidden,
        Self::ConnectTimeout,
        Self::HeartbeatTimeout,
        Self::SlowConsumer,
        Self::SendTimeout,
        Self::RateLimited,
        Self::LimitExceeded,
        Self::Disconnected,
        Self::SessionLimit,
        Self::Replaced,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The WebSocket close code (RFC 6455 §7.4).
    ///
    /// Reasons of the application's own are 44xx where reconnecting helps as it is, and 45xx where
    /// the client must change something first, so that an unknown code still tells what to do.
    pub const fn websocket_code(self) -> u16 {
        match self {
            Self::ClientClosed => 1000,
            Self::ConnectionLost => 1006,
            Self::ProtocolError => 1002,
            Self::UnknownProtocol => 1003,
            Self::InvalidUtf8 => 1007,
            Self::TooLarge => 1009,
            Self::Internal => 1011,
            Self::Draining => 1012,
            Self::Unavailable => 1013,
            Self::Rebalanced => 4412,
            Self::HeartbeatTimeout => 4408,
            Self::SlowConsumer => 4413,
            Self::SendTimeout => 4414,
            Self::RateLimited => 4429,
            Self::TokenExpired => 4501,
            Self::Unauthorized => 4502,
            Self::Forbidden => 4503,
            Self::UnsupportedVersion => 4505,
            Self::ConnectTimeout => 4508,
            Self::LimitExceeded => 4509,
            Self::Disconnected => 4510,
            Self::SessionLimit => 4511,
            Self::Replaced => 4512,
            Self::Revoked => 4513,
        }
    }

    /// The stable code that clients switch on and that labels the metric.
    pub fn code(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ConnectionLost => "connection_lost",
            Self::Draining => "draining",
            Self::Rebalanced => "rebalanced",
            Self::ProtocolError => "protocol_error",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::TooLarge => "too_large",
            Self::UnknownProtocol => "unknown_protocol",
            Self::UnsupportedVersion => "unsupported_version",
            Self::Unauthorized => "unauthorized",
            Self::TokenExpired => "token_expired",
            Self::Revoked => "revoked",
            Self::Forbidden => "forbidden",
            Self::ConnectTimeout => "connect_timeout",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::SlowConsumer => "slow_consumer",
            Self::SendTimeout => "send_timeout",
            Self::RateLimited => "rate_limited",
            Self::LimitExceeded => "limit_exceeded",
            Self::Disconnected => "disconnected",
            Self::SessionLimit => "session_limit",
            Self::Replaced => "replaced",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// What the client should do next.
    pub fn advice(self) -> ReconnectAdvice {
        match self {
            Self::ConnectionLost
            | Self::Draining
            | Self::Rebalanced
            | Self::HeartbeatTimeout
            | Self::SlowConsumer
            | Self::SendTimeout
            | Self::RateLimited
            | Self::Unavailable
            | Self::Internal => ReconnectAdvice::Reconnect,
            Self::TokenExpired | Self::Unauthorized | Self::Revoked => {
                ReconnectAdvice::RefreshToken
            }
            Self::ClientClosed
            | Self::ProtocolError
            | Self::InvalidUtf8
            | Self::TooLarge
            | Self::UnknownProtocol
            | Self::UnsupportedVersion
            | Self::Forbidden
            | Self::ConnectTimeout
            | Self::LimitExceeded
            | Self::Disconnected
            | Self::SessionLimit
            | Self::Replaced => ReconnectAdvice::Stop,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_a_code_and_a_websocket_code_of_its_own() {
        let codes: HashSet<_> = CloseReason::ALL.iter().map(|r| r.code()).collect();
        let websocket: HashSet<_> = CloseReason::ALL.iter().map(|r| r.websocket_code()).collect();
        assert_eq!(codes.len(), CloseReason::ALL.len());
        assert_eq!(websocket.len(), CloseReason::ALL.len());
    }

    #[test]
    fn an_application_code_tells_by_its_class_whether_to_reconnect() {
        for reason in CloseReason::ALL {
            match reason.websocket_code() {
                4400..=4499 => assert_eq!(reason.advice(), ReconnectAdvice::Reconnect, "{reason}"),
                4500..=4599 => assert_ne!(reason.advice(), ReconnectAdvice::Reconnect, "{reason}"),
                _ => {}
            }
        }
    }
}
