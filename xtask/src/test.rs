//! `cargo xtask test`: everything that is tested, with real Redis, Node and Chromium.

use std::env;
use std::process::Command;

use crate::process::{cargo, cores, root, run as run_command};
use crate::{deploy, requirements, tools};

/// How many tests of a binary run at once; who sets it decides.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// Runs the Rust tests, which start Redis, gateways, Node drivers and Chromium, then the page's
/// own unit tests and the checks of what is shipped. `arguments` narrow the Rust tests; the others are then left out.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    requirements::ensure()?;
    tools::npm("tests/js")?;
    // Unbuilt binaries are no concern: cargo builds a package's binaries for its own tests.
    let rust = ["test", "--workspace", "--locked", "--no-fail-fast"];
    let mut rust = cargo(&rust);
    rust.args(arguments);
    if env::var_os(TEST_THREADS).is_none() {
        rust.env(TEST_THREADS, test_threads().to_string());
    }
    let rust = run_command(&mut rust);
    if !arguments.is_empty() {
        println!("skipped all but the Rust tests: arguments for cargo test were given");
        return rust;
    }
    // One run tells all that fails.
    let page = run_command(&mut npm(&["test"]));
    let shipped = deploy::run("");
    rust.and(page).and(shipped)
}

/// Most of a test is waiting, for servers that start and leases that end: on two cores, four at a
/// time take half of the time that two take.
fn test_threads() -> usize {
    2 * cores()
}

fn npm(arguments: &[&str]) -> Command {
    let mut command = Command::new("npm");
    command.args(arguments).current_dir(root().join("tests/js"));
    command
}
