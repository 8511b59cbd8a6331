//! A gateway process of its own for each test, and a client that can also misbehave.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use fanlight_proto::ws::deflate::{self, Deflater, Inflater};
use fanlight_proto::ws::{self, Decoder, Message, Opcode, Role};
use fanlight_testkit::RedisServer;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longer than anything takes on a loaded machine; reached only by what will never come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway process; it ends with this value.
pub struct Gateway {
    child: Child,
    pub public: SocketAddr,
    pub admin: SocketAddr,
    /// Where it listens for STOMP over TCP, if it does.
    pub stomp: Option<SocketAddr>,
    /// Where it listens for backends, if it does.
    pub api: Option<SocketAddr>,
}

pub const SECRET: &str = "a secret for tests, thirty-two bytes or more";

/// What most tests run with: everybody with a token may use topics and their own queue.
pub const CONFIG: &str = r#"
workers = 2
[listen]
public = "127.0.0.1:0"
admin = "127.0.0.1:0"
[broker]
kind = "memory"
[drain]
grace = "0s"
window = "200ms"
[limits]
connections_per_ip = 0
sessions_per_user = 0
handshakes_per_second_per_ip = 0
handshakes_per_second_per_user = 0
[log]
level = "warn"
[[auth.keys]]
algorithm = "HS256"
secret = "a secret for tests, thirty-two bytes or more"
[[namespaces]]
name = "topic"
match = "/topic/**"
[[namespaces]]
name = "user"
match = "/user/**"
[[policy.rules]]
effect = "allow"
destination = "/topic/open.*"
[[policy.rules]]
effect = "allow"
actions = ["subscribe"]
destination = "/user/queue/**"
[[policy.rules]]
effect = "allow"
actions = ["publish"]
roles = ["admin"]
destination = "/user/*/queue/**"
"#;

/// What [`QUEUES_AND_BACKENDS`] lets backends in by.
pub const API_KEY: &str = "a key of the server API, thirty-two bytes or more";

/// More for [`CONFIG`]: a queue, which everybody with a token may use, and [`API_KEY`].
pub const QUEUES_AND_BACKENDS: &str = r#"
[[namespaces]]
name = "queue"
match = "/queue/**"
mode = "queue"
[[policy.rules]]
effect = "allow"
destination = "/queue/**"
[[api.keys]]
name = "shop"
secret = "a key of the server API, thirty-two bytes or more"
"#;

/// `config`, with this broker in place of the memory broker.
pub fn with_redis(config: &str, redis: &RedisServer) -> String {
    with_redis_at(config, &redis.url())
}

/// The same, whatever is at this URL.
pub fn with_redis_at(config: &str, url: &str) -> String {
    let broker = format!("[broker]\nkind = \"redis\"\n[redis]\nurl = \"{url}\"\n");
    config.replace("[broker]\nkind = \"memory\"\n", &broker)
}

impl Gateway {
    /// A gateway with [`CONFIG`] and `more` TOML behind it.
    pub async fn start(more: &str) -> Self {
        Self::with_config(&format!("{CONFIG}\n{more}")).await
    }

    /// A gateway with exactly this configuration.
    pub async fn with_config(config: &str) -> Self {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let gateway = Self::with_args(&["serve", "--config", &path], &[]).await;
        // It has been read by now.
        drop(file);
        gateway
    }

    /// A gateway with these arguments and environment variables.
    pub async fn with_args(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::with_program(env!("CARGO_BIN_EXE_fanlight"), args, env).await
    }

