//! `fanlight health`, the check that a container makes of itself.

use std::net::TcpListener;
use std::process::Output;

use fanlight_testkit::PortLease;
use tokio::process::Command;

use crate::support::{CONFIG, Gateway, RawClient, eventually};

/// Runs the command; what it did.
async fn health(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanlight"));
    command.arg("health").args(args).envs(env.iter().copied()).output().await.unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_succeeds_with_one_line_while_the_node_is_ready_and_fails_while_it_drains() {
    let gateway = Gateway::with_config(&CONFIG.replace("grace = \"0s\"", "grace = \"1m\"")).await;
    let url = format!("http://{}", gateway.admin);
    let ready = health(&["--url", &url], &[]).await;
    assert!(ready.status.success(), "{}", text(&ready.stderr));
    assert_eq!(text(&ready.stdout), "ready");

    // Without anybody connected it would end at once.
    let _client = RawClient::native(&gateway, "ann").await;
    assert_eq!(gateway.admin_post("/drain", &[]).await, 202);
    eventually("it drains", async || gateway.admin_get("/readyz").await.0 == 503).await;
    let draining = health(&["--url", &url], &[]).await;
    assert_eq!(draining.status.code(), Some(1));
    let said = format!("error: {url}/readyz: 503, draining: this node is draining");
    assert_eq!(text(&draining.stderr), said);
    let alive = health(&["--live", "--url", &url], &[]).await;
    assert!(alive.status.success(), "a node that drains lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_asks_where_configuration_or_environment_put_the_admin_listener() {
    let gateway = Gateway::start("").await;
    // All addresses are none to connect to: it asks this machine.
    let everywhere = format!("0.0.0.0:{}", gateway.admin.port());
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), format!("[listen]\nadmin = \"{everywhere}\"\n")).unwrap();
    let path = file.path().to_str().unwrap();
    for (args, env) in [
        (&["--config", path][..], &[][..]),
        (&[], &[("FANLIGHT_CONFIG", path)]),
        (&[], &[("FANLIGHT__LISTEN__ADMIN", &*everywhere)]),
    ] {
        let output = health(args, env).await;
        assert!(output.status.success(), "{args:?} {env:?}: {}", text(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_fails_in_time_where_nobody_or_nothing_sensible_answers() {
    let free = PortLease::take().unwrap();
    let nobody = health(&["--url", &format!("http://127.0.0.1:{}", free.port())], &[]).await;
    assert!(text(&nobody.stderr).contains("is the node running"), "{}", text(&nobody.stderr));

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let silence = health(&["--timeout", "200ms", "--url", &url], &[]).await;
    assert!(text(&silence.stderr).ends_with("no answer within 200ms"), "{}", text(&silence.stderr));

    for url in ["https://127.0.0.1:9090", "127.0.0.1:9090", "http://a/b"] {
        let wrong = health(&["--url", url], &[]).await;
        assert!(text(&wrong.stderr).contains("write it as http://HOST:PORT"), "{url}");
        assert_eq!(wrong.status.code(), Some(1));
    }
}
