//! Gaps: what a full inbox or a broker that is down made the worker miss.

use std::sync::atomic::{AtomicBool, Ordering};

use fanlight_engine::broker::{DeliverySink, MemoryBroker};
use fanlight_engine::ids::Ids;
use fanlight_engine::publication::ContentType;
use fanlight_proto::stomp::Version;

use super::*;

/// A memory broker whose history can't be read while it is down.
struct Flaky {
    memory: MemoryBroker,
    is_down: AtomicBool,
}

impl Flaky {
    fn new(handle: &WorkerHandle) -> Arc<Self> {
        let sinks: Vec<Arc<dyn DeliverySink>> = vec![Arc::new(handle.clone())];
        let memory = MemoryBroker::new(sinks, Arc::new(|| 1));
        Arc::new(Self { memory, is_down: AtomicBool::new(false) })
    }

    /// Publishes numbers without a pause, in which the worker could take some.
    fn publish(&self, numbers: std::ops::Range<u64>) {
        self.publish_to("/topic/a", numbers.map(|n| (n, format!("\"n{n}.\""))));
    }

    fn publish_to(&self, to: &str, bodies: impl IntoIterator<Item = (u64, String)>) {
        let broker = Arc::new(ToldBroker { go_on: Arc::new(Semaphore::new(0)) });
        let shared = shared(broker, OUTBOX);
        let to = to.parse().unwrap();
        let now = Clock::start().now();
        for (n, body) in bodies {
            let permit = PublishPermit::for_backend(shared.rules.policy.namespaces(), &to).unwrap();
            let publication = Publication {
                id: Ids::new(n).publication(now),
                destination: to.clone(),
                body: body.into(),
                content_type: ContentType::Json,
                headers: [].into(),
                publisher: None,
                at_unix_ms: now.unix_ms,
                position: None,
                only_for: None,
                is_json: false,
            };
            let published = self.memory.publish(permit, publication).now_or_never();
            assert!(published.unwrap().is_ok());
        }
    }
}

impl Broker for Flaky {
    fn publish(
        &self,
        permit: PublishPermit,
        publication: Publication,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        self.memory.publish(permit, publication)
    }

    fn publish_once(
        &self,
        permit: PublishPermit,
        publication: Publication,
        key: IdempotencyKey,
    ) -> BoxFuture<'static, Result<Published, PublishError>> {
        self.memory.publish_once(permit, publication, key)
    }

    fn history(
        &self,
        query: HistoryQuery,
    ) -> BoxFuture<'static, Result<HistoryPage, HistoryError>> {
        if self.is_down.load(Ordering::Relaxed) {
            return std::future::ready(Err(HistoryError::Unavailable)).boxed();
        }
        self.memory.history(query)
    }

    fn remove_history(
        &self,
        permit: RemovalPermit,
    ) -> BoxFuture<'static, Result<Removed, HistoryError>> {
        self.memory.remove_history(permit)
    }

    fn subscribe(&self, worker: WorkerId, channel: &Channel) -> BoxFuture<'static, Joined> {
        let joined = self.memory.subscribe(worker, channel);
        let is_down = self.is_down.load(Ordering::Relaxed);
        if is_down { std::future::ready(Joined::Degraded).boxed() } else { joined }
    }

    fn unsubscribe(&self, worker: WorkerId, channel: &Channel) {
        self.memory.unsubscribe(worker, channel);
    }

    fn health(&self) -> BrokerHealth {
        BrokerHealth::Healthy
    }
}

const SUBSCRIBE: &str = r#"{"type":"subscribe","to":"/topic/a","id":1}"#;

/// The numbers in what came.
fn numbers(got: &str) -> Vec<u64> {
    let parts = got.split("\"n").skip(1);
    parts.filter_map(|part| part.split_once(".\"")?.0.parse().ok()).collect()
}

fn check(test: impl AsyncFnOnce(WorkerHandle, Arc<Flaky>)) {
    check_with(OUTBOX, test);
}

fn check_with(outbox: OutboxLimits, test: impl AsyncFnOnce(WorkerHandle, Arc<Flaky>)) {
    let (handle, receiver) = inbox(64);
    let broker = Flaky::new(&handle);
    let shared = shared(Arc::clone(&broker) as Arc<dyn Broker>, outbox);
    run(receiver, shared, test(handle, broker));
}

async fn subscribed_by_stomp(handle: &WorkerHandle) -> Client {
    let mut client = Client::open(handle, Protocol::Stomp(Version::V12)).await;
    client.send("CONNECT\naccept-version:1.2\n\n\0").await;
    client.until("CONNECTED").await;
    client.send("SUBSCRIBE\nid:1\nreceipt:s\ndestination:/topic/a\n\n\0").await;
    client.until("RECEIPT").await;
    client
}

