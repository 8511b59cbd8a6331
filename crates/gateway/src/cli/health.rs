//! `fanlight health`: is the node of this machine well? For health checks of containers, whose
//! image has nothing else that could ask.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use http::Method;

use super::{admin, block_on, print};

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
    let listener = admin::listener(command.url.as_deref(), command.config.as_deref())?;
    let path = if command.live { "/livez" } else { "/readyz" };
    let answer = block_on(admin::ask(&listener, Method::GET, path, command.timeout))?;
    let said = admin::said(&answer);
    if answer.status != 200 {
        bail!("{listener}{path}: {}, {said}", answer.status);
    }
    print(&format!("{said}\n"))
}
