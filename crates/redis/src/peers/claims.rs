//! What this node has claimed, and how surely: without I/O, and told the time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use fanlight_engine::peers::ClaimName;
use fanlight_engine::registry::Handle;

/// The claims of one node.
#[derive(Debug, Default)]
pub(super) struct Claims {
    held: HashMap<ClaimName, Held>,
    /// Those that Redis was asked for and that have not been answered yet.
    claiming: HashMap<(ClaimName, Handle), Stamp>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    handle: Handle,
    stamp: Stamp,
}

/// When Redis last surely had a claim, and under which round of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) round: u64,
    /// When it was asked, as its answer may have taken long.
    pub(super) at: Instant,
}

/// What a claim has to be to count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Now, under the round of now.
    pub(super) now: Stamp,
    /// Whether this node's lease surely stands.
    pub(super) lease_held: bool,
    /// How long a claim lasts in Redis.
    pub(super) ttl: Duration,
}

/// How a session of this node stands to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody else can have it.
    Sure,
    /// This node was paused, or Redis lost something: another may have it until it is renewed.
    Doubtful,
    /// It does not have it.
    None,
}

impl Claims {
    /// Notes that a claim is asked for: others may find it in Redis before its answer is here.
    pub(super) fn begin(&mut self, name: &ClaimName, handle: Handle, stamp: Stamp) {
        self.claiming.insert((name.clone(), handle), stamp);
    }

    /// Redis has given it; returns which session of this node had it before, and has lost it.
    pub(super) fn settle(
        &mut self,
        name: &ClaimName,
        handle: Handle,
        stamp: Stamp,
    ) -> Option<Handle> {
        self.claiming.remove(&(name.clone(), handle));
        let before = self.held.insert(name.clone(), Held { handle, stamp });
        before.map(|held| held.handle).filter(|other| *other != handle)
    }

    /// It came to nothing.
    pub(super) fn abandon(&mut self, name: &ClaimName, handle: Handle) {
        self.claiming.remove(&(name.clone(), handle));
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, name: &ClaimName, handle: Handle) -> bool {
        match self.held.entry(name.clone()) {
            Entry::Occupied(held) if held.get().handle == handle => {
                held.remove();
                true
            }
            _ => false,
        }
    }

    /// Redis had it at that time; whether it is still wanted.
    pub(super) fn confirm(&mut self, name: &ClaimName, handle: Handle, stamp: Stamp) -> bool {
        match self.held.get_mut(name) {
            Some(held) if held.handle == handle => {
                held.stamp = stamp;
                true
            }
            _ => false,
        }
    }

    /// The session of this node that has `name`, as far as is known here.
    pub(super) fn holder(&self, name: &ClaimName, terms: &Terms) -> Option<(Handle, Standing)> {
        let held = self.held.get(name)?;
        Some((held.handle, terms.standing(held.stamp)))
    }

    /// How this session stands to `name`; one that is being claimed has it, where somebody has
    /// found it in Redis.
    pub(super) fn standing(&self, name: &ClaimName, handle: Handle, terms: &Terms) -> Standing {
        let held = self.held.get(name).filter(|held| held.handle == handle).map(|held| held.stamp);
        let claiming = || self.claiming.get(&(name.clone(), handle)).copied();
        held.or_else(claiming).map_or(Standing::None, |stamp| terms.standing(stamp))
    }

