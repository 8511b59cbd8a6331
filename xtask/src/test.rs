//! `cargo xtask test`: everything that is tested, with real Redis, Node and Chromium.

use std::fs;
use std::process::Command;

use anyhow::Context;

use crate::process::{cargo, root, run as run_command};
use crate::{deploy, requirements};

/// Runs the Rust tests, which start Redis, gateways, Node drivers and Chromium, then the page's
/// own unit tests and the checks of what is shipped. `arguments` narrow the Rust tests; the others are then left out.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    requirements::ensure()?;
    requirements::say_what_is_skipped();
    install_packages()?;
    // Unbuilt binaries are no concern: cargo builds a package's binaries for its own tests.
    run_command(cargo(&["test", "--workspace", "--locked"]).args(arguments))?;
    if arguments.is_empty() {
        run_command(&mut npm(&["test"]))?;
        deploy::run("")
    } else {
        println!("skipped all but the Rust tests: arguments for cargo test were given");
        Ok(())
    }
}

/// `npm ci` in `tests/js`, unless what is installed came from this very lock file.
fn install_packages() -> anyhow::Result<()> {
    let folder = root().join("tests/js");
    let lock = fs::read(folder.join("package-lock.json")).context("tests/js/package-lock.json")?;
    // Ours, not npm's: npm's own copy in node_modules differs from the lock file in layout.
    let installed_from = folder.join("node_modules/.installed-from.json");
    if fs::read(&installed_from).is_ok_and(|installed| installed == lock) {
        println!("skipped npm ci: tests/js/node_modules is up to date");
        return Ok(());
    }
    run_command(&mut npm(&["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
    fs::write(&installed_from, lock).context("could not note what was installed")
}

fn npm(arguments: &[&str]) -> Command {
    let mut command = Command::new("npm");
    command.args(arguments).current_dir(root().join("tests/js"));
    command
}
