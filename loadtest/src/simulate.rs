//! Registry, leases and fan-out of a cluster too large to run, simulated by the product's rules.

mod clients;
mod fanout;
mod leases;
mod reaping;
mod report;
pub mod rules;
mod shard;
#[cfg(test)]
mod tests;
mod topology;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::capacity;
use shard::SECOND;
use topology::Topology;
use world::{Setting, World};

/// How large a cluster, and what happens to it.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Nodes.
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Sessions on all of them, each of a user.
    #[arg(long, default_value_t = 10_000_000)]
    sessions: usize,
    /// Redis masters.
    #[arg(long, default_value_t = 16)]
    shards: usize,
    /// How Redis is arranged.
    #[arg(long, value_enum, default_value_t = Topology::Cluster)]
    topology: Topology,
    /// Zones, of which one is lost.
    #[arg(long, default_value_t = 3)]
    zones: usize,
    /// Cores of a node.
    #[arg(long, default_value_t = 2.0)]
    cores: f64,
    /// Seconds within which clients notice that their node is gone.
    #[arg(long, default_value_t = 30.0)]
    notice_s: f64,
    /// Seconds for which the load balancer sends clients to nodes that are gone.
    #[arg(long, default_value_t = 20.0)]
    balancer_s: f64,
    /// Minutes that a session lasts on average.
    #[arg(long, default_value_t = 30.0)]
    session_minutes: f64,
    /// Decides everything that is left to chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Constants to be laid over those of `loadtest/capacity/constants.toml`.
    #[arg(long)]
    constants: Option<PathBuf>,
}

/// Prints what came of it.
pub fn run(options: &Options) -> Result<()> {
    let setting = options.setting()?;
    println!(
        "{} nodes, {} sessions, {} shards ({:?}), seed {}\n",
        setting.nodes, setting.sessions, setting.shards, options.topology, setting.seed
    );
    let mut rng = StdRng::seed_from_u64(setting.seed);
    let fanout = fanout::table(setting.nodes, &setting.constants, &mut rng);
    let spread = fanout::spread_table(setting.nodes, &mut rng);
    let mut world = World::new(setting);
    at_rest(&mut world);
    let ends = one_node(&mut world);
    one_zone(&mut world, ends);
    println!("## Fan-out, 256 bytes\n\n{fanout}\n{spread}");
    print!("{}", limits(&world));
    Ok(())
}

impl Options {
    fn setting(&self) -> Result<Setting> {
        ensure!(self.zones >= 2, "--zones must be at least 2, so that one can be lost");
        ensure!(self.nodes >= self.zones, "--nodes must be at least one per zone");
        let most = rules::PARTITIONS as usize;
        ensure!((1..=most).contains(&self.shards), "--shards must be from 1 to {most}");
        Ok(Setting {
            nodes: self.nodes,
            sessions: self.sessions,
            shard_of: self.topology.spread(self.shards),
            shards: self.shards,
            zones: self.zones,
            cores: self.cores,
            notice: Duration::try_from_secs_f64(self.notice_s)?,
            balancer: Duration::try_from_secs_f64(self.balancer_s)?,
            session: Duration::try_from_secs_f64(self.session_minutes * 60.0)?,
            seed: self.seed,
            constants: capacity::read_constants(self.constants.as_deref())?,
        })
    }
}

fn at_rest(world: &mut World) {
    world.run(SETTLED, |_| false);
    world.begin_phase();
    world.run(SETTLED + REST, |_| false);
    println!("## At rest\n\n{}", report::shards(world, REST as f64 / SECOND as f64));
    println!("{}", report::renewals(world));
}

/// Loses one node; when all of it is over.
fn one_node(world: &mut World) -> u64 {
    world.begin_phase();
    world.lose(0..1);
    world.run(SETTLED + REST + AFTERMATH, |world| is_over(world, 1));
    println!("## One node lost\n");
    println!("{}{}{}", report::deaths(world), report::returns(world), report::renewals(world));
    world.now
}

fn one_zone(world: &mut World, begins: u64) {
    world.begin_phase();
    let lost = world.setting.nodes / world.setting.zones;
    world.lose(1..=lost);
    world.run(begins + AFTERMATH, |world| is_over(world, lost as u64));
    let seconds = (world.now - begins) as f64 / SECOND as f64;
    println!("## One zone lost: {lost} nodes, {} left\n", world.living());
    println!("{}", report::shards(world, seconds));
    println!("{}{}", report::peak(world), report::deaths(world));
    println!("{}{}", report::returns(world), report::renewals(world));
}

/// Whether all are back, and nothing is left of the dead.
fn is_over(world: &World, lost: u64) -> bool {
    let returns = &world.returns;
    returns.back_ms.len() as u64 >= returns.away && world.leases.counts.forgotten >= lost
}

/// What all nodes take of one shard, and where that ends.
fn limits(world: &World) -> String {
    let redis = &world.setting.constants.redis;
    let nodes = world.setting.nodes as f64;
    let every = rules::LEASE_RENEW.as_secs_f64();
    let listed = nodes.min(rules::LISTED_EACH as f64);
    let renewal_us = redis.lease_us + listed * redis.lease_node_us;
    format!(
        "## Limits\n\n\
         A renewal lists {listed:.0} nodes on average: {nodes:.0} nodes take {:.1} MB/s and {:.1} % of \
         the one shard's main thread. Half of it is taken by {:.0} nodes.\n",
        nodes * listed * redis.lease_node_bytes / every / 1e6,
        nodes * renewal_us / every / 1e4,
        0.5e6 * every / renewal_us,
    )
}

/// By then all have leases, and their reapers are calm.
const SETTLED: u64 = 25 * SECOND;
const REST: u64 = 40 * SECOND;
/// The longest that is waited for everything to be well again.
const AFTERMATH: u64 = 600 * SECOND;
