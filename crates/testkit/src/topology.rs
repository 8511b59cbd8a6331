//! Redis as it is deployed: a Cluster, masters watched by Sentinels, several standalone shards.
//!
//! Their methods block until the servers agree. A test that has tasks of its own to be served
//! meanwhile runs by `#[tokio::test(flavor = "multi_thread")]`: its tasks are on other threads.

mod cluster;
mod cluster_view;
mod sentinel;
mod shards;

use std::net::SocketAddr;

pub use cluster::RedisCluster;
pub use sentinel::RedisSentinel;
pub use shards::RedisShards;

fn url(scheme: &str, addresses: &[SocketAddr]) -> String {
    let hosts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("{scheme}://{}", hosts.join(","))
}
