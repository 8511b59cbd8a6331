//! Envelopes: a publication as the bytes of one Redis message.
//!
//! Version 1:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | flags: bit 0 position, bit 1 publisher, bit 2 headers, bit 3 session, bits 4-5 content type, bit 6 the body is known to be JSON, bit 7 Fanlight's own word: a change of presence, or with content type 1 that the history was removed |
//! | 16 | publication id |
//! | 8 | time of acceptance, milliseconds since the Unix epoch |
//! | 16 | epoch and offset, if bit 0 |
//! | 16 | id of the only session that it is for, if bit 3 |
//! | text | destination |
//! | text | content type, if bits 4-5 are 3 (0 unspecified, 1 JSON, 2 plain text) |
//! | text | publisher, if bit 1 |
//! | count, texts | headers as name, value, ..., if bit 2 |
//! | the rest | body |
//!
//! Integers are little endian; a text is its length as a LEB128 `u32`, then UTF-8; a count is a
//! LEB128 `u32` too. No length allocates ahead of the data that it announces.
//!
//! Version 2 is what `publish.lua` makes of version 1 where a history is kept, since only Redis
//! knows the position: the byte 2, epoch and offset of 8 bytes each, then the whole version 1.

use std::hash::BuildHasher;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use fanlight_engine::publication::{ContentType, Publication, PublicationId, SessionId};
use fanlight_proto::{Destination, Position};
use foldhash::fast::FixedState;
use uuid::Uuid;

/// The version that this crate writes and reads.
pub const VERSION: u8 = 1;

/// The version with a position in front, which `publish.lua` writes.
pub const POSITIONED_VERSION: u8 = 2;

/// Bodies up to this many bytes are copied out of the read buffer; longer ones are slices of it.
pub const COPY_MAX_BYTES: usize = 2048;

/// Why bytes are not an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It ends before what it announces.
    #[error("the envelope ends before its {field} does")]
    Truncated {
        /// What was being read.
        field: &'static str,
    },
    /// Written by a newer node.
    #[error(
        "envelope version {version} is not known here; \
         this node reads versions {VERSION} and {POSITIONED_VERSION}"
    )]
    UnknownVersion {
        /// Its first byte.
        version: u8,
    },
    /// A length of more than 32 bits.
    #[error("the length of the envelope's {field} exceeds 32 bits")]
    BadLength {
        /// What was being read.
        field: &'static str,
    },
    /// A text that is not UTF-8.
    #[error("the envelope's {field} is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        field: &'static str,
    },
    /// A destination that no node would publish to.
    #[error("the envelope's destination is not one")]
    BadDestination,
}

/// Appends the envelope of `publication`; it takes exactly [`encoded_bytes`].
pub fn encode(publication: &Publication, out: &mut Vec<u8>) {
    let mut flags = content_type_code(&publication.content_type) << CONTENT_TYPE_SHIFT;
    flags |= u8::from(publication.position.is_some()) * POSITION;
    flags |= u8::from(publication.publisher.is_some()) * PUBLISHER;
    flags |= u8::from(!publication.headers.is_empty()) * HEADERS;
    flags |= u8::from(publication.only_for.is_some()) * SESSION;
    flags |= u8::from(publication.is_json) * IS_JSON;
    flags |= u8::from(publication.is_presence() || publication.is_removal()) * OURS;
    out.extend_from_slice(&[VERSION, flags]);
    out.extend_from_slice(publication.id.0.as_bytes());
    out.extend_from_slice(&publication.at_unix_ms.to_le_bytes());
    if let Some(position) = publication.position {
        out.extend_from_slice(&position.epoch.to_le_bytes());
        out.extend_from_slice(&position.offset.to_le_bytes());
    }
    if let Some(session) = publication.only_for {
        out.extend_from_slice(session.0.as_bytes());
    }
    put_text(publication.destination.as_str(), out);
    if let ContentType::Other(text) = &publication.content_type {
        put_text(text, out);
    }
    if let Some(publisher) = &publication.publisher {
        put_text(publisher, out);
    }
    if !publication.headers.is_empty() {
        put_length(publication.headers.len(), out);
        for (name, value) in &publication.headers {
            put_text(name, out);
            put_text(value, out);
        }
    }
    out.extend_from_slice(&publication.body);
}

/// How many bytes [`encode`] appends.
pub fn encoded_bytes(publication: &Publication) -> usize {
    let text = |text: &str| length_bytes(text.len()) + text.len();
    let mut bytes = FIXED_BYTES + text(publication.destination.as_str()) + publication.body.len();
    if publication.position.is_some() {
        bytes += 16;
    }
    if publication.only_for.is_some() {
        bytes += 16;
    }
    if let ContentType::Other(other) = &publication.content_type {
        bytes += text(other);
    }
    if let Some(publisher) = &publication.publisher {
        bytes += text(publisher);
    }
    if !publication.headers.is_empty() {
        bytes += length_bytes(publication.headers.len());
        bytes +=
            publication.headers.iter().map(|(name, value)| text(name) + text(value)).sum::<usize>();
    }
    bytes
}

