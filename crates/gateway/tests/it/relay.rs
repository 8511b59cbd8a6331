//! Two cells, each with a Redis and a gateway of its own, and relays between them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use fanlight_testkit::{RedisCluster, RedisSentinel, RedisServer};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::http::get;
use crate::support::{CONFIG, Gateway, Got, PATIENCE, RawClient, eventually};

const TOPIC: &str = "/topic/open.relayed";
const MONTH_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// One of the cells.
struct Cell {
    name: &'static str,
    url: String,
    patterns: bool,
    size: u32,
    /// The authority of its Redis' certificate, where that is spoken to by TLS.
    authority: Option<PathBuf>,
}

impl Cell {
    fn new(name: &'static str, url: String) -> Self {
        Self { name, url, patterns: false, size: 2000, authority: None }
    }

    /// What its gateways run with.
    fn config(&self) -> String {
        let Self { url, patterns, size, .. } = self;
        let tls = self.tls("redis");
        let redis = format!("[broker]\nkind = \"redis\"\n[redis]\nurl = \"{url}\"\n{tls}");
        let kept = format!(
            "match = \"/topic/**\"\npatterns = {patterns}\nhistory = {{ size = {size}, ttl = \"10m\" }}\n"
        );
        let unlimited = "connections_per_ip = 0\nmessages_per_second = 0\ncommands_per_second = 0";
        CONFIG
            .replace("[broker]\nkind = \"memory\"\n", &redis)
            .replace("match = \"/topic/**\"\n", &kept)
            .replace("connections_per_ip = 0", unlimited)
    }

    /// What a section `{of}.tls` says of this Redis.
    fn tls(&self, of: &str) -> String {
        let section =
            |file: &PathBuf| format!("[{of}.tls]\nca_file = {:?}\n", file.display().to_string());
        self.authority.as_ref().map(section).unwrap_or_default()
    }

    async fn gateway(&self) -> Gateway {
        let gateway = Gateway::with_config(&self.config()).await;
        eventually("the node is ready", async || gateway.admin_get("/readyz").await.0 == 200).await;
        gateway
    }

    /// What a relay from `source` into this cell runs with.
    fn relay_config(&self, source: &Self) -> String {
        let relaying = relaying(source.name, self.name, &source.url);
        let relaying = relaying.replace("[relay]\n", "[relay]\nlease = \"1s\"\n");
        format!("{}\n{relaying}{}", self.config(), source.tls("relay.source"))
    }
}

/// What a relay into the cell `to` from `from`, whose Redis is at `url`, has beside the nodes'.
pub fn relaying(from: &str, to: &str, url: &str) -> String {
    format!(
        "[relay]\ncell = \"{to}\"\nsource_cell = \"{from}\"\nnamespaces = [\"topic\"]\n\
         scan_interval = \"200ms\"\npoll_interval = \"50ms\"\n[relay.source]\nurl = \"{url}\"\n"
    )
}

/// A relay's process; it ends with this value.
pub struct Relay {
    child: Child,
    pub admin: SocketAddr,
}

impl Relay {
    async fn start(source: &Cell, target: &Cell) -> Self {
        Self::with_config(&target.relay_config(source)).await
    }

    pub async fn with_config(config: &str) -> Self {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_fanlight"))
            .args(["relay", "--config", file.path().to_str().unwrap()])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
            let line = line.expect("the relay ended before it said where it listens");
            if let Some((_, url)) = line.split_once("health    http://") {
                let admin = url.trim_end_matches("/readyz").parse().unwrap();
                return Self { child, admin };
            }
        }
    }

    pub async fn is(&self, state: &str) {
        let what = format!("the relay is {state}");
        let is_so = async || {
            let answer = get(self.admin, "/readyz", &[]).await;
            answer.status == 200 && answer.body.trim() == state
        };
        eventually(&what, is_so).await;
    }

    async fn signal(&self, name: &str) {
        let id = self.child.id().expect("the relay has ended").to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().await.unwrap();
        assert!(status.success());
    }

    /// Kills it; it has no time to do anything.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// The sum of a metric over its labels, of those series that have this text in them.
    async fn metric(&self, name: &str, with: &str) -> u64 {
        let text = get(self.admin, "/metrics", &[]).await.body;
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name) && line.contains(with))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

