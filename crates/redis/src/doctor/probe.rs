//! Asking one Redis: what it says of itself, and whether it does what it is needed for.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::facts::{Facts, judge_latency};
use super::{Report, Verdict};
use crate::connection::{Connection, ConnectionError};
use crate::names::{Kind, Names, Partition};
use crate::resp3::Value;

/// How one master is asked.
pub(super) struct Probe {
    pub(super) names: Names,
    /// One that the master has.
    pub(super) partition: Partition,
    /// Whether it is part of a cluster, and so speaks sharded pub/sub.
    pub(super) sharded: bool,
}

impl Probe {
    /// Runs all checks. `listener` is a second connection, for what is published.
    pub(super) async fn examine(
        &self,
        connection: &mut Connection,
        listener: Option<Connection>,
        report: &mut Report<'_>,
    ) {
        match facts(connection).await {
            Ok(facts) => facts.judge(report),
            Err(error) => {
                let detail = error.to_string();
                report.add("version", Verdict::Problem, detail, Some("allow this user INFO"));
            }
        }
        if let Err(error) = self.writes(connection).await {
            let remedy = "allow this user all keys that begin with the configured prefix, and \
                          the commands of the scripts";
            report.add("scripts", Verdict::Problem, error.to_string(), Some(remedy));
        } else {
            report.good("scripts", "a script writes below the configured prefix".to_owned());
        }
        let mut pings = Vec::new();
        for _ in 0..SAMPLES {
            let before = Instant::now();
            if connection.ask("PING", &[b"PING"]).await.is_err() {
                break;
            }
            pings.push(before.elapsed());
        }
        judge_latency("latency", pings, report);
        if let Some(listener) = listener {
            self.examine_delivery(connection, listener, report).await;
        }
    }

    /// A script as ours are: loaded, called by its hash, on a key of ours.
    async fn writes(&self, connection: &mut Connection) -> Result<(), ConnectionError> {
        let load = [&b"SCRIPT"[..], b"LOAD", SCRIPT.as_bytes()];
        let sha = connection.ask("SCRIPT LOAD", &load).await?;
        let sha = sha.as_text().unwrap_or_default().to_owned();
        let key = self.names.key(self.partition, Kind("doctor"), "");
        let call = [&b"EVALSHA"[..], sha.as_bytes(), b"1", &key];
        connection.ask("EVALSHA", &call).await.map(drop)
    }

    /// What is published must come back, and soon.
    async fn examine_delivery(
        &self,
        connection: &mut Connection,
        mut listener: Connection,
        report: &mut Report<'_>,
    ) {
        let channel = self.names.canary(self.partition, "doctor");
        let (subscribe, publish) =
            if self.sharded { ("SSUBSCRIBE", "SPUBLISH") } else { ("SUBSCRIBE", "PUBLISH") };
        let samples = timeout(DELIVERY_MAX, async {
            listener.ask(subscribe, &[subscribe.as_bytes(), channel.as_bytes()]).await?;
            let mut samples = Vec::new();
            for _ in 0..SAMPLES {
                let before = Instant::now();
                let words = [publish.as_bytes(), channel.as_bytes(), b"x"];
                connection.ask(publish, &words).await?;
                listener.next_message().await?;
                samples.push(before.elapsed());
            }
            Ok::<_, ConnectionError>(samples)
        });
        match samples.await {
            Ok(Ok(samples)) => judge_latency("delivery", samples, report),
            Ok(Err(error)) => {
                let remedy = "allow this user the channels that begin with the configured \
                              prefix, and to publish and subscribe";
                report.add("delivery", Verdict::Problem, error.to_string(), Some(remedy));
            }
            Err(_) => judge_latency("delivery", Vec::new(), report),
        }
    }
}

async fn facts(connection: &mut Connection) -> Result<Facts, ConnectionError> {
    let info = connection.ask("INFO", &[b"INFO"]).await?;
    let mut facts = Facts::of_info(info.as_text().unwrap_or_default());
    let settings = [
        &b"CONFIG"[..],
        b"GET",
        b"client-output-buffer-limit",
        b"timeout",
        b"save",
        b"maxmemory-policy",
    ];
    if let Ok(Value::Map(pairs)) = connection.ask("CONFIG GET", &settings).await {
        let text = |value: &Value| value.as_text().unwrap_or_default().to_owned();
        let pairs = pairs.iter().map(|(name, value)| (text(name), text(value)));
        facts.settings = Some(pairs.collect());
    }
    Ok(facts)
}

const SCRIPT: &str = include_str!("../../lua/doctor.lua");
const SAMPLES: usize = 50;
const DELIVERY_MAX: Duration = Duration::from_secs(5);
