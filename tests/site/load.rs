//! Clients that write transactions and remember, of each, whether it was acknowledged, refused or never answered.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::stage::{describe, rows, value};

/// A table with a key, one without, and counters that every transaction raises.
pub const SCHEMA: &str = "
    CREATE TABLE token (id uuid PRIMARY KEY, client int NOT NULL, n int NOT NULL);
    CREATE TABLE journal (token uuid NOT NULL, client int NOT NULL);
    CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO counter SELECT i, 0 FROM generate_series(1, 8) i;";

/// How a transaction ended, as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    /// An error said that it is not done.
    Refused,
    /// Nobody said anything after COMMIT was sent.
    Unanswered,
}

/// Clients at work.
pub struct Load {
    pub acknowledged: Arc<AtomicU64>,
    pub refused: Arc<AtomicU64>,
    failure: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<HashMap<Uuid, (usize, Fate)>>>,
}

struct Worker {
    number: usize,
    url: String,
    acknowledged: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    failure: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    fates: HashMap<Uuid, (usize, Fate)>,
}

impl Load {
    pub fn start(url: &str, clients: usize) -> Load {
        let (acknowledged, refused) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (failure, stop) = (Arc::<Mutex<String>>::default(), Arc::<AtomicBool>::default());
        let worker = |number| Worker {
            number,
            url: url.to_owned(),
            acknowledged: Arc::clone(&acknowledged),
            refused: Arc::clone(&refused),
            failure: Arc::clone(&failure),
            stop: Arc::clone(&stop),
            fates: HashMap::new(),
        };
        let workers = (1..=clients).map(|number| tokio::spawn(worker(number).run())).collect();
        Load { acknowledged, refused, failure, stop, workers }
    }

    /// For the message of a test that fails.
    pub fn last_failure(&self) -> String {
        self.failure.lock().unwrap().clone()
    }

    /// Ends the clients after the transactions that they are in.
    pub async fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut fates = HashMap::new();
        for worker in self.workers {
            fates.extend(worker.await.unwrap());
        }
        Outcome { fates }
    }
}

