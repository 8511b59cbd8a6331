//! The life of a relay's process: config → connect → relay or stand by → give the lease back.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use fanlight_redis::{Relay, RelayState};
use http::{StatusCode, header};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, ConfigError};
use crate::descriptors::Allowance;
use crate::listeners::{OwnServer, Reserved, reachable};
use crate::problem::Problem;
use crate::signals::Signals;
use crate::telemetry::{self, Metrics};

/// Relays until it is told to end.
pub async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init_log(&config.log)?;
    // First: as process 1 of a container, it would not hear of those that nobody listens for.
    let signals = Signals::listen()?;
    let metrics = Metrics::install_for_relay()?;
    let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let relay = start(&config, &tracker, &shutdown)?;
    let admin = Reserved::new("listen.admin", config.listen.admin)?;
    let address = reachable(admin.address());
    let server = OwnServer {
        name: "the admin listener",
        limits: &config.limits,
        allowance: Allowance::All,
        tracker: &tracker,
        shutdown: &shutdown,
    };
    server.start(admin.listen()?, routes(&relay, metrics.clone()));
    let until = shutdown.clone();
    tracker.spawn(async move { until.run_until_cancelled(upkeep(metrics)).await });
    announce(&config, address);

    let stop = CancellationToken::new();
    signals.end_with(relay.run(&stop), Some(stop.clone())).await;
    shutdown.cancel();
    tracker.close();
    let _ = tokio::time::timeout(Duration::from_secs(1), tracker.wait()).await;
    Ok(())
}

/// Connects to both cells.
pub fn start(
    config: &Config,
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<Arc<Relay>> {
    let source = config.relay_source().map_err(ConfigError::from)?;
    let target = config.redis_config().map_err(ConfigError::from)?;
    let options = config.relay_options().map_err(ConfigError::from)?;
    Ok(Relay::start(source, target, options, tracker, shutdown))
}

fn routes(relay: &Arc<Relay>, metrics: Metrics) -> Router {
    let relay = Arc::clone(relay);
    let scrape = async move || {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
    };
    let readyz = async move || -> Response {
        match relay.state() {
            RelayState::Active => "active\n".into_response(),
            RelayState::Standby => "standby\n".into_response(),
            RelayState::Unhealthy(why) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "relay_unhealthy", why)
                    .with_header(header::RETRY_AFTER, "1")
                    .into_response()
            }
        }
    };
    Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
}

async fn upkeep(metrics: Metrics) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        metrics.upkeep();
    }
}

/// Says on standard output what it does and where it is to be found; nobody has to listen.
fn announce(config: &Config, admin: SocketAddr) {
    let relay = &config.relay;
    let lines = [
        format!("Fanlight relays from cell {} to cell {}.", relay.source_cell, relay.cell),
        format!("  relay     {}: {}", relay.name(), relay.namespaces.join(", ")),
        format!("  health    http://{admin}/readyz"),
        format!("  metrics   http://{admin}/metrics"),
    ];
    let _ = writeln!(std::io::stdout(), "{}", lines.join("\n"));
}
