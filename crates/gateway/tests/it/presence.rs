//! Presence as clients meet it: two nodes over Redis, one of which is killed.

use std::time::{Duration, Instant};

use fanlight_testkit::RedisServer;

use crate::support::{CONFIG, Gateway, Got, PATIENCE, RawClient, eventually, with_redis};

const ROOM: &str = "/topic/open.room";

/// Presence in all topics; leases and intervals short enough for tests.
fn config(redis: &RedisServer) -> String {
    with_redis(CONFIG, redis)
        .replace("match = \"/topic/**\"\n", "match = \"/topic/**\"\npresence = true\n")
        .replace("[redis]\n", "[presence]\ninterval = \"100ms\"\n[cluster]\nlease = \"2s\"\nlease_renew = \"500ms\"\n[redis]\n")
}

async fn node(redis: &RedisServer) -> Gateway {
    let gateway = Gateway::with_config(&config(redis)).await;
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    gateway
}

async fn subscribe(client: &mut RawClient, presence: bool) {
    let text = format!(r#"{{"type":"subscribe","to":"{ROOM}","presence":{presence},"id":"s"}}"#);
    client.send(&text).await;
    skip_to(client, r#""id":"s""#).await;
}

/// The next text with this part.
async fn skip_to(client: &mut RawClient, part: &str) -> String {
    loop {
        match client.next().await {
            Got::Text(text) if text.contains(part) => return text,
            Got::Text(_) => {}
            got => panic!("a text with {part:?} was expected, not {got:?}"),
        }
    }
}

/// The members as the answer shows them, sorted.
async fn members(client: &mut RawClient) -> (Vec<String>, u64) {
    client.send(&format!(r#"{{"type":"presence","to":"{ROOM}","id":"m"}}"#)).await;
    let text = skip_to(client, r#""type":"members""#).await;
    let members: serde_json::Value = serde_json::from_str(&text).unwrap();
    let users = members["users"].as_array().unwrap();
    let shown = |user: &serde_json::Value| {
        format!("{} {}", user["user"].as_str().unwrap(), user["sessions"])
    };
    let mut users: Vec<_> = users.iter().map(shown).collect();
    users.sort();
    (users, members["count"].as_u64().unwrap())
}

/// Asks until these are the members.
async fn members_become(client: &mut RawClient, expected: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (users, count) = members(client).await;
        if users == expected && count == expected.len() as u64 {
            return;
        }
        assert!(Instant::now() < deadline, "{users:?} never became {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_on_all_nodes_see_who_comes_and_goes_and_nobody_who_did_not_ask() {
    let redis = RedisServer::start().unwrap();
    let (a, b) = (node(&redis).await, node(&redis).await);
    let mut host = RawClient::native(&a, "host").await;
    subscribe(&mut host, true).await;
    skip_to(&mut host, r#""joined":[{"user":"host"}],"left":[],"count":1"#).await;
    let mut plain = RawClient::native(&a, "plain").await;
    subscribe(&mut plain, false).await;
    skip_to(&mut host, r#""joined":[{"user":"plain"}],"left":[],"count":2"#).await;

    let mut stomp = RawClient::stomp(&b, "stomp").await;
    stomp
        .send(&format!("SUBSCRIBE\nid:1\nreceipt:r\npresence:true\ndestination:{ROOM}\n\n\0"))
        .await;
    stomp.expect("RECEIPT").await;
    let text = skip_to(&mut stomp, r#"{"joined":[{"user":"stomp"}],"left":[],"count":3}"#).await;
    assert!(text.contains("event:presence\n") && text.contains("application/json"), "{text}");
    skip_to(&mut host, r#""joined":[{"user":"stomp"}]"#).await;
    let mut second = RawClient::native(&b, "plain").await;
    subscribe(&mut second, false).await;
    members_become(&mut second, &["host 1", "plain 2", "stomp 1"]).await;

    // The first of two sessions changes nothing, the last does.
    plain.send(&format!(r#"{{"type":"send","to":"{ROOM}","data":"before","id":"d"}}"#)).await;
    // All that came to it is the message and its answer: it did not ask for presence.
    plain.expect_each(&["before", r#""id":"d""#]).await;
    drop(plain);
    members_become(&mut second, &["host 1", "plain 1", "stomp 1"]).await;
    drop(second);
    for client in [&mut host, &mut stomp] {
        let text = skip_to(client, "\"left\":[{").await;
        assert!(text.contains(r#""joined":[],"left":[{"user":"plain"}],"count":2"#), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_history_who_recovers_is_a_member_and_presence_is_neither_positioned_nor_kept() {
    let redis = RedisServer::start().unwrap();
    let kept = "presence = true\nhistory = { size = 10, ttl = \"1m\" }\n";
    let gateway = Gateway::with_config(&config(&redis).replace("presence = true\n", kept)).await;
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    let mut host = RawClient::native(&gateway, "host").await;
    subscribe(&mut host, true).await;
    skip_to(&mut host, r#""joined":[{"user":"host"}]"#).await;
    let publish = |n| format!(r#"{{"type":"send","to":"{ROOM}","data":"m{n}","id":"p{n}"}}"#);
    host.send(&publish(1)).await;
    let first = skip_to(&mut host, r#""id":"p1""#).await;
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    let epoch = first["epoch"].as_str().unwrap();

    let mut ann = RawClient::native(&gateway, "ann").await;
    let since = format!(r#"{{"epoch":"{epoch}","offset":0}}"#);
    let text =
        format!(r#"{{"type":"subscribe","to":"{ROOM}","presence":true,"since":{since},"id":"s"}}"#);
    ann.send(&text).await;
    skip_to(&mut ann, r#""data":"m1""#).await;
    let ok = skip_to(&mut ann, r#""id":"s""#).await;
    assert!(ok.contains(r#""recovered":true"#), "{ok}");
    for client in [&mut host, &mut ann] {
        let told = skip_to(client, r#""joined":[{"user":"ann"}],"left":[],"count":2"#).await;
        assert!(!told.contains("offset"), "{told}");
    }
    host.send(&publish(2)).await;
    let second = skip_to(&mut ann, r#""data":"m2""#).await;
    assert!(second.contains(r#""offset":2"#), "{second}");
    host.send(&format!(r#"{{"type":"history","to":"{ROOM}","limit":10,"id":"h"}}"#)).await;
    let history = skip_to(&mut host, r#""type":"history""#).await;
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    let bodies: Vec<_> =
        history["messages"].as_array().unwrap().iter().map(|m| &m["data"]).collect();
    assert_eq!(bodies, ["m1", "m2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_members_of_a_killed_node_are_gone_after_its_lease() {
    let redis = RedisServer::start().unwrap();
    let (a, b) = (node(&redis).await, node(&redis).await);
    let mut host = RawClient::native(&a, "host").await;
    subscribe(&mut host, true).await;
    let mut clients = Vec::new();
    for name in ["ann", "bob", "both"] {
        let mut client = RawClient::native(&b, name).await;
        subscribe(&mut client, false).await;
        clients.push(client);
    }
    let mut both = RawClient::native(&a, "both").await;
    subscribe(&mut both, false).await;
    // Who comes and dies before it was told is never told.
    skip_to(&mut host, r#""count":4"#).await;
    members_become(&mut host, &["ann 1", "bob 1", "both 2", "host 1"]).await;
    let killed_at = Instant::now();
    b.signal("KILL").await;
    // Told in one change, or in two where the interval falls between.
    let mut left = 0;
    while left < 2 {
        let text = skip_to(&mut host, "\"left\":[{").await;
        left += text.matches("\"user\":\"ann\"").count() + text.matches("\"user\":\"bob\"").count();
        assert!(!text.contains("\"both\""), "{text}");
    }
    assert!(killed_at.elapsed() > Duration::from_secs(1), "it had its lease");
    let expected = ["both 1", "host 1"].map(str::to_owned).to_vec();
    assert_eq!(members(&mut host).await, (expected, 2));
    assert!(a.metric("fanlight_presence_reaped_total").await >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_stop_takes_its_members_along_at_once() {
    let redis = RedisServer::start().unwrap();
    let config = config(&redis).replace("lease = \"2s\"", "lease = \"1h\"");
    let a = Gateway::with_config(&config).await;
    let mut b = Gateway::with_config(&config).await;
    for node in [&a, &b] {
        eventually("the node is ready", async || node.admin_get("/readyz").await.0 == 200).await;
    }
    let mut host = RawClient::native(&a, "host").await;
    subscribe(&mut host, true).await;
    let mut ann = RawClient::native(&b, "ann").await;
    subscribe(&mut ann, false).await;
    skip_to(&mut host, r#"{"user":"ann"}"#).await;
    b.signal("TERM").await;
    skip_to(&mut host, r#""left":[{"user":"ann"}]"#).await;
    assert!(b.ended().await);
    assert_eq!(members(&mut host).await, (vec!["host 1".to_owned()], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_without_redis_has_presence_too() {
    let config = CONFIG
        .replace("match = \"/topic/**\"\n", "match = \"/topic/**\"\npresence = true\n")
        .replace("[broker]\n", "[presence]\ninterval = \"100ms\"\n[broker]\n");
    let gateway = Gateway::with_config(&config).await;
    let mut host = RawClient::native(&gateway, "host").await;
    subscribe(&mut host, true).await;
    let mut ann = RawClient::native(&gateway, "ann").await;
    subscribe(&mut ann, false).await;
    skip_to(&mut host, r#"{"user":"ann"}"#).await;
    let expected = ["ann 1", "host 1"].map(str::to_owned).to_vec();
    assert_eq!(members(&mut ann).await, (expected, 2));
    drop(ann);
    skip_to(&mut host, r#""left":[{"user":"ann"}],"count":1"#).await;
}
