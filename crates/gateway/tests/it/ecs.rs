//! A node as a task of ECS, with a stand-in for what ECS has on each machine and for the load
//! balancer's API.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post, put};
use http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{CONFIG, Gateway, RawClient, eventually};

/// What a task can ask, as a node sees it.
#[derive(Clone)]
struct Agent {
    address: SocketAddr,
    said: Arc<Mutex<Said>>,
}

/// What it tells, and what it was told.
struct Said {
    /// What the load balancer tells of the target.
    health: &'static str,
    refuses: bool,
    protections: Vec<Value>,
    /// What the load balancer was asked: the headers, and the body.
    questions: Vec<(HeaderMap, String)>,
}

impl Agent {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (health, refuses, protections, questions) = (UNREGISTERED, false, vec![], vec![]);
        let said = Said { health, refuses, protections, questions };
        let agent =
            Self { address: listener.local_addr().unwrap(), said: Arc::new(Mutex::new(said)) };
        let router = Router::new()
            .route("/v4/abc-1", get(async || CONTAINER))
            .route("/credentials", get(async || CREDENTIALS))
            .route(
                "/",
                post(async |State(agent): State<Self>, headers: HeaderMap, body: String| {
                    agent.describe(headers, body)
                }),
            )
            .route(
                "/api/abc-1/task-protection/v1/state",
                put(async |State(agent): State<Self>, body: String| agent.protect(&body)),
            )
            .with_state(agent.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        agent
    }

    fn describe(&self, headers: HeaderMap, body: String) -> (StatusCode, String) {
        let mut said = self.said.lock().unwrap();
        said.questions.push((headers, body));
        if said.refuses {
            let code = "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>";
            return (StatusCode::BAD_REQUEST, code.into());
        }
        (StatusCode::OK, format!("<R><TargetHealth>{}</TargetHealth></R>", said.health))
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
        let at = |path: &str| format!("http://{}{path}", self.address);
        Gateway::with_args(
            &["serve", "--config", file.path().to_str().unwrap()],
            &[
                ("ECS_CONTAINER_METADATA_URI_V4", &at("/v4/abc-1")),
                ("ECS_AGENT_URI", &at("/api/abc-1")),
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &at("/credentials")),
                ("AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2", &at("/")),
            ],
        )
        .await
    }
}

async fn drain_of(gateway: &Gateway) -> Value {
    serde_json::from_str(&gateway.admin_get("/drain").await.1).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_deregistered_drains_without_hurry_and_sigterm_hurries_it() {
    let agent = Agent::start().await;
    let options = format!(
        "watch_target_group = \"{GROUP}\"\nwatch_interval = \"1s\"\nshutdown_timeout = \"6s\""
    );
    let mut gateway = agent.task_with(&options).await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let asked = async || agent.said.lock().unwrap().questions.len();
    eventually("it asks before it is registered", async || asked().await >= 1).await;
    agent.set(|said| said.health = "<State>healthy</State>");
    let before = asked().await;
    eventually("it is registered", async || asked().await > before).await;
    agent.set(|said| said.refuses = true);
    eventually("a failure is counted", async || {
        gateway.metric("fanlight_ecs_failures_total").await > 0
    })
    .await;
    assert_eq!(drain_of(&gateway).await["state"], "none", "a failure is no order");
    agent.set(|said| (said.refuses, said.health) = (false, "<State>draining</State>"));
    eventually("it drains", async || drain_of(&gateway).await["trigger"] == "deregistered").await;
    let drain = drain_of(&gateway).await;
    assert_eq!((&drain["hurried"], &drain["window_s"]), (&false.into(), &3600.0.into()), "{drain}");
    assert_eq!(gateway.admin_get("/readyz").await.0, 503);
    gateway.signal("TERM").await;
    client.expect("\"reconnect\"").await;
    assert_eq!(client.close_code().await, 1012);
    drop(client);
    assert!(gateway.ended().await);
    assert_eq!(agent.protections(), [json!(null); 0], "no protection was asked for");

    let questions = agent.said.lock().unwrap().questions.clone();
    let (headers, body) = questions.last().unwrap();
    let header = |name: &str| headers[name].to_str().unwrap();
    assert_eq!(header("x-amz-security-token"), "a token");
    let scope = "/eu-west-1/elasticloadbalancing/aws4_request, SignedHeaders=content-type;host;";
    let authorization = header("authorization");
    assert!(
        authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKID/")
            && authorization.contains(scope),
        "{authorization}"
    );
    let asked = url_decoded(body);
    let own = [
        ("Action", "DescribeTargetHealth"),
        ("Version", "2015-12-01"),
        ("TargetGroupArn", GROUP),
        ("Targets.member.1.Id", "10.0.2.106"),
        // As configured.
        ("Targets.member.1.Port", "0"),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(asked, own, "{body}");
}

/// The fields of a form.
fn url_decoded(form: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
    let fields = form.split('&').map(|field| field.split_once('=').unwrap());
    fields.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

const GROUP: &str =
    "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/fl-abc/0123456789abcdef";
const UNREGISTERED: &str = "<State>unused</State><Reason>Target.NotRegistered</Reason>";
const CONTAINER: &str = r#"{"DockerId":"abc-1","Name":"gateway","Networks":[{"NetworkMode":"awsvpc","IPv4Addresses":["10.0.2.106"],"AttachmentIndex":0}]}"#;
const CREDENTIALS: &str = r#"{"RoleArn":"arn:aws:iam::123456789012:role/fl","AccessKeyId":"AKID","SecretAccessKey":"secret","Token":"a token","Expiration":"2030-01-01T00:00:00Z"}"#;

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
    let ecs =
        format!("grace = \"0s\"\nwatch_target_group = \"{GROUP}\"\necs_task_protection = true");
    std::fs::write(file.path(), CONFIG.replace("grace = \"0s\"", &ecs)).unwrap();
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
        ("drain.watch_target_group", "ECS_CONTAINER_METADATA_URI_V4"),
        ("drain.ecs_task_protection", "ECS_AGENT_URI"),
    ] {
        let warning = format!("warning: {option}: on, but ECS has not set {variable}");
        assert!(elsewhere.contains(&warning), "{elsewhere}");
    }
    let base = "http://169.254.170.2/v4/abc-1";
    let within = check(&[
        ("ECS_CONTAINER_METADATA_URI_V4", base),
        ("ECS_AGENT_URI", base),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/abc"),
    ])
    .await;
    assert!(!within.contains("warning: drain"), "{within}");
    let gateway = Gateway::with_args(&["serve", "--config", path], &[]).await;
    assert_eq!(gateway.admin_get("/livez").await.0, 200);
}
