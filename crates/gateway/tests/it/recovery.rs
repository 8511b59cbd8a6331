//! What a client missed it gets on return, each message once and in order, or it is told.

use fanlight_proto::ws::{self, Opcode};
use serde_json::{Value, json};

use crate::support::{CONFIG, Gateway, Got, RawClient, eventually};

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
