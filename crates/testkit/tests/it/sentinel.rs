//! Sentinels.

use fanlight_testkit::RedisSentinel;

#[test]
fn sentinels_name_the_master_and_their_url_names_them() {
    let redis = RedisSentinel::start(1, 3).unwrap();
    assert_eq!(redis.master().unwrap(), redis.servers()[0]);
    let sentinels: Vec<String> = (0..3).map(|i| redis.sentinel(i).address().to_string()).collect();
    assert_eq!(redis.url(), format!("redis-sentinel://{}/fanlight", sentinels.join(",")));
}

#[test]
fn a_dead_master_is_replaced_and_returns_as_a_replica() {
    let mut redis = RedisSentinel::start(2, 3).unwrap();
    let old = redis.master().unwrap();
    let mut client = redis.server(old).unwrap().control().unwrap();
    client.call(&["SET", "key", "value"]).unwrap().ok().unwrap();
    assert_eq!(client.call(&["WAIT", "2", "0"]).unwrap().integer().unwrap(), 2);

    assert_eq!(redis.kill_master().unwrap(), old);
    let new = redis.wait_for_failover(old).unwrap();
    assert_eq!(redis.master().unwrap(), new);
    let get = |address| redis.server(address).unwrap().call(&["GET", "key"]).unwrap().text();
    assert_eq!(get(new).unwrap(), "value");

    redis.relaunch(old).unwrap();
    redis.wait_until_settled().unwrap();
    let get = |address| redis.server(address).unwrap().call(&["GET", "key"]).unwrap().text();
    assert_eq!(get(old).unwrap(), "value");
}

#[test]
fn a_paused_master_is_replaced_and_follows_when_it_resumes() {
    let redis = RedisSentinel::start(1, 3).unwrap();
    let old = redis.pause_master().unwrap();
    let new = redis.wait_for_failover(old).unwrap();
    redis.server(old).unwrap().resume().unwrap();
    redis.wait_until_settled().unwrap();
    assert_eq!(redis.master().unwrap(), new);
}

#[test]
fn two_of_three_sentinels_are_enough_and_the_third_catches_up() {
    let mut redis = RedisSentinel::start(1, 3).unwrap();
    redis.sentinel_mut(0).kill();
    let old = redis.kill_master().unwrap();
    let new = redis.wait_for_failover(old).unwrap();
    redis.sentinel_mut(0).launch().unwrap();
    redis.relaunch(old).unwrap();
    redis.wait_until_settled().unwrap();
    assert_eq!(redis.master().unwrap(), new);
}
