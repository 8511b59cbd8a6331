//! The peers contract suite: what all peers must do, as functions over a harness.
//!
//! [`peers_contract!`](crate::peers_contract) makes one test of each rule.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanlight_engine::broker::WorkerId;
use fanlight_engine::peers::{
    Claim, ClaimName, Holder, MESSAGE_MAX_BYTES, NameTooLong, PeerError, Peers,
};
use fanlight_engine::registry::Handle;
use futures_util::future::join_all;

use crate::{Answers, eventually};

/// Makes nodes over one and the same backing.
pub trait PeersHarness {
    /// Two ready nodes.
    fn nodes(&self) -> impl Future<Output = [PeerNode; 2]>;
}

/// A node as the contract sees it: its peers, and what answers there.
#[derive(Clone)]
pub struct PeerNode {
    /// Its peers.
    pub peers: Arc<dyn Peers>,
    /// What it answers; both nodes may share it.
    pub answers: Arc<Answers>,
}

/// A name that is made of this text.
pub fn name(text: &str) -> ClaimName {
    ClaimName::new("test", &["", text]).expect("it is short enough")
}

/// A new session's handle.
pub fn handle() -> Handle {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    Handle { worker: WorkerId(u16::MAX), slot: u32::MAX, serial }
}

impl PeerNode {
    /// A new session of this node that has claimed the name.
    pub async fn claimed(&self, text: &str) -> Handle {
        let handle = handle();
        self.claims(name(text), handle).await;
        handle
    }

    /// Claims what nobody has.
    async fn claims(&self, name: ClaimName, handle: Handle) {
        match self.peers.claim(name.clone(), handle).await {
            Ok(Claim::Ours(holder)) => {
                assert_eq!(holder.handle, handle);
                assert_eq!(self.peers.holder(name).await, Ok(Some(holder)));
            }
            other => panic!("{name:?}: {other:?}"),
        }
    }

    /// Who has the name, if somebody has.
    pub async fn holder(&self, text: &str) -> Option<Holder> {
        self.peers.holder(name(text)).await.expect("it is known who has it")
    }

    /// Who has the name, which somebody has.
    pub async fn finds(&self, text: &str) -> Holder {
        self.holder(text).await.expect("somebody has it")
    }

