//! Many messages at once: pipelining, floods, a Redis that does not answer, two workers.

use fanlight_proto::ws::{self, Opcode};
use fanlight_testkit::RedisServer;

use crate::support::{CONFIG, Gateway, Got, RawClient, eventually, token, with_redis};

/// [`CONFIG`] without rates.
fn unlimited() -> String {
    CONFIG.replace(
        "connections_per_ip = 0",
        "connections_per_ip = 0\nmessages_per_second = 0\ncommands_per_second = 0",
    )
}

/// Frames for all of `messages`, one behind the other.
fn pipelined(messages: impl IntoIterator<Item = String>) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        ws::frame_masked(&mut out, Opcode::Text, message.as_bytes(), [7, 1, 9, 4]);
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pipelined_messages_are_answered_and_delivered_in_order() {
    let gateway = Gateway::with_config(&unlimited()).await;
    let mut native = RawClient::native(&gateway, "ann").await;
    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    stomp.send("SUBSCRIBE\nid:s\nreceipt:s\ndestination:/topic/open.a\n\n\0").await;
    stomp.expect("RECEIPT").await;
    let sends = (0..1000)
        .map(|n| format!(r#"{{"type":"send","to":"/topic/open.a","data":{{"n":{n}}},"id":{n}}}"#));
    native.send_raw(&pipelined(sends)).await;
    for n in 0..1000 {
        native.expect(&format!(r#""id":{n},"#)).await;
        stomp.expect(&format!("{{\"n\":{n}}}\0")).await;
    }
    let sends =
        (0..1000).map(|n| format!("SEND\ndestination:/topic/open.a\nreceipt:r{n}\n\n{n}\0"));
    stomp.send_raw(&pipelined(sends)).await;
    let (mut receipts, mut messages) = (0, 0);
    while receipts + messages < 2000 {
        match stomp.next().await {
            Got::Text(text) if text.starts_with("RECEIPT") => {
                assert!(text.contains(&format!("receipt-id:r{receipts}\n")), "{text}");
                receipts += 1;
            }
            Got::Text(text) => {
                assert!(text.ends_with(&format!("\n\n{messages}\0")), "{messages}: {text}");
                messages += 1;
            }
            got => panic!("{got:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_is_no_slow_consumer_however_much_it_asks_at_once() {
    let gateway = Gateway::with_config(&unlimited()).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    // Three times the frames that an outbox may hold, in as few turns as there can be.
    let pings = (0..12_000).map(|_| r#"{"type":"ping"}"#.to_owned());
    gateway.signal("STOP").await;
    client.send_raw(&pipelined(pings)).await;
    gateway.signal("CONT").await;
    for _ in 0..12_000 {
        client.expect("pong").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_many_publications_in_one_turn_loses_none() {
    let config = unlimited().replace("workers = 2", "workers = 1");
    let gateway = Gateway::with_config(&config).await;
    let mut subscriber = RawClient::native(&gateway, "sub").await;
    subscriber.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
    subscriber.expect("\"ok\"").await;
    let mut senders = Vec::new();
    for n in 0..10 {
        senders.push(RawClient::native(&gateway, &format!("user-{n}")).await);
    }
    gateway.signal("STOP").await;
    for sender in &mut senders {
        let sends =
            (0..1000).map(|_| r#"{"type":"send","to":"/topic/open.a","data":1}"#.to_owned());
        sender.send_raw(&pipelined(sends)).await;
    }
    gateway.signal("CONT").await;
    for _ in 0..10_000 {
        subscriber.expect("\"data\":1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_outruns_the_broker_is_slowed_down_and_not_buffered() {
    let redis = RedisServer::start().unwrap();
    let config = with_redis(&unlimited(), &redis).replace("workers = 2", "workers = 1");
    let gateway = Gateway::with_config(&config).await;
    eventually("ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let before = gateway.metric("process_resident_memory_bytes").await;
    let send = || r#"{"type":"send","to":"/topic/open.a","data":1}"#.to_owned();
    let batch = pipelined((0..20_000).map(|_| send()));
    // Kilobytes wait in the kernel; the rest waits here until some is taken.
    let flood = async {
        for _ in 0..200 {
            client.send_raw(&batch).await;
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(3), flood).await;
    let after = gateway.metric("process_resident_memory_bytes").await;
    assert!(after < before + (16 << 20), "it grew from {before} to {after} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_stalled_redis_is_done_in_order_when_it_goes_on() {
    let redis = RedisServer::start().unwrap();
    // Longer than the pause takes on a loaded machine.
    let config = with_redis(&unlimited(), &redis)
        .replace("[redis]\n", "[redis]\nresponse_timeout = \"10s\"\n");
    let gateway = Gateway::with_config(&config).await;
    eventually("ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    let mut native = RawClient::native(&gateway, "ann").await;
    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    let mut other = RawClient::native(&gateway, "eve").await;
    redis.pause().unwrap();
    let sends = (0..50)
        .map(|n| format!(r#"{{"type":"send","to":"/topic/open.a","data":{n},"id":{n}}}"#))
        .chain([r#"{"type":"ping","id":"end"}"#.to_owned()]);
    native.send_raw(&pipelined(sends)).await;
    let sends = (0..50)
        .map(|n| format!("SEND\ndestination:/topic/open.b\nreceipt:r{n}\n\n{n}\0"))
        .collect::<Vec<_>>();
    // All frames in one message, then one more in a message of its own.
    stomp.send_raw(&pipelined([sends.concat()])).await;
    stomp.send("DISCONNECT\nreceipt:end\n\n\0").await;
    // Another session of the same node is not held up.
    other.send(r#"{"type":"ping","id":1}"#).await;
    other.expect("pong").await;
    redis.resume().unwrap();
    for n in 0..50 {
        native.expect(&format!(r#""id":{n},"#)).await;
        stomp.expect(&format!("receipt-id:r{n}\n")).await;
    }
    native.expect("\"end\"").await;
    stomp.expect("receipt-id:end").await;
    assert_eq!(stomp.close_code().await, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_workers_serve_and_their_sessions_reach_each_other() {
    let gateway = Gateway::start("").await;
    let bearer = format!("Bearer {}", token("ann", &[]).await);
    let mut clients = Vec::new();
    // The kernel chooses by the clients' ports: all on one worker is one chance in 2^31.
    for _ in 0..32 {
        let mut client = RawClient::connect(&gateway, "/ws", &[("Authorization", &bearer)])
            .await
            .begun_native()
            .await;
        client.send(r#"{"type":"subscribe","to":"/topic/open.a","id":1}"#).await;
        client.expect("\"ok\"").await;
        clients.push(client);
    }
    eventually("both workers have connections", async || {
        let (_, metrics) = gateway.admin_get("/metrics").await;
        let lines = metrics.lines().filter(|line| line.starts_with("fanlight_connections{"));
        lines.filter(|line| !line.ends_with(" 0")).count() == 2
    })
    .await;
    clients[0].send(r#"{"type":"send","to":"/topic/open.a","data":"hello"}"#).await;
    for client in &mut clients {
        client.expect("hello").await;
    }
}
