//! Which masters there are to look at, and whether those who should know them agree.

use futures_util::future::join_all;

use super::{Finding, Master, Report, Verdict};
use crate::config::{Endpoint, RedisConfig, Servers};
use crate::connection::{Connection, ConnectionError, Peer};
use crate::names::Partition;
use crate::slots::SlotMap;
use crate::topology;

/// The masters of the configured servers; what is wrong on the way there becomes findings.
pub(super) async fn find(config: &RedisConfig, findings: &mut Vec<Finding>) -> Vec<Master> {
    match &config.servers {
        Servers::Standalone(endpoints) => of_shards(endpoints),
        Servers::Sentinel { sentinels, master } => {
            let server = format!("sentinels of {master:?}");
            let mut report = Report { server, findings };
            of_sentinels(config, sentinels, master, &mut report).await
        }
        Servers::Cluster { seeds } => {
            let mut report = Report { server: "Redis Cluster".to_owned(), findings };
            of_cluster(config, seeds, &mut report).await
        }
    }
}

fn of_shards(endpoints: &[Endpoint]) -> Vec<Master> {
    let spread = topology::spread(endpoints);
    let first_of = |shard: usize| spread.iter().position(|own| usize::from(*own) == shard);
    let masters = endpoints.iter().enumerate().map(|(shard, endpoint)| Master {
        endpoint: endpoint.clone(),
        partition: Partition(first_of(shard).unwrap_or_default() as u8),
    });
    masters.collect()
}

async fn of_sentinels(
    config: &RedisConfig,
    sentinels: &[Endpoint],
    master: &str,
    report: &mut Report<'_>,
) -> Vec<Master> {
    let answers = join_all(sentinels.iter().map(|at| ask_sentinel(config, at, master))).await;
    let mut found: Vec<Endpoint> = Vec::new();
    for (sentinel, answer) in sentinels.iter().zip(answers) {
        match answer {
            Ok(Some(endpoint)) if found.contains(&endpoint) => {}
            Ok(Some(endpoint)) => found.push(endpoint),
            Ok(None) => {
                let detail = format!("{sentinel} does not know this master");
                let remedy = "check the master's name in the URL's path";
                report.add("sentinels", Verdict::Problem, detail, Some(remedy));
            }
            Err(error) => {
                let detail = format!("{sentinel}: {error}");
                report.add("sentinels", Verdict::Warning, detail, None);
            }
        }
    }
    match found.as_slice() {
        [] => {}
        [_] if sentinels.len() < 3 => {
            let detail = format!("{} sentinels", sentinels.len());
            let remedy = "with less than three, the loss of one can prevent a failover";
            report.add("sentinels", Verdict::Warning, detail, Some(remedy));
        }
        [_] => report.good("sentinels", format!("{} sentinels, one master", sentinels.len())),
        _ => {
            let detail = "they name different masters".to_owned();
            let remedy = "a failover may be under way; if it stays, check their configuration";
            report.add("sentinels", Verdict::Problem, detail, Some(remedy));
        }
    }
    found.into_iter().map(|endpoint| Master { endpoint, partition: Partition(0) }).collect()
}

async fn ask_sentinel(
    config: &RedisConfig,
    sentinel: &Endpoint,
    master: &str,
) -> Result<Option<Endpoint>, ConnectionError> {
    let name = "fanlight-doctor";
    let mut connection = Connection::open(sentinel.clone(), Peer::Sentinel, config, name).await?;
    let words = [&b"SENTINEL"[..], b"get-master-addr-by-name", master.as_bytes()];
    let answer = connection.ask("SENTINEL", &words).await?;
    let crate::resp3::Value::Array(parts) = answer else { return Ok(None) };
    let [host, port] = parts.as_slice() else { return Ok(None) };
    let port = port.as_text().and_then(|port| port.parse().ok());
    Ok(host.as_text().zip(port).map(|(host, port)| Endpoint { host: host.to_owned(), port }))
}

async fn of_cluster(
    config: &RedisConfig,
    seeds: &[Endpoint],
    report: &mut Report<'_>,
) -> Vec<Master> {
    for seed in seeds {
        match slots(config, seed).await {
            Ok(Some(map)) => return of_slots(&map, report),
            Ok(None) => {
                let detail = format!("{seed} gave no slot map");
                report.add("slots", Verdict::Problem, detail, Some("check CLUSTER INFO there"));
            }
            Err(error) => {
                let detail = format!("{seed}: {error}");
                report.add("seed", Verdict::Warning, detail, None);
            }
        }
    }
    let remedy = Some("check the seeds in the configured URL");
    report.add("slots", Verdict::Problem, "no seed answered".to_owned(), remedy);
    Vec::new()
}

async fn slots(config: &RedisConfig, seed: &Endpoint) -> Result<Option<SlotMap>, ConnectionError> {
    let name = "fanlight-doctor";
    let mut connection = Connection::open(seed.clone(), Peer::Node, config, name).await?;
    let answer = connection.ask("CLUSTER SLOTS", &[b"CLUSTER", b"SLOTS"]).await?;
    Ok(SlotMap::parse(&answer, seed))
}

fn of_slots(map: &SlotMap, report: &mut Report<'_>) -> Vec<Master> {
    let mut masters: Vec<Master> = Vec::new();
    let mut missing = 0;
    for partition in Partition::all() {
        match map.master_of(partition) {
            None => missing += 1,
            Some(endpoint) if masters.iter().any(|known| known.endpoint == *endpoint) => {}
            Some(endpoint) => masters.push(Master { endpoint: endpoint.clone(), partition }),
        }
    }
    let detail = format!("{} masters, {missing} of 256 partitions without one", masters.len());
    if missing > 0 {
        let remedy = "assign the missing slots, or wait for a failover to end";
        report.add("slots", Verdict::Problem, detail, Some(remedy));
    } else {
        report.good("slots", detail);
    }
    masters
}
