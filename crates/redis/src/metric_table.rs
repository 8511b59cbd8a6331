//! The metrics of this crate, as the recorder and `docs/metrics.md` have them.

use fanlight_engine::metric::{Metric, OPEN, Section};

/// All of them.
pub const METRICS: &[Section] = &[
    Section { name: "redis", metrics: REDIS },
    Section { name: "presence", metrics: PRESENCE },
    Section { name: "cluster", metrics: CLUSTER },
    Section { name: "peers", metrics: PEERS },
    Section { name: "relay", metrics: RELAY },
];

const REDIS: &[Metric] = &[
    Metric::counter(
        "fanlight_redis_publishes_total",
        "Publications handed to Redis, by what became of them.",
    )
    .by(&[("shard", OPEN), ("result", OPEN)])
    .detail("`accepted`, `duplicate` (by an idempotency key, also of another message), `this_node` (delivered locally while Redis can't be reached), `unavailable`, `unknown`, `overloaded`, `queue_full`"),
    Metric::gauge(
        "fanlight_redis_publish_queue_messages",
        "Publications that wait to be written to Redis.",
    )
    .by(&[("shard", OPEN)]),
    Metric::histogram(
        "fanlight_redis_publish_round_trip_seconds",
        "From writing a batch of publications to Redis to the last of its answers.",
    )
    .by(&[("shard", OPEN)]),
    Metric::counter(
        "fanlight_redis_publications_received_total",
        "Publications read from Redis.",
    )
    .by(&[("shard", OPEN)]),
    Metric::counter(
        "fanlight_redis_envelopes_rejected_total",
        "Messages on our channels that were no envelope of ours, and were dropped.",
    )
    .by(&[("shard", OPEN)]),
    Metric::counter(
        "fanlight_redis_deliveries_dropped_total",
        "Deliveries that were dropped because a worker's inbox was full.",
    )
    .by(&[("shard", OPEN)]),
    Metric::gauge("fanlight_redis_channels", "Channels that Redis has confirmed as subscribed.")
        .by(&[("shard", OPEN)]),
    Metric::counter(
        "fanlight_redis_connections_total",
        "Connections to Redis, by what became of them.",
    )
    .by(&[("shard", OPEN), ("result", OPEN)])
    .detail("`connected`, `failed` to connect, `broken` after that"),
    Metric::histogram(
        "fanlight_redis_canary_seconds",
        "From publishing to receiving through Redis, measured each second on each subscriber connection.",
    )
    .by(&[("shard", OPEN)]),
    Metric::counter(
        "fanlight_redis_canaries_missed_total",
        "Canaries that were due, but did not come back, also for want of a connection.",
    )
    .by(&[("shard", OPEN)]),
    Metric::counter(
        "fanlight_redis_redirections_total",
        "Commands and subscriptions that a server of a Redis Cluster has not executed.",
    )
    .by(&[("reason", OPEN)])
    .detail("`moved` (MOVED) and `ask` (ASK) are followed; `read_only`, the server is no master any more, waits for the new one; `try_again` (TRYAGAIN), tried again while its slot moves; `down` (CLUSTERDOWN, MASTERDOWN) is refused as `unavailable`"),
    Metric::gauge(
        "fanlight_redis_shards_disputed",
        "1 while another node lists other servers than this one, or calls them otherwise, so that the two don't hear each other.",
    )
    .detail("With one server or `redis-shards`; the log names both lists"),
    Metric::counter(
        "fanlight_redis_slot_map_fetches_total",
        "Slot maps fetched from a Redis Cluster, by what they told.",
    )
    .by(&[("result", OPEN)])
    .detail("`changed`, some of our partitions have another master, `same`, or `failed`"),
];

const PRESENCE: &[Metric] = &[
    Metric::gauge(
        "fanlight_presence_members",
        "Members with sessions on this node; a user counts once at each place.",
    ),
    Metric::gauge(
        "fanlight_presence_entries_pending",
        "Joins and leaves of this node that Redis does not surely have yet.",
    ),
    Metric::counter("fanlight_presence_entries_total", "Joins and leaves sent to Redis.")
        .by(&[("result", &["sent", "failed"])])
        .detail("`sent`, or `failed` and to be sent again"),
    Metric::counter(
        "fanlight_presence_changes_total",
        "Joined and left members that this node has published.",
    ),
    Metric::counter(
        "fanlight_presence_reaped_total",
        "Entries of dead nodes that this node has removed.",
    ),
];

