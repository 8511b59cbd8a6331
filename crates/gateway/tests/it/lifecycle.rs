//! A node's life: health, metrics, drain, ports.

use std::io::ErrorKind;
use std::time::Duration;

use fanlight_proto::ws::Opcode;
use fanlight_testkit::{FaultProxy, PortLease, RedisServer};
use tokio::net::TcpStream;

use crate::collector::{Collector, Mood};
use crate::support::{CONFIG, Gateway, Got, RawClient, eventually, with_redis};

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_answer_on_their_listeners() {
    let gateway = Gateway::start("").await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(gateway.public_get(path).await.0, 200, "{path}");
        assert_eq!(gateway.admin_get(path).await.0, 200, "{path}");
    }
    assert_eq!(gateway.public_get("/metrics").await.0, 404, "metrics are not for the public");
    let _client = RawClient::native(&gateway, "ann").await;
    eventually("the connection is counted", async || {
        gateway.metric("fanlight_connections").await == 1
    })
    .await;
    assert_eq!(gateway.metric("fanlight_handshakes_total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_fails_readiness_then_closes_every_session_with_advice_and_1012() {
    let config = CONFIG
        .replace("grace = \"0s\"", "grace = \"1s\"")
        .replace("window = \"200ms\"", "window = \"1s\"");
    let mut gateway = Gateway::with_config(&config).await;
    let mut native = RawClient::native(&gateway, "ann").await;
    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    gateway.signal("TERM").await;
    eventually("readiness fails", async || gateway.admin_get("/readyz").await.0 == 503).await;
    native.expect("\"reconnect\"").await;
    assert_eq!(native.close_code().await, 1012);
    stomp.expect("ERROR").await;
    assert_eq!(stomp.close_code().await, 1012);
    drop((native, stomp));
    assert!(gateway.ended().await, "a drained node ends with success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_spreads_its_closes_over_the_window() {
    let config = CONFIG.replace("window = \"200ms\"", "window = \"2s\"");
    let mut gateway = Gateway::with_config(&config).await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(RawClient::native(&gateway, &format!("user-{n}")).await);
    }
    gateway.signal("TERM").await;
    let started = tokio::time::Instant::now();
    let closed = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            assert_eq!(client.close_code().await, 1012);
            started.elapsed()
        })
    });
    let mut times = Vec::new();
    for close in closed.collect::<Vec<_>>() {
        times.push(close.await.unwrap());
    }
    let first = times.iter().min().unwrap();
    let last = times.iter().max().unwrap();
    assert!(last.saturating_sub(*first) >= Duration::from_secs(1), "all went at once: {times:?}");
    assert!(gateway.ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ignores_the_close_is_cut_at_the_deadline() {
    let mut gateway = Gateway::start("").await;
    let mut client = RawClient::native(&gateway, "ann").await;
    gateway.signal("TERM").await;
    assert!(gateway.ended().await, "the node waits for nobody for ever");
    // It reads only now: the goodbye was there all the time.
    client.expect("\"reconnect\"").await;
    assert_eq!(client.next().await, Got::Close(1012));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_an_error_that_names_it_and_not_a_silent_share() {
    let gateway = Gateway::start("").await;
    let address = gateway.public.to_string();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_fanlight"))
        .args([
            "serve",
            "--dev",
            "--listen",
            &address,
            "--admin",
            "127.0.0.1:0",
            "--api",
            "127.0.0.1:0",
        ])
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains(&address) && error.contains("listen.public"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_refuses_handshakes_while_it_closes_and_sigterm_hurries_that_and_cuts_nobody() {
    let config = CONFIG
        .replace("grace = \"0s\"", "grace = \"0s\"\nshutdown_timeout = \"6s\"")
        .replace("window = \"200ms\"", "window = \"1h\"");
    let mut gateway = Gateway::with_config(&config).await;
    let mut clients = Vec::new();
    for n in 0..10 {
        clients.push(RawClient::native(&gateway, &format!("user-{n}")).await);
    }
    assert_eq!(gateway.admin_post("/drain", &[]).await, 202);
    eventually("it closes", async || gateway.admin_get("/drain").await.1.contains("closing")).await;
    let refused = RawClient::try_connect(&gateway, "/ws", &[]).await;
    let response = refused.err().expect("a node that closes takes no new connections");
    assert!(response.starts_with("HTTP/1.1 503"), "{response}");
    assert!(response.to_lowercase().contains("\r\nretry-after: 1\r\n"), "{response}");
    assert!(response.contains("\"draining\""), "{response}");
    gateway.signal("TERM").await;
    for client in &mut clients {
        client.expect("\"reconnect\"").await;
        assert_eq!(client.close_code().await, 1012);
    }
    drop(clients);
    assert!(gateway.ended().await, "a drained node ends with success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_for_its_broker_refuses_connections_until_it_can_serve_them() {
    let redis = RedisServer::start().unwrap();
    let proxy = FaultProxy::start(redis.address()).await.unwrap();
    proxy.hold(true);
    let [public, admin, stomp] = [(); 3].map(|()| PortLease::take().unwrap());
    let listen = |name, lease: &PortLease| format!("{name} = \"127.0.0.1:{}\"\n", lease.port());
    let config = with_redis(CONFIG, &redis)
        .replace(&redis.url(), &format!("redis://{}", proxy.address()))
        .replace("public = \"127.0.0.1:0\"\n", &listen("stomp", &stomp))
        .replace(
            "admin = \"127.0.0.1:0\"\n",
            &(listen("public", &public) + &listen("admin", &admin)),
        );
    let node = tokio::spawn(async move { Gateway::with_config(&config).await });
    // It takes its addresses before it asks for its broker.
    eventually("the node asks for its broker", async || proxy.accepted() > 0).await;
    for _ in 0..20 {
        for lease in [&public, &admin, &stomp] {
            let refused = TcpStream::connect(("127.0.0.1", lease.port())).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.hold(false);
    let gateway = node.await.unwrap();
    assert_eq!(gateway.public.port(), public.port());
    RawClient::native(&gateway, "ann").await;
    TcpStream::connect(gateway.stomp.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_node_that_has_drained_and_still_waits_for_something() {
    let collector = Collector::start().await;
    collector.set_mood(Mood::Silent);
    let endpoint = collector.endpoint();
    let traces = format!(
        "[telemetry.traces]\nendpoint = \"{endpoint}\"\nconnection_ratio = 1\n\
         interval = \"1m\"\ntimeout = \"1m\"\nflush_timeout = \"10m\"\n"
    );
    let mut gateway = Gateway::start(&traces).await;
    drop(RawClient::native(&gateway, "ann").await);
    gateway.connections(0, 1).await;
    gateway.signal("TERM").await;
    eventually("the last spans are on their way", async || collector.requests() > 0).await;
    gateway.signal("INT").await;
    assert_eq!(gateway.end_code().await, Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_cannot_drain_a_node() {
    let gateway = Gateway::start("").await;
    let from_page = [("Origin", "http://evil.example.com")];
    assert_eq!(gateway.admin_post("/drain", &from_page).await, 403);
    assert_eq!(gateway.admin_get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_waits_for_redis_gets_its_answer_before_the_drain_closes_it() {
    let redis = RedisServer::start().unwrap();
    let config = with_redis(CONFIG, &redis);
    let mut gateway = Gateway::with_config(&config).await;
    eventually("ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    let mut native = RawClient::native(&gateway, "ann").await;
    let mut stomp = RawClient::stomp(&gateway, "bob").await;
    redis.pause().unwrap();
    native.send(r#"{"type":"send","to":"/topic/open.a","data":1,"id":"owed"}"#).await;
    stomp.send("SEND\ndestination:/topic/open.a\nreceipt:owed\n\nx\0").await;
    // It says goodbye of its own accord while its answer is on its way.
    stomp.send_frame(Opcode::Close, &[0x03, 0xE8]).await;
    eventually("both are under way", async || {
        gateway.metric("fanlight_publishes_total").await == 2
    })
    .await;
    gateway.signal("TERM").await;
    eventually("readiness fails", async || gateway.admin_get("/readyz").await.0 == 503).await;
    redis.resume().unwrap();
    native.expect("\"owed\"").await;
    native.expect("\"reconnect\"").await;
    assert_eq!(native.close_code().await, 1012);
    stomp.expect("receipt-id:owed").await;
    drop((native, stomp));
    assert!(gateway.ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_raises_its_soft_limit_of_open_files_to_the_hard_one() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), CONFIG).unwrap();
    let script = format!(
        "ulimit -Sn 200 && ulimit -Hn 5000 && exec '{}' serve --config '{}'",
        env!("CARGO_BIN_EXE_fanlight"),
        file.path().display()
    );
    let gateway = Gateway::with_program("sh", &["-c", &script], &[]).await;
    assert_eq!(gateway.metric("process_max_fds").await, 5000);
}
