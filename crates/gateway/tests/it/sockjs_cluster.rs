//! What becomes of sessions by requests when nodes die or drain.

use fanlight_testkit::RedisServer;
use serde_json::json;

use crate::http::{Stream, get};
use crate::returning::{bearer, named, nodes, publish};
use crate::sockjs_session::{How, Session};
use crate::support::{CONFIG, Gateway, RawClient, eventually, token, with_redis};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_node_is_dead_is_interrupted_and_never_a_second_one() {
    let redis = RedisServer::start().unwrap();
    // Nobody receives from some of them for a while.
    let more = "[cluster]\nlease = \"3s\"\nlease_renew = \"1s\"\n[sockjs]\nheartbeat = \"2s\"\n\
                disconnect_delay = \"1m\"";
    let [a, b, c] = nodes(&redis, more).await;
    let ann = token("ann", &[]).await;
    let interrupted = "c[1002,\"Connection interrupted\"]\n";
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(Session::stomp(&[&a], &ann, How::Polling).await);
    }
    // One that waits at another node, for which the dead one never answers.
    let mut waiting = sessions.pop().unwrap();
    waiting.move_to(&[&b]);
    let mut twin = waiting.twin(Some(&ann));
    twin.move_to(&[&c]);
    let killed = async {
        // Who is in its way is refused as soon as it waits; who was before it is answered.
        while !twin.post("xhr", "").await.body.starts_with("c[2010,") {}
        a.signal("KILL").await;
    };
    let last = async {
        loop {
            let frame = waiting.post("xhr", "").await.body;
            if !frame.starts_with('h') && !frame.starts_with("c[2010,") {
                break frame;
            }
        }
    };
    let (frame, ()) = tokio::join!(last, killed);
    assert_eq!(frame, interrupted);
    for session in &mut sessions {
        session.move_to(&[&b, &c]);
        // At once, while its lease still stands.
        assert_eq!(session.post("xhr", "").await.body, interrupted);
        assert_eq!(session.post("xhr_send", "[\"x\"]").await.status, 404);
    }
    eventually("its lease is over", async || b.metric("fanlight_cluster_nodes").await == 2).await;
    for session in &mut sessions {
        for _ in 0..4 {
            let response = session.post("xhr", "").await;
            assert_eq!(response.body, interrupted, "no other session in its place");
            assert_eq!(session.post("xhr_send", "[\"x\"]").await.status, 404);
        }
        let mut twin = session.twin(Some(&ann));
        let stream = twin.post("xhr_streaming", "").await;
        assert!(stream.body.ends_with(interrupted), "{stream:?}");
    }
    // A new name is a new session.
    Session::stomp(&[&b, &c], &ann, How::Streaming).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_node_that_dies_hears_of_it_long_before_a_heartbeat() {
    let redis = RedisServer::start().unwrap();
    let more = "[cluster]\nlease = \"3s\"\nlease_renew = \"1s\"\n[sockjs]\nheartbeat = \"5m\"";
    let [a, b] = nodes(&redis, more).await;
    let ann = token("ann", &[]).await;
    let mut publisher = RawClient::native(&b, "pub").await;
    let mut session = Session::stomp(&[&a], &ann, How::Polling).await;
    session.move_to(&[&b]);
    let lines = [("Authorization", &*bearer("ann").await)];
    let target = "/poll?destination=/topic/open.a";
    let page = get(a.public, &format!("{target}&wait=0"), &lines).await.json();
    let cursor = page["cursor"].as_str().unwrap();
    let target = format!("{target}&wait=60s&cursor={cursor}");
    let killed = async {
        eventually("both wait", async || b.metric("fanlight_peer_asks_pending").await == 2).await;
        a.signal("KILL").await;
        // The poll goes on from its cursor, whether this comes before that is noticed or after.
        publish(&mut publisher, "/topic/open.a", 7..8).await;
    };
    let polled = get(b.public, &target, &lines);
    let (interrupted, page, ()) = tokio::join!(session.post("xhr", ""), polled, killed);
    assert_eq!(interrupted.body, "c[1002,\"Connection interrupted\"]\n");
    let page = page.json();
    assert_eq!(page["messages"][0]["data"], 7, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_nobody_who_has_heard_the_end_and_not_long_for_others() {
    let redis = RedisServer::start().unwrap();
    let [mut a, b] = nodes(&redis, "").await;
    let ann = token("ann", &[]).await;
    let lines = [("Authorization", &*bearer("ann").await)];
    let target = "/poll?destination=/topic/open.a";
    // Nobody comes any more for this one, whose end would be told for five seconds.
    get(a.public, &format!("{target}&wait=0"), &lines).await;
    let page = get(a.public, &format!("{target}&wait=0"), &lines).await.json();
    let target = format!("{target}&wait=60s&cursor={}", page["cursor"].as_str().unwrap());
    let mut session = Session::stomp(&[&a], &ann, How::Streaming).await;
    session.move_to(&[&b]);
    let asked = std::time::Instant::now();
    let ended = async {
        eventually("the poll waits", async || b.metric("fanlight_peer_asks_pending").await > 0)
            .await;
        a.signal("TERM").await;
    };
    let heard = async {
        assert!(session.expect("ERROR\n").await.contains("\ncode:draining\n"));
        assert_eq!(session.close_frame().await, "c[1012,\"draining\"]");
    };
    let (page, (), ()) = tokio::join!(get(b.public, &target, &lines), heard, ended);
    let page = page.json();
    assert_eq!(page["messages"][0]["reason"], "draining", "{page}");
    assert!(a.ended().await);
    assert!(asked.elapsed() < std::time::Duration::from_millis(4900), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_comes_by_requests_to_another_node_whatever_its_bytes_become() {
    let redis = RedisServer::start().unwrap();
    let config = with_redis(CONFIG, &redis)
        .replace("[limits]", "[limits]\nmessage = \"1MiB\"\noutbox = \"16MiB\"");
    let (a, b) = (Gateway::with_config(&config).await, Gateway::with_config(&config).await);
    for node in [&a, &b] {
        eventually("it is ready", async || node.admin_get("/readyz").await.0 == 200).await;
    }
    let ann = token("ann", &[]).await;
    let mut publisher = RawClient::stomp(&a, "pub").await;
    let mut session = Session::stomp(&[&a], &ann, How::Polling).await;
    session.subscribe("/topic/open.a").await;
    session.move_to(&[&b]);
    let lines = [("Authorization", &*bearer("ann").await)];
    let target = "/poll?destination=/topic/open.a";
    let page = get(a.public, &format!("{target}&wait=0"), &lines).await.json();
    let mut cursor = page["cursor"].as_str().unwrap().to_owned();
    let length = (1 << 20) - 256;
    for body in ["\u{1}".repeat(length), "\"\\".repeat(length / 2)] {
        let length = body.len();
        let head = format!("SEND\ndestination:/topic/open.a\ncontent-length:{length}\n");
        publisher.send(&format!("{head}content-type:text/plain\nreceipt:r\n\n{body}\0")).await;
        publisher.expect("RECEIPT").await;
        let message = session.message().await;
        assert!(message.ends_with(&format!("\n\n{body}\0")), "{}", message.len());
        let polled = format!("{target}&wait=20s&cursor={cursor}");
        let page = get(b.public, &polled, &lines).await.json();
        let data = page["messages"][0]["data"].as_str().unwrap();
        assert_eq!(data.len(), length.div_ceil(3) * 4, "as base64");
        cursor = page["cursor"].as_str().unwrap().to_owned();
    }
    // A body may be twice as large as its message.
    let body = "\"\\".repeat(length / 2);
    let head = format!("SEND\ndestination:/topic/open.b\nreceipt:s\ncontent-length:{length}\n");
    session.send(&format!("{head}\n{body}\0")).await;
    session.expect("receipt-id:s").await;
    // Many that wait together are no more than one answer carries, or their reader is too slow.
    for _ in 0..3 {
        let body = "x".repeat(length);
        let head = "SEND\ndestination:/topic/open.a\ncontent-type:text/plain\nreceipt:r\n";
        publisher.send(&format!("{head}\n{body}\0")).await;
        publisher.expect("RECEIPT").await;
    }
    let mut got = 0;
    while got < 3 {
        let polled = format!("{target}&wait=20s&cursor={cursor}");
        let page = get(b.public, &polled, &lines).await.json();
        let messages = page["messages"].as_array().unwrap();
        assert!(messages.iter().all(|message| message["type"] == "message"), "{page}");
        got += messages.len();
        cursor = page["cursor"].as_str().unwrap().to_owned();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_sockjs_sessions_with_advice_and_they_return_elsewhere() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let ann = token("ann", &[]).await;
    let mut publisher = RawClient::native(&b, "pub").await;
    let mut sessions = Vec::new();
    for how in [How::Polling, How::Streaming] {
        let mut session = Session::stomp(&[&a], &ann, how).await;
        session.subscribe("/topic/open.a").await;
        sessions.push((session, how));
    }
    let endings = sessions.iter_mut().map(|(session, _)| async {
        // Its requests come to the node that stays.
        session.move_to(&[&b]);
        let error = session.expect("ERROR\n").await;
        assert!(error.contains("\ncode:draining\n") && error.contains("\nretry-after"), "{error}");
        assert_eq!(session.close_frame().await, "c[1012,\"draining\"]");
    });
    tokio::join!(a.signal("TERM"), futures_util::future::join_all(endings));
    for (_, how) in sessions {
        let mut session = Session::stomp(&[&b], &ann, how).await;
        session.subscribe("/topic/open.b").await;
        publisher.send(r#"{"type":"send","to":"/topic/open.b","data":"on","id":1}"#).await;
        publisher.expect("\"ok\"").await;
        session.expect("\"on\"").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_event_sources_when_to_come_back() {
    let redis = RedisServer::start().unwrap();
    let [a, _b] = nodes(&redis, "").await;
    let target =
        format!("/events?destination=/topic/open.a&access_token={}", token("ann", &[]).await);
    let mut stream = Stream::open(a.public, "GET", &target, crate::http::BARE).await;
    named(&mut stream, "connected").await;
    named(&mut stream, "subscribed").await;
    a.signal("TERM").await;
    let advice = named(&mut stream, "reconnect").await;
    assert_eq!(advice.retry.as_deref(), Some("500"));
    assert!(advice.data.contains("\"reason\":\"draining\""), "{advice:?}");
    assert_eq!(stream.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grows_on_its_way_between_nodes_arrives_all_the_same() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let ann = token("ann", &[]).await;
    let mut publisher = RawClient::stomp(&a, "pub").await;
    for how in [How::Polling, How::Streaming] {
        let mut session = Session::stomp(&[&a], &ann, How::Polling).await;
        session.subscribe("/topic/open.a").await;
        session.move_to(&[&b]);
        session.receive_by(how);
        // Each of these is six characters in a frame.
        for body in ["\u{1}".repeat(60_000), "\"\\".repeat(30_000), "\u{1F600}".repeat(15_000)] {
            let length = body.len();
            let head = format!("SEND\ndestination:/topic/open.a\ncontent-length:{length}\n");
            publisher.send(&format!("{head}receipt:r\n\n{body}\0")).await;
            publisher.expect("RECEIPT").await;
            let message = session.message().await;
            assert!(message.ends_with(&format!("\n\n{body}\0")), "{}", message.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_who_polls_comes_whole_from_another_node_without_a_history_too() {
    let redis = RedisServer::start().unwrap();
    let config = with_redis(CONFIG, &redis);
    let (a, b) = (Gateway::with_config(&config).await, Gateway::with_config(&config).await);
    for node in [&a, &b] {
        eventually("it is ready", async || node.admin_get("/readyz").await.0 == 200).await;
    }
    let bearer = bearer("ann").await;
    let lines = [("Authorization", &*bearer)];
    let target = "/poll?destination=/topic/open.a&wait=0";
    let page = get(a.public, target, &lines).await.json();
    let mut publisher = RawClient::native(&a, "pub").await;
    for n in 0..9 {
        let data = format!("{n}{}", "x".repeat(50_000));
        let send = json!({ "type": "send", "to": "/topic/open.a", "data": data, "id": n });
        publisher.send(&send.to_string()).await;
        publisher.expect("\"ok\"").await;
    }
    let (mut cursor, mut heard) = (page["cursor"].as_str().unwrap().to_owned(), 0);
    while heard < 9 {
        let page = get(b.public, &format!("{target}&cursor={cursor}"), &lines).await.json();
        for message in page["messages"].as_array().unwrap() {
            let data = message["data"].as_str().unwrap_or_else(|| panic!("{message}"));
            assert!(data.starts_with(&heard.to_string()));
            heard += 1;
        }
        cursor = page["cursor"].as_str().unwrap().to_owned();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_hands_on_those_who_wait_there_for_sessions_of_another() {
    let redis = RedisServer::start().unwrap();
    let [mut a, b] = nodes(&redis, "").await;
    let ann = token("ann", &[]).await;
    let mut publisher = RawClient::native(&b, "pub").await;
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let mut session = Session::stomp(&[&b], &ann, How::Polling).await;
        session.subscribe("/topic/open.a").await;
        session.move_to(&[&a]);
        sessions.push(session);
    }
    let lines = [("Authorization", &*bearer("ann").await)];
    let target = "/poll?destination=/topic/open.a";
    let page = get(b.public, &format!("{target}&wait=0"), &lines).await.json();
    let cursor = page["cursor"].as_str().unwrap();
    let target = format!("{target}&wait=40s&cursor={cursor}");
    let public = a.public;
    let gone = async {
        eventually("all three wait", async || a.metric("fanlight_peer_asks_pending").await == 3)
            .await;
        a.signal("TERM").await;
        assert!(a.ended().await);
    };
    let mut sessions = sessions.into_iter();
    let (mut polling, mut streaming) = (sessions.next().unwrap(), sessions.next().unwrap());
    let (held, streamed, page, ()) = tokio::join!(
        polling.post("xhr", ""),
        streaming.post("xhr_streaming", ""),
        get(public, &target, &lines),
        gone
    );
    assert_eq!(held.body, "h\n");
    assert_eq!(streamed.body.trim_start_matches('h'), "\n", "more than a prelude");
    assert_eq!(page.json(), json!({ "messages": [], "cursor": cursor }));
    publisher.send(r#"{"type":"send","to":"/topic/open.a","data":"on","id":1}"#).await;
    publisher.expect("\"ok\"").await;
    for session in [&mut polling, &mut streaming] {
        session.move_to(&[&b]);
        session.expect("\"on\"").await;
    }
    assert!(get(b.public, &target, &lines).await.body.contains("\"on\""));
}
