//! What becomes of sessions by requests when nodes die or drain.

use fanlight_testkit::RedisServer;
use serde_json::json;

use crate::http::{Stream, get};
use crate::returning::{bearer, event, named, nodes};
use crate::sockjs_session::{How, Session};
use crate::support::{CONFIG, Gateway, RawClient, eventually, token, with_redis};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_node_is_dead_is_interrupted_and_never_a_second_one() {
    let redis = RedisServer::start().unwrap();
    let more = "[cluster]\nlease = \"3s\"\nlease_renew = \"1s\"\n[sockjs]\nheartbeat = \"2s\"";
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
    a.signal("TERM").await;
    for (mut session, how) in sessions {
        // Its requests come to the node that stays.
        session.move_to(&[&b]);
        let error = session.expect("ERROR\n").await;
        assert!(error.contains("\ncode:draining\n") && error.contains("\nretry-after"), "{error}");
        assert_eq!(session.close_frame().await, "c[1012,\"draining\"]");
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
    let retry = event(&mut stream).await.unwrap();
    assert_eq!(retry.retry.as_deref(), Some("500"));
    let advice = named(&mut stream, "reconnect").await;
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
        let mut session = Session::stomp(&[&a], &ann, how).await;
        session.subscribe("/topic/open.a").await;
        session.move_to(&[&b]);
        session.hang_up();
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
    for how in [How::Polling, How::Streaming] {
        let mut session = Session::stomp(&[&b], &ann, how).await;
        session.subscribe("/topic/open.a").await;
        session.hang_up();
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
    let held = async {
        loop {
            let body = polling.post("xhr", "").await.body;
            if !body.starts_with("c[2010,") {
                break body;
            }
        }
    };
    let streamed = async {
        loop {
            let body = streaming.post("xhr_streaming", "").await.body;
            if !body.contains("c[2010,") {
                break body;
            }
        }
    };
    let (held, streamed, page, ()) =
        tokio::join!(held, streamed, get(public, &target, &lines), gone);
    assert_eq!(held, "h\n");
    assert!(streamed.ends_with("h\nh\n"), "{streamed}");
    assert_eq!(page.json(), json!({ "messages": [], "cursor": cursor }));
    publisher.send(r#"{"type":"send","to":"/topic/open.a","data":"on","id":1}"#).await;
    publisher.expect("\"ok\"").await;
    for session in [&mut polling, &mut streaming] {
        session.move_to(&[&b]);
        session.expect("\"on\"").await;
    }
    assert!(get(b.public, &target, &lines).await.body.contains("\"on\""));
}
