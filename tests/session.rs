//! Sessions against real servers: what ordinary clients do, through the daemon.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub, dead_code)]

#[path = "session/cancel.rs"]
mod cancel;
#[path = "session/carried.rs"]
mod carried;
#[path = "session/copy.rs"]
mod copy;
#[path = "session/correlated.rs"]
mod correlated;
#[path = "session/idle.rs"]
mod idle;
#[path = "session/large.rs"]
mod large;
#[path = "session/on_main.rs"]
mod on_main;
#[path = "session/own_columns.rs"]
mod own_columns;
#[path = "session/pipelines.rs"]
mod pipelines;
#[path = "session/portals.rs"]
mod portals;
#[path = "session/protocol.rs"]
mod protocol;
#[path = "session/regressions.rs"]
mod regressions;
#[path = "session/resident.rs"]
mod resident;
#[path = "session/rights.rs"]
mod rights;
#[path = "session/sequences.rs"]
mod sequences;
#[path = "session/straight.rs"]
mod straight;
#[path = "session/transactions.rs"]
mod transactions;
#[path = "sql_exec/wire.rs"]
mod wire;
#[path = "session/with.rs"]
mod with;

use std::process::{Command, Output};

use lab::{Lab, LabOptions, Outpost, Site};
use tokio_postgres::{Client, NoTls};

const BINARY: &str = env!("CARGO_BIN_EXE_pgoutpost");

/// A site of its own in the shared lab, and the daemon before it.
async fn outpost(name: &str, schema: &str) -> (Site, Outpost) {
    let lab = Lab::shared().await.unwrap();
    prepare(lab, name, schema).await
}

/// A lab of its own, for tests that cut the link.
async fn alone(name: &str, schema: &str) -> (Lab, Site, Outpost) {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    let (site, outpost) = prepare(&lab, name, schema).await;
    (lab, site, outpost)
}

async fn prepare(lab: &Lab, name: &str, schema: &str) -> (Site, Outpost) {
    let site = lab.database(name).await.unwrap();
    let main = connect(&site.main_url).await;
    main.batch_execute(schema).await.unwrap();
    let outpost = Outpost::start(&site, BINARY).await.unwrap();
    (site, outpost)
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The SQLSTATE of what failed.
fn code(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

async fn fails(client: &Client, sql: &str) -> String {
    code(&client.batch_execute(sql).await.expect_err(sql))
}

/// The first column of the first row, in text.
async fn value(client: &Client, sql: &str) -> String {
    let rows = client.simple_query(sql).await.unwrap();
    let row = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.unwrap().get(0).unwrap_or("NULL").to_owned()
}

fn run(program: &str, url: &str, arguments: &[&str]) -> Output {
    // pgbench and psql take the URL as the database's name.
    Command::new(program).args(arguments).arg(url).output().unwrap()
}
