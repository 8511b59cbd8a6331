//! What the nodes of a Redis Cluster say about it, by `CLUSTER NODES`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};

pub(super) const SLOTS: u16 = 16_384;

/// The reports of the nodes that are up.
pub(super) struct ClusterView {
    /// Each node's word about itself, by index.
    own: BTreeMap<usize, NodeState>,
    reports: Vec<Report>,
}

/// What one node says about all that are up.
pub(super) type Report = BTreeMap<usize, NodeState>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeState {
    role: Role,
    epoch: u64,
    /// First and last of each range; none of a replica.
    slots: Vec<(u16, u16)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    Master,
    ReplicaOf(usize),
}

impl ClusterView {
    /// Reads one text of each node in `up`; fails while they don't all know, and reach, each other.
    pub(super) fn parse(
        ids: &[&str],
        up: &BTreeSet<usize>,
        texts: &[String],
    ) -> anyhow::Result<Self> {
        let mut view = Self { own: BTreeMap::new(), reports: Vec::new() };
        for (teller, text) in up.iter().zip(texts) {
            let report = parse_report(ids, up, text)
                .with_context(|| format!("node {teller} reports\n{text}"))?;
            let own = report.get(teller).context("it does not know itself")?;
            view.own.insert(*teller, own.clone());
            view.reports.push(report);
        }
        Ok(view)
    }

    pub(super) fn reports(&self) -> &[Report] {
        &self.reports
    }

    pub(super) fn role(&self, index: usize) -> Option<&Role> {
        self.own.get(&index).map(|state| &state.role)
    }

    pub(super) fn masters(&self) -> impl Iterator<Item = usize> {
        self.own.iter().filter(|(_, state)| state.role == Role::Master).map(|(index, _)| *index)
    }

    pub(super) fn replicas_of(&self, master: usize) -> impl Iterator<Item = usize> {
        let role = Role::ReplicaOf(master);
        self.own.iter().filter(move |(_, state)| state.role == role).map(|(index, _)| *index)
    }

    /// The node that serves a slot: of several that claim it, the one with the newest epoch.
    pub(super) fn owner(&self, slot: u16) -> Option<usize> {
        let claims = |state: &NodeState| {
            state.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
        };
        let claimants = self.own.iter().filter(|(_, state)| claims(state));
        claimants.max_by_key(|(_, state)| state.epoch).map(|(index, _)| *index)
    }
}

fn parse_report(ids: &[&str], up: &BTreeSet<usize>, text: &str) -> anyhow::Result<Report> {
    let index_of = |id: &str| ids.iter().position(|each| *each == id);
    let mut report = Report::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [id, _, flags, master, _, _, epoch, link, slots @ ..] = fields.as_slice() else {
            anyhow::bail!("too short: {line:?}");
        };
        let Some(index) = index_of(id).filter(|index| up.contains(index)) else {
            continue;
        };
        let bad = ["handshake", "fail", "fail?", "noaddr"];
        let flags: Vec<&str> = flags.split(',').collect();
        ensure!(!flags.iter().any(|flag| bad.contains(flag)), "not well: {line:?}");
        ensure!(flags.contains(&"myself") || *link == "connected", "no link: {line:?}");
        let role = if flags.contains(&"master") {
            Role::Master
        } else {
            Role::ReplicaOf(index_of(master).context("a replica of an unknown node")?)
        };
        let slots = slots.iter().filter(|slot| !slot.starts_with('[')).map(|slot| range(slot));
        let slots = slots.collect::<anyhow::Result<_>>()?;
        report.insert(index, NodeState { role, epoch: epoch.parse()?, slots });
    }
    ensure!(report.len() == up.len(), "it knows only {:?} of {up:?}", report.keys());
    Ok(report)
}

fn range(text: &str) -> anyhow::Result<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Ok((first.parse()?, last.parse()?))
}
