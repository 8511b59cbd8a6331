//! Webhooks against a real backend, which a test tells how to behave.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};

use super::*;

/// A backend in this process.
struct Backend {
    address: SocketAddr,
    seen: mpsc::Receiver<Seen>,
    shared: Arc<Shared>,
}

struct Shared {
    seen: mpsc::Sender<Seen>,
    answers: Mutex<VecDeque<Response>>,
    /// Requests are answered as these are given.
    gate: Semaphore,
}

struct Seen {
    headers: HeaderMap,
    body: Bytes,
}

impl Backend {
    async fn start(open: bool) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::channel(64);
        let gate = Semaphore::new(if open { 1_000_000 } else { 0 });
        let shared = Arc::new(Shared { seen: sender, answers: Mutex::default(), gate });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let serving = async move { axum::serve(listener, router).await };
        // It ends with its test's runtime.
        Handle::current().spawn(serving);
        Self { address, seen, shared }
    }

    fn answers(&self, response: impl IntoResponse) {
        self.shared.answers.lock().unwrap().push_back(response.into_response());
    }

    fn webhook(&self, more: &str) -> Arc<Webhook> {
        webhook(&format!("http://{}/fanlight", self.address), more)
    }

    async fn next(&mut self) -> Seen {
        let seen = tokio::time::timeout(Duration::from_secs(20), self.seen.recv()).await;
        seen.expect("a request comes").unwrap()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    shared.seen.send(Seen { headers: parts.headers, body }).await.unwrap();
    shared.gate.acquire().await.unwrap().forget();
    let answer = shared.answers.lock().unwrap().pop_front();
    answer.unwrap_or_else(|| axum::Json(json!({ "allow": true })).into_response())
}

const SECRET: &str = "a secret for tests, thirty-two bytes or more";
const PREVIOUS: &str = "the secret that was good before, of as many";

fn webhook(url: &str, more: &str) -> Arc<Webhook> {
    let allow = if more.contains("allow_") { "" } else { "allow_private = true" };
    let text = format!(
        "[cluster]\nname = \"n1\"\n[[webhooks]]\nname = \"a\"\nurl = \"{url}\"\n\
         secret = \"{SECRET}\"\n{allow}\n{more}\n"
    );
    let config: Config = toml::from_str(&text).unwrap();
    let webhooks = Webhooks::start(&config, Clock::start(), CancellationToken::new()).unwrap();
    webhooks.named("a").unwrap()
}

async fn ask(webhook: &Webhook, idempotent: bool) -> Result<Answer, WebhookError> {
    let options = CallOptions { idempotent, ..CallOptions::default() };
    webhook.call("connect", &json!({ "user": "ann" }), options).await
}

#[tokio::test]
async fn a_request_is_an_event_of_standard_webhooks() {
    let mut backend = Backend::start(true).await;
    let changed =
        format!("headers = {{ authorization = \"Bearer x\" }}\nprevious_secret = \"{PREVIOUS}\"");
    let webhook = backend.webhook(&changed);
    let options = CallOptions {
        id: Some("msg_7".into()),
        at_unix_ms: Some(1_764_000_000_123),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        ..CallOptions::default()
    };
    let answer = webhook.call("connect", &json!({ "user": "ann" }), options).await.unwrap();
    assert_eq!(answer.json::<Value>(), Ok(json!({ "allow": true })));
    let Seen { headers, body } = backend.next().await;
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!({
            "type": "connect", "id": "msg_7", "time": "2025-11-24T16:00:00.123Z", "node": "n1",
            "user": "ann",
        })
    );
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("authorization"), "Bearer x");
    assert_eq!(header("user-agent"), concat!("fanlight/", env!("CARGO_PKG_VERSION")));
    assert!(header("traceparent").ends_with("-01"));
    // The check as a backend makes it, not by our own code: with whichever secret it has.
    let signed = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp"));
    let signed = [signed.as_bytes(), &body].concat();
    let signatures = header("webhook-signature");
    let signatures: Vec<_> = signatures.split(' ').collect();
    assert_eq!(signatures.len(), 2, "{signatures:?}");
    for (secret, signature) in [SECRET, PREVIOUS].into_iter().zip(signatures) {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
        let signature = signature.strip_prefix("v1,").unwrap();
        let signature = base64::engine::general_purpose::STANDARD.decode(signature).unwrap();
        aws_lc_rs::hmac::verify(&key, &signed, &signature).unwrap();
    }
}

