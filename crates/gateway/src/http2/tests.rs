//! How HTTP/2 is told apart, and how long its connections last.

use std::net::SocketAddr;

use axum::extract::Extension;
use axum::routing::get;
use http::{HeaderMap, Version};
use hyper::client::conn::http2::{self as client, SendRequest};
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::descriptors::Allowance;
use crate::takeover::{Taken, Takeover};

async fn is_begun_by(parts: &[&[u8]]) -> io::Result<bool> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut client = TcpStream::connect(listener.local_addr()?).await?;
    client.set_nodelay(true)?;
    let (stream, _) = listener.accept().await?;
    let send = async {
        for part in parts {
            client.write_all(part).await?;
            // Each part is likely to be seen alone.
            sleep(FIRST_PAUSE).await;
        }
        client.shutdown().await
    };
    let (begun, done) = tokio::join!(is_begun_on(&stream), send);
    done?;
    begun
}

#[tokio::test]
async fn a_preface_is_known_however_it_is_cut_and_nothing_else_is_one() {
    for cut in 1..PREFACE.len() {
        let (one, other) = PREFACE.split_at(cut);
        assert!(is_begun_by(&[one, other]).await.unwrap(), "cut at {cut}");
    }
    for other in ["GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\n", "PRI * HTTP/1.1\r\n"] {
        let (one, rest) = other.as_bytes().split_at(2);
        assert!(!is_begun_by(&[one, rest]).await.unwrap(), "{other}");
    }
    assert!(is_begun_by(&[]).await.is_err());
}

fn host_of(authority: &str, host: Option<&str>) -> Option<String> {
    let mut request = Request::builder().uri(format!("http://{authority}/ws"));
    if let Some(host) = host {
        request = request.header(header::HOST, host);
    }
    let request = checked(request.body(Body::empty()).unwrap()).ok()?;
    Some(request.headers()[header::HOST].to_str().unwrap().to_owned())
}

#[test]
fn the_authority_is_the_host_and_another_host_is_refused() {
    assert_eq!(host_of("a.example:8443", None).as_deref(), Some("a.example:8443"));
    assert_eq!(host_of("a.example", Some("A.example")).as_deref(), Some("a.example"));
    assert_eq!(host_of("ann@a.example", None).as_deref(), Some("a.example"));
    assert_eq!(host_of("a.example", Some("b.example")), None);
}

/// A session that says something every half a minute, for twenty minutes.
async fn talk(Extension(takeover): Extension<Takeover>) -> Response {
    let talk = |Taken { socket, .. }| async move {
        let mut socket = socket.into_tokio().unwrap();
        for _ in 0..40 {
            socket.write_all(b":\n").await.unwrap();
            sleep(Duration::from_secs(30)).await;
        }
    };
    takeover.stream(Version::HTTP_2, HeaderMap::new(), talk).await
}

/// Serves one end of a connection; the other.
fn served() -> (DuplexStream, JoinHandle<()>) {
    let (stream, peer) = duplex(64 * 1024);
    let server = HttpServer {
        router: Router::new().route("/", get(async || "hello")).route("/talk", get(talk)),
        tracker: TaskTracker::new(),
        shutdown: CancellationToken::new(),
        head_time: Duration::from_secs(10),
        admission: Admission::new(0, 1, &[]),
        tls: None,
        patience: Duration::from_secs(10),
        max_streams: 8,
        leaving: CancellationToken::new(),
        allowance: Allowance::All,
    };
    let tasks = TaskTracker::new();
    let address = Peer(SocketAddr::from(([127, 0, 0, 1], 1)));
    (peer, tasks.spawn(server.serve_http2(stream, address)))
}

async fn connected(peer: DuplexStream) -> SendRequest<Body> {
    let (sender, connection) =
        client::handshake(TokioExecutor::new(), TokioIo::new(peer)).await.unwrap();
    TaskTracker::new().spawn(connection);
    sender
}

async fn asked(sender: &mut SendRequest<Body>, path: &str) -> http::Response<Incoming> {
    let request = Request::builder().uri(format!("http://a.example{path}"));
    sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_ended_once_no_session_has_lived_on_it_for_a_while() {
    let begun = Instant::now();
    let (peer, serving) = served();
    let mut sender = connected(peer).await;
    assert_eq!(asked(&mut sender, "/").await.status(), 200);
    serving.await.unwrap();
    assert!((CONNECTION_TIME..CONNECTION_TIME * 2).contains(&begun.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn a_connection_lasts_as_long_as_a_session_on_it() {
    let begun = Instant::now();
    let (peer, serving) = served();
    let mut sender = connected(peer).await;
    let response = asked(&mut sender, "/talk").await;
    let said = axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap();
    assert_eq!(said.len(), 80);
    assert!(!serving.is_finished());
    serving.await.unwrap();
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(20 * 60) && took < Duration::from_secs(32 * 60), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_gone() {
    let begun = Instant::now();
    let (mut peer, serving) = served();
    peer.write_all(PREFACE).await.unwrap();
    // Empty SETTINGS (RFC 9113 §6.5).
    peer.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    serving.await.unwrap();
    assert!(begun.elapsed() <= PING_INTERVAL + PING_TIMEOUT + Duration::from_secs(1));
    // It heard of it: SETTINGS first, GOAWAY last.
    let mut said = Vec::new();
    peer.read_to_end(&mut said).await.unwrap();
    assert_eq!(said[3], 4);
    assert_eq!(said[said.len() - 17 + 3], 7);
}
