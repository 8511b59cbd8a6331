//! Tests of the subscription state machine, some against a simulated Redis.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LINGER: Duration = Duration::from_secs(5);
const ANN: WorkerId = WorkerId(0);
const BOB: WorkerId = WorkerId(1);

fn channel(text: &str) -> Channel {
    Channel::of_destination(text.into())
}

fn connected() -> (Subscriptions, Instant) {
    let mut subscriptions = Subscriptions::new(LINGER, false);
    subscriptions.on_connected();
    (subscriptions, Instant::now())
}

fn waiting(join: Join) -> oneshot::Receiver<Joined> {
    match join {
        Join::Wait(joined) => joined,
        Join::Now(joined) => panic!("resolved at once: {joined:?}"),
    }
}

fn at_once(join: &Join) -> Option<Joined> {
    match join {
        Join::Now(joined) => Some(*joined),
        Join::Wait(_) => None,
    }
}

fn subscribe(names: &[&str]) -> Command {
    Command::Subscribe(names.iter().copied().map(channel).collect())
}

fn unsubscribe(names: &[&str]) -> Command {
    Command::Unsubscribe(names.iter().copied().map(channel).collect())
}

#[test]
fn a_join_is_live_at_the_confirmation_and_not_before() {
    let (mut subscriptions, now) = connected();
    let mut joined = waiting(subscriptions.subscribe(ANN, &channel("a")));
    assert_eq!(subscriptions.next_command(now), Some(subscribe(&["a"])));
    assert_eq!(subscriptions.next_command(now), None);
    assert!(joined.try_recv().is_err());
    subscriptions.on_subscribed("a");
    assert_eq!(joined.try_recv(), Ok(Joined::Live));
    assert_eq!(at_once(&subscriptions.subscribe(BOB, &channel("a"))), Some(Joined::Live));
    assert_eq!(subscriptions.next_command(now), None);
}

#[test]
fn a_connection_is_silent_once_it_was_last_proven_too_long_ago() {
    let (mut subscriptions, now) = connected();
    let (time, moment) = (Duration::from_secs(3), Duration::from_millis(1));
    assert!(!subscriptions.is_silent_for(time, now), "it was never there");
    subscriptions.on_proven(now);
    assert!(!subscriptions.is_silent_for(time, now + time));
    assert!(subscriptions.is_silent_for(time, now + time + moment));
    subscriptions.on_proven(now + time);
    assert!(!subscriptions.is_silent_for(time, now + time + moment));
}

#[test]
fn the_last_worker_leaves_redis_after_the_linger() {
    let (mut subscriptions, now) = connected();
    for worker in [ANN, BOB] {
        subscriptions.subscribe(worker, &channel("a"));
    }
    subscriptions.next_command(now);
    subscriptions.on_subscribed("a");
    subscriptions.unsubscribe(ANN, &channel("a"), now);
    assert_eq!(subscriptions.next_command(now + LINGER), None);
    assert_eq!(subscriptions.interested("a").unwrap().1, [BOB]);
    subscriptions.unsubscribe(BOB, &channel("a"), now);
    assert_eq!(subscriptions.interested("a").unwrap().1, []);
    assert_eq!(subscriptions.next_command(now), None);
    assert_eq!(subscriptions.next_command(now + LINGER), Some(unsubscribe(&["a"])));
    subscriptions.on_unsubscribed("a", now);
    assert!(subscriptions.entries.is_empty());
}

#[test]
fn coming_back_within_the_linger_is_live_at_once_without_a_command() {
    let (mut subscriptions, now) = connected();
    subscriptions.subscribe(ANN, &channel("a"));
    subscriptions.next_command(now);
    subscriptions.on_subscribed("a");
    subscriptions.unsubscribe(ANN, &channel("a"), now);
    assert_eq!(at_once(&subscriptions.subscribe(ANN, &channel("a"))), Some(Joined::Live));
    assert_eq!(subscriptions.next_command(now + 3 * LINGER), None);
}

#[test]
fn coming_back_while_leaving_waits_for_the_second_confirmation() {
    let (mut subscriptions, now) = connected();
    subscriptions.subscribe(ANN, &channel("a"));
    subscriptions.next_command(now);
    subscriptions.on_subscribed("a");
    subscriptions.unsubscribe(ANN, &channel("a"), now);
    assert_eq!(subscriptions.next_command(now + LINGER), Some(unsubscribe(&["a"])));
    let mut joined = waiting(subscriptions.subscribe(ANN, &channel("a")));
    assert_eq!(subscriptions.next_command(now + LINGER), Some(subscribe(&["a"])));
    subscriptions.on_unsubscribed("a", now);
    assert!(joined.try_recv().is_err());
    subscriptions.on_subscribed("a");
    assert_eq!(joined.try_recv(), Ok(Joined::Live));
}

