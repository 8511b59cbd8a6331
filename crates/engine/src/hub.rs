//! The worker-local hub: which sessions get a publication, and in which encoding.

mod patterns;

use std::collections::HashMap;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use fanlight_proto::stomp::Version;
use fanlight_proto::{Destination, DestinationPattern};
use slab::Slab;

use crate::broker::Channel;
use patterns::Patterns;

/// Names a session within its worker; reused once the session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub u32);

/// Names a subscription within its hub; reused once it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionKey(u32);

/// What a subscription is for.
#[derive(Debug, Clone)]
pub enum Target {
    /// One destination, resolved.
    Destination(Destination),
    /// All destinations of the channel that match.
    Pattern(Arc<DestinationPattern>),
}

impl Target {
    /// As text, absolute.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Destination(destination) => destination.as_str(),
            Self::Pattern(pattern) => pattern.as_str(),
        }
    }
}

/// How a subscriber wants its messages written.
#[derive(Debug, Clone, Copy)]
pub enum Wire<'a> {
    /// Native JSON: the same bytes for every subscriber.
    Native {
        /// Whether a user destination is shown with its user, since it was subscribed to by name.
        named: bool,
    },
    /// STOMP: the frame names the subscription.
    Stomp {
        /// The session's version.
        version: Version,
        /// The client's subscription id.
        id: &'a str,
        /// Whether messages carry an `ack` header.
        ack: bool,
    },
    /// A server-sent event with native JSON, whose id is the listener's cursor.
    Events {
        /// The destination's place in the cursor; it has none where a backend has subscribed.
        index: Option<u16>,
        /// As with [`Wire::Native`].
        named: bool,
    },
}

/// A [`Wire`] as a small value: equal values mean equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WireKey {
    /// Native JSON.
    Native {
        /// Whether a user destination is shown with its user.
        named: bool,
    },
    /// STOMP with an interned subscription id.
    Stomp {
        /// The session's version.
        version: Version,
        /// Names the subscription id: see [`Hub::subscription_id`].
        id: InternedId,
        /// Whether messages carry an `ack` header.
        ack: bool,
    },
    /// A server-sent event, but for its id, which is the listener's own.
    Events {
        /// The destination's place in the listener's cursor, if it has one.
        index: Option<u16>,
        /// Whether a user destination is shown with its user.
        named: bool,
    },
}

impl WireKey {
    /// Whether a message names the subscription that it comes by; a session gets others once,
    /// however many of its subscriptions match.
    pub fn names_subscription(self) -> bool {
        matches!(self, Self::Stomp { .. })
    }
}

impl Member {
    /// The subscription that it gets the publication by.
    pub fn subscription(&self) -> SubscriptionKey {
        self.subscription
    }
}

/// A subscription id that the hub keeps once, however many subscribers use it (`sub-0` is the
/// first id of every `@stomp/stompjs` client).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InternedId(u32);

/// One subscriber of a matching subscription.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Who gets the publication.
    pub session: SessionKey,
    /// In which bytes.
    pub wire: WireKey,
    /// Whether it gets changes of presence too.
    pub presence: bool,
    /// Whether it was here when something of its destination was last lost.
    pub missed: bool,
    subscription: SubscriptionKey,
}

/// Which sessions of one worker get a publication. Subscribing and unsubscribing cost the same
/// however many subscriptions there are; a publication is compared with those patterns of its
/// channel that begin and end as its destination does.
#[derive(Debug, Default)]
pub struct Hub {
    exact: HashMap<Destination, GroupKey, foldhash::quality::RandomState>,
    patterns: HashMap<Channel, Patterns, foldhash::quality::RandomState>,
    groups: Groups,
    places: Slab<Place>,
    ids: Interner,
    /// Destinations that have no subscriber by name any more.
    vacated: Vec<Destination>,
}

/// Names a group. As a type of its own it keeps the map of destinations apart from others that lead
/// to numbers: shared with them, subscribing takes a tenth more instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GroupKey(u32);

/// All groups.
#[derive(Debug, Default)]
struct Groups(Slab<Group>);

/// The subscribers of one target, in no particular order.
#[derive(Debug)]
struct Group {
    target: Target,
    channel: Channel,
    /// The active ones, then those that are prepared.
    members: Vec<Member>,
    active: u32,
}

/// Where a subscription stands, so that it can be removed without a search.
#[derive(Debug, Clone, Copy)]
struct Place {
    group: GroupKey,
    index: u32,
}

