//! STOMP over TCP, plain and with TLS: framing, endings, limits, accounts.

use std::time::{Duration, Instant};

use fanlight_proto::stomp::{Command, Decoder, Frame, Incoming, Limits, Version};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{CONFIG, Gateway, PATIENCE, RawClient, eventually, token};
use crate::tls::Certificate;

const ACCOUNTS: &str = r#"
[[auth.accounts]]
login = "relay"
passcode = "a passcode for tests"
roles = ["service"]
[[policy.rules]]
effect = "allow"
destination = "/topic/services.*"
roles = ["service"]
"#;

/// [`CONFIG`] with the listener, and these options in its section `limits`.
fn config(limits: &str) -> String {
    CONFIG
        .replace("[listen]\n", "[listen]\nstomp = \"127.0.0.1:0\"\n")
        .replace("connections_per_ip = 0\n", &format!("connections_per_ip = 0\n{limits}\n"))
        + ACCOUNTS
}

/// A client of STOMP over whatever carries bytes.
pub struct Client<S> {
    stream: S,
    decoder: Decoder,
    pending: Vec<u8>,
    heartbeats: usize,
}

impl Client<TcpStream> {
    async fn open(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.stomp.unwrap()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    pub async fn connect(gateway: &Gateway, connect: &str) -> Self {
        let mut client = Self::open(gateway).await;
        client.send(connect).await;
        client.expect(Command::Connected).await;
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    fn over(stream: S) -> Self {
        Self { stream, decoder: Decoder::new(), pending: Vec::new(), heartbeats: 0 }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next frame; `None` at an end that is no reset.
    async fn next(&mut self) -> Option<Frame> {
        let limits = Limits { frame_bytes: usize::MAX, ..Limits::default() };
        loop {
            let taken = std::mem::take(&mut self.pending);
            let mut input = taken.as_slice();
            let incoming = self.decoder.next(&mut input, &limits).unwrap();
            self.pending = input.to_vec();
            match incoming {
                Some(Incoming::Frame(frame)) => {
                    if frame.command == Command::Connected {
                        self.decoder.set_version(Version::V12);
                    }
                    return Some(frame);
                }
                Some(Incoming::Heartbeat) => self.heartbeats += 1,
                None => {
                    let mut buffer = vec![0; 64 * 1024];
                    let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await;
                    match read.expect("nothing came in time").expect("the connection was reset") {
                        0 => return None,
                        bytes => self.pending = buffer[..bytes].to_vec(),
                    }
                }
            }
        }
    }

    pub async fn expect(&mut self, command: Command) -> Frame {
        let frame = self.next().await.expect("the connection ended");
        assert_eq!(frame.command, command, "{frame:?}");
        frame
    }

    /// An ERROR of this code, then the end.
    pub async fn expect_error(&mut self, code: &str) -> Frame {
        let frame = self.expect(Command::Error).await;
        assert_eq!(frame.header("code"), Some(code), "{frame:?}");
        assert_eq!(self.next().await, None);
        frame
    }

    /// What comes until there are `count` frames, or the end; one line each, in an order that does
    /// not depend on which of a receipt and a message was quicker.
    async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count
            && let Some(frame) = self.next().await
        {
            let header = |name| frame.header(name).unwrap_or_default().to_owned();
            let body = String::from_utf8_lossy(&frame.body).into_owned();
            lines.push(format!("{} {}{body}", frame.command, header("receipt-id")));
        }
        lines.sort();
        lines
    }

    /// A whole conversation, on a topic of its own: each half goes out in two parts, cut at `at`.
    async fn converse(mut self, connect: &str, topic: &str, at: usize) {
        let halves = [
            (
                format!(
                    "{connect}\n\r\nSUBSCRIBE\nid:0\ndestination:/topic/open.{topic}\nreceipt:1\n\n\0\
                 SEND\ndestination:/topic/open.{topic}\nreceipt:2\ncontent-length:3\n\na\0b\0\n\
                 BEGIN\ntransaction:t\n\n\0\
                 SEND\ndestination:/topic/open.{topic}\ntransaction:t\n\nlater\0\
                 COMMIT\ntransaction:t\nreceipt:3\n\n\0\n"
                ),
                &[
                    "CONNECTED ",
                    "MESSAGE a\0b",
                    "MESSAGE later",
                    "RECEIPT 1",
                    "RECEIPT 2",
                    "RECEIPT 3",
                ][..],
            ),
            (
                "UNSUBSCRIBE\nid:0\nreceipt:4\n\n\0DISCONNECT\nreceipt:5\n\n\0".to_owned(),
                &["RECEIPT 4", "RECEIPT 5"],
            ),
        ];
        for (half, answers) in halves {
            let (first, rest) = half.split_at(at.min(half.len()));
            self.send(first).await;
            tokio::task::yield_now().await;
            self.send(rest).await;
            assert_eq!(self.lines(answers.len()).await, answers, "{topic}");
        }
        assert_eq!(self.next().await, None, "{topic}");
    }
}

pub async fn connect_frame(user: &str) -> String {
    format!(
        "CONNECT\naccept-version:1.2\nheart-beat:0,0\npasscode:{}\n\n\0",
        token(user, &[]).await
    )
}

fn relay_frame(passcode: &str) -> String {
    format!(
        "CONNECT\naccept-version:1.1,1.2\nheart-beat:10000,10000\nhost:127.0.0.1\nlogin:relay\n\
         passcode:{passcode}\n\n\0"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_answered_the_same_wherever_its_bytes_are_cut() {
    let gateway = Gateway::with_config(&config("")).await;
    let connect = connect_frame("ann").await;
    for at in 0..=connect.len() + 400 {
        let client = Client::open(&gateway).await;
        client.converse(&connect, &format!("cut-{at:04}"), at).await;
    }
    let mut client = Client::open(&gateway).await;
    for byte in (connect + "DISCONNECT\nreceipt:5\n\n\0").as_bytes() {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.lines(3).await, ["CONNECTED ", "RECEIPT 5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_go_both_ways_and_a_client_that_breaks_its_promise_is_told_so() {
    let more = "[stomp]\nheartbeat_send = \"2s\"\nheartbeat_receive = \"2s\"\n";
    let gateway = Gateway::with_config(&(config("") + more)).await;
    let connect = connect_frame("ann").await.replace("heart-beat:0,0", "heart-beat:2000,2000");
    let mut client = Client::connect(&gateway, &connect).await;
    let started = Instant::now();
    while client.heartbeats < 2 {
        // An end of line is all that it says.
        client.send("\n").await;
        let _ = timeout(Duration::from_millis(500), client.next()).await;
    }
    assert!(started.elapsed() < Duration::from_secs(8), "they came too late");
    client.expect_error("heartbeat_timeout").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_comes_before_the_end_whatever_the_client_goes_on_to_send() {
    let gateway = Gateway::with_config(&config("")).await;
    for wrong in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "{\"type\":\"connect\"}\n", "SEND\n\n\0"] {
        let mut client = Client::open(&gateway).await;
        client.send(wrong.to_owned() + &"x".repeat(1 << 20)).await;
        let frame = client.expect(Command::Error).await;
        assert!(frame.header("message").is_some(), "{wrong}");
        assert_eq!(client.next().await, None, "{wrong}");
    }
    let mut client = Client::connect(&gateway, &connect_frame("ann").await).await;
    client.send("SUBSCRIBE\nid:1\ndestination:/topic/closed\nreceipt:r\n\n\0SEND\n\n\0").await;
    assert_eq!(client.expect_error("forbidden").await.header("receipt-id"), Some("r"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_half_gets_what_it_is_owed() {
    let gateway = Gateway::with_config(&config("")).await;
    let mut client = Client::open(&gateway).await;
    let sent = connect_frame("ann").await + "SEND\ndestination:/topic/open.a\nreceipt:1\n\nx\0";
    client.send(sent).await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.lines(3).await, ["CONNECTED ", "RECEIPT 1"]);
    gateway.connections(0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_connect_in_time_is_told_so() {
    let gateway = Gateway::with_config(&config("connect_time = \"1s\"")).await;
    Client::open(&gateway).await.expect_error("connect_timeout").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_is_told_why_behind_what_it_did_not_read() {
    let gateway = Gateway::with_config(&config("outbox = \"128KiB\"")).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = Client::over(socket.connect(gateway.stomp.unwrap()).await.unwrap());
    slow.send(connect_frame("ann").await).await;
    slow.send("SUBSCRIBE\nid:1\ndestination:/topic/open.a\nreceipt:1\n\n\0").await;
    slow.expect(Command::Connected).await;
    slow.expect(Command::Receipt).await;
    let mut relay = Client::connect(&gateway, &relay_frame("a passcode for tests")).await;
    let body = "x".repeat(32 * 1024);
    let mut published = 0;
    while gateway.metric("fanlight_closes_total").await < 1 {
        let send = format!("SEND\ndestination:/topic/open.a\nreceipt:{published}\n\n{body}\0");
        relay.send(send).await;
        relay.expect(Command::Receipt).await;
        published += 1;
        assert!(published < 2000, "it is never closed");
    }
    let mut read = 0;
    loop {
        let frame = slow.next().await.expect("it ended without a word");
        match frame.command {
            Command::Message => read += 1,
            Command::Error => {
                assert_eq!(frame.header("code"), Some("slow_consumer"));
                break;
            }
            _ => panic!("{frame:?}"),
        }
    }
    assert!(read < published, "nothing was left out");
    assert_eq!(slow.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_too_many_connections_is_told_so_and_services_do_not_count() {
    let config = config("").replace("connections_per_ip = 0", "connections_per_ip = 1");
    let gateway = Gateway::with_config(&config).await;
    let _relay = Client::connect(&gateway, &relay_frame("a passcode for tests")).await;
    let _another = Client::connect(&gateway, &relay_frame("a passcode for tests")).await;
    let ann = Client::connect(&gateway, &connect_frame("ann").await).await;
    let refused = Client::open(&gateway).await.expect_error("address_full").await;
    assert!(refused.header("retry-after").is_some());
    drop(ann);
    eventually("there is room again", async || {
        let mut client = Client::open(&gateway).await;
        let _ = client.stream.write_all(connect_frame("ann").await.as_bytes()).await;
        client.next().await.is_some_and(|frame| frame.command == Command::Connected)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_takes_these_sessions_too_and_lets_no_more_in() {
    let config = config("")
        .replace("grace = \"0s\"", "grace = \"0s\"\nshutdown_timeout = \"6s\"")
        .replace("window = \"200ms\"", "window = \"1h\"");
    let mut gateway = Gateway::with_config(&config).await;
    let mut client = Client::connect(&gateway, &connect_frame("ann").await).await;
    assert_eq!(gateway.admin_post("/drain", &[]).await, 202);
    eventually("it closes", async || gateway.admin_get("/drain").await.1.contains("closing")).await;
    Client::open(&gateway).await.expect_error("draining").await;
    gateway.signal("TERM").await;
    let goodbye = client.expect_error("draining").await;
    assert_eq!(goodbye.header("retry-after"), Some("1"));
    drop(client);
    assert!(gateway.ended().await, "a drained node ends with success");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_its_roles_and_is_not_bound_by_what_one_user_may_use() {
    let config = config("").replace("sessions_per_user = 0", "sessions_per_user = 1");
    let gateway = Gateway::with_config(&config).await;
    let mut relay = Client::connect(&gateway, &relay_frame("a passcode for tests")).await;
    let mut another = Client::connect(&gateway, &relay_frame("a passcode for tests")).await;
    another.send("SUBSCRIBE\nid:1\ndestination:/topic/services.a\nreceipt:s\n\n\0").await;
    another.expect(Command::Receipt).await;
    let sends = (0..1000).map(|n| format!("SEND\ndestination:/topic/services.a\n\n{n}\0"));
    relay.send(sends.collect::<String>()).await;
    for n in 0..1000 {
        assert_eq!(another.expect(Command::Message).await.body, n.to_string());
    }
    // Over a WebSocket too.
    let headers = [("Sec-WebSocket-Protocol", "v12.stomp")];
    let mut browser = RawClient::connect(&gateway, "/ws", &headers).await;
    browser.send(&relay_frame("a passcode for tests")).await;
    browser.expect("CONNECTED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_not_told_what_was_wrong() {
    let gateway = Gateway::with_config(&config("")).await;
    let wrong = relay_frame("not the passcode");
    let mut told = Vec::new();
    for frame in [wrong.clone(), wrong.replace("login:relay", "login:nobody")] {
        let mut client = Client::open(&gateway).await;
        client.send(frame).await;
        told.push(client.expect_error("unauthorized").await);
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0].header("message"), Some("the login or the passcode is wrong"));
    let headers = [("Sec-WebSocket-Protocol", "v12.stomp")];
    let mut browser = RawClient::connect(&gateway, "/ws", &headers).await;
    browser.send(&wrong).await;
    browser.expect("the login or the passcode is wrong").await;
}

/// A gateway with TLS, and what a client trusts.
async fn gateway_with_tls(limits: &str) -> (Gateway, TlsConnector) {
    let certificate = Certificate::new();
    let more = certificate.options("listen.stomp_tls");
    let gateway = Gateway::with_config(&(config(limits) + &more)).await;
    (gateway, certificate.connector(&[]))
}

async fn open_tls(gateway: &Gateway, tls: &TlsConnector) -> Client<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(gateway.stomp.unwrap()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    Client::over(timeout(PATIENCE, tls.connect(name, stream)).await.unwrap().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_within_tls_is_the_same() {
    let (gateway, tls) = gateway_with_tls("").await;
    let connect = connect_frame("ann").await;
    for at in [0, 1, 7, 100, 333] {
        let client = open_tls(&gateway, &tls).await;
        client.converse(&connect, &format!("tls-{at}"), at).await;
    }
    let mut client = open_tls(&gateway, &tls).await;
    client.send("GARBAGE\n".to_owned() + &"x".repeat(1 << 18)).await;
    client.expect_error("protocol_error").await;
    drop(client);
    gateway.connections(0, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_go_both_ways_within_tls() {
    let (gateway, tls) = gateway_with_tls("").await;
    let mut client = open_tls(&gateway, &tls).await;
    client.send(relay_frame("a passcode for tests")).await;
    client.expect(Command::Connected).await;
    client.send("SUBSCRIBE\nid:1\ndestination:/topic/services.a\nreceipt:s\n\n\0").await;
    client.expect(Command::Receipt).await;
    let body = "0123456789abcdef".repeat(3000);
    for _ in 0..50 {
        client.send(format!("SEND\ndestination:/topic/services.a\n\n{body}\0")).await;
    }
    for _ in 0..50 {
        assert_eq!(client.expect(Command::Message).await.body, body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_agree_on_tls_in_time_or_at_all_is_dropped() {
    let (gateway, tls) = gateway_with_tls("connect_time = \"1s\"").await;
    let mut silent = Client::open(&gateway).await;
    let mut plain = Client::open(&gateway).await;
    plain.send(connect_frame("ann").await).await;
    for client in [&mut silent, &mut plain] {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, client.stream.read_to_end(&mut rest)).await.unwrap();
        assert!(!String::from_utf8_lossy(&rest).contains("CONNECTED"));
    }
    // Within TLS there is the session's own time.
    open_tls(&gateway, &tls).await.expect_error("connect_timeout").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_reaches_clients_within_tls_before_the_node_ends() {
    let (mut gateway, tls) = gateway_with_tls("").await;
    let mut client = open_tls(&gateway, &tls).await;
    client.send(connect_frame("ann").await).await;
    client.expect(Command::Connected).await;
    gateway.signal("TERM").await;
    client.expect_error("draining").await;
    drop(client);
    assert!(gateway.ended().await, "a drained node ends with success");
}
