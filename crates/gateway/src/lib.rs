//! The gateway: configuration, command line, identity, and the server that they start.

pub mod cli;
pub mod config;
pub mod jwt;

/// The server. The worker, transports and drain replace this module.
pub mod server {
    use crate::config::ServeOptions;

    /// Serves until told to stop.
    #[expect(clippy::unused_async, reason = "the server that replaces this waits")]
    pub async fn serve(options: ServeOptions) -> anyhow::Result<()> {
        let ServeOptions { config, .. } = options;
        anyhow::bail!("this build has no server; it would listen on {}", config.listen.public)
    }
}
