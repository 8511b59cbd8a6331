//! What receiving one publication costs: RESP3 and envelope, without socket and dispatch.

use std::hint::black_box;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use fanlight_engine::publication::{ContentType, Publication, PublicationId};
use fanlight_redis::envelope::{self, Destinations};
use fanlight_redis::resp3::{Event, Reader};
use uuid::Uuid;

fn main() {
    divan::main();
}

/// The whole stream in reads of 64 KiB, as from a busy socket; time is per publication.
#[divan::bench(args = [16, 256, 2048, 16 * 1024])]
fn read_and_decode(bencher: Bencher<'_, '_>, body_bytes: usize) {
    let stream = stream(body_bytes);
    let mut destinations = Destinations::new();
    let mut reader = Reader::new();
    bencher.counter(ItemsCount::new(PUBLICATIONS)).bench_local(|| {
        for read in stream.chunks(64 << 10) {
            reader.space().extend_from_slice(read);
            while let Some(event) = reader.pop().expect("the stream is RESP3") {
                if let Event::Message { payload, .. } = event {
                    black_box(envelope::decode(payload, &mut destinations)).expect("an envelope");
                }
            }
        }
    });
}

/// RESP3 alone.
#[divan::bench(args = [256])]
fn read(bencher: Bencher<'_, '_>, body_bytes: usize) {
    let stream = stream(body_bytes);
    let mut reader = Reader::new();
    bencher.counter(ItemsCount::new(PUBLICATIONS)).bench_local(|| {
        for read in stream.chunks(64 << 10) {
            reader.space().extend_from_slice(read);
            while let Some(event) = reader.pop().expect("the stream is RESP3") {
                black_box(event);
            }
        }
    });
}

/// What a publisher pays.
#[divan::bench(args = [256])]
fn encode(bencher: Bencher<'_, '_>, body_bytes: usize) {
    let publication = publication(body_bytes, 0);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let mut out = Vec::with_capacity(envelope::encoded_bytes(&publication));
        envelope::encode(black_box(&publication), &mut out);
        out
    });
}

fn publication(body_bytes: usize, number: usize) -> Publication {
    let destination = format!("/topic/orders.{}", number % 50);
    Publication {
        id: PublicationId(Uuid::from_u128(number as u128)),
        destination: destination.parse().expect("a destination"),
        body: Bytes::from(vec![b'x'; body_bytes]),
        content_type: ContentType::Json,
        headers: Box::default(),
        publisher: Some("ann".into()),
        at_unix_ms: 1_700_000_000_000,
        position: None,
        only_for: None,
        except: None,
        is_json: false,
    }
}

fn stream(body_bytes: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    for number in 0..PUBLICATIONS {
        let publication = publication(body_bytes, number);
        let channel = format!("fl:{{0}}:c:{}", publication.destination);
        let mut envelope = Vec::new();
        envelope::encode(&publication, &mut envelope);
        let head = format!(
            ">3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n",
            channel.len(),
            envelope.len()
        );
        stream.extend_from_slice(head.as_bytes());
        stream.extend_from_slice(&envelope);
        stream.extend_from_slice(b"\r\n");
    }
    stream
}

const PUBLICATIONS: usize = 10_000;
