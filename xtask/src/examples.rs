//! `cargo xtask examples`: the applications of `examples/` with all they need, until Ctrl-C; or
//! their tests.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use clap::Args;

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
    /// Only these: chat, notifications, dashboard, presence, orders.
    names: Vec<String>,
}

/// Builds the gateway and the chat, and hands over to Node.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    requirements::ensure()?;
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
