//! What Redis adds to the contract of history: lost data, failovers, expiry, and its own bounds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fanlight_engine::broker::{Joined, PublishError, Published, Reach};
use fanlight_engine::history::{
    History, HistoryError, HistoryPage, HistoryQuery, HistoryRange, Lost,
};
use fanlight_proto::Position;
use fanlight_testkit::contract::{KEPT, Node, bodies, query};
use fanlight_testkit::{RedisServer, eventually, permit_keeping, publication};
use futures_util::future::join_all;

use crate::nodes::{RedisNode, config};

const META: &str = "fl:{111}:hm:/topic/a";
const LIST: &str = "fl:{111}:hl:/topic/a";

#[tokio::test]
async fn after_redis_lost_its_data_the_epoch_is_another() {
    let mut server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let before = ann.node.kept("/topic/a", "lost").await;
    server.kill();
    ann.unhealthy("refused").await;
    server.launch().unwrap();
    ann.healthy().await;
    let page = ann.node.after("/topic/a", before, 10).await;
    assert_eq!((page.lost, page.top.offset), (Some(Lost::EpochChanged), 0));
    assert_ne!(page.top.epoch, before.epoch);
    let after = ann.node.kept("/topic/a", "new").await;
    assert_eq!(after, Position { epoch: page.top.epoch, offset: 1 });
}

/// A failover in which the master's last publications never reached the replica.
#[tokio::test]
async fn after_a_failover_positions_are_good_up_to_what_the_replica_had() {
    let master = RedisServer::start_with(&SYNC_AT_ONCE).unwrap();
    let replica = replica_of(&master);
    let ann = RedisNode::ready(config(&master.url()), 1).await;
    in_step(&ann.node, &master, &replica).await;
    for number in 1..=5 {
        ann.node.kept("/topic/a", number.to_string()).await;
    }
    eventually("the replica has them", || length(&replica) == 5).await;
    replica.command("REPLICAOF NO ONE").unwrap();
    let mut old = ann.node.top("/topic/a").await;
    for number in 6..=8 {
        old = ann.node.kept("/topic/a", format!("lost {number}")).await;
    }
    let bob = RedisNode::ready(config(&replica.url()), 1).await;
    let fork = bob.node.top("/topic/a").await;
    assert_eq!(fork.offset, 5, "offsets go on");
    assert_ne!(fork.epoch, old.epoch);
    for number in 6..=8 {
        let position = bob.node.kept("/topic/a", format!("new {number}")).await;
        assert_eq!(position, Position { epoch: fork.epoch, offset: number });
    }
    for offset in 0..=5 {
        let page = bob.node.after("/topic/a", Position { offset, ..old }, 100).await;
        let kept = (offset + 1..=5).map(|number| Bytes::from(number.to_string()));
        let new = (6..=8).map(|number| Bytes::from(format!("new {number}")));
        assert_eq!((bodies(&page), page.lost), (kept.chain(new).collect(), None), "{offset}");
    }
    for offset in 6..=9 {
        let page = bob.node.after("/topic/a", Position { offset, ..old }, 100).await;
        assert_eq!(page.lost, Some(Lost::EpochChanged), "{offset}");
    }
}

#[tokio::test]
async fn a_page_that_ends_in_an_earlier_epoch_is_still_the_last() {
    let master = RedisServer::start_with(&SYNC_AT_ONCE).unwrap();
    let replica = replica_of(&master);
    let ann = RedisNode::ready(config(&master.url()), 1).await;
    in_step(&ann.node, &master, &replica).await;
    let first = ann.node.kept("/topic/a", "1").await;
    ann.node.kept("/topic/a", "2").await;
    eventually("the replica has them", || length(&replica) == 2).await;
    replica.command("REPLICAOF NO ONE").unwrap();
    let bob = RedisNode::ready(config(&replica.url()), 1).await;
    let page = bob.node.after("/topic/a", first, 10).await;
    assert_eq!(bodies(&page), ["2"]);
    assert_ne!(page.publications[0].position, Some(page.top));
    assert!(page.is_last());
}

#[tokio::test]
async fn a_node_that_has_not_noticed_a_new_replication_id_does_not_end_the_epoch() {
    let master = RedisServer::start_with(&SYNC_AT_ONCE).unwrap();
    let ann = RedisNode::ready(config(&master.url()), 1).await;
    let first = ann.node.kept("/topic/a", "1").await;
    let replica = replica_of(&master);
    eventually("the replica follows", || length(&replica) == 1).await;
    let bob = RedisNode::ready(config(&master.url()), 1).await;
    let second = bob.node.kept("/topic/a", "2").await;
    assert_ne!(second.epoch, first.epoch, "the first replica makes the id another");
    for number in 3..=20 {
        let position = ann.node.kept("/topic/a", number.to_string()).await;
        assert_eq!(position, Position { epoch: second.epoch, offset: number });
    }
    let page = bob.node.after("/topic/a", first, 100).await;
    assert_eq!((page.publications.len(), page.lost), (19, None));
}