const CLUSTER: &[Metric] = &[
    Metric::gauge(
        "fanlight_cluster_nodes",
        "Nodes that have a lease; every node tells the same.",
    ),
    Metric::gauge(
        "fanlight_cluster_sessions",
        "Connected sessions of all nodes, as each last said; every node tells the same.",
    )
    .detail("Those without a user included; with more than 64 nodes up to [some renewals](cluster.md#nodes-leases-ghosts) late"),
    Metric::counter(
        "fanlight_node_fenced_total",
        "Times this node found its lease gone, or gave it up, and entered everything again.",
    ),
    Metric::counter(
        "fanlight_nodes_reaped_total",
        "Dead nodes of which this node has removed the last that they held.",
    ),
    Metric::counter(
        "fanlight_registry_operations_total",
        "Entries and exits of the registry, by what became of them.",
    )
    .by(&[("operation", OPEN), ("result", OPEN)])
    .detail("`enter`: `done`, `later` (Redis did not answer in time), `full` (refused by the limit), `replaced_another`; `leave`: `done`"),
    Metric::gauge(
        "fanlight_registry_queue_operations",
        "Operations of the registry that wait to be written to Redis.",
    ),
    Metric::gauge(
        "fanlight_revocations",
        "Revocations of tokens and users that this node knows.",
    ),
    Metric::counter(
        "fanlight_queue_reaped_total",
        "Messages of queues that this node has taken from dead nodes.",
    ),
    Metric::counter(
        "fanlight_registry_reaped_total",
        "Sessions of dead nodes that this node has removed.",
    ),
    Metric::counter(
        "fanlight_events_written_total",
        "Lifecycle events written to Redis, without those of the reaper.",
    ),
    Metric::counter(
        "fanlight_events_dropped_total",
        "Lifecycle events dropped because too much waited for Redis.",
    ),
];

const PEERS: &[Metric] = &[
    Metric::gauge("fanlight_peer_claims", "Session names that this node has claimed."),
    Metric::counter(
        "fanlight_peer_claims_total",
        "Claims of session names, by what became of them.",
    )
    .by(&[("result", &["ours", "taken_over", "theirs", "unavailable"])])
    .detail("`ours`, `taken_over` (from a dead node), `theirs` (another session has the name), `unavailable`"),
    Metric::counter(
        "fanlight_peer_claims_lost_total",
        "Claims that other sessions have got, so that this node's had to end.",
    ),
    Metric::counter(
        "fanlight_peer_asks_total",
        "Requests for sessions that this node has asked other nodes, or itself.",
    )
    .by(&[("result", &["answered", "gone", "timeout", "unavailable", "too_large", "overloaded", "cancelled"])])
    .detail("`answered`, `gone`, `timeout`, `unavailable`, `too_large`, `overloaded`, `cancelled` (its asker gave up)"),
    Metric::gauge(
        "fanlight_peer_asks_pending",
        "Requests of this node that wait for another node's answer.",
    ),
    Metric::gauge(
        "fanlight_peer_requests_pending",
        "Other nodes' requests that this node is answering.",
    ),
    Metric::counter(
        "fanlight_peer_messages_dropped_total",
        "Messages between nodes that were dropped.",
    )
    .by(&[("reason", &["full", "unreadable", "repeated", "late", "undelivered"])])
    .detail("`full` (no room for it), `unreadable`, `repeated`, `late` (nobody waits for this answer), `undelivered` (an answer that its asker did not hear)"),
];

const RELAY: &[Metric] = &[
    Metric::gauge("fanlight_relay_active", "1 while this process holds the lease and relays.")
        .by(&[("relay", OPEN)])
        .detail("0 on those that stand by; see [the relay](relay.md)"),
    Metric::counter("fanlight_relay_relayed_total", "Publications published in the target.")
        .by(&[("relay", OPEN)]),
    Metric::histogram(
        "fanlight_relay_lag_seconds",
        "From a publication's acceptance in its first cell to the target's answer to the relay.",
    )
    .by(&[("relay", OPEN)])
    .detail("As exact as the clocks of the cells agree"),
    Metric::gauge(
        "fanlight_relay_behind",
        "Publications that the source was seen to have and the target has not yet.",
    )
    .by(&[("relay", OPEN)])
    .detail("Those only that are sure: while the source is away it does not grow"),
    Metric::gauge("fanlight_relay_destinations", "Destinations that are asked for news.")
        .by(&[("relay", OPEN)]),
    Metric::counter(
        "fanlight_relay_rounds_total",
        "Times that all known destinations of the source were asked for news, without a failure.",
    )
    .by(&[("relay", OPEN)])
    .detail("It stands still while either Redis is away, and on those that stand by"),
    Metric::counter("fanlight_relay_scans_total", "Completed searches for destinations.")
        .by(&[("relay", OPEN)]),
    Metric::counter(
        "fanlight_relay_lost_total",
        "Publications that were not relayed and never will be.",
    )
    .by(&[("relay", OPEN)])
    .detail("The source's history had dropped them before they were read, or they can't be read by this version"),
    Metric::counter(
        "fanlight_relay_epochs_total",
        "Histories of the source that had begun anew since they were last read.",
    )
    .by(&[("relay", OPEN)])
    .detail("After a failover or a loss of data there; what was lost with them is not counted"),
    Metric::counter(
        "fanlight_relay_skipped_total",
        "Publications that were read and not passed on.",
    )
    .by(&[("relay", OPEN), ("reason", OPEN)])
    .detail("`returning` (they have been in the target), `third_cell` (they came to the source by another relay, and `relay.transit` is not set), `unreadable`"),
    Metric::counter(
        "fanlight_relay_unannounced_total",
        "Publications that are in the target's history only, as its Redis refused to publish.",
    )
    .by(&[("relay", OPEN)]),
    Metric::counter("fanlight_relay_failures_total", "Reads and publishes that failed and are tried again.")
        .by(&[("relay", OPEN), ("cell", OPEN)])
        .detail("`source` or `target`"),
];