#[tokio::test]
async fn only_a_success_with_an_answer_of_bounded_size_is_one() {
    let backend = Backend::start(true).await;
    let webhook = backend.webhook("max_answer = \"1KiB\"");
    for (answer, error) in [
        (
            (StatusCode::FOUND, [("location", "/other")]).into_response(),
            WebhookError::Redirect(302),
        ),
        (StatusCode::UNAUTHORIZED.into_response(), WebhookError::Status(401)),
        (
            (StatusCode::NOT_FOUND, "why").into_response(),
            WebhookError::Refused { status: 404, body: "why".into() },
        ),
        (
            (StatusCode::CONFLICT, vec![b'x'; 1025]).into_response(),
            WebhookError::Refused { status: 409, body: "".into() },
        ),
        (StatusCode::INTERNAL_SERVER_ERROR.into_response(), WebhookError::Status(500)),
        (vec![b'x'; 1025].into_response(), WebhookError::TooLarge),
    ] {
        backend.answers(answer);
        assert_eq!(ask(&webhook, false).await, Err(error));
    }
    backend.answers("{");
    let malformed = ask(&webhook, false).await.unwrap().json::<Value>().unwrap_err();
    assert_eq!(malformed.result(), "malformed");
    backend.answers(StatusCode::NO_CONTENT);
    assert!(ask(&webhook, false).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_may_be_asked_twice_is_and_keeps_its_id() {
    let mut backend = Backend::start(true).await;
    let webhook = backend.webhook("timeout = \"20s\"");
    backend.answers(StatusCode::SERVICE_UNAVAILABLE);
    backend.answers(StatusCode::BAD_GATEWAY);
    assert!(ask(&webhook, true).await.is_ok());
    let [first, second, third] = [backend.next().await, backend.next().await, backend.next().await];
    let id = &first.headers["webhook-id"];
    assert!(id == second.headers["webhook-id"] && id == third.headers["webhook-id"]);
    assert!(first.body == second.body && first.body == third.body);
    for is_tried_again in [false, true] {
        backend.answers(StatusCode::SERVICE_UNAVAILABLE);
        let answer = ask(&webhook, is_tried_again).await;
        assert_eq!(answer.is_ok(), is_tried_again, "{answer:?}");
    }
}

#[tokio::test]
async fn a_slow_backend_is_waited_for_no_longer_than_said_by_no_more_than_said() {
    let mut backend = Backend::start(false).await;
    let webhook = backend.webhook("timeout = \"20s\"\nconcurrency = 2\nwaiting = 1");
    let calls = [(); 3].map(|()| webhook.call("connect", &json!({}), CallOptions::default()));
    let [first, second, third] = calls.map(|call| Handle::current().spawn(call));
    backend.next().await;
    backend.next().await;
    assert_eq!(ask(&webhook, true).await, Err(WebhookError::Overloaded), "two, and one waits");
    // Who gives up leaves its turn to who waits.
    first.abort();
    backend.next().await;
    backend.shared.gate.add_permits(3);
    assert!(second.await.unwrap().is_ok() && third.await.unwrap().is_ok());
    let closed = Backend::start(false).await;
    let error = ask(&closed.webhook("timeout = \"50ms\""), true).await.unwrap_err();
    assert_eq!((error.code(), error.result()), ("timeout", "timeout"));
}

#[tokio::test]
async fn messages_and_events_leave_turns_for_questions_about_sessions() {
    let mut backend = Backend::start(false).await;
    let webhook = backend.webhook("timeout = \"20s\"\nconcurrency = 4\nwaiting = 4");
    let call = |kind| {
        let call = webhook.call(kind, &json!({}), CallOptions::default());
        Handle::current().spawn(call)
    };
    // Of four turns they take three, and of eight places six.
    let common = ["message", "request", "publish", "connected", "message", "publish"].map(call);
    for _ in 0..3 {
        backend.next().await;
    }
    assert_eq!(call("message").await.unwrap(), Err(WebhookError::Overloaded));
    let subscribe = call("subscribe");
    let seen: Value = serde_json::from_slice(&backend.next().await.body).unwrap();
    assert_eq!(seen["type"], "subscribe");
    let refresh = call("refresh");
    backend.shared.gate.add_permits(1_000_000);
    for answer in common.into_iter().chain([subscribe, refresh]) {
        assert!(answer.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn a_backend_that_keeps_failing_is_left_alone_until_a_trial_succeeds() {
    let mut backend = Backend::start(true).await;
    let webhook = backend.webhook("breaker_failures = 3\nbreaker_pause = \"200ms\"");
    for _ in 0..3 {
        backend.answers(StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(ask(&webhook, false).await, Err(WebhookError::Status(500)));
        backend.next().await;
    }
    assert!(webhook.is_broken());
    let refused = ask(&webhook, false).await.unwrap_err();
    assert!(refused.retry_after().is_some(), "{refused}");
    assert!(backend.seen.try_recv().is_err(), "nothing is sent");
    for kind in ["publish", "disconnected"] {
        let other = webhook.call(kind, &json!({}), CallOptions::default()).await;
        assert!(other.is_ok(), "{kind} has a breaker of its own: {other:?}");
        backend.next().await;
    }
    assert!(webhook.is_broken());
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert!(ask(&webhook, false).await.is_ok());
    assert!(!webhook.is_broken());
    // What a backend does not like is no sign that it is not well.
    for _ in 0..4 {
        backend.answers(StatusCode::FORBIDDEN);
        let refused = ask(&webhook, false).await.unwrap_err();
        assert!(matches!(refused, WebhookError::Refused { status: 403, .. }), "{refused:?}");
    }
    assert!(!webhook.is_broken());
}

#[tokio::test]
async fn who_waits_for_a_turn_when_a_backend_fails_hears_so_and_nothing_is_sent() {
    let mut backend = Backend::start(false).await;
    let webhook = backend.webhook(
        "timeout = \"20s\"\nconcurrency = 1\nbreaker_failures = 1\nbreaker_pause = \"20s\"",
    );
    let calls = [(); 3].map(|()| webhook.call("connect", &json!({}), CallOptions::default()));
    let [first, second, third] = calls.map(|call| Handle::current().spawn(call));
    backend.next().await;
    backend.answers(StatusCode::INTERNAL_SERVER_ERROR);
    backend.shared.gate.add_permits(1_000_000);
    assert_eq!(first.await.unwrap(), Err(WebhookError::Status(500)));
    for waiting in [second, third] {
        let refused = waiting.await.unwrap().unwrap_err();
        assert!(matches!(refused, WebhookError::BreakerOpen(_)), "{refused}");
    }
    assert!(backend.seen.try_recv().is_err());
}

#[tokio::test]
async fn a_private_address_is_not_asked_unless_it_is_allowed() {
    let mut backend = Backend::start(true).await;
    let port = backend.address.port();
    for host in ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{port}/");
        let error = ask(&webhook(&url, "allow_addresses = [\"192.0.2.1\"]"), true).await;
        let error = error.unwrap_err();
        assert_eq!(error.result(), "forbidden_address", "{host}: {error}");
    }
    assert!(backend.seen.try_recv().is_err());
    let listed = backend.webhook("allow_addresses = [\"127.0.0.0/8\"]");
    assert!(ask(&listed, true).await.is_ok());
    let gone = webhook("http://127.0.0.1:9/", "");
    assert_eq!(ask(&gone, true).await.unwrap_err().result(), "connect");
}

#[tokio::test]
async fn an_encrypted_backend_must_be_vouched_for() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [ca, key] = ["ca.pem", "key.pem"].map(|name| folder.path().join(name));
    std::fs::write(&ca, certificate.cert.pem()).unwrap();
    std::fs::write(&key, certificate.signing_key.serialize_pem()).unwrap();
    let files = crate::config::ServerTls { certificate_file: ca.clone(), private_key_file: key };
    let tls = crate::tls::server_config("listen.tls", &files, &[]).unwrap().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    Handle::current().spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut socket) = acceptor.accept(socket).await else { continue };
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            let _ = socket.shutdown().await;
        }
    });
    let url = format!("https://localhost:{port}/");
    let trusted = webhook(&url, &format!("allow_private = true\nca_file = {ca:?}"));
    let answer = ask(&trusted, true).await;
    assert_eq!(answer.as_ref().map(|answer| answer.status), Ok(204), "{answer:?}");
    let error = ask(&webhook(&url, "allow_private = true"), false).await.unwrap_err();
    assert_eq!(error.result(), "connect", "{error}");
}
