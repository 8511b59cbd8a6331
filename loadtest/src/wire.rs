//! Bytes of a connection to messages and back: a head, then frames, events or answers.

mod http;

use anyhow::{Result, bail};
use fanlight_proto::ws::deflate::Inflater;
use fanlight_proto::ws::{self, Decoder, Message, Opcode, Role};

use crate::adapters::Framing;
pub use http::header;
use http::{Answers, Chunks};

/// The reading half of one connection.
pub enum Wire {
    /// The answer to the request that opens the connection.
    Head(Framing, Vec<u8>),
    /// Frames of a WebSocket.
    WebSocket(Decoder),
    /// Events in chunks.
    Events(Chunks, Vec<u8>),
    /// Answers to requests.
    Answers(Answers),
}

/// A handshake was answered, but not by what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the handshake was answered by {head}")]
pub struct Refused {
    head: String,
    /// How long the answer advises to stay away.
    pub after_ms: Option<u64>,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The connection is open.
    Opened,
    /// A message of the protocol: a text, an event, or an answer.
    Text(&'a str),
    /// A ping of the WebSocket, to be answered with the same payload.
    Ping(&'a [u8]),
}

impl Wire {
    /// Of a new connection.
    pub fn new(framing: Framing) -> Self {
        match framing {
            // There is nothing to open: each request has its answer.
            Framing::Answers => Self::Answers(Answers::default()),
            _ => Self::Head(framing, Vec::new()),
        }
    }

    /// Reads what has come.
    pub fn read(
        &mut self,
        mut input: &mut [u8],
        inflater: &mut Inflater,
        tell: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<()> {
        if let Self::Head(framing, head) = self {
            head.extend_from_slice(input);
            let Some(end) = http::end_of_head(head) else { return Ok(()) };
            let mut rest = head.split_off(end);
            *self = opened(*framing, head)?;
            tell(Piece::Opened)?;
            return self.read(&mut rest, inflater, tell);
        }
        match self {
            Self::Head(..) => Ok(()),
            Self::WebSocket(decoder) => {
                while let Some(message) = decoder.next(&mut input, usize::MAX, inflater)? {
                    match message {
                        Message::Text(text) => tell(Piece::Text(&text))?,
                        Message::Binary(bytes) => tell(Piece::Text(std::str::from_utf8(&bytes)?))?,
                        Message::Ping(payload) => tell(Piece::Ping(&payload))?,
                        Message::Pong(_) => {}
                        Message::Close(frame) => bail!("closed by the server: {frame:?}"),
                    }
                }
                Ok(())
            }
            Self::Events(chunks, unread) => {
                // What came before the end of the stream counts.
                let decoded = chunks.decode(input, unread);
                tell_events(unread, tell)?;
                decoded
            }
            Self::Answers(answers) => answers.read(input, tell),
        }
    }

    /// Appends a message to what is to be sent.
    pub fn write(&self, out: &mut Vec<u8>, message: &str) {
        match self {
            Self::WebSocket(_) => ws::frame_masked(out, Opcode::Text, message.as_bytes(), MASK),
            _ => out.extend_from_slice(message.as_bytes()),
        }
    }

    /// Appends the answer to a ping.
    pub fn write_pong(out: &mut Vec<u8>, payload: &[u8]) {
        ws::frame_masked(out, Opcode::Pong, payload, MASK);
    }
}

fn opened(framing: Framing, head: &[u8]) -> Result<Wire> {
    let head = String::from_utf8_lossy(head);
    let wanted = if framing == Framing::WebSocket { " 101 " } else { " 200 " };
    if !head.lines().next().is_some_and(|line| line.contains(wanted)) {
        let head = head.trim_end().to_owned();
        bail!(Refused { after_ms: retry_after_ms(&head), head });
    }
    Ok(match framing {
        Framing::WebSocket => Wire::WebSocket(Decoder::new(Role::Client, false)),
        _ => Wire::Events(Chunks::default(), Vec::new()),
    })
}

/// What `Retry-After` says in the head of an answer.
pub fn retry_after_ms(head: &str) -> Option<u64> {
    Some(header(head, "retry-after")?.parse::<u64>().ok()? * 1000)
}

/// Tells the events that are whole, and keeps the rest.
fn tell_events(unread: &mut Vec<u8>, tell: &mut dyn FnMut(Piece<'_>) -> Result<()>) -> Result<()> {
    let mut told = 0;
    while let Some(length) = unread[told..].windows(2).position(|pair| pair == b"\n\n") {
        tell(Piece::Text(std::str::from_utf8(&unread[told..told + length])?))?;
        told += length + 2;
    }
    unread.drain(..told);
    Ok(())
}

/// Masks protect proxies from browsers (RFC 6455 §10.3); this is neither.
const MASK: [u8; 4] = [1, 2, 3, 4];

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that is told of `bytes`, which come one by one.
    fn told(framing: Framing, bytes: &[u8]) -> Vec<String> {
        let mut wire = Wire::new(framing);
        let mut inflater = Inflater::new();
        let mut told = Vec::new();
        for &byte in bytes {
            let tell = &mut |piece: Piece<'_>| {
                told.push(format!("{piece:?}"));
                Ok(())
            };
            wire.read(&mut [byte], &mut inflater, tell).unwrap();
        }
        told
    }

    #[test]
    fn frames_follow_the_head() {
        let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n".to_vec();
        ws::frame(&mut bytes, Opcode::Text, b"one");
        ws::frame(&mut bytes, Opcode::Ping, b"!");
        assert_eq!(told(Framing::WebSocket, &bytes), ["Opened", r#"Text("one")"#, "Ping([33])"]);
    }

    #[test]
    fn events_are_cut_out_of_chunks() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            7\r\ndata: 1\r\n4\r\n\n\nda\r\n7\r\nta: 2\n\n\r\n";
        assert_eq!(
            told(Framing::Events, bytes),
            ["Opened", r#"Text("data: 1")"#, r#"Text("data: 2")"#]
        );
    }

    #[test]
    fn what_comes_with_the_end_of_the_stream_is_told_before_it() {
        let mut wire = Wire::new(Framing::Events);
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            9\r\ndata: 1\n\n\r\n0\r\n\r\n"
            .to_vec();
        let mut told = Vec::new();
        let read = wire.read(&mut bytes, &mut Inflater::new(), &mut |piece| {
            told.push(format!("{piece:?}"));
            Ok(())
        });
        assert!(read.is_err());
        assert_eq!(told, ["Opened", r#"Text("data: 1")"#]);
    }

    #[test]
    fn an_answer_is_its_head_and_as_many_bytes_as_it_says() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 503 No\r\n\
            Content-Length: 0\r\n\r\n";
        let told = told(Framing::Answers, bytes);
        assert_eq!(told.len(), 2);
        assert!(told[0].ends_with(r#"{}")"#) && told[1].contains("503"), "{told:?}");
    }

    #[test]
    fn a_refused_handshake_is_an_error_that_shows_it() {
        let mut wire = Wire::new(Framing::WebSocket);
        let mut answer = b"HTTP/1.1 401 Unauthorized\r\nRetry-After: 2\r\n\r\n".to_vec();
        let error = wire.read(&mut answer, &mut Inflater::new(), &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("401"), "{error}");
        assert_eq!(error.downcast::<Refused>().unwrap().after_ms, Some(2000));
    }
}
