//! A node is added, and sessions move to it: evenly, and with nothing lost.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use fanlight_testkit::RedisServer;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::http::{Stream, get, headers, post};
use crate::returning::{bearer, config, event, named, nodes_with};
use crate::sockjs_session::{How, Session};
use crate::support::{Gateway, Got, PATIENCE, RawClient, eventually, token};

const TOPIC: &str = "/topic/open.a";
/// Of five, one each speaks the native protocol, STOMP, events, SockJS, and polls.
const CLIENTS: usize = 40;
/// Over TCP, all at one node: as many as all the others that it has.
const SERVICES: usize = 20;

/// Soon, where a machine is busy with other tests.
const OPTIONS: &str = r#"
[cluster]
lease = "10s"
lease_renew = "500ms"
[rebalance]
enabled = true
threshold_percent = 20
min_sessions = 5
window = "1s"
cooldown = "2s"
settle = "2s"
"#;

/// Gives each client to the node with the fewest, as a load balancer does.
#[derive(Default)]
struct Balancer(Mutex<Vec<(SocketAddr, usize)>>);

impl Balancer {
    fn add(&self, node: SocketAddr) {
        self.0.lock().unwrap().push((node, 0));
    }

    fn enter(&self) -> SocketAddr {
        let mut nodes = self.0.lock().unwrap();
        let fewest = nodes.iter_mut().min_by_key(|(_, count)| *count).unwrap();
        fewest.1 += 1;
        fewest.0
    }

    fn leave(&self, node: SocketAddr) {
        let mut nodes = self.0.lock().unwrap();
        nodes.iter_mut().find(|(own, _)| *own == node).unwrap().1 -= 1;
    }
}

/// What all clients share.
#[derive(Default)]
struct Crowd {
    balancer: Balancer,
    token: String,
    authorization: String,
    live: AtomicUsize,
    moved: AtomicU64,
    /// By client: the numbers that it has heard.
    heard: Vec<Mutex<Vec<u64>>>,
}

/// Where a client stands, in the words of its protocol: `epoch:offset`, or a cursor.
type Standing = Option<String>;

impl Crowd {
    /// All of them, live: clients of two nodes, and services of the first.
    async fn at(a: &Gateway, b: &Gateway) -> (Arc<Self>, JoinSet<()>) {
        let crowd = Arc::new(Self {
            token: token("ann", &[]).await,
            authorization: bearer("ann").await,
            heard: (0..CLIENTS + SERVICES).map(|_| Mutex::default()).collect(),
            ..Self::default()
        });
        crowd.balancer.add(a.public);
        crowd.balancer.add(b.public);
        let mut clients = JoinSet::new();
        for at in 0..CLIENTS {
            let crowd = Arc::clone(&crowd);
            clients.spawn(async move { crowd.client(at).await });
        }
        for at in CLIENTS..CLIENTS + SERVICES {
            let (crowd, node) = (Arc::clone(&crowd), a.stomp.unwrap());
            clients.spawn(async move { crowd.service(at, node).await });
        }
        let all_are_live = async || crowd.live.load(Ordering::Relaxed) == CLIENTS + SERVICES;
        eventually("all have subscribed", all_are_live).await;
        (crowd, clients)
    }

