//! The public listener with TLS: both versions of HTTP, as real clients agree on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fanlight_proto::ws::{self, Opcode};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::http::{Stream, post};
use crate::http2::Http2;
use crate::returning::{bearer, named};
use crate::stompjs::js_folder;
use crate::support::{CONFIG, Gateway, PATIENCE, RawClient, eventually, token};

/// A certificate for `localhost`, and its key, in files.
pub struct Certificate {
    folder: TempDir,
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Certificate {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("certificate.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self { folder, made }
    }

    /// The options of a listener, as TOML.
    pub fn options(&self, section: &str) -> String {
        let folder = self.folder.path().display();
        format!(
            "[{section}]\ncertificate_file = '{folder}/certificate.pem'\n\
             private_key_file = '{folder}/key.pem'\n"
        )
    }

    /// Where the files are: `certificate.pem` and `key.pem`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A server that has it, and agrees on one of these protocols.
    pub fn acceptor(&self, protocols: &[&[u8]]) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.made.cert.der().clone()], key)
            .unwrap();
        server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(server))
    }

    /// A client that trusts it, and offers these protocols.
    pub fn connector(&self, protocols: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(client))
    }
}

/// A gateway with TLS for clients.
async fn secured() -> (Gateway, Certificate) {
    let certificate = Certificate::new();
    let gateway = Gateway::start(&certificate.options("listen.tls")).await;
    (gateway, certificate)
}