#[test]
fn everything_wanted_is_asked_for_again_in_batches_after_a_reconnect() {
    let (mut subscriptions, now) = connected();
    for number in 0..=BATCH_CHANNELS {
        subscriptions.subscribe(ANN, &channel(&number.to_string()));
    }
    subscriptions.unsubscribe(ANN, &channel("0"), now);
    subscriptions.on_disconnected();
    assert_eq!(subscriptions.next_command(now), None);
    subscriptions.subscribe(ANN, &channel("x"));
    subscriptions.on_connected();
    for expected in [BATCH_CHANNELS, 1] {
        match subscriptions.next_command(now) {
            Some(Command::Subscribe(channels)) => assert_eq!(channels.len(), expected),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(subscriptions.next_command(now), None);
}

#[test]
fn a_join_survives_a_short_break_and_is_degraded_by_a_long_one() {
    let (mut subscriptions, now) = connected();
    let mut joined = waiting(subscriptions.subscribe(ANN, &channel("a")));
    subscriptions.next_command(now);
    subscriptions.on_disconnected();
    assert!(joined.try_recv().is_err());
    subscriptions.on_unreachable();
    assert_eq!(joined.try_recv(), Ok(Joined::Degraded));
    assert_eq!(at_once(&subscriptions.subscribe(BOB, &channel("a"))), Some(Joined::Degraded));
    subscriptions.on_connected();
    assert_eq!(subscriptions.next_command(now), Some(subscribe(&["a"])));
}

#[test]
fn toggling_a_channel_keeps_the_memory_bounded() {
    let (mut subscriptions, now) = connected();
    for round in 0..1000 {
        subscriptions.subscribe(ANN, &channel("a"));
        subscriptions.unsubscribe(ANN, &channel("a"), now);
        if round % 3 == 0 {
            subscriptions.next_command(now);
        }
    }
    assert!(subscriptions.lingering.len() <= 1);
    assert!(subscriptions.to_subscribe.len() <= 1);
    subscriptions.on_disconnected();
    for _ in 0..1000 {
        subscriptions.subscribe(ANN, &channel("a"));
        subscriptions.unsubscribe(ANN, &channel("a"), now);
    }
    assert_eq!((subscriptions.entries.len(), subscriptions.to_subscribe.len()), (0, 0));
}

#[test]
fn a_confirmation_that_was_not_asked_for_confirms_nothing() {
    let (mut subscriptions, now) = connected();
    let mut joined = waiting(subscriptions.subscribe(ANN, &channel("a")));
    subscriptions.on_subscribed("a");
    assert!(joined.try_recv().is_err(), "its SUBSCRIBE is not even sent");
    assert_eq!(subscriptions.confirmed(), 0);
    assert_eq!(subscriptions.next_command(now), Some(subscribe(&["a"])));
    subscriptions.on_subscribed("a");
    assert_eq!(joined.try_recv(), Ok(Joined::Live));
}

#[test]
fn without_a_linger_a_channel_is_given_up_at_once_but_not_before_it_is_confirmed() {
    let (mut subscriptions, now) = (Subscriptions::new(Duration::ZERO, false), Instant::now());
    subscriptions.on_connected();
    subscriptions.subscribe(ANN, &channel("a"));
    assert_eq!(subscriptions.next_command(now), Some(subscribe(&["a"])));
    subscriptions.unsubscribe(ANN, &channel("a"), now);
    assert_eq!(subscriptions.next_command(now), None);
    subscriptions.on_subscribed("a");
    assert_eq!(subscriptions.next_command(now), Some(unsubscribe(&["a"])));
}

#[test]
fn joins_that_were_given_up_are_not_kept_while_a_confirmation_is_awaited() {
    let (mut subscriptions, _) = connected();
    let _kept = waiting(subscriptions.subscribe(ANN, &channel("a")));
    for _ in 0..10_000 {
        drop(subscriptions.subscribe(BOB, &channel("a")));
    }
    assert!(subscriptions.entries[&channel("a")].waiters.capacity() <= 8);
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe(u16, u8),
    Unsubscribe(u16, u8),
    Send,
    RedisActs,
    Hear,
    Wait(u64),
    Break,
    Connect,
    FailToConnect,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2_u16, 0..3_u8).prop_map(|(worker, name)| Step::Subscribe(worker, name)),
        4 => (0..2_u16, 0..3_u8).prop_map(|(worker, name)| Step::Unsubscribe(worker, name)),
        4 => Just(Step::Send),
        6 => Just(Step::RedisActs),
        6 => Just(Step::Hear),
        2 => (0..8000_u64).prop_map(Step::Wait),
        1 => Just(Step::Break),
        2 => Just(Step::Connect),
        1 => Just(Step::FailToConnect),
    ]
}

/// A Redis at the end of two FIFO pipes.
#[derive(Default)]
struct Redis {
    connected: bool,
    commands: VecDeque<(bool, Channel)>,
    answers: VecDeque<(bool, Channel)>,
    subscribed: BTreeSet<Channel>,
}

