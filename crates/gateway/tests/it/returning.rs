//! Who misses messages and returns on another node gets exactly those, whatever transport it uses.

use fanlight_testkit::RedisServer;
use serde_json::{Value, json};

use crate::http::{Stream, get, headers, post};
use crate::sockjs_session::{How, Session};
use crate::support::{CONFIG, Gateway, RawClient, eventually, token, with_redis};

/// Nodes of one cluster, with a history of a minute everywhere and no rates.
pub async fn nodes<const N: usize>(redis: &RedisServer, more: &str) -> [Gateway; N] {
    nodes_with(&config(redis, more)).await
}

/// What [`nodes`] run with.
pub fn config(redis: &RedisServer, more: &str) -> String {
    let unlimited = "connections_per_ip = 0\nmessages_per_second = 0\ncommands_per_second = 0";
    let history = "match = \"/topic/**\"\nhistory = { size = 1000, ttl = \"1m\" }\n";
    let config = with_redis(CONFIG, redis)
        .replace("connections_per_ip = 0", unlimited)
        .replace("match = \"/topic/**\"\n", history);
    format!("{config}\n{more}")
}

/// Nodes with this configuration, ready.
pub async fn nodes_with<const N: usize>(config: &str) -> [Gateway; N] {
    let mut nodes = Vec::new();
    for _ in 0..N {
        let node = Gateway::with_config(config).await;
        eventually("the node is ready", async || node.admin_get("/readyz").await.0 == 200).await;
        nodes.push(node);
    }
    nodes.try_into().ok().unwrap()
}

/// Publishes numbers to a topic, each accepted before the next.
pub async fn publish(publisher: &mut RawClient, to: &str, numbers: std::ops::Range<u64>) {
    for n in numbers {
        publisher.send(&json!({ "type": "send", "to": to, "data": n, "id": n }).to_string()).await;
        publisher.expect("\"ok\"").await;
    }
}

pub async fn bearer(user: &str) -> String {
    format!("Bearer {}", token(user, &[]).await)
}

/// An event of a stream.
#[derive(Debug, Default, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: String,
    pub retry: Option<String>,
}

/// The next event that is no heartbeat.
pub async fn event(stream: &mut Stream) -> Option<Event> {
    loop {
        let text = stream.until("\n\n").await?;
        let mut event = Event { name: "message".into(), ..Event::default() };
        let mut data = Vec::new();
        for line in text.lines() {
            let (field, value) = line.split_once(": ").unwrap_or((line, ""));
            match field {
                "id" => event.id = Some(value.into()),
                "event" => event.name = value.into(),
                "data" => data.push(value),
                "retry" => event.retry = Some(value.into()),
                ":" => {}
                _ => panic!("{text:?}"),
            }
        }
        event.data = data.join("\n");
        if !event.data.is_empty() || event.retry.is_some() {
            return Some(event);
        }
    }
}

