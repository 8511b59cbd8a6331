//! The null server: this program, as little of a server as there can be.

use std::process::Command;

use anyhow::Result;

use super::Start;
use super::node::{Node, free_address};

/// Starts it.
pub fn start(start: &Start<'_>) -> Result<Node> {
    let address = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["null", "--listen", &address.to_string()]);
    if let Some(fault) = start.null_fault {
        command.args(["--fault", fault]);
    }
    Node::start(&command, address, tempfile::tempdir()?)
}
