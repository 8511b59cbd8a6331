//! A thousand SockJS sessions over three nodes without stickiness.

use std::sync::Arc;
use std::time::Instant;

use fanlight_testkit::RedisServer;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::returning::nodes;
use crate::sockjs_session::{How, Session};
use crate::support::{RawClient, eventually, token};

const SESSIONS: usize = 1000;
const TOPICS: usize = 20;
const MESSAGES: usize = 10;
/// Sessions that open at the same time.
const OPENING: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sessions_at_any_node_each_get_their_messages_once_and_in_order() {
    let redis = RedisServer::start().unwrap();
    // Whoever waits for its turn on a loaded machine is no absentee.
    let [a, b, c] = nodes(&redis, "[sockjs]\ndisconnect_delay = \"30s\"").await;
    let all = [&a, &b, &c];
    let ann = token("ann", &[]).await;
    let (began, gate) = (Instant::now(), Arc::new(Semaphore::new(OPENING)));
    let mut opening = JoinSet::new();
    for n in 0..SESSIONS {
        let how = if n % 2 == 0 { How::Polling } else { How::Streaming };
        let mut session = Session::new(&all, Some(&ann), how);
        let gate = Arc::clone(&gate);
        opening.spawn(async move {
            let _turn = gate.acquire().await.unwrap();
            assert_eq!(session.frame().await, "o");
            let subscribe =
                format!("SUBSCRIBE\nid:s\nreceipt:s\ndestination:/topic/open.{}\n\n\0", n % TOPICS);
            let connect = "CONNECT\naccept-version:1.2\nheart-beat:0,0\n\n\0";
            session.send_all(&[connect, &subscribe]).await;
            session.expect("CONNECTED\n").await;
            session.expect("receipt-id:s").await;
            session
        });
    }
    let sessions = opening.join_all().await;
    let opened = began.elapsed();
    eventually("all are there", async || {
        let mut open = 0;
        for node in all {
            open += node.metric("fanlight_connections").await;
        }
        open == SESSIONS as u64
    })
    .await;

    let mut receiving = JoinSet::new();
    for mut session in sessions {
        receiving.spawn(async move {
            for n in 0..MESSAGES {
                session.expect(&format!("\n\n{n}\0")).await;
            }
            // The last of all, so that one too many would have come before it.
            session.expect("\n\n\"end\"\0").await;
            session
        });
    }
    let mut publisher = RawClient::native(&a, "pub").await;
    for data in (0..MESSAGES).map(|n| json!(n)).chain([json!("end")]) {
        for topic in 0..TOPICS {
            let to = format!("/topic/open.{topic}");
            let send = json!({ "type": "send", "to": to, "data": data, "id": topic });
            publisher.send(&send.to_string()).await;
            publisher.expect("\"ok\"").await;
        }
    }
    let sessions = receiving.join_all().await;
    assert_eq!(sessions.len(), SESSIONS);
    println!("opened in {opened:?}, all in {:?}", began.elapsed());
    for node in all {
        assert_eq!(node.metric("fanlight_panics_total").await, 0);
    }
}
