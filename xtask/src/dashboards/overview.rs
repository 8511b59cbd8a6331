//! How the cluster is, at one glance.

use super::{Dashboard, Panel, Row, graph, number};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "overview",
        title: "Overview",
        description: "How the cluster is: what it holds, whether its objectives are met, what it does.",
        rows: vec![now(), objectives(), traffic(), nodes()],
    }
}

fn now() -> Row {
    let panels = vec![
        number("Connections", "short", "Open connections of all nodes.")
            .line("", "sum(fanlight_connections{@})"),
        number("Sessions", "short", "Sessions whose CONNECT was accepted.")
            .line("", "sum(fanlight_sessions{@})"),
        number("Nodes ready", "short", "Nodes whose /readyz answers 200.")
            .line("", "sum(fanlight_ready{@})")
            .warn_below(1.0, 2.0)
            .runbook("FanlightNodeNotReady"),
        number("Alerts", "short", "Alerts of deploy/prometheus/rules that fire now.")
            .line("", "count(ALERTS{alertname=~\"Fanlight.*\",alertstate=\"firing\"}) or vector(0)")
            .warn(1.0, 1.0),
        number("Publications", "cps", "Publications that clients hand in, per second.")
            .line("", "sum(rate(fanlight_publishes_total{@}[~]))"),
        number("Deliveries", "cps", "Publications written to subscribers, per second.")
            .line("", "sum(rate(fanlight_deliveries_total{@}[~]))"),
        number("Delivery lag, 99 %", "s", "From a publication's acceptance to its last subscriber.")
            .line(
                "",
                "histogram_quantile(0.99, sum by (le) (rate(fanlight_delivery_lag_seconds_bucket{@}[~])))",
            )
            .warn(0.1, 0.5)
            .runbook("FanlightDeliveryLagBudgetBurn"),
        number("Dropped", "cps", "Deliveries for which a worker's inbox had no room, per second.")
            .line("", "sum(rate(fanlight_deliveries_dropped_total{@}[~]))")
            .warn(0.001, 1.0)
            .runbook("FanlightDeliveriesDropped"),
    ];
    Row { title: "Now", panels }
}

fn objectives() -> Row {
    let objective = |title, description, name: &str, target: f64, runbook| -> Panel {
        let expression = format!("1 - job:fanlight_{name}_errors:ratio_rate1h{{job=\"$job\"}}");
        number(title, "percentunit", description)
            .line("", &expression)
            .width(6)
            .warn_below(target - (1.0 - target), target)
            .runbook(runbook)
    };
    let burn = |name: &str, budget: &str| {
        format!("job:fanlight_{name}_errors:ratio_rate1h{{job=\"$job\"}} / {budget}")
    };
    let panels = vec![
        objective(
            "Handshakes accepted",
            "Handshakes of the last hour that no node refused for want of room; to be 99.9 %.",
            "handshake",
            0.999,
            "FanlightHandshakeBudgetBurn",
        ),
        objective(
            "Canaries within 100 ms",
            "Canaries of the last hour that came back through Redis within 100 ms; to be 99 %.",
            "delivery_lag",
            0.99,
            "FanlightDeliveryLagBudgetBurn",
        ),
        objective(
            "Recoveries",
            "Recoveries of the last hour that did not fail for the history; to be 99 %.",
            "recovery",
            0.99,
            "FanlightRecoveryBudgetBurn",
        ),
        objective(
            "Publications accepted",
            "Publications of the last hour that Redis accepted; to be 99.9 %.",
            "publish",
            0.999,
            "FanlightPublishBudgetBurn",
        ),
        graph(
            "Budgets burnt",
            "short",
            "How fast each budget of errors is spent, over an hour; 1 is as fast as it may be, 14.4 pages.",
        )
        .line("handshakes", &burn("handshake", "0.001"))
        .line("delivery lag", &burn("delivery_lag", "0.01"))
        .line("recoveries", &burn("recovery", "0.01"))
        .line("publications", &burn("publish", "0.001"))
        .width(24)
        .warn(1.0, 14.4),
    ];
    Row { title: "Objectives", panels }
}

fn traffic() -> Row {
    let panels = vec![
        graph("Connections by transport", "short", "What clients come by.")
            .line("{{transport}}", "sum by (transport) (fanlight_connections{@})"),
        graph("Sessions by protocol", "short", "What clients speak.")
            .line("{{protocol}}", "sum by (protocol) (fanlight_sessions{@})"),
        graph("Messages", "cps", "From clients, and to them.")
            .line("received", "sum(rate(fanlight_messages_received_total{@}[~]))")
            .line("answers", "sum(rate(fanlight_messages_sent_total{@}[~]))")
            .line("deliveries", "sum(rate(fanlight_deliveries_total{@}[~]))"),
        graph("Bytes", "Bps", "From clients, and to them, within TLS.")
            .line("received", "sum(rate(fanlight_received_bytes_total{@}[~]))")
            .line("sent", "sum(rate(fanlight_sent_bytes_total{@}[~]))"),
        graph("Server API", "cps", "Requests of backends, by how they ended.")
            .line("{{result}}", "sum by (result) (rate(fanlight_api_requests_total{@}[~]))"),
        graph("Server API by request", "cps", "Which requests they are.").line(
            "{{method}} {{path}}",
            "sum by (method, path) (rate(fanlight_api_requests_total{@}[~]))",
        ),
        graph("Handshakes", "cps", "By result; all but accepted are codes of refusals.")
            .line("{{result}}", "sum by (result) (rate(fanlight_handshakes_total{@}[~])) > 0")
            .runbook("FanlightHandshakeBudgetBurn"),
        graph("Tokens", "cps", "Given by clients, by what they were; and fetches of keys.")
            .line("{{result}}", "sum by (result) (rate(fanlight_tokens_total{@}[~]))")
            .line("keys: {{result}}", "sum by (result) (rate(fanlight_jwks_fetches_total{@}[~]))"),
        graph("Closes", "cps", "Connections ended, by reason.")
            .line("{{reason}}", "sum by (reason) (rate(fanlight_closes_total{@}[~])) > 0")
            .runbook("FanlightReconnectStorm"),
    ];
    Row { title: "Traffic", panels }
}

fn nodes() -> Row {
    let panels = vec![
        graph("Connections by node", "short", "How evenly they spread.")
            .line("{{instance}}", "sum by (instance) (fanlight_connections{@})"),
        graph("CPU by node", "short", "Cores in use.")
            .line("{{instance}}", "rate(process_cpu_seconds_total{@}[~])"),
        graph("Memory by node", "bytes", "Resident memory.")
            .line("{{instance}}", "process_resident_memory_bytes{@}"),
        graph("Versions", "short", "Nodes of each version.")
            .line("{{version}}", "count by (version) (fanlight_build_info{@})"),
        number(
            "Faults",
            "short",
            "Faults of Fanlight's own in a day, contained; please report them.",
        )
        .line("", "sum(increase(fanlight_panics_total{@}[1d]))")
        .warn(1.0, 1.0)
        .runbook("FanlightPanics"),
    ];
    Row { title: "Nodes", panels }
}
