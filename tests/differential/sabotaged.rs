//! The oracle can fail: a daemon with a mistake in it (`src/sabotage.rs`) is found out by the seeds that everybody runs.

use super::arena::{Arena, STUCK, Trial};
use super::generate::Features;
use super::{grounds, random};

/// So many seeds are enough for each of the mistakes.
const SEEDS: u64 = 24;
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_rewrite_is_found() {
    is_found("rewrite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_constraint_that_is_not_checked_is_found() {
    is_found("constraint").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_handed_out_twice_is_found() {
    is_found("lease").await;
}

async fn is_found(sabotage: &str) {
    let _turn = grounds::alone().await;
    let features = Features::from_environment();
    let mut arena = Arena::broken(&format!("broken_{sabotage}"), sabotage).await;
    let seeds: Vec<u64> = (1..=SEEDS).collect();
    // The same seeds find nothing when there is nothing to find: one is enough.
    for some in seeds.chunks(AT_ONCE) {
        let trials: Vec<Trial> = some.iter().map(|seed| random::trial(*seed, &features)).collect();
        let verdicts = arena.perform(trials).await;
        println!("{sabotage}: drained in {:?}", arena.drained.last());
        // What main rejects is put aside, and what comes behind it goes on.
        let stuck = verdicts.iter().flat_map(|verdict| &verdict.differences).find(|one| one.kind == STUCK);
        assert_eq!(stuck, None, "{sabotage}");
        if let Some(found) = verdicts.iter().find_map(|verdict| verdict.differences.first()) {
            println!("{sabotage}: found by a seed of {some:?}: {}", found.kind);
            return;
        }
    }
    panic!("{sabotage}: not found by {SEEDS} seeds");
}
