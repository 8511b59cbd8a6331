//! The real `sockjs-client` behind nginx without stickiness: under Node and in a browser.

use std::path::PathBuf;

use fanlight_testkit::{FaultProxy, PortLease, RedisServer};
use futures_util::future::join_all;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use crate::nginx::Nginx;
use crate::returning::{config, nodes, nodes_with};
use crate::stompjs::{Driver, StompJs, js_folder};
use crate::support::{Gateway, PATIENCE, RawClient, eventually, token};

const TOPIC: &str = "/topic/open.a";

#[tokio::test(flavor = "multi_thread")]
async fn stompjs_over_sockjs_client_works_by_every_transport_without_stickiness() {
    let redis = RedisServer::start().unwrap();
    let nodes: [Gateway; 3] = nodes(&redis, "").await;
    let nginx = Nginx::before(&nodes).await;
    let ann = token("ann", &[]).await;
    let url = format!("http://{}/sockjs", nginx.address);
    for transport in ["websocket", "xhr-streaming", "xhr-polling"] {
        let mut publisher = RawClient::native(&nodes[1], "pub").await;
        let mut client = StompJs::connect(&url, &ann, json!({ "transport": transport })).await;
        let opened = client.event("transport").await;
        assert_eq!(opened["transport"], transport);
        client.subscribe(TOPIC).await;
        for n in 0..20 {
            client.publish(TOPIC, &format!("{{\"n\":{n}}}"), &format!("r{n}")).await;
        }
        for n in 0..20 {
            client.receipt(&format!("r{n}")).await;
            assert_eq!(client.event("message").await["body"], format!("{{\"n\":{n}}}"));
        }
        for n in 0..20 {
            let send = json!({ "type": "send", "to": TOPIC, "data": n, "id": n });
            publisher.send(&send.to_string()).await;
            publisher.expect("\"ok\"").await;
        }
        for n in 0..20 {
            assert_eq!(client.event("message").await["body"], n.to_string(), "{transport}");
        }
        // More than one streaming response carries.
        let large = "x".repeat(50_000);
        for n in 0..5 {
            let body = format!("\"{n}{large}\"");
            client.publish(TOPIC, &body, &format!("l{n}")).await;
            client.receipt(&format!("l{n}")).await;
            assert_eq!(client.event("message").await["body"], body, "{transport}");
        }
        client.publish("/topic/secret", "1", "refused").await;
        let error = client.event("stomp-error").await;
        assert_eq!(error["headers"]["receipt-id"], "refused", "{error}");
        let close = client.event("websocket-close").await;
        assert_eq!(
            (&close["code"], &close["reason"]),
            (&json!(4503), &json!("forbidden")),
            "{transport}"
        );
        assert!(!client.has_passed("receipt"), "{transport}");
    }
    nginx.has_dropped_nothing();
    for node in nodes {
        assert_eq!(node.metric("fanlight_panics_total").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_returns_by_itself_when_its_node_drains_and_says_goodbye() {
    let redis = RedisServer::start().unwrap();
    let [a, b] = nodes(&redis, "").await;
    let proxy = FaultProxy::start(a.public).await.unwrap();
    let url = format!("http://{}/sockjs", proxy.address());
    let ann = token("ann", &[]).await;
    let mut clients = Vec::new();
    for transport in ["websocket", "xhr-streaming", "xhr-polling"] {
        let more = json!({ "transport": transport, "reconnect_ms": 300 });
        clients.push(StompJs::connect(&url, &ann, more).await);
    }
    a.signal("TERM").await;
    for client in &mut clients {
        let error = client.event("stomp-error").await;
        assert_eq!(error["headers"]["code"], "draining", "{error}");
        let close = client.event("websocket-close").await;
        assert_eq!((&close["code"], &close["reason"]), (&json!(1012), &json!("draining")));
    }
    proxy.retarget(b.public);
    for client in &mut clients {
        client.event("connected").await;
        client.subscribe(TOPIC).await;
        client.command(&json!({ "op": "disconnect", "receipt": "bye" })).await;
        client.event("disconnected").await;
    }
    eventually("nothing is left of them", async || {
        b.metric("fanlight_connections_opened_total").await >= 3
            && b.metric("fanlight_connections").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_behind_nginx_notices_of_a_drain_only_that_some_are_told_to_come_again() {
    let redis = RedisServer::start().unwrap();
    let config = config(&redis, "").replace("window = \"200ms\"", "window = \"2s\"");
    let mut nodes: [Gateway; 3] = nodes_with(&config).await;
    let nginx = Nginx::before(&nodes).await;
    let url = format!("http://{}/sockjs", nginx.address);
    let ann = token("ann", &[]).await;
    let mut crowd = Driver::start("sockjs_crowd.mjs", &[&url, &ann, "48"]);
    crowd.event("up").await;
    eventually("all are counted", async || {
        let counts = nodes.iter().map(|node| node.metric("fanlight_connections"));
        join_all(counts).await.iter().sum::<u64>() == 48
    })
    .await;
    let leaving = nodes[0].metric("fanlight_connections").await;
    assert!(leaving > 0);
    assert!(nodes[0].admin_post("/drain", &[]).await < 300);
    assert!(nodes[0].ended().await);
    crowd.end();
    let over = crowd.event("over").await;
    let clients = over["clients"].as_array().unwrap();
    let closes = clients.iter().flat_map(|client| client["closes"].as_array().unwrap());
    let closes: Vec<_> = closes.collect();
    assert!(closes.iter().all(|close| close["code"] == 1012), "{over}");
    assert_eq!(closes.len() as u64, leaving, "{over}");
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_use_every_transport_from_their_own_and_from_another_origin() {
    let redis = RedisServer::start().unwrap();
    // Both origins are known to the nodes before they are there; the driver itself serves pages.
    let (lease, other) = (PortLease::take().unwrap(), PortLease::take().unwrap());
    let own = format!("http://127.0.0.1:{}", lease.port());
    let other = format!("http://127.0.0.1:{}", other.port());
    let more = format!(
        "[origin]\nallow = [\"{own}\", \"{other}\"]\n[sockjs]\nclient_url = \"{other}/page/sockjs.js\""
    );
    let nodes: [Gateway; 3] = nodes(&redis, &more).await;
    let nginx = Nginx::at(lease, &nodes).await;
    let artifacts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../artifacts");
    let driver = Command::new("node")
        .arg(js_folder().join("transports.mjs"))
        .args(["--gateway", &own, "--page", &other])
        .args(["--token", &token("ann", &[]).await, "--screenshot"])
        .arg(artifacts.join("transports.png"))
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE * 4, driver).await.expect("the browser hangs").unwrap();
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    println!("{said}");
    nginx.has_dropped_nothing();
    for node in nodes {
        assert_eq!(node.metric("fanlight_panics_total").await, 0);
    }
}
