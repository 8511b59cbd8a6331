//! What a backend says of streams and polls is a status; and what waits for its word while whoever
//! sent it is revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use super::{guarded, with_api};
use crate::api::{self, KEY};
use crate::backend::Backend;
use crate::http::{Response, Stream, get, headers, post};
use crate::returning::{bearer, named};
use crate::stompjs::js_folder;
use crate::support::{Gateway, PATIENCE, RawClient, eventually, minted, token};

const NO: &str = "/topic/open.guarded.no";
const YES: &str = "/topic/open.guarded.yes";
const EVENT_STREAM: (&str, &str) = ("Accept", "text/event-stream");

fn refuses_no(backend: &Backend) {
    backend.on("subscribe", |event| {
        (200, json!({ "allow": event["destination"] != NO, "reason": "full" }))
    });
}

/// `/events` or `/poll` for these destinations.
fn target(path: &str, destinations: &[&str]) -> String {
    let wanted: Vec<_> = destinations.iter().map(|to| format!("destination={to}")).collect();
    format!("{path}?{}&wait=0", wanted.join("&"))
}

fn assert_refused(response: &Response, to: &str) {
    assert_eq!(response.problem(), (403, "forbidden".into()));
    assert!(response.json()["detail"].as_str().unwrap().starts_with(to), "{response:?}");
}

