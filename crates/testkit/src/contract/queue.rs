//! The contract of queues (design §5, "ack"): what every broker must do for them.
//!
//! [`queue_contract!`](crate::queue_contract) makes one test of each rule.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanlight_engine::broker::{Broker, Joined, PublishError, Published, Reach, WorkerId};
use fanlight_engine::history::IdempotencyKey;
use fanlight_engine::policy::{Namespace, NamespaceOptions, Namespaces, PublishPermit};
use fanlight_engine::publication::{ContentType, Publication};
use fanlight_engine::queue::{
    Batch, DeliveryId, EntryId, FETCH_BYTES_MAX, Fetched, Queue, QueueOptions, Queues, Release,
};

use crate::{Inbox, channel, eventually, publication};

/// Makes nodes over one and the same backing.
pub trait QueueHarness {
    /// Two ready nodes with one worker each.
    fn nodes(&self) -> impl Future<Output = [QueueNode; 2]>;
}

/// A node as the contract sees it.
#[derive(Clone)]
pub struct QueueNode {
    /// Publishes, and subscribes to wakes.
    pub broker: Arc<dyn Broker>,
    /// The same broker's queues.
    pub queues: Arc<dyn Queues>,
    /// Its worker's inbox.
    pub inbox: Arc<Inbox>,
    /// The number of its worker.
    pub worker: u16,
}

/// A queue with this many deliveries and messages at most, and an ack timeout of 200 ms.
pub fn queue(name: &str, max_deliveries: u32, max_length: u32) -> Queue {
    let options =
        QueueOptions { ack_timeout_ms: 200, max_deliveries, max_length, ..QueueOptions::default() };
    let destination = name.parse().expect("a test names a destination");
    Queue { destination, channel: channel(name), options }
}

/// The permit to publish to `queue`.
pub fn queue_permit(queue: &Queue) -> PublishPermit {
    let namespace = Namespace {
        options: NamespaceOptions {
            queue: Some(queue.options.clone()),
            ..NamespaceOptions::default()
        },
        ..Namespace::new("queues", "/queue/**")
    };
    let namespaces = Namespaces::new(&[namespace]).expect("the namespace is a good one");
    PublishPermit::for_backend(&namespaces, &queue.destination).expect("it is below /queue")
}

impl QueueNode {
    /// Publishes a body.
    pub async fn publish(
        &self,
        queue: &Queue,
        body: impl Into<Bytes>,
    ) -> Result<Published, PublishError> {
        let publication = publication(queue.destination.as_str(), body);
        self.broker.publish(queue_permit(queue), publication).await
    }

    /// Publishes the numbers from 0 to below `count`.
    pub async fn publish_numbers(&self, queue: &Queue, count: usize) {
        for number in 0..count {
            self.publish(queue, number.to_string()).await.expect("it is accepted");
        }
    }

    /// Takes up to `count` messages.
    pub async fn fetch(&self, queue: &Queue, count: u32) -> Vec<Fetched> {
        self.batch(queue, count).await.messages
    }

    async fn batch(&self, queue: &Queue, count: u32) -> Batch {
        self.queues.fetch(queue, count).await.expect("the broker answers")
    }

    /// Acknowledges.
    pub async fn ack(&self, queue: &Queue, fetched: &[Fetched]) {
        let entries: Vec<EntryId> = fetched.iter().map(|one| one.delivery.entry).collect();
        self.queues.ack(queue, &entries).await.expect("the broker answers");
    }

    /// Gives back what a consumer had.
    pub async fn nack(&self, queue: &Queue, fetched: &[Fetched]) {
        self.release(queue, fetched, true).await;
    }

    async fn release(&self, queue: &Queue, fetched: &[Fetched], was_delivered: bool) {
        let release = |one: &Fetched| Release { delivery: one.delivery, was_delivered };
        let releases: Vec<Release> = fetched.iter().map(release).collect();
        self.queues.release(queue, &releases).await.expect("the broker answers");
    }

