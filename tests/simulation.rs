//! Simulation: the daemon's own parts over a simulated world, where a seed decides everything.
//!
//! Real, as they are: `buffer` (committer, publishing, quarantine, retention; in some runs the log in files, on a disk that forgets
//! what was not synced), `overlay`, `replay`, `tracker`, `ids`, the site's
//! row locks, and tokio-postgres with them. Simulated: main and replica (tables with foreign keys, transactions, locks and the ledger behind
//! Postgres' protocol; their columns change on main, and other sites write there), the links to them, the log's storage, the clock, and of the session what Postgres would evaluate:
//! which effects a statement has, and the merging of rows, which the real session has Postgres do.
//!
//! A seed always does the same: one thread, a clock that moves only when all wait, all chance from the seed.
//! `SIM_SEED=7 cargo test --test simulation -- --nocapture one_seed` repeats one and tells what happens.

#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

use std::collections::BTreeMap;

use run::{Report, run};
use world::Bug;

#[path = "simulation/backend.rs"]
mod backend;
#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/daemon.rs"]
mod daemon;
#[path = "simulation/depends.rs"]
mod depends;
#[path = "simulation/dice.rs"]
mod dice;
#[path = "simulation/drift.rs"]
mod drift;
#[path = "simulation/files.rs"]
mod files;
#[path = "simulation/link.rs"]
mod link;
#[path = "simulation/log.rs"]
mod log;
#[path = "simulation/main_db.rs"]
mod main_db;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/sequences.rs"]
mod sequences;
#[path = "simulation/statement.rs"]
mod statement;
#[path = "simulation/tables.rs"]
mod tables;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;

/// In CI.
const SEEDS: u64 = 2000;
const SEEDS_FOR_A_BUG: u64 = 500;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs these seeds on two threads, and gives their reports in order.
fn all(seeds: std::ops::Range<u64>) -> Vec<(u64, Report)> {
    let half = |odd: u64| seeds.clone().filter(move |seed| seed % 2 == odd).map(|seed| (seed, run(seed, None, false)));
    let both = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1).collect::<Vec<_>>());
        let mut reports: Vec<_> = half(0).collect();
        reports.extend(other.join().unwrap());
        reports
    });
    let sorted: BTreeMap<u64, Report> = both.into_iter().collect();
    sorted.into_iter().collect()
}

/// The one that `SIM_SEED` names, told step by step.
#[test]
fn one_seed() {
    let seed = number("SIM_SEED");
    let report = run(seed.unwrap_or(1), None, seed.is_some());
    assert_eq!(report.broken, None, "{report:?}");
}

/// `SIM_SEEDS=100000 SIM_FIRST=1` (or `make simulate`) for more of them.
#[test]
fn many_seeds() {
    let (first, count) = (number("SIM_FIRST").unwrap_or(1), number("SIM_SEEDS").unwrap_or(SEEDS));
    let begun = std::time::Instant::now();
    let reports = all(first..first + count);
    let sum = |what: fn(&Report) -> u64| reports.iter().map(|(_, report)| what(report)).sum::<u64>();
    let (acknowledged, reads) = (sum(|report| report.acknowledged as u64), sum(|report| report.reads));
    println!("{count} seeds, {acknowledged} transactions acknowledged, {reads} reads, {:?}", begun.elapsed());
    let broken = reports.iter().filter_map(|(seed, report)| {
        let what = report.broken.as_ref()?;
        Some(format!(
            "SIM_SEED={seed} cargo test --test simulation one_seed -- --nocapture # {:?}: {what}",
            report.faults
        ))
    });
    let broken: Vec<String> = broken.collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(acknowledged > count && reads > count, "nothing much happens");
}

#[test]
fn a_seed_always_does_the_same() {
    let once: Vec<Report> = (1..=60).map(|seed| run(seed, None, false)).collect();
    // In another order: nothing is left behind by a run.
    let mut again: Vec<Report> = (1..=60).rev().map(|seed| run(seed, None, false)).collect();
    again.reverse();
    for (seed, (once, again)) in once.iter().zip(&again).enumerate() {
        assert_eq!(once, again, "seed {}", seed + 1);
    }
}

/// Runs seeds until one finds the mistake.
fn finds(bug: Bug, words: &[&str]) {
    let mut found = None;
    for seed in 1..=SEEDS_FOR_A_BUG {
        if let Some(what) = run(seed, Some(bug), false).broken {
            found = Some((seed, what));
            break;
        }
    }
    let (seed, what) = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
    println!("{bug:?}: seed {seed}: {what}");
    assert!(words.iter().any(|word| what.contains(word)), "{bug:?}, seed {seed}: {what}");
}

