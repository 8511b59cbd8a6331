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
        Self::run(listener, target, None)
    }

    /// Listens at [`alias`]`(number)`, on the port of `target`, which is a Redis at 127.0.0.1 that
    /// names itself or others: in its answers their host is the alias too. So whoever connects to
    /// one alias learns of no way past the proxies there.
    pub async fn start_at_alias(number: u8, target: SocketAddr) -> io::Result<Self> {
        let alias = alias(number);
        let listener = TcpListener::bind((alias, target.port())).await?;
        Self::run(listener, target, Some(alias))
    }

    fn run(listener: TcpListener, target: SocketAddr, alias: Option<Ipv4Addr>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let whole =
            Fault { target, answers_held: false, requests_held: false, stalled_before: 0, cuts: 0 };
        let fault = watch::Sender::new(whole);
        let accepted = Arc::new(AtomicU64::new(0));
        let mut accept = JoinSet::new();
        accept.spawn(run(listener, alias, fault.subscribe(), Arc::clone(&accepted)));
        Ok(Self { address, fault, accepted, _accept: accept })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
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

/// A loopback address other than 127.0.0.1, and as long when it is written. Not every system has
/// them without being told; those of Linux do.
pub fn alias(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1 + number / 9, 1 + number % 9)
}

async fn run(
    listener: TcpListener,
    alias: Option<Ipv4Addr>,
    fault: watch::Receiver<Fault>,
    accepted: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let number = accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(pass(client, number, alias, fault.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(
    mut client: TcpStream,
    number: u64,
    alias: Option<Ipv4Addr>,
    mut fault: watch::Receiver<Fault>,
) {
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
        _ = copy_unless(is_held, None, from_client, to_server, requests) => {}
        _ = copy_unless(|fault| fault.answers_held, alias, from_server, to_client, answers) => {}
        _ = fault.wait_for(|fault| fault.cuts != cuts) => {}
    }
}

async fn copy_unless(
    is_held: impl Fn(&Fault) -> bool,
    alias: Option<Ipv4Addr>,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut fault: watch::Receiver<Fault>,
) -> io::Result<()> {
    let names = alias.map(Names::new);
    // Whoever speaks may go before what it said is passed on, so that is taken from it meanwhile.
    let mut held = Vec::new();
    let mut ended = false;
    // What may be the beginning of a name waits for what comes next.
    let mut waiting = 0;
    while !ended || held.len() > waiting {
        select! {
            read = from.read_buf(&mut held), if !ended && held.len() < HELD_BYTES => {
                ended = read? == 0;
                if ended {
                    waiting = 0;
                }
            }
            passes = let_pass(&is_held, &mut fault), if held.len() > waiting => {
                if !passes {
                    return Ok(());
                }
                let whole = match &names {
                    Some(names) if !ended => names.rewrite(&mut held),
                    _ => held.len(),
                };
                to.write_all(&held[..whole]).await?;
                held.drain(..whole);
                waiting = held.len();
            }
        }
    }
    Ok(())
}

/// Writes an alias where a server says `127.0.0.1`.
struct Names {
    alias: String,
}

impl Names {
    fn new(alias: Ipv4Addr) -> Self {
        let alias = alias.to_string();
        assert_eq!(alias.len(), LOCALHOST.len(), "an answer keeps its length");
        Self { alias }
    }

    /// Rewrites each name in `bytes`. Returns where the beginning of another stands at their end:
    /// no answer ends like that, so more is to come.
    fn rewrite(&self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            if rest.starts_with(LOCALHOST) {
                rest[..LOCALHOST.len()].copy_from_slice(self.alias.as_bytes());
            } else if rest.len() < LOCALHOST.len() && LOCALHOST.starts_with(rest) {
                return at;
            }
            at += 1;
        }
        bytes.len()
    }
}

/// Waits until nothing is held any more; `false` when the proxy is gone.
async fn let_pass(is_held: impl Fn(&Fault) -> bool, fault: &mut watch::Receiver<Fault>) -> bool {
    fault.wait_for(|fault| !is_held(fault)).await.is_ok()
}

/// More is left to the sockets to hold.
const HELD_BYTES: usize = 1 << 20;
const LOCALHOST: &[u8] = b"127.0.0.1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_rewritten_wherever_an_answer_is_split() {
        let answer = b"*2\r\n$9\r\n127.0.0.1\r\n-MOVED 12 127.0.0.1:20127\r\n+1\r\n";
        let expected = b"*2\r\n$9\r\n127.0.1.2\r\n-MOVED 12 127.0.1.2:20127\r\n+1\r\n";
        for split in 0..answer.len() {
            let names = Names::new(alias(1));
            let mut first = answer[..split].to_vec();
            let whole = names.rewrite(&mut first);
            let mut second = [&first[whole..], &answer[split..]].concat();
            assert_eq!(names.rewrite(&mut second), second.len());
            assert_eq!([&first[..whole], &second].concat(), expected, "split at {split}");
        }
    }
}
