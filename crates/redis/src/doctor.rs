//! `fanlight doctor`: checks a Redis for what Fanlight needs of it, and explains what it finds.

mod facts;
mod masters;
mod probe;

use std::fmt;

use crate::config::{Endpoint, RedisConfig, Servers};
use crate::connection::{Connection, Peer};
use crate::names::{Names, Partition};

use probe::Probe;

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which server.
    pub server: String,
    /// What was checked: `version`, `scripts`, `latency`, ...
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, with units.
    pub detail: String,
    /// What to do, where something is to be done.
    pub remedy: Option<&'static str>,
}

/// How something is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It could not be told, as the server does not let us look.
    Unknown,
    /// It works, but will give trouble under load or in a failure.
    Warning,
    /// Fanlight can't work with it.
    Problem,
}

impl Verdict {
    /// Its word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8} {:16} {}", self.verdict.as_str(), self.check, self.detail)?;
        match self.remedy {
            Some(remedy) => write!(f, "\n{:25} {remedy}", ""),
            None => Ok(()),
        }
    }
}

/// Checks every master of the configured servers. It writes one key and publishes on one channel
/// below the configured prefix, and removes the key.
pub async fn examine(config: &RedisConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Master { endpoint, partition } in masters::find(config, &mut findings).await {
        let server = format!("Redis at {endpoint}");
        let mut report = Report { server, findings: &mut findings };
        let open = |name| Connection::open(endpoint.clone(), Peer::Master, config, name);
        match open("fanlight-doctor").await {
            Ok(mut connection) => {
                report.good("connection", "connects, logs in, and is a master".to_owned());
                let listener = open("fanlight-doctor-sub").await.ok();
                let probe = Probe {
                    names: Names::new(&config.prefix),
                    partition,
                    sharded: matches!(config.servers, Servers::Cluster { .. }),
                };
                probe.examine(&mut connection, listener, &mut report).await;
            }
            Err(error) => report.add("connection", Verdict::Problem, error.to_string(), None),
        }
    }
    findings
}

/// A master, and a partition that it has.
struct Master {
    endpoint: Endpoint,
    partition: Partition,
}

/// The findings of one server as they are made.
struct Report<'f> {
    server: String,
    findings: &'f mut Vec<Finding>,
}

impl Report<'_> {
    fn good(&mut self, check: &'static str, detail: String) {
        self.add(check, Verdict::Good, detail, None);
    }

    fn add(
        &mut self,
        check: &'static str,
        verdict: Verdict,
        detail: String,
        remedy: Option<&'static str>,
    ) {
        let server = self.server.clone();
        self.findings.push(Finding { server, check, verdict, detail, remedy });
    }
}
