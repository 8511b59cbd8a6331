//! `rollout`: every node is restarted in turn, and one is added, behind a real proxy and under load;
//! nobody may lose anything.

mod admission;
mod crowd;
mod crowds;
mod nodes;
mod proxy;
mod publishers;
mod report;
mod spread;
mod verdict;
mod words;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::client::whole;
use crate::clock::{SECOND_NS, now_ns};
use crate::machine::Machine;
use crate::targets::{SECRET, fanlight};
use admission::Watch;
pub use crowd::run as run_crowd;
use crowds::Crowds;
use nodes::{Nodes, Rebalance, Setting, Stop};
use proxy::{Kind, Proxy};
use publishers::{Plan, Publishers};
use report::Proof;
use spread::{Calm, Spread};
use verdict::{Happening, Rules};
use words::{Command, Job, MIX};

/// How large, and how fast.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Clients: of ten, four speak the native protocol, two STOMP, two listen to events, one speaks
    /// SockJS and one polls.
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
    /// A small and short run that shows whether anything is lost; latencies aren't judged.
    #[arg(long)]
    quick: bool,
    /// What is in front of the nodes.
    #[arg(long, value_enum, default_value_t = Kind::Nginx)]
    proxy: Kind,
    /// How a node is told to go.
    #[arg(long, value_enum, default_value_t = Stop::Sigterm)]
    stop: Stop,
    /// Nodes that are restarted; one more is added.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Clients of a destination.
    #[arg(long, default_value_t = 100)]
    room: usize,
    /// Publications per second, over all destinations.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Time over which a node closes its sessions.
    #[arg(long, default_value = "60s")]
    window: humantime::Duration,
    /// How long nothing happens, before, between and after.
    #[arg(long, default_value = "30s")]
    calm: humantime::Duration,
    /// Handshakes per second that each node admits.
    #[arg(long, default_value_t = 200)]
    admitted: u32,
    /// Publications that each destination keeps.
    #[arg(long, default_value_t = 1000)]
    history: usize,
    /// Clients of one client process.
    #[arg(long, default_value_t = 5000)]
    per_process: usize,
    /// The gateway's binary; the one beside this program when absent.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// Where the report goes.
    #[arg(long, default_value = "artifacts/rollout")]
    out: PathBuf,
}

impl Options {
    /// With the sizes that `--quick` has.
    fn sized(mut self) -> Self {
        if self.quick {
            self.clients = self.clients.min(300);
            self.room = self.room.min(15);
            self.rate = self.rate.max(40.0);
            self.window = Duration::from_secs(3).into();
            self.calm = Duration::from_secs(2).into();
        }
        self
    }

    fn destinations(&self) -> usize {
        self.clients.div_ceil(self.room)
    }

    fn grace(&self) -> Duration {
        if self.quick { Duration::from_millis(500) } else { Duration::from_secs(5) }
    }

    /// Clients that connect in a second: below what the nodes admit.
    fn connect_rate(&self) -> f64 {
        f64::from(self.admitted) * self.nodes as f64 / 2.0
    }

    /// Such that nothing moves while clients connect and between two restarts, as nodes are younger
    /// then.
    fn rebalance(&self) -> Rebalance {
        let [renew, settle, window, cooldown] = if self.quick {
            [500, 6000, 2000, 2000].map(Duration::from_millis)
        } else {
            [Duration::from_secs(3), *self.calm, *self.window / 2, Duration::from_secs(10)]
        };
        let connecting_s = whole((self.clients as f64 / self.connect_rate()).ceil());
        let settle = settle + Duration::from_secs(connecting_s);
        let min_sessions = (self.clients / self.nodes / 10).max(1);
        Rebalance { renew, settle, window, cooldown, min_sessions }
    }

    fn rules(&self) -> Rules {
        Rules { admitted: self.admitted, burst: self.admitted, judges_times: !self.quick }
    }
}