    /// A gateway that this program becomes.
    pub async fn with_program(program: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut public, mut stomp, mut api) = (None, None, None);
        let admin = loop {
            let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
            let line = line.expect("the gateway ended before it said where it listens");
            if let Some((_, url)) = line.split_once("  clients ") {
                public = address_after(url, "://");
            }
            if let Some((_, url)) = line.split_once("STOMP ") {
                stomp = address_after(url, "://");
            }
            if let Some((_, url)) = line.split_once("API       ") {
                api = address_after(url, "://");
            }
            if let Some(address) = address_after(&line, "health    http://") {
                break address;
            }
        };
        // The rest of what it says must not fill the pipe.
        let mut rest = lines.into_inner();
        tokio::spawn(async move {
            let mut sink = tokio::io::sink();
            let _ = tokio::io::copy(&mut rest, &mut sink).await;
        });
        Self { child, public: public.unwrap(), admin, stomp, api }
    }

    pub fn ws_url(&self) -> String {
        format!("ws://{}/ws", self.public)
    }

    /// Sends a signal by name: `TERM`, `KILL`, `STOP`, `CONT`.
    pub async fn signal(&self, name: &str) {
        let id = self.child.id().expect("the gateway has ended").to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().await.unwrap();
        assert!(status.success());
    }

    /// Waits for an end that comes whenever it will.
    pub async fn runs_out(&mut self) {
        self.child.wait().await.unwrap();
    }

    /// Waits for the end; whether it was a success.
    pub async fn ended(&mut self) -> bool {
        self.end_code().await == Some(0)
    }

    /// Waits for the end; the process' status, unless a signal was its end.
    pub async fn end_code(&mut self) -> Option<i32> {
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().code()
    }

    /// GETs a path of the admin listener: status and body.
    pub async fn admin_get(&self, path: &str) -> (u16, String) {
        get(self.admin, path).await
    }

    /// POSTs to a path of the admin listener; the status.
    pub async fn admin_post(&self, path: &str, headers: &[(&str, &str)]) -> u16 {
        let lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let lines = lines.concat();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n{lines}\r\n"
        );
        let response = exchange(self.admin, &request).await;
        response.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// POSTs JSON to a path of the admin listener: status and body.
    pub async fn admin_ask(&self, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let response = exchange(self.admin, &request).await;
        let status = response.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    /// Sends a request as it stands to the public listener; what comes until nothing more does.
    pub async fn raw_http(&self, request: &str) -> String {
        exchange(self.public, request).await
    }

    /// GETs a path of the public listener: status and body.
    pub async fn public_get(&self, path: &str) -> (u16, String) {
        get(self.public, path).await
    }

    /// Waits until `left` connections are left of `opened` that there have been. Workers tell of
    /// both now and then: without those opened, what is left may be of before.
    pub async fn connections(&self, left: u64, opened: u64) {
        let what = format!("{left} of {opened} connections are left");
        eventually(&what, async || {
            self.metric("fanlight_connections_opened_total").await == opened
                && self.metric("fanlight_connections").await == left
        })
        .await;
    }

    /// The value of a series, written with its labels; 0 if it is not there.
    pub async fn metric_of(&self, series: &str) -> u64 {
        let (_, text) = self.admin_get("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or(0)
    }

    /// The sum of a metric over its labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.admin_get("/metrics").await;
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

/// Where its clients connect.
impl From<&Gateway> for SocketAddr {
    fn from(gateway: &Gateway) -> Self {
        gateway.public
    }
}

fn address_after(line: &str, mark: &str) -> Option<SocketAddr> {
    line.split_once(mark)?.1.split('/').next()?.parse().ok()
}

/// Writes a request and ends; the response until its end.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    // What is refused before it is read whole may end in a reset.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut response)).await.unwrap();
    String::from_utf8(response).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let response = exchange(address, &request).await;
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    let body = response.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status, body.unwrap_or_default())
}

/// Polls `condition` until it holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A token for `user` with `roles`, made by the product's own command.
pub async fn token(user: &str, roles: &[&str]) -> String {
    mint(user, "1h", roles).await
}

/// A token for `user` that is good for so long.
pub async fn token_that_expires_in(user: &str, time: &str) -> String {
    mint(user, time, &[]).await
}

async fn mint(user: &str, time: &str, roles: &[&str]) -> String {
    let mut arguments = vec!["--user", user, "--expires", time];
    for role in roles {
        arguments.extend(["--role", role]);
    }
    minted(&arguments).await
}

