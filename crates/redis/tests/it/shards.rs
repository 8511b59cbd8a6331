//! Several standalone shards: what one of them does while another is away.

use fanlight_engine::registry::{Entered, Registry};
use fanlight_testkit::{RedisServer, RedisShards, eventually};
use futures_util::future::join_all;

use crate::lease::{LEASE, leased};
use crate::registry::Node;

/// The shard that has the leases, and the other one.
fn home_and_other(shards: &RedisShards) -> (usize, usize) {
    let has_leases = shards.shard(0).command("KEYS fl:*:leases:").unwrap().contains("leases");
    if has_leases { (0, 1) } else { (1, 0) }
}

/// When the lease of this owner ends, in Redis' own time.
fn deadline_ms(server: &RedisServer, owner: &str) -> u64 {
    let leases = server.command("KEYS fl:*:leases:").unwrap();
    let key = leases.lines().find(|line| line.starts_with("fl:")).unwrap();
    let score = server.call(&["ZSCORE", key, owner]).unwrap().text().unwrap();
    score.parse().unwrap()
}

/// How many PINGs a server has answered.
fn pings(server: &RedisServer) -> u64 {
    let stats = server.command("INFO commandstats").unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
    line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn while_a_shard_is_away_the_others_leases_go_on_and_their_users_are_entered() {
    let mut shards = RedisShards::start(2).unwrap();
    let ann = Node::start(leased(&shards.url()));
    let bob = Node::start(leased(&shards.url()));
    ann.sees(&[&ann, &bob]).await;
    bob.sees(&[&ann, &bob]).await;
    let (home, other) = home_and_other(&shards);
    shards.shard_mut(other).kill();
    let lasts_ms = LEASE.as_millis() as u64;
    for node in [&ann, &bob] {
        let owner = node.lease.owner();
        let until_ms = deadline_ms(shards.shard(home), &owner) + 3 * lasts_ms;
        eventually("it is renewed", || deadline_ms(shards.shard(home), &owner) > until_ms).await;
        eventually("it is held", || node.lease.is_held()).await;
        assert_eq!((node.lease.owner(), node.lease.fenced()), (owner, 0));
    }
    let entering = (0..40).map(|n| ann.registry.enter(ann.contract.session(&format!("u{n}"))));
    let entered = join_all(entering).await;
    let now = entered.iter().filter(|entered| **entered == Entered::Now).count();
    assert!((1..40).contains(&now), "those of the shard that is there: {now}");
}

#[tokio::test]
async fn a_shard_that_lost_its_data_is_noticed_also_while_another_does_not_answer() {
    let mut shards = RedisShards::start(2).unwrap();
    let ann = Node::start(leased(&shards.url()));
    ann.sees(&[&ann]).await;
    let users: Vec<_> = (0..40).map(|n| format!("u{n}")).collect();
    let mut entries = Vec::new();
    for user in &users {
        entries.push(ann.contract.entered(user).await);
    }
    let (home, other) = home_and_other(&shards);
    shards.shard(home).pause().unwrap();
    shards.shard_mut(other).kill();
    shards.shard_mut(other).launch().unwrap();
    // Each turn of the lease asks it for each of its partitions, of which it has about sixteen.
    eventually("turns have seen it", || pings(shards.shard(other)) > 100).await;
    shards.shard(home).resume().unwrap();
    eventually("everything is to be entered again", || ann.registry.round() > 0).await;
    assert_eq!(ann.lease.fenced(), 1);
    for (user, entry) in users.iter().zip(&entries) {
        eventually("there is room", || ann.registry.reenter(entry.clone())).await;
        ann.contract.has(user, &[entry]).await;
    }
}

#[tokio::test]
async fn a_shard_that_refuses_writes_keeps_only_its_own_from_being_reaped() {
    let shards = RedisShards::start(2).unwrap();
    let ann = Node::start(leased(&shards.url()));
    let bob = Node::start(leased(&shards.url()));
    bob.sees(&[&ann, &bob]).await;
    let users: Vec<_> = (0..40).map(|n| format!("u{n}")).collect();
    for user in &users {
        ann.contract.entered(user).await;
    }
    let (home, other) = home_and_other(&shards);
    let sessions = |shard| {
        let keys = shards.shard(shard).command("KEYS fl:*").unwrap();
        keys.matches("}:u:u").count()
    };
    let others = sessions(other);
    assert!(sessions(home) > 0 && others > 0);
    shards.shard(other).command("CONFIG SET maxmemory 1").unwrap();
    drop(ann);
    eventually("what the one has is removed", || sessions(home) == 0).await;
    assert_eq!(sessions(other), others);
    shards.shard(other).command("CONFIG SET maxmemory 0").unwrap();
    eventually("what the other has is removed", || sessions(other) == 0).await;
    let leases = |kind: &str| shards.shard(home).command(&format!("KEYS fl:*:{kind}:")).unwrap();
    eventually("it is forgotten", || !leases("dead").contains("dead")).await;
}
