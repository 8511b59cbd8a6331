//! `fanlight token`: make and read tokens.

mod mint;

/// Make and read tokens.
#[derive(Debug, clap::Subcommand)]
pub(super) enum TokenCommand {
    /// Make a signed token, to try things out or for a script.
    Mint(mint::Mint),
}

pub(super) fn run(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Mint(command) => mint::run(command),
    }
}
