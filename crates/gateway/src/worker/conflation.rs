//! Conflation at work: what passes at once, what passes by ticks, and who is too slow for either.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::conflate::{Conflation, Offered, Tick};
use fanlight_engine::hub::{Member, SessionKey, SubscriptionKey};
use fanlight_engine::outbox::OutboxLimits;
use fanlight_engine::publication::Publication;
use fanlight_proto::Destination;
use futures_util::FutureExt;

use super::fanout::{Audience, RUN_MAX_BYTES, Run};
use super::guard::count_panic;
use super::slot::Slot;
use super::{Worker, WorkerShared};

/// What a worker has for namespaces that are conflated.
pub(super) struct Conflated {
    /// Whether there are any.
    is_on: bool,
    pub(super) conflation: Conflation,
    /// What a connection may have been given since the stage was last flushed, roughly.
    staged_bytes: usize,
    /// So much may be given before that.
    stage_max_bytes: usize,
}

impl Conflated {
    pub(super) fn new(shared: &WorkerShared) -> Self {
        let OutboxLimits { bytes, .. } = shared.outbox_limits;
        Self {
            is_on: shared.rules.policy.namespaces().any_conflated(),
            conflation: Conflation::new(shared.conflation_bytes),
            staged_bytes: 0,
            stage_max_bytes: bytes.min(shared.mailbox_limits.bytes) / 4,
        }
    }

    /// Whether a connection may be given what it has missed: it would be written, or go with the
    /// answer that a request waits for, where little waits already.
    fn is_for(&self, slot: &Slot) -> bool {
        slot.takes_more(self.stage_max_bytes)
    }

    /// Whether a subscriber does not get a run now: it is behind, and gets what it missed apart, or
    /// it falls behind now. Only where there is no room to note that, it gets it all the same.
    pub(super) fn withholds(
        &mut self,
        destination: &Destination,
        member: &Member,
        slot: &Slot,
        passed: u64,
    ) -> bool {
        let subscription = member.subscription();
        self.conflation.is_behind(destination, member.session, subscription)
            || (slot.is_blocked()
                && self.conflation.fall_behind(destination, member.session, subscription, passed))
    }

    /// How long it is until the next tick.
    pub(super) fn wait(&self, now_ms: impl FnOnce() -> u64) -> Option<Duration> {
        let due_ms = self.conflation.next_tick_ms()?;
        Some(Duration::from_millis(due_ms.saturating_sub(now_ms())))
    }

    fn is_to_flush(&mut self, bytes: usize) -> bool {
        self.staged_bytes += bytes;
        self.staged_bytes > self.stage_max_bytes
    }
}

