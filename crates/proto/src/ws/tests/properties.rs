//! What holds for any messages, in any fragments, in any chunks.

use super::*;
use crate::ws::deflate::{Deflater, strip_tail};

/// A message, and how it travels.
#[derive(Debug, Clone)]
struct Sent {
    message: Message<'static>,
    fragment_lens: Vec<usize>,
    compressed: bool,
    /// Sent behind every fragment but the last.
    control: Option<Message<'static>>,
    key: [u8; 4],
}

fn sent() -> impl Strategy<Value = Sent> {
    let data = prop_oneof![
        "\\PC{0,200}".prop_map(|text| Message::Text(text.into())),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|data| Message::Binary(data.into())),
        (any::<u8>(), 0_usize..70_000)
            .prop_map(|(byte, len)| Message::Binary(vec![byte; len].into())),
    ];
    let control =
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..=125)).prop_map(|(ping, payload)| {
            if ping { Message::Ping(payload.into()) } else { Message::Pong(payload.into()) }
        });
    let fragment_lens = prop::collection::vec(0_usize..300, 0..4);
    (data, fragment_lens, any::<bool>(), prop::option::of(control), any::<[u8; 4]>()).prop_map(
        |(message, fragment_lens, compressed, control, key)| Sent {
            message,
            fragment_lens,
            compressed,
            control,
            key,
        },
    )
}

impl Sent {
    /// Writes the frames and notes the messages in the order in which they become whole.
    fn write(&self, role: Role, out: &mut Vec<u8>, expected: &mut Vec<Message<'static>>) {
        let key = (role == Role::Server).then_some(self.key);
        let (mut first_byte, mut payload) = match &self.message {
            Message::Text(text) => (0x01, text.as_bytes().to_vec()),
            Message::Binary(data) => (0x02, data.to_vec()),
            other => panic!("{other:?} is not a data message"),
        };
        if self.compressed {
            let plain = std::mem::take(&mut payload);
            Deflater::new(1).piece(&plain, &mut payload);
            strip_tail(&mut payload);
            first_byte |= 0x40;
        }
        let mut write = |first_byte: u8, payload: &[u8]| {
            let payload = payload.to_vec();
            RawFrame { first_byte, key, payload }.write(out);
        };
        let mut rest = &payload[..];
        for len in &self.fragment_lens {
            let (fragment, after) = rest.split_at((*len).min(rest.len()));
            rest = after;
            write(first_byte, fragment);
            first_byte = 0x00;
            match &self.control {
                Some(Message::Ping(payload)) => write(0x89, payload),
                Some(Message::Pong(payload)) => write(0x8A, payload),
                _ => {}
            }
            expected.extend(self.control.clone());
        }
        write(0x80 | first_byte, rest);
        expected.push(self.message.clone());
    }
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_any_fragments_and_any_chunks(
        role in role(),
        sent in prop::collection::vec(sent(), 1..4),
        chunk_lens in prop::collection::vec(1_usize..500, 0..4),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for sent in &sent {
            sent.write(role, &mut bytes, &mut expected);
        }
        let decoder = Decoder::new(role, true);
        prop_assert_eq!(read_in_chunks(decoder, &bytes, &chunk_lens), (expected, None));
    }

    #[test]
    fn it_does_not_matter_where_input_is_split(bytes in client_bytes()) {
        let whole = read_in_chunks(server(), &bytes, &[]);
        prop_assert_eq!(&read_in_chunks(server(), &bytes, &[1]), &whole);
        for at in 1..bytes.len() {
            prop_assert_eq!(&read_in_chunks(server(), &bytes, &[at, bytes.len()]), &whole);
        }
    }

    #[test]
    fn it_does_not_matter_what_is_held_and_when(
        bytes in client_bytes(),
        steps in prop::collection::vec((1_usize..30, 0_usize..4), 1..10),
    ) {
        let mut decoder = server();
        let mut inflater = Inflater::new();
        let mut outcome: Outcome = (Vec::new(), None);
        #[expect(clippy::mut_mut, reason = "it passes on the decoder's own cursor")]
        let mut read = |decoder: &mut Decoder, input: &mut &mut [u8]| {
            match decoder.next(input, LIMIT, &mut inflater) {
                Ok(Some(message)) => outcome.0.push(message.into_owned()),
                Ok(None) => return false,
                Err(error) => outcome.1 = Some(error),
            }
            true
        };
        let mut rest = &bytes[..];
        for (chunk_len, messages_wanted) in steps.iter().cycle() {
            let (chunk, after) = rest.split_at((*chunk_len).min(rest.len()));
            rest = after;
            let mut chunk = chunk.to_vec();
            let mut input = &mut chunk[..];
            for _ in 0..*messages_wanted {
                read(&mut decoder, &mut input);
            }
            decoder.hold(input);
            if rest.is_empty() {
                break;
            }
        }
        while read(&mut decoder, &mut <&mut [u8]>::default()) {}
        prop_assert!(!decoder.has_held());
        prop_assert_eq!(outcome, read_in_chunks(server(), &bytes, &[]));
    }
}
