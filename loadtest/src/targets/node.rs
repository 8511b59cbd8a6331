//! One process under test, and how it is waited for.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::become_server::bound;
use crate::process::Process;

/// A process under test. It ends with this value, if the tester started it.
pub struct Node {
    child: Mutex<Option<Child>>,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where it is administered, if it can be.
    pub admin: Option<SocketAddr>,
    process: Option<Process>,
    /// What it had used when it was killed.
    last_cpu_ns: Mutex<Option<u64>>,
    folder: Option<TempDir>,
}

impl Node {
    /// One that somebody else started.
    pub fn running(address: SocketAddr, pid: Option<u32>) -> Self {
        Self {
            child: Mutex::new(None),
            address,
            admin: None,
            process: pid.map(Process::new),
            last_cpu_ns: Mutex::new(None),
            folder: None,
        }
    }

    /// Starts a process that will listen on `address`, and waits until it does. What it says goes to
    /// a file in `folder`.
    pub fn start(command: &Command, address: SocketAddr, folder: TempDir) -> Result<Self> {
        Self::start_bound(bound(command)?, address, folder)
    }

    /// The same of a command that sees to its end itself.
    pub fn start_bound(mut command: Command, address: SocketAddr, folder: TempDir) -> Result<Self> {
        let log = File::create(folder.path().join(LOG))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let node = Self {
            process: Some(Process::new(child.id())),
            child: Mutex::new(Some(child)),
            address,
            admin: None,
            last_cpu_ns: Mutex::new(None),
            folder: Some(folder),
        };
        let what = || format!("it does not listen: {command:?}");
        node.eventually(|| Ok(TcpStream::connect(address).is_ok())).with_context(what)?;
        Ok(node)
    }

    /// Waits until `holds`, as long as the process lives.
    pub fn eventually(&self, holds: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + START_TIME;
        while !holds()? {
            if let Some(status) = self.child()?.as_mut().map(Child::try_wait).transpose()?.flatten()
            {
                bail!("it ended with {status}: {}", self.said());
            }
            if Instant::now() > deadline {
                bail!("not within {} s: {}", START_TIME.as_secs(), self.said());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The process, if it is known.
    pub fn process(&self) -> Option<Process> {
        self.process
    }

    /// CPU time so far, also of one that was killed.
    pub fn cpu_ns(&self) -> Result<Option<u64>> {
        if let Some(cpu_ns) = *self.last_cpu_ns.lock().map_err(|_| poisoned())? {
            return Ok(Some(cpu_ns));
        }
        self.process.map(Process::cpu_ns).transpose()
    }

    /// Kills it as a crash would.
    pub fn kill(&self) -> Result<()> {
        *self.last_cpu_ns.lock().map_err(|_| poisoned())? = self.cpu_ns()?;
        let Some(mut child) = self.child()?.take() else {
            bail!("the tester did not start {}, and does not kill it", self.address);
        };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Tells it to end (SIGTERM).
    pub fn terminate(&self) -> Result<()> {
        let child = self.child()?;
        let child = child.as_ref().context("it runs no more")?;
        let id = Pid::from_raw(child.id().cast_signed()).context("a process has an id")?;
        Ok(kill_process(id, Signal::TERM)?)
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child()?.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    /// What it has said, the end of it.
    pub fn said(&self) -> String {
        let Some(folder) = &self.folder else { return String::new() };
        let mut said = String::new();
        if let Ok(mut log) = File::open(folder.path().join(LOG)) {
            let _ = log.read_to_string(&mut said);
        }
        let start = said.char_indices().rev().nth(MOST_SAID).map_or(0, |(at, _)| at);
        said.split_off(start)
    }

    fn child(&self) -> Result<std::sync::MutexGuard<'_, Option<Child>>> {
        self.child.lock().map_err(|_| poisoned())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock()
            && let Some(child) = child.as_mut()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that is free now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn poisoned() -> anyhow::Error {
    anyhow::anyhow!("a thread of the tester panicked")
}

const LOG: &str = "said.log";
const MOST_SAID: usize = 2000;
/// A JVM on a busy machine takes a while.
const START_TIME: Duration = Duration::from_secs(90);
