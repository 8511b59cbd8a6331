//! Whether all nodes list the same shards: those that don't look for channels and keys in different
//! places, and don't hear each other, though each of them is healthy.
//!
//! So every node leaves the names that it knows in each of its shards, and reads what others left.
//! Nodes that have not one server in common stay unknown to each other.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::config::{RedisConfig, Servers};
use crate::names::{Kind, Names, Partition};
use crate::resp3::Value;
use crate::scripts;
use crate::shards::Shards;

/// Compares for as long as it is polled. Only servers that know nothing of each other need it:
/// sentinels and clusters say themselves who has what.
pub(crate) async fn watch(shards: Arc<Shards>, names: Names, config: Arc<RedisConfig>) {
    let Servers::Standalone(endpoints) = &config.servers else { return };
    let ours: BTreeSet<_> = endpoints.iter().map(ToString::to_string).collect();
    let ours = ours.into_iter().collect::<Vec<_>>().join(",");
    // Of one name on every server, whichever partitions that has for whom.
    let key = names.key(Partition(0), Kind("shards"), "");
    let counts_ms = config.lease.as_millis().to_string();
    let command = scripts::AGREEMENT.call(&[&key], &[ours.as_bytes(), counts_ms.as_bytes()]);
    let mut told = BTreeSet::new();
    loop {
        let answers = join_all(shards.call_each(&command)).await;
        let others = others(answers.into_iter().flatten(), &ours);
        metrics::gauge!("fanlight_redis_shards_disputed").set(f64::from(!others.is_empty()));
        if others != told {
            report(&ours, &others);
            told = others;
        }
        sleep(config.lease_renew).await;
    }
}

/// What other nodes say that is not `ours`.
fn others(answers: impl Iterator<Item = Value>, ours: &str) -> BTreeSet<String> {
    let sayings = answers.flat_map(|answer| match answer {
        Value::Array(sayings) => sayings,
        _ => Vec::new(),
    });
    // One server has everything, whatever it is called.
    let differs = |saying: &str| saying != ours && (saying.contains(',') || ours.contains(','));
    let others = sayings.filter_map(|saying| Some(saying.as_text()?.to_owned()));
    others.filter(|saying| differs(saying)).collect()
}

fn report(ours: &str, others: &BTreeSet<String>) {
    if others.is_empty() {
        info!("all nodes list the same Redis servers again");
    }
    for theirs in others {
        warn!(
            ours,
            theirs,
            "another node lists other Redis servers, or calls them otherwise: give all nodes the \
             same redis.url, as they don't hear each other where it differs"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lists_of_several_servers_can_differ() {
        for (ours, said, disputed) in [
            ("a:1,b:1", &["a:1,b:1", "a:1,b:1"][..], &[][..]),
            ("a:1,b:1", &["a:1,b:1", "a:1"], &["a:1"]),
            ("a:1", &["a:1,b:1", "a:1", "other:1"], &["a:1,b:1"]),
            ("a:1", &["a:1", "other:1"], &[]),
        ] {
            let saying = |text: &&str| Value::Bulk(text.as_bytes().to_vec().into());
            let answer = Value::Array(said.iter().map(saying).collect());
            let found = others([answer].into_iter(), ours);
            assert!(found.iter().eq(disputed), "{ours}: {found:?}");
        }
    }
}
