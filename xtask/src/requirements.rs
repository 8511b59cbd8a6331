//! What the tests and the examples need beside Rust, and how to get it: Debian packages, by apt-get.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

use crate::process::{find_program, run, succeeds};

/// A program that is started, and the Debian package that has it.
struct Requirement {
    program: &'static str,
    package: &'static str,
    /// An environment variable that names another binary to use instead.
    variable: Option<&'static str>,
}

const REQUIREMENTS: [Requirement; 15] = [
    Requirement::new("make", "make"),
    Requirement::new("redis-server", "redis-server"),
    Requirement::new("nginx", "nginx"),
    Requirement::new("haproxy", "haproxy"),
    Requirement::new("buildah", "buildah"),
    Requirement::new("mariadbd", "mariadb-server"),
    Requirement::new("node", "nodejs"),
    Requirement::new("npm", "npm"),
    Requirement::new("python3", "python3"),
    Requirement::new("go", "golang-go"),
    Requirement::new("javac", "default-jdk-headless"),
    Requirement::new("mvn", "maven"),
    Requirement::new("docker-compose", "docker-compose"),
    Requirement::new("promtool", "prometheus"),
    Requirement { variable: Some("CHROMIUM"), ..Requirement::new("chromium", "chromium") },
];

/// The oldest Node that `tests/js` runs on.
const NODE_MAJOR: u32 = 18;

impl Requirement {
    const fn new(program: &'static str, package: &'static str) -> Self {
        Self { program, package, variable: None }
    }

    fn is_met(&self) -> bool {
        if let Some(binary) = self.variable.and_then(env::var_os) {
            return Path::new(&binary).is_file();
        }
        // Where Debian puts servers, and who installs Go by hand, is not on everybody's path.
        let elsewhere = ["/usr/sbin", "/usr/local/go/bin"].map(Path::new);
        find_program(self.program).is_some()
            || elsewhere.iter().any(|folder| folder.join(self.program).is_file())
    }
}

/// Installs what the tests need and is missing, or says exactly what to install.
pub(crate) fn ensure() -> anyhow::Result<()> {
    ensure_all(&REQUIREMENTS.each_ref())
}

/// The same for some of these programs only.
pub(crate) fn ensure_programs(programs: &[&str]) -> anyhow::Result<()> {
    let is_needed = |requirement: &&Requirement| programs.contains(&requirement.program);
    ensure_all(&REQUIREMENTS.iter().filter(is_needed).collect::<Vec<_>>())
}

fn ensure_all(requirements: &[&Requirement]) -> anyhow::Result<()> {
    let missing = missing(requirements);
    if missing.is_empty() {
        check_node()?;
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
    match self::missing(requirements).as_slice() {
        [] => check_node(),
        still => bail!("still missing after installation: {}", still.join(", ")),
    }
}

fn missing(requirements: &[&Requirement]) -> Vec<&'static str> {
    requirements
        .iter()
        .filter(|requirement| !requirement.is_met())
        .map(|requirement| requirement.package)
        .collect()
}

/// The browser driver needs a Node newer than some distributions have.
fn check_node() -> anyhow::Result<()> {
    let output = Command::new("node").arg("--version").output()?;
    let version = String::from_utf8_lossy(&output.stdout);
    match major_version(&version) {
        Some(major) if major >= NODE_MAJOR => Ok(()),
        _ => bail!(
            "the tests need Node {NODE_MAJOR} or newer, found {}; Debian 12 and newer have it",
            version.trim()
        ),
    }
}

fn major_version(version: &str) -> Option<u32> {
    let (major, _) = version.strip_prefix('v')?.split_once('.')?;
    major.parse().ok()
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
    command.args(&prefix[1..]).args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_version_is_read_as_it_prints_it() {
        assert_eq!(major_version("v20.20.2\n"), Some(20));
        assert_eq!(major_version("node 20"), None);
    }
}
