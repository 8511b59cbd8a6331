//! The limit of open files: each connection takes one.

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

/// Less than anybody wants who serves more than a few.
const FEW: u64 = 4096;