/// Runs all of it; an error where the verdict is not good.
pub fn run(options: &Options) -> Result<()> {
    let options = options.clone().sized();
    ensure!(options.nodes >= 2, "--nodes: whoever leaves one needs another");
    ensure!(
        options.room >= MIX.len(),
        "--room: a destination has at least one client of each kind, so {}",
        MIX.len()
    );
    fs::create_dir_all(&options.out)?;
    let machine = Machine::now();
    let mut rollout = Rollout::begin(&options)?;
    let went = rollout.go_on();
    let proof = rollout.end(machine, went)?;
    proof.write(&options.out)?;
    print!("{}", proof.markdown());
    println!("\nThe report is in {}", options.out.display());
    let broken = proof.broken();
    if !broken.is_empty() {
        bail!("{}", broken.join("; "));
    }
    Ok(())
}

/// A cluster under load.
struct Rollout {
    options: Options,
    nodes: Nodes,
    proxy: Proxy,
    crowds: Crowds,
    publishers: Publishers,
    watch: Watch,
    happenings: Vec<Happening>,
    spread: Option<Spread>,
}

impl Rollout {
    /// Starts everything, and waits until every client is live.
    fn begin(options: &Options) -> Result<Self> {
        let setting = Setting {
            gateway: fanlight::binary(options.gateway.as_deref())?,
            secret: SECRET.to_owned(),
            grace: options.grace(),
            window: *options.window,
            admitted: options.admitted,
            burst: options.admitted,
            history: options.history,
            rebalance: options.rebalance(),
        };
        // The last is the one that is added.
        let mut nodes = Nodes::new(setting, options.nodes + 1)?;
        for number in 0..options.nodes {
            nodes.start(number)?;
        }
        let proxy = Proxy::start(options.proxy, &nodes.publics(), options.clients)?;
        let job = Job {
            process: 0,
            processes: 0,
            clients: options.clients,
            address: proxy.address(),
            source: proxy.address().ip(),
            secret: SECRET.to_owned(),
            destinations: options.destinations(),
        };
        // Calm, each node, one more, calm, and what is outstanding then.
        let stages = options.nodes + 4;
        let mut crowds = Crowds::start(&job, options.per_process, stages)?;
        eprintln!("{} clients connect", options.clients);
        let rate = options.connect_rate();
        let needed_s = 60 + whole(options.clients as f64 / rate);
        let connected = crowds.obey(&Command::Connect {
            start_ns: now_ns(),
            rate,
            give_up_ns: now_ns() + needed_s * SECOND_NS,
        })?;
        ensure!(
            crowds.are_live(),
            "not all clients could connect: {}\n{}{}",
            connected.unwrap_or_default(),
            nodes.said(),
            proxy.said()
        );
        let plan = Plan {
            address: proxy.address(),
            secret: SECRET.to_owned(),
            destinations: options.destinations(),
            rate: options.rate,
            body_bytes: BODY_BYTES,
        };
        let watch = Watch::start(&nodes.admins());
        let publishers = Publishers::start(plan, stages)?;
        let options = options.clone();
        let (happenings, spread) = (Vec::new(), None);
        Ok(Self { options, nodes, proxy, crowds, publishers, watch, happenings, spread })
    }

    /// Calm, the nodes one after the other, one more, and calm again.
    fn go_on(&mut self) -> Result<()> {
        let calm = *self.options.calm;
        self.stage("calm")?;
        self.crowds.rest(calm)?;
        for number in 0..self.options.nodes {
            self.stage(&format!("node {} restarts", number + 1))?;
            self.restart(number)?;
            self.crowds.rest(calm / 4)?;
        }
        self.stage(&format!("node {} is added", self.options.nodes + 1))?;
        self.nodes.start(self.options.nodes)?;
        self.rebalance()?;
        self.note_connections();
        self.stage("calm again")?;
        self.crowds.rest(calm)?;
        self.note_connections();
        self.until_all_are_back("after the last calm")
    }

    /// Waits until sessions have moved to the node that was added, and all is calm again.
    fn rebalance(&mut self) -> Result<()> {
        let Rebalance { renew, settle, window, cooldown, .. } = self.options.rebalance();
        // As long as the longest pause between two rounds.
        let quiet = cooldown + renew * 4;
        let at_most = settle + (window + cooldown) * MOST_ROUNDS + quiet + BACK_TIME;
        let mut calm = Calm::begin(self.nodes.admins(), quiet)?;
        let has_come =
            self.crowds.until(at_most, |crowds| Ok(calm.has_come()? && crowds.are_live()))?;
        self.spread = calm.seen();
        ensure!(has_come, "sessions still move after {at_most:?}, or never did: {:?}", self.spread);
        Ok(())
    }

