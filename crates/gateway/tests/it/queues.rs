//! Queues end to end: competing consumers, redelivery, dead letters, over one node and over two.

use std::collections::HashSet;
use std::time::Duration;

use fanlight_client::{AckMode, Backoff, Client, ConnectOptions, Event, RequestError};
use fanlight_testkit::RedisServer;
use serde_json::{Value, json};

use crate::stompjs::StompJs;
use crate::support::{CONFIG, Gateway, RawClient, eventually, token, with_redis};

const QUEUE: &str = "/queue/jobs";

/// [`CONFIG`] with queues; dead letters are a queue of their own.
fn config(options: &str) -> String {
    format!(
        r#"{CONFIG}
[[namespaces]]
name = "dead"
match = "/queue/dead.*"
mode = "queue"
[[namespaces]]
name = "queue"
match = "/queue/**"
mode = "queue"
queue = {{ {options} }}
[[policy.rules]]
effect = "allow"
destination = "/queue/**"
"#
    )
}

async fn memory(options: &str) -> Gateway {
    Gateway::with_config(&config(options)).await
}

async fn node(redis: &RedisServer, options: &str) -> Gateway {
    let gateway = Gateway::with_config(&with_redis(&config(options), redis)).await;
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    gateway
}

/// A consumer with individual acks.
async fn consumer(gateway: &Gateway, user: &str, queue: &str) -> RawClient {
    let mut client = RawClient::stomp(gateway, user).await;
    let subscribe =
        format!("SUBSCRIBE\nid:c\ndestination:{queue}\nack:client-individual\nreceipt:sub\n\n\0");
    client.send(&subscribe).await;
    client.expect("receipt-id:sub").await;
    client
}

async fn send(client: &mut RawClient, body: &str) {
    client.send(&format!("SEND\ndestination:{QUEUE}\nreceipt:{body}\n\n{body}\0")).await;
    client.expect(&format!("receipt-id:{body}")).await;
}

fn header<'m>(message: &'m str, name: &str) -> Option<&'m str> {
    message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

fn body(message: &str) -> &str {
    message.split_once("\n\n").unwrap().1.trim_end_matches('\0')
}

