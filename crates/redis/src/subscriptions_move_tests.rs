//! Tests of interests in a cluster: two connections to two simulated masters whose slots move.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LINGER: Duration = Duration::from_secs(5);
const ANN: WorkerId = WorkerId(0);
const CHANNELS: u8 = 4;

fn channel(number: u8) -> Channel {
    Channel::of_destination(format!("/topic/{number}").into())
}

fn partition(channel: &Channel) -> Partition {
    Partition::of(channel.as_str())
}

fn only(channel: &Channel) -> PartitionSet {
    [partition(channel)].into_iter().collect()
}

fn connected() -> (Subscriptions, Instant) {
    let mut subscriptions = Subscriptions::new(LINGER, true);
    subscriptions.on_connected();
    (subscriptions, Instant::now())
}

#[test]
fn a_command_concerns_one_partition_only() {
    let (mut subscriptions, now) = connected();
    for number in 0..CHANNELS {
        subscriptions.subscribe(ANN, &channel(number));
    }
    let partitions: BTreeSet<_> = (0..CHANNELS).map(|number| partition(&channel(number))).collect();
    assert!(partitions.len() > 1);
    let mut commands = 0;
    while let Some(Command::Subscribe(channels)) = subscriptions.next_command(now) {
        assert!(channels.iter().all(|each| partition(each) == partition(&channels[0])));
        for each in &channels {
            subscriptions.on_subscribed(each.as_str());
        }
        commands += 1;
    }
    assert_eq!(commands, partitions.len());
    for number in 0..CHANNELS {
        subscriptions.unsubscribe(ANN, &channel(number), now);
    }
    let mut left = 0;
    while let Some(Command::Unsubscribe(channels)) = subscriptions.next_command(now + LINGER) {
        assert!(channels.iter().all(|each| partition(each) == partition(&channels[0])));
        left += channels.len();
    }
    assert_eq!(left, usize::from(CHANNELS));
}

#[test]
fn what_is_refused_is_asked_for_again_after_a_while() {
    let (mut subscriptions, now) = connected();
    let Join::Wait(mut joined) = subscriptions.subscribe(ANN, &channel(0)) else { panic!() };
    let command = subscriptions.next_command(now).unwrap();
    subscriptions.on_refused(&command, now);
    subscriptions.on_tick(now);
    assert_eq!(subscriptions.next_command(now), None);
    subscriptions.on_tick(now + RETRY_AFTER);
    assert_eq!(subscriptions.next_command(now), Some(command));
    assert!(joined.try_recv().is_err());
    assert_eq!(subscriptions.on_subscribed(channel(0).as_str()), Confirmation::First);
    assert_eq!(joined.try_recv(), Ok(Joined::Live));
}

#[test]
fn an_interest_moves_with_its_joins_and_is_known_to_have_had_a_break() {
    let (mut from, now) = connected();
    let (mut to, _) = connected();
    let (confirmed, waiting) = (channel(0), channel(1));
    assert_ne!(partition(&confirmed), partition(&waiting));
    from.subscribe(ANN, &confirmed);
    from.next_command(now);
    from.on_subscribed(confirmed.as_str());
    let Join::Wait(mut joined) = from.subscribe(ANN, &waiting) else { panic!() };
    for channel in [&confirmed, &waiting] {
        for interest in from.take(&only(channel)) {
            to.adopt(interest);
        }
    }
    assert_eq!((from.confirmed(), from.entries.len()), (0, 0));
    assert_eq!(from.next_command(now), None);
    while to.next_command(now).is_some() {}
    assert_eq!(to.on_subscribed(confirmed.as_str()), Confirmation::Again);
    assert_eq!(to.on_subscribed(waiting.as_str()), Confirmation::First);
    assert_eq!(joined.try_recv(), Ok(Joined::Live));
}