    fn until_all_are_back(&mut self, when: &str) -> Result<()> {
        let are_back = self.crowds.until(BACK_TIME, |crowds| Ok(crowds.are_live()))?;
        ensure!(
            are_back,
            "{} of {} clients are live {BACK_TIME:?} {when}",
            self.crowds.live(),
            self.options.clients
        );
        Ok(())
    }

    /// Stops a node, and starts it again once its process has ended.
    fn restart(&mut self, number: usize) -> Result<()> {
        let Self { nodes, crowds, options, .. } = self;
        nodes.begin_stop(number, options.stop)?;
        let at_most = nodes.stop_time();
        let has_stopped = crowds.until(at_most, |_| nodes.has_stopped(number))?;
        ensure!(has_stopped, "node {} has not gone within {at_most:?}", number + 1);
        nodes.start(number)?;
        self.until_all_are_back(&format!("after node {} was back", number + 1))?;
        self.note_connections();
        Ok(())
    }

    fn stage(&mut self, name: &str) -> Result<()> {
        end_stage(&mut self.happenings);
        let stage = self.happenings.len();
        eprintln!("{name}; {} clients are live", self.crowds.live());
        self.publishers.begin_stage(stage);
        self.crowds.tell(&Command::Stage(stage))?;
        self.happenings.push(Happening::new(name));
        Ok(())
    }

    /// What each node has at the end of a stage.
    fn note_connections(&mut self) {
        let connections = |&admin: &_| admission::read(admin).ok().map(|read| read.connections);
        let of_nodes = self.nodes.admins().iter().map(connections).collect();
        if let Some(happening) = self.happenings.last_mut() {
            happening.connections = of_nodes;
        }
    }

    /// Ends everything, and judges.
    fn end(mut self, machine: Machine, went: Result<()>) -> Result<Proof> {
        let outcome = self.publishers.end();
        let mut wrong: Vec<String> = went.err().map(|why| format!("{why:#}")).into_iter().collect();
        let handshakes = self.watch.end()?;
        let published = match outcome {
            Ok(published) => published,
            Err(why) => bail!("{why:#}; {}{}", wrong.join("; "), self.nodes.said()),
        };
        let stage = self.happenings.len();
        self.crowds.tell(&Command::Stage(stage))?;
        end_stage(&mut self.happenings);
        self.happenings.push(Happening::new("what was outstanding"));
        let settle = Command::Settle {
            published: published.counts.clone(),
            give_up_ns: now_ns() + SETTLE_NS,
        };
        let blamed = self.crowds.obey(&settle)?;
        end_stage(&mut self.happenings);
        wrong.extend(blamed);
        Ok(Proof {
            machine,
            version: fanlight::version_of(&fanlight::binary(self.options.gateway.as_deref())?)?,
            proxy: self.proxy.version.clone(),
            rules: self.options.rules(),
            said: format!("{}proxy:\n{}", self.nodes.said(), self.proxy.said()),
            options: self.options,
            happenings: self.happenings,
            stages: std::mem::take(&mut self.crowds.stages),
            published,
            handshakes,
            spread: self.spread,
            wrong,
        })
    }
}

fn end_stage(happenings: &mut [Happening]) {
    if let Some(happening) = happenings.last_mut() {
        happening.seconds = happening.began.elapsed().as_secs_f64();
    }
}

/// Of a publication.
const BODY_BYTES: usize = 128;
/// Within which all must be live again, once a node is back.
const BACK_TIME: Duration = Duration::from_secs(60);
/// Within which rebalancing must be done: each moves up to a quarter of a node's sessions.
const MOST_ROUNDS: u32 = 8;
/// How long what is outstanding is waited for at the end.
const SETTLE_NS: u64 = 40 * SECOND_NS;
