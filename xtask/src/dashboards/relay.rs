//! Relays between cells, which are processes and jobs of their own.

use super::{Dashboard, Row, graph, number};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "relay",
        title: "Relays between cells",
        description: "What relays bring from other cells, how late, and what they could not bring.",
        rows: vec![state(), messages()],
    }
}

fn state() -> Row {
    let panels = vec![
        number("Active", "short", "Relays of which a process holds the lease.")
            .line("", "sum(fanlight_relay_active)")
            .width(6)
            .warn_below(1.0, 1.0)
            .runbook("FanlightRelayStalled"),
        number("Standing by", "short", "Processes that take over when an active one is gone.")
            .line("", "count(fanlight_relay_active == 0) or vector(0)")
            .width(6),
        number("Behind", "short", "Publications that the source has and the target has not yet.")
            .line("", "sum(fanlight_relay_behind)")
            .width(6)
            .runbook("FanlightRelayStalled"),
        number("Lost in a day", "short", "Publications that will never be relayed.")
            .line("", "sum(increase(fanlight_relay_lost_total[1d]))")
            .width(6)
            .warn(1.0, 1.0)
            .runbook("FanlightRelayLost"),
        graph("Active by process", "short", "1 while it holds the lease and relays.")
            .line("{{relay}} {{instance}}", "fanlight_relay_active")
            .runbook("FanlightRelayStalled"),
        graph("Rounds", "cps", "Times that all destinations of the source were asked for news.")
            .line("{{relay}}", "sum by (relay) (rate(fanlight_relay_rounds_total[~]))")
            .runbook("FanlightRelayStalled"),
        graph("Destinations", "short", "Destinations that are asked for news.")
            .line("{{relay}}", "sum by (relay) (fanlight_relay_destinations)"),
        graph("Searches", "cps", "Completed searches of the source for destinations.")
            .line("{{relay}}", "sum by (relay) (rate(fanlight_relay_scans_total[~]))"),
    ];
    Row { title: "State", panels }
}

fn messages() -> Row {
    let lag = |share: &str| {
        let rate = "sum by (relay, le) (rate(fanlight_relay_lag_seconds_bucket[~]))";
        format!("histogram_quantile({share}, {rate})")
    };
    let panels = vec![
        graph("Relayed", "cps", "Publications published in the target.")
            .line("{{relay}}", "sum by (relay) (rate(fanlight_relay_relayed_total[~]))"),
        graph(
            "Lag",
            "s",
            "From a publication's acceptance in its first cell to the target's answer; as exact as the clocks agree.",
        )
        .line("{{relay}} 50 %", &lag("0.5"))
        .line("{{relay}} 99 %", &lag("0.99")),
        graph("Behind", "short", "Publications that are not in the target yet.")
            .line("{{relay}}", "sum by (relay) (fanlight_relay_behind)"),
        graph("Failures", "cps", "Reads and publishes that failed and are tried again.")
            .line(
                "{{relay}} {{cell}}",
                "sum by (relay, cell) (rate(fanlight_relay_failures_total[~]))",
            )
            .runbook("FanlightRelayStalled"),
        graph("Lost", "cps", "Dropped by the source before they were read, or unreadable.")
            .line("{{relay}}", "sum by (relay) (rate(fanlight_relay_lost_total[~]))")
            .runbook("FanlightRelayLost"),
        graph("Not passed on", "cps", "Because they have been in the target, came from a third cell, or can't be read; histories that began anew; and what is in the target's history only.")
            .line(
                "{{relay}} {{reason}}",
                "sum by (relay, reason) (rate(fanlight_relay_skipped_total[~]))",
            )
            .line("{{relay}} begun anew", "sum by (relay) (rate(fanlight_relay_epochs_total[~]))")
            .line(
                "{{relay}} unannounced",
                "sum by (relay) (rate(fanlight_relay_unannounced_total[~]))",
            ),
    ];
    Row { title: "Messages", panels }
}
