//! The rules of the contract that are about history and idempotency keys.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fanlight_engine::broker::{PublishError, Published, Reach, WorkerId};
use fanlight_engine::history::{
    History, HistoryError, HistoryPage, HistoryQuery, HistoryRange, IdempotencyKey, Lost, Removed,
};
use fanlight_engine::publication::{ContentType, Publication};
use fanlight_proto::Position;
use futures_util::future::{BoxFuture, join_all};

use super::{BrokerHarness, Node};
use crate::{channel, eventually, permit, permit_in, permit_keeping, publication, removal_permit};

impl Node {
    /// Publishes a body where [`KEPT`] is kept.
    pub fn publish_kept(
        &self,
        destination: &str,
        body: impl Into<Bytes>,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        self.broker.publish(permit_keeping(destination, KEPT), publication(destination, body))
    }

    /// Publishes a body where [`KEPT`] is kept; returns its position.
    pub async fn kept(&self, destination: &str, body: impl Into<Bytes>) -> Position {
        match self.publish_kept(destination, body).await {
            Ok(Published { position: Some(position), .. }) => position,
            other => panic!("{destination}: not kept: {other:?}"),
        }
    }

    /// Publishes a body unless its key was used, where [`KEPT`] is kept.
    pub fn publish_once(
        &self,
        destination: &str,
        body: impl Into<Bytes>,
        key: &str,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        let permit = permit_keeping(destination, KEPT);
        let key = IdempotencyKey::new(key);
        self.broker.publish_once(permit, publication(destination, body), key)
    }

    /// Reads what [`KEPT`] keeps.
    pub fn read(
        &self,
        destination: &str,
        range: HistoryRange,
        limit: u32,
    ) -> BoxFuture<'static, Result<HistoryPage, HistoryError>> {
        self.broker.history(query(destination, range, limit))
    }

    /// Reads what follows a position.
    pub async fn after(&self, destination: &str, position: Position, limit: u32) -> HistoryPage {
        let page = self.read(destination, HistoryRange::After(position), limit).await;
        page.unwrap_or_else(|error| panic!("{destination}: not read: {error}"))
    }

    /// Reads the newest.
    pub async fn newest(&self, destination: &str, limit: u32) -> HistoryPage {
        let page = self.read(destination, HistoryRange::Newest, limit).await;
        page.unwrap_or_else(|error| panic!("{destination}: not read: {error}"))
    }

    /// The position of the newest publication.
    pub async fn top(&self, destination: &str) -> Position {
        self.newest(destination, 0).await.top
    }
}

/// A query of what [`KEPT`] keeps of a destination that has a channel of its own.
pub fn query(destination: &str, range: HistoryRange, limit: u32) -> HistoryQuery {
    HistoryQuery {
        channel: channel(destination),
        destination: destination.parse().expect("a test names a destination"),
        history: KEPT,
        range,
        limit,
    }
}

/// The bodies of a page.
pub fn bodies(page: &HistoryPage) -> Vec<Bytes> {
    page.publications.iter().map(|publication| publication.body.clone()).collect()
}

/// And each destination counts for itself.
pub async fn offsets_are_consecutive_from_1_and_the_same_for_all(harness: &impl BrokerHarness) {
    let nodes = harness.nodes(1).await;
    for node in &nodes {
        node.live(0, "/topic/a").await;
    }
    let first = nodes[0].kept("/topic/a", "1").await;
    for number in 2..=50 {
        nodes[number % 2].kept("/topic/a", number.to_string()).await;
    }
    let expected: Vec<_> =
        (1..=50).map(|offset| Some(Position { epoch: first.epoch, offset })).collect();
    for node in &nodes {
        eventually("all arrived", || node.inboxes[0].count() == 50).await;
        let received = node.inboxes[0].publications("/topic/a");
        let positions: Vec<_> = received.iter().map(|publication| publication.position).collect();
        assert_eq!(positions, expected);
    }
    assert_eq!(nodes[0].kept("/topic/b", "x").await.offset, 1);
}