/// Reads one envelope. Anyone who can write to Redis can send anything, so nothing here is trusted
/// to be well formed. That the body is JSON is believed: only nodes write envelopes, and who forges
/// one can write in anybody's name anyhow.
pub fn decode(
    mut envelope: Bytes,
    destinations: &mut Destinations,
) -> Result<Publication, EnvelopeError> {
    let mut fields = Fields { rest: &envelope };
    let mut position = None;
    if fields.rest.first() == Some(&POSITIONED_VERSION) {
        fields.fixed::<1>("version")?;
        position = Some(fields.position()?);
    }
    let [version, flags] = *fields.fixed::<2>("version")?;
    if version != VERSION {
        return Err(EnvelopeError::UnknownVersion { version });
    }
    let id = PublicationId(Uuid::from_bytes(*fields.fixed("id")?));
    let at_unix_ms = fields.u64("time")?;
    if flags & POSITION != 0 {
        let own = fields.position()?;
        position = position.or(Some(own));
    }
    let only_for = match flags & SESSION {
        0 => None,
        _ => Some(SessionId(Uuid::from_bytes(*fields.fixed("session")?))),
    };
    let destination = destinations.parse(fields.bytes("destination")?)?;
    let content_type = match flags >> CONTENT_TYPE_SHIFT & 3 {
        0 if flags & OURS != 0 => ContentType::Presence,
        0 => ContentType::Unspecified,
        1 if flags & OURS != 0 => ContentType::HistoryRemoved,
        1 => ContentType::Json,
        2 => ContentType::Text,
        _ => ContentType::from(fields.text("content type")?),
    };
    let publisher = match flags & PUBLISHER {
        0 => None,
        _ => Some(Arc::from(fields.text("publisher")?)),
    };
    let headers = match flags & HEADERS {
        0 => Box::default(),
        _ => fields.headers()?,
    };
    let body = match fields.rest {
        short if short.len() <= COPY_MAX_BYTES => Bytes::copy_from_slice(short),
        long => {
            let at = envelope.len() - long.len();
            envelope.advance(at);
            envelope
        }
    };
    Ok(Publication {
        id,
        destination,
        body,
        content_type,
        headers,
        publisher,
        at_unix_ms,
        position,
        only_for,
        is_json: flags & IS_JSON != 0,
    })
}

/// Destinations seen lately, so that reading one again costs no check and no allocation.
///
/// A fixed table of one entry per slot: a collision only means parsing again.
#[derive(Debug)]
pub struct Destinations {
    slots: Box<[Option<Destination>]>,
    hasher: FixedState,
}

impl Destinations {
    /// An empty table; takes 24 KiB.
    pub fn new() -> Self {
        Self::with_slots(DESTINATION_SLOTS)
    }

    /// For what is all of one destination.
    pub(crate) fn one() -> Self {
        Self::with_slots(1)
    }

    fn with_slots(slots: usize) -> Self {
        Self { slots: vec![None; slots].into(), hasher: FixedState::default() }
    }

    fn parse(&mut self, text: &[u8]) -> Result<Destination, EnvelopeError> {
        let at = self.hasher.hash_one(text) as usize % self.slots.len();
        let slot = &mut self.slots[at];
        match slot {
            Some(known) if known.as_str().as_bytes() == text => Ok(known.clone()),
            _ => {
                let destination: Destination = std::str::from_utf8(text)
                    .map_err(|_| EnvelopeError::NotUtf8 { field: "destination" })?
                    .parse()
                    .map_err(|_| EnvelopeError::BadDestination)?;
                *slot = Some(destination.clone());
                Ok(destination)
            }
        }
    }
}

impl Default for Destinations {
    fn default() -> Self {
        Self::new()
    }
}

/// Names and values, as a publication holds them.
type Headers = Box<[(Box<str>, Box<str>)]>;

struct Fields<'e> {
    rest: &'e [u8],
}