impl Hub {
    /// An empty hub.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a subscriber of `target`, whose publications come on `channel`.
    pub fn subscribe(
        &mut self,
        session: SessionKey,
        target: Target,
        channel: Channel,
        wire: Wire<'_>,
    ) -> SubscriptionKey {
        let key = self.prepare(session, target, channel, wire);
        self.activate(key);
        key
    }

    /// Adds a subscriber that gets nothing until it is activated.
    pub fn prepare(
        &mut self,
        session: SessionKey,
        target: Target,
        channel: Channel,
        wire: Wire<'_>,
    ) -> SubscriptionKey {
        let group = self.group_of(target, channel);
        let wire = match wire {
            Wire::Native { named } => WireKey::Native { named },
            Wire::Events { index, named } => WireKey::Events { index, named },
            Wire::Stomp { version, id, ack } => {
                WireKey::Stomp { version, id: self.ids.intern(id), ack }
            }
        };
        let members = &mut self.groups[group].members;
        let place = Place { group, index: members.len() as u32 };
        let subscription = SubscriptionKey(self.places.insert(place) as u32);
        members.push(Member { session, wire, presence: false, missed: false, subscription });
        subscription
    }

    /// Gives a subscriber the changes of presence too.
    pub fn show_presence(&mut self, key: SubscriptionKey) {
        if let Some(Place { group, index }) = self.places.get(key.0 as usize).copied() {
            self.groups[group].members[index as usize].presence = true;
        }
    }

    /// Lets a prepared subscriber get what comes. Of an active one it changes nothing.
    pub fn activate(&mut self, key: SubscriptionKey) {
        let Some(&place) = self.places.get(key.0 as usize) else { return };
        let group = &mut self.groups[place.group];
        if place.index >= group.active {
            let first = group.active;
            group.active += 1;
            self.swap(place.group, place.index, first);
        }
    }

    /// In which bytes a subscriber wants its messages.
    pub fn wire(&self, key: SubscriptionKey) -> Option<WireKey> {
        let place = self.places.get(key.0 as usize)?;
        Some(self.groups[place.group].members[place.index as usize].wire)
    }

    /// The subscriber behind a key, if its subscription is to `destination`, by its name or by a
    /// pattern. What was noted of another subscription, before the key was reused, is not meant.
    pub fn member_to(&self, key: SubscriptionKey, destination: &Destination) -> Option<&Member> {
        let place = self.places.get(key.0 as usize)?;
        let group = &self.groups[place.group];
        let is_to = match &group.target {
            Target::Destination(own) => own == destination,
            Target::Pattern(pattern) => pattern.matches(destination.as_str()),
        };
        is_to.then(|| &group.members[place.index as usize])
    }

    /// What a subscription is for.
    pub fn target(&self, key: SubscriptionKey) -> Option<&Target> {
        let place = self.places.get(key.0 as usize)?;
        Some(&self.groups[place.group].target)
    }

    /// Whether a subscription is to this very destination, by its name.
    pub fn is_to(&self, key: SubscriptionKey, destination: &Destination) -> bool {
        matches!(self.target(key), Some(Target::Destination(own)) if own == destination)
    }

    /// Whether some pattern is subscribed on `channel`.
    pub fn has_patterns(&self, channel: &Channel) -> bool {
        !self.patterns.is_empty() && self.patterns.contains_key(channel)
    }

    /// Whether the destination is subscribed by its name.
    pub fn has_destination(&self, destination: &Destination) -> bool {
        self.exact.contains_key(destination)
    }

    /// The destinations whose last subscriber by name has left since this was last called; some
    /// may have one again.
    pub fn take_vacated(&mut self) -> Vec<Destination> {
        std::mem::take(&mut self.vacated)
    }

    /// Removes a subscription. `key` must come from [`Hub::subscribe`] and be used once.
    pub fn unsubscribe(&mut self, key: SubscriptionKey) {
        let Some(&(mut place)) = self.places.get(key.0 as usize) else {
            debug_assert!(false, "unsubscribed twice");
            return;
        };
        let group_key = place.group;
        let group = &mut self.groups[group_key];
        if place.index < group.active {
            group.active -= 1;
            let last = group.active;
            self.swap(place.group, place.index, last);
            place.index = last;
        }
        self.places.remove(key.0 as usize);
        let group = &mut self.groups[group_key];
        let removed = group.members.swap_remove(place.index as usize);
        if let Some(moved) = group.members.get(place.index as usize) {
            self.places[moved.subscription.0 as usize].index = place.index;
        }
        if let WireKey::Stomp { id, .. } = removed.wire {
            self.ids.release(id);
        }
        if group.members.is_empty() {
            self.remove_group(group_key);
        } else if group.members.capacity() > 4 * group.members.len().max(4) {
            group.members.shrink_to(2 * group.members.len());
        }
    }