#[tokio::test]
async fn of_many_failovers_the_last_eight_are_known() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let mut positions = vec![ann.node.kept("/topic/a", "x").await];
    for round in 0..9 {
        // As if another master had written last.
        server.command(&format!("HSET {META} r other-{round}")).unwrap();
        positions.push(ann.node.kept("/topic/a", "x").await);
    }
    for (age, position) in positions.iter().rev().enumerate() {
        let page = ann.node.after("/topic/a", *position, 100).await;
        let expected = (age > 8).then_some(Lost::EpochChanged);
        assert_eq!(page.lost, expected, "{age} failovers ago");
        assert_eq!(page.publications.len(), if age > 8 { 0 } else { age });
    }
    let forks = server.command(&format!("HSTRLEN {META} f")).unwrap();
    assert!(forks.starts_with(":128\r\n"), "{forks}");
}

#[tokio::test]
async fn a_history_that_expired_is_too_old_and_its_top_stays_good() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let short = History { size: 10, ttl_ms: 200 };
    let first = publish(&ann.node, short, "1").await;
    let top = publish(&ann.node, short, "2").await;
    eventually("it expired", || length(&server) == 0).await;
    let read = async |position| {
        let range = HistoryRange::After(position);
        let query = HistoryQuery { history: short, ..query("/topic/a", range, 10) };
        ann.node.broker.history(query).await.unwrap()
    };
    let expected = |lost| HistoryPage { publications: Vec::new(), top, lost };
    assert_eq!(read(first).await, expected(Some(Lost::TooOld)));
    assert_eq!(read(top).await, expected(None));
    assert_eq!(publish(&ann.node, short, "3").await, Position { offset: 3, ..top });
    assert_eq!(bodies(&read(top).await), ["3"]);
    assert_eq!(read(first).await.lost, Some(Lost::TooOld));
    let left = pttl(&server, META);
    assert!((DAY_MS..DAY_MS + 1000).contains(&left), "{left}");
    server.command(&format!("PEXPIRE {META} 1")).unwrap();
    eventually("the meta expired", || pttl(&server, META) < 0).await;
    assert_eq!(read(top).await.lost, Some(Lost::EpochChanged));
    assert_eq!(pttl(&server, LIST), -2, "a list of an unknown epoch is of no use");
}

#[tokio::test]
async fn what_was_never_published_to_is_forgotten_soon_unless_it_is_read_again() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let top = ann.node.top("/topic/a").await;
    let left = pttl(&server, META);
    assert!((60_000..=120_000).contains(&left), "{left}");
    server.command(&format!("PEXPIRE {META} 30000")).unwrap();
    assert_eq!(ann.node.top("/topic/a").await, top);
    let left = pttl(&server, META);
    assert!((60_000..=120_000).contains(&left), "{left}");
}

#[tokio::test]
async fn expiry_is_refreshed_only_when_it_is_stale() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    for _ in 0..100 {
        ann.node.kept("/topic/a", "x").await;
    }
    assert_eq!(calls(&server, "pexpire"), 2, "once of each key");
    let left = pttl(&server, LIST);
    assert!(left > KEPT.ttl_ms.cast_signed(), "{left}");
    server.command(&format!("PEXPIRE {LIST} {}", KEPT.ttl_ms - 1)).unwrap();
    ann.node.kept("/topic/a", "x").await;
    assert!(pttl(&server, LIST) > KEPT.ttl_ms.cast_signed());
    assert!(pttl(&server, META) > KEPT.ttl_ms.cast_signed() + DAY_MS);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_loaded_again() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let first = ann.node.kept("/topic/a", "1").await;
    server.command("SCRIPT FLUSH").unwrap();
    let refused = ann.node.publish_kept("/topic/a", "not executed").await;
    assert_eq!(refused, Err(PublishError::Unavailable));
    let position = kept_again(&ann.node, "2").await;
    assert_eq!(position, Position { offset: 2, ..first });
    assert_eq!(bodies(&ann.node.after("/topic/a", first, 10).await), ["2"]);
}

