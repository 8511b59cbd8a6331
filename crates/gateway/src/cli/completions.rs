//! `fanlight completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Which shell.
    shell: Shell,
}

pub(super) fn run(command: &Completions) {
    let mut cli = super::Cli::command();
    clap_complete::generate(command.shell, &mut cli, "fanlight", &mut std::io::stdout());
}
