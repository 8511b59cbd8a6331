//! `fanlight doctor`: checks a Redis for what Fanlight needs of it, and explains what it finds.

mod facts;
mod probe;

use std::fmt;

use crate::config::RedisConfig;
use crate::connection::Connection;
use crate::names::Names;
use crate::topology::Topology;

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

/// Checks every master of the configured topology. It writes one key and publishes on one channel
/// below the configured prefix, and removes the key.
pub async fn examine(config: &RedisConfig) -> Vec<Finding> {
    let names = Names::new(&config.prefix);
    let topology = Topology::Standalone(config.endpoint.clone());
    let mut findings = Vec::new();
    for shard in topology.shards() {
        let server = topology.describe(shard);
        let mut report = Report { server, findings: &mut findings };
        match Connection::open(&topology, shard, config, "fanlight-doctor").await {
            Ok(mut connection) => {
                report.good("connection", "connects, logs in, and is a master".to_owned());
                let listener =
                    Connection::open(&topology, shard, config, "fanlight-doctor-sub").await.ok();
                probe::examine(&mut connection, listener, &names, &mut report).await;
            }
            Err(error) => report.add("connection", Verdict::Problem, error.to_string(), None),
        }
    }
    findings
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
