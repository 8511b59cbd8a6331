//! The calls of `publish.lua` and `history.lua`, and what they answer. No I/O here.

use std::sync::Arc;

use bytes::Bytes;
use fanlight_engine::broker::{Channel, PublishError, Published, Reach};
use fanlight_engine::history::{
    ContentDigest, History, HistoryPage, HistoryQuery, HistoryRange, IdempotencyKey, Lost, Removed,
    removal,
};
use fanlight_engine::policy::RemovalPermit;
use fanlight_engine::publication::{Publication, PublicationId};
use fanlight_proto::{Destination, Position};
use sha1::{Digest, Sha1};
use uuid::Uuid;

use crate::command;
use crate::envelope::{self, Destinations};
use crate::names::{Kind, Names, Partition};
use crate::resp3::Value;
use crate::scripts;
use crate::writer::Link;

/// What is to be published by the script.
#[derive(Debug)]
pub(crate) struct Kept<'p> {
    pub(crate) publication: &'p Publication,
    /// That of the channel.
    pub(crate) partition: Partition,
    pub(crate) channel: &'p Channel,
    pub(crate) history: Option<History>,
    pub(crate) key: Option<&'p IdempotencyKey>,
    /// Whether channels are sharded, as in Redis Cluster.
    pub(crate) sharded: bool,
}

/// What a script answered is not what it can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a script gave an unexpected answer")]
pub(crate) struct BadAnswer;

impl Kept<'_> {
    /// The call of `publish.lua`. Everything that it touches is in the channel's partition.
    pub(crate) fn call(&self, names: &Names, link: &Link) -> Vec<u8> {
        let partition = self.partition;
        let destination = &self.publication.destination;
        let mut keys = Vec::with_capacity(3);
        if self.history.is_some() {
            keys.extend(history_keys(names, partition, destination));
        }
        if let Some(key) = self.key {
            keys.push(names.key(partition, ONCE, &once_text(destination, key)));
        }
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let arguments = if self.key.is_some() { 10 } else { 7 };
        let bytes = CALL_OVERHEAD_BYTES + envelope::encoded_bytes(self.publication);
        let mut out = Vec::with_capacity(bytes);
        scripts::PUBLISH.begin(&keys, arguments, &mut out);
        command::word(if self.sharded { b"SPUBLISH" } else { b"PUBLISH" }, &mut out);
        command::parts(&names.within(partition, self.channel), &mut out);
        command::envelope(self.publication, &mut out);
        match self.history {
            Some(history) => {
                command::word(link.replication_id().as_bytes(), &mut out);
                command::word(&new_epoch(), &mut out);
                command::word(history.size.to_string().as_bytes(), &mut out);
                command::word(history.ttl_ms.to_string().as_bytes(), &mut out);
            }
            None => (0..4).for_each(|_| command::word(b"", &mut out)),
        }
        if let Some(key) = self.key {
            command::word(self.publication.id.0.as_bytes(), &mut out);
            command::word(IdempotencyKey::WINDOW_MS.to_string().as_bytes(), &mut out);
            command::word(key.content.as_ref().map_or(&[][..], |content| &content.0), &mut out);
        }
        out
    }
}

/// What `publish.lua` answered to the publication `id`, whose key names `content`.
pub(crate) fn published(
    answer: &Value,
    id: PublicationId,
    content: Option<ContentDigest>,
) -> Result<Result<Published, PublishError>, BadAnswer> {
    let Value::Bulk(answer) = answer else {
        return Err(BadAnswer);
    };
    let (id, place, reach) = match answer.split_first() {
        Some((b'P', place)) => (id, place, Reach::Cluster),
        Some((b'D', first)) => {
            let (id, rest) = first.split_first_chunk().ok_or(BadAnswer)?;
            let (place, first) = apart(rest);
            if !ContentDigest::may_repeat(content, first) {
                return Ok(Err(PublishError::KeyReused));
            }
            (PublicationId(Uuid::from_bytes(*id)), place, Reach::Duplicate)
        }
        _ => return Err(BadAnswer),
    };
    let position = match place {
        [] => None,
        place => Some(position(place)?),
    };
    Ok(Ok(Published { id, position, reach }))
}

/// What is remembered of a publication with a key: its position, where there is one, and the digest
/// of its content, where that was known.
fn apart(remembered: &[u8]) -> (&[u8], Option<ContentDigest>) {
    match remembered.split_last_chunk() {
        Some((place, digest)) if matches!(place.len(), 0 | POSITION_BYTES) => {
            (place, Some(ContentDigest(*digest)))
        }
        _ => (remembered, None),
    }
}