    /// Those that were last confirmed so long ago, or under another round.
    pub(super) fn due(&self, now: Stamp, after: Duration) -> Vec<(ClaimName, Handle)> {
        let is_due =
            |stamp: Stamp| stamp.round != now.round || now.at.duration_since(stamp.at) >= after;
        let due = self.held.iter().filter(|(_, held)| is_due(held.stamp));
        due.map(|(name, held)| (name.clone(), held.handle)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

impl Terms {
    fn standing(&self, stamp: Stamp) -> Standing {
        let is_fresh = self.now.at.duration_since(stamp.at) < self.ttl;
        let is_sure = self.lease_held && stamp.round == self.now.round && is_fresh;
        if is_sure { Standing::Sure } else { Standing::Doubtful }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanlight_engine::broker::WorkerId;

    const TTL: Duration = Duration::from_secs(60);

    fn name(text: &str) -> ClaimName {
        ClaimName::new("test", &[text]).unwrap()
    }

    fn handle(serial: u64) -> Handle {
        Handle { worker: WorkerId(0), slot: 0, serial }
    }

    fn terms(round: u64, at: Instant) -> Terms {
        Terms { now: Stamp { round, at }, lease_held: true, ttl: TTL }
    }

    fn settle(claims: &mut Claims, text: &str, serial: u64, at: Instant) -> Option<Handle> {
        claims.settle(&name(text), handle(serial), Stamp { round: 0, at })
    }

    #[test]
    fn a_claim_is_sure_only_under_its_round_within_its_ttl_and_while_the_lease_stands() {
        let start = Instant::now();
        let mut claims = Claims::default();
        claims.begin(&name("a"), handle(1), Stamp { round: 0, at: start });
        let standing = |claims: &Claims, terms: &Terms| {
            let standing = claims.standing(&name("a"), handle(1), terms);
            let holder = claims.holder(&name("a"), terms);
            assert!(holder.is_none() || holder == Some((handle(1), standing)));
            standing
        };
        assert_eq!(standing(&claims, &terms(0, start)), Standing::Sure);
        assert_eq!(claims.len(), 0, "it is not held yet");
        assert_eq!(settle(&mut claims, "a", 1, start), None);
        assert_eq!(standing(&claims, &terms(0, start)), Standing::Sure);
        assert_eq!(standing(&claims, &terms(1, start)), Standing::Doubtful);
        assert_eq!(standing(&claims, &terms(0, start + TTL)), Standing::Doubtful);
        let lapsed = Terms { lease_held: false, ..terms(0, start) };
        assert_eq!(standing(&claims, &lapsed), Standing::Doubtful);
        assert!(claims.confirm(&name("a"), handle(1), Stamp { round: 1, at: start + TTL }));
        assert_eq!(standing(&claims, &terms(1, start + TTL)), Standing::Sure);
        assert_eq!(claims.standing(&name("a"), handle(2), &terms(1, start)), Standing::None);
        assert!(!claims.remove(&name("a"), handle(2)) && claims.remove(&name("a"), handle(1)));
        assert_eq!(standing(&claims, &terms(1, start + TTL)), Standing::None);
        assert!(!claims.confirm(&name("a"), handle(1), Stamp { round: 1, at: start }));
    }

    #[test]
    fn claims_are_due_by_time_and_by_round() {
        let start = Instant::now();
        let mut claims = Claims::default();
        for (serial, seconds) in [(1, 0), (2, 5), (3, 10)] {
            let at = start + Duration::from_secs(seconds);
            claims.begin(&name(&serial.to_string()), handle(serial), Stamp { round: 0, at });
        }
        settle(&mut claims, "1", 1, start);
        settle(&mut claims, "2", 2, start + Duration::from_secs(5));
        let due = |claims: &Claims, round, seconds| {
            let at = start + Duration::from_secs(seconds);
            let due = claims.due(Stamp { round, at }, Duration::from_secs(15));
            let mut serials: Vec<_> = due.iter().map(|(_, handle)| handle.serial).collect();
            serials.sort_unstable();
            serials
        };
        assert!(due(&claims, 0, 14).is_empty());
        assert_eq!(due(&claims, 0, 15), [1]);
        assert_eq!(due(&claims, 0, 20), [1, 2], "what is only being claimed is not renewed");
        assert_eq!(due(&claims, 1, 14), [1, 2]);
        claims.abandon(&name("3"), handle(3));
        let terms = terms(0, start);
        assert_eq!(claims.standing(&name("3"), handle(3), &terms), Standing::None);
        assert_eq!(claims.len(), 2);
    }

    #[test]
    fn a_session_whose_claim_another_one_of_this_node_gets_has_lost_it() {
        let start = Instant::now();
        let mut claims = Claims::default();
        for serial in [1, 2, 2] {
            claims.begin(&name("a"), handle(serial), Stamp { round: 0, at: start });
        }
        assert_eq!(settle(&mut claims, "a", 1, start), None);
        assert_eq!(settle(&mut claims, "a", 2, start), Some(handle(1)));
        assert_eq!(claims.standing(&name("a"), handle(1), &terms(0, start)), Standing::None);
    }
}
