//! `HAProxy` with the configuration that is shipped, in front of three nodes, without stickiness.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fanlight::config::Config;
use fanlight_testkit::{PortLease, RedisServer};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::http::{Stream, get, headers, post};
use crate::returning::{bearer, config, named, nodes_with};
use crate::support::{Gateway, RawClient, eventually};

/// A running `HAProxy`; it ends with this value.
struct Haproxy {
    address: SocketAddr,
    child: Child,
    _folder: TempDir,
    _lease: PortLease,
}

impl Haproxy {
    async fn before(nodes: &[Gateway; 3]) -> Self {
        let lease = PortLease::take().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, lease.port()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("haproxy.cfg");
        fs::write(&path, rendered(address, nodes)).unwrap();
        let child = haproxy(&path).arg("-db").spawn();
        let child = child.expect("HAProxy is needed: run `cargo xtask test`");
        let haproxy = Self { address, child, _folder: folder, _lease: lease };
        eventually("HAProxy listens", async || TcpStream::connect(address).await.is_ok()).await;
        haproxy
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn haproxy(configuration: &Path) -> Command {
    // Where Debian puts it is not on everybody's path.
    let debians = Path::new("/usr/sbin/haproxy");
    let mut command = Command::new(if debians.exists() { debians } else { Path::new("haproxy") });
    command.arg("-f").arg(configuration).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// The file that is shipped, with other addresses.
fn rendered(address: SocketAddr, nodes: &[Gateway; 3]) -> String {
    let mut text = fs::read_to_string(shipped()).unwrap();
    let mut replace = |from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), 1, "{from:?} in what is shipped");
        text = text.replace(from, to);
    };
    replace("bind 127.0.0.1:8000", &format!("bind {address}"));
    for (node, port) in nodes.iter().zip([8080, 8082, 8084]) {
        replace(&format!(" 127.0.0.1:{port}"), &format!(" {}", node.public));
    }
    // What tests may open at once on a machine with few descriptors.
    replace("maxconn 30000", "maxconn 1000");
    text
}

fn shipped() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/haproxy/haproxy.cfg")
}

const TOPIC: &str = "/topic/open.a";

#[test]
fn haproxy_accepts_the_shipped_file_as_it_is() {
    let output = haproxy(&shipped()).arg("-c").stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("[WARNING]"), "{said}");
}

#[test]
fn haproxy_finds_a_drain_out_within_the_grace_that_nodes_have_by_default() {
    let text = fs::read_to_string(shipped()).unwrap();
    let words: Vec<_> = text.split_whitespace().collect();
    let number = |name: &str| -> u64 {
        let after = words.iter().position(|word| *word == name).unwrap() + 1;
        words[after].trim_end_matches('s').parse().unwrap()
    };
    let noticed_ms = 1000 * number("inter") * number("fall");
    assert!(noticed_ms < Config::default().drain.grace.as_ms(), "it takes {noticed_ms} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_passes_through_haproxy_and_a_node_that_drains_is_not_noticed() {
    let redis = RedisServer::start().unwrap();
    let config = config(&redis, "").replace("window = \"200ms\"", "window = \"1h\"");
    let nodes = nodes_with(&config).await;
    let haproxy = Haproxy::before(&nodes).await;
    let to = haproxy.address;
    let ann = bearer("ann").await;
    let lines = [("Authorization", &*ann)];
    let events = format!("/events?destination={TOPIC}");
    let mut stream = Stream::open(to, "GET", &events, headers(&lines)).await;
    named(&mut stream, "connected").await;
    named(&mut stream, "subscribed").await;
    let mut native = RawClient::native(to, "ann").await;
    native.send(&json!({ "type": "subscribe", "to": TOPIC, "id": 1 }).to_string()).await;
    native.expect("\"ok\"").await;
    let mut stomp = RawClient::stomp(to, "bob").await;
    stomp.send(&format!("SEND\ndestination:{TOPIC}\n\n1\0")).await;
    native.expect("\"message\"").await;
    assert!(named(&mut stream, "message").await.data.contains(TOPIC));
    drop((native, stomp, stream));

    // Without anybody connected it would end at once.
    let _connected = RawClient::native(&nodes[1], "ann").await;
    assert_eq!(nodes[1].admin_post("/drain", &[]).await, 202);
    let target = format!("/poll?destination={TOPIC}&wait=0");
    eventually("it refuses", async || get(nodes[1].public, &target, &lines).await.status == 503)
        .await;
    for n in 0..6 {
        let _socket = RawClient::native(to, "ann").await;
        let poll = format!("/poll?destination={TOPIC}&wait=0");
        assert_eq!(get(to, &poll, &lines).await.status, 200);
        let body = json!({ "to": TOPIC, "data": n }).to_string();
        let published = post(to, "/publish", &lines, &body).await;
        assert_eq!(published.status, 200, "a refusal is tried elsewhere: {}", published.body);
    }
}
