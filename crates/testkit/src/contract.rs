//! The broker contract suite (design §5): what every broker must do, as functions over a harness.
//!
//! [`broker_contract!`](crate::broker_contract) makes one test of each rule.

mod history;
pub mod peers;
pub mod presence;
pub mod queue;
pub mod registry;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanlight_engine::broker::{
    Broker, BrokerHealth, DeliverySink, Joined, PublishError, Published, Reach, WorkerId,
};
use fanlight_engine::publication::{ContentType, Publication};
use fanlight_proto::Position;
use futures_util::future::{BoxFuture, join_all};

pub use history::*;

use crate::{Inbox, channel, eventually, permit, publication};

/// Makes nodes over one and the same backing.
pub trait BrokerHarness {
    /// Two ready nodes with this many workers each.
    fn nodes(&self, workers: u16) -> impl Future<Output = [Node; 2]>;
}

/// A node as the contract sees it: a broker and the inboxes of its workers.
#[derive(Clone)]
pub struct Node {
    /// Its broker.
    pub broker: Arc<dyn Broker>,
    /// Its workers' inboxes.
    pub inboxes: Vec<Arc<Inbox>>,
    /// The number that its first worker has at its broker.
    pub first_worker: u16,
}

impl Node {
    /// The inboxes as sinks, for a broker's constructor.
    pub fn sinks(inboxes: &[Arc<Inbox>]) -> Vec<Arc<dyn DeliverySink>> {
        inboxes.iter().map(|inbox| Arc::clone(inbox) as Arc<dyn DeliverySink>).collect()
    }

    /// Publishes a body.
    pub fn publish(
        &self,
        destination: &str,
        body: impl Into<Bytes>,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        self.broker.publish(permit(destination), publication(destination, body))
    }

    /// Publishes a body and expects that it is accepted for the whole cluster.
    pub async fn accepted(&self, destination: &str, body: impl Into<Bytes>) {
        match self.publish(destination, body).await {
            Ok(Published { reach: Reach::Cluster, .. }) => {}
            other => panic!("{destination}: not accepted: {other:?}"),
        }
    }

    /// Subscribes a worker of this node, counted from 0.
    pub fn subscribe(&self, worker: u16, destination: &str) -> BoxFuture<'static, Joined> {
        self.broker.subscribe(WorkerId(self.first_worker + worker), &channel(destination))
    }

    /// Unsubscribes a worker of this node, counted from 0.
    pub fn unsubscribe(&self, worker: u16, destination: &str) {
        self.broker.unsubscribe(WorkerId(self.first_worker + worker), &channel(destination));
    }

    /// Subscribes a worker and expects that it is live.
    async fn live(&self, worker: u16, destination: &str) {
        assert_eq!(self.subscribe(worker, destination).await, Joined::Live, "{destination}");
    }

    fn bodies(&self, worker: usize, destination: &str) -> Vec<Bytes> {
        self.inboxes[worker].bodies(destination)
    }
}

/// Whatever the order in which the futures are polled.
pub async fn publications_arrive_in_the_order_of_the_calls(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    bob.live(0, "/topic/a").await;
    let sent: Vec<_> = (0..1000).map(|number| Bytes::from(format!("{number}"))).collect();
    let mut publishing: Vec<_> =
        sent.iter().map(|body| ann.publish("/topic/a", body.clone())).collect();
    publishing.reverse();
    assert!(join_all(publishing).await.iter().all(Result::is_ok));
    eventually("all arrived", || bob.inboxes[0].count() >= sent.len()).await;
    assert_eq!(bob.bodies(0, "/topic/a"), sent);
}

/// And each publisher's own order is kept in it.
pub async fn concurrent_publishers_are_seen_in_one_order_by_all(harness: &impl BrokerHarness) {
    const PUBLISHERS: usize = 4;
    const EACH: usize = 250;
    let nodes = harness.nodes(2).await;
    for node in &nodes {
        node.live(0, "/topic/a").await;
        node.live(1, "/topic/a").await;
    }
    let threads: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let node = nodes[publisher % 2].clone();
            std::thread::spawn(move || {
                let publish = |n| node.publish("/topic/a", format!("{publisher} {n}"));
                (0..EACH).map(publish).collect::<Vec<_>>()
            })
        })
        .collect();
    for thread in threads {
        let publishing = thread.join().expect("a publisher panicked");
        assert!(join_all(publishing).await.iter().all(Result::is_ok));
    }
    let inboxes: Vec<_> = nodes.iter().flat_map(|node| &node.inboxes).collect();
    eventually("all arrived", || inboxes.iter().all(|inbox| inbox.count() >= PUBLISHERS * EACH))
        .await;
    let order = inboxes[0].bodies("/topic/a");
    for inbox in &inboxes {
        assert_eq!(inbox.bodies("/topic/a"), order);
    }
    for publisher in 0..PUBLISHERS {
        let prefix = format!("{publisher} ");
        let own: Vec<_> = order.iter().filter(|body| body.starts_with(prefix.as_bytes())).collect();
        let expected: Vec<_> = (0..EACH).map(|n| Bytes::from(format!("{prefix}{n}"))).collect();
        assert!(own.into_iter().eq(&expected));
    }
}

