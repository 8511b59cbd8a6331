//! The bounds: the options, whose doc comments are the reference.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Size, Span, words};

/// Bounds on everything a client can make the gateway hold.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// The largest message from a client, uncompressed: "1MiB" at most,
    /// whatever transports are used, since SockJS is always there.
    pub message: Size,
    /// The largest message before the session is authenticated.
    pub pre_auth_frame: Size,
    /// Bytes that may wait for one slow client before it is closed; for one that comes by requests
    /// (SockJS, polls) at least one message's as they go, and at most "7.5MiB".
    pub outbox: Size,
    /// Messages that may wait for one slow client before it is closed.
    pub outbox_frames: u32,
    /// What each worker may keep for namespaces with `conflate`: the latest message of each key,
    /// once for all subscribers. What has no room goes as where nothing is conflated.
    pub conflation: Size,
    /// How long a client may take nothing of what waits for it.
    pub send_time: Span,
    /// How long a client may take from the connection to a successful CONNECT.
    pub connect_time: Span,
    /// How long a client may take to send the head of an HTTP request.
    pub request_head_time: Span,
    /// How long a client may take to send the body of an HTTP request.
    pub request_body_time: Span,
    /// Subscriptions of one session.
    pub subscriptions: u32,
    /// Sessions of one user, in the whole cluster. 0: no limit. Sessions without a user are not
    /// limited.
    pub sessions_per_user: u32,
    /// Revocations of tokens and users that are stored, in the whole cluster; each takes some 200
    /// bytes of every node.
    pub revocations: u32,
    /// What gives way to a session too many: `"kick_oldest"` ends the user's oldest one,
    /// `"reject"` refuses the new one.
    pub on_session_limit: OnSessionLimit,
    /// Connections of this node. 0: no limit but the open files.
    pub connections: u32,
    /// Connections of one IP address (for IPv6, of one /64) to this node. 0: no limit. Behind a
    /// load balancer, set `listen.trusted_proxies` too, or all clients count as one.
    pub connections_per_ip: u32,
    /// Connections of this node that speak HTTP: that have not become a WebSocket, or never will.
    /// `connections_per_ip` bounds these too, apart from the others. 0: no limit but the open
    /// files.
    pub http_connections: u32,
    /// Requests and sessions that one HTTP/2 connection may carry at a time. Each counts like a
    /// connection of its own towards `http_connections` or `connections`, and `connections_per_ip`.
    pub http2_streams: u32,
    /// Handshakes per second that this node admits, in the long run, on all its ways in. Whoever is
    /// one too many is told when to come back, each at another time. 0: no limit.
    pub handshakes_per_second: u32,
    /// Handshakes that this node admits at once. Keep it at twice the rate or more: who comes back
    /// does so on a whole second.
    pub handshakes_burst: u32,
    /// Handshakes per second that this node admits of one IP address (for IPv6, of one /64), in the
    /// long run. 0: no limit. Addresses in `listen.trusted_proxies` are not limited.
    pub handshakes_per_second_per_ip: u32,
    /// Handshakes that this node admits of one IP address at once. Keep it at twice
    /// `connections_per_ip` or more: all of them may have to come back at once.
    pub handshakes_burst_per_ip: u32,
    /// Handshakes per second that this node admits of one user, in the long run. 0: no limit.
    pub handshakes_per_second_per_user: u32,
    /// Handshakes that this node admits of one user at once. Keep it at twice `sessions_per_user`
    /// or more.
    pub handshakes_burst_per_user: u32,
    /// Messages per second that one session may send, in the long run. 0: no limit.
    pub messages_per_second: u32,
    /// Messages that one session may send at once.
    pub message_burst: u32,
    /// Everything else that one session may ask for per second, in the long run. 0: no limit.
    pub commands_per_second: u32,
    /// Everything else that one session may ask for at once: connecting again, a client
    /// subscribes to all it had.
    pub command_burst: u32,
    /// Headers of one STOMP frame.
    pub headers: u32,
    /// The longest header line of a STOMP frame.
    pub header: Size,
    /// STOMP transactions that a session may have open.
    pub transactions: u32,
    /// Frames in one STOMP transaction.
    pub transaction_frames: u32,
    /// Bytes in one STOMP transaction.
    pub transaction: Size,
}

words! {
    /// What gives way to a session too many.
    OnSessionLimit {
        /// The user's oldest session.
        KickOldest = "kick_oldest",
        /// The new session.
        Reject = "reject",
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: Size::kib(64),
            pre_auth_frame: Size::kib(8),
            outbox: Size::kib(512),
            outbox_frames: 4096,
            conflation: Size::kib(16 * 1024),
            send_time: Span::seconds(10),
            connect_time: Span::seconds(10),
            request_head_time: Span::seconds(10),
            request_body_time: Span::seconds(30),
            subscriptions: 128,
            sessions_per_user: 20,
            revocations: 100_000,
            on_session_limit: OnSessionLimit::KickOldest,
            connections: 0,
            connections_per_ip: 100,
            http_connections: 16_384,
            http2_streams: 128,
            handshakes_per_second: 2000,
            handshakes_burst: 4000,
            handshakes_per_second_per_ip: 50,
            handshakes_burst_per_ip: 200,
            handshakes_per_second_per_user: 10,
            handshakes_burst_per_user: 40,
            messages_per_second: 50,
            message_burst: 100,
            commands_per_second: 100,
            command_burst: 400,
            headers: 64,
            header: Size::kib(8),
            transactions: 8,
            transaction_frames: 64,
            transaction: Size::kib(256),
        }
    }
}