    /// Removes all subscriptions of `session`, by looking at every one: for a session whose own
    /// list can't be trusted. Returns how many there were.
    pub fn forget(&mut self, session: SessionKey) -> usize {
        let members = self.groups.0.iter().flat_map(|(_, group)| &group.members);
        let own = members.filter(|member| member.session == session);
        let own: Vec<SubscriptionKey> = own.map(|member| member.subscription).collect();
        for &key in &own {
            self.unsubscribe(key);
        }
        own.len()
    }

    /// Something that was published to `destination` on `channel` is lost to those who are active
    /// now, and not to those who come later. Of a pattern's subscribers it is known only that
    /// something of some destination was.
    pub fn note_loss(&mut self, channel: &Channel, destination: &Destination) {
        let matching: Vec<GroupKey> = self.matching_groups(channel, destination).collect();
        for key in matching {
            let Group { members, active, .. } = &mut self.groups[key];
            members[..*active as usize].iter_mut().for_each(|member| member.missed = true);
        }
    }

    /// The subscribers of a publication to `destination` that came on `channel`: a slice for each
    /// matching destination or pattern.
    pub fn matching<'h>(
        &'h self,
        channel: &Channel,
        destination: &'h Destination,
    ) -> impl Iterator<Item = &'h [Member]> {
        self.matching_groups(channel, destination).map(|key| {
            let group = &self.groups[key];
            &group.members[..group.active as usize]
        })
    }

    fn matching_groups<'h>(
        &'h self,
        channel: &Channel,
        destination: &'h Destination,
    ) -> impl Iterator<Item = GroupKey> + use<'h> {
        let exact = self.exact.get(destination).copied();
        let patterns = if self.patterns.is_empty() { None } else { self.patterns.get(channel) };
        let matching = patterns.into_iter().flat_map(|all| all.matching(destination.as_str()));
        exact.into_iter().chain(matching)
    }

    /// The subscription id behind a [`WireKey`].
    pub fn subscription_id(&self, id: InternedId) -> &str {
        self.ids.text(id)
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Exchanges the places of two members of a group.
    fn swap(&mut self, group: GroupKey, one: u32, other: u32) {
        let members = &mut self.groups[group].members;
        members.swap(one as usize, other as usize);
        for index in [one, other] {
            let subscription = members[index as usize].subscription;
            self.places[subscription.0 as usize].index = index;
        }
    }

    fn group_of(&mut self, target: Target, channel: Channel) -> GroupKey {
        match &target {
            Target::Destination(destination) => {
                if let Some(&key) = self.exact.get(destination) {
                    return key;
                }
                let destination = destination.clone();
                let key = self.groups.insert(Group::new(target, channel));
                self.exact.insert(destination, key);
                key
            }
            Target::Pattern(pattern) => {
                let patterns = self.patterns.entry(channel.clone()).or_default();
                if let Some(key) = patterns.group(pattern) {
                    return key;
                }
                let pattern = Arc::clone(pattern);
                let key = self.groups.insert(Group::new(target, channel));
                patterns.insert(pattern, key);
                key
            }
        }
    }

    fn remove_group(&mut self, key: GroupKey) {
        let group = self.groups.remove(key);
        match group.target {
            Target::Destination(destination) => {
                self.exact.remove(&destination);
                self.vacated.push(destination);
            }
            Target::Pattern(pattern) => {
                let Some(patterns) = self.patterns.get_mut(&group.channel) else { return };
                patterns.remove(&pattern);
                if patterns.is_empty() {
                    self.patterns.remove(&group.channel);
                }
            }
        }
    }
}

impl Groups {
    fn insert(&mut self, group: Group) -> GroupKey {
        GroupKey(self.0.insert(group) as u32)
    }

    fn remove(&mut self, key: GroupKey) -> Group {
        self.0.remove(key.0 as usize)
    }
}

impl Index<GroupKey> for Groups {
    type Output = Group;

