//! Commands on their way to the masters of a cluster's partitions, and those that must wait.
//!
//! A command that is answered MOVED was not executed. It is held, and with it all later commands of
//! its partition, until the partition's new master is known and connected and nothing of the
//! partition is under way at the old one; then they leave in their old order. Who has waited for
//! the response timeout is told `Unavailable`, and nobody is sent after MOVED more than a few times.
//!
//! While a slot is moving, a command finds its keys on either side, or on both: then nobody can
//! execute it. It is held in the same way, and tried again at short intervals.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fanlight_engine::broker::PublishError;
use tokio::sync::{Notify, oneshot};

use crate::names::Partition;
use crate::pipeline::{Answer, Item};
use crate::writer::{CommandQueue, Link};

/// The routes of all partitions.
#[derive(Debug)]
pub(crate) struct Routes {
    /// At the index of the partition.
    partitions: Box<[Mutex<Route>]>,
    held: AtomicUsize,
    held_bytes: AtomicUsize,
    holding: Notify,
    /// Whether nobody lets go any more what is held.
    closed: AtomicBool,
    limits: Limits,
}

/// How much may be held, all in all, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

#[derive(Debug, Default)]
struct Route {
    /// Queued or sent, and neither answered nor redirected.
    under_way: usize,
    hold: Option<Hold>,
}

#[derive(Debug)]
struct Hold {
    /// Nothing leaves before a slot map that is newer than this.
    newer_than: Option<u64>,
    /// Nor before this.
    from: Instant,
    until: Instant,
    /// Redirected, in the order of their answers, which is that of the calls.
    redirected: VecDeque<Item>,
    /// Called since.
    later: VecDeque<Item>,
}

/// Counts a command as under way until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    routes: Arc<Routes>,
    partition: Partition,
    /// The link that the command was made for.
    link: Link,
    /// How often it has been redirected.
    redirected: u8,
    /// When it was first found that its slot is just moving.
    moving_since: Option<Instant>,
}

