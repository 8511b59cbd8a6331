//! A real proxy in front of the nodes, with the configuration that is shipped.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::nodes::low_address;
use crate::fleet::file_descriptors;
use crate::targets::become_server::{bound, bound_gently};
use crate::targets::{Node, find_program};

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// With a process for each core.
    Nginx,
    /// One process; it has two descriptors for each client.
    Haproxy,
}

/// A proxy that runs; it ends with this value.
pub struct Proxy {
    node: Node,
    /// What it says of itself.
    pub version: String,
}

impl Proxy {
    /// Starts one for this many clients.
    pub fn start(kind: Kind, nodes: &[SocketAddr], clients: usize) -> Result<Self> {
        let (address, folder) = (low_address()?, tempfile::tempdir()?);
        let (command, version) = match kind {
            Kind::Nginx => (nginx(&folder, address, nodes)?, version("nginx", "-v")?),
            Kind::Haproxy => {
                (haproxy(&folder, address, nodes, clients)?, version("haproxy", "-v")?)
            }
        };
        Ok(Self { node: Node::start_bound(command, address, folder)?, version })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.node.address
    }

    /// What it has said, the end of it.
    pub fn said(&self) -> String {
        self.node.said()
    }
}

impl Drop for Proxy {
    /// By a signal that nginx passes on to its processes, which would outlive it otherwise.
    fn drop(&mut self) {
        let until = Instant::now() + END_TIME;
        if self.node.terminate().is_ok() {
            while matches!(self.node.ended(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn nginx(folder: &TempDir, address: SocketAddr, nodes: &[SocketAddr]) -> Result<Command> {
    let path = folder.path();
    // Its processes may run as another user than this.
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    let servers = nodes.iter().map(|node| format!("        server {node} max_fails=0;\n"));
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders = kinds.map(|kind| format!("{kind}_temp_path {}/{kind};\n", path.display()));
    let mut text = NGINX.to_owned();
    replace(&mut text, "listen 127.0.0.1:8000;", &format!("listen {address};"))?;
    replace(&mut text, "\nhttp {\n", &format!("\nhttp {{\n{}", folders.concat()))?;
    replace_servers(&mut text, "server 127.0.0.1:", &servers.collect::<String>())?;
    let configuration = path.join("nginx.conf");
    fs::write(&configuration, text)?;
    let mut command = Command::new(find_program("nginx")?);
    command.arg("-p").arg(path).arg("-c").arg(configuration).arg("-g");
    command.arg(format!("daemon off; error_log stderr; pid {}/pid;", path.display()));
    bound_gently(&command)
}

fn haproxy(
    folder: &TempDir,
    address: SocketAddr,
    nodes: &[SocketAddr],
    clients: usize,
) -> Result<Command> {
    // Publishers and those who come again while their old connection is not yet gone.
    let most = clients + clients / 10 + 100;
    let limit = file_descriptors()?;
    ensure!(
        2 * most + SPARE_DESCRIPTORS <= limit,
        "HAProxy needs two descriptors for each of {clients} clients, in one process that may open \
         {limit}: raise the limit, take fewer, or `--proxy nginx`, which has several processes"
    );
    let server = |(number, node): (usize, &SocketAddr)| format!("    server n{number} {node}\n");
    let servers: String = nodes.iter().enumerate().map(server).collect();
    let mut text = HAPROXY.to_owned();
    replace(&mut text, "bind 127.0.0.1:8000", &format!("bind {address}"))?;
    replace(&mut text, "maxconn 30000", &format!("maxconn {most}"))?;
    replace_servers(&mut text, "server node", &servers)?;
    let configuration = folder.path().join("haproxy.cfg");
    fs::write(&configuration, text)?;
    let mut command = Command::new(find_program("haproxy")?);
    command.arg("-db").arg("-f").arg(configuration);
    bound(&command)
}

fn replace(text: &mut String, from: &str, to: &str) -> Result<()> {
    ensure!(
        text.matches(from).count() == 1,
        "{from:?} is not in the configuration that is shipped"
    );
    *text = text.replace(from, to);
    Ok(())
}

/// Puts servers in the place of those that are shipped, wherever there is a list of them.
fn replace_servers(text: &mut String, begins: &str, servers: &str) -> Result<()> {
    let is_server = |line: &str| line.trim_start().starts_with(begins);
    ensure!(text.lines().any(is_server), "no server in the configuration that is shipped");
    let (mut replaced, mut was_server) = (String::new(), false);
    for line in text.lines() {
        match (is_server(line), was_server) {
            (true, false) => replaced += servers,
            (true, true) => {}
            (false, _) => replaced.extend([line, "\n"]),
        }
        was_server = is_server(line);
    }
    *text = replaced;
    Ok(())
}

fn version(program: &str, option: &str) -> Result<String> {
    let output = Command::new(find_program(program)?).arg(option).output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().next().unwrap_or(program).trim().to_owned())
}

const NGINX: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/nginx/nginx.conf"));
const HAPROXY: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/haproxy/haproxy.cfg"));
const SPARE_DESCRIPTORS: usize = 200;
const END_TIME: Duration = Duration::from_secs(5);
