//! The formulas, by numbers reckoned by hand, and that more load never takes less.

use proptest::prelude::*;

use super::aws::{Balancer, bill};
use super::constants::Constants;
use super::load::{Load, Survive};
use super::nodes::{self, Fleet, GIB, holding};
use super::plan::Plan;
use super::redis::{self, Stores};

/// Constants that are easy to reckon with.
const ROUND: &str = "
[gateway]
base_bytes = 0
base_us = 0
native_bytes = 1000
sockjs_bytes = 9000
subscription_bytes = 200
kernel_bytes = 1000
connect_us = 200
idle_us = 2
publish_us = 10
receive_us = 20
send_us = 5
message_us = 1
head_bytes = 100
fds_reserved = 100
[redis]
publish_us = 1
publish_node_us = 0.5
history_us = 10
idempotent_us = 8
registry_call_us = 15
registry_operation_us = 5
reap_session_us = 5
reap_claim_us = 0
lease_us = 0
lease_node_us = 0
canary_us = 0
info_us = 0
turn_us = 0
dead_look_us = 0
ping_us = 0
envelope_bytes = 100
session_bytes = 300
channel_bytes = 200
channel_node_bytes = 100
kept_bytes = 100
base_bytes = 0
base_us = 0
[aws]
task_nofile = 1100
alb_ports = 1000
";

const LOAD: &str = r#"
name = "round"
[connections]
native = 9000
sockjs = 1000
[subscriptions]
per_connection = 3
destinations = 100
[[publications]]
name = "news"
per_second = 100
body_bytes = 400
subscribers = 50
destinations = 10
nodes = 4
[redundancy]
zones = 3
survive = "none"
storm_s = 10
"#;

fn constants() -> Constants {
    Constants::read(Some(ROUND)).unwrap()
}

fn load() -> Load {
    Load::read(LOAD, "round").unwrap()
}

/// The share of the rule called `what` with the planned number of nodes, and what it needs.
fn of_nodes(load: &Load, what: &str) -> (u32, f64) {
    let (_, bounds) = nodes::plan(load, &constants()).unwrap();
    let bound = bounds.into_iter().find(|bound| bound.what == what).unwrap();
    (bound.needs, bound.used)
}

fn of_shards(load: &Load, nodes: u32, what: &str) -> f64 {
    let constants = constants();
    let fleet = Fleet { load, constants: &constants, nodes };
    let (_, bounds) = redis::plan(fleet).unwrap();
    bounds.into_iter().find(|bound| bound.what == what).unwrap().used
}

fn assert_near(value: f64, expected: f64) {
    assert!((value - expected).abs() < 1e-6 * expected.abs().max(1.0), "{value}, not {expected}");
}

#[test]
fn descriptors_bound_the_connections_of_a_node() {
    // 10,000 connections, 1,000 a node beside the 100 that are reserved.
    let (needs, used) = of_nodes(&load(), "file descriptors");
    assert_eq!(needs, 10);
    assert_near(used, 1.0);
}

#[test]
fn ports_count_for_each_zone_of_the_balancer_that_is_left() {
    let mut load = load();
    // 1,000 ports in each of three zones: 3,000 connections a node, so four nodes.
    assert_eq!(of_nodes(&load, "ports of the load balancer").0, 4);
    load.redundancy.survive = Survive::Zone;
    // Two zones: 2,000 a node, five survivors; of nine nodes six survive, of six only four.
    assert_eq!(of_nodes(&load, "ports of the load balancer").0, 9);
}

#[test]
fn memory_is_of_connections_further_subscriptions_and_the_kernel() {
    // 9,000 x 1,000 + 1,000 x 9,000 + 10,000 x (2 x 200 + 1,000) bytes over ten nodes.
    let (_, used) = of_nodes(&load(), "memory");
    assert_near(used, 32e6 / 10.0 / (4.0 * GIB * 0.7));
}

