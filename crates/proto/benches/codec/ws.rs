//! The WebSocket codec: reading, unmasking, framing and deflating.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use fanlight_proto::ws::deflate::{Deflater, Inflater, strip_tail};
use fanlight_proto::ws::{Decoder, Opcode, Role, frame_header, frame_masked};

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
const LIMIT: usize = 1 << 20;

#[divan::bench]
fn decode_128_byte_texts(bencher: Bencher<'_, '_>) {
    decode(bencher, Opcode::Text, 128, 100);
}

#[divan::bench]
fn unmask_64_kib(bencher: Bencher<'_, '_>) {
    decode(bencher, Opcode::Binary, 64 << 10, 1);
}

#[divan::bench]
fn encode_header(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(1_u32))
        .bench(|| frame_header(black_box(Opcode::Text), false, black_box(128)));
}

#[divan::bench(args = [1, 3, 6])]
fn deflate_1_kib_piece(bencher: Bencher<'_, '_>, level: u32) {
    let body = json_of(1024);
    let mut deflater = Deflater::new(level);
    let mut out = Vec::new();
    bencher.counter(BytesCount::of_slice(&body)).bench_local(|| {
        out.clear();
        deflater.piece(black_box(&body), &mut out);
        out.len()
    });
}

#[divan::bench]
fn inflate_1_kib(bencher: Bencher<'_, '_>) {
    let body = json_of(1024);
    let mut payload = Vec::new();
    Deflater::new(6).piece(&body, &mut payload);
    strip_tail(&mut payload);
    let mut inflater = Inflater::new();
    bencher
        .counter(BytesCount::of_slice(&body))
        .bench_local(|| inflater.inflate(black_box(&payload), LIMIT));
}

/// Reads `frames` equal frames off one buffer, as they come from a busy socket.
fn decode(bencher: Bencher<'_, '_>, opcode: Opcode, payload_len: usize, frames: usize) {
    let mut bytes = Vec::new();
    for _ in 0..frames {
        frame_masked(&mut bytes, opcode, &vec![b'a'; payload_len], KEY);
    }
    let mut decoder = Decoder::new(Role::Server, false);
    let mut inflater = Inflater::new();
    bencher
        .counter(BytesCount::new(payload_len * frames))
        .counter(ItemsCount::new(frames))
        .with_inputs(|| bytes.clone())
        .bench_local_refs(|bytes| {
            let mut input = &mut bytes[..];
            while let Ok(Some(message)) = decoder.next(&mut input, LIMIT, &mut inflater) {
                black_box(message);
            }
        });
}

/// Something like what is published: repetitive, but not the same over and over.
fn json_of(len: usize) -> Vec<u8> {
    let item = |id: u32| {
        let (price, symbol) = (id * 7919 % 1000, id % 13);
        format!(r#"{{"id":{id},"price":{price},"symbol":"F{symbol}"}},"#).into_bytes()
    };
    (0..).flat_map(item).take(len).collect()
}
