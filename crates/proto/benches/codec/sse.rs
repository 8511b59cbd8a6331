//! Server-sent events: a shared body, and an id of its own.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use fanlight_proto::sse::{self, Field};
use fanlight_proto::{Cursor, Position};

#[divan::bench(args = [128, 4096])]
fn event_body(bencher: Bencher<'_, '_>, bytes: usize) {
    let data = vec![b'x'; bytes];
    let name = Field::new("message").expect("it is one line");
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        out.clear();
        sse::body(&mut out, Some(name), black_box(&data));
        out.len()
    });
}

#[divan::bench(args = [1, 16])]
fn cursor_id(bencher: Bencher<'_, '_>, destinations: usize) {
    let position = Position { epoch: 0x1f0c_29ab_77de_0041, offset: 123_456 };
    let cursor = Cursor::new(vec![Some(position); destinations]).expect("it is short enough");
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        out.clear();
        sse::cursor_id(&mut out, black_box(&cursor));
        out.len()
    });
}

#[divan::bench]
fn parse_cursor_of_16(bencher: Bencher<'_, '_>) {
    let text = ["1f0c29ab77de0041:123456"; 16].join(",");
    bencher.counter(ItemsCount::new(1_u32)).bench(|| black_box(&text).parse::<Cursor>().is_ok());
}
