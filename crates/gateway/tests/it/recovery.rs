//! What a client missed it gets on return, each message once and in order, or it is told.

use fanlight_proto::ws::{self, Opcode};
use serde_json::{Value, json};

use crate::stompjs::StompJs;
use crate::support::{CONFIG, Gateway, Got, RawClient, eventually};
use fanlight_testkit::FaultProxy;

/// [`CONFIG`] without rates, with so much history everywhere.
fn config(history: &str) -> String {
    let unlimited = "connections_per_ip = 0\nmessages_per_second = 0\ncommands_per_second = 0";
    let mut config = CONFIG.replace("connections_per_ip = 0", unlimited);
    for pattern in ["/topic/**", "/user/**"] {
        let matched = format!("match = \"{pattern}\"\n");
        let kept = format!("{matched}patterns = {}\nhistory = {history}\n", pattern == "/topic/**");
        config = config.replace(&matched, &kept);
    }
    config
}

const SOME: &str = "{ size = 1000, ttl = \"1m\" }";

async fn text(client: &mut RawClient) -> String {
    match client.next().await {
        Got::Text(text) => text,
        got => panic!("a text was expected, not {got:?}"),
    }
}

async fn json(client: &mut RawClient) -> Value {
    serde_json::from_str(&text(client).await).unwrap()
}

/// Asks, and gives the answer that is no message; messages before it are added to `messages`.
async fn ask(client: &mut RawClient, request: Value, messages: &mut Vec<Value>) -> Value {
    client.send(&request.to_string()).await;
    loop {
        let got = json(client).await;
        if got["type"] != "message" {
            return got;
        }
        messages.push(got);
    }
}

async fn subscribe(client: &mut RawClient, to: &str) -> Value {
    let mut before = Vec::new();
    let request = json!({ "type": "subscribe", "to": to, "id": 1 });
    let ok = ask(client, request, &mut before).await;
    assert_eq!((&ok["type"], before.len()), (&json!("ok"), 0), "{ok}");
    ok
}

/// Publishes numbers, and waits until all are accepted.
async fn publish(client: &mut RawClient, to: &str, numbers: std::ops::Range<u64>) {
    let mut out = Vec::new();
    for n in numbers.clone() {
        let send = json!({ "type": "send", "to": to, "data": n, "id": n }).to_string();
        ws::frame_masked(&mut out, Opcode::Text, send.as_bytes(), [7, 1, 9, 4]);
    }
    client.send_raw(&out).await;
    for n in numbers {
        client.expect(&format!("\"id\":{n},")).await;
    }
}

fn position(of: &Value) -> Value {
    json!({ "epoch": of["epoch"], "offset": of["offset"] })
}

