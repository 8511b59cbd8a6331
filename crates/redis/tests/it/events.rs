//! Lifecycle events: at least once, in order per session, also for nodes that died.

use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::Channel;
use fanlight_engine::publication::SessionId;
use fanlight_engine::registry::{Entry, Registry, SubscriptionChange};
use fanlight_proto::CloseReason;
use fanlight_redis::{Event, Events, RegistryOptions};
use fanlight_testkit::{RedisServer, Reply, eventually};
use uuid::Uuid;

use crate::lease::leased;
use crate::registry::{Node, options, reenters};

/// Everything that a consumer group was given.
pub(crate) struct Log {
    reader: Events,
    pub(crate) events: Vec<Event>,
}

impl Log {
    /// Begins with the oldest event; the node is only how to get at Redis.
    pub(crate) async fn start(node: &Node) -> Self {
        let reader = Events::new(&node.broker);
        reader.create_group("tests").await.unwrap();
        Self { reader, events: Vec::new() }
    }

    /// Reads what is new; whether there was anything.
    pub(crate) async fn read(&mut self) -> bool {
        let Ok(events) = self.reader.read("tests", "one", 256).await else { return false };
        let ids: Vec<_> = events.iter().map(|event| event.id.clone()).collect();
        self.reader.ack("tests", &ids).await.unwrap();
        self.events.extend(events);
        !ids.is_empty()
    }

