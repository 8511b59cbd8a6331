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

#[derive(Debug, Clone, Copy, Default)]
struct Fault {
    answers_held: bool,
    cuts: u64,
}

impl FaultProxy {
    /// Listens on a port of its own and passes everything on to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let fault = watch::Sender::new(Fault::default());
        let mut accept = JoinSet::new();
        accept.spawn(run(listener, target, fault.subscribe()));
        Ok(Self { address, fault, _accept: accept })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether what the server says is held back; what clients say always passes.
    pub fn hold_answers(&self, held: bool) {
        self.fault.send_modify(|fault| fault.answers_held = held);
    }

    /// Cuts every connection there is; new ones are fine.
    pub fn cut(&self) {
        self.fault.send_modify(|fault| fault.cuts += 1);
    }
}

async fn run(listener: TcpListener, target: SocketAddr, fault: watch::Receiver<Fault>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(pass(client, target, fault.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut client: TcpStream, target: SocketAddr, mut fault: watch::Receiver<Fault>) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let (mut from_client, to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let cuts = fault.borrow().cuts;
    let held = fault.clone();
    // Either end, or a cut, ends both.
    select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        _ = copy_unless_held(from_server, to_client, held) => {}
        _ = fault.wait_for(|fault| fault.cuts != cuts) => {}
    }
}

async fn copy_unless_held(
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
        if fault.wait_for(|fault| !fault.answers_held).await.is_err() {
            return Ok(());
        }
        to.write_all(&buffer[..bytes]).await?;
    }
}
