//! The oracle can fail: a daemon with a mistake in it (`src/sabotage.rs`) is found out by the seeds that everybody runs.

use super::arena::{Arena, Trial};
use super::generate::Features;
use super::{grounds, random};

/// So many seeds are enough for each of the mistakes.
const SEEDS: u64 = 24;

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
    let trials: Vec<Trial> = (1..=SEEDS).map(|seed| random::trial(seed, &features)).collect();
    let mut arena = Arena::broken(&format!("broken_{sabotage}"), sabotage).await;
    let verdicts = arena.perform(trials).await;
    let found: Vec<_> = verdicts.iter().filter_map(|verdict| verdict.differences.first()).collect();
    println!("{sabotage}: found in {} of {SEEDS} seeds", found.len());
    // One could be a mistake that nobody made on purpose.
    assert!(found.len() >= 2, "{sabotage}: found only in {found:?}");
}
