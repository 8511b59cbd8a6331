//! A real Prometheus with the configuration and the rules that are shipped.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;

use fanlight_testkit::PortLease;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::http::get;
use crate::support::{Gateway, eventually};

/// A running Prometheus; it ends with this value.
pub struct Prometheus {
    address: SocketAddr,
    _child: Child,
    _folder: TempDir,
    _lease: PortLease,
}

/// A file or folder of the repository.
pub fn shipped(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).canonicalize().unwrap()
}

impl Prometheus {
    /// Scrapes `nodes`, and relays by their admin listeners, each second; it has scraped each.
    pub async fn over(nodes: &[Gateway], relays: &[SocketAddr]) -> Self {
        let lease = PortLease::take().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, lease.port()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prometheus.yml");
        fs::write(&path, configuration(nodes, relays)).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus is needed: run `cargo xtask test`");
        let prometheus = Self { address, _child: child, _folder: folder, _lease: lease };
        eventually("it listens", async || {
            tokio::net::TcpStream::connect(address).await.is_ok()
                && get(address, "/-/ready", &[]).await.status == 200
        })
        .await;
        let all_up = format!("sum(up) == {}", nodes.len() + relays.len());
        eventually("it has scraped all", async || prometheus.has_data(&all_up).await).await;
        prometheus
    }

    /// Whether a query gives a number now.
    pub async fn has_data(&self, query: &str) -> bool {
        let encoded = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let answer = self.ask(&format!("/api/v1/query?query={encoded}")).await;
        let result = answer["data"]["result"].as_array().unwrap();
        let is_number = |sample: &Value| {
            let value = sample["value"][1].as_str().unwrap();
            value.parse::<f64>().unwrap().is_finite()
        };
        result.iter().any(is_number)
    }

    /// Its rules, with how each is.
    pub async fn rules(&self) -> Vec<Value> {
        let answer = self.ask("/api/v1/rules").await;
        let groups = answer["data"]["groups"].as_array().unwrap();
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
    }

    async fn ask(&self, target: &str) -> Value {
        let response = get(self.address, target, &[]).await;
        let answer = response.json();
        assert_eq!(answer["status"], "success", "{target}: {answer}");
        answer
    }
}

/// What is shipped, for these nodes and relays and with no patience.
fn configuration(nodes: &[Gateway], relays: &[SocketAddr]) -> String {
    let text = fs::read_to_string(shipped("deploy/prometheus/prometheus.yml")).unwrap();
    let targets: Vec<_> = nodes.iter().map(|node| node.admin.to_string()).collect();
    let (before, rest) = text.split_once("targets: ").unwrap();
    let (_, after) = rest.split_once('\n').unwrap_or((rest, ""));
    let relays: Vec<_> = relays.iter().map(SocketAddr::to_string).collect();
    let after = after.replace("targets: []", &format!("targets: {relays:?}"));
    let rules = shipped("deploy/prometheus/rules");
    format!("{before}targets: {targets:?}\n{after}")
        .replace("15s", "1s")
        .replace("rules/*.yml", &format!("{}/*.yml", rules.display()))
}
