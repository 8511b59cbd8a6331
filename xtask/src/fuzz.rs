//! `cargo xtask fuzz`: every fuzz target for longer than the short run that `cargo test` gives it.

use anyhow::bail;

use crate::process::{cargo, root, run as run_command};
use crate::tidy::Tree;

/// Gives each target whose name contains `filter` this much time. Targets are ordinary tests
/// that call bolero, on as many threads as there are cores.
pub(crate) fn run(seconds: u64, filter: &str) -> anyhow::Result<()> {
    let tree = Tree::read(root())?;
    let rust = tree.files().filter(|file| file.extension() == Some("rs"));
    let mut targets: Vec<_> = rust.flat_map(|file| targets(file.text)).collect();
    targets.retain(|target| target.contains(filter));
    if targets.is_empty() {
        bail!("no fuzz target has {filter:?} in its name");
    }
    run_command(
        cargo(&["test", "--workspace", "--locked", "--lib", "--tests", "--"])
            .args(targets)
            .env("BOLERO_RANDOM_TEST_TIME_MS", (seconds * 1000).to_string())
            // Wins over what a target asks for, so that only the time ends it.
            .env("BOLERO_RANDOM_ITERATIONS", usize::MAX.to_string()),
    )
}

/// The functions that call bolero.
fn targets(text: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut function = None;
    for line in text.lines() {
        let line = line.trim_start();
        if let Some((name, _)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
            function = Some(name);
        }
        if line.starts_with(CALL) {
            targets.extend(function.take());
        }
    }
    targets
}

const CALL: &str = "bolero::check!";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_the_function_that_calls_bolero() {
        let text = "fn plain() {}\n#[test]\nfn decoder() {\n    bolero::check!()\n}\n";
        assert_eq!(targets(text), ["decoder"]);
    }
}
