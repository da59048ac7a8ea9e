//! The replica stands still while replay reaches main, then catches up while clients read in a loop: no read may show
//! a row twice, miss one, or step backwards.
//!
//! Writers note what they began and what was acknowledged. A read may show anything between what was acknowledged
//! before it began and what was begun before it ended, and never less than the same reader saw before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::stage::{Stage, describe, eventually, execute, value};

const SCHEMA: &str = "
    CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL, note text);
    CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE item (n bigint PRIMARY KEY, label text);
    CREATE TABLE event (n bigint, line text);
    CREATE TABLE churn (id int PRIMARY KEY, generation bigint NOT NULL);
    INSERT INTO counter SELECT i, 0, 'begin' FROM generate_series(1, 4) i;
    INSERT INTO account SELECT i, 100 FROM generate_series(1, 10) i;
    INSERT INTO item SELECT i, 'old' FROM generate_series(-5, 0) i;
    INSERT INTO event SELECT i, 'old' FROM generate_series(-5, 0) i;
    INSERT INTO churn SELECT i, 0 FROM generate_series(1, 6) i;";

/// Rows that were there before.
const OLD: i64 = 6;
const ACCOUNTS_TOTAL: i64 = 1000;

/// Everything a reader wants to know, in one snapshot.
const LOOK: &str = "SELECT
    (SELECT n FROM counter WHERE id = 1),
    (SELECT sum(n) FROM counter)::bigint,
    (SELECT sum(balance) FROM account)::bigint,
    (SELECT count(*) FROM account),
    (SELECT count(*) FROM item), (SELECT count(DISTINCT n) FROM item), (SELECT max(n) FROM item),
    (SELECT count(*) FROM event), (SELECT count(DISTINCT n) FROM event), (SELECT max(n) FROM event),
    (SELECT count(*) FROM churn), (SELECT count(DISTINCT id) FROM churn),
    (SELECT min(generation) FROM churn), (SELECT max(generation) FROM churn)";

/// What a writer began and what it was told.
#[derive(Default)]
struct Mark {
    begun: AtomicI64,
    acknowledged: AtomicI64,
}

