//! Messages between sessions of one node: both protocols, order, refusals, slow consumers.

use crate::support::{Gateway, Got, RawClient, token};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_native_and_stomp_subscribers_once_and_in_order() {
    let gateway = Gateway::start("").await;
    let mut native = RawClient::native(&gateway, "ann").await;
    native.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
    native.expect("\"ok\"").await;
    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    stomp.send("SUBSCRIBE\nid:s1\nreceipt:r1\ndestination:/topic/open.a\n\n\0").await;
    stomp.expect("RECEIPT\nreceipt-id:r1").await;
    for n in 0..50 {
        let send = format!(r#"{{"type":"send","to":"/topic/open.a","data":{{"n":{n}}}}}"#);
        native.send(&send).await;
    }
    for n in 0..50 {
        native.expect(&format!(r#""data":{{"n":{n}}}"#)).await;
        let message = stomp.expect(&format!("{{\"n\":{n}}}\0")).await;
        assert!(message.starts_with("MESSAGE\nsubscription:s1\n"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_rule_allows_is_refused_in_the_protocol_s_own_terms() {
    let gateway = Gateway::start("").await;
    let mut native = RawClient::native(&gateway, "ann").await;
    for message in [
        r#"{"type":"send","to":"/topic/secret","data":1,"id":"a"}"#,
        r#"{"type":"subscribe","to":"/topic/secret","id":"a"}"#,
        r#"{"type":"subscribe","to":"/user/bob/queue/x","id":"a"}"#,
        r#"{"type":"send","to":"/user/bob/queue/x","data":1,"id":"a"}"#,
    ] {
        native.send(message).await;
        let error = native.expect("\"forbidden\"").await;
        assert!(error.contains(r#""id":"a""#), "{error}");
    }
    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    stomp.send("SEND\ndestination:/topic/secret\nreceipt:r\n\nx\0").await;
    let error = stomp.expect("ERROR").await;
    assert!(error.contains("receipt-id:r") && error.contains("forbidden"), "{error}");
    assert_eq!(stomp.close_code().await, 4503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_destination_reaches_all_sessions_of_that_user_and_nobody_else() {
    let gateway = Gateway::start("").await;
    let mut anns =
        [RawClient::native(&gateway, "ann").await, RawClient::native(&gateway, "ann").await];
    let mut bob = RawClient::native(&gateway, "bob").await;
    for client in anns.iter_mut().chain([&mut bob]) {
        client.send(r#"{"type":"subscribe","to":"/user/queue/alerts","id":1}"#).await;
        client.expect("\"ok\"").await;
    }
    let bearer = format!("Bearer {}", token("root", &["admin"]).await);
    let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "v12.stomp")];
    let mut admin = RawClient::connect(&gateway, "/ws", &headers).await;
    admin.send("CONNECT\naccept-version:1.2\n\n\0").await;
    admin.expect("CONNECTED").await;
    for user in ["ann", "bob"] {
        let send =
            format!("SEND\ndestination:/user/{user}/queue/alerts\nreceipt:r\n\nfor {user}\0");
        admin.send(&send).await;
        admin.expect("RECEIPT").await;
    }
    for client in &mut anns {
        let message = client.expect("/user/queue/alerts").await;
        assert!(!message.contains("/user/ann"), "{message}");
    }
    // Had bob got ann's message, it would have come first.
    bob.expect(&base64("for bob")).await;
}

/// The base64 of a text, as a non-JSON body travels in the native protocol.
fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_read_is_closed_and_the_others_are_not() {
    let config = crate::support::CONFIG.replace(
        "connections_per_ip = 0",
        "connections_per_ip = 0\noutbox = \"64KiB\"\nmessages_per_second = 0",
    );
    let gateway = Gateway::with_config(&config).await;
    let mut slow = RawClient::native(&gateway, "slow").await;
    let mut quick = RawClient::native(&gateway, "quick").await;
    for client in [&mut slow, &mut quick] {
        client.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
        client.expect("\"ok\"").await;
    }
    // More than the kernel's buffers and the outbox hold together.
    let body = "x".repeat(32 * 1024);
    for n in 0..600 {
        let send = format!(r#"{{"type":"send","to":"/topic/open.a","data":[{n},"{body}"]}}"#);
        quick.send(&send).await;
        quick.expect(&format!("[{n},")).await;
        if gateway.metric("fanlight_outbox_dropped_frames_total").await > 0 {
            break;
        }
    }
    loop {
        match slow.next().await {
            Got::Close(code) => break assert_eq!(code, 4413),
            Got::End => panic!("a slow consumer was not told why it was closed"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_sends_too_fast_is_told_so() {
    let config = crate::support::CONFIG
        .replace("connections_per_ip = 0", "connections_per_ip = 0\nmessage_burst = 5");
    let gateway = Gateway::with_config(&config).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    for n in 0..30 {
        client.send(&format!(r#"{{"type":"send","to":"/topic/open.a","data":1,"id":{n}}}"#)).await;
    }
    loop {
        match client.next().await {
            Got::Text(text) if text.contains("rate_limited") => {
                assert!(text.contains("retry_after_ms"), "{text}");
                break;
            }
            Got::Text(text) => assert!(text.contains("\"ok\""), "{text}"),
            got => panic!("{got:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_session_gets_a_message_once_however_many_of_its_subscriptions_match() {
    let config = crate::support::CONFIG
        .replace("match = \"/topic/**\"\n", "match = \"/topic/**\"\npatterns = true\n");
    let gateway = Gateway::with_config(&config).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    for (id, to) in ["/topic/open.a", "/topic/open.*"].iter().enumerate() {
        client.send(&format!(r#"{{"type":"subscribe","to":"{to}","id":{id}}}"#)).await;
        client.expect("\"ok\"").await;
    }
    for n in 0..2 {
        client.send(&format!(r#"{{"type":"send","to":"/topic/open.a","data":{n}}}"#)).await;
        client.expect(&format!("\"data\":{n}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_message_names_the_destination_that_was_asked_for() {
    let rule = "[[policy.rules]]\neffect = \"allow\"\nroles = [\"admin\"]\n\
                destination = \"/user/{name}/queue/**\"\n";
    let gateway = Gateway::start(rule).await;
    let mut ann = RawClient::native(&gateway, "ann").await;
    ann.send(r#"{"type":"subscribe","to":"/user/queue/alerts","id":1}"#).await;
    ann.expect("\"ok\"").await;
    let bearer = format!("Bearer {}", token("root", &["admin"]).await);
    let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "fanlight.v1.json")];
    let mut root = RawClient::connect(&gateway, "/ws", &headers).await.begun_native().await;
    root.send(r#"{"type":"subscribe","to":"/user/ann/queue/alerts","id":1}"#).await;
    root.expect("\"ok\"").await;
    root.send(r#"{"type":"send","to":"/user/ann/queue/alerts","data":1}"#).await;
    root.expect(r#""to":"/user/ann/queue/alerts""#).await;
    ann.expect(r#""to":"/user/queue/alerts""#).await;
}