#[tokio::test]
async fn a_demoted_master_is_left_at_its_first_refusal() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    server.command("REPLICAOF 127.0.0.1 1").unwrap();
    let refused = ann.node.publish_kept("/topic/a", "not executed").await;
    assert_eq!(refused, Err(PublishError::Unavailable));
    ann.unhealthy("not a master").await;
    server.command("REPLICAOF NO ONE").unwrap();
    assert_eq!(kept_again(&ann.node, "1").await.offset, 1);
}

#[tokio::test]
async fn no_page_is_longer_than_a_mebibyte_unless_one_publication_is() {
    const PAGE_BYTES: usize = 1 << 20;
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let begin = ann.node.top("/topic/a").await;
    for number in 0..40_u8 {
        ann.node.kept("/topic/a", vec![number; 60_000]).await;
    }
    ann.node.kept("/topic/a", vec![40; 2 * PAGE_BYTES]).await;
    ann.node.kept("/topic/a", vec![41; 1]).await;
    let mut at = begin;
    let mut read = Vec::new();
    let mut page = ann.node.read("/topic/a", HistoryRange::Newest, 100).await.unwrap();
    loop {
        let bytes: usize = bodies(&page).iter().map(Bytes::len).sum();
        assert!(bytes <= PAGE_BYTES || page.publications.len() == 1, "{bytes}");
        read.extend(bodies(&page).iter().map(|body| body[0]));
        at = page.publications.last().map_or(at, |last| last.position.unwrap());
        assert_eq!(page.is_last(), at == page.top);
        if page.is_last() {
            break;
        }
        page = ann.node.after("/topic/a", at, 100).await;
    }
    assert!(read.into_iter().eq(0..=41));
}

#[tokio::test]
async fn a_page_has_at_most_1024_publications() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let long = History { size: 3000, ttl_ms: 60_000 };
    let publishing = (0..2000).map(|_| {
        let permit = permit_keeping("/topic/a", long);
        ann.node.broker.publish(permit, publication("/topic/a", "x"))
    });
    assert!(join_all(publishing).await.iter().all(Result::is_ok));
    let read = async |range| {
        let query = HistoryQuery { history: long, ..query("/topic/a", range, u32::MAX) };
        ann.node.broker.history(query).await.unwrap()
    };
    let page = read(HistoryRange::Newest).await;
    assert_eq!((page.publications.len(), page.is_last()), (1024, false));
    let at = page.publications[1023].position.unwrap();
    assert_eq!(at.offset, 1024);
    let page = read(HistoryRange::After(at)).await;
    assert_eq!((page.publications.len(), page.is_last()), (976, true));
}

#[tokio::test]
async fn redis_holds_at_most_an_eighth_more_than_the_size() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    for (size, most) in [(0, 0), (1, 1), (7, 7), (8, 9), (80, 90)] {
        server.command("FLUSHALL").unwrap();
        let history = History { size, ttl_ms: 60_000 };
        let mut seen = 0;
        for _ in 0..200 {
            publish(&ann.node, history, "x").await;
            seen = seen.max(length(&server));
        }
        assert_eq!(seen, most, "{size}");
        let query = HistoryQuery { history, ..query("/topic/a", HistoryRange::Newest, 1000) };
        let page = ann.node.broker.history(query).await.unwrap();
        assert_eq!(page.publications.len(), size as usize);
    }
}

#[tokio::test]
async fn readers_that_ask_the_same_at_once_share_a_call() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let first = ann.node.kept("/topic/a", "1").await;
    ann.node.kept("/topic/a", "2").await;
    let before = calls(&server, "evalsha");
    let reading = (0..500).map(|_| ann.node.after("/topic/a", first, 10));
    for page in join_all(reading).await {
        assert_eq!(bodies(&page), ["2"]);
    }
    let made = calls(&server, "evalsha") - before;
    assert!((1..=2).contains(&made), "{made} calls");
}

#[tokio::test]
async fn a_reader_that_gives_up_leaves_the_others_their_answer() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    ann.node.kept("/topic/a", "1").await;
    let mut first = ann.node.read("/topic/a", HistoryRange::Newest, 10);
    assert!(futures_util::FutureExt::now_or_never(&mut first).is_none());
    let second = ann.node.read("/topic/a", HistoryRange::Newest, 10);
    drop(first);
    let page = tokio::time::timeout(Duration::from_secs(10), second).await;
    assert_eq!(bodies(&page.expect("nobody drove it").unwrap()), ["1"]);
}