    /// Reads until `condition` holds of all that was read.
    pub(crate) async fn until(&mut self, condition: impl Fn(&[Event]) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while !condition(&self.events) {
            assert!(tokio::time::Instant::now() < deadline, "{} events", self.events.len());
            if !self.read().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// What became of one session, in order.
    pub(crate) fn of(&self, session: SessionId) -> Vec<String> {
        let id = session.0.simple().to_string();
        let events = self.events.iter().filter(|event| event.session.as_ref() == Some(&id));
        events.map(line).collect()
    }

    /// What became of destinations, in order.
    fn of_destinations(&self) -> Vec<String> {
        let events = self.events.iter().filter(|event| event.session.is_none());
        events.map(line).collect()
    }
}

/// `connected ann`, `subscribed ann /topic/a`, `disconnected ann client_closed`
fn line(event: &Event) -> String {
    let parts = [&event.user, &event.destination, &event.reason];
    let parts = parts.into_iter().flatten().map(String::as_str);
    std::iter::once(event.kind.as_str()).chain(parts).collect::<Vec<_>>().join(" ")
}

fn change(user: Option<&str>, destination: &str, began: bool) -> SubscriptionChange {
    let destination = Channel::of_destination(destination.into());
    SubscriptionChange { user: user.map(Arc::from), destination, began }
}

#[tokio::test]
async fn what_becomes_of_a_session_is_told_in_order() {
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    ann.sees(&[&ann]).await;
    let mut log = Log::start(&ann).await;
    let entry = ann.contract.entered("ann").await;
    ann.registry.record(entry.session, change(Some("ann"), "/topic/a", true));
    ann.registry.record(entry.session, change(Some("ann"), "/topic/a", false));
    ann.registry.leave(entry.clone(), CloseReason::SlowConsumer);
    log.until(|events| events.len() >= 6).await;
    assert_eq!(
        log.of(entry.session),
        [
            "connected ann",
            "subscribed ann /topic/a",
            "unsubscribed ann /topic/a",
            "disconnected ann slow_consumer",
        ]
    );
    let owner = ann.lease.owner();
    assert!(log.events.iter().all(|event| event.node == *owner && event.at_unix_ms > 0));
}

#[tokio::test]
async fn an_anonymous_session_is_told_of_too() {
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    ann.sees(&[&ann]).await;
    let mut log = Log::start(&ann).await;
    let entry = Entry { user: None, ..ann.contract.session("") };
    ann.registry.enter(entry.clone()).await;
    ann.registry.record(entry.session, change(None, "/topic/a", true));
    ann.registry.leave(entry.clone(), CloseReason::ClientClosed);
    log.until(|events| events.len() >= 4).await;
    let expected = ["connected", "subscribed /topic/a", "disconnected client_closed"];
    assert_eq!(log.of(entry.session), expected);
}

/// Sessions of nobody, entered.
async fn anonymous(node: &Node, count: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    for _ in 0..count {
        let entry = Entry { user: None, ..node.contract.session("") };
        node.registry.enter(entry.clone()).await;
        entries.push(entry);
    }
    node.registry.flush().await;
    entries
}

#[tokio::test]
async fn the_end_of_a_dead_nodes_anonymous_sessions_is_told_once() {
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    let bob = Node::start(leased(&server.url()));
    bob.sees(&[&ann, &bob]).await;
    let mut log = Log::start(&bob).await;
    let lost = anonymous(&ann, 300).await;
    let kept = anonymous(&bob, 20).await;
    ann.registry.leave(lost[0].clone(), CloseReason::ClientClosed);
    ann.registry.flush().await;
    let dead = ann.lease.owner();
    drop(ann);
    log.until(|events| events.iter().filter(|e| e.kind == "disconnected").count() >= 300).await;
    assert_eq!(log.of(lost[0].session), ["connected", "disconnected client_closed"]);
    for entry in &lost[1..] {
        assert_eq!(log.of(entry.session), ["connected", "disconnected node_lost"]);
    }
    for entry in kept {
        assert_eq!(log.of(entry.session), ["connected"]);
        bob.registry.leave(entry, CloseReason::ClientClosed);
    }
    let ends = log.events.iter().filter(|event| event.reason.as_deref() == Some("node_lost"));
    assert!(ends.clone().all(|event| event.node == *dead && event.user.is_none()));
    eventually("nothing is left of them", || {
        let keys = server.command("KEYS fl:*").unwrap();
        !keys.lines().any(|key| key.contains("}:x:") || key.contains("}:a:"))
    })
    .await;
}

#[tokio::test]
async fn an_anonymous_session_that_lives_on_under_the_next_generation_has_not_ended() {
    let server = RedisServer::start_with(&["--enable-debug-command", "yes"]).unwrap();
    let ann = Node::start(leased(&server.url()));
    ann.sees(&[&ann]).await;
    let mut log = Log::start(&ann).await;
    let entries = anonymous(&ann, 50).await;
    // The new master has not heard of the last exits. This node has them no more.
    let (left, stayed) = entries.split_at(10);
    assert!(server.command("DEBUG CHANGE-REPL-ID").unwrap().starts_with("+OK"));
    reenters(&ann, stayed).await;
    log.until(|events| events.iter().filter(|e| e.kind == "disconnected").count() >= 10).await;
    for entry in left {
        assert_eq!(log.of(entry.session), ["connected", "disconnected node_lost"]);
    }
    ann.registry.leave(stayed[0].clone(), CloseReason::ClientClosed);
    log.until(|events| events.iter().filter(|e| e.kind == "disconnected").count() >= 11).await;
    assert_eq!(log.of(stayed[0].session), ["connected", "disconnected client_closed"]);
    for entry in &stayed[1..] {
        assert_eq!(log.of(entry.session), ["connected"]);
    }
}

#[tokio::test]
async fn without_events_nothing_is_kept_of_anonymous_sessions() {
    let server = RedisServer::start().unwrap();
    let options = RegistryOptions { events: None, ..options() };
    let ann = Node::start_with(leased(&server.url()), options);
    ann.sees(&[&ann]).await;
    let entries = anonymous(&ann, 5).await;
    assert!(ann.registry.reenter(entries[0].clone()));
    ann.contract.entered("ann").await;
    let keys = server.command("KEYS fl:*").unwrap();
    assert_eq!(keys.matches("}:x:").count(), 1, "{keys}");
    assert!(!keys.contains("}:a:") && !keys.contains("}:events:"), "{keys}");
}

#[tokio::test]
async fn a_destination_is_occupied_by_the_first_subscription_of_all_nodes_and_vacated_by_the_last()
{
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    let bob = Node::start(leased(&server.url()));
    ann.sees(&[&ann, &bob]).await;
    bob.sees(&[&ann, &bob]).await;
    let mut log = Log::start(&ann).await;
    let session = SessionId(Uuid::now_v7());
    let subscriptions = [(&ann, true), (&ann, true), (&bob, true)];
    let ends = [(&ann, false), (&ann, false), (&bob, false)];
    for (count, (node, began)) in (1..).zip(subscriptions.into_iter().chain(ends)) {
        node.registry.record(session, change(None, "/topic/a", began));
        log.until(|events| events.iter().filter(|e| e.session.is_some()).count() == count).await;
        // Its occupation is another operation, that went before or after in its own partition.
        node.registry.flush().await;
    }
    log.until(|events| events.iter().any(|event| event.kind == "vacated")).await;
    assert_eq!(log.of_destinations(), ["occupied /topic/a", "vacated /topic/a"]);
}

#[tokio::test]
async fn what_a_dead_node_occupied_is_vacated_unless_others_are_there() {
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    let bob = Node::start(leased(&server.url()));
    ann.sees(&[&ann, &bob]).await;
    bob.sees(&[&ann, &bob]).await;
    let mut log = Log::start(&bob).await;
    let session = SessionId(Uuid::now_v7());
    for (node, destination) in [(&ann, "/topic/own"), (&ann, "/topic/both"), (&bob, "/topic/both")]
    {
        node.registry.record(session, change(None, destination, true));
        node.registry.flush().await;
    }
    let dead = ann.lease.owner();
    drop(ann);
    log.until(|events| events.iter().any(|event| event.kind == "vacated")).await;
    bob.registry.record(session, change(None, "/topic/both", false));
    log.until(|events| events.iter().filter(|e| e.kind == "vacated").count() == 2).await;
    let vacated: Vec<_> = log.events.iter().filter(|event| event.kind == "vacated").collect();
    assert_eq!(line(vacated[0]), "vacated /topic/own node_lost");
    assert_eq!(vacated[0].node, *dead);
    assert_eq!(line(vacated[1]), "vacated /topic/both");
}

#[tokio::test]
async fn what_was_not_acknowledged_is_given_again() {
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    ann.sees(&[&ann]).await;
    ann.contract.entered("ann").await;
    let reader = Events::new(&ann.broker);
    reader.create_group("g").await.unwrap();
    reader.create_group("g").await.unwrap();
    let first = reader.read("g", "c", 10).await.unwrap();
    assert_eq!(first.iter().map(line).collect::<Vec<_>>(), ["connected ann"]);
    assert_eq!(reader.read("g", "c", 10).await.unwrap(), []);
    assert_eq!(reader.read_again("g", "c", 10).await.unwrap(), first);
    assert_eq!(reader.read_again("g", "other", 10).await.unwrap(), []);
    reader.ack("g", &[first[0].id.clone()]).await.unwrap();
    assert_eq!(reader.read_again("g", "c", 10).await.unwrap(), []);
}

#[tokio::test]
async fn what_was_trimmed_unacknowledged_does_not_hide_what_came_after_it() {
    let server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    ann.sees(&[&ann]).await;
    let entry = ann.contract.entered("ann").await;
    let reader = Events::new(&ann.broker);
    reader.create_group("g").await.unwrap();
    for number in 0..10 {
        let change = change(Some("ann"), &format!("/topic/{number}"), true);
        ann.registry.record(entry.session, change);
    }
    let mut given = Vec::new();
    while given.len() < 11 {
        given.extend(
            reader
                .read("g", "c", 100)
                .await
                .unwrap()
                .into_iter()
                .filter(|event| event.session.is_some()),
        );
    }
    let keys = server.command("KEYS fl:*:events:").unwrap();
    let streams: Vec<_> = keys.lines().filter(|line| line.starts_with("fl:")).collect();
    for stream in &streams {
        server.command(&format!("XTRIM {stream} MAXLEN 1")).unwrap();
    }
    let again = reader.read_again("g", "c", 3).await.unwrap();
    let of_session: Vec<_> = again.iter().filter(|event| event.session.is_some()).collect();
    assert_eq!(of_session, [&given[10]]);
    for stream in &streams {
        let pending = server.call(&["XPENDING", stream, "g"]).unwrap().array().unwrap();
        let [Reply::Integer(count), ..] = &pending[..] else { panic!("{pending:?}") };
        assert!(*count <= 1, "{stream} still has what is gone");
    }
}

#[tokio::test]
async fn events_wait_while_redis_is_away() {
    let mut server = RedisServer::start().unwrap();
    let ann = Node::start(leased(&server.url()));
    ann.sees(&[&ann]).await;
    server.kill();
    eventually("the lease is not sure any more", || !ann.lease.is_held()).await;
    let entry = ann.contract.session("ann");
    ann.registry.enter(entry.clone()).await;
    ann.registry.record(entry.session, change(Some("ann"), "/topic/a", true));
    ann.registry.leave(entry.clone(), CloseReason::ClientClosed);
    server.launch().unwrap();
    eventually("the lease is held", || ann.lease.is_held()).await;
    let mut log = Log::start(&ann).await;
    log.until(|events| events.iter().any(|event| event.kind == "disconnected")).await;
    let expected = ["connected ann", "subscribed ann /topic/a", "disconnected ann client_closed"];
    assert_eq!(log.of(entry.session), expected);
}
