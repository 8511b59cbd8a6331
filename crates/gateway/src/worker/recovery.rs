//! Timelines at work: reads their histories, gives sessions what they missed as fast as they take
//! it, and lets publications pass in order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use fanlight_engine::encode::Framing;
use fanlight_engine::history::{HistoryError, HistoryPage, Lost};
use fanlight_engine::hub::{SessionKey, SubscriptionKey, WireKey};
use fanlight_engine::outbox::OutboxLimits;
use fanlight_engine::publication::Publication;
use fanlight_engine::session::{Done, Recover};
use fanlight_engine::time::Now;
use fanlight_engine::timeline::{
    Event, JoinerKey, LastGive, Offered, ReadKey, Recovered, Start, Timelines,
};
use fanlight_proto::native::ServerMessage;
use fanlight_proto::{Destination, Position};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use super::fanout::Run;
use super::guard::count_panic;
use super::slot::Link;
use super::{Ticket, Worker};

/// What a worker has for destinations with history.
#[derive(Default)]
pub(super) struct Recovery {
    pub timelines: Timelines,
    pub reads: FuturesUnordered<BoxFuture<'static, Read>>,
    joining: HashMap<SessionKey, Joining, foldhash::fast::RandomState>,
    sessions: HashMap<JoinerKey, SessionKey, foldhash::fast::RandomState>,
    /// The sessions that get all of a destination from here; never empty.
    given_all: HashMap<Destination, HashSet<SessionKey>, foldhash::quality::RandomState>,
    /// There is more to do than one turn does.
    pub has_more: bool,
    /// After how many more messages of the inbox nothing is to be trusted any more.
    suspect_after: Option<usize>,
    /// So many bytes, roughly, and so many publications are given at once, but always one.
    give_max: (usize, usize),
}

pub(super) type Read = (ReadKey, Result<HistoryPage, HistoryError>);

/// A session whose subscription joins its timeline; each has at most one.
struct Joining {
    ticket: Ticket,
    joiner: JoinerKey,
    subscription: SubscriptionKey,
    destination: Destination,
    /// Whether all that comes is given, so that an overlapping pattern must not give it too.
    is_given_all: bool,
    /// What its socket has not had room for.
    pending: VecDeque<Arc<Publication>>,
}

impl Recovery {
    /// Nothing yet; what is given at once leaves room in outboxes of these bounds.
    pub(super) fn new(outbox: OutboxLimits) -> Self {
        let usual = LastGive::default();
        let frames = outbox.frames as usize;
        // A joiner may be given as much twice, or three times, before the first is written.
        let last_give = LastGive {
            bytes: usual.bytes.min(outbox.bytes / 8),
            publications: usual.publications.min(frames / 8),
        };
        Self {
            timelines: Timelines::with_last_give(last_give),
            give_max: (GIVE_BYTES.min(outbox.bytes / 4), frames / 4),
            ..Self::default()
        }
    }

    /// Whether something was missed and is not looked for yet.
    pub(super) fn is_to_suspect(&self) -> bool {
        self.suspect_after.is_some()
    }

    /// Something was missed behind the next `messages` of the inbox.
    pub(super) fn suspect_all_after(&mut self, messages: usize) {
        self.suspect_after = Some(messages);
        self.took(0);
    }

    /// So many messages of the inbox are done with.
    pub(super) fn took(&mut self, messages: usize) {
        if let Some(left) = &mut self.suspect_after {
            *left = left.saturating_sub(messages);
            if *left == 0 {
                self.suspect_after = None;
                self.timelines.suspect_all();
            }
        }
    }

    /// The history of a destination was removed: what was taken from it and is not sent yet, is not
    /// sent any more.
    pub(super) fn remove_history(&mut self, told: &[Arc<Publication>]) {
        let Some((told, top)) = told.last().and_then(|told| Some((told, told.position?))) else {
            return;
        };
        let is_removed = |publication: &Arc<Publication>| {
            publication.position.is_some_and(|position| position.offset <= top.offset)
        };
        for joining in self.joining.values_mut() {
            if joining.destination == told.destination && joining.pending.iter().any(is_removed) {
                joining.pending.retain(|publication| !is_removed(publication));
                self.timelines.withdraw(joining.joiner);
            }
        }
        self.timelines.remove_history(&told.destination, top);
    }

    /// Forgets a session that has ended.
    pub(super) fn forget(&mut self, key: SessionKey) {
        if let Some(joining) = self.end(key) {
            self.sessions.remove(&joining.joiner);
            self.timelines.cancel(joining.joiner);
        }
    }

