//! What one shard of the memory broker keeps, and until when.

use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::broker::{Channel, Reach};
use crate::publication::{ContentType, PublicationId};

const MINUTE_MS: u64 = 60_000;

fn destination(text: &str) -> Destination {
    text.parse().unwrap()
}

fn publication(to: &str, id: u128) -> Publication {
    Publication {
        id: PublicationId(Uuid::from_u128(id)),
        destination: destination(to),
        body: Bytes::from_static(b"x"),
        content_type: ContentType::Text,
        headers: [].into(),
        publisher: None,
        at_unix_ms: 0,
        position: None,
        only_for: None,
        except: None,
        is_json: false,
    }
}

fn history(ttl_ms: u64) -> History {
    History { size: 100, ttl_ms }
}

fn key(text: &str) -> Key {
    (destination("/topic/keys"), IdempotencyKey::new(text))
}

/// Remembers a key unless it is known; whether it was not.
fn publish_once(logs: &mut Logs, text: &str, now_ms: u64) -> bool {
    logs.expire(now_ms);
    let is_new = logs.published(&key(text), now_ms).is_none();
    if is_new {
        let id = PublicationId(Uuid::from_u128(u128::from(now_ms)));
        let published = Published { id, position: None, reach: Reach::Cluster };
        logs.remember(key(text), published, now_ms);
    }
    is_new
}

fn publish(logs: &mut Logs, to: &str, ttl_ms: u64, now_ms: u64) -> Position {
    logs.expire(now_ms);
    let kept = logs.append(publication(to, 1), history(ttl_ms), || now_ms + 1, now_ms);
    kept.position.unwrap()
}

fn read(logs: &mut Logs, to: &str, ttl_ms: u64, range: HistoryRange, now_ms: u64) -> HistoryPage {
    logs.expire(now_ms);
    let query = HistoryQuery {
        channel: Channel::of_destination(to.into()),
        destination: destination(to),
        history: history(ttl_ms),
        range,
        limit: 100,
    };
    logs.read(&query, || now_ms + 1, now_ms)
}

#[test]
fn a_key_is_forgotten_after_its_window_whatever_histories_there_are() {
    let mut logs = Logs::default();
    publish(&mut logs, "/topic/a", 60 * MINUTE_MS, 0);
    assert!(publish_once(&mut logs, "k", 0));
    assert!(!publish_once(&mut logs, "k", IdempotencyKey::WINDOW_MS - 1));
    assert!(publish_once(&mut logs, "k", IdempotencyKey::WINDOW_MS));
}

#[test]
fn a_key_that_is_used_anew_is_remembered_for_its_whole_window() {
    let mut logs = Logs::default();
    let window_ms = IdempotencyKey::WINDOW_MS;
    // So many that the one of interest is not looked at when it is used anew.
    for n in 0..10 * LOOKS {
        assert!(publish_once(&mut logs, &n.to_string(), 0));
    }
    let last = (10 * LOOKS - 1).to_string();
    assert!(publish_once(&mut logs, &last, window_ms));
    for at_ms in window_ms..2 * window_ms {
        if at_ms % 1000 == 0 {
            assert!(!publish_once(&mut logs, &last, at_ms));
        }
    }
    assert_eq!((logs.keys.len(), logs.keys_due.len()), (1, 1));
}

#[test]
fn keys_do_not_pile_up_behind_a_history_that_is_kept_for_long() {
    let mut logs = Logs::default();
    publish(&mut logs, "/topic/a", 30 * 24 * 60 * MINUTE_MS, 0);
    for n in 0..10_000 {
        assert!(publish_once(&mut logs, &n.to_string(), n * 1000));
        assert!(logs.keys.len() as u64 <= IdempotencyKey::WINDOW_MS / 1000);
        assert_eq!(logs.keys.len(), logs.keys_due.len());
    }
}

#[test]
fn what_is_only_read_does_not_pile_up() {
    let mut logs = Logs::default();
    for n in 0..10_000_u64 {
        let name = format!("/topic/{n}");
        read(&mut logs, &name, MINUTE_MS, HistoryRange::Newest, n * MINUTE_MS);
        assert!(logs.histories.len() <= 10, "{}", logs.histories.len());
        assert_eq!(logs.histories.len(), logs.due.len());
    }
}

#[test]
fn epoch_and_top_outlive_the_publications_by_a_day_and_readers_extend_that() {
    let mut logs = Logs::default();
    let first = publish(&mut logs, "/topic/a", MINUTE_MS, 0);
    let before = Position { offset: 0, ..first };
    for now_ms in (MINUTE_MS..5 * DAY_MS).step_by(DAY_MS as usize) {
        let page = read(&mut logs, "/topic/a", MINUTE_MS, HistoryRange::After(first), now_ms);
        assert_eq!((page.publications.len(), page.top, page.lost), (0, first, None));
        let page = read(&mut logs, "/topic/a", MINUTE_MS, HistoryRange::After(before), now_ms);
        assert_eq!((page.top, page.lost), (first, Some(Lost::TooOld)));
    }
    let next = publish(&mut logs, "/topic/a", MINUTE_MS, 5 * DAY_MS);
    assert_eq!(next, Position { offset: 2, ..first });
    let last_ms = 5 * DAY_MS + MINUTE_MS + DAY_MS;
    let page = read(&mut logs, "/topic/a", MINUTE_MS, HistoryRange::After(next), last_ms);
    assert_eq!(page.lost, Some(Lost::EpochChanged));
}

#[test]
fn publications_go_with_their_time_also_where_nobody_asks_for_them() {
    let mut logs = Logs::default();
    let kept = |logs: &Logs| logs.histories[&destination("/topic/a")].publications.len();
    publish(&mut logs, "/topic/a", MINUTE_MS, 0);
    publish(&mut logs, "/topic/a", MINUTE_MS, 1000);
    logs.expire(MINUTE_MS);
    assert_eq!(kept(&logs), 2);
    logs.expire(MINUTE_MS + 1000);
    assert_eq!(kept(&logs), 0);
    // It is looked at a day later now, and sooner if something comes.
    publish(&mut logs, "/topic/a", MINUTE_MS, 2 * MINUTE_MS);
    assert_eq!((kept(&logs), logs.due.len()), (1, 1));
    logs.expire(3 * MINUTE_MS);
    assert_eq!(kept(&logs), 0);
    logs.expire(4 * MINUTE_MS + DAY_MS);
    assert!(logs.histories.is_empty() && logs.due.is_empty());
}