#[derive(Default)]
struct Marks {
    counter: Mark,
    item: Mark,
    event: Mark,
    churn: Mark,
    stop: AtomicBool,
    looks: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Reader {
    Simple,
    Extended,
    ReadCommitted,
    RepeatableRead,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_stay_exact_while_the_replica_stands_still_and_when_it_catches_up() {
    let stage = Stage::own("frozen", SCHEMA).await;
    let marks = Arc::<Marks>::default();
    let readers = [Reader::Simple, Reader::Extended, Reader::ReadCommitted, Reader::RepeatableRead];
    let mut tasks: Vec<JoinHandle<()>> = Vec::new();
    for reader in readers {
        tasks.push(tokio::spawn(read(stage.client().await, reader, Arc::clone(&marks))));
    }
    tasks.push(tokio::spawn(write_counters(stage.client().await, Arc::clone(&marks))));
    tasks.push(tokio::spawn(write_rows(stage.client().await, Arc::clone(&marks))));
    tasks.push(tokio::spawn(write_transfers(stage.client().await, Arc::clone(&marks))));
    tasks.push(tokio::spawn(write_churn(stage.client().await, Arc::clone(&marks))));
    let alive = || assert!(!tasks.iter().any(JoinHandle::is_finished), "a reader or writer has ended");

    for _ in 0..4 {
        stage.lab().freeze().await.unwrap();
        // Long enough that plenty is on main and not on the replica, by the ledgers.
        let goal = stage.last_seq().await + 60;
        let main = stage.main().await;
        eventually("replay goes on while the replica stands still", async || {
            alive();
            stage.ledger(&main).await >= goal
        })
        .await;
        let replica = stage.site.replica().await.unwrap();
        assert!(stage.ledger(&replica).await < goal, "the replica was not frozen");
        let looks = marks.looks.load(Ordering::Relaxed) + 40;
        eventually("readers read", async || {
            alive();
            marks.looks.load(Ordering::Relaxed) >= looks
        })
        .await;
        stage.lab().thaw().await.unwrap();
        eventually("the replica catches up", async || {
            alive();
            stage.ledger(&replica).await >= goal
        })
        .await;
        let looks = marks.looks.load(Ordering::Relaxed) + 40;
        eventually("readers read", async || {
            alive();
            marks.looks.load(Ordering::Relaxed) >= looks
        })
        .await;
    }

    marks.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    stage.drain().await;
    let told = |mark: &Mark| mark.acknowledged.load(Ordering::Relaxed);
    for client in [stage.main().await, stage.client().await] {
        assert_eq!(value(&client, "SELECT sum(n) FROM counter").await, told(&marks.counter).to_string());
        assert_eq!(value(&client, "SELECT max(n) FROM item").await, told(&marks.item).to_string());
        assert_eq!(value(&client, "SELECT count(*) FROM item").await, (told(&marks.item) + OLD).to_string());
        assert_eq!(value(&client, "SELECT count(*) FROM event").await, (told(&marks.event) + OLD).to_string());
        assert_eq!(value(&client, "SELECT min(generation) FROM churn").await, told(&marks.churn).to_string());
        assert_eq!(value(&client, "SELECT sum(balance) FROM account").await, ACCOUNTS_TOTAL.to_string());
    }
}

impl Mark {
    fn begin(&self, value: i64) {
        self.begun.store(value, Ordering::SeqCst);
    }

    fn acknowledge(&self, value: i64) {
        self.acknowledged.store(value, Ordering::SeqCst);
    }

    fn least(&self) -> i64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    #[track_caller]
    fn allows(&self, what: &str, least: i64, seen: i64) {
        let most = self.begun.load(Ordering::SeqCst);
        assert!((least..=most).contains(&seen), "{what} is {seen}, must be from {least} to {most}");
    }
}

async fn write_counters(client: Client, marks: Arc<Marks>) {
    let raise = client.prepare("UPDATE counter SET n = n + 1 WHERE id = $1").await.unwrap();
    for n in 1.. {
        if marks.stop.load(Ordering::Relaxed) {
            return;
        }
        marks.counter.begin(n);
        // Row 1 every other time, so that one row is patched again and again at every stage of its way.
        let id = if n % 2 == 0 { 1 } else { 1 + (n / 2 % 4) as i32 };
        assert_eq!(client.execute(&raise, &[&id]).await.unwrap(), 1);
        marks.counter.acknowledge(n);
    }
}

async fn write_rows(client: Client, marks: Arc<Marks>) {
    for n in 1.. {
        if marks.stop.load(Ordering::Relaxed) {
            return;
        }
        marks.item.begin(n);
        marks.event.begin(n);
        // The rows come, are patched, go and come again, all of it pending.
        let (patch, event) =
            (format!("UPDATE item SET label = 'p' WHERE n = {n}"), format!("INSERT INTO event VALUES ({n}, 'new')"));
        execute(&client, &format!("BEGIN; INSERT INTO item VALUES ({n}, 'new'); {event}; COMMIT")).await;
        marks.item.acknowledge(n);
        marks.event.acknowledge(n);
        match n % 3 {
            0 => execute(&client, &patch).await,
            1 => {
                execute(
                    &client,
                    &format!("BEGIN; DELETE FROM item WHERE n = {n}; INSERT INTO item VALUES ({n}, 'again'); COMMIT"),
                )
                .await;
            }
            _ => {}
        }
    }
}

async fn write_transfers(client: Client, marks: Arc<Marks>) {
    for n in 0_i32.. {
        if marks.stop.load(Ordering::Relaxed) {
            return;
        }
        let (from, to) = (1 + n % 10, 1 + (n * 7 + 3) % 10);
        if from == to {
            continue;
        }
        execute(
            &client,
            &format!(
                "BEGIN; UPDATE account SET balance = balance - 5 WHERE id = {from};
                 UPDATE account SET balance = balance + 5 WHERE id = {to}; COMMIT"
            ),
        )
        .await;
    }
}

/// All rows go and come again in each transaction: there are always six, all of the same generation.
async fn write_churn(client: Client, marks: Arc<Marks>) {
    for n in 1_i64.. {
        if marks.stop.load(Ordering::Relaxed) {
            return;
        }
        marks.churn.begin(n);
        let change = match n % 3 {
            0 => format!("UPDATE churn SET generation = {n}"),
            1 => format!("DELETE FROM churn; INSERT INTO churn SELECT i, {n} FROM generate_series(1, 6) i"),
            _ => format!(
                "UPDATE churn SET generation = {n} WHERE id > 3; DELETE FROM churn WHERE id <= 3;
                 INSERT INTO churn SELECT i, {n} FROM generate_series(1, 3) i"
            ),
        };
        execute(&client, &format!("BEGIN; {change}; COMMIT")).await;
        marks.churn.acknowledge(n);
    }
}

/// Reads until told to stop; every answer must be possible, and none older than the one before.
async fn read(client: Client, reader: Reader, marks: Arc<Marks>) {
    let mut before: Option<Vec<i64>> = None;
    while !marks.stop.load(Ordering::Relaxed) {
        let least = [&marks.counter, &marks.item, &marks.event, &marks.churn].map(Mark::least);
        let seen = match reader {
            Reader::Simple => look_simple(&client).await,
            Reader::Extended => look(&client).await,
            Reader::ReadCommitted => {
                execute(&client, "BEGIN").await;
                let first = look(&client).await;
                never_backwards(&first, &look(&client).await);
                execute(&client, "COMMIT").await;
                first
            }
            Reader::RepeatableRead => {
                execute(&client, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
                let first = look(&client).await;
                for _ in 0..3 {
                    assert_eq!(look(&client).await, first, "the same transaction sees something else");
                    assert_eq!(look_simple(&client).await, first, "the same transaction sees something else");
                }
                execute(&client, "COMMIT").await;
                first
            }
        };
        possible(&marks, reader, least, &seen);
        if let Some(before) = &before {
            never_backwards(before, &seen);
        }
        before = Some(seen);
        marks.looks.fetch_add(1, Ordering::Relaxed);
    }
}

#[track_caller]
fn possible(marks: &Marks, reader: Reader, least: [i64; 4], seen: &[i64]) {
    let seen_by = format!("seen by {reader:?}: {seen:?}");
    let [counter, item, event, churn] = least;
    marks.counter.allows("the sum of the counters", counter, seen[1]);
    assert_eq!(seen[2], ACCOUNTS_TOTAL, "a transfer was seen half, or twice, {seen_by}");
    assert_eq!(seen[3], 10, "accounts");
    marks.item.allows("the last item", item, seen[6]);
    assert_eq!(seen[4], seen[5], "an item was seen twice, {seen_by}");
    assert_eq!(seen[4], seen[6] + OLD, "an item is missing, {seen_by}");
    marks.event.allows("the last event", event, seen[9]);
    assert_eq!(seen[7], seen[8], "an event was seen twice, {seen_by}");
    assert_eq!(seen[7], seen[9] + OLD, "an event is missing, {seen_by}");
    assert_eq!((seen[10], seen[11]), (6, 6), "rows that are replaced in one transaction, {seen_by}");
    assert_eq!(seen[12], seen[13], "half a transaction was seen, {seen_by}");
    marks.churn.allows("the generation", churn, seen[12]);
}

#[track_caller]
fn never_backwards(before: &[i64], after: &[i64]) {
    for place in [0, 1, 4, 6, 7, 9, 12] {
        assert!(after[place] >= before[place], "a step backwards at {place}: {before:?}, then {after:?}");
    }
}

async fn look(client: &Client) -> Vec<i64> {
    let row = client.query_one(LOOK, &[]).await.unwrap_or_else(|error| panic!("{}", describe(&error)));
    (0..row.len()).map(|i| row.get(i)).collect()
}

async fn look_simple(client: &Client) -> Vec<i64> {
    let rows = super::stage::rows(client, LOOK).await;
    rows[0].iter().map(|text| text.as_deref().unwrap().parse().unwrap()).collect()
}

/// PREPARE makes the replica take its snapshot, and the overlay was kept at the next statement only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeatable_read_that_begins_with_prepare_misses_nothing() {
    let stage = Stage::own("frozen_prepare", SCHEMA).await;
    for (place, first) in
        ["PREPARE q AS SELECT 1", "DEALLOCATE ALL", "EXPLAIN DELETE FROM event"].into_iter().enumerate()
    {
        let client = stage.client().await;
        stage.lab().freeze().await.unwrap();
        execute(&client, &format!("INSERT INTO churn VALUES ({}, 1)", 100 + place)).await;
        execute(&client, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
        execute(&client, first).await;
        stage.lab().thaw().await.unwrap();
        stage.drain().await;
        let seen = format!("SELECT count(*) FROM churn WHERE id = {}", 100 + place);
        assert_eq!(value(&client, &seen).await, "1", "{first}");
        execute(&client, "COMMIT").await;
    }
}
