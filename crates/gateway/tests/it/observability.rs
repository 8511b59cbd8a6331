//! What operators see of a loaded cluster: every metric, every rule and every panel has data.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use fanlight_testkit::RedisServer;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::backend::Backend;
use crate::collector::Collector;
use crate::http::get;
use crate::prometheus::{Prometheus, shipped};
use crate::relay::{Relay, relaying};
use crate::returning::{bearer, config, nodes_with};
use crate::support::{CONFIG, Gateway, Got, PATIENCE, QUEUES_AND_BACKENDS, RawClient, eventually};

const TOPIC: &str = "/topic/open.a";

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_and_every_rule_has_data_from_a_loaded_cluster() {
    let redis = RedisServer::start().unwrap();
    let collector = Collector::start().await;
    let backend = Backend::start().await;
    backend.on("message", |_| (200, json!({})));
    let config = cluster(&redis) + &traces(&collector) + &webhook(&backend);
    let nodes: [Gateway; 3] = nodes_with(&config).await;
    let other_cell = RedisServer::start().unwrap();
    let relay = relay_into(&other_cell, &redis).await;
    relay.is("active").await;
    let prometheus = Prometheus::over(&nodes, &[relay.admin]).await;
    let load = Load::begin(&nodes).await;
    assert_eq!(nodes[2].admin_post("/drain", &[]).await, 202);

    let documented = documented();
    // Which of them delivers events is for them to settle.
    eventually("an event is told", async || {
        exposed_by(&nodes).await.contains("fanlight_webhook_events_total{")
    })
    .await;
    let exposed = exposed_by(&nodes).await;
    let of_relay = get(relay.admin, "/metrics", &[]).await.body;
    check_exposition(&exposed, &of_relay, &documented);

    let rules = prometheus.rules().await;
    let recorded = rules.iter().filter(|rule| rule["type"] == "recording");
    let recorded: Vec<_> = recorded.map(|rule| rule["name"].as_str().unwrap().to_owned()).collect();
    let mut known: BTreeSet<_> = documented.into_iter().chain(recorded.iter().cloned()).collect();
    known.extend(names(&exposed).filter(|name| name.starts_with("process_")).map(str::to_owned));
    let panels = panels();
    let expressions = panels.iter().map(|(place, query)| (place.as_str(), query.as_str()));
    let of_rules =
        rules.iter().map(|rule| (rule["name"].as_str().unwrap(), rule["query"].as_str().unwrap()));
    for (place, query) in expressions.chain(of_rules) {
        for name in names(query) {
            assert!(known.contains(plain(name)), "{place}: there is no metric {name}: {query}");
        }
    }

    let work = async {
        loop {
            load.step().await;
        }
    };
    let queries = panels.into_iter().chain(recorded.into_iter().map(|rule| (rule.clone(), rule)));
    let check = async {
        for (place, query) in queries {
            let what = format!("{place} has data: {query}");
            eventually(&what, async || prometheus.has_data(&query).await).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = check => {}
    }
    for rule in prometheus.rules().await {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    assert!(!prometheus.has_data("sum(fanlight_conections)").await, "a misspelt name has none");
    // What these panels show is not only zeros that are there from the beginning.
    for counted in [
        "fanlight_trace_spans_total{result=\"exported\"}",
        "fanlight_relay_relayed_total",
        "fanlight_api_requests_total",
        "fanlight_app_messages_total",
        "fanlight_webhook_events_total{result=\"delivered\"}",
    ] {
        assert!(prometheus.has_data(&format!("sum({counted}) > 0")).await, "{counted}");
    }
}

/// What all of them expose.
async fn exposed_by(nodes: &[Gateway]) -> String {
    let mut exposed = String::new();
    for node in nodes {
        exposed += &node.admin_get("/metrics").await.1;
    }
    exposed
}

/// All that the documentation lists, by the nodes' own tables.
fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string(shipped("docs/metrics.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `fanlight_"));
    rows.map(|row| format!("fanlight_{}", row.split('`').next().unwrap())).collect()
}

/// Loaded nodes and a relay expose nothing that is not documented, and together all that is.
fn check_exposition(of_node: &str, of_relay: &str, documented: &BTreeSet<String>) {
    let names_in = |text: &str| -> BTreeSet<String> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE fanlight_"));
        types.map(|rest| format!("fanlight_{}", rest.split(' ').next().unwrap())).collect()
    };
    let mut exposed = names_in(of_node);
    assert!(!exposed.iter().any(|name| name.starts_with("fanlight_relay_")));
    let relays = names_in(of_relay);
    exposed.extend(relays.into_iter().filter(|name| name.starts_with("fanlight_relay_")));
    let unknown: Vec<_> = exposed.difference(documented).collect();
    assert!(unknown.is_empty(), "exposed, and not documented: {unknown:?}");
    let missing: Vec<_> = documented.difference(&exposed).collect();
    let of_a_redis_cluster =
        ["fanlight_redis_redirections_total", "fanlight_redis_slot_map_fetches_total"];
    assert_eq!(missing, of_a_redis_cluster, "documented, and not exposed");
}