    /// Fetches until something comes.
    async fn fetch_eventually(&self, queue: &Queue, count: u32) -> Vec<Fetched> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let fetched = self.fetch(queue, count).await;
            if !fetched.is_empty() {
                return fetched;
            }
            assert!(Instant::now() < deadline, "nothing came back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks for dead letters until some of `queue` are named.
    async fn dead_eventually(&self, queue: &Queue) -> Vec<EntryId> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let dead = self.queues.dead().await.expect("the broker answers");
            let of_queue = dead.into_iter().find(|dead| dead.destination == queue.destination);
            if let Some(dead) = of_queue {
                return dead.entries;
            }
            assert!(Instant::now() < deadline, "no dead letter is named");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn take_dead(&self, queue: &Queue, entries: &[EntryId]) -> Vec<Fetched> {
        self.queues.take_dead(queue, entries).await.expect("the broker answers")
    }

    async fn subscribe(&self, queue: &Queue) {
        let joined = self.broker.subscribe(WorkerId(self.worker), &queue.channel).await;
        assert_eq!(joined, Joined::Live);
    }
}

fn bodies(fetched: &[Fetched]) -> Vec<String> {
    let text = |one: &Fetched| String::from_utf8_lossy(&one.publication.body).into_owned();
    fetched.iter().map(text).collect()
}

fn counts(fetched: &[Fetched]) -> Vec<u32> {
    fetched.iter().map(|one| one.delivery.count).collect()
}

/// However many compete.
pub async fn each_message_goes_to_one_consumer_of_the_cluster(harness: &impl QueueHarness) {
    const MESSAGES: usize = 500;
    let nodes = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    nodes[0].publish_numbers(&queue, MESSAGES).await;
    let drain = async |node: &QueueNode| {
        let mut got = Vec::new();
        loop {
            let fetched = node.fetch(&queue, 7).await;
            if fetched.is_empty() {
                return got;
            }
            node.ack(&queue, &fetched).await;
            got.extend(bodies(&fetched));
        }
    };
    let (ann, bob) = tokio::join!(drain(&nodes[0]), drain(&nodes[1]));
    let all: Vec<_> = ann.into_iter().chain(bob).collect();
    assert_eq!(all.len(), MESSAGES);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), MESSAGES);
}

/// And no more of them than were asked for.
pub async fn messages_come_in_the_order_of_publication(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    ann.publish_numbers(&queue, 50).await;
    let mut got = Vec::new();
    for count in [1, 7, 20, 64] {
        let fetched = bob.fetch(&queue, count).await;
        assert!(fetched.len() <= count as usize);
        assert!(counts(&fetched).iter().all(|count| *count == 1));
        got.extend(bodies(&fetched));
    }
    let expected: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(got, expected);
}

/// Every field of it, unchanged.
pub async fn a_message_waits_for_its_consumer_and_stays_what_it_was(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    let sent = Publication {
        content_type: ContentType::Other("image/png; q=1".into()),
        headers: [("a:b\n".into(), "ä\r\n".into())].into(),
        publisher: Some("ann/ä".into()),
        ..publication("/queue/a", vec![0, 255, 13, 10])
    };
    let published = ann.broker.publish(queue_permit(&queue), sent.clone()).await;
    let expected = Published { id: sent.id, position: None, reach: Reach::Cluster };
    assert_eq!(published, Ok(expected));
    let fetched = bob.fetch(&queue, 1).await;
    assert_eq!(*fetched[0].publication, sent);
}

/// To anybody, before what is newer, with its count.
pub async fn what_is_released_is_available_at_once(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    ann.publish_numbers(&queue, 20).await;
    let fetched = ann.fetch(&queue, 12).await;
    let mut given_back = fetched[2..].to_vec();
    given_back.reverse();
    ann.nack(&queue, &given_back).await;
    let fetched = bob.fetch(&queue, 12).await;
    let expected: Vec<_> = (2..14).map(|number| number.to_string()).collect();
    assert_eq!(bodies(&fetched), expected);
    assert_eq!(counts(&fetched), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1]);
}

/// As when the consumer left while it was on its way.
pub async fn what_no_consumer_had_is_not_counted_as_delivered(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    ann.publish_numbers(&queue, 1).await;
    for _ in 0..3 {
        let fetched = ann.fetch(&queue, 1).await;
        assert_eq!(counts(&fetched), [1]);
        ann.release(&queue, &fetched, false).await;
    }
    let fetched = bob.fetch(&queue, 1).await;
    assert_eq!(counts(&fetched), [1]);
    bob.nack(&queue, &fetched).await;
    assert_eq!(counts(&ann.fetch(&queue, 1).await), [2]);
}