impl<'e> Fields<'e> {
    fn fixed<const N: usize>(&mut self, field: &'static str) -> Result<&'e [u8; N], EnvelopeError> {
        let (taken, rest) =
            self.rest.split_first_chunk().ok_or(EnvelopeError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, EnvelopeError> {
        self.fixed(field).map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn position(&mut self) -> Result<Position, EnvelopeError> {
        Ok(Position { epoch: self.u64("epoch")?, offset: self.u64("offset")? })
    }

    fn length(&mut self, field: &'static str) -> Result<usize, EnvelopeError> {
        let mut length = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = *self.fixed::<1>(field)?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && byte > 0x0f {
                return Err(EnvelopeError::BadLength { field });
            }
            length |= bits << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(length as usize)
    }

    fn bytes(&mut self, field: &'static str) -> Result<&'e [u8], EnvelopeError> {
        let length = self.length(field)?;
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(EnvelopeError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn text(&mut self, field: &'static str) -> Result<&'e str, EnvelopeError> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| EnvelopeError::NotUtf8 { field })
    }

    fn headers(&mut self) -> Result<Headers, EnvelopeError> {
        let count = self.length("headers")?;
        // Each header takes two bytes at least.
        if count > self.rest.len() / 2 {
            return Err(EnvelopeError::Truncated { field: "headers" });
        }
        (0..count)
            .map(|_| Ok((self.text("header name")?.into(), self.text("header value")?.into())))
            .collect()
    }
}

fn content_type_code(content_type: &ContentType) -> u8 {
    match content_type {
        ContentType::Unspecified | ContentType::Presence => 0,
        ContentType::Json | ContentType::HistoryRemoved => 1,
        ContentType::Text => 2,
        ContentType::Other(_) => 3,
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put_length(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn put_length(length: usize, out: &mut Vec<u8>) {
    let mut rest = u32::try_from(length).expect("Redis takes no value of 4 GiB, nor do our limits");
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn length_bytes(length: usize) -> usize {
    match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

const POSITION: u8 = 1;
const PUBLISHER: u8 = 1 << 1;
const HEADERS: u8 = 1 << 2;
const SESSION: u8 = 1 << 3;
const CONTENT_TYPE_SHIFT: u8 = 4;
const IS_JSON: u8 = 1 << 6;
const OURS: u8 = 1 << 7;
const FIXED_BYTES: usize = 2 + 16 + 8;
const DESTINATION_SLOTS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Publication {
        Publication {
            id: PublicationId(Uuid::from_u128(7)),
            destination: "/topic/a".parse().unwrap(),
            body: Bytes::from_static(b"hello"),
            content_type: ContentType::Text,
            headers: Box::default(),
            publisher: Some("ann".into()),
            at_unix_ms: 1_700_000_000_000,
            position: None,
            only_for: None,
            is_json: false,
        }
    }

    fn encoded(publication: &Publication) -> Vec<u8> {
        let mut out = Vec::new();
        encode(publication, &mut out);
        out
    }

    /// As `publish.lua` makes it.
    fn positioned(position: Position, envelope: &[u8]) -> Vec<u8> {
        let (epoch, offset) = (position.epoch.to_le_bytes(), position.offset.to_le_bytes());
        [&[POSITIONED_VERSION][..], &epoch, &offset, envelope].concat()
    }

    fn decoded(bytes: &[u8]) -> Result<Publication, EnvelopeError> {
        decode(Bytes::copy_from_slice(bytes), &mut Destinations::new())
    }

    #[test]
    fn the_header_of_a_plain_publication_is_39_bytes() {
        let publication = sample();
        assert_eq!(encoded(&publication).len(), 39 + publication.body.len());
    }

    #[test]
    fn no_content_type_makes_a_message_a_change_of_presence() {
        let change = Publication { content_type: ContentType::Presence, ..sample() };
        assert_eq!(decoded(&encoded(&change)), Ok(change));
        for text in ["application/json", "presence", ""] {
            let message = Publication { content_type: text.into(), ..sample() };
            assert!(!decoded(&encoded(&message)).unwrap().is_presence(), "{text}");
        }
    }

    #[test]
    fn a_short_body_is_copied_and_a_long_one_is_a_slice() {
        for (bytes, sliced) in [(COPY_MAX_BYTES, false), (COPY_MAX_BYTES + 1, true)] {
            let publication = Publication { body: vec![1; bytes].into(), ..sample() };
            let envelope = Bytes::from(encoded(&publication));
            let range = envelope.as_ptr_range();
            let body = decode(envelope, &mut Destinations::new()).unwrap().body;
            assert_eq!(range.contains(&body.as_ptr()), sliced, "{bytes}");
        }
    }

    #[test]
    fn what_is_not_an_envelope_says_why() {
        use EnvelopeError as E;
        let good = encoded(&sample());
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            decoded(&bytes)
        };
        assert_eq!(decoded(b""), Err(E::Truncated { field: "version" }));
        assert_eq!(with(0, 3), Err(E::UnknownVersion { version: 3 }));
        assert_eq!(with(26, 0x7f), Err(E::Truncated { field: "destination" }));
        assert_eq!(with(27, b'!'), Err(E::BadDestination));
        assert_eq!(with(27, 0xff), Err(E::NotUtf8 { field: "destination" }));
        assert_eq!(decoded(&good[..30]), Err(E::Truncated { field: "destination" }));
    }

    #[test]
    fn a_position_in_front_stands_once_and_before_the_whole_of_version_1() {
        let position = Position { epoch: 1, offset: 2 };
        let once = positioned(position, &encoded(&sample()));
        let twice = positioned(position, &once);
        assert_eq!(decoded(&twice), Err(EnvelopeError::UnknownVersion { version: 2 }));
        for cut in 1..17 {
            assert!(matches!(decoded(&once[..cut]), Err(EnvelopeError::Truncated { .. })));
        }
        assert_eq!(decoded(&once[..17]), Err(EnvelopeError::Truncated { field: "version" }));
    }

    #[test]
    fn a_length_of_more_than_32_bits_is_refused() {
        let mut bytes = encoded(&sample());
        bytes.splice(26..27, [0xff, 0xff, 0xff, 0xff, 0x1f]);
        let error = EnvelopeError::BadLength { field: "destination" };
        assert_eq!(decoded(&bytes), Err(error));
    }

    #[test]
    fn a_header_count_allocates_nothing_ahead_of_the_headers() {
        let publication = Publication {
            headers: [("a".into(), "b".into())].into(),
            body: Bytes::new(),
            ..sample()
        };
        let mut bytes = encoded(&publication);
        let count_at = bytes.len() - 5;
        bytes.splice(count_at..=count_at, [0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(decoded(&bytes), Err(EnvelopeError::Truncated { field: "headers" }));
    }

    fn publications() -> impl Strategy<Value = Publication> {
        let text = || "\\PC{0,20}";
        let content_type = prop_oneof![
            Just(String::new()),
            Just("application/json".to_owned()),
            Just("text/plain".to_owned()),
            "[a-z]{1,200}/[a-z]{1,20}",
        ];
        let destination = "/topic/[a-z.]{1,40}|/user/[a-z]{1,9}/queue/[a-z]{1,9}";
        let position = proptest::option::of((any::<u64>(), any::<u64>()));
        let headers = proptest::collection::vec((text(), text()), 0..5);
        let body = proptest::collection::vec(any::<u8>(), 0..5000);
        (
            (any::<u128>(), any::<u64>(), destination, content_type, any::<Option<u128>>()),
            (any::<bool>(), position, proptest::option::of(text()), headers, body),
        )
            .prop_map(|((id, at_unix_ms, destination, content_type, session), rest)| {
                let (is_json, position, publisher, headers, body) = rest;
                Publication {
                    id: PublicationId(Uuid::from_u128(id)),
                    destination: destination.parse().unwrap(),
                    body: body.into(),
                    content_type: ContentType::from(content_type.as_str()),
                    headers: headers
                        .into_iter()
                        .map(|(name, value)| (name.into(), value.into()))
                        .collect(),
                    publisher: publisher.map(Into::into),
                    at_unix_ms,
                    position: position.map(|(epoch, offset)| Position { epoch, offset }),
                    only_for: session.map(|id| SessionId(Uuid::from_u128(id))),
                    is_json,
                }
            })
    }

    proptest! {
        #[test]
        fn every_publication_survives_the_round_trip(publication in publications()) {
            let bytes = encoded(&publication);
            prop_assert_eq!(bytes.len(), encoded_bytes(&publication));
            prop_assert_eq!(decoded(&bytes), Ok(publication));
        }

        #[test]
        fn a_position_in_front_wins(publication in publications(), epoch: u64, offset: u64) {
            let position = Position { epoch, offset };
            let bytes = positioned(position, &encoded(&publication));
            let expected = Publication { position: Some(position), ..publication };
            prop_assert_eq!(decoded(&bytes), Ok(expected));
        }

        #[test]
        fn an_envelope_cut_in_its_header_is_refused(publication in publications(), at: prop::sample::Index) {
            let header = encoded(&publication).len() - publication.body.len();
            let bytes = encoded(&publication);
            prop_assert!(decoded(&bytes[..at.index(header)]).is_err());
        }
    }

    #[test]
    fn hostile_bytes_are_refused_or_read_and_never_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let plain = [&[VERSION], bytes].concat();
            let with_position = positioned(Position { epoch: 1, offset: 2 }, &plain);
            for envelope in [plain, with_position, [&[POSITIONED_VERSION], bytes].concat()] {
                if let Ok(publication) = decoded(&envelope) {
                    assert!(publication.body.len() < envelope.len());
                }
            }
            let _ = decoded(bytes);
        });
    }
}
