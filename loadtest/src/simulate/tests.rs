//! What must come of every simulation, in clusters that are small enough to simulate in a test.

use std::time::Duration;

use super::shard::SECOND;
use super::topology::Topology;
use super::world::{Setting, World};
use super::{AFTERMATH, SETTLED, is_over, rules};
use crate::capacity::constants::Constants;

fn setting(nodes: usize, over: Option<&str>) -> Setting {
    Setting {
        nodes,
        sessions: nodes * 1000,
        shard_of: Topology::Cluster.spread(4),
        shards: 4,
        zones: 3,
        cores: 2.0,
        notice: Duration::from_secs(5),
        balancer: Duration::from_secs(10),
        session: Duration::from_secs(600),
        seed: 7,
        constants: Constants::read(over).unwrap(),
    }
}

fn settled(setting: Setting) -> World {
    let mut world = World::new(setting);
    world.run(SETTLED, |_| false);
    world.begin_phase();
    world
}

#[test]
fn a_dead_node_is_reaped_within_a_lease_and_two_turns_and_its_clients_come_back() {
    let mut world = settled(setting(30, None));
    world.lose(0..1);
    world.run(SETTLED + AFTERMATH, |world| is_over(world, 1));
    let counts = &world.leases.counts;
    let within = rules::LEASE + rules::LEASE_RENEW + Duration::from_secs(1);
    assert_eq!((counts.deaths, counts.false_deaths, counts.forgotten), (1, 0, 1));
    assert!(counts.last_emptied_at - world.gone_at < within.as_nanos() as u64);
    assert!(counts.sessions_removed > 900, "{}", counts.sessions_removed);
    assert_eq!(world.returns.back_ms.len() as u64, world.returns.away);
}

#[test]
fn a_lost_zone_comes_back_elsewhere_and_nobody_else_is_taken_for_dead() {
    let mut world = settled(setting(30, None));
    world.lose(0..10);
    world.run(SETTLED + AFTERMATH, |world| is_over(world, 10));
    let counts = &world.leases.counts;
    assert_eq!((counts.deaths, counts.false_deaths, counts.forgotten), (10, 0, 10));
    assert_eq!(world.returns.back_ms.len() as u64, world.returns.away);
    assert!(world.returns.failed_attempts > 0, "the balancer still sent some to the dead");
}

#[test]
fn leases_that_take_more_than_their_shard_has_leave_nodes_without_one_and_nobody_is_taken_for_dead()
{
    // 30 renewals every 5 s, a quarter of a second each: half more than one thread can do.
    let mut world = settled(setting(30, Some("[redis]\nlease_us = 250000")));
    world.run(SETTLED + 120 * SECOND, |_| false);
    let counts = &world.leases.counts;
    assert!(counts.renewals_late > 0);
    assert!(world.nodes.iter().any(|node| !node.holds_lease(world.now)));
    // Who can't renew in time is not calm, so it declares nobody dead either.
    assert_eq!(counts.false_deaths, 0);
}

#[test]
fn one_seed_decides_everything() {
    let outcome = || {
        let mut world = settled(setting(12, None));
        world.lose(0..4);
        world.run(SETTLED + 60 * SECOND, |_| false);
        (world.returns.back_ms.clone(), world.shards[0].all())
    };
    assert_eq!(outcome(), outcome());
}