/// What `fanlight token mint` gives by the tests' secret.
pub async fn minted(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanlight"));
    command.args(["token", "mint", "--secret", SECRET]).args(arguments);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What a WebSocket may go over.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// A WebSocket connection under full control of the test.
pub struct RawClient {
    socket: Box<dyn Socket>,
    decoder: Decoder,
    inflater: Inflater,
    /// What was read and not decoded yet.
    pending: Vec<u8>,
    pub response_head: String,
}

/// What a [`RawClient`] got.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16),
    /// The connection ended.
    End,
}

impl RawClient {
    /// Upgrades with these extra request headers; panics with the response when refused.
    pub async fn connect(to: impl Into<SocketAddr>, path: &str, headers: &[(&str, &str)]) -> Self {
        let client = Self::try_connect(to, path, headers).await;
        client.unwrap_or_else(|response| panic!("the handshake was refused: {response}"))
    }

    /// Upgrades; `Err` is the whole response when it is not a 101.
    pub async fn try_connect(
        to: impl Into<SocketAddr>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, String> {
        let address = to.into();
        let mut all = vec![
            ("Host", address.to_string()),
            ("Connection", "Upgrade".into()),
            ("Upgrade", "websocket".into()),
            ("Sec-WebSocket-Version", "13".into()),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==".into()),
        ];
        all.retain(|(name, _)| !headers.iter().any(|(other, _)| other == name));
        all.extend(headers.iter().map(|&(name, value)| (name, value.to_owned())));
        let lines: Vec<_> =
            all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let socket = TcpStream::connect(address).await.unwrap();
        Self::upgrade(Box::new(socket), path, &lines.concat()).await
    }

    /// Upgrades a connection with these lines; `Err` is the whole response when it is not a 101.
    pub async fn upgrade(
        mut socket: Box<dyn Socket>,
        path: &str,
        lines: &str,
    ) -> Result<Self, String> {
        let request = format!("GET {path} HTTP/1.1\r\n{lines}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, socket.read_u8()).await.unwrap();
            head.push(byte.map_err(|error| error.to_string())?);
        }
        let response_head = String::from_utf8(head).unwrap();
        if !response_head.starts_with("HTTP/1.1 101") {
            let length = response_head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            let mut body = vec![0; length];
            socket.read_exact(&mut body).await.unwrap();
            return Err(format!("{response_head}{}", String::from_utf8_lossy(&body)));
        }
        Ok(Self::over(socket, response_head))
    }

    /// Goes on after the handshake, which was answered by this.
    pub fn over(socket: Box<dyn Socket>, response_head: String) -> Self {
        let compression = response_head.to_lowercase().contains("permessage-deflate");
        Self {
            socket,
            decoder: Decoder::new(Role::Client, compression),
            inflater: Inflater::new(),
            pending: Vec::new(),
            response_head,
        }
    }

    /// Connects and speaks the native protocol as `user`.
    pub async fn native(to: impl Into<SocketAddr>, user: &str) -> Self {
        let bearer = format!("Bearer {}", token(user, &[]).await);
        let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "fanlight.v1.json")];
        Self::connect(to, "/ws", &headers).await.begun_native().await
    }

    /// Connects and speaks STOMP 1.2 as `user`.
    pub async fn stomp(to: impl Into<SocketAddr>, user: &str) -> Self {
        let bearer = format!("Bearer {}", token(user, &[]).await);
        let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "v12.stomp")];
        Self::connect(to, "/ws", &headers).await.begun_stomp().await
    }

    /// With its session of the native protocol begun.
    pub async fn begun_native(mut self) -> Self {
        self.send(r#"{"type":"connect"}"#).await;
        self.expect("\"connected\"").await;
        self
    }

    /// With its session of STOMP 1.2 begun, without heartbeats.
    pub async fn begun_stomp(mut self) -> Self {
        self.send("CONNECT\naccept-version:1.2\nheart-beat:0,0\n\n\0").await;
        self.expect("CONNECTED").await;
        self
    }

    pub async fn send(&mut self, text: &str) {
        self.send_frame(Opcode::Text, text.as_bytes()).await;
    }

    pub async fn send_frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut out = Vec::new();
        ws::frame_masked(&mut out, opcode, payload, [7, 1, 9, 4]);
        self.send_raw(&out).await;
    }

    /// Sends a text message deflated, whether that was agreed on or not.
    pub async fn send_compressed(&mut self, text: &str) {
        let mut payload = Vec::new();
        Deflater::new(6).piece(text.as_bytes(), &mut payload);
        deflate::strip_tail(&mut payload);
        let mut out = Vec::new();
        ws::frame_masked(&mut out, Opcode::Text, &payload, [7, 1, 9, 4]);
        // RSV1 (RFC 7692 §6).
        out[0] |= 0x40;
        self.send_raw(&out).await;
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Ends the sending half; the receiving half stays.
    pub async fn end_sending(&mut self) {
        self.socket.shutdown().await.unwrap();
    }

    /// The next message, pings left out.
    pub async fn next(&mut self) -> Got {
        loop {
            match self.next_frame().await {
                Got::Ping(_) => {}
                got => return got,
            }
        }
    }

    pub async fn next_frame(&mut self) -> Got {
        loop {
            let mut taken = std::mem::take(&mut self.pending);
            let mut input = taken.as_mut_slice();
            let message = self.decoder.next(&mut input, usize::MAX, &mut self.inflater).unwrap();
            let message = message.map(Message::into_owned);
            self.pending = input.to_vec();
            match message {
                Some(Message::Text(text)) => return Got::Text(text.into_owned()),
                Some(Message::Binary(bytes)) => return Got::Binary(bytes.into_owned()),
                Some(Message::Ping(payload)) => return Got::Ping(payload.into_owned()),
                Some(Message::Pong(payload)) => return Got::Pong(payload.into_owned()),
                Some(Message::Close(frame)) => {
                    return Got::Close(frame.map_or(1005, |frame| frame.code));
                }
                None => {}
            }
            let mut buffer = vec![0; 64 * 1024];
            let read = timeout(PATIENCE, self.socket.read(&mut buffer)).await;
            match read.expect("nothing came in time") {
                Ok(0) | Err(_) => return Got::End,
                Ok(bytes) => self.pending.extend_from_slice(&buffer[..bytes]),
            }
        }
    }

    /// The next text message, which must contain `part`.
    pub async fn expect(&mut self, part: &str) -> String {
        match self.next().await {
            Got::Text(text) if text.contains(part) => text,
            got => panic!("a text with {part:?} was expected, not {got:?}"),
        }
    }

    /// The next text messages, one for each of `parts`, in whatever order: an answer and a message
    /// of another destination race.
    pub async fn expect_each(&mut self, parts: &[&str]) {
        let mut left = parts.to_vec();
        while !left.is_empty() {
            let Got::Text(text) = self.next().await else { panic!("no text came; left: {left:?}") };
            let found = left.iter().position(|part| text.contains(part));
            left.remove(found.unwrap_or_else(|| panic!("{text:?} is none of {left:?}")));
        }
    }

    /// What comes next, which must be a close frame: its code and reason.
    pub async fn close_frame(&mut self) -> (u16, String) {
        let mut frame = self.pending.split_off(0);
        while frame.len() < 2 || frame.len() < 2 + usize::from(frame[1]) {
            let bytes = timeout(PATIENCE, self.socket.read_buf(&mut frame)).await;
            assert_ne!(bytes.expect("nothing came in time").unwrap(), 0, "it ended: {frame:x?}");
        }
        assert_eq!(frame[0], 0x88, "{frame:x?}");
        let payload = &frame[2..2 + usize::from(frame[1])];
        let (code, reason) = payload.split_at(2);
        let reason = String::from_utf8(reason.to_vec()).unwrap();
        (u16::from_be_bytes([code[0], code[1]]), reason)
    }

    /// Skips messages until the connection is closed; the close code.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            match self.next().await {
                Got::Close(code) => return code,
                Got::End => panic!("the connection ended without a close frame"),
                _ => {}
            }
        }
    }
}
