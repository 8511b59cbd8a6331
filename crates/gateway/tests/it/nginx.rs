//! nginx with the configuration that is shipped, in front of three nodes, without stickiness.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fanlight_testkit::{PortLease, RedisServer};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::http::{Response, Stream, get, headers, post};
use crate::returning::{bearer, config, named, nodes, nodes_with};
use crate::sockjs_session::{How, Session};
use crate::support::{Gateway, Got, RawClient, eventually};

/// A running nginx; it ends with this value.
pub struct Nginx {
    pub address: SocketAddr,
    child: Child,
    folder: TempDir,
    _lease: PortLease,
}

impl Nginx {
    pub async fn before(nodes: &[Gateway; 3]) -> Self {
        Self::at(PortLease::take().unwrap(), nodes).await
    }

    /// At an address that was known before the nodes were there.
    pub async fn at(lease: PortLease, nodes: &[Gateway; 3]) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, lease.port()));
        let folder = tempfile::tempdir().unwrap();
        // Its workers may run as another user than this.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, rendered(address, nodes, folder.path())).unwrap();
        let log = File::create(folder.path().join(LOG)).unwrap();
        let child = nginx(&path, folder.path(), "daemon off;").stderr(log).spawn();
        let child = child.expect("nginx is needed: run `cargo xtask test`");
        let nginx = Self { address, child, folder, _lease: lease };
        eventually("nginx listens", async || {
            assert!(!nginx.log().contains("[emerg]"), "{}", nginx.log());
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        nginx
    }

    /// It has found nothing wrong with what came from the nodes.
    pub fn has_dropped_nothing(&self) {
        let log = self.log();
        let is_wrong = |line: &&str| {
            let is_error = ["[error]", "[crit]"].iter().any(|level| line.contains(level));
            is_error && !line.contains("too large body")
        };
        assert_eq!(log.lines().filter(is_wrong).collect::<Vec<_>>(), [""; 0]);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join(LOG)).unwrap()
    }
}

impl Drop for Nginx {
    /// By a signal that it passes on to its workers, which would outlive it otherwise.
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// The command, with what it writes in `folder`.
fn nginx(configuration: &Path, folder: &Path, more: &str) -> Command {
    // Where Debian puts it is not on everybody's path.
    let debians = Path::new("/usr/sbin/nginx");
    let mut command = Command::new(if debians.exists() { debians } else { Path::new("nginx") });
    command.arg("-p").arg(folder).arg("-c").arg(configuration).stdin(Stdio::null());
    command.arg("-g").arg(format!("pid {}/pid; error_log stderr; {more}", folder.display()));
    command
}

/// The file that is shipped, with other addresses and folders, and no more workers than show that
/// there are several.
fn rendered(address: SocketAddr, nodes: &[Gateway; 3], folder: &Path) -> String {
    let mut text = fs::read_to_string(shipped()).unwrap();
    let mut replace = |times: usize, from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), times, "{from:?} in what is shipped");
        text = text.replace(from, to);
    };
    replace(1, "worker_processes auto;", "worker_processes 2;");
    replace(1, "listen 127.0.0.1:8000;", &format!("listen {address};"));
    for (node, port) in nodes.iter().zip([8080, 8082, 8084]) {
        let to = format!("server {} max_fails=0;", node.public);
        replace(2, &format!("server 127.0.0.1:{port} max_fails=0;"), &to);
    }
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = kinds.map(|kind| format!("{kind}_temp_path {}/{kind};", folder.display()));
    replace(1, "\nhttp {\n", &format!("\nhttp {{\n{}\n", folders.join("\n")));
    text
}

fn shipped() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nginx/nginx.conf")
}

const LOG: &str = "error.log";
const HANDSHAKES: &str = "fanlight_handshakes_total";
const TOPIC: &str = "/topic/open.a";

#[test]
fn nginx_accepts_the_shipped_file_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let output = nginx(&shipped(), folder.path(), "").arg("-t").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("syntax is ok"), "{said}");
    // Who is not root may not make the folders that it is built with.
    assert!(output.status.success() || said.contains("Permission denied"), "{said}");
}

/// Publishes by a request, again where it is not known whether it was, and so once.
async fn publish(to: SocketAddr, bearer: &str, number: u64) {
    let body = json!({ "to": TOPIC, "data": number, "key": format!("key-{number}") }).to_string();
    eventually("it is published", async || {
        post(to, "/publish", &[("Authorization", bearer)], &body).await.status == 200
    })
    .await;
}