/// Only what is published after the subscription.
pub async fn nothing_is_delivered_from_before_the_subscription(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    ann.accepted("/topic/a", "before").await;
    bob.live(0, "/topic/a").await;
    ann.accepted("/topic/a", "after").await;
    eventually("one arrived", || bob.inboxes[0].count() > 0).await;
    assert_eq!(bob.bodies(0, "/topic/a"), ["after"]);
}

/// Once the inbox has run dry of what was there.
pub async fn nothing_is_delivered_after_unsubscribing(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(2).await;
    bob.live(0, "/topic/a").await;
    bob.live(1, "/topic/a").await;
    let publishing: Vec<_> = (0..500).map(|_| ann.publish("/topic/a", "x")).collect();
    eventually("some arrived", || bob.inboxes[0].count() > 0).await;
    bob.unsubscribe(0, "/topic/a");
    let there = bob.inboxes[0].count();
    assert!(join_all(publishing).await.iter().all(Result::is_ok));
    ann.accepted("/topic/a", "last").await;
    eventually("the other worker got all", || bob.inboxes[1].count() == 501).await;
    assert_eq!(bob.inboxes[0].count(), there);
}

/// A worker's interest is its own, and not counted.
pub async fn one_unsubscribe_undoes_all_of_one_worker_and_no_other(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(2).await;
    for _ in 0..3 {
        bob.live(0, "/topic/a").await;
    }
    bob.live(1, "/topic/a").await;
    ann.live(0, "/topic/a").await;
    ann.accepted("/topic/a", "first").await;
    eventually("each got it once", || {
        bob.inboxes.iter().chain(&ann.inboxes[..1]).all(|inbox| inbox.count() == 1)
    })
    .await;
    bob.unsubscribe(0, "/topic/a");
    bob.unsubscribe(0, "/topic/never-subscribed");
    ann.accepted("/topic/a", "second").await;
    eventually("the others got it", || bob.inboxes[1].count() == 2 && ann.inboxes[0].count() == 2)
        .await;
    assert_eq!(bob.bodies(0, "/topic/a"), ["first"]);
}

/// A publication right after the answer, from another node, arrives.
pub async fn live_means_that_nothing_is_missed_from_then_on(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    for number in 0..200 {
        let destination = format!("/topic/{number}");
        bob.live(0, &destination).await;
        ann.accepted(&destination, "x").await;
    }
    eventually("all arrived", || bob.inboxes[0].count() == 200).await;
}

