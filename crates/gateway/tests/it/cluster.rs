//! Two nodes over a real Redis: `@stomp/stompjs` on one, native clients on the other.

use fanlight_testkit::RedisServer;
use serde_json::{Value, json};

use crate::stompjs::StompJs;
use crate::support::{CONFIG, Gateway, RawClient, eventually, token, with_redis};

const TOPIC: &str = "/topic/open.cluster";

async fn node(redis: &RedisServer) -> Gateway {
    let gateway = Gateway::with_config(&with_redis(CONFIG, redis)).await;
    ready(&gateway).await;
    gateway
}

async fn ready(gateway: &Gateway) {
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
}

async fn native_subscriber(gateway: &Gateway, user: &str) -> RawClient {
    let mut client = RawClient::native(gateway, user).await;
    client.send(&format!(r#"{{"type":"subscribe","to":"{TOPIC}","id":1}}"#)).await;
    client.expect("\"ok\"").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn stompjs_on_one_node_and_a_native_client_on_the_other_exchange_messages_in_order() {
    let redis = RedisServer::start().unwrap();
    let (a, b) = (node(&redis).await, node(&redis).await);
    let ann = token("ann", &[]).await;
    let mut stomp = StompJs::connect(&a.ws_url(), &ann, json!({})).await;
    stomp.subscribe(TOPIC).await;
    let mut native = native_subscriber(&b, "bob").await;

    for n in 0..40 {
        stomp.publish(TOPIC, &format!("{{\"from\":\"a\",\"n\":{n}}}"), &format!("r{n}")).await;
    }
    for n in 0..40 {
        stomp.receipt(&format!("r{n}")).await;
        native.expect(&format!(r#""data":{{"from":"a","n":{n}}}"#)).await;
        let message = stomp.event("message").await;
        assert_eq!(message["body"], format!("{{\"from\":\"a\",\"n\":{n}}}"));
    }
    for n in 0..40 {
        let data = format!(r#"{{"from":"b","n":{n}}}"#);
        let send = format!(r#"{{"type":"send","to":"{TOPIC}","data":{data},"id":"s{n}"}}"#);
        native.send(&send).await;
    }
    for n in 0..40 {
        let message = stomp.event("message").await;
        assert_eq!(message["body"], format!("{{\"from\":\"b\",\"n\":{n}}}"));
        assert_eq!(message["headers"]["destination"], TOPIC);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_an_idle_stompjs_client_and_a_silent_one_is_closed() {
    let redis = RedisServer::start().unwrap();
    let config = with_redis(CONFIG, &redis).replace(
        "[drain]",
        "[stomp]\nheartbeat_send = \"2s\"\nheartbeat_receive = \"2s\"\n[drain]",
    );
    let gateway = Gateway::with_config(&config).await;
    let ann = token("ann", &[]).await;
    let beats = json!({ "outgoing_ms": 2000, "incoming_ms": 2000 });
    let mut client = StompJs::connect(&gateway.ws_url(), &ann, beats).await;
    for _ in 0..4 {
        client.event("heartbeat").await;
    }
    // This one promises to beat and does not.
    let bearer = format!("Bearer {ann}");
    let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "v12.stomp")];
    let mut silent = RawClient::connect(&gateway, "/ws", &headers).await;
    silent.send("CONNECT\naccept-version:1.2\nheart-beat:1000,0\n\n\0").await;
    silent.expect("heart-beat:2000,2000").await;
    assert_eq!(silent.close_code().await, 4408);
    assert!(!client.has_passed("websocket-close"), "the beating client was closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn stompjs_sees_the_error_before_the_close() {
    let gateway = Gateway::start("").await;
    let ann = token("ann", &[]).await;
    let mut client = StompJs::connect(&gateway.ws_url(), &ann, json!({})).await;
    client.publish("/topic/secret", "1", "r1").await;
    let error = client.event("stomp-error").await;
    assert_eq!(error["headers"]["code"], "forbidden", "{error}");
    assert_eq!(error["headers"]["receipt-id"], "r1", "{error}");
    client.event("websocket-close").await;
    assert!(!client.has_passed("receipt"), "a refused SEND has no receipt");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_killed_node_reconnect_and_go_on() {
    let redis = RedisServer::start().unwrap();
    let (a, b) = (node(&redis).await, node(&redis).await);
    let ann = token("ann", &[]).await;
    let mut stomp = StompJs::connect(&a.ws_url(), &ann, json!({ "reconnect_ms": 200 })).await;
    stomp.subscribe(TOPIC).await;
    let mut native = native_subscriber(&b, "bob").await;

    a.signal("KILL").await;
    stomp.event("websocket-close").await;
    // The other node does not notice: no session of its own is touched.
    native.send(&format!(r#"{{"type":"send","to":"{TOPIC}","data":"alone","id":2}}"#)).await;
    native.expect_each(&["alone", "\"ok\""]).await;

    let port = a.public.port();
    drop(a);
    let config = with_redis(CONFIG, &redis).replacen(
        "public = \"127.0.0.1:0\"",
        &format!("public = \"127.0.0.1:{port}\""),
        1,
    );
    let again = Gateway::with_config(&config).await;
    ready(&again).await;
    stomp.event("connected").await;
    stomp.subscribe(TOPIC).await;
    native.send(&format!(r#"{{"type":"send","to":"{TOPIC}","data":"back","id":3}}"#)).await;
    let message = stomp.event("message").await;
    assert_eq!(message["body"], "\"back\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_only_this_nodes_subscribers_get_what_is_published_and_its_sender_is_told() {
    let mut redis = RedisServer::start().unwrap();
    let (a, b) = (node(&redis).await, node(&redis).await);
    let mut sender = RawClient::native(&a, "ann").await;
    let mut receiver = native_subscriber(&b, "bob").await;
    let mut near = native_subscriber(&a, "bob").await;

    redis.kill();
    for node in [&a, &b] {
        eventually("the node is not ready", async || node.admin_get("/readyz").await.0 == 503)
            .await;
    }
    let (_, why) = a.admin_get("/readyz").await;
    assert!(why.contains(&redis.address().to_string()), "{why}");
    sender.send(&format!(r#"{{"type":"send","to":"{TOPIC}","data":"near 1","id":1}}"#)).await;
    let sent = sender.expect("\"ok\"").await;
    assert!(sent.contains("\"degraded\":true"), "{sent}");
    let mut stomp = RawClient::stomp(&a, "ann").await;
    stomp.send(&format!("SEND\ndestination:{TOPIC}\nreceipt:r\n\nnear 2\0")).await;
    stomp.expect("RECEIPT").await;
    near.expect_each(&["near 1", "bmVhciAy"]).await;
    // Who joins now is told that nothing arrives for the time being.
    sender.send(r#"{"type":"subscribe","to":"/topic/open.late","id":2}"#).await;
    let joined = sender.expect("\"ok\"").await;
    assert!(joined.contains("\"degraded\":true"), "{joined}");

    redis.launch().unwrap();
    ready(&a).await;
    ready(&b).await;
    sender.send(&format!(r#"{{"type":"send","to":"{TOPIC}","data":"kept","id":3}}"#)).await;
    sender.expect("\"ok\"").await;
    let message = receiver.expect(TOPIC).await;
    assert!(message.contains("kept"), "what went nowhere else came all the same: {message}");
    let mut other = RawClient::native(&b, "bob").await;
    other.send(r#"{"type":"send","to":"/topic/open.late","data":"late","id":1}"#).await;
    sender.expect("late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_who_joins_what_the_node_has_already_is_told_so_in_both_protocols() {
    let mut redis = RedisServer::start().unwrap();
    let gateway = node(&redis).await;
    let _has_it = native_subscriber(&gateway, "ann").await;
    let mut native = RawClient::native(&gateway, "bob").await;
    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    for kills in [false, true] {
        if kills {
            redis.kill();
        } else {
            redis.pause().unwrap();
        }
        let away = async || gateway.admin_get("/readyz").await.0 == 503;
        eventually("the node is not ready", away).await;
        native.send(&format!(r#"{{"type":"subscribe","to":"{TOPIC}","id":1}}"#)).await;
        let joined = native.expect("\"id\":1").await;
        assert!(joined.contains("\"degraded\":true"), "{kills} {joined}");
        stomp.send(&format!("SUBSCRIBE\nid:1\ndestination:{TOPIC}\nreceipt:s\n\n\0")).await;
        let joined = stomp.expect("receipt-id:s").await;
        assert!(joined.contains("degraded:true"), "{kills} {joined}");
        if !kills {
            redis.resume().unwrap();
            ready(&gateway).await;
            native.send(&format!(r#"{{"type":"unsubscribe","to":"{TOPIC}","id":2}}"#)).await;
            native.expect("\"id\":2").await;
            stomp.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0").await;
            stomp.expect("receipt-id:u").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_without_redis_says_so_and_becomes_ready_when_it_comes() {
    let mut redis = RedisServer::stopped().unwrap();
    let gateway = Gateway::with_config(&with_redis(CONFIG, &redis)).await;
    assert_eq!(gateway.public_get("/livez").await.0, 200);
    let (status, why) = gateway.public_get("/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains(&redis.address().to_string()), "{why}");
    redis.launch().unwrap();
    ready(&gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_would_replace_a_node_is_told_of_a_redis_that_is_away_only_after_the_patience() {
    let mut redis = RedisServer::start().unwrap();
    let with = |patience: &str| {
        let patience = format!("kind = \"redis\"\nreadiness_patience = \"{patience}\"");
        with_redis(CONFIG, &redis).replace("kind = \"redis\"", &patience)
    };
    let (long, short) = (with("1h"), with("3s"));
    let (patient, short) = (Gateway::with_config(&long).await, Gateway::with_config(&short).await);
    ready(&patient).await;
    ready(&short).await;
    redis.kill();
    eventually("its patience ends", async || short.public_get("/readyz").await.0 == 503).await;
    eventually("it knows", async || patient.metric("fanlight_ready").await == 0).await;
    assert_eq!(patient.public_get("/readyz").await, (200, "ready, but for its broker\n".into()));
    assert_eq!(patient.admin_post("/drain", &[]).await, 202);
    assert_eq!(patient.public_get("/readyz").await.0, 503, "a drain is told at once");
    // One that starts now has never been ready.
    let late = Gateway::with_config(&long).await;
    assert_eq!(late.public_get("/readyz").await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_and_user_destinations_work_across_nodes() {
    let redis = RedisServer::start().unwrap();
    let config = with_redis(CONFIG, &redis)
        .replace("match = \"/topic/**\"\n", "match = \"/topic/**\"\npatterns = true\n");
    let a = Gateway::with_config(&config).await;
    let b = Gateway::with_config(&config).await;
    ready(&a).await;
    ready(&b).await;
    let mut ann = RawClient::stomp(&a, "ann").await;
    ann.send("SUBSCRIBE\nid:p\nreceipt:p\ndestination:/topic/open.*\n\n\0").await;
    ann.expect("RECEIPT").await;
    ann.send("SUBSCRIBE\nid:u\nreceipt:u\ndestination:/user/queue/alerts\n\n\0").await;
    ann.expect("RECEIPT").await;
    let bearer = format!("Bearer {}", token("root", &["admin"]).await);
    let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "fanlight.v1.json")];
    let mut root = RawClient::connect(&b, "/ws", &headers).await.begun_native().await;
    root.send(r#"{"type":"send","to":"/topic/open.77","data":1,"id":1}"#).await;
    let message = ann.expect("MESSAGE").await;
    assert!(message.contains("subscription:p") && message.contains("/topic/open.77"), "{message}");
    root.send(r#"{"type":"send","to":"/user/ann/queue/alerts","data":2,"id":2}"#).await;
    let message = ann.expect("MESSAGE").await;
    assert!(message.contains("destination:/user/queue/alerts"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_to_one_session_reaches_it_on_its_node_and_no_other_session_of_the_user() {
    let redis = RedisServer::start().unwrap();
    let config = with_redis(CONFIG, &redis).replace(
        "match = \"/user/**\"\n",
        "match = \"/user/**\"\nhistory = { size = 10, ttl = \"1m\" }\n",
    );
    let nodes = [Gateway::with_config(&config).await, Gateway::with_config(&config).await];
    let mut sessions = Vec::new();
    for node in &nodes {
        ready(node).await;
        let mut native = connect(node, "ann", &[]).await;
        native.send(r#"{"type":"connect"}"#).await;
        let connected: Value = serde_json::from_str(&native.expect("connected").await).unwrap();
        native.send(r#"{"type":"subscribe","to":"/user/queue/alerts","id":1}"#).await;
        native.expect("\"ok\"").await;
        sessions.push((native, connected["session"].as_str().unwrap().to_owned()));
        let mut stomp = connect(node, "ann", &[]).await;
        stomp.send("CONNECT\naccept-version:1.2\n\n\0").await;
        let connected = stomp.expect("CONNECTED").await;
        let session = connected.lines().find_map(|line| line.strip_prefix("session:")).unwrap();
        let session = session.to_owned();
        stomp.send("SUBSCRIBE\nid:u\nreceipt:u\ndestination:/user/queue/alerts\n\n\0").await;
        stomp.expect("RECEIPT").await;
        sessions.push((stomp, session));
    }
    let mut root = connect(&nodes[0], "root", &["admin"]).await.begun_native().await;
    let to = "/user/ann/queue/alerts";
    for (n, (_, session)) in sessions.iter().enumerate() {
        let send = json!({"type": "send", "to": to, "session": session, "data": format!("only {n}"), "id": n});
        root.send(&send.to_string()).await;
        let ok = root.expect("\"ok\"").await;
        assert!(!ok.contains("offset"), "{ok}");
    }
    root.send(&json!({"type": "send", "to": to, "data": "all", "id": "all"}).to_string()).await;
    // What is for one session has taken no place in the history.
    assert!(root.expect("\"ok\"").await.contains("\"offset\":1"));
    for (n, (client, _)) in sessions.iter_mut().enumerate() {
        // Anything that is for another session would have come before what is for all.
        let own = format!("only {n}");
        assert!(client.expect("only").await.contains(&own), "{own}");
        let next = client.expect("\"a").await;
        assert!(next.contains("all"), "{next}");
    }
}

/// A handshake with a token; the first message will tell the protocol.
async fn connect(node: &Gateway, user: &str, roles: &[&str]) -> RawClient {
    let bearer = format!("Bearer {}", token(user, roles).await);
    RawClient::connect(node, "/ws", &[("Authorization", &bearer)]).await
}
