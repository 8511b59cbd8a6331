//! Socket.IO: `peers/socketio`, installed by npm.

use std::process::Command;

use anyhow::{Result, ensure};

use super::node::{Node, free_address};
use super::{Redis, Start, find_program, peers};

/// Starts a node.
pub fn start(start: &Start<'_>, redis: Option<&Redis>) -> Result<Node> {
    let address = free_address()?;
    let mut command = Command::new(find_program("node")?);
    command
        .arg(peers().join("socketio/server.mjs"))
        .env("NODE_ENV", "production")
        .env("PORT", address.port().to_string())
        .env("SECRET", start.secret);
    if let Some(redis) = redis {
        command.env("REDIS_URL", redis.url());
    }
    Node::start(&command, address, tempfile::tempdir()?)
}

/// Installs it, the first time.
pub fn install() -> Result<()> {
    find_program("node")?;
    let folder = peers().join("socketio");
    if !folder.join("node_modules/socket.io").exists() {
        let status = Command::new(find_program("npm")?)
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(folder)
            .status()?;
        ensure!(status.success(), "npm could not install Socket.IO");
    }
    Ok(())
}

/// Socket.IO's and Node's.
pub fn version() -> Result<String> {
    let manifest: serde_json::Value =
        serde_json::from_str(include_str!("../../peers/socketio/package.json"))?;
    let socketio = manifest["dependencies"]["socket.io"].as_str().unwrap_or_default().to_owned();
    let output = Command::new("node").arg("--version").output()?;
    Ok(format!("Socket.IO {socketio}, Node {}", String::from_utf8(output.stdout)?.trim()))
}
