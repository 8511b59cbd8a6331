//! The calls of the relay's scripts, and what they answer. No I/O here.

use bytes::Bytes;
use fanlight_engine::history::History;
use fanlight_engine::publication::Publication;
use fanlight_proto::{Destination, Position};

use super::Place;
use crate::command;
use crate::envelope;
use crate::history::{self, BadAnswer, history_keys, new_epoch};
use crate::names::{Kind, Names, Partition};
use crate::resp3::Value;
use crate::scripts;
use crate::writer::Link;

/// What `relay_read.lua` found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// The newest position that there is.
    pub(super) top: Position,
    /// The offset after which the entries follow.
    pub(super) after: u64,
    pub(super) epoch: EpochOf,
    /// Publications that came after the asked position and are gone.
    pub(super) lost: u64,
    /// For how long the source keeps it still.
    pub(super) kept_ms: u64,
    /// Oldest first.
    pub(super) entries: Vec<Bytes>,
}

/// What became of the asked position's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EpochOf {
    /// It counts still.
    Known,
    /// It ended before that position: what is read follows where both agree.
    Forked,
    /// Nothing is known of it: what is read is all that there is.
    Unknown,
}

/// What `relay_publish.lua` did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it; so many went to the history only, as Redis refuses the channel.
    Published { refused: u64 },
    /// Nothing: a newer holder of the lease has been here.
    Fenced,
    /// Nothing: the position is this one.
    Elsewhere(Option<Position>),
}

/// One call of `relay_publish.lua`.
pub(super) struct Publish<'p> {
    pub(super) relay: &'p str,
    pub(super) place: &'p Place,
    pub(super) history: History,
    pub(super) token: u64,
    pub(super) from: Option<Position>,
    pub(super) to: Position,
    /// For how long the source keeps what it has of it.
    pub(super) kept_ms: u64,
    pub(super) publications: &'p [Publication],
    pub(super) sharded: bool,
}

/// The call of `relay_read.lua`.
pub(super) fn read(names: &Names, place: &Place, after: Option<Position>) -> Vec<u8> {
    let [meta, list] = history_keys(names, place.partition, place.permit.destination());
    let (entries, bytes) = (PAGE_ENTRIES.to_string(), PAGE_BYTES.to_string());
    let after = written(after);
    scripts::RELAY_READ.call(&[&meta, &list], &[&after, entries.as_bytes(), bytes.as_bytes()])
}

/// What it answered; `None` where there is no history.
pub(super) fn page(answer: Value) -> Result<Option<Page>, BadAnswer> {
    let Value::Array(elements) = answer else {
        return Err(BadAnswer);
    };
    if elements.is_empty() {
        return Ok(None);
    }
    let mut elements = elements.into_iter().map(|element| match element {
        Value::Bulk(bytes) => Ok(bytes),
        _ => Err(BadAnswer),
    });
    let mut next = || elements.next().unwrap_or(Err(BadAnswer));
    let top = history::position(&next()?)?;
    let after = number(&next()?)?;
    let epoch = match &next()?[..] {
        b"" => EpochOf::Known,
        b"forked" => EpochOf::Forked,
        b"epoch" => EpochOf::Unknown,
        _ => return Err(BadAnswer),
    };
    let (lost, kept_ms) = (number(&next()?)?, number(&next()?)?);
    let entries = elements.collect::<Result<_, _>>()?;
    Ok(Some(Page { top, after, epoch, lost, kept_ms, entries }))
}

/// The call of `relay_tops.lua`, for destinations of one partition with their known tops.
pub(super) fn tops(
    names: &Names,
    partition: Partition,
    known: &[(Destination, Option<Position>)],
) -> Vec<u8> {
    let keys: Vec<_> = known
        .iter()
        .map(|(destination, _)| {
            let [meta, _] = history_keys(names, partition, destination);
            meta
        })
        .collect();
    let tops: Vec<_> = known.iter().map(|(_, top)| written(*top)).collect();
    let keys: Vec<_> = keys.iter().map(Vec::as_slice).collect();
    let tops: Vec<_> = tops.iter().map(Vec::as_slice).collect();
    scripts::RELAY_TOPS.call(&keys, &tops)
}

/// What it answered of `count` destinations: the index of each with news, and whether it is gone.
pub(super) fn news(answer: Value, count: usize) -> Result<Vec<(usize, bool)>, BadAnswer> {
    let Value::Array(elements) = answer else {
        return Err(BadAnswer);
    };
    let index = |element: Value| {
        let Value::Integer(number) = element else {
            return Err(BadAnswer);
        };
        let at = usize::try_from(number.unsigned_abs()).map_err(|_| BadAnswer)?;
        let at = at.checked_sub(1).filter(|at| *at < count).ok_or(BadAnswer)?;
        Ok((at, number < 0))
    };
    elements.into_iter().map(index).collect()
}

/// The GET of the position up to which `destination` has been relayed.
pub(super) fn position(names: &Names, relay: &str, place: &Place) -> Vec<u8> {
    let mut out = Vec::new();
    command::words(&[b"GET", &position_key(names, relay, place)], &mut out);
    out
}

/// What that answered.
pub(super) fn position_found(answer: &Value) -> Result<Option<Position>, BadAnswer> {
    match answer {
        Value::Null => Ok(None),
        Value::Bulk(bytes) => history::position(bytes).map(Some),
        _ => Err(BadAnswer),
    }
}

