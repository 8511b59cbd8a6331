//! HTTP/2 with prior knowledge: WebSocket (RFC 8441), events and SockJS as streams of one
//! connection.

use std::process::Stdio;

use axum::body::Body;
use fanlight_proto::ws::Opcode;
use futures_util::TryStreamExt;
use http::{HeaderMap, Method, Request, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::io::StreamReader;

use crate::http::{BARE, Response, Stream, With, headers};
use crate::returning::{bearer, event, named};
use crate::support::{CONFIG, Gateway, Got, PATIENCE, RawClient, Socket, eventually};

/// A client's connection.
#[derive(Clone)]
pub struct Http2 {
    sender: SendRequest<Body>,
    origin: String,
}

impl Http2 {
    pub async fn open(gateway: &Gateway) -> Self {
        let socket = TcpStream::connect(gateway.public).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self::over(socket, "http", &gateway.public.to_string()).await
    }

    /// Speaks HTTP/2 on `socket`, with a window so small that large messages wait for it.
    pub async fn over(socket: impl Socket + 'static, scheme: &str, authority: &str) -> Self {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(20_000)
            .initial_connection_window_size(60_000)
            .handshake(TokioIo::new(socket))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut http2 = Self { sender, origin: format!("{scheme}://{authority}") };
        // By the first answer the server's settings are there, and with them the extended CONNECT.
        assert_eq!(http2.ask("GET", "/livez", BARE).await.status, 200);
        http2
    }

    fn request(&self, method: &str, path: &str, with: With<'_>) -> Request<Body> {
        let uri = format!("{}{path}", self.origin);
        let mut request = Request::builder().method(method).uri(uri).version(Version::HTTP_2);
        for (name, value) in with.headers {
            request = request.header(*name, *value);
        }
        request.body(Body::from(with.body.to_owned())).unwrap()
    }

    async fn send(&mut self, request: Request<Body>) -> http::Response<Incoming> {
        timeout(PATIENCE, self.sender.ready()).await.unwrap().unwrap();
        timeout(PATIENCE, self.sender.send_request(request)).await.unwrap().unwrap()
    }

    /// Asks; a response that is still coming.
    async fn stream(&mut self, method: &str, path: &str, with: With<'_>) -> Stream {
        let request = self.request(method, path, with);
        let (parts, body) = self.send(request).await.into_parts();
        read_on(parts.status.as_u16(), &parts.headers, body)
    }

    async fn ask(&mut self, method: &str, path: &str, with: With<'_>) -> Response {
        self.stream(method, path, with).await.whole().await
    }

    /// A WebSocket by this `:protocol`; `Err` is the refusal.
    async fn connect(
        &mut self,
        protocol: &'static str,
        path: &str,
        lines: &[(&str, &str)],
    ) -> Result<RawClient, Response> {
        let mut request = self.request("CONNECT", path, headers(lines));
        request.extensions_mut().insert(Protocol::from_static(protocol));
        let response = self.send(request).await;
        if response.status() != 200 {
            let (parts, body) = response.into_parts();
            return Err(read_on(parts.status.as_u16(), &parts.headers, body).whole().await);
        }
        let head = as_text(200, response.headers());
        let stream = timeout(PATIENCE, hyper::upgrade::on(response)).await.unwrap().unwrap();
        Ok(RawClient::over(Box::new(TokioIo::new(stream)), head))
    }

    pub async fn websocket(
        &mut self,
        path: &str,
        lines: &[(&str, &str)],
    ) -> Result<RawClient, Response> {
        let mut all = vec![("Sec-WebSocket-Version", "13")];
        all.extend(lines);
        self.connect("websocket", path, &all).await
    }

    /// Connects and speaks the native protocol as `user`.
    pub async fn native(&mut self, user: &str) -> RawClient {
        let bearer = bearer(user).await;
        let lines = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "fanlight.v1.json")];
        self.websocket("/ws", &lines).await.unwrap().begun_native().await
    }

    async fn stomp(&mut self, user: &str) -> RawClient {
        let bearer = bearer(user).await;
        let lines = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "v12.stomp")];
        self.websocket("/ws", &lines).await.unwrap().begun_stomp().await
    }
}

