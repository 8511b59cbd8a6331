//! Conflation: of each key at most one message per interval, always ending with the latest.
//!
//! All subscribers of a destination on one worker share its ticks and its latest publications. The
//! first publication of a key passes at once and opens the key's window; later ones replace each
//! other until a tick behind the window's end passes the latest and opens it anew. Who can't take
//! what passes, since its socket is full, is *behind*: of it is only noted how far it has come, and
//! at a later tick it is given the latest of every key beyond that.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use fanlight_proto::Destination;
use slab::Slab;

use crate::broker::Channel;
use crate::hub::{SessionKey, SubscriptionKey};
use crate::publication::{Publication, SessionId};

/// How the destinations of a namespace are conflated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflate {
    /// A subscriber gets one message of a key in so many milliseconds.
    pub interval_ms: u64,
    /// The header whose value is the key beside the destination; publications without it have one
    /// key together. `None`: the destination alone is the key.
    pub key_header: Option<Box<str>>,
}

/// What one worker conflates.
#[derive(Debug)]
pub struct Conflation {
    feeds: Slab<Feed>,
    by_destination: HashMap<Destination, usize, foldhash::quality::RandomState>,
    /// When each feed is to be looked at: one entry for each.
    ticks: BinaryHeap<Reverse<(u64, usize)>>,
    /// Where each session is behind.
    behind: HashMap<SessionKey, Vec<(usize, SubscriptionKey)>, foldhash::fast::RandomState>,
    used_bytes: usize,
    max_bytes: usize,
    counts: Counts,
}

/// What was counted since it was last asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Publications that a later one replaced before anybody got them.
    pub replaced: u64,
    /// Messages that subscribers who were behind did not get, since a later one replaced them.
    pub skipped: u64,
    /// Publications that passed as they were, for want of room.
    pub unconflated: u64,
}

/// What becomes of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It passes now.
    Passes,
    /// It waits for its tick, unless a later one replaces it.
    Waits,
    /// There is no room for it: it passes as where nothing is conflated.
    Unconflated,
}

/// What a tick of one destination passes.
#[derive(Debug)]
pub struct Tick {
    /// Where it came.
    pub channel: Channel,
    /// The destination.
    pub destination: Destination,
    /// The latest of each key whose time it is, in the order they came.
    pub publications: Vec<Arc<Publication>>,
    /// How far they were before: who is behind from here on has come so far.
    pub passed_before: u64,
    /// Who has been behind since before, and how far each has come.
    pub behind: Vec<(SessionKey, SubscriptionKey, u64)>,
}

/// One destination.
#[derive(Debug)]
struct Feed {
    channel: Channel,
    destination: Destination,
    interval_ms: u64,
    windows: HashMap<Key, Window, foldhash::quality::RandomState>,
    behind: HashMap<SubscriptionKey, Behind, foldhash::fast::RandomState>,
    /// How many have come, and how many have passed.
    arrived: u64,
    passed: u64,
}

/// What replaces each other: of one key, for the same sessions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    text: Option<Box<str>>,
    only_for: Option<SessionId>,
}

