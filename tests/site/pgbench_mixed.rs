//! pgbench with a mixed script from many clients while the link flaps: no unexpected error, and at the end main is what
//! an ordinary Postgres is after the same run.
//!
//! The script's changes commute and each client draws from a generator of its own with a fixed seed, so the final tables
//! do not depend on how the clients interleave, and the two runs can be compared row by row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::stage::{PATIENCE, Stage, repository, rows, run_within, succeeded};

const CLIENTS: u64 = 16;
/// Of each client in each protocol. `MIXED_TRANSACTIONS=5000` makes minutes of it.
const TRANSACTIONS: u64 = 25;
const SEED: &str = "--random-seed=20261122";

const SCHEMA: &str = "
    CREATE TABLE device (id int PRIMARY KEY, name text NOT NULL UNIQUE, uses int NOT NULL DEFAULT 0);
    CREATE TABLE reading (client int, n int, device int NOT NULL REFERENCES device, value int NOT NULL CHECK (value >= 0),
        kept bool NOT NULL DEFAULT true, PRIMARY KEY (client, n));
    CREATE TABLE total (device int PRIMARY KEY REFERENCES device, readings int NOT NULL, value bigint NOT NULL);
    CREATE TABLE met (client int, device int, PRIMARY KEY (client, device));
    CREATE TABLE alarm (client int, n int, text text, FOREIGN KEY (client, n) REFERENCES reading ON DELETE CASCADE,
        PRIMARY KEY (client, n));
    INSERT INTO device SELECT i, 'device ' || i FROM generate_series(1, 20) i;";

const TABLES: [&str; 5] = [
    "SELECT * FROM device ORDER BY id",
    "SELECT * FROM reading ORDER BY client, n",
    "SELECT * FROM total ORDER BY device",
    "SELECT * FROM met ORDER BY client, device",
    "SELECT * FROM alarm ORDER BY client, n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_load_over_a_flapping_link_ends_as_on_an_ordinary_postgres() {
    let transactions = std::env::var("MIXED_TRANSACTIONS").map_or(TRANSACTIONS, |given| given.parse().unwrap());
    let stage = Stage::own("pgbench_mixed", SCHEMA).await;
    let plain = stage.lab().database("pgbench_mixed_plain").await.unwrap();
    plain.main().await.unwrap().batch_execute(SCHEMA).await.unwrap();
    stage.lab().wait_replica_caught_up().await.unwrap();

    let stage = Arc::new(stage);
    let flapping = Arc::new(AtomicBool::new(true));
    let weather = tokio::spawn(flap(Arc::clone(&stage), Arc::clone(&flapping)));
    for (round, mode) in ["simple", "extended", "prepared"].into_iter().enumerate() {
        for url in [&stage.outpost.url(), &plain.main_url] {
            pgbench(url, mode, round, transactions).await;
        }
    }
    flapping.store(false, Ordering::Relaxed);
    assert!(weather.await.unwrap() > 3, "the link hardly flapped");

    stage.drain().await;
    let (main, through, ordinary) = (stage.main().await, stage.client().await, plain.main().await.unwrap());
    for table in TABLES {
        let expected = rows(&ordinary, table).await;
        assert!(!expected.is_empty(), "{table}: the script does not reach it");
        assert_eq!(rows(&main, table).await, expected, "{table}");
        assert_eq!(rows(&through, table).await, expected, "{table}, read at the site");
    }
}

/// One run. Its clients number their rows from a place of their own.
async fn pgbench(url: &str, mode: &str, round: usize, transactions: u64) {
    let program = lab::postgres::binary("pgbench").unwrap();
    let script = repository("tests/site/pgbench_mixed.sql");
    let (clients, transactions) = (CLIENTS.to_string(), transactions.to_string());
    let first = format!("n={}", round * 1_000_000);
    let script = script.to_str().unwrap();
    let arguments =
        ["-n", "-M", mode, "-c", &clients, "-j", "1", "-t", &transactions, SEED, "-D", &first, "-f", script, url];
    let all = CLIENTS * transactions.parse::<u64>().unwrap();
    let limit = PATIENCE * 2 + Duration::from_millis(20 * all);
    let printed = succeeded(&run_within(limit, &program, &arguments).await);
    assert!(printed.contains(&format!("number of transactions actually processed: {all}/{all}")), "{printed}");
    assert!(printed.contains("number of failed transactions: 0 "), "{printed}");
    println!("{mode}: {}", printed.lines().filter(|line| line.contains("tps")).collect::<String>());
}

/// Cuts, heals, slows and blackens the link in turn; says how often.
async fn flap(stage: Arc<Stage>, flapping: Arc<AtomicBool>) -> u32 {
    let link = stage.lab().link();
    let mut turns = 0;
    while flapping.load(Ordering::Relaxed) {
        match turns % 5 {
            0 | 2 => link.cut().unwrap(),
            1 => {
                link.delay(Duration::from_millis(60)).unwrap();
                link.heal().unwrap();
            }
            3 => {
                link.delay(Duration::ZERO).unwrap();
                link.heal().unwrap();
            }
            _ => link.black_hole().unwrap(),
        }
        turns += 1;
        tokio::time::sleep(Duration::from_millis(if turns % 2 == 0 { 700 } else { 400 })).await;
    }
    link.delay(Duration::ZERO).unwrap();
    link.heal().unwrap();
    turns
}
