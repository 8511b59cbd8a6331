//! A TCP proxy that can hold answers back and cut connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Stands between a client and a server on loopback; ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    _accept: JoinSet<()>,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    target: SocketAddr,
    answers_held: bool,
    requests_held: bool,
    cuts: u64,
}

impl FaultProxy {
    /// Listens on a port of its own and passes everything on to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let whole = Fault { target, answers_held: false, requests_held: false, cuts: 0 };
        let fault = watch::Sender::new(whole);
        let mut accept = JoinSet::new();
        accept.spawn(run(listener, fault.subscribe()));
        Ok(Self { address, fault, _accept: accept })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether everything is held back, both ways and for new connections too: a partition. What
    /// was held goes on when it is over, unless it was cut.
    pub fn hold(&self, held: bool) {
        self.fault.send_modify(|fault| {
            fault.answers_held = held;
            fault.requests_held = held;
        });
    }

    /// Passes everything on to another server from now on, and cuts every connection there is.
    pub fn retarget(&self, target: SocketAddr) {
        self.fault.send_modify(|fault| {
            fault.target = target;
            fault.cuts += 1;
        });
    }

    /// Whether what the server says is held back; what clients say passes.
    pub fn hold_answers(&self, held: bool) {
        self.fault.send_modify(|fault| fault.answers_held = held);
    }

    /// Cuts every connection there is; new ones are fine.
    pub fn cut(&self) {
        self.fault.send_modify(|fault| fault.cuts += 1);
    }
}

async fn run(listener: TcpListener, fault: watch::Receiver<Fault>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(pass(client, fault.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut client: TcpStream, mut fault: watch::Receiver<Fault>) {
    let Fault { target, cuts, .. } = *fault.borrow();
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let (requests, answers) = (fault.clone(), fault.clone());
    // Either end, or a cut, ends both.
    select! {
        _ = copy_unless(|fault| fault.requests_held, from_client, to_server, requests) => {}
        _ = copy_unless(|fault| fault.answers_held, from_server, to_client, answers) => {}
        _ = fault.wait_for(|fault| fault.cuts != cuts) => {}
    }
}

async fn copy_unless(
    is_held: impl Fn(&Fault) -> bool,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut fault: watch::Receiver<Fault>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let bytes = from.read(&mut buffer).await?;
        if bytes == 0 {
            return Ok(());
        }
        if fault.wait_for(|fault| !is_held(fault)).await.is_err() {
            return Ok(());
        }
        to.write_all(&buffer[..bytes]).await?;
    }
}
