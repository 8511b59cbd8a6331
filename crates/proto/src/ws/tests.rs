//! Properties of the codec as a whole, and what generates their input.

mod oracle;
mod properties;

use proptest::prelude::*;

use super::deflate::Inflater;
use super::{Decoder, Message, Opcode, Role, WsError, frame_header, mask};

const LIMIT: usize = 1 << 20;

/// What a decoder made of its input: the messages, and the error that ended them.
type Outcome = (Vec<Message<'static>>, Option<WsError>);

/// A frame in any shape, of which most are wrong somewhere.
#[derive(Debug, Clone)]
struct RawFrame {
    first_byte: u8,
    key: Option<[u8; 4]>,
    payload: Vec<u8>,
}

impl RawFrame {
    fn write(&self, out: &mut Vec<u8>) {
        let mut header = frame_header(Opcode::Binary, false, self.payload.len()).to_vec();
        header[0] = self.first_byte;
        if self.key.is_some() {
            header[1] |= 0x80;
        }
        out.extend(header);
        out.extend(self.key.iter().flatten());
        let payload_at = out.len();
        out.extend(&self.payload);
        mask::apply(&mut out[payload_at..], self.key.unwrap_or_default());
    }
}

/// A client's bytes: mostly frames that are right, some that are not, a cut and a changed byte.
fn client_bytes() -> impl Strategy<Value = Vec<u8>> {
    let first_byte = prop_oneof![
        8 => prop::sample::select(vec![0x81, 0x01, 0x82, 0x02, 0x80, 0x00, 0x89, 0x8A]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => "\\PC{0,20}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..12),
        1 => prop::collection::vec(any::<u8>(), 120..130),
        1 => (1000_u16..1016).prop_map(|code| code.to_be_bytes().to_vec()),
    ];
    let key = prop_oneof![20 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    let frame = (first_byte, key, payload).prop_map(|(first_byte, key, payload)| RawFrame {
        first_byte,
        key,
        payload,
    });
    let changed_byte = prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    let cut = prop::option::weighted(0.2, any::<prop::sample::Index>());
    (prop::collection::vec(frame, 0..8), changed_byte, cut).prop_map(
        |(frames, changed_byte, cut)| {
            let mut bytes = Vec::new();
            for frame in frames {
                frame.write(&mut bytes);
            }
            if let Some((at, value)) = changed_byte.filter(|_| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(len) = cut.filter(|_| !bytes.is_empty()) {
                bytes.truncate(len.index(bytes.len()));
            }
            bytes
        },
    )
}

/// Reads `bytes` in chunks of the given lengths, over and over; in one chunk if there are none.
fn read_in_chunks(mut decoder: Decoder, bytes: &[u8], chunk_lens: &[usize]) -> Outcome {
    let mut inflater = Inflater::new();
    let mut messages = Vec::new();
    let mut rest = bytes;
    let mut lens = chunk_lens.iter().cycle();
    while !rest.is_empty() {
        let len = lens.next().map_or(rest.len(), |len| (*len).min(rest.len()));
        let (chunk, after) = rest.split_at(len);
        rest = after;
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

fn server() -> Decoder {
    Decoder::new(Role::Server, false)
}
