//! Clients that append unique values to lists, several in one transaction, and read all lists at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::stage::describe;

pub const LISTS: i32 = 6;

/// The lists, and a table without a key that would show a transaction applied twice.
pub const SCHEMA: &str = "
    CREATE TABLE list (key int PRIMARY KEY, items bigint[] NOT NULL DEFAULT '{}');
    INSERT INTO list SELECT i FROM generate_series(1, 6) i;
    CREATE TABLE journal (writer bigint NOT NULL);
    CREATE TABLE tag (writer bigint PRIMARY KEY, client int NOT NULL);";

/// How a transaction ended, as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Acknowledged,
    Refused,
    /// Nobody said anything after COMMIT was sent.
    Unanswered,
}

/// A transaction that appends its own number to some lists.
#[derive(Clone, Debug)]
pub struct Written {
    pub writer: i64,
    pub keys: Vec<i32>,
    pub fate: Fate,
}

/// What one query saw of all lists, and how many of its own transactions the client had been told of before.
#[derive(Clone, Debug)]
pub struct Seen {
    pub lists: BTreeMap<i32, Vec<i64>>,
    pub own_acknowledged: usize,
}

/// What one client did, in its order.
#[derive(Debug, Default)]
pub struct Record {
    pub written: Vec<Written>,
    pub seen: Vec<Seen>,
}

/// Clients at work.
pub struct Load {
    pub acknowledged: Arc<AtomicU64>,
    pub reads: Arc<AtomicU64>,
    failure: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Record>>,
}

struct Worker {
    number: usize,
    url: String,
    random: StdRng,
    acknowledged: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
    failure: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    record: Record,
}

impl Load {
    pub fn start(url: &str, clients: usize, seed: u64) -> Load {
        let (acknowledged, reads) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (failure, stop) = (Arc::<Mutex<String>>::default(), Arc::<AtomicBool>::default());
        let worker = |number: usize| Worker {
            number,
            url: url.to_owned(),
            random: StdRng::seed_from_u64(seed ^ (number as u64) << 32),
            acknowledged: Arc::clone(&acknowledged),
            reads: Arc::clone(&reads),
            failure: Arc::clone(&failure),
            stop: Arc::clone(&stop),
            record: Record::default(),
        };
        let workers = (1..=clients).map(|number| tokio::spawn(worker(number).run())).collect();
        Load { acknowledged, reads, failure, stop, workers }
    }

    /// For the message of a test that fails.
    pub fn last_failure(&self) -> String {
        self.failure.lock().unwrap().clone()
    }

    /// Ends the clients after what they are doing.
    pub async fn stop(self) -> Vec<Record> {
        self.stop.store(true, Ordering::Relaxed);
        let mut records = Vec::new();
        for worker in self.workers {
            records.push(worker.await.unwrap());
        }
        records
    }
}

impl Worker {
    async fn run(mut self) -> Record {
        while !self.stop.load(Ordering::Relaxed) {
            let connected = tokio::time::timeout(Duration::from_secs(10), lab::postgres::connect(&self.url)).await;
            let Ok(Ok(client)) = connected else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            while !self.stop.load(Ordering::Relaxed) && !client.is_closed() {
                let outcome = if self.random.random_range(0..3) == 0 {
                    self.read(&client).await
                } else {
                    self.append(&client).await
                };
                if let Err(error) = outcome {
                    *self.failure.lock().unwrap() = describe(&error);
                    let _ = client.batch_execute("ROLLBACK").await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        self.record
    }

    async fn append(&mut self, client: &Client) -> Result<(), Error> {
        let writer = (self.record.written.len() as i64) << 8 | self.number as i64;
        let mut keys: Vec<i32> = (1..=LISTS).filter(|_| self.random.random_range(0..3) == 0).collect();
        if keys.is_empty() {
            keys.push(self.random.random_range(1..=LISTS));
        }
        let in_one_message = self.random.random();
        let outcome = if in_one_message {
            self.append_by_script(client, writer, &keys).await
        } else {
            self.append_by_steps(client, writer, &keys).await
        };
        let (fate, outcome) = match outcome {
            Ok(()) => (Fate::Acknowledged, Ok(())),
            Err((committing, error)) => {
                let fate = if committing && unsaid(&error) { Fate::Unanswered } else { Fate::Refused };
                (fate, Err(error))
            }
        };
        if fate == Fate::Acknowledged {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.record.written.push(Written { writer, keys, fate });
        outcome
    }

    async fn append_by_script(&self, client: &Client, writer: i64, keys: &[i32]) -> Result<(), (bool, Error)> {
        let mut script = format!(
            "BEGIN; INSERT INTO journal VALUES ({writer}); INSERT INTO tag VALUES ({writer}, {});",
            self.number
        );
        for key in keys {
            script += &format!("UPDATE list SET items = items || {writer}::bigint WHERE key = {key};");
        }
        client.batch_execute(&(script + "COMMIT")).await.map_err(|error| (true, error))
    }

    async fn append_by_steps(&self, client: &Client, writer: i64, keys: &[i32]) -> Result<(), (bool, Error)> {
        let before = |error| (false, error);
        client.batch_execute("BEGIN").await.map_err(before)?;
        client.execute("INSERT INTO journal VALUES ($1)", &[&writer]).await.map_err(before)?;
        let tag = "INSERT INTO tag VALUES ($1, $2)";
        client.execute(tag, &[&writer, &(self.number as i32)]).await.map_err(before)?;
        for key in keys {
            // In the order of the keys: no deadlocks.
            let update = "UPDATE list SET items = items || $1::bigint WHERE key = $2";
            client.execute(update, &[&writer, key]).await.map_err(before)?;
        }
        client.batch_execute("COMMIT").await.map_err(|error| (true, error))
    }

    async fn read(&mut self, client: &Client) -> Result<(), Error> {
        let own_acknowledged = self.record.written.len();
        let rows = client.query("SELECT key, items FROM list", &[]).await?;
        let lists = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        self.record.seen.push(Seen { lists, own_acknowledged });
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether the error leaves open what became of a COMMIT that was sent: 08007, a FATAL, a broken connection.
fn unsaid(error: &Error) -> bool {
    error
        .as_db_error()
        .is_none_or(|report| *report.code() == SqlState::TRANSACTION_RESOLUTION_UNKNOWN || report.severity() == "FATAL")
}