#[test]
fn a_reconnect_confirms_again_and_a_new_interest_does_not() {
    let (mut subscriptions, now) = connected();
    let channel = channel(0);
    for expected in [Confirmation::First, Confirmation::Again] {
        subscriptions.subscribe(ANN, &channel);
        subscriptions.next_command(now);
        assert_eq!(subscriptions.on_subscribed(channel.as_str()), expected);
        assert_eq!(subscriptions.on_subscribed(channel.as_str()), Confirmation::Stray);
        subscriptions.on_disconnected();
        subscriptions.on_connected();
    }
    subscriptions.on_disconnected();
    subscriptions.unsubscribe(ANN, &channel, now);
    subscriptions.on_connected();
    subscriptions.subscribe(ANN, &channel);
    subscriptions.next_command(now);
    assert_eq!(subscriptions.on_subscribed(channel.as_str()), Confirmation::First);
}

#[test]
fn a_join_that_was_withdrawn_ends_where_only_a_stray_confirmation_comes() {
    let mut world = World::new();
    let there_and_back = [Step::Migrate(2), Step::Refresh, Step::Migrate(2), Step::Refresh];
    let steps = [Step::Subscribe(2), Step::Connect(0), Step::Send(0)]
        .into_iter()
        .chain(there_and_back)
        .chain([Step::MasterActs(0), Step::Hear(0), Step::Unsubscribe(2), Step::Send(0)]);
    for step in steps {
        world.take(&step);
    }
    assert_eq!(world.joins[0].try_recv(), Err(oneshot::error::TryRecvError::Closed));
    world.take(&Step::Subscribe(2));
    world.assert_settles();
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe(u8),
    Unsubscribe(u8),
    Send(usize),
    MasterActs(usize),
    Hear(usize),
    Wait(u64),
    Break(usize),
    Connect(usize),
    /// The slot of this channel gets the other master.
    Migrate(u8),
    /// We learn of all migrations.
    Refresh,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..CHANNELS).prop_map(Step::Subscribe),
        3 => (0..CHANNELS).prop_map(Step::Unsubscribe),
        4 => (0..2_usize).prop_map(Step::Send),
        8 => (0..2_usize).prop_map(Step::MasterActs),
        8 => (0..2_usize).prop_map(Step::Hear),
        2 => (0..8000_u64).prop_map(Step::Wait),
        1 => (0..2_usize).prop_map(Step::Break),
        2 => (0..2_usize).prop_map(Step::Connect),
        2 => (0..CHANNELS).prop_map(Step::Migrate),
        2 => Just(Step::Refresh),
    ]
}

enum Answer {
    Subscribed(Channel),
    Unsubscribed(Channel),
    Refused(Command),
}

/// A master at the end of two FIFO pipes.
#[derive(Default)]
struct Master {
    connected: bool,
    commands: VecDeque<Command>,
    answers: VecDeque<Answer>,
    subscribed: BTreeSet<Channel>,
}

struct World {
    lanes: [Subscriptions; 2],
    masters: [Master; 2],
    /// Who has which partition, in truth and in our mind.
    truth: BTreeMap<Partition, usize>,
    known: BTreeMap<Partition, usize>,
    now: Instant,
    wanted: BTreeSet<Channel>,
    joins: Vec<oneshot::Receiver<Joined>>,
}

