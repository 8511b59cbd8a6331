//! The scripts for k6 and Artillery in `loadtest`, each run once for a few seconds where the tool
//! is on the `PATH`, and otherwise skipped.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{Gateway, token};

const ROOMS: &str = r#"
[[policy.rules]]
effect = "allow"
destination = "/topic/k6.*"
[[policy.rules]]
effect = "allow"
destination = "/topic/artillery.*"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn k6_connects_subscribes_publishes_and_tells_latencies() {
    let few = [("CLIENTS", "4"), ("SECONDS", "4"), ("RAMP_S", "1"), ("PER_SECOND", "5")];
    let Some(summary) = k6("fanlight.js", &few).await else { return };
    for counter in ["fanlight_published", "fanlight_delivered"] {
        assert!(summary[counter]["count"].as_f64().unwrap() > 0.0, "{summary}");
    }
    for trend in ["fanlight_connecting", "fanlight_acknowledging", "fanlight_latency"] {
        assert!(summary[trend]["p(95)"].is_number(), "{summary}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k6_loses_all_connections_and_everybody_comes_back() {
    let few = [("CLIENTS", "5"), ("STORMS", "2"), ("CALM_S", "2")];
    let Some(summary) = k6("storm.js", &few).await else { return };
    assert_eq!(summary["fanlight_returned"]["count"], json!(10), "{summary}");
    assert!(summary["fanlight_away"]["p(95)"].is_number(), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn artillery_connects_subscribes_publishes_and_tells_latencies() {
    let few = json!([{ "duration": 2, "arrivalRate": 2 }]);
    let Some(report) = artillery("messages.yml", &few).await else { return };
    let counters = &report["counters"];
    assert_eq!(counters["vusers.failed"], json!(0), "{report}");
    assert!(counters["fanlight.delivered"].as_u64() >= counters["fanlight.published"].as_u64());
    for histogram in ["fanlight.connecting", "fanlight.acknowledging", "fanlight.latency"] {
        assert!(report["summaries"][histogram]["p95"].is_number(), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn artillery_has_many_connect_within_a_second() {
    let few = json!([{ "duration": 1, "arrivalCount": 10 }]);
    let Some(report) = artillery("storm.yml", &few).await else { return };
    assert_eq!(report["counters"]["vusers.completed"], json!(10), "{report}");
    assert_eq!(report["counters"]["vusers.failed"], json!(0), "{report}");
    assert!(report["summaries"]["fanlight.connecting"]["p95"].is_number(), "{report}");
}

/// The metrics of a run of a script in `loadtest/k6`.
async fn k6(script: &str, env: &[(&str, &str)]) -> Option<Value> {
    let summary = tempfile::NamedTempFile::new().unwrap();
    let mut k6 = Command::new("k6");
    k6.args(["run", "--no-usage-report", "--quiet", "--summary-export"])
        .arg(summary.path())
        .arg(folder("k6").join(script))
        .envs(env.iter().copied());
    run(k6, script).await?;
    let summary: Value = read_json(summary.path());
    Some(summary["metrics"].clone())
}

/// The figures of a run of a script in `loadtest/artillery`.
async fn artillery(script: &str, phases: &Value) -> Option<Value> {
    let report = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    let mut artillery = Command::new("artillery");
    artillery
        .args(["run", "--quiet", "--output"])
        .arg(report.path())
        .arg("--overrides")
        .arg(json!({ "config": { "phases": phases } }).to_string())
        .arg(folder("artillery").join(script))
        .env("ARTILLERY_DISABLE_TELEMETRY", "true");
    run(artillery, script).await?;
    let report: Value = read_json(report.path());
    Some(report["aggregate"].clone())
}

/// Runs a tool against a gateway of its own; `None` where there is no such tool.
async fn run(mut tool: Command, script: &str) -> Option<()> {
    let gateway = Gateway::start(ROOMS).await;
    let running = tool
        .env("URL", gateway.ws_url())
        .env("TOKEN", token("ann", &[]).await)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match timeout(PATIENCE, running).await.expect("it should have ended by itself") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let name = tool.as_std().get_program().to_string_lossy().into_owned();
            eprintln!("skipped {script}: there is no {name}");
            return None;
        }
        output => output.unwrap(),
    };
    let Output { status, stdout, stderr } = output;
    let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(status.success(), "{script}: {said}");
    Some(())
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../loadtest").join(name)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// They run for seconds; beginning may take long on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
