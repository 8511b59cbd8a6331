//! What sends a node's entries, tells changes, and reaps: the I/O of [`Node`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanlight_engine::broker::PublishError;
use fanlight_engine::presence::{CHANGE_MAX_BYTES, Place};
use fanlight_engine::publication::{ContentType, Publication, PublicationId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::select;
use tokio::sync::watch;
use tokio::time::{interval, sleep_until};
use uuid::Uuid;

use super::book::Batch;
use super::{Node, is_done, names, scanned, words};
use crate::command;
use crate::envelope;
use crate::lease::{Hold, generation_of, refuse_errors};
use crate::meters::amount;
use crate::names::Partition;
use crate::pipeline::Answer;
use crate::reaper::reap_each;
use crate::resp3::Value;
use crate::scripts;

/// What a call was for, and what it came to.
enum Done {
    Set(Batch, Vec<Place>, Answer),
    Told(Place, Answer),
}

/// The places of some entries, each once, and the entries as the script wants them.
#[derive(Default)]
struct Setting {
    places: Vec<Place>,
    items: Vec<(usize, String, String)>,
}

type Calls = FuturesUnordered<BoxFuture<'static, Done>>;

impl Node {
    /// Sends what is entered, for ever.
    pub(super) async fn run(self: Arc<Self>, mut hold: watch::Receiver<Hold>) {
        let mut calls = Calls::new();
        let mut resting: Vec<(Instant, Partition)> = Vec::new();
        let mut tick = interval(TICK);
        loop {
            self.start_calls(&mut calls);
            let next_due = self.next_due();
            select! {
                () = self.changed.notified() => {}
                Some(done) = calls.next(), if !calls.is_empty() => {
                    if let Some(partition) = self.on_done(done) {
                        resting.push((Instant::now() + REST, partition));
                    }
                }
                () = sleep_until(next_due.unwrap_or_else(Instant::now).into()),
                    if next_due.is_some() && calls.len() < CALLS_MAX && self.lease.is_held() => {}
                Ok(()) = hold.changed() => {
                    let Hold { owner, round } = hold.borrow_and_update().clone();
                    let shared = &mut *self.shared();
                    shared.book.begin_round(round);
                    shared.owner = owner;
                }
                _ = tick.tick() => {
                    let now = Instant::now();
                    resting.retain(|(until, partition)| {
                        let rests = *until > now;
                        if !rests {
                            self.shared().book.wake(*partition);
                        }
                        rests
                    });
                    self.report();
                }
            }
        }
    }

    /// Starts as many calls as may be under way at once. Without a lease nothing is sent: if this
    /// node ended then, nobody would reap it.
    fn start_calls(&self, calls: &mut Calls) {
        if !self.lease.is_held() {
            return;
        }
        while calls.len() < CALLS_MAX {
            let call = {
                let shared = &mut *self.shared();
                let now = Instant::now();
                let call = if let Some(batch) = shared.book.next_batch() {
                    self.set(batch, &shared.owner)
                } else if shared.due.front().is_some_and(|(at, _)| shared.hurried || *at <= now)
                    && let Some((_, place)) = shared.due.pop_front()
                {
                    shared.scheduled.remove(&place);
                    self.tell(place, &shared.owner)
                } else {
                    break;
                };
                shared.under_way += 1;
                call
            };
            calls.push(call);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.shared().due.front().map(|(at, _)| *at)
    }

    /// Takes what a call came to; a partition that should rest.
    fn on_done(&self, done: Done) -> Option<Partition> {
        let at = Instant::now() + self.options.interval;
        let shared = &mut *self.shared();
        shared.under_way -= 1;
        let resting = match done {
            Done::Set(batch, places, answer) => {
                let (partition, entries) = (batch.partition, batch.items.len() as u64);
                let is_done = is_done(&answer);
                if is_done { &self.meters.sent } else { &self.meters.failed }.increment(entries);
                shared.book.on_answered(batch, is_done);
                for place in changed_places(&places, &answer) {
                    shared.plan(place.clone(), at);
                }
                (!is_done).then_some(partition)
            }
            Done::Told(_, Ok(Value::Integer(changes))) => {
                self.meters.told.increment(changes.unsigned_abs());
                None
            }
            Done::Told(place, _) => {
                shared.plan(place, at.max(Instant::now() + REST));
                None
            }
        };
        self.progress.notify_waiters();
        resting
    }

    fn report(&self) {
        let shared = self.shared();
        self.meters.members.set(amount(shared.book.members()));
        let pending = usize::try_from(shared.book.unsure()).unwrap_or(usize::MAX);
        self.meters.pending.set(amount(pending));
    }

    fn set(&self, batch: Batch, owner: &str) -> BoxFuture<'static, Done> {
        let mut setting = Setting::default();
        for (key, sessions) in &batch.items {
            setting.add(&key.place, names::member_text(&key.member), *sessions);
        }
        // One batch of a partition is under way at a time, so the numbers rise in it.
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let command = self.set_command(batch.partition, owner, (owner, number), &setting);
        let answer = self.shards.call(batch.partition, |_| command);
        async move { Done::Set(batch, setting.places, answer.await) }.boxed()
    }

    /// Sets what `owner` has entered, on behalf of `caller`: another one than `owner` reaps it, and
    /// its call has the number 0.
    fn set_command(
        &self,
        partition: Partition,
        owner: &str,
        (caller, number): (&str, u64),
        setting: &Setting,
    ) -> Vec<u8> {
        let mut keys = vec![
            names::entries_key(&self.names, partition, owner),
            names::calls_key(&self.names, partition, caller),
            names::entries_key(&self.names, partition, caller),
        ];
        let changes_max = self.options.changes_max.to_string();
        let mut arguments = vec![changes_max, generation_of(caller).to_owned(), number.to_string()];
        for place in &setting.places {
            keys.push(names::members_key(&self.names, place));
            keys.push(names::changes_key(&self.names, place));
            arguments.push(names::entry_start(place));
        }
        for (place, member, sessions) in &setting.items {
            arguments.extend([place.to_string(), member.clone(), sessions.clone()]);
        }
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        scripts::PRESENCE_SET.call(&keys, &arguments)
    }

    fn tell(&self, place: Place, owner: &str) -> BoxFuture<'static, Done> {
        let partition = names::partition_of(&place);
        let keys = [
            names::members_key(&self.names, &place),
            names::changes_key(&self.names, &place),
            names::entries_key(&self.names, partition, owner),
            self.names.of(&place.channel).concat(),
        ];
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let start = names::entry_start(&place);
        let head = envelope_head(&place);
        let bytes_max = CHANGE_MAX_BYTES.to_string();
        let publish = command::publish_word(self.shards.sharded_pubsub());
        let arguments = [publish, start.as_bytes(), &head, bytes_max.as_bytes()];
        let command = scripts::PRESENCE_TELL.call(&keys, &arguments);
        let answer = self.shards.call(partition, |_| command);
        async move { Done::Told(place, answer.await) }.boxed()
    }

    /// Removes all that a dead owner has entered. One owner's part is bounded by what a node's
    /// sessions may hold, and each step of it by [`REAP_ENTRIES`].
    pub(super) async fn reap(self: Arc<Self>, owner: String) -> Result<bool, PublishError> {
        let reap = |partition| self.reap_partition(&owner, partition);
        reap_each(Partition::all(), REAP_PARTITIONS, reap).await
    }

    /// Removes all that a dead owner has entered in one partition; nothing is left then.
    async fn reap_partition(
        &self,
        owner: &str,
        partition: Partition,
    ) -> Result<bool, PublishError> {
        let calls = names::calls_key(&self.names, partition, owner);
        let shut_out =
            scripts::PRESENCE_SHUT_OUT.call(&[&calls], &[generation_of(owner).as_bytes()]);
        let shut_out = self.shards.call(partition, |_| shut_out);
        let entries = names::entries_key(&self.names, partition, owner);
        let mut cursor = 0;
        let mut shut_out = Some(shut_out);
        loop {
            let from = cursor.to_string();
            let scan = words(&[b"HSCAN", &entries, from.as_bytes(), b"COUNT", REAP_ENTRIES]);
            let page = self.shards.call(partition, |_| scan);
            if let Some(shut_out) = shut_out.take() {
                refuse_errors(shut_out.await?)?;
            }
            let page = refuse_errors(page.await?)?;
            let (next, fields) = scanned(&page).ok_or(PublishError::Unavailable)?;
            let mut setting = Setting::default();
            for entry in fields.chunks_exact(2).filter_map(|pair| pair[0].as_text()) {
                if let Some((place, member)) = names::read_entry(entry) {
                    setting.add(&place, member.to_owned(), 0);
                }
            }
            if !setting.items.is_empty() {
                self.reap_entries(owner, partition, setting).await?;
            }
            if next == 0 {
                return Ok(true);
            }
            cursor = next;
        }
    }

    async fn reap_entries(
        &self,
        owner: &str,
        partition: Partition,
        setting: Setting,
    ) -> Result<(), PublishError> {
        let caller = Arc::clone(&self.shared().owner);
        let command = self.set_command(partition, owner, (&caller, 0), &setting);
        let answer = self.shards.call(partition, |_| command).await;
        if !is_done(&answer) {
            return Err(answer.err().unwrap_or(PublishError::Unavailable));
        }
        self.meters.reaped.increment(setting.items.len() as u64);
        let at = Instant::now() + self.options.interval;
        for place in changed_places(&setting.places, &answer) {
            self.shared().plan(place.clone(), at);
        }
        self.changed.notify_one();
        Ok(())
    }
}

