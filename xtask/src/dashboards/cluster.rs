//! The nodes among each other, and Redis between them.

use super::{Dashboard, Row, graph, number};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "cluster",
        title: "Cluster and Redis",
        description: "The nodes among each other, and Redis between them.",
        rows: vec![nodes(), redis(), registry(), presence(), webhooks()],
    }
}

fn nodes() -> Row {
    let panels = vec![
        number("Nodes", "short", "Nodes that have a lease.")
            .line("", "max(fanlight_cluster_nodes{@})")
            .width(6),
        number("Sessions", "short", "Connected sessions of all nodes.")
            .line("", "max(fanlight_cluster_sessions{@})")
            .width(6),
        number("Disagreement", "short", "By how much nodes differ on how many of them there are.")
            .line("", "max(fanlight_cluster_nodes{@}) - min(fanlight_cluster_nodes{@})")
            .width(6)
            .warn(1.0, 1.0)
            .runbook("FanlightNodesDisagree"),
        number(
            "Disputed servers",
            "short",
            "Nodes that see another list of Redis servers than theirs.",
        )
        .line("", "sum(fanlight_redis_shards_disputed{@}) or vector(0)")
        .width(6)
        .warn(1.0, 1.0)
        .runbook("FanlightShardsDisputed"),
        graph(
            "Leases",
            "cps",
            "Nodes that lost their lease, and dead nodes whose things were removed.",
        )
        .line("fenced", "sum(rate(fanlight_node_fenced_total{@}[~]))")
        .line("reaped nodes", "sum(rate(fanlight_nodes_reaped_total{@}[~]))")
        .line("reaped sessions", "sum(rate(fanlight_registry_reaped_total{@}[~]))")
        .runbook("FanlightNodeFenced"),
        graph(
            "Sessions asked of other nodes",
            "cps",
            "Requests of clients whose session is elsewhere, by result.",
        )
        .line("{{result}}", "sum by (result) (rate(fanlight_peer_asks_total{@}[~]))")
        .line(
            "dropped: {{reason}}",
            "sum by (reason) (rate(fanlight_peer_messages_dropped_total{@}[~])) > 0 or vector(0)",
        ),
    ];
    Row { title: "Nodes", panels }
}

fn redis() -> Row {
    let panels = vec![
        graph("Canary, 99 %", "s", "From publishing to receiving, each second on each subscriber connection.")
            .line(
                "shard {{shard}}",
                "histogram_quantile(0.99, sum by (shard, le) (rate(fanlight_redis_canary_seconds_bucket{@}[~])))",
            )
            .warn(0.1, 0.5)
            .runbook("FanlightDeliveryLagBudgetBurn"),
        graph("Missed canaries", "cps", "Canaries that did not come back.")
            .line("{{instance}}, shard {{shard}}", "sum by (instance, shard) (rate(fanlight_redis_canaries_missed_total{@}[~]))")
            .runbook("FanlightRedisUnreachable"),
        graph("Round trip of a batch, 99 %", "s", "From writing publications to the last answer.").line(
            "shard {{shard}}",
            "histogram_quantile(0.99, sum by (shard, le) (rate(fanlight_redis_publish_round_trip_seconds_bucket{@}[~])))",
        ),
        graph("Waiting to be written", "short", "Publications, and operations of the registry.")
            .line("publications, shard {{shard}}", "sum by (shard) (fanlight_redis_publish_queue_messages{@})")
            .line("registry", "sum(fanlight_registry_queue_operations{@})"),
        graph("Received by shard", "cps", "Publications read from Redis.")
            .line("shard {{shard}}", "sum by (shard) (rate(fanlight_redis_publications_received_total{@}[~]))"),
        graph("Channels by shard", "short", "Channels that nodes are subscribed to.")
            .line("shard {{shard}}", "sum by (shard) (fanlight_redis_channels{@})"),
        graph("Connections to Redis", "cps", "Connected, failed to connect, broken after that.")
            .line("{{result}}", "sum by (result) (rate(fanlight_redis_connections_total{@}[~]))")
            .runbook("FanlightRedisUnreachable"),
        graph("Rejected and dropped", "cps", "Messages on our channels that were none of ours; deliveries without room.")
            .line("rejected", "sum(rate(fanlight_redis_envelopes_rejected_total{@}[~]))")
            .line("dropped", "sum(rate(fanlight_redis_deliveries_dropped_total{@}[~]))"),
        graph("Redirections", "cps", "In a Redis Cluster: commands that a server did not execute, and slot maps.")
            .line("{{reason}}", "sum by (reason) (rate(fanlight_redis_redirections_total{@}[~])) or vector(0)")
            .line("slot map {{result}}", "sum by (result) (rate(fanlight_redis_slot_map_fetches_total{@}[~])) or vector(0)")
            .width(24),
    ];
    Row { title: "Redis", panels }
}

