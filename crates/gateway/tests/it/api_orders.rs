//! What backends have done to sessions and histories by the server API of real nodes over a real
//! Redis: subscribing users, revoking tokens, removing histories, sending to one session.

use std::time::{Duration, Instant};

use fanlight_testkit::RedisServer;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::api::{Backend, KEY, node, subscribed, two};
use crate::http::{Stream, get, headers};
use crate::returning::{bearer, named};
use crate::support::{CONFIG, Gateway, RawClient, SECRET, eventually, minted, with_redis};

const NATIVE: (&str, &str) = ("Sec-WebSocket-Protocol", "fanlight.v1.json");

/// A token with these claims besides `sub`, `iat` and `exp`.
async fn token_with(user: &str, claims: &[&str]) -> String {
    let claims = claims.iter().flat_map(|claim| ["--claim", claim]);
    minted(&["--user", user].into_iter().chain(claims).collect::<Vec<_>>()).await
}

/// A connected native client, and its session's id; or the response that refused it.
async fn connect(gateway: &Gateway, token: &str) -> Result<(RawClient, String), String> {
    let bearer = format!("Bearer {token}");
    let headers = [NATIVE, ("Authorization", &*bearer)];
    let mut client = RawClient::try_connect(gateway, "/ws", &headers).await?;
    client.send(r#"{"type":"connect"}"#).await;
    let connected: Value = serde_json::from_str(&client.expect("\"connected\"").await).unwrap();
    Ok((client, connected["session"].as_str().unwrap().to_owned()))
}

/// Whether the handshake with this token is refused.
async fn is_refused(gateway: &Gateway, token: &str) -> bool {
    let bearer = format!("Bearer {token}");
    let headers = [NATIVE, ("Authorization", &*bearer)];
    RawClient::try_connect(gateway, "/ws", &headers).await.is_err()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_everywhere_also_by_nodes_that_start_later() {
    let (mut redis, one, other) = two().await;
    let backend = Backend(&one, KEY);
    let bad = token_with("ann", &["jti=bad"]).await;
    let good = token_with("ann", &["jti=good"]).await;
    let (mut here, _) = connect(&one, &bad).await.unwrap();
    let (mut there, _) = connect(&other, &bad).await.unwrap();
    let (mut kept, _) = connect(&other, &good).await.unwrap();
    // The registry has nothing to do with it: one that has only shaken hands goes too.
    let bearer = format!("Bearer {bad}");
    let headers = [NATIVE, ("Authorization", &*bearer)];
    let mut silent = RawClient::connect(&other, "/ws", &headers).await;

    let begun = Instant::now();
    let revoked = backend.post("/revoke", &json!({ "token": "bad", "ttl_s": 3600 })).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    for client in [&mut here, &mut there, &mut silent] {
        client.expect("\"revoked\"").await;
        assert_eq!(client.close_code().await, 4513);
    }
    let took = begun.elapsed();
    eprintln!("sessions of two nodes were ended {took:?} after the revocation was asked for");
    assert!(took < Duration::from_secs(5), "{took:?}");

    let third = node(&redis).await;
    for gateway in [&one, &other, &third] {
        let refused = connect(gateway, &bad).await.err().expect("it is refused");
        assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
        connect(gateway, &good).await.expect("the other token is good");
    }
    let refresh = |token: &str| json!({ "type": "refresh", "token": token, "id": 9 }).to_string();
    kept.send(&refresh(&bad)).await;
    kept.expect("\"revoked\"").await;
    kept.send(&refresh(&good)).await;
    kept.expect("\"ok\"").await;
    assert!(other.metric_of("fanlight_tokens_total{result=\"revoked\"}").await >= 2);
    assert_eq!(other.metric("fanlight_revocations").await, 1);

    // Redis comes back without its data: who knows it gives it back, for those who start then.
    redis.kill();
    redis.launch().unwrap();
    let fourth = node(&redis).await;
    eventually("it is refused there too", async || is_refused(&fourth, &bad).await).await;
    eventually("Redis is used again", async || {
        backend.post("/revoke", &json!({ "token": "x", "ttl_s": 60 })).await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_while_redis_is_away_lets_no_token_in_before_it_knows_what_is_revoked() {
    let redis = RedisServer::start().unwrap();
    let [bad, good] = [token_with("ann", &["jti=bad"]).await, token_with("bob", &[]).await];
    let first = node(&redis).await;
    let revoked =
        Backend(&first, KEY).post("/revoke", &json!({ "token": "bad", "ttl_s": 3600 })).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    redis.pause().unwrap();
    let config = CONFIG.replace("name = \"topic\"\n", "name = \"topic\"\nanonymous = true\n");
    let late = Gateway::with_config(&with_redis(&config, &redis)).await;
    for token in [&bad, &good] {
        let refused = connect(&late, token).await.err().expect("it is refused");
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
        assert!(refused.contains("revocations_unknown"), "{refused}");
    }
    // By CONNECT too; and who comes without a token is served.
    let mut client = RawClient::connect(&late, "/ws", &[NATIVE]).await;
    client.send(&json!({ "type": "connect", "token": good }).to_string()).await;
    client.expect("\"unavailable\"").await;
    let mut nobody = RawClient::connect(&late, "/ws", &[NATIVE]).await;
    nobody.send(r#"{"type":"connect"}"#).await;
    nobody.expect("\"connected\"").await;
    assert_eq!(late.admin_get("/readyz").await.0, 503);
    redis.resume().unwrap();
    eventually("it is ready", async || late.admin_get("/readyz").await.0 == 200).await;
    connect(&late, &good).await.expect("it is good");
    let refused = connect(&late, &bad).await.err().expect("it is revoked");
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_or_a_session_is_revoked_with_the_tokens_issued_until_then() {
    let (_redis, one, other) = two().await;
    let backend = Backend(&one, KEY);
    let old = token_with("ann", &["iat=1000"]).await;
    let undated = token_with("ann", &["iat=null"]).await;
    let (mut client, _) = connect(&other, &old).await.unwrap();
    let (mut undated_client, _) = connect(&one, &undated).await.unwrap();
    let (mut bob, _) = connect(&other, &token_with("bob", &["iat=1000"]).await).await.unwrap();
    let request = json!({ "user": "ann", "issued_until": 2000, "ttl_s": 3600 });
    assert_eq!(backend.post("/revoke", &request).await.status, 200);
    for client in [&mut client, &mut undated_client] {
        client.expect("\"revoked\"").await;
    }
    assert!(connect(&other, &old).await.is_err());
    let later = token_with("ann", &["iat=2001"]).await;
    let (mut ann, session) = connect(&other, &later).await.expect("it was issued later");
    bob.send(r#"{"type":"ping"}"#).await;
    bob.expect("\"pong\"").await;

    // A session's token has no name here, and can be revoked all the same.
    let (mut again, _) = connect(&one, &later).await.unwrap();
    let request = json!({ "session": session, "ttl_s": 3600 });
    let told = backend.post("/revoke", &request).await;
    assert_eq!((told.status, &told.json()["nodes"]), (200, &json!(2)), "{told:?}");
    ann.expect("\"revoked\"").await;
    again.expect("\"revoked\"").await;
    for gateway in [&one, &other] {
        eventually("it is refused", async || is_refused(gateway, &later).await).await;
    }
    for bad in [
        json!({ "ttl_s": 60 }),
        json!({ "token": "a", "user": "b", "ttl_s": 60 }),
        json!({ "token": "a", "ttl_s": 0 }),
        json!({ "token": "", "ttl_s": 60 }),
        json!({ "token": "a", "issued_until": 5, "ttl_s": 60 }),
        json!({ "session": "x", "ttl_s": 60 }),
    ] {
        assert_eq!(backend.post("/revoke", &bad).await.problem().0, 400, "{bad}");
    }
}

/// A node without Redis that has the server API and stores so many revocations.
async fn single(revocations: u32) -> Gateway {
    let revocations = format!("sessions_per_user = 0\nrevocations = {revocations}\n");
    let config = CONFIG
        .replace("admin = \"127.0.0.1:0\"\n", "admin = \"127.0.0.1:0\"\napi = \"127.0.0.1:0\"\n")
        .replace("sessions_per_user = 0\n", &revocations);
    let key = format!("[[api.keys]]\nname = \"a\"\nsecret = \"{KEY}\"\n");
    Gateway::with_config(&format!("{config}\n{key}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_shown_with_what_they_do_and_refusals_name_them() {
    let more = format!(
        r#"
[[webhooks]]
name = "shop"
url = "http://127.0.0.1:1/"
secret = "a secret for tests, thirty-two bytes or more"
allow_private = true
[[namespaces]]
name = "prices"
match = "/queue/prices.*"
conflate = "250ms"
conflate_key = "symbol"
publish_hook = "shop"
subscribe_hook = "shop"
[[api.keys]]
name = "a"
secret = "{KEY}"
"#
    );
    let config = CONFIG
        .replace("admin = \"127.0.0.1:0\"\n", "admin = \"127.0.0.1:0\"\napi = \"127.0.0.1:0\"\n");
    let gateway = Gateway::with_config(&format!("{config}\n{more}")).await;
    let backend = Backend(&gateway, KEY);
    let namespaces = backend.get("/namespaces").await.json()["namespaces"].take();
    let shown = json!({ "name": "prices", "match": "/queue/prices.*", "mode": "topic",
        "patterns": false, "anonymous": false, "presence": false, "events": false,
        "conflate_ms": 250, "conflate_key": "symbol",
        "publish_hook": "shop", "subscribe_hook": "shop" });
    assert_eq!(namespaces[2], shown);
    for (path, code, parts) in [
        ("/presence?destination=/topic/a", "forbidden", ["\"topic\"", "`presence = true`"]),
        ("/history?destination=/topic/a", "no_history", ["\"topic\"", "`history`"]),
        ("/presence?destination=/queue/a", "forbidden", ["/queue/a", "`match`"]),
        ("/history?destination=/app/a", "no_handler", ["/app/a", "/topic"]),
        ("/presence?limit=1", "bad_query", ["`destination`", "openapi.json"]),
    ] {
        let refused = backend.get(path).await;
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(refused.problem().1, code, "{path}");
        assert!(parts.iter().all(|part| detail.contains(part)), "{path}: {detail}");
    }
    let incomplete = backend.post("/publish", &json!({ "to": "/topic/a" })).await;
    assert_eq!(incomplete.problem(), (400, "bad_body".into()));
    let detail = incomplete.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("missing field `data`") && detail.contains("to, data"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_capability_is_refused_and_ends_the_sessions_that_subscribe_by_it() {
    let gateway = single(10).await;
    let grant = ["--capability", "--grant", "subscribe:/topic/orders.*", "--claim", "jti=order"];
    let capability = minted(&grant).await;
    let token = token_with("ann", &[]).await;
    let (mut ann, _) = connect(&gateway, &token).await.unwrap();
    let (mut other, _) = connect(&gateway, &token).await.unwrap();
    let subscribe =
        json!({ "type": "subscribe", "to": "/topic/orders.42", "token": capability, "id": 1 });
    ann.send(&subscribe.to_string()).await;
    ann.expect("\"ok\"").await;
    let request = json!({ "token": "order", "ttl_s": 3600 });
    assert_eq!(Backend(&gateway, KEY).post("/revoke", &request).await.status, 200);
    ann.expect("\"revoked\"").await;
    assert_eq!(ann.close_code().await, 4513);
    // It was not the token to connect with.
    other.send(&subscribe.to_string()).await;
    let told = other.expect("\"error\"").await;
    assert!(told.contains("bad_capability") && told.contains("revoked"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_revokes_too_and_has_a_bound() {
    let gateway = single(1).await;
    let token = token_with("ann", &["jti=one"]).await;
    let (mut client, _) = connect(&gateway, &token).await.unwrap();
    let backend = Backend(&gateway, KEY);
    let revoke =
        async |id: &str| backend.post("/revoke", &json!({ "token": id, "ttl_s": 60 })).await;
    assert_eq!(revoke("one").await.status, 200);
    client.expect("\"revoked\"").await;
    assert!(connect(&gateway, &token).await.is_err());
    assert_eq!(revoke("two").await.problem(), (507, "full".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_subscribed_on_every_node_and_told_in_its_protocol() {
    let (_redis, one, other) = two().await;
    let backend = Backend(&one, KEY);
    let mut native = RawClient::native(&other, "ann").await;
    let mut stomp = RawClient::stomp(&one, "ann").await;
    let mut own = RawClient::native(&other, "ann").await;
    own.send(r#"{"type":"subscribe","to":"/topic/closed/7","id":1}"#).await;
    own.expect("\"forbidden\"").await;
    let change = async |what: &str, to: &str| {
        let body = json!({ "destination": to });
        backend.post(&format!("/users/ann/{what}"), &body).await.json()
    };
    // No rule allows clients to subscribe here: the backend may.
    let told = change("subscribe", "/topic/closed/7").await;
    assert_eq!(told, json!({ "sessions": 3, "nodes": 2 }));
    for client in [&mut native, &mut own] {
        let told = parsed(&client.expect("\"subscribed\"").await);
        assert_eq!((&told["to"], &told["offset"]), (&json!("/topic/closed/7"), &json!(0)));
    }
    let publish = async |data: &str| {
        let message = json!({ "to": "/topic/closed/7", "data": data });
        assert_eq!(backend.post("/publish", &message).await.status, 200);
    };
    // Nothing tells a STOMP client; but its own requests wait until the subscription is live.
    let settled = async |stomp: &mut RawClient, id: &str| {
        eventually("the order has come", async || one.metric("fanlight_subscriptions").await == 1)
            .await;
        stomp.send(&format!("BEGIN\ntransaction:{id}\nreceipt:{id}\n\n\0")).await;
        stomp.expect(&format!("receipt-id:{id}")).await;
    };
    settled(&mut stomp, "one").await;
    publish("first").await;
    native.expect("\"first\"").await;
    own.expect("\"first\"").await;
    let frame = stomp.expect("first").await;
    assert!(frame.contains("\nsubscription:server\\c/topic/closed/7\n"), "{frame}");

    // Once is enough.
    assert_eq!(change("subscribe", "/topic/closed/7").await["sessions"], 3);
    publish("second").await;
    native.expect("\"second\"").await;
    stomp.expect("second").await;

    assert_eq!(change("unsubscribe", "/topic/closed/7").await["sessions"], 3);
    let told = parsed(&native.expect("\"unsubscribed\"").await);
    assert_eq!(told["to"], "/topic/closed/7");
    eventually("nobody is subscribed", async || {
        one.metric("fanlight_subscriptions").await + other.metric("fanlight_subscriptions").await
            == 0
    })
    .await;
    publish("third").await;
    native.send(r#"{"type":"ping"}"#).await;
    let next = native.expect("\"").await;
    assert!(next.contains("\"pong\""), "{next}");

    // Its own destination, which the client then takes over.
    assert_eq!(change("subscribe", "/user/queue/orders").await["sessions"], 3);
    native.expect("\"subscribed\"").await;
    native.send(r#"{"type":"subscribe","to":"/user/queue/orders","id":1}"#).await;
    native.expect("\"ok\"").await;
    settled(&mut stomp, "two").await;
    let message = json!({ "to": "/user/queue/orders", "data": "paid" });
    assert_eq!(backend.post("/users/ann/messages", &message).await.status, 200);
    native.expect("\"paid\"").await;
    stomp.expect("paid").await;
    assert_eq!(change("subscribe", "/queue/x").await["code"], "forbidden");
    assert_eq!(change("subscribe", "/app/x").await["code"], "no_handler");
    assert_eq!(change("subscribe", "/topic/*").await["status"], 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_subscribed_to_what_is_anothers_own() {
    let (_redis, one, _other) = two().await;
    let backend = Backend(&one, KEY);
    for (to, problem) in [
        ("/user/bob/queue/orders", (400, "bad_destination")),
        ("/user/~01a2/queue/orders", (403, "forbidden")),
    ] {
        let refused = backend.post("/users/ann/subscribe", &json!({ "destination": to })).await;
        assert_eq!(refused.problem(), (problem.0, problem.1.to_owned()), "{to}");
    }
    let own = json!({ "destination": "/user/ann/queue/orders" });
    assert_eq!(backend.post("/users/ann/subscribe", &own).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_by_events_or_polls_is_subscribed_too_and_told() {
    let (_redis, one, other) = two().await;
    let backend = Backend(&one, KEY);
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    let target = "/events?destination=/user/queue/own";
    let mut events = Stream::open(other.public, "GET", target, headers(&lines)).await;
    named(&mut events, "connected").await;
    named(&mut events, "subscribed").await;
    let mut cursor = String::new();
    // The next message of this type to the one that polls.
    let mut polled = async |kind: &str| loop {
        let target = format!("/poll?destination=/user/queue/own&cursor={cursor}&wait=10s");
        let page = get(one.public, &target, &lines).await.json();
        page["cursor"].as_str().expect("a page").clone_into(&mut cursor);
        let messages = page["messages"].as_array().unwrap();
        if let Some(found) = messages.iter().find(|message| message["type"] == kind) {
            return found.clone();
        }
    };
    polled("ok").await;
    let change = async |what: &str| {
        let body = json!({ "destination": "/topic/closed/7" });
        backend.post(&format!("/users/ann/{what}"), &body).await.json()
    };
    let publish = async |to: &str, data: &str| {
        let message = json!({ "to": to, "data": data });
        assert_eq!(backend.post("/publish", &message).await.status, 200);
    };
    assert_eq!(change("subscribe").await, json!({ "sessions": 2, "nodes": 2 }));
    let told = parsed(&named(&mut events, "subscribed").await.data);
    assert_eq!((&told["type"], &told["to"]), (&json!("subscribed"), &json!("/topic/closed/7")));
    assert_eq!(polled("subscribed").await["to"], "/topic/closed/7");
    publish("/topic/closed/7", "first").await;
    let message = named(&mut events, "message").await;
    assert_eq!((&parsed(&message.data)["data"], &message.id), (&json!("first"), &None));
    assert_eq!(polled("message").await["data"], "first");

    assert_eq!(change("unsubscribe").await, json!({ "sessions": 2, "nodes": 2 }));
    assert_eq!(parsed(&named(&mut events, "unsubscribed").await.data)["to"], "/topic/closed/7");
    assert_eq!(polled("unsubscribed").await["to"], "/topic/closed/7");
    publish("/topic/closed/7", "second").await;
    publish("/user/ann/queue/own", "own").await;
    let message = named(&mut events, "message").await;
    assert_eq!(parsed(&message.data)["data"], "own");
    assert_eq!(polled("message").await["data"], "own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_removed_history_had_is_given_to_nobody_and_live_subscribers_go_on() {
    let (_redis, one, other) = two().await;
    let backend = Backend(&one, KEY);
    let to = "/topic/open.orders";
    let mut live = subscribed(&other, "ann", to).await;
    let publish = async |n: usize| {
        let told = backend.post("/publish", &json!({ "to": to, "data": n })).await.json();
        (told["epoch"].as_str().unwrap().to_owned(), told["offset"].as_u64().unwrap())
    };
    let (epoch, _) = publish(1).await;
    publish(2).await;
    let (_, top) = publish(3).await;
    for n in 1..=3 {
        live.expect(&format!("\"data\":{n},")).await;
    }
    let path = format!("/history?destination={to}");
    let removed = backend.ask("DELETE", &path, &[], "").await;
    let position = format!("{epoch}:{top}");
    assert_eq!(removed.json(), json!({ "removed": 3, "position": position }));
    for gateway in [&one, &other] {
        let page = Backend(gateway, KEY).get(&path).await.json();
        assert_eq!(page["messages"], json!([]), "{page}");
    }
    let since = |offset: u64| {
        let since = json!({ "epoch": epoch, "offset": offset });
        json!({ "type": "subscribe", "to": to, "since": since, "id": 1 }).to_string()
    };
    for (offset, recovered) in [(1, false), (top, true)] {
        let mut back = RawClient::native(&other, "bob").await;
        back.send(&since(offset)).await;
        let told = parsed(&back.expect("\"ok\"").await);
        assert_eq!(told["recovered"], recovered, "{told}");
    }
    // Nothing was lost to who had all of it.
    publish(4).await;
    let next = live.expect("\"").await;
    assert!(next.contains("\"data\":4,"), "{next}");
    let reader = Backend(&one, "the key of a backend that may only read orders");
    let refused = reader.ask("DELETE", &path, &[], "").await;
    assert_eq!(refused.problem(), (403, "forbidden".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_found_by_its_id_on_whichever_node_it_is() {
    let (mut redis, one, other) = two().await;
    let bearer = format!("Bearer {}", token_with("ann", &[]).await);
    let (_here, here) = connect(&one, &token_with("bob", &[]).await).await.unwrap();
    let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "v12.stomp")];
    let mut there = RawClient::connect(&other, "/ws", &headers).await;
    there.send("CONNECT\naccept-version:1.2\nhost:x\n\n\0").await;
    let connected = there.expect("CONNECTED").await;
    let session = connected.split("\nsession:").nth(1).unwrap().split('\n').next().unwrap();
    there.send("SUBSCRIBE\nid:s\nreceipt:r\ndestination:/topic/open.a\n\n\0").await;
    there.expect("RECEIPT").await;

    let backend = Backend(&one, KEY);
    let nodes = backend.get("/cluster").await.json();
    let others = nodes["nodes"].as_array().unwrap().iter().find(|node| node["is_self"] == false);
    let found = backend.get(&format!("/sessions/{session}")).await;
    assert_eq!(found.status, 200, "{found:?}");
    let mut found = found.json();
    assert!(found["since_unix_ms"].take().as_u64().is_some_and(|since| since > 1 << 40));
    assert_eq!(
        found,
        json!({ "session": session, "node": others.unwrap()["id"], "user": "ann",
            "since_unix_ms": null, "transport": "websocket", "protocol": "stomp",
            "address": "127.0.0.1", "subscriptions": 1 })
    );
    let own = backend.get(&format!("/sessions/{here}")).await.json();
    assert_eq!((&own["user"], &own["protocol"]), (&json!("bob"), &json!("native")));
    there.send("DISCONNECT\nreceipt:d\n\n\0").await;
    there.expect("RECEIPT").await;
    let gone = async |id: &str| backend.get(&format!("/sessions/{id}")).await.problem();
    eventually("it has ended", async || {
        backend.get(&format!("/sessions/{session}")).await.status == 404
    })
    .await;
    assert_eq!(gone(session).await, (404, "no_session".into()));
    assert_eq!(gone("x").await, (400, "bad_session".into()));
    let reader = Backend(&one, "the key of a backend that may only read orders");
    assert_eq!(reader.get(&format!("/sessions/{here}")).await.problem().0, 403);

    // Its own sessions a node finds by itself; of another's nothing is known then.
    redis.kill();
    assert_eq!(backend.get(&format!("/sessions/{here}")).await.json()["user"], "bob");
    assert_eq!(gone(session).await, (503, "unavailable".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_is_sent_to_by_its_id() {
    let (_redis, one, other) = two().await;
    let backend = Backend(&one, KEY);
    let token = token_with("ann", &[]).await;
    let (mut first, session) = connect(&other, &token).await.unwrap();
    let (mut second, second_session) = connect(&other, &token).await.unwrap();
    for client in [&mut first, &mut second] {
        client.send(r#"{"type":"subscribe","to":"/user/queue/replies","id":1}"#).await;
        client.expect("\"ok\"").await;
    }
    let path = format!("/sessions/{session}/messages?user=ann");
    let message = json!({ "to": "/user/queue/replies", "data": "for one" });
    let told = backend.post(&path, &message).await;
    assert_eq!(told.status, 200, "{told:?}");
    assert!(told.json().get("offset").is_none(), "no history keeps it");
    let all = json!({ "to": "/user/queue/replies", "data": "for all" });
    assert_eq!(backend.post("/users/ann/messages", &all).await.status, 200);
    first.expect("for one").await;
    first.expect("for all").await;
    let next = second.expect("\"").await;
    assert!(next.contains("for all"), "{next}");
    // One name for what both get, each once.
    let key = [("Idempotency-Key", "both")];
    for (session, duplicate) in [(&session, None), (&second_session, None), (&session, Some(true))]
    {
        let path = format!("/sessions/{session}/messages?user=ann");
        let told = backend.ask("POST", &path, &key, &message.to_string()).await.json();
        assert_eq!(told.get("duplicate"), duplicate.map(Value::from).as_ref(), "{told}");
    }
    first.expect("for one").await;
    second.expect("for one").await;
    let bad = backend.post("/sessions/x/messages", &message).await;
    assert_eq!(bad.problem(), (400, "bad_session".into()));
    let elsewhere = json!({ "to": "/topic/open.a", "data": 1 });
    assert_eq!(backend.post(&path, &elsewhere).await.problem().0, 400);
    let twice = json!({ "to": "/user/queue/replies", "data": 1, "session": second_session });
    assert_eq!(backend.post(&path, &twice).await.problem(), (400, "bad_session".into()));
}

/// Runs the product's own command with the key in a file: success, standard output and error.
async fn command(args: &[&str]) -> (bool, String, String) {
    command_with(KEY, args).await
}

async fn command_with(key: &str, args: &[&str]) -> (bool, String, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{key}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanlight"));
    command.args(args).args(["--key-file", file.path().to_str().unwrap()]);
    let output = command.env_remove("FANLIGHT_API_KEY").output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_publishes_as_a_backend_and_shows_the_cluster_and_users() {
    let (_redis, one, other) = two().await;
    let mut ann = subscribed(&other, "ann", "/topic/open.a").await;
    let api = format!("http://{}", one.api.unwrap());
    let (ok, out, err) = command(&["pub", &api, "/topic/open.a", "{\"n\":1.50}", "--json"]).await;
    assert!(ok, "{err}");
    let told = parsed(&out);
    assert!(told["position"].as_str().unwrap().ends_with(":1"), "{told}");
    assert!(ann.expect("\"message\"").await.contains("\"data\":{\"n\":1.50}"));
    let (ok, _, err) = command(&["pub", &api, "/topic/open.a", "plain words"]).await;
    assert!(ok, "{err}");
    assert!(ann.expect("\"message\"").await.contains("text/plain"));
    let (ok, _, err) = command(&["pub", &api, "/queue/x", "1"]).await;
    assert!(!ok && err.contains("forbidden: "), "{err}");

    let (ok, out, err) =
        command(&["status", "--api", &api, "--user", "ann", "--user", "eve"]).await;
    assert!(ok, "{err}");
    assert_eq!(out.lines().filter(|line| line.contains("websocket  native")).count(), 1, "{out}");
    assert!(out.contains("eve") && out.contains("offline"), "{out}");
    let (ok, out, err) = command(&["status", "--api", &api, "--user", "ann", "--json"]).await;
    assert!(ok, "{err}");
    let told = parsed(&out);
    assert_eq!(told["cluster"]["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(told["users"][0]["sessions"][0]["transport"], "websocket");
    let id = told["users"][0]["sessions"][0]["session"].as_str().unwrap();
    let nobody = "019a0000-0000-7000-8000-000000000000";
    let by_id = ["status", "--api", &api, "--session", id, "--session", nobody];
    let (ok, out, err) = command(&by_id).await;
    assert!(ok, "{err}");
    let line = out.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{out}"));
    assert!(line.starts_with("ann ") && line.contains("  127.0.0.1  "), "{out}");
    assert!(out.contains(&nobody.replace('-', "")), "{out}");
    let (ok, out, err) = command(&[&by_id[..], &["--json"]].concat()).await;
    assert!(ok, "{err}");
    assert_eq!(parsed(&out)["sessions"][0]["user"], "ann", "{out}");
    // A key for users alone shows these, and that it may not show nodes.
    let support = "the key of a backend that may only look at users";
    let users = ["status", "--api", &api, "--user", "ann"];
    let (ok, out, err) = command_with(support, &users).await;
    assert!(ok && out.contains("websocket  native"), "{out}{err}");
    assert!(out.contains("scope \"cluster\"") && !out.contains("LEASE"), "{out}");
    let (ok, out, err) = command_with(support, &[&users[..], &["--json"]].concat()).await;
    assert!(ok, "{err}");
    assert_eq!(
        (&parsed(&out)["cluster"], &parsed(&out)["users"][0]["user"]),
        (&Value::Null, &json!("ann"))
    );
    let (ok, _, err) = command_with(support, &["status", "--api", &api]).await;
    assert!(!ok && err.contains("scope \"cluster\""), "{err}");
    for (args, remedy) in [
        (["pub", &api, "/topic/open.a", "1", "--capability", "x"], "--capability"),
        (["pub", "ws://127.0.0.1:1/ws", "/topic/open.a", "1", "--key", "k"], "--key-file"),
    ] {
        let (ok, _, err) = command(&args).await;
        assert!(!ok && err.contains(remedy), "{err}");
    }
    let elsewhere = format!("http://{}", one.admin);
    let (ok, _, err) = command(&["status", "--api", &elsewhere]).await;
    assert!(!ok && err.contains("404"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_document_is_there() {
    let (_redis, one, _other) = two().await;
    let backend = Backend(&one, KEY);
    let document = backend.get("/openapi.json").await.json();
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/api/v1").unwrap();
        let named = path.replace("{user}", "nobody").replace("{session}", "none");
        for method in methods.as_object().unwrap().keys() {
            let response = backend.ask(&method.to_uppercase(), &named, &[], "").await;
            assert!(!matches!(response.status, 404 | 405), "{method} {path}: {response:?}");
            if response.status != 200 {
                assert_eq!(response.problem().0, 400, "{method} {path}");
            }
            operations += 1;
        }
    }
    assert!(operations >= 18, "{operations}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_guide_work_with_a_cluster_and_with_the_configuration_of_dev() {
    let (_redis, one, _other) = two().await;
    let dev = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/dev.toml");
    let dev = std::fs::read_to_string(dev).unwrap();
    let ports = [":8080", ":9090", ":8081"];
    let dev = ports.iter().fold(dev, |dev, port| dev.replacen(port, ":0", 1));
    let key = format!("[[api.keys]]\nname = \"dev\"\nsecret = \"{KEY}\"\n");
    let auth = format!("[[auth.keys]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n");
    let dev = Gateway::with_config(&format!("{dev}\n{auth}{key}")).await;
    for gateway in [&one, &dev] {
        examples_work(&Backend(gateway, KEY)).await;
    }
}

async fn examples_work(backend: &Backend<'_>) {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/server-api.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let mut examples = 0;
    for call in guide
        .lines()
        .filter_map(|line| line.strip_prefix("api ").filter(|call| !call.starts_with('=')))
    {
        let (path, rest) = match call.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').unwrap(),
            None => call.split_once(' ').unwrap_or((call, "")),
        };
        let body = rest.split_once("-d '").map(|(_, body)| body.split_once('\'').unwrap().0);
        let is_post = body.is_some() || rest.contains("-X POST");
        let method = if is_post { "POST" } else { "GET" };
        // As curl sends it.
        let path = path.replace('…', "%E2%80%A6");
        let response = backend.ask(method, &path, &[], body.unwrap_or_default()).await;
        let is_fine = response.status == 200 || NOT_HERE.contains(&&*response.problem().1);
        assert!(is_fine, "{call}: {response:?}");
        examples += 1;
    }
    assert!(examples >= 16, "{examples}");
}

/// What the guide's examples name and this test's nodes do not have.
const NOT_HERE: [&str; 2] = ["no_session", "bad_position"];