/// Where each query of the dashboards is, and the query as Grafana would send it: those of panels, of
/// annotations, and of the variables that one chooses from at the top.
fn panels() -> Vec<(String, String)> {
    let mut panels = Vec::new();
    for entry in fs::read_dir(shipped("deploy/grafana/dashboards")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let mut add = |place: &Value, query: &Value| {
            let place = format!("{}, {place}", dashboard["title"]);
            let query = query.as_str().unwrap().replace("$job", "fanlight");
            let query = query.replace("$instance", ".*").replace("$__rate_interval", "1m");
            assert!(!query.contains('$'), "{place}: {query}");
            panels.push((place, query));
        };
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        for variable in variables.iter().filter(|variable| variable["type"] == "query") {
            let definition = &variable["definition"];
            assert_eq!(&variable["query"]["query"], definition, "{variable}");
            add(&variable["name"], &json!(choices(definition.as_str().unwrap())));
        }
        let named = |name: &str| variables.iter().any(|variable| variable["name"] == name);
        assert!(named("job") && named("instance"), "{}", dashboard["title"]);
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            add(&annotation["name"], &annotation["expr"]);
        }
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                add(&panel["title"], &target["expr"]);
            }
        }
    }
    assert!(panels.len() > 100, "there are only {}", panels.len());
    panels
}

/// What has data where Grafana's `label_values(SERIES, LABEL)` has choices: `SERIES` with that label.
fn choices(definition: &str) -> String {
    let inner = definition.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (series, label) =
        inner.unwrap_or_else(|| panic!("{definition}")).rsplit_once(", ").unwrap();
    let selected = match series.strip_suffix('}') {
        Some(selector) => format!("{selector},{label}!=\"\"}}"),
        None => format!("{series}{{{label}!=\"\"}}"),
    };
    format!("count by ({label}) ({selected})")
}

/// The names of metrics in a query or an exposition.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|word| {
        ["fanlight_", "process_", "job:", "instance:"].iter().any(|begin| word.starts_with(begin))
    })
}

/// A histogram's name for that of one of its series.
fn plain(name: &str) -> &str {
    ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// History, presence, queues and events, and outboxes that are soon full.
fn cluster(redis: &RedisServer) -> String {
    let more = format!("[events]\nenabled = true\n{QUEUES_AND_BACKENDS}");
    config(redis, &more)
        .replace("match = \"/topic/**\"\n", "match = \"/topic/**\"\npresence = true\n")
        .replace("[broker]\n", "api = \"127.0.0.1:0\"\n[broker]\n")
        .replace("window = \"200ms\"", "window = \"5m\"")
        .replace("[limits]\n", "[limits]\noutbox = \"128KiB\"\n")
}

/// Nodes that send spans there.
fn traces(collector: &Collector) -> String {
    let endpoint = collector.endpoint();
    format!(
        "[telemetry.traces]\nendpoint = \"{endpoint}\"\nconnection_ratio = 1\n\
         publication_ratio = 1\npublications_per_second = 1000000\ninterval = \"100ms\"\n"
    )
}

/// A backend that handles messages and hears of events.
fn webhook(backend: &Backend) -> String {
    let routes = "[[app.routes]]\ndestination = \"/app/work\"\nwebhook = \"backend\"\n\
                  [[events.webhooks]]\nwebhook = \"backend\"\n\
                  kinds = [\"connected\", \"disconnected\"]\n";
    backend.config(routes)
}

/// A relay into the cell with one Redis from that with the other.
async fn relay_into(target: &RedisServer, source: &RedisServer) -> Relay {
    let config = cluster(target) + &relaying("a", "b", &source.url());
    Relay::with_config(&config).await
}

/// What keeps the nodes busy.
struct Load<'n> {
    nodes: &'n [Gateway; 3],
    /// From where its clients recover.
    position: Value,
    /// Clients of either protocol and by other transports, who stay.
    _crowd: Vec<RawClient>,
}

