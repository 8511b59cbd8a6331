//! Conflation: one message of a key per interval, always ending with the latest, however slow the
//! subscriber and whatever it speaks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fanlight_proto::ws::{self, Opcode};
use fanlight_testkit::RedisServer;
use serde_json::Value;

use crate::http::{Stream, get, headers};
use crate::http2::Http2;
use crate::returning::{bearer, named};
use crate::support::{CONFIG, Gateway, Got, RawClient, eventually, with_redis};
use crate::tls::{self, Certificate};

const INTERVAL: Duration = Duration::from_millis(200);
const TOPIC: &str = "/topic/open.ticks";

/// [`CONFIG`] with a namespace for [`TOPIC`] in front of the others.
fn config(more: &str) -> String {
    let conflated = format!(
        "[[namespaces]]\nname = \"ticks\"\nmatch = \"{TOPIC}\"\n{more}[[namespaces]]\nname = \"topic\""
    );
    CONFIG
        .replace("connections_per_ip = 0", "connections_per_ip = 0\nmessages_per_second = 0")
        .replacen("[[namespaces]]\nname = \"topic\"", &conflated, 1)
}

async fn publish(publisher: &mut RawClient, symbol: &str, n: u64, padding: usize) {
    let filler = "x".repeat(padding);
    publisher
        .send(&format!(
            r#"{{"type":"send","to":"{TOPIC}","data":{{"n":{n},"x":"{filler}"}},"headers":{{"symbol":"{symbol}"}}}}"#
        ))
        .await;
}

/// What one subscriber got: by key the numbers, in order.
#[derive(Debug, Default)]
struct Seen(HashMap<String, Vec<u64>>);

impl Seen {
    fn native(&mut self, message: &Value) {
        if let (Some(symbol), Some(n)) =
            (message["headers"]["symbol"].as_str(), message["data"]["n"].as_u64())
        {
            self.0.entry(symbol.to_owned()).or_default().push(n);
        }
    }

    fn last(&self, symbol: &str) -> Option<u64> {
        self.0.get(symbol)?.last().copied()
    }

    fn has_ended(&self, last: u64) -> bool {
        self.last("a") == Some(last) && self.last("b") == Some(last)
    }

    /// Whether it is in order, and no more than one of a key came in an interval.
    fn check(&self, who: &str, took: Duration) {
        let most = (took.as_millis() / INTERVAL.as_millis()) as usize + 2;
        for (symbol, numbers) in &self.0 {
            assert!(numbers.is_sorted_by(|one, next| one < next), "{who} {symbol}: {numbers:?}");
            assert!(numbers.len() <= most, "{who} {symbol}: more than {most}: {numbers:?}");
        }
    }
}

/// Ways to get what is published, each until it has the last of both symbols.
async fn by_native(client: &mut RawClient, last: u64, began: Instant) {
    let mut seen = Seen::default();
    while !seen.has_ended(last) {
        let text = client.expect("\"message\"").await;
        seen.native(&serde_json::from_str(&text).unwrap());
    }
    seen.check("native", began.elapsed());
}

async fn by_stomp(client: &mut RawClient, last: u64, began: Instant) {
    let mut seen = Seen::default();
    while !seen.has_ended(last) {
        let frame = client.expect("MESSAGE").await;
        let symbol = frame.split("symbol:").nth(1).unwrap().split('\n').next().unwrap();
        let body = frame.split("\n\n").nth(1).unwrap().trim_end_matches('\0');
        let body: Value = serde_json::from_str(body).unwrap();
        seen.0.entry(symbol.to_owned()).or_default().push(body["n"].as_u64().unwrap());
    }
    seen.check("STOMP", began.elapsed());
}

async fn by_events(stream: &mut Stream, last: u64, began: Instant) {
    let mut seen = Seen::default();
    while !seen.has_ended(last) {
        let event = named(stream, "message").await;
        seen.native(&serde_json::from_str(&event.data).unwrap());
    }
    seen.check("events", began.elapsed());
}

/// Who comes by requests, and where it stands.
struct Poller<'g> {
    gateway: &'g Gateway,
    authorization: String,
    cursor: String,
}

