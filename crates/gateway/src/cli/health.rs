//! `fanlight health`: is the node of this machine well? For health checks of containers, whose
//! image has nothing else that could ask.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{block_on, print};
use crate::config::{Config, Layers};
use crate::server::reachable;

/// Ask a node whether it is ready, and succeed only if it is.
#[derive(Debug, clap::Args)]
pub(super) struct Health {
    /// Ask whether the process lives at all, rather than whether it wants connections.
    #[arg(long)]
    live: bool,
    /// The admin listener to ask, as in <http://127.0.0.1:9090>, instead of the configured one.
    #[arg(long)]
    url: Option<String>,
    /// The configuration file that says where the admin listener is.
    #[arg(long, value_name = "FILE", env = "FANLIGHT_CONFIG")]
    config: Option<PathBuf>,
    /// How long to wait for the answer.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) fn run(command: &Health) -> anyhow::Result<()> {
    let authority = match &command.url {
        Some(url) => authority(url)?.to_owned(),
        None => configured(command)?.to_string(),
    };
    let path = if command.live { "/livez" } else { "/readyz" };
    let answer = block_on(async {
        match timeout(command.timeout, ask(&authority, path)).await {
            Ok(answer) => answer,
            Err(_) => bail!("no answer within {}", humantime::format_duration(command.timeout)),
        }
    });
    let answer = answer.with_context(|| format!("http://{authority}{path}"))?;
    if answer.status != 200 {
        bail!("http://{authority}{path}: {}, {}", answer.status, answer.said());
    }
    print(&format!("{}\n", answer.said()))
}

/// Where the admin listener of the configured node is, as far as that concerns this machine.
fn configured(command: &Health) -> anyhow::Result<SocketAddr> {
    let layers = Layers { file: command.config.clone(), ..Layers::default() };
    // Only where it listens matters here, so the rest is not checked.
    Ok(reachable(Config::load(&layers.with_process_env())?.config.listen.admin))
}

/// Host and port of the URL of an admin listener.
fn authority(url: &str) -> anyhow::Result<&str> {
    let rest = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    let plain =
        |rest: &&str| !rest.is_empty() && !rest.contains(['/', '@', '?', '#', ' ', '\r', '\n']);
    rest.filter(plain).ok_or_else(|| {
        anyhow!("--url {url}: not the URL of an admin listener; write it as http://HOST:PORT")
    })
}

struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    /// In one line: a refusal's reason, or what else it says.
    fn said(&self) -> String {
        let text = match serde_json::from_str(&self.body) {
            Ok(Refusal { code, detail }) => format!("{code}: {detail}"),
            Err(_) => self.body.trim().to_owned(),
        };
        // Whoever answered may be anybody.
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// A problem document, as far as it is shown.
#[derive(Deserialize)]
struct Refusal {
    code: String,
    detail: String,
}

async fn ask(authority: &str, path: &str) -> anyhow::Result<Answer> {
    let mut socket = TcpStream::connect(authority)
        .await
        .context("can't connect; is the node running, and its admin listener there?")?;
    // To HTTP/1.0 a server answers in one piece, and closes.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    socket.take(MAX_ANSWER_BYTES).read_to_end(&mut response).await?;
    let response = String::from_utf8_lossy(&response);
    parse(&response).context("what answered does not speak HTTP")
}

fn parse(response: &str) -> Option<Answer> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let mut words = head.strip_prefix("HTTP/1.")?.split(' ');
    let status = words.nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.into() })
}

/// Far more than a node says.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;
