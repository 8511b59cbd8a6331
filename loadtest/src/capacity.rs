//! What a described load takes: nodes, Redis shards, load balancer and money.

mod aws;
mod bound;
pub mod check;
pub mod constants;
mod load;
mod nodes;
mod plan;
mod redis;
mod report;
mod strict;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use constants::Constants;
use load::Load;
pub use nodes::holding;
use plan::Plan;

/// Which load, and by which constants.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The described load; `loadtest/capacity` has examples.
    #[arg(required_unless_present = "check")]
    description: Option<PathBuf>,
    /// Constants to be laid over those of `loadtest/capacity/constants.toml`.
    #[arg(long)]
    constants: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Run gateways and clients on this machine, and print what the model predicts beside it.
    #[arg(long, conflicts_with_all = ["description", "json"])]
    check: bool,
    #[command(flatten)]
    checked: check::CheckOptions,
}

/// Prints the plan, or the model beside a run.
pub fn run(options: &Options) -> Result<()> {
    let constants = read_constants(options.constants.as_deref())?;
    let Some(path) = &options.description else {
        return check::run(&options.checked, &constants);
    };
    let load = Load::read(&text_of(path)?, &path.display().to_string())?;
    let plan = Plan::of(&load, &constants)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&plan)?);
    } else {
        print!("{plan}");
    }
    Ok(())
}

/// The constants, with those of a file laid over them.
pub fn read_constants(over: Option<&Path>) -> Result<Constants> {
    let over = over.map(text_of).transpose()?;
    Constants::read(over.as_deref())
}

fn text_of(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
