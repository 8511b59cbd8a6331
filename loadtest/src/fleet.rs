//! The client processes of one target: started, told what to do, and their figures merged.

use std::fs::File;
use std::io::{BufRead, BufWriter, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::clock::{SECOND_NS, now_ns};
use crate::control::{Command, Counts, Histograms, Interval, Job, Told, decode};
use crate::subprocess::Subprocess;

/// Client processes, which end with this value.
pub struct Fleet {
    clients: Vec<Subprocess>,
    told: Receiver<(usize, Told)>,
    /// What the progress line begins with.
    label: String,
    /// The intervals so far, for the log.
    log: Vec<Logged>,
}

/// One histogram of one interval of one process.
struct Logged {
    tag: &'static str,
    start_ns: u64,
    length_ns: u64,
    histogram: hdrhistogram::Histogram<u64>,
}

/// What came of one command.
#[derive(Default)]
pub struct Tally {
    /// How often what happened.
    pub counts: Counts,
    /// How long what took.
    pub histograms: Histograms,
    /// The largest share of a core that a client process used.
    pub client_cpu: f64,
    /// Connections that were not back at the end.
    pub recovering: usize,
    /// From the command to its end.
    pub seconds: f64,
    /// What was wrong, if anything was.
    pub wrong: Option<String>,
}

impl Fleet {
    /// Starts as many processes as `connections` need, each with the job as its own.
    pub fn start(job: &Job, connections: usize, per_process: usize, label: &str) -> Result<Self> {
        let processes = processes(connections, per_process)?;
        let (sender, told) = sync_channel(TOLD);
        let client = |process| {
            let mut job = job.clone();
            (job.process, job.processes) = (process, processes);
            // Ports are per address: every process has the next one of the loopback network.
            if processes > 1 {
                job.source = Some(IpAddr::V4(Ipv4Addr::new(127, 0, 1, process as u8 + 1)));
            }
            start_client(&job, process, sender.clone())
        };
        let clients = (0..processes).map(client).collect::<Result<Vec<_>>>()?;
        Ok(Self { clients, told, label: label.to_owned(), log: Vec::new() })
    }

    /// Tells all of them something that is not answered.
    pub fn tell(&mut self, command: &Command) -> Result<()> {
        let line = serde_json::to_string(command)?;
        for client in &mut self.clients {
            writeln!(client.input, "{line}").context("a client process has ended")?;
        }
        Ok(())
    }

    /// Tells all of them what to do, and waits until all have.
    pub fn obey(&mut self, command: &Command) -> Result<Tally> {
        self.obey_and(command, u64::MAX, |_| Ok(()))
    }

    /// The same, and does something meanwhile, at a moment.
    pub fn obey_and(
        &mut self,
        command: &Command,
        at_ns: u64,
        mut meanwhile: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<Tally> {
        let started_ns = now_ns();
        self.tell(command)?;
        let mut tally = Tally::default();
        let mut progress = Progress::new(&self.label);
        let mut cpu = vec![(0, 0); self.clients.len()];
        let mut busy = self.clients.len();
        let mut is_due = at_ns != u64::MAX;
        while busy > 0 {
            if is_due && now_ns() >= at_ns {
                is_due = false;
                meanwhile(self)?;
            }
            let wait = Duration::from_nanos(if is_due {
                at_ns.saturating_sub(now_ns()).min(SECOND_NS)
            } else {
                SECOND_NS
            });
            match self.told.recv_timeout(wait) {
                Ok((process, Told::Interval(interval))) => {
                    cpu[process].0 += interval.cpu_ns;
                    cpu[process].1 += interval.end_ns.saturating_sub(interval.start_ns);
                    progress.show(process, &interval);
                    self.merge(&mut tally, &interval)?;
                }
                Ok((_, Told::Done(wrong))) => {
                    busy -= 1;
                    tally.wrong = tally.wrong.or(wrong);
                }
                Ok((process, Told::Failed(why))) => bail!("client process {process}: {why}"),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("a client process has ended"),
            }
        }
        progress.end();
        tally.recovering = progress.recovering();
        tally.seconds = (now_ns() - started_ns) as f64 / SECOND_NS as f64;
        tally.client_cpu = cpu
            .iter()
            .map(|&(cpu_ns, wall_ns)| cpu_ns as f64 / wall_ns.max(1) as f64)
            .fold(0.0, f64::max);
        Ok(tally)
    }

    fn merge(&mut self, tally: &mut Tally, interval: &Interval) -> Result<()> {
        tally.counts.add(&interval.counts);
        for (&phase, text) in &interval.phases {
            let histogram = decode(text)?;
            tally
                .histograms
                .entry(phase)
                .or_insert_with(crate::control::histogram)
                .add(&histogram)
                .context("merging histograms")?;
            self.log.push(Logged {
                tag: phase.name(),
                start_ns: interval.start_ns,
                length_ns: interval.end_ns - interval.start_ns,
                histogram,
            });
        }
        Ok(())
    }

    /// Forgets what was told so far, so that the log begins with what comes.
    pub fn begin_log(&mut self) {
        self.log.clear();
    }

    /// Writes what every process told in each second, as an `HdrHistogram` interval log whose unit is
    /// the microsecond, with the phase as tag.
    pub fn write_log(&self, path: &Path) -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let mut serializer = V2DeflateSerializer::new();
        let first_ns = self.log.iter().map(|logged| logged.start_ns).min().unwrap_or_default();
        let mut writer = IntervalLogWriterBuilder::new()
            .add_comment("microseconds")
            .with_max_value_divisor(1000.0)
            .begin_log_with(&mut file, &mut serializer)?;
        for Logged { tag, start_ns, length_ns, histogram } in &self.log {
            let start = Duration::from_nanos(start_ns - first_ns);
            let length = Duration::from_nanos(*length_ns);
            writer
                .write_histogram(histogram, start, length, Tag::new(tag))
                .map_err(|error| anyhow::anyhow!("the interval log: {error:?}"))?;
        }
        Ok(file.flush()?)
    }
}

fn start_client(job: &Job, process: usize, told: SyncSender<(usize, Told)>) -> Result<Subprocess> {
    let (mut client, output) = Subprocess::start(["client"])?;
    writeln!(client.input, "{}", serde_json::to_string(job)?)?;
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let line = serde_json::from_str(&line)
                .unwrap_or_else(|error| Told::Failed(format!("{error}: {line}")));
            if told.send((process, line)).is_err() {
                return;
            }
        }
        let _ = told.send((process, Told::Failed("it has ended".into())));
    });
    Ok(client)
}