fn registry() -> Row {
    let panels = vec![
        graph("Registry", "cps", "Entries and exits of sessions, by what became of them.").line(
            "{{operation}} {{result}}",
            "sum by (operation, result) (rate(fanlight_registry_operations_total{@}[~]))",
        ),
        graph("Lifecycle events", "cps", "Written to Redis, and dropped.")
            .line("written", "sum(rate(fanlight_events_written_total{@}[~]))")
            .line("dropped", "sum(rate(fanlight_events_dropped_total{@}[~]))")
            .runbook("FanlightEventsDropped"),
        graph(
            "Named sessions",
            "short",
            "Sessions that clients come back to by name, on any node.",
        )
        .line("claimed", "sum(fanlight_peer_claims{@})")
        .line("asks pending", "sum(fanlight_peer_asks_pending{@})")
        .line("requests pending", "sum(fanlight_peer_requests_pending{@})"),
        graph("Revocations", "short", "How many a node knows, and which backends ask for.")
            .line("known", "max(fanlight_revocations{@})")
            .line("{{kind}} a second", "sum by (kind) (rate(fanlight_revoked_total{@}[~]))"),
        graph("Claims", "cps", "Claims of such names, by what became of them.")
            .line("{{result}}", "sum by (result) (rate(fanlight_peer_claims_total{@}[~]))")
            .line("lost", "sum(rate(fanlight_peer_claims_lost_total{@}[~]))"),
    ];
    Row { title: "Registry", panels }
}

fn webhooks() -> Row {
    let panels = vec![
        graph("Requests to webhooks", "cps", "By how they ended.")
            .line(
                "{{webhook}} {{result}}",
                "sum by (webhook, result) (rate(fanlight_webhook_requests_total{@}[~]))",
            )
            .line("{{webhook}}: nothing is sent", "max by (webhook) (fanlight_webhook_breaker_open{@})")
            .runbook("FanlightWebhookFailing"),
        graph("Answers of webhooks, 99 %", "s", "From a request's turn to its answer.").line(
            "{{webhook}}",
            "histogram_quantile(0.99, sum by (webhook, le) (rate(fanlight_webhook_seconds_bucket{@}[~])))",
        ),
        graph("Requests under way", "short", "And those that wait for their turn.")
            .line("{{webhook}} under way", "sum by (webhook) (fanlight_webhook_in_flight{@})")
            .line("{{webhook}} waiting", "sum by (webhook) (fanlight_webhook_waiting{@})"),
        graph("Events for webhooks", "short", "How many wait, and for how many seconds the oldest has.")
            .line("{{webhook}} waiting", "sum by (webhook) (fanlight_webhook_events_waiting{@})")
            .line("{{webhook}} seconds", "max by (webhook) (fanlight_webhook_event_age_seconds{@})")
            .line(
                "{{webhook}} {{result}} a second",
                "sum by (webhook, result) (rate(fanlight_webhook_events_total{@}[~]))",
            )
            .runbook("FanlightWebhookEventsLate"),
    ];
    Row { title: "Webhooks", panels }
}

fn presence() -> Row {
    let panels = vec![
        graph(
            "Members",
            "short",
            "Members with sessions on a node, and entries that Redis does not have yet.",
        )
        .line("members", "sum(fanlight_presence_members{@})")
        .line("pending", "sum(fanlight_presence_entries_pending{@})"),
        graph(
            "Changes",
            "cps",
            "Joined and left members published, entries sent, and entries of dead nodes removed.",
        )
        .line("published", "sum(rate(fanlight_presence_changes_total{@}[~]))")
        .line("entries {{result}}", "sum by (result) (rate(fanlight_presence_entries_total{@}[~]))")
        .line("reaped", "sum(rate(fanlight_presence_reaped_total{@}[~]))"),
    ];
    Row { title: "Presence", panels }
}