/// If nobody has declared it dead; and not before, as a node that has time keeps what it holds.
pub async fn what_a_crashed_node_held_comes_back_after_the_timeout(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    ann.publish_numbers(&queue, 100).await;
    let begun = Instant::now();
    let held = ann.fetch(&queue, 64).await.len() + ann.fetch(&queue, 36).await.len();
    assert_eq!(held, 100);
    // Nothing is settled any more: so it is when a node is killed.
    let mut back = bob.fetch_eventually(&queue, 10).await;
    assert!(begun.elapsed() >= Duration::from_millis(queue.options.claim_after_ms()));
    while back.len() < 100 {
        back.extend(bob.fetch_eventually(&queue, 10).await);
    }
    assert!(counts(&back).iter().all(|count| *count == 2), "{:?}", counts(&back));
    let expected: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(bodies(&back), expected);
}

/// Whoever had it before has nothing to say any more, but for an acknowledgement.
pub async fn a_late_release_takes_nothing_from_the_next_consumer(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    ann.publish_numbers(&queue, 1).await;
    let late = ann.fetch(&queue, 1).await;
    let next = bob.fetch_eventually(&queue, 1).await;
    ann.nack(&queue, &late).await;
    assert!(ann.fetch(&queue, 1).await.is_empty());
    bob.nack(&queue, &next).await;
    let again = ann.fetch(&queue, 1).await;
    assert_eq!(counts(&again), [3]);
    // The same node, an earlier delivery.
    ann.nack(&queue, &late).await;
    assert!(bob.fetch(&queue, 1).await.is_empty());
    bob.ack(&queue, &late).await;
    ann.nack(&queue, &again).await;
    assert!(bob.fetch(&queue, 1).await.is_empty(), "it was acknowledged");
}

/// As often as its queue allows.
pub async fn a_message_that_nobody_acknowledges_becomes_a_dead_letter(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 3, 1000);
    ann.publish_numbers(&queue, 1).await;
    for count in 1..=3 {
        let fetched = bob.fetch(&queue, 1).await;
        assert_eq!(counts(&fetched), [count]);
        assert!(!fetched[0].is_dead(&queue.options));
        bob.nack(&queue, &fetched).await;
    }
    let fetched = bob.fetch(&queue, 1).await;
    assert!(fetched[0].is_dead(&queue.options));
}

/// Given back for the last time, and by nobody fetched again.
pub async fn a_dead_letter_is_found_without_a_consumer(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 2, 1000);
    ann.publish_numbers(&queue, 4).await;
    let first = ann.fetch(&queue, 4).await;
    ann.ack(&queue, &first[3..]).await;
    ann.nack(&queue, &first[..3]).await;
    let second = ann.fetch(&queue, 3).await;
    ann.nack(&queue, &second[..2]).await;
    ann.release(&queue, &second[2..], false).await;
    let entries = bob.dead_eventually(&queue).await;
    assert_eq!(entries, [second[0].delivery.entry, second[1].delivery.entry]);
    let dead = bob.take_dead(&queue, &entries).await;
    assert_eq!((bodies(&dead), counts(&dead)), (vec!["0".into(), "1".into()], vec![3, 3]));
    assert!(dead.iter().all(|one| one.is_dead(&queue.options)));
    assert_eq!(bob.take_dead(&queue, &entries).await.len(), 0, "somebody has it");
    bob.ack(&queue, &dead).await;
    let left = ann.fetch(&queue, 10).await;
    assert_eq!((bodies(&left), counts(&left)), (vec!["2".into()], vec![2]));
}

/// Somebody may still do what it asks for.
pub async fn what_is_not_dead_is_not_taken_for_a_dead_letter(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 2, 1000);
    ann.publish_numbers(&queue, 3).await;
    let fetched = ann.fetch(&queue, 2).await;
    ann.nack(&queue, &fetched[..1]).await;
    let gone = EntryId { ms: 1, seq: 1 };
    let entries = [fetched[0].delivery.entry, fetched[1].delivery.entry, gone];
    assert!(bob.take_dead(&queue, &entries).await.is_empty());
    let fetched = bob.fetch(&queue, 2).await;
    assert_eq!((bodies(&fetched), counts(&fetched)), (vec!["0".into(), "2".into()], vec![2, 1]));
}