#[tokio::test]
async fn entries_that_are_not_ours_end_what_can_be_read() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    let begin = ann.node.top("/topic/a").await;
    ann.node.kept("/topic/a", "1").await;
    server.command(&format!("RPUSH {LIST} hostile")).unwrap();
    server.command(&format!("HINCRBY {META} o 1")).unwrap();
    let page = ann.node.after("/topic/a", begin, 10).await;
    assert_eq!((page.publications.len(), page.lost), (0, Some(Lost::TooOld)));
    server.command(&format!("DEL {META} {LIST}")).unwrap();
    server.command(&format!("SET {META} hostile")).unwrap();
    assert_eq!(ann.node.publish_kept("/topic/a", "x").await, Err(PublishError::Unknown));
    let read = ann.node.read("/topic/a", HistoryRange::Newest, 1).await;
    assert_eq!(read, Err(HistoryError::Unavailable));
}

#[tokio::test]
async fn subscribers_get_what_is_stored() {
    let server = RedisServer::start().unwrap();
    let ann = RedisNode::ready(config(&server.url()), 1).await;
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Live);
    let begin = ann.node.top("/topic/a").await;
    for body in [vec![], vec![b'x'; 5000], vec![0, 255]] {
        ann.node.kept("/topic/a", body).await;
    }
    eventually("all arrived", || ann.node.inboxes[0].count() == 3).await;
    let stored = ann.node.after("/topic/a", begin, 10).await.publications;
    assert_eq!(ann.node.inboxes[0].publications("/topic/a"), stored);
}

#[tokio::test]
async fn without_enough_replicas_what_is_kept_is_unknown() {
    let server = RedisServer::start_with(&SYNC_AT_ONCE).unwrap();
    let mut config = config(&server.url());
    config.min_replicas_ack = 1;
    config.response_timeout = Duration::from_secs(20);
    config.replica_ack_timeout = Duration::from_secs(2);
    let ann = RedisNode::ready(config, 1).await;
    assert_eq!(ann.node.subscribe(0, "/topic/a").await, Joined::Live);
    assert_eq!(ann.node.publish_kept("/topic/a", "x").await, Err(PublishError::Unknown));
    eventually("it was delivered", || ann.node.inboxes[0].count() == 1).await;
    let others = async {
        for _ in 0..20 {
            assert_eq!(ann.node.publish_kept("/topic/a", "x").await, Err(PublishError::Unknown));
            ann.node.accepted("/topic/a", "what is not kept").await;
        }
    };
    let begun = Instant::now();
    others.await;
    assert!(begun.elapsed() < Duration::from_secs(20), "each has waited as long as the first");
    assert_eq!(ann.node.top("/topic/a").await.offset, 21);

    let replica = replica_of(&server);
    let published = async || ann.node.publish_kept("/topic/a", "y").await;
    let acknowledged = async { while published().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), acknowledged).await.expect("with a replica");
    assert!(length(&replica) > 1, "the replica had it before the acknowledgement");
}

async fn publish(node: &Node, history: History, body: &'static str) -> Position {
    let permit = permit_keeping("/topic/a", history);
    let published = node.broker.publish(permit, publication("/topic/a", body)).await;
    published.unwrap().position.unwrap()
}

/// Publishes as soon as Redis accepts it.
async fn kept_again(node: &Node, body: &'static str) -> Position {
    let publishing = async {
        loop {
            let published = node.publish_kept("/topic/a", body).await;
            if let Ok(Published { position: Some(position), reach: Reach::Cluster, .. }) = published
            {
                return position;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, publishing).await.expect("publishing never came back")
}

/// Started, and soon in step.
fn replica_of(master: &RedisServer) -> RedisServer {
    let address = format!("127.0.0.1 {}", master.address().port());
    RedisServer::start_with(&["--replicaof", &address]).unwrap()
}

/// Waits until the replica follows, which gives the master another replication id, and until the
/// node has noticed that.
async fn in_step(node: &Node, master: &RedisServer, replica: &RedisServer) {
    eventually("the replica follows", || {
        replica.command("INFO replication").unwrap().contains("master_link_status:up")
    })
    .await;
    let info = master.command("INFO replication").unwrap();
    let id = info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap();
    let noticing = async {
        loop {
            node.top("/topic/a").await;
            if master.command(&format!("HGET {META} r")).unwrap().contains(id) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), noticing).await.expect("it was not noticed");
}

fn length(server: &RedisServer) -> u64 {
    number(&server.command(&format!("LLEN {LIST}")).unwrap()).cast_unsigned()
}

fn pttl(server: &RedisServer, key: &str) -> i64 {
    number(&server.command(&format!("PTTL {key}")).unwrap())
}

/// How often Redis ran a command.
fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.command("INFO commandstats").unwrap();
    let start = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&start));
    line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

fn number(answer: &str) -> i64 {
    let digits = answer.strip_prefix(':').and_then(|rest| rest.lines().next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

/// A replica need not wait for others that might want the same.
const SYNC_AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