#[derive(Debug)]
struct Window {
    latest: Arc<Publication>,
    /// In which order it came.
    arrived: u64,
    /// In which order it, or the one before it, passed.
    passed: u64,
    /// Whether the latest has not passed.
    waits: bool,
    /// When another may pass.
    until_ms: u64,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Behind {
    session: SessionKey,
    /// What passed up to here it has got.
    passed: u64,
}

impl Conflation {
    /// It keeps no more than `max_bytes`, roughly.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            feeds: Slab::new(),
            by_destination: HashMap::default(),
            ticks: BinaryHeap::new(),
            behind: HashMap::default(),
            used_bytes: 0,
            max_bytes,
            counts: Counts::default(),
        }
    }

    /// Takes a publication that has come on `channel`.
    pub fn offer(
        &mut self,
        channel: &Channel,
        publication: &Arc<Publication>,
        conflate: &Conflate,
        now_ms: u64,
    ) -> Offered {
        let key = Key::of(publication, conflate);
        let bytes = WINDOW_BYTES
            + publication.encoded_bytes()
            + key.text.as_ref().map_or(0, |text| text.len());
        let known = self.by_destination.get(&publication.destination).copied();
        let window = known.and_then(|at| self.feeds[at].windows.get(&key));
        let before_bytes = window.map_or(0, |window| window.bytes);
        if self.used_bytes - before_bytes + bytes + FEED_BYTES > self.max_bytes {
            self.counts.unconflated += 1;
            if let Some(at) = known {
                self.drop_window(at, &key);
            }
            return Offered::Unconflated;
        }
        let at = known.unwrap_or_else(|| self.open(channel, publication, conflate, now_ms));
        self.used_bytes = self.used_bytes - before_bytes + bytes;
        let feed = &mut self.feeds[at];
        feed.arrived += 1;
        let (arrived, latest) = (feed.arrived, Arc::clone(publication));
        if let Some(window) = feed.windows.get_mut(&key) {
            if window.waits || window.until_ms > now_ms {
                self.counts.replaced += u64::from(window.waits);
                *window = Window { latest, arrived, waits: true, bytes, ..*window };
                return Offered::Waits;
            }
            let passed = window.passed;
            let skip = |behind: &&Behind| behind.passed < passed;
            self.counts.skipped += feed.behind.values().filter(skip).count() as u64;
        }
        feed.passed += 1;
        let until_ms = now_ms + feed.interval_ms;
        let window = Window { latest, arrived, passed: feed.passed, waits: false, until_ms, bytes };
        feed.windows.insert(key, window);
        Offered::Passes
    }

    /// When the next tick is due, in monotonic milliseconds.
    pub fn next_tick_ms(&self) -> Option<u64> {
        self.ticks.peek().map(|Reverse((due_ms, _))| *due_ms)
    }

    /// The tick of a destination that is due, if one is. What it passes counts as passed.
    pub fn tick(&mut self, now_ms: u64) -> Option<Tick> {
        let &Reverse((due_ms, at)) = self.ticks.peek()?;
        if due_ms > now_ms {
            return None;
        }
        self.ticks.pop();
        let feed = &mut self.feeds[at];
        let passed_before = feed.passed;
        self.counts.skipped += feed.skipped(now_ms);
        let publications = feed.pass(now_ms);
        let oldest = feed.behind.values().map(|behind| behind.passed).min();
        let mut dropped_bytes = 0;
        feed.windows.retain(|_, window| {
            if !window.waits && oldest.is_some_and(|oldest| oldest < window.passed) {
                // Who is behind may get it now, and the next one no sooner than others.
                window.until_ms = now_ms + feed.interval_ms;
            }
            let stays = window.waits || window.until_ms > now_ms;
            dropped_bytes += if stays { 0 } else { window.bytes };
            stays
        });
        let behind = feed.behind.iter().map(|(&key, one)| (one.session, key, one.passed)).collect();
        let (channel, destination) = (feed.channel.clone(), feed.destination.clone());
        if feed.windows.is_empty() {
            let feed = self.feeds.remove(at);
            self.by_destination.remove(&feed.destination);
            dropped_bytes += FEED_BYTES + feed.behind.len() * BEHIND_BYTES;
            for (key, Behind { session, .. }) in feed.behind {
                forget_one(&mut self.behind, session, at, key);
            }
        } else {
            self.ticks.push(Reverse((now_ms + feed.interval_ms, at)));
        }
        self.used_bytes -= dropped_bytes;
        Some(Tick { channel, destination, publications, passed_before, behind })
    }

    /// How many publications of a destination have passed.
    pub fn passed(&self, destination: &Destination) -> u64 {
        self.feed(destination).map_or(0, |feed| feed.passed)
    }

    /// Notes that a subscriber could not take what passed after the first `passed`; `false` where
    /// there is no room even for that.
    pub fn fall_behind(
        &mut self,
        destination: &Destination,
        session: SessionKey,
        subscription: SubscriptionKey,
        passed: u64,
    ) -> bool {
        let Some(&at) = self.by_destination.get(destination) else { return false };
        let has_room = self.used_bytes + BEHIND_BYTES <= self.max_bytes;
        let behind = Behind { session, passed };
        match self.feeds[at].behind.entry(subscription) {
            Entry::Vacant(_) if !has_room => return false,
            Entry::Vacant(vacant) => {
                vacant.insert(behind);
                self.used_bytes += BEHIND_BYTES;
            }
            // It takes no more room than before.
            Entry::Occupied(mut occupied) => {
                let before = occupied.insert(behind);
                if before.session == session {
                    return true;
                }
                forget_one(&mut self.behind, before.session, at, subscription);
            }
        }
        self.behind.entry(session).or_default().push((at, subscription));
        true
    }

    /// Whether a subscriber is behind at a destination.
    pub fn is_behind(
        &self,
        destination: &Destination,
        session: SessionKey,
        subscription: SubscriptionKey,
    ) -> bool {
        !self.behind.is_empty()
            && self.feed(destination).is_some_and(|feed| {
                feed.behind.get(&subscription).is_some_and(|behind| behind.session == session)
            })
    }

    /// The latest of what has passed at a destination after the first `passed`, each with how many
    /// had passed then, in order.
    pub fn missed(&self, destination: &Destination, passed: u64) -> Vec<(u64, Arc<Publication>)> {
        let Some(feed) = self.feed(destination) else { return Vec::new() };
        let windows = feed.windows.values();
        let missed = windows.filter(|window| !window.waits && window.passed > passed);
        let mut missed: Vec<_> =
            missed.map(|window| (window.passed, Arc::clone(&window.latest))).collect();
        missed.sort_unstable_by_key(|(passed, _)| *passed);
        missed
    }

    /// Notes that a subscriber who is behind has got what it missed.
    pub fn catch_up(&mut self, destination: &Destination, subscription: SubscriptionKey) {
        let Some(&at) = self.by_destination.get(destination) else { return };
        if let Some(Behind { session, .. }) = self.feeds[at].behind.remove(&subscription) {
            self.used_bytes -= BEHIND_BYTES;
            forget_one(&mut self.behind, session, at, subscription);
        }
    }

    /// Where a session is behind: the destination, the subscription, and how far it has come.
    pub fn behind_of(&self, session: SessionKey) -> Vec<(Destination, SubscriptionKey, u64)> {
        let all = self.behind.get(&session).into_iter().flatten();
        let known = all.filter_map(|&(at, key)| {
            let feed = self.feeds.get(at)?;
            let behind = feed.behind.get(&key)?;
            Some((feed.destination.clone(), key, behind.passed))
        });
        known.collect()
    }

    /// Forgets a session that has ended.
    pub fn forget(&mut self, session: SessionKey) {
        for (at, key) in self.behind.remove(&session).into_iter().flatten() {
            if let Some(feed) = self.feeds.get_mut(at)
                && feed.behind.remove(&key).is_some()
            {
                self.used_bytes -= BEHIND_BYTES;
            }
        }
    }

    /// How many bytes it keeps, roughly.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// What was counted since this was last called.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    fn feed(&self, destination: &Destination) -> Option<&Feed> {
        self.by_destination.get(destination).map(|&at| &self.feeds[at])
    }

    fn open(
        &mut self,
        channel: &Channel,
        publication: &Publication,
        conflate: &Conflate,
        now_ms: u64,
    ) -> usize {
        let destination = publication.destination.clone();
        let at = self.feeds.insert(Feed {
            channel: channel.clone(),
            destination: destination.clone(),
            interval_ms: conflate.interval_ms,
            windows: HashMap::default(),
            behind: HashMap::default(),
            arrived: 0,
            passed: 0,
        });
        self.by_destination.insert(destination, at);
        self.ticks.push(Reverse((now_ms + conflate.interval_ms, at)));
        self.used_bytes += FEED_BYTES;
        at
    }

    /// What would have replaced its latest passes by itself.
    fn drop_window(&mut self, at: usize, key: &Key) {
        if let Some(window) = self.feeds[at].windows.remove(key) {
            self.used_bytes -= window.bytes;
        }
    }
}

