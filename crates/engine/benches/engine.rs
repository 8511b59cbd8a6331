//! What a worker pays per publication and subscription: the hub's map, and encoding for fan-out.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use fanlight_engine::broker::Channel;
use fanlight_engine::encode::{Encoder, Framing};
use fanlight_engine::hub::{Hub, Member, SessionKey, SubscriptionKey, Target, Wire};
use fanlight_engine::publication::{ContentType, Publication, PublicationId};
use fanlight_proto::Destination;
use fanlight_proto::stomp::Version;
use uuid::Uuid;

fn main() {
    divan::main();
}

/// A destination with one subscriber, among as many others.
#[divan::bench(args = SUBSCRIPTIONS)]
fn match_one(bencher: Bencher<'_, '_>, subscriptions: usize) {
    let hub = rooms(subscriptions);
    let destination = room(subscriptions / 2);
    let channel = Channel::of_destination(destination.to_shared());
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let matching = hub.matching(black_box(&channel), black_box(&destination));
        matching.map(<[Member]>::len).sum::<usize>()
    });
}

/// A destination that all of them subscribe to: time is per subscriber.
#[divan::bench(args = SUBSCRIPTIONS)]
fn match_all(bencher: Bencher<'_, '_>, subscriptions: usize) {
    let (hub, channel, destination) = crowd(subscriptions, |_| STOMP);
    bencher.counter(ItemsCount::new(subscriptions)).bench_local(|| {
        let matching = hub.matching(black_box(&channel), black_box(&destination));
        matching.flatten().map(|member| u64::from(member.session.0)).sum::<u64>()
    });
}

/// As many patterns in one namespace, none of which matches.
#[divan::bench(args = SUBSCRIPTIONS)]
fn match_among_patterns(bencher: Bencher<'_, '_>, patterns: usize) {
    let channel = Channel::of_namespace("rooms");
    let mut hub = Hub::new();
    for n in 0..patterns {
        let target = Target::Pattern(Arc::new(format!("/topic/room.{n}.*").parse().expect(VALID)));
        hub.subscribe(SessionKey(n as u32), target, channel.clone(), STOMP);
    }
    let destination: Destination = "/topic/room.x.chat".parse().expect(VALID);
    bencher.bench_local(|| hub.matching(black_box(&channel), black_box(&destination)).count());
}

/// One comes and goes at a destination of its own, among as many others.
#[divan::bench(args = SUBSCRIPTIONS)]
fn subscribe_and_unsubscribe(bencher: Bencher<'_, '_>, subscriptions: usize) {
    let mut hub = rooms(subscriptions);
    let destination = room(subscriptions);
    let channel = Channel::of_destination(destination.to_shared());
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let key = subscribe(&mut hub, 0, &destination, &channel, STOMP);
        hub.unsubscribe(black_box(key));
    });
}

/// The same at a destination that all of them subscribe to.
#[divan::bench(args = SUBSCRIPTIONS)]
fn subscribe_and_unsubscribe_in_a_crowd(bencher: Bencher<'_, '_>, subscriptions: usize) {
    let (mut hub, channel, destination) = crowd(subscriptions, |_| STOMP);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let key = subscribe(&mut hub, 0, &destination, &channel, STOMP);
        hub.unsubscribe(black_box(key));
    });
}

/// One publication for 1,000 subscribers: time is per subscriber, the one encoding included.
#[divan::bench(args = CASES)]
fn fan_out(bencher: Bencher<'_, '_>, case: Case) {
    encode(bencher, case, 1);
}

/// Ten publications that go out together: time is per delivery.
#[divan::bench(args = CASES)]
fn fan_out_of_ten(bencher: Bencher<'_, '_>, case: Case) {
    encode(bencher, case, 10);
}

/// The encoding alone: one subscriber.
#[divan::bench(args = CASES)]
fn encode_once(bencher: Bencher<'_, '_>, case: Case) {
    let (hub, channel, destination) = crowd(1, |_| case.wire());
    fan_out_in(bencher, case, 1, &hub, &channel, &destination);
}

/// A STOMP subscription id of its own for each of 1,000 subscribers: the least there is to share.
#[divan::bench(args = [Framing::WebSocket, Framing::WebSocketDeflate])]
fn fan_out_to_ids_of_their_own(bencher: Bencher<'_, '_>, framing: Framing) {
    let ids: Vec<String> = (0..MEMBERS).map(|n| format!("sub-{n}")).collect();
    let (hub, channel, destination) =
        crowd(MEMBERS, |n| Wire::Stomp { version: Version::V12, id: &ids[n], ack: false });
    let case = Case { framing, ..CASES[0] };
    fan_out_in(bencher, case, 1, &hub, &channel, &destination);
}

