//! A TCP proxy that can hold back what passes, and cut connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    accepted: Arc<AtomicU64>,
    _accept: JoinSet<()>,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    target: SocketAddr,
    answers_held: bool,
    requests_held: bool,
    /// What clients say on connections before this one is held back.
    stalled_before: u64,
    cuts: u64,
}

impl FaultProxy {
    /// Listens on a port of its own and passes everything on to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let whole =
            Fault { target, answers_held: false, requests_held: false, stalled_before: 0, cuts: 0 };
        let fault = watch::Sender::new(whole);
        let accepted = Arc::new(AtomicU64::new(0));
        let mut accept = JoinSet::new();
        accept.spawn(run(listener, fault.subscribe(), Arc::clone(&accepted)));
        Ok(Self { address, fault, accepted, _accept: accept })
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

    /// Holds back what clients say on the connections that there are; new ones are fine.
    pub fn stall(&self) {
        let accepted = self.accepted.load(Ordering::SeqCst);
        self.fault.send_modify(|fault| fault.stalled_before = accepted);
    }

    /// Passes on what was stalled, also what clients said that have gone meanwhile.
    pub fn unstall(&self) {
        self.fault.send_modify(|fault| fault.stalled_before = 0);
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

async fn run(listener: TcpListener, fault: watch::Receiver<Fault>, accepted: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let number = accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(pass(client, number, fault.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut client: TcpStream, number: u64, mut fault: watch::Receiver<Fault>) {
    let Fault { target, cuts, .. } = *fault.borrow();
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let (requests, answers) = (fault.clone(), fault.clone());
    let is_held = |fault: &Fault| fault.requests_held || number < fault.stalled_before;
    // Either end, or a cut, ends both.
    select! {
        _ = copy_unless(is_held, from_client, to_server, requests) => {}
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
    // Whoever speaks may go before what it said is passed on, so that is taken from it meanwhile.
    let mut held = Vec::new();
    let mut ended = false;
    while !ended || !held.is_empty() {
        select! {
            read = from.read_buf(&mut held), if !ended && held.len() < HELD_BYTES => {
                ended = read? == 0;
            }
            passes = let_pass(&is_held, &mut fault), if !held.is_empty() => {
                if !passes {
                    return Ok(());
                }
                to.write_all(&held).await?;
                held.clear();
            }
        }
    }
    Ok(())
}

/// Waits until nothing is held any more; `false` when the proxy is gone.
async fn let_pass(is_held: impl Fn(&Fault) -> bool, fault: &mut watch::Receiver<Fault>) -> bool {
    fault.wait_for(|fault| !is_held(fault)).await.is_ok()
}

/// More is left to the sockets to hold.
const HELD_BYTES: usize = 1 << 20;
