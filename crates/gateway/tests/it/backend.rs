//! A backend that webhooks ask: it checks every signature, and answers as a test tells it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::eventually;

pub const WEBHOOK_SECRET: &str = "a secret for webhooks, thirty-two or more";

/// A backend in this process; it ends with its test.
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

type Answer = Box<dyn Fn(&Value) -> (u16, Value) + Send + Sync>;

struct Shared {
    /// Everything that it was asked and told, in order, whatever it answered.
    seen: Mutex<Vec<Value>>,
    answers: Mutex<HashMap<&'static str, Answer>>,
    fails: AtomicBool,
    /// Which requests wait for their answers.
    hangs: watch::Sender<Hangs>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hangs {
    None,
    All,
    /// Those of this type.
    Only(&'static str),
}

impl Backend {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            answers: Mutex::default(),
            fails: AtomicBool::new(false),
            hangs: watch::Sender::new(Hangs::None),
        });
        let router = Router::new().fallback(take).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shared }
    }

    /// Its table in a configuration, where it is called `backend`, with `more` options.
    pub fn config(&self, more: &str) -> String {
        format!(
            "[[webhooks]]\nname = \"backend\"\nurl = \"http://{}/fanlight\"\n\
             secret = \"{WEBHOOK_SECRET}\"\nallow_private = true\n{more}\n",
            self.address
        )
    }

    /// Answers requests of this type so, with a status and a body.
    pub fn on(
        &self,
        kind: &'static str,
        answer: impl Fn(&Value) -> (u16, Value) + Send + Sync + 'static,
    ) {
        self.shared.answers.lock().unwrap().insert(kind, Box::new(answer));
    }

    /// From now on everything is answered with 503, or not any more.
    pub fn fail(&self, fails: bool) {
        self.shared.fails.store(fails, Ordering::SeqCst);
    }

    /// From now on requests wait for their answers, or not any more.
    pub fn hang(&self, hangs: bool) {
        self.shared.hangs.send_replace(if hangs { Hangs::All } else { Hangs::None });
    }

    /// From now on requests of this type wait for their answers, and no others.
    pub fn hang_at(&self, kind: &'static str) {
        self.shared.hangs.send_replace(Hangs::Only(kind));
    }

    /// All that it has seen of these types.
    pub fn seen(&self, kinds: &[&str]) -> Vec<Value> {
        let seen = self.shared.seen.lock().unwrap();
        let of_kind = |event: &&Value| kinds.iter().any(|kind| event["type"] == *kind);
        seen.iter().filter(of_kind).cloned().collect()
    }

    /// Waits until it has seen so many.
    pub async fn until(&self, kinds: &[&str], count: usize) -> Vec<Value> {
        let what = format!("{count} of {kinds:?}");
        eventually(&what, async || self.seen(kinds).len() >= count).await;
        self.seen(kinds)
    }
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    if !is_signed(&headers, &body) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let event: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(event["id"], headers["webhook-id"].to_str().unwrap());
    shared.seen.lock().unwrap().push(event.clone());
    let mut hangs = shared.hangs.subscribe();
    let waits = |hangs: &Hangs| match hangs {
        Hangs::None => false,
        Hangs::All => true,
        Hangs::Only(kind) => event["type"] == *kind,
    };
    let _ = hangs.wait_for(|hangs| !waits(hangs)).await;
    if shared.fails.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let answers = shared.answers.lock().unwrap();
    let answer = answers.get(event["type"].as_str().unwrap());
    let (status, body) = answer.map_or((200, json!({ "allow": true })), |answer| answer(&event));
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

/// As the specification of Standard Webhooks has it.
fn is_signed(headers: &HeaderMap, body: &[u8]) -> bool {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let check = || {
        let signed = format!("{}.{}.", text("webhook-id")?, text("webhook-timestamp")?);
        let signature = STANDARD.decode(text("webhook-signature")?.strip_prefix("v1,")?).ok()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, WEBHOOK_SECRET.as_bytes());
        let signed = [signed.as_bytes(), body].concat();
        hmac::verify(&key, &signed, &signature).ok()
    };
    check().is_some()
}
