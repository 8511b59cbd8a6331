//! Connections over which a client only listens: server-sent events, SockJS by streaming.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// How they listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// `GET /events`
    Events,
    /// `POST /sockjs/.../xhr_streaming`, STOMP inside.
    SockJs,
}

/// Opens one that is subscribed to `destination`; `number` makes its session its own.
pub fn open(
    address: SocketAddr,
    token: &str,
    how: Listen,
    destination: &str,
    number: usize,
) -> Result<TcpStream> {
    match how {
        Listen::Events => {
            let mut socket = connect(address)?;
            write!(
                socket,
                "GET /events?destination={destination} HTTP/1.1\r\nHost: localhost\r\n\
                 Authorization: Bearer {token}\r\n\r\n"
            )?;
            read_until(&mut socket, "event: subscribed")?;
            Ok(socket)
        }
        Listen::SockJs => {
            let session = format!("/sockjs/000/idle-{number}");
            let mut socket = connect(address)?;
            write!(
                socket,
                "POST {session}/xhr_streaming HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            )?;
            read_until(&mut socket, "o\n")?;
            let send = |frame: &str| post(address, &session, frame);
            send(&format!(
                r"CONNECT\naccept-version:1.2\npasscode:{token}\nheart-beat:0,0\n\n\u0000"
            ))?;
            read_until(&mut socket, "CONNECTED")?;
            send(&format!(r"SUBSCRIBE\nid:0\nreceipt:r\ndestination:{destination}\n\n\u0000"))?;
            read_until(&mut socket, "RECEIPT")?;
            Ok(socket)
        }
    }
}

/// Sends one frame to a session, on a connection of its own.
fn post(address: SocketAddr, session: &str, frame: &str) -> Result<()> {
    let mut socket = connect(address)?;
    let body = format!("[\"{frame}\"]");
    write!(
        socket,
        "POST {session}/xhr_send HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 204"), "what was sent was answered by {answer}");
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(socket)
}

fn read_until(socket: &mut TcpStream, part: &str) -> Result<()> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let bytes = socket.read(&mut buffer).with_context(|| format!("{part:?} did not come"))?;
        ensure!(bytes > 0, "the connection ended before {part:?} came");
        read.extend_from_slice(&buffer[..bytes]);
        if String::from_utf8_lossy(&read).contains(part) {
            return Ok(());
        }
    }
}
