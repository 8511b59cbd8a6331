//! Operating nodes: `fanlight status` and `fanlight drain`, and what the admin listener tells them.

use std::fs;
use std::process::{Output, Stdio};

use fanlight_testkit::{PortLease, RedisServer};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{CONFIG, Gateway, PATIENCE, RawClient, eventually, with_redis};

fn fanlight(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanlight"));
    command.args(args).kill_on_drop(true);
    command
}

async fn run(args: &[&str]) -> Output {
    timeout(PATIENCE, fanlight(args).output()).await.expect("it ends").unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

fn admin(gateway: &Gateway) -> String {
    format!("http://{}", gateway.admin)
}

/// What a path of the admin listener tells.
async fn told(gateway: &Gateway, path: &str) -> Value {
    let (status, body) = gateway.admin_get(path).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// A node that takes its time.
async fn slow(grace: &str, window: &str) -> Gateway {
    Gateway::with_config(&slow_config(grace, window)).await
}

fn slow_config(grace: &str, window: &str) -> String {
    CONFIG
        .replace("grace = \"0s\"", &format!("grace = \"{grace}\"\nshutdown_timeout = \"6s\""))
        .replace("window = \"200ms\"", &format!("window = \"{window}\""))
}

/// A client that goes as soon as it is told to, with the code it was told.
fn polite(mut client: RawClient) -> JoinHandle<u16> {
    tokio::spawn(async move { client.close_code().await })
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_which_node_it_is_how_it_is_and_what_it_has() {
    let config = format!("{CONFIG}\n[cluster]\nname = \"edge-1\"\n");
    let gateway = Gateway::with_config(&config).await;
    let _client = RawClient::native(&gateway, "ann").await;
    eventually("the session is counted", async || told(&gateway, "/status").await["sessions"] == 1)
        .await;
    let status = told(&gateway, "/status").await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["node"]["name"], "edge-1");
    assert_eq!(status["node"]["id"], status["cluster"]["nodes"][0]["id"]);
    assert_eq!(status["state"], "ready");
    assert_eq!(status["reason"], Value::Null);
    assert_eq!(status["connections"], 1);
    assert_eq!(status["workers"], 2);
    assert!(status["uptime_s"].is_u64(), "{status}");
    assert_eq!(status["drain"].to_string(), r#"{"connections":1,"state":"none"}"#);
    assert_eq!(status["broker"]["kind"], "memory");
    assert_eq!(status["broker"]["healthy"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_redis_is_starting_and_one_that_lost_it_is_not_ready_and_both_say_why() {
    let free = PortLease::take().unwrap();
    let nowhere = format!(
        "[broker]\nkind = \"redis\"\n[redis]\nurl = \"redis://127.0.0.1:{}\"\n",
        free.port()
    );
    let config = CONFIG.replace("[broker]\nkind = \"memory\"\n", &nowhere);
    let starting = Gateway::with_config(&config).await;
    let status = told(&starting, "/status").await;
    assert_eq!(status["state"], "starting");
    assert!(status["reason"].as_str().unwrap().contains(&free.port().to_string()), "{status}");

    let redis = RedisServer::start().unwrap();
    let gateway = Gateway::with_config(&with_redis(CONFIG, &redis)).await;
    eventually("ready", async || told(&gateway, "/status").await["state"] == "ready").await;
    eventually("it knows itself", async || {
        told(&gateway, "/status").await["cluster"]["nodes"][0]["is_self"] == true
    })
    .await;
    redis.pause().unwrap();
    eventually("lost", async || told(&gateway, "/status").await["state"] == "not_ready").await;
    let status = told(&gateway, "/status").await;
    assert_eq!(status["broker"]["healthy"], false);
    assert!(status["reason"].is_string() && status["broker"]["problem"].is_string(), "{status}");
    let shown = run(&["status", "--admin", &admin(&gateway), "--admin", &admin(&starting)]).await;
    assert!(shown.status.success(), "they do answer: {}", text(&shown.stderr));
    let shown = text(&shown.stdout);
    assert!(shown.contains("  not_ready  ") && shown.contains("  starting  "), "{shown}");
    assert!(shown.contains("redis unhealthy"), "{shown}");
    let reasons = shown.matches(": Redis at 127.0.0.1:").count();
    assert_eq!(reasons, 2, "the reasons stand below: {shown}");
    redis.resume().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_a_line_for_each_node_and_fails_where_one_does_not_answer() {
    let [a, b] = [Gateway::start("").await, Gateway::start("").await];
    let _client = RawClient::native(&b, "ann").await;
    let (a, b) = (admin(&a), admin(&b));
    let both = run(&["status", "--admin", &a, "--admin", &b]).await;
    assert!(both.status.success(), "{}", text(&both.stderr));
    let lines: Vec<_> = text(&both.stdout).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells(&lines[0])[..3], ["NODE", "ADMIN", "STATE"]);
    for (line, url, connections) in [(&lines[1], &a, "0"), (&lines[2], &b, "1")] {
        let cells = cells(line);
        assert_eq!((&cells[1], &*cells[2], &*cells[4]), (url, "ready", connections), "{line}");
    }

    let free = PortLease::take().unwrap();
    let nobody = format!("http://127.0.0.1:{}", free.port());
    let one_is_gone = run(&["status", "--json", "--admin", &a, "--admin", &nobody]).await;
    assert_eq!(one_is_gone.status.code(), Some(1));
    assert_eq!(text(&one_is_gone.stderr), "error: 1 of 2 nodes did not answer");
    let rows: Value = serde_json::from_slice(&one_is_gone.stdout).unwrap();
    assert_eq!(rows[0]["status"]["state"], "ready");
    assert_eq!(rows[1]["admin"], *nobody);
    assert!(rows[1]["error"].as_str().unwrap().contains("is the node running"), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_changes_until_it_is_interrupted() {
    let gateway = slow("1m", "1m").await;
    let args = ["status", "--watch", "--interval", "50ms", "--json", "--admin", &admin(&gateway)];
    let mut watch = fanlight(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let _client = RawClient::native(&gateway, "ann").await;
    let mut until = async |connections: u64, state: &str| loop {
        let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let rows: Value = serde_json::from_str(&line).unwrap();
        let status = &rows[0]["status"];
        if status["connections"] == connections && status["state"] == state {
            break;
        }
    };
    until(1, "ready").await;
    assert_eq!(gateway.admin_post("/drain", &[]).await, 202);
    until(1, "draining").await;
    let id = watch.id().unwrap().to_string();
    Command::new("kill").args(["-s", "INT", &id]).status().await.unwrap();
    let ended = timeout(PATIENCE, watch.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "an interrupted watch has done what it was to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_with_wait_returns_once_all_connections_are_gone_and_the_node_ends() {
    let mut gateway = slow("200ms", "1s").await;
    let mut clients = Vec::new();
    for n in 0..6 {
        clients.push(polite(RawClient::native(&gateway, &format!("user-{n}")).await));
    }
    let drained = run(&["drain", "--wait", "--admin", &admin(&gateway)]).await;
    assert!(drained.status.success(), "{}", text(&drained.stderr));
    let said = text(&drained.stdout);
    assert!(said.starts_with("draining (grace): 6 of 6 connections left, for"), "{said}");
    assert!(said.contains("\ndraining (closing): "), "{said}");
    assert!(said.ends_with("\ndrained"), "{said}");
    for client in clients {
        assert_eq!(client.await.unwrap(), 1012);
    }
    assert!(gateway.ended().await, "a drained node ends with success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_drain_joins_the_first_and_finds_the_node_by_the_configuration() {
    let mut gateway = slow("0s", "1h").await;
    // All addresses are none to connect to: it asks this machine.
    let file = NamedTempFile::with_suffix(".toml").unwrap();
    let listen = format!("[listen]\nadmin = \"0.0.0.0:{}\"\n", gateway.admin.port());
    fs::write(file.path(), listen).unwrap();
    let path = file.path().to_str().unwrap();
    let mut clients = Vec::new();
    for n in 0..3 {
        clients.push(polite(RawClient::native(&gateway, &format!("user-{n}")).await));
    }
    let args = ["drain", "--wait", "--json", "--config", path];
    let first = fanlight(&args).stdout(Stdio::piped()).spawn().unwrap();
    eventually("it closes", async || told(&gateway, "/drain").await["state"] == "closing").await;
    let begun = told(&gateway, "/drain").await;
    let mut second = fanlight(&["drain", "--wait", "--json"]);
    let second = second.env("FANLIGHT_CONFIG", path).stdout(Stdio::piped()).spawn().unwrap();
    let at_once = run(&["drain", "--json", "--config", path]).await;
    assert!(at_once.status.success(), "{}", text(&at_once.stderr));
    let stands: Value = serde_json::from_slice(&at_once.stdout).unwrap();
    assert_eq!(stands["drained"], false, "without --wait it does not wait");
    assert_eq!(stands["state"], "closing");
    assert_eq!(stands["connections_at_start"], begun["connections_at_start"], "it is the same");
    assert_eq!(gateway.metric("fanlight_drains_total").await, 1);
    eventually("metrics tell what is left", async || {
        gateway.metric("fanlight_drain_remaining_connections").await
            == told(&gateway, "/drain").await["connections"]
    })
    .await;

    gateway.signal("TERM").await;
    for waiting in [first, second] {
        let output = timeout(PATIENCE, waiting.wait_with_output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let last: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(last["drained"], true, "{last}");
        assert_eq!((&last["trigger"], &last["cut"]), (&"admin".into(), &0.into()), "{last}");
    }
    for client in clients {
        assert_eq!(client.await.unwrap(), 1012);
    }
    assert!(gateway.ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_its_trigger_its_stages_and_the_time_left_and_a_signal_shortens_it() {
    let mut gateway = slow("2s", "1h").await;
    let client = polite(RawClient::native(&gateway, "ann").await);
    assert_eq!(told(&gateway, "/drain").await["state"], "none");
    assert_eq!(gateway.admin_post("/drain", &[]).await, 202);
    let drain = told(&gateway, "/drain").await;
    assert_eq!((&drain["state"], &drain["trigger"]), (&"grace".into(), &"admin".into()), "{drain}");
    assert_eq!((&drain["window_s"], &drain["hurried"]), (&3600.0.into(), &false.into()), "{drain}");
    assert!(drain["left_s"].as_f64().unwrap() > 3500.0, "{drain}");
    eventually("it closes", async || told(&gateway, "/drain").await["state"] == "closing").await;

    gateway.signal("TERM").await;
    eventually("it hurries", async || told(&gateway, "/status").await["drain"]["hurried"] == true)
        .await;
    let drain = told(&gateway, "/status").await["drain"].clone();
    assert_eq!(drain["trigger"], "admin", "that is what began it: {drain}");
    assert_eq!((&drain["state"], &drain["grace_s"]), (&"closing".into(), &0.0.into()), "{drain}");
    assert!(drain["left_s"].as_f64().unwrap() <= 6.0, "{drain}");
    assert_eq!(client.await.unwrap(), 1012);
    assert!(gateway.ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_says_who_was_cut_by_the_deadline_and_is_a_success_all_the_same() {
    let config = CONFIG.replace("grace = \"0s\"", "grace = \"0s\"\ndeadline = \"500ms\"");
    let mut gateway = Gateway::with_config(&config).await;
    // It is told to go, and does not.
    let _client = RawClient::native(&gateway, "ann").await;
    let drained = run(&["drain", "--wait", "--admin", &admin(&gateway)]).await;
    assert!(drained.status.success(), "{}", text(&drained.stderr));
    let said = text(&drained.stdout);
    assert!(said.ends_with("1 connections had not closed by the deadline, and were cut"), "{said}");
    assert!(gateway.ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_waits_no_longer_than_it_was_told_and_the_drain_goes_on() {
    let gateway = slow("1m", "1m").await;
    let _client = RawClient::native(&gateway, "ann").await;
    let args = ["drain", "--wait", "--timeout", "300ms", "--admin", &admin(&gateway)];
    let given_up = run(&args).await;
    assert_eq!(given_up.status.code(), Some(1));
    assert!(text(&given_up.stderr).ends_with("; it goes on"), "{}", text(&given_up.stderr));
    assert_eq!(told(&gateway, "/drain").await["state"], "grace");
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_is_a_success_when_the_node_is_gone_for_whatever_reason_while_it_waits() {
    let mut gateway = slow("1m", "1m").await;
    let _client = RawClient::native(&gateway, "ann").await;
    let mut waiting = fanlight(&["drain", "--wait", "--admin", &admin(&gateway)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 8];
    let out = waiting.stdout.as_mut().unwrap();
    timeout(PATIENCE, out.read_exact(&mut said)).await.unwrap().unwrap();
    assert_eq!(text(&said), "draining");
    gateway.signal("KILL").await;
    assert!(!gateway.ended().await);
    let ended = timeout(PATIENCE, waiting.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "nobody is connected to it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_fails_where_there_is_no_node_to_drain() {
    let free = PortLease::take().unwrap();
    let url = format!("http://127.0.0.1:{}", free.port());
    let nobody = run(&["drain", "--wait", "--admin", &url]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("is the node running"), "{}", text(&nobody.stderr));
    let wrong = run(&["drain", "--admin", "127.0.0.1:9090"]).await;
    assert!(text(&wrong.stderr).contains("write it as http://HOST:PORT"));
    let timeout_alone = run(&["drain", "--timeout", "1s"]).await;
    assert_eq!(timeout_alone.status.code(), Some(2), "what is not waited for takes no time");
}
