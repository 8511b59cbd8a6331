//! `cargo xtask test`: everything that is tested, with real Redis, Node and Chromium.

use std::env;
use std::process::Command;

use anyhow::bail;

use crate::process::{cargo, cores, root, run as run_command};
use crate::{deploy, failing, requirements, tools};

/// How many tests of a binary run at once; who sets it decides.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// How many tests may fail to be tried once more: when more do, it isn't the machine.
const FEW: usize = 3;

/// Runs the Rust tests, which start Redis, gateways, Node drivers and Chromium, then the page's
/// own unit tests and the checks of what is shipped. `arguments` narrow the Rust tests; the others
/// are then left out, and nothing is tried twice.
///
/// Returns what failed once and passed when it was tried again: a defect, of the test or of what
/// it tests, but not one that comes from the last change alone.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<Vec<String>> {
    requirements::ensure()?;
    tools::npm("tests/js")?;
    if !arguments.is_empty() {
        println!("only Rust tests: arguments for cargo test were given");
        run_command(&mut rust(arguments))?;
        return Ok(Vec::new());
    }
    // One run tells all that fails.
    let outcomes = [
        rust_tests(),
        run_command(&mut npm(&["test"])).map(|()| Vec::new()),
        deploy::run_and_try_again(),
    ];
    let mut flaky = Vec::new();
    let mut faults = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(names) => flaky.extend(names),
            Err(error) => faults.push(format!("{error:#}")),
        }
    }
    for name in &flaky {
        println!("FLAKY: {name} failed, and passed when it was tried again");
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    Ok(flaky)
}

/// The Rust tests; a few that fail are tried once more, by themselves.
fn rust_tests() -> anyhow::Result<Vec<String>> {
    let first = failing::watch(&mut rust(&[]))?;
    if first.passed {
        return Ok(Vec::new());
    }
    let names: Vec<_> = first.failed.into_iter().collect();
    if first.otherwise {
        bail!("the Rust tests: a binary crashed or wasn't built; failed: [{}]", names.join(", "));
    }
    if names.len() > FEW {
        bail!("{} Rust tests failed: {}", names.len(), names.join(", "));
    }
    println!("\n── once more: {}", names.join(", "));
    let second = failing::watch(rust(&[]).args(["--", "--exact"]).args(&names))?;
    if second.otherwise {
        bail!("Rust tests failed, and a binary crashed then: {}", names.join(", "));
    }
    if !second.passed {
        let twice: Vec<_> = second.failed.into_iter().collect();
        bail!("Rust tests failed twice: {}", twice.join(", "));
    }
    Ok(names)
}

/// The command that runs the Rust tests.
fn rust(arguments: &[String]) -> Command {
    // Unbuilt binaries are no concern: cargo builds a package's binaries for its own tests.
    let mut rust = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    rust.args(arguments);
    if env::var_os(TEST_THREADS).is_none() {
        rust.env(TEST_THREADS, test_threads().to_string());
    }
    rust
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
