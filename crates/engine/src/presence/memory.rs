//! Presence of a single node: kept in this process, published through its own broker.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fanlight_proto::Destination;
use fanlight_proto::native::{PresenceChange, PresenceMember};
use futures_util::future::BoxFuture;

use super::{
    CHANGE_MAX_BYTES, Member, MembersPage, MembersQuery, Place, Presence, PresenceError, Present,
};
use crate::broker::{Channel, MemoryBroker, WallClock};
use crate::ids::Ids;
use crate::publication::{ContentType, Publication};
use crate::time::Now;

/// Keeps presence in this process; for `--dev` and single nodes.
///
/// Changes wait until [`MemoryPresence::publish_changes`] is called, at an interval that its owner
/// keeps.
pub struct MemoryPresence {
    broker: Arc<MemoryBroker>,
    clock: WallClock,
    /// A change that names more members than this tells the count only.
    changes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Destinations are named by clients, so the hash is std's seeded and collision resistant one.
    rooms: HashMap<Destination, Room>,
    /// Those with changes that are not published, each once.
    changed: Vec<Destination>,
    ids: Ids,
}

/// One place with members, or with changes.
#[derive(Debug)]
struct Room {
    channel: Channel,
    members: HashMap<Member, Seat>,
    /// By the number of each member's seat: pages go by it, so nobody who stays is left out.
    seats: BTreeMap<u64, Member>,
    next_seat: u64,
    changes: Changes,
    /// Whether it is in `changed`.
    queued: bool,
}

#[derive(Debug)]
struct Seat {
    number: u64,
    sessions: u32,
}

/// What happened since the last change was published.
#[derive(Debug, Default)]
struct Changes {
    /// Whether each was a member when that was last told.
    before: HashMap<Member, bool>,
    truncated: bool,
}

impl MemoryPresence {
    /// Presence whose changes are delivered by `broker`; `seed` makes the ids of its publications
    /// its own.
    pub fn new(broker: Arc<MemoryBroker>, clock: WallClock, changes_max: usize, seed: u64) -> Self {
        let state = State { rooms: HashMap::new(), changed: Vec::new(), ids: Ids::new(seed) };
        Self { broker, clock, changes_max, state: Mutex::new(state) }
    }

    /// Publishes what has changed since the last call, one publication for each place.
    pub fn publish_changes(&self) {
        let unix_ms = (self.clock)();
        let now = Now { mono_ms: unix_ms, unix_ms };
        let mut state = self.state();
        for destination in std::mem::take(&mut state.changed) {
            let Some(room) = state.rooms.get_mut(&destination) else { continue };
            room.queued = false;
            let change = room.take_changes();
            let channel = room.channel.clone();
            if room.members.is_empty() {
                state.rooms.remove(&destination);
            }
            let Some(change) = change else { continue };
            let publication = Publication {
                id: state.ids.publication(now),
                destination,
                body: Bytes::from(change.to_json()),
                content_type: ContentType::Presence,
                headers: Box::default(),
                publisher: None,
                at_unix_ms: unix_ms,
                position: None,
                only_for: None,
                except: None,
                is_json: false,
            };
            self.broker.announce(&channel, Arc::new(publication));
        }
    }

    fn change(&self, place: &Place, change: impl FnOnce(&mut Room, usize)) {
        let state = &mut *self.state();
        let room = match state.rooms.get_mut(&place.destination) {
            Some(room) => room,
            None => state
                .rooms
                .entry(place.destination.clone())
                .or_insert_with(|| Room::new(place.channel.clone())),
        };
        change(room, self.changes_max);
        if room.queued {
            return;
        }
        if room.changes.is_some() {
            room.queued = true;
            state.changed.push(place.destination.clone());
        } else if room.members.is_empty() {
            state.rooms.remove(&place.destination);
        }
    }

    fn page(&self, query: &MembersQuery) -> Result<MembersPage, PresenceError> {
        let after = match &query.cursor {
            Some(cursor) => cursor.parse::<u64>().map_err(|_| PresenceError::BadCursor)?,
            None => 0,
        };
        let state = self.state();
        let Some(room) = state.rooms.get(&query.place.destination) else {
            return Ok(MembersPage { members: Vec::new(), count: 0, cursor: None });
        };
        let count = room.members.len() as u64;
        let mut rest = room.seats.range(after.saturating_add(1)..);
        let page: Vec<_> = rest.by_ref().take(query.limit as usize).collect();
        let last = page.last().map(|(number, _)| number.to_string());
        let cursor = last.filter(|_| rest.next().is_some());
        let present = page.into_iter().filter_map(|(_, member)| {
            let seat = room.members.get(member)?;
            Some(Present { user: member.user().cloned(), sessions: seat.sessions })
        });
        Ok(MembersPage { members: present.collect(), count, cursor })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence for MemoryPresence {
    fn enter(&self, place: &Place, member: Member) {
        self.change(place, |room, changes_max| room.enter(member, changes_max));
    }

    fn exit(&self, place: &Place, member: Member) {
        self.change(place, |room, changes_max| room.exit(member, changes_max));
    }

    fn members(
        &self,
        query: MembersQuery,
    ) -> BoxFuture<'static, Result<MembersPage, PresenceError>> {
        Box::pin(ready(self.page(&query)))
    }

    fn settle(&self) -> BoxFuture<'static, ()> {
        self.publish_changes();
        Box::pin(ready(()))
    }
}

impl Room {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            members: HashMap::new(),
            seats: BTreeMap::new(),
            next_seat: 1,
            changes: Changes::default(),
            queued: false,
        }
    }

    fn enter(&mut self, member: Member, changes_max: usize) {
        if let Some(seat) = self.members.get_mut(&member) {
            seat.sessions += 1;
            return;
        }
        let number = self.next_seat;
        self.next_seat += 1;
        self.seats.insert(number, member.clone());
        self.members.insert(member.clone(), Seat { number, sessions: 1 });
        self.changes.note(member, true, changes_max);
    }

    fn exit(&mut self, member: Member, changes_max: usize) {
        let Some(seat) = self.members.get_mut(&member) else { return };
        seat.sessions -= 1;
        if seat.sessions > 0 {
            return;
        }
        self.seats.remove(&seat.number);
        self.members.remove(&member);
        self.changes.note(member, false, changes_max);
    }

    fn take_changes(&mut self) -> Option<PresenceChange> {
        let Changes { before, truncated } = std::mem::take(&mut self.changes);
        if before.is_empty() && !truncated {
            return None;
        }
        let count = self.members.len() as u64;
        let mut change = PresenceChange { count, ..PresenceChange::default() };
        for (member, was_there) in before {
            let user = member.user().map(ToString::to_string);
            let list = if was_there { &mut change.left } else { &mut change.joined };
            list.push(PresenceMember { user, sessions: None });
        }
        if truncated || change.to_json().len() > CHANGE_MAX_BYTES {
            change = PresenceChange { count, truncated: true, ..PresenceChange::default() };
        }
        Some(change)
    }
}

impl Changes {
    fn is_some(&self) -> bool {
        self.truncated || !self.before.is_empty()
    }

    /// `member` came or went. What is again as it was told last needs no telling.
    fn note(&mut self, member: Member, is_there: bool, changes_max: usize) {
        if let Some(was_there) = self.before.get(&member) {
            if *was_there == is_there {
                self.before.remove(&member);
            }
        } else if self.before.len() >= changes_max {
            self.truncated = true;
        } else {
            self.before.insert(member, !is_there);
        }
    }
}

impl fmt::Debug for MemoryPresence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPresence")
            .field("places", &self.state().rooms.len())
            .finish_non_exhaustive()
    }
}