    /// A client that goes to another node when it is told to, and on from where it stands.
    async fn client(&self, at: usize) {
        let mut standing = None;
        loop {
            let node = self.balancer.enter();
            match at % 5 {
                0 => self.native(at, node, &mut standing).await,
                1 => self.stomp(at, node, &mut standing).await,
                2 => self.events(at, node, &mut standing).await,
                3 => self.sockjs(at, node, &mut standing).await,
                _ => self.polls(at, node, &mut standing).await,
            }
            self.balancer.leave(node);
            self.live.fetch_sub(1, Ordering::Relaxed);
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn native(&self, at: usize, node: SocketAddr, standing: &mut Standing) {
        let mut client = RawClient::connect(node, "/ws", &self.lines("fanlight.v1.json"))
            .await
            .begun_native()
            .await;
        let since = standing.as_deref().and_then(|standing| standing.split_once(':'));
        let since = since.map(
            |(epoch, offset)| json!({ "epoch": epoch, "offset": offset.parse::<u64>().unwrap() }),
        );
        let subscribe = json!({ "type": "subscribe", "to": TOPIC, "id": 1, "since": since });
        client.send(&subscribe.to_string()).await;
        loop {
            let Got::Text(text) = client.next().await else { panic!("it was not told to go") };
            let message: Value = serde_json::from_str(&text).unwrap();
            if !self.goes_on(at, &message, standing.is_some()) {
                return assert_eq!(client.close_code().await, 4412);
            }
            if let Some(epoch) = message["epoch"].as_str() {
                *standing = Some(format!("{epoch}:{}", message["offset"]));
            }
        }
    }

    async fn stomp(&self, at: usize, node: SocketAddr, standing: &mut Standing) {
        let mut client = RawClient::connect(node, "/ws", &self.lines("v12.stomp")).await;
        client = client.begun_stomp().await;
        client.send(&subscribe(standing)).await;
        loop {
            let Got::Text(text) = client.next().await else { panic!("it was not told to go") };
            if !self.goes_on_by_stomp(at, &text, standing) {
                return assert_eq!(client.close_code().await, 4412);
            }
        }
    }

    async fn sockjs(&self, at: usize, node: SocketAddr, standing: &mut Standing) {
        let how = if at.is_multiple_of(2) { How::Polling } else { How::Streaming };
        let mut session = Session::at(node, &self.token, how);
        assert_eq!(session.frame().await, "o");
        let connect = "CONNECT\naccept-version:1.2\nheart-beat:0,0\n\n\0";
        session.send_all(&[connect, &subscribe(standing)]).await;
        session.expect("CONNECTED\n").await;
        while self.goes_on_by_stomp(at, &session.message().await, standing) {}
        assert_eq!(session.close_frame().await, "c[4412,\"rebalanced\"]");
    }

    async fn events(&self, at: usize, node: SocketAddr, standing: &mut Standing) {
        let target = format!("/events?destination={TOPIC}");
        let mut lines = vec![("Authorization", &*self.authorization)];
        let last = standing.clone();
        lines.extend(last.as_deref().map(|last| ("Last-Event-ID", last)));
        let mut stream = Stream::open(node, "GET", &target, headers(&lines)).await;
        named(&mut stream, "connected").await;
        loop {
            let event = event(&mut stream).await.expect("it was not told to go");
            let message = serde_json::from_str(&event.data).unwrap();
            if !self.goes_on(at, &message, last.is_some()) {
                assert!(event.retry.is_some(), "{event:?}");
                return assert_eq!(stream.rest().await, "");
            }
            *standing = event.id.or(standing.take());
        }
    }

    async fn polls(&self, at: usize, node: SocketAddr, standing: &mut Standing) {
        let came_again = standing.is_some();
        let lines = [("Authorization", &*self.authorization)];
        loop {
            let cursor = standing.as_deref().map_or_else(String::new, |c| format!("&cursor={c}"));
            let target = format!("/poll?destination={TOPIC}&wait=5s{cursor}");
            let page = get(node, &target, &lines).await.json();
            *standing = Some(page["cursor"].as_str().unwrap().to_owned());
            let messages = page["messages"].as_array().unwrap();
            if !messages.iter().all(|message| self.goes_on(at, message, came_again)) {
                return;
            }
        }
    }

    /// Takes a native message; whether more comes after it.
    fn goes_on(&self, at: usize, message: &Value, came_again: bool) -> bool {
        match message["type"].as_str() {
            Some("message") => {
                self.heard[at].lock().unwrap().push(message["data"].as_u64().unwrap());
            }
            Some("reconnect") => {
                assert_eq!(message["reason"], "rebalanced");
                assert!(message["after_ms"].as_u64().unwrap() > 0);
                return false;
            }
            // An event that tells of the subscription has no type in it.
            Some("ok") | None => {
                assert!(!came_again || message["recovered"] == true, "{message}");
                self.live.fetch_add(1, Ordering::Relaxed);
            }
            Some(other) => panic!("{other}: {message}"),
        }
        true
    }

    /// The same for a frame of STOMP.
    fn goes_on_by_stomp(&self, at: usize, frame: &str, standing: &mut Standing) -> bool {
        let header = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
        match frame.lines().next().unwrap() {
            "MESSAGE" => {
                let (_, body) = frame.split_once("\n\n").unwrap();
                let number = body.trim_end_matches('\0').parse().unwrap();
                self.heard[at].lock().unwrap().push(number);
            }
            "RECEIPT" => {
                assert!(standing.is_none() || header("recovered:") == Some("true"), "{frame}");
                self.live.fetch_add(1, Ordering::Relaxed);
            }
            "ERROR" => {
                assert_eq!(header("code:"), Some("rebalanced"), "{frame}");
                assert!(header("retry-after").is_some(), "{frame}");
                return false;
            }
            other => panic!("{other}: {frame}"),
        }
        if let (Some(epoch), Some(offset)) = (header("epoch:"), header("offset:")) {
            *standing = Some(format!("{epoch}:{offset}"));
        }
        true
    }

    /// A client over TCP, which is never told to go.
    async fn service(&self, at: usize, node: SocketAddr) {
        let mut socket = BufReader::new(TcpStream::connect(node).await.unwrap());
        let connect = format!(
            "CONNECT\naccept-version:1.2\nhost:h\nheart-beat:0,0\nAuthorization:{}\n\n\0",
            self.authorization
        );
        let all = connect + &subscribe(&None);
        socket.get_mut().write_all(all.as_bytes()).await.unwrap();
        let mut standing = None;
        loop {
            let mut frame = Vec::new();
            let read = timeout(2 * PATIENCE, socket.read_until(0, &mut frame)).await;
            assert!(read.unwrap().unwrap() > 0, "the service was cut off");
            let frame = String::from_utf8(frame).unwrap();
            let frame = frame.trim_start();
            if !frame.starts_with("CONNECTED") {
                assert!(self.goes_on_by_stomp(at, frame, &mut standing), "{frame}");
            }
        }
    }

    fn lines<'c>(&'c self, subprotocol: &'c str) -> [(&'c str, &'c str); 2] {
        [("Authorization", &*self.authorization), ("Sec-WebSocket-Protocol", subprotocol)]
    }
}

fn subscribe(standing: &Standing) -> String {
    let last = standing.as_ref().map_or_else(String::new, |last| format!("last-event-id:{last}\n"));
    format!("SUBSCRIBE\nid:s\nreceipt:s\n{last}destination:{TOPIC}\n\n\0")
}

/// How many sessions each has, without the services.
async fn sessions(nodes: &[&Gateway]) -> Vec<u64> {
    let mut counts = Vec::new();
    for node in nodes {
        let (_, page) = node.admin_get("/metrics").await;
        let lines = page.lines().filter(|line| line.starts_with("fanlight_sessions{"));
        let clients = lines.filter(|line| !line.contains("\"stomp_tcp\""));
        counts.push(
            clients.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum(),
        );
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_any_protocol_move_to_an_added_node_lose_nothing_and_none_goes_for_a_service() {
    let redis = RedisServer::start().unwrap();
    let stomp = "[listen]\nstomp = \"127.0.0.1:0\"\n";
    let config = config(&redis, OPTIONS).replace("[listen]\n", stomp);
    let [a, b] = nodes_with(&config).await;
    let (crowd, mut clients) = Crowd::at(&a, &b).await;

    let publisher = bearer("pub").await;
    let lines = [("Authorization", &*publisher)];
    let (mut count, mut c) = (0, None::<Gateway>);
    let is_even = async |c: &Gateway| {
        let counts = sessions(&[&a, &b, c]).await;
        counts.iter().sum::<u64>() == CLIENTS as u64 && counts.iter().all(|count| *count <= 16)
    };
    let begun = std::time::Instant::now();
    while match &c {
        Some(c) => !is_even(c).await,
        None => true,
    } {
        assert!(begun.elapsed() < PATIENCE * 2, "they never came to be even");
        for _ in 0..5 {
            let send = json!({ "to": TOPIC, "data": count }).to_string();
            let response = post(a.public, "/publish", &lines, &send).await;
            assert_eq!(response.status, 200, "{response:?}");
            count += 1;
        }
        if c.is_none() {
            let [added] = nodes_with(&config).await;
            crowd.balancer.add(added.public);
            c = Some(added);
        }
    }
    let c = c.unwrap();

    let everything: Vec<u64> = (0..count).collect();
    eventually("everybody has heard everything", async || {
        crowd.heard.iter().all(|heard| heard.lock().unwrap().len() as u64 >= count)
    })
    .await;
    for heard in &crowd.heard {
        assert_eq!(*heard.lock().unwrap(), everything);
    }
    let mut given = 0;
    for (node, is_new) in [(&a, false), (&b, false), (&c, true)] {
        let own = node.metric("fanlight_rebalanced_sessions_total").await;
        // Each began with 20, or one or two more or fewer where clients were slow to come.
        assert!(own <= 8 && (own == 0 || !is_new), "no node goes below the mean: {own}");
        given += own;
    }
    assert_eq!(given, crowd.moved.load(Ordering::Relaxed));
    assert!(given >= 8, "{given} sessions make none of them even");
    assert_eq!(a.metric("fanlight_sessions").await, sessions(&[&a]).await[0] + SERVICES as u64);
    assert!(clients.try_join_next().is_none(), "a client has failed");
}
