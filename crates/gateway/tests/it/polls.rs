//! Long and short polling, and publishing without a session.

use std::time::{Duration, Instant};

use fanlight_testkit::RedisServer;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::http::{BARE, Stream, With, ask, get, headers, post};
use crate::returning::{bearer, config, nodes, nodes_with, publish};
use crate::support::{CONFIG, Gateway, RawClient, eventually, token};

const TARGET: &str = "/poll?destination=/topic/open.a";

fn cursor_of(page: &Value) -> &str {
    page["cursor"].as_str().unwrap_or_else(|| panic!("no cursor: {page}"))
}

/// Numbers among a page's messages.
fn numbers(page: &Value) -> Vec<u64> {
    let messages = page["messages"].as_array().unwrap_or_else(|| panic!("no messages: {page}"));
    messages.iter().filter_map(|message| message["data"].as_u64()).collect()
}

async fn poll(node: &Gateway, authorization: &str, cursor: &str, wait: &str) -> Value {
    let target = format!("{TARGET}&cursor={cursor}&wait={wait}");
    let response = get(node.public, &target, &[("Authorization", authorization)]).await;
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_poll_tells_where_it_begins_however_short_and_a_long_one_ends_with_a_message() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let ann = bearer("ann").await;
    let mut publisher = RawClient::native(&a, "pub").await;
    for node in [&a, &b] {
        let page = poll(node, &ann, "", "0").await;
        assert_eq!(page["messages"][0]["type"], "ok", "{page}");
        assert!(!cursor_of(&page).starts_with('-'), "{page}");
        let (other, asked) = (if node.public == a.public { &b } else { &a }, Instant::now());
        let (page, ()) = tokio::join!(poll(other, &ann, cursor_of(&page), "25s"), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            publish(&mut publisher, "/topic/open.a", 7..8).await;
        });
        assert_eq!(numbers(&page), [7], "{page}");
        assert!(asked.elapsed() < Duration::from_secs(15));
        // Nothing comes twice, and a short poll waits for nothing.
        let page = poll(node, &ann, cursor_of(&page), "0").await;
        assert_eq!(page["messages"], json!([]), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_messages_of_any_number_come_at_once_and_once_page_by_page() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let ann = bearer("ann").await;
    let mut publisher = RawClient::native(&a, "pub").await;
    let first = poll(&a, &ann, "", "0").await;
    let (positions, _) = cursor_of(&first).split_once('~').unwrap();
    // More than an outbox holds, and far more than one answer of another node.
    let padding = "x".repeat(3000);
    for n in 0..400 {
        let data = json!({ "n": n, "padding": padding });
        let send = json!({ "type": "send", "to": "/topic/open.a", "data": data, "id": n });
        publisher.send(&send.to_string()).await;
        publisher.expect("\"ok\"").await;
    }
    let asked = Instant::now();
    let (mut heard, mut cursor, mut turn) = (Vec::new(), positions.to_owned(), 0);
    while heard.len() < 400 {
        turn += 1;
        let page = poll(if turn % 2 == 0 { &a } else { &b }, &ann, &cursor, "20s").await;
        let messages = page["messages"].as_array().unwrap();
        heard.extend(messages.iter().map(|message| message["data"]["n"].clone()));
        cursor = cursor_of(&page).to_owned();
    }
    assert_eq!(heard, (0..400).collect::<Vec<_>>());
    assert!(asked.elapsed() < Duration::from_secs(20), "{turn} pages: {:?}", asked.elapsed());
    // And the same with short polls, each at a place of its own, as if every mailbox were lost.
    let (mut heard, mut cursor) = (0, positions.to_owned());
    while heard < 400 {
        let page = poll(&a, &ann, cursor.split('~').next().unwrap(), "0").await;
        for message in page["messages"].as_array().unwrap() {
            assert_eq!(message["data"]["n"], heard, "{cursor}");
            heard += 1;
        }
        cursor = cursor_of(&page).to_owned();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_polls_too_seldom_is_told_and_begins_again_where_it_stood() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let ann = bearer("ann").await;
    let mut publisher = RawClient::native(&a, "pub").await;
    let first = poll(&a, &ann, "", "0").await;
    let padding = "x".repeat(30_000);
    for n in 0..30 {
        let data = json!({ "n": n, "padding": padding });
        let send = json!({ "type": "send", "to": "/topic/open.a", "data": data, "id": n });
        publisher.send(&send.to_string()).await;
        publisher.expect("\"ok\"").await;
    }
    let (mut heard, mut was_told) = (Vec::new(), false);
    let mut cursor = cursor_of(&first).to_owned();
    while heard.len() < 30 {
        let page = poll(&b, &ann, &cursor, "5s").await;
        for message in page["messages"].as_array().unwrap() {
            was_told |= message["code"] == "slow_consumer";
            heard.extend(message["data"]["n"].as_u64());
        }
        cursor = cursor_of(&page).to_owned();
    }
    assert_eq!(heard, (0..30).collect::<Vec<_>>());
    assert!(was_told);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_never_arrived_is_given_again_and_of_two_polls_the_newer_one_waits() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let ann = bearer("ann").await;
    let mut publisher = RawClient::native(&a, "pub").await;
    let first = poll(&a, &ann, "", "0").await;
    publish(&mut publisher, "/topic/open.a", 0..3).await;
    for node in [&b, &a, &b] {
        // Each time as if the answer before had been lost.
        let page = poll(node, &ann, cursor_of(&first), "5s").await;
        assert_eq!(numbers(&page), [0, 1, 2], "{page}");
    }
    let page = poll(&a, &ann, "", "0").await;
    let target = format!("{TARGET}&cursor={}&wait=20s", cursor_of(&page));
    let lines = [("Authorization", &*ann)];
    let short = format!("{target}&wait=0");
    let mut older = Box::pin(get(a.public, &target, &lines));
    let told = loop {
        // The older one must have arrived to give way.
        tokio::select! {
            response = &mut older => break response,
            response = get(b.public, &short, &lines) => assert_eq!(response.status, 200),
        }
    };
    assert_eq!(told.problem(), (409, "already_polling".into()));
    // One that was cut at one node is not in the way of its repetition at the other.
    let (public, cut, authorization) = (b.public, target.clone(), ann.clone());
    let cut = tokio::spawn(async move {
        get(public, &cut, &[("Authorization", &*authorization)]).await.status
    });
    let is_there = async || b.metric("fanlight_peer_asks_pending").await == 1;
    eventually("it waits", is_there).await;
    cut.abort();
    let (newer, ()) = tokio::join!(get(a.public, &target, &lines), async {
        publish(&mut publisher, "/topic/open.a", 3..4).await;
    });
    assert_eq!((newer.status, numbers(&newer.json())), (200, vec![3]));
    // Another user's cursor opens nothing of anybody else's.
    let bob = bearer("bob").await;
    let page = poll(&a, &bob, cursor_of(&page), "5s").await;
    assert_eq!(numbers(&page), [3], "from its positions, which bob may read: {page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_says_nothing_sensible_is_refused_with_a_typed_problem() {
    let gateway = Gateway::start("").await;
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    for path in ["/poll", "/events"] {
        for (query, problem) in [
            ("", (400, "missing_destination")),
            ("?destination=topic", (400, "bad_destination")),
            ("?destination=/topic/a..b%00", (400, "bad_destination")),
            ("?destination=/topic/open.%ff", (400, "bad_query")),
            (
                "?destination=/topic/open.a&destination=/topic/open.b&destination=/topic/open.a",
                (400, "repeated_destination"),
            ),
            ("?destination=/topic/open.a&cursor=1:1~", (400, "bad_cursor")),
            ("?destination=/topic/open.a&cursor=1:1~nonsense", (400, "bad_cursor")),
            ("?destination=/topic/secret", (403, "forbidden")),
            ("?destination=/topic/open.*", (403, "forbidden")),
            ("?destination=/topic/open.a&cursor=x", (400, "bad_cursor")),
            ("?destination=/topic/open.a&cursor=1:1,2:2", (400, "bad_cursor")),
            (
                "?destination=/topic/open.a&destination=/topic/open.b&cursor=1:1",
                (400, "bad_cursor"),
            ),
        ] {
            let response = get(gateway.public, &format!("{path}{query}"), &lines).await;
            assert_eq!(response.problem(), (problem.0, problem.1.into()), "{path}{query}");
        }
        let target = format!("{path}?destination=/topic/open.a");
        let many = "&destination=/topic/open.a".repeat(200);
        let response = get(gateway.public, &format!("{target}{many}"), &lines).await;
        assert_eq!(response.problem(), (400, "limit_exceeded".into()));
        assert_eq!(get(gateway.public, &target, &[]).await.problem(), (401, "unauthorized".into()));
        let bad = [("Authorization", "Bearer nonsense")];
        assert_eq!(
            get(gateway.public, &target, &bad).await.problem(),
            (401, "unauthorized".into())
        );
        let twice = r#"{"destinations":["/topic/open.a","/topic/open.a"]}"#;
        let response = post(gateway.public, path, &lines, twice).await;
        assert_eq!(response.problem(), (400, "repeated_destination".into()));
        assert!(response.body.contains("/topic/open.a: "), "{response:?}");
        let unreadable = get(gateway.public, &format!("{path}?destination=%ff"), &lines).await;
        assert!(unreadable.body.contains("destination is not UTF-8"), "{unreadable:?}");
        for body in ["", "[]", "{\"destination\":\"/topic/open.a\"}", "{\"destinations\":[1]}"] {
            let response = post(gateway.public, path, &lines, body).await;
            assert_eq!(response.problem(), (400, "bad_body".into()), "{body}");
        }
        let large = "x".repeat(100_000);
        let response = post(gateway.public, path, &lines, &large).await;
        assert_eq!(response.problem(), (413, "too_large".into()));
    }
    let response = get(gateway.public, &format!("{TARGET}&wait=soon"), &lines).await;
    assert_eq!(response.problem(), (400, "bad_wait".into()));
    for wait in [json!("soon"), json!(-1), json!(0.5), json!([]), json!(true)] {
        let body = json!({ "destinations": ["/topic/open.a"], "wait": wait }).to_string();
        let response = post(gateway.public, "/poll", &lines, &body).await;
        assert_eq!(response.problem(), (400, "bad_wait".into()), "{wait}");
    }
    let own = format!("http://{}", gateway.public);
    let page = [("Authorization", &*ann), ("Origin", &*own)];
    let response = get(gateway.public, &format!("{TARGET}&wait=0"), &page).await;
    assert_eq!(response.header("access-control-allow-origin"), Some(&*own));
    assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    eventually("every mailbox that was opened is gone", async || {
        gateway.metric("fanlight_connections").await <= 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_page_or_method_is_refused_with_a_typed_problem() {
    let gateway = Gateway::start("").await;
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    for path in ["/poll", "/events"] {
        let target = format!("{path}?destination=/topic/open.a");
        let foreign = [("Authorization", &*ann), ("Origin", "https://evil.example")];
        let response = get(gateway.public, &target, &foreign).await;
        assert_eq!(response.problem(), (403, "foreign_origin".into()));
        assert_eq!(response.header("access-control-allow-origin"), None);
        let other = Stream::open(gateway.public, "HEAD", &target, headers(&lines)).await;
        assert_eq!((other.status, other.header("allow")), (405, Some("GET, POST, OPTIONS")));
        let other = ask(gateway.public, "PUT", &target, headers(&lines)).await;
        assert_eq!(other.problem(), (405, "method_not_allowed".into()));
        let mut allowed: Vec<_> = other.header("allow").unwrap().split(',').collect();
        allowed.sort_unstable();
        assert_eq!(allowed, ["GET", "HEAD", "OPTIONS", "POST"]);
        let foreign =
            [("Origin", "https://evil.example"), ("Access-Control-Request-Method", "GET")];
        let preflight = ask(gateway.public, "OPTIONS", path, headers(&foreign)).await;
        assert_eq!(preflight.problem(), (403, "foreign_origin".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_by_post_says_how_long_it_waits_as_a_time_or_in_seconds() {
    let gateway = Gateway::start("").await;
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    let mut cursor = cursor_of(&poll(&gateway, &ann, "", "0").await).to_owned();
    for wait in [json!(0), json!("0"), json!("0s"), json!(1), json!("1"), json!("1s")] {
        let destinations = ["/topic/open.a"];
        let body = json!({ "destinations": destinations, "cursor": cursor, "wait": wait });
        let asked = Instant::now();
        let response = post(gateway.public, "/poll", &lines, &body.to_string()).await;
        assert_eq!(response.status, 200, "{wait}: {response:?}");
        // Not the 25 s of a poll that says nothing.
        assert!(asked.elapsed() < Duration::from_secs(20), "{wait}");
        let page = response.json();
        assert_eq!(page["messages"], json!([]), "{page}");
        cursor = cursor_of(&page).to_owned();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_lives_as_long_as_it_is_polled_and_leaves_nothing() {
    let gateway = Gateway::start("[poll]\nlinger = \"1s\"\nmax_wait = \"1s\"").await;
    let ann = bearer("ann").await;
    let first = poll(&gateway, &ann, "", "0").await;
    let id = |page: &Value| cursor_of(page).split_once('~').unwrap().1.to_owned();
    let mut cursor = cursor_of(&first).to_owned();
    for _ in 0..3 {
        // No longer than the node lets it.
        let asked = Instant::now();
        let page = poll(&gateway, &ann, &cursor, "50s").await;
        assert!(asked.elapsed() < Duration::from_secs(20));
        assert_eq!(id(&page), id(&first));
        cursor = cursor_of(&page).to_owned();
    }
    let none = async |name: &str| gateway.metric(name).await == 0;
    eventually("the session is gone", async || none("fanlight_connections").await).await;
    eventually("with what it listened to", async || none("fanlight_subscriptions").await).await;
    let page = poll(&gateway, &ann, &cursor, "0").await;
    assert_ne!(id(&page), id(&first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_those_who_poll_with_advice_and_a_cursor_for_another_node() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let ann = bearer("ann").await;
    let mut publisher = RawClient::native(&b, "pub").await;
    let page = poll(&a, &ann, "", "0").await;
    let cursor = cursor_of(&page).to_owned();
    let waiting = poll(&b, &ann, &cursor, "40s");
    let drained = async {
        let is_waiting = async || b.metric("fanlight_peer_asks_pending").await == 1;
        eventually("it waits", is_waiting).await;
        a.signal("TERM").await;
    };
    let (page, ()) = tokio::join!(waiting, drained);
    let advice = page["messages"].as_array().unwrap().last().unwrap();
    assert_eq!(advice["type"], "reconnect", "{page}");
    assert_eq!(advice["reason"], "draining", "{page}");
    assert!(!cursor_of(&page).contains('~'), "{page}");
    publish(&mut publisher, "/topic/open.a", 0..3).await;
    let (mut cursor, mut heard) = (cursor_of(&page).to_owned(), Vec::new());
    while heard.len() < 3 {
        let page = poll(&b, &ann, &cursor, "5s").await;
        heard.extend(numbers(&page));
        cursor = cursor_of(&page).to_owned();
    }
    assert_eq!(heard, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_session_publishes_under_the_same_rules_as_who_has_one() {
    let gateway = Gateway::start("").await;
    let ann = bearer("ann").await;
    let mut reader = RawClient::native(&gateway, "bob").await;
    reader.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
    reader.expect("\"ok\"").await;
    let lines = [("Authorization", &*ann)];
    let publish =
        async |body: Value| post(gateway.public, "/publish", &lines, &body.to_string()).await;
    let ok = publish(json!({ "to": "/topic/open.a", "data": { "x": 1 } })).await;
    assert_eq!(ok.status, 200, "{ok:?}");
    assert!(ok.json()["message_id"].is_string());
    let message = reader.expect("\"data\":{\"x\":1}").await;
    assert!(message.contains("\"from\":\"ann\""), "{message}");

    let keyed = json!({ "type": "send", "to": "/topic/open.a", "data": 2, "key": "k" });
    let (first, again) = (publish(keyed.clone()).await.json(), publish(keyed).await.json());
    assert_eq!(first["message_id"], again["message_id"]);
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&Value::Null, &json!(true)));
    reader.expect("\"data\":2").await;

    for (body, problem) in [
        (json!({ "to": "/topic/secret", "data": 1 }), (403, "forbidden")),
        (json!({ "to": "/user/bob/queue/a", "data": 1 }), (403, "forbidden")),
        (json!({ "to": "/topic/open.*", "data": 1 }), (400, "bad_destination")),
        (json!({ "to": "nowhere", "data": 1 }), (400, "bad_destination")),
        (json!({ "data": 1 }), (400, "protocol_error")),
        (json!({ "type": "subscribe", "to": "/topic/open.a" }), (400, "protocol_error")),
        (json!({ "to": "/topic/open.a", "data": "x".repeat(70_000) }), (413, "too_large")),
    ] {
        assert_eq!(publish(body.clone()).await.problem(), (problem.0, problem.1.into()), "{body}");
    }
    let body = json!({ "to": "/topic/open.a", "data": 3 }).to_string();
    let bare = post(gateway.public, "/publish", &[], &body).await;
    assert_eq!(bare.problem(), (401, "unauthorized".into()));
    let foreign = [("Authorization", &*ann), ("Origin", "https://evil.example")];
    let foreign = post(gateway.public, "/publish", &foreign, &body).await;
    assert_eq!(foreign.problem(), (403, "foreign_origin".into()));
    let other = ask(gateway.public, "GET", "/publish", BARE).await;
    assert_eq!(other.problem(), (405, "method_not_allowed".into()));
    assert_eq!(other.header("allow"), Some("POST,OPTIONS"));
    let ping = publish(json!({ "type": "ping" })).await;
    assert_eq!(ping.problem(), (400, "protocol_error".into()));
    assert!(ping.body.contains("only \\\"send\\\" is"), "{ping:?}");
    // Nothing of what was refused has come.
    publish(json!({ "to": "/topic/open.a", "data": "last" })).await;
    reader.expect("\"data\":\"last\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_to_its_end_is_answered_in_time_whatever_it_is_for() {
    let short = CONFIG.replace("[limits]", "[limits]\nrequest_body_time = \"300ms\"");
    let gateway = Gateway::with_config(&short).await;
    let ann = bearer("ann").await;
    for target in ["/publish", "/poll", "/events", "/sockjs/000/body/xhr_send"] {
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nAuthorization: {ann}\r\n\
             Content-Length: 100\r\n\r\n{{\"to\":"
        );
        let response = Stream::raw(gateway.public, &request).await.whole().await;
        assert_eq!(response.problem(), (408, "request_timeout".into()), "{target}");
    }
    eventually("no connection is left", async || gateway.metric("fanlight_connections").await == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_publishes_too_fast_is_told_when_to_go_on_whatever_connections_it_makes() {
    let slow = CONFIG.replace("[limits]", "[limits]\nmessages_per_second = 1\nmessage_burst = 3");
    let gateway = Gateway::with_config(&slow).await;
    let token = token("ann", &[]).await;
    let target = format!("/publish?access_token={token}");
    let body = json!({ "to": "/topic/open.a", "data": 1 }).to_string();
    let with = With { headers: &[("Content-Type", "application/json")], body: &body };
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let response = ask(gateway.public, "POST", &target, with).await;
        if response.status == 429 {
            assert_eq!(response.problem().1, "rate_limited");
            assert!(response.header("retry-after").is_some());
        }
        statuses.push(response.status);
    }
    assert_eq!(statuses[..3], [200; 3]);
    assert!(statuses.contains(&429), "{statuses:?}");
    // Another user pays for itself.
    let bob = bearer("bob").await;
    let response = post(gateway.public, "/publish", &[("Authorization", &bob)], &body).await;
    assert_eq!(response.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_leave_a_node_that_drains_one_after_another_and_no_more_wait_there() {
    let redis = RedisServer::start().unwrap();
    let config = config(&redis, "").replace("window = \"200ms\"", "window = \"4s\"");
    let [a, b] = nodes_with(&config).await;
    let ann = bearer("ann").await;
    let mut cursors = Vec::new();
    for _ in 0..8 {
        cursors.push(cursor_of(&poll(&a, &ann, "", "0").await).to_owned());
    }
    // It keeps the node until the window's end.
    let _last = RawClient::native(&b, "last").await;
    let mut waiting: FuturesUnordered<_> =
        cursors.iter().map(async |cursor| (cursor, poll(&b, &ann, cursor, "40s").await)).collect();
    let is_same = |(cursor, page): (&String, Value)| {
        assert_eq!((cursor_of(&page), &page["messages"]), (&**cursor, &json!([])));
    };
    let drained = async {
        let are_waiting = async || b.metric("fanlight_peer_asks_pending").await == 8;
        eventually("they wait", are_waiting).await;
        b.signal("TERM").await;
    };
    let (first, ()) = tokio::join!(waiting.next(), drained);
    is_same(first.unwrap());
    // Others wait there still, but nobody new may.
    let target = format!("{TARGET}&cursor={}&wait=40s", cursors[0]);
    let refused = get(b.public, &target, &[("Authorization", &*ann)]).await;
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("draining")));
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(b.metric("fanlight_peer_asks_pending").await > 0, "all of them left at once");
    waiting.map(is_same).collect::<()>().await;
    // Elsewhere, everything is as it was.
    let page = poll(&a, &ann, &cursors[0], "0").await;
    assert_eq!(page["messages"], json!([]), "{page}");
}