/// A connection on which one of these protocols was agreed on.
async fn agreed(
    gateway: &Gateway,
    certificate: &Certificate,
    protocols: &[&str],
) -> (TlsStream<TcpStream>, Option<String>) {
    let stream = TcpStream::connect(gateway.public).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = certificate.connector(protocols).connect(name, stream);
    let stream = timeout(PATIENCE, connecting).await.unwrap().unwrap();
    let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    (stream, protocol.map(|name| String::from_utf8(name).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_is_agreed_on_within_tls_and_http_2_is_preferred() {
    let (gateway, certificate) = secured().await;
    for (offered, chosen) in [
        (&["http/1.1", "h2"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["h2"], Some("h2")),
        (&[], None),
    ] {
        let (_stream, protocol) = agreed(&gateway, &certificate, offered).await;
        assert_eq!(protocol.as_deref(), chosen, "{offered:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_http_1_within_tls_is_like_any_other() {
    let (gateway, certificate) = secured().await;
    let mut client = websocket(&gateway, &certificate, "ann").await;
    client.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
    client.expect("\"ok\"").await;
    // Several records of TLS each.
    let data = "0123456789abcdef".repeat(3000);
    for n in 0..20 {
        let send = json!({ "type": "send", "to": "/topic/open.a", "data": data, "id": n });
        client.send(&send.to_string()).await;
        client.expect_each(&["\"ok\"", &data]).await;
    }
    drop(client);
    gateway.connections(0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_late_within_tls_gets_all_that_waited_meanwhile() {
    let certificate = Certificate::new();
    let limits = "connections_per_ip = 0\nmessages_per_second = 0\noutbox = \"64MiB\"";
    let config = CONFIG.replace("connections_per_ip = 0", limits);
    let config = format!("{config}\n{}", certificate.options("listen.tls"));
    let gateway = Gateway::with_config(&config).await;
    let mut late = websocket(&gateway, &certificate, "late").await;
    late.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
    late.expect("\"ok\"").await;
    let mut publisher = websocket(&gateway, &certificate, "ann").await;
    // More than the kernel takes for a client that does not read.
    let data = "0123456789abcdef".repeat(3000);
    for n in 0..300 {
        let send = json!({ "type": "send", "to": "/topic/open.a", "data": [n, data], "id": n + 2 });
        publisher.send(&send.to_string()).await;
        publisher.expect("\"ok\"").await;
    }
    for n in 0..300 {
        late.expect(&format!("[{n},\"0123")).await;
    }
    late.send(r#"{"type":"ping"}"#).await;
    late.expect("pong").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_to_close_within_tls_is_told_its_end_too_and_who_is_cut_is_noticed() {
    let (gateway, certificate) = secured().await;
    let (mut stream, _) = agreed(&gateway, &certificate, &[]).await;
    let head = format!("GET /ws HTTP/1.1\r\n{}\r\n", handshake("ann").await);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut close = Vec::new();
    ws::frame_masked(&mut close, Opcode::Close, &1000_u16.to_be_bytes(), [1, 2, 3, 4]);
    stream.write_all(&close).await.unwrap();
    // The end is a proper one: a stream that was cut would be an error.
    let mut said = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut said)).await.unwrap().unwrap();
    assert!(said.ends_with(&[0x88, 2, 0x03, 0xe8]), "{said:?}");
    stream.shutdown().await.unwrap();
    gateway.connections(0, 1).await;

    let (mut stream, _) = agreed(&gateway, &certificate, &[]).await;
    let head = format!("GET /ws HTTP/1.1\r\n{}\r\n", handshake("ann").await);
    stream.write_all(head.as_bytes()).await.unwrap();
    gateway.connections(1, 2).await;
    // No close_notify, as when a proxy cuts it.
    stream.get_mut().0.shutdown().await.unwrap();
    gateway.connections(0, 2).await;
}

/// A native session of this user.
pub async fn websocket(gateway: &Gateway, certificate: &Certificate, user: &str) -> RawClient {
    let (stream, _) = agreed(gateway, certificate, &[]).await;
    let lines = handshake(user).await;
    RawClient::upgrade(Box::new(stream), "/ws", &lines).await.unwrap().begun_native().await
}

/// The headers of a WebSocket's handshake.
async fn handshake(user: &str) -> String {
    format!(
        "Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: fanlight.v1.json\r\nAuthorization: {}\r\n",
        bearer(user).await
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_on_over_http_1_within_tls() {
    let (gateway, certificate) = secured().await;
    let (mut stream, _) = agreed(&gateway, &certificate, &["http/1.1"]).await;
    let ann = bearer("ann").await;
    let request = format!(
        "GET /events?destination=/topic/open.a HTTP/1.1\r\nHost: localhost\r\nAuthorization: {ann}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    let mut events = Stream::over(Box::new(stream), String::from_utf8(head).unwrap(), Vec::new());
    assert_eq!((events.status, events.header("transfer-encoding")), (200, Some("chunked")));
    named(&mut events, "connected").await;
    drop(events);
    gateway.connections(0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_http_2_within_tls_is_like_any_other_and_is_drained() {
    let (mut gateway, certificate) = secured().await;
    let (stream, protocol) = agreed(&gateway, &certificate, &["h2", "http/1.1"]).await;
    assert_eq!(protocol.as_deref(), Some("h2"));
    let mut connection = Http2::over(stream, "https", "localhost").await;
    let mut client = connection.native("ann").await;
    client.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
    client.expect("\"ok\"").await;
    gateway.signal("TERM").await;
    client.expect("\"reconnect\"").await;
    assert_eq!(client.close_code().await, 1012);
    drop((client, connection));
    assert!(gateway.ended().await, "a drained node ends with success");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_tls_is_dropped_without_an_answer() {
    let (gateway, _certificate) = secured().await;
    let said = gateway.raw_http("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!said.contains("HTTP/1.1"), "{said}");
    let counted = "fanlight_handshakes_total{result=\"tls_failed\"} 1";
    eventually("it is counted", async || gateway.admin_get("/metrics").await.1.contains(counted))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_has_its_page_events_and_websockets_on_one_http_2_connection() {
    let (gateway, _certificate) = secured().await;
    let output = driven("http2_page.mjs", &gateway, "https").await;
    assert!(output.contains("held"), "{output}");
    let (_, metrics) = gateway.admin_get("/metrics").await;
    let lines = metrics.lines().filter(|line| line.starts_with("fanlight_handshakes_total"));
    let handshakes: Vec<_> = lines.filter(|line| !line.ends_with(" 0")).collect();
    // Two WebSockets and a stream of events; nothing came by HTTP/1.
    assert_eq!(handshakes, ["fanlight_handshakes_total{result=\"accepted\",http=\"2\"} 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ws_and_node_reach_the_gateway_by_tls_as_they_do_without() {
    let (gateway, _certificate) = secured().await;
    driven("secure_clients.mjs", &gateway, "https").await;
    gateway.connections(0, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_implementation_of_http_2_has_websockets_with_prior_knowledge() {
    let gateway = Gateway::start("").await;
    driven("secure_clients.mjs", &gateway, "http").await;
    gateway.connections(0, 2).await;
    let publish = json!({ "to": "/topic/open.a", "data": 1 }).to_string();
    let lines = [("Authorization", &*bearer("ann").await)];
    assert_eq!(post(gateway.public, "/publish", &lines, &publish).await.status, 200);
    let url = format!("http://{}/livez", gateway.public);
    let curl = Command::new("curl")
        .args(["--silent", "--http2-prior-knowledge", "--write-out", " %{http_version}", &url])
        .output();
    let output = timeout(PATIENCE, curl).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(" 2"), "{output:?}");
}

/// Runs a driver against the gateway; what it says.
async fn driven(driver: &str, gateway: &Gateway, scheme: &str) -> String {
    let driver: PathBuf = js_folder().join(driver);
    let running = Command::new("node")
        .arg(driver)
        .args(["--gateway", &format!("{scheme}://{}", gateway.public)])
        .args(["--token", &token("ann", &[]).await])
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE * 2, running).await.expect("the driver hangs").unwrap();
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    said.into_owned()
}
