//! Whole clusters in one thread: the engine's timelines over a broker that loses, doubles, delays,
//! fails over and forgets, judged by the delivery contract (design §5). A seed decides everything.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking where something is missing")]

// The same record and the same judge as of real processes.
#[path = "../../../gateway/tests/chaos/check/mod.rs"]
mod check;
mod clients;
mod node;
#[expect(dead_code, reason = "no queue is simulated")]
#[path = "../../../gateway/tests/chaos/record.rs"]
mod record;
#[path = "../../../gateway/tests/chaos/report.rs"]
mod report;
mod rng;
mod servers;
mod world;

use std::env;

use check::{Rule, check};
use record::Run;
use report::Figures;
use world::{Sabotage, World};

#[test]
fn every_subscriber_gets_all_once_and_in_order_or_is_told() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("FANLIGHT_SIM_SEED") {
        let run = judge(seed);
        println!("{}", report::everything(&run));
        return;
    }
    for seed in 0..number("FANLIGHT_SIM_SEEDS").unwrap_or(SEEDS) {
        judge(seed);
    }
}

#[test]
fn a_seed_replays_a_run_exactly() {
    for seed in 0..5 {
        let (first, trace) = World::new(seed, None).finish();
        let (again, same) = World::new(seed, None).finish();
        assert_eq!(trace, same);
        assert_eq!(report::everything(&first), report::everything(&again));
        let (_, other) = World::new(seed + 1, None).finish();
        assert_ne!(trace, other);
    }
}

#[test]
fn runs_have_recoveries_losses_and_every_outcome_of_a_send() {
    let mut sum = Figures::default();
    for seed in 0..10 {
        let figures = Figures::of(&World::new(seed, None).finish().0);
        sum.acked += figures.acked;
        sum.refused += figures.refused;
        sum.unknown += figures.unknown;
        sum.recovered += figures.recovered;
        sum.not_recovered += figures.not_recovered;
        sum.lost += figures.lost;
        sum.faults += figures.faults;
    }
    assert!(sum.acked > 1_000 && sum.recovered > 100 && sum.faults > 50, "{sum:?}");
    let rare = [sum.refused, sum.unknown, sum.not_recovered, sum.lost];
    assert!(rare.iter().all(|count| *count > 0), "{sum:?}");
}

#[test]
fn a_broker_that_gives_an_offset_again_is_caught() {
    catches(Sabotage::Forget, &[Rule::PositionWithTwoContents, Rule::FalseAck]);
}

#[test]
fn a_broker_whose_epoch_outlives_a_failover_is_caught() {
    catches(Sabotage::KeepEpoch, &[Rule::PositionWithTwoContents, Rule::FalseAck]);
}

#[test]
fn a_node_that_delivers_what_comes_as_it_comes_is_caught() {
    catches(Sabotage::DeliverRaw, &[Rule::SilentGap, Rule::Duplicate]);
}

#[test]
fn a_node_that_hides_losses_is_caught() {
    catches(Sabotage::HideLoss, &[Rule::SilentGap]);
}

#[test]
fn a_node_that_claims_a_recovery_is_caught() {
    catches(Sabotage::ClaimRecovery, &[Rule::FalseRecovery]);
}

/// Judges the run of a seed.
fn judge(seed: u64) -> Run {
    let (run, _) = World::new(seed, None).finish();
    let violations = check(&run);
    assert!(
        violations.is_empty(),
        "the contract is broken {} times; FANLIGHT_SIM_SEED={seed} replays it\n{}",
        violations.len(),
        report::describe(&run, &violations),
    );
    run
}

/// Each of `rules` is found broken in some of a few runs.
fn catches(sabotage: Sabotage, rules: &[Rule]) {
    let run = |seed| check(&World::new(seed, Some(sabotage)).finish().0);
    let found: Vec<_> = (0..10).flat_map(run).map(|violation| violation.rule).collect();
    for rule in rules {
        assert!(found.contains(rule), "{rule:?} not found with {sabotage:?}");
    }
}

const SEEDS: u64 = 40;
