//! Whether one subscriber got everything of its destination, once and in order.

/// What one delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The next one, or the first after some that are missing so far.
    New,
    /// One that was missing: it came after a later one.
    Reordered,
    /// One that had come before.
    Duplicate,
}

/// The record of one subscriber.
#[derive(Debug, Clone, Default)]
pub struct SequenceCheck {
    /// From which sequence number on all must come.
    due_from: u64,
    /// What follows the last; none has come while it is absent.
    next: Option<u64>,
    /// What has not come although a later one has, as ranges without their ends.
    missing: Vec<(u64, u64)>,
}

impl SequenceCheck {
    /// Of a subscriber that must get everything from this number on, and may get earlier ones.
    pub fn due_from(sequence: u64) -> Self {
        Self { due_from: sequence, ..Self::default() }
    }

    /// Notes a delivery.
    pub fn see(&mut self, sequence: u64) -> Seen {
        let next = self.next.unwrap_or(self.due_from.min(sequence));
        if sequence >= next {
            if sequence > next {
                self.missing.push((next, sequence));
            }
            self.next = Some(sequence + 1);
            return Seen::New;
        }
        let found = self.missing.iter().position(|&(from, to)| (from..to).contains(&sequence));
        let Some(at) = found else { return Seen::Duplicate };
        let (from, to) = self.missing.swap_remove(at);
        let rest = [(from, sequence), (sequence + 1, to)];
        self.missing.extend(rest.into_iter().filter(|(from, to)| from < to));
        Seen::Reordered
    }

    /// How many have not come of a destination that has had this many publications.
    pub fn outstanding(&self, published: u64) -> u64 {
        let behind = published.saturating_sub(self.next.unwrap_or(self.due_from));
        behind + self.missing.iter().map(|(from, to)| to - from).sum::<u64>()
    }

    /// Counts as come, or as lost, whatever is outstanding.
    pub fn forgive(&mut self, published: u64) {
        *self = Self::due_from(published);
        self.next = Some(published);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sequences: &[u64]) -> (SequenceCheck, Vec<Seen>) {
        let mut check = SequenceCheck::due_from(0);
        let seen = sequences.iter().map(|&sequence| check.see(sequence)).collect();
        (check, seen)
    }

    #[test]
    fn what_comes_in_order_leaves_nothing_outstanding() {
        let (check, seen) = check(&[0, 1, 2]);
        assert_eq!(seen, [Seen::New; 3]);
        assert_eq!(check.outstanding(3), 0);
    }

    #[test]
    fn what_never_came_is_outstanding_wherever_it_was() {
        for sequences in [&[1, 2][..], &[0, 2], &[0, 1]] {
            assert_eq!(check(sequences).0.outstanding(3), 1, "{sequences:?}");
        }
        assert_eq!(check(&[]).0.outstanding(3), 3);
    }

    #[test]
    fn what_comes_after_a_later_one_is_reordered_but_not_lost() {
        let (check, seen) = check(&[0, 4, 2, 1, 3]);
        assert_eq!(seen[2..], [Seen::Reordered; 3]);
        assert_eq!(check.outstanding(5), 0);
    }

    #[test]
    fn what_comes_again_is_a_duplicate() {
        let (_, seen) = check(&[0, 1, 1, 0]);
        assert_eq!(seen[2..], [Seen::Duplicate; 2]);
    }

    #[test]
    fn who_comes_later_need_not_get_what_was_before_but_may() {
        let mut late = SequenceCheck::due_from(5);
        assert_eq!(late.outstanding(5), 0);
        assert_eq!(late.outstanding(7), 2);
        assert_eq!(late.see(4), Seen::New);
        assert_eq!(late.see(6), Seen::New);
        assert_eq!(late.outstanding(7), 1);
        assert_eq!(late.see(4), Seen::Duplicate);
    }
}
