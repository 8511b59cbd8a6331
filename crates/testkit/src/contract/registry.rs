//! The registry contract suite: what every registry must do, as functions over a harness.
//!
//! [`registry_contract!`](crate::registry_contract) makes one test of each rule.

use std::sync::Arc;

use fanlight_engine::broker::WorkerId;
use fanlight_engine::publication::SessionId;
use fanlight_engine::registry::{
    Command, Entered, Entry, Handle, Registry, SessionKind, SessionLimit, Target, Told, Transport,
    UserStatus, WhenFull,
};
use fanlight_proto::CloseReason;
use futures_util::future::join_all;
use uuid::Uuid;

use crate::{Orders, eventually};

/// Makes nodes over one and the same backing.
pub trait RegistryHarness {
    /// Two ready nodes.
    fn nodes(&self, limit: SessionLimit) -> impl Future<Output = [RegistryNode; 2]>;
}

/// A node as the contract sees it: a registry, and what it was told to do.
#[derive(Clone)]
pub struct RegistryNode {
    /// Its registry.
    pub registry: Arc<dyn Registry>,
    /// What its sessions were told; both nodes may share it.
    pub orders: Arc<Orders>,
    /// Its only worker.
    pub worker: WorkerId,
}

/// No limit.
pub const UNLIMITED: SessionLimit =
    SessionLimit { sessions_per_user: 0, when_full: WhenFull::KickOldest };

impl RegistryNode {
    /// A new session of `user` on this node.
    pub fn session(&self, user: &str) -> Entry {
        let session = SessionId(Uuid::now_v7());
        let handle = Handle { worker: self.worker, slot: 1, serial: session.0.as_u128() as u64 };
        let kind = SessionKind { transport: Transport::StompTcp, is_stomp: true };
        Entry { user: Some(user.into()), session, handle, is_limited: true, kind }
    }

    /// A new session of `user`, entered.
    pub async fn entered(&self, user: &str) -> Entry {
        let entry = self.session(user);
        assert_eq!(self.registry.enter(entry.clone()).await, Entered::Now, "{user}");
        entry
    }

    /// The sessions that `user` has.
    pub async fn sessions(&self, user: &str) -> Vec<SessionId> {
        let status = self.registry.status(vec![user.into()]).await.expect("the status is known");
        assert_eq!((status.len(), &*status[0].user), (1, user));
        status[0].sessions.iter().map(|status| status.session).collect()
    }

