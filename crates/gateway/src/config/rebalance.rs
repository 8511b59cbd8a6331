//! Moving sessions to nodes that have fewer: the options, whose doc comments are the reference.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use super::problem::Problem;
use super::values::Span;

/// How sessions move to nodes that have fewer, as after a scale-out.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Rebalance {
    /// Whether a node that has more sessions than others gives some away: their clients are told to
    /// reconnect. Needs a load balancer that prefers the node with the fewest connections.
    pub enabled: bool,
    /// By how many percent of the nodes' mean a node may have more than it.
    pub threshold_percent: u32,
    /// A node with fewer sessions keeps them. Those of STOMP over TCP never move, and don't count.
    pub min_sessions: u64,
    /// The time over which a node gives away what it has too many, evenly.
    pub window: Span,
    /// After that: how long a node waits for what the others tell of themselves, before it looks
    /// again. At least three times `cluster.lease_renew`.
    pub cooldown: Span,
    /// For how long after its start a node is left to the balancer: no node gives anything away
    /// while another one is as young.
    pub settle: Span,
}

impl Default for Rebalance {
    fn default() -> Self {
        Self {
            enabled: false,
            threshold_percent: 20,
            min_sessions: 1000,
            window: Span::seconds(240),
            cooldown: Span::seconds(60),
            settle: Span::seconds(60),
        }
    }
}

/// What keeps it from being served.
pub(super) fn problems(config: &Config, problems: &mut Vec<Problem>) {
    let own = &config.rebalance;
    if own.threshold_percent == 0 {
        problems.push(Problem::new(
            "rebalance.threshold_percent",
            "zero: a single session more would move",
            "set it to what is worth moving sessions for, as in 20",
        ));
    }
    if own.cooldown.as_ms() < config.cluster.lease_renew.as_ms().saturating_mul(3) {
        problems.push(Problem::new(
            "rebalance.cooldown",
            format!(
                "less than three times cluster.lease_renew ({}): a node would not know yet where \
                 its sessions went",
                config.cluster.lease_renew
            ),
            "make it longer, as in \"60s\"",
        ));
    }
}
