//! The Terraform modules: by terraform itself, with a provider that has AWS' schemas and no AWS
//! (`terraform/stub`), by checkov, and what they would have ECS run by botocore and the gateway.

mod broken;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::{Outcome, derived, prometheus};
use crate::process::{cargo, find_program, root, run as run_command};
use crate::tools;

/// The providers that the modules use, and the packages that hold their schemas.
const PROVIDERS: [(&str, &str); 2] =
    [("aws", "@cdktf/provider-aws@21.22.1"), ("random", "@cdktf/provider-random@12.0.1")];

const RULES: &str = "terraform/modules/observability/rules";

pub(super) fn run() -> anyhow::Result<Outcome> {
    derived::check(RULES, &rules()?, "deploy/prometheus/rules", "terraform")?;
    checkov()?;
    if find_program("terraform").is_none() {
        let what = "all but checkov: terraform is not on the PATH; it is at \
                    https://developer.hashicorp.com/terraform/install, 1.9 or newer";
        return Ok(Outcome::Skipped(what.into()));
    }
    let format = ["fmt", "-check", "-diff", "-recursive", "terraform"];
    run_command(terraform(&mut Command::new("terraform")).args(format).current_dir(root()))?;
    let stub = Stub::new()?;
    let copy = copy("terraform")?;
    for folder in folders(&copy.join("modules"))? {
        module(&stub, &folder)?;
        readme_names_all(&folder)?;
    }
    let complete = copy.join("examples/complete");
    example(&stub, &complete)?;
    without_a_way_out(&stub, &complete)?;
    readme_names_all(&complete)?;
    broken::all_are_noticed(&stub)?;
    Ok(Outcome::Passed)
}

/// The rules of Prometheus, within the module: whoever takes it from elsewhere has only that.
fn rules() -> anyhow::Result<derived::Files> {
    let made =
        "# Made of deploy/prometheus/rules by `UPDATE_EXPECT=1 cargo xtask deploy terraform`.\n";
    let files = prometheus::rules()?.into_iter();
    Ok(files.map(|(name, text)| (format!("{name}.yml"), made.to_owned() + &text)).collect())
}

fn checkov() -> anyhow::Result<()> {
    let bin = tools::python("terraform/checkov-requirements.txt")?;
    let mut command = Command::new(bin.join("checkov"));
    command.args(["--directory", ".", "--config-file", ".checkov.yaml"]);
    run_command(command.current_dir(root().join("terraform")))
}

fn module(stub: &Stub, folder: &Path) -> anyhow::Result<()> {
    stub.terraform(folder, &["init", "-backend=false"])?;
    stub.terraform(folder, &["validate"])?;
    stub.terraform(folder, &["test"])?;
    Ok(())
}

/// Whoever adds an input or an output says so to its readers.
fn readme_names_all(folder: &Path) -> anyhow::Result<()> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let readme = read("README.md")?;
    for (file, keyword) in [("variables.tf", "variable "), ("outputs.tf", "output ")] {
        let text = read(file)?;
        let names = text.lines().filter_map(|line| line.strip_prefix(keyword)?.split('"').nth(1));
        for name in names {
            if !readme.contains(&format!("| `{name}` |")) {
                bail!("{}: README.md has no row for `{name}`", folder.display());
            }
        }
    }
    Ok(())
}

/// Applies the example, with everything on, finds nothing left to change, and destroys it. What it
/// would have ECS run is read by botocore and by the gateway.
fn example(stub: &Stub, folder: &Path) -> anyhow::Result<()> {
    let with = ["-input=false", "-var-file=example.tfvars.json"];
    stub.terraform(folder, &["init", "-backend=false"])?;
    stub.terraform(folder, &["validate"])?;
    stub.terraform(folder, &["plan", with[0], with[1], "-out=plan"])?;
    stub.terraform(folder, &["apply", "plan"])?;
    let shown = stub.terraform(folder, &["show", "-json"])?;
    stub.terraform(folder, &["plan", with[0], with[1], "-detailed-exitcode"])?;
    stub.terraform(folder, &["destroy", with[0], with[1], "-auto-approve"])?;
    let (state, environment) = (folder.join("state.json"), folder.join("environment.json"));
    fs::write(&state, shown).with_context(|| state.display().to_string())?;
    let mut check = Command::new(stub.bin.join("python"));
    check.arg(root().join("terraform/stub/check_tasks.py")).args([&state, &environment]);
    run_command(&mut check)?;
    let text = fs::read_to_string(&environment).with_context(|| "environment.json")?;
    gateway_takes(&serde_json::from_str(&text).context("environment.json")?)
}