/// Seconds after which to come back, of a refusal with 503.
fn retry_after(response: &Response, code: &str) -> u64 {
    assert_eq!(response.problem(), (503, code.into()));
    response.header("retry-after").unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_or_poll_that_a_backend_refuses_gets_a_status_and_no_session() {
    let backend = Backend::start().await;
    refuses_no(&backend);
    // Also where a backend decides who connects: both questions are about the same session.
    for hooks in ["", "[hooks]\nconnect = \"backend\"\n"] {
        let config = guarded(&backend, "timeout = \"500ms\"\nbreaker_failures = 100");
        let gateway = Gateway::with_config(&format!("{config}\n{hooks}")).await;
        let ann = bearer("ann").await;
        let lines = [("Authorization", &*ann), EVENT_STREAM];
        let asked = || backend.seen(&["subscribe"]).len();
        for path in ["/events", "/poll"] {
            let before = asked();
            let refused = get(gateway.public, &target(path, &[NO]), &lines).await;
            assert_refused(&refused, NO);
            assert!(refused.json()["detail"].as_str().unwrap().contains("full"), "{refused:?}");
            // One of several refuses them all, as with the policy, which comes first.
            let several = target(path, &["/topic/open.a", YES, NO]);
            assert_refused(&get(gateway.public, &several, &lines).await, NO);
            assert_eq!(asked() - before, 3, "{path}: about each that it has a say in");
            let forbidden = target(path, &[YES, "/topic/closed"]);
            assert_refused(&get(gateway.public, &forbidden, &lines).await, "/topic/closed");
            assert_eq!(asked() - before, 3, "{path}: not where the policy forbids one");
        }
        assert_eq!(gateway.metric("fanlight_connections_opened_total").await, 0);

        // What it agrees to begins, and is not asked about again.
        let before = asked();
        let all = target("/events", &["/topic/open.a", YES]);
        let mut stream = Stream::open(gateway.public, "GET", &all, headers(&lines)).await;
        let connected = named(&mut stream, "connected").await;
        let connected: Value = serde_json::from_str(&connected.data).unwrap();
        for id in 0..2 {
            let told = named(&mut stream, "subscribed").await;
            assert!(told.data.contains(&format!("\"id\":{id}")), "{told:?}");
        }
        let question = backend.seen(&["subscribe"]).pop().unwrap();
        assert_eq!(
            (&question["session"], &question["user"]),
            (&connected["session"], &json!("ann"))
        );
        if !hooks.is_empty() {
            let introduced = backend.seen(&["connect"]).pop().unwrap();
            assert_eq!(introduced["session"], connected["session"]);
        }
        let page = get(gateway.public, &target("/poll", &[YES]), &lines).await.json();
        let again =
            format!("{}&cursor={}", target("/poll", &[YES]), page["cursor"].as_str().unwrap());
        assert_eq!(get(gateway.public, &again, &lines).await.status, 200);
        assert_eq!(asked() - before, 2, "once for the stream, once for the mailbox");
        let published = json!({ "to": YES, "data": 7 }).to_string();
        assert_eq!(post(gateway.public, "/publish", &lines[..1], &published).await.status, 200);
        named(&mut stream, "message").await;
        assert!(get(gateway.public, &again, &lines).await.body.contains("\"data\":7"));

        // A backend that is slow or fails is no refusal.
        for (path, lines) in [("/events", &lines[..1]), ("/poll", &lines)] {
            let (target, begun) = (target(path, &[YES]), Instant::now());
            backend.hang_on(|kind| kind == "subscribe");
            let slow = get(gateway.public, &target, lines).await;
            assert!(retry_after(&slow, "timeout") >= 1);
            assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
            backend.hang(false);
            backend.on("subscribe", |_| (503, json!({})));
            assert!(retry_after(&get(gateway.public, &target, lines).await, "unavailable") >= 1);
            refuses_no(&backend);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_stops_where_a_backend_refuses_and_comes_back_where_it_failed() {
    let backend = Backend::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    backend.on("subscribe", move |event| match event["destination"].as_str() {
        Some(NO) => (200, json!({ "allow": false })),
        // Not the first time, nor when it is asked again at once.
        _ if count.fetch_add(1, Ordering::SeqCst) < 3 => (503, json!({})),
        _ => (200, json!({ "allow": true })),
    });
    let gateway = Gateway::with_config(&guarded(&backend, "")).await;
    let url = format!("http://{}", gateway.public);
    let driver = Command::new("node")
        .arg(js_folder().join("refused_events.mjs"))
        .args([&*url, &token("ann", &[]).await, NO, YES])
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE * 2, driver).await.expect("the browser hangs").unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told, json!({ "refused": ["closed"], "failed": ["reconnecting", "subscribed"] }));
    let about_no = |question: &&Value| question["destination"] == NO;
    assert_eq!(backend.seen(&["subscribe"]).iter().filter(about_no).count(), 1);
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

/// A native client without a token, and its session.
async fn nobody(gateway: &Gateway) -> (RawClient, String) {
    let native = [("Sec-WebSocket-Protocol", "fanlight.v1.json")];
    let mut client = RawClient::connect(gateway, "/ws", &native).await;
    client.send(r#"{"type":"connect"}"#).await;
    let connected: Value = serde_json::from_str(&client.expect("\"connected\"").await).unwrap();
    (client, connected["session"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_backend_is_published_though_its_sender_has_left_but_not_if_it_was_revoked()
 {
    let backend = Backend::start().await;
    let config = guarded(&backend, "timeout = \"20s\"")
        .replace("publish_hook", "anonymous = true\npublish_hook");
    let gateway = with_api(&config, "").await;
    let orders = api::Backend(&gateway, KEY);
    let mut bob = RawClient::native(&gateway, "bob").await;
    bob.send(&json!({ "type": "subscribe", "to": YES, "id": 0 }).to_string()).await;
    bob.expect("\"ok\"").await;

    backend.hang_on(|kind| kind == "publish");
    let send = |data: &str| json!({ "type": "send", "to": YES, "data": data, "id": 1 }).to_string();
    // With a token, which is revoked with its user; and of a session that has none.
    let mut eve = RawClient::native(&gateway, "eve").await;
    eve.send(&send("of a revoked user")).await;
    let (mut stranger, session) = nobody(&gateway).await;
    stranger.send(&send("of a revoked session")).await;
    // Without a session.
    let mallory = bearer("mallory").await;
    let lines = [("Authorization", &*mallory)];
    let body = json!({ "to": YES, "data": "of a revoked token" }).to_string();
    let request = post(gateway.public, "/publish", &lines, &body);
    // One who leaves, and one who is made to.
    let mut dan = RawClient::native(&gateway, "dan").await;
    dan.send(&send("of one who left")).await;
    let mut fay = RawClient::native(&gateway, "fay").await;
    fay.send(&send("of one who was disconnected")).await;
    let revoke = async {
        backend.until(&["publish"], 5).await;
        for who in
            [json!({ "user": "eve" }), json!({ "user": "mallory" }), json!({ "session": session })]
        {
            let mut order = who;
            order["ttl_s"] = json!(60);
            assert_eq!(orders.post("/revoke", &order).await.status, 200);
        }
        for client in [&mut eve, &mut stranger] {
            client.expect("\"revoked\"").await;
            assert_eq!(client.close_code().await, 4513);
        }
        let disconnected = orders.post("/users/fay/disconnect", &json!({})).await;
        assert_eq!(disconnected.status, 200, "{disconnected:?}");
        fay.expect("\"disconnected\"").await;
        drop(dan);
        // bob is left.
        eventually("they are gone", async || gateway.metric("fanlight_connections").await == 1)
            .await;
        backend.hang(false);
    };
    let (refused, ()) = tokio::join!(request, revoke);
    assert_eq!(refused.problem(), (401, "unauthorized".into()));

    let mut heard = Vec::new();
    for _ in 0..2 {
        let told: Value = serde_json::from_str(&bob.expect("\"message\"").await).unwrap();
        heard.push(told["data"].as_str().unwrap().to_owned());
    }
    heard.sort();
    assert_eq!(heard, ["of one who left", "of one who was disconnected"]);
    // All answers have come; nothing else is published before what is sent now.
    let answered =
        "fanlight_webhook_requests_total{webhook=\"backend\",kind=\"publish\",result=\"ok\"}";
    eventually("all is answered", async || gateway.metric_of(answered).await == 5).await;
    bob.send(&send("last")).await;
    bob.expect_each(&["\"ok\"", "\"last\""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_backend_by_a_capability_is_not_published_once_that_is_revoked() {
    let backend = Backend::start().await;
    let config = guarded(&backend, "timeout = \"20s\"").replace(
        "destination = \"/topic/open",
        "actions = [\"subscribe\"]\ndestination = \"/topic/open",
    );
    let gateway = with_api(&config, "").await;
    let mut bob = RawClient::native(&gateway, "bob").await;
    bob.send(&json!({ "type": "subscribe", "to": YES, "id": 0 }).to_string()).await;
    bob.expect("\"ok\"").await;

    let grant = format!("publish:{YES}");
    let of = async |jti| minted(&["--capability", "--grant", &grant, "--claim", jti]).await;
    let (good, bad) = (of("jti=good").await, of("jti=bad").await);
    let send = |token: &str, data: &str| {
        json!({ "type": "send", "to": YES, "data": data, "token": token, "id": 1 }).to_string()
    };
    backend.hang_on(|kind| kind == "publish");
    let mut ann = RawClient::native(&gateway, "ann").await;
    ann.send(&send(&bad, "by a revoked capability")).await;
    let mut eve = RawClient::native(&gateway, "eve").await;
    eve.send(&send(&good, "by a good capability")).await;
    // Without a session.
    let mallory = bearer("mallory").await;
    let lines = [("Authorization", &*mallory)];
    let body = send(&bad, "without a session");
    let request = post(gateway.public, "/publish", &lines, &body);
    let revoke = async {
        backend.until(&["publish"], 3).await;
        let order = json!({ "token": "bad", "ttl_s": 60 });
        assert_eq!(api::Backend(&gateway, KEY).post("/revoke", &order).await.status, 200);
        backend.hang(false);
    };
    let (refused, ()) = tokio::join!(request, revoke);
    assert_eq!(refused.problem().1, "bad_capability");
    let told = ann.expect("\"error\"").await;
    assert!(told.contains("bad_capability") && told.contains("revoked"), "{told}");
    eve.expect("\"ok\"").await;
    bob.expect("by a good capability").await;
    // It was not the token that she had connected with.
    ann.send(&send(&good, "last")).await;
    ann.expect("\"ok\"").await;
    bob.expect_each(&["\"last\""]).await;
}