/// What is encoded.
#[derive(Debug, Clone, Copy)]
struct Case {
    stomp: bool,
    framing: Framing,
    body_bytes: usize,
    /// Whether a client has sent it as JSON, so that nobody looks at it again.
    is_json: bool,
}

impl Case {
    fn wire(self) -> Wire<'static> {
        if self.stomp { STOMP } else { Wire::Native { named: false } }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = if self.stomp { "STOMP" } else { "native" };
        let deflate = if self.framing == Framing::WebSocketDeflate { ", deflate" } else { "" };
        let known = if self.is_json { ", known" } else { "" };
        write!(f, "{protocol}, {} B{deflate}{known}", self.body_bytes)
    }
}

fn encode(bencher: Bencher<'_, '_>, case: Case, burst: usize) {
    let (hub, channel, destination) = crowd(MEMBERS, |_| case.wire());
    fan_out_in(bencher, case, burst, &hub, &channel, &destination);
}

fn fan_out_in(
    bencher: Bencher<'_, '_>,
    case: Case,
    burst: usize,
    hub: &Hub,
    channel: &Channel,
    destination: &Destination,
) {
    let publications: Vec<_> = (0..burst).map(|n| publication(destination, case, n)).collect();
    let mut encoder = Encoder::new(DEFLATE_MIN_BYTES);
    bencher.counter(ItemsCount::new(hub.len() * burst)).bench_local(|| {
        let mut run = encoder.run(black_box(&publications));
        let mut bytes = 0;
        for member in hub.matching(channel, destination).flatten() {
            bytes += run.chunk(member.wire, case.framing, hub, None).clone().len();
        }
        bytes
    });
}

/// JSON that is neither random nor all the same.
fn publication(destination: &Destination, case: Case, number: usize) -> Arc<Publication> {
    let Case { body_bytes, is_json, .. } = case;
    let mut body = String::from("[0");
    for n in number.. {
        if body.len() + 24 > body_bytes {
            break;
        }
        let _ = write!(body, r#",{{"at":{},"n":{n}}}"#, n * 7919 % 1000);
    }
    body.push_str(&" ".repeat(body_bytes.saturating_sub(body.len() + 1)));
    body.push(']');
    Arc::new(Publication {
        id: PublicationId(Uuid::from_u128(number as u128)),
        destination: destination.clone(),
        body: Bytes::from(body),
        content_type: ContentType::Json,
        headers: Box::default(),
        publisher: Some("ann".into()),
        at_unix_ms: 1_800_000_000_000,
        position: None,
        only_for: None,
        except: None,
        is_json,
    })
}

/// A hub with one subscription to each of so many destinations.
fn rooms(subscriptions: usize) -> Hub {
    let mut hub = Hub::new();
    for n in 0..subscriptions {
        let destination = room(n);
        let channel = Channel::of_destination(destination.to_shared());
        subscribe(&mut hub, n, &destination, &channel, STOMP);
    }
    hub
}

fn room(number: usize) -> Destination {
    format!("/topic/room.{number}").parse().expect(VALID)
}

/// A hub with so many subscriptions to one destination.
fn crowd<'w>(
    subscriptions: usize,
    wire: impl Fn(usize) -> Wire<'w>,
) -> (Hub, Channel, Destination) {
    let mut hub = Hub::new();
    let destination: Destination = "/topic/crowd".parse().expect(VALID);
    let channel = Channel::of_destination(destination.to_shared());
    for n in 0..subscriptions {
        subscribe(&mut hub, n, &destination, &channel, wire(n));
    }
    (hub, channel, destination)
}

fn subscribe(
    hub: &mut Hub,
    session: usize,
    destination: &Destination,
    channel: &Channel,
    wire: Wire<'_>,
) -> SubscriptionKey {
    let target = Target::Destination(destination.clone());
    hub.subscribe(SessionKey(session as u32), target, channel.clone(), wire)
}

const SUBSCRIPTIONS: [usize; 2] = [1_000, 100_000];
const MEMBERS: usize = 1_000;
const DEFLATE_MIN_BYTES: usize = 256;
const STOMP: Wire<'static> = Wire::Stomp { version: Version::V12, id: "sub-0", ack: false };
const VALID: &str = "it is valid";
const CASES: [Case; 7] = [
    STOMP_128,
    NATIVE_128,
    Case { body_bytes: 4096, ..STOMP_128 },
    Case { body_bytes: 4096, ..NATIVE_128 },
    Case { body_bytes: 4096, is_json: true, ..NATIVE_128 },
    Case { framing: Framing::WebSocketDeflate, body_bytes: 4096, ..STOMP_128 },
    Case { framing: Framing::WebSocketDeflate, body_bytes: 4096, ..NATIVE_128 },
];
const STOMP_128: Case =
    Case { stomp: true, framing: Framing::WebSocket, body_bytes: 128, is_json: false };
const NATIVE_128: Case = Case { stomp: false, ..STOMP_128 };
