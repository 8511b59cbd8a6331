//! What the simulation found, as tables.

use std::fmt::Write;

use super::shard::{Kind, SECOND, Shard, Work};
use super::world::World;

/// What shards were asked in a phase of so many seconds, by kind.
pub fn shards(world: &World, seconds: f64) -> String {
    let mut out = String::from(
        "| what | calls a second, of a shard on average | of the one with most | its main thread |\n|---|---|---|---|\n",
    );
    for (kind, name) in Kind::ALL {
        let each = world.shards.iter().map(|shard| shard.by_kind[kind as usize]);
        row(&mut out, name, each, seconds);
    }
    row(&mut out, "all", world.shards.iter().map(Shard::all), seconds);
    out
}

fn row(out: &mut String, name: &str, each: impl Iterator<Item = Work>, seconds: f64) {
    let each: Vec<_> = each.collect();
    let calls = |work: &Work| work.calls as f64 / seconds;
    let mean = each.iter().map(calls).sum::<f64>() / each.len() as f64;
    let Some(most) = each.iter().max_by_key(|work| work.busy_ns) else { return };
    let busy = most.busy_ns as f64 / SECOND as f64 / seconds * 100.0;
    let _ = writeln!(out, "| {name} | {mean:.0} | {:.0} | {busy:.1} % |", calls(most));
}

/// The fullest second of any shard.
pub fn peak(world: &World) -> String {
    let seconds = world.shards.iter().flat_map(|shard| &shard.by_second);
    let most_calls = seconds.clone().map(|work| work.calls).max().unwrap_or_default();
    let most_busy = seconds.map(|work| work.busy_ns).max().unwrap_or_default();
    format!(
        "peak of a shard: {most_calls} calls in a second; {:.0} % of its main thread in a second\n",
        most_busy as f64 / SECOND as f64 * 100.0
    )
}

/// What became of leases since nodes were lost.
pub fn deaths(world: &World) -> String {
    let counts = &world.leases.counts;
    let since = |at: u64| at.saturating_sub(world.gone_at) as f64 / SECOND as f64;
    format!(
        "dead: {}, the last after {:.1} s; their {} sessions removed after {:.1} s; \
         forgotten: {}, the last after {:.1} s\n\
         calls that looked for what they held: {}, of which {} found nothing\n",
        counts.deaths,
        since(counts.last_death_at),
        counts.sessions_removed,
        since(counts.last_emptied_at),
        counts.forgotten,
        since(counts.last_forgotten_at),
        counts.looks,
        counts.looks_in_vain,
    )
}

/// Whether renewals were in time.
pub fn renewals(world: &World) -> String {
    let counts = &world.leases.counts;
    let seconds = |ns: u64| ns as f64 / SECOND as f64;
    format!(
        "renewals: {}, {} answered too late, the slowest in {:.3} s; least left of a lease when \
         renewed: {:.1} s; false deaths: {}\n",
        counts.renewals,
        counts.renewals_late,
        seconds(counts.slowest_renewal),
        counts.least_left.map_or(0.0, seconds),
        counts.false_deaths,
    )
}

/// How those who lost their node came back.
pub fn returns(world: &World) -> String {
    let returns = &world.returns;
    let mut back = returns.back_ms.clone();
    let mut entries = returns.entry_us.clone();
    let seconds = |percent| quantile(&mut back, percent) / 1000.0;
    let [half, most, all] = [50, 99, 100].map(seconds);
    let millis = |percent| quantile(&mut entries, percent) / 1000.0;
    let [p50, p99, slowest] = [50, 99, 100].map(millis);
    format!(
        "away: {}, back: {}; half after {half:.1} s, 99 % after {most:.1} s, all after {all:.1} s; \
         attempts in vain: {}\n\
         entries: p50 {p50:.1} ms, p99 {p99:.1} ms, slowest {slowest:.1} ms; {} calls too late; \
         {:.1} operations a call; most waiting on a node: {}; overflows: {}\n",
        returns.away,
        returns.back_ms.len(),
        returns.failed_attempts,
        returns.late_calls,
        returns.operations as f64 / (returns.calls as f64).max(1.0),
        returns.most_waiting,
        returns.overflowed,
    )
}

fn quantile(values: &mut [u32], percent: usize) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let at = (values.len() - 1) * percent / 100;
    f64::from(*values.select_nth_unstable(at).1)
}
