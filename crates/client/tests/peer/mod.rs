//! A server that does what a test tells it.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::handshake::accept_key;
use fanlight_proto::ws::{Decoder, Message, Opcode, Role, close_frame, frame};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Listens, and accepts when a test says so.
pub(crate) struct Server {
    listener: TcpListener,
    heartbeat_ms: u32,
}

/// The server's end of one connection.
pub(crate) struct Peer {
    /// The request's head.
    pub(crate) head: String,
    stream: TcpStream,
    decoder: Decoder,
    inflater: Inflater,
    heard: std::collections::VecDeque<Message<'static>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with_heartbeat(25_000).await
    }

    pub(crate) async fn start_with_heartbeat(heartbeat_ms: u32) -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), heartbeat_ms }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.listener.local_addr().unwrap())
    }

    /// Reads a request and gives this answer, whatever it asked.
    pub(crate) async fn answer(&self, response: &str) {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(response.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read(&mut [0; 64]).await;
    }

    /// Accepts a connection and opens its session.
    pub(crate) async fn welcome(&self) -> Peer {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: fanlight.v1.json\r\n\r\n",
            accept_key(key)
        );
        stream.write_all(response.as_bytes()).await.unwrap();
        let (decoder, inflater) = (Decoder::new(Role::Server, false), Inflater::new());
        let mut peer = Peer { head, stream, decoder, inflater, heard: [].into() };
        assert_eq!(peer.hear().await, json!({ "type": "connect" }));
        let limits = json!({ "message_bytes": 65536, "subscriptions": 128 });
        let connected = json!({ "type": "connected", "session": "s1", "user": "ann",
            "heartbeat_ms": self.heartbeat_ms, "limits": limits });
        peer.say(&connected).await;
        peer
    }
}

impl Peer {
    /// The next request.
    pub(crate) async fn hear(&mut self) -> Value {
        match self.next().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("a request was expected, not {other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, message: &Value) {
        let mut out = Vec::new();
        frame(&mut out, Opcode::Text, message.to_string().as_bytes());
        self.stream.write_all(&out).await.unwrap();
    }

    /// Answers a request of this type for this destination with `ok`.
    pub(crate) async fn grant(&mut self, kind: &str, to: &str) {
        let request = self.hear().await;
        assert_eq!((&request["type"], &request["to"]), (&json!(kind), &json!(to)));
        self.say(&json!({ "type": "ok", "id": request["id"] })).await;
    }

    pub(crate) async fn publish(&mut self, to: &str, data: u32) {
        self.say(
            &json!({ "type": "message", "to": to, "id": data.to_string(), "data": data, "at": 1 }),
        )
        .await;
    }

    pub(crate) async fn close(&mut self, code: u16) {
        let mut out = Vec::new();
        close_frame(&mut out, code, "");
        self.stream.write_all(&out).await.unwrap();
    }

    /// The code of the client's close frame; `None` when it left without one.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        match self.next().await? {
            Message::Close(frame) => frame.map(|frame| frame.code),
            other => panic!("a close was expected, not {other:?}"),
        }
    }

    async fn next(&mut self) -> Option<Message<'static>> {
        let mut buffer = [0; 4096];
        while self.heard.is_empty() {
            let read = self.stream.read(&mut buffer).await.unwrap();
            if read == 0 {
                return None;
            }
            let mut input = &mut buffer[..read];
            while let Some(message) =
                self.decoder.next(&mut input, 65_536, &mut self.inflater).unwrap()
            {
                self.heard.push_back(message.into_owned());
            }
        }
        self.heard.pop_front()
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}
