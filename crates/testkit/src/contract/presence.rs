//! The presence contract suite: what every implementation must do, as functions over a harness.
//!
//! [`presence_contract!`](crate::presence_contract) makes one test of each rule.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fanlight_engine::broker::{Channel, Joined, WorkerId};
use fanlight_engine::presence::{
    CHANGE_MAX_BYTES, Member, MembersPage, MembersQuery, Place, Presence, PresenceError, Present,
};
use fanlight_engine::publication::SessionId;
use fanlight_proto::native::{PresenceChange, PresenceMember};
use uuid::Uuid;

use super::Node;

/// Makes nodes over one and the same backing.
pub trait PresenceHarness {
    /// Two ready nodes with a worker each, whose changes are gathered for so long and name at most
    /// [`CHANGES_MAX`] members.
    fn nodes(&self, interval: Duration) -> impl Future<Output = [PresenceNode; 2]>;
}

/// A node as the contract sees it.
#[derive(Clone)]
pub struct PresenceNode {
    /// Its broker and its workers' inboxes.
    pub node: Node,
    /// Its presence.
    pub presence: Arc<dyn Presence>,
}

/// The place of a destination that has a channel of its own.
pub fn place(destination: &str) -> Place {
    let destination: fanlight_proto::Destination =
        destination.parse().expect("a test names a destination");
    Place { channel: Channel::of_destination(destination.to_shared()), destination }
}

/// A member with a name.
pub fn user(name: &str) -> Member {
    Member::User(name.into())
}

/// A member without one.
pub fn anonymous(number: u128) -> Member {
    Member::Anonymous(SessionId(Uuid::from_u128(number)))
}

impl PresenceNode {
    /// One more session of a user.
    pub fn enter(&self, place: &Place, name: &str) {
        self.presence.enter(place, user(name));
    }

    /// One session less.
    pub fn exit(&self, place: &Place, name: &str) {
        self.presence.exit(place, user(name));
    }

    /// One page.
    pub async fn page(
        &self,
        place: &Place,
        limit: u32,
        cursor: Option<String>,
    ) -> Result<MembersPage, PresenceError> {
        let cursor = cursor.map(String::into_boxed_str);
        self.presence.members(MembersQuery { place: place.clone(), cursor, limit }).await
    }

    /// How many members there are; `None` when that can't be read.
    pub async fn count(&self, place: &Place) -> Option<u64> {
        self.page(place, 0, None).await.ok().map(|page| page.count)
    }

    /// All members, page by page; `None` when they can't be read.
    pub async fn members(&self, place: &Place, limit: u32) -> Option<Vec<Present>> {
        let mut members = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.page(place, limit, cursor).await.ok()?;
            assert!(page.members.len() <= (limit + MembersQuery::SURPLUS) as usize);
            members.extend(page.members);
            cursor = page.cursor;
            if cursor.is_none() {
                return Some(members);
            }
        }
    }

    /// The names of all members, in order, each with its sessions; empty when they can't be read.
    pub async fn named(&self, place: &Place) -> BTreeMap<String, u32> {
        let members = self.members(place, 100).await.unwrap_or_default().into_iter();
        members.filter_map(|one| Some((one.user?.to_string(), one.sessions))).collect()
    }

    /// Waits until just these are the members, with their sessions.
    pub async fn sees(&self, place: &Place, expected: &[(&str, u32)]) {
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(name, sessions)| ((*name).to_owned(), *sessions)).collect();
        self.until("the members are as expected", async || self.named(place).await == expected)
            .await;
    }

    /// Waits until there are so many members.
    pub async fn counts(&self, place: &Place, expected: u64) {
        self.until("the count is as expected", async || self.count(place).await == Some(expected))
            .await;
    }

    /// Has this node's worker receive what is published at the place.
    pub async fn subscribe(&self, place: &Place) {
        let worker = WorkerId(self.node.first_worker);
        assert_eq!(self.node.broker.subscribe(worker, &place.channel).await, Joined::Live);
    }

    /// The changes that this node's worker was told, in order.
    pub fn changes(&self, place: &Place) -> Vec<PresenceChange> {
        let publications = self.node.inboxes[0].publications(place.channel.as_str());
        let of_place = publications.iter().filter(|one| one.destination == place.destination);
        let changes = of_place.map(|one| {
            assert!(one.is_presence() && one.publisher.is_none() && one.position.is_none());
            serde_json::from_slice(&one.body).expect("a change of presence")
        });
        changes.collect()
    }

    /// Who is there as far as the changes tell.
    pub fn told(&self, place: &Place) -> BTreeSet<String> {
        let mut there = BTreeSet::new();
        for change in self.changes(place) {
            assert!(!change.truncated, "this test's changes are few");
            for name in change.joined.into_iter().filter_map(|member| member.user) {
                there.insert(name);
            }
            for name in change.left.into_iter().filter_map(|member| member.user) {
                there.remove(&name);
            }
        }
        there
    }

    async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !condition().await {
            assert!(std::time::Instant::now() < deadline, "never happened: {what}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn until_changes(&self, place: &Place, is_there: impl Fn(&[PresenceChange]) -> bool) {
        self.until("the changes came", async || is_there(&self.changes(place))).await;
    }
}

