//! Real nodes over a real Redis: who is online, limits, disconnects, and nodes that die or stop.

use std::sync::Arc;
use std::time::Duration;

use fanlight_redis::{Event, Events, RedisBroker, RedisConfig};
use fanlight_testkit::{RedisServer, RedisShards};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::{CONFIG, Gateway, RawClient, eventually, with_redis};

/// A lease for tests, events of all topics, and `more` of `[limits]`.
fn config(redis: &RedisServer, limits: &str) -> String {
    with_redis(CONFIG, redis)
        .replace("sessions_per_user = 0\n", &format!("{limits}\n"))
        .replace(
            "match = \"/topic/**\"\n",
            "match = \"/topic/**\"\nevents = true\nanonymous = true\n",
        )
        .replace(
            "[drain]",
            "[cluster]\nlease = \"1s\"\nlease_renew = \"200ms\"\n[events]\nenabled = true\n[drain]",
        )
}

async fn node(redis: &RedisServer, limits: &str) -> Gateway {
    let gateway = Gateway::with_config(&config(redis, limits)).await;
    eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
    gateway
}

/// Two nodes that know of each other.
async fn two(redis: &RedisServer, limits: &str) -> (Gateway, Gateway) {
    let nodes = (node(redis, limits).await, node(redis, limits).await);
    for gateway in [&nodes.0, &nodes.1] {
        eventually("it knows both", async || {
            cluster(gateway).await["nodes"].as_array().unwrap().len() == 2
        })
        .await;
    }
    nodes
}

