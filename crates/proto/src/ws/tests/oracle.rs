//! The decoder against tungstenite, which is an independent reading of RFC 6455.

use std::io::{self, Cursor, Read, Write};

use proptest::prelude::*;
use tungstenite::protocol::{self, WebSocket, WebSocketConfig};

use super::{LIMIT, Outcome, client_bytes, read_in_chunks, server};
use crate::ws::{CloseFrame, Message, WsError};

/// A connection of which the peer's bytes are known; what we answer goes nowhere.
struct Recorded(Cursor<Vec<u8>>);

impl Read for Recorded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The messages up to the first close, error or end.
fn tungstenite_messages(bytes: &[u8]) -> Vec<Message<'static>> {
    let config =
        WebSocketConfig::default().max_frame_size(Some(LIMIT)).max_message_size(Some(LIMIT));
    let stream = Recorded(Cursor::new(bytes.to_vec()));
    let mut socket = WebSocket::from_raw_socket(stream, protocol::Role::Server, Some(config));
    let mut messages = Vec::new();
    while let Ok(message) = socket.read() {
        messages.push(match message {
            tungstenite::Message::Text(text) => Message::Text(text.as_str().to_owned().into()),
            tungstenite::Message::Binary(data) => Message::Binary(data.to_vec().into()),
            tungstenite::Message::Ping(data) => Message::Ping(data.to_vec().into()),
            tungstenite::Message::Pong(data) => Message::Pong(data.to_vec().into()),
            tungstenite::Message::Close(frame) => {
                messages.push(Message::Close(frame.map(|frame| CloseFrame {
                    code: frame.code.into(),
                    reason: frame.reason.as_str().to_owned(),
                })));
                break;
            }
            tungstenite::Message::Frame(_) => unreachable!("only ever written"),
        });
    }
    messages
}

/// Where tungstenite accepts what RFC 6455 forbids: lengths that are not in their shortest form
/// (§5.2), which with a control frame we take for too long ones (§5.5), and close codes that are
/// not allowed (§7.4), for which it gives out code 1002.
fn is_stricter_than_tungstenite(error: WsError) -> bool {
    use WsError::{BadLength, CloseCode, ControlTooLong};
    matches!(error, BadLength | ControlTooLong | CloseCode { .. })
}

/// The one message that tungstenite refuses and we don't: code 1014, registered with IANA (§11.7)
/// after RFC 6455.
fn is_unknown_to_tungstenite(message: &Message<'_>) -> bool {
    matches!(message, Message::Close(Some(CloseFrame { code: 1014, .. })))
}

fn check(bytes: &[u8], (messages, error): &Outcome) {
    let mut ours = &messages[..];
    let mut theirs = tungstenite_messages(bytes);
    if error.is_some_and(is_stricter_than_tungstenite) {
        theirs.truncate(ours.len());
    }
    if ours.last().is_some_and(is_unknown_to_tungstenite) {
        ours = &ours[..ours.len() - 1];
        theirs.truncate(ours.len());
    }
    assert_eq!(ours, theirs, "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_clients_bytes_are_read_as_tungstenite_reads_them(bytes in client_bytes()) {
        check(&bytes, &read_in_chunks(server(), &bytes, &[]));
    }

    #[test]
    fn arbitrary_bytes_are_read_as_tungstenite_reads_them(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        check(&bytes, &read_in_chunks(server(), &bytes, &[]));
    }
}
