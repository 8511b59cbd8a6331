//! Server-sent events as they go over the wire.

use serde_json::json;

use crate::http::{Stream, headers, post};
use crate::returning::{bearer, event, named};
use crate::support::{CONFIG, Gateway, RawClient, eventually};

const TARGET: &str = "/events?destination=/topic/open.a";

async fn open(gateway: &Gateway, target: &str, lines: &[(&str, &str)]) -> Stream {
    let ann = bearer("ann").await;
    let mut all = vec![("Authorization", &*ann)];
    all.extend(lines);
    let mut stream = Stream::open(gateway.public, "GET", target, headers(&all)).await;
    assert_eq!(stream.status, 200);
    named(&mut stream, "connected").await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_typed_uncached_and_its_lines_stay_lines_whatever_is_published() {
    let gateway = Gateway::start("").await;
    let own = format!("http://{}", gateway.public);
    let mut stream = open(&gateway, TARGET, &[("Origin", &own)]).await;
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store, no-transform"),
        ("x-accel-buffering", "no"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("access-control-allow-origin", &*own),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(stream.header(name), Some(value), "{name}");
    }
    named(&mut stream, "subscribed").await;
    let mut publisher = RawClient::stomp(&gateway, "pub").await;
    let hostile = "a\r\nb\rc\nevent: forged\n\ndata: x\n\nid: 9";
    publisher
        .send(&format!("SEND\ndestination:/topic/open.a\ncontent-type:text/plain\n\n{hostile}\0"))
        .await;
    // A JSON body with line ends between its tokens goes as it is, which is several lines of data.
    let body = "{\r\n \"x\":\r1,\n\n\"y\": \"z\"}";
    publisher
        .send(&format!(
            "SEND\ndestination:/topic/open.a\ncontent-type:application/json\n\n{body}\0"
        ))
        .await;
    let first = named(&mut stream, "message").await;
    assert_eq!(first.id, None, "without a history there is nothing to return to");
    let first: serde_json::Value = serde_json::from_str(&first.data).unwrap();
    assert_eq!(first["to"], "/topic/open.a");
    let second = named(&mut stream, "message").await;
    let second: serde_json::Value = serde_json::from_str(&second.data).unwrap();
    assert_eq!(second["data"], json!({ "x": 1, "y": "z" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_gets_events_until_its_connection_ends_and_post_names_many_destinations() {
    let gateway = Gateway::start("").await;
    let ann = bearer("ann").await;
    let request = format!("GET {TARGET} HTTP/1.0\r\nAuthorization: {ann}\r\n\r\n");
    let mut old = Stream::raw(gateway.public, &request).await;
    assert_eq!((old.status, old.header("transfer-encoding")), (200, None));
    assert_eq!(old.header("connection"), Some("close"));
    named(&mut old, "connected").await;
    named(&mut old, "subscribed").await;

    let destinations: Vec<_> = (0..100).map(|n| format!("/topic/open.{n}")).collect();
    let body = json!({ "destinations": destinations }).to_string();
    let lines = [("Authorization", &*ann), ("Content-Type", "application/json")];
    let with = crate::http::With { headers: &lines, body: &body };
    let mut many = Stream::open(gateway.public, "POST", "/events", with).await;
    named(&mut many, "connected").await;
    for _ in 0..100 {
        named(&mut many, "subscribed").await;
    }
    let to = json!({ "to": "/topic/open.57", "data": 1 }).to_string();
    assert_eq!(post(gateway.public, "/publish", &lines, &to).await.status, 200);
    let message = named(&mut many, "message").await;
    assert!(message.data.contains("/topic/open.57"), "{message:?}");
    let to = json!({ "to": "/topic/open.a", "data": 2 }).to_string();
    assert_eq!(post(gateway.public, "/publish", &lines, &to).await.status, 200);
    named(&mut old, "message").await;
    drop((many, old));
    eventually("both are gone", async || {
        gateway.metric("fanlight_connections_opened_total").await == 2
            && gateway.metric("fanlight_connections").await == 0
            && gateway.metric("fanlight_subscriptions").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_says_at_its_beginning_when_to_come_back_and_not_the_same_to_all() {
    let gateway = Gateway::start("").await;
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    let mut told = std::collections::HashSet::new();
    for _ in 0..10 {
        let mut stream = Stream::open(gateway.public, "GET", TARGET, headers(&lines)).await;
        let connected = named(&mut stream, "connected").await;
        let retry_ms: u64 = connected.retry.unwrap().parse().unwrap();
        assert!((1000..5000).contains(&retry_ms), "{retry_ms}");
        told.insert(retry_ms);
    }
    assert!(told.len() > 1, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_gets_comments_as_heartbeats() {
    let gateway = Gateway::start("[native]\nheartbeat = \"2s\"").await;
    let mut stream = open(&gateway, TARGET, &[]).await;
    named(&mut stream, "subscribed").await;
    for _ in 0..3 {
        assert_eq!(stream.until("\n\n").await.as_deref(), Some(":"));
    }
    let mut publisher = RawClient::native(&gateway, "pub").await;
    publisher.send(r#"{"type":"send","to":"/topic/open.a","data":1,"id":1}"#).await;
    publisher.expect("\"ok\"").await;
    named(&mut stream, "message").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_its_events_is_closed_and_nobody_else() {
    let unlimited = "connections_per_ip = 0\nmessages_per_second = 0\ncommands_per_second = 0";
    let gateway = Gateway::with_config(&CONFIG.replace("connections_per_ip = 0", unlimited)).await;
    let mut slow = open(&gateway, TARGET, &[]).await;
    let mut quick = open(&gateway, TARGET, &[]).await;
    named(&mut slow, "subscribed").await;
    named(&mut quick, "subscribed").await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let send =
        json!({ "type": "send", "to": "/topic/open.a", "data": "x".repeat(60_000), "id": 1 });
    let mut count = 0;
    while gateway.metric("fanlight_closes_total").await == 0 {
        assert!(count < 1000, "60 MB went to who reads nothing");
        for _ in 0..20 {
            publisher.send(&send.to_string()).await;
            publisher.expect("\"ok\"").await;
            named(&mut quick, "message").await;
            count += 1;
        }
    }
    let (_, metrics) = gateway.admin_get("/metrics").await;
    let is_slow = |line: &str| line.contains("slow_consumer") && line.ends_with(" 1");
    assert!(metrics.lines().any(is_slow));
    // What is left in its socket ends in whole events, then the reason.
    let mut last = None;
    while let Some(next) = event(&mut slow).await {
        last = Some(next);
    }
    let last = last.unwrap();
    assert!(last.name == "fault" && last.data.contains("slow_consumer"), "{}", last.name);
    publisher.send(&send.to_string()).await;
    named(&mut quick, "message").await;
}
