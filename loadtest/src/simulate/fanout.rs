//! Fan-out: what a publication costs by the nodes that are subscribed, and how long it waits.

use std::fmt::Write;

use rand::Rng;
use rand::rngs::StdRng;

use crate::capacity::constants::Constants;

/// A table of channels with so many nodes subscribed.
pub fn table(nodes: usize, constants: &Constants, rng: &mut StdRng) -> String {
    let mut out = String::from(
        "| nodes subscribed | µs of Redis | a second at half a core | MB/s out then | waits p50, p99 (ms) |\n\
         |---|---|---|---|---|\n",
    );
    for subscribed in counts(nodes) {
        let us = publication_us(subscribed as f64, constants);
        let most = 0.5e6 / us;
        let bytes = (BODY_BYTES + constants.redis.envelope_bytes) * subscribed as f64;
        let [p50, p99] = waits_ms(us, 0.5, rng);
        let _ = writeln!(
            out,
            "| {subscribed} | {us:.1} | {most:.0} | {:.0} | {p50:.2}, {p99:.2} |",
            most * bytes / 1e6
        );
    }
    out
}

/// On how many of `nodes` the subscribers of a destination are: by chance, and as sampled.
pub fn spread_table(nodes: usize, rng: &mut StdRng) -> String {
    let mut out = String::from(
        "| subscribers | nodes that hold them, expected | sampled, least to most |\n|---|---|---|\n",
    );
    for subscribers in [2, 10, 100, 1_000, 10_000] {
        let expected = crate::capacity::holding(f64::from(subscribers), nodes as f64);
        let samples: Vec<_> = (0..SAMPLES).map(|_| sampled(subscribers, nodes, rng)).collect();
        let (least, most) = (samples.iter().min(), samples.iter().max());
        let _ = writeln!(
            out,
            "| {subscribers} | {expected:.1} | {} to {} |",
            least.copied().unwrap_or_default(),
            most.copied().unwrap_or_default()
        );
    }
    out
}

fn counts(nodes: usize) -> Vec<usize> {
    let mut counts: Vec<_> = [1, 10, 100].into_iter().filter(|count| *count < nodes).collect();
    counts.push(nodes);
    counts
}

fn publication_us(subscribed: f64, constants: &Constants) -> f64 {
    constants.redis.publish_us + subscribed * constants.redis.publish_node_us
}

/// How long a publication waits and is served, at `used` of the main thread, when they come by
/// chance: half of them at most so long, and all but one in a hundred.
fn waits_ms(us: f64, used: f64, rng: &mut StdRng) -> [f64; 2] {
    let (mut now, mut busy_until) = (0.0_f64, 0.0_f64);
    let mut waits: Vec<f64> = (0..ARRIVALS)
        .map(|_| {
            now -= rng.random_range(f64::MIN_POSITIVE..1.0).ln() * us / used;
            busy_until = busy_until.max(now) + us;
            busy_until - now
        })
        .collect();
    waits.sort_by(f64::total_cmp);
    [50, 99].map(|percent| waits[waits.len() * percent / 100] / 1000.0)
}

fn sampled(subscribers: u32, nodes: usize, rng: &mut StdRng) -> usize {
    let mut holds = vec![false; nodes];
    for _ in 0..subscribers {
        holds[rng.random_range(0..nodes)] = true;
    }
    holds.into_iter().filter(|holds| *holds).count()
}

const BODY_BYTES: f64 = 256.0;
const ARRIVALS: usize = 200_000;
const SAMPLES: usize = 100;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn waiting_is_that_of_a_queue_with_one_server() {
        // M/D/1 at half load: on average half a service of waiting, and the service itself.
        let mut rng = StdRng::seed_from_u64(1);
        let [p50, p99] = waits_ms(1000.0, 0.5, &mut rng);
        assert!((1.0..1.5).contains(&p50), "{p50}");
        assert!((3.0..6.0).contains(&p99), "{p99}");
    }

    #[test]
    fn chance_spreads_as_expected() {
        let mut rng = StdRng::seed_from_u64(1);
        let expected = crate::capacity::holding(100.0, 50.0);
        let sampled: usize = (0..200).map(|_| sampled(100, 50, &mut rng)).sum();
        assert!((sampled as f64 / 200.0 - expected).abs() < 1.0, "{sampled}, {expected}");
    }
}
