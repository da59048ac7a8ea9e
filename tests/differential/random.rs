//! Generated scripts: a number of seeds, or all that fit in a time.
//!
//! `FUZZ_SEED=17 FUZZ_COUNT=1 cargo test --test differential generated -- --nocapture` performs one seed; `FUZZ_SECONDS`
//! goes on for that long (`make fuzz-sql`). `FEATURES` turns parts of the generator on and off.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::arena::{Arena, STUCK, Trial};
use super::client::Protocol;
use super::generate::{self, Features};
use super::script::Links;
use super::{grounds, shrink};

/// Seeds in one freeze of the replica.
const AT_ONCE: u64 = 24;
/// Seeds without being told otherwise: about half a minute.
const COUNT: u64 = 48;
/// After so many different failures there is enough to do.
const FAILURES: usize = 6;

/// A seed's script and how it is performed: with the link up and cut, in each protocol, in turn.
pub fn trial(seed: u64, features: &Features) -> Trial {
    let protocol = [Protocol::Simple, Protocol::Extended, Protocol::Prepared][(seed % 3) as usize];
    let script = generate::script(seed, protocol, features);
    let cut = (seed / 3).is_multiple_of(2) && script.links != Links::Live;
    Trial { script, protocol, cut }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number is needed")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_statements_answer_as_on_a_plain_postgres() {
    let _turn = grounds::alone().await;
    let features = Features::from_environment();
    let first = number("FUZZ_SEED").unwrap_or(1);
    let seconds = number("FUZZ_SECONDS");
    let count = number("FUZZ_COUNT").unwrap_or(if seconds.is_some() { u64::MAX / 2 } else { COUNT });
    let mut arena = Arena::new("generated").await;
    let begun = Instant::now();
    let end = seconds.map(|seconds| begun + Duration::from_secs(seconds));
    let (mut seed, mut transactions, mut statements) = (first, 0, 0);
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures: BTreeMap<String, String> = BTreeMap::new();
    while seed < first + count && end.is_none_or(|end| Instant::now() < end) && failures.len() < FAILURES {
        let seeds: Vec<u64> = (seed..(first + count).min(seed + AT_ONCE)).collect();
        seed += seeds.len() as u64;
        let trials: Vec<Trial> = seeds.iter().map(|seed| trial(*seed, &features)).collect();
        let verdicts = arena.perform(trials.clone()).await;
        for ((seed, trial), verdict) in seeds.iter().zip(trials).zip(verdicts) {
            let schema = trial.script.schema.join(";\n");
            assert_eq!(verdict.invalid, None, "seed {seed} makes a schema that Postgres does not take:\n{schema}");
            transactions += verdict.transactions;
            statements += trial.script.steps.len();
            for refusal in verdict.refusals {
                *refusals.entry(refusal).or_default() += 1;
            }
            let Some(difference) = verdict.differences.first() else { continue };
            let stuck = verdict.differences.iter().find(|difference| difference.kind == STUCK);
            assert!(stuck.is_none(), "seeds {} to {}: {}", seeds[0], seed, stuck.map_or("", |stuck| &stuck.text));
            let words = difference.signature();
            println!(
                "seed {seed}: {} differences, the first: {words}\n    {}",
                verdict.differences.len(),
                difference.text
            );
            if failures.contains_key(&words) || failures.len() == FAILURES {
                continue;
            }
            let shrunk = match std::env::var_os("FUZZ_NO_SHRINK") {
                Some(_) => trial.script.to_string(),
                None => shrink::shrink(&mut arena, trial.clone(), difference).await,
            };
            let way = format!("{:?}, link {}", trial.protocol, if trial.cut { "cut" } else { "up" });
            let replay = format!("FUZZ_SEED={seed} FUZZ_COUNT=1 cargo test --test differential generated");
            failures.insert(words, format!("seed {seed} ({way}); replay: {replay}\n{shrunk}"));
        }
    }
    let took = begun.elapsed();
    let minutes = took.as_secs_f64() / 60.0;
    println!(
        "seeds {first} to {}: {transactions} transactions, {statements} statements in {:.0} s, {:.0} transactions a minute",
        seed - 1,
        took.as_secs_f64(),
        transactions as f64 / minutes
    );
    println!("the longest drain took {:?}", arena.drained.iter().max().unwrap_or(&Duration::ZERO));
    for (refusal, count) in &refusals {
        println!("refused {count:5} times: {refusal}");
    }
    let texts: Vec<_> = failures.into_values().collect();
    assert!(texts.is_empty(), "{} kinds of difference\n\n{}", texts.len(), texts.join("\n\n"));
}
