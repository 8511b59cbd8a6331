//! What the tests need beside Rust, and how to get it: Debian packages, by apt-get.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

use crate::process::{find_program, run, succeeds};

/// A program the tests start, and the Debian package that has it.
struct Requirement {
    program: &'static str,
    package: &'static str,
    /// An environment variable that names another binary to use instead.
    variable: Option<&'static str>,
}

const REQUIREMENTS: [Requirement; 5] = [
    Requirement::new("make", "make"),
    Requirement::new("redis-server", "redis-server"),
    Requirement::new("node", "nodejs"),
    Requirement::new("npm", "npm"),
    Requirement {
        variable: Some("CHROMIUM"),
        ..Requirement::new("chromium", "chromium")
    },
];

impl Requirement {
    const fn new(program: &'static str, package: &'static str) -> Self {
        Self {
            program,
            package,
            variable: None,
        }
    }

    fn is_met(&self) -> bool {
        match self.variable.and_then(env::var_os) {
            Some(binary) => Path::new(&binary).is_file(),
            None => find_program(self.program).is_some(),
        }
    }
}

/// Installs what is missing, or says exactly what to install.
pub(crate) fn ensure() -> anyhow::Result<()> {
    let missing = missing();
    if missing.is_empty() {
        println!("tools: all present");
        return Ok(());
    }
    println!("tools: missing {}", missing.join(", "));
    let Some(prefix) = root_prefix() else {
        bail!(
            "not root and no passwordless sudo; run:\n  sudo apt-get update\n  sudo apt-get install -y {}",
            missing.join(" ")
        );
    };
    run(&mut apt_get(prefix, &["update"]))?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    run(&mut apt_get(prefix, &install))?;
    match self::missing().as_slice() {
        [] => Ok(()),
        still => bail!("still missing after installation: {}", still.join(", ")),
    }
}

fn missing() -> Vec<&'static str> {
    REQUIREMENTS
        .iter()
        .filter(|requirement| !requirement.is_met())
        .map(|requirement| requirement.package)
        .collect()
}

/// The words before `apt-get` that make us root; `None` where nothing does.
fn root_prefix() -> Option<&'static [&'static str]> {
    let is_root = Command::new("id")
        .arg("-u")
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if is_root {
        return Some(&["env"]);
    }
    succeeds(Command::new("sudo").args(["-n", "true"])).then_some(&["sudo", "-n", "env"])
}

fn apt_get(prefix: &[&str], arguments: &[&str]) -> Command {
    let mut command = Command::new(prefix[0]);
    command
        .args(&prefix[1..])
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .args(arguments);
    command
}
