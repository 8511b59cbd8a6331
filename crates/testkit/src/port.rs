//! Ports that stay a test's own, also against test processes that run beside it.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::bail;

/// A TCP port that no other lease has, until this is dropped or its process ends.
///
/// Held by the UDP socket of the same number, which neither Redis nor nginx uses: so the port stays
/// taken while its server is down, and no file is left behind.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _held: UdpSocket,
}

impl PortLease {
    /// Takes a port that nobody listens on, below those that the kernel gives to outgoing
    /// connections.
    pub fn take() -> anyhow::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() % 1000) as u16 * 10;
        for _ in 0..PORTS {
            let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
            let port = FIRST_PORT + offset;
            let Ok(held) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self { port, _held: held });
            }
        }
        bail!("no free port from {FIRST_PORT} on");
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.port
    }
}

const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;
