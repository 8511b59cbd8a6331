//! What it takes of AWS: LCUs of the load balancer in all four dimensions, tasks, and the bill.

use serde::Serialize;

use super::nodes::Fleet;
use super::redis::Stores;

/// The load balancer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Balancer {
    /// How many, as one has only so many targets.
    pub balancers: f64,
    /// LCUs by dimension.
    pub lcus: Vec<(&'static str, f64)>,
    /// The dimension that is billed.
    pub binding: &'static str,
}

/// One line of the bill, in US dollars per month.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Of what.
    pub of: &'static str,
    /// How much.
    pub usd: f64,
}

impl Balancer {
    pub fn plan(fleet: Fleet<'_>) -> Self {
        let (load, aws) = (fleet.load, &fleet.constants.aws);
        let connects = load.churn.connects_per_second;
        let requests = connects + load.balancer.requests_per_second;
        let gb_hour = fleet.client_bytes() * 3600.0 / 1e9;
        let evaluations = (load.balancer.rules - aws.alb_free_rules).max(0.0) * requests;
        let lcus = vec![
            ("new connections", connects / aws.alb_new_per_lcu),
            ("active connections", load.connections.all() / aws.alb_active_per_lcu),
            ("bytes", gb_hour / aws.alb_gb_per_lcu),
            ("rule evaluations", evaluations / aws.alb_rules_per_lcu),
        ];
        let (binding, _) = most(&lcus);
        Self { balancers: (f64::from(fleet.nodes) / aws.alb_targets).ceil(), lcus, binding }
    }

    /// What is billed.
    pub fn billed_lcus(&self) -> f64 {
        most(&self.lcus).1
    }
}

fn most(lcus: &[(&'static str, f64)]) -> (&'static str, f64) {
    let most = lcus.iter().max_by(|one, other| one.1.total_cmp(&other.1));
    most.copied().unwrap_or_default()
}

/// The bill of a month.
pub fn bill(stores: Stores<'_>, shards: u32, balancer: &Balancer) -> Vec<Cost> {
    let fleet = stores.fleet;
    let (load, aws) = (fleet.load, &fleet.constants.aws);
    let task_hour = load.node.vcpu * aws.vcpu_usd_hour + load.node.memory_gib * aws.gib_usd_hour;
    let servers = f64::from(shards * (1 + load.redis.replicas));
    let month_gb = |bytes_each_second: f64| bytes_each_second * aws.hours_month * 3600.0 / 1e9;
    let zones = f64::from(load.redundancy.zones);
    let between_zones = (stores.bytes_out() + stores.lease_bytes_out()) * (zones - 1.0) / zones;
    let balancer_hour =
        balancer.balancers * aws.alb_usd_hour + balancer.billed_lcus() * aws.lcu_usd_hour;
    let cost = |of, usd| Cost { of, usd };
    vec![
        cost("Fargate tasks", f64::from(fleet.nodes) * task_hour * aws.hours_month),
        cost("ElastiCache", servers * aws.redis_usd_hour * aws.hours_month),
        cost("load balancer", balancer_hour * aws.hours_month),
        cost("between zones", month_gb(between_zones) * aws.zone_usd_gb),
        cost("to the Internet", month_gb(fleet.client_bytes_out()) * aws.egress_usd_gb),
    ]
}