/// However quickly a worker leaves and comes back.
pub async fn coming_back_misses_nothing_from_then_on(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    for number in 0..100 {
        bob.live(0, "/topic/a").await;
        ann.accepted("/topic/a", number.to_string()).await;
        let last = |bodies: Vec<Bytes>| bodies.last() == Some(&number.to_string().into());
        eventually("it arrived", || last(bob.bodies(0, "/topic/a"))).await;
        bob.unsubscribe(0, "/topic/a");
        if number % 10 == 0 {
            // Long enough for the linger of some harnesses to end.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(bob.inboxes[0].count(), 100);
}

/// In whole, whatever their bytes.
pub async fn large_and_binary_bodies_arrive(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    bob.live(0, "/topic/a").await;
    let pattern = |bytes: usize| (0..bytes).map(|at| (at * 7 + at / 256) as u8).collect();
    let bodies: Vec<Bytes> = [0, 1, 256, 2048, 2049, 64 << 10, 1 << 20]
        .into_iter()
        .map(|bytes| Bytes::from_owner::<Vec<u8>>(pattern(bytes)))
        .chain([Bytes::from_static(b"\r\n$5\r\n\0\xff>3\r\n$7\r\nmessage\r\n")])
        .collect();
    for body in &bodies {
        ann.accepted("/topic/a", body.clone()).await;
    }
    eventually("all arrived", || bob.inboxes[0].count() == bodies.len()).await;
    assert_eq!(bob.bodies(0, "/topic/a"), bodies);
}

/// Every field, unchanged.
pub async fn headers_and_all_other_fields_survive(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(1).await;
    bob.live(0, "/topic/a").await;
    let types = [
        ContentType::Unspecified,
        ContentType::Json,
        ContentType::Text,
        ContentType::Other("image/png; q=1".into()),
    ];
    let sent: Vec<_> = types
        .into_iter()
        .map(|content_type| Publication {
            content_type,
            headers: [("a:b\n".into(), "ä\r\n".into()), ("a:b\n".into(), "".into())].into(),
            publisher: Some("ann/ä".into()),
            at_unix_ms: u64::MAX,
            position: Some(Position { epoch: u64::MAX, offset: 7 }),
            ..publication("/topic/a", "{}")
        })
        .collect();
    for publication in &sent {
        let result = ann.broker.publish(permit("/topic/a"), publication.clone()).await;
        assert_eq!(result.map(|published| published.id), Ok(publication.id));
    }
    eventually("all arrived", || bob.inboxes[0].count() == sent.len()).await;
    let received = bob.inboxes[0].publications("/topic/a");
    assert!(received.iter().map(|publication| &**publication).eq(&sent), "{received:?}");
}

/// All at once, and each gets its own.
pub async fn five_thousand_channels_are_joined_at_once(harness: &impl BrokerHarness) {
    const CHANNELS: usize = 5000;
    let [ann, bob] = harness.nodes(1).await;
    let names: Vec<_> = (0..CHANNELS).map(|number| format!("/topic/{number}")).collect();
    let joined = join_all(names.iter().map(|name| bob.subscribe(0, name))).await;
    assert!(joined.iter().all(|joined| *joined == Joined::Live));
    let published = join_all(names.iter().map(|name| ann.publish(name, name.clone()))).await;
    assert!(published.iter().all(Result::is_ok));
    eventually("all arrived", || bob.inboxes[0].count() >= CHANNELS).await;
    let received: HashSet<_> = bob.inboxes[0].received().into_iter().collect();
    assert_eq!(received.len(), CHANNELS);
    assert!(received.iter().all(|(channel, body)| channel.as_str().as_bytes() == body));
}

/// A full inbox loses what comes, and nobody else does.
pub async fn a_full_inbox_loses_only_its_own(harness: &impl BrokerHarness) {
    let [ann, bob] = harness.nodes(2).await;
    bob.live(0, "/topic/a").await;
    bob.live(1, "/topic/a").await;
    bob.inboxes[0].set_full(true);
    ann.accepted("/topic/a", "lost").await;
    eventually("the other got it", || bob.inboxes[1].count() == 1).await;
    bob.inboxes[0].set_full(false);
    ann.accepted("/topic/a", "next").await;
    eventually("both go on", || bob.inboxes[0].count() == 1 && bob.inboxes[1].count() == 2).await;
    assert_eq!(bob.bodies(0, "/topic/a"), ["next"]);
}

/// Publishing to nobody is fine, and the answer carries the publication's id.
pub async fn an_accepted_publication_is_acknowledged_with_its_id(harness: &impl BrokerHarness) {
    let [ann, _] = harness.nodes(1).await;
    assert_eq!(ann.broker.health(), BrokerHealth::Healthy);
    let publication = publication("/topic/nobody", "x");
    let id = publication.id;
    let published = ann.broker.publish(permit("/topic/nobody"), publication).await;
    assert_eq!(published, Ok(Published { id, position: None, reach: Reach::Cluster }));
}

/// One `#[tokio::test]` for each rule of the contract; `$harness` is an expression that is
/// evaluated anew for each.
#[macro_export]
macro_rules! broker_contract {
    ($harness:expr) => {
        $crate::broker_contract!(@tests $harness;
            publications_arrive_in_the_order_of_the_calls
            concurrent_publishers_are_seen_in_one_order_by_all
            nothing_is_delivered_from_before_the_subscription
            nothing_is_delivered_after_unsubscribing
            one_unsubscribe_undoes_all_of_one_worker_and_no_other
            live_means_that_nothing_is_missed_from_then_on
            coming_back_misses_nothing_from_then_on
            large_and_binary_bodies_arrive
            headers_and_all_other_fields_survive
            five_thousand_channels_are_joined_at_once
            a_full_inbox_loses_only_its_own
            an_accepted_publication_is_acknowledged_with_its_id
            offsets_are_consecutive_from_1_and_the_same_for_all
            an_acknowledgement_carries_the_position_that_subscribers_see
            what_follows_a_position_is_read_in_order_in_pages
            what_is_read_is_what_was_published
            a_position_that_is_out_of_the_bound_is_too_old
            a_position_from_before_the_first_publication_recovers_it
            a_position_of_no_epoch_or_beyond_the_top_is_of_a_changed_epoch
            a_position_at_the_top_stays_good_when_the_publications_have_gone
            a_history_that_is_removed_is_gone_for_all_and_its_offsets_go_on
            the_newest_are_read_oldest_first
            without_a_limit_only_the_top_is_read
            a_read_sees_all_that_was_acknowledged_before
            destinations_have_histories_of_their_own
            destinations_on_one_channel_have_histories_of_their_own
            what_only_one_session_can_subscribe_to_is_not_kept
            concurrent_publishers_get_consecutive_offsets_in_the_order_of_delivery
            an_idempotency_key_publishes_once_on_all_nodes
            an_idempotency_key_works_without_history
            a_key_that_is_used_again_for_something_else_publishes_nothing
            an_idempotency_key_counts_for_its_destination
            concurrent_publications_with_one_key_are_published_once
        );
    };
    (@tests $harness:expr; $($rule:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let harness = $harness;
                $crate::contract::$rule(&harness).await;
            }
        )*
    };
}
