//! Gives sessions away once nodes have been added: how many is a decision without I/O, and they go
//! at the pace of a drain.
//!
//! What is compared are the sessions that can go, with those of the others. Services over TCP can't,
//! and the balancer in front of the rest knows nothing of them: a node that gave away others in
//! their place would be the one with the fewest connections, and be given them back.

use std::sync::Arc;
use std::time::Duration;

use fanlight_redis::{Lease, LeasedNode};
use tokio::sync::oneshot;

use crate::config;
use crate::node::{Node, Readiness};
use crate::worker::{Inbox, WorkerHandle, WorkerShared};

/// When a node gives sessions away, and how many at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// By how many percent of the mean a node may have more than it.
    pub threshold_percent: u32,
    /// A node with fewer keeps them.
    pub min_sessions: u64,
    /// A node that is younger is left to the balancer.
    pub settle: Duration,
}

/// What a node knows of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// How many sessions this node has that can go to another one.
    pub own: u64,
    /// The other nodes.
    pub others: Vec<Other>,
    /// How many such sessions there were in all when the nodes were last listed before.
    pub total_before: Option<u64>,
    /// Whether this node takes sessions itself, and its lease and its broker are well.
    pub is_ready: bool,
}

/// Another node, as it last told of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// How many sessions it has that can go to another node.
    pub sessions: u64,
    /// Whether it takes more: it is ready, does not drain, and its lease stands.
    pub is_ready: bool,
    /// How long ago it started.
    pub age: Duration,
}

/// What a node is to give away in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shed {
    /// So many sessions.
    pub count: u64,
    /// And none of the last so many, where others leave by themselves meanwhile.
    pub down_to: u64,
}

/// Why nothing is given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It has hardly more than the mean.
    Balanced,
    /// It has few.
    Few,
    /// It is alone.
    Alone,
    /// This node is not ready: what it knows of the others may be old.
    NotReady,
    /// Another node goes away, or is not well: its sessions are about to come.
    OthersNotReady,
    /// A node has just started: clients are about to find it by themselves.
    JustStarted,
    /// Sessions come or go in masses.
    Unsteady,
}

impl View {
    /// Sessions in the cluster that can go from node to node.
    pub fn total(&self) -> u64 {
        self.own + self.others.iter().map(|other| other.sessions).sum::<u64>()
    }
}

/// What a node is to give away: at most what it has above the mean, and of that at most a share.
pub fn decide(rules: Rules, view: &View) -> Result<Shed, Keep> {
    let (nodes, total) = (view.others.len() as u64 + 1, view.total());
    if !view.is_ready {
        return Err(Keep::NotReady);
    }
    if nodes == 1 {
        return Err(Keep::Alone);
    }
    if view.own < rules.min_sessions {
        return Err(Keep::Few);
    }
    if !view.others.iter().all(|other| other.is_ready) {
        return Err(Keep::OthersNotReady);
    }
    if view.others.iter().any(|other| other.age < rules.settle) {
        return Err(Keep::JustStarted);
    }
    let may_differ = (total / STEADY_PART).max(STEADY_SESSIONS);
    if view.total_before.is_none_or(|before| before.abs_diff(total) > may_differ) {
        return Err(Keep::Unsteady);
    }
    if view.own * nodes * 100 <= total * (100 + u64::from(rules.threshold_percent)) {
        return Err(Keep::Balanced);
    }
    let down_to = total.div_ceil(nodes).max(rules.min_sessions);
    match view.own.saturating_sub(down_to).min((view.own / SHARE).max(1)) {
        0 => Err(Keep::Balanced),
        count => Ok(Shed { count, down_to }),
    }
}

/// A node that gives sessions away.
pub struct Rebalance {
    /// The node.
    pub node: Arc<Node>,
    /// How many sessions its workers have.
    pub shared: Arc<WorkerShared>,
    /// Its lease, which tells of the others.
    pub lease: Arc<Lease>,
    /// Who has the sessions.
    pub workers: Vec<WorkerHandle>,
}