/// Publishes numbers, each accepted before the next.
async fn publish(client: &mut RawClient, to: &str, numbers: std::ops::Range<u64>) {
    for n in numbers {
        client.send(&json!({ "type": "send", "to": to, "data": n, "id": n }).to_string()).await;
        client.expect("\"ok\"").await;
    }
}

/// What a cell keeps of a destination from its beginning, oldest first.
async fn kept(gateway: &Gateway, to: &str) -> Vec<Value> {
    let mut client = RawClient::native(gateway, "reader").await;
    client.send(&json!({ "type": "subscribe", "to": to, "id": 1 }).to_string()).await;
    let ok: Value = serde_json::from_str(&client.expect("\"ok\"").await).unwrap();
    let mut client = RawClient::native(gateway, "reader").await;
    let since = json!({ "epoch": ok["epoch"], "offset": 0 });
    client
        .send(&json!({ "type": "subscribe", "to": to, "id": 1, "since": since }).to_string())
        .await;
    let mut messages = Vec::new();
    loop {
        let Got::Text(text) = client.next().await else { panic!("no text came") };
        let got: Value = serde_json::from_str(&text).unwrap();
        if got["type"] == "ok" {
            assert_eq!(got["recovered"], true, "{got}");
            return messages;
        }
        assert_eq!(got["type"], "message", "{got}");
        messages.push(got);
    }
}

async fn numbers(gateway: &Gateway, to: &str) -> Vec<u64> {
    let kept = kept(gateway, to).await;
    kept.iter().map(|message| message["data"].as_u64().unwrap()).collect()
}

/// Waits until a cell keeps exactly these numbers of a destination, in this order.
async fn has(gateway: &Gateway, to: &str, expected: std::ops::Range<u64>) {
    let expected: Vec<_> = expected.collect();
    let what = format!("{} messages of {to} have come", expected.len());
    eventually(&what, async || numbers(gateway, to).await.len() >= expected.len()).await;
    assert_eq!(numbers(gateway, to).await, expected, "each once and in order");
}