/// The next event, which must have this name.
pub async fn named(stream: &mut Stream, name: &str) -> Event {
    let event = event(stream).await.unwrap_or_else(|| panic!("it ended before {name}"));
    assert_eq!(event.name, name, "{event:?}");
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn who_returns_by_events_while_the_history_cannot_be_read_gets_what_it_missed_once_it_can() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let mut publisher = RawClient::native(&a, "pub").await;
    let bearer = bearer("ann").await;
    let target = "/events?destination=/topic/open.a";
    let lines = [("Authorization", &*bearer)];
    let mut stream = Stream::open(a.public, "GET", target, headers(&lines)).await;
    named(&mut stream, "connected").await;
    named(&mut stream, "subscribed").await;
    publish(&mut publisher, "/topic/open.a", 0..1).await;
    let id = named(&mut stream, "message").await.id.unwrap();
    drop(stream);
    publish(&mut publisher, "/topic/open.a", 1..4).await;

    redis.pause().unwrap();
    let lines = [("Authorization", &*bearer), ("Last-Event-ID", &*id)];
    let mut stream = Stream::open(b.public, "GET", target, headers(&lines)).await;
    named(&mut stream, "connected").await;
    eventually("b is cut off", async || b.admin_get("/readyz").await.0 == 503).await;
    redis.resume().unwrap();
    for n in 1..4 {
        let message = named(&mut stream, "message").await;
        assert!(message.data.contains(&format!("\"data\":{n}")), "{message:?}");
        assert!(message.id.is_some());
    }
    let told = named(&mut stream, "subscribed").await.data;
    assert!(told.contains("\"recovered\":true") && told.contains("\"count\":3"), "{told}");
    assert!(!told.contains("degraded"), "{told}");
    publish(&mut publisher, "/topic/open.a", 4..5).await;
    assert!(named(&mut stream, "message").await.data.contains("\"data\":4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_returns_on_another_node_by_its_last_event_id_for_two_destinations() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let mut publisher = RawClient::native(&a, "pub").await;
    let bearer = bearer("ann").await;
    let target = "/events?destination=/topic/open.a&destination=/topic/open.b";
    let lines = [("Authorization", &*bearer)];
    let mut stream = Stream::open(a.public, "GET", target, headers(&lines)).await;
    named(&mut stream, "connected").await;
    named(&mut stream, "subscribed").await;
    named(&mut stream, "subscribed").await;
    publish(&mut publisher, "/topic/open.a", 0..2).await;
    publish(&mut publisher, "/topic/open.b", 0..1).await;
    let mut last = None;
    for _ in 0..3 {
        last = named(&mut stream, "message").await.id;
    }
    drop(stream);
    for batch in 0..5 {
        publish(&mut publisher, "/topic/open.a", 2 + batch * 5..7 + batch * 5).await;
        publish(&mut publisher, "/topic/open.b", 1 + batch * 5..6 + batch * 5).await;
    }

    let last = last.unwrap();
    let lines = [("Authorization", &*bearer), ("Last-Event-ID", &*last)];
    let mut stream = Stream::open(b.public, "GET", target, headers(&lines)).await;
    named(&mut stream, "connected").await;
    let (mut heard, mut told) = ([vec![], vec![]], Vec::new());
    while told.len() < 2 {
        let event = event(&mut stream).await.unwrap();
        let data: Value = serde_json::from_str(&event.data).unwrap();
        match &*event.name {
            "subscribed" => told.push(data),
            "message" => {
                heard[usize::from(data["to"] == "/topic/open.b")].push(data["data"].clone());
            }
            _ => panic!("{event:?}"),
        }
    }
    assert_eq!(heard[0], (2..27).collect::<Vec<_>>());
    assert_eq!(heard[1], (1..26).collect::<Vec<_>>());
    for told in told {
        assert_eq!((&told["recovered"], &told["count"]), (&json!(true), &json!(25)), "{told}");
    }
    publish(&mut publisher, "/topic/open.b", 26..27).await;
    assert!(named(&mut stream, "message").await.data.contains("\"data\":26"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_polls_returns_on_another_node_by_its_cursor() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "[poll]\nlinger = \"100ms\"").await;
    let mut publisher = RawClient::native(&a, "pub").await;
    let bearer = bearer("ann").await;
    let lines = [("Authorization", &*bearer)];
    let target = "/poll?destination=/topic/open.a&destination=/topic/open.b&wait=0";
    let page = get(a.public, target, &lines).await.json();
    let told: Vec<_> = page["messages"].as_array().unwrap().iter().map(|m| &m["type"]).collect();
    assert_eq!(told, ["ok", "ok"], "{page}");
    publish(&mut publisher, "/topic/open.a", 0..2).await;
    let target_from =
        |page: &Value| format!("{target}&cursor={}", page["cursor"].as_str().unwrap());
    let (mut page, mut heard) = (page, 0);
    while heard < 2 {
        page = get(a.public, &target_from(&page), &lines).await.json();
        heard += page["messages"].as_array().unwrap().len();
    }
    // Nobody polls for longer than messages wait: the history goes on from the positions.
    // Only the publisher is left.
    a.connections(1, 2).await;
    publish(&mut publisher, "/topic/open.a", 2..27).await;
    publish(&mut publisher, "/topic/open.b", 0..25).await;
    let cursor = page["cursor"].as_str().unwrap();
    let (positions, _) = cursor.split_once('~').unwrap();
    for cursor in [cursor, positions] {
        let mut heard = [vec![], vec![]];
        let mut cursor = cursor.to_owned();
        let mut node = [&b, &a].into_iter().cycle();
        while heard[0].len() + heard[1].len() < 50 {
            let body = json!({
                "destinations": ["/topic/open.a", "/topic/open.b"], "cursor": cursor, "wait": "5s",
            });
            let node = node.next().unwrap().public;
            let page = post(node, "/poll", &lines, &body.to_string()).await.json();
            for message in page["messages"].as_array().unwrap() {
                assert_eq!(message["type"], "message", "{message}");
                let at = usize::from(message["to"] == "/topic/open.b");
                heard[at].push(message["data"].clone());
            }
            cursor = page["cursor"].as_str().unwrap().to_owned();
        }
        assert_eq!(heard[0], (2..27).collect::<Vec<_>>());
        assert_eq!(heard[1], (0..25).collect::<Vec<_>>());
        // And nothing twice, behind them.
        let page = json!({ "cursor": cursor });
        let again = get(b.public, &target_from(&page), &lines).await.json();
        assert_eq!(again["messages"], json!([]), "{again}");
    }
}

async fn by_sockjs(how: How) {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let mut publisher = RawClient::native(&a, "pub").await;
    let ann = token("ann", &[]).await;
    let mut session = Session::stomp(&[&a], &ann, how).await;
    session.subscribe("/topic/open.a").await;
    publish(&mut publisher, "/topic/open.a", 0..1).await;
    let message = session.expect("\n\n0\0").await;
    let header = |name: &str| {
        let line = message.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} {message}")).to_owned()
    };
    let (epoch, offset) = (header("epoch:"), header("offset:"));
    drop(session);
    publish(&mut publisher, "/topic/open.a", 1..51).await;
    // Each request to the other of the two.
    for nodes in [vec![&b], vec![&b, &a]] {
        let mut session = Session::stomp(&nodes, &ann, how).await;
        let subscribe = format!(
            "SUBSCRIBE\nid:s\nreceipt:s\nepoch:{epoch}\noffset:{offset}\ndestination:/topic/open.a\n\n\0"
        );
        session.send(&subscribe).await;
        for n in 1..51 {
            session.expect(&format!("\n\n{n}\0")).await;
        }
        let receipt = session.expect("receipt-id:s").await;
        assert!(receipt.contains("\nrecovered:true\n") && receipt.contains("\noffset:51\n"));
    }
    publish(&mut publisher, "/topic/open.a", 51..52).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sockjs_session_that_polls_returns_on_another_node_by_its_position() {
    by_sockjs(How::Polling).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sockjs_session_that_streams_returns_on_another_node_by_its_position() {
    by_sockjs(How::Streaming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_comes_by_requests_goes_on_at_any_node_without_returning() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let mut publisher = RawClient::native(&b, "pub").await;
    let ann = token("ann", &[]).await;
    for how in [How::Polling, How::Streaming] {
        let mut session = Session::stomp(&[&a, &b], &ann, how).await;
        session.subscribe("/topic/open.c").await;
        for n in 0..50 {
            publish(&mut publisher, "/topic/open.c", n..n + 1).await;
            session.expect(&format!("\n\n{n}\0")).await;
        }
        session.send("DISCONNECT\nreceipt:bye\n\n\0").await;
        session.expect("receipt-id:bye").await;
        assert_eq!(session.close_frame().await, "c[1000,\"Normal closure\"]");
    }
    let gone = async || {
        let (a, b) =
            (a.metric("fanlight_connections").await, b.metric("fanlight_connections").await);
        a + b == 1
    };
    eventually("only the publisher is there", gone).await;
}
