//! `cargo xtask bench --check`: instructions that the hot paths execute, counted by callgrind and
//! compared with what is recorded. Unlike times they are the same on a busy machine.
//!
//! The benchmarks are those of `cargo bench`. Each runs twice, with few iterations and with many:
//! what the difference costs is what iterations cost, whatever it takes to prepare them.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, bail};
use cargo_metadata::Message;
use serde::{Deserialize, Serialize};

use crate::process::{cargo, cores, find_program, root};

/// What is recorded.
#[derive(Deserialize, Serialize)]
struct Recorded {
    /// The compiler whose code was counted.
    rustc: String,
    /// By the benchmark's path, instructions of one iteration.
    instructions: BTreeMap<String, f64>,
}

/// Fails where a path takes more instructions than recorded.
pub(crate) fn check() -> anyhow::Result<()> {
    let recorded = Recorded::read()?;
    if find_program("valgrind").is_none() {
        println!("skipped the counts: valgrind is missing (apt-get install valgrind)");
        return Ok(());
    }
    let rustc = rustc()?;
    if rustc != recorded.rustc {
        println!(
            "skipped the counts: recorded with {}, this is {rustc}; to record them anew: \
             cargo xtask bench --record",
            recorded.rustc
        );
        return Ok(());
    }
    let executables = build()?;
    let wanted: Vec<(&str, f64)> =
        recorded.instructions.iter().map(|(path, &before)| (path.as_str(), before)).collect();
    let counted = count_all(&executables, &wanted)?;
    let mut slower = 0;
    println!("{:>12} {:>12} {:>8}", "recorded", "now", "change");
    for ((path, before), now) in wanted.into_iter().zip(counted) {
        let change = 100.0 * (now - before) / before.max(1.0);
        let is_slower = now > before + SLACK.max(before * TOLERANCE);
        slower += usize::from(is_slower);
        let verdict = if is_slower { "  MORE" } else { "" };
        println!("{before:>12.1} {now:>12.1} {change:>+7.1}% {path}{verdict}");
    }
    if slower > 0 {
        bail!(
            "{slower} paths take more instructions than recorded; make them leaner, or say in the \
             commit why and record them: cargo xtask bench --record"
        );
    }
    Ok(())
}

/// Counts all that are recorded anew, and the benchmarks that are not yet.
pub(crate) fn record() -> anyhow::Result<()> {
    let before = Recorded::read()?.instructions;
    let executables = build()?;
    let mut instructions = BTreeMap::new();
    for path in listed(&executables)? {
        let guess = before.get(&path).copied();
        let guess = guess.map_or_else(|| count(&executables, &path, GUESS), Ok)?;
        let now = count(&executables, &path, guess)?;
        println!("{now:>12.1} {path}");
        instructions.insert(path, (now * 10.0).round() / 10.0);
    }
    let text = toml::to_string(&Recorded { rustc: rustc()?, instructions })?;
    fs::write(Recorded::path(), format!("{HEADER}{text}")).context("could not write the counts")
}

impl Recorded {
    fn path() -> PathBuf {
        root().join("xtask/instructions.toml")
    }

    fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string(Self::path()).context("xtask/instructions.toml")?;
        toml::from_str(&text).context("xtask/instructions.toml")
    }
}

/// The benchmarks' executables, by the name of their target.
type Executables = BTreeMap<String, PathBuf>;

