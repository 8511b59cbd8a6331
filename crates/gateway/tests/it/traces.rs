//! Traces: real nodes over a real Redis, and a collector that takes what they send.

use fanlight_testkit::RedisServer;
use serde_json::json;

use crate::backend::Backend;
use crate::collector::{Collector, Mood, Span};
use crate::http::post;
use crate::returning::bearer;
use crate::support::{CONFIG, Gateway, RawClient, eventually, with_redis};
use crate::tls::Certificate;

const TOPIC: &str = "/topic/open.traced";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

/// A context as a client sends it.
fn traceparent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{PARENT}-{flags}")
}

/// The configuration of a node that is called `name` and sends spans there.
fn traced(redis: &RedisServer, name: &str, endpoint: &str, more: &str) -> String {
    let config = with_redis(CONFIG, redis);
    let config = config.replace("[limits]\n", "[limits]\nmessages_per_second = 0\n");
    format!(
        "{config}\n[cluster]\nname = \"{name}\"\n[telemetry]\nservice = \"chat\"\n\
         [telemetry.traces]\nendpoint = \"{endpoint}\"\ninterval = \"50ms\"\n{more}"
    )
}

async fn start(config: &str) -> Gateway {
    let gateway = Gateway::with_config(config).await;
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    gateway
}

/// Nodes `a` and `b`.
async fn nodes(redis: &RedisServer, collector: &Collector, more: &str) -> [Gateway; 2] {
    let config = |name| traced(redis, name, &collector.endpoint(), more);
    [start(&config("a")).await, start(&config("b")).await]
}

async fn stomp_subscriber(gateway: &Gateway, user: &str) -> RawClient {
    let mut client = RawClient::stomp(gateway, user).await;
    client.send(&format!("SUBSCRIBE\nid:1\ndestination:{TOPIC}\nreceipt:s\n\n\0")).await;
    client.expect("RECEIPT").await;
    client
}

async fn publish(client: &mut RawClient, headers: &str, body: &str) {
    let send = format!("SEND\ndestination:{TOPIC}\n{headers}receipt:{body}\n\n{body}\0");
    client.send(&send).await;
    client.expect(&format!("RECEIPT\nreceipt-id:{body}")).await;
}