/// One round: so many, evenly over its window.
#[derive(Debug, Clone, Copy)]
struct Round {
    shed: Shed,
    /// How many of them have had their time. Those are not made up for who could not go then.
    asked: u64,
    /// How many have gone.
    gone: u64,
    begun_ms: u64,
}

/// How long nothing is done after a round: longer after those that did not help, because the
/// balancer gives sessions back to where they came from.
#[derive(Debug, Default)]
struct Rest {
    until_ms: u64,
    /// Rounds that did not help, one behind the other.
    in_vain: u32,
    /// What the last round left, had it helped by half.
    hoped_for: Option<u64>,
}

impl Rebalance {
    /// Watches for as long as it is polled.
    pub async fn run(self) {
        let config::Rebalance { window, cooldown, .. } = &self.node.config.rebalance;
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let (mut listings, mut totals) = (0, [None; 2]);
        let mut round: Option<Round> = None;
        let mut rest = Rest::default();
        loop {
            ticks.tick().await;
            let now_ms = self.node.clock.now().mono_ms;
            let listed = self.lease.listings();
            let mut view = self.view();
            if listed != listings {
                listings = listed;
                totals = [totals[1], Some(view.total())];
            }
            view.total_before = totals[0];
            match &mut round {
                Some(own) => {
                    let due = own.due(now_ms, window.as_ms());
                    let stays = self.go_on(own, due, &view).await;
                    if !stays || own.asked >= own.shed.count {
                        tracing::info!(sessions = own.gone, "sessions were given to other nodes");
                        rest.begin(now_ms, cooldown.as_ms());
                        round = None;
                    }
                }
                None if now_ms < rest.until_ms => {}
                None => {
                    let Ok(shed) = decide(self.rules(), &view) else { continue };
                    rest.judge(view.own, shed.count);
                    tracing::info!(?shed, own = view.own, "giving sessions to other nodes");
                    round = Some(Round { shed, asked: 0, gone: 0, begun_ms: now_ms });
                }
            }
        }
    }

    fn rules(&self) -> Rules {
        let config::Rebalance { threshold_percent, min_sessions, settle, .. } =
            self.node.config.rebalance;
        Rules { threshold_percent, min_sessions, settle: settle.0 }
    }

    fn view(&self) -> View {
        let unix_ms = self.node.clock.now().unix_ms;
        let own_boot = self.lease.boot();
        let is_other = |node: &&LeasedNode| node.owner.split(':').next() != Some(own_boot);
        let other = |node: &LeasedNode| Other {
            sessions: node.movable,
            is_ready: node.takes_sessions && node.left.is_some(),
            age: Duration::from_millis(unix_ms.saturating_sub(node.info.started_unix_ms)),
        };
        View {
            own: self.shared.movable().sum(),
            others: self.lease.nodes().iter().filter(is_other).map(other).collect(),
            total_before: None,
            is_ready: self.node.readiness() == Readiness::Ready,
        }
    }

    /// Gives away what is due; whether the round goes on. The clients that have gone are not
    /// counted yet where they came to, so the others' counts decide nothing before the next round.
    async fn go_on(&self, round: &mut Round, due: u64, view: &View) -> bool {
        let others_take = view.others.iter().all(|other| other.is_ready);
        if !view.is_ready || !others_take || view.others.is_empty() {
            return false;
        }
        // Others may also have left by themselves.
        let count = (due - round.asked).min(view.own.saturating_sub(round.shed.down_to));
        round.asked = due;
        let shares = shares(count, self.shared.movable().collect());
        for (worker, &count) in self.workers.iter().zip(&shares).filter(|(_, count)| **count > 0) {
            let (gone, answer) = oneshot::channel();
            worker.send(Inbox::Shed { count, gone }).await;
            // One that has ended sends nobody away.
            round.gone += answer.await.unwrap_or(0) as u64;
        }
        true
    }
}