/// As long as it is not acknowledged.
pub async fn a_dead_letter_that_was_not_moved_is_found_again(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 1, 1000);
    ann.publish_numbers(&queue, 1).await;
    let fetched = ann.fetch(&queue, 1).await;
    ann.nack(&queue, &fetched).await;
    let entries = ann.dead_eventually(&queue).await;
    assert_eq!(ann.take_dead(&queue, &entries).await.len(), 1);
    found_again(&bob, &queue).await;
}

/// Also when a consumer's node was the one that found it.
pub async fn a_dead_letter_that_was_fetched_and_not_moved_is_found(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 1, 1000);
    ann.publish_numbers(&queue, 1).await;
    // Its node has crashed: it is not given back.
    assert_eq!(ann.fetch(&queue, 1).await.len(), 1);
    let fetched = ann.fetch_eventually(&queue, 1).await;
    assert!(fetched[0].is_dead(&queue.options));
    found_again(&bob, &queue).await;
}

/// The only message of `queue` is named until it is acknowledged.
async fn found_again(node: &QueueNode, queue: &Queue) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut found = Vec::new();
    while found.is_empty() {
        assert!(Instant::now() < deadline, "it is not given to anybody");
        let entries = node.dead_eventually(queue).await;
        found = node.take_dead(queue, &entries).await;
    }
    assert!(found[0].is_dead(&queue.options));
    node.ack(queue, &found).await;
    assert!(node.fetch(queue, 5).await.is_empty());
    let entries: Vec<EntryId> = found.iter().map(|one| one.delivery.entry).collect();
    assert!(node.take_dead(queue, &entries).await.is_empty());
}

/// Until some of it is acknowledged.
pub async fn a_full_queue_refuses(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 3);
    ann.publish_numbers(&queue, 3).await;
    assert_eq!(bob.publish(&queue, "x").await, Err(PublishError::QueueFull));
    let fetched = bob.fetch(&queue, 2).await;
    assert_eq!(bob.publish(&queue, "x").await, Err(PublishError::QueueFull), "held counts too");
    bob.ack(&queue, &fetched[..1]).await;
    assert!(bob.publish(&queue, "x").await.is_ok());
    assert_eq!(ann.publish(&queue, "x").await, Err(PublishError::QueueFull));
}

/// By a message and by a release, and not by more than that.
pub async fn who_waits_is_woken(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    bob.subscribe(&queue).await;
    assert!(bob.fetch(&queue, 2).await.is_empty());
    ann.publish(&queue, "first").await.expect("it is accepted");
    eventually("woken by a message", || bob.inbox.count() == 1).await;
    ann.publish(&queue, "second").await.expect("it is accepted");
    let fetched = bob.fetch(&queue, 2).await;
    assert_eq!(bodies(&fetched), ["first", "second"]);
    assert_eq!(bob.inbox.count(), 1, "nobody waited for the second");
    assert!(bob.fetch(&queue, 1).await.is_empty());
    bob.nack(&queue, &fetched).await;
    eventually("woken by a release", || bob.inbox.count() == 2).await;
    let empty = |body: &Bytes| body.is_empty();
    assert!(bob.inbox.bodies("/queue/a").iter().all(empty), "a wake is no message");
}

/// So that what is published meanwhile does not wait behind it; and no wake is to be waited for.
pub async fn a_fetch_of_large_messages_stops_and_says_that_there_is_more(
    harness: &impl QueueHarness,
) {
    const LARGE: usize = 400 * 1024;
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    for number in 0..20_u8 {
        ann.publish(&queue, vec![number; LARGE]).await.expect("it is accepted");
    }
    // Some come for the first time, and some again.
    let refused = bob.fetch(&queue, 2).await;
    bob.nack(&queue, &refused).await;
    bob.subscribe(&queue).await;
    let mut got = Vec::new();
    loop {
        let Batch { messages, has_more } = bob.batch(&queue, 64).await;
        assert!(messages.len() * LARGE < FETCH_BYTES_MAX + LARGE, "{}", messages.len());
        got.extend(messages.iter().map(|one| (one.publication.body[0], one.delivery.count)));
        bob.ack(&queue, &messages).await;
        if !has_more {
            break;
        }
        assert!(!messages.is_empty());
    }
    let expected: Vec<_> = (0..20).map(|number| (number, if number < 2 { 2 } else { 1 })).collect();
    assert_eq!(got, expected);
    assert_eq!(bob.inbox.count(), 0, "nobody has waited yet");
    ann.publish(&queue, vec![0; 2 * FETCH_BYTES_MAX]).await.expect("it is accepted");
    eventually("woken by a message", || bob.inbox.count() == 1).await;
    assert_eq!(bob.fetch(&queue, 64).await.len(), 1, "one is always taken");
}