/// On whichever node they are.
pub async fn a_user_is_a_member_from_its_first_session_to_its_last(harness: &impl PresenceHarness) {
    let [ann, bob] = harness.nodes(QUICK).await;
    let room = place("/topic/room");
    ann.enter(&room, "zoe");
    ann.enter(&room, "zoe");
    bob.enter(&room, "zoe");
    bob.enter(&room, "yan");
    ann.sees(&room, &[("yan", 1), ("zoe", 3)]).await;
    bob.sees(&room, &[("yan", 1), ("zoe", 3)]).await;
    assert_eq!((ann.count(&room).await, bob.count(&room).await), (Some(2), Some(2)));
    ann.exit(&room, "zoe");
    bob.exit(&room, "zoe");
    bob.sees(&room, &[("yan", 1), ("zoe", 1)]).await;
    ann.exit(&room, "zoe");
    bob.sees(&room, &[("yan", 1)]).await;
    bob.exit(&room, "yan");
    ann.counts(&room, 0).await;
    assert_eq!(ann.members(&room, 10).await, Some(Vec::new()));
}

/// At once, without waiting for anything.
pub async fn a_node_sees_its_own_entries(harness: &impl PresenceHarness) {
    let [ann, _] = harness.nodes(QUICK).await;
    let room = place("/topic/room");
    for number in 1..=50 {
        ann.enter(&room, &format!("u{number}"));
        assert_eq!(ann.count(&room).await, Some(number));
    }
}

/// What others have at other places does not show, even where they share a channel.
pub async fn places_are_apart(harness: &impl PresenceHarness) {
    let [ann, bob] = harness.nodes(QUICK).await;
    let shared = |destination| Place { channel: Channel::of_namespace("n"), ..place(destination) };
    let (a, b) = (shared("/topic/n/a"), shared("/topic/n/b"));
    ann.subscribe(&a).await;
    ann.enter(&a, "zoe");
    bob.enter(&b, "yan");
    ann.sees(&a, &[("zoe", 1)]).await;
    ann.sees(&b, &[("yan", 1)]).await;
    ann.until_changes(&a, |changes| !changes.is_empty()).await;
    ann.until_changes(&b, |changes| !changes.is_empty()).await;
    assert_eq!((ann.told(&a), ann.told(&b)), (["zoe".into()].into(), ["yan".into()].into()));
}

/// They count, and nobody learns their names.
pub async fn sessions_without_a_user_count_each_and_are_shown_without_a_name(
    harness: &impl PresenceHarness,
) {
    let [ann, bob] = harness.nodes(QUICK).await;
    let room = place("/topic/room");
    bob.subscribe(&room).await;
    ann.presence.enter(&room, anonymous(1));
    bob.presence.enter(&room, anonymous(2));
    bob.enter(&room, "");
    ann.counts(&room, 3).await;
    let mut members = ann.members(&room, 10).await.unwrap_or_default();
    members.sort_by_key(|member| member.user.is_some());
    let nobody = Present { user: None, sessions: 1 };
    let nameless = Present { user: Some("".into()), sessions: 1 };
    assert_eq!(members, [nobody.clone(), nobody, nameless]);
    let joined = |changes: &[PresenceChange]| -> Vec<PresenceMember> {
        changes.iter().flat_map(|change| change.joined.clone()).collect()
    };
    bob.until_changes(&room, |changes| joined(changes).len() == 3).await;
    let names = joined(&bob.changes(&room)).into_iter().filter_map(|member| member.user);
    assert_eq!(names.collect::<Vec<_>>(), [""]);
}

/// Names are any text, and stay what they are.
pub async fn a_users_name_may_be_any_text(harness: &impl PresenceHarness) {
    let [ann, bob] = harness.nodes(QUICK).await;
    let room = place("/topic/rööm");
    bob.subscribe(&room).await;
    let names = ["a\0b", "\"}],", "!", "s", "u", "ä:*?{}\\/\r\n", "%s%d"];
    for name in names {
        ann.enter(&room, name);
    }
    let expected: Vec<_> = names.iter().map(|name| (*name, 1)).collect();
    bob.sees(&room, &expected).await;
    let names: BTreeSet<_> = names.map(str::to_owned).into();
    bob.until("all were told", async || bob.told(&room) == names).await;
}

