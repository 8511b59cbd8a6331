//! A node as a task of ECS, with a stand-in for the agent that ECS has on each machine.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::routing::{get, put};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{CONFIG, Gateway, RawClient, eventually};

/// What ECS has on each machine, as a node sees it.
#[derive(Clone)]
struct Agent {
    address: SocketAddr,
    said: Arc<Mutex<Said>>,
}

/// What it tells, and what it was told.
struct Said {
    desired_status: &'static str,
    refuses: bool,
    protections: Vec<Value>,
}

impl Agent {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let said = Said { desired_status: "RUNNING", refuses: false, protections: Vec::new() };
        let agent =
            Self { address: listener.local_addr().unwrap(), said: Arc::new(Mutex::new(said)) };
        let router = Router::new()
            .route("/v4/abc-1/task", get(async |State(agent): State<Self>| agent.task()))
            .route(
                "/api/abc-1/task-protection/v1/state",
                put(async |State(agent): State<Self>, body: String| agent.protect(&body)),
            )
            .with_state(agent.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        agent
    }

    fn task(&self) -> (StatusCode, String) {
        let said = self.said.lock().unwrap();
        let body = json!({
            "Cluster": "default",
            "TaskARN": "arn:aws:ecs:eu-west-1:123456789012:task/default/abc",
            "DesiredStatus": said.desired_status,
            "KnownStatus": "RUNNING",
        });
        (Self::status(said.refuses), body.to_string())
    }

    fn protect(&self, body: &str) -> (StatusCode, String) {
        let body: Value = serde_json::from_str(body).unwrap();
        let mut said = self.said.lock().unwrap();
        let answer = if said.refuses {
            json!({ "requestID": "1", "error": { "Code": "ServerException", "Message": "no" } })
        } else {
            said.protections.push(body.clone());
            json!({ "protection": { "ProtectionEnabled": body["ProtectionEnabled"] } })
        };
        (Self::status(said.refuses), answer.to_string())
    }

    fn status(refuses: bool) -> StatusCode {
        if refuses { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
    }

    fn set(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.said.lock().unwrap());
    }

    fn protections(&self) -> Vec<Value> {
        self.said.lock().unwrap().protections.clone()
    }

    /// A node in this task.
    async fn task_with(&self, options: &str) -> Gateway {
        let config = CONFIG
            .replace("grace = \"0s\"", &format!("grace = \"0s\"\n{options}"))
            .replace("window = \"200ms\"", "window = \"1h\"");
        let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
        std::fs::write(file.path(), config).unwrap();
        let metadata = format!("http://{}/v4/abc-1", self.address);
        let agent = format!("http://{}/api/abc-1", self.address);
        Gateway::with_args(
            &["serve", "--config", file.path().to_str().unwrap()],
            &[("ECS_CONTAINER_METADATA_URI_V4", &metadata), ("ECS_AGENT_URI", &agent)],
        )
        .await
    }
}

async fn drain_of(gateway: &Gateway) -> Value {
    serde_json::from_str(&gateway.admin_get("/drain").await.1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ecs_wants_to_stop_drains_without_hurry_and_sigterm_hurries_it() {
    let agent = Agent::start().await;
    let options = "watch_ecs = true\nshutdown_timeout = \"6s\"";
    let mut gateway = agent.task_with(options).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    agent.set(|said| said.refuses = true);
    eventually("a failure is counted", async || {
        gateway.metric("fanlight_ecs_failures_total").await > 0
    })
    .await;
    assert_eq!(drain_of(&gateway).await["state"], "none", "a failure is no order");
    agent.set(|said| (said.refuses, said.desired_status) = (false, "STOPPED"));
    eventually("it drains", async || drain_of(&gateway).await["trigger"] == "ecs").await;
    let drain = drain_of(&gateway).await;
    assert_eq!((&drain["hurried"], &drain["window_s"]), (&false.into(), &3600.0.into()), "{drain}");
    assert_eq!(gateway.admin_get("/readyz").await.0, 503);
    gateway.signal("TERM").await;
    client.expect("\"reconnect\"").await;
    assert_eq!(client.close_code().await, 1012);
    drop(client);
    assert!(gateway.ended().await);
    assert_eq!(agent.protections(), [json!(null); 0], "no protection was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_protected_while_it_has_connections_and_no_longer() {
    let agent = Agent::start().await;
    let gateway = agent.task_with("ecs_task_protection = true").await;
    let client = RawClient::native(&gateway, "ann").await;
    let on = json!({ "ProtectionEnabled": true, "ExpiresInMinutes": 5 });
    let off = json!({ "ProtectionEnabled": false });
    eventually("it is protected", async || agent.protections() == [on.clone()]).await;
    eventually("it says so", async || gateway.metric("fanlight_ecs_task_protected").await == 1)
        .await;
    drop(client);
    eventually("given back when empty", async || agent.protections() == [on.clone(), off.clone()])
        .await;

    let _client = RawClient::native(&gateway, "ann").await;
    eventually("protected again", async || agent.protections().len() == 3).await;
    assert_eq!(gateway.admin_post("/drain", &[]).await, 202);
    eventually("a drain gives it back", async || {
        agent.protections() == [on.clone(), off.clone(), on.clone(), off.clone()]
    })
    .await;
    assert_eq!(drain_of(&gateway).await["connections"], 1, "though somebody is connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_refuses_is_asked_again_until_the_protection_is_given_back() {
    let agent = Agent::start().await;
    let gateway = agent.task_with("ecs_task_protection = true").await;
    let _client = RawClient::native(&gateway, "ann").await;
    eventually("it is protected", async || agent.protections().len() == 1).await;
    agent.set(|said| said.refuses = true);
    assert_eq!(gateway.admin_post("/drain", &[]).await, 202);
    eventually("refused", async || gateway.metric("fanlight_ecs_failures_total").await > 0).await;
    agent.set(|said| said.refuses = false);
    let off = json!({ "ProtectionEnabled": false });
    eventually("given back at last", async || agent.protections().last() == Some(&off)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_for_ecs_elsewhere_is_served_and_warned_of() {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let ecs = "grace = \"0s\"\nwatch_ecs = true\necs_task_protection = true";
    std::fs::write(file.path(), CONFIG.replace("grace = \"0s\"", ecs)).unwrap();
    let path = file.path().to_str().unwrap();
    let check = async |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanlight"));
        let command = command.args(["config", "check", path]).envs(variables.iter().copied());
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let elsewhere = check(&[]).await;
    for (option, variable) in [
        ("drain.watch_ecs", "ECS_CONTAINER_METADATA_URI_V4"),
        ("drain.ecs_task_protection", "ECS_AGENT_URI"),
    ] {
        let warning = format!("warning: {option}: on, but ECS has not set {variable}");
        assert!(elsewhere.contains(&warning), "{elsewhere}");
    }
    let base = "http://169.254.170.2/v4/abc-1";
    let within = check(&[("ECS_CONTAINER_METADATA_URI_V4", base), ("ECS_AGENT_URI", base)]).await;
    assert!(!within.contains("warning: drain"), "{within}");
    let gateway = Gateway::with_args(&["serve", "--config", path], &[]).await;
    assert_eq!(gateway.admin_get("/livez").await.0, 200);
}