async fn answer(client: &mut RawClient, command: &str, message: &str) {
    let id = header(message, "ack").unwrap();
    client.send(&format!("{command}\nid:{id}\nreceipt:{id}\n\n\0")).await;
    client.expect("RECEIPT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_share_a_queue_and_hold_no_more_than_their_prefetch() {
    let gateway = memory("prefetch = 2").await;
    let mut ann = consumer(&gateway, "ann", QUEUE).await;
    let mut bob = consumer(&gateway, "bob", QUEUE).await;
    let mut sender = RawClient::stomp(&gateway, "sam").await;
    for number in 0..6 {
        send(&mut sender, &number.to_string()).await;
    }
    let mut held = Vec::new();
    for client in [&mut ann, &mut bob] {
        for _ in 0..2 {
            held.push(client.expect("MESSAGE").await);
        }
    }
    let first: HashSet<&str> = held.iter().map(|message| body(message)).collect();
    assert_eq!(first, HashSet::from(["0", "1", "2", "3"]), "two each, and each once");
    // Whoever acknowledges gets the next one, and nobody got more before.
    answer(&mut ann, "ACK", &held[0]).await;
    assert_eq!(body(&ann.expect("MESSAGE").await), "4");
    answer(&mut bob, "ACK", &held[2]).await;
    assert_eq!(body(&bob.expect("MESSAGE").await), "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_client_held_goes_to_the_next_at_once_and_says_so() {
    let gateway = memory("ack_timeout = '1h'").await;
    let mut ann = consumer(&gateway, "ann", QUEUE).await;
    let mut sender = RawClient::stomp(&gateway, "sam").await;
    send(&mut sender, "a").await;
    let message = ann.expect("MESSAGE").await;
    assert_eq!(header(&message, "redelivered"), None);
    let mut bob = consumer(&gateway, "bob", QUEUE).await;
    drop(ann);
    let message = bob.expect("MESSAGE").await;
    assert_eq!(header(&message, "redelivered"), Some("true"));
    assert_eq!(header(&message, "delivery-count"), Some("2"));
    answer(&mut bob, "NACK", &message).await;
    let message = bob.expect("MESSAGE").await;
    assert_eq!(header(&message, "delivery-count"), Some("3"));
    answer(&mut bob, "ACK", &message).await;
    assert!(gateway.metric("fanlight_queue_nacks_total").await <= 1);
    eventually("it is counted", async || {
        gateway.metric("fanlight_queue_redeliveries_total").await == 2
            && gateway.metric("fanlight_queue_acks_total").await == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_in_time_comes_again() {
    let gateway = memory("ack_timeout = '300ms'").await;
    let mut ann = consumer(&gateway, "ann", QUEUE).await;
    let mut sender = RawClient::stomp(&gateway, "sam").await;
    send(&mut sender, "a").await;
    let first = ann.expect("MESSAGE").await;
    let second = ann.expect("redelivered:true").await;
    assert_eq!(header(&first, "message-id"), header(&second, "message-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_refused_too_often_becomes_a_dead_letter() {
    let gateway = memory("max_deliveries = 2, dead_letter = '/queue/dead.jobs'").await;
    let mut sender = RawClient::stomp(&gateway, "sam").await;
    let send_with_header = format!("SEND\ndestination:{QUEUE}\ntrace:7\nreceipt:r\n\npoison\0");
    sender.send(&send_with_header).await;
    sender.expect("RECEIPT").await;
    let mut ann = consumer(&gateway, "ann", QUEUE).await;
    for _ in 0..2 {
        let message = ann.expect("MESSAGE").await;
        answer(&mut ann, "NACK", &message).await;
    }
    let mut undertaker = consumer(&gateway, "una", "/queue/dead.jobs").await;
    let letter = undertaker.expect("MESSAGE").await;
    assert_eq!(body(&letter), "poison");
    for (name, value) in [
        ("destination", "/queue/dead.jobs"),
        ("original-destination", QUEUE),
        ("delivery-count", "2"),
        ("trace", "7"),
    ] {
        assert_eq!(header(&letter, name), Some(value), "{letter}");
    }
    assert_eq!(header(&letter, "redelivered"), None);
    answer(&mut undertaker, "ACK", &letter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_with_a_typed_error() {
    let gateway = memory("max_length = 1").await;
    let mut client = RawClient::native(&gateway, "ann").await;
    client.send(&format!(r#"{{"type":"send","to":"{QUEUE}","data":1,"id":1}}"#)).await;
    client.expect("\"ok\"").await;
    client.send(&format!(r#"{{"type":"send","to":"{QUEUE}","data":2,"id":2}}"#)).await;
    client.expect(r#""code":"queue_full""#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auto_consumer_gets_a_whole_backlog_once_and_in_order() {
    let gateway = memory("prefetch = 3").await;
    let mut sender = RawClient::stomp(&gateway, "sam").await;
    for number in 0..60 {
        send(&mut sender, &number.to_string()).await;
    }
    let mut client = RawClient::native(&gateway, "ann").await;
    client.send(&format!(r#"{{"type":"subscribe","to":"{QUEUE}","id":1}}"#)).await;
    client.expect("\"ok\"").await;
    for number in 0..60 {
        let message: Value = serde_json::from_str(&client.expect("message").await).unwrap();
        assert_eq!((&message["data"], &message["ack"]), (&json!(number), &Value::Null));
    }
    eventually("all are acknowledged", async || {
        gateway.metric("fanlight_queue_acks_total").await == 60
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stompjs_consumers_on_two_nodes_share_a_queue_with_individual_acks() {
    let redis = RedisServer::start().unwrap();
    let (a, b) = (node(&redis, "prefetch = 4").await, node(&redis, "prefetch = 4").await);
    let subscribe = json!({
        "op": "subscribe", "destination": QUEUE, "id": "c", "receipt": "sub",
        "headers": { "ack": "client-individual" },
    });
    let mut consumers = Vec::new();
    for gateway in [&a, &b] {
        let ann = token("ann", &[]).await;
        let mut client = StompJs::connect(&gateway.ws_url(), &ann, json!({})).await;
        client.command(&subscribe).await;
        client.receipt("sub").await;
        consumers.push(client);
    }
    let bob = token("bob", &[]).await;
    let mut sender = StompJs::connect(&a.ws_url(), &bob, json!({})).await;
    for number in 0..8 {
        sender.publish(QUEUE, &format!("{number}"), &format!("r{number}")).await;
        sender.receipt(&format!("r{number}")).await;
    }
    // Each holds its prefetch, before either makes room for what is the other's.
    let mut held = Vec::new();
    for client in &mut consumers {
        for _ in 0..4 {
            held.push(client.event("message").await);
        }
    }
    // The second message of each is refused, the others are acknowledged.
    let mut bodies = HashSet::new();
    for (client, held) in consumers.iter_mut().zip(held.chunks(4)) {
        for (at, message) in held.iter().enumerate() {
            let op = if at == 1 { "nack" } else { "ack" };
            if op == "ack" {
                assert!(bodies.insert(message["body"].as_str().unwrap().to_owned()));
            }
            let id = &message["headers"]["ack"];
            client
                .command(&json!({ "op": op, "id": id, "subscription": "c", "headers": {} }))
                .await;
        }
    }
    assert_eq!(bodies.len(), 6);
    // The refused ones come again, to one of the two.
    while bodies.len() < 8 {
        let [first, second] = &mut consumers[..] else { unreachable!() };
        let (client, message) = tokio::select! {
            message = first.event("message") => (first, message),
            message = second.event("message") => (second, message),
        };
        assert_eq!(message["headers"]["redelivered"], "true");
        assert!(bodies.insert(message["body"].as_str().unwrap().to_owned()));
        let id = &message["headers"]["ack"];
        client.command(&json!({ "op": "ack", "id": id, "subscription": "c", "headers": {} })).await;
    }
    eventually("nothing is left in the queue", async || {
        !redis.command("KEYS *").unwrap().lines().any(|key| key.ends_with(":q:/queue/jobs"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_node_held_is_delivered_by_another() {
    let redis = RedisServer::start().unwrap();
    let options = "ack_timeout = '500ms'";
    let (a, b) = (node(&redis, options).await, node(&redis, options).await);
    let mut ann = consumer(&a, "ann", QUEUE).await;
    let mut sender = RawClient::stomp(&b, "sam").await;
    send(&mut sender, "a").await;
    ann.expect("MESSAGE").await;
    a.signal("KILL").await;
    let mut bob = consumer(&b, "bob", QUEUE).await;
    let message = bob.expect("MESSAGE").await;
    assert_eq!(header(&message, "redelivered"), Some("true"));
    answer(&mut bob, "ACK", &message).await;
}

/// A node that is taken for dead soon after its end.
async fn node_with_short_lease(redis: &RedisServer, options: &str) -> Gateway {
    let lease = "[cluster]\nlease = \"1s\"\nlease_renew = \"200ms\"\n[drain]";
    let config = with_redis(&config(options), redis).replace("[drain]", lease);
    let gateway = Gateway::with_config(&config).await;
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_node_held_comes_back_with_the_end_of_its_lease() {
    let redis = RedisServer::start().unwrap();
    let options = "ack_timeout = '1h'";
    let a = node_with_short_lease(&redis, options).await;
    let b = node_with_short_lease(&redis, options).await;
    let mut ann = consumer(&a, "ann", QUEUE).await;
    let mut sender = RawClient::stomp(&b, "sam").await;
    send(&mut sender, "a").await;
    ann.expect("MESSAGE").await;
    let mut bob = consumer(&b, "bob", QUEUE).await;
    a.signal("KILL").await;
    let message = bob.expect("MESSAGE").await;
    assert_eq!((body(&message), header(&message, "delivery-count")), ("a", Some("2")));
    answer(&mut bob, "ACK", &message).await;
    assert_eq!(b.metric("fanlight_queue_reaped_total").await, 1);
}

/// A client that waits for dead letters of queues that are nobody's any more.
async fn heir(gateway: &Gateway) -> RawClient {
    let mut heir = RawClient::native(gateway, "una").await;
    heir.send(r#"{"type":"subscribe","to":"/topic/open.dead","id":1}"#).await;
    heir.expect("\"ok\"").await;
    heir
}

const ONCE: &str = "ack_timeout = '1h', max_deliveries = 1, dead_letter = '/topic/open.dead'";

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_moved_although_its_queue_has_no_consumer() {
    let redis = RedisServer::start().unwrap();
    for gateway in [memory(ONCE).await, node(&redis, ONCE).await] {
        let mut heir = heir(&gateway).await;
        let mut ann = consumer(&gateway, "ann", QUEUE).await;
        let mut sender = RawClient::stomp(&gateway, "sam").await;
        send(&mut sender, "poison").await;
        ann.expect("MESSAGE").await;
        drop(ann);
        heir.expect(QUEUE).await;
        eventually("it is counted", async || {
            gateway.metric("fanlight_queue_dead_letters_total").await == 1
        })
        .await;
    }
    let left = redis.command("KEYS *").unwrap();
    assert!(!left.contains("}:q:") && !left.contains("}:qd:"), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_node_held_for_the_last_time_becomes_a_dead_letter_by_itself() {
    let redis = RedisServer::start().unwrap();
    let a = node_with_short_lease(&redis, ONCE).await;
    let b = node_with_short_lease(&redis, ONCE).await;
    let mut heir = heir(&b).await;
    let mut ann = consumer(&a, "ann", QUEUE).await;
    let mut sender = RawClient::stomp(&b, "sam").await;
    send(&mut sender, "poison").await;
    ann.expect("MESSAGE").await;
    a.signal("KILL").await;
    heir.expect(QUEUE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_gives_back_at_once_what_its_clients_held() {
    let redis = RedisServer::start().unwrap();
    let options = "ack_timeout = '1h'";
    let (mut a, b) = (node(&redis, options).await, node(&redis, options).await);
    let mut ann = consumer(&a, "ann", QUEUE).await;
    let mut sender = RawClient::stomp(&b, "sam").await;
    send(&mut sender, "a").await;
    ann.expect("MESSAGE").await;
    let mut bob = consumer(&b, "bob", QUEUE).await;
    a.signal("TERM").await;
    let message = bob.expect("MESSAGE").await;
    assert_eq!(header(&message, "redelivered"), Some("true"));
    drop(ann);
    assert!(a.ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_down_sends_fail_and_consumers_go_on_once_it_is_back() {
    let options = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = RedisServer::start_with(&options).unwrap();
    let gateway = node(&redis, "").await;
    let mut ann = consumer(&gateway, "ann", QUEUE).await;
    let mut client = RawClient::native(&gateway, "sam").await;
    let send = |id: u32| format!(r#"{{"type":"send","to":"{QUEUE}","data":{id},"id":{id}}}"#);
    client.send(&send(1)).await;
    client.expect("\"ok\"").await;
    let message = ann.expect("MESSAGE").await;
    redis.kill();
    eventually("it is noticed", async || gateway.admin_get("/readyz").await.0 == 503).await;
    client.send(&send(2)).await;
    client.expect("\"unavailable\"").await;
    let id = header(&message, "ack").unwrap();
    ann.send(&format!("ACK\nid:{id}\nreceipt:late\n\n\0")).await;
    redis.launch().unwrap();
    // The acknowledgement was tried until it got there.
    ann.expect("receipt-id:late").await;
    eventually("it is noticed", async || gateway.admin_get("/readyz").await.0 == 200).await;
    client.send(&send(3)).await;
    client.expect("\"ok\"").await;
    let message = ann.expect("MESSAGE").await;
    assert_eq!((body(&message), header(&message, "redelivered")), ("3", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_acknowledges_and_gets_again_what_a_lost_connection_held() {
    let redis = RedisServer::start().unwrap();
    let mut first = node(&redis, "ack_timeout = '1h'").await;
    let quick = Backoff { first: Duration::from_millis(50), longest: Duration::from_millis(200) };
    let options = ConnectOptions::new(&first.ws_url()).unwrap();
    let options = options.token(token("ann", &[]).await).backoff(quick);
    let client = Client::connect(options).await.unwrap();
    for body in ["1", "2", "3", "4"] {
        client.send(QUEUE, body.as_bytes(), None).await.unwrap();
    }
    let mut jobs = client.consume(QUEUE, AckMode::ClientIndividual, Some(2)).await.unwrap();
    let one = jobs.recv().await.unwrap();
    let two = jobs.recv().await.unwrap();
    assert_eq!((one.data.get(), two.data.get(), one.redelivered), ("1", "2", false));
    client.ack(&one).await.unwrap();
    let three = jobs.recv().await.unwrap();
    client.ack_ids([&three.id]).await.unwrap();
    let four = jobs.recv().await.unwrap();
    assert_eq!((three.data.get(), four.data.get()), ("3", "4"));
    client.nack(&four).await.unwrap();
    let again = jobs.recv().await.unwrap();
    assert_eq!((&again.id, again.delivery_count), (&four.id, Some(2)));

    // Another node takes the place of the first.
    let mut events = client.events();
    first.signal("TERM").await;
    assert!(matches!(events.next().await, Some(Event::Disconnected { retry_in: Some(_), .. })));
    assert!(first.ended().await);
    let refused = client.ack(&two).await;
    assert_eq!(refused, Err(RequestError::NotHeld { id: two.id.clone() }));
    let config = with_redis(&config("ack_timeout = '1h'"), &redis);
    let address = format!("public = \"{}\"", first.public);
    let _second = Gateway::with_config(&config.replace("public = \"127.0.0.1:0\"", &address)).await;
    let mut left = HashSet::from([two.id.clone(), four.id.clone()]);
    while !left.is_empty() {
        let job = jobs.recv().await.unwrap();
        assert!(job.redelivered && left.remove(&job.id), "{job:?}");
        client.ack(&job).await.unwrap();
    }
    eventually("nothing is left in the queue", async || {
        !redis.command("KEYS *").unwrap().lines().any(|key| key.ends_with(":q:/queue/jobs"))
    })
    .await;
}
