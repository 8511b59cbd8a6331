//! Backends that have a say: who connects, for how long, who subscribes and publishes.

mod actions;
mod requests;
mod standing;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::{self, KEY};
use crate::backend::Backend;
use crate::http::{BARE, With, ask, get, post};
use crate::support::{CONFIG, Gateway, PATIENCE, RawClient};

/// No key: the backend alone knows who clients are.
fn keyless(backend: &Backend, more: &str) -> String {
    let (before, after) = CONFIG.split_once("[[auth.keys]]").unwrap();
    let (_, after) = after.split_once("[[namespaces]]").unwrap();
    format!("{before}[[namespaces]]{after}\n{}{more}", backend.config(""))
        .replace("[listen]\n", "[listen]\nstomp = \"127.0.0.1:0\"\n")
}

/// `t-ann` is ann's token, and `s3cret` ann's passcode; ann operates, if she comes from the page.
fn lets_in_ann(backend: &Backend) {
    backend.on("connect", |event| {
        let by_token = event["token"].as_str().and_then(|token| token.strip_prefix("t-"));
        let by_login = event["login"].as_str().filter(|_| event["passcode"] == "s3cret");
        match by_token.or(by_login) {
            Some("mallory") => (200, json!({ "allow": false, "reason": "banned" })),
            Some(user) => {
                let roles = if event["headers"]["x-page"] == "1" { &["ops"][..] } else { &[] };
                (200, json!({ "allow": true, "user": user, "roles": roles }))
            }
            None => (200, json!({ "allow": true })),
        }
    });
}

