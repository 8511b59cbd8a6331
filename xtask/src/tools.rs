//! Tools that only the checks use, from pinned requirements: Python's and cargo's are kept below
//! `target/tools`, npm's beside their lock file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::process::{cargo as cargo_command, root, run};

/// The `bin` folder of a Python environment with what `requirements` lists (a file of pip, from
/// the repository's root). Made at the first call and whenever the file changes.
pub(crate) fn python(requirements: &str) -> anyhow::Result<PathBuf> {
    let file = root().join(requirements);
    let wanted = fs::read(&file).with_context(|| file.display().to_string())?;
    let name = Path::new(requirements).file_stem().unwrap_or_default();
    let folder = root().join("target/tools").join(name);
    let bin = folder.join("bin");
    let installed_from = folder.join("installed-from.txt");
    if fs::read(&installed_from).is_ok_and(|installed| installed == wanted) {
        return Ok(bin);
    }
    // A new one: what an earlier list needed is not to be found by accident.
    let _ = fs::remove_dir_all(&folder);
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(bin.join("python")).args(pip).arg(&file))?;
    fs::write(&installed_from, wanted).context("could not note what was installed")?;
    Ok(bin)
}

/// A program of crates.io, which is called like its package; built at the first call, in the profile
/// that builds fastest.
pub(crate) fn cargo(package: &str, version: &str) -> anyhow::Result<PathBuf> {
    let folder = root().join("target/tools").join(format!("{package}-{version}"));
    let program = folder.join("bin").join(package);
    if !program.is_file() {
        let arguments =
            ["install", package, "--version", version, "--locked", "--debug", "--quiet"];
        run(cargo_command(&arguments)
            .arg("--root")
            .arg(&folder)
            .env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    }
    Ok(program)
}

/// `npm ci` in `folder` (from the repository's root), unless what is installed came from this very
/// lock file.
pub(crate) fn npm(folder: &str) -> anyhow::Result<()> {
    let path = root().join(folder);
    let lock_file = path.join("package-lock.json");
    let lock = fs::read(&lock_file).with_context(|| lock_file.display().to_string())?;
    // Ours, not npm's: npm's own copy in node_modules differs from the lock file in layout.
    let installed_from = path.join("node_modules/.installed-from.json");
    if fs::read(&installed_from).is_ok_and(|installed| installed == lock) {
        println!("skipped npm ci: {folder}/node_modules is up to date");
        return Ok(());
    }
    let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    run(Command::new("npm").args(install).current_dir(path))?;
    fs::write(&installed_from, lock).context("could not note what was installed")
}

/// The archive of `package` (`name@version`) from npm, not unpacked. Fetched at the first call.
pub(crate) fn npm_archive(package: &str) -> anyhow::Result<PathBuf> {
    let folder = root().join("target/tools/npm").join(package);
    if let Some(archive) = archive_in(&folder) {
        return Ok(archive);
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    // Beside its place until it is whole.
    let parts = folder.join("parts");
    let _ = fs::remove_dir_all(&parts);
    fs::create_dir_all(&parts).with_context(|| parts.display().to_string())?;
    run(Command::new("npm").args(["pack", package, "--silent"]).current_dir(&parts))?;
    let fetched = archive_in(&parts).with_context(|| format!("npm packed no {package}"))?;
    let archive = folder.join(fetched.file_name().unwrap_or_default());
    fs::rename(&fetched, &archive).with_context(|| archive.display().to_string())?;
    Ok(archive)
}

fn archive_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "tgz"))
}
