//! `fanlight config`: check, list and describe the configuration.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::json;

use super::{print, print_json};
use crate::config::reference::{self, OptionDoc};
use crate::config::{Config, Layers};

/// Check, list and describe the configuration.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a file together with the environment, as `serve` would read them.
    Check {
        /// The configuration file.
        #[arg(env = "FANLIGHT_CONFIG")]
        file: Option<PathBuf>,
        /// Print the resulting configuration as JSON, without secrets.
        #[arg(long)]
        json: bool,
    },
    /// Print every option with its default and its meaning, as TOML.
    Defaults,
    /// List the environment variables that set options.
    Env {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration file.
    Schema,
}

pub(super) fn run(command: &ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Check { file, json } => check(file.clone(), *json),
        ConfigCommand::Defaults => print(&reference::defaults()),
        ConfigCommand::Env { json: true } => print_json(&reference::options()),
        ConfigCommand::Env { json: false } => print(&env_table()),
        ConfigCommand::Schema => print_json(&reference::schema()),
    }
}

fn check(file: Option<PathBuf>, as_json: bool) -> anyhow::Result<()> {
    let layers = Layers { file, ..Layers::default() }.with_process_env();
    let config = Config::load(&layers)?.checked()?;
    let warnings = config.warnings();
    if as_json {
        let warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        return print_json(&json!({ "config": config, "warnings": warnings }));
    }
    for warning in &warnings {
        println!("warning: {warning}");
    }
    println!("ok: the configuration can be served");
    Ok(())
}

fn env_table() -> String {
    let mut text = String::new();
    for option in reference::options() {
        let default = option.default.as_deref().unwrap_or("none");
        let OptionDoc { env, kind, doc, .. } = &option;
        let _ = writeln!(text, "{env}\n    {kind} (default {default})\n    {doc}\n");
    }
    text
}
