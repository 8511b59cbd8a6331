//! `fanlight drain`: has a node leave, and waits for it; the preStop hook of a pod.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use http::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{admin, block_on, print, print_json};
use crate::drain::{Begun, Report, Stage};
use crate::http_client::{AskError, BaseUrl};

/// Take all connections off a node: it closes them evenly, with the advice to reconnect, and ends.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    /// Return only when all connections are gone, or the drain's deadline has passed.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, instead of for as long as the drain may take. The drain goes on.
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// The admin listener of the node, as in <http://127.0.0.1:9090>, instead of the configured one.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The configuration file that says where the admin listener is.
    #[arg(long, value_name = "FILE", env = "FANLIGHT_CONFIG")]
    config: Option<PathBuf>,
    /// Print what the node says of its drain as JSON: once, at the end.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Drain) -> anyhow::Result<()> {
    let listener = admin::listener(command.admin.as_deref(), command.config.as_deref())?;
    let (report, is_over) = block_on(async {
        let answer = admin::ask(&listener, Method::POST, PATH, ANSWER_TIME).await?;
        let begun: Report = admin::read(&listener, PATH, &answer)?;
        if !command.wait {
            return Ok((begun, false));
        }
        Ok((wait(&listener, begun, command).await?, true))
    })?;
    if command.json {
        let mut shown = json!(report);
        shown["drained"] = is_over.into();
        return print_json(&shown);
    }
    print(&format!("{}\n", if is_over { ended(&report) } else { stands(&report) }))
}

/// Waits for the end of a drain that has begun; what the node said last.
async fn wait(listener: &BaseUrl, begun: Report, command: &Drain) -> anyhow::Result<Report> {
    let started = Instant::now();
    let mut last = begun;
    let mut silent_since = None;
    let mut shown_at: Option<(Instant, Stage)> = None;
    loop {
        if last.state == Stage::Finishing {
            return Ok(last);
        }
        let due =
            shown_at.is_none_or(|(at, stage)| at.elapsed() >= TELL_EVERY || stage != last.state);
        if due && !command.json {
            shown_at = Some((Instant::now(), last.state));
            print(&format!("{}\n", stands(&last)))?;
        }
        let left = command.timeout.map(|most| most.saturating_sub(started.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            bail!("{listener}: {}; it goes on", stands(&last));
        }
        sleep(left.unwrap_or(ASK_EVERY).min(ASK_EVERY)).await;
        match listener.ask(Method::GET, PATH, None, ANSWER_TIME).await {
            // Another life of the node has taken its place.
            Ok(answer) if answer.status == 200 => match admin::read(listener, PATH, &answer)? {
                Report { begun: None, .. } => return Ok(last),
                report => (last, silent_since) = (report, None),
            },
            Ok(answer) => bail!("{listener}{PATH}: {}, {}", answer.status, admin::said(&answer)),
            // Nobody listens any more: it has ended, as it was told to.
            Err(AskError::Connect(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                return Ok(last);
            }
            // Broken off in its last moment, too busy to answer, or out of reach for now.
            Err(error) => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                if since.elapsed() > SILENCE_MAX {
                    return Err(admin::unheard(listener, PATH, &error));
                }
            }
        }
    }
}

/// How far it is, in one line.
fn stands(report: &Report) -> String {
    let Some(begun) = &report.begun else { return "no drain".into() };
    let left = humantime::format_duration(begun.left());
    let hurried = if begun.hurried { ", hurried" } else { "" };
    format!(
        "draining ({}{hurried}): {} of {} connections left, for {left} at most",
        report.state.name(),
        report.connections,
        begun.connections_at_start
    )
}

/// How it ended, in one line.
fn ended(report: &Report) -> String {
    match &report.begun {
        Some(Begun { cut, .. }) if *cut > 0 => {
            format!("drained; {cut} connections had not closed by the deadline, and were cut")
        }
        _ => "drained".into(),
    }
}

const PATH: &str = "/drain";
const ANSWER_TIME: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(500);
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long a node that has the port may be without an answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);
