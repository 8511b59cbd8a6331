//! Redis for servers of several nodes: one process, or a master, a replica and a sentinel.

use std::fs;
use std::io::{self, Read, Write};
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

    /// The master, which is all there is of a single server.
    pub fn master(&self) -> &Node {
        &self.master
    }

    /// The bytes that the master says its data and connections take.
    pub fn used_bytes(&self) -> Result<u64> {
        let text = info(self.master.address, "memory")?;
        let bytes = text.lines().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(bytes.context("INFO does not tell used_memory")?.trim().parse()?)
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
    info(master, "replication").is_ok_and(|answer| answer.contains("state=online"))
}

fn info(server: SocketAddr, section: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(server)?;
    socket.write_all(format!("INFO {section}\r\nQUIT\r\n").as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

fn program(folder: &TempDir) -> Result<Command> {
    let program = find_program("redis-server").context("several nodes need Redis")?;
    let mut command = Command::new(program);
    command.current_dir(folder.path());
    Ok(command)
}

const MASTER: &str = "main";