impl World {
    fn new() -> Self {
        let owners: BTreeMap<_, _> =
            (0..CHANNELS).map(|number| (partition(&channel(number)), 0)).collect();
        Self {
            lanes: [Subscriptions::new(LINGER, true), Subscriptions::new(LINGER, true)],
            masters: Default::default(),
            truth: owners.clone(),
            known: owners,
            now: Instant::now(),
            wanted: BTreeSet::new(),
            joins: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Subscribe(number) => {
                let channel = channel(number);
                let lane = &mut self.lanes[self.known[&partition(&channel)]];
                if let Join::Wait(joined) = lane.subscribe(ANN, &channel) {
                    self.joins.push(joined);
                }
                self.wanted.insert(channel);
            }
            Step::Unsubscribe(number) => {
                let channel = channel(number);
                let lane = &mut self.lanes[self.known[&partition(&channel)]];
                lane.unsubscribe(ANN, &channel, self.now);
                self.wanted.remove(&channel);
            }
            Step::Send(at) => self.send(at),
            Step::MasterActs(at) => self.master_acts(at),
            Step::Hear(at) => self.hear(at),
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                for lane in &mut self.lanes {
                    lane.on_tick(self.now);
                }
            }
            Step::Break(at) if self.masters[at].connected => {
                self.masters[at] = Master::default();
                self.lanes[at].on_disconnected();
            }
            Step::Connect(at) if !self.masters[at].connected => {
                self.masters[at].connected = true;
                self.lanes[at].on_connected();
            }
            Step::Break(_) | Step::Connect(_) => {}
            Step::Migrate(number) => self.migrate(&channel(number)),
            Step::Refresh => self.refresh(),
        }
    }

    fn send(&mut self, at: usize) {
        while self.masters[at].connected
            && let Some(command) = self.lanes[at].next_command(self.now)
        {
            self.masters[at].commands.push_back(command);
        }
    }

    fn master_acts(&mut self, at: usize) {
        let master = &mut self.masters[at];
        let Some(command) = master.commands.pop_front() else { return };
        let (Command::Subscribe(channels) | Command::Unsubscribe(channels)) = &command;
        if self.truth[&partition(&channels[0])] != at {
            master.answers.push_back(Answer::Refused(command));
            return;
        }
        let subscribe = matches!(command, Command::Subscribe(_));
        for channel in channels.clone() {
            if subscribe {
                master.subscribed.insert(channel.clone());
                master.answers.push_back(Answer::Subscribed(channel));
            } else {
                master.subscribed.remove(&channel);
                master.answers.push_back(Answer::Unsubscribed(channel));
            }
        }
    }

    fn hear(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        match self.masters[at].answers.pop_front() {
            Some(Answer::Subscribed(channel)) => match lane.on_subscribed(channel.as_str()) {
                Confirmation::Stray => lane.on_stray(channel.as_str(), self.now),
                Confirmation::First | Confirmation::Again => {}
            },
            Some(Answer::Unsubscribed(channel)) => {
                lane.on_unsubscribed(channel.as_str(), self.now);
            }
            Some(Answer::Refused(command)) => lane.on_refused(&command, self.now),
            None => {}
        }
    }

    /// The old master ends the subscriptions in the slot.
    fn migrate(&mut self, moved: &Channel) {
        let owner = self.truth.get_mut(&partition(moved)).expect("all are known");
        let old = &mut self.masters[*owner];
        *owner = 1 - *owner;
        let ended = old.subscribed.extract_if(.., |each| partition(each) == partition(moved));
        old.answers.extend(ended.map(Answer::Unsubscribed));
    }

    fn refresh(&mut self) {
        for (partition, owner) in &self.truth {
            let known = self.known.get_mut(partition).expect("all are known");
            if *known != *owner {
                let set = [*partition].into_iter().collect();
                for interest in self.lanes[*known].take(&set) {
                    self.lanes[*owner].adopt(interest);
                }
                *known = *owner;
            }
        }
    }

    fn assert_settles(&mut self) {
        for at in [0, 1] {
            self.take(&Step::Connect(at));
        }
        self.refresh();
        for _ in 0..4 {
            for at in [0, 1] {
                self.send(at);
                while !self.masters[at].commands.is_empty() || !self.masters[at].answers.is_empty()
                {
                    self.master_acts(at);
                    self.hear(at);
                }
            }
            self.take(&Step::Wait(10_000));
        }
        for at in [0, 1] {
            let here = |channel: &&Channel| self.truth[&partition(channel)] == at;
            let wanted: BTreeSet<_> = self.wanted.iter().filter(here).cloned().collect();
            assert_eq!(self.masters[at].subscribed, wanted, "at {at}");
            assert_eq!(self.lanes[at].confirmed(), wanted.len(), "at {at}");
            assert_eq!(self.lanes[at].entries.len(), wanted.len(), "at {at}");
            assert!(self.lanes[at].refused.is_empty() && self.lanes[at].to_subscribe.is_empty());
        }
        for mut joined in self.joins.drain(..) {
            let resolved = joined.try_recv();
            assert_ne!(resolved, Err(oneshot::error::TryRecvError::Empty), "a join is forgotten");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn wherever_slots_move_what_is_wanted_ends_subscribed_at_its_master_and_nowhere_else(
        steps in proptest::collection::vec(steps(), 1..80),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.assert_settles();
    }
}
