//! A process' listeners: taken at its start, and open once it can serve.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{io, iter};

use anyhow::Context as _;
use axum::Router;
use socket2::{Domain, Socket, Type};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::HttpServer;
use crate::admission::Admission;
use crate::config::Limits;
use crate::descriptors::Allowance;

/// An address that nobody else has, and on which nothing is accepted yet: who connects is refused,
/// and tries elsewhere.
#[derive(Debug)]
pub struct Reserved {
    option: &'static str,
    socket: Socket,
    address: SocketAddr,
}

impl Reserved {
    /// Takes the `address` that this option gives; fails when another process listens there, which
    /// `SO_REUSEPORT` alone would hide.
    pub fn new(option: &'static str, address: SocketAddr) -> anyhow::Result<Self> {
        let take = || {
            drop(bind(address, false)?);
            let socket = bind(address, true)?;
            let address = socket.local_addr()?.as_socket();
            Ok::<_, io::Error>((socket, address.ok_or(io::ErrorKind::AddrNotAvailable)?))
        };
        let (socket, address) = take().with_context(|| cannot_listen(option, address))?;
        Ok(Self { option, socket, address })
    }

    /// The address, with the port that was free where any would do.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens by one socket.
    pub fn listen(self) -> anyhow::Result<Socket> {
        let mut sockets = self.listen_by(1)?;
        sockets.pop().context("one was asked for")
    }

    /// Listens by so many sockets, at least one, between which the kernel spreads connections. All
    /// are bound before the first listens, so that it has them alone for no time.
    pub fn listen_by(self, sockets: usize) -> anyhow::Result<Vec<Socket>> {
        let (option, address) = (self.option, self.address);
        let listen = || {
            // Another process may have taken the same address meanwhile, and listen.
            drop(bind(address, false)?);
            let more = (1..sockets).map(|_| bind(address, true)).collect::<io::Result<Vec<_>>>()?;
            let all: Vec<Socket> = iter::once(self.socket).chain(more).collect();
            all.iter().try_for_each(|socket| socket.listen(BACKLOG))?;
            Ok::<_, io::Error>(all)
        };
        listen().with_context(|| cannot_listen(option, address))
    }
}

/// Serves those who are no clients, operators and backends, until the shutdown. Their connections
/// are counted apart from the clients', who must not be able to shut them out.
pub struct OwnServer<'p> {
    /// What it is called in the log.
    pub name: &'static str,
    /// The bounds, of which those of time and streams are for everybody.
    pub limits: &'p Limits,
    /// Which file descriptors its connections may take.
    pub allowance: Allowance,
    /// Owns its tasks.
    pub tracker: &'p TaskTracker,
    /// Ends it.
    pub shutdown: &'p CancellationToken,
}

impl OwnServer<'_> {
    /// Begins to answer by `router` what comes to `listener`.
    pub fn start(&self, listener: Socket, router: Router) {
        let server = HttpServer {
            router,
            tracker: self.tracker.clone(),
            shutdown: self.shutdown.clone(),
            head_time: self.limits.request_head_time.0,
            admission: Admission::new(CONNECTIONS, 0, &[]),
            tls: None,
            patience: self.limits.send_time.0,
            max_streams: self.limits.http2_streams,
            leaving: self.shutdown.clone(),
            allowance: self.allowance,
        };
        self.tracker.spawn(log_end(self.name, server.run(listener)));
    }
}

/// Says it in the log if what serves a listener ends by a failure.
pub async fn log_end(what: &'static str, end: impl Future<Output = io::Result<()>>) {
    if let Err(error) = end.await {
        tracing::error!(%error, "{what} has failed");
    }
}

/// An address to connect to, where the process listens on all.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn cannot_listen(option: &str, address: SocketAddr) -> String {
    format!("{option}: can't listen on {address}; free the port or choose another address")
}

const BACKLOG: i32 = 4096;
/// Of each listener that is not for clients.
const CONNECTIONS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn what_is_reserved_refuses_connections_until_it_listens_by_every_socket() {
        let reserved = Reserved::new("listen.public", (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = reserved.address();
        let refused = TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let sockets = reserved.listen_by(3).unwrap();
        assert_eq!(sockets.len(), 3);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn of_two_that_reserve_an_address_before_either_listens_the_second_fails_as_it_listens() {
        let first = Reserved::new("listen.admin", (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let second = Reserved::new("listen.admin", first.address()).unwrap();
        let _listens = first.listen().unwrap();
        let error = second.listen().unwrap_err().to_string();
        assert!(error.starts_with("listen.admin: can't listen on 127.0.0.1:"), "{error}");
    }
}
