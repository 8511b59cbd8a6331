//! The crowds: started, told what to do, and what they tell kept by stage.

use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::words::{Command, Job, Told};
use crate::control::{Counts, Histograms, decode, histogram};
use crate::subprocess::Subprocess;

/// Crowds, which end with this value.
pub struct Crowds {
    processes: Vec<Subprocess>,
    told: Receiver<(usize, Told)>,
    /// What happened, by stage.
    pub stages: Vec<Stage>,
    live: Vec<usize>,
    clients: usize,
}

/// What happened in a stage.
#[derive(Default)]
pub struct Stage {
    /// How often what.
    pub counts: Counts,
    /// Connections that ended after the server had said for how long to stay away.
    pub advised: u64,
    /// How long what took.
    pub times: Histograms,
    /// The largest share of a core that a crowd used in an interval.
    pub cpu: f64,
}

impl Crowds {
    /// Starts as many as the clients need, each with an address of its own.
    pub fn start(job: &Job, per_process: usize, stages: usize) -> Result<Self> {
        let count = job.clients.div_ceil(per_process).max(1);
        let (sender, told) = sync_channel(TOLD);
        let start = |process: usize| {
            let last = u8::try_from(process + 1).context("too many client processes")?;
            let source = IpAddr::V4(Ipv4Addr::new(127, 0, 2, last));
            start_one(&Job { process, processes: count, source, ..job.clone() }, sender.clone())
        };
        let processes = (0..count).map(start).collect::<Result<_>>()?;
        let stages = (0..stages).map(|_| Stage::default()).collect();
        Ok(Self { processes, told, stages, live: vec![0; count], clients: job.clients })
    }

    /// Tells all of them something.
    pub fn tell(&mut self, command: &Command) -> Result<()> {
        let line = serde_json::to_string(command)?;
        for process in &mut self.processes {
            writeln!(process.input, "{line}").context("a client process has ended")?;
        }
        Ok(())
    }

    /// Tells all of them something that they answer; what was wrong, if anything was.
    pub fn obey(&mut self, command: &Command) -> Result<Option<String>> {
        self.tell(command)?;
        let (mut busy, mut wrong) = (self.processes.len(), None);
        while busy > 0 {
            if let Some(done) = self.take(Duration::from_secs(1))? {
                busy -= 1;
                wrong = wrong.or(done.0);
            }
        }
        Ok(wrong)
    }

    /// Takes what is told until `holds` is true, for so long at most; whether it was.
    pub fn until(
        &mut self,
        at_most: Duration,
        mut holds: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<bool> {
        let until = Instant::now() + at_most;
        loop {
            if holds(self)? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            self.take(LOOK_EVERY.min(until.saturating_duration_since(Instant::now())))?;
        }
    }

    /// Takes what is told for so long.
    pub fn rest(&mut self, time: Duration) -> Result<()> {
        self.until(time, |_| Ok(false)).map(|_| ())
    }

    /// Whether every client was live when it last told.
    pub fn are_live(&self) -> bool {
        self.live() == self.clients
    }

    /// Clients that were live when they last told.
    pub fn live(&self) -> usize {
        self.live.iter().sum()
    }

    fn take(&mut self, wait: Duration) -> Result<Option<Done>> {
        match self.told.recv_timeout(wait) {
            Ok((process, Told::Interval { stage, interval, advised })) => {
                self.live[process] = interval.live;
                let stage = &mut self.stages[stage];
                stage.counts.add(&interval.counts);
                stage.advised += advised;
                for (phase, text) in interval.phases {
                    let times = stage.times.entry(phase).or_insert_with(histogram);
                    times.add(&decode(&text)?).context("merging histograms")?;
                }
                let wall_ns = interval.end_ns.saturating_sub(interval.start_ns);
                // A cut off interval says little.
                if wall_ns > crate::clock::SECOND_NS / 2 {
                    stage.cpu = stage.cpu.max(interval.cpu_ns as f64 / wall_ns as f64);
                }
                Ok(None)
            }
            Ok((_, Told::Done(wrong))) => Ok(Some(Done(wrong))),
            Ok((process, Told::Failed(why))) => bail!("client process {process}: {why}"),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("a client process has ended"),
        }
    }
}

/// A crowd has done what it was told; with what was wrong, if anything was.
struct Done(Option<String>);

fn start_one(job: &Job, told: SyncSender<(usize, Told)>) -> Result<Subprocess> {
    let (mut process, output) = Subprocess::start(["rollout-clients"])?;
    writeln!(process.input, "{}", serde_json::to_string(job)?)?;
    let number = job.process;
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let line = serde_json::from_str(&line)
                .unwrap_or_else(|error| Told::Failed(format!("{error}: {line}")));
            if told.send((number, line)).is_err() {
                return;
            }
        }
        let _ = told.send((number, Told::Failed("it has ended".into())));
    });
    Ok(process)
}

/// What may have been told that is not read yet.
const TOLD: usize = 1024;
const LOOK_EVERY: Duration = Duration::from_millis(50);
