//! How a session's end is told to a SockJS client.

use crate::close::CloseReason;

/// A code and a reason, which become those of the client's close event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// The code.
    pub code: u16,
    /// The reason.
    pub reason: &'static str,
}

impl Close {
    /// A receiving connection ended without the server's doing, so that messages may be lost; also
    /// for a session whose node is gone.
    pub const INTERRUPTED: Self = Self { code: 1002, reason: "Connection interrupted" };

    /// The session has a receiving connection already. Only the new connection is told; the session
    /// goes on.
    pub const ANOTHER_CONNECTION: Self =
        Self { code: 2010, reason: "Another connection still open" };

    /// The server ended the session; what the protocol's `close` test service says.
    pub const GO_AWAY: Self = Self { code: 3000, reason: "Go away!" };

    /// The client ended the session.
    pub const NORMAL: Self = Self { code: 1000, reason: "Normal closure" };
}

/// The codes are those of a WebSocket, the reasons those of every other protocol, except where SockJS
/// has words of its own.
impl From<CloseReason> for Close {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::ClientClosed => Self::NORMAL,
            // 1006 is what a client says when no server told it anything.
            CloseReason::ConnectionLost => Self::INTERRUPTED,
            _ => Self { code: reason.websocket_code(), reason: reason.code() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockjs::frame;

    #[test]
    fn every_reason_to_close_has_a_frame() {
        for (reason, expected) in [
            (CloseReason::ClientClosed, r#"c[1000,"Normal closure"]"#),
            (CloseReason::ConnectionLost, r#"c[1002,"Connection interrupted"]"#),
            (CloseReason::ProtocolError, r#"c[1002,"protocol_error"]"#),
            (CloseReason::Draining, r#"c[1012,"draining"]"#),
            (CloseReason::TokenExpired, r#"c[4501,"token_expired"]"#),
        ] {
            let mut out = Vec::new();
            frame::close(&mut out, &reason.into());
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn no_two_reasons_to_close_look_alike() {
        let closes = CloseReason::ALL.map(Close::from);
        for (at, close) in closes.iter().enumerate() {
            assert!(!closes[..at].contains(close), "{close:?}");
        }
    }
}
