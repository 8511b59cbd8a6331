//! A deployment: who leaves, where clients go, and whether they notice.

use super::{Dashboard, Row, graph, number};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "drain",
        title: "Drain and deploy",
        description: "A deployment: who leaves, where clients go, and whether they notice.",
        rows: vec![nodes(), clients()],
    }
}

fn nodes() -> Row {
    let panels = vec![
        number("Draining", "short", "Nodes that drain.")
            .line("", "sum(fanlight_draining{@})")
            .width(6)
            .runbook("FanlightDrainStuck"),
        number("Still to go", "short", "Connections of nodes that drain.")
            .line("", "sum(fanlight_drain_remaining_connections{@})")
            .width(6)
            .runbook("FanlightDrainStuck"),
        number("Ready", "short", "Nodes that want connections.")
            .line("", "sum(fanlight_ready{@})")
            .width(6)
            .warn_below(1.0, 2.0)
            .runbook("FanlightNodeNotReady"),
        number("Versions", "short", "Versions that run beside each other.")
            .line("", "count(count by (version) (fanlight_build_info{@}))")
            .width(6),
        graph("Connections by node", "short", "A drain goes down in a straight line.")
            .line("{{instance}}", "sum by (instance) (fanlight_connections{@})")
            .runbook("FanlightDrainStuck"),
        graph("Left to close", "short", "Connections of nodes that drain.")
            .line("{{instance}}", "fanlight_drain_remaining_connections{@}")
            .runbook("FanlightDrainStuck"),
        graph("Drains begun", "short", "By what began them, in the last five minutes.")
            .line("{{trigger}}", "sum by (trigger) (increase(fanlight_drains_total{@}[5m]))"),
        graph("Ready and draining", "short", "1 while it is so.")
            .line("ready {{instance}}", "fanlight_ready{@}")
            .line("draining {{instance}}", "fanlight_draining{@}"),
        graph(
            "Tasks of ECS",
            "short",
            "Tasks that are protected from scale-in, and failed calls of the agent a second.",
        )
        .line("protected", "sum(fanlight_ecs_task_protected{@})")
        .line("failed {{call}}", "sum by (call) (rate(fanlight_ecs_failures_total{@}[~]))"),
        graph("Nodes by version", "short", "How far the deployment is.")
            .line("{{version}}", "count by (version) (fanlight_build_info{@})"),
        graph("Age of nodes", "s", "Since the process started.")
            .line("{{instance}}", "time() - process_start_time_seconds{@}"),
    ];
    Row { title: "Nodes", panels }
}

fn clients() -> Row {
    let panels = vec![
        graph("Sent away", "cps", "Connections that a drain has closed.").line(
            "{{instance}}",
            "sum by (instance) (rate(fanlight_closes_total{@,reason=\"draining\"}[~]))",
        ),
        graph("Rebalanced", "cps", "Sessions told to go to a node that has fewer.").line(
            "{{instance}}",
            "sum by (instance) (rate(fanlight_rebalanced_sessions_total{@}[~]))",
        ),
        graph("Connecting", "cps", "Connections opened: where clients go.")
            .line("{{instance}}", "rate(fanlight_connections_opened_total{@}[~])")
            .runbook("FanlightReconnectStorm"),
        graph(
            "Refused by draining nodes",
            "cps",
            "Handshakes that came too late: the balancer had not noticed yet.",
        )
        .line(
            "{{instance}}",
            "sum by (instance) (rate(fanlight_handshakes_total{@,result=\"draining\"}[~]))",
        )
        .runbook("FanlightHandshakeBudgetBurn"),
        graph("Recoveries", "cps", "What clients that came back were told.")
            .line("{{result}}", "sum by (result) (rate(fanlight_recoveries_total{@}[~]))")
            .runbook("FanlightRecoveryBudgetBurn"),
        graph("Tokens", "cps", "Tokens checked anew, remembered from before, refused.")
            .line("{{result}}", "sum by (result) (rate(fanlight_tokens_total{@}[~]))")
            .runbook("FanlightTokensRefused"),
        graph("CPU by node", "short", "Cores in use; reconnects cost.")
            .line("{{instance}}", "rate(process_cpu_seconds_total{@}[~])"),
    ];
    Row { title: "Clients", panels }
}