#[test]
fn cpu_is_of_sends_deliveries_receptions_and_waiting_connections() {
    // 100 x (10 + 50 x 6 + 4 x 20) + 10,000 x 2 = 59,000 us over ten nodes of two cores at 60 %.
    let (_, used) = of_nodes(&load(), "CPU at the peak");
    assert_near(used, 5_900.0 / 1.2e6);
}

#[test]
fn a_burst_shares_the_system_call_and_not_the_message() {
    let mut load = load();
    load.publications[0].burst = 5.0;
    // 100 x (10 + 50 x 2 + 80) + 20,000 = 39,000.
    assert_near(of_nodes(&load, "CPU at the peak").1, 3_900.0 / 1.2e6);
}

#[test]
fn a_storm_is_of_those_who_lost_their_connection() {
    let mut load = load();
    load.redundancy.survive = Survive::Node;
    let constants = constants();
    let fleet = Fleet { load: &load, constants: &constants, nodes: 11 };
    assert_near(fleet.survivors(), 10.0);
    assert_near(fleet.lost_connections(), 10_000.0 / 11.0);
    // 909 in 10 s over ten nodes, 200 us each, beside the 5,900 us of the peak; at 90 %.
    let expected = (5_900.0 + 10_000.0 / 11.0 / 10.0 / 10.0 * 200.0) / 1.8e6;
    assert_near(of_nodes(&load, "CPU of a reconnect storm").1, expected);
}

#[test]
fn zones_have_as_many_nodes_each() {
    let mut load = load();
    load.redundancy.survive = Survive::Zone;
    // Ten have to be left, which are two thirds of fifteen.
    assert_eq!(nodes::plan(&load, &constants()).unwrap().0, 15);
}

#[test]
fn the_network_carries_deliveries_out_and_publications_in() {
    // 100 x 500 x 51 from and to clients, 100 x 500 x 4 from Redis, over ten nodes, in bits.
    let (_, used) = of_nodes(&load(), "network");
    assert_near(used, (2_550_000.0 + 200_000.0) / 10.0 * 8.0 / 0.7e9);
}

#[test]
fn subscribers_spread_over_nodes_as_chance_has_it() {
    assert_near(holding(1.0, 10.0), 1.0);
    assert_near(holding(2.0, 2.0), 1.5);
    assert_near(holding(5.0, 1.0), 1.0);
    assert_near(holding(0.0, 1.0), 0.0);
    assert!(holding(10_000.0, 10.0) > 9.999);
}

#[test]
fn a_publication_costs_redis_by_the_nodes_that_have_a_subscriber() {
    // 100 x (1 + 4 x 0.5), of which half a core is to be used.
    assert_near(of_shards(&load(), 10, "main thread at the peak"), 300.0 / 5e5);
    let mut load = load();
    load.publications[0].history_share = 0.5;
    load.publications[0].idempotent_share = 0.25;
    // 100 x (0.5 x 1 + 0.5 x 10 + 0.25 x 8 + 2).
    assert_near(of_shards(&load, 10, "main thread at the peak"), 950.0 / 5e5);
}

#[test]
fn a_destination_is_in_one_shard_however_many_there_are() {
    let mut load = load();
    load.publications[0].per_second = 3e6;
    load.publications[0].destinations = 1.0;
    let constants = constants();
    let refused = redis::plan(Fleet { load: &load, constants: &constants, nodes: 10 });
    assert_eq!(refused.unwrap_err().what, "the hottest destination");
}

#[test]
fn entries_and_exits_lie_in_32_partitions() {
    let mut load = load();
    load.churn.connects_per_second = 20_000.0;
    // 40,000 x 20 us is 1.6 times the half core of one shard: two shards have 16 of 32 each.
    let used = of_shards(&load, 10, "main thread at the peak");
    assert_near(used, (300.0 / 2.0 + 400_000.0) / 5e5);
}