    fn index(&self, key: GroupKey) -> &Group {
        &self.0[key.0 as usize]
    }
}

impl IndexMut<GroupKey> for Groups {
    fn index_mut(&mut self, key: GroupKey) -> &mut Group {
        &mut self.0[key.0 as usize]
    }
}

impl Group {
    fn new(target: Target, channel: Channel) -> Self {
        Self { target, channel, members: Vec::new(), active: 0 }
    }
}

/// Subscription ids, each kept once and counted.
#[derive(Debug, Default)]
struct Interner {
    by_text: HashMap<Arc<str>, u32, foldhash::quality::RandomState>,
    entries: Slab<(Arc<str>, u32)>,
}

impl Interner {
    fn intern(&mut self, text: &str) -> InternedId {
        if let Some(&key) = self.by_text.get(text) {
            self.entries[key as usize].1 += 1;
            return InternedId(key);
        }
        let shared: Arc<str> = text.into();
        let key = self.entries.insert((Arc::clone(&shared), 1)) as u32;
        self.by_text.insert(shared, key);
        InternedId(key)
    }

    fn release(&mut self, id: InternedId) {
        let (text, uses) = &mut self.entries[id.0 as usize];
        *uses -= 1;
        if *uses == 0 {
            self.by_text.remove(text);
            self.entries.remove(id.0 as usize);
        }
    }

