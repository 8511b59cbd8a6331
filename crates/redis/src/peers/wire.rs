//! What nodes send each other for their peers: messages as bytes, without I/O.
//!
//! Each begins with the byte 0xff, which no text in UTF-8 has, so that they are told from orders,
//! also by nodes that know of orders only; then the version, 1, the kind, and the ask's number.
//!
//! | kind | what follows |
//! |---|---|
//! | 1 ask | asker (16), patience in milliseconds (4), worker (2), slot (4), serial (8), length of the claim's name (2), name, request |
//! | 2 answer | what came of it (1), answer |
//! | 3 cancel | asker (16) |
//! | 4 ask of a node | asker (16), patience in milliseconds (4), request |
//!
//! Integers are little endian. What can't be read is none: a later version may say more.

use std::time::Duration;

use bytes::{Buf, Bytes};
use fanlight_engine::broker::WorkerId;
use fanlight_engine::peers::{ClaimName, MESSAGE_MAX_BYTES, PeerError};
use fanlight_engine::registry::Handle;
use uuid::Uuid;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Ask(Ask),
    Answer {
        number: u64,
        outcome: Result<Bytes, PeerError>,
    },
    /// Nobody waits for the answer any more.
    Cancel {
        asker: Uuid,
        number: u64,
    },
}

/// A request for a session of the node that reads it, or for that node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    /// The process that asks.
    pub(super) asker: Uuid,
    /// Which of its asks this is.
    pub(super) number: u64,
    pub(super) patience: Duration,
    /// Which session.
    pub(super) session: Option<(ClaimName, Handle)>,
    pub(super) request: Bytes,
}

/// Whether a message to a node is one of these.
pub(crate) fn is_message(body: &[u8]) -> bool {
    body.first() == Some(&MAGIC)
}

impl Message {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = vec![MAGIC, VERSION];
        match self {
            Self::Ask(ask) => {
                let name = ask.session.as_ref().map_or("", |(name, _)| name.as_str());
                out.reserve(ASK_FIXED_BYTES + name.len() + ask.request.len());
                out.push(if ask.session.is_some() { ASK } else { ASK_NODE });
                out.extend_from_slice(&ask.number.to_le_bytes());
                out.extend_from_slice(ask.asker.as_bytes());
                let patience_ms = u32::try_from(ask.patience.as_millis()).unwrap_or(u32::MAX);
                out.extend_from_slice(&patience_ms.to_le_bytes());
                if let Some((_, Handle { worker, slot, serial })) = ask.session {
                    out.extend_from_slice(&worker.0.to_le_bytes());
                    out.extend_from_slice(&slot.to_le_bytes());
                    out.extend_from_slice(&serial.to_le_bytes());
                    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
                    out.extend_from_slice(name.as_bytes());
                }
                out.extend_from_slice(&ask.request);
            }
            Self::Answer { number, outcome } => {
                out.push(ANSWER);
                out.extend_from_slice(&number.to_le_bytes());
                out.push(code(outcome));
                out.extend_from_slice(outcome.as_deref().unwrap_or_default());
            }
            Self::Cancel { asker, number } => {
                out.push(CANCEL);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(asker.as_bytes());
            }
        }
        out
    }

    /// Anyone who can write to Redis can send anything, so nothing is trusted.
    pub(super) fn read(mut body: Bytes) -> Option<Self> {
        if body.try_get_u8().ok()? != MAGIC || body.try_get_u8().ok()? != VERSION {
            return None;
        }
        let kind = body.try_get_u8().ok()?;
        let number = body.try_get_u64_le().ok()?;
        match kind {
            ASK | ASK_NODE => {
                let asker = uuid(&mut body)?;
                let patience = Duration::from_millis(body.try_get_u32_le().ok()?.into());
                let session = if kind == ASK { Some(session(&mut body)?) } else { None };
                let request = within_bounds(body)?;
                Some(Self::Ask(Ask { asker, number, patience, session, request }))
            }
            ANSWER => {
                let code = body.try_get_u8().ok()?;
                let outcome = match code {
                    ANSWERED => Ok(within_bounds(body)?),
                    code => Err(error(code)),
                };
                Some(Self::Answer { number, outcome })
            }
            CANCEL => Some(Self::Cancel { asker: uuid(&mut body)?, number }),
            _ => None,
        }
    }
}

fn uuid(body: &mut Bytes) -> Option<Uuid> {
    let mut bytes = [0; 16];
    body.try_copy_to_slice(&mut bytes).ok()?;
    Some(Uuid::from_bytes(bytes))
}

fn session(body: &mut Bytes) -> Option<(ClaimName, Handle)> {
    let handle = Handle {
        worker: WorkerId(body.try_get_u16_le().ok()?),
        slot: body.try_get_u32_le().ok()?,
        serial: body.try_get_u64_le().ok()?,
    };
    let length = usize::from(body.try_get_u16_le().ok()?);
    if length > body.len() {
        return None;
    }
    let name = body.split_to(length);
    Some((ClaimName::from_escaped(std::str::from_utf8(&name).ok()?)?, handle))
}

fn within_bounds(body: Bytes) -> Option<Bytes> {
    (body.len() <= MESSAGE_MAX_BYTES).then_some(body)
}