fn numbers(messages: &[Value]) -> Vec<u64> {
    messages.iter().map(|message| message["data"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_client_gets_exactly_what_it_missed_and_then_what_comes() {
    let gateway = Gateway::with_config(&config(SOME)).await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let mut client = RawClient::native(&gateway, "ann").await;
    subscribe(&mut client, "/topic/open.a").await;
    publish(&mut publisher, "/topic/open.a", 0..3).await;
    let mut last = Value::Null;
    for n in 0..3 {
        last = json(&mut client).await;
        assert_eq!(last["data"], n);
    }
    drop(client);
    publish(&mut publisher, "/topic/open.a", 3..53).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let mut missed = Vec::new();
    let request =
        json!({ "type": "subscribe", "to": "/topic/open.a", "since": position(&last), "id": 1 });
    let ok = ask(&mut client, request, &mut missed).await;
    assert_eq!(numbers(&missed), (3..53).collect::<Vec<_>>());
    assert_eq!((&ok["recovered"], &ok["count"]), (&json!(true), &json!(50)), "{ok}");
    assert_eq!(position(&ok), position(missed.last().unwrap()));
    publish(&mut publisher, "/topic/open.a", 53..54).await;
    assert_eq!(json(&mut client).await["data"], 53);
    eventually("it is counted", async || gateway.metric("fanlight_recoveries_total").await == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stomp_client_gets_exactly_what_it_missed_and_its_receipt_behind_it() {
    let gateway = Gateway::with_config(&config(SOME)).await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let mut client = RawClient::stomp(&gateway, "ann").await;
    client.send("SUBSCRIBE\nid:s\nreceipt:s\ndestination:/topic/open.a\n\n\0").await;
    let receipt = client.expect("receipt-id:s").await;
    assert!(receipt.contains("offset:0") && !receipt.contains("recovered"), "{receipt}");
    publish(&mut publisher, "/topic/open.a", 0..1).await;
    let message = client.expect("\n\n0\0").await;
    let header = |name: &str| {
        let line = message.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} {message}")).to_owned()
    };
    let (epoch, offset) = (header("epoch:"), header("offset:"));
    drop(client);
    publish(&mut publisher, "/topic/open.a", 1..51).await;
    for position in
        [format!("epoch:{epoch}\noffset:{offset}"), format!("last-event-id:{epoch}:{offset}")]
    {
        let mut client = RawClient::stomp(&gateway, "ann").await;
        let subscribe =
            format!("SUBSCRIBE\nid:s\nreceipt:s\n{position}\ndestination:/topic/open.a\n\n\0");
        client.send(&subscribe).await;
        for n in 1..51 {
            client.expect(&format!("\n\n{n}\0")).await;
        }
        let receipt = client.expect("receipt-id:s").await;
        assert!(receipt.contains("\nrecovered:true\n"), "{receipt}");
        assert!(receipt.contains("\noffset:51\n"), "{receipt}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_returns_again_and_again_while_others_publish_gets_everything_once_and_in_order() {
    let gateway = Gateway::with_config(&config("{ size = 10000, ttl = \"1m\" }")).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let mut last = subscribe(&mut client, "/topic/open.a").await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let publishing = tokio::spawn(async move {
        for batch in 0..100 {
            publish(&mut publisher, "/topic/open.a", batch * 30..batch * 30 + 30).await;
        }
    });
    let (mut next, mut visits) = (0, 0);
    while next < 3000 {
        visits += 1;
        client = RawClient::native(&gateway, "ann").await;
        let request = json!({ "type": "subscribe", "to": "/topic/open.a", "since": position(&last), "id": 1 });
        let mut got = Vec::new();
        let ok = ask(&mut client, request, &mut got).await;
        assert_eq!(ok["recovered"], true, "{ok}");
        // A part of what comes live, and then it is gone again.
        for _ in 0..20 {
            if next + (got.len() as u64) < 3000 {
                got.push(json(&mut client).await);
            }
        }
        for message in got {
            assert_eq!(message["data"], next, "after {visits} visits");
            next += 1;
            last = message;
        }
    }
    publishing.await.unwrap();
    assert!(visits > 3, "{visits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_for_too_long_is_told_and_goes_on_with_what_comes() {
    let gateway = Gateway::with_config(&config("{ size = 10, ttl = \"1m\" }")).await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let ok = subscribe(&mut client, "/topic/open.a").await;
    drop(client);
    publish(&mut publisher, "/topic/open.a", 0..11).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    for (since, reason) in [
        (position(&ok), "position_too_old"),
        (json!({ "epoch": "1", "offset": 11 }), "epoch_changed"),
    ] {
        let mut missed = Vec::new();
        let request =
            json!({ "type": "subscribe", "to": "/topic/open.a", "since": since, "id": 1 });
        let told = ask(&mut client, request, &mut missed).await;
        assert_eq!(
            (&told["recovered"], &told["reason"]),
            (&json!(false), &json!(reason)),
            "{told}"
        );
        assert_eq!((missed.len(), &told["offset"]), (0, &json!(11)));
        client.send(r#"{"type":"unsubscribe","to":"/topic/open.a","id":2}"#).await;
        client.expect("\"ok\"").await;
    }
    subscribe(&mut client, "/topic/open.a").await;
    publish(&mut publisher, "/topic/open.a", 11..12).await;
    assert_eq!(json(&mut client).await["data"], 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_larger_than_the_outbox_is_given_as_fast_as_it_is_read() {
    let small =
        config(SOME).replace("[limits]", "[limits]\noutbox = \"64KiB\"\noutbox_frames = 64");
    let gateway = Gateway::with_config(&small).await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let ok = subscribe(&mut client, "/topic/open.a").await;
    drop(client);
    let body = "x".repeat(16 * 1024);
    for n in 0..800 {
        let send = json!({ "type": "send", "to": "/topic/open.a", "data": body, "id": n });
        publisher.send(&send.to_string()).await;
        publisher.expect("\"ok\"").await;
    }
    let mut client = RawClient::native(&gateway, "ann").await;
    let before = gateway.metric("process_resident_memory_bytes").await;
    let request =
        json!({ "type": "subscribe", "to": "/topic/open.a", "since": position(&ok), "id": 1 });
    client.send(&request.to_string()).await;
    // It reads nothing meanwhile: what it is given waits in the history.
    publish(&mut publisher, "/topic/open.b", 0..100).await;
    let after = gateway.metric("process_resident_memory_bytes").await;
    assert!(after < before + (8 << 20), "it grew from {before} to {after} bytes");
    for offset in 1..=800 {
        let message = json(&mut client).await;
        assert_eq!(message["offset"], offset, "{}", message["type"]);
    }
    let ok = json(&mut client).await;
    assert_eq!((&ok["recovered"], &ok["count"]), (&json!(true), &json!(800)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_are_given_before_what_comes_and_asked_for_apart() {
    let gateway = Gateway::with_config(&config(SOME)).await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    publish(&mut publisher, "/topic/open.a", 0..10).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let mut newest = Vec::new();
    let request = json!({ "type": "subscribe", "to": "/topic/open.a", "history": 4, "id": 1 });
    let ok = ask(&mut client, request, &mut newest).await;
    assert_eq!((numbers(&newest), &ok["count"]), (vec![6, 7, 8, 9], &json!(4)));
    assert!(ok["recovered"].is_null(), "{ok}");
    publish(&mut publisher, "/topic/open.a", 10..11).await;
    assert_eq!(json(&mut client).await["data"], 10);

    let mut history = json!({ "type": "history", "to": "/topic/open.a", "limit": 4, "id": "h" });
    let answer = ask(&mut client, history.clone(), &mut newest).await;
    assert_eq!(numbers(answer["messages"].as_array().unwrap()), [7, 8, 9, 10]);
    assert!(answer["more"].is_null(), "{answer}");
    history["since"] = json!({ "epoch": answer["epoch"], "offset": 2 });
    let answer = ask(&mut client, history, &mut newest).await;
    assert_eq!(numbers(answer["messages"].as_array().unwrap()), [2, 3, 4, 5]);
    assert_eq!((&answer["offset"], &answer["more"]), (&json!(6), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_subscriptions_give_a_native_session_each_publication_once() {
    let gateway = Gateway::with_config(&config(SOME)).await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let mut client = RawClient::native(&gateway, "ann").await;
    client.send(r#"{"type":"subscribe","to":"/topic/open.*","id":1}"#).await;
    client.expect("\"ok\"").await;
    publish(&mut publisher, "/topic/open.a", 0..5).await;
    let mut first = Value::Null;
    for n in 0..5 {
        let message = json(&mut client).await;
        assert_eq!(message["data"], n);
        first = if n == 0 { message } else { first };
    }
    let publishing = tokio::spawn(async move {
        publish(&mut publisher, "/topic/open.a", 5..1000).await;
    });
    let mut got = Vec::new();
    while got.len() < 100 {
        got.push(json(&mut client).await["data"].as_u64().unwrap());
    }
    let mut joined = Vec::new();
    let request =
        json!({ "type": "subscribe", "to": "/topic/open.a", "since": position(&first), "id": 2 });
    ask(&mut client, request, &mut joined).await;
    // What it had before its position was read is given once more, as it asked.
    let mut all = got;
    all.extend(numbers(&joined));
    let begins = all.iter().rposition(|&n| n == 1).unwrap();
    let mut asked = all.split_off(begins);
    while *asked.last().unwrap() < 999 {
        asked.push(json(&mut client).await["data"].as_u64().unwrap());
    }
    assert_eq!(asked, (1..1000).collect::<Vec<_>>());
    publishing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_was_offline_gets_its_messages() {
    let gateway = Gateway::with_config(&config(SOME)).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let ok = subscribe(&mut client, "/user/queue/mail").await;
    drop(client);
    let headers = format!("Bearer {}", crate::support::token("root", &["admin"]).await);
    let mut admin = RawClient::connect(&gateway, "/ws", &[("Authorization", &headers)]).await;
    admin.send(r#"{"type":"connect"}"#).await;
    admin.expect("connected").await;
    publish(&mut admin, "/user/ann/queue/mail", 0..3).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let mut missed = Vec::new();
    let request =
        json!({ "type": "subscribe", "to": "/user/queue/mail", "since": position(&ok), "id": 1 });
    let ok = ask(&mut client, request, &mut missed).await;
    assert_eq!((numbers(&missed), &ok["recovered"]), (vec![0, 1, 2], &json!(true)));
    assert_eq!(missed[0]["to"], "/user/queue/mail");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_twice_with_one_key_is_published_once() {
    let gateway = Gateway::with_config(&config(SOME)).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    subscribe(&mut client, "/topic/open.a").await;
    let mut other = RawClient::native(&gateway, "bob").await;
    let send = |n| json!({ "type": "send", "to": "/topic/open.a", "data": n, "key": "k", "id": n });
    let mut none = Vec::new();
    let first = ask(&mut other, send(1), &mut none).await;
    let again = ask(&mut other, send(1), &mut none).await;
    assert_eq!(first["message_id"], again["message_id"]);
    assert_eq!((&first["duplicate"], &again["duplicate"]), (&Value::Null, &json!(true)));
    assert_eq!(position(&first), position(&again));
    // Another user's key is another key.
    client.send(&send(3).to_string()).await;
    client.expect_each(&["\"data\":1", "\"data\":3", "\"ok\""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_receives_everything_once_over_many_lost_connections() {
    use fanlight_client::{Backoff, Begin, Client, ConnectOptions, SendOptions};
    use std::time::Duration;

    let gateway = Gateway::with_config(&config("{ size = 10000, ttl = \"1m\" }")).await;
    let proxy = FaultProxy::start(gateway.public).await.unwrap();
    let url = format!("ws://{}/ws", proxy.address());
    let quick = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(20) };
    let options = ConnectOptions::new(&url).unwrap().backoff(quick);
    let options = options.token(crate::support::token("ann", &[]).await);
    let client = Client::connect(options.clone()).await.unwrap();
    let mut news = client.subscribe("/topic/open.a").await.unwrap();
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let publishing = tokio::spawn(async move {
        for batch in 0..100 {
            publish(&mut publisher, "/topic/open.a", batch * 20..batch * 20 + 20).await;
        }
    });
    for n in 0..2000 {
        assert_eq!(news.recv().await.unwrap().data.get(), n.to_string());
        if n % 300 == 150 {
            proxy.cut();
        }
    }
    publishing.await.unwrap();

    // The last cut may not have been noticed yet.
    let page = loop {
        match client.history("/topic/open.a", None, 2).await {
            Ok(page) => break page,
            Err(error) => assert_eq!(error, fanlight_client::RequestError::ConnectionLost),
        }
    };
    let bodies: Vec<_> = page.messages.iter().map(|message| message.data.get()).collect();
    assert_eq!((bodies, page.more), (vec!["1998", "1999"], false));
    let once = SendOptions { key: Some("k"), ..SendOptions::default() };
    let sent = client.send_with("/topic/open.a", b"2000", &once).await.unwrap();
    let again = client.send_with("/topic/open.a", b"2000", &once).await.unwrap();
    assert_eq!((sent.duplicate, again.duplicate), (false, true));
    assert_eq!((sent.position, again.message_id), (again.position, sent.message_id));

    let other = Client::connect(options).await.unwrap();
    let begin = Begin::After(page.position.unwrap());
    let mut late = other.subscribe_from("/topic/open.a", begin).await.unwrap();
    assert_eq!(late.recv().await.unwrap().data.get(), "2000");
    assert_eq!(late.is_recovered(), Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn stompjs_recovers_by_headers_that_it_knows_nothing_of() {
    let gateway = Gateway::with_config(&config(SOME)).await;
    let token = crate::support::token("ann", &[]).await;
    let mut client = StompJs::connect(&gateway.ws_url(), &token, json!({})).await;
    client.subscribe("/topic/open.a").await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    publish(&mut publisher, "/topic/open.a", 0..1).await;
    let headers = client.event("message").await["headers"].clone();
    drop(client);
    publish(&mut publisher, "/topic/open.a", 1..51).await;
    let mut client = StompJs::connect(&gateway.ws_url(), &token, json!({})).await;
    client
        .command(&json!({
            "op": "subscribe", "destination": "/topic/open.a", "receipt": "r",
            "headers": { "epoch": headers["epoch"], "offset": headers["offset"] },
        }))
        .await;
    client.receipt("r").await;
    for n in 1..51 {
        assert!(client.has_passed("message"), "what was missed comes before the receipt");
        assert_eq!(client.event("message").await["body"], n.to_string());
    }
    assert!(!client.has_passed("message"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_in_the_middle_of_a_recovery_leaves_nothing_and_holds_up_no_drain() {
    let hurried = config(SOME).replace("[drain]", "[drain]\ndeadline = \"500ms\"");
    let mut gateway = Gateway::with_config(&hurried).await;
    let mut publisher = RawClient::native(&gateway, "pub").await;
    let body = "x".repeat(32 * 1024);
    for n in 0..300 {
        let send = json!({ "type": "send", "to": "/topic/open.a", "data": body, "id": n });
        publisher.send(&send.to_string()).await;
        publisher.expect("\"ok\"").await;
    }
    let mut history = json!({ "type": "history", "to": "/topic/open.a", "limit": 1, "id": 1 });
    history["since"] = json!({ "epoch": "1", "offset": 1 });
    let epoch = ask(&mut publisher, history, &mut Vec::new()).await["epoch"].clone();
    let since = json!({ "epoch": epoch, "offset": 0 });
    let request = json!({ "type": "subscribe", "to": "/topic/open.a", "since": since, "id": 1 });
    let begin = async || {
        let mut client = RawClient::native(&gateway, "ann").await;
        client.send(&request.to_string()).await;
        client.expect("\"offset\":1").await;
        client
    };
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(begin().await);
    }
    let subscriptions = async |expected| gateway.metric("fanlight_subscriptions").await == expected;
    eventually("all are joining", async || subscriptions(10).await).await;
    clients.clear();
    eventually("all have gone", async || subscriptions(0).await).await;
    assert_eq!(gateway.metric("fanlight_panics_total").await, 0);
    // One that reads, after those that did not; and one that never reads on.
    let mut client = begin().await;
    for offset in 2..=300 {
        assert_eq!(json(&mut client).await["offset"], offset);
    }
    assert_eq!(json(&mut client).await["recovered"], true);
    let _stalled = begin().await;
    gateway.signal("TERM").await;
    assert!(gateway.ended().await);
}
