//! How much room is left, and what runs out first.

use super::{Dashboard, Row, graph, number};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "capacity",
        title: "Capacity",
        description: "How much room is left, and what runs out first.",
        rows: vec![limits(), machine(), efficiency()],
    }
}

fn limits() -> Row {
    let panels = vec![
        number("Connections used", "percentunit", "Of limits.connections, on the fullest node; 0 without a limit.")
            .line("", "max(fanlight_limit_used_ratio{@,limit=\"connections\"})")
            .width(6)
            .warn(0.7, 0.85)
            .runbook("FanlightLimitNear"),
        number("In four hours", "percentunit", "The same, if the last hour goes on.")
            .line("", "clamp_min(max(predict_linear(fanlight_limit_used_ratio{@,limit=\"connections\"}[1h], 14400)), 0)")
            .width(6)
            .warn(0.85, 1.0)
            .runbook("FanlightLimitNear"),
        number("File descriptors used", "percentunit", "On the fullest node.")
            .line("", "max(process_open_fds{@} / process_max_fds{@})")
            .width(6)
            .warn(0.6, 0.8)
            .runbook("FanlightFileDescriptors"),
        number("Accept errors", "cps", "Connections that accept() refused, as without a file descriptor.")
            .line("", "sum(rate(fanlight_accept_errors_total{@}[~]))")
            .width(6)
            .warn(0.001, 1.0)
            .runbook("FanlightFileDescriptors"),
        graph("Limits used", "percentunit", "By node and limit.")
            .line("{{instance}} {{limit}}", "fanlight_limit_used_ratio{@}")
            .warn(0.7, 0.85)
            .runbook("FanlightLimitNear"),
        graph("Refused for a limit", "cps", "Handshakes, and connections before their upgrade.")
            .line("{{result}}", "sum by (result) (rate(fanlight_handshakes_total{@,result=~\"node_full|address_full|address_rate|user_rate\"}[~]))")
            .line("before the upgrade", "sum(rate(fanlight_http_connections_refused_total{@}[~]))")
            .line("{{reason}}", "sum by (reason) (rate(fanlight_closes_total{@,reason=~\"rate_limited|limit_exceeded|session_limit\"}[~]))"),
    ];
    Row { title: "Limits", panels }
}

fn machine() -> Row {
    let panels = vec![
        graph("CPU by node", "short", "Cores in use.")
            .line("{{instance}}", "rate(process_cpu_seconds_total{@}[~])"),
        graph("Memory by node", "bytes", "Resident memory.")
            .line("{{instance}}", "process_resident_memory_bytes{@}"),
        graph("File descriptors", "short", "Open, and how many there may be.")
            .line("{{instance}} open", "process_open_fds{@}")
            .line("{{instance}} may be", "process_max_fds{@}")
            .runbook("FanlightFileDescriptors"),
        graph("Bytes sent", "Bps", "To clients, within TLS.")
            .line("{{instance}}", "rate(fanlight_sent_bytes_total{@}[~])"),
    ];
    Row { title: "Machine", panels }
}

fn efficiency() -> Row {
    let panels = vec![
        graph("Memory per connection", "bytes", "Resident memory by connections: what the next thousand will take.").line(
            "{{instance}}",
            "process_resident_memory_bytes{@} / on (instance) (sum by (instance) (fanlight_connections{@}) > 0)",
        ),
        graph("Deliveries per CPU second", "short", "What a core delivers.").line(
            "{{instance}}",
            "sum by (instance) (rate(fanlight_deliveries_total{@}[~])) / sum by (instance) (rate(process_cpu_seconds_total{@}[~]))",
        ),
        graph("Connections by worker", "short", "The kernel spreads them over a node's workers; far apart means that one core is busier.")
            .line("{{instance}} {{worker}}", "sum by (instance, worker) (fanlight_connections{@})"),
        graph("Subscriptions", "short", "Subscriptions of open sessions.")
            .line("{{instance}}", "sum by (instance) (fanlight_subscriptions{@})"),
    ];
    Row { title: "Efficiency", panels }
}
