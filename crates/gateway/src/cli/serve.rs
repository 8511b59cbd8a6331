//! `fanlight serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;

use crate::config::{Config, Flag, Layers, Secret, ServeOptions};

/// Serve clients until told to stop.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Serve {
    /// Try it out: this machine only, in memory, a random secret, open rules.
    #[arg(long)]
    dev: bool,
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "FANLIGHT_CONFIG")]
    config: Option<PathBuf>,
    /// Address and port for clients [option listen.public].
    #[arg(long, value_name = "ADDR", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Address and port for STOMP over TCP [option listen.stomp].
    #[arg(long, value_name = "ADDR", value_parser = address)]
    stomp: Option<SocketAddr>,
    /// Address and port for metrics, health and drain [option listen.admin].
    #[arg(long, value_name = "ADDR", value_parser = address)]
    admin: Option<SocketAddr>,
    /// Address and port for backends: the server API [option listen.api].
    #[arg(long, value_name = "ADDR", value_parser = address)]
    api: Option<SocketAddr>,
    /// Use the Redis at this URL as the broker [options redis.url, broker.kind].
    #[arg(long, value_name = "URL")]
    redis: Option<Secret>,
    /// Threads that carry connections, 0 for one per core [option workers].
    #[arg(long, value_name = "N")]
    workers: Option<u16>,
    /// Mount the endpoints for public conformance suites; needs --dev.
    #[arg(long)]
    conformance: bool,
}

impl Serve {
    /// What `fanlight` without a command does.
    pub(super) fn dev() -> Self {
        Self { dev: true, ..Self::default() }
    }

    fn layers(&self) -> Layers {
        let flags = [
            ("--listen", "listen.public", self.listen.map(|address| address.to_string())),
            ("--stomp", "listen.stomp", self.stomp.map(|address| address.to_string())),
            ("--admin", "listen.admin", self.admin.map(|address| address.to_string())),
            ("--api", "listen.api", self.api.map(|address| address.to_string())),
            ("--redis", "redis.url", self.redis.as_ref().map(|url| url.reveal().into())),
            ("--redis", "broker.kind", self.redis.as_ref().map(|_| "redis".into())),
            ("--workers", "workers", self.workers.map(|workers| workers.to_string())),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(name, key, value)| Some(Flag { name, key, value: value? }))
            .collect();
        Layers { dev: self.dev, file: self.config.clone(), flags, ..Layers::default() }
            .with_process_env()
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "not an IP address with a port, as in 127.0.0.1:8080 or [::1]:8080")
}

pub(super) fn run(command: &Serve) -> anyhow::Result<()> {
    let options = options(command)?;
    super::block_on(crate::server::serve(options))
}

/// `--dev` gives a token of any name to whoever asks, so nobody else may be able to ask.
fn loopback_only(option: &str, address: SocketAddr) -> anyhow::Result<()> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    bail!(
        "{option} = {address}: --dev gives tokens to everybody who asks, so it listens on this \
         machine only; use 127.0.0.1, or serve a configuration of your own without --dev"
    )
}

fn options(command: &Serve) -> anyhow::Result<ServeOptions> {
    if command.conformance && !command.dev {
        bail!(
            "--conformance opens unauthenticated echo services, so it is only for --dev; add --dev"
        );
    }
    let config = Config::load(&command.layers())?.checked()?;
    if command.dev {
        let addresses = [
            ("listen.public", config.listen.public),
            ("listen.admin", config.listen.admin),
            ("listen.api", config.listen.api),
        ];
        let stomp = config.listen.stomp.map(|address| ("listen.stomp", address));
        for (option, address) in addresses.into_iter().chain(stomp) {
            loopback_only(option, address)?;
        }
    }
    let mut warnings = config.warnings();
    // Everybody gets a token there anyhow.
    warnings.retain(|warning| !command.dev || !warning.key.starts_with("auth.accounts"));
    Ok(ServeOptions { config, warnings, dev: command.dev, conformance: command.conformance })
}
