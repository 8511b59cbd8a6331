//! The floor: a process that does nothing but `send` the same bytes to every connection.

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};
use fanlight_proto::ws::{self, Opcode};

/// How the bare sender is started.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Connections to accept.
    #[arg(long)]
    connections: usize,
}

/// Accepts, prints its port first, then sends whatever each line of its input asks for:
/// `ROUNDS BYTES` sends a frame of BYTES to every connection, ROUNDS times as one `send` each.
pub fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    let mut sockets = Vec::with_capacity(options.connections);
    while sockets.len() < options.connections {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (frames, bytes) = line.split_once(' ').context("a line is `FRAMES BYTES`")?;
        let mut frame = Vec::new();
        let payload = vec![b'x'; bytes.parse()?];
        for _ in 0..frames.parse::<usize>()? {
            ws::frame(&mut frame, Opcode::Text, &payload);
        }
        for socket in &mut sockets {
            // The client reads all before it asks again, so the socket always has room.
            let sent = socket.write(&frame)?;
            anyhow::ensure!(sent == frame.len(), "the client does not keep up");
        }
    }
    Ok(())
}