impl Worker {
    /// Takes a run of a namespace that is conflated: what passes at once is written. `false`: it
    /// is another's, and to go on as it is.
    pub(super) async fn conflate(&mut self, run: &Run, direct: bool) -> bool {
        if !self.conflation.is_on || run.publications[0].is_presence() {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let destination = &run.publications[0].destination;
        let Some(conflate) = shared.rules.policy.namespaces().conflate(destination) else {
            return false;
        };
        let now_ms = shared.clock.now().mono_ms;
        let conflation = &mut self.conflation.conflation;
        let mut passed = conflation.passed(destination);
        // In the order in which they came: of a key that passes, the next may find no room.
        let mut parts: Vec<(Offered, Vec<Arc<Publication>>)> = Vec::new();
        for publication in &run.publications {
            let offered = conflation.offer(&run.channel, publication, conflate, now_ms);
            match parts.last_mut() {
                _ if offered == Offered::Waits => {}
                Some((same, part)) if *same == offered => part.push(Arc::clone(publication)),
                _ => parts.push((offered, vec![Arc::clone(publication)])),
            }
        }
        let direct = direct && parts.len() == 1;
        for (offered, part) in parts {
            let (count, bytes) = (part.len() as u64, bytes_of(&part));
            let run = Run::new(run.channel.clone(), part);
            if offered == Offered::Unconflated {
                self.fan_out_run(&run, false, None).await;
            } else {
                self.fan_out_as::<true>(&run, direct, None, passed).await;
                passed += count;
                self.flush_conflated(bytes);
            }
        }
        true
    }

    /// Writes what ticks let pass: of some destinations, then others have their turn.
    pub(super) async fn on_conflation_tick(&mut self) {
        self.flush_stage();
        let now_ms = self.shared.clock.now().mono_ms;
        for _ in 0..TICKS_PER_TURN {
            let Some(tick) = self.conflation.conflation.tick(now_ms) else { break };
            // A publication that we fail at must not take its subscribers' worker with it.
            if AssertUnwindSafe(self.write_tick(tick)).catch_unwind().await.is_err() {
                count_panic();
            }
            if self.stage.is_large() {
                self.flush_stage();
                tokio::task::yield_now().await;
            }
        }
        self.flush_stage();
    }

    /// Whether there are more ticks to write, now.
    pub(super) fn has_conflation_due(&self) -> bool {
        self.conflation.wait(|| self.shared.clock.now().mono_ms) == Some(Duration::ZERO)
    }

    async fn write_tick(&mut self, tick: Tick) {
        let Tick { channel, destination, publications, passed_before, behind } = tick;
        let mut passed = passed_before;
        for publications in into_runs(publications) {
            let (count, bytes) = (publications.len() as u64, bytes_of(&publications));
            let run = Run::new(channel.clone(), publications);
            self.fan_out_as::<true>(&run, false, None, passed).await;
            passed += count;
            self.flush_conflated(bytes);
        }
        for (session, subscription, passed) in behind {
            let slot = self.slots.get(session.0 as usize);
            if slot.is_some_and(|slot| self.conflation.is_for(slot)) {
                self.give_latest(&destination, session, subscription, passed);
            }
        }
    }

    /// Gives a session whose next request has come the latest of what it has missed, as much as
    /// that takes.
    pub(super) fn give_all_latest(&mut self, key: SessionKey) {
        for (destination, subscription, passed) in self.conflation.conflation.behind_of(key) {
            let slot = self.slots.get(key.0 as usize);
            if !slot.is_some_and(|slot| self.conflation.is_for(slot)) {
                break;
            }
            self.give_latest(&destination, key, subscription, passed);
        }
        self.flush_stage();
    }

    /// Gives a subscriber that is behind what it has missed, as much as goes at once.
    fn give_latest(
        &mut self,
        destination: &Destination,
        key: SessionKey,
        subscription: SubscriptionKey,
        passed: u64,
    ) {
        let member = self.hub.member_to(subscription, destination).copied();
        let Some(member) = member.filter(|member| member.session == key) else {
            // It has unsubscribed.
            return self.conflation.conflation.catch_up(destination, subscription);
        };
        let missed = self.conflation.conflation.missed(destination, passed);
        let max_bytes = RUN_MAX_BYTES.min(self.conflation.stage_max_bytes);
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        let (mut bytes, mut upto) = (0, passed);
        let mut publications = Vec::new();
        for (at, publication) in &missed {
            if bytes + publication.encoded_bytes() > max_bytes && bytes > 0 {
                break;
            }
            upto = *at;
            if Audience::of(publication).is_none_or(|audience| audience.has(&slot.role)) {
                bytes += publication.encoded_bytes();
                publications.push(Arc::clone(publication));
            }
        }
        if !publications.is_empty() {
            self.stats.deliveries += publications.len() as u64;
            let mut run = self.encoder.run(&publications);
            let chunk = run.chunk(member.wire, slot.framing, &self.hub, slot.role.cursor()).clone();
            self.stage.push(key, slot, chunk);
        }
        let conflation = &mut self.conflation.conflation;
        if missed.last().is_none_or(|(last, _)| *last <= upto) {
            conflation.catch_up(destination, subscription);
        } else {
            conflation.fall_behind(destination, key, subscription, upto);
        }
        self.flush_conflated(bytes);
    }

    /// Flushes the stage before what it holds for one connection is more than an outbox takes.
    fn flush_conflated(&mut self, bytes: usize) {
        if self.conflation.is_to_flush(bytes) || self.stage.is_large() {
            self.conflation.staged_bytes = 0;
            self.flush_stage();
        }
    }
}

/// Waits for a tick. One that is due is there at once: where there is always something else to do
/// too, none that takes until the next look at a timer would ever be had.
pub(super) async fn tick_after(wait: Option<Duration>) {
    match wait {
        Some(wait) if !wait.is_zero() => tokio::time::sleep(wait).await,
        _ => {}
    }
}

/// Parts of a bounded size, each for the same sessions.
fn into_runs(publications: Vec<Arc<Publication>>) -> Vec<Vec<Arc<Publication>>> {
    let mut runs: Vec<Vec<Arc<Publication>>> = Vec::new();
    let mut bytes = 0;
    for publication in publications {
        let more = publication.encoded_bytes();
        match runs.last_mut() {
            Some(run)
                if bytes + more <= RUN_MAX_BYTES
                    && run.len() < RUN_MAX_FRAMES
                    && Audience::of(&run[0]) == Audience::of(&publication) =>
            {
                bytes += more;
                run.push(publication);
            }
            _ => {
                bytes = more;
                runs.push(vec![publication]);
            }
        }
    }
    runs
}

fn bytes_of(publications: &[Arc<Publication>]) -> usize {
    publications.iter().map(|publication| publication.encoded_bytes()).sum()
}

const RUN_MAX_FRAMES: usize = 256;
/// Destinations whose ticks are written in one turn.
const TICKS_PER_TURN: usize = 256;
