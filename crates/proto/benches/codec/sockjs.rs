//! SockJS: a message quoted, a frame written, and what a client sent read.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use fanlight_proto::sockjs::{self, Callback, Limits, Receiver, frame, read_xhr_send};

#[divan::bench(args = [128, 4096])]
fn quote_plain_text(bencher: Bencher<'_, '_>, bytes: usize) {
    quote(bencher, &"x".repeat(bytes));
}

#[divan::bench(args = [128, 4096])]
fn quote_json(bencher: Bencher<'_, '_>, bytes: usize) {
    let item = r#"{"id":17,"price":12.5,"symbol":"F7"},"#;
    quote(bencher, &item.repeat(bytes / item.len() + 1)[..bytes]);
}

#[divan::bench]
fn quote_4_kib_of_chinese(bencher: Bencher<'_, '_>) {
    quote(bencher, &"价格上涨了，请注意。".repeat(137));
}

#[divan::bench]
fn frame_of_one_128_byte_message(bencher: Bencher<'_, '_>) {
    let (head, rest) = ([b'h'; 40], [b'x'; 128]);
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        out.clear();
        for part in [frame::MESSAGES_BEGIN, black_box(&head), &rest, frame::MESSAGES_END] {
            out.extend_from_slice(part);
        }
        out.len()
    });
}

#[divan::bench]
fn wrap_1_kib_for_xhr(bencher: Bencher<'_, '_>) {
    wrap(bencher, &Receiver::XhrStreaming);
}

#[divan::bench]
fn wrap_1_kib_for_eventsource(bencher: Bencher<'_, '_>) {
    wrap(bencher, &Receiver::EventSource);
}

#[divan::bench]
fn wrap_1_kib_for_jsonp(bencher: Bencher<'_, '_>) {
    let callback: Callback = "_jp.a7".parse().expect("it is a plain name");
    wrap(bencher, &Receiver::Jsonp(callback));
}

#[divan::bench]
fn read_xhr_send_of_128_bytes(bencher: Bencher<'_, '_>) {
    let body = format!("[\"{}\"]", "x".repeat(128));
    let limits = Limits { bytes: 1 << 16, messages: 64 };
    bencher
        .counter(ItemsCount::new(1_u32))
        .bench(|| read_xhr_send(black_box(body.as_bytes()), &limits).is_ok());
}

fn quote(bencher: Bencher<'_, '_>, text: &str) {
    let mut out = Vec::new();
    bencher.counter(BytesCount::of_str(text)).bench_local(|| {
        out.clear();
        sockjs::quote(black_box(text), &mut out);
        out.len()
    });
}

fn wrap(bencher: Bencher<'_, '_>, receiver: &Receiver) {
    let (mut quoted, mut messages, mut out) = (Vec::new(), Vec::new(), Vec::new());
    sockjs::quote(&r#"{"id":17,"price":12.5,"symbol":"F7"},"#.repeat(27), &mut quoted);
    frame::messages(&mut messages, [&quoted]);
    bencher.counter(BytesCount::of_slice(&messages)).bench_local(|| {
        out.clear();
        receiver.frame(&mut out, black_box(&messages));
        out.len()
    });
}
