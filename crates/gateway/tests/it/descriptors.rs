//! A node that has no file descriptors left for clients.

use std::time::Duration;

use fanlight_testkit::RedisServer;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::{CONFIG, Gateway, PATIENCE, RawClient, eventually, token, with_redis};

/// A node that may open so many files.
async fn limited_to(files: u32, config: &str) -> Gateway {
    let config = config.replace("[limits]", "[limits]\nrequest_head_time = \"1m\"");
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), config).unwrap();
    let path = file.path().to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_fanlight");
    let limit = format!("--nofile={files}");
    let args = [&*limit, program, "serve", "--config", path];
    Gateway::with_program("prlimit", &args, &[]).await
}

/// Whether the node has ended the connection.
async fn is_dropped(socket: &mut TcpStream) -> bool {
    // The node sends nothing: what comes is the end, or a reset.
    timeout(Duration::from_millis(1), socket.read_u8()).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_descriptors_for_clients_drops_them_at_once_and_answers_for_its_health() {
    let gateway = limited_to(96, CONFIG).await;
    let token = token("ann", &[]).await;
    let authorization = format!("Bearer {token}");
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(gateway.public).await.unwrap());
    }
    // 96, less the quarter that is spared: at most 72 are held, and nobody is left waiting.
    let mut dropped = 0;
    let deadline = Instant::now() + PATIENCE;
    while dropped < 200 - 72 {
        assert!(Instant::now() < deadline, "only {dropped} are dropped");
        dropped = 0;
        for socket in &mut held {
            dropped += usize::from(is_dropped(socket).await);
        }
    }
    let (status, _) = gateway.admin_get("/livez").await;
    assert_eq!(status, 200);
    assert!(gateway.metric("fanlight_accept_errors_total").await >= 200 - 72);
    // With those that this very question takes.
    let open = gateway.metric("process_open_fds").await;
    assert!((72..=80).contains(&open), "{open}");
    // Each of the admin's connections is one more, and of these there may be several.
    let mut operators = Vec::new();
    for _ in 0..8 {
        operators.push(TcpStream::connect(gateway.admin).await.unwrap());
    }
    assert_eq!(gateway.admin_get("/livez").await.0, 200);
    drop(operators);

    drop(held);
    let headers = [("Authorization", &*authorization)];
    eventually("clients are served again", async || {
        RawClient::try_connect(&gateway, "/ws", &headers).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_descriptors_for_clients_connects_to_a_redis_that_comes_back() {
    let mut redis = RedisServer::start().unwrap();
    let gateway = limited_to(128, &with_redis(CONFIG, &redis)).await;
    let readyz = async || gateway.admin_get("/readyz").await.0;
    eventually("it is ready", async || readyz().await == 200).await;
    let mut held = Vec::new();
    while gateway.metric("fanlight_accept_errors_total").await == 0 {
        held.push(TcpStream::connect(gateway.public).await.unwrap());
    }
    redis.kill();
    eventually("it is not ready without Redis", async || readyz().await == 503).await;
    // What the connections to Redis had is taken by clients, until these are dropped again.
    let dropped = gateway.metric("fanlight_accept_errors_total").await;
    while gateway.metric("fanlight_accept_errors_total").await < dropped + 5 {
        held.push(TcpStream::connect(gateway.public).await.unwrap());
    }
    redis.launch().unwrap();
    eventually("it is ready again", async || readyz().await == 200).await;
    let dropped = gateway.metric("fanlight_accept_errors_total").await;
    let mut late = TcpStream::connect(gateway.public).await.unwrap();
    assert!(late.read_u8().await.is_err(), "it is dropped");
    assert!(gateway.metric("fanlight_accept_errors_total").await > dropped);
}
