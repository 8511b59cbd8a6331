//! Redis for servers of several nodes: one process, or a master, a replica and a sentinel.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::find_program;
use super::node::{Node, free_address};

/// Redis processes, which end with this value.
pub struct Redis {
    master: Node,
    /// The replica and the sentinel.
    others: Vec<Node>,
}

impl Redis {
    /// One server that keeps nothing on disk.
    pub fn start() -> Result<Self> {
        Ok(Self { master: server(&[])?, others: Vec::new() })
    }

    /// A master, a replica, and a sentinel that notices soon.
    pub fn start_with_sentinel() -> Result<Self> {
        let master = server(&[])?;
        let port = master.address.port().to_string();
        let replica = server(&["--replicaof", "127.0.0.1", &port])?;
        // What a sentinel does not know when the master dies, it can't promote.
        master.eventually(|| Ok(has_replica(master.address)))?;
        Ok(Self { others: vec![replica, sentinel(&port)?], master })
    }

    /// For any client.
    pub fn url(&self) -> String {
        format!("redis://{}", self.master.address)
    }

    /// For Fanlight, which follows sentinels.
    pub fn fanlight_url(&self) -> String {
        match self.others.last() {
            Some(sentinel) => format!("redis-sentinel://{}/{MASTER}", sentinel.address),
            None => self.url(),
        }
    }

    /// Kills the master.
    pub fn kill_master(&self) -> Result<()> {
        self.master.kill()
    }
}

fn server(arguments: &[&str]) -> Result<Node> {
    let (address, folder) = (free_address()?, tempfile::tempdir()?);
    let mut command = program(&folder)?;
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
    command.args(arguments);
    Node::start(&command, address, folder)
}

fn sentinel(master_port: &str) -> Result<Node> {
    let (address, folder) = (free_address()?, tempfile::tempdir()?);
    let config = folder.path().join("sentinel.conf");
    fs::write(
        &config,
        format!(
            "bind 127.0.0.1\nport {}\nsentinel monitor {MASTER} 127.0.0.1 {master_port} 1\n\
             sentinel down-after-milliseconds {MASTER} 1000\n\
             sentinel failover-timeout {MASTER} 5000\n",
            address.port()
        ),
    )?;
    let mut command = program(&folder)?;
    command.arg(config).arg("--sentinel");
    Node::start(&command, address, folder)
}

fn has_replica(master: SocketAddr) -> bool {
    let ask = || {
        let mut socket = TcpStream::connect(master)?;
        socket.write_all(b"INFO replication\r\nQUIT\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("state=online"))
}

fn program(folder: &TempDir) -> Result<Command> {
    let program = find_program("redis-server").context("several nodes need Redis")?;
    let mut command = Command::new(program);
    command.current_dir(folder.path());
    Ok(command)
}

const MASTER: &str = "main";
