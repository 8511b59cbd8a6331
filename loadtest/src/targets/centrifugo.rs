//! Centrifugo: from the `PATH`, or built by Go from its own module.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::node::{Node, free_address};
use super::{Redis, Start, find_program, peers};

/// Starts a node with `peers/centrifugo/config.json`.
pub fn start(start: &Start<'_>, redis: Option<&Redis>) -> Result<Node> {
    let address = free_address()?;
    let mut command = Command::new(binary()?);
    command
        .arg("--config")
        .arg(peers().join("centrifugo/config.json"))
        .env("CENTRIFUGO_HTTP_SERVER_PORT", address.port().to_string())
        .env("CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY", start.secret);
    if let Some(redis) = redis {
        command
            .env("CENTRIFUGO_ENGINE_TYPE", "redis")
            .env("CENTRIFUGO_ENGINE_REDIS_ADDRESS", redis.url());
    }
    Node::start(&command, address, tempfile::tempdir()?)
}

/// The binary; the first time, Go fetches and builds it.
pub fn binary() -> Result<PathBuf> {
    if let Ok(binary) = find_program("centrifugo") {
        return Ok(binary);
    }
    let folder = std::env::current_exe()?.with_file_name("peers");
    let binary = folder.join("centrifugo");
    if !binary.exists() {
        eprintln!("building Centrifugo {VERSION}");
        let status = Command::new(find_program("go")?)
            .args(["install", &format!("github.com/centrifugal/centrifugo/v6@{VERSION}")])
            .env("GOBIN", &folder)
            .status()?;
        ensure!(status.success(), "Go could not build Centrifugo");
    }
    Ok(binary)
}

/// What it says; a build by Go does not know, but was asked for this one.
pub fn version() -> Result<String> {
    let output = Command::new(binary()?).arg("version").output()?;
    let said = String::from_utf8(output.stdout)?;
    let line = said.lines().next().context("Centrifugo has no version")?;
    Ok(line.replace("v0.0.0", VERSION))
}

const VERSION: &str = "v6.9.1";
