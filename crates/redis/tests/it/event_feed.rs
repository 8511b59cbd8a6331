//! Reading the events as one reader that all nodes are together: who reads, in which order, and
//! what is lost.

use std::time::Duration;

use fanlight_redis::{Backlog, EventFeed, EventPlace, EventStream};
use fanlight_testkit::RedisServer;

use crate::nodes::{RedisNode, config};

const MINUTE: Duration = Duration::from_secs(60);

/// One stream, and what Redis calls it.
fn stream() -> (EventStream, &'static str) {
    (EventFeed::streams().next().unwrap(), "fl:{460}:events:")
}

fn add(server: &RedisServer, range: std::ops::Range<u32>) {
    for number in range {
        let fields = format!("type connected at {number} node n:1 session s{number}");
        server.command(&format!("XADD {} {number}-0 {fields}", stream().1)).unwrap();
    }
}

/// The numbers of what is read by who begins, and how much was lost.
async fn read(feed: &EventFeed, count: usize) -> (Vec<u64>, usize) {
    read_on(feed, count, &mut EventPlace::default()).await
}

async fn read_on(feed: &EventFeed, count: usize, place: &mut EventPlace) -> (Vec<u64>, usize) {
    let (events, lost) = feed.read(stream().0, count, place).await.unwrap();
    (events.iter().map(|event| event.at_unix_ms).collect(), lost.len())
}

async fn acknowledge(feed: &EventFeed, count: usize) {
    let (events, _) = feed.read(stream().0, count, &mut EventPlace::default()).await.unwrap();
    let ids: Vec<_> = events.into_iter().map(|event| event.id).collect();
    feed.ack(stream().0, &ids).await.unwrap();
}

#[tokio::test]
async fn one_reads_at_a_time_and_the_next_begins_with_what_was_not_acknowledged() {
    let server = RedisServer::start().unwrap();
    let node = RedisNode::ready(config(&server.url()), 1).await;
    let broker = &node.redis;
    let [a, b, other] = ["g", "g", "h"].map(|group| EventFeed::new(broker, group));
    for feed in [&a, &b, &other, &a] {
        feed.begin(stream().0).await.unwrap();
    }
    let errors = server.call(&["INFO", "errorstats"]).unwrap().text().unwrap();
    assert!(!errors.contains("BUSYGROUP"), "that others have begun is no error: {errors}");
    let held = async |feed: &EventFeed, time| feed.hold(stream().0, time).await.unwrap();
    assert!(held(&a, MINUTE).await && !held(&b, MINUTE).await && held(&a, MINUTE).await);
    assert!(held(&other, MINUTE).await, "another group has its own readers");
    add(&server, 1..6);
    assert_eq!(read(&a, 2).await, (vec![1, 2], 0));
    b.give_up(stream().0).await;
    assert!(!held(&b, MINUTE).await, "only its own");
    a.give_up(stream().0).await;
    assert!(held(&b, Duration::from_millis(1)).await);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(held(&a, Duration::from_millis(1)).await, "its time was over");
    // The same again, until it is acknowledged.
    assert_eq!(read(&b, 9).await, (vec![1, 2], 0));
    acknowledge(&b, 9).await;
    assert_eq!(read(&b, 9).await, (vec![3, 4, 5], 0));
    assert_eq!(read(&other, 9).await, (vec![1, 2, 3, 4, 5], 0));
}

#[tokio::test]
async fn what_was_dropped_unread_is_told_once_with_how_much_waits() {
    let server = RedisServer::start().unwrap();
    let node = RedisNode::ready(config(&server.url()), 1).await;
    let feed = EventFeed::new(&node.redis, "g");
    assert_eq!(read(&feed, 9).await, (vec![], 0));
    add(&server, 1..6);
    acknowledge(&feed, 2).await;
    let backlog = async || feed.backlog(stream().0).await.unwrap();
    assert_eq!(backlog().await, Backlog { waiting: 3, lost: 0 });
    server.command(&format!("XTRIM {} MAXLEN 1", stream().1)).unwrap();
    assert_eq!(backlog().await, Backlog { waiting: 1, lost: 2 });
    assert_eq!(backlog().await, Backlog { waiting: 1, lost: 0 });
    assert_eq!(read(&feed, 9).await, (vec![5], 0));
    assert_eq!(backlog().await, Backlog { waiting: 0, lost: 0 });
    // Given, not acknowledged, and dropped.
    server.command(&format!("XTRIM {} MAXLEN 0", stream().1)).unwrap();
    assert_eq!(read(&feed, 9).await, (vec![], 1));
    assert_eq!(read(&feed, 9).await, (vec![], 0));
    // Of what is there after all data was lost, nothing is missed.
    server.command("FLUSHALL").unwrap();
    add(&server, 7..9);
    assert_eq!(read(&feed, 9).await, (vec![7, 8], 0));
    // What no node has written stands in the way of nothing.
    acknowledge(&feed, 9).await;
    server.command(&format!("XADD {} 9-0 foreign 1", stream().1)).unwrap();
    add(&server, 10..11);
    assert_eq!(read(&feed, 1).await, (vec![], 1));
    assert_eq!(read(&feed, 9).await, (vec![10], 0));
}

#[tokio::test]
async fn who_reads_on_gets_each_event_once_and_who_begins_all_that_was_not_acknowledged() {
    let server = RedisServer::start().unwrap();
    let node = RedisNode::ready(config(&server.url()), 1).await;
    let feed = EventFeed::new(&node.redis, "g");
    let mut place = EventPlace::default();
    assert_eq!(read_on(&feed, 2, &mut place).await, (vec![], 0));
    add(&server, 1..6);
    assert_eq!(read_on(&feed, 2, &mut place).await, (vec![1, 2], 0));
    assert_eq!(read_on(&feed, 2, &mut place).await, (vec![3, 4], 0));
    // Another holder, after a restart: page by page, then what is new.
    let mut next = EventPlace::default();
    server.command(&format!("XDEL {} 3-0", stream().1)).unwrap();
    assert_eq!(read_on(&feed, 1, &mut next).await, (vec![1], 0));
    assert_eq!(read_on(&feed, 1, &mut next).await, (vec![2], 0));
    assert_eq!(read_on(&feed, 1, &mut next).await, (vec![4], 1));
    assert_eq!(read_on(&feed, 9, &mut next).await, (vec![5], 0));
    assert_eq!(read_on(&feed, 9, &mut next).await, (vec![], 0));
    // An answer that did not come may have had events: so all comes again.
    server.pause().unwrap();
    assert!(feed.read(stream().0, 9, &mut next).await.is_err());
    server.resume().unwrap();
    assert_eq!(next, EventPlace::default());
    let again = async || loop {
        if let Ok((events, _)) = feed.read(stream().0, 9, &mut EventPlace::default()).await {
            return events.iter().map(|event| event.at_unix_ms).collect::<Vec<_>>();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let again = tokio::time::timeout(MINUTE, again()).await.unwrap();
    assert_eq!(again, [1, 2, 4, 5]);
}
