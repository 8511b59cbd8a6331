//! Commands as RESP arrays of bulk strings.

use std::io::Write;

use fanlight_engine::broker::Channel;
use fanlight_engine::publication::Publication;

use crate::envelope::{encode, encoded_bytes};
use crate::names::Names;

/// Appends a command of whole words.
pub(crate) fn words(words: &[&[u8]], out: &mut Vec<u8>) {
    begin(words.len(), out);
    for word in words {
        self::word(word, out);
    }
}

/// Appends the head of a command: this many words follow.
pub(crate) fn begin(words: usize, out: &mut Vec<u8>) {
    write!(out, "*{words}\r\n").expect("a Vec takes everything");
}

/// Appends one word.
pub(crate) fn word(word: &[u8], out: &mut Vec<u8>) {
    parts(&[word], out);
}

/// Appends a publication's envelope as one word.
pub(crate) fn envelope(publication: &Publication, out: &mut Vec<u8>) {
    write!(out, "${}\r\n", encoded_bytes(publication)).expect("a Vec takes everything");
    encode(publication, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends SUBSCRIBE or UNSUBSCRIBE of many channels.
pub(crate) fn channels(command: &str, channels: &[Channel], names: &Names, out: &mut Vec<u8>) {
    begin(channels.len() + 1, out);
    parts(&[command.as_bytes()], out);
    for channel in channels {
        parts(&names.of(channel), out);
    }
}

/// The PUBLISH of one publication to the channel of this name, in a single allocation.
pub(crate) fn publish(
    publication: &Publication,
    name: [&[u8]; 2],
    sharded_pubsub: bool,
) -> Vec<u8> {
    let envelope_bytes = encoded_bytes(publication);
    let name_bytes = name[0].len() + name[1].len();
    let mut out = Vec::with_capacity(PUBLISH_OVERHEAD_BYTES + name_bytes + envelope_bytes);
    begin(3, &mut out);
    parts(&[publish_word(sharded_pubsub)], &mut out);
    parts(&name, &mut out);
    envelope(publication, &mut out);
    out
}

/// What publishes.
pub(crate) fn publish_word(sharded_pubsub: bool) -> &'static [u8] {
    if sharded_pubsub { b"SPUBLISH" } else { b"PUBLISH" }
}

/// Appends one word, given in parts.
pub(crate) fn parts(parts: &[&[u8]], out: &mut Vec<u8>) {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    write!(out, "${bytes}\r\n").expect("a Vec takes everything");
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

/// Replaces each word of a whole command that is `old` by `new`.
pub(crate) fn replace(command: &mut Vec<u8>, old: &[u8], new: &[u8]) {
    let mut out = Vec::with_capacity(command.len());
    let mut rest = command.as_slice();
    let head = line(&mut rest);
    out.extend_from_slice(head);
    while !rest.is_empty() {
        let head = line(&mut rest);
        let digits = head.get(1..head.len().saturating_sub(2)).unwrap_or_default();
        let bytes = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        let (argument, after) = rest.split_at(bytes.unwrap_or(rest.len()).min(rest.len()));
        rest = after.get(2..).unwrap_or_default();
        let argument = if argument == old { new } else { argument };
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
    *command = out;
}

/// The next line, with its end.
fn line<'c>(rest: &mut &'c [u8]) -> &'c [u8] {
    let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
    let (line, after) = rest.split_at(end);
    *rest = after;
    line
}

/// `*3 $7 PUBLISH $nnnn $nnnnnnnnn` with their line ends, rounded up.
const PUBLISH_OVERHEAD_BYTES: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use fanlight_engine::publication::{ContentType, PublicationId};
    use uuid::Uuid;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        words(&[b"HELLO", b"3"], &mut out);
        assert_eq!(out, b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n");
        out.clear();
        let wanted = [Channel::of_destination("/topic/a".into())];
        channels("SUBSCRIBE", &wanted, &Names::new("fl:"), &mut out);
        assert_eq!(out, b"*2\r\n$9\r\nSUBSCRIBE\r\n$19\r\nfl:{111}:c:/topic/a\r\n");
    }

    #[test]
    fn a_publish_takes_one_allocation() {
        let publication = Publication {
            id: PublicationId(Uuid::nil()),
            destination: "/topic/a".parse().unwrap(),
            body: Bytes::from(vec![b'x'; 100_000]),
            content_type: ContentType::Json,
            headers: Box::default(),
            publisher: None,
            at_unix_ms: 0,
            position: None,
            only_for: None,
            except: None,
            is_json: false,
        };
        let channel = Channel::of_destination("/topic/a".into());
        let command = publish(&publication, Names::new("fl:").of(&channel), false);
        let start = b"*3\r\n$7\r\nPUBLISH\r\n$19\r\nfl:{111}:c:/topic/a\r\n$100035\r\n";
        assert!(command.starts_with(start) && command.ends_with(b"x\r\n"));
        assert!(command.capacity() <= command.len() + PUBLISH_OVERHEAD_BYTES);
    }

    #[test]
    fn a_word_is_replaced_where_it_is_the_whole_word() {
        let make = |id: &str| {
            let mut out = Vec::new();
            words(&[b"EVALSHA", b"a\r\n$2\r\nxx", b"", id.as_bytes(), b"end"], &mut out);
            out
        };
        let mut command = make("old");
        replace(&mut command, b"old", b"newer");
        assert_eq!(command, make("newer"));
        replace(&mut command, b"xx", b"never");
        assert_eq!(command, make("newer"));
    }
}
