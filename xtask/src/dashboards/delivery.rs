//! What becomes of messages, from publishing to the last subscriber.

use super::{Dashboard, Row, graph};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "delivery",
        title: "Delivery",
        description: "What becomes of messages: published, fanned out, delivered, recovered, queued.",
        rows: vec![publish(), backends(), deliver(), slow(), history(), queues(), traces()],
    }
}

fn publish() -> Row {
    let panels = vec![
        graph("Publications", "cps", "Handed to Redis, by what became of them.")
            .line("{{result}}", "sum by (result) (rate(fanlight_redis_publishes_total{@}[~]))")
            .runbook("FanlightPublishBudgetBurn"),
        graph("Time to publish", "s", "From handing a publication to the broker to its answer.")
            .percentiles("fanlight_publish_seconds"),
    ];
    Row { title: "Publishing", panels }
}

fn backends() -> Row {
    let panels = vec![
        graph("Messages to /app", "cps", "Handled by backends, or why not.")
            .line("{{result}}", "sum by (result) (rate(fanlight_app_messages_total{@}[~]))")
            .runbook("FanlightWebhookFailing"),
        graph(
            "Time of backends, 99 %",
            "s",
            "From handing a message to its backend to the answer, a webhook's wait for a turn included.",
        )
        .line(
            "{{backend}}",
            "histogram_quantile(0.99, sum by (backend, le) (rate(fanlight_app_seconds_bucket{@}[~])))",
        ),
    ];
    Row { title: "Backends", panels }
}

fn deliver() -> Row {
    let panels = vec![
        graph("Delivery lag", "s", "From a publication's acceptance, on any node, to its last subscriber here; as exact as the clocks agree.")
            .percentiles("fanlight_delivery_lag_seconds")
            .warn(0.1, 0.5)
            .runbook("FanlightDeliveryLagBudgetBurn"),
        graph("Time to fan out", "s", "What a worker takes to write one batch to all its subscribers.")
            .percentiles("fanlight_fanout_seconds"),
        graph("Deliveries by node", "cps", "Publications written to subscribers.")
            .line("{{instance}}", "sum by (instance) (rate(fanlight_deliveries_total{@}[~]))"),
        graph("Subscribers per publication", "short", "Deliveries for each publication that a worker takes.").line(
            "{{instance}}",
            "sum by (instance) (rate(fanlight_deliveries_total{@}[~])) / sum by (instance) (rate(fanlight_publications_received_total{@}[~]))",
        ),
    ];
    Row { title: "Fan-out", panels }
}

fn slow() -> Row {
    let panels = vec![
        graph("Waiting bytes", "bytes", "What connections have not taken yet.")
            .line("{{instance}}", "fanlight_outbox_bytes{@}"),
        graph("Waiting connections", "short", "Connections that something waits for.")
            .line("{{instance}}", "fanlight_outbox_connections{@}"),
        graph("Slow consumers", "cps", "Connections cut because their clients did not keep up.")
            .line("{{reason}}", "sum by (reason) (rate(fanlight_closes_total{@,reason=~\"slow_consumer|send_timeout\"}[~]))")
            .runbook("FanlightSlowConsumers"),
        graph("Conflated", "cps", "Messages that later ones replaced, and those for which limits.conflation had no room.")
            .line("by {{by}}", "sum by (by) (rate(fanlight_conflated_messages_total{@}[~]))")
            .line("no room", "sum(rate(fanlight_conflation_full_total{@}[~]))"),
        graph("Kept for conflation", "bytes", "Of limits.conflation, which is for each worker.")
            .line("{{instance}}", "max by (instance) (fanlight_conflation_bytes{@})"),
        graph("Dropped", "cps", "Deliveries that a worker's inbox had no room for, and frames of slow consumers.")
            .line("deliveries", "sum(rate(fanlight_deliveries_dropped_total{@}[~]))")
            .line("frames", "sum(rate(fanlight_outbox_dropped_frames_total{@}[~]))")
            .runbook("FanlightDeliveriesDropped"),
    ];
    Row { title: "Who does not keep up", panels }
}

fn history() -> Row {
    let panels = vec![
        graph("Recoveries", "cps", "Subscriptions that came back with a position, by result.")
            .line("{{result}}", "sum by (result) (rate(fanlight_recoveries_total{@}[~]))")
            .runbook("FanlightRecoveryBudgetBurn"),
        graph(
            "Gaps",
            "cps",
            "Publications found missing: healed from the history unnoticed, or lost and told.",
        )
        .line("found", "sum(rate(fanlight_gaps_total{@}[~]))")
        .line("healed", "sum(rate(fanlight_gaps_healed_total{@}[~]))")
        .line("lost", "sum(rate(fanlight_gaps_lost_total{@}[~]))")
        .runbook("FanlightGapsLost"),
    ];
    Row { title: "History", panels }
}

fn queues() -> Row {
    let panels = vec![
        graph("Queues", "cps", "Messages given to consumers, and what these made of them.")
            .line("delivered", "sum(rate(fanlight_queue_deliveries_total{@}[~]))")
            .line("again", "sum(rate(fanlight_queue_redeliveries_total{@}[~]))")
            .line("acknowledged", "sum(rate(fanlight_queue_acks_total{@}[~]))")
            .line("given back", "sum(rate(fanlight_queue_nacks_total{@}[~]))")
            .line("timed out", "sum(rate(fanlight_queue_ack_timeouts_total{@}[~]))")
            .line("ignored", "sum(rate(fanlight_queue_acks_ignored_total{@}[~]))"),
        graph("Dead letters", "cps", "Messages delivered too often, by what became of them.")
            .line("{{result}}", "sum by (result) (rate(fanlight_queue_dead_letters_total{@}[~]))")
            .runbook("FanlightDeadLettersStuck"),
        graph("Consumers", "short", "Subscriptions that consume queues.")
            .line("{{instance}}", "sum by (instance) (fanlight_queue_consumers{@})"),
        graph("Taken from the dead", "cps", "Messages that dead nodes held, given to others.")
            .line("messages", "sum(rate(fanlight_queue_reaped_total{@}[~]))"),
    ];
    Row { title: "Queues", panels }
}

fn traces() -> Row {
    let panels = vec![
        graph("Spans", "cps", "By what became of them.")
            .line("{{result}}", "sum by (result) (rate(fanlight_trace_spans_total{@}[~]))"),
        graph(
            "Not traced for their number",
            "cps",
            "Publications beyond telemetry.traces.publications_per_second.",
        )
        .line(
            "{{instance}}",
            "sum by (instance) (rate(fanlight_trace_publications_over_rate_total{@}[~]))",
        ),
    ];
    Row { title: "Traces", panels }
}
