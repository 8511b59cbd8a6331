//! The development page in a real browser, on one node and on two.

use std::path::PathBuf;

use fanlight_testkit::RedisServer;
use tokio::process::Command;
use tokio::time::timeout;

use crate::stompjs::js_folder;
use crate::support::{Gateway, PATIENCE, eventually};

async fn dev(more: &[&str]) -> Gateway {
    let mut args = vec![
        "serve",
        "--dev",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--api",
        "127.0.0.1:0",
    ];
    args.extend(more);
    let gateway = Gateway::with_args(&args, &[]).await;
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    gateway
}

/// Runs the page's driver; it fails by itself at the first rule that does not hold.
async fn drive(arguments: &[&str], screenshot: &str) {
    let artifacts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../artifacts");
    let driver = Command::new("node")
        .arg(js_folder().join("page.mjs"))
        .args(arguments)
        .arg("--screenshot")
        .arg(artifacts.join(screenshot))
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE * 4, driver).await.expect("the browser hangs").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(artifacts.join(screenshot).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_chat_over_both_protocols_and_see_every_frame() {
    let gateway = dev(&[]).await;
    drive(&["--url", &format!("http://{}", gateway.public)], "page.png").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_on_two_nodes_chat_through_redis() {
    let redis = RedisServer::start().unwrap();
    let (a, b) = (dev(&["--redis", &redis.url()]).await, dev(&["--redis", &redis.url()]).await);
    let (url, peer) = (format!("http://{}", a.public), format!("http://{}", b.public));
    drive(&["--url", &url, "--peer", &peer], "page-two-nodes.png").await;
}
