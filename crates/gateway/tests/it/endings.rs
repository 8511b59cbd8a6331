//! How connections end: half-closes, closes in every order, slow consumers, timeouts, expiry.

use std::time::{Duration, Instant};

use fanlight_proto::ws::{self, Opcode};

use crate::support::{CONFIG, Gateway, Got, RawClient, eventually, token_that_expires_in};

fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ws::frame_masked(&mut out, opcode, payload, [7, 1, 9, 4]);
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fin_that_comes_together_with_data_is_seen_and_what_is_owed_is_sent_first() {
    let gateway = Gateway::start("").await;
    let mut client = RawClient::native(&gateway, "ann").await;
    // The node finds both at once: there is one edge for them.
    gateway.signal("STOP").await;
    client.send(r#"{"type":"ping","id":7}"#).await;
    client.end_sending().await;
    gateway.signal("CONT").await;
    client.expect(r#""id":7"#).await;
    assert_eq!(client.next().await, Got::End);
    gateway.connections(0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_and_a_close_in_one_segment_end_the_connection_at_once() {
    let gateway = Gateway::start("").await;
    let mut client = RawClient::stomp(&gateway, "ann").await;
    let disconnect = frame(Opcode::Text, b"DISCONNECT\nreceipt:bye\n\n\0");
    let close = frame(Opcode::Close, &[0x03, 0xE8]);
    let sent = Instant::now();
    client.send_raw(&[disconnect, close].concat()).await;
    client.expect("receipt-id:bye").await;
    assert_eq!(client.close_code().await, 1000);
    assert_eq!(client.next().await, Got::End);
    assert!(sent.elapsed() < Duration::from_millis(1500), "only the deadline ended it");
    gateway.connections(0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_our_close_is_not_answered_and_does_not_keep_the_connection() {
    let gateway = Gateway::start("").await;
    let mut client = RawClient::stomp(&gateway, "ann").await;
    client.send("DISCONNECT\n\n\0").await;
    for _ in 0..3 {
        client.send("SEND\ndestination:/topic/open.a\nreceipt:late\n\nx\0").await;
    }
    assert_eq!(client.close_code().await, 1000);
    // It never answers the close.
    assert_eq!(client.next().await, Got::End);
    gateway.connections(0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_with_overlapping_subscriptions_is_told_why_it_is_closed() {
    let config = CONFIG.replace(
        "connections_per_ip = 0",
        "connections_per_ip = 0\noutbox = \"64KiB\"\nmessages_per_second = 0",
    );
    let gateway = Gateway::with_config(&config.replace("workers = 2", "workers = 1")).await;
    let mut slow = RawClient::stomp(&gateway, "slow").await;
    for id in ["one", "two"] {
        let subscribe =
            format!("SUBSCRIBE\nid:{id}\nreceipt:{id}\ndestination:/topic/open.a\n\n\0");
        slow.send(&subscribe).await;
        slow.expect("RECEIPT").await;
    }
    let mut quick = RawClient::native(&gateway, "quick").await;
    let body = "x".repeat(60 * 1024);
    let mut n = 0;
    while gateway.metric("fanlight_outbox_dropped_frames_total").await == 0 {
        let send = format!(r#"{{"type":"send","to":"/topic/open.a","data":"{body}","id":{n}}}"#);
        quick.send(&send).await;
        quick.expect("\"ok\"").await;
        n += 1;
        assert!(n < 2000, "the slow consumer was never found out");
    }
    let mut told = false;
    loop {
        match slow.next().await {
            Got::Text(text) => told |= text.starts_with("ERROR"),
            Got::Close(code) => break assert_eq!(code, 4413),
            got => panic!("a slow consumer was not told why it was closed: {got:?}"),
        }
    }
    assert!(told, "no ERROR came before the close");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_for_the_send_time_is_cut() {
    let config = CONFIG.replace(
        "connections_per_ip = 0",
        "connections_per_ip = 0\noutbox = \"32MiB\"\nsend_time = \"1s\"\nmessages_per_second = 0",
    );
    let gateway = Gateway::with_config(&config).await;
    let mut slow = RawClient::native(&gateway, "slow").await;
    slow.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
    slow.expect("\"ok\"").await;
    let mut quick = RawClient::native(&gateway, "quick").await;
    let body = "x".repeat(60 * 1024);
    // More than the kernel's buffers hold, less than the outbox does.
    for n in 0..200 {
        let send = format!(r#"{{"type":"send","to":"/topic/open.a","data":"{body}","id":{n}}}"#);
        quick.send(&send).await;
        quick.expect("\"ok\"").await;
    }
    eventually("the stuck connection is cut", async || {
        let (_, metrics) = gateway.admin_get("/metrics").await;
        metrics.contains("fanlight_closes_total{reason=\"send_timeout\"} 1")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_connect_in_time_is_closed_with_4508() {
    let config = CONFIG
        .replace("connections_per_ip = 0", "connections_per_ip = 0\nconnect_time = \"500ms\"");
    let gateway = Gateway::with_config(&config).await;
    for protocol in [None, Some("fanlight.v1.json"), Some("v12.stomp")] {
        let headers = protocol.map(|name| ("Sec-WebSocket-Protocol", name));
        let mut client = RawClient::connect(&gateway, "/ws", headers.as_slice()).await;
        assert_eq!(client.close_code().await, 4508, "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_closes_both_protocols_with_4501() {
    let config = CONFIG.replace("[[auth.keys]]", "[auth]\nleeway = \"0s\"\n[[auth.keys]]");
    let gateway = Gateway::with_config(&config).await;
    let bearer = format!("Bearer {}", token_that_expires_in("ann", "3s").await);
    let mut waiting = Vec::new();
    for (protocol, connect, said) in [
        ("fanlight.v1.json", r#"{"type":"connect"}"#, "token_expired"),
        ("v12.stomp", "CONNECT\naccept-version:1.2\n\n\0", "code:token_expired"),
    ] {
        // Both within the life of one token.
        let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", protocol)];
        let mut client = RawClient::connect(&gateway, "/ws", &headers).await;
        client.send(connect).await;
        let gone = tokio::spawn(async move {
            client.expect("").await;
            client.expect(said).await;
            client.close_code().await
        });
        waiting.push(gone);
    }
    for gone in waiting {
        assert_eq!(gone.await.unwrap(), 4501);
    }
}