/// In the same order, with the count of their moment.
pub async fn changes_are_told_on_every_node_that_listens(harness: &impl PresenceHarness) {
    let [ann, bob] = harness.nodes(QUICK).await;
    let room = place("/topic/room");
    ann.subscribe(&room).await;
    bob.subscribe(&room).await;
    ann.enter(&room, "zoe");
    let zoe = PresenceMember { user: Some("zoe".into()), sessions: None };
    let joined = PresenceChange { joined: vec![zoe.clone()], count: 1, ..Default::default() };
    bob.until_changes(&room, |changes| changes == [joined.clone()]).await;
    // A further session of a member changes nothing.
    bob.enter(&room, "zoe");
    ann.sees(&room, &[("zoe", 2)]).await;
    ann.exit(&room, "zoe");
    bob.sees(&room, &[("zoe", 1)]).await;
    bob.exit(&room, "zoe");
    let left = PresenceChange { left: vec![zoe], ..Default::default() };
    for node in [&ann, &bob] {
        node.until_changes(&room, |changes| changes == [joined.clone(), left.clone()]).await;
    }
}

/// Whichever nodes they come and go on.
pub async fn who_comes_and_goes_within_the_interval_is_not_told(harness: &impl PresenceHarness) {
    let [ann, bob] = harness.nodes(SLOW).await;
    let room = place("/topic/room");
    ann.subscribe(&room).await;
    ann.enter(&room, "brief");
    ann.counts(&room, 1).await;
    bob.enter(&room, "brief");
    ann.sees(&room, &[("brief", 2)]).await;
    ann.exit(&room, "brief");
    bob.exit(&room, "brief");
    bob.counts(&room, 0).await;
    bob.enter(&room, "zoe");
    bob.counts(&room, 1).await;
    ann.until_changes(&room, |changes| !changes.is_empty()).await;
    let zoe = PresenceMember { user: Some("zoe".into()), sessions: None };
    let joined = PresenceChange { joined: vec![zoe], count: 1, ..Default::default() };
    assert_eq!(ann.changes(&room), [joined]);
}

/// However many there are, nobody gets more than the bound at once.
pub async fn many_changes_come_together_and_too_many_as_a_count(harness: &impl PresenceHarness) {
    let [ann, bob] = harness.nodes(SLOW).await;
    let (few, many) = (place("/topic/few"), place("/topic/many"));
    for place in [&few, &many] {
        bob.subscribe(place).await;
    }
    for number in 0..CHANGES_MAX {
        ann.enter(&few, &format!("u{number}"));
    }
    for number in 0..3 * CHANGES_MAX {
        ann.enter(&many, &format!("u{number}"));
    }
    bob.until_changes(&few, |changes| !changes.is_empty()).await;
    bob.until_changes(&many, |changes| !changes.is_empty()).await;
    let count = u64::from(CHANGES_MAX);
    let changes = bob.changes(&few);
    assert_eq!(changes.len(), 1, "told together");
    assert_eq!((changes[0].joined.len(), changes[0].count), (CHANGES_MAX as usize, count));
    let truncated = PresenceChange { count: 3 * count, truncated: true, ..Default::default() };
    assert_eq!(bob.changes(&many), [truncated]);
    // After that, changes are told again.
    ann.exit(&many, "u0");
    bob.until_changes(&many, |changes| changes.len() == 2).await;
    assert_eq!(bob.changes(&many)[1].left[0].user.as_deref(), Some("u0"));
}

/// However long names are, what is told at once stays bounded.
pub async fn a_change_of_many_bytes_comes_as_a_count(harness: &impl PresenceHarness) {
    let [ann, bob] = harness.nodes(SLOW).await;
    let room = place("/topic/room");
    bob.subscribe(&room).await;
    for number in 0..10 {
        ann.enter(&room, &format!("{number}{}", "x".repeat(CHANGE_MAX_BYTES / 9)));
    }
    bob.until_changes(&room, |changes| !changes.is_empty()).await;
    let truncated = PresenceChange { count: 10, truncated: true, ..Default::default() };
    assert_eq!(bob.changes(&room), [truncated]);
}