/// Only what neither tells who it was nor what was said.
fn assert_harmless(spans: &[Span]) {
    let text = format!("{spans:?}");
    for word in ["ann", "bob", "open.traced", "hello", "127.0.0.1"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_with_a_traceparent_is_one_trace_from_its_publisher_to_the_other_node() {
    let redis = RedisServer::start().unwrap();
    let collector = Collector::start().await;
    let only_asked = "publication_ratio = 0\nconnection_ratio = 0\n";
    let [a, b] = nodes(&redis, &collector, only_asked).await;
    let mut near = stomp_subscriber(&b, "bob").await;
    let mut far = stomp_subscriber(&b, "bob").await;
    let mut ann = RawClient::stomp(&a, "ann").await;
    // None of these is traced: their spans would be there before the last one's.
    publish(&mut ann, "", "hello1").await;
    publish(&mut ann, "traceparent:00-of-no-form\n", "hello2").await;
    let unsampled = traceparent(&TRACE.replace('4', "5"), "00");
    publish(&mut ann, &format!("traceparent:{unsampled}\n"), "hello3").await;
    publish(&mut ann, &format!("traceparent:{}\n", traceparent(TRACE, "01")), "hello4").await;

    let publish = collector.one(TRACE, "publish").await;
    assert_eq!((&*publish.node, &*publish.service, publish.kind), ("a", "chat", PRODUCER));
    assert_eq!(publish.parent, PARENT);
    assert_eq!(publish.attribute("fanlight.result"), Some("accepted"));
    assert_eq!(publish.attribute("fanlight.namespace"), Some("topic"));
    assert_eq!(publish.attribute("fanlight.transport"), Some("websocket"));
    let redis = collector.one(TRACE, "redis").await;
    assert_eq!((&*redis.node, redis.kind, &redis.parent), ("a", CLIENT, &publish.id));
    assert!(redis.begun_ns >= publish.begun_ns && redis.ended_ns <= publish.ended_ns);
    for client in [&mut near, &mut far] {
        let mut last = client.expect("hello1").await;
        assert!(!last.contains("traceparent"), "{last}");
        // What is not sampled passes as it came.
        client.expect("traceparent:00-of-no-form\n").await;
        client.expect(&unsampled).await;
        last = client.expect("hello4").await;
        let carried = format!("traceparent:00-{TRACE}-{}-01\n", publish.id);
        assert!(last.contains(&carried), "{last} has no {carried}");
    }
    let subscribers = async || {
        let spans = collector.named("deliver", 1).await;
        for span in &spans {
            assert_eq!((&*span.node, span.kind), ("b", CONSUMER));
            assert_eq!((&*span.trace, &span.parent), (TRACE, &publish.id));
            assert_eq!(
                span.attribute("messaging.message.id"),
                publish.attribute("messaging.message.id")
            );
            assert!(span.begun_ns <= span.ended_ns);
        }
        let counts = spans.iter().map(|span| span.attribute("fanlight.subscribers").unwrap());
        counts.map(|count| count.parse::<u64>().unwrap()).sum::<u64>()
    };
    // One span for each worker that had some of them.
    eventually("both subscribers are counted", async || subscribers().await == 2).await;
    assert!(collector.spans().iter().all(|span| span.trace == TRACE), "{:?}", collector.spans());
    assert_harmless(&collector.spans());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_a_span_that_says_why_it_ended_and_publications_link_to_it() {
    let redis = RedisServer::start().unwrap();
    let collector = Collector::start().await;
    let all = "publication_ratio = 1\nconnection_ratio = 1\n";
    let [a, b] = nodes(&redis, &collector, all).await;
    let mut bob = stomp_subscriber(&b, "bob").await;
    let mut ann = RawClient::native(&a, "ann").await;
    ann.send(&format!(r#"{{"type":"send","to":"{TOPIC}","data":"hello","id":1}}"#)).await;
    ann.expect("\"ok\"").await;
    bob.expect("traceparent:00-").await;
    let publish = &collector.named("publish", 1).await[0];
    assert_eq!((&*publish.parent, publish.trace.len()), ("", 32), "it begins a trace of its own");
    drop(ann);
    assert_eq!(b.admin_post("/drain", &[]).await, 202);
    let ends = collector.named("connection", 2).await;
    assert_eq!(ends.len(), 2, "{ends:?}");
    for (node, protocol, reason) in [("a", "native", "connection_lost"), ("b", "stomp", "draining")]
    {
        let span = ends.iter().find(|span| span.node == node).unwrap();
        assert_eq!(span.kind, SERVER);
        assert_eq!(span.attribute("fanlight.protocol"), Some(protocol));
        assert_eq!(span.attribute("fanlight.close.reason"), Some(reason), "{span:?}");
        assert_eq!(span.attribute("fanlight.transport"), Some("websocket"));
        assert_eq!(span.parent, "");
    }
    let ann_was = ends.iter().find(|span| span.node == "a").unwrap();
    assert_eq!(publish.links, std::slice::from_ref(&ann_was.id));
    assert_harmless(&collector.spans());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_and_a_native_client_name_their_traces_too() {
    let redis = RedisServer::start().unwrap();
    let collector = Collector::start().await;
    let [a, b] = nodes(&redis, &collector, "publication_ratio = 0\n").await;
    let mut bob = stomp_subscriber(&b, "bob").await;
    let (given, bearer) = (traceparent(TRACE, "01"), bearer("ann").await);
    let lines = [("Authorization", &*bearer), ("traceparent", &given)];
    let body = format!(r#"{{"to":"{TOPIC}","data":"hello"}}"#);
    let response = post(a.public, "/publish", &lines, &body).await;
    assert_eq!(response.status, 200, "{response:?}");
    let publish = collector.one(TRACE, "publish").await;
    assert_eq!((&*publish.parent, publish.attribute("fanlight.transport")), (PARENT, Some("http")));
    bob.expect(&format!("traceparent:00-{TRACE}-{}-01", publish.id)).await;
    assert_eq!(collector.one(TRACE, "deliver").await.parent, publish.id);

    let other = TRACE.replace('4', "5");
    let mut ann = RawClient::native(&a, "ann").await;
    let headers = format!(r#"{{"traceparent":"{}"}}"#, traceparent(&other, "01"));
    let send = format!(r#"{{"type":"send","to":"{TOPIC}","data":1,"headers":{headers},"id":1}}"#);
    ann.send(&send).await;
    ann.expect("\"ok\"").await;
    let publish = collector.one(&other, "publish").await;
    assert_eq!(publish.parent, PARENT);
    assert_eq!(collector.one(&other, "deliver").await.parent, publish.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_queue_has_a_span_where_it_is_consumed() {
    let redis = RedisServer::start().unwrap();
    let collector = Collector::start().await;
    let queue = "[[namespaces]]\nname = \"jobs\"\nmatch = \"/queue/**\"\nmode = \"queue\"\n\
                 [[policy.rules]]\neffect = \"allow\"\ndestination = \"/queue/**\"\n";
    let [a, b] = nodes(&redis, &collector, &format!("publication_ratio = 0\n{queue}")).await;
    let mut bob = RawClient::stomp(&b, "bob").await;
    bob.send("SUBSCRIBE\nid:1\ndestination:/queue/jobs\nack:client\nreceipt:s\n\n\0").await;
    bob.expect("RECEIPT").await;
    let mut ann = RawClient::stomp(&a, "ann").await;
    let given = traceparent(TRACE, "01");
    ann.send(&format!("SEND\ndestination:/queue/jobs\ntraceparent:{given}\n\nhello\0")).await;
    bob.expect("traceparent:00-").await;
    let publish = collector.one(TRACE, "publish").await;
    let deliver = collector.one(TRACE, "deliver").await;
    assert_eq!((&*deliver.node, &deliver.parent), ("b", &publish.id));
    assert_eq!(deliver.attribute("fanlight.namespace"), Some("jobs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_or_silent_or_refuses_holds_up_nothing_and_losses_are_counted() {
    let redis = RedisServer::start().unwrap();
    let collector = Collector::start().await;
    let more = "publication_ratio = 1\npublications_per_second = 0\nqueue_spans = 8\n\
                timeout = \"300ms\"\nflush_timeout = \"100ms\"\n";
    let nowhere = "http://127.0.0.1:1";
    let mut a = start(&traced(&redis, "a", &collector.endpoint(), more)).await;
    let b = start(&traced(&redis, "b", nowhere, more)).await;
    let mut bob = stomp_subscriber(&b, "bob").await;
    let mut ann = RawClient::stomp(&a, "ann").await;
    let mut number = 0;
    for mood in [Mood::Silent, Mood::Refuses(503), Mood::Refuses(400)] {
        collector.set_mood(mood);
        for _ in 0..50 {
            number += 1;
            publish(&mut ann, "", &format!("hello{number}-")).await;
            bob.expect(&format!("hello{number}-")).await;
        }
    }
    for (node, result) in [(&a, "queue_full"), (&a, "failed"), (&b, "failed")] {
        let what = format!("spans are counted as {result}");
        eventually(&what, async || spans(node, result).await > 0).await;
    }
    assert_eq!(collector.spans(), []);
    // It is there again: so are spans.
    collector.set_mood(Mood::Good);
    publish(&mut ann, "", "hello-good").await;
    eventually("spans arrive", async || !collector.spans().is_empty()).await;
    eventually("spans are counted", async || spans(&a, "exported").await > 0).await;
    // What it would not have is told apart.
    collector.set_mood(Mood::Rejects(1));
    publish(&mut ann, "", "hello-rejected").await;
    eventually("rejected spans are counted", async || spans(&a, "rejected").await > 0).await;
    // Nor does it hold up the end.
    collector.set_mood(Mood::Silent);
    publish(&mut ann, "", "hello-last").await;
    a.signal("TERM").await;
    assert!(a.ended().await);
}

/// How many spans became of a node's.
async fn spans(node: &Gateway, result: &str) -> u64 {
    node.metric_of(&format!("fanlight_trace_spans_total{{result=\"{result}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_node_sends_the_spans_that_still_wait_with_its_headers_over_tls() {
    let redis = RedisServer::start().unwrap();
    let certificate = Certificate::new();
    let collector = Collector::start_within(certificate.acceptor(&[b"http/1.1"])).await;
    let endpoint = format!("https://localhost:{}", collector.address.port());
    let folder = certificate.folder().display().to_string();
    let more = format!(
        "publication_ratio = 1\nconnection_ratio = 1\nheaders = \"x-key=one%20two\"\n\
         ca_file = '{folder}/certificate.pem'\n"
    );
    let config = traced(&redis, "a", &endpoint, &more);
    let config = config.replace("interval = \"50ms\"", "interval = \"1h\"");
    let mut a = start(&config).await;
    let mut ann = stomp_subscriber(&a, "ann").await;
    ann.send(&format!("SEND\ndestination:{TOPIC}\n\nhello\0")).await;
    ann.expect("hello").await;
    assert_eq!(collector.requests(), 0);
    a.signal("TERM").await;
    assert_eq!(ann.close_code().await, 1012);
    assert!(a.ended().await);
    let mut names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    names.sort();
    assert_eq!(names, ["connection", "deliver", "publish", "redis"]);
    assert_eq!((collector.requests(), collector.header("x-key")), (1, Some("one two".into())));
    assert_eq!(collector.header("content-type").as_deref(), Some("application/x-protobuf"));
}

/// Routes to `backend`, and a topic that it has a say in.
fn with_backend(backend: &Backend) -> String {
    backend.config(
        "[[app.routes]]\ndestination = \"/app/{what}\"\nwebhook = \"backend\"\n\
         send_to = \"/topic/open.traced\"\n",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_backend_is_one_trace_from_its_sender_to_who_gets_the_reply() {
    let redis = RedisServer::start().unwrap();
    let collector = Collector::start().await;
    let backend = Backend::start().await;
    for kind in ["message", "request"] {
        backend.on(kind, |event| match event["destination"].as_str() {
            Some("/app/no") => (200, json!({ "error": { "code": "no", "message": "hello" } })),
            _ => (200, json!({ "reply": { "data": "hello" } })),
        });
    }
    let more = format!("publication_ratio = 0\n{}", with_backend(&backend));
    let [a, b] = nodes(&redis, &collector, &more).await;
    let mut bob = stomp_subscriber(&b, "bob").await;
    let mut ann = RawClient::stomp(&a, "ann").await;
    // Not traced: nobody asked for it.
    ann.send("SEND\ndestination:/app/say\nreceipt:0\n\nhello\0").await;
    ann.expect("RECEIPT").await;
    let untraced = bob.expect("MESSAGE").await;
    assert!(!untraced.contains("traceparent"), "{untraced}");
    let given = traceparent(TRACE, "01");
    ann.send(&format!("SEND\ndestination:/app/say\ntraceparent:{given}\nreceipt:1\n\nhello\0"))
        .await;
    ann.expect("RECEIPT").await;

    let handle = collector.one(TRACE, "handle").await;
    assert_eq!((&*handle.node, handle.kind, &*handle.parent), ("a", SERVER, PARENT));
    assert_eq!(handle.attribute("fanlight.route"), Some("/app/{what}"));
    assert_eq!(handle.attribute("fanlight.result"), Some("handled"));
    assert_eq!(handle.attribute("fanlight.transport"), Some("websocket"));
    let asked = collector.one(TRACE, "backend").await;
    assert_eq!((asked.kind, &asked.parent), (CLIENT, &handle.id));
    assert_eq!(asked.attribute("fanlight.backend"), Some("webhook"));
    let message = backend.seen(&["message"]).remove(1);
    assert_eq!(message["headers"]["traceparent"], format!("00-{TRACE}-{}-01", asked.id));
    let publish = collector.one(TRACE, "publish").await;
    assert_eq!((&publish.parent, publish.kind), (&handle.id, PRODUCER));
    assert_eq!(publish.attribute("fanlight.transport"), Some("app"));
    assert_eq!(collector.one(TRACE, "redis").await.parent, publish.id);
    let deliver = collector.one(TRACE, "deliver").await;
    assert_eq!((&*deliver.node, &deliver.parent), ("b", &publish.id));
    bob.expect(&format!("traceparent:00-{TRACE}-{}-01", publish.id)).await;

    // The answer to a subscription is delivered past the broker.
    let other = TRACE.replace('4', "5");
    let given = traceparent(&other, "01");
    ann.send(&format!("SUBSCRIBE\nid:1\ndestination:/app/ask\ntraceparent:{given}\n\n\0")).await;
    let handle = collector.one(&other, "handle").await;
    assert_eq!(
        (&*handle.parent, &collector.one(&other, "deliver").await.parent),
        (PARENT, &handle.id)
    );
    ann.expect(&format!("traceparent:00-{other}-{}-01", handle.id)).await;

    // What went wrong is told past the broker too.
    ann.send("SUBSCRIBE\nid:e\ndestination:/user/queue/errors\nreceipt:e\n\n\0").await;
    ann.expect("RECEIPT").await;
    let failed = TRACE.replace('4', "7");
    let given = traceparent(&failed, "01");
    ann.send(&format!("SEND\ndestination:/app/no\ntraceparent:{given}\n\nhello\0")).await;
    let handle = collector.one(&failed, "handle").await;
    ann.expect(&format!("traceparent:00-{failed}-{}-01", handle.id)).await;
    assert_eq!(collector.one(&failed, "deliver").await.parent, handle.id);
    // And of a message that nobody asked to trace, it is not.
    ann.send("SEND\ndestination:/app/no\n\nhello\0").await;
    let untraced = ann.expect("MESSAGE").await;
    assert!(!untraced.contains("traceparent"), "{untraced}");

    by_a_request_that_is_refused(&a, &collector).await;
    assert_harmless(&collector.spans());
}

/// Over HTTP.
async fn by_a_request_that_is_refused(node: &Gateway, collector: &Collector) {
    let trace = TRACE.replace('4', "6");
    let (given, bearer) = (traceparent(&trace, "01"), bearer("ann").await);
    let lines = [("Authorization", &*bearer), ("traceparent", &given)];
    let response = post(node.public, "/publish", &lines, r#"{"to":"/app/no","data":1}"#).await;
    assert_eq!(response.status, 422, "{response:?}");
    let handle = collector.one(&trace, "handle").await;
    assert_eq!((&*handle.parent, handle.is_error), (PARENT, true));
    assert_eq!(handle.attribute("fanlight.result"), Some("refused"));
    assert_eq!(handle.attribute("fanlight.transport"), Some("http"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backend_has_a_say_in_shows_how_long_it_took_and_what_it_said() {
    let redis = RedisServer::start().unwrap();
    let collector = Collector::start().await;
    let backend = Backend::start().await;
    backend.on("publish", |event| (200, json!({ "allow": event["data"] != "no" })));
    let more = format!("publication_ratio = 0\n{}", backend.config(""));
    let config = |name: &str| {
        traced(&redis, name, &collector.endpoint(), &more).replace(
            "match = \"/topic/**\"\n",
            "match = \"/topic/**\"\npublish_hook = \"backend\"\n",
        )
    };
    let a = start(&config("a")).await;
    let mut ann = RawClient::native(&a, "ann").await;
    let spans = [("yes", TRACE.to_owned()), ("no", TRACE.replace('4', "5"))];
    backend.hang(true);
    for (data, trace) in &spans {
        let headers = json!({ "traceparent": traceparent(trace, "01") });
        let send =
            json!({ "type": "send", "to": TOPIC, "data": data, "headers": headers, "id": 1 });
        ann.send(&send.to_string()).await;
    }
    backend.until(&["publish"], 1).await;
    let released = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    backend.hang(false);
    ann.expect("\"ok\"").await;
    ann.expect("\"forbidden\"").await;
    for (data, trace) in &spans {
        let publish = collector.one(trace, "publish").await;
        let asked = collector.one(trace, "backend").await;
        assert_eq!((&*publish.parent, &asked.parent), (PARENT, &publish.id));
        assert_eq!(asked.attribute("fanlight.backend"), Some("hook"));
        let (said, result) =
            if *data == "yes" { ("allowed", "accepted") } else { ("refused", "refused") };
        assert_eq!(asked.attribute("fanlight.result"), Some(said));
        assert_eq!(publish.attribute("fanlight.result"), Some(result));
        assert_eq!((publish.is_error, asked.is_error), (*data == "no", *data == "no"));
    }
    // Redis has nothing to do with how long the backend took.
    let redis = collector.one(TRACE, "redis").await;
    assert!(u128::from(redis.begun_ns) >= released.as_nanos(), "{redis:?}");
    assert!(collector.spans().iter().filter(|span| span.name == "redis").count() == 1);
}