async fn poll(to: SocketAddr, bearer: &str, cursor: &str, wait: &str) -> Response {
    let target = format!("/poll?destination={TOPIC}&cursor={cursor}&wait={wait}");
    get(to, &target, &[("Authorization", bearer)]).await
}

async fn next_json(client: &mut RawClient) -> Value {
    match client.next().await {
        Got::Text(text) => serde_json::from_str(&text).unwrap(),
        got => panic!("a text was expected, not {got:?}"),
    }
}

/// A stream of events, live.
async fn events(to: SocketAddr, bearer: &str) -> Stream {
    let target = format!("/events?destination={TOPIC}");
    // As an EventSource does.
    let lines = [("Authorization", bearer), ("Accept", "text/event-stream")];
    let mut stream = Stream::open(to, "GET", &target, headers(&lines)).await;
    assert_eq!(stream.status, 200);
    named(&mut stream, "connected").await;
    named(&mut stream, "subscribed").await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_streams_and_polls_pass_through_nginx_without_delay_and_by_every_node() {
    let redis = RedisServer::start().unwrap();
    let nodes = nodes(&redis, "[native]\nheartbeat = \"2s\"").await;
    let nginx = Nginx::before(&nodes).await;
    let ann = bearer("ann").await;
    let mut native = RawClient::native(nginx.address, "ann").await;
    native.send(&json!({ "type": "subscribe", "to": TOPIC, "id": 1 }).to_string()).await;
    native.expect("\"ok\"").await;
    let mut stomp = RawClient::stomp(nginx.address, "bob").await;
    stomp.send(&format!("SUBSCRIBE\nid:s\nreceipt:s\ndestination:{TOPIC}\n\n\0")).await;
    stomp.expect("RECEIPT").await;
    let mut stream = events(nginx.address, &ann).await;
    let page = poll(nginx.address, &ann, "", "0").await.json();
    let cursor = page["cursor"].as_str().unwrap();

    // A poll that waits goes on waiting, and what ends it is at once with everybody.
    let waiting = poll(nginx.address, &ann, cursor, "25s");
    let mut waiting = std::pin::pin!(waiting);
    assert!(timeout(Duration::from_millis(500), &mut waiting).await.is_err());
    stomp.send(&format!("SEND\ndestination:{TOPIC}\n\n1\0")).await;
    native.expect("\"message\"").await;
    stomp.expect("MESSAGE").await;
    assert!(named(&mut stream, "message").await.data.contains(TOPIC));
    assert!(waiting.await.body.contains("\"message\""));

    // Heartbeats pass too.
    for _ in 0..2 {
        assert_eq!(stream.until("\n\n").await.as_deref(), Some(":"));
    }
    // What the node takes passes, and so does its reason to refuse; far larger is refused before.
    let lines = [("Authorization", &*ann)];
    for (length, status) in [(60_000, 200), (70_000, 413), (1_500_000, 413)] {
        let body = json!({ "to": "/topic/open.b", "data": "x".repeat(length) }).to_string();
        let response = post(nginx.address, "/publish", &lines, &body).await;
        assert_eq!(response.status, status, "{length}: {}", response.body);
        if length == 70_000 {
            assert_eq!(response.problem().1, "too_large");
        }
    }
    drop((native, stomp, stream));
    for node in &nodes {
        eventually("its turn comes", async || {
            RawClient::native(nginx.address, "ann").await;
            node.metric("fanlight_handshakes_total").await > 0
        })
        .await;
    }
    nginx.has_dropped_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_drains_is_not_noticed_by_who_connects_through_nginx() {
    let redis = RedisServer::start().unwrap();
    let config = config(&redis, "").replace("window = \"200ms\"", "window = \"1h\"");
    let mut nodes = nodes_with(&config).await;
    let nginx = Nginx::before(&nodes).await;
    let ann = bearer("ann").await;
    // One is gone besides.
    nodes[2].signal("KILL").await;
    assert!(!nodes[2].ended().await);
    // Without anybody connected it would end at once.
    let _connected = RawClient::native(&nodes[1], "ann").await;
    assert!(nodes[1].admin_post("/drain", &[]).await < 300);
    eventually("it refuses", async || poll(nodes[1].public, &ann, "", "0").await.status == 503)
        .await;
    // The one that takes clients has the most, so that the others are asked first.
    let mut held = Vec::new();
    let bare = ann.strip_prefix("Bearer ").unwrap();
    for n in 0..4 {
        events(nginx.address, &ann).await;
        held.push(RawClient::native(nginx.address, "ann").await);
        assert_eq!(poll(nginx.address, &ann, "", "0").await.status, 200);
        // A POST that a node has refused is sent to another one.
        assert_eq!(Session::at(nginx.address, bare, How::Polling).frame().await, "o");
        let body = json!({ "to": TOPIC, "data": n }).to_string();
        for to in [nginx.address, nodes[1].public] {
            let published = post(to, "/publish", &[("Authorization", &*ann)], &body).await;
            assert_eq!(published.status, 200, "a node publishes while it can: {}", published.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_its_node_returns_through_nginx_to_another_and_gets_exactly_what_it_missed() {
    let redis = RedisServer::start().unwrap();
    let nodes = nodes(&redis, "[cluster]\nlease = \"3s\"\nlease_renew = \"1s\"").await;
    let nginx = Nginx::before(&nodes).await;
    let to = nginx.address;
    let ann = bearer("ann").await;
    let mut stream = events(to, &ann).await;
    let mut handshakes = Vec::new();
    for node in &nodes {
        handshakes.push(node.metric(HANDSHAKES).await);
    }
    let victim = &nodes[handshakes.iter().position(|&count| count == 1).unwrap()];
    let mut socket = another_on(victim, to).await;
    socket.send(&json!({ "type": "subscribe", "to": TOPIC, "id": 1 }).to_string()).await;
    let since = json!({ "epoch": next_json(&mut socket).await["epoch"], "offset": 2 });
    // So many that each node has the mailbox of one, whichever worker of nginx has their requests.
    let mut polls = [const { Vec::new() }; 6].map(|heard| (String::new(), heard));
    for (cursor, heard) in &mut polls {
        *cursor = take_page(&poll(to, &ann, "", "0").await, heard);
    }
    for n in 0..2 {
        publish(to, &ann, n).await;
        socket.expect(&format!("\"data\":{n}")).await;
    }
    named(&mut stream, "message").await;
    let last = named(&mut stream, "message").await.id.unwrap();
    for (cursor, heard) in &mut polls {
        hear(to, &ann, cursor, heard, 2).await;
    }

    // The polls wait meanwhile, and go on.
    let missed = async {
        victim.signal("KILL").await;
        assert_eq!(socket.next().await, Got::End);
        for n in 2..52 {
            publish(to, &ann, n).await;
        }
    };
    let waiting = polls.iter_mut().map(|(cursor, heard)| hear(to, &ann, cursor, heard, 52));
    tokio::join!(join_all(waiting), missed);
    drop((stream, socket));
    for (_, heard) in polls {
        assert_eq!(heard, (0..52).collect::<Vec<_>>());
    }

    let target = format!("/events?destination={TOPIC}");
    let lines = [("Authorization", &*ann), ("Last-Event-ID", &*last)];
    let mut stream = Stream::open(to, "GET", &target, headers(&lines)).await;
    named(&mut stream, "connected").await;
    for n in 2..52 {
        assert!(named(&mut stream, "message").await.data.contains(&format!("\"data\":{n}")));
    }
    let told = named(&mut stream, "subscribed").await.data;
    assert!(told.contains("\"recovered\":true") && told.contains("\"count\":50"), "{told}");

    let mut socket = RawClient::native(to, "ann").await;
    let subscribe = json!({ "type": "subscribe", "to": TOPIC, "since": since, "id": 1 });
    socket.send(&subscribe.to_string()).await;
    for n in 2..52 {
        assert_eq!(next_json(&mut socket).await["data"], n);
    }
    let told = next_json(&mut socket).await;
    assert_eq!((&told["recovered"], &told["count"]), (&json!(true), &json!(50)), "{told}");
}

/// One more client of a node that has one: its turn comes again once the others have as many.
async fn another_on(node: &Gateway, to: SocketAddr) -> RawClient {
    let mut others = Vec::new();
    loop {
        let client = RawClient::native(to, "ann").await;
        if node.metric(HANDSHAKES).await == 2 {
            return client;
        }
        others.push(client);
    }
}

/// Polls until so many numbers are heard.
async fn hear(
    to: SocketAddr,
    bearer: &str,
    cursor: &mut String,
    heard: &mut Vec<u64>,
    many: usize,
) {
    while heard.len() < many {
        let response = poll(to, bearer, cursor, "25s").await;
        *cursor = take_page(&response, heard);
    }
}

/// Adds a page's numbers to `heard`; the next cursor.
fn take_page(response: &Response, heard: &mut Vec<u64>) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    let page = response.json();
    let messages = page["messages"].as_array().unwrap();
    heard.extend(messages.iter().filter_map(|message| message["data"].as_u64()));
    page["cursor"].as_str().unwrap().to_owned()
}