    fn end(&mut self, key: SessionKey) -> Option<Joining> {
        let joining = self.joining.remove(&key)?;
        if joining.is_given_all
            && let Some(sessions) = self.given_all.get_mut(&joining.destination)
        {
            sessions.remove(&key);
            if sessions.is_empty() {
                self.given_all.remove(&joining.destination);
            }
        }
        Some(joining)
    }

    /// The sessions that get what comes for `destination` from here, and not from the hub.
    pub(super) fn add_joining<S: BuildHasher>(
        &self,
        destination: &Destination,
        sessions: &mut HashSet<SessionKey, S>,
    ) {
        if !self.given_all.is_empty() {
            sessions.extend(self.given_all.get(destination).into_iter().flatten());
        }
    }
}

impl Worker {
    /// Begins to join a session to a timeline.
    pub(super) fn recover(&mut self, key: SessionKey, recover: Recover, now: Now) {
        let Some(slot) = self.slots.get(key.0 as usize) else { return };
        let ticket = Ticket { key, serial: slot.serial };
        let Recover { subscription, channel, destination, history, start, is_degraded } = recover;
        let timelines = &mut self.recovery.timelines;
        let joiner = timelines.join(&channel, &destination, history, start, is_degraded, now);
        let is_given_all = start != Start::Now;
        if is_given_all {
            self.recovery.given_all.entry(destination.clone()).or_default().insert(key);
        }
        let pending = VecDeque::new();
        let joining = Joining { ticket, joiner, subscription, destination, is_given_all, pending };
        self.recovery.sessions.insert(joiner, key);
        self.recovery.joining.insert(key, joining);
    }

    /// Does what the timelines want done, and begins the reads that may begin.
    pub(super) async fn settle(&mut self) {
        for destination in self.hub.take_vacated() {
            if !self.hub.has_destination(&destination) {
                let hub = &self.hub;
                let has_patterns = |channel: &_| hub.has_patterns(channel);
                self.recovery.timelines.vacate(&destination, has_patterns);
            }
        }
        self.carry_out_events().await;
        self.recovery.has_more = false;
        let mut reads = 0;
        while let Some((key, query)) = self.recovery.timelines.next_read() {
            let mut read = self.shared.broker.history(query);
            match (&mut read).now_or_never() {
                Some(result) => {
                    self.on_read((key, result)).await;
                    reads += 1;
                    if reads == READS_PER_TURN {
                        self.recovery.has_more = true;
                        return;
                    }
                }
                None => self.recovery.reads.push(read.map(|result| (key, result)).boxed()),
            }
        }
    }

    pub(super) async fn on_read(&mut self, (key, result): Read) {
        let now = self.shared.clock.now();
        self.recovery.timelines.on_read(key, result, now);
        self.carry_out_events().await;
    }

    /// Whether the run is to be delivered as it is. If not, what is to be done was done.
    pub(super) async fn pass(&mut self, run: &Run) -> bool {
        self.carry_out_events().await;
        let now = self.shared.clock.now();
        let destination = &run.publications[0].destination;
        let (hub, rules) = (&self.hub, &self.shared.rules);
        let history = || {
            let is_wanted = hub.has_patterns(&run.channel);
            is_wanted.then(|| rules.policy.namespaces().history(destination)).flatten()
        };
        let timelines = &mut self.recovery.timelines;
        let offered = timelines.offer(&run.channel, &run.publications, history, now);
        if offered == Offered::Taken {
            self.carry_out_events().await;
        }
        offered == Offered::Next
    }

    async fn carry_out_events(&mut self) {
        while let Some(event) = self.recovery.timelines.next_event() {
            match event {
                Event::Deliver { channel, publications, lost } => {
                    let run = Run::new(channel, publications);
                    let sent = self.fan_out_run(&run, false, lost);
                    if AssertUnwindSafe(sent).catch_unwind().await.is_err() {
                        count_panic();
                    }
                }
                Event::Lost { channel, destination, reason, position } => {
                    self.tell_lost(&channel, &destination, reason, position);
                }
                Event::Give { joiner, publications } => {
                    let Some(&key) = self.recovery.sessions.get(&joiner) else { continue };
                    if let Some(joining) = self.recovery.joining.get_mut(&key) {
                        joining.pending.extend(publications);
                    }
                    self.guarded(key, |worker| worker.give(key));
                }
                Event::Live { joiner, recovered } => {
                    let Some(key) = self.recovery.sessions.remove(&joiner) else { continue };
                    self.guarded(key, |worker| worker.make_live(key, recovered));
                }
            }
            if self.stage.is_large() {
                self.flush_stage();
            }
        }
    }