    /// Waits until nobody has the name.
    pub async fn sees_free(&self, text: &str) {
        for _ in 0..ATTEMPTS {
            if self.holder(text).await.is_none() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        panic!("{text} never was free");
    }

    /// Asks with patience.
    pub async fn ask(&self, holder: &Holder, request: &[u8]) -> Result<Bytes, PeerError> {
        self.peers.ask(holder, Bytes::copy_from_slice(request), PATIENCE).await
    }

    async fn is_refused(&self, text: &str, holder: Handle) {
        match self.peers.claim(name(text), handle()).await {
            Ok(Claim::Theirs(found)) => assert_eq!(found.handle, holder),
            other => panic!("{text}: {other:?}"),
        }
    }
}

fn is_ours(claim: &Claim) -> bool {
    matches!(claim, Claim::Ours(_))
}

/// The others are told whose it is, and so is the same node.
pub async fn a_name_is_had_by_who_claims_it_first(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    assert_eq!(bob.holder("a").await, None);
    let first = ann.claimed("a").await;
    for node in [&ann, &bob] {
        node.is_refused("a", first).await;
        let holder = node.finds("a").await;
        assert_eq!((holder.handle, &holder.name), (first, &name("a")));
    }
    // It has it already.
    ann.claims(name("a"), first).await;
    assert!(ann.answers.lost().is_empty() && bob.answers.lost().is_empty());
}

/// And no other's.
pub async fn a_name_that_is_released_is_free(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    let (first, other) = (ann.claimed("a").await, ann.claimed("b").await);
    ann.peers.release(name("a"), handle());
    bob.peers.release(name("a"), handle());
    bob.is_refused("a", first).await;
    ann.peers.release(name("a"), first);
    ann.peers.release(name("a"), first);
    bob.sees_free("a").await;
    let second = bob.claimed("a").await;
    ann.peers.release(name("a"), first);
    ann.is_refused("a", second).await;
    ann.is_refused("b", other).await;
    // Not even for a moment on the node that released it.
    ann.peers.release(name("b"), other);
    ann.claimed("b").await;
    assert_eq!(ann.ask(&ann.finds("b").await, b"x").await, Ok(Bytes::from_static(b"x")));
}

/// However many there are, from both nodes.
pub async fn of_many_claims_at_once_one_wins(harness: &impl PeersHarness) {
    let nodes = harness.nodes().await;
    for round in 0..20 {
        let text = format!("a{round}");
        let handles: Vec<_> = (0..10).map(|_| handle()).collect();
        let claiming = handles.iter().enumerate().map(|(at, handle)| {
            let claiming = nodes[at % 2].peers.claim(name(&text), *handle);
            async move { claiming.await.expect("Redis is there") }
        });
        let claims = join_all(claiming).await;
        let winners: Vec<_> =
            handles.iter().zip(&claims).filter(|(_, claim)| is_ours(claim)).collect();
        let [(winner, _)] = winners[..] else { panic!("{winners:?}") };
        for claim in &claims {
            let (Claim::Ours(holder) | Claim::Theirs(holder)) = claim else { panic!("{claim:?}") };
            assert_eq!(holder.handle, *winner);
        }
        assert_eq!(nodes[0].finds(&text).await, nodes[1].finds(&text).await);
    }
}

/// Whoever gives up while he waits has claimed nothing that stays.
pub async fn a_claim_that_is_dropped_is_none(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    for _ in 0..20 {
        drop(ann.peers.claim(name("a"), handle()));
        bob.sees_free("a").await;
    }
    // The last may arrive only now, to be let go at once.
    for _ in 0..ATTEMPTS {
        match bob.peers.claim(name("a"), handle()).await {
            Ok(Claim::Theirs(_)) => tokio::time::sleep(POLL).await,
            claimed => return assert!(matches!(claimed, Ok(Claim::Ours(_))), "{claimed:?}"),
        }
    }
    panic!("it never was free");
}

/// Whatever they are made of, and of whatever kind.
pub async fn names_are_told_apart(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    let long = "x".repeat(400);
    let texts = [
        "",
        "a",
        "A",
        "a/",
        "/a",
        "%",
        "%25",
        "a%2Fb",
        "a/b",
        "a\\b",
        "{a}",
        "}",
        "*",
        "?",
        "a b",
        "a\nb",
        "a\r\n$1\r\n",
        "\0",
        "ä",
        "..",
        "../x",
        &long,
    ];
    let mut handles = Vec::new();
    for text in texts {
        handles.push((text, ann.claimed(text).await));
    }
    for (text, handle) in handles {
        bob.is_refused(text, handle).await;
    }
    let other_kind = ClaimName::new("other", &["", "a"]).expect("it is short enough");
    bob.claims(other_kind, handle()).await;
    assert_eq!(ClaimName::new("test", &[&"ä".repeat(400)]), Err(NameTooLong));
}

/// Of another node or the own one, in both directions at once.
pub async fn an_ask_is_answered_by_the_holders_node(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    let (of_ann, of_bob) = (ann.claimed("a").await, bob.claimed("b").await);
    let (a, b) = (bob.finds("a").await, ann.finds("b").await);
    let asking = (0..100).map(|number| {
        let (ann, bob, a, b) = (&ann, &bob, &a, &b);
        async move {
            let request = format!("{number}").into_bytes();
            for (node, holder) in [(ann, b), (bob, a), (ann, a), (bob, b)] {
                assert_eq!(node.ask(holder, &request).await.as_deref(), Ok(&request[..]));
            }
        }
    });
    join_all(asking).await;
    let count = |node: &PeerNode, handle| {
        node.answers.asked().iter().filter(|(asked, _)| *asked == handle).count()
    };
    assert_eq!((count(&ann, of_ann), count(&bob, of_bob)), (200, 200));
}

/// Whatever the order in which the futures are polled.
pub async fn asks_arrive_once_and_in_the_order_of_the_calls(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    let handle = ann.claimed("a").await;
    let holder = bob.finds("a").await;
    let requests: Vec<_> = (0..500).map(|number| Bytes::from(format!("{number}"))).collect();
    let mut asking: Vec<_> =
        requests.iter().map(|request| bob.peers.ask(&holder, request.clone(), PATIENCE)).collect();
    asking.reverse();
    let answers: Result<Vec<_>, _> = join_all(asking).await.into_iter().rev().collect();
    assert_eq!(answers.as_ref(), Ok(&requests));
    let asked = ann.answers.asked().into_iter().filter(|(asked, _)| *asked == handle);
    assert!(asked.map(|(_, request)| request).eq(requests), "once each, and in order");
}

/// Not there, or not any more.
pub async fn who_asks_for_a_session_that_is_gone_is_told_so(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    let handle = ann.claimed("a").await;
    let holder = bob.finds("a").await;
    for node in [&ann, &bob] {
        assert_eq!(node.ask(&holder, b"none").await, Err(PeerError::Gone));
    }
    let asked = ann.answers.asked().len();
    let other = Holder { handle: self::handle(), ..holder.clone() };
    let elsewhere = Holder { name: name("b"), ..holder.clone() };
    ann.peers.release(name("a"), handle);
    for node in [&ann, &bob] {
        for holder in [&holder, &other, &elsewhere] {
            assert_eq!(node.ask(holder, b"x").await, Err(PeerError::Gone), "{holder:?}");
        }
    }
    let nobody = Holder { owner: format!("{}:1", "0".repeat(32)).into(), ..holder.clone() };
    let strange = Holder { owner: "{}\r\n".into(), ..holder };
    for holder in [nobody, strange] {
        assert_eq!(bob.ask(&holder, b"x").await, Err(PeerError::Gone), "{holder:?}");
    }
    assert_eq!(ann.answers.asked().len(), asked, "none of these reached a session");
}

/// The late answer is nobody's, and the next ask gets its own.
pub async fn an_answer_that_does_not_come_in_time_is_a_timeout(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    ann.claimed("a").await;
    let holder = bob.finds("a").await;
    for node in [&ann, &bob] {
        let patience = Duration::from_millis(50);
        let slow = node.peers.ask(&holder, "hold".into(), patience).await;
        assert_eq!(slow, Err(PeerError::Timeout));
    }
    ann.answers.let_go(1);
    assert_eq!(bob.ask(&holder, b"next").await, Ok(Bytes::from_static(b"next")));
    eventually("nobody works on it any more", || ann.answers.held() == 0).await;
}

/// Others are answered meanwhile.
pub async fn a_slow_answer_holds_up_no_other(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    ann.claimed("a").await;
    let holder = bob.finds("a").await;
    let slow = bob.peers.ask(&holder, "hold".into(), PATIENCE);
    for _ in 0..10 {
        assert_eq!(bob.ask(&holder, b"x").await, Ok(Bytes::from_static(b"x")));
    }
    ann.answers.let_go(1);
    assert_eq!(slow.await, Ok(Bytes::from_static(b"hold")));
}

/// So that its session can be asked by another.
pub async fn who_gives_up_asking_is_not_answered(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    ann.claimed("a").await;
    let holder = bob.finds("a").await;
    let mut asking = bob.peers.ask(&holder, "hold".into(), PATIENCE);
    let waiting = async { eventually("it is asked", || ann.answers.held() == 1).await };
    tokio::select! {
        answer = &mut asking => panic!("{answer:?}"),
        () = waiting => {}
    }
    drop(asking);
    eventually("it is given up", || ann.answers.held() == 0).await;
}

/// In both directions; what is just not too large comes through.
pub async fn what_is_too_large_is_refused(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    ann.claimed("a").await;
    let holder = bob.finds("a").await;
    let largest = vec![b'x'; MESSAGE_MAX_BYTES];
    for node in [&ann, &bob] {
        assert_eq!(node.ask(&holder, &largest).await.as_deref(), Ok(&largest[..]));
        let asked = ann.answers.asked().len();
        let larger = vec![b'x'; MESSAGE_MAX_BYTES + 1];
        assert_eq!(node.ask(&holder, &larger).await, Err(PeerError::TooLarge));
        assert_eq!(ann.answers.asked().len(), asked);
        let request = format!("bytes:{}", MESSAGE_MAX_BYTES + 1);
        assert_eq!(node.ask(&holder, request.as_bytes()).await, Err(PeerError::TooLarge));
    }
}

/// Unchanged, and as nothing else.
pub async fn requests_and_answers_may_be_any_bytes(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    ann.claimed("a").await;
    let holder = bob.finds("a").await;
    let all: Vec<u8> = (0..=255).collect();
    let order = b"revoked 00000000000000000000000000000000 - x\n";
    for request in [&b""[..], b"\xff", b"\xff\x01\x02", &all, order, b"\r\n$1\r\n"] {
        assert_eq!(bob.ask(&holder, request).await.as_deref(), Ok(request));
    }
}

/// Whatever sessions it has, and without reaching one.
pub async fn a_node_is_asked_itself(harness: &impl PeersHarness) {
    let [ann, bob] = harness.nodes().await;
    ann.claimed("a").await;
    let owner = bob.finds("a").await.owner;
    let asked = ann.answers.asked().len();
    let ask = async |node: &PeerNode, owner: &Arc<str>, request: &'static [u8]| {
        node.peers.ask_node(owner, Bytes::from_static(request), PATIENCE).await
    };
    for node in [&ann, &bob] {
        assert_eq!(ask(node, &owner, b"x\xff").await.as_deref(), Ok(&b"x\xff"[..]));
        assert_eq!(ask(node, &owner, b"none").await, Err(PeerError::Gone));
        let slow = node.peers.ask_node(&owner, "hold".into(), Duration::from_millis(50)).await;
        assert_eq!(slow, Err(PeerError::Timeout));
    }
    let nobody = format!("{}:1", "0".repeat(32)).into();
    for owner in [&nobody, &"{}\r\n".into()] {
        assert_eq!(ask(&bob, owner, b"x").await, Err(PeerError::Gone));
    }
    eventually("all have come", || ann.answers.asked_itself().len() == 6).await;
    assert_eq!(ann.answers.asked().len(), asked, "none of these reached a session");
}

/// For what is to be answered, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(20);
const ATTEMPTS: usize = 4000;
const POLL: Duration = Duration::from_millis(5);

/// One `#[tokio::test]` for each rule of the contract; `$harness` is an expression that is
/// evaluated anew for each.
#[macro_export]
macro_rules! peers_contract {
    ($harness:expr) => {
        $crate::peers_contract!(@tests $harness;
            a_name_is_had_by_who_claims_it_first
            a_name_that_is_released_is_free
            of_many_claims_at_once_one_wins
            a_claim_that_is_dropped_is_none
            names_are_told_apart
            an_ask_is_answered_by_the_holders_node
            asks_arrive_once_and_in_the_order_of_the_calls
            who_asks_for_a_session_that_is_gone_is_told_so
            an_answer_that_does_not_come_in_time_is_a_timeout
            a_slow_answer_holds_up_no_other
            who_gives_up_asking_is_not_answered
            what_is_too_large_is_refused
            requests_and_answers_may_be_any_bytes
            a_node_is_asked_itself
        );
    };
    (@tests $harness:expr; $($rule:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let harness = $harness;
                $crate::contract::peers::$rule(&harness).await;
            }
        )*
    };
}
