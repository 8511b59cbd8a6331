//! The native protocol: a client's `send` in, a `message` out.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use fanlight_proto::native::{MessageFields, ServerMessage, parse, write_message};

#[divan::bench]
fn parse_send_128_byte_json(bencher: Bencher<'_, '_>) {
    let text = format!(
        r#"{{"type":"send","to":"/topic/orders.42","data":{},"id":1}}"#,
        json_of_128_bytes()
    );
    bencher.counter(ItemsCount::new(1_u32)).bench(|| parse(black_box(&text)).next());
}

#[divan::bench]
fn write_message_128_byte_json(bencher: Bencher<'_, '_>) {
    write(bencher, None);
}

#[divan::bench]
fn write_message_128_byte_base64(bencher: Bencher<'_, '_>) {
    write(bencher, Some("text/plain"));
}

/// As of a publication that its first node has looked at.
#[divan::bench]
fn write_message_128_byte_json_known(bencher: Bencher<'_, '_>) {
    let body = json_of_128_bytes();
    let fields = MessageFields { is_json: true, ..fields(body.as_bytes(), None) };
    write_fields(bencher, &fields);
}

#[divan::bench]
fn read_message_128_byte_json(bencher: Bencher<'_, '_>) {
    let body = json_of_128_bytes();
    let mut text = Vec::new();
    write_message(&mut text, &fields(body.as_bytes(), None));
    bencher
        .counter(ItemsCount::new(1_u32))
        .bench(|| serde_json::from_slice::<ServerMessage>(black_box(&text)).is_ok());
}

fn write(bencher: Bencher<'_, '_>, content_type: Option<&str>) {
    let body = json_of_128_bytes();
    write_fields(bencher, &fields(body.as_bytes(), content_type));
}

fn write_fields(bencher: Bencher<'_, '_>, fields: &MessageFields<'_>) {
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        out.clear();
        write_message(&mut out, black_box(fields));
        out.len()
    });
}

fn fields<'a>(body: &'a [u8], content_type: Option<&'a str>) -> MessageFields<'a> {
    MessageFields {
        to: "/topic/orders.42",
        id: "0198c5d2a4b07c3e9f1023456789abcd",
        body,
        content_type,
        is_json: false,
        from: Some("ann"),
        at_unix_ms: 1_790_000_000_000,
        position: None,
        headers: &[],
    }
}

fn json_of_128_bytes() -> String {
    format!(r#"{{"price":12.5,"name":"{}"}}"#, "x".repeat(104))
}