/// A head as HTTP/1 would have it, which has nothing that HTTP/2 may not have (RFC 9113 §8.2.2).
fn as_text(status: u16, headers: &HeaderMap) -> String {
    for name in ["connection", "upgrade", "transfer-encoding", "keep-alive"] {
        assert!(!headers.contains_key(name), "{headers:?}");
    }
    let lines: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()))
        .collect();
    format!("HTTP/2 {status} \r\n{}\r\n", lines.concat())
}

fn read_on(status: u16, headers: &HeaderMap, body: Incoming) -> Stream {
    let body = Body::new(body).into_data_stream().map_err(std::io::Error::other);
    Stream::over(Box::new(StreamReader::new(body)), as_text(status, headers), Vec::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_and_requests_share_a_connection() {
    let gateway = Gateway::start("").await;
    let mut connection = Http2::open(&gateway).await;
    let mut native = connection.native("ann").await;
    let mut stomp = connection.stomp("bob").await;
    assert!(native.response_head.contains("sec-websocket-protocol: fanlight.v1.json"));
    assert!(!native.response_head.contains("sec-websocket-accept"));
    native.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
    native.expect("\"ok\"").await;
    stomp.send("SUBSCRIBE\nid:1\ndestination:/topic/open.a\nreceipt:s\n\n\0").await;
    stomp.expect("receipt-id:s").await;

    native.send(r#"{"type":"send","to":"/topic/open.a","data":"one","id":2}"#).await;
    native.expect_each(&["\"ok\"", "\"one\""]).await;
    stomp.expect("\"one\"").await;
    stomp
        .send("SEND\ndestination:/topic/open.a\ncontent-type:application/json\nreceipt:r\n\n\"two\"\0")
        .await;
    stomp.expect_each(&["receipt-id:r", "two"]).await;
    native.expect("two").await;
    let bearer = bearer("carl").await;
    let lines = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    let body = json!({ "to": "/topic/open.a", "data": "three" }).to_string();
    let response = connection.ask("POST", "/publish", With { headers: &lines, body: &body }).await;
    assert_eq!(response.status, 200, "{response:?}");
    native.expect("three").await;
    stomp.expect("three").await;
    let target = "/poll?destination=/topic/open.a&wait=0";
    let polled = connection.ask("GET", target, headers(&lines[..1])).await;
    assert_eq!((polled.status, &polled.json()["messages"][0]["type"]), (200, &json!("ok")));

    let (_, metrics) = gateway.admin_get("/metrics").await;
    assert!(metrics.contains("fanlight_handshakes_total{result=\"accepted\",http=\"2\"} 2"));
    assert!(metrics.contains("fanlight_handshakes_total{result=\"accepted\",http=\"1\"} 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_wait_for_the_window_both_ways_and_are_compressed_where_that_is_agreed_on() {
    let unlimited = "connections_per_ip = 0\nmessages_per_second = 0\ncommands_per_second = 0";
    let config = CONFIG.replace("connections_per_ip = 0", unlimited);
    let gateway = Gateway::with_config(&format!("{config}\n[websocket]\ncompression = true")).await;
    let mut connection = Http2::open(&gateway).await;
    let bearer = bearer("ann").await;
    let mut lines = vec![("Authorization", &*bearer)];
    lines.push(("Sec-WebSocket-Protocol", "fanlight.v1.json"));
    for extensions in [None, Some("permessage-deflate; client_no_context_takeover")] {
        lines.extend(extensions.map(|extensions| ("Sec-WebSocket-Extensions", extensions)));
        let mut client = connection.websocket("/ws", &lines).await.unwrap();
        let is_compressed =
            client.response_head.contains("sec-websocket-extensions: permessage-deflate");
        assert_eq!(is_compressed, extensions.is_some(), "{}", client.response_head);
        client.send(r#"{"type":"connect"}"#).await;
        client.expect("\"connected\"").await;
        client.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
        client.expect("\"ok\"").await;
        let data = "0123456789abcdef".repeat(3500);
        for n in 0..20 {
            let send = json!({ "type": "send", "to": "/topic/open.a", "data": data, "id": n });
            if is_compressed {
                client.send_compressed(&send.to_string()).await;
            } else {
                client.send(&send.to_string()).await;
            }
            client.expect_each(&["\"ok\"", &data]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_may_close_and_the_stream_ends_with_it() {
    let gateway = Gateway::start("").await;
    let mut connection = Http2::open(&gateway).await;
    let mut leaving = connection.native("ann").await;
    leaving.send_frame(Opcode::Close, &1000_u16.to_be_bytes()).await;
    assert_eq!(leaving.next().await, Got::Close(1000));
    assert_eq!(leaving.next().await, Got::End);
    let mut faulty = connection.native("ann").await;
    faulty.send_frame(Opcode::Binary, b"\xff\xff").await;
    assert_eq!(faulty.close_code().await, 1007);
    assert_eq!(faulty.next().await, Got::End);
    gateway.connections(0, 2).await;
    // The connection goes on.
    connection.native("ann").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_reset_ends_its_session_and_no_other() {
    let gateway = Gateway::start("").await;
    let mut connection = Http2::open(&gateway).await;
    let mut stays = connection.native("ann").await;
    let goes = connection.native("bob").await;
    let events = "/events?destination=/topic/open.a";
    let bearer = bearer("ann").await;
    let lines = [("Authorization", &*bearer)];
    let mut stream = connection.stream("GET", events, headers(&lines)).await;
    named(&mut stream, "connected").await;
    gateway.connections(3, 3).await;
    drop((goes, stream));
    gateway.connections(1, 3).await;
    stays.send(r#"{"type":"ping"}"#).await;
    stays.expect("pong").await;
    // With the connection all its streams end.
    let closing = connection.clone();
    drop((stays, connection, closing));
    gateway.connections(0, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_is_closed_and_holds_up_no_other() {
    let unlimited = "connections_per_ip = 0\nmessages_per_second = 0\ncommands_per_second = 0";
    let gateway = Gateway::with_config(&CONFIG.replace("connections_per_ip = 0", unlimited)).await;
    let mut connection = Http2::open(&gateway).await;
    let (mut slow, mut quick) = (connection.native("ann").await, connection.native("bob").await);
    for client in [&mut slow, &mut quick] {
        client.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
        client.expect("\"ok\"").await;
    }
    let data = "x".repeat(60_000);
    let send = json!({ "type": "send", "to": "/topic/open.a", "data": data, "id": 1 }).to_string();
    let mut count = 0;
    while gateway.metric("fanlight_closes_total").await == 0 {
        assert!(count < 1000, "60 MB went to who reads nothing");
        for _ in 0..5 {
            quick.send(&send).await;
            quick.expect_each(&["\"ok\"", &data]).await;
            count += 1;
        }
    }
    // The outbox, and what the kernel keeps of the stream and of the socket: some megabytes.
    assert!(count < 100, "{count}");
    assert_eq!(slow.close_code().await, 4413);
    gateway.connections(1, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_handshake_is_refused_as_http_2_has_it() {
    let gateway = Gateway::start("").await;
    let mut connection = Http2::open(&gateway).await;
    let version = ("Sec-WebSocket-Version", "13");
    for (protocol, path, lines, refusal) in [
        ("connect-udp", "/ws", vec![version], (501, "connect_protocol")),
        ("websocket", "/ws", vec![], (400, "websocket_version")),
        ("websocket", "/ws", vec![("Sec-WebSocket-Version", "8")], (400, "websocket_version")),
        ("websocket", "/nowhere", vec![version], (404, "not_found")),
        ("websocket", "/ws", vec![version, ("Host", "b.example")], (400, "host")),
        (
            "websocket",
            "/ws",
            vec![version, ("Sec-WebSocket-Protocol", "mqtt")],
            (400, "subprotocol"),
        ),
        ("websocket", "/ws", vec![version, ("Authorization", "Bearer x")], (401, "unauthorized")),
        (
            "websocket",
            "/ws",
            vec![version, ("Origin", "https://evil.example.com")],
            (403, "foreign_origin"),
        ),
    ] {
        let Err(response) = connection.connect(protocol, path, &lines).await else {
            panic!("{protocol} {path} {lines:?} was accepted");
        };
        assert_eq!(response.problem(), (refusal.0, refusal.1.to_owned()), "{lines:?}");
        let is_version = refusal.1 == "websocket_version";
        assert_eq!(response.header("sec-websocket-version"), is_version.then_some("13"));
    }
    let response = connection.ask("GET", "/ws", headers(&[version])).await;
    assert_eq!(response.problem(), (400, "not_websocket".to_owned()));
    // A page of the gateway's own host, which only `:authority` names.
    let own = connection.origin.clone();
    let lines = [version, ("Origin", &*own)];
    assert!(connection.connect("websocket", "/ws", &lines).await.is_ok());
    // HTTP/1 keeps its own answer.
    let response = crate::http::get(gateway.public, "/ws", &[]).await;
    assert_eq!(response.problem(), (426, "not_websocket".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_while_it_still_sends_hears_why() {
    let gateway = Gateway::start("").await;
    let ann = bearer("ann").await;
    let mut connection = Http2::open(&gateway).await;
    for bytes in [70_000, 500_000, 3_000_000] {
        let body = "x".repeat(bytes);
        for (target, token, refusal) in [
            ("/publish", &*ann, (413, "too_large")),
            ("/poll", &ann, (413, "too_large")),
            ("/events", &ann, (413, "too_large")),
            ("/publish", "Bearer nonsense", (401, "unauthorized")),
            ("/nowhere", &ann, (404, "not_found")),
        ] {
            let lines = [("Authorization", token)];
            let with = With { headers: &lines, body: &body };
            let response = connection.ask("POST", target, with).await;
            assert_eq!(response.problem(), (refusal.0, refusal.1.into()), "{target} {bytes}");
            let url = format!("http://{}{target}", gateway.public);
            let token = format!("Authorization: {token}");
            for version in ["--http2-prior-knowledge", "--http1.1"] {
                let said = curl(&[version, "-H", &token, &url], body.clone()).await;
                let Some(said) = said else { continue };
                let is_heard =
                    said.contains(refusal.1) && said.ends_with(&format!(" {}", refusal.0));
                assert!(is_heard, "{version} {target} {bytes}: {said}");
            }
        }
    }
    assert_eq!(connection.ask("GET", "/livez", BARE).await.status, 200);
}

/// What curl says of an answer, and its status; `None` where there is no curl.
async fn curl(arguments: &[&str], body: String) -> Option<String> {
    let mut command = tokio::process::Command::new("curl");
    command.args(["-sS", "--max-time", "30", "-w", " %{http_code}", "--data-binary", "@-"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.kill_on_drop(true).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: there is no curl");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    tokio::spawn(async move { stdin.write_all(body.as_bytes()).await });
    let output = timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_return_by_their_last_id_over_http_2() {
    let history = "match = \"/topic/**\"\nhistory = { size = 100, ttl = \"1m\" }\n";
    let config = CONFIG.replace("match = \"/topic/**\"\n", history);
    let gateway = Gateway::with_config(&config).await;
    let mut connection = Http2::open(&gateway).await;
    let ann = bearer("ann").await;
    let target = "/events?destination=/topic/open.a";
    let mut lines = vec![("Authorization", &*ann)];
    let mut stream = connection.stream("GET", target, headers(&lines)).await;
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream")));
    named(&mut stream, "connected").await;
    named(&mut stream, "subscribed").await;
    let mut publisher = connection.native("pub").await;
    crate::returning::publish(&mut publisher, "/topic/open.a", 0..2).await;
    named(&mut stream, "message").await;
    let last = named(&mut stream, "message").await.id.unwrap();
    drop(stream);
    crate::returning::publish(&mut publisher, "/topic/open.a", 2..5).await;
    lines.push(("Last-Event-ID", &*last));
    let mut stream = connection.stream("GET", target, headers(&lines)).await;
    named(&mut stream, "connected").await;
    let mut heard = Vec::new();
    while heard.len() < 3 {
        let event = event(&mut stream).await.unwrap();
        if event.name == "message" {
            let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
            heard.push(data["data"].as_u64().unwrap());
        }
    }
    assert_eq!(heard, [2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockjs_streams_and_polls_over_http_2() {
    let gateway = Gateway::start("[sockjs]\nstream_bytes = \"4KiB\"\n").await;
    let mut connection = Http2::open(&gateway).await;
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    let path = "/sockjs/000/http2";
    let mut stream =
        connection.stream("POST", &format!("{path}/xhr_streaming"), headers(&lines)).await;
    assert_eq!(stream.header("content-type"), Some("application/javascript; charset=UTF-8"));
    assert_eq!(stream.until("\n").await.unwrap(), "h".repeat(2048));
    assert_eq!(stream.until("\n").await.as_deref(), Some("o"));
    for (message, answer) in [
        (json!({ "type": "connect" }), "connected"),
        (json!({ "type": "subscribe", "to": "/topic/open.a", "id": 1 }), "ok"),
    ] {
        let body = json!([message.to_string()]).to_string();
        let with = With { headers: &lines, body: &body };
        let sent = connection.ask("POST", &format!("{path}/xhr_send"), with).await;
        assert_eq!(sent.status, 204);
        assert!(stream.until("\n").await.unwrap().contains(answer));
    }
    let mut publisher = connection.native("pub").await;
    let send = json!({ "type": "send", "to": "/topic/open.a", "data": "x".repeat(5000), "id": 1 });
    publisher.send(&send.to_string()).await;
    publisher.expect("\"ok\"").await;
    // It is long enough then, and ends.
    assert!(stream.rest().await.contains("xxx"));
    let polling = connection.clone();
    let xhr = async {
        let mut polling = polling;
        polling.ask("POST", &format!("{path}/xhr"), headers(&lines)).await
    };
    let publish = async {
        publisher.send(&send.to_string()).await;
        publisher.expect("\"ok\"").await;
    };
    let (polled, ()) = tokio::join!(xhr, publish);
    assert!(polled.body.starts_with("a[") && polled.body.contains("xxx"), "{polled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_so_many_streams_and_the_next_waits() {
    let config =
        CONFIG.replace("connections_per_ip = 0", "connections_per_ip = 0\nhttp2_streams = 2");
    let gateway = Gateway::with_config(&config).await;
    let mut connection = Http2::open(&gateway).await;
    let first = connection.native("ann").await;
    let _second = connection.native("ann").await;
    let mut other = connection.clone();
    let mut third = tokio::spawn(async move { other.ask("GET", "/livez", BARE).await.status });
    assert_eq!(Http2::open(&gateway).await.ask("GET", "/livez", BARE).await.status, 200);
    assert!(!third.is_finished());
    drop(first);
    assert_eq!(timeout(PATIENCE, &mut third).await.unwrap().unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stream_counts_like_a_connection_of_its_client() {
    let config = CONFIG
        .replace("connections_per_ip = 0", "connections_per_ip = 2")
        .replace("[listen]", "[listen]\ntrusted_proxies = [\"127.0.0.0/8\"]");
    let gateway = Gateway::with_config(&config).await;
    let mut connection = Http2::open(&gateway).await;
    let version = ("Sec-WebSocket-Version", "13");
    let from = |address: &'static str| [version, ("X-Forwarded-For", address)];
    let mut held = Vec::new();
    for address in ["198.51.100.1", "198.51.100.1", "198.51.100.2"] {
        let client = connection.connect("websocket", "/ws", &from(address)).await;
        held.push(client.unwrap());
    }
    let refused = connection.connect("websocket", "/ws", &from("198.51.100.1")).await;
    assert_eq!(refused.err().unwrap().problem(), (429, "address_full".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_the_connection_and_each_of_its_sessions() {
    let mut gateway = Gateway::start("").await;
    let mut connection = Http2::open(&gateway).await;
    let mut native = connection.native("ann").await;
    let mut stomp = connection.stomp("ann").await;
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    let target = "/events?destination=/topic/open.a";
    let mut stream = connection.stream("GET", target, headers(&lines)).await;
    named(&mut stream, "connected").await;
    named(&mut stream, "subscribed").await;
    gateway.signal("TERM").await;
    native.expect("\"reconnect\"").await;
    assert_eq!(native.close_code().await, 1012);
    stomp.expect("draining").await;
    assert_eq!(stomp.close_code().await, 1012);
    assert!(stream.rest().await.contains("event: reconnect"));
    // GOAWAY: nothing new is begun on it.
    eventually("the connection takes no more", async || {
        let request = connection.clone().request(Method::GET.as_str(), "/livez", BARE);
        let mut sender = connection.sender.clone();
        let sent = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        timeout(PATIENCE, sent).await.unwrap().is_err()
    })
    .await;
    drop((native, stomp));
    assert!(gateway.ended().await, "a drained node ends with success");
}