fn build() -> anyhow::Result<Executables> {
    let mut command = cargo(&["bench", "--no-run", "--locked", "--profile", "counted"]);
    for (package, bench) in BENCHES {
        command.args(["--package", package, "--bench", bench]);
    }
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = command.spawn().context("could not start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut executables = Executables::new();
    for message in Message::parse_stream(BufReader::new(output)) {
        if let Message::CompilerArtifact(artifact) = message?
            && let Some(executable) = artifact.executable
        {
            executables.insert(artifact.target.name, executable.into());
        }
    }
    if !child.wait()?.success() {
        bail!("the benchmarks could not be built");
    }
    Ok(executables)
}

/// The paths of those benchmarks that are neither for comparison nor of a huge preparation.
fn listed(executables: &Executables) -> anyhow::Result<Vec<String>> {
    let mut paths = Vec::new();
    for executable in executables.values() {
        let mut command = Command::new(executable);
        // Run once, as only then those with arguments are named.
        let output = command.args(["--bench", "--test", "--color", "never"]).output()?;
        paths.extend(leaves(&String::from_utf8_lossy(&output.stdout)));
    }
    paths.retain(|path| !LEFT_OUT.iter().any(|part| path.contains(part)));
    Ok(paths)
}

/// The paths of a tree's leaves, as divan draws it.
fn leaves(tree: &str) -> Vec<String> {
    let lines = tree.lines().filter(|line| !line.trim().is_empty());
    let nodes: Vec<(usize, &str)> = lines
        .map(|line| {
            let name = line.trim_start_matches(['│', '├', '╰', '─', ' ']);
            let depth = (line.chars().count() - name.chars().count()) / 3;
            (depth, name.trim_end())
        })
        .collect();
    let mut path: Vec<&str> = Vec::new();
    let mut leaves = Vec::new();
    for (at, &(depth, name)) in nodes.iter().enumerate() {
        path.truncate(depth);
        path.push(name);
        if nodes.get(at + 1).is_none_or(|&(next, _)| next <= depth) {
            leaves.push(path.join("::"));
        }
    }
    leaves
}

/// Counts on every core at once: instructions are the same on a busy one.
fn count_all(executables: &Executables, wanted: &[(&str, f64)]) -> anyhow::Result<Vec<f64>> {
    let next = AtomicUsize::new(0);
    let work = || -> anyhow::Result<Vec<(usize, f64)>> {
        let mut counted = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(&(path, guess)) = wanted.get(at) else { return Ok(counted) };
            counted.push((at, count(executables, path, guess)?));
        }
    };
    let mut counted = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores()).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join().expect("a count panicked"));
        joined.collect::<anyhow::Result<Vec<_>>>().map(|parts| parts.concat())
    })?;
    counted.sort_unstable_by_key(|&(at, _)| at);
    Ok(counted.into_iter().map(|(_, instructions)| instructions).collect())
}

/// Instructions of one iteration, of which there will be as many as `guess` allows.
fn count(executables: &Executables, path: &str, guess: f64) -> anyhow::Result<f64> {
    let target = path.split("::").next().unwrap_or_default();
    let executable = executables.get(target).with_context(|| format!("no benchmark {target}"))?;
    #[expect(clippy::cast_sign_loss, reason = "it is at least ten")]
    let more = (INSTRUCTIONS / guess.max(1.0)).clamp(10.0, 50_000.0) as u64;
    let few = (more / 10).max(1);
    let before = collected(executable, path, few)?;
    let after = collected(executable, path, few + more)?;
    Ok(after.saturating_sub(before) as f64 / more as f64)
}

fn collected(executable: &PathBuf, path: &str, iterations: u64) -> anyhow::Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(executable);
    command.args(["--bench", "--sample-count", "1", "--sample-size", &iterations.to_string()]);
    let output = command.args(["--exact", path]).output().context("could not start valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")?.1.parse().ok());
    collected.with_context(|| format!("callgrind did not count {path}: {said}"))
}

/// The compiler's version, with its commit.
fn rustc() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("--version").current_dir(root()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

const BENCHES: [(&str, &str); 3] =
    [("fanlight-proto", "codec"), ("fanlight-engine", "engine"), ("fanlight-redis", "receive")];
/// Preparing so many takes valgrind too long, and tells no more.
const LEFT_OUT: [&str; 1] = ["::100000"];
/// How many to spend on the iterations of one benchmark: the rest is then lost in them.
const INSTRUCTIONS: f64 = 30_000_000.0;
/// Of what was never counted: few iterations tell how many there should be.
const GUESS: f64 = 1_000_000.0;
/// Seeds of hash maps differ from run to run.
const TOLERANCE: f64 = 0.05;
/// In instructions, of the shortest.
const SLACK: f64 = 5.0;
const HEADER: &str = "\
# Instructions of one iteration of each benchmark, counted by callgrind. Not written by hand:
# `cargo xtask bench --record` writes it, `cargo xtask bench --check` compares.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_named_by_their_whole_path() {
        let tree = "codec\n├─ native\n│  ├─ parse_send\n│  ╰─ write\n╰─ stomp\n   ╰─ decode\n      ├─ 128\n      ╰─ two, in halves\n";
        let expected = [
            "codec::native::parse_send",
            "codec::native::write",
            "codec::stomp::decode::128",
            "codec::stomp::decode::two, in halves",
        ];
        assert_eq!(leaves(tree), expected);
    }
}