struct World {
    subscriptions: Subscriptions,
    redis: Redis,
    now: Instant,
    wanted: BTreeMap<Channel, BTreeSet<WorkerId>>,
    joins: Vec<(Channel, oneshot::Receiver<Joined>)>,
}

impl World {
    fn new() -> Self {
        Self {
            subscriptions: Subscriptions::new(LINGER, false),
            redis: Redis::default(),
            now: Instant::now(),
            wanted: BTreeMap::new(),
            joins: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        let name = |number: &u8| channel(&format!("c{number}"));
        match step {
            Step::Subscribe(worker, number) => {
                let (worker, channel) = (WorkerId(*worker), name(number));
                self.wanted.entry(channel.clone()).or_default().insert(worker);
                match self.subscriptions.subscribe(worker, &channel) {
                    Join::Now(Joined::Live) => self.assert_live(&channel),
                    Join::Now(Joined::Degraded) => assert!(!self.redis.connected),
                    Join::Wait(joined) => self.joins.push((channel, joined)),
                }
            }
            Step::Unsubscribe(worker, number) => {
                let (worker, channel) = (WorkerId(*worker), name(number));
                if let Some(workers) = self.wanted.get_mut(&channel) {
                    workers.remove(&worker);
                }
                self.subscriptions.unsubscribe(worker, &channel, self.now);
            }
            Step::Send => self.send(),
            Step::RedisActs => self.redis_acts(),
            Step::Hear => self.hear(),
            Step::Wait(ms) => self.now += Duration::from_millis(*ms),
            Step::Break if self.redis.connected => {
                self.redis = Redis::default();
                self.subscriptions.on_disconnected();
            }
            Step::Connect if !self.redis.connected => {
                self.redis.connected = true;
                self.subscriptions.on_connected();
            }
            Step::FailToConnect if !self.redis.connected => self.subscriptions.on_unreachable(),
            Step::Break | Step::Connect | Step::FailToConnect => {}
        }
        self.check_joins();
    }

    fn send(&mut self) {
        while self.redis.connected
            && let Some(command) = self.subscriptions.next_command(self.now)
        {
            let (subscribe, channels) = match command {
                Command::Subscribe(channels) => (true, channels),
                Command::Unsubscribe(channels) => (false, channels),
            };
            assert!((1..=BATCH_CHANNELS).contains(&channels.len()));
            self.redis.commands.extend(channels.into_iter().map(|channel| (subscribe, channel)));
        }
    }

    fn redis_acts(&mut self) {
        if let Some((subscribe, channel)) = self.redis.commands.pop_front() {
            if subscribe {
                self.redis.subscribed.insert(channel.clone());
            } else {
                self.redis.subscribed.remove(&channel);
            }
            self.redis.answers.push_back((subscribe, channel));
        }
    }

    fn hear(&mut self) {
        match self.redis.answers.pop_front() {
            Some((true, channel)) => drop(self.subscriptions.on_subscribed(channel.as_str())),
            Some((false, channel)) => {
                let _ = self.subscriptions.on_unsubscribed(channel.as_str(), self.now);
            }
            None => {}
        }
    }

    fn check_joins(&mut self) {
        let joins = std::mem::take(&mut self.joins);
        for (channel, mut joined) in joins {
            match joined.try_recv() {
                Ok(Joined::Live) => self.assert_live(&channel),
                Ok(Joined::Degraded) => assert!(!self.redis.connected),
                Err(oneshot::error::TryRecvError::Empty) => self.joins.push((channel, joined)),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
    }

    /// Nothing published from now on is missed: Redis delivers it, and nothing under way ends that.
    fn assert_live(&self, channel: &Channel) {
        assert!(self.redis.subscribed.contains(channel), "{channel:?} is live only in our mind");
        assert!(!self.redis.commands.contains(&(false, channel.clone())), "{channel:?} will end");
    }

    fn assert_settles(&mut self) {
        self.take(&Step::Connect);
        for _ in 0..3 {
            self.send();
            while !self.redis.commands.is_empty() || !self.redis.answers.is_empty() {
                self.redis_acts();
                self.hear();
                self.check_joins();
            }
            self.now += 2 * LINGER;
        }
        let wanted: BTreeSet<_> = self
            .wanted
            .iter()
            .filter(|(_, workers)| !workers.is_empty())
            .map(|(channel, _)| channel.clone())
            .collect();
        assert_eq!(self.redis.subscribed, wanted);
        assert_eq!(self.subscriptions.confirmed(), wanted.len());
        assert_eq!(self.subscriptions.entries.len(), wanted.len());
        self.check_joins();
        assert!(self.joins.is_empty(), "a join never resolved");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_happens_live_means_live_and_redis_ends_with_what_is_wanted(
        steps in proptest::collection::vec(steps(), 1..60),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.assert_settles();
    }
}
