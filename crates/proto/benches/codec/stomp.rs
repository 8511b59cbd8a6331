//! STOMP: a client's SEND in, the shared part of a MESSAGE out.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use fanlight_proto::stomp::{Command, Decoder, Limits, Version, Writer, message_head};

#[divan::bench(args = [128, 4096])]
fn decode_send(bencher: Bencher<'_, '_>, body_bytes: usize) {
    let input = send(body_bytes);
    bencher.counter(BytesCount::of_slice(&input)).bench(|| decode(black_box(&input)));
}

#[divan::bench]
fn decode_send_128_bytes_without_content_length(bencher: Bencher<'_, '_>) {
    let mut input = b"SEND\ndestination:/topic/orders.42\ncontent-type:text/plain\n\n".to_vec();
    input.extend([b'x'; 128]);
    input.push(0);
    bencher.counter(ItemsCount::new(1_u32)).bench(|| decode(black_box(&input)));
}

#[divan::bench]
fn decode_send_128_bytes_in_two_halves(bencher: Bencher<'_, '_>) {
    let input = send(128);
    let (first, second) = input.split_at(input.len() / 2);
    bencher.counter(ItemsCount::new(1_u32)).bench(|| {
        let mut decoder = Decoder::new();
        decoder.set_version(Version::V12);
        let (mut first, mut second) = (black_box(first), black_box(second));
        let none = decoder.next(&mut first, &Limits::default());
        (none, decoder.next(&mut second, &Limits::default()))
    });
}

#[divan::bench]
fn encode_message_rest(bencher: Bencher<'_, '_>) {
    let body = [b'x'; 128];
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        out.clear();
        Writer::continuing(&mut out, Version::V12)
            .header("message-id", black_box("0198c5d2a4b07c3e9f1023456789abcd"))
            .header("destination", black_box("/topic/orders.42"))
            .header("content-type", black_box("application/json"))
            .body(black_box(&body));
        out.len()
    });
}

#[divan::bench]
fn encode_message_head(bencher: Bencher<'_, '_>) {
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        out.clear();
        message_head(&mut out, Version::V12, Some(black_box("sub-0")), None);
        out.len()
    });
}

fn send(body_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    Writer::new(&mut out, Command::Send, Version::V12)
        .header("destination", "/topic/orders.42")
        .header("content-type", "application/json")
        .body(&vec![b'x'; body_bytes]);
    out
}

fn decode(mut input: &[u8]) -> bool {
    let mut decoder = Decoder::new();
    decoder.set_version(Version::V12);
    let found = decoder.next(&mut input, &Limits::default());
    matches!(black_box(found), Ok(Some(_)))
}