/// A gateway that has the server API too, by [`KEY`].
async fn with_api(config: &str, more: &str) -> Gateway {
    let config = config.replace("[listen]\n", "[listen]\napi = \"127.0.0.1:0\"\n");
    let keys = format!("[[api.keys]]\nname = \"a\"\nsecret = \"{KEY}\"\n");
    Gateway::with_config(&format!("{config}\n{more}{keys}")).await
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_decides_who_connects_by_every_transport() {
    let backend = Backend::start().await;
    lets_in_ann(&backend);
    let more = "[hooks]\nconnect = \"backend\"\nforward_headers = [\"x-page\"]\n";
    let gateway = Gateway::with_config(&keyless(&backend, more)).await;
    let native = [("Sec-WebSocket-Protocol", "fanlight.v1.json"), ("X-Page", "1")];

    // Native, with the token in `connect`; the role comes with the answer.
    let mut ann = RawClient::connect(&gateway, "/ws", &native).await;
    ann.send(r#"{"type":"connect","token":"t-ann"}"#).await;
    let connected: Value = serde_json::from_str(&ann.expect("\"connected\"").await).unwrap();
    assert_eq!(connected["user"], "ann");
    let asked = backend.until(&["connect"], 1).await.remove(0);
    assert_eq!(asked["session"], connected["session"]);
    assert_eq!(asked["transport"], "websocket");
    assert_eq!(asked["address"], "127.0.0.1");
    assert_eq!(asked["headers"], json!({ "x-page": "1" }));

    // With the token in the handshake, and refused.
    let bearer = [("Authorization", "Bearer t-mallory"), native[0]];
    let mut mallory = RawClient::connect(&gateway, "/ws", &bearer).await;
    mallory.send(r#"{"type":"connect"}"#).await;
    mallory.expect("banned").await;
    assert_eq!(mallory.close_code().await, 4502);

    // STOMP over WebSocket, by login and passcode.
    let mut stomp =
        RawClient::connect(&gateway, "/ws", &[("Sec-WebSocket-Protocol", "v12.stomp")]).await;
    stomp.send("CONNECT\naccept-version:1.2\nlogin:bob\npasscode:s3cret\n\n\0").await;
    assert!(stomp.expect("CONNECTED").await.contains("user-name:bob"));

    // STOMP over TCP.
    let mut tcp = TcpStream::connect(gateway.stomp.unwrap()).await.unwrap();
    tcp.write_all(b"CONNECT\naccept-version:1.2\nlogin:cy\npasscode:s3cret\n\n\0").await.unwrap();
    let mut frame = vec![0; 1024];
    let read = tokio::time::timeout(PATIENCE, tcp.read(&mut frame)).await.unwrap().unwrap();
    let frame = String::from_utf8_lossy(&frame[..read]).into_owned();
    assert!(frame.starts_with("CONNECTED") && frame.contains("user-name:cy"), "{frame}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_decides_about_requests_too_and_a_refusal_is_a_status() {
    let backend = Backend::start().await;
    lets_in_ann(&backend);
    let more = "[hooks]\nconnect = \"backend\"\n";
    let gateway = Gateway::with_config(&keyless(&backend, more)).await;
    // A poll that goes on asks nobody.
    let events = "/events?destination=/topic/open.a&access_token=t-mallory";
    assert_eq!(get(gateway.public, events, &[]).await.status, 401);
    let poll = "/poll?destination=/topic/open.a&wait=0&access_token=t-dan";
    let page = get(gateway.public, poll, &[]).await;
    assert_eq!(page.status, 200, "{page:?}");
    let cursor = page.json()["cursor"].as_str().unwrap().to_owned();
    let polls = || backend.seen(&["connect"]).iter().filter(|e| e["transport"] == "poll").count();
    assert_eq!(polls(), 1);
    let again = format!("{poll}&cursor={cursor}");
    assert_eq!(get(gateway.public, &again, &[]).await.status, 200);
    assert_eq!(polls(), 1, "the mailbox is known by its token");
    // Another's token does not get at it: that is a new session.
    let stolen = again.replace("t-dan", "t-eve");
    assert_eq!(get(gateway.public, &stolen, &[]).await.status, 200);
    assert_eq!(polls(), 2);
    let banned = again.replace("t-dan", "t-mallory");
    assert_eq!(get(gateway.public, &banned, &[]).await.status, 401);

    // SockJS over HTTP.
    let xhr = "/sockjs/000/abcdefgh/xhr";
    assert_eq!(ask(gateway.public, "POST", xhr, BARE).await.body, "o\n");
    let connect = r#"["CONNECT\naccept-version:1.2\nlogin:fay\npasscode:s3cret\n\n\u0000"]"#;
    let sent = ask(
        gateway.public,
        "POST",
        "/sockjs/000/abcdefgh/xhr_send",
        With { headers: &[], body: connect },
    )
    .await;
    assert_eq!(sent.status, 204, "{sent:?}");
    let received = ask(gateway.public, "POST", xhr, BARE).await;
    assert!(received.body.contains("user-name:fay"), "{received:?}");

    // And what comes without a session.
    let body = r#"{"to":"/topic/open.a","data":1}"#;
    let by = |token: &str| format!("Bearer {token}");
    let ann = post(gateway.public, "/publish", &[("Authorization", &by("t-ann"))], body).await;
    assert_eq!(ann.status, 200, "{ann:?}");
    let mallory =
        post(gateway.public, "/publish", &[("Authorization", &by("t-mallory"))], body).await;
    assert_eq!(mallory.status, 401, "{mallory:?}");
    // A backend that is away lets nobody in, and says that it is its fault.
    backend.fail(true);
    let nobody = post(gateway.public, "/publish", &[("Authorization", &by("t-ann"))], body).await;
    assert_eq!(nobody.status, 503, "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_publishes_for_a_while_without_a_question_but_not_once_revoked() {
    let backend = Backend::start().await;
    lets_in_ann(&backend);
    let more =
        "[hooks]\nconnect = \"backend\"\nconnect_reuse = \"5m\"\nforward_headers = [\"x-page\"]\n";
    let gateway = with_api(&keyless(&backend, ""), more).await;
    let publish = async |token: &str, page: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", &*bearer), ("X-Page", page)];
        post(gateway.public, "/publish", &headers, r#"{"to":"/topic/open.a","data":1}"#)
            .await
            .status
    };
    let asked = || backend.seen(&["connect"]).len();
    for (token, page, status, questions) in [
        ("t-ann", "0", 200, 1),
        ("t-ann", "0", 200, 1),
        ("t-ann", "1", 200, 2),
        ("t-bob", "0", 200, 3),
        // A refusal is not kept.
        ("t-mallory", "0", 401, 4),
        ("t-mallory", "0", 401, 5),
    ] {
        let got = publish(token, page).await;
        assert_eq!((got, asked()), (status, questions), "{token} {page}");
    }
    let revoked = api::Backend(&gateway, KEY);
    let revoked = revoked.post("/revoke", &json!({ "user": "ann", "ttl_s": 60 })).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    for (token, status) in [("t-ann", 401), ("t-bob", 200)] {
        assert_eq!(publish(token, "0").await, status, "{token}");
    }
    // Nor is ann let in where the backend is asked.
    assert_eq!((publish("t-ann", "2").await, asked()), (401, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_time_is_over_goes_on_for_as_long_as_the_backend_says() {
    let backend = Backend::start().await;
    backend.on("connect", |_| {
        (200, json!({ "allow": true, "user": "ann", "expires_at": unix_s() + 2 }))
    });
    backend.on("refresh", |event| {
        // A client's own new token is good for long.
        let seconds = if event["token"].is_null() { 2 } else { 1000 };
        (200, json!({ "allow": true, "expires_at": unix_s() + seconds }))
    });
    let more = "[hooks]\nconnect = \"backend\"\nrefresh = \"backend\"\n";
    let gateway = Gateway::with_config(&keyless(&backend, more)).await;
    let native = [("Sec-WebSocket-Protocol", "fanlight.v1.json")];
    let mut ann = RawClient::connect(&gateway, "/ws", &native).await.begun_native().await;
    let mut other = RawClient::connect(&gateway, "/ws", &native).await.begun_native().await;
    other.send(r#"{"type":"refresh","token":"opaque","id":1}"#).await;
    other.expect("\"ok\"").await;
    let asked = backend.until(&["refresh"], 3).await;
    assert!(asked.iter().all(|event| event["user"] == "ann"));
    assert_eq!(asked.iter().filter(|event| event["token"] == "opaque").count(), 1);
    ann.send(r#"{"type":"ping","id":2}"#).await;
    ann.expect("\"pong\"").await;
    backend.on("refresh", |_| (200, json!({ "allow": false })));
    ann.expect("token_expired").await;
    other.send(r#"{"type":"ping","id":3}"#).await;
    other.expect("\"pong\"").await;
}

const GUARDED: &str = r#"
workers = 1
[[namespaces]]
name = "guarded"
match = "/topic/open.guarded.*"
subscribe_hook = "backend"
publish_hook = "backend"
"#;

/// [`CONFIG`] with a namespace before its others that the backend has a say in.
fn guarded(backend: &Backend, more: &str) -> String {
    let (workers, guarded) = GUARDED.split_once("[[").unwrap();
    let config = CONFIG.replace("\nworkers = 2\n", workers);
    let (before, after) = config.split_once("[[namespaces]]").unwrap();
    format!("{before}[[{guarded}\n[[namespaces]]{after}\n{}", backend.config(more))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_has_a_say_in_subscriptions_and_publications_after_the_policy() {
    let backend = Backend::start().await;
    backend.on("subscribe", |event| {
        let allow = event["destination"] != "/topic/open.guarded.no";
        (200, json!({ "allow": allow, "reason": "full" }))
    });
    backend.on("publish", |event| match event["data"]["word"].as_str() {
        Some("bad") => (200, json!({ "allow": false, "reason": "language" })),
        Some("mild") => (200, json!({ "allow": true, "data": { "word": "***" } })),
        _ => (200, json!({ "allow": true })),
    });
    let gateway = Gateway::with_config(&guarded(&backend, "")).await;
    let mut ann = RawClient::native(&gateway, "ann").await;
    ann.send(r#"{"type":"subscribe","to":"/topic/open.guarded.no","id":1}"#).await;
    assert!(ann.expect("forbidden").await.contains("full"));
    ann.send(r#"{"type":"subscribe","to":"/topic/open.guarded.a","id":2}"#).await;
    ann.expect("\"ok\"").await;
    // What the policy forbids, no backend is asked about.
    ann.send(r#"{"type":"subscribe","to":"/topic/closed","id":3}"#).await;
    ann.expect("forbidden").await;
    assert_eq!(backend.seen(&["subscribe"]).len(), 2);
    assert_eq!(backend.seen(&["subscribe"])[1]["user"], "ann");

    // Together: the answers come in order, whatever each is, and so does what is published.
    let words = ["bad", "mild", "fine"];
    let sends = words.iter().enumerate().map(|(id, word)| {
        json!({ "type": "send", "to": "/topic/open.guarded.a", "data": { "word": word }, "id": id })
    });
    ann.send(&sends.collect::<Value>().to_string()).await;
    ann.expect("language").await;
    let mut heard = Vec::new();
    let mut confirmed = Vec::new();
    while heard.len() < 2 || confirmed.len() < 2 {
        let told: Value = serde_json::from_str(&ann.expect("").await).unwrap();
        match told["type"].as_str() {
            Some("message") => heard.push(told["data"]["word"].clone()),
            _ => confirmed.push(told["id"].clone()),
        }
    }
    assert_eq!((heard, confirmed), (vec![json!("***"), json!("fine")], vec![json!(1), json!(2)]));

    // STOMP, with a text; and what comes without a session.
    let mut bob = RawClient::stomp(&gateway, "bob").await;
    bob.send("SEND\ndestination:/topic/open.guarded.a\nx-a:1\nreceipt:r\n\nhello\0").await;
    bob.expect("RECEIPT").await;
    let told = backend.until(&["publish"], 4).await.remove(3);
    assert_eq!((&told["encoding"], &told["data"]), (&json!("text"), &json!("hello")));
    assert_eq!(told["headers"]["x-a"], "1");
    // A body without a type that is not JSON travels as base64.
    ann.expect("aGVsbG8=").await;
    let bearer = format!("Bearer {}", crate::support::token("cy", &["r"]).await);
    let body = r#"{"to":"/topic/open.guarded.a","data":{"word":"bad"}}"#;
    let refused = post(gateway.public, "/publish", &[("Authorization", &bearer)], body).await;
    assert_eq!(refused.problem(), (403, "forbidden".into()));
    assert_eq!(backend.seen(&["publish"])[4]["roles"], json!(["r"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_hangs_or_fails_holds_up_only_who_needs_it() {
    let backend = Backend::start().await;
    let options = "timeout = \"1500ms\"\nbreaker_failures = 4\nbreaker_pause = \"3s\"";
    let gateway = Gateway::with_config(&guarded(&backend, options)).await;
    let mut ann = RawClient::native(&gateway, "ann").await;
    let mut bob = RawClient::native(&gateway, "bob").await;
    bob.send(r#"{"type":"subscribe","to":"/topic/open.b","id":0}"#).await;
    bob.expect("\"ok\"").await;
    backend.hang(true);
    let begun = Instant::now();
    ann.send(r#"{"type":"send","to":"/topic/open.guarded.a","data":1,"id":1}"#).await;
    backend.until(&["publish"], 1).await;
    // The one worker of this node does as if nothing were.
    for id in 0..50 {
        bob.send(&format!(r#"{{"type":"send","to":"/topic/open.b","data":1,"id":{id}}}"#)).await;
        bob.expect_each(&["\"message\"", "\"ok\""]).await;
    }
    assert!(begun.elapsed() < Duration::from_millis(1400), "{:?}", begun.elapsed());
    let refused: Value = serde_json::from_str(&ann.expect("\"error\"").await).unwrap();
    assert_eq!((&refused["code"], &refused["id"]), (&json!("timeout"), &json!(1)));
    backend.hang(false);
    backend.fail(true);
    // Each failure is told, and at last nothing is even sent.
    for id in 2..7 {
        let send = json!({ "type": "send", "to": "/topic/open.guarded.a", "data": 1, "id": id });
        ann.send(&send.to_string()).await;
        let refused: Value = serde_json::from_str(&ann.expect("\"error\"").await).unwrap();
        assert_eq!((&refused["code"], &refused["id"]), (&json!("unavailable"), &json!(id)));
        assert!(refused["retry_after_ms"].is_u64(), "{refused}");
    }
    let open = r#"fanlight_webhook_breaker_open{webhook="backend"}"#;
    assert_eq!(gateway.metric_of(open).await, 1);
    let result = "result=\"breaker_open\"";
    let (_, metrics) = gateway.admin_get("/metrics").await;
    assert!(metrics.contains(result), "{metrics}");
    backend.fail(false);
    let deadline = Instant::now() + PATIENCE;
    loop {
        ann.send(r#"{"type":"send","to":"/topic/open.guarded.a","data":1,"id":9}"#).await;
        if ann.expect("\"id\":9").await.contains("\"ok\"") {
            break;
        }
        assert!(Instant::now() < deadline, "it is never asked again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(gateway.metric_of(open).await, 0);
}

/// What backends let clients do, as grants in claims.
fn granted(destination: &str, expires_in_s: u64) -> Value {
    let grants = json!({ "subscribe": [destination], "publish": ["/topic/orders.{user}"] });
    let expires_at = unix_s() + expires_in_s;
    json!({
        "allow": true, "user": "ann", "claims": { "fanlight": grants }, "expires_at": expires_at,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backend_grants_at_connect_counts_until_a_refresh_replaces_it() {
    let backend = Backend::start().await;
    backend.on("connect", |_| (200, granted("/topic/orders.*", 3)));
    backend.on("refresh", |event| match event["token"].as_str() {
        // Of itself, when its time is over.
        None => (200, granted("/topic/orders.ann", 1000)),
        Some(_) => (200, granted("/topic/orders.new", 1000)),
    });
    let more = "[hooks]\nconnect = \"backend\"\nrefresh = \"backend\"\n";
    let gateway = Gateway::with_config(&keyless(&backend, more)).await;
    let native = [("Sec-WebSocket-Protocol", "fanlight.v1.json")];
    let mut ann = RawClient::connect(&gateway, "/ws", &native).await.begun_native().await;
    for (id, (request, to, told)) in [
        ("subscribe", "/topic/orders.ann", "\"ok\""),
        ("subscribe", "/topic/orders.bob", "\"ok\""),
        ("subscribe", "/topic/elsewhere", "\"forbidden\""),
        ("subscribe", "/user/bob/queue/a", "\"forbidden\""),
        // Another's, by the user's own name.
        ("send", "/topic/orders.bob", "\"forbidden\""),
    ]
    .into_iter()
    .enumerate()
    {
        let data = if request == "send" { "\"data\":1," } else { "" };
        ann.send(&format!(r#"{{"type":"{request}","to":"{to}",{data}"id":{id}}}"#)).await;
        let answer = ann.expect(&format!("\"id\":{id}")).await;
        assert!(answer.contains(told), "{request} {to}: {answer}");
    }
    ann.send(r#"{"type":"send","to":"/topic/orders.ann","data":"mine","id":9}"#).await;
    ann.expect_each(&["\"ok\"", "mine"]).await;

    // STOMP can't end one subscription and say why, so the session ends.
    let mut stomp =
        RawClient::connect(&gateway, "/ws", &[("Sec-WebSocket-Protocol", "v12.stomp")]).await;
    stomp.send("CONNECT\naccept-version:1.2\n\n\0").await;
    stomp.expect("CONNECTED").await;
    let subscribe = "SUBSCRIBE\nid:1\ndestination:/topic/orders.bob\nreceipt:r\n\n\0";
    stomp.send(subscribe).await;
    stomp.expect("RECEIPT").await;

    let ended = ann.expect("\"error\"").await;
    assert!(ended.contains("forbidden") && ended.contains("/topic/orders.bob"), "{ended}");
    let error = stomp.expect("ERROR").await;
    assert!(error.contains("code:forbidden") && error.contains("/topic/orders.bob"), "{error}");
    ann.send(r#"{"type":"send","to":"/topic/orders.ann","data":"still","id":10}"#).await;
    ann.expect_each(&["\"ok\"", "still"]).await;
    ann.send(r#"{"type":"refresh","token":"new","id":11}"#).await;
    let ended = ann.expect("\"error\"").await;
    assert!(ended.contains("forbidden") && ended.contains("/topic/orders.ann"), "{ended}");
    ann.expect("\"id\":11").await;
    ann.send(r#"{"type":"subscribe","to":"/topic/orders.new","id":12}"#).await;
    ann.expect(r#"{"type":"ok","id":12"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_backend_does_not_let_subscribe_it_does_not_let_read_either() {
    let backend = Backend::start().await;
    backend.on("subscribe", |event| {
        let allow = event["user"] == "ann" && event["destination"] != "/topic/open.guarded.no";
        (200, json!({ "allow": allow, "reason": "not yours" }))
    });
    let config = guarded(&backend, "").replace(
        "match = \"/topic/open.guarded.*\"\n",
        "match = \"/topic/open.guarded.*\"\nhistory = { size = 10, ttl = \"1m\" }\npresence = true\n",
    );
    let gateway = Gateway::with_config(&config).await;
    let mut ann = RawClient::native(&gateway, "ann").await;
    let mut bob = RawClient::native(&gateway, "bob").await;
    let request = |kind: &str, to: &str, id: u32| {
        json!({ "type": kind, "to": format!("/topic/open.guarded.{to}"), "limit": 5, "id": id })
            .to_string()
    };
    ann.send(r#"{"type":"send","to":"/topic/open.guarded.a","data":"kept","id":0}"#).await;
    ann.expect("\"ok\"").await;
    for (id, kind) in ["history", "presence"].into_iter().enumerate() {
        bob.send(&request(kind, "a", id as u32)).await;
        let told = bob.expect(&format!("\"id\":{id}")).await;
        assert!(told.contains("forbidden") && told.contains("not yours"), "{kind}: {told}");
    }
    ann.send(&request("history", "no", 1)).await;
    ann.expect("\"forbidden\"").await;
    ann.send(&request("history", "a", 2)).await;
    ann.expect("kept").await;
    let asked = backend.seen(&["subscribe"]);
    let actions: Vec<_> = asked.iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["history", "presence", "history", "history"]);
}