fn code(outcome: &Result<Bytes, PeerError>) -> u8 {
    match outcome {
        Ok(_) => ANSWERED,
        Err(PeerError::Gone) => 1,
        Err(PeerError::TooLarge) => 2,
        Err(PeerError::Overloaded) => 3,
        Err(PeerError::Unavailable | PeerError::Timeout) => 4,
    }
}

fn error(code: u8) -> PeerError {
    match code {
        1 => PeerError::Gone,
        2 => PeerError::TooLarge,
        3 => PeerError::Overloaded,
        _ => PeerError::Unavailable,
    }
}

const MAGIC: u8 = 0xff;
const VERSION: u8 = 1;
const ASK: u8 = 1;
const ANSWER: u8 = 2;
const CANCEL: u8 = 3;
const ASK_NODE: u8 = 4;
const ANSWERED: u8 = 0;
/// An ask without name and request, rounded up.
const ASK_FIXED_BYTES: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask() -> impl Strategy<Value = Message> {
        let place = (any::<u16>(), any::<u32>(), any::<u64>());
        let session = prop::option::of((".{0,40}", place));
        let bytes = prop::collection::vec(any::<u8>(), 0..64);
        (any::<u128>(), any::<u64>(), any::<u32>(), session, bytes).prop_map(
            |(asker, number, patience_ms, session, request)| {
                let session = session.map(|(name, (worker, slot, serial))| {
                    let handle = Handle { worker: WorkerId(worker), slot, serial };
                    (ClaimName::new("test", &[&name]).unwrap(), handle)
                });
                Message::Ask(Ask {
                    asker: Uuid::from_u128(asker),
                    number,
                    patience: Duration::from_millis(patience_ms.into()),
                    session,
                    request: request.into(),
                })
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        let outcome = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64).prop_map(|bytes| Ok(bytes.into())),
            Just(Err(PeerError::Gone)),
            Just(Err(PeerError::TooLarge)),
            Just(Err(PeerError::Overloaded)),
            Just(Err(PeerError::Unavailable)),
        ];
        let answer = (any::<u64>(), outcome)
            .prop_map(|(number, outcome)| Message::Answer { number, outcome });
        let cancel = (any::<u128>(), any::<u64>())
            .prop_map(|(asker, number)| Message::Cancel { asker: Uuid::from_u128(asker), number });
        prop_oneof![ask(), answer, cancel]
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written_and_is_no_text(message in message()) {
            let written = message.write();
            prop_assert!(is_message(&written) && std::str::from_utf8(&written).is_err());
            prop_assert_eq!(Message::read(written.into()), Some(message));
        }

        #[test]
        fn hostile_bytes_are_read_without_harm_and_mean_nothing_more_than_they_say(
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
            as_ours in any::<bool>(),
        ) {
            if as_ours && bytes.len() > 2 {
                let kind = 1 + bytes[2] % 4;
                bytes[..3].copy_from_slice(&[MAGIC, VERSION, kind]);
            }
            if let Some(message) = Message::read(bytes.clone().into()) {
                prop_assert_eq!(Message::read(message.write().into()), Some(message));
            }
        }

        #[test]
        fn a_message_that_is_cut_is_none_or_a_shorter_one(
            message in message(),
            at in any::<prop::sample::Index>(),
        ) {
            let written = message.write();
            let cut = Message::read(written[..at.index(written.len())].to_vec().into());
            match (cut, message) {
                (None, _) => {}
                (Some(Message::Ask(cut)), Message::Ask(whole)) => {
                    prop_assert!(whole.request.starts_with(&cut.request));
                    prop_assert_eq!(Ask { request: whole.request, ..cut }.number, whole.number);
                }
                (Some(Message::Answer { outcome: Ok(cut), .. }), Message::Answer { outcome: Ok(whole), .. }) => {
                    prop_assert!(whole.starts_with(&cut));
                }
                (cut, whole) => prop_assert!(false, "{cut:?} of {whole:?}"),
            }
        }
    }

    #[test]
    fn what_is_too_long_or_of_another_kind_is_none() {
        let message = |kind: u8, rest: &[u8]| {
            let mut body = vec![MAGIC, VERSION, kind];
            body.extend_from_slice(&7_u64.to_le_bytes());
            body.extend_from_slice(rest);
            Message::read(body.into())
        };
        let answer = |bytes: usize| message(ANSWER, &vec![ANSWERED; 1 + bytes]);
        assert!(answer(MESSAGE_MAX_BYTES).is_some() && answer(MESSAGE_MAX_BYTES + 1).is_none());
        let unknown = Some(Message::Answer { number: 7, outcome: Err(PeerError::Unavailable) });
        assert_eq!(message(ANSWER, &[250, 1, 2, 3]), unknown);
        assert_eq!(message(9, &[0; 64]), None);
        let mut named = vec![0; 34];
        named.extend_from_slice(&600_u16.to_le_bytes());
        named.extend_from_slice(&[b'x'; 700]);
        assert_eq!(message(ASK, &named), None, "a longer name than any");
        for body in [&b""[..], b"\xff", b"\xff\x01", b"\xff\x02\x01", b"revoked"] {
            assert_eq!(Message::read(Bytes::copy_from_slice(body)), None);
        }
    }
}