/// Whatever position the publisher puts there.
pub async fn an_acknowledgement_carries_the_position_that_subscribers_see(
    harness: &impl BrokerHarness,
) {
    let [ann, bob] = harness.nodes(1).await;
    bob.live(0, "/topic/a").await;
    let forged = Some(Position { epoch: 7, offset: 7 });
    let sent = Publication { position: forged, ..publication("/topic/a", "x") };
    let id = sent.id;
    let published =
        ann.broker.publish(permit_keeping("/topic/a", KEPT), sent).await.expect("it is accepted");
    assert_eq!((published.id, published.reach), (id, Reach::Cluster));
    assert_ne!(published.position, forged);
    eventually("it arrived", || bob.inboxes[0].count() == 1).await;
    assert_eq!(bob.inboxes[0].publications("/topic/a")[0].position, published.position);
}

/// Up to the top, which every page tells.
pub async fn what_follows_a_position_is_read_in_order_in_pages(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    for number in 1..=90 {
        ann.kept("/topic/a", number.to_string()).await;
    }
    let top = bob.top("/topic/a").await;
    let mut at = Position { offset: 50, ..top };
    let mut read = Vec::new();
    loop {
        let page = bob.after("/topic/a", at, 15).await;
        assert_eq!((page.top, page.lost), (top, None));
        assert!(page.publications.len() <= 15);
        read.extend(bodies(&page));
        let Some(last) = page.publications.last() else { break };
        at = last.position.expect("it is kept");
        assert_eq!(page.is_last(), at == top);
    }
    let expected: Vec<_> = (51..=90).map(|number| Bytes::from(number.to_string())).collect();
    assert_eq!(read, expected);
}

/// Every field, and the bytes of the body.
pub async fn what_is_read_is_what_was_published(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    let sent = Publication {
        content_type: ContentType::Other("image/png".into()),
        headers: [("a:b\n".into(), "ä\r\n".into())].into(),
        publisher: Some("ann/ä".into()),
        at_unix_ms: u64::MAX,
        ..publication("/topic/a", (0..100_000_usize).map(|at| at as u8).collect::<Vec<_>>())
    };
    let permit = permit_keeping("/topic/a", KEPT);
    let published = ann.broker.publish(permit, sent.clone()).await.expect("it is accepted");
    let page = bob.newest("/topic/a", 10).await;
    let sent = Publication { position: published.position, ..sent };
    assert_eq!(page.publications.iter().map(|read| &**read).collect::<Vec<_>>(), [&sent]);
}

/// And the oldest position that is not is still good.
pub async fn a_position_that_is_out_of_the_bound_is_too_old(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    for number in 1..=KEPT.size + 10 {
        ann.kept("/topic/a", number.to_string()).await;
    }
    let top = bob.top("/topic/a").await;
    let page = bob.after("/topic/a", Position { offset: 9, ..top }, 1000).await;
    assert_eq!((page.publications.len(), page.top, page.lost), (0, top, Some(Lost::TooOld)));
    let page = bob.after("/topic/a", Position { offset: 10, ..top }, 1000).await;
    assert_eq!((page.publications.len(), page.lost), (KEPT.size as usize, None));
    assert!(page.is_last());
    assert_eq!(page.publications[0].body, "11");
}

/// So that a subscriber who comes first misses nothing either.
pub async fn a_position_from_before_the_first_publication_recovers_it(
    harness: &impl BrokerHarness,
) {
    let [ann, bob] = harness.nodes(1).await;
    let before = bob.top("/topic/a").await;
    assert_eq!(before.offset, 0);
    assert_eq!(bob.top("/topic/a").await, before);
    let first = ann.kept("/topic/a", "first").await;
    assert_eq!(first, Position { epoch: before.epoch, offset: 1 });
    let page = bob.after("/topic/a", before, 10).await;
    assert_eq!((bodies(&page), page.top, page.lost), (vec!["first".into()], first, None));
}

/// Neither was ever given to anybody, or not by this history.
pub async fn a_position_of_no_epoch_or_beyond_the_top_is_of_a_changed_epoch(
    harness: &impl BrokerHarness,
) {
    let [ann, bob] = harness.nodes(1).await;
    let top = ann.kept("/topic/a", "x").await;
    for position in [
        Position { epoch: top.epoch ^ 1, offset: 1 },
        Position { epoch: 0, offset: 0 },
        Position { offset: 2, ..top },
        Position { offset: u64::MAX, ..top },
    ] {
        let page = bob.after("/topic/a", position, 10).await;
        let expected = (0, top, Some(Lost::EpochChanged));
        assert_eq!((page.publications.len(), page.top, page.lost), expected, "{position}");
    }
}

