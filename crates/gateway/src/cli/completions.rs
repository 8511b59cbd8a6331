//! `fanlight completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Which shell.
    shell: Shell,
}

pub(super) fn run(command: &Completions) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut super::Cli::command(), "fanlight", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}