/// How many of so many sessions each worker is to send away: each session that a worker `has` is as
/// likely to go as any other.
fn shares(count: u64, mut has: Vec<u64>) -> Vec<usize> {
    let mut shares = vec![0; has.len()];
    let mut all: u64 = has.iter().sum();
    for _ in 0..count.min(all) {
        let mut nth = rand::random_range(0..all);
        for (left, share) in has.iter_mut().zip(&mut shares) {
            if nth < *left {
                (*left, *share) = (*left - 1, *share + 1);
                break;
            }
            nth -= *left;
        }
        all -= 1;
    }
    shares
}

impl Rest {
    /// Before a round of so many: whether the last one has helped.
    fn judge(&mut self, own: u64, count: u64) {
        if self.hoped_for.is_some_and(|hoped_for| own > hoped_for) {
            self.in_vain = (self.in_vain + 1).min(IN_VAIN_MAX);
            tracing::warn!(
                "the sessions that were given to other nodes came back; does the load balancer \
                 prefer the node with the fewest connections?"
            );
        } else {
            self.in_vain = 0;
        }
        self.hoped_for = Some(own.saturating_sub(count / 2));
    }

    fn begin(&mut self, now_ms: u64, cooldown_ms: u64) {
        self.until_ms = now_ms + (cooldown_ms << self.in_vain);
    }
}

impl Round {
    /// How many are to have gone by now.
    fn due(&self, now_ms: u64, window_ms: u64) -> u64 {
        let elapsed_ms = now_ms.saturating_sub(self.begun_ms);
        if elapsed_ms >= window_ms {
            return self.shed.count;
        }
        (u128::from(self.shed.count) * u128::from(elapsed_ms) / u128::from(window_ms)) as u64
    }
}

