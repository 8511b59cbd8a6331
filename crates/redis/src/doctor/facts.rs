//! What a Redis says of itself, and what to think of it. No I/O.

use std::collections::HashMap;
use std::time::Duration;

use super::{Report, Verdict};

/// What `INFO` and, where it is allowed, `CONFIG GET` say.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) info: HashMap<String, String>,
    /// `None`: the server keeps them to itself, as managed ones do.
    pub(super) settings: Option<HashMap<String, String>>,
}

impl Facts {
    /// From the text of `INFO`.
    pub(super) fn of_info(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
        let info = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { info, settings: None }
    }

    fn info(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.info.get(name)?.parse().ok()
    }

    pub(super) fn judge(&self, report: &mut Report<'_>) {
        self.judge_version(report);
        self.judge_memory(report);
        self.judge_clients(report);
        self.judge_replicas(report);
        self.judge_settings(report);
    }

    fn judge_version(&self, report: &mut Report<'_>) {
        let (product, version) = match self.info("valkey_version") {
            "" => ("Redis", self.info("redis_version")),
            valkey => ("Valkey", valkey),
        };
        let detail = format!("{product} {version}, mode {}", self.info("redis_mode"));
        // What a Valkey is compatible with, it says as its Redis version.
        let compatible = self.info("redis_version").split('.').next().unwrap_or_default();
        match compatible.parse::<u32>() {
            Ok(major) if major >= 7 => report.good("version", detail),
            Ok(6) => report.add(
                "version",
                Verdict::Warning,
                detail,
                Some("a cluster needs sharded pub/sub, which came with Redis 7; upgrade"),
            ),
            _ => report.add(
                "version",
                Verdict::Problem,
                detail,
                Some("Redis 7 or Valkey 7.2 and later are supported; upgrade"),
            ),
        }
    }

    fn judge_memory(&self, report: &mut Report<'_>) {
        let policy = self.info("maxmemory_policy");
        let (used, max) = (self.number("used_memory"), self.number("maxmemory"));
        let mib = |bytes: u64| bytes >> 20;
        let detail = match (used, max) {
            (Some(used), Some(0)) => format!("{} MiB used, no limit, {policy}", mib(used)),
            (Some(used), Some(max)) => {
                format!("{} of {} MiB used, {policy}", mib(used), mib(max))
            }
            _ => format!("policy {policy}"),
        };
        let is_tight =
            matches!((used, max), (Some(used), Some(max)) if max > 0 && used > max / 10 * 8);
        if policy.starts_with("allkeys") {
            let remedy = "it evicts sessions, histories and queues when memory is short; set \
                          maxmemory-policy noeviction, or volatile-ttl to lose histories first";
            report.add("eviction", Verdict::Warning, detail, Some(remedy));
        } else if is_tight {
            let remedy =
                "more than 80 % of maxmemory is in use; give it more, or keep less history";
            report.add("memory", Verdict::Warning, detail, Some(remedy));
        } else {
            report.good("memory", detail);
        }
    }

    fn judge_clients(&self, report: &mut Report<'_>) {
        let (Some(connected), Some(max)) =
            (self.number("connected_clients"), self.number("maxclients"))
        else {
            return;
        };
        let detail = format!("{connected} of {max} clients connected");
        if connected > max / 10 * 8 {
            let remedy = "raise maxclients: each node needs 2 to 5 connections per master";
            report.add("clients", Verdict::Warning, detail, Some(remedy));
        } else {
            report.good("clients", detail);
        }
    }

    fn judge_replicas(&self, report: &mut Report<'_>) {
        let replicas = self.number("connected_slaves").unwrap_or_default();
        let detail = format!("{replicas} replicas, persistence {}", self.persistence());
        if replicas == 0 && self.persistence() == "off" {
            let remedy = "when this process ends, histories, queues and the registry are gone; \
                          run a replica, or turn on appendonly";
            report.add("durability", Verdict::Warning, detail, Some(remedy));
        } else {
            report.good("durability", detail);
        }
    }

    fn persistence(&self) -> &'static str {
        let has_snapshots = self
            .settings
            .as_ref()
            .and_then(|settings| settings.get("save"))
            .is_some_and(|save| !save.is_empty());
        match (self.info("aof_enabled"), has_snapshots, &self.settings) {
            ("1", ..) => "appendonly",
            (_, true, _) => "snapshots",
            (_, false, Some(_)) => "off",
            (_, false, None) => "unknown",
        }
    }

    fn judge_settings(&self, report: &mut Report<'_>) {
        let Some(settings) = &self.settings else {
            let remedy = "in a managed Redis look at its parameter group: \
                          client-output-buffer-limit pubsub, timeout, maxmemory-policy";
            let detail = "CONFIG GET is not allowed here".to_owned();
            return report.add("settings", Verdict::Unknown, detail, Some(remedy));
        };
        if let Some(limits) = settings.get("client-output-buffer-limit") {
            judge_output_buffer(limits, report);
        }
        if let Some(timeout) = settings.get("timeout").and_then(|text| text.parse::<u64>().ok()) {
            let detail = format!("idle clients are closed after {timeout} s (0: never)");
            if (1..30).contains(&timeout) {
                let remedy = "a connection in use may be silent for some seconds; set timeout 0";
                report.add("timeout", Verdict::Warning, detail, Some(remedy));
            } else {
                report.good("timeout", detail);
            }
        }
    }
}

