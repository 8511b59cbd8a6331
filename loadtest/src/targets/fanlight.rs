//! The gateway: this workspace's build, configured for measuring.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::node::{Node, free_address};
use super::{Redis, Start};

/// Starts a node, and waits until it is ready.
pub fn start(start: &Start<'_>, redis: Option<&Redis>) -> Result<Node> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("fanlight.toml");
    let (public, admin) = (free_address()?, free_address()?);
    let mut text = format!(
        "workers = {}\n[listen]\npublic = \"{public}\"\nadmin = \"{admin}\"\n",
        start.nodes.workers
    );
    let broker = match redis {
        Some(redis) => {
            format!("[broker]\nkind = \"redis\"\n[redis]\nurl = \"{}\"\n", redis.fanlight_url())
        }
        None => "[broker]\nkind = \"memory\"\n".into(),
    };
    text += &broker;
    text += &FIXED.replace("SECRET", start.secret);
    for namespace in ["topic", "user"] {
        let _ =
            write!(text, "[[namespaces]]\nname = \"{namespace}\"\nmatch = \"/{namespace}/**\"\n");
        if start.nodes.history > 0 {
            let size = start.nodes.history;
            let _ = writeln!(text, "history = {{ size = {size}, ttl = \"5m\" }}");
        }
        if start.presence && namespace == "topic" {
            text += "presence = true\n";
        }
    }
    fs::write(&config, text)?;
    let mut command = Command::new(binary(start.gateway)?);
    command.arg("serve").arg("--config").arg(config);
    let mut node = Node::start(&command, public, folder)?;
    node.admin = Some(admin);
    node.eventually(|| Ok(is_ready(&node)))?;
    Ok(node)
}

/// Tells a node to drain.
pub fn drain(node: &Node) -> Result<()> {
    let answer = ask(node, "POST", "/drain")?;
    ensure!(answer.starts_with("HTTP/1.1 202"), "/drain was answered by {answer}");
    Ok(())
}

/// `fanlight 0.1.0`.
pub fn version(start: &Start<'_>) -> Result<String> {
    version_of(&binary(start.gateway)?)
}

/// The same of a binary.
pub fn version_of(binary: &Path) -> Result<String> {
    let output = Command::new(binary).arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The gateway's binary: the one that was built beside this program, unless another is named.
pub fn binary(gateway: Option<&Path>) -> Result<PathBuf> {
    let binary = match gateway {
        Some(binary) => binary.to_owned(),
        None => std::env::current_exe()?.with_file_name("fanlight"),
    };
    ensure!(
        binary.exists(),
        "{} is missing; build it with `cargo build --release -p fanlight`",
        binary.display()
    );
    Ok(binary)
}

/// Whether a node says that it is ready.
pub fn is_ready(node: &Node) -> bool {
    ask(node, "GET", "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn ask(node: &Node, method: &str, path: &str) -> Result<String> {
    ask_at(node.admin.unwrap_or(node.address), method, path)
}

/// What an admin listener answers.
pub fn ask_at(admin: SocketAddr, method: &str, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(admin)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Defaults, but without the limits that a single address or user would meet.
const FIXED: &str = r#"
[limits]
connections_per_ip = 0
handshakes_per_second_per_ip = 0
handshakes_per_second_per_user = 0
handshakes_per_second = 0
sessions_per_user = 0
messages_per_second = 0
[drain]
grace = "1s"
window = "10s"
deadline = "2s"
[log]
level = "warn"
[[auth.keys]]
algorithm = "HS256"
secret = "SECRET"
[[policy.rules]]
effect = "allow"
destination = "/topic/**"
[[policy.rules]]
effect = "allow"
actions = ["subscribe"]
destination = "/user/queue/**"
[[policy.rules]]
effect = "allow"
actions = ["publish"]
destination = "/user/{name}/queue/**"
"#;