async fn cluster(gateway: &Gateway) -> Value {
    let (status, body) = gateway.admin_get("/cluster").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// A client without a token, and its session as events name it.
async fn anonymous(gateway: &Gateway) -> (RawClient, String) {
    let headers = [("Sec-WebSocket-Protocol", "fanlight.v1.json")];
    let mut client = RawClient::connect(gateway, "/ws", &headers).await;
    client.send(r#"{"type":"connect"}"#).await;
    let connected: Value = serde_json::from_str(&client.expect("\"connected\"").await).unwrap();
    (client, connected["session"].as_str().unwrap().replace('-', ""))
}

/// The sessions of each user, as `gateway` knows them.
async fn sessions(gateway: &Gateway, users: &[&str]) -> Vec<usize> {
    let (status, body) =
        gateway.admin_ask("/users/status", &json!({ "users": users }).to_string()).await;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let users = answer["users"].as_array().unwrap().iter().map(|user| {
        let sessions = user["sessions"].as_array().unwrap().len();
        assert_eq!(user["online"], sessions > 0);
        sessions
    });
    users.collect()
}

/// Reads the lifecycle events as a consumer would.
struct Log {
    events: Events,
    seen: Vec<Event>,
    shutdown: CancellationToken,
    _broker: Arc<RedisBroker>,
}

impl Log {
    async fn start(redis: &RedisServer) -> Self {
        let shutdown = CancellationToken::new();
        let config = RedisConfig::parse_url(&redis.url()).unwrap();
        let broker = RedisBroker::start(config, Vec::new(), TaskTracker::new(), shutdown.clone());
        let events = Events::new(&broker);
        eventually("the group is there", async || events.create_group("g").await.is_ok()).await;
        Self { events, seen: Vec::new(), shutdown, _broker: broker }
    }

    /// Waits for so many events of this kind and reason.
    async fn until(&mut self, kind: &str, reason: Option<&str>, count: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.count(kind, reason) < count {
            assert!(tokio::time::Instant::now() < deadline, "{kind} {reason:?}: {:?}", self.seen);
            self.seen.extend(self.events.read("g", "c", 256).await.unwrap());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What was told of a session, in order: that it began, or why it ended.
    fn of(&self, session: &str) -> Vec<&str> {
        let its = self.seen.iter().filter(|event| event.session.as_deref() == Some(session));
        its.map(|event| event.reason.as_deref().unwrap_or(&event.kind)).collect()
    }

    fn count(&self, kind: &str, reason: Option<&str>) -> usize {
        let is_it = |event: &&Event| event.kind == kind && event.reason.as_deref() == reason;
        self.seen.iter().filter(is_it).count()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_a_killed_node_are_gone_and_their_end_is_told() {
    let redis = RedisServer::start().unwrap();
    let mut log = Log::start(&redis).await;
    let (a, b) = two(&redis, "").await;
    let mut ann = RawClient::native(&a, "ann").await;
    ann.send(r#"{"type":"subscribe","to":"/topic/open.1","id":1}"#).await;
    ann.expect("\"ok\"").await;
    let _ann_too = RawClient::stomp(&b, "ann").await;
    let _bob = RawClient::stomp(&a, "bob").await;
    assert_eq!(sessions(&b, &["ann", "bob", "cid"]).await, [2, 1, 0]);
    log.until("connected", None, 3).await;
    log.until("subscribed", None, 1).await;
    log.until("occupied", None, 1).await;

    a.signal("KILL").await;
    eventually("they are gone", async || sessions(&b, &["ann", "bob"]).await == [1, 0]).await;
    log.until("disconnected", Some("node_lost"), 2).await;
    log.until("vacated", Some("node_lost"), 1).await;
    let lost = log.seen.iter().filter(|event| event.reason.as_deref() == Some("node_lost"));
    let mut users: Vec<_> = lost.filter_map(|event| event.user.as_deref()).collect();
    users.sort_unstable();
    assert_eq!(users, ["ann", "bob"]);
    eventually("the node is gone", async || {
        cluster(&b).await["nodes"].as_array().unwrap().len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_node_loses_its_sessions_and_has_them_again_when_it_goes_on() {
    let redis = RedisServer::start().unwrap();
    let mut log = Log::start(&redis).await;
    let (a, b) = two(&redis, "").await;
    let mut ann = RawClient::native(&a, "ann").await;
    let mut bob = RawClient::native(&b, "bob").await;
    assert_eq!(sessions(&b, &["ann", "bob"]).await, [1, 1]);
    a.signal("STOP").await;
    log.until("disconnected", Some("node_lost"), 1).await;
    assert_eq!(sessions(&b, &["ann", "bob"]).await, [0, 1]);

    a.signal("CONT").await;
    eventually("ann is back", async || sessions(&b, &["ann"]).await == [1]).await;
    // The client was never disconnected.
    ann.send(r#"{"type":"subscribe","to":"/topic/open.1","id":1}"#).await;
    ann.expect("\"ok\"").await;
    bob.send(r#"{"type":"send","to":"/topic/open.1","data":"hello","id":1}"#).await;
    ann.expect("hello").await;
    log.until("connected", None, 3).await;
    eventually("the node was fenced", async || a.metric("fanlight_node_fenced_total").await == 1)
        .await;
    // What was entered again can leave.
    drop(ann);
    eventually("ann is gone", async || sessions(&b, &["ann"]).await == [0]).await;
    log.until("disconnected", Some("connection_lost"), 1).await;
    assert_eq!(log.count("disconnected", Some("node_lost")), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_anonymous_session_that_began_has_ended_also_when_its_node_was_killed_or_stopped() {
    let redis = RedisServer::start().unwrap();
    let mut log = Log::start(&redis).await;
    let (a, b) = two(&redis, "").await;
    let c = node(&redis, "").await;
    let (_killed, killed) = anonymous(&a).await;
    let (stopped_client, stopped) = anonymous(&b).await;
    let (_kept, kept) = anonymous(&c).await;
    log.until("connected", None, 3).await;
    a.signal("KILL").await;
    b.signal("STOP").await;
    log.until("disconnected", Some("node_lost"), 2).await;
    b.signal("CONT").await;
    log.until("connected", None, 4).await;
    drop(stopped_client);
    log.until("disconnected", Some("connection_lost"), 1).await;
    assert_eq!(log.of(&killed), ["connected", "node_lost"]);
    assert_eq!(log.of(&stopped), ["connected", "node_lost", "connected", "connection_lost"]);
    assert_eq!(log.of(&kept), ["connected"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_too_many_ends_the_oldest_on_whatever_node_it_is() {
    let redis = RedisServer::start().unwrap();
    let (a, b) = two(&redis, "sessions_per_user = 2").await;
    let mut first = RawClient::native(&a, "ann").await;
    let mut second = RawClient::stomp(&b, "ann").await;
    let _other = RawClient::native(&b, "bob").await;
    let _third = RawClient::native(&b, "ann").await;
    assert!(first.expect("\"error\"").await.contains("replaced"));
    assert_eq!(first.close_code().await, 4512);
    let _fourth = RawClient::stomp(&a, "ann").await;
    assert!(second.expect("ERROR").await.contains("code:replaced"));
    assert_eq!(second.close_code().await, 4512);
    eventually("two are left", async || sessions(&a, &["ann", "bob"]).await == [2, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_too_many_is_refused_where_that_is_configured() {
    let redis = RedisServer::start().unwrap();
    let limits = "sessions_per_user = 1\non_session_limit = \"reject\"";
    let (a, b) = two(&redis, limits).await;
    let first = RawClient::native(&a, "ann").await;
    let bearer = format!("Bearer {}", crate::support::token("ann", &[]).await);
    let headers = [("Authorization", &*bearer), ("Sec-WebSocket-Protocol", "v12.stomp")];
    let mut second = RawClient::connect(&b, "/ws", &headers).await;
    second.send("CONNECT\naccept-version:1.2\nheart-beat:0,0\n\n\0").await;
    assert!(second.expect("ERROR").await.contains("code:session_limit"));
    assert_eq!(second.close_code().await, 4511);
    drop(first);
    eventually("the first is gone", async || sessions(&b, &["ann"]).await == [0]).await;
    let _third = RawClient::native(&b, "ann").await;
    assert_eq!(sessions(&a, &["ann"]).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_or_a_session_is_disconnected_from_any_node() {
    let redis = RedisServer::start().unwrap();
    let (a, b) = two(&redis, "").await;
    let mut clients = [RawClient::native(&a, "ann").await, RawClient::native(&b, "ann").await];
    let mut bob = RawClient::native(&a, "bob").await;
    let ask = r#"{"user":"ann","reason":"your account was closed"}"#;
    let (status, body) = b.admin_ask("/users/disconnect", ask).await;
    assert_eq!((status, &*body), (200, r#"{"sessions":2,"nodes":2}"#));
    for client in &mut clients {
        assert!(client.expect("\"error\"").await.contains("your account was closed"));
        assert_eq!(client.close_code().await, 4510);
    }
    eventually("ann is gone", async || sessions(&b, &["ann"]).await == [0]).await;

    let (_, body) = b.admin_ask("/users/status", r#"{"users":["bob"]}"#).await;
    let status: Value = serde_json::from_str(&body).unwrap();
    let session = status["users"][0]["sessions"][0]["session"].as_str().unwrap();
    let ask = json!({ "session": session }).to_string();
    assert_eq!(b.admin_ask("/users/disconnect", &ask).await, (200, r#"{"nodes":2}"#.to_owned()));
    assert_eq!(bob.close_code().await, 4510);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_says_itself_that_its_sessions_ended() {
    let redis = RedisServer::start().unwrap();
    let mut log = Log::start(&redis).await;
    let (mut a, b) = two(&redis, "").await;
    let mut ann = RawClient::native(&a, "ann").await;
    log.until("connected", None, 1).await;
    a.signal("TERM").await;
    assert_eq!(ann.close_code().await, 1012);
    assert!(a.ended().await);
    log.until("disconnected", Some("draining"), 1).await;
    eventually("the node is gone", async || {
        cluster(&b).await["nodes"].as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!(log.count("disconnected", Some("node_lost")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_session_are_not_counted_as_sessions_of_the_cluster() {
    let redis = RedisServer::start().unwrap();
    let (a, b) = two(&redis, "").await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(RawClient::connect(&a, "/ws", &[]).await);
    }
    eventually("they are connections", async || a.metric("fanlight_connections").await == 3).await;
    let ann = RawClient::native(&a, "ann").await;
    let bob = RawClient::stomp(&b, "bob").await;
    for gateway in [&a, &b] {
        eventually("both are counted", async || cluster(gateway).await["sessions"] == 2).await;
    }
    drop((ann, bob));
    for gateway in [&a, &b] {
        eventually("they are gone", async || cluster(gateway).await["sessions"] == 0).await;
    }
    assert_eq!(a.metric("fanlight_connections").await, 3);
    assert_eq!(b.metric("fanlight_cluster_sessions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_works_for_a_node_that_is_alone() {
    let gateway = Gateway::start("").await;
    let mut ann = RawClient::native(&gateway, "ann").await;
    assert_eq!(sessions(&gateway, &["ann", "bob"]).await, [1, 0]);
    eventually("it is counted", async || cluster(&gateway).await["sessions"] == 1).await;
    assert_eq!(cluster(&gateway).await["nodes"][0]["is_self"], true);
    let (status, _) = gateway.admin_ask("/users/disconnect", r#"{"user":"ann"}"#).await;
    assert_eq!(status, 200);
    assert_eq!(ann.close_code().await, 4510);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused_with_the_reason() {
    let gateway = Gateway::start("").await;
    let many = json!({ "users": vec!["u"; 1001] }).to_string();
    let long = json!({ "user": "x".repeat(2000) }).to_string();
    for (path, body) in [
        ("/users/status", "{"),
        ("/users/status", r#"{"users":[]}"#),
        ("/users/status", r#"{"users":[""]}"#),
        ("/users/status", r#"{"user":"ann"}"#),
        ("/users/status", &*many),
        ("/users/disconnect", "{}"),
        ("/users/disconnect", r#"{"user":"ann","session":"019a0000-0000-7000-8000-000000000000"}"#),
        ("/users/disconnect", r#"{"session":"no id"}"#),
        ("/users/disconnect", r#"{"user":"ann","reason":"two\nlines"}"#),
        ("/users/disconnect", &*long),
    ] {
        let (status, answer) = gateway.admin_ask(path, body).await;
        assert_eq!(status, 400, "{path} {body}: {answer}");
        let problem: Value = serde_json::from_str(&answer).unwrap();
        let code = if body.contains("no id") { "bad_session" } else { "bad_request" };
        assert_eq!(problem["code"], code, "{answer}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{answer}");
    }
    let foreign = [("Origin", "https://evil.example")];
    assert_eq!(gateway.admin_post("/users/disconnect", &foreign).await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_clients_connect_and_enter_when_it_is_back() {
    let mut redis = RedisServer::start().unwrap();
    let (a, b) = two(&redis, "sessions_per_user = 5").await;
    let _early = RawClient::native(&a, "ann").await;
    redis.kill();
    eventually("the node is not ready", async || a.admin_get("/readyz").await.0 == 503).await;
    let _late = RawClient::native(&a, "bob").await;
    let (status, body) = a.admin_ask("/users/status", r#"{"users":["bob"]}"#).await;
    assert_eq!(status, 503, "{body}");
    // It comes back empty.
    redis.launch().unwrap();
    let ask = r#"{"users":["ann"]}"#;
    eventually("b answers", async || b.admin_ask("/users/status", ask).await.0 == 200).await;
    eventually("both are entered", async || sessions(&b, &["ann", "bob"]).await == [1, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_list_other_redis_servers_tell_so_while_both_live() {
    let shards = RedisShards::start(2).unwrap();
    let one = config(shards.shard(0), "");
    let both = one.replace(&shards.shard(0).url(), &shards.url());
    let (a, b) = (Gateway::with_config(&both).await, Gateway::with_config(&one).await);
    for gateway in [&a, &b] {
        eventually("it tells so", async || {
            gateway.metric("fanlight_redis_shards_disputed").await == 1
        })
        .await;
    }
    drop(b);
    eventually("all agree", async || a.metric("fanlight_redis_shards_disputed").await == 0).await;
}
