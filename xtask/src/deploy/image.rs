//! The images: both files linted, the steps of the published one run as far as they go without an
//! engine (`dockerfile.rs`), and the one from scratch built and run.
//!
//! A static program takes a build of its own, which is too long for every run. So the program that
//! the tests have built goes into the image, with the libraries that it loads; with
//! `FANLIGHT_STATIC=1` it is the release, built static.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{Outcome, PYTHON, built_gateway, dockerfile};
use crate::process::{cargo, find_program, root, run as run_command};
use crate::tools;

pub(super) fn run() -> anyhow::Result<Outcome> {
    let hadolint = tools::python(PYTHON)?.join("hadolint");
    let files = ["deploy/Dockerfile", "deploy/Dockerfile.scratch"];
    run_command(Command::new(hadolint).args(files).current_dir(root()))?;
    has_what_is_published()?;
    dockerfile::check().context("deploy/Dockerfile")?;
    if find_program("buildah").is_none() {
        return Ok(Outcome::Skipped(
            "no image was built: buildah is missing (apt-get install buildah)".into(),
        ));
    }
    if output(Command::new("id").arg("-u"))?.trim() != "0" {
        return Ok(Outcome::Skipped(
            "no image was built: buildah's chroot isolation needs root".into(),
        ));
    }
    let folder = root().join("target/deploy/image");
    let program =
        if env::var_os("FANLIGHT_STATIC").is_some() { static_gateway()? } else { built_gateway()? };
    fill(&folder.join("rootfs"), &program)?;
    let container = Container::build(&folder)?;
    container.serves()?;
    Ok(Outcome::Passed)
}

/// The release, which loads nothing.
fn static_gateway() -> anyhow::Result<PathBuf> {
    let target = "x86_64-unknown-linux-gnu";
    let folder = root().join("target/static");
    let arguments = ["build", "--release", "--locked", "--package", "fanlight", "--target", target];
    let mut build = cargo(&arguments);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static").env("CARGO_TARGET_DIR", &folder);
    run_command(&mut build)?;
    let program = folder.join(target).join("release/fanlight");
    let said = output(Command::new("ldd").arg(&program))?;
    ensure!(said.contains("statically linked"), "it is not static: {said}");
    Ok(program)
}

/// Puts the program and the libraries that it loads where the image has them.
fn fill(rootfs: &Path, program: &Path) -> anyhow::Result<()> {
    let _ = fs::remove_dir_all(rootfs);
    copy(program, &rootfs.join("usr/local/bin/fanlight"))?;
    let listed = output(Command::new("ldd").arg(program))?;
    let libraries: BTreeSet<_> =
        listed.split_whitespace().filter(|word| word.starts_with('/')).collect();
    for library in libraries {
        copy(Path::new(library), &rootfs.join(&library[1..]))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to.parent().context("a file in no folder")?)?;
    fs::copy(from, to).with_context(|| format!("could not copy {}", from.display()))?;
    Ok(())
}

/// The last lines of both files say the same: what is run here is what is published.
fn has_what_is_published() -> anyhow::Result<()> {
    let last = |path| {
        let text = fs::read_to_string(root().join(path))?;
        let from = text.find("USER ").context("no USER")?;
        anyhow::Ok(text[from..].to_owned())
    };
    let (published, scratch) = (last("deploy/Dockerfile")?, last("deploy/Dockerfile.scratch")?);
    ensure!(published == scratch, "from USER on, deploy/Dockerfile and Dockerfile.scratch differ");
    Ok(())
}

/// A container of the image; both go with this value.
struct Container {
    storage: PathBuf,
    name: String,
}

impl Container {
    fn build(folder: &Path) -> anyhow::Result<Self> {
        // Apart from what else there is on this machine.
        let storage = folder.join("storage");
        let mut container = Self { storage, name: String::new() };
        // Health checks are of Docker's format only.
        let options = ["build", "--isolation", "chroot", "--format", "docker", "--tag", IMAGE];
        let mut build = container.buildah(&options);
        build.arg("--file").arg(root().join("deploy/Dockerfile.scratch")).arg(folder);
        run_command(&mut build)?;
        container.name = output(&mut container.buildah(&["from", IMAGE]))?.trim().into();
        Ok(container)
    }