impl Feed {
    /// Lets pass what waits and whose time it is.
    fn pass(&mut self, now_ms: u64) -> Vec<Arc<Publication>> {
        let windows = self.windows.values_mut();
        let mut due: Vec<_> =
            windows.filter(|window| window.waits && window.until_ms <= now_ms).collect();
        due.sort_unstable_by_key(|window| window.arrived);
        for window in &mut due {
            self.passed += 1;
            window.passed = self.passed;
            window.waits = false;
            window.until_ms = now_ms + self.interval_ms;
        }
        due.into_iter().map(|window| Arc::clone(&window.latest)).collect()
    }

    /// How many messages those who are behind will not get, since what passes now replaces them.
    fn skipped(&self, now_ms: u64) -> u64 {
        if self.behind.is_empty() {
            return 0;
        }
        let mut behind: Vec<u64> = self.behind.values().map(|behind| behind.passed).collect();
        behind.sort_unstable();
        let due = self.windows.values().filter(|window| window.waits && window.until_ms <= now_ms);
        due.map(|window| behind.partition_point(|passed| *passed < window.passed) as u64).sum()
    }
}

impl Key {
    fn of(publication: &Publication, conflate: &Conflate) -> Self {
        let text = conflate.key_header.as_ref().and_then(|header| {
            let own = publication.headers.iter().find(|(name, _)| name == header);
            own.map(|(_, value)| value.clone())
        });
        Self { text, only_for: publication.only_for }
    }
}

fn forget_one(
    behind: &mut HashMap<SessionKey, Vec<(usize, SubscriptionKey)>, foldhash::fast::RandomState>,
    session: SessionKey,
    at: usize,
    subscription: SubscriptionKey,
) {
    if let Some(own) = behind.get_mut(&session) {
        own.retain(|one| *one != (at, subscription));
        if own.is_empty() {
            behind.remove(&session);
        }
    }
}

/// What each costs beside the publication's own bytes, roughly.
const WINDOW_BYTES: usize = 256;
const FEED_BYTES: usize = 512;
const BEHIND_BYTES: usize = 96;

#[cfg(test)]
mod tests;
