//! Standalone shards.

use fanlight_testkit::{RedisShards, Reply};

#[test]
fn shards_share_nothing_and_one_can_fail_alone() {
    let mut shards = RedisShards::start(2).unwrap();
    let ports: Vec<String> = shards.endpoints().iter().map(ToString::to_string).collect();
    assert_eq!(shards.url(), format!("redis-shards://{}", ports.join(",")));
    shards.shard(0).call(&["SET", "key", "0"]).unwrap().ok().unwrap();
    assert_eq!(shards.shard(1).call(&["GET", "key"]).unwrap(), Reply::Nil);

    shards.shard_mut(1).kill();
    assert!(shards.shard(1).call(&["PING"]).is_err());
    assert_eq!(shards.shard(0).call(&["GET", "key"]).unwrap().text().unwrap(), "0");
    shards.shard_mut(1).launch().unwrap();
    assert_eq!(shards.shard(1).call(&["GET", "key"]).unwrap(), Reply::Nil);
}