/// As many as are asked for, or as there are.
pub async fn the_newest_are_read_oldest_first(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    for number in 1..=30 {
        ann.kept("/topic/a", number.to_string()).await;
    }
    for (limit, expected) in [(3, 28..=30), (30, 1..=30), (u32::MAX, 1..=30)] {
        let page = bob.newest("/topic/a", limit).await;
        let expected: Vec<_> = expected.map(|number| Bytes::from(number.to_string())).collect();
        assert_eq!((bodies(&page), page.is_last()), (expected, true));
    }
}

/// The newest and what follows a position.
pub async fn without_a_limit_only_the_top_is_read(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    ann.kept("/topic/a", "1").await;
    let top = ann.kept("/topic/a", "2").await;
    let position = Position { offset: 1, ..top };
    for range in [HistoryRange::Newest, HistoryRange::After(position)] {
        let page = bob.read("/topic/a", range, 0).await.expect("it can be read");
        assert_eq!((page.publications.len(), page.top, page.lost), (0, top, None));
    }
}

/// Also where many read at once.
pub async fn a_read_sees_all_that_was_acknowledged_before(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    let begin = bob.top("/topic/a").await;
    let mut reading = Vec::new();
    for number in 1..=80 {
        let at = ann.kept("/topic/a", number.to_string()).await;
        for node in [&ann, &bob] {
            let node = node.clone();
            reading.push(async move {
                let page = node.after("/topic/a", begin, 100).await;
                assert!(page.top.offset >= at.offset, "{} before {at}", page.top);
                assert_eq!(page.publications.len() as u64, page.top.offset);
            });
        }
        if number % 8 == 0 {
            join_all(reading.drain(..)).await;
        }
    }
}

/// Whatever their names.
pub async fn destinations_have_histories_of_their_own(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    let names = ["/topic/a", "/topic/a/b", "/topic/a:b", "/topic/hl:/topic/a", "/topic/ä"];
    for (count, name) in (1..).zip(names) {
        for _ in 0..count {
            ann.kept(name, name).await;
        }
    }
    for (count, name) in (1..).zip(names) {
        let page = bob.newest(name, 100).await;
        assert_eq!((bodies(&page), page.top.offset), (vec![name.into(); count], count as u64));
    }
}

/// Where a namespace allows patterns, all its destinations share a channel.
pub async fn destinations_on_one_channel_have_histories_of_their_own(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    let permit = |name| permit_in(name, true, Some(KEPT));
    let shared = permit("/topic/a").channel().clone();
    bob.broker.subscribe(WorkerId(bob.first_worker), &shared).await;
    for name in ["/topic/a", "/topic/b", "/topic/a"] {
        ann.broker.publish(permit(name), publication(name, name)).await.expect("it is accepted");
    }
    eventually("all arrived", || bob.inboxes[0].count() == 3).await;
    let received = bob.inboxes[0].publications(shared.as_str());
    let offsets: Vec<_> =
        received.iter().map(|one| one.position.expect("it is kept").offset).collect();
    assert_eq!(offsets, [1, 1, 2]);
    let query = HistoryQuery { channel: shared, ..query("/topic/a", HistoryRange::Newest, 10) };
    let page = bob.broker.history(query).await.expect("it can be read");
    assert_eq!(bodies(&page), ["/topic/a", "/topic/a"]);
}

/// Nobody could come back to it, and whoever reads it is told that there is no history.
pub async fn what_only_one_session_can_subscribe_to_is_not_kept(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    let private = "/user/~0123456789abcdef0123456789abcdef/queue/a";
    bob.live(0, private).await;
    for body in ["plain", "once"] {
        let published = match body {
            "plain" => ann.publish_kept(private, body).await,
            _ => ann.publish_once(private, body, "key").await,
        };
        assert_eq!(published.expect("it is accepted").position, None, "{body}");
    }
    eventually("both arrived", || bob.inboxes[0].count() == 2).await;
    let received = bob.inboxes[0].publications(private);
    assert!(received.iter().all(|publication| publication.position.is_none()));
    let page = bob.newest(private, 10).await;
    assert!(page.publications.is_empty() && page.top.offset == 0, "{page:?}");
}