#[test]
fn redis_keeps_sessions_channels_and_histories() {
    let mut load = load();
    load.publications[0].history_share = 0.1;
    load.publications[0].history_kept = 20.0;
    load.connections.sockjs = 0.0;
    let constants = constants();
    let stores = Stores { fleet: Fleet { load: &load, constants: &constants, nodes: 2 } };
    // 9,000 sessions; 100 channels with 270 subscribers each, so on both nodes; 10 x 20 kept.
    assert_near(stores.bytes(), 9_000.0 * 300.0 + 100.0 * 300.0 + 200.0 * 500.0);
}

#[test]
fn a_renewal_lists_64_nodes_on_average_however_many_there_are() {
    let over = "[redis]\nlease_node_us = 2\nlease_us = 50\nlease_node_bytes = 200\nreap_claim_us = 0\ncanary_us = 0\ninfo_us = 0\nturn_us = 0";
    let constants = Constants::read(Some(over)).unwrap();
    let load = load();
    let at = |nodes| Stores { fleet: Fleet { load: &load, constants: &constants, nodes } };
    // 10 nodes / 5 s x 10 x 200 bytes; and 1,000 / 5 s x 64 x 200 bytes, or twice that.
    assert_near(at(10).lease_bytes_out(), 4e3);
    assert_near(at(1000).lease_bytes_out(), 2.56e6);
    assert_near(at(2000).lease_bytes_out(), 5.12e6);
    // 200 x (50 + 128) us is 0.0356 of a core; 2,000 nodes take twice that.
    for (nodes, core) in [(1000, 0.0356), (2000, 0.0712)] {
        let fleet = Fleet { load: &load, constants: &constants, nodes };
        let (_, bounds) = redis::plan(fleet).unwrap();
        let leases = bounds.iter().find(|bound| bound.what.starts_with("leases")).unwrap();
        assert_near(leases.used, core / 0.5);
    }
}

#[test]
fn the_balancer_is_billed_by_its_largest_dimension() {
    let mut load = load();
    load.churn.connects_per_second = 100.0;
    load.balancer.rules = 60.0;
    load.balancer.requests_per_second = 100.0;
    let constants = constants();
    let balancer = Balancer::plan(Fleet { load: &load, constants: &constants, nodes: 10 });
    let lcus: Vec<_> = balancer.lcus.iter().map(|(_, lcus)| *lcus).collect();
    // 100 / 25; 10,000 / 3,000; 2.55 MB/s x 3,600 s; (60 - 10) x 200 / 1,000.
    for (lcus, expected) in lcus.into_iter().zip([4.0, 10.0 / 3.0, 9.18, 10.0]) {
        assert_near(lcus, expected);
    }
    assert_eq!(balancer.binding, "rule evaluations");
    assert_near(balancer.balancers, 1.0);
}

#[test]
fn the_bill_is_of_hours_and_gigabytes() {
    let load = load();
    let constants = constants();
    let fleet = Fleet { load: &load, constants: &constants, nodes: 10 };
    let costs = bill(Stores { fleet }, 2, &Balancer::plan(fleet));
    let usd: Vec<_> = costs.iter().map(|cost| cost.usd).collect();
    // Ten tasks of 2 vCPU and 4 GiB; two masters with a replica each.
    assert_near(usd[0], 10.0 * (2.0 * 0.03238 + 4.0 * 0.00356) * 730.0);
    assert_near(usd[1], 4.0 * 0.1752 * 730.0);
    // 9.18 LCUs of bytes.
    assert_near(usd[2], (0.0225 + 9.18 * 0.008) * 730.0);
    // Two thirds of 100 x 500 x 4 bytes a second and of the leases' go to another zone.
    let leases = 10.0 * 10.0 * 190.0 / 5.0;
    assert_near(usd[3], (200_000.0 + leases) * 2.0 / 3.0 * 730.0 * 3600.0 / 1e9 * 0.02);
    // What clients send costs nothing.
    assert_near(usd[4], 2_500_000.0 * 730.0 * 3600.0 / 1e9 * 0.09);
}

