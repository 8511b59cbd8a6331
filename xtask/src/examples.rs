//! `cargo xtask examples`: the applications of `examples/` with all they need, until Ctrl-C; or
//! their tests.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::process::{cargo, root, run as run_command};
use crate::{requirements, tools};

#[derive(Args)]
pub(crate) struct Options {
    /// Drives the pages by a browser instead, as `cargo xtask test` does.
    #[arg(long)]
    check: bool,
    /// Takes free ports instead of 8100 to 8142.
    #[arg(long)]
    any_ports: bool,
    /// Only these.
    #[arg(value_parser = PossibleValuesParser::new(NEEDS.map(|(name, _)| name)))]
    names: Vec<String>,
}

/// The examples, and what each starts beside what all of them do.
const NEEDS: [(&str, &str); 5] = [
    ("chat", "mariadbd"),
    ("notifications", "node"),
    ("dashboard", "python3"),
    ("presence", "go"),
    ("orders", "javac"),
];

/// Builds the gateway and the chat, and hands over to Node.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let is_named = |name: &str| options.names.is_empty() || options.names.iter().any(|n| n == name);
    let own = NEEDS.iter().filter(|(name, _)| is_named(name)).map(|(_, program)| *program);
    let browser = options.check.then_some("chromium");
    let common = ["node", "npm", "redis-server", "nginx"];
    requirements::ensure_programs(&own.chain(browser).chain(common).collect::<Vec<_>>())?;
    tools::npm("tests/js")?;
    // One by one: together they would share what either wants of a library, and be built anew.
    for package in ["fanlight", "fanlight-example-chat"] {
        run_command(&mut cargo(&["build", "--locked", "--package", package]))?;
    }
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let built = root().join(target).join("debug");
    let mut node = Command::new("node");
    node.current_dir(root())
        .arg(if options.check { "tests/js/examples.mjs" } else { "examples/run.mjs" })
        .arg("--gateway")
        .arg(built.join("fanlight"))
        .arg("--chat")
        .arg(built.join("fanlight-example-chat"));
    if options.check {
        node.args(["--screenshots", "artifacts"]);
    } else if options.any_ports {
        node.arg("--any-ports");
    }
    run_command(node.args(&options.names)).context("the examples")
}