/// A line that says how it goes: renewed in place on a terminal, every few seconds elsewhere.
struct Progress {
    label: String,
    latest: Vec<Interval>,
    delivered: u64,
    since: Instant,
    is_terminal: bool,
}

impl Progress {
    fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            latest: Vec::new(),
            delivered: 0,
            since: Instant::now(),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, process: usize, interval: &Interval) {
        if self.latest.len() <= process {
            self.latest.resize_with(process + 1, Interval::default);
        }
        self.delivered += interval.counts.delivered;
        self.latest[process] = interval.clone();
        let every = if self.is_terminal { 0.5 } else { 5.0 };
        let seconds = self.since.elapsed().as_secs_f64();
        if seconds < every {
            return;
        }
        let live: usize = self.latest.iter().map(|interval| interval.live).sum();
        let recovering = self.recovering();
        let rate = self.delivered as f64 / seconds;
        let shown =
            format!("{}: {live} live, {recovering} recovering, {rate:.0} deliveries/s", self.label);
        if self.is_terminal {
            eprint!("\r\x1b[2K{shown}");
        } else {
            eprintln!("{shown}");
        }
        (self.delivered, self.since) = (0, Instant::now());
    }

    fn recovering(&self) -> usize {
        self.latest.iter().map(|interval| interval.recovering).sum()
    }

    fn end(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[2K");
        }
    }
}

/// As many processes as file descriptors and ports ask for.
fn processes(connections: usize, per_process: usize) -> Result<usize> {
    let most = match per_process {
        0 => file_descriptors()?.saturating_sub(SPARE_DESCRIPTORS).clamp(1, PORTS),
        most => most,
    };
    let processes = connections.div_ceil(most).max(1);
    if processes > MOST_PROCESSES {
        bail!("{connections} connections at {most} per process are too many processes");
    }
    Ok(processes)
}

/// The limit that processes started from here inherit.
pub fn file_descriptors() -> Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)).context("no limit")?;
    Ok(soft.parse().unwrap_or(usize::MAX))
}

/// What a process opens besides its connections.
const SPARE_DESCRIPTORS: usize = 100;
/// The ports that the kernel gives out by default are some more.
const PORTS: usize = 28_000;
const MOST_PROCESSES: usize = 250;
/// What client processes may have told that is not read yet.
const TOLD: usize = 1024;