impl Poller<'_> {
    async fn poll(&mut self, wait: &str) -> Value {
        let target = format!("/poll?destination={TOPIC}&cursor={}&wait={wait}", self.cursor);
        let lines = [("Authorization", &*self.authorization)];
        let page = get(self.gateway.public, &target, &lines).await;
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        page["cursor"].as_str().unwrap().clone_into(&mut self.cursor);
        page
    }

    async fn see(&mut self, seen: &mut Seen, wait: &str) {
        let page = self.poll(wait).await;
        page["messages"].as_array().unwrap().iter().for_each(|message| seen.native(message));
    }

    async fn by_polls(&mut self, last: u64) {
        let mut seen = Seen::default();
        while !seen.has_ended(last) {
            self.see(&mut seen, "5s").await;
        }
        for numbers in seen.0.values() {
            assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_they_speak_subscribers_get_the_latest_of_each_key_once_in_an_interval() {
    const LAST: u64 = 150;
    let redis = RedisServer::start().unwrap();
    let config = config("conflate = \"200ms\"\nconflate_key = \"symbol\"\n");
    let config = with_redis(&config, &redis);
    let (a, b) = (Gateway::with_config(&config).await, Gateway::with_config(&config).await);
    for node in [&a, &b] {
        eventually("ready", async || node.admin_get("/readyz").await.0 == 200).await;
    }
    let mut native = RawClient::native(&a, "ann").await;
    native.send(&format!(r#"{{"type":"subscribe","to":"{TOPIC}","id":1}}"#)).await;
    native.expect("\"ok\"").await;
    let mut stomp = RawClient::stomp(&b, "bob").await;
    stomp.send(&format!("SUBSCRIBE\nid:s\nreceipt:r\ndestination:{TOPIC}\n\n\0")).await;
    stomp.expect("RECEIPT").await;
    let authorization = bearer("eve").await;
    let lines = [("Authorization", &*authorization)];
    let target = format!("/events?destination={TOPIC}");
    let mut events = Stream::open(b.public, "GET", &target, headers(&lines)).await;
    named(&mut events, "connected").await;
    named(&mut events, "subscribed").await;
    let mut poller = Poller { gateway: &a, authorization, cursor: String::new() };
    poller.poll("0").await;

    let mut publisher = RawClient::native(&b, "pub").await;
    let began = Instant::now();
    let publishing = async {
        for n in 1..=LAST {
            publish(&mut publisher, "a", n, 0).await;
            publish(&mut publisher, "b", n, 0).await;
            tokio::time::sleep(Duration::from_millis(6)).await;
        }
    };
    tokio::join!(
        publishing,
        by_native(&mut native, LAST, began),
        by_stomp(&mut stomp, LAST, began),
        by_events(&mut events, LAST, began),
        poller.by_polls(LAST),
    );
    for n in LAST + 1..=LAST + 20 {
        publish(&mut publisher, "a", n, 0).await;
    }
    let mut last = 0;
    while last < LAST + 20 {
        let message: Value = serde_json::from_str(&native.expect("\"message\"").await).unwrap();
        last = message["data"]["n"].as_u64().unwrap();
    }
    // It is given to whoever comes for it, and all between is not.
    let mut seen = Seen::default();
    while seen.last("a") != Some(LAST + 20) {
        poller.see(&mut seen, "5s").await;
    }
    assert!(seen.0["a"].len() <= 3, "{seen:?}");
    eventually("it is counted, and nothing is kept", async || {
        a.metric_of("fanlight_conflated_messages_total{by=\"interval\"}").await > 0
            && a.metric("fanlight_conflation_bytes").await == 0
    })
    .await;
}

/// A gateway that conflates often, and whose outboxes are small; with these options too.
async fn narrow(more: &str) -> Gateway {
    let config = config("conflate = \"10ms\"\n")
        .replace("workers = 2", "workers = 1")
        .replace("connections_per_ip = 0", "connections_per_ip = 0\noutbox = \"64KiB\"");
    Gateway::with_config(&format!("{config}\n{more}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_the_latest_when_it_reads_on_and_is_not_closed() {
    let gateway = narrow("").await;
    let (slow, publisher) =
        (RawClient::native(&gateway, "slow").await, RawClient::native(&gateway, "pub").await);
    reads_late(&gateway, slow, publisher).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_within_tls_gets_the_latest_too() {
    let certificate = Certificate::new();
    let gateway = narrow(&certificate.options("listen.tls")).await;
    let slow = tls::websocket(&gateway, &certificate, "slow").await;
    let publisher = tls::websocket(&gateway, &certificate, "pub").await;
    reads_late(&gateway, slow, publisher).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_over_http_2_gets_the_latest_too() {
    let gateway = narrow("").await;
    let slow = Http2::open(&gateway).await.native("slow").await;
    let publisher = RawClient::native(&gateway, "pub").await;
    reads_late(&gateway, slow, publisher).await;
}

/// What `slow` gets that reads nothing while much is published.
async fn reads_late(gateway: &Gateway, mut slow: RawClient, mut publisher: RawClient) {
    const LAST: u64 = 4000;
    slow.send(&format!(r#"{{"type":"subscribe","to":"{TOPIC}","id":1}}"#)).await;
    slow.expect("\"ok\"").await;
    // Far more than sockets and outbox hold, in so many ticks that most of it is written if read.
    for n in 1..LAST {
        publish(&mut publisher, "a", n, 40_000).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        if n % 100 == 0
            && gateway.metric_of("fanlight_conflated_messages_total{by=\"subscriber\"}").await > 20
        {
            break;
        }
    }
    publish(&mut publisher, "a", LAST, 40_000).await;
    let skipped = gateway.metric_of("fanlight_conflated_messages_total{by=\"subscriber\"}").await;
    assert!(skipped > 20, "{skipped}");
    let mut last = 0;
    while last < LAST {
        match slow.next().await {
            Got::Text(text) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                let n = message["data"]["n"].as_u64().unwrap();
                assert!(n > last, "{n} after {last}");
                last = n;
            }
            got => panic!("{got:?} after {last}"),
        }
    }
    // It is as quick as others again.
    tokio::time::sleep(Duration::from_millis(30)).await;
    publish(&mut publisher, "a", LAST + 1, 0).await;
    slow.expect(&format!("\"n\":{},", LAST + 1)).await;
    assert_eq!(gateway.metric("fanlight_outbox_dropped_frames_total").await, 0);
    let mut ping = Vec::new();
    ws::frame_masked(&mut ping, Opcode::Ping, b"", [1, 2, 3, 4]);
    slow.send_raw(&ping).await;
    assert_eq!(slow.next().await, Got::Pong(Vec::new()));
}