impl Publish<'_> {
    /// The call of `relay_publish.lua`. Everything that it touches is in the channel's partition.
    pub(super) fn call(&self, names: &Names, link: &Link) -> Vec<u8> {
        let Place { permit, partition } = self.place;
        let [meta, list] = history_keys(names, *partition, permit.destination());
        let position = position_key(names, self.relay, self.place);
        let fence = names.key(*partition, FENCE, self.relay);
        let History { size, ttl_ms } = self.history;
        // For longer than anything of the source's history, so that nothing of it comes again.
        let lasts_ms = ttl_ms.saturating_mul(2).max(self.kept_ms);
        let keep_ms = lasts_ms.saturating_add(KEEP_MORE_MS);
        let envelopes: usize = self.publications.iter().map(envelope::encoded_bytes).sum();
        let mut out = Vec::with_capacity(CALL_OVERHEAD_BYTES + envelopes);
        scripts::RELAY_PUBLISH.begin(
            &[&meta, &list, &position, &fence],
            10 + self.publications.len(),
            &mut out,
        );
        command::word(command::publish_word(self.sharded), &mut out);
        command::parts(&names.within(*partition, permit.channel()), &mut out);
        command::word(link.replication_id().as_bytes(), &mut out);
        command::word(&new_epoch(), &mut out);
        for number in [u64::from(size), ttl_ms, self.token] {
            command::word(number.to_string().as_bytes(), &mut out);
        }
        command::word(&written(self.from), &mut out);
        command::word(&written(Some(self.to)), &mut out);
        command::word(keep_ms.to_string().as_bytes(), &mut out);
        for publication in self.publications {
            command::envelope(publication, &mut out);
        }
        out
    }
}

/// What `relay_publish.lua` answered.
pub(super) fn outcome(answer: &Value) -> Result<Outcome, BadAnswer> {
    let Value::Bulk(answer) = answer else {
        return Err(BadAnswer);
    };
    match answer.split_first() {
        Some((b'P', refused)) => Ok(Outcome::Published { refused: number(refused)? }),
        Some((b'F', [])) => Ok(Outcome::Fenced),
        Some((b'X', [])) => Ok(Outcome::Elsewhere(None)),
        Some((b'X', here)) => history::position(here).map(Some).map(Outcome::Elsewhere),
        _ => Err(BadAnswer),
    }
}

fn position_key(names: &Names, relay: &str, place: &Place) -> Vec<u8> {
    let text = format!("{relay}:{}", place.permit.destination());
    names.key(place.partition, POSITION, &text)
}

fn written(position: Option<Position>) -> Vec<u8> {
    position.map_or_else(Vec::new, |Position { epoch, offset }| {
        [epoch.to_le_bytes(), offset.to_le_bytes()].concat()
    })
}

fn number(digits: &[u8]) -> Result<u64, BadAnswer> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(BadAnswer)
}

/// Up to where a destination has been relayed.
const POSITION: Kind = Kind("relay-at");
/// The newest token that has published to a partition.
const FENCE: Kind = Kind("relay-fence");
/// A page ends after so many publications, or before the one that would exceed so many bytes.
pub(super) const PAGE_ENTRIES: usize = 256;
const PAGE_BYTES: usize = 256 << 10;
const KEEP_MORE_MS: u64 = 2 * 24 * 60 * 60 * 1000;
const CALL_OVERHEAD_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { epoch: 0xff00_0000_0000_0007, offset: 9 };

    fn bulk(bytes: &[u8]) -> Value {
        Value::Bulk(bytes.to_vec().into())
    }

    #[test]
    fn a_page_says_where_it_begins_and_what_is_missing_before() {
        let head = [bulk(&written(Some(AT))), bulk(b"7"), bulk(b"epoch"), bulk(b"3"), bulk(b"60")];
        let read = page(Value::Array([&head[..], &[bulk(b"a"), bulk(b"b")]].concat()));
        let entries = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
        let epoch = EpochOf::Unknown;
        let expected = Page { top: AT, after: 7, epoch, lost: 3, kept_ms: 60, entries };
        assert_eq!(read, Ok(Some(expected)));
        assert_eq!(page(Value::Array(Vec::new())), Ok(None));
        assert_eq!(page(Value::Array(head[..4].to_vec())), Err(BadAnswer));
        assert_eq!(page(Value::Null), Err(BadAnswer));
    }

    #[test]
    fn a_publish_was_done_or_fenced_or_began_elsewhere() {
        assert_eq!(outcome(&bulk(b"P2")), Ok(Outcome::Published { refused: 2 }));
        assert_eq!(outcome(&bulk(b"F")), Ok(Outcome::Fenced));
        assert_eq!(outcome(&bulk(b"X")), Ok(Outcome::Elsewhere(None)));
        let elsewhere = [&b"X"[..], &written(Some(AT))].concat();
        assert_eq!(outcome(&bulk(&elsewhere)), Ok(Outcome::Elsewhere(Some(AT))));
        for bad in [&b""[..], b"P", b"Pa", b"X1", b"Q"] {
            assert_eq!(outcome(&bulk(bad)), Err(BadAnswer), "{bad:?}");
        }
    }

    #[test]
    fn news_are_of_the_destinations_that_were_asked_for() {
        let answer = |numbers: &[i64]| {
            news(Value::Array(numbers.iter().copied().map(Value::Integer).collect()), 3)
        };
        assert_eq!(answer(&[1, -3]), Ok(vec![(0, false), (2, true)]));
        for bad in [0, 4, -4, i64::MIN] {
            assert_eq!(answer(&[bad]), Err(BadAnswer), "{bad}");
        }
    }
}
