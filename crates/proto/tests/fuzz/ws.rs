//! No bytes make the WebSocket codec panic, and how they are split makes no difference.

use fanlight_proto::ws::deflate::{Deflater, Inflater, negotiate, strip_tail};
use fanlight_proto::ws::{Decoder, Message, Role, WsError};

const SMOKE_ITERATIONS: usize = 2000;
const LIMIT: usize = 1 << 16;

#[test]
fn decoder() {
    bolero::check!().with_iterations(SMOKE_ITERATIONS).for_each(|input: &[u8]| {
        let [settings, chunk_len, bytes @ ..] = input else {
            return;
        };
        let role = match settings & 1 {
            0 => Role::Server,
            _ => Role::Client,
        };
        let compression = settings & 2 != 0;
        let whole = read(Decoder::new(role, compression), bytes, bytes.len());
        let chunk_len = usize::from(*chunk_len);
        assert_eq!(read(Decoder::new(role, compression), bytes, chunk_len), whole);
    });
}

#[test]
fn inflater() {
    bolero::check!().with_iterations(SMOKE_ITERATIONS).for_each(|bytes: &[u8]| {
        let mut inflater = Inflater::new();
        if let Ok(data) = inflater.inflate(bytes, LIMIT) {
            assert!(data.len() <= LIMIT);
        }
        let mut payload = Vec::new();
        Deflater::new(1).piece(bytes, &mut payload);
        strip_tail(&mut payload);
        assert_eq!(inflater.inflate(&payload, bytes.len()).as_deref(), Ok(bytes));
    });
}

#[test]
fn negotiation() {
    bolero::check!().with_iterations(SMOKE_ITERATIONS).for_each(|bytes: &[u8]| {
        if let Ok(header) = std::str::from_utf8(bytes) {
            let accepted = negotiate(&[header]);
            assert!(accepted.is_none() || header.contains("permessage-deflate"));
        }
    });
}

fn read(
    mut decoder: Decoder,
    bytes: &[u8],
    chunk_len: usize,
) -> (Vec<Message<'static>>, Option<WsError>) {
    let mut inflater = Inflater::new();
    let mut messages = Vec::new();
    for chunk in bytes.chunks(chunk_len.max(1)) {
        let mut chunk = chunk.to_vec();
        let mut input = &mut chunk[..];
        loop {
            match decoder.next(&mut input, LIMIT, &mut inflater) {
                Ok(Some(message)) => messages.push(message.into_owned()),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}
