//! A client of SockJS that comes to another node with each request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::http::{Response, Stream, With, ask};
use crate::support::{Gateway, PATIENCE};

/// How a [`Session`] receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Polling,
    Streaming,
}

/// A session by requests.
pub struct Session {
    nodes: Vec<SocketAddr>,
    turn: usize,
    pub path: String,
    authorization: Option<String>,
    how: How,
    stream: Option<Stream>,
    /// Messages received and not taken.
    messages: std::collections::VecDeque<String>,
}

impl Session {
    /// One that is not open yet, of whoever has this token.
    pub fn new(nodes: &[&Gateway], token: Option<&str>, how: How) -> Self {
        Self::among(nodes.iter().map(|node| node.public).collect(), token, how)
    }

    /// The same at this node only.
    pub fn at(node: SocketAddr, token: &str, how: How) -> Self {
        Self::among(vec![node], Some(token), how)
    }

    fn among(nodes: Vec<SocketAddr>, token: Option<&str>, how: How) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            turn: number as usize % nodes.len(),
            nodes,
            path: format!("/sockjs/000/session-{number}"),
            authorization: token.map(|token| format!("Bearer {token}")),
            how,
            stream: None,
            messages: std::collections::VecDeque::new(),
        }
    }

    /// The same, open.
    pub async fn open(nodes: &[&Gateway], token: Option<&str>, how: How) -> Self {
        let mut session = Self::new(nodes, token, how);
        assert_eq!(session.frame().await, "o");
        session
    }

    /// The same, with STOMP spoken in it.
    pub async fn stomp(nodes: &[&Gateway], token: &str, how: How) -> Self {
        let mut session = Self::open(nodes, Some(token), how).await;
        session.send("CONNECT\naccept-version:1.2\nheart-beat:0,0\n\n\0").await;
        session.expect("CONNECTED\n").await;
        session
    }

    /// Another client that says it is the same session.
    pub fn twin(&self, token: Option<&str>) -> Self {
        Self {
            nodes: self.nodes.clone(),
            turn: self.turn,
            path: self.path.clone(),
            authorization: token.map(|token| format!("Bearer {token}")),
            how: self.how,
            stream: None,
            messages: std::collections::VecDeque::new(),
        }
    }

    /// Where the next request goes.
    pub fn node(&mut self) -> SocketAddr {
        self.turn += 1;
        self.nodes[self.turn % self.nodes.len()]
    }

    /// From now on it goes to these.
    pub fn move_to(&mut self, nodes: &[&Gateway]) {
        self.nodes = nodes.iter().map(|node| node.public).collect();
    }

    /// POSTs to one of the session's resources.
    pub async fn post(&mut self, resource: &str, body: &str) -> Response {
        let (node, target) = (self.node(), format!("{}/{resource}", self.path));
        let authorization = self.authorization.clone();
        let headers: Vec<_> =
            authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        ask(node, "POST", &target, With { headers: &headers, body }).await
    }

    /// Begins a response that carries frames, behind its prelude.
    async fn begin_stream(&mut self) -> Stream {
        let (node, target) = (self.node(), format!("{}/xhr_streaming", self.path));
        let authorization = self.authorization.clone();
        let headers: Vec<_> =
            authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        let with = With { headers: &headers, body: "" };
        let mut stream = Stream::open(node, "POST", &target, with).await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.until("\n").await, Some("h".repeat(2048)));
        stream
    }

    /// From now on it receives so.
    pub fn receive_by(&mut self, how: How) {
        self.how = how;
    }

    /// The next frame.
    pub async fn frame(&mut self) -> String {
        if self.how == How::Polling {
            let response = self.post("xhr", "").await;
            assert_eq!(response.status, 200, "{response:?}");
            return response.body.strip_suffix('\n').unwrap().to_owned();
        }
        loop {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => self.begin_stream().await,
            };
            if let Some(frame) = stream.until("\n").await {
                self.stream = Some(stream);
                return frame;
            }
        }
    }

    /// Sends messages.
    pub async fn send_all(&mut self, messages: &[&str]) {
        let body = serde_json::to_string(messages).unwrap();
        let response = self.post("xhr_send", &body).await;
        assert_eq!((response.status, &*response.body), (204, ""), "{response:?}");
    }

    /// Sends a message.
    pub async fn send(&mut self, message: &str) {
        self.send_all(&[message]).await;
    }

    /// The next message.
    pub async fn message(&mut self) -> String {
        let begun = Instant::now();
        loop {
            if let Some(message) = self.messages.pop_front() {
                return message;
            }
            let frame = self.frame().await;
            if let Some(array) = frame.strip_prefix('a') {
                self.messages.extend(serde_json::from_str::<Vec<String>>(array).unwrap());
            } else {
                assert_eq!(frame, "h", "a message was expected");
                assert!(begun.elapsed() < 2 * PATIENCE, "no message comes");
            }
        }
    }

    /// The next message, which must contain `part`.
    pub async fn expect(&mut self, part: &str) -> String {
        let message = self.message().await;
        assert!(message.contains(part), "{part:?} was expected, not {message:?}");
        message
    }

    /// The next frame that is no heartbeat, when no message is left: the end.
    pub async fn close_frame(&mut self) -> String {
        assert!(self.messages.is_empty(), "{:?}", self.messages);
        loop {
            let frame = self.frame().await;
            if frame != "h" {
                return frame;
            }
        }
    }

    /// Subscribes by STOMP.
    pub async fn subscribe(&mut self, destination: &str) -> String {
        let frame = format!("SUBSCRIBE\nid:s\nreceipt:s\ndestination:{destination}\n\n\0");
        self.send(&frame).await;
        self.expect("receipt-id:s").await
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);