/// For good, whoever acknowledges it.
pub async fn what_is_acknowledged_is_gone(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1000);
    ann.publish_numbers(&queue, 2).await;
    let fetched = ann.fetch(&queue, 2).await;
    ann.nack(&queue, &fetched[..1]).await;
    ann.ack(&queue, &fetched).await;
    ann.nack(&queue, &fetched).await;
    let unknown = DeliveryId { entry: EntryId { ms: 1, seq: 1 }, count: 1 };
    let unknown = Fetched { delivery: unknown, ..fetched[0].clone() };
    bob.ack(&queue, std::slice::from_ref(&unknown)).await;
    bob.nack(&queue, &[unknown]).await;
    assert!(bob.fetch(&queue, 5).await.is_empty());
    ann.publish_numbers(&queue, 1).await;
    assert_eq!(bodies(&bob.fetch(&queue, 5).await), ["0"], "it goes on as before");
}

/// Whatever their names.
pub async fn queues_are_apart(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let names = ["/queue/a", "/queue/a.b", "/queue/a:b", "/queue/ä*{x}"];
    let is_one = |name: &&&str| name.parse::<fanlight_proto::Destination>().is_ok();
    let queues: Vec<_> = names.iter().filter(is_one).map(|name| queue(name, 5, 10)).collect();
    assert!(queues.len() > 1);
    for queue in &queues {
        ann.publish(queue, queue.destination.as_str().to_owned()).await.expect("it is accepted");
    }
    for queue in &queues {
        assert_eq!(bodies(&bob.fetch(queue, 5).await), [queue.destination.as_str()]);
    }
}

/// Also when it is full by then.
pub async fn a_key_makes_repeating_safe(harness: &impl QueueHarness) {
    let [ann, bob] = harness.nodes().await;
    let queue = queue("/queue/a", 5, 1);
    let publish = |node: &QueueNode, body: &'static str| {
        let publication = publication("/queue/a", body);
        let key = IdempotencyKey::new("/queue/a ann 1");
        let key = key.of(&publication.body, &publication.content_type);
        node.broker.publish_once(queue_permit(&queue), publication, key)
    };
    let first = publish(&ann, "x").await.expect("it is accepted");
    assert_eq!(first.reach, Reach::Cluster);
    let second = publish(&bob, "x").await.expect("it was accepted");
    assert_eq!((second.id, second.reach), (first.id, Reach::Duplicate));
    assert_eq!(publish(&bob, "y").await, Err(PublishError::KeyReused));
    assert_eq!(bob.fetch(&queue, 5).await.len(), 1);
}

/// One `#[tokio::test]` for each rule of the contract; `$harness` is an expression that is
/// evaluated anew for each.
#[macro_export]
macro_rules! queue_contract {
    ($harness:expr) => {
        $crate::queue_contract!(@tests $harness;
            each_message_goes_to_one_consumer_of_the_cluster
            messages_come_in_the_order_of_publication
            a_message_waits_for_its_consumer_and_stays_what_it_was
            what_is_released_is_available_at_once
            what_no_consumer_had_is_not_counted_as_delivered
            what_a_crashed_node_held_comes_back_after_the_timeout
            a_late_release_takes_nothing_from_the_next_consumer
            a_message_that_nobody_acknowledges_becomes_a_dead_letter
            a_dead_letter_is_found_without_a_consumer
            what_is_not_dead_is_not_taken_for_a_dead_letter
            a_dead_letter_that_was_not_moved_is_found_again
            a_dead_letter_that_was_fetched_and_not_moved_is_found
            a_full_queue_refuses
            a_fetch_of_large_messages_stops_and_says_that_there_is_more
            who_waits_is_woken
            what_is_acknowledged_is_gone
            queues_are_apart
            a_key_makes_repeating_safe
        );
    };
    (@tests $harness:expr; $($rule:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let harness = $harness;
                $crate::contract::queue::$rule(&harness).await;
            }
        )*
    };
}
