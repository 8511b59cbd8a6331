//! Time-ordered ids from a seed and the time, without a clock.

use std::hash::{DefaultHasher, Hasher};

use uuid::{Builder, Uuid};

use crate::publication::{PublicationId, SessionId};
use crate::time::Now;

/// Makes `UUIDv7`s (RFC 9562 §5.7): each greater than the one before, from one seed always the
/// same. They are unique as far as seeds are; they are names, not secrets.
#[derive(Debug, Clone)]
pub struct Ids {
    seed: u64,
    made: u64,
    last_unix_ms: u64,
    /// Orders the ids of one millisecond: RFC 9562 §6.2, method 1.
    counter: u16,
}

impl Ids {
    /// A generator with a seed of its own: a random number, different for each.
    pub fn new(seed: u64) -> Self {
        Self { seed, made: 0, last_unix_ms: 0, counter: 0 }
    }

    /// The id of a new session.
    pub fn session(&mut self, now: Now) -> SessionId {
        SessionId(self.next(now))
    }

    /// The id of a new publication.
    pub fn publication(&mut self, now: Now) -> PublicationId {
        PublicationId(self.next(now))
    }

    fn next(&mut self, now: Now) -> Uuid {
        if now.unix_ms > self.last_unix_ms {
            self.last_unix_ms = now.unix_ms;
            self.counter = 0;
        } else if self.counter == COUNTER_MAX {
            // As the clock has stood still or gone back for 4,096 ids, run ahead of it.
            self.last_unix_ms += 1;
            self.counter = 0;
        } else {
            self.counter += 1;
        }
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&self.counter.to_be_bytes());
        bytes[2..].copy_from_slice(&self.random().to_be_bytes());
        Builder::from_unix_timestamp_millis(self.last_unix_ms, &bytes).into_uuid()
    }

    /// A keyed hash of a count, so that one id does not give away the next.
    fn random(&mut self) -> u64 {
        self.made += 1;
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write_u64(self.made);
        hasher.finish()
    }
}

/// The 12 bits of `rand_a`.
const COUNTER_MAX: u16 = 0xfff;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_ms: u64) -> Now {
        Now { mono_ms: 0, unix_ms }
    }

    #[test]
    fn ids_are_version_7_ordered_and_unique_even_when_the_clock_goes_back() {
        let mut ids = Ids::new(7);
        let mut last = Uuid::nil();
        for n in 0..20_000_u64 {
            let id = ids.next(at(1_700_000_000_000 - n / 5_000));
            assert_eq!(id.get_version_num(), 7);
            assert!(id > last, "{id} after {last}");
            last = id;
        }
    }

    #[test]
    fn an_id_tells_its_time_and_another_seed_makes_other_ids() {
        let id = Ids::new(1).next(at(1_700_000_000_123));
        let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos), (1_700_000_000, 123_000_000));
        assert_eq!(id, Ids::new(1).next(at(1_700_000_000_123)));
        assert_ne!(id, Ids::new(2).next(at(1_700_000_000_123)));
    }
}