impl<'n> Load<'n> {
    async fn begin(nodes: &'n [Gateway; 3]) -> Self {
        let mut crowd = Vec::new();
        let mut position = Value::Null;
        for node in nodes {
            let mut native = RawClient::native(node, "ann").await;
            let subscribe =
                json!({ "type": "subscribe", "to": TOPIC, "presence": true, "id": 1 }).to_string();
            native.send(&subscribe).await;
            let ok: Value = serde_json::from_str(&native.expect("\"ok\"").await).unwrap();
            position = json!({ "epoch": ok["epoch"], "offset": ok["offset"] });
            let mut stomp = RawClient::stomp(node, "bob").await;
            stomp.send("SUBSCRIBE\nid:q\nreceipt:q\ndestination:/queue/jobs\n\n\0").await;
            stomp.expect("receipt-id:q").await;
            crowd.extend([native, stomp]);
        }
        let load = Self { nodes, position, _crowd: crowd };
        let (api, target) = (nodes[0].api.unwrap(), "/api/v1/openapi.json");
        assert_eq!(get(api, target, &[]).await.status, 200);
        load.overwhelm().await;
        load.step().await;
        load
    }

    /// One who does not read is cut.
    async fn overwhelm(&self) {
        let [node, ..] = self.nodes;
        let mut slow = RawClient::native(node, "slow").await;
        slow.send(r#"{"type":"subscribe","to":"/topic/open.flood","id":1}"#).await;
        slow.expect("\"ok\"").await;
        let mut publisher = RawClient::native(node, "pub").await;
        let data = "x".repeat(60_000);
        let send = json!({ "type": "send", "to": "/topic/open.flood", "data": data, "id": 1 });
        let mut floods = 0;
        while node.metric("fanlight_outbox_dropped_frames_total").await == 0 {
            publisher.send(&send.to_string()).await;
            publisher.expect("\"ok\"").await;
            floods += 1;
            assert!(floods < 2000, "the slow consumer was never found out");
        }
    }

    /// A client comes, recovers, publishes to all kinds of destinations and leaves; another is
    /// refused, and a third polls.
    async fn step(&self) {
        let [a, b, _] = self.nodes;
        let mut client = RawClient::native(b, "cid").await;
        let subscribe =
            json!({ "type": "subscribe", "to": TOPIC, "since": self.position, "id": 1 });
        client.send(&subscribe.to_string()).await;
        for to in [TOPIC, "/queue/jobs", "/app/work"] {
            let send = json!({ "type": "send", "to": to, "data": 1, "id": to }).to_string();
            client.send(&send).await;
            while !matches!(client.next().await, Got::Text(text) if text.contains(&format!("\"id\":\"{to}\"")))
            {
            }
        }
        let headers = [("Authorization", "Bearer nonsense")];
        RawClient::try_connect(a, "/ws", &headers).await.err().unwrap();
        let headers = [("Authorization", &*bearer("dan").await)];
        let target = format!("/poll?destination={TOPIC}&wait=0");
        assert_eq!(get(a.public, &target, &headers).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_for_cloudwatch_are_whole_and_say_what_the_metrics_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fanlight.toml");
    let emf = "[telemetry]\nemf = true\nemf_interval = \"100ms\"\nservice = \"edge\"\n";
    fs::write(&path, format!("{CONFIG}\n{emf}")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_fanlight"))
        .args(["serve", "--config", path.to_str().unwrap()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut public = None;
    let mut clients = Vec::new();
    let seen = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it ended");
            if let Some((_, url)) = line.split_once("  clients   ws://") {
                public = url.split('/').next().unwrap().parse::<std::net::SocketAddr>().ok();
            }
            if !line.starts_with('{') {
                continue;
            }
            let line: Value = serde_json::from_str(&line).unwrap();
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            assert_eq!(directive["Namespace"], "Fanlight", "{line}");
            assert_eq!(
                (&line["Service"], &directive["Dimensions"][0][0]),
                (&json!("edge"), &json!("Service"))
            );
            for metric in directive["Metrics"].as_array().unwrap() {
                assert!(line[metric["Name"].as_str().unwrap()].is_number(), "{metric}: {line}");
            }
            if clients.is_empty() {
                for user in ["ann", "bob"] {
                    clients.push(RawClient::native(public.unwrap(), user).await);
                }
            } else if line["Connections"] == 2.0 && line["Sessions"] == 2.0 {
                break line;
            }
        }
    };
    let line = timeout(PATIENCE, seen).await.unwrap();
    let told = Duration::from_millis(line["_aws"]["Timestamp"].as_u64().unwrap());
    assert!(std::time::UNIX_EPOCH.elapsed().unwrap().abs_diff(told) < PATIENCE, "{line}");
}