#[test]
fn the_examples_have_a_plan() {
    for text in [
        include_str!("../../capacity/chat-100k.toml"),
        include_str!("../../capacity/notifications-1m.toml"),
        include_str!("../../capacity/ticker-20k.toml"),
    ] {
        let load = Load::read(text, "example").unwrap();
        let plan = Plan::of(&load, &Constants::read(None).unwrap()).unwrap();
        let bounds = plan.node_bounds.iter().chain(&plan.shard_bounds);
        assert!(bounds.into_iter().all(|bound| bound.used <= 1.0), "{plan}");
    }
}

/// A way in which a load can grow, by a factor.
type Growth = (&'static str, fn(&mut Load, f64));

const GROWTHS: [Growth; 14] = [
    ("native", |load, by| load.connections.native *= by),
    ("sockjs", |load, by| load.connections.sockjs *= by),
    ("subscriptions", |load, by| load.subscriptions.per_connection *= by),
    ("destinations", |load, by| load.subscriptions.destinations *= by),
    ("per second", |load, by| load.publications[0].per_second *= by),
    ("bytes", |load, by| load.publications[0].body_bytes *= by),
    ("subscribers", |load, by| load.publications[0].subscribers *= by),
    ("spread", |load, by| {
        load.publications[0].nodes = load.publications[0].nodes.map(|of| of * by);
    }),
    ("history", |load, by| load.publications[0].history_kept *= by),
    ("user sends", |load, by| load.user_sends[0].per_second *= by),
    ("connects", |load, by| load.churn.connects_per_second *= by),
    ("presence", |load, by| load.churn.presence_changes_per_second *= by),
    ("haste", |load, by| load.redundancy.storm_s /= by),
    ("rules", |load, by| load.balancer.rules *= by),
];

proptest! {
    #[test]
    fn more_load_never_takes_less(
        connections in 1.0..2e5_f64,
        rate in 1.0..2e3_f64,
        subscribers in 1.0..1e3_f64,
        survive in prop::sample::select(vec![Survive::None, Survive::Node, Survive::Zone]),
        growth in prop::sample::select(GROWTHS.to_vec()),
        by in 1.0..4.0_f64,
    ) {
        let mut load = Load::read(EVERYTHING, "everything").unwrap();
        load.connections.native = connections;
        load.publications[0].per_second = rate;
        load.publications[0].subscribers = subscribers;
        load.redundancy.survive = survive;
        let constants = Constants::read(None).unwrap();
        let mut more = load.clone();
        growth.1(&mut more, by);
        let Ok(plan) = Plan::of(&load, &constants) else {
            prop_assert!(Plan::of(&more, &constants).is_err(), "{} made it possible", growth.0);
            return Ok(());
        };
        let Ok(larger) = Plan::of(&more, &constants) else { return Ok(()) };
        prop_assert!(larger.nodes >= plan.nodes, "{}", growth.0);
        prop_assert!(larger.shards >= plan.shards, "{}", growth.0);
        prop_assert!(larger.redis_gib >= plan.redis_gib * 0.999_999, "{}", growth.0);
        prop_assert!(larger.usd_month >= plan.usd_month * 0.999_999, "{}", growth.0);
    }
}

const EVERYTHING: &str = r#"
name = "everything"
[connections]
native = 1
sockjs = 5000
[subscriptions]
per_connection = 3
destinations = 20000
[[publications]]
name = "rooms"
per_second = 1
body_bytes = 200
subscribers = 1
destinations = 1000
nodes = 12
history_share = 0.5
history_kept = 50
[[user_sends]]
name = "alerts"
per_second = 300
body_bytes = 300
[churn]
connects_per_second = 100
presence_changes_per_second = 200
[balancer]
rules = 20
"#;