    /// Goes on giving, now that the socket has taken all there was.
    pub(super) fn give_on(&mut self, key: SessionKey) {
        if self.recovery.joining.contains_key(&key) {
            self.give(key);
        }
    }

    /// Gives a joining session what it has missed until its socket takes no more, then waits for
    /// it: so a long history needs no more memory than a short one.
    fn give(&mut self, key: SessionKey) {
        loop {
            let Some(slot) = self.slots.get(key.0 as usize) else { return };
            if slot.outbox.is_some() || !slot.is_open() {
                return;
            }
            let Some(joining) = self.recovery.joining.get_mut(&key) else { return };
            if joining.pending.is_empty() {
                let joiner = joining.joiner;
                return self.recovery.timelines.given(joiner);
            }
            let (max_bytes, max_publications) = self.recovery.give_max;
            let mut bytes = 0;
            let fits = |publication: &&Arc<Publication>| {
                bytes += publication.encoded_bytes();
                bytes <= max_bytes
            };
            let count = joining.pending.iter().take(max_publications).take_while(fits).count();
            if !self.stage_given(key, count.max(1)) {
                return;
            }
            self.flush_stage();
        }
    }

    /// Stages the first `count` of what a session is to be given; whether there was anything.
    fn stage_given(&mut self, key: SessionKey, count: usize) -> bool {
        let Some(joining) = self.recovery.joining.get_mut(&key) else { return false };
        let Some(wire) = self.hub.wire(joining.subscription) else { return false };
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return false };
        let publications: Vec<_> = joining.pending.drain(..count).collect();
        if publications.is_empty() {
            return false;
        }
        self.stats.deliveries += publications.len() as u64;
        if let Link::Mailbox(mailbox) = &mut slot.link {
            mailbox.gives_missed();
        }
        let mut run = self.encoder.run(&publications);
        let chunk = run.chunk(wire, slot.framing, &self.hub, slot.role.cursor()).clone();
        self.stage.push(key, slot, chunk);
        true
    }

    /// Makes a session's subscription live: from here on the hub has it.
    fn make_live(&mut self, key: SessionKey, recovered: Recovered) {
        let Some(joining) = self.recovery.joining.get(&key) else { return };
        // No more than the last step of a joiner may give: there is room for it.
        let count = joining.pending.len();
        self.stage_given(key, count);
        let Some(joining) = self.recovery.end(key) else { return };
        if !self.is_current(joining.ticket) {
            return;
        }
        self.stats.recovered(recovered.outcome);
        self.hub.activate(joining.subscription);
        let now = self.shared.clock.now();
        self.with_session(key, now, |session, cx| {
            session.on_done(cx, Done::Recovered(recovered));
        });
    }

    /// Tells those who are live on a destination what they have missed for good. STOMP has no
    /// message for it: there the next MESSAGE says so.
    fn tell_lost(
        &mut self,
        channel: &fanlight_engine::broker::Channel,
        destination: &Destination,
        reason: Lost,
        position: Position,
    ) {
        self.hub.note_loss(channel, destination);
        let message = |to: &str| {
            let mut payload = Vec::new();
            let lost = ServerMessage::Lost {
                to: to.to_owned(),
                reason: reason.code().into(),
                epoch: position.epoch_text(),
                offset: position.offset,
            };
            lost.write(&mut payload);
            payload
        };
        let payloads = [message(&destination.shown()), message(destination.as_str())];
        let mut chunks: HashMap<(bool, Framing), _> = HashMap::new();
        let mut seen = HashSet::<_, foldhash::fast::RandomState>::default();
        for member in self.hub.matching(channel, destination).flatten() {
            if member.wire.names_subscription() || !seen.insert(member.session) {
                continue;
            }
            let Some(slot) = self.slots.get_mut(member.session.0 as usize) else { continue };
            let framing = slot.framing;
            let chunk = match (member.wire, slot.role.cursor()) {
                (WireKey::Native { named }, _) => {
                    let make = || self.encoder.frame(true, &payloads[usize::from(named)], framing);
                    chunks.entry((named, framing)).or_insert_with(make).clone()
                }
                (WireKey::Events { index, named }, Some(cursor)) => {
                    let message = &payloads[usize::from(named)];
                    self.encoder.lost_event(message, position, index, cursor, framing)
                }
                (WireKey::Events { .. } | WireKey::Stomp { .. }, _) => continue,
            };
            self.stats.messages_out += 1;
            self.stage.push(member.session, slot, chunk);
        }
    }
}

/// So much is given at once, to an outbox that is large enough.
const GIVE_BYTES: usize = 32 * 1024;
/// Reads that a broker answers at once, before others have their turn.
const READS_PER_TURN: u32 = 64;
