//! `fanlight relay`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{block_on, print, print_json};
use crate::config::{Config, Flag, Layers};
use crate::relay;

/// Relay publications of chosen namespaces from another cell into this one, until told to stop.
#[derive(Debug, clap::Args)]
pub(super) struct Relay {
    #[command(subcommand)]
    command: Option<RelayCommand>,
    /// The configuration file, of the cell that is relayed to.
    #[arg(long, value_name = "FILE", env = "FANLIGHT_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// Address and port for metrics and health [option listen.admin].
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
enum RelayCommand {
    /// Check the configuration and that both cells can be reached; relay nothing.
    Check {
        /// Print what was found as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Relay) -> anyhow::Result<()> {
    let admin = command.admin.map(|address| address.to_string());
    let flags = admin.map(|value| Flag { name: "--admin", key: "listen.admin", value });
    let layers = Layers {
        file: command.config.clone(),
        flags: flags.into_iter().collect(),
        ..Layers::default()
    };
    let config = Config::load(&layers.with_process_env())?.checked_for_relay()?;
    match command.command {
        None => block_on(relay::run(config)),
        Some(RelayCommand::Check { json }) => block_on(check(config, json)),
    }
}

/// Waits until both cells answer, and says who relays.
async fn check(config: Config, as_json: bool) -> anyhow::Result<()> {
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let relay = relay::start(&config, &tracker, &shutdown)?;
    let until = Instant::now() + PATIENCE;
    let trouble = loop {
        // Without the lease's answer it is only known that both cells are there.
        let trouble = match (relay.trouble(), relay.is_held().await) {
            (Some(why), _) => why,
            (_, Some(held)) => break Ok(held),
            (_, None) => "the target does not say who holds the lease".into(),
        };
        if Instant::now() >= until {
            break Err(trouble);
        }
        sleep(Duration::from_millis(50)).await;
    };
    shutdown.cancel();
    tracker.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), tracker.wait()).await;
    let is_held = match trouble {
        Ok(is_held) => is_held,
        Err(why) => bail!("{why}"),
    };
    let (name, options) = (config.relay.name(), &config.relay);
    if as_json {
        return print_json(&json!({
            "relay": name,
            "source_cell": options.source_cell,
            "cell": options.cell,
            "namespaces": options.namespaces,
            "active": is_held,
        }));
    }
    let who = if is_held { "a process relays now" } else { "no process relays now" };
    print(&format!(
        "Both cells answer. Relay {name:?} brings {} from {} to {}; {who}.\n",
        options.namespaces.join(", "),
        options.source_cell,
        options.cell
    ))
}

/// How long both cells have to answer.
const PATIENCE: Duration = Duration::from_secs(6);
