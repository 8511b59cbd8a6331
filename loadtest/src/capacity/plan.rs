//! The whole plan of a described load: nodes, Redis shards, load balancer, bill.

use serde::Serialize;

use super::aws::{self, Balancer, Cost};
use super::bound::{Bound, NeverEnough};
use super::constants::Constants;
use super::load::Load;
use super::nodes::{self, Fleet, GIB};
use super::redis::{self, Stores};

/// What a load takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    pub name: String,
    pub connections: f64,
    pub deliveries_per_second: f64,
    pub nodes: u32,
    /// Nodes that are left after the loss that is survived.
    pub survivors: f64,
    /// The bound that decides the number of nodes.
    pub nodes_bound_by: &'static str,
    pub node_bounds: Vec<Bound>,
    pub shards: u32,
    pub shards_bound_by: &'static str,
    pub shard_bounds: Vec<Bound>,
    pub redis_gib: f64,
    pub balancer: Balancer,
    pub costs: Vec<Cost>,
    pub usd_month: f64,
}

impl Plan {
    pub fn of(load: &Load, constants: &Constants) -> Result<Self, NeverEnough> {
        let (nodes, node_bounds) = nodes::plan(load, constants)?;
        let fleet = Fleet { load, constants, nodes };
        let (shards, shard_bounds) = redis::plan(fleet)?;
        let stores = Stores { fleet };
        let balancer = Balancer::plan(fleet);
        let costs = aws::bill(stores, shards, &balancer);
        Ok(Self {
            name: load.name.clone(),
            connections: load.connections.all(),
            deliveries_per_second: fleet.deliveries(),
            nodes,
            survivors: fleet.survivors(),
            nodes_bound_by: binding(&node_bounds),
            node_bounds,
            shards,
            shards_bound_by: binding(&shard_bounds),
            shard_bounds,
            redis_gib: stores.bytes() / GIB,
            balancer,
            usd_month: costs.iter().map(|cost| cost.usd).sum(),
            costs,
        })
    }
}

/// The bound that needs most of them; of those that need as many, the fullest.
fn binding(bounds: &[Bound]) -> &'static str {
    let tightest = bounds
        .iter()
        .max_by(|one, other| one.needs.cmp(&other.needs).then(one.used.total_cmp(&other.used)));
    tightest.map_or("nothing", |bound| bound.what)
}