impl Routes {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            partitions: Partition::all().map(|_| Mutex::default()).collect(),
            held: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            holding: Notify::new(),
            closed: AtomicBool::new(false),
            limits,
        }
    }

    /// Queues a command at its partition's master, or holds it. `master` is asked for while the
    /// route is locked, so that the order of calls is that of the queue; and before, for its link,
    /// as the command may be large and is made without a lock.
    pub(crate) fn send(
        self: &Arc<Self>,
        partition: Partition,
        kept: bool,
        master: impl Fn() -> Arc<CommandQueue>,
        command: impl FnOnce(&Link) -> Vec<u8>,
    ) -> Result<oneshot::Receiver<Answer>, PublishError> {
        let link = if self.route(partition).hold.is_some() { None } else { master().link() };
        let link = link.unwrap_or_else(Link::placeholder);
        let command = command(&link);
        let mut guard = self.route(partition);
        let route = &mut *guard;
        let Some(hold) = &mut route.hold else {
            let ticket = |link| self.ticket(partition, link);
            let answer = master().send_routed(kept, (command, link), ticket)?;
            route.under_way += 1;
            return Ok(answer);
        };
        let (waiter, answer) = oneshot::channel();
        let item = Item { command, kept, waiter, ticket: Some(self.ticket(partition, link)) };
        route.under_way += 1;
        if let Err(item) = self.keep(item, |item| hold.later.push_back(item)) {
            // Its drop locks the route.
            drop(guard);
            drop(item);
            return Err(PublishError::Overloaded);
        }
        Ok(answer)
    }

    /// Takes back a command that was not executed, and holds its partition.
    pub(crate) fn redirect(&self, mut item: Item, map_number: u64) {
        let Some(ticket) = &mut item.ticket else { return };
        ticket.redirected += 1;
        if ticket.redirected > REDIRECTS_MAX {
            let _ = item.waiter.send(Err(PublishError::Unavailable));
            return;
        }
        let partition = ticket.partition;
        self.take_back(item, partition, |hold| {
            hold.newer_than.get_or_insert(map_number);
        });
    }

    /// Takes back a command that can't be executed while its slot is moving, to try it again soon.
    pub(crate) fn retry(&self, mut item: Item) {
        let Some(ticket) = &mut item.ticket else { return };
        if ticket.moves_for() >= self.limits.time {
            let _ = item.waiter.send(Err(PublishError::Unavailable));
            return;
        }
        let partition = ticket.partition;
        self.take_back(item, partition, |hold| hold.from = Instant::now() + RETRY_AFTER);
    }

    fn take_back(&self, item: Item, partition: Partition, limit: impl FnOnce(&mut Hold)) {
        let mut route = self.route(partition);
        if self.closed.load(Ordering::SeqCst) {
            drop(route);
            let _ = item.waiter.send(Err(PublishError::Unavailable));
            return;
        }
        let hold = self.hold_in(&mut route);
        limit(hold);
        if let Err(item) = self.keep(item, |item| hold.redirected.push_back(item)) {
            drop(route);
            let _ = item.waiter.send(Err(PublishError::Unavailable));
        }
    }

    /// Sends a command to the master that its slot is moving to; gives it back if that one can't
    /// take it, or if what came before it is held.
    pub(crate) fn ask(&self, mut item: Item, queue: &CommandQueue) -> Result<(), Item> {
        let (Some(link), Some(ticket)) = (queue.link(), &mut item.ticket) else {
            return Err(item);
        };
        let is_late = ticket.moves_for() >= self.limits.time;
        if is_late || self.route(ticket.partition).hold.is_some() {
            return Err(item);
        }
        ticket.link.rebind(&mut item.command, &link);
        queue.put_asking(item)
    }

    /// Holds what comes for a partition that gets another master.
    pub(crate) fn hold(&self, partition: Partition, map_number: u64) {
        self.hold_in(&mut self.route(partition)).newer_than.get_or_insert(map_number);
    }

    fn hold_in<'r>(&self, route: &'r mut Route) -> &'r mut Hold {
        let from = Instant::now();
        let until = from + self.limits.time;
        route.hold.get_or_insert_with(|| {
            self.holding.notify_one();
            let (redirected, later) = (VecDeque::new(), VecDeque::new());
            Hold { newer_than: None, from, until, redirected, later }
        })
    }

    /// Resolves soon after something begins to be held.
    pub(crate) async fn holding(&self) {
        self.holding.notified().await;
    }

    /// Lets go what can go, with the slot map of this number; whether anything is still held.
    pub(crate) fn release(
        self: &Arc<Self>,
        map_number: u64,
        master: impl Fn(Partition) -> Arc<CommandQueue>,
    ) -> bool {
        let now = Instant::now();
        let mut holding = false;
        for partition in Partition::all() {
            let mut route = self.route(partition);
            let Some(hold) = &route.hold else { continue };
            let waiting = hold.redirected.len() + hold.later.len();
            let is_late = now >= hold.until;
            let queue = master(partition);
            let may_leave = route.under_way == waiting
                && hold.newer_than.is_none_or(|known| map_number > known)
                && now >= hold.from;
            let link = queue.link();
            if !is_late && (!may_leave || link.is_none()) {
                holding = true;
                continue;
            }
            let Some(hold) = route.hold.take() else { continue };
            let mut refused = Vec::new();
            for mut item in hold.redirected.into_iter().chain(hold.later) {
                self.held.fetch_sub(1, Ordering::Relaxed);
                self.held_bytes.fetch_sub(item.command.len(), Ordering::Relaxed);
                let taken = match &link {
                    Some(link) if may_leave => {
                        if let Some(ticket) = &mut item.ticket {
                            ticket.link.rebind(&mut item.command, link);
                        }
                        queue.put(item)
                    }
                    _ => Err((item, PublishError::Unavailable)),
                };
                refused.extend(taken.err());
            }
            drop(route);
            for (item, error) in refused {
                let _ = item.waiter.send(Err(error));
            }
        }
        holding
    }

    /// At the end: nobody is let go any more. Who is redirected later is refused then.
    pub(crate) fn refuse_all(&self) {
        // Before the routes are locked: who has not seen it has held by then.
        self.closed.store(true, Ordering::SeqCst);
        for partition in Partition::all() {
            let hold = self.route(partition).hold.take();
            for item in
                hold.into_iter().flat_map(|hold| hold.redirected.into_iter().chain(hold.later))
            {
                let _ = item.waiter.send(Err(PublishError::Unavailable));
            }
        }
    }

    /// Keeps an item if there is room for it.
    fn keep(&self, item: Item, keep: impl FnOnce(Item)) -> Result<(), Item> {
        let bytes = item.command.len();
        let held = self.held.load(Ordering::Relaxed);
        let held_bytes = self.held_bytes.load(Ordering::Relaxed);
        if held >= self.limits.messages || (held > 0 && held_bytes + bytes > self.limits.bytes) {
            return Err(item);
        }
        self.held.fetch_add(1, Ordering::Relaxed);
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        keep(item);
        Ok(())
    }

    fn ticket(self: &Arc<Self>, partition: Partition, link: Link) -> Ticket {
        Ticket { routes: Arc::clone(self), partition, link, redirected: 0, moving_since: None }
    }

    fn route(&self, partition: Partition) -> MutexGuard<'_, Route> {
        let route = &self.partitions[usize::from(partition.0)];
        route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// For how long its slot has been found to be moving.
    fn moves_for(&mut self) -> Duration {
        self.moving_since.get_or_insert_with(Instant::now).elapsed()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut route = self.routes.route(self.partition);
        route.under_way = route.under_way.saturating_sub(1);
    }
}

/// A partition that moves again and again is given up.
const REDIRECTS_MAX: u8 = 5;
/// How soon a command is tried again whose keys were on both sides.
const RETRY_AFTER: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_redirected_after_the_end_is_refused_and_not_held() {
        let limits = Limits { messages: 10, bytes: 1000, time: Duration::from_secs(1) };
        let routes = Arc::new(Routes::new(limits));
        let item = || {
            let (waiter, answer) = oneshot::channel();
            let ticket = Some(routes.ticket(Partition(1), Link::placeholder()));
            (Item { command: b"x".to_vec(), kept: false, waiter, ticket }, answer)
        };
        let ((held, mut before), (late, mut after), (moving, mut last)) = (item(), item(), item());
        routes.redirect(held, 1);
        assert!(before.try_recv().is_err(), "it is held");
        routes.refuse_all();
        routes.redirect(late, 1);
        routes.retry(moving);
        for answer in [&mut before, &mut after, &mut last] {
            assert_eq!(answer.try_recv(), Ok(Err(PublishError::Unavailable)));
        }
    }
}
