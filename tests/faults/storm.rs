//! The faults, in an order that a seed decides, and the test.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::Client;

use super::appends::{LISTS, Load, SCHEMA};
use super::history::{Truth, check};
use super::stage::{PATIENCE, Stage, rows};

const FAULTS: u64 = 200;
const CLIENTS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Daemon,
    Redis,
    Main,
    Replica,
    Cut,
    BlackHole,
    Slow,
    Frozen,
    /// The machine at the site loses power: daemon, Redis and replica at once.
    Power,
}

/// As often as they stand here.
const KINDS: [Fault; 16] = [
    Fault::Daemon,
    Fault::Daemon,
    Fault::Daemon,
    Fault::Daemon,
    Fault::Redis,
    Fault::Redis,
    Fault::Main,
    Fault::Main,
    Fault::Replica,
    Fault::Cut,
    Fault::Cut,
    Fault::Cut,
    Fault::BlackHole,
    Fault::Slow,
    Fault::Frozen,
    Fault::Power,
];

fn given(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |given| given.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_in_any_order_lose_nothing_and_repeat_nothing() {
    let (faults, seed) = (given("FAULTS", FAULTS), given("SEED", rand::rng().random_range(0..1_000_000)));
    println!("SEED={seed} FAULTS={faults}");
    let mut random = StdRng::seed_from_u64(seed);
    let stage = Stage::own("faults", SCHEMA).await;
    let load = Load::start(&stage.outpost.url(), CLIENTS, seed);
    for number in 0..faults {
        let fault = KINDS[random.random_range(0..KINDS.len())];
        let lasts = Duration::from_millis(random.random_range(0..250));
        strike(&stage, fault, lasts).await;
        // Mostly something gets done between two faults; at times the next one hits at once.
        if random.random_range(0..4) > 0 {
            progress(&load, random.random_range(1..12), || format!("SEED={seed}: after fault {number}, {fault:?}"))
                .await;
        }
        if number % 50 == 49 {
            let (told, read) = (load.acknowledged.load(Ordering::Relaxed), load.reads.load(Ordering::Relaxed));
            println!("{} faults, {told} acknowledged, {read} reads", number + 1);
        }
    }
    let records = load.stop().await;
    stage.drain().await;
    for client in [stage.main().await, stage.client().await] {
        let truth = truth(&client).await;
        match check(&records, &truth) {
            Ok(checked) => println!("{checked:?}"),
            Err(broken) => panic!("SEED={seed}: {broken}"),
        }
    }
}

/// One fault, and its end.
async fn strike(stage: &Stage, fault: Fault, lasts: Duration) {
    let lab = stage.lab();
    match fault {
        Fault::Daemon => {
            stage.outpost.kill9().unwrap();
            stage.outpost.restart().await.unwrap();
        }
        Fault::Redis => {
            lab.kill_redis().unwrap();
            tokio::time::sleep(lasts).await;
            lab.restart_redis().await.unwrap();
        }
        Fault::Main => {
            lab.kill_main().unwrap();
            tokio::time::sleep(lasts).await;
            lab.restart_main().await.unwrap();
        }
        Fault::Replica => {
            lab.kill_replica().unwrap();
            tokio::time::sleep(lasts).await;
            lab.restart_replica().await.unwrap();
        }
        Fault::Cut => {
            lab.link().cut().unwrap();
            tokio::time::sleep(lasts).await;
            lab.link().heal().unwrap();
        }
        Fault::BlackHole => {
            lab.link().black_hole().unwrap();
            tokio::time::sleep(lasts).await;
            lab.link().heal().unwrap();
        }
        Fault::Slow => {
            lab.link().delay(lasts).unwrap();
            tokio::time::sleep(lasts * 2).await;
            lab.link().delay(Duration::ZERO).unwrap();
        }
        Fault::Frozen => {
            lab.freeze().await.unwrap();
            tokio::time::sleep(lasts).await;
            lab.thaw().await.unwrap();
        }
        Fault::Power => {
            stage.outpost.kill9().unwrap();
            lab.kill_redis().unwrap();
            lab.kill_replica().unwrap();
            tokio::join!(async { lab.restart_redis().await.unwrap() }, async { lab.restart_replica().await.unwrap() });
            stage.outpost.restart().await.unwrap();
        }
    }
}

/// Waits until clients have been told of `count` more transactions.
async fn progress(load: &Load, count: u64, when: impl Fn() -> String) {
    let goal = load.acknowledged.load(Ordering::Relaxed) + count;
    let deadline = Instant::now() + PATIENCE;
    while load.acknowledged.load(Ordering::Relaxed) < goal {
        assert!(Instant::now() < deadline, "{}: no progress: {}", when(), load.last_failure());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// The lists, the journal and the tags as this connection shows them.
async fn truth(client: &Client) -> Truth {
    let lists = client.query("SELECT key, items FROM list", &[]).await.unwrap();
    let lists: std::collections::BTreeMap<_, _> = lists.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(lists.len(), usize::try_from(LISTS).unwrap());
    let numbers = async |sql: &str| -> Vec<i64> {
        rows(client, sql).await.iter().map(|row| row[0].as_deref().unwrap().parse().unwrap()).collect()
    };
    Truth { lists, journal: numbers("SELECT writer FROM journal").await, tags: numbers("SELECT writer FROM tag").await }
}