    fn text(&self, id: InternedId) -> &str {
        &self.entries[id.0 as usize].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NATIVE: Wire<'_> = Wire::Native { named: false };

    fn destination(text: &str) -> Destination {
        text.parse().unwrap()
    }

    fn exact(text: &str) -> (Target, Channel) {
        let destination = destination(text);
        let channel = Channel::of_destination(destination.to_shared());
        (Target::Destination(destination), channel)
    }

    fn pattern(text: &str) -> (Target, Channel) {
        (Target::Pattern(Arc::new(text.parse().unwrap())), Channel::of_namespace("n"))
    }

    fn sessions(hub: &Hub, channel: &Channel, text: &str) -> Vec<u32> {
        let destination = destination(text);
        let mut sessions: Vec<u32> = hub
            .matching(channel, &destination)
            .flat_map(|members| members.iter().map(|member| member.session.0))
            .collect();
        sessions.sort_unstable();
        sessions
    }

    #[test]
    fn a_publication_reaches_exact_and_pattern_subscribers_of_its_channel() {
        let mut hub = Hub::new();
        let channel = Channel::of_namespace("n");
        let (target, _) = exact("/topic/a.1");
        hub.subscribe(SessionKey(1), target, channel.clone(), NATIVE);
        for (session, text) in [(2, "/topic/a.*"), (3, "/topic/**"), (4, "/topic/b.*")] {
            let (target, channel) = pattern(text);
            hub.subscribe(SessionKey(session), target, channel, NATIVE);
        }
        assert_eq!(sessions(&hub, &channel, "/topic/a.1"), [1, 2, 3]);
        assert_eq!(sessions(&hub, &channel, "/topic/c"), [3]);
        assert_eq!(sessions(&hub, &Channel::of_namespace("other"), "/topic/c"), [0; 0]);
    }

    #[test]
    fn a_loss_is_theirs_who_are_active_when_it_is_noted() {
        let mut hub = Hub::new();
        let channel = Channel::of_namespace("n");
        let join = |hub: &mut Hub, session| {
            let (target, _) = exact("/topic/a");
            hub.prepare(SessionKey(session), target, channel.clone(), NATIVE)
        };
        let one = join(&mut hub, 1);
        let other = join(&mut hub, 2);
        hub.activate(one);
        let (target, _) = pattern("/topic/*");
        hub.subscribe(SessionKey(3), target, channel.clone(), NATIVE);
        let missed = |hub: &Hub| {
            let a = destination("/topic/a");
            let members = hub.matching(&channel, &a).flatten();
            let missed = members.filter(|member| member.missed);
            let mut missed: Vec<u32> = missed.map(|member| member.session.0).collect();
            missed.sort_unstable();
            missed
        };
        hub.note_loss(&channel, &destination("/topic/b"));
        assert_eq!(missed(&hub), [3]);
        hub.note_loss(&channel, &destination("/topic/a"));
        hub.activate(other);
        join(&mut hub, 4);
        assert_eq!(missed(&hub), [1, 3]);
        hub.note_loss(&channel, &destination("/topic/a"));
        assert_eq!(missed(&hub), [1, 2, 3]);
    }

    #[test]
    fn a_prepared_subscriber_gets_nothing_until_it_is_activated() {
        let mut hub = Hub::new();
        let channel = Channel::of_destination("/topic/a".into());
        let mut keys = Vec::new();
        for session in 0..4 {
            let (target, channel) = exact("/topic/a");
            keys.push(hub.prepare(SessionKey(session), target, channel, NATIVE));
        }
        assert_eq!(sessions(&hub, &channel, "/topic/a"), [0; 0]);
        hub.activate(keys[2]);
        hub.activate(keys[2]);
        hub.activate(keys[0]);
        assert_eq!(sessions(&hub, &channel, "/topic/a"), [0, 2]);
        hub.unsubscribe(keys[2]);
        hub.unsubscribe(keys[1]);
        assert_eq!(sessions(&hub, &channel, "/topic/a"), [0]);
        hub.activate(keys[3]);
        assert_eq!(sessions(&hub, &channel, "/topic/a"), [0, 3]);
        hub.unsubscribe(keys[0]);
        assert_eq!(hub.take_vacated(), []);
        hub.unsubscribe(keys[3]);
        assert_eq!(hub.take_vacated(), [destination("/topic/a")]);
    }

    #[test]
    fn a_forgotten_session_gets_nothing_and_the_others_do() {
        let mut hub = Hub::new();
        for session in [1, 2, 1] {
            for (target, channel) in [exact("/topic/a"), pattern("/topic/*")] {
                hub.subscribe(SessionKey(session), target, channel, NATIVE);
            }
        }
        assert_eq!(hub.forget(SessionKey(1)), 4);
        assert_eq!(sessions(&hub, &Channel::of_namespace("n"), "/topic/a"), [2, 2]);
        assert_eq!(hub.forget(SessionKey(1)), 0);
    }

    #[test]
    fn a_subscription_id_is_kept_once_and_given_back() {
        let mut hub = Hub::new();
        let stomp = Wire::Stomp { version: Version::V12, id: "sub-0", ack: false };
        let keys: Vec<_> = (0..3)
            .map(|n| {
                let (target, channel) = exact("/topic/a");
                hub.subscribe(SessionKey(n), target, channel, stomp)
            })
            .collect();
        assert_eq!(hub.ids.entries.len(), 1);
        for key in keys {
            hub.unsubscribe(key);
        }
        assert!(hub.ids.entries.is_empty() && hub.ids.by_text.is_empty());
        assert!(hub.groups.0.is_empty() && hub.exact.is_empty());
    }

    proptest! {
        #[test]
        fn any_order_of_joins_and_leaves_matches_a_plain_list(
            steps in proptest::collection::vec((any::<bool>(), 0_u32..8, 0_usize..12), 1..120),
        ) {
            let texts = [
                "/topic/a", "/topic/b", "/topic/a.b", "/topic/*", "/topic/a*", "/topic/?", "/topic/*b",
                "/topic/{v}", "/topic/**", "/topic/**/a.b", "/topic/?.*", "/topic/*.?",
            ];
            let channel = Channel::of_namespace("n");
            let mut hub = Hub::new();
            let mut model: Vec<(SubscriptionKey, u32, usize)> = Vec::new();
            for (join, session, which) in steps {
                if join || model.is_empty() {
                    let target = if which < 3 { exact(texts[which]).0 } else { pattern(texts[which]).0 };
                    let wire = Wire::Stomp { version: Version::V11, id: texts[which], ack: false };
                    let key = hub.subscribe(SessionKey(session), target, channel.clone(), wire);
                    model.push((key, session, which));
                } else {
                    let (key, ..) = model.swap_remove(session as usize % model.len());
                    hub.unsubscribe(key);
                }
            }
            prop_assert_eq!(hub.len(), model.len());
            for text in &texts[..3] {
                let mut expected: Vec<u32> = model
                    .iter()
                    .filter(|(.., which)| texts[*which].parse::<DestinationPattern>().unwrap().matches(text))
                    .map(|(_, session, _)| *session)
                    .collect();
                expected.sort_unstable();
                prop_assert_eq!(sessions(&hub, &channel, text), expected);
            }
            for (key, ..) in model {
                hub.unsubscribe(key);
            }
            prop_assert!(hub.groups.0.is_empty() && hub.patterns.is_empty() && hub.exact.is_empty());
        }
    }
}