impl Setting {
    fn add(&mut self, place: &Place, member: String, sessions: u32) {
        let known = self.places.iter().position(|known| known == place);
        let at = known.unwrap_or_else(|| {
            self.places.push(place.clone());
            self.places.len() - 1
        });
        // Lua counts from 1.
        self.items.push((at + 1, member, sessions.to_string()));
    }
}

/// The places that the script says have changes to be told.
fn changed_places<'p>(places: &'p [Place], answer: &'p Answer) -> impl Iterator<Item = &'p Place> {
    let numbers = match answer {
        Ok(Value::Array(numbers)) => numbers.as_slice(),
        _ => &[],
    };
    numbers.iter().filter_map(|number| match number {
        Value::Integer(number) => places.get(usize::try_from(*number).ok()?.checked_sub(1)?),
        _ => None,
    })
}

/// An envelope without its body, which comes last.
fn envelope_head(place: &Place) -> Vec<u8> {
    let id = Uuid::now_v7();
    let at_unix_ms = id.get_timestamp().map_or(0, |at| {
        let (seconds, nanos) = at.to_unix();
        seconds * 1000 + u64::from(nanos / 1_000_000)
    });
    let publication = Publication {
        id: PublicationId(id),
        destination: place.destination.clone(),
        body: Bytes::new(),
        content_type: ContentType::Presence,
        headers: Box::default(),
        publisher: None,
        at_unix_ms,
        position: None,
        only_for: None,
        except: None,
        is_json: false,
    };
    let mut head = Vec::with_capacity(envelope::encoded_bytes(&publication));
    envelope::encode(&publication, &mut head);
    head
}

/// Calls under way at once. One partition has one batch of entries among them at most.
const CALLS_MAX: usize = 32;
/// How long a partition is left alone after a call failed.
const REST: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_millis(100);
/// Entries that are looked at in one step of reaping.
const REAP_ENTRIES: &[u8] = b"128";
/// Partitions that are reaped at once.
const REAP_PARTITIONS: usize = 8;