/// A client that began with a page and folds in what it is told has the right list in the end.
pub async fn the_changes_lead_to_what_the_pages_show(harness: &impl PresenceHarness) {
    let nodes = harness.nodes(QUICK).await;
    let room = place("/topic/room");
    for node in &nodes {
        node.subscribe(&room).await;
    }
    // Two nodes and few users, so that comings and goings of one user meet; a fixed seed.
    let mut seed = 7_u32;
    let mut sessions: Vec<(usize, u32)> = Vec::new();
    for _ in 0..400 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (node, name) = ((seed >> 16) as usize % 2, (seed >> 20) % 4);
        let own = sessions.iter().position(|session| *session == (node, name));
        match own {
            Some(at) if seed >> 28 < 10 => {
                sessions.swap_remove(at);
                nodes[node].exit(&room, &name.to_string());
            }
            _ => {
                sessions.push((node, name));
                nodes[node].enter(&room, &name.to_string());
            }
        }
        if (seed >> 24).is_multiple_of(4) {
            tokio::time::sleep(QUICK / 4).await;
        }
    }
    while sessions.len() > 3 {
        let (node, name) = sessions.pop().expect("there are some");
        nodes[node].exit(&room, &name.to_string());
    }
    let names: BTreeSet<_> = sessions.iter().map(|(_, name)| name.to_string()).collect();
    for node in &nodes {
        node.until("the members are read", async || {
            node.named(&room).await.into_keys().collect::<BTreeSet<_>>() == names
        })
        .await;
        node.until("the members were told", async || node.told(&room) == names).await;
        let last = node.changes(&room).last().map(|change| change.count);
        assert_eq!(last, Some(names.len() as u64));
    }
}

/// However many come and go around them.
pub async fn who_stays_is_on_the_pages_of_every_reading(harness: &impl PresenceHarness) {
    const STAYING: usize = 2000;
    let [ann, bob] = harness.nodes(QUICK).await;
    let room = place("/topic/room");
    for number in 0..STAYING {
        ann.enter(&room, &format!("stays {number}"));
    }
    bob.counts(&room, STAYING as u64).await;
    for round in 0..3 {
        let mut seen = BTreeSet::new();
        let mut cursor = None;
        let mut pages = 0;
        loop {
            let page = bob.page(&room, 100, cursor).await.expect("the members can be read");
            seen.extend(page.members.into_iter().filter_map(|member| member.user));
            cursor = page.cursor;
            pages += 1;
            if cursor.is_none() {
                break;
            }
            for number in 0..100 {
                let name = format!("passes {round} {pages} {number}");
                ann.enter(&room, &name);
                if pages % 2 == 0 {
                    ann.exit(&room, &name);
                }
            }
        }
        assert!(pages >= STAYING / 200, "it came in pages: {pages}");
        let staying = seen.iter().filter(|name| name.starts_with("stays")).count();
        assert_eq!(staying, STAYING);
    }
}

/// Rather than a page from somewhere.
pub async fn a_cursor_of_no_reading_is_refused(harness: &impl PresenceHarness) {
    let [ann, _] = harness.nodes(QUICK).await;
    let room = place("/topic/room");
    ann.enter(&room, "zoe");
    ann.counts(&room, 1).await;
    for cursor in ["", "x", "-", "0 COUNT 7", "99999999999999999999", "1-\r\n"] {
        let page = ann.page(&room, 10, Some(cursor.to_owned())).await;
        assert_eq!(page, Err(PresenceError::BadCursor), "{cursor:?}");
    }
}

/// A node that ends orderly leaves nobody behind and keeps nothing to itself.
pub async fn what_is_settled_is_told_to_all(harness: &impl PresenceHarness) {
    let [ann, bob] = harness.nodes(NEVER).await;
    let room = place("/topic/room");
    bob.subscribe(&room).await;
    ann.enter(&room, "zoe");
    ann.presence.settle().await;
    assert_eq!(bob.count(&room).await, Some(1));
    bob.until_changes(&room, |changes| changes.len() == 1).await;
}

/// One `#[tokio::test]` for each rule of the contract; `$harness` is an expression that is
/// evaluated anew for each.
#[macro_export]
macro_rules! presence_contract {
    ($harness:expr) => {
        $crate::presence_contract!(@tests $harness;
            a_user_is_a_member_from_its_first_session_to_its_last
            a_node_sees_its_own_entries
            places_are_apart
            sessions_without_a_user_count_each_and_are_shown_without_a_name
            a_users_name_may_be_any_text
            changes_are_told_on_every_node_that_listens
            who_comes_and_goes_within_the_interval_is_not_told
            many_changes_come_together_and_too_many_as_a_count
            a_change_of_many_bytes_comes_as_a_count
            the_changes_lead_to_what_the_pages_show
            who_stays_is_on_the_pages_of_every_reading
            a_cursor_of_no_reading_is_refused
            what_is_settled_is_told_to_all
        );
    };
    (@tests $harness:expr; $($rule:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let harness = $harness;
                $crate::contract::presence::$rule(&harness).await;
            }
        )*
    };
}

/// The most members that a change names, under test.
pub const CHANGES_MAX: u32 = 20;
/// Short, where changes are waited for.
pub const QUICK: Duration = Duration::from_millis(20);
/// Long enough that what a test does falls into one interval.
const SLOW: Duration = Duration::from_secs(3);
const NEVER: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
