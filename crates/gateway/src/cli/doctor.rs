//! `fanlight doctor`: is the configured Redis fit for Fanlight?

use std::path::PathBuf;

use anyhow::bail;
use fanlight_redis::doctor::{self, Finding, Verdict};
use serde_json::json;

use super::{block_on, print, print_json};
use crate::config::{Config, ConfigError, Flag, Layers, Secret};

/// Check a Redis for what Fanlight needs of it: version, permissions, memory policy, buffer
/// limits, latency, and that what is published comes back.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// The Redis to check, instead of the configured one.
    #[arg(long, value_name = "URL")]
    redis: Option<Secret>,
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "FANLIGHT_CONFIG")]
    config: Option<PathBuf>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Doctor) -> anyhow::Result<()> {
    let flags = command.redis.iter().map(|url| Flag {
        name: "--redis",
        key: "redis.url",
        value: url.reveal().into(),
    });
    let layers =
        Layers { file: command.config.clone(), flags: flags.collect(), ..Layers::default() };
    // Only what is said of Redis matters here, so the rest is not checked.
    let loaded = Config::load(&layers.with_process_env())?;
    let redis = loaded.config.redis_config().map_err(ConfigError::from)?;
    let findings = block_on(async { Ok(doctor::examine(&redis).await) })?;
    if command.json {
        print_json(&findings.iter().map(as_json).collect::<Vec<_>>())?;
    } else {
        print(&report(&findings))?;
    }
    let problems = findings.iter().filter(|finding| finding.verdict == Verdict::Problem).count();
    if problems > 0 {
        let what = if problems == 1 { "problem" } else { "problems" };
        bail!("Fanlight can't work with this Redis: {problems} {what}");
    }
    Ok(())
}

fn report(findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut server = "";
    for finding in findings {
        if finding.server != server {
            server = &finding.server;
            text.push_str(server);
            text.push('\n');
        }
        for line in finding.to_string().lines() {
            text.push_str("  ");
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn as_json(finding: &Finding) -> serde_json::Value {
    let Finding { server, check, verdict, detail, remedy } = finding;
    json!({
        "server": server,
        "check": check,
        "verdict": verdict.as_str(),
        "detail": detail,
        "remedy": remedy,
    })
}
