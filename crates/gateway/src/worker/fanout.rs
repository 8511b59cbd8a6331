//! Fan-out: publications of a tick to their subscribers, encoded once, one `send` each.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use fanlight_engine::broker::{Channel, Delivery};
use fanlight_engine::history::Lost;
use fanlight_engine::publication::{Publication, SessionId};
use futures_util::FutureExt;

use super::Worker;
use super::guard::count_panic;
use super::slot::Written;

/// Publications of one destination that go out together, in broker order; either all of them are
/// changes of presence or none is, and all are for the same sessions.
pub(super) struct Run {
    pub channel: Channel,
    pub publications: Vec<Arc<Publication>>,
    bytes: usize,
}

impl Run {
    pub(super) fn new(channel: Channel, publications: Vec<Arc<Publication>>) -> Self {
        Self { channel, publications, bytes: 0 }
    }

    /// Whether its destination has history.
    fn is_positioned(&self) -> bool {
        self.publications[0].position.is_some()
    }
}

impl Worker {
    /// Sends a tick's deliveries. A tick of one run writes to each subscriber directly; a tick of
    /// several gathers each connection's chunks first, so that it still gets one `send`.
    pub(super) async fn fan_out(&mut self, deliveries: Vec<Delivery>) {
        let runs = into_runs(deliveries);
        let direct = runs.len() == 1;
        let first = runs.first().map(|run| run.publications[0].at_unix_ms);
        let sample = first.and_then(|at_unix_ms| self.stats.samples.fanout(at_unix_ms));
        for run in runs {
            if run.is_removal() {
                self.recovery.remove_history(&run.publications);
                continue;
            }
            self.stats.publications_in += run.publications.len() as u64;
            // A publication that we fail at must not take its subscribers' worker with it.
            let sent = async {
                if !run.is_positioned() || self.pass(&run).await {
                    self.fan_out_run(&run, direct, None).await;
                }
            };
            let sent = AssertUnwindSafe(sent).catch_unwind().await;
            if sent.is_err() {
                count_panic();
            }
            if self.stage.is_large() {
                self.flush_stage();
                tokio::task::yield_now().await;
            }
        }
        self.flush_stage();
        if let Some(sample) = sample {
            self.stats.samples.end(&sample, self.shared.clock.now());
        }
    }

    /// `lost` says what was lost before the run, and is told those who were there and have not heard.
    pub(super) async fn fan_out_run(&mut self, run: &Run, direct: bool, lost: Option<Lost>) {
        let traced = self.traces.deliver(&run.publications);
        let before = self.stats.deliveries;
        self.write_run(run, direct, lost).await;
        if let Some(traced) = traced {
            let written = self.stats.deliveries - before;
            let subscribers = written / run.publications.len() as u64;
            self.delivered(traced, &run.publications[0].destination, subscribers);
        }
    }

    async fn write_run(&mut self, run: &Run, direct: bool, lost: Option<Lost>) {
        let now = self.shared.clock.now();
        let destination = &run.publications[0].destination;
        let (is_presence, only_for) = (run.is_presence(), run.only_for());
        let mut encodings = self.encoder.run_after(&run.publications, lost);
        let mut unwritten = Vec::new();
        let mut since_yield = 0;
        let mut groups = self.hub.matching(&run.channel, destination).peekable();
        // A native message does not name its subscription, so a session whose subscriptions
        // overlap gets it once.
        let mut seen = HashSet::<_, foldhash::fast::RandomState>::default();
        if run.is_positioned() && self.hub.has_patterns(&run.channel) {
            self.recovery.add_joining(destination, &mut seen);
        }
        while let Some(members) = groups.next() {
            let overlaps = !seen.is_empty() || groups.peek().is_some();
            for member in members {
                if is_presence && !member.presence {
                    continue;
                }
                if overlaps && !member.wire.names_subscription() && !seen.insert(member.session) {
                    continue;
                }
                let Some(slot) = self.slots.get_mut(member.session.0 as usize) else { continue };
                if only_for.is_some_and(|session| !slot.role.is_session(session)) {
                    continue;
                }
                let cursor = slot.role.cursor();
                let chunk = encodings.chunk_for(member, slot.framing, &self.hub, cursor);
                self.stats.deliveries += run.publications.len() as u64;
                if !direct || slot.staged.is_some() {
                    self.stage.push(member.session, slot, chunk.clone());
                    continue;
                }
                let (limits, sent) = (slot.limits(&self.shared), &mut self.stats.bytes_out);
                let outcome = slot.write(chunk, limits, now.mono_ms, sent);
                if outcome != Written::Taken {
                    unwritten.push((member.session, slot.serial, outcome));
                }
                since_yield += 1;
                if since_yield == SENDS_PER_YIELD {
                    since_yield = 0;
                    // Accepting and handshakes share this thread.
                    tokio::task::yield_now().await;
                }
            }
        }
        drop(groups);
        for (key, serial, outcome) in unwritten {
            if self.slots.get(key.0 as usize).is_some_and(|slot| slot.serial == serial) {
                self.on_unwritten(key, outcome, now);
            }
        }
    }
}

impl Run {
    fn is_presence(&self) -> bool {
        self.publications[0].is_presence()
    }

    /// Whether it is no message, but tells that the history was removed.
    fn is_removal(&self) -> bool {
        self.publications[0].is_removal()
    }

    /// The only session that they are for.
    fn only_for(&self) -> Option<SessionId> {
        self.publications[0].only_for
    }
}

/// Groups a tick's publications by destination, each in order, into runs of a bounded size.
fn into_runs(deliveries: Vec<Delivery>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut latest: HashMap<Arc<str>, usize, foldhash::fast::RandomState> = HashMap::default();
    for Delivery { channel, publications } in deliveries {
        for publication in publications.iter() {
            let bytes = publication.encoded_bytes();
            let destination = publication.destination.to_shared();
            if let Some(&at) = latest.get(&destination)
                && runs[at].is_presence() == publication.is_presence()
                && runs[at].is_removal() == publication.is_removal()
                && runs[at].only_for() == publication.only_for
                && runs[at].bytes + bytes <= RUN_MAX_BYTES
                && runs[at].is_positioned() == publication.position.is_some()
            {
                runs[at].publications.push(Arc::clone(publication));
                runs[at].bytes += bytes;
                continue;
            }
            latest.insert(destination, runs.len());
            let publications = vec![Arc::clone(publication)];
            runs.push(Run { channel: channel.clone(), publications, bytes });
        }
    }
    runs
}

/// Bounds what goes out at once, and so what one full outbox refuses.
const RUN_MAX_BYTES: usize = 64 * 1024;
const SENDS_PER_YIELD: usize = 256;