#[test]
fn what_a_full_inbox_had_no_room_for_is_delivered_from_the_history() {
    check(async |handle, broker| {
        let mut client = Client::connect(&handle).await;
        client.send(SUBSCRIBE).await;
        client.until("\"ok\"").await;
        // Room for 64; the newest are missed without a trace.
        broker.publish(0..90);
        assert!(broker.memory.deliveries_dropped() > 0);
        let got = client.until("\"n89.").await;
        assert_eq!(numbers(&got), (0..90).collect::<Vec<_>>());
    });
}

#[test]
fn live_subscribers_are_told_once_of_what_is_lost_and_nothing_else_is_missed() {
    check(async |handle, broker| {
        let mut native = Client::connect(&handle).await;
        native.send(SUBSCRIBE).await;
        native.until("\"ok\"").await;
        let mut stomp = subscribed_by_stomp(&handle).await;
        // The history keeps 100, the inbox took 64.
        broker.publish(0..300);
        let got = native.until("\"lost\"").await;
        assert_eq!(numbers(&got), (0..64).collect::<Vec<_>>());
        assert!(got.contains(r#""to":"/topic/a","reason":"position_too_old","#), "{got}");
        assert!(got.contains(r#""offset":300}"#), "{got}");
        let mut late = subscribed_by_stomp(&handle).await;
        broker.publish(300..302);
        let got = native.until("\"n301.").await;
        assert_eq!(numbers(&got), [300, 301]);
        let got = stomp.until("\"n301.").await;
        let expected: Vec<u64> = (0..64).chain(300..302).collect();
        assert_eq!(numbers(&got), expected);
        assert_eq!(got.matches("\nlost:position_too_old\n").count(), 1, "{got}");
        assert!(got.find("\nlost:").unwrap() > got.find("\"n63.").unwrap());
        let got = late.until("\"n301.").await;
        assert_eq!((numbers(&got), got.contains("\nlost:")), (vec![300, 301], false));
    });
}

#[test]
fn while_the_history_cannot_be_read_a_subscriber_is_live_and_told_and_gaps_wait_for_its_return() {
    check(async |handle, broker| {
        broker.is_down.store(true, Ordering::Relaxed);
        let mut client = Client::connect(&handle).await;
        client
            .send(r#"{"type":"subscribe","to":"/topic/a","since":{"epoch":"1","offset":1},"id":1}"#)
            .await;
        let got = client.until("\"count\":0").await;
        let told = r#""degraded":true,"recovered":false,"reason":"unavailable""#;
        assert!(got.contains(told), "{got}");
        broker.publish(0..90);
        let got = client.until("\"n63.").await;
        assert_eq!(numbers(&got), (0..64).collect::<Vec<_>>());
        broker.publish(90..95);
        broker.is_down.store(false, Ordering::Relaxed);
        let got = client.until("\"n94.").await;
        assert_eq!(numbers(&got), (64..95).collect::<Vec<_>>());
    });
}

#[test]
fn what_is_missed_waits_until_a_small_outbox_has_room_for_it() {
    check_with(OutboxLimits { bytes: 64 * 1024, frames: 16 }, async |handle, broker| {
        let mut other = Client::connect(&handle).await;
        other.send(r#"{"type":"subscribe","to":"/topic/b","id":1}"#).await;
        other.until("\"ok\"").await;
        other.send(SUBSCRIBE).await;
        let got = other.until("\"offset\":0").await;
        let epoch = got.split_once(r#""epoch":""#).unwrap().1.split_once('"').unwrap().0;
        for n in 0..60 {
            broker.publish(n..n + 1);
            other.until(&format!("\"n{n}.")).await;
        }
        let mut client = Client::open_narrow(&handle, Protocol::Native).await;
        client.send(r#"{"type":"connect"}"#).await;
        client.send(r#"{"type":"subscribe","to":"/topic/b","id":1}"#).await;
        client.until("\"ok\"").await;
        // What its socket does not take of this waits, while it asks for what it missed.
        broker.publish_to("/topic/b", [(0, format!("\"{}\"", "x".repeat(256 * 1024)))]);
        other.until("xxx").await;
        let since = format!(r#""since":{{"epoch":"{epoch}","offset":0}}"#);
        client.send(&format!(r#"{{"type":"subscribe","to":"/topic/a",{since},"id":3}}"#)).await;
        // By the time that it reads on, the worker has taken that.
        other.send(r#"{"type":"ping","id":"then"}"#).await;
        other.until("\"then\"").await;
        let got = client.until(r#""count":60"#).await;
        assert!(got.contains(r#""recovered":true"#), "{got}");
        assert_eq!(numbers(&got), (0..60).collect::<Vec<_>>());
    });
}
