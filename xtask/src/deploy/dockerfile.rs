//! What of `deploy/Dockerfile` runs without an engine: its steps until a compiler is wanted, in what an
//! engine would be sent. An image that is built from scratch runs what comes out (`image.rs`).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use cargo_metadata::{Metadata, MetadataCommand};

use crate::process::{root, run as run_command};
use crate::tools;

/// Sources are there, the lock file holds, and cargo-chef makes a recipe by which dependencies are
/// built from a workspace that has nothing else.
pub(super) fn check() -> anyhow::Result<()> {
    let text = fs::read_to_string(root().join("deploy/Dockerfile"))?;
    let steps = steps(&text);
    let folder = root().join("target/deploy/dockerfile");
    let _ = fs::remove_dir_all(&folder);
    let context = folder.join("context");
    copy_context(&context)?;
    let metadata = locked(&context).context("what `COPY . .` brings")?;
    check_base(&steps, &metadata)?;
    check_copies(&steps, &context, &metadata)?;
    check_recipe(&steps, &folder)
}

/// An instruction and its words, continued lines joined.
fn steps(text: &str) -> Vec<(String, Vec<String>)> {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines = joined.lines().map(words).filter(|words| !words.is_empty());
    lines.map(|mut words| (words.remove(0), words)).collect()
}

/// What an engine is sent of a fresh clone: tracked files, without those of `.dockerignore`.
fn copy_context(to: &Path) -> anyhow::Result<()> {
    let ignored = fs::read_to_string(root().join(".dockerignore"))?;
    let is_ignored = |path: &str| {
        ignored.lines().any(|pattern| match pattern.strip_prefix("**/") {
            Some(anywhere) => path.split('/').any(|part| part == anywhere),
            None => path.split('/').next() == Some(pattern),
        })
    };
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output()?;
    ensure!(listed.status.success(), "git ls-files ended with {}", listed.status);
    let listed = String::from_utf8(listed.stdout)?;
    for path in listed.split_terminator('\0').filter(|path| !is_ignored(path)) {
        let (from, to) = (root().join(path), to.join(path));
        // One that is deleted and not committed is still listed.
        if from.is_file() {
            fs::create_dir_all(to.parent().context("a file in no folder")?)?;
            fs::copy(&from, to).with_context(|| path.to_owned())?;
        }
    }
    Ok(())
}

/// As `cargo metadata --locked` in `folder`: fails where the lock file would have to change.
fn locked(folder: &Path) -> anyhow::Result<Metadata> {
    let mut command = MetadataCommand::new();
    command.manifest_path(folder.join("Cargo.toml")).other_options(["--locked".to_owned()]);
    Ok(command.exec()?)
}

/// The compiler of the image is not older than the gateway wants.
fn check_base(steps: &[(String, Vec<String>)], metadata: &Metadata) -> anyhow::Result<()> {
    let image = steps.iter().find(|(name, words)| name == "FROM" && words[0].starts_with("rust:"));
    let (_, words) = image.context("no stage is from rust")?;
    let version = words[0]["rust:".len()..].split('-').next().unwrap_or_default();
    let number = |text: &str| -> Vec<u64> { text.split('.').flat_map(str::parse).collect() };
    let gateway = metadata.packages.iter().find(|package| package.name == "fanlight");
    let wanted = gateway.and_then(|package| package.rust_version.clone());
    let wanted = wanted.context("the gateway does not say its rust-version")?.to_string();
    ensure!(
        number(version)[..2] >= number(&wanted)[..2],
        "the image builds with Rust {version}, the gateway wants {wanted}"
    );
    Ok(())
}