/// The call of `history.lua`.
pub(crate) fn read(query: &HistoryQuery, names: &Names, link: &Link) -> Vec<u8> {
    let partition = Partition::of(query.channel.as_str());
    let [meta, list] = history_keys(names, partition, &query.destination);
    let History { size, ttl_ms } = query.history;
    let entries_max = query.limit.min(PAGE_PUBLICATIONS);
    let numbers = [size.to_string(), ttl_ms.to_string(), entries_max.to_string()];
    let [size, ttl_ms, entries_max] = numbers.each_ref().map(String::as_bytes);
    let (master, candidate) = (link.replication_id().as_bytes(), new_epoch());
    let bytes_max = PAGE_BYTES.to_string();
    let mut arguments = vec![master, &candidate, size, ttl_ms, entries_max, bytes_max.as_bytes()];
    let (epoch, number);
    match query.range {
        HistoryRange::Newest => {
            number = query.limit.to_string();
            arguments.push(number.as_bytes());
        }
        HistoryRange::After(position) => {
            epoch = position.epoch.to_le_bytes();
            number = position.offset.min(OFFSET_MAX).to_string();
            arguments.extend([b"", &epoch[..], number.as_bytes()]);
        }
    }
    scripts::HISTORY.call(&[&meta, &list], &arguments)
}

/// The call of `history_remove.lua`.
pub(crate) fn remove(permit: &RemovalPermit, names: &Names, link: &Link, sharded: bool) -> Vec<u8> {
    let (channel, destination) = (permit.channel(), permit.destination());
    let partition = Partition::of(channel.as_str());
    let [meta, list] = history_keys(names, partition, destination);
    let mut out = Vec::new();
    scripts::HISTORY_REMOVE.begin(&[&meta, &list], 6, &mut out);
    command::word(if sharded { b"SPUBLISH" } else { b"PUBLISH" }, &mut out);
    command::parts(&names.within(partition, channel), &mut out);
    command::envelope(&removal(destination.clone(), None), &mut out);
    command::word(link.replication_id().as_bytes(), &mut out);
    command::word(&new_epoch(), &mut out);
    command::word(permit.history().ttl_ms.to_string().as_bytes(), &mut out);
    out
}

/// What `history_remove.lua` answered.
pub(crate) fn removed(answer: &Value) -> Result<Removed, BadAnswer> {
    let Value::Array(parts) = answer else { return Err(BadAnswer) };
    let [Value::Bulk(top), Value::Integer(publications)] = &parts[..] else {
        return Err(BadAnswer);
    };
    Ok(Removed { position: position(top)?, publications: publications.unsigned_abs() })
}

/// What `history.lua` answered.
pub(crate) fn page(answer: Value) -> Result<HistoryPage, BadAnswer> {
    let Value::Array(elements) = answer else {
        return Err(BadAnswer);
    };
    let mut elements = elements.into_iter().map(|element| match element {
        Value::Bulk(bytes) => Ok(bytes),
        _ => Err(BadAnswer),
    });
    let mut next = || elements.next().unwrap_or(Err(BadAnswer));
    let top = position(&next()?)?;
    let lost = match &next()?[..] {
        b"" => None,
        b"epoch_changed" => Some(Lost::EpochChanged),
        b"too_old" => Some(Lost::TooOld),
        _ => return Err(BadAnswer),
    };
    let mut destinations = Destinations::one();
    let mut publications = Vec::with_capacity(elements.len());
    for entry in elements {
        let Some(publication) = follows(entry?, publications.last(), &mut destinations) else {
            // Something else writes here. What follows can't be given in whole.
            return Ok(HistoryPage { publications: Vec::new(), top, lost: Some(Lost::TooOld) });
        };
        publications.push(Arc::new(publication));
    }
    Ok(HistoryPage { publications, top, lost })
}

/// The publication of an entry, if it is the one after `last`.
fn follows(
    entry: Bytes,
    last: Option<&Arc<Publication>>,
    destinations: &mut Destinations,
) -> Option<Publication> {
    let publication = envelope::decode(entry, destinations).ok()?;
    let offset = publication.position?.offset;
    match last.and_then(|last| last.position) {
        Some(last) if last.offset.checked_add(1) != Some(offset) => None,
        _ => Some(publication),
    }
}

/// An epoch that no history has, should one have to begin.
pub(crate) fn new_epoch() -> [u8; 8] {
    rand::random()
}

pub(crate) fn history_keys(
    names: &Names,
    partition: Partition,
    destination: &Destination,
) -> [Vec<u8>; 2] {
    [META, LIST].map(|kind| names.key(partition, kind, destination.as_str()))
}

/// What names an idempotency key of one destination. It is hashed to be short, whatever clients
/// send; who finds two keys with one hash has found them among his own.
pub(crate) fn once_text(destination: &Destination, key: &IdempotencyKey) -> String {
    let mut hash = Sha1::new();
    hash.update((destination.as_str().len() as u64).to_le_bytes());
    hash.update(destination.as_str());
    hash.update(key.text.as_bytes());
    format!("{:x}", hash.finalize())
}