/// On both nodes at once.
pub async fn concurrent_publishers_get_consecutive_offsets_in_the_order_of_delivery(
    harness: &impl BrokerHarness,
) {
    const EACH: usize = 200;
    let nodes = harness.nodes(1).await;
    for node in &nodes {
        node.live(0, "/topic/a").await;
    }
    let threads: Vec<_> = (0..4)
        .map(|publisher| {
            let node = nodes[publisher % 2].clone();
            std::thread::spawn(move || {
                let publish = |n| node.publish_kept("/topic/a", format!("{publisher} {n}"));
                (0..EACH).map(publish).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for thread in threads {
        let publishing = thread.join().expect("a publisher panicked");
        let published = join_all(publishing).await;
        let offsets = published
            .into_iter()
            .map(|one| one.expect("it is accepted").position.expect("it is kept").offset);
        let offsets: Vec<_> = offsets.collect();
        assert!(offsets.is_sorted(), "one publisher's own order is kept");
        acknowledged.extend(offsets);
    }
    acknowledged.sort_unstable();
    let all: Vec<_> = (1..=4 * EACH as u64).collect();
    assert_eq!(acknowledged, all);
    for node in &nodes {
        eventually("all arrived", || node.inboxes[0].count() == all.len()).await;
        let received = node.inboxes[0].publications("/topic/a");
        assert!(
            received.iter().map(|one| one.position.expect("it is kept").offset).eq(all.clone())
        );
    }
}

/// And every answer is that of the first.
pub async fn an_idempotency_key_publishes_once_on_all_nodes(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    bob.live(0, "/topic/a").await;
    let first = ann.publish_once("/topic/a", "first", "key").await.expect("it is accepted");
    assert_eq!(first.reach, Reach::Cluster);
    for node in [&ann, &bob] {
        let again = node.publish_once("/topic/a", "again", "key").await.expect("it is accepted");
        assert_eq!(again, Published { reach: Reach::Duplicate, ..first });
    }
    let other = bob.publish_once("/topic/a", "other", "other key").await.expect("it is accepted");
    assert_eq!(other.position.expect("it is kept").offset, 2);
    eventually("both arrived", || bob.inboxes[0].count() == 2).await;
    assert_eq!(bob.bodies(0, "/topic/a"), ["first", "other"]);
}

/// There is no position then.
pub async fn an_idempotency_key_works_without_history(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    bob.live(0, "/topic/a").await;
    let publish = |node: &Node, body: &'static str| {
        let key = IdempotencyKey::new("key\r\n{}:\0");
        node.broker.publish_once(permit("/topic/a"), publication("/topic/a", body), key)
    };
    let first = publish(&ann, "first").await.expect("it is accepted");
    assert_eq!((first.position, first.reach), (None, Reach::Cluster));
    let again = publish(&bob, "again").await.expect("it is accepted");
    assert_eq!(again, Published { reach: Reach::Duplicate, ..first });
    ann.accepted("/topic/a", "last").await;
    eventually("the last arrived", || bob.inboxes[0].count() == 2).await;
    assert_eq!(bob.bodies(0, "/topic/a"), ["first", "last"]);
}

/// With history and without.
pub async fn a_key_that_is_used_again_for_something_else_publishes_nothing(
    harness: &impl BrokerHarness,
) {
    let [ann, bob] = harness.nodes(1).await;
    bob.live(0, "/topic/a").await;
    for (kept, permit) in [(true, permit_keeping("/topic/a", KEPT)), (false, permit("/topic/a"))] {
        let publish = |node: &Node, body: &'static str| {
            let publication = publication("/topic/a", body);
            let key = IdempotencyKey::new(format!("key {kept}"));
            let key = key.of(&publication.body, &publication.content_type);
            node.broker.publish_once(permit.clone(), publication, key)
        };
        let first = publish(&ann, "first").await.expect("it is accepted");
        assert_eq!(first.reach, Reach::Cluster);
        for node in [&ann, &bob] {
            let again = publish(node, "first").await;
            assert_eq!(again, Ok(Published { reach: Reach::Duplicate, ..first }));
            assert_eq!(publish(node, "other").await, Err(PublishError::KeyReused));
        }
    }
    ann.accepted("/topic/a", "last").await;
    eventually("the last arrived", || bob.inboxes[0].count() == 3).await;
    assert_eq!(bob.bodies(0, "/topic/a"), ["first", "first", "last"]);
}

/// The same key elsewhere is another.
pub async fn an_idempotency_key_counts_for_its_destination(harness: &impl BrokerHarness) {
    let [ann, _] = harness.nodes(1).await;
    for number in 0..50 {
        let destination = format!("/topic/{number}");
        let published = ann.publish_once(&destination, "x", "key").await.expect("it is accepted");
        assert_eq!(published.reach, Reach::Cluster, "{destination}");
    }
}

/// Whoever is first.
pub async fn concurrent_publications_with_one_key_are_published_once(harness: &impl BrokerHarness) {
    let nodes = harness.nodes(1).await;
    let publishing = (0..50).map(|number| nodes[number % 2].publish_once("/topic/a", "x", "key"));
    let published: Vec<_> =
        join_all(publishing).await.into_iter().map(|one| one.expect("it is accepted")).collect();
    let firsts = published.iter().filter(|one| one.reach == Reach::Cluster).count();
    assert_eq!(firsts, 1);
    assert!(published.iter().all(|one| one.id == published[0].id && one.position.is_some()));
    assert_eq!(nodes[0].top("/topic/a").await.offset, 1);
}

/// Who has had all of it misses nothing; who receives the channel is told, in order.
pub async fn a_history_that_is_removed_is_gone_for_all_and_its_offsets_go_on(
    harness: &impl BrokerHarness,
) {
    let [ann, bob] = harness.nodes(1).await;
    bob.live(0, "/topic/a").await;
    let mut top = None;
    for body in ["1", "2", "3"] {
        top = Some(ann.kept("/topic/a", body).await);
    }
    let top = top.expect("three were published");
    let other = ann.kept("/topic/b", "other").await;
    let remove = async || {
        let removed = ann.broker.remove_history(removal_permit("/topic/a", KEPT)).await;
        removed.expect("it is removed")
    };
    assert_eq!(remove().await, Removed { publications: 3, position: top });
    assert_eq!(remove().await, Removed { publications: 0, position: top });
    assert_eq!(bob.newest("/topic/a", 10).await.publications.len(), 0);
    let page = bob.after("/topic/a", Position { offset: 2, ..top }, 10).await;
    assert_eq!((page.publications.len(), page.lost), (0, Some(Lost::TooOld)));
    assert_eq!(bob.after("/topic/a", top, 10).await.lost, None);
    assert_eq!(bob.newest("/topic/b", 10).await.top, other);
    let next = ann.kept("/topic/a", "4").await;
    assert_eq!(next, Position { offset: 4, ..top });
    assert_eq!(bodies(&bob.after("/topic/a", top, 10).await), ["4"]);
    eventually("all arrived", || bob.inboxes[0].count() == 6).await;
    let received = bob.inboxes[0].publications("/topic/a");
    let removals: Vec<_> = received.iter().map(|one| one.is_removal()).collect();
    assert_eq!(removals, [false, false, false, true, true, false]);
    assert_eq!(received[3].position, Some(top));
}

/// What is gone is told from what is not missing: nothing that a subscriber has seen is.
pub async fn a_position_at_the_top_stays_good_when_the_publications_have_gone(
    harness: &impl BrokerHarness,
) {
    let [ann, bob] = harness.nodes(1).await;
    bob.live(0, "/topic/a").await;
    let brief = History { ttl_ms: 100, ..KEPT };
    let publish = async |body: &'static str| {
        let permit = permit_keeping("/topic/a", brief);
        let published = ann.broker.publish(permit, publication("/topic/a", body)).await;
        published.expect("it is accepted").position.expect("it is kept")
    };
    let read = async |range| {
        let query = HistoryQuery { history: brief, ..query("/topic/a", range, 10) };
        bob.broker.history(query).await.expect("it can be read")
    };
    publish("1").await;
    let top = publish("2").await;
    let begun = Instant::now();
    while !read(HistoryRange::Newest).await.publications.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is kept for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let page = read(HistoryRange::After(top)).await;
    assert_eq!((page.publications.len(), page.top, page.lost), (0, top, None));
    let page = read(HistoryRange::After(Position { offset: 1, ..top })).await;
    assert_eq!((page.publications.len(), page.top, page.lost), (0, top, Some(Lost::TooOld)));
    let next = publish("3").await;
    assert_eq!(next, Position { offset: 3, ..top });
    eventually("all arrived", || bob.inboxes[0].count() == 3).await;
    let received = bob.inboxes[0].publications("/topic/a");
    assert_eq!(received[2].position, Some(next));
}

/// What the rules' destinations keep.
pub const KEPT: History = History { size: 100, ttl_ms: 60_000 };