fn cells() -> ([RedisServer; 2], [Cell; 2]) {
    let servers = [RedisServer::start().unwrap(), RedisServer::start().unwrap()];
    let cells = [Cell::new("a", servers[0].url()), Cell::new("b", servers[1].url())];
    (servers, cells)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_cell_publishes_the_others_subscribers_get_live_and_from_history() {
    let (servers, [a, b]) = cells();
    let (at_a, at_b) = (a.gateway().await, b.gateway().await);
    let mut sender = RawClient::native(&at_a, "ann").await;
    publish(&mut sender, TOPIC, 0..3).await;
    // As in a source that keeps it for much longer than the target does.
    let list = key(&servers[0], &format!("hl:{TOPIC}")).unwrap();
    servers[0].call(&["PEXPIRE", &list, &MONTH_MS.to_string()]).unwrap().ok().unwrap();

    let relay = Relay::start(&a, &b).await;
    relay.is("active").await;
    has(&at_b, TOPIC, 0..3).await;
    let position = key(&servers[1], &format!("relay-at:a:{TOPIC}")).unwrap();
    let kept_ms = servers[1].call(&["PTTL", &position]).unwrap().integer().unwrap();
    assert!(kept_ms > MONTH_MS, "it outlives what it tells of, so that nothing comes twice");
    let mut receiver = RawClient::native(&at_b, "bob").await;
    receiver.send(&json!({ "type": "subscribe", "to": TOPIC, "id": 1 }).to_string()).await;
    receiver.expect("\"ok\"").await;
    publish(&mut sender, TOPIC, 3..6).await;
    for n in 3..6 {
        let message: Value =
            serde_json::from_str(&receiver.expect(&format!("\"data\":{n}")).await).unwrap();
        assert_eq!(message["from"], "ann");
        assert_eq!(message["headers"]["fanlight-cell"], "a", "{message}");
    }
    let (there, here) = (kept(&at_a, TOPIC).await, kept(&at_b, TOPIC).await);
    let ids = |messages: &[Value]| {
        messages.iter().map(|message| message["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&there), ids(&here), "a publication keeps its id");
    assert_eq!(relay.metric("fanlight_relay_relayed_total", "").await, 6);
    // A destination that nobody has heard of before.
    publish(&mut sender, "/topic/open.new", 0..2).await;
    has(&at_b, "/topic/open.new", 0..2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_again_and_again_loses_nothing_and_brings_nothing_twice() {
    let (_servers, [a, b]) = cells();
    let (at_a, at_b) = (a.gateway().await, b.gateway().await);
    let mut sender = RawClient::native(&at_a, "ann").await;
    let mut sent = 0;
    for _ in 0..5 {
        let relay = Relay::start(&a, &b).await;
        publish(&mut sender, TOPIC, sent..sent + 100).await;
        // Whatever it is doing.
        relay.kill().await;
        sent += 100;
    }
    publish(&mut sender, TOPIC, sent..sent + 10).await;
    let _relay = Relay::start(&a, &b).await;
    has(&at_b, TOPIC, 0..sent + 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_between_two_cells_bring_each_message_once_to_the_other_and_never_back() {
    let (_servers, [mut a, mut b]) = cells();
    (a.patterns, b.patterns) = (true, true);
    let (at_a, at_b) = (a.gateway().await, b.gateway().await);
    let relays = [Relay::start(&a, &b).await, Relay::start(&b, &a).await];
    for relay in &relays {
        relay.is("active").await;
    }
    let mut ann = RawClient::native(&at_a, "ann").await;
    let mut bob = RawClient::native(&at_b, "bob").await;
    for n in 0..20 {
        publish(&mut ann, TOPIC, n..n + 1).await;
        publish(&mut bob, TOPIC, 100 + n..101 + n).await;
    }
    for (gateway, relay) in [(&at_a, &relays[0]), (&at_b, &relays[1])] {
        eventually("all have come", async || numbers(gateway, TOPIC).await.len() >= 40).await;
        let back = async || relay.metric("fanlight_relay_skipped_total", "returning").await == 20;
        eventually("what came from the other was looked at, and not brought back", back).await;
    }
    for gateway in [&at_a, &at_b] {
        let all = numbers(gateway, TOPIC).await;
        assert_eq!(all.len(), 40);
        let from = |cell: std::ops::Range<u64>| {
            all.iter().copied().filter(|n| cell.contains(n)).collect::<Vec<_>>()
        };
        assert!(from(0..20).into_iter().eq(0..20), "the order of each cell is kept: {all:?}");
        assert!(from(100..120).into_iter().eq(100..120), "{all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_relays_and_another_takes_over_when_it_dies_or_leaves() {
    let (_servers, [a, b]) = cells();
    let (at_a, at_b) = (a.gateway().await, b.gateway().await);
    let mut sender = RawClient::native(&at_a, "ann").await;
    let first = Relay::start(&a, &b).await;
    first.is("active").await;
    let second = Relay::start(&a, &b).await;
    second.is("standby").await;
    publish(&mut sender, TOPIC, 0..10).await;
    has(&at_b, TOPIC, 0..10).await;
    assert_eq!(second.metric("fanlight_relay_relayed_total", "").await, 0);

    first.kill().await;
    publish(&mut sender, TOPIC, 10..20).await;
    second.is("active").await;
    has(&at_b, TOPIC, 0..20).await;

    let third = Relay::start(&a, &b).await;
    third.is("standby").await;
    second.signal("TERM").await;
    let mut second = second;
    let ended = timeout(PATIENCE, second.child.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "it ends cleanly: {ended}");
    third.is("active").await;
    publish(&mut sender, TOPIC, 20..30).await;
    has(&at_b, TOPIC, 0..30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_slept_through_the_loss_of_its_lease_does_no_harm() {
    let (_servers, [a, b]) = cells();
    let (at_a, at_b) = (a.gateway().await, b.gateway().await);
    let mut sender = RawClient::native(&at_a, "ann").await;
    let sleeper = Relay::start(&a, &b).await;
    sleeper.is("active").await;
    publish(&mut sender, TOPIC, 0..10).await;
    has(&at_b, TOPIC, 0..10).await;

    sleeper.signal("STOP").await;
    publish(&mut sender, TOPIC, 10..20).await;
    let other = Relay::start(&a, &b).await;
    other.is("active").await;
    publish(&mut sender, TOPIC, 20..30).await;
    sleeper.signal("CONT").await;
    publish(&mut sender, TOPIC, 30..40).await;
    sleeper.is("standby").await;
    publish(&mut sender, TOPIC, 40..50).await;
    has(&at_b, TOPIC, 0..50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_redis_being_stopped_or_killed_for_a_while_loses_or_doubles_anything() {
    let always = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut servers =
        [RedisServer::start_with(&always).unwrap(), RedisServer::start_with(&always).unwrap()];
    let [a, b] = [Cell::new("a", servers[0].url()), Cell::new("b", servers[1].url())];
    let at_a = a.gateway().await;
    let mut sender = RawClient::native(&at_a, "ann").await;
    let relay = Relay::start(&a, &b).await;
    relay.is("active").await;
    publish(&mut sender, TOPIC, 0..50).await;
    let away = async |relay: &Relay| {
        let what = "the relay says that a cell is away";
        eventually(what, async || get(relay.admin, "/readyz", &[]).await.status == 503).await;
    };

    // The target, in the middle of it.
    servers[1].pause().unwrap();
    publish(&mut sender, TOPIC, 50..100).await;
    away(&relay).await;
    servers[1].resume().unwrap();
    publish(&mut sender, TOPIC, 100..150).await;
    relay.is("active").await;
    servers[1].kill();
    publish(&mut sender, TOPIC, 150..200).await;
    away(&relay).await;
    servers[1].launch().unwrap();
    relay.is("active").await;
    // The source.
    servers[0].pause().unwrap();
    away(&relay).await;
    servers[0].resume().unwrap();
    relay.is("active").await;
    servers[0].kill();
    away(&relay).await;
    servers[0].launch().unwrap();
    relay.is("active").await;
    eventually("the node is ready", async || at_a.admin_get("/readyz").await.0 == 200).await;
    publish(&mut sender, TOPIC, 200..250).await;

    // Epochs of either have ended, so the list itself is asked.
    let all = async || bodies(&servers[1], TOPIC);
    let what = "all has come";
    eventually(what, async || all().await.len() >= 250).await;
    assert!(all().await.into_iter().eq(0..250), "each once and in order: {:?}", all().await);
    assert_eq!(relay.metric("fanlight_relay_lost_total", "").await, 0);
}

/// The numbers in the list of a destination's history.
fn bodies(server: &RedisServer, to: &str) -> Vec<u64> {
    let Some(key) = key(server, &format!("hl:{to}")) else { return Vec::new() };
    let entries = server.call(&["LRANGE", &key, "0", "-1"]).unwrap().array().unwrap();
    entries.into_iter().map(number_of).collect()
}

/// The key whose name ends so.
fn key(server: &RedisServer, end: &str) -> Option<String> {
    let keys = server.call(&["KEYS", &format!("fl:*:{end}")]).unwrap().array().unwrap();
    keys.into_iter().next().map(|key| key.text().unwrap())
}

/// The number at the end of an envelope.
fn number_of(entry: fanlight_testkit::Reply) -> u64 {
    let fanlight_testkit::Reply::Bulk(bytes) = entry else { panic!("an entry is a string") };
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&bytes[bytes.len() - digits..]).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_source_dropped_before_it_was_read_is_told_and_the_rest_is_relayed() {
    let (_servers, [mut a, b]) = cells();
    a.size = 8;
    let (at_a, at_b) = (a.gateway().await, b.gateway().await);
    let mut sender = RawClient::native(&at_a, "ann").await;
    let relay = Relay::start(&a, &b).await;
    relay.is("active").await;
    publish(&mut sender, TOPIC, 0..5).await;
    has(&at_b, TOPIC, 0..5).await;
    relay.kill().await;
    publish(&mut sender, TOPIC, 5..100).await;
    let relay = Relay::start(&a, &b).await;
    let has_newest = async || numbers(&at_b, TOPIC).await.last() == Some(&99);
    eventually("the newest have come", has_newest).await;
    let here = numbers(&at_b, TOPIC).await;
    let missed = relay.metric("fanlight_relay_lost_total", "").await;
    assert!(
        missed > 0 && here.len() as u64 + missed == 100,
        "{missed} are missed, {here:?} are here"
    );
    let oldest = 5 + missed;
    assert!(here.into_iter().eq((0..5).chain(oldest..100)));
    assert_eq!(relay.metric("fanlight_relay_epochs_total", "").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lost_its_data_is_told_and_what_comes_then_is_relayed() {
    let (servers, [a, b]) = cells();
    let (at_a, at_b) = (a.gateway().await, b.gateway().await);
    let mut sender = RawClient::native(&at_a, "ann").await;
    let relay = Relay::start(&a, &b).await;
    relay.is("active").await;
    publish(&mut sender, TOPIC, 0..5).await;
    has(&at_b, TOPIC, 0..5).await;
    servers[0].command("FLUSHALL").unwrap();
    publish(&mut sender, TOPIC, 5..10).await;
    has(&at_b, TOPIC, 0..10).await;
    assert_eq!(relay.metric("fanlight_relay_epochs_total", "").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_brings_messages_into_a_redis_cluster_and_through_a_failover_of_it() {
    let server = RedisServer::start().unwrap();
    let cluster = RedisCluster::start(3, 1).unwrap();
    let a = Cell::new("a", server.url());
    let b = Cell::new("b", cluster.url());
    let (at_a, at_b) = (a.gateway().await, b.gateway().await);
    let mut sender = RawClient::native(&at_a, "ann").await;
    let relay = Relay::start(&a, &b).await;
    relay.is("active").await;
    let topics: Vec<_> = (0..8).map(|n| format!("/topic/open.{n}")).collect();
    for topic in &topics {
        publish(&mut sender, topic, 0..20).await;
    }
    for topic in &topics {
        has(&at_b, topic, 0..20).await;
    }
    let master = cluster.masters().unwrap()[0];
    cluster.failover(master).unwrap();
    for topic in &topics {
        publish(&mut sender, topic, 20..40).await;
    }
    for topic in &topics {
        let newest = async || {
            let mut client = RawClient::native(&at_b, "bob").await;
            let ask = json!({ "type": "subscribe", "to": topic, "id": 1, "history": 40 });
            client.send(&ask.to_string()).await;
            let mut numbers = Vec::new();
            loop {
                let Got::Text(text) = client.next().await else { panic!("no text came") };
                let got: Value = serde_json::from_str(&text).unwrap();
                match got["type"].as_str() {
                    Some("message") => numbers.push(got["data"].as_u64().unwrap()),
                    Some("ok") => return numbers,
                    _ => panic!("{got}"),
                }
            }
        };
        eventually("all has come", async || newest().await.len() >= 40).await;
        assert!(newest().await.into_iter().eq(0..40), "each once and in order");
    }
}

/// Publishes numbers to a topic, each until it is accepted, and once.
async fn publish_through_a_failover(
    client: &mut RawClient,
    to: &str,
    numbers: std::ops::Range<u64>,
) {
    for n in numbers {
        let key = format!("{to} {n}");
        let send = json!({ "type": "send", "to": to, "data": n, "id": n, "key": key }).to_string();
        let mut accepted = async || {
            client.send(&send).await;
            matches!(client.next().await, Got::Text(text) if text.contains("\"ok\""))
        };
        let until = tokio::time::Instant::now() + PATIENCE;
        while !accepted().await {
            assert!(tokio::time::Instant::now() < until, "{n} to {to} is never accepted");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

/// Relays from `a` to `b`, lets the source of `a` fail over, and sees that all comes over, once.
async fn through_a_failover_of_the_source(a: &Cell, b: &Cell, fail_over: impl AsyncFnOnce()) {
    let (at_a, at_b) = (a.gateway().await, b.gateway().await);
    let relay = Relay::start(a, b).await;
    relay.is("active").await;
    let mut sender = RawClient::native(&at_a, "ann").await;
    let topics: Vec<_> = (0..6).map(|n| format!("/topic/open.{n}")).collect();
    for topic in &topics {
        publish(&mut sender, topic, 0..20).await;
    }
    for topic in &topics {
        has(&at_b, topic, 0..20).await;
    }
    fail_over().await;
    for topic in &topics {
        publish_through_a_failover(&mut sender, topic, 20..40).await;
    }
    for topic in &topics {
        has(&at_b, topic, 0..40).await;
    }
    assert_eq!(relay.metric("fanlight_relay_lost_total", "").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_reads_a_redis_cluster_through_a_failover_within_tls_and_publishes_within_it() {
    let cluster = RedisCluster::start_tls(3, 1).unwrap();
    let tls = RedisServer::start_tls().unwrap();
    // Each has an authority of its own.
    let mut a = Cell::new("a", cluster.url());
    a.authority = cluster.authority().map(Into::into);
    let mut b = Cell::new("b", tls.url());
    b.authority = tls.authority().map(Into::into);
    through_a_failover_of_the_source(&a, &b, async || {
        let master = cluster.masters().unwrap()[0];
        cluster.failover(master).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_follows_the_sentinels_of_its_source_when_the_master_dies() {
    follows_the_sentinels(RedisSentinel::start(1, 3).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_follows_sentinels_within_tls_too() {
    follows_the_sentinels(RedisSentinel::start_tls(1, 3).unwrap()).await;
}

async fn follows_the_sentinels(mut watched: RedisSentinel) {
    let target = RedisServer::start().unwrap();
    let (mut a, b) = (Cell::new("a", watched.url()), Cell::new("b", target.url()));
    a.authority = watched.authority().map(Into::into);
    through_a_failover_of_the_source(&a, &b, async || {
        let [master, replica] = watched.servers()[..] else { panic!("two servers") };
        let (old, new) = (watched.server(master).unwrap(), watched.server(replica).unwrap());
        new.wait_until_replica_of(old).unwrap();
        let old = watched.kill_master().unwrap();
        watched.wait_for_failover(old).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_reads_within_tls_and_trusts_only_the_authority_that_it_is_given() {
    let source = RedisServer::start_tls().unwrap();
    let target = RedisServer::start().unwrap();
    let mut a = Cell::new("a", source.url());
    let b = Cell::new("b", target.url());
    let wary = Relay::start(&a, &b).await;
    eventually("it does not trust the source", async || {
        wary.metric("fanlight_redis_connections_total", "source-").await > 0
            && get(wary.admin, "/readyz", &[]).await.status == 503
    })
    .await;
    wary.kill().await;
    a.authority = source.authority().map(Into::into);
    let (at_a, at_b) = (a.gateway().await, b.gateway().await);
    let relay = Relay::start(&a, &b).await;
    relay.is("active").await;
    let mut sender = RawClient::native(&at_a, "ann").await;
    publish(&mut sender, TOPIC, 0..5).await;
    has(&at_b, TOPIC, 0..5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_can_say_which_cell_a_message_came_from() {
    let gateway = Gateway::start("").await;
    let mut client = RawClient::native(&gateway, "ann").await;
    let send = json!({
        "type": "send", "to": TOPIC, "data": 1, "id": 1, "headers": { "Fanlight-Cell": "a" },
    });
    client.send(&send.to_string()).await;
    client.expect("\"error\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_a_relay_says_who_relays_or_what_is_in_the_way() {
    let (mut servers, [a, b]) = cells();
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), b.relay_config(&a)).unwrap();
    let check = async || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanlight"));
        command.args(["relay", "check", "--json", "--config", file.path().to_str().unwrap()]);
        let output = command.output().await.unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(told).unwrap())
    };
    let (good, told) = check().await;
    assert!(good && told.contains("\"active\": false"), "{told}");
    let relay = Relay::start(&a, &b).await;
    relay.is("active").await;
    let (good, told) = check().await;
    assert!(good && told.contains("\"active\": true"), "{told}");
    servers[0].kill();
    let (good, told) = check().await;
    let address = servers[0].address().to_string();
    assert!(!good && told.contains("cell a") && told.contains(&address), "{told}");
}
