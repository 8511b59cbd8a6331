//! `fanlight token`: make and read tokens.

mod inspect;
mod mint;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::{Config, Layers};

/// Make and read tokens.
#[derive(Debug, clap::Subcommand)]
pub(super) enum TokenCommand {
    /// Make a signed token, to try things out or for a script.
    Mint(mint::Mint),
    /// Read a token and say what is right and wrong with it. Fails if anything is wrong.
    Inspect(inspect::Inspect),
}

pub(super) fn run(command: &TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Mint(command) => mint::run(command),
        TokenCommand::Inspect(command) => inspect::run(command),
    }
}

/// The configuration's part about tokens; the built-in one without a file.
fn auth_of(file: Option<&PathBuf>) -> anyhow::Result<Config> {
    let Some(file) = file else { return Ok(Config::default()) };
    let layers = Layers { file: Some(file.clone()), ..Layers::default() };
    Ok(Config::load(&layers.with_process_env())?.config)
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
