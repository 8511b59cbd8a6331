//! Keys from a JWKS URL, with a real server that rotates them, fails and is slow.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{CONFIG, Gateway, RawClient, eventually, token};

/// Who issues tokens.
#[derive(Clone)]
struct Issuer {
    address: SocketAddr,
    state: Arc<Mutex<Answer>>,
}

/// What it answers, and how often it did.
struct Answer {
    keys: Vec<Value>,
    status: StatusCode,
    delay: Duration,
    asked: u32,
}

impl Issuer {
    async fn start(keys: &[Value]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let answer =
            Answer { keys: keys.to_vec(), status: StatusCode::OK, delay: Duration::ZERO, asked: 0 };
        let issuer =
            Self { address: listener.local_addr().unwrap(), state: Arc::new(Mutex::new(answer)) };
        let router = Router::new().route("/jwks", get(Self::answer)).with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        issuer
    }

    async fn answer(State(issuer): State<Self>) -> Response {
        let (answer, delay) = issuer.with(|answer| {
            answer.asked += 1;
            ((answer.status, json!({ "keys": answer.keys }).to_string()), answer.delay)
        });
        tokio::time::sleep(delay).await;
        answer.into_response()
    }

    fn with<T>(&self, change: impl FnOnce(&mut Answer) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    fn asked(&self) -> u32 {
        self.with(|answer| answer.asked)
    }

    /// A gateway that has no other keys than this issuer's, and those of `more`.
    async fn gateway(&self, options: &str, more: &str) -> Gateway {
        let (before, rest) = CONFIG.split_once("[[auth.keys]]").unwrap();
        let (_, rest) = rest.split_once("[[namespaces]]").unwrap();
        let url = format!("http://{}/jwks", self.address);
        let config =
            format!("{before}[[auth.jwks]]\nurl = \"{url}\"\n{options}{more}[[namespaces]]{rest}");
        Gateway::with_config(&config).await
    }
}

/// The public parts of the keys in `tests/keys`.
fn p256(kid: &str) -> Value {
    json!({
        "kty": "EC", "crv": "P-256", "use": "sig", "kid": kid,
        "x": "fqWPNp8kOtItpnSdQjhDhQ8HOSDnzW2LgiFIOdcZr54",
        "y": "QgxIIjlxKDXaFcP_Qi9rlJQjmEocfb-2yNdrH9ZRSfk",
    })
}

fn ed25519(kid: &str) -> Value {
    json!({
        "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": kid,
        "x": "GKUshR0W9LtqdPoPNOBD3JzgSz6nuj02wzTV9WIgGik",
    })
}

/// A token of the issuer's, signed with the key of this name.
async fn signed(key: &str, algorithm: &str, kid: &str) -> String {
    let file = format!("{}/tests/keys/{key}.private.pem", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanlight"));
    command.args(["token", "mint", "--user", "ann", "--key-file", &file]);
    let output = command.args(["--algorithm", algorithm, "--kid", kid]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The status and code of a handshake with this token: 101 where it is good.
async fn handshake(gateway: &Gateway, token: &str) -> (u16, String) {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "fanlight.v1.json")];
    match RawClient::try_connect(gateway, "/ws", &headers).await {
        Ok(client) => {
            client.begun_native().await;
            (101, String::new())
        }
        Err(response) => {
            let status = response.split(' ').nth(1).unwrap().parse().unwrap();
            let body = response.split_once("\r\n\r\n").unwrap().1;
            let body: Value = serde_json::from_str(body).unwrap();
            (status, body["code"].as_str().unwrap().to_owned())
        }
    }
}

fn good() -> (u16, String) {
    (101, String::new())
}

fn refused() -> (u16, String) {
    (401, "unauthorized".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_fetched_for_the_first_token_with_it_and_a_removed_one_is_not_trusted() {
    let issuer =
        Issuer::start(&[p256("a"), json!({ "kty": "oct", "kid": "s", "k": "AAAA" })]).await;
    let options = "cooldown = \"100ms\"\nrefresh = \"1h\"\n";
    let gateway = issuer.gateway(options, "").await;
    let (old, new) = (signed("p256", "ES256", "a").await, signed("ed25519", "EdDSA", "b").await);
    assert_eq!(handshake(&gateway, &old).await, good());
    assert_eq!(issuer.asked(), 1);
    // Another algorithm than the key's, and another key under its name.
    assert_eq!(handshake(&gateway, &signed("ed25519", "EdDSA", "a").await).await, refused());
    assert_eq!(issuer.asked(), 1);
    tokio::time::sleep(Duration::from_millis(150)).await;
    issuer.with(|answer| answer.keys = vec![ed25519("b")]);
    // Many at once, and slowly answered: one fetch is for all of them.
    issuer.with(|answer| answer.delay = Duration::from_millis(300));
    let all = futures_util::future::join_all((0..20).map(|_| handshake(&gateway, &new))).await;
    assert!(all.iter().all(|one| *one == good()), "{all:?}");
    assert_eq!(issuer.asked(), 2);
    issuer.with(|answer| answer.delay = Duration::ZERO);
    // It was remembered as good, but its key is gone.
    assert_eq!(handshake(&gateway, &old).await, refused());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_with_keys_that_nobody_has_cause_no_more_than_one_fetch_in_a_cooldown() {
    let issuer = Issuer::start(&[p256("a")]).await;
    let gateway = issuer.gateway("cooldown = \"1h\"\nrefresh = \"1h\"\n", "").await;
    for n in 0..10 {
        let unknown = signed("p256", "ES256", &format!("unknown-{n}")).await;
        assert_eq!(handshake(&gateway, &unknown).await, refused());
    }
    assert_eq!(issuer.asked(), 1);
    assert_eq!(handshake(&gateway, &signed("p256", "ES256", "a").await).await, good());
    // The session's own CONNECT is checked by the same keys.
    let mut client = RawClient::connect(&gateway, "/ws", &[]).await;
    let token = signed("p256", "ES256", "a").await;
    client.send(&format!(r#"{{"type":"connect","token":"{token}"}}"#)).await;
    client.expect("\"connected\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_issuer_is_away_known_keys_serve_until_they_are_too_old() {
    let issuer = Issuer::start(&[p256("a")]).await;
    let options =
        "cooldown = \"100ms\"\nrefresh = \"100ms\"\nmax_stale = \"3s\"\ntimeout = \"1s\"\n";
    let own = "[[auth.keys]]\nid = \"own\"\nalgorithm = \"HS256\"\nsecret = \"a secret for tests, thirty-two bytes or more\"\n[[auth.keys]]\nalgorithm = \"HS256\"\nsecret = \"another secret for tests, thirty-two bytes\"\n";
    let gateway = issuer.gateway(options, own).await;
    let token_a = signed("p256", "ES256", "a").await;
    assert_eq!(handshake(&gateway, &token_a).await, good());
    issuer.with(|answer| answer.status = StatusCode::INTERNAL_SERVER_ERROR);
    let before = issuer.asked();
    eventually("it is asked again and again", async || issuer.asked() > before + 2).await;
    assert_eq!(handshake(&gateway, &token_a).await, good());
    let unavailable = (503, "keys_unavailable".to_owned());
    eventually("its keys are too old", async || handshake(&gateway, &token_a).await == unavailable)
        .await;
    // Who has a key of ours does not depend on it.
    assert_eq!(handshake(&gateway, &token("ann", &[]).await).await, good());
    assert!(gateway.metric_of("fanlight_jwks_fetches_total{result=\"failed\"}").await > 2);
    issuer.with(|answer| answer.status = StatusCode::OK);
    eventually("it is back", async || handshake(&gateway, &token_a).await == good()).await;
    // An issuer that does not answer holds nobody up for longer than the timeout.
    issuer.with(|answer| answer.delay = Duration::from_secs(3600));
    let (asked, unknown) = (Instant::now(), signed("p256", "ES256", "z").await);
    assert_ne!(handshake(&gateway, &unknown).await, good());
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_issuer_is_away_starts_and_says_so_to_clients() {
    let issuer = Issuer::start(&[]).await;
    let gateway = issuer.gateway("cooldown = \"200ms\"\ntimeout = \"1s\"\n", "").await;
    let token = signed("p256", "ES256", "a").await;
    assert_eq!(handshake(&gateway, &token).await, (503, "keys_unavailable".to_owned()));
    issuer.with(|answer| answer.keys = vec![p256("a")]);
    eventually("it has keys", async || handshake(&gateway, &token).await == good()).await;
}