/// One of so many of its sessions is the most that a node gives away in one round.
const SHARE: u64 = 4;
/// By how many doublings a rest grows.
const IN_VAIN_MAX: u32 = 6;
/// From one listing of the nodes to the next, one of so many sessions may come or go.
const STEADY_PART: u64 = 20;
const STEADY_SESSIONS: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules =
        Rules { threshold_percent: 20, min_sessions: 100, settle: Duration::from_secs(60) };

    fn other(sessions: u64) -> Other {
        Other { sessions, is_ready: true, age: Duration::from_secs(3600) }
    }

    fn view(own: u64, others: &[u64]) -> View {
        let others = others.iter().copied().map(other).collect();
        let view = View { own, others, total_before: None, is_ready: true };
        View { total_before: Some(view.total()), ..view }
    }

    #[test]
    fn a_node_gives_away_what_it_has_above_the_mean_a_quarter_at_most() {
        for (own, others, expected) in [
            (1500, &[1500, 0][..], Ok(Shed { count: 375, down_to: 1000 })),
            (1300, &[900, 800], Ok(Shed { count: 300, down_to: 1000 })),
            (1200, &[900, 900], Err(Keep::Balanced)),
            (1201, &[900, 900], Ok(Shed { count: 200, down_to: 1001 })),
            (1000, &[2000], Err(Keep::Balanced)),
            (120, &[0, 0], Ok(Shed { count: 20, down_to: 100 })),
            (99, &[0, 0], Err(Keep::Few)),
            (5000, &[], Err(Keep::Alone)),
        ] {
            assert_eq!(decide(RULES, &view(own, others)), expected, "{own} beside {others:?}");
        }
    }

    #[test]
    fn nothing_is_given_away_while_anything_else_goes_on() {
        let good = view(1500, &[1500, 0]);
        let with = |at: usize, other: Other| {
            let mut view = good.clone();
            view.others[at] = other;
            view
        };
        for (view, why) in [
            (View { is_ready: false, ..good.clone() }, Keep::NotReady),
            (with(0, Other { is_ready: false, ..other(1500) }), Keep::OthersNotReady),
            (with(1, Other { age: Duration::from_secs(59), ..other(0) }), Keep::JustStarted),
            (View { total_before: None, ..good.clone() }, Keep::Unsteady),
            (View { total_before: Some(2849), ..good.clone() }, Keep::Unsteady),
            (View { total_before: Some(3151), ..good.clone() }, Keep::Unsteady),
        ] {
            assert_eq!(decide(RULES, &view), Err(why), "{view:?}");
        }
        assert!(decide(RULES, &good).is_ok());
    }

    #[test]
    fn workers_send_sessions_away_in_proportion_to_those_that_they_have() {
        let shares_of_each = shares(1000, vec![0, 3000, 1000]);
        assert_eq!(shares_of_each[0], 0);
        assert_eq!(shares_of_each.iter().sum::<usize>(), 1000);
        // Ten times the deviation of the hypergeometric distribution.
        assert!(shares_of_each[1].abs_diff(750) < 120, "{shares_of_each:?}");
        assert_eq!(shares(9, vec![2, 0, 3]), [2, 0, 3], "no more than there are");
    }

    #[test]
    fn a_node_rests_longer_each_time_its_sessions_come_back() {
        let mut rest = Rest::default();
        let mut rests = Vec::new();
        for own in [1000, 1000, 1000, 1000, 880, 1000] {
            rest.judge(own, 200);
            rest.begin(0, 1);
            rests.push(rest.until_ms);
        }
        assert_eq!(rests, [1, 2, 4, 8, 1, 2]);
        for _ in 0..100 {
            rest.judge(1000, 200);
        }
        rest.begin(0, 1);
        assert_eq!(rest.until_ms, 64);
    }

    /// Nodes that all decide by the same counts, and a balancer that gives each client to the node
    /// with the fewest connections.
    struct Cluster {
        sessions: Vec<u64>,
        given: Vec<u64>,
        taken: Vec<u64>,
    }

    impl Cluster {
        /// One round of every node; how many sessions have moved.
        fn round(&mut self) -> u64 {
            let told = self.sessions.clone();
            let mut moved = 0;
            for at in 0..told.len() {
                let mut others = told.clone();
                let own = others.remove(at);
                if let Ok(Shed { count, down_to }) = decide(RULES, &view(own, &others)) {
                    assert!(own - count >= down_to, "{count} of {told:?}");
                    assert!(down_to as f64 >= told.iter().sum::<u64>() as f64 / told.len() as f64);
                    self.sessions[at] -= count;
                    self.given[at] += count;
                    moved += count;
                }
            }
            for _ in 0..moved {
                let fewest = (0..told.len()).min_by_key(|at| self.sessions[*at]).unwrap();
                self.sessions[fewest] += 1;
                self.taken[fewest] += 1;
            }
            moved
        }
    }

    proptest! {
        #[test]
        fn a_cluster_converges_and_no_node_gives_what_it_was_given(
            sessions in proptest::collection::vec(0_u64..3000, 2..9),
        ) {
            let total: u64 = sessions.iter().sum();
            let mean = total.div_ceil(sessions.len() as u64);
            let before = sessions.clone();
            let nothing = vec![0; sessions.len()];
            let mut cluster = Cluster { sessions, given: nothing.clone(), taken: nothing };
            let rounds = (0..40).take_while(|_| cluster.round() > 0).count();
            prop_assert!(rounds < 40, "it never rests: {:?}", cluster.sessions);
            for (at, &own) in cluster.sessions.iter().enumerate() {
                let few = own <= RULES.min_sessions;
                // In whole numbers: 950 of 2,375 is just within 1.2 times the mean of three.
                let is_near = own * before.len() as u64 * 100 <= total * 120;
                prop_assert!(few || is_near, "{before:?} became {:?}", cluster.sessions);
                let excess = before[at].saturating_sub(mean);
                prop_assert!(cluster.given[at] <= excess, "{before:?}: {:?}", cluster.given);
                prop_assert!(cluster.given[at] == 0 || cluster.taken[at] == 0, "{before:?}");
            }
        }
    }
}