    /// Waits until `user` has exactly these sessions, oldest first.
    pub async fn has(&self, user: &str, expected: &[&Entry]) {
        let expected: Vec<_> = expected.iter().map(|entry| entry.session).collect();
        let mut found = Vec::new();
        for _ in 0..ATTEMPTS {
            found = self.sessions(user).await;
            if found == expected {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(found, expected, "the sessions of {user}");
    }

    fn was_told(&self, entry: &Entry) -> Option<CloseReason> {
        self.orders.reason_for(entry.session, Some(entry.handle))
    }
}

/// With its node and its beginning.
pub async fn an_entered_session_is_seen_by_every_node(harness: &impl RegistryHarness) {
    let [ann, bob] = harness.nodes(UNLIMITED).await;
    let entry = ann.entered("u").await;
    for node in [&ann, &bob] {
        let status = node.registry.status(vec!["u".into()]).await.expect("it is known");
        let [UserStatus { sessions, .. }] = &status[..] else { panic!("{status:?}") };
        let [session] = &sessions[..] else { panic!("{sessions:?}") };
        assert_eq!(session.session, entry.session);
        assert_eq!(session.since_unix_ms, entry.since_unix_ms());
        assert_eq!(session.kind, Some(entry.kind));
        let nodes = node.registry.nodes();
        assert!(nodes.iter().any(|node| node.id == session.node), "{nodes:?}");
        assert_eq!(nodes.iter().filter(|node| node.is_self).count(), 1);
    }
}

/// And only that session.
pub async fn a_session_that_left_is_gone(harness: &impl RegistryHarness) {
    let [ann, bob] = harness.nodes(UNLIMITED).await;
    let (first, second) = (ann.entered("u").await, bob.entered("u").await);
    bob.has("u", &[&first, &second]).await;
    ann.registry.leave(first, CloseReason::ClientClosed);
    ann.has("u", &[&second]).await;
    bob.registry.leave(second.clone(), CloseReason::ClientClosed);
    bob.registry.leave(second, CloseReason::ClientClosed);
    ann.has("u", &[]).await;
}

/// Whatever the order in which the futures are polled.
pub async fn entering_and_leaving_take_effect_in_the_order_of_the_calls(
    harness: &impl RegistryHarness,
) {
    let [ann, bob] = harness.nodes(UNLIMITED).await;
    let mut entering = Vec::new();
    for number in 0..500 {
        let entry = ann.session(&format!("u{}", number % 10));
        entering.push(ann.registry.enter(entry.clone()));
        ann.registry.leave(entry, CloseReason::ClientClosed);
    }
    entering.reverse();
    join_all(entering).await;
    let last = ann.entered("last").await;
    bob.has("last", &[&last]).await;
    for number in 0..10 {
        bob.has(&format!("u{number}"), &[]).await;
    }
}

/// Users without sessions among them.
pub async fn the_status_of_a_thousand_users_is_one_call(harness: &impl RegistryHarness) {
    let [ann, bob] = harness.nodes(UNLIMITED).await;
    let name = |number: usize| -> Arc<str> { format!("user {number}").into() };
    let entries: Vec<_> = (0..1000)
        .filter(|number| number % 3 != 0)
        .map(|number| if number % 2 == 0 { &ann } else { &bob }.session(&name(number)))
        .collect();
    let entering = entries.iter().map(|entry| {
        let node = if entry.handle.worker == ann.worker { &ann } else { &bob };
        node.registry.enter(entry.clone())
    });
    assert!(join_all(entering).await.iter().all(|entered| *entered == Entered::Now));
    let status = ann.registry.status((0..1000).map(name).collect()).await.expect("it is known");
    assert_eq!(status.len(), 1000);
    for (number, UserStatus { user, sessions }) in status.iter().enumerate() {
        assert_eq!(*user, name(number));
        assert_eq!(sessions.len(), usize::from(number % 3 != 0), "{user}");
    }
}

/// On whatever nodes they are, and no others.
pub async fn disconnecting_a_user_reaches_each_of_its_sessions(harness: &impl RegistryHarness) {
    let [ann, bob] = harness.nodes(UNLIMITED).await;
    let entries = [ann.entered("u").await, bob.entered("u").await, ann.entered("u").await];
    let other = bob.entered("v").await;
    let told = bob.registry.order(Target::User("u".into()), end("go away")).await;
    assert_eq!(told.map(|told| told.sessions), Ok(Some(3)));
    for (node, entry) in [&ann, &bob, &ann].into_iter().zip(&entries) {
        eventually("it was told", || node.was_told(entry) == Some(CloseReason::Disconnected)).await;
    }
    assert_eq!(bob.was_told(&other), None);
    assert!(ann.orders.all().iter().all(|order| order.command == end("go away")));
    let nobody = ann.registry.order(Target::User("w".into()), end("")).await;
    assert_eq!(nobody, Ok(Told { sessions: Some(0), ..Told::default() }));
}

/// Also of an anonymous one, that is not in the registry.
pub async fn disconnecting_a_session_reaches_its_node(harness: &impl RegistryHarness) {
    let [ann, bob] = harness.nodes(UNLIMITED).await;
    let session = SessionId(Uuid::now_v7());
    let told = ann.registry.order(Target::Session(session), end("bye")).await;
    assert!(told.is_ok_and(|told| told.nodes >= 1));
    for node in [&ann, &bob] {
        eventually("it was told", || {
            node.orders.reason_for(session, None) == Some(CloseReason::Disconnected)
        })
        .await;
    }
}

/// On whatever node it is.
pub async fn one_session_too_many_ends_the_oldest(harness: &impl RegistryHarness) {
    let limit = SessionLimit { sessions_per_user: 2, when_full: WhenFull::KickOldest };
    let [ann, bob] = harness.nodes(limit).await;
    let (first, second) = (ann.entered("u").await, bob.entered("u").await);
    let (third, other) = (bob.entered("u").await, bob.entered("v").await);
    eventually("the oldest was told", || ann.was_told(&first) == Some(CloseReason::Replaced)).await;
    // It may stand there until it has really ended.
    ann.registry.leave(first, CloseReason::Replaced);
    ann.has("u", &[&second, &third]).await;
    ann.has("v", &[&other]).await;
    let fourth = ann.entered("u").await;
    eventually("the next was told", || bob.was_told(&second) == Some(CloseReason::Replaced)).await;
    bob.registry.leave(second, CloseReason::Replaced);
    bob.has("u", &[&third, &fourth]).await;
    assert_eq!(bob.was_told(&third), None);
}

/// Until another has left.
pub async fn one_session_too_many_is_refused(harness: &impl RegistryHarness) {
    let limit = SessionLimit { sessions_per_user: 2, when_full: WhenFull::Reject };
    let [ann, bob] = harness.nodes(limit).await;
    let (first, second) = (ann.entered("u").await, bob.entered("u").await);
    let third = bob.session("u");
    assert_eq!(bob.registry.enter(third).await, Entered::Full);
    ann.has("u", &[&first, &second]).await;
    // Entering again what is entered is no further session.
    assert_eq!(ann.registry.enter(first.clone()).await, Entered::Now);
    ann.registry.leave(first, CloseReason::ClientClosed);
    ann.has("u", &[&second]).await;
    let fourth = bob.entered("u").await;
    ann.has("u", &[&second, &fourth]).await;
    assert!(ann.orders.all().is_empty() && bob.orders.all().is_empty());
}

/// However many it has.
pub async fn a_session_that_is_not_limited_ends_none_and_is_not_refused(
    harness: &impl RegistryHarness,
) {
    for when_full in [WhenFull::KickOldest, WhenFull::Reject] {
        let [ann, bob] = harness.nodes(SessionLimit { sessions_per_user: 1, when_full }).await;
        let mut entries = Vec::new();
        for node in [&ann, &bob, &ann] {
            let entry = Entry { is_limited: false, ..node.session("u") };
            assert_eq!(node.registry.enter(entry.clone()).await, Entered::Now);
            entries.push(entry);
        }
        bob.has("u", &[&entries[0], &entries[1], &entries[2]]).await;
        assert!(ann.orders.all().is_empty() && bob.orders.all().is_empty());
        for (node, entry) in [&ann, &bob, &ann].into_iter().zip(entries) {
            node.registry.leave(entry, CloseReason::ClientClosed);
        }
        bob.has("u", &[]).await;
    }
}

/// Whatever their names are made of.
pub async fn users_are_told_apart(harness: &impl RegistryHarness) {
    let [ann, bob] = harness.nodes(UNLIMITED).await;
    let long = "x".repeat(2000);
    let names = [
        "u", "U", "u ", " u", "u u", "u:u", "u}", "{u}", "{", "*", "?", "u\nu", "u\0", "ü", "|",
        "-", "%s", "'; --", &long,
    ];
    let mut entries = Vec::new();
    for name in names {
        entries.push((name, ann.entered(name).await));
    }
    for (name, entry) in &entries {
        bob.has(name, &[entry]).await;
    }
    for (_, entry) in &entries {
        ann.registry.leave(entry.clone(), CloseReason::ClientClosed);
    }
    for name in names {
        bob.has(name, &[]).await;
    }
}

/// One that is entered again keeps its place and replaces nobody.
pub async fn entering_again_changes_nothing(harness: &impl RegistryHarness) {
    let limit = SessionLimit { sessions_per_user: 1, when_full: WhenFull::KickOldest };
    let [ann, bob] = harness.nodes(limit).await;
    let entry = ann.entered("u").await;
    assert!(ann.registry.reenter(entry.clone()));
    assert_eq!(ann.registry.enter(entry.clone()).await, Entered::Now);
    bob.has("u", &[&entry]).await;
    assert_eq!(ann.was_told(&entry), None);
}

fn end(message: &str) -> Command {
    Command::End { reason: CloseReason::Disconnected, message: message.into() }
}

const ATTEMPTS: usize = 4000;

/// One `#[tokio::test]` for each rule of the contract; `$harness` is an expression that is
/// evaluated anew for each.
#[macro_export]
macro_rules! registry_contract {
    ($harness:expr) => {
        $crate::registry_contract!(@tests $harness;
            an_entered_session_is_seen_by_every_node
            a_session_that_left_is_gone
            entering_and_leaving_take_effect_in_the_order_of_the_calls
            the_status_of_a_thousand_users_is_one_call
            disconnecting_a_user_reaches_each_of_its_sessions
            disconnecting_a_session_reaches_its_node
            one_session_too_many_ends_the_oldest
            one_session_too_many_is_refused
            a_session_that_is_not_limited_ends_none_and_is_not_refused
            users_are_told_apart
            entering_again_changes_nothing
        );
    };
    (@tests $harness:expr; $($rule:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let harness = $harness;
                $crate::contract::registry::$rule(&harness).await;
            }
        )*
    };
}
