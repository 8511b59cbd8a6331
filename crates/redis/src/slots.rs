//! The answers to `CLUSTER SLOTS` and `CLUSTER INFO`: which master has each partition.

use crate::config::Endpoint;
use crate::names::Partition;
use crate::resp3::Value;

/// Which master has each partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotMap {
    /// At the index of the partition; `None` where no master has its slot.
    masters: Vec<Option<Endpoint>>,
}

impl SlotMap {
    /// From an answer that `asked` gave; `None` when it is something else.
    pub(crate) fn parse(answer: &Value, asked: &Endpoint) -> Option<Self> {
        let Value::Array(ranges) = answer else {
            return None;
        };
        let ranges: Vec<_> = ranges.iter().map(|range| parse_range(range, asked)).collect();
        let ranges = ranges.into_iter().collect::<Option<Vec<_>>>()?;
        let masters = Partition::all().map(|partition| {
            let slot = i64::from(partition.slot());
            let range = ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
            range.map(|(_, _, master)| master.clone())
        });
        Some(Self { masters: masters.collect() })
    }

    /// The master of a partition.
    pub(crate) fn master_of(&self, partition: Partition) -> Option<&Endpoint> {
        self.masters[usize::from(partition.0)].as_ref()
    }
}

/// What a node says about the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClusterState {
    /// Whether it takes commands.
    pub(crate) is_ok: bool,
    /// Grows with each failover and migration: of two slot maps, that with the greater one is newer.
    pub(crate) epoch: u64,
}

impl ClusterState {
    /// From the answer to `CLUSTER INFO`.
    pub(crate) fn parse(answer: &Value) -> Option<Self> {
        let text = answer.as_text()?;
        let field = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name));
        let epoch = field("cluster_current_epoch:")?.parse().ok()?;
        Some(Self { is_ok: field("cluster_state:")? == "ok", epoch })
    }
}

/// `[first, last, [host, port, id, ...], replicas...]`
fn parse_range(range: &Value, asked: &Endpoint) -> Option<(i64, i64, Endpoint)> {
    let Value::Array(parts) = range else {
        return None;
    };
    let [Value::Integer(first), Value::Integer(last), Value::Array(master), ..] = parts.as_slice()
    else {
        return None;
    };
    let [host, Value::Integer(port), ..] = master.as_slice() else {
        return None;
    };
    // A node that does not know its own name says nothing or `?`: it was reached by ours.
    let host = match host.as_text() {
        None | Some("" | "?") => asked.host.clone(),
        Some(host) => host.to_owned(),
    };
    let port = u16::try_from(*port).ok().filter(|port| *port > 0)?;
    Some((*first, *last, Endpoint { host, port }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64, host: &Value) -> Value {
        let node = |port| {
            let id = Value::Bulk("id".into());
            Value::Array(vec![host.clone(), Value::Integer(port), id, Value::Array(Vec::new())])
        };
        Value::Array(vec![Value::Integer(first), Value::Integer(last), node(7000), node(7001)])
    }

    #[test]
    fn each_partition_is_at_the_master_of_its_slot_and_gaps_have_none() {
        let asked: Endpoint = "seed:1".parse().unwrap();
        let answer = Value::Array(vec![
            range(0, 8191, &Value::Bulk("a".into())),
            range(8192, 12287, &Value::Bulk("".into())),
        ]);
        let map = SlotMap::parse(&answer, &asked).unwrap();
        for partition in Partition::all() {
            let expected = match partition.slot() {
                0..=8191 => Some("a:7000"),
                8192..=12287 => Some("seed:7000"),
                _ => None,
            };
            let master = map.master_of(partition).map(ToString::to_string);
            assert_eq!(master.as_deref(), expected);
        }
    }

    #[test]
    fn the_state_is_read_from_its_lines() {
        let state = |text: &'static str| ClusterState::parse(&Value::Bulk(text.into()));
        let text = "cluster_state:ok\r\ncluster_slots_ok:16384\r\ncluster_current_epoch:6\r\n";
        assert_eq!(state(text), Some(ClusterState { is_ok: true, epoch: 6 }));
        let text = "cluster_state:fail\r\ncluster_current_epoch:0\r\n";
        assert_eq!(state(text), Some(ClusterState { is_ok: false, epoch: 0 }));
        assert_eq!(state("cluster_state:ok\r\n"), None);
    }

    #[test]
    fn what_is_no_slot_map_is_none() {
        let asked: Endpoint = "seed:1".parse().unwrap();
        for answer in [
            Value::Null,
            Value::Array(vec![Value::Null]),
            Value::Array(vec![Value::Array(vec![Value::Integer(0), Value::Integer(1)])]),
        ] {
            assert_eq!(SlotMap::parse(&answer, &asked), None);
        }
    }
}