pub(crate) fn position(bytes: &[u8]) -> Result<Position, BadAnswer> {
    let (epoch, offset) = bytes.split_first_chunk().ok_or(BadAnswer)?;
    let offset = offset.try_into().map_err(|_| BadAnswer)?;
    Ok(Position { epoch: u64::from_le_bytes(*epoch), offset: u64::from_le_bytes(offset) })
}

const META: Kind = Kind("hm");
pub(crate) const LIST: Kind = Kind("hl");
const ONCE: Kind = Kind("once");
/// An epoch and an offset.
const POSITION_BYTES: usize = 16;
/// All of a call but its envelope, where names are of ordinary length.
const CALL_OVERHEAD_BYTES: usize = 512;
/// The most publications of one page; fewer than a RESP3 value may have elements.
const PAGE_PUBLICATIONS: u32 = 1024;
/// A page ends before the publication that would make it longer than this, unless it is the first.
pub(crate) const PAGE_BYTES: usize = 1 << 20;
/// Lua's numbers are exact up to here; there is no such offset.
const OFFSET_MAX: u64 = 1 << 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_a_publication_is_its_own_position_or_that_of_the_first() {
        let id = PublicationId(Uuid::from_u128(1));
        let first = PublicationId(Uuid::from_u128(2));
        let place = [[7, 0, 0, 0, 0, 0, 0, 0xff], [9, 0, 0, 0, 0, 0, 0, 0]].concat();
        let at = Some(Position { epoch: 0xff00_0000_0000_0007, offset: 9 });
        let content = ContentDigest([7; 8]);
        let answer =
            |parts: &[&[u8]]| published(&Value::Bulk(parts.concat().into()), id, Some(content));
        let expected = |id, position, reach| Ok(Ok(Published { id, position, reach }));
        assert_eq!(answer(&[b"P"]), expected(id, None, Reach::Cluster));
        assert_eq!(answer(&[b"P", &place]), expected(id, at, Reach::Cluster));
        let duplicate = [&b"D"[..], first.0.as_bytes(), &place];
        assert_eq!(answer(&duplicate[..2]), expected(first, None, Reach::Duplicate));
        assert_eq!(answer(&duplicate), expected(first, at, Reach::Duplicate));
        for place in [&[][..], &place[..]] {
            let remembered =
                |digest: &'static [u8]| [&duplicate[..2], &[place], &[digest]].concat();
            let at = at.filter(|_| !place.is_empty());
            assert_eq!(answer(&remembered(&[7; 8])), expected(first, at, Reach::Duplicate));
            assert_eq!(answer(&remembered(&[8; 8])), Ok(Err(PublishError::KeyReused)));
        }
        for bad in [&b""[..], b"P1", b"D", b"D12345", b"X"] {
            assert_eq!(answer(&[bad]), Err(BadAnswer), "{bad:?}");
        }
        assert_eq!(published(&Value::Integer(1), id, None), Err(BadAnswer));
    }

    #[test]
    fn a_page_with_a_foreign_or_missing_entry_is_lost_as_a_whole() {
        let entry = |offset: u8, rest: &[u8]| {
            let position = [[2].as_slice(), &[1; 8], &[offset, 0, 0, 0, 0, 0, 0, 0]].concat();
            Value::Bulk([&position[..], rest].concat().into())
        };
        let good = [&[1, 0], &[0; 24][..], b"\x08/topic/abody"].concat();
        let top = Value::Bulk([[1; 8], [3, 0, 0, 0, 0, 0, 0, 0]].concat().into());
        let read = |entries: &[Value]| {
            let head = [top.clone(), Value::Bulk(Bytes::new())];
            page(Value::Array([&head[..], entries].concat()))
        };
        let whole = read(&[entry(2, &good), entry(3, &good)]).unwrap();
        assert_eq!((whole.publications.len(), whole.lost, whole.is_last()), (2, None, true));
        for bad in [entry(3, b"foreign"), entry(4, &good), Value::Bulk(Bytes::from_static(&[1]))] {
            let page = read(&[entry(2, &good), bad]).unwrap();
            assert_eq!((page.publications.len(), page.lost), (0, Some(Lost::TooOld)));
        }
        let page = read(&[Value::Bulk(good.into())]).unwrap();
        assert_eq!(page.lost, Some(Lost::TooOld), "it has no position");
        assert_eq!(read(&[Value::Null]), Err(BadAnswer));
    }

    #[test]
    fn a_key_is_one_of_its_destination_and_of_fixed_length() {
        let text = |destination: &str, key: &str| {
            once_text(&destination.parse().unwrap(), &IdempotencyKey::new(key))
        };
        assert_ne!(text("/topic/a", "b"), text("/topic/ab", ""));
        assert_ne!(text("/topic/a", "b"), text("/topic/c", "b"));
        assert_eq!(text("/topic/a", &"x".repeat(100_000)).len(), 40);
    }
}
