//! A Redis Cluster.

use fanlight_testkit::{RedisCluster, RedisServer, Reply, redis_command};

#[test]
fn a_cluster_forms_with_all_slots_served_and_replicas_in_step() {
    let cluster = RedisCluster::start(3, 1).unwrap();
    assert_eq!(cluster.masters().unwrap(), [0, 1, 2]);
    for (master, slot) in [(0, 0), (0, 5460), (1, 5461), (2, 16_383)] {
        assert_eq!(cluster.master_of_slot(slot).unwrap(), master, "slot {slot}");
    }
    for master in 0..3 {
        assert_eq!(cluster.replicas_of(master).unwrap(), [3 + master]);
    }
    let ports: Vec<String> = cluster.endpoints().iter().map(ToString::to_string).collect();
    assert_eq!(cluster.url(), format!("redis-cluster://{}", ports.join(",")));
}

#[test]
fn a_cluster_of_one_master_works() {
    let cluster = RedisCluster::start(1, 0).unwrap();
    let set = redis_command(cluster.endpoints()[0], &["SET", "key", "1"]).unwrap();
    assert_eq!(set, Reply::Simple("OK".to_owned()));
}

#[test]
fn a_dead_master_is_replaced_and_returns_as_a_replica() {
    let mut cluster = RedisCluster::start(3, 1).unwrap();
    let slot = cluster.slot_of("key").unwrap();
    let old = cluster.master_of_slot(slot).unwrap();
    let mut client = cluster.node(old).control().unwrap();
    client.call(&["SET", "key", "value"]).unwrap().ok().unwrap();
    assert_eq!(client.call(&["WAIT", "1", "0"]).unwrap().integer().unwrap(), 1);

    let new = cluster.promote_by_killing(old).unwrap();
    assert_eq!(cluster.master_of_slot(slot).unwrap(), new);
    assert_eq!(get(cluster.node(new)), "value");

    cluster.launch(old).unwrap();
    cluster.wait_until_settled().unwrap();
    assert_eq!(cluster.replicas_of(new).unwrap(), [old]);
}

#[test]
fn a_manual_failover_swaps_the_roles_and_keeps_the_data() {
    let cluster = RedisCluster::start(1, 1).unwrap();
    set(cluster.node(0), "value");
    assert_eq!(cluster.failover(0).unwrap(), 1);
    assert_eq!(cluster.masters().unwrap(), [1]);
    assert_eq!(cluster.replicas_of(1).unwrap(), [0]);
    assert_eq!(get(cluster.node(1)), "value");
}

#[test]
fn a_slot_moves_with_its_keys_by_way_of_ask() {
    let cluster = RedisCluster::start(2, 0).unwrap();
    let slot = cluster.slot_of("key").unwrap();
    let from = cluster.master_of_slot(slot).unwrap();
    let to = 1 - from;
    set(cluster.node(from), "value");

    cluster.begin_migration(slot, to).unwrap();
    assert_eq!(get(cluster.node(from)), "value");
    let lacking = cluster.node(from).call(&["GET", "{key}other"]).unwrap();
    assert_eq!(lacking, redirect("ASK", slot, cluster.node(to)));

    cluster.finish_migration(slot, to).unwrap();
    assert_eq!(get(cluster.node(to)), "value");
    let moved = cluster.node(from).call(&["GET", "key"]).unwrap();
    assert_eq!(moved, redirect("MOVED", slot, cluster.node(to)));

    cluster.migrate_slot(slot, from).unwrap();
    assert_eq!(get(cluster.node(from)), "value");
}

#[test]
fn a_paused_master_is_replaced_and_steps_down_when_it_resumes() {
    let cluster = RedisCluster::start(3, 1).unwrap();
    cluster.pause(0).unwrap();
    assert_eq!(cluster.wait_for_takeover(0).unwrap(), 3);
    cluster.resume(0).unwrap();
    cluster.wait_until_settled().unwrap();
    assert_eq!(cluster.replicas_of(3).unwrap(), [0]);
}

fn set(node: &RedisServer, value: &str) {
    node.call(&["SET", "key", value]).unwrap().ok().unwrap();
}

fn get(node: &RedisServer) -> String {
    node.call(&["GET", "key"]).unwrap().text().unwrap()
}

fn redirect(kind: &str, slot: u16, to: &RedisServer) -> Reply {
    Reply::Error(format!("{kind} {slot} {}", to.address()))
}