/// Applies the example where endpoints of AWS' services are the only way out, and looks whether its
/// tasks find all that they need. What can't be reached then is refused: its tests.
fn without_a_way_out(stub: &Stub, folder: &Path) -> anyhow::Result<()> {
    let with = [
        "-input=false",
        "-var-file=example.tfvars.json",
        "-var-file=endpoints.tfvars.json",
        "-auto-approve",
    ];
    stub.terraform(folder, &["test", with[1]])?;
    stub.terraform(folder, &[&["apply"][..], &with[..]].concat())?;
    let shown = stub.terraform(folder, &["show", "-json"])?;
    stub.terraform(folder, &[&["destroy"][..], &with[..]].concat())?;
    let state = folder.join("endpoints-state.json");
    fs::write(&state, shown).with_context(|| state.display().to_string())?;
    let mut check = Command::new(stub.bin.join("python"));
    run_command(check.arg(root().join("terraform/stub/check_endpoints.py")).arg(&state))
}

/// The gateway itself reads its options as the task would give them.
fn gateway_takes(environment: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let mut check = cargo(&["run", "--quiet", "--package", "fanlight", "--", "config", "check"]);
    // Not shown with its environment, which holds a password, if a made-up one.
    println!("$ fanlight config check, in the environment of the task");
    let status = check.envs(environment).stdin(Stdio::null()).status()?;
    if !status.success() {
        bail!("the gateway refuses the options of terraform/examples/complete");
    }
    Ok(())
}

/// The provider that needs no AWS.
struct Stub {
    bin: PathBuf,
    /// `name=schema` of each provider.
    schemas: Vec<String>,
}

impl Stub {
    fn new() -> anyhow::Result<Self> {
        let bin = tools::python("terraform/stub/stub-requirements.txt")?;
        let extract = root().join("terraform/stub/extract.py");
        let mut schemas = Vec::new();
        for (name, package) in PROVIDERS {
            let archive = tools::npm_archive(package)?;
            let schema = archive.with_file_name("schema.json");
            let mut command = Command::new(bin.join("python"));
            run_command(command.arg(&extract).args([&archive, &schema]))?;
            schemas.push(format!("{name}={}", schema.display()));
        }
        Ok(Self { bin, schemas })
    }

    /// Runs terraform in `folder`, and returns what it prints: all of it is shown if it fails, else
    /// the last line.
    fn terraform(&self, folder: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        let place = folder.strip_prefix(root()).unwrap_or(folder).display();
        println!("$ terraform -chdir={place} {}", arguments.join(" "));
        let mut command = Command::new(self.bin.join("python"));
        command.arg(root().join("terraform/stub/provider.py")).args(&self.schemas);
        command.args(["--", "terraform"]).args(arguments).current_dir(folder);
        let is_json = arguments.contains(&"-json");
        if !is_json {
            command.arg("-no-color");
        }
        let output = terraform(&mut command).output().context("could not start python")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        if !is_json {
            println!("{}", text.trim_end().lines().next_back().unwrap_or_default());
        }
        Ok(text)
    }
}

/// No configuration of this user's, nor a question to the makers of terraform for a new version.
fn terraform(command: &mut Command) -> &mut Command {
    command.env("TF_CLI_CONFIG_FILE", "/dev/null").env("CHECKPOINT_DISABLE", "1")
}

/// A new copy of all modules, so that nothing is left among the sources.
fn copy(name: &str) -> anyhow::Result<PathBuf> {
    let copy = root().join("target/tmp").join(name);
    let _ = fs::remove_dir_all(&copy);
    copy_folder(&root().join("terraform"), &copy)?;
    Ok(copy)
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let (source, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            // What somebody's terraform left here is not to decide anything.
            if name != ".terraform" {
                copy_folder(&source, &to.join(name))?;
            }
        } else if !name.to_string_lossy().contains(".tfstate") {
            fs::copy(&source, to.join(name)).with_context(|| source.display().to_string())?;
        }
    }
    Ok(())
}

fn folders(parent: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(parent).with_context(|| parent.display().to_string())?;
    let mut folders: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}
