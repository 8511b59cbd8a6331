//! The grace of a drain: a load balancer sends clients still, and they are served before they go.

use std::time::Duration;

use fanlight_proto::stomp::Command;
use fanlight_testkit::RedisServer;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::http::{Stream, get, headers};
use crate::http2::Http2;
use crate::returning::{bearer, config, named, nodes_with, publish};
use crate::sockjs_session::{How, Session};
use crate::stomp_tcp::{Client, connect_frame};
use crate::support::{CONFIG, Gateway, Got, RawClient, token};

const TOPIC: &str = "/topic/open.a";
const EVENTS: &str = "/events?destination=/topic/open.a";

async fn drain_of(gateway: &Gateway) -> Value {
    serde_json::from_str(&gateway.admin_get("/drain").await.1).unwrap()
}

async fn subscribe(client: &mut RawClient, since: Option<&Value>) {
    let subscribe = json!({ "type": "subscribe", "to": TOPIC, "since": since, "id": 1 });
    client.send(&subscribe.to_string()).await;
}

async fn next_json(client: &mut RawClient) -> Value {
    match client.next().await {
        Got::Text(text) => serde_json::from_str(&text).unwrap(),
        got => panic!("a text was expected, not {got:?}"),
    }
}

async fn poll(node: &Gateway, bearer: &str, cursor: &str, wait: &str) -> Value {
    let target = format!("/poll?destination={TOPIC}&wait={wait}&cursor={cursor}");
    get(node.public, &target, &[("Authorization", bearer)]).await.json()
}

/// One client of each kind, connected and subscribed.
struct Clients {
    native: RawClient,
    stomp: RawClient,
    over_http2: RawClient,
    over_tcp: Client<tokio::net::TcpStream>,
    events: Stream,
    sockjs: Session,
    cursor: String,
    _http2: Http2,
}

impl Clients {
    async fn come(node: &Gateway, ann: &str) -> Self {
        let mut native = RawClient::native(node, "ann").await;
        subscribe(&mut native, None).await;
        native.expect("\"ok\"").await;
        let mut stomp = RawClient::stomp(node, "ann").await;
        let frame = format!("SUBSCRIBE\nid:s\nreceipt:s\ndestination:{TOPIC}\n\n\0");
        stomp.send(&frame).await;
        stomp.expect("RECEIPT").await;
        let mut http2 = Http2::open(node).await;
        let mut over_http2 = http2.native("ann").await;
        subscribe(&mut over_http2, None).await;
        over_http2.expect("\"ok\"").await;
        let mut over_tcp = Client::connect(node, &connect_frame("ann").await).await;
        over_tcp.send(&frame).await;
        over_tcp.expect(Command::Receipt).await;
        let lines = [("Authorization", ann)];
        let mut events = Stream::open(node.public, "GET", EVENTS, headers(&lines)).await;
        named(&mut events, "connected").await;
        named(&mut events, "subscribed").await;
        let mut sockjs = Session::stomp(&[node], &token("ann", &[]).await, How::Polling).await;
        sockjs.subscribe(TOPIC).await;
        let cursor = poll(node, ann, "", "0").await["cursor"].as_str().unwrap().to_owned();
        Self { native, stomp, over_http2, over_tcp, events, sockjs, cursor, _http2: http2 }
    }
}

/// Where somebody goes on who had the first message.
struct Left {
    position: Value,
    event_id: String,
    cursor: String,
}

impl Clients {
    /// Each hears the first message, as any client does.
    async fn are_served(&mut self, node: &Gateway, ann: &str) -> (Value, String) {
        let message = next_json(&mut self.native).await;
        assert_eq!(message["data"], 0, "{message}");
        self.over_http2.expect("\"data\":0").await;
        self.stomp.expect("MESSAGE").await;
        self.over_tcp.expect(Command::Message).await;
        self.sockjs.expect("MESSAGE").await;
        let page = poll(node, ann, &self.cursor, "20s").await;
        assert_eq!(page["messages"][0]["data"], 0, "{page}");
        page["cursor"].as_str().unwrap().clone_into(&mut self.cursor);
        let event_id = named(&mut self.events, "message").await.id.unwrap();
        (json!({ "epoch": message["epoch"], "offset": message["offset"] }), event_id)
    }