    fn buildah(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.storage.join("root"));
        command.arg("--runroot").arg(self.storage.join("run"));
        command.args(["--storage-driver", "vfs"]).args(arguments);
        command
    }

    /// Runs it with its own entry point and user, until its own health check succeeds.
    fn serves(&self) -> anyhow::Result<()> {
        let inspected = output(&mut self.buildah(&["inspect", &self.name]))?;
        let config: Value = serde_json::from_str(&inspected)?;
        let config = &config["Docker"]["config"];
        let mut entry = words(&config["Entrypoint"])?;
        entry.extend(words(&config["Cmd"])?);
        let health = words(&config["Healthcheck"]["Test"])?;
        ensure!(health.first().is_some_and(|kind| kind == "CMD"), "no command: {health:?}");
        let user = config["User"].as_str().context("the image has no user")?;
        ensure!(!user.is_empty() && !user.starts_with('0'), "it runs as root");

        let (public, admin) = (free_port()?, free_port()?);
        let admin_option = format!("FANLIGHT__LISTEN__ADMIN=127.0.0.1:{admin}");
        let mut serve = self.run(&entry, &admin_option);
        let listen = format!("127.0.0.1:{public}");
        serve.args(["--dev", "--listen", &listen, "--api", "127.0.0.1:0"]);
        let mut gateway = Gateway(serve.stdout(Stdio::null()).spawn()?);
        let deadline = Instant::now() + PATIENCE;
        while !self.run(&health[1..], &admin_option).stdout(Stdio::null()).status()?.success() {
            if let Some(status) = gateway.0.try_wait()? {
                bail!("the gateway ended with {status}");
            }
            ensure!(Instant::now() < deadline, "its health check never succeeded");
            thread::sleep(Duration::from_millis(200));
        }
        let uid = owner_of_listener(public)?;
        ensure!(user.starts_with(&format!("{uid}:")), "it runs as {uid}, the image says {user}");
        let url = format!("ws://127.0.0.1:{public}/ws");
        let publish = words(&serde_json::json!([entry[0], "pub", url, "/topic/a", "1"]))?;
        run_command(&mut self.run(&publish, &admin_option))?;
        gateway.end()?;
        let failed = self.run(&health[1..], &admin_option).stderr(Stdio::null()).status()?;
        ensure!(failed.code() == Some(1), "a gateway that is gone is healthy: {failed}");
        Ok(())
    }

    fn run(&self, words: &[String], variable: &str) -> Command {
        let mut command = self.buildah(&["run", "--isolation", "chroot", "--env", variable]);
        command.arg(&self.name).arg("--").args(words);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.buildah(&["rm", "--all"]).stdout(Stdio::null()).status();
        let _ = self.buildah(&["rmi", "--all", "--force"]).stdout(Stdio::null()).status();
    }
}

/// `buildah run`; its program ends with it.
struct Gateway(Child);

impl Gateway {
    fn end(&mut self) -> anyhow::Result<()> {
        run_command(Command::new("kill").args(["-s", "TERM", &self.0.id().to_string()]))?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.end();
        }
    }
}

fn words(list: &Value) -> anyhow::Result<Vec<String>> {
    serde_json::from_value(list.clone()).with_context(|| format!("not a list of words: {list}"))
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Who listens at the port, by the kernel's table.
fn owner_of_listener(port: u16) -> anyhow::Result<String> {
    let table = fs::read_to_string("/proc/net/tcp")?;
    let address = format!(":{port:04X}");
    let line =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| {
            words.get(1).is_some_and(|local| local.ends_with(&address))
                && words.get(3) == Some(&"0A")
        });
    Ok((*line.context("nobody listens")?.get(7).context("no owner")?).to_owned())
}

const IMAGE: &str = "localhost/fanlight-check";
const PATIENCE: Duration = Duration::from_secs(60);
