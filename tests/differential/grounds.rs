//! Where scripts are performed: the lab that the whole binary shares, plain databases, and sites with their daemons.

use std::time::{Duration, Instant};

use lab::Lab;
use lab::outpost::OutpostOptions;
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::Client;

use super::perform::Place;
use super::stage::{self, Stage};

/// How long main and replica may take to get everything of a buffer.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// Sequence values per lease.
pub const LEASE: i64 = 1000;

/// Freezing the replica is felt by everybody who uses the lab: one at a time.
pub async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

pub async fn lab() -> &'static Lab {
    Lab::shared().await.unwrap()
}

/// A plain database with that schema, and a connection to it.
pub async fn plain(name: &str, schema: &str) -> Result<(Place, Client), String> {
    let lab = lab().await;
    let main = lab.main().connect("postgres").await.map_err(|error| error.to_string())?;
    main.batch_execute(&format!("CREATE DATABASE {name}")).await.map_err(|error| stage::describe(&error))?;
    let client = lab.main().connect(name).await.map_err(|error| error.to_string())?;
    client.batch_execute(schema).await.map_err(|error| stage::describe(&error))?;
    let place = place(lab.main().port(), name, &client).await;
    Ok((place, client))
}

/// A site with that schema and its daemon, which has no patience with a link that comes back.
pub async fn site(name: &str, schema: &str) -> (Place, Stage) {
    broken_site(name, schema, "").await
}

/// As [`site`], with one of the mistakes of `src/sabotage.rs`; an empty name is none of them.
pub async fn broken_site(name: &str, schema: &str, sabotage: &str) -> (Place, Stage) {
    let settings = |options: OutpostOptions| {
        let options = options.environment("PGOUTPOST_SABOTAGE", sabotage);
        options.setting("REPLAY__RETRY_DELAY_MAX", "200ms").setting("IDS__LEASE_SIZE", LEASE.to_string())
    };
    let stage = Stage::shared_with(name, schema, settings).await;
    let place = place(stage.outpost.port(), name, &stage.main().await).await;
    (place, stage)
}

pub async fn place(port: u16, database: &str, client: &Client) -> Place {
    let question = "SELECT oid::text, CASE typnamespace::regnamespace::text WHEN 'pg_catalog' THEN '' \
                    ELSE typnamespace::regnamespace::text || '.' END || typname FROM pg_type";
    let types = client.query(question, &[]).await.unwrap();
    let types = types.iter().map(|row| (row.get(0), row.get(1))).collect();
    Place { port, database: database.to_owned(), schema: None, sequences: Vec::new(), types }
}

/// As [`caught_up`]; what is in quarantine is an error.
pub async fn drained(stage: &Stage) -> Result<(), String> {
    caught_up(stage).await?;
    let quarantine = stage::rows(&stage.console().await, "SHOW QUARANTINE").await;
    if quarantine.is_empty() { Ok(()) } else { Err(format!("in quarantine: {quarantine:?}")) }
}

/// Waits until main and the replica have every entry of the site's buffer.
pub async fn caught_up(stage: &Stage) -> Result<(), String> {
    let last = stage.last_seq().await;
    let deadline = Instant::now() + DRAIN_LIMIT;
    for (whose, client) in [("main", stage.main().await), ("the replica", replica(stage).await?)] {
        while stage.ledger(&client).await < last {
            if Instant::now() > deadline {
                let ledger = stage.ledger(&client).await;
                return Err(format!("{whose} has {ledger} of {last} entries after {DRAIN_LIMIT:?}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

/// A connection is refused while replay is in conflict with a session that is about to end.
async fn replica(stage: &Stage) -> Result<Client, String> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    loop {
        match stage.site.replica().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
            outcome => return outcome.map_err(|error| format!("{error:#}")),
        }
    }
}
