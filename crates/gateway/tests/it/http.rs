//! HTTP as a test wants it: a request as it is said, a response piece by piece.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::PATIENCE;

/// What a request carries besides its method and target.
#[derive(Clone, Copy)]
pub struct With<'a> {
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a str,
}

/// Nothing.
pub const BARE: With<'static> = With { headers: &[], body: "" };

/// These headers, and no body.
pub fn headers<'a>(headers: &'a [(&'a str, &'a str)]) -> With<'a> {
    With { headers, body: "" }
}

/// A whole response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Status and code of a problem, which must be typed as one and tell what to do.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        (self.status, problem["code"].as_str().unwrap().to_owned())
    }
}

/// Asks on a connection of its own, and reads the whole response.
pub async fn ask(address: SocketAddr, method: &str, target: &str, with: With<'_>) -> Response {
    Stream::open(address, method, target, with).await.whole().await
}

/// GETs.
pub async fn get(address: SocketAddr, target: &str, lines: &[(&str, &str)]) -> Response {
    ask(address, "GET", target, headers(lines)).await
}

/// POSTs JSON.
pub async fn post(
    address: SocketAddr,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let mut all = vec![("Content-Type", "application/json")];
    all.extend(headers);
    ask(address, "POST", target, With { headers: &all, body }).await
}

/// A response that is still coming.
pub struct Stream {
    pub status: u16,
    head: String,
    socket: Box<dyn AsyncRead + Send + Unpin>,
    is_chunked: bool,
    /// Read and not decoded.
    raw: Vec<u8>,
    /// Decoded and not taken.
    text: Vec<u8>,
    has_ended: bool,
}

impl Stream {
    /// Asks, and reads the response's head.
    pub async fn open(address: SocketAddr, method: &str, target: &str, with: With<'_>) -> Self {
        let lines: Vec<_> =
            with.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (lines, body, length) = (lines.concat(), with.body, with.body.len());
        let length = match method {
            "POST" => format!("Content-Length: {length}\r\n"),
            _ => String::new(),
        };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{length}{lines}\r\n{body}"
        );
        Self::raw(address, &request).await
    }

    /// Sends a request as it stands.
    pub async fn raw(address: SocketAddr, request: &str) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        // What is refused before it was read may end in a reset.
        let _ = socket.write_all(request.as_bytes()).await;
        let mut raw = Vec::new();
        let end = loop {
            if let Some(at) = find(&raw, b"\r\n\r\n") {
                break at + 4;
            }
            let bytes = timeout(PATIENCE, socket.read_buf(&mut raw)).await;
            let bytes = bytes.unwrap_or_else(|_| panic!("no answer to {request}"));
            assert_ne!(bytes.unwrap_or(0), 0, "no answer to {request}: {raw:?}");
        };
        let rest = raw.split_off(end);
        Self::over(Box::new(socket), String::from_utf8(raw).unwrap(), rest)
    }

    /// Goes on after this head, behind which `raw` was read.
    pub fn over(socket: Box<dyn AsyncRead + Send + Unpin>, head: String, raw: Vec<u8>) -> Self {
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let is_chunked = header(&head, "transfer-encoding") == Some("chunked");
        let mut stream =
            Self { status, head, socket, is_chunked, raw, text: Vec::new(), has_ended: false };
        stream.decode();
        stream
    }

    /// The response, once all of it is there.
    pub async fn whole(mut self) -> Response {
        let body = self.rest().await;
        let length = self.header("content-length").map(|length| length.parse::<usize>().unwrap());
        assert!(length.is_none_or(|length| length == body.len()), "cut: {} {body}", self.head);
        let Self { status, head, .. } = self;
        Response { status, head, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// What comes up to this mark, without it; `None` when the response ends before.
    pub async fn until(&mut self, mark: &str) -> Option<String> {
        loop {
            if let Some(at) = find(&self.text, mark.as_bytes()) {
                let mut taken = self.text.drain(..at + mark.len()).collect::<Vec<_>>();
                taken.truncate(at);
                return Some(String::from_utf8(taken).unwrap());
            }
            if self.has_ended {
                return None;
            }
            let read = timeout(PATIENCE, self.read()).await;
            read.unwrap_or_else(|_| {
                panic!("nothing came: {}", String::from_utf8_lossy(&self.text))
            });
        }
    }

    /// All that comes until the response ends, as it should.
    pub async fn rest(&mut self) -> String {
        while !self.has_ended {
            timeout(PATIENCE, self.read()).await.expect("the response does not end");
        }
        String::from_utf8(std::mem::take(&mut self.text)).unwrap()
    }

    async fn read(&mut self) {
        let bytes = self.socket.read_buf(&mut self.raw).await.unwrap_or(0);
        self.decode();
        if bytes == 0 {
            assert!(!self.is_chunked || self.has_ended, "the response was cut: {}", self.head);
            self.has_ended = true;
        }
    }

    fn decode(&mut self) {
        if !self.is_chunked {
            self.text.append(&mut self.raw);
            return;
        }
        while let Some(at) = find(&self.raw, b"\r\n") {
            let digits = std::str::from_utf8(&self.raw[..at]).unwrap();
            let length = usize::from_str_radix(digits, 16).unwrap();
            let begin = at + 2;
            if self.raw.len() < begin + length + 2 {
                return;
            }
            self.text.extend_from_slice(&self.raw[begin..begin + length]);
            assert_eq!(&self.raw[begin + length..begin + length + 2], b"\r\n");
            self.raw.drain(..begin + length + 2);
            self.has_ended |= length == 0;
        }
    }
}

/// A connection for one request after the other.
pub struct KeepAlive(TcpStream);

impl KeepAlive {
    pub async fn open(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Asks with this head, and no body; the answer's head, in lower case but its first line, and
    /// its body, whose length must be told.
    pub async fn ask(&mut self, head: &str) -> (String, String) {
        self.0.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(timeout(PATIENCE, self.0.read_u8()).await.unwrap().unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        let length = header(&answer, "content-length").expect("a length").parse().unwrap();
        let mut body = vec![0; length];
        timeout(PATIENCE, self.0.read_exact(&mut body)).await.unwrap().unwrap();
        (answer, String::from_utf8(body).unwrap())
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let mut named = lines.filter(|(own, _)| own.eq_ignore_ascii_case(name));
    let value = named.next().map(|(_, value)| value.trim());
    assert!(named.next().is_none(), "{name} is there twice: {head}");
    value
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}
