//! Spring's STOMP endpoint and simple broker: `peers/spring`, built by Maven.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::node::{Node, free_address};
use super::{Start, find_program, peers};

/// Starts it.
pub fn start(start: &Start<'_>) -> Result<Node> {
    let address = free_address()?;
    let mut command = Command::new(find_program("java")?);
    command
        .args(JVM)
        .arg("-jar")
        .arg(jar()?)
        .arg(format!("--server.port={}", address.port()))
        .arg(format!("--peer.secret={}", start.secret));
    Node::start(&command, address, tempfile::tempdir()?)
}

/// The jar; the first time, Maven fetches Spring and builds it.
pub fn jar() -> Result<PathBuf> {
    find_program("java")?;
    let folder = peers().join("spring");
    let jar = folder.join("target/spring-peer.jar");
    if !jar.exists() {
        eprintln!("building the Spring peer");
        let status = Command::new(find_program("mvn")?)
            .args(["--batch-mode", "--no-transfer-progress", "--quiet", "package"])
            .current_dir(folder)
            .status()?;
        ensure!(status.success(), "Maven could not build the Spring peer");
    }
    Ok(jar)
}

/// Spring's and Java's.
pub fn version() -> String {
    let pom = include_str!("../../peers/spring/pom.xml");
    let boot = pom.split("<version>").nth(1).and_then(|rest| rest.split('<').next());
    let output = Command::new("java").arg("-version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
    let java = said.ok().and_then(|said| said.lines().next().map(str::to_owned));
    format!(
        "Spring Boot {}, {}",
        boot.unwrap_or_default(),
        java.unwrap_or_default().replace('"', "")
    )
}

/// Asks the JVM for a full collection, after which it gives unused heap back.
pub fn collect_garbage(node: &Node) -> Result<()> {
    let Some(process) = node.process() else { return Ok(()) };
    let status = Command::new(find_program("jcmd")?)
        .args([&process.id().to_string(), "GC.run"])
        .stdout(Stdio::null())
        .status()
        .context("jcmd")?;
    ensure!(status.success(), "jcmd could not ask for a collection");
    Ok(())
}

/// G1 on any machine, and a heap that shrinks to what is in use.
const JVM: [&str; 4] =
    ["-XX:+UseG1GC", "-Xmx4g", "-XX:MinHeapFreeRatio=5", "-XX:MaxHeapFreeRatio=10"];