    /// Each is told to go, as its protocol has it; the poll by an answer with its cursor.
    async fn are_moved(self, node: &Gateway, ann: &str) -> String {
        let Self { mut native, mut stomp, mut over_http2, mut over_tcp, mut events, .. } = self;
        let (mut sockjs, cursor) = (self.sockjs, self.cursor);
        let by_native = async |client: &mut RawClient| {
            let advice = next_json(client).await;
            assert_eq!(
                (&advice["type"], &advice["reason"]),
                (&json!("reconnect"), &json!("draining"))
            );
            assert_eq!(client.close_code().await, 1012);
        };
        let by_stomp = async {
            let error = stomp.expect("ERROR").await;
            assert!(error.contains("code:draining") && error.contains("retry-after"), "{error}");
            assert_eq!(stomp.close_code().await, 1012);
        };
        let by_tcp = async {
            assert!(over_tcp.expect_error("draining").await.header("retry-after").is_some());
        };
        let by_events = async {
            assert!(named(&mut events, "reconnect").await.retry.is_some());
            assert_eq!(events.rest().await, "");
        };
        let by_sockjs = async {
            assert!(sockjs.expect("ERROR\n").await.contains("\ncode:draining\n"));
            assert_eq!(sockjs.close_frame().await, "c[1012,\"draining\"]");
        };
        let (page, ..) = tokio::join!(
            poll(node, ann, &cursor, "40s"),
            by_native(&mut native),
            by_native(&mut over_http2),
            by_stomp,
            by_tcp,
            by_events,
            by_sockjs,
        );
        assert_eq!(page["messages"][0]["reason"], "draining", "{page}");
        page["cursor"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_in_the_grace_is_served_by_every_transport_and_then_moved_with_the_others() {
    let redis = RedisServer::start().unwrap();
    // Only SIGTERM ends this grace, which leaves it a third of the time: 3 s.
    let config = config(&redis, "")
        .replace("[listen]\n", "[listen]\nstomp = \"127.0.0.1:0\"\n")
        .replace("grace = \"0s\"", "grace = \"1h\"\nshutdown_timeout = \"9s\"")
        .replace("window = \"200ms\"", "window = \"2s\"");
    let [mut a, b] = nodes_with(&config).await;
    let ann = bearer("ann").await;
    let mut publisher = RawClient::native(&b, "pub").await;
    let mut before = RawClient::native(&a, "ann").await;
    assert_eq!(a.admin_post("/drain", &[]).await, 202);
    assert_eq!(a.public_get("/readyz").await.0, 503);

    let mut clients = Clients::come(&a, &ann).await;
    publish(&mut publisher, TOPIC, 0..1).await;
    let (position, event_id) = clients.are_served(&a, &ann).await;
    let drain = drain_of(&a).await;
    assert_eq!((&drain["state"], &drain["connections"]), (&json!("grace"), &json!(8)), "{drain}");
    assert_eq!(drain["connections_at_start"], 8, "those too are to go: {drain}");

    a.signal("TERM").await;
    let (cursor, ()) = tokio::join!(clients.are_moved(&a, &ann), async {
        before.expect("\"reconnect\"").await;
        assert_eq!(before.close_code().await, 1012);
    });
    drop(before);
    assert!(a.ended().await, "it ends with success, and before its deadline");
    publish(&mut publisher, TOPIC, 1..3).await;
    Left { position, event_id, cursor }.goes_on(&b, &ann).await;
}

impl Left {
    /// Gets the two messages that came meanwhile, each by its own way.
    async fn goes_on(self, node: &Gateway, ann: &str) {
        let mut native = RawClient::native(node, "ann").await;
        subscribe(&mut native, Some(&self.position)).await;
        for n in 1..3 {
            assert_eq!(next_json(&mut native).await["data"], n);
        }
        assert_eq!(next_json(&mut native).await["recovered"], true);
        let lines = [("Authorization", ann), ("Last-Event-ID", &*self.event_id)];
        let mut events = Stream::open(node.public, "GET", EVENTS, headers(&lines)).await;
        named(&mut events, "connected").await;
        for n in 1..3 {
            let message = named(&mut events, "message").await;
            assert!(message.data.contains(&format!("\"data\":{n}")), "{message:?}");
        }
        let page = poll(node, ann, &self.cursor, "20s").await;
        let heard: Vec<_> =
            page["messages"].as_array().unwrap().iter().map(|m| &m["data"]).collect();
        assert_eq!(heard, [&json!(1), &json!(2)], "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_node_has_a_grace_only_where_somebody_asks_whether_it_is_ready() {
    let config = CONFIG.replace("grace = \"0s\"", "grace = \"1h\"");
    let mut unasked = Gateway::with_config(&config).await;
    assert_eq!(unasked.admin_post("/drain", &[]).await, 202);
    assert!(unasked.ended().await, "nobody is there whom it could wait for");

    let mut asked = Gateway::with_config(&config).await;
    assert_eq!(asked.public_get("/readyz").await.0, 200);
    assert_eq!(asked.admin_post("/drain", &[]).await, 202);
    assert_eq!(asked.public_get("/readyz").await.0, 503);
    assert!(timeout(Duration::from_millis(300), asked.ended()).await.is_err(), "it is gone");
    drop(RawClient::native(&asked, "ann").await);
}
