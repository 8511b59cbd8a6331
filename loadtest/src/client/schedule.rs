//! An open model: when each publication is due, and which destination it is for, whatever happened
//! to those before.

use crate::clock::SECOND_NS;
use crate::control::Load;

/// The publications of all loads so far. Every process has the same, so that each knows what its
/// subscribers must get.
#[derive(Debug, Clone)]
pub struct Schedule {
    destinations: u64,
    /// Publications of the loads before this one, by destination.
    before: Vec<u64>,
    load: Load,
    total: u64,
}

/// A publication that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Its destination.
    pub destination: usize,
    /// Its place among the destination's publications.
    pub sequence: u64,
    /// When.
    pub at_ns: u64,
}

impl Schedule {
    /// Nothing to publish yet.
    pub fn new(destinations: usize) -> Self {
        Self {
            destinations: destinations as u64,
            before: vec![0; destinations],
            load: Load::default(),
            total: 0,
        }
    }

    /// Goes on with another load.
    pub fn begin(&mut self, load: Load) {
        for destination in 0..self.before.len() {
            self.before[destination] = self.published(destination);
        }
        self.load = load;
        self.total = whole((load.rate * load.length_ns as f64 / SECOND_NS as f64).round());
    }

    /// The load's publication number `n`; `None` behind the last.
    pub fn due(&self, n: u64) -> Option<Due> {
        if n >= self.total {
            return None;
        }
        let destination = (n % self.destinations) as usize;
        let first = n - n % self.load.burst.max(1);
        Some(Due {
            destination,
            sequence: self.before[destination] + n / self.destinations,
            at_ns: self.load.start_ns + whole(first as f64 * SECOND_NS as f64 / self.load.rate),
        })
    }

    /// How many publications a destination has once the load is over.
    pub fn published(&self, destination: usize) -> u64 {
        let (each, rest) = (self.total / self.destinations, self.total % self.destinations);
        self.before[destination] + each + u64::from((destination as u64) < rest)
    }

    /// The first publication of a destination that is due at or after a moment.
    pub fn first_due_from(&self, destination: usize, at_ns: u64) -> u64 {
        let elapsed_ns = at_ns.saturating_sub(self.load.start_ns) as f64;
        let burst = self.load.burst.max(1);
        let bursts = elapsed_ns * self.load.rate / SECOND_NS as f64 / burst as f64;
        let n = whole(bursts.ceil()) * burst;
        let rounds = n.saturating_sub(destination as u64).div_ceil(self.destinations);
        (self.before[destination] + rounds).min(self.published(destination))
    }

    /// When the load is over.
    pub fn end_ns(&self) -> u64 {
        self.load.start_ns + self.load.length_ns
    }
}

/// A number or a time in whole units.
#[expect(clippy::cast_sign_loss, reason = "there are no negative ones here")]
pub fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(rate: f64, seconds: u64) -> Load {
        Load { start_ns: 1000, length_ns: seconds * SECOND_NS, rate, ..Load::default() }
    }

    #[test]
    fn publications_are_due_at_even_distances_and_go_round_the_destinations() {
        let mut schedule = Schedule::new(2);
        schedule.begin(load(10.0, 1));
        let due: Vec<Due> = (0..).map_while(|n| schedule.due(n)).collect();
        assert_eq!(due.len(), 10);
        assert_eq!(due[3], Due { destination: 1, sequence: 1, at_ns: 1000 + 300_000_000 });
        assert_eq!((schedule.published(0), schedule.published(1)), (5, 5));
    }

    #[test]
    fn a_burst_is_due_at_once() {
        let mut schedule = Schedule::new(1);
        schedule.begin(Load { burst: 5, ..load(10.0, 1) });
        let due: Vec<u64> = (0..).map_while(|n| schedule.due(n)).map(|due| due.at_ns).collect();
        assert_eq!(due, [[1000; 5], [500_001_000; 5]].concat());
    }

    #[test]
    fn a_second_load_counts_on() {
        let mut schedule = Schedule::new(3);
        schedule.begin(load(10.0, 1));
        schedule.begin(load(2.0, 1));
        assert_eq!(schedule.due(0).unwrap().sequence, 4);
        assert_eq!(schedule.due(1).unwrap().sequence, 3);
        assert_eq!([0, 1, 2].map(|destination| schedule.published(destination)), [5, 4, 3]);
    }

    #[test]
    fn what_is_due_from_a_moment_on_is_what_the_schedule_says() {
        for burst in [1, 10] {
            let mut schedule = Schedule::new(3);
            schedule.begin(Load { burst, ..load(1000.0, 1) });
            for at_ns in [0, 1000, 1001, 500_000_000, 999_000_999, 2_000_000_000] {
                for destination in 0..3 {
                    let due = (0..)
                        .map_while(|n| schedule.due(n))
                        .find(|due| due.destination == destination && due.at_ns >= at_ns);
                    let expected = due.map_or(schedule.published(destination), |due| due.sequence);
                    assert_eq!(schedule.first_due_from(destination, at_ns), expected, "{at_ns}");
                }
            }
        }
    }
}