/// The limits are `class hard soft seconds`, for each class in turn.
fn judge_output_buffer(limits: &str, report: &mut Report<'_>) {
    let words: Vec<&str> = limits.split_whitespace().collect();
    let found = words.chunks(4).find_map(|class| match class {
        ["pubsub", hard, soft, seconds] => Some((hard, soft, seconds)),
        _ => None,
    });
    let Some((hard, soft, seconds)) = found else { return };
    let (Ok(hard), Ok(soft)) = (hard.parse::<u64>(), soft.parse::<u64>()) else { return };
    let detail = format!(
        "a subscriber is cut off {} MiB behind, or {} MiB for {seconds} s (0: never)",
        hard >> 20,
        soft >> 20
    );
    let is_small = |limit: u64, enough: u64| limit != 0 && limit < enough;
    if is_small(hard, PUBSUB_HARD_BYTES) || is_small(soft, PUBSUB_SOFT_BYTES) {
        let remedy = "a burst or a short pause of a node cuts it off, and it has to catch up from \
                      history; set client-output-buffer-limit \"pubsub 256mb 64mb 60\"";
        report.add("output buffer", Verdict::Warning, detail, Some(remedy));
    } else {
        report.good("output buffer", detail);
    }
}

/// What round trips took.
pub(super) fn judge_latency(
    check: &'static str,
    mut samples: Vec<Duration>,
    report: &mut Report<'_>,
) {
    samples.sort_unstable();
    let (Some(median), Some(worst)) = (samples.get(samples.len() / 2), samples.last()) else {
        let detail = "nothing came back".to_owned();
        let remedy = Some("check that this is the master, and the user's channel permissions");
        return report.add(check, Verdict::Problem, detail, remedy);
    };
    let detail = format!("median {median:.2?}, worst {worst:.2?} of {}", samples.len());
    if *median > LATENCY_MEDIAN_MAX || *worst > LATENCY_WORST_MAX {
        let remedy = "put the nodes near Redis (same Region, same zone if possible), and look at \
                      its CPU and SLOWLOG";
        report.add(check, Verdict::Warning, detail, Some(remedy));
    } else {
        report.good(check, detail);
    }
}

const PUBSUB_HARD_BYTES: u64 = 64 << 20;
const PUBSUB_SOFT_BYTES: u64 = 32 << 20;
const LATENCY_MEDIAN_MAX: Duration = Duration::from_millis(2);
const LATENCY_WORST_MAX: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::super::Finding;
    use super::*;

    fn judged(info: &str, settings: Option<&[(&str, &str)]>) -> Vec<Finding> {
        let mut facts = Facts::of_info(info);
        facts.settings = settings.map(|pairs| {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        });
        let mut findings = Vec::new();
        facts.judge(&mut Report { server: "s".to_owned(), findings: &mut findings });
        findings
    }

    fn verdict(findings: &[Finding], check: &str) -> Verdict {
        let found = findings.iter().find(|finding| finding.check == check);
        found.unwrap_or_else(|| panic!("{check} in {findings:?}")).verdict
    }

    #[test]
    fn old_versions_are_told_apart() {
        for (version, expected) in [
            ("7.0.15", Verdict::Good),
            ("7.2.4\r\nvalkey_version:8.0.1", Verdict::Good),
            ("6.2.1", Verdict::Warning),
            ("5.0.9", Verdict::Problem),
            ("", Verdict::Problem),
        ] {
            let findings = judged(&format!("redis_version:{version}\r\n"), None);
            assert_eq!(verdict(&findings, "version"), expected, "{version}");
        }
    }

    #[test]
    fn what_evicts_sessions_or_cuts_subscribers_off_is_warned_of() {
        let default = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        let raised = "normal 0 0 0 slave 268435456 67108864 60 pubsub 268435456 67108864 60";
        let info = "redis_version:7.0.0\nmaxmemory_policy:allkeys-lru\n";
        let limits = |limits| judged(info, Some(&[("client-output-buffer-limit", limits)]));
        assert_eq!(verdict(&limits(default), "output buffer"), Verdict::Warning);
        assert_eq!(verdict(&limits(raised), "output buffer"), Verdict::Good);
        assert_eq!(verdict(&limits(raised), "eviction"), Verdict::Warning);
        assert_eq!(verdict(&judged(info, None), "settings"), Verdict::Unknown);
    }

    #[test]
    fn a_lone_process_without_persistence_is_warned_of() {
        let info = "redis_version:7.0.0\nconnected_slaves:";
        let judge = |replicas, save| judged(&format!("{info}{replicas}"), Some(&[("save", save)]));
        assert_eq!(verdict(&judge(0, ""), "durability"), Verdict::Warning);
        assert_eq!(verdict(&judge(1, ""), "durability"), Verdict::Good);
        assert_eq!(verdict(&judge(0, "3600 1"), "durability"), Verdict::Good);
    }

    #[test]
    fn latency_is_judged_by_its_median_and_its_worst() {
        let judge = |samples_ms: &[u64]| {
            let mut findings = Vec::new();
            let samples = samples_ms.iter().map(|ms| Duration::from_millis(*ms)).collect();
            let mut report = Report { server: "s".to_owned(), findings: &mut findings };
            judge_latency("latency", samples, &mut report);
            verdict(&findings, "latency")
        };
        assert_eq!(judge(&[1, 1, 10]), Verdict::Good);
        assert_eq!(judge(&[1, 1, 100]), Verdict::Warning);
        assert_eq!(judge(&[5, 5, 5]), Verdict::Warning);
        assert_eq!(judge(&[]), Verdict::Problem);
    }
}