#[test]
fn a_ledger_that_moves_from_anywhere_is_found() {
    finds(Bug::BlindLedger, &["ledger goes from", "applied twice"]);
}

#[test]
fn writes_that_outlive_their_begin_are_found() {
    finds(Bug::WritesWithoutBegin, &["on main:", "ledger goes from"]);
}

#[test]
fn an_answer_before_its_fsync_is_found() {
    finds(Bug::AnswerBeforeDurable, &["neither applied, pending nor in quarantine", "which the log never had"]);
}

#[test]
fn an_fsync_that_does_nothing_is_found() {
    finds(
        Bug::IdleFsync,
        &[
            "neither applied, pending nor in quarantine",
            "which the log never had",
            "and is",
            "is acknowledged",
            "no progress",
        ],
    );
}

#[test]
fn a_session_on_a_replica_that_went_back_is_found() {
    finds(Bug::PastReplica, &["a read at ledger"]);
}

#[test]
fn an_overlay_taken_after_the_snapshot_is_found() {
    finds(Bug::LateOverlay, &["a read at ledger"]);
}

#[test]
fn a_read_without_the_gate_is_found() {
    finds(Bug::NoGate, &["a read at ledger"]);
}

#[test]
fn writes_without_locks_are_found() {
    finds(Bug::NoLocks, &["saw", "inserts", "and waits for nobody"]);
}

#[test]
fn foreign_keys_that_main_does_not_tell_of_are_found() {
    finds(Bug::SecretForeignKeys, &["and waits for nobody", "is applied, and refers to", "is applied, and removes"]);
}

#[test]
fn a_log_that_does_not_say_what_is_in_quarantine_is_found() {
    finds(Bug::BlankQuarantine, &["which is in quarantine", "a read at ledger", "on main:"]);
}

#[test]
fn a_lease_that_the_log_forgets_is_found() {
    finds(Bug::ForgottenLease, &["is handed out twice"]);
}

#[test]
fn a_sequence_that_says_it_begins_again_is_found() {
    finds(Bug::CyclingSequence, &["is handed out twice"]);
}

#[test]
fn children_that_do_not_lock_what_they_need_are_found() {
    finds(Bug::CarelessChildren, &["refers to", "saw", "and waits for nobody"]);
}

#[test]
fn a_main_that_listens_to_replayers_of_before_is_found() {
    finds(Bug::NoTakeOver, &["is put into quarantine, and is applied", "on main:"]);
}

#[test]
fn a_log_that_does_not_tell_who_lost_it_is_found() {
    finds(Bug::BlindProbe, &["is put into quarantine, and is applied", "on main:", "is applied, and"]);
}

#[test]
fn a_log_without_fencing_is_found() {
    finds(Bug::NoFence, &["was acknowledged as", "and is", "which the log never had", "acknowledged"]);
}

#[test]
fn a_log_that_takes_what_comes_late_is_found() {
    finds(Bug::LateArrivals, &["was refused to its client", "and is", "was acknowledged as"]);
}

#[test]
fn a_log_that_loses_its_tail_is_found() {
    finds(Bug::LostTail, &["neither applied, pending nor in quarantine", "which the log never had", "and is"]);
}

#[test]
fn a_replica_that_is_torn_is_found() {
    finds(Bug::TornReplica, &["saw", "inserts", "a read at ledger", "and waits for nobody"]);
}

#[test]
fn a_ledger_that_stays_locked_is_found() {
    finds(Bug::StuckLedger, &["no progress"]);
}

#[test]
fn a_session_that_goes_by_the_clock_is_found() {
    finds(Bug::TrustsTheClock, &["a read at ledger"]);
}

#[test]
fn a_main_that_has_no_policies_is_found() {
    finds(Bug::DeafToPolicies, &["on main:", "is applied, and overwrites"]);
}

#[test]
fn a_main_that_keeps_quiet_about_its_definitions_is_found() {
    finds(Bug::SilentDrift, &["on main:", "is applied, and has a value for", "is in quarantine for"]);
}

#[test]
fn a_main_that_counts_its_columns_anew_is_found() {
    finds(Bug::RenumberedColumns, &["on main:", "is applied, and has a value for", "is put aside for"]);
}
