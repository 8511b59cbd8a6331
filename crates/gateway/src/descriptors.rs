//! The limit of open files: each connection takes one, and the last are kept for the node itself.

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. The soft one is low (1,024, mostly) for the sake of
/// programs that use `select`, which this one is not. Says so where that is still little.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    // `None` is no limit at all.
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && limit < FEW
    {
        tracing::warn!(
            limit,
            "few files may be open, and each connection is one; raise the limit (`ulimit -Hn`, LimitNOFILE, ulimits)"
        );
    }
}

/// Which descriptors the connections of a listener may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// Each there is.
    All,
    /// Not the last [`SPARE`] (of a small limit a quarter): these are for the admin listener, so
    /// that a node full of clients answers its health checks, and for connections to Redis.
    AllButSpare,
}

impl Allowance {
    /// Whether a descriptor that was just made may be kept. The kernel gives the lowest number
    /// that is free: if it gave one of the last, all before it are taken.
    pub fn covers(self, made: &impl AsFd) -> bool {
        let number = u64::try_from(made.as_fd().as_raw_fd()).unwrap_or_default();
        // Asked each time (a cheap call): the limit of a process can be changed while it runs.
        self == Self::All
            || getrlimit(Resource::Nofile).current.is_none_or(|limit| number < unspared(limit))
    }
}

/// How many descriptors clients may take of `limit`.
fn unspared(limit: u64) -> u64 {
    limit - SPARE.min(limit / 4)
}

/// How many descriptors are kept for the node itself.
pub const SPARE: u64 = 64;

/// Less than anybody wants who serves more than a few.
const FEW: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_the_last_descriptors_and_of_a_small_limit_a_quarter() {
        assert_eq!([65_536, 256, 100, 0].map(unspared), [65_472, 192, 75, 0]);
    }
}
