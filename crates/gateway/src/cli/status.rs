//! `fanlight status`: how one node is, or several are, once or again and again.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use futures_util::future::join_all;
use http::Method;
use serde_json::json;
use uuid::Uuid;

use super::cluster::{Api, Key};
use super::{admin, block_on, print};
use crate::drain::Stage;
use crate::http_client::BaseUrl;
use crate::status::Status;

/// Show how nodes are: ready or not and why, their connections, their drains.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Show it again and again, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// How often.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2s",
        requires = "watch",
        value_parser = humantime::parse_duration
    )]
    interval: Duration,
    /// An admin listener to ask, as in <http://127.0.0.1:9090>, instead of the configured one; to
    /// be repeated for several nodes.
    #[arg(long, value_name = "URL")]
    admin: Vec<String>,
    /// A node's server API, as in <http://127.0.0.1:8081>, to ask it for all nodes of the cluster.
    #[arg(long, value_name = "URL", conflicts_with = "admin")]
    api: Option<String>,
    #[command(flatten)]
    key: Key,
    /// With --api: show this user's sessions too; to be repeated for several.
    #[arg(long, value_name = "NAME", requires = "api")]
    user: Vec<String>,
    /// With --api: show this session too, wherever it is; to be repeated for several.
    #[arg(long, value_name = "ID", requires = "api")]
    session: Vec<Uuid>,
    /// The configuration file that says where the admin listener is.
    #[arg(long, value_name = "FILE", env = "FANLIGHT_CONFIG")]
    config: Option<PathBuf>,
    /// How long to wait for an answer.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print a JSON array of what was asked and answered; with --watch, one a line.
    #[arg(long)]
    json: bool,
}

/// What one listener answered, or why nothing came.
struct Row {
    listener: BaseUrl,
    status: anyhow::Result<Status>,
}

pub(super) fn run(command: &Show) -> anyhow::Result<()> {
    if let Some(url) = &command.api {
        let api = command.key.api(url)?;
        return block_on(show_cluster(&api, command));
    }
    let config = command.config.as_deref();
    let listeners = if command.admin.is_empty() {
        vec![admin::listener(None, config)?]
    } else {
        command
            .admin
            .iter()
            .map(|url| admin::listener(Some(url), config))
            .collect::<Result<_, _>>()?
    };
    let rows = block_on(async {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            let rows = look(&listeners, command.timeout).await;
            show(&rows, command)?;
            if !command.watch {
                return Ok(rows);
            }
            tokio::select! {
                () = tokio::time::sleep(command.interval) => {}
                _ = &mut interrupted => return Ok(rows),
            }
        }
    })?;
    match rows.iter().filter(|row| row.status.is_err()).count() {
        0 => Ok(()),
        silent => bail!("{silent} of {} nodes did not answer", rows.len()),
    }
}

async fn show_cluster(api: &Api, command: &Show) -> anyhow::Result<()> {
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let overview = api.overview(&command.user, &command.session, command.timeout).await?;
        let text = match (command.json, command.watch) {
            (true, true) => format!("{}\n", overview.as_json()),
            (true, false) => format!("{:#}\n", overview.as_json()),
            (false, _) => overview.as_text()?,
        };
        draw(&text, command)?;
        if !command.watch {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(command.interval) => {}
            _ = &mut interrupted => return Ok(()),
        }
    }
}

async fn look(listeners: &[BaseUrl], patience: Duration) -> Vec<Row> {
    let asked = listeners.iter().map(async |listener| {
        let status = match admin::ask(listener, Method::GET, PATH, patience).await {
            Ok(answer) => admin::read(listener, PATH, &answer),
            Err(error) => Err(error),
        };
        Row { listener: listener.clone(), status }
    });
    join_all(asked).await
}

fn show(rows: &[Row], command: &Show) -> anyhow::Result<()> {
    let text = match (command.json, command.watch) {
        (true, true) => format!("{}\n", as_json(rows)),
        (true, false) => format!("{:#}\n", as_json(rows)),
        (false, _) => table(rows),
    };
    draw(&text, command)
}

/// Over what was there before; whatever reads it otherwise gets one after the other.
fn draw(text: &str, command: &Show) -> anyhow::Result<()> {
    let redraws = command.watch && !command.json && std::io::stdout().is_terminal();
    if redraws { print(&format!("{HOME_AND_CLEAR}{text}")) } else { print(text) }
}

fn as_json(rows: &[Row]) -> serde_json::Value {
    let one = |row: &Row| match &row.status {
        Ok(status) => json!({ "admin": row.listener.to_string(), "status": status }),
        Err(error) => json!({ "admin": row.listener.to_string(), "error": format!("{error:#}") }),
    };
    rows.iter().map(one).collect()
}

/// A line for each node, and below what is to be said of those that are not ready.
fn table(rows: &[Row]) -> String {
    let mut cells = vec![COLUMNS.map(String::from)];
    let mut notes = String::new();
    for Row { listener, status } in rows {
        match status {
            Ok(status) => {
                let name = admin::one_line(&status.node.name);
                if let Some(reason) = &status.reason {
                    let _ = writeln!(notes, "{name}: {}", admin::one_line(reason));
                }
                cells.push(line(name, listener, status));
            }
            Err(error) => {
                let mut unknown = COLUMNS.map(|_| "-".to_owned());
                unknown[1] = listener.to_string();
                unknown[2] = "unreachable".into();
                cells.push(unknown);
                let _ = writeln!(notes, "{}", admin::one_line(&format!("{error:#}")));
            }
        }
    }
    let mut text = aligned(&cells);
    if !notes.is_empty() {
        let _ = write!(text, "\n{notes}");
    }
    text
}

/// Cells as columns, each as wide as its widest.
pub(super) fn aligned<const N: usize>(cells: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|at| {
        cells.iter().map(|row| row[at].chars().count()).max().unwrap_or_default()
    });
    let mut text = String::new();
    for row in cells {
        let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn line(name: String, listener: &BaseUrl, status: &Status) -> [String; COLUMNS.len()] {
    let drain = match (&status.drain.state, &status.drain.begun) {
        (Stage::None, _) | (_, None) => "-".into(),
        (stage, Some(begun)) => {
            let (left, most) = (status.drain.connections, begun.connections_at_start);
            format!("{} {left}/{most}, {} left", stage.name(), span(begun.left()))
        }
    };
    let broker = if status.broker.healthy { "ok" } else { "unhealthy" };
    [
        name,
        listener.to_string(),
        status.state.name().into(),
        span(Duration::from_secs(status.uptime_s)),
        status.connections.to_string(),
        status.sessions.to_string(),
        drain,
        format!("{} {broker}", status.broker.kind),
        status.cluster.nodes.len().to_string(),
        admin::one_line(&status.version),
    ]
}

/// Its two largest units.
pub(super) fn span(time: Duration) -> String {
    let text = humantime::format_duration(time).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

const PATH: &str = "/status";
const COLUMNS: [&str; 10] = [
    "NODE",
    "ADMIN",
    "STATE",
    "UP",
    "CONNECTIONS",
    "SESSIONS",
    "DRAIN",
    "BROKER",
    "NODES",
    "VERSION",
];
const HOME_AND_CLEAR: &str = "\x1b[H\x1b[J";