impl Worker {
    async fn run(mut self) -> HashMap<Uuid, (usize, Fate)> {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(client) = lab::postgres::connect(&self.url).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            self.check_what_i_know(&client).await;
            while !self.stop.load(Ordering::Relaxed) && !client.is_closed() {
                let id = Uuid::now_v7();
                let (fate, failure) = self.transaction(&client, id).await;
                self.fates.insert(id, (self.number, fate));
                match fate {
                    Fate::Acknowledged => {
                        self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    Fate::Refused => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                    }
                    Fate::Unanswered => {}
                }
                if let Some(error) = failure {
                    *self.failure.lock().unwrap() = describe(&error);
                    let _ = client.batch_execute("ROLLBACK").await;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        self.fates
    }

    /// A new connection, after a crash perhaps, shows everything that this client was told before.
    async fn check_what_i_know(&self, client: &Client) {
        let count = |wanted: &[Fate]| self.fates.values().filter(|(_, fate)| wanted.contains(fate)).count() as i64;
        let Ok(row) = client
            .query_one("SELECT count(*), count(DISTINCT id) FROM token WHERE client = $1", &[&(self.number as i32)])
            .await
        else {
            return;
        };
        let (seen, distinct): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(seen, distinct, "client {} sees a row twice", self.number);
        let (least, most) = (count(&[Fate::Acknowledged]), count(&[Fate::Acknowledged, Fate::Unanswered]));
        assert!((least..=most).contains(&seen), "client {} sees {seen} tokens, not {least} to {most}", self.number);
    }

    /// Three kinds: one statement, a script in one message, and a block in the extended protocol.
    async fn transaction(&self, client: &Client, id: Uuid) -> (Fate, Option<tokio_postgres::Error>) {
        let (number, n) = (self.number as i32, self.fates.len() as i32);
        let shared = 1 + n % 4;
        if n % 3 == 0 {
            let script = format!(
                "BEGIN; INSERT INTO token VALUES ('{id}', {number}, {n}); INSERT INTO journal VALUES ('{id}', {number});
                 UPDATE counter SET n = n + 1 WHERE id = {shared}; COMMIT"
            );
            return judged(client.batch_execute(&script).await, true);
        }
        let block = async {
            client.batch_execute("BEGIN").await?;
            client.execute("INSERT INTO token VALUES ($1, $2, $3)", &[&id, &number, &n]).await?;
            client.execute("INSERT INTO journal VALUES ($1, $2)", &[&id, &number]).await?;
            client.execute("UPDATE counter SET n = n + 1 WHERE id = $1", &[&shared]).await
        };
        match block.await {
            Ok(_) => judged(client.batch_execute("COMMIT").await, true),
            Err(error) => judged::<()>(Err(error), false),
        }
    }
}

/// `committing`: COMMIT may have been received before the connection broke.
fn judged<T>(outcome: Result<T, tokio_postgres::Error>, committing: bool) -> (Fate, Option<tokio_postgres::Error>) {
    let Err(error) = outcome else { return (Fate::Acknowledged, None) };
    // 08007: the daemon itself cannot say. A FATAL ends the connection, with no word about the COMMIT that was sent.
    let unsaid = error.as_db_error().is_none_or(|report| {
        *report.code() == SqlState::TRANSACTION_RESOLUTION_UNKNOWN || report.severity() == "FATAL"
    });
    (if unsaid && committing { Fate::Unanswered } else { Fate::Refused }, Some(error))
}

/// What all clients were told.
pub struct Outcome {
    fates: HashMap<Uuid, (usize, Fate)>,
}

impl Outcome {
    fn count(&self, wanted: Fate) -> usize {
        self.fates.values().filter(|(_, fate)| *fate == wanted).count()
    }

    /// For a daemon that stopped in order: it must not have done what it did not acknowledge.
    pub fn unanswered_is_refused(mut self) -> Outcome {
        self.fates
            .values_mut()
            .filter(|(_, fate)| *fate == Fate::Unanswered)
            .for_each(|(_, fate)| *fate = Fate::Refused);
        self
    }

    pub fn unanswered(&self) -> usize {
        self.count(Fate::Unanswered)
    }

    /// Every acknowledged transaction is there once, every refused one is not, every unanswered one is there once and
    /// wholly, or not at all.
    pub async fn must_be_in(&self, client: &Client) {
        let mut tokens: HashMap<Uuid, usize> = HashMap::new();
        for row in rows(client, "SELECT id FROM token").await {
            *tokens.entry(row[0].as_deref().unwrap().parse().unwrap()).or_default() += 1;
        }
        let mut journal: HashMap<Uuid, usize> = HashMap::new();
        for row in rows(client, "SELECT token FROM journal").await {
            *journal.entry(row[0].as_deref().unwrap().parse().unwrap()).or_default() += 1;
        }
        for (id, (number, fate)) in &self.fates {
            let found = (tokens.get(id).copied().unwrap_or(0), journal.get(id).copied().unwrap_or(0));
            let right = match fate {
                Fate::Acknowledged => found == (1, 1),
                Fate::Refused => found == (0, 0),
                Fate::Unanswered => found == (1, 1) || found == (0, 0),
            };
            assert!(right, "{fate:?} transaction {id} of client {number} is there {found:?} times");
        }
        let strangers = tokens.keys().filter(|id| !self.fates.contains_key(id)).count();
        assert_eq!(strangers, 0, "tokens nobody wrote");
        let counted = value(client, "SELECT sum(n) FROM counter").await;
        assert_eq!(counted, tokens.len().to_string(), "each transaction raised a counter once");
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (told, refused) = (self.count(Fate::Acknowledged), self.count(Fate::Refused));
        write!(f, "{told} acknowledged, {refused} refused, {} unanswered", self.unanswered())
    }
}