/// What is copied is in the context, or is made by the stage that it comes from.
fn check_copies(
    steps: &[(String, Vec<String>)],
    context: &Path,
    metadata: &Metadata,
) -> anyhow::Result<()> {
    let mut stages: Vec<(String, Vec<&Vec<String>>)> = Vec::new();
    for (name, words) in steps {
        match name.as_str() {
            "FROM" => stages.push((words.last().cloned().unwrap_or_default(), Vec::new())),
            "RUN" => stages.last_mut().context("RUN before FROM")?.1.push(words),
            "COPY" => {
                let (flags, paths): (Vec<_>, Vec<_>) =
                    words.iter().partition(|word| word.starts_with("--"));
                let [sources @ .., _] = &*paths else { bail!("COPY of nothing: {words:?}") };
                let from = flags.iter().find_map(|flag| flag.strip_prefix("--from="));
                for source in sources {
                    let is_there = match from {
                        None => context.join(source).exists(),
                        Some(stage) => stages
                            .iter()
                            .find(|(name, _)| name == stage)
                            .is_some_and(|(_, runs)| makes(runs, source, metadata)),
                    };
                    ensure!(is_there, "COPY {}: nothing makes {source}", words.join(" "));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether one of these commands writes that file, or builds that program.
fn makes(runs: &[&Vec<String>], path: &str, metadata: &Metadata) -> bool {
    let built = path.strip_prefix("/src/target/release/");
    runs.iter().any(|words| match built {
        None => words.iter().any(|word| word == path),
        Some(program) => {
            let package = value_of(words, "--package");
            let is_build = words.windows(2).any(|pair| pair == ["cargo", "build"]);
            let packages = metadata.workspace_packages();
            let mut programs = packages
                .iter()
                .filter(|each| package.is_some_and(|package| each.name == package))
                .flat_map(|each| each.targets.iter().filter(|target| target.is_bin()));
            is_build
                && words.iter().any(|word| word == "--release")
                && programs.any(|target| target.name == program)
        }
    })
}

fn value_of<'w>(words: &'w [String], flag: &str) -> Option<&'w str> {
    let at = words.iter().position(|word| word == flag)?;
    words.get(at + 1).map(String::as_str)
}

/// Runs `cargo chef prepare` and `cook` as the file has them, the latter without building: what it
/// lays out is a workspace whose lock file holds.
fn check_recipe(steps: &[(String, Vec<String>)], folder: &Path) -> anyhow::Result<()> {
    let install = chef(steps, &["cargo", "install", "cargo-chef"])?;
    let version = value_of(&install, "--version").context("cargo-chef has no version")?;
    let program = tools::cargo("cargo-chef", version)?;
    let recipe = folder.join("recipe.json");
    let laid_out = folder.join("cooked");
    fs::create_dir_all(&laid_out)?;
    for (command, place) in [("prepare", &folder.join("context")), ("cook", &laid_out)] {
        let words = chef(steps, &["cargo", "chef", command])?;
        let words = words.iter().skip(1).map(|word| match word.as_str() {
            "/recipe.json" => recipe.display().to_string(),
            word => word.to_owned(),
        });
        let mut call = Command::new(&program);
        call.args(words).current_dir(place);
        if command == "cook" {
            call.arg("--no-build");
        }
        run_command(&mut call)?;
    }
    let metadata = locked(&laid_out).context("what `cargo chef cook` lays out")?;
    let is_gateway = |name: &str| metadata.packages.iter().any(|package| package.name == name);
    ensure!(is_gateway("fanlight"), "the recipe has no gateway");
    Ok(())
}

/// The words of the command that begins like that, up to the next `&&`.
fn chef(steps: &[(String, Vec<String>)], begins: &[&str]) -> anyhow::Result<Vec<String>> {
    let runs = steps.iter().filter(|(name, _)| name == "RUN").map(|(_, words)| words);
    for words in runs {
        if let Some(at) = words.windows(begins.len()).position(|window| window == begins) {
            let rest = words[at..].iter().take_while(|word| *word != "&&");
            return Ok(rest.cloned().collect());
        }
    }
    bail!("no RUN has `{}`", begins.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_continued_lines_behind_conditions() {
        let text = "# FROM none\nFROM rust:1.90-slim AS build\nRUN if x; then y; fi \\\n && cargo \
                    chef cook --locked \\\n && rm a\n";
        let steps = steps(text);
        assert_eq!(steps.len(), 2);
        assert_eq!(
            chef(&steps, &["cargo", "chef", "cook"]).unwrap().join(" "),
            "cargo chef cook --locked"
        );
        assert!(chef(&steps, &["cargo", "chef", "prepare"]).is_err());
    }
}
