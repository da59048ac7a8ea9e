//! A replica that does not belong to main (any more): clients are refused, never answered with another history.

use lab::postgres::{Postgres, connect};
use tokio_postgres::Client;

use super::stage::{Stage, eventually, execute, get, rows, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)";
const ROWS: &str = "SELECT count(*) || ' ' || max(id) FROM t";

/// One field of SHOW LAG.
async fn lag(stage: &Stage, field: &str) -> String {
    let console = stage.console().await;
    let messages = console.simple_query("SHOW LAG").await.unwrap();
    let row = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.unwrap().get(field).unwrap_or_default().to_owned()
}

async fn stands(stage: &Stage, standing: &str) {
    eventually("the replica's standing", async || lag(stage, "replica_standing").await == standing).await;
}

/// As `Stage::drain`, which asks the main that was there at first.
async fn drained(stage: &Stage) {
    eventually("everything is applied", async || lag(stage, "to_apply").await == "0").await;
}

/// New clients are told why, and health says that the site is down.
async fn refused(stage: &Stage, why: &str) {
    let error = connect(&stage.outpost.url()).await.expect_err("a client got in");
    let error = error.downcast_ref::<tokio_postgres::Error>().unwrap().as_db_error().unwrap().clone();
    assert_eq!(error.code().code(), "57P03", "{error:?}");
    assert!(error.message().contains(why) && error.hint().is_some(), "{error:?}");
    let (status, _, body) = get(&stage.outpost.http_url(), "/health").await;
    assert!(status == 503 && body.contains(why), "{status} {body}");
    let (_, _, page) = get(&stage.outpost.http_url(), "/metrics").await;
    assert!(page.contains("pgoutpost_replica_up 0"));
}

async fn served(stage: &Stage) -> Client {
    let mut connected = None;
    eventually("clients are served", async || {
        connected = connect(&stage.outpost.url()).await.ok();
        connected.is_some()
    })
    .await;
    connected.unwrap()
}

#[tokio::test]
async fn a_promoted_replica_answers_nobody() {
    let stage = Stage::own("wrong_promoted", SCHEMA).await;
    let lab = stage.lab();
    let idle = stage.client().await;
    let open = stage.client().await;
    execute(&open, "BEGIN; INSERT INTO t VALUES (100)").await;
    execute(&idle, "INSERT INTO t VALUES (1)").await;
    stage.cut();
    execute(&idle, "INSERT INTO t VALUES (2)").await;
    lab.replica().promote().await.unwrap();
    stands(&stage, "promoted").await;
    eventually("sessions are ended", async || idle.is_closed() && open.is_closed()).await;
    refused(&stage, "was promoted").await;

    stage.heal();
    lab.replica().rebuild(lab.link().port()).await.unwrap();
    let client = served(&stage).await;
    assert_eq!(value(&client, ROWS).await, "3 2", "what was not committed is not there");
    stage.drain().await;
    assert_eq!(value(&stage.main().await, ROWS).await, "3 2");
    stands(&stage, "follows").await;
}

#[tokio::test]
async fn a_replica_that_holds_what_main_lost_or_is_of_another_cluster_answers_nobody() {
    let stage = Stage::own("wrong_diverged", SCHEMA).await;
    let lab = stage.lab();
    let port = || lab::port::free_port().unwrap();
    let client = stage.client().await;
    execute(&client, "INSERT INTO t VALUES (1)").await;
    stage.drain().await;
    let restored = Postgres::back_up(&lab.folder().join("backup"), port(), lab.main()).await.unwrap();
    execute(&client, "INSERT INTO t VALUES (2)").await;
    stage.drain().await;
    // Another site's commit, which the restored main will never have.
    execute(&stage.main().await, "INSERT INTO t VALUES (1000)").await;
    lab.wait_replica_caught_up().await.unwrap();
    eventually("confirmed", async || lag(&stage, "to_confirm").await == "0").await;
    lab.kill_main().unwrap();
    stage.cut();
    assert_eq!(value(&client, ROWS).await, "4 1000", "a site whose main is away goes on");
    execute(&client, "INSERT INTO t VALUES (3)").await;
    restored.restart().await.unwrap();
    lab.link().aim(restored.port()).unwrap();
    stage.heal();
    stands(&stage, "diverged").await;
    refused(&stage, "holds a history that main does not have").await;
    let main = restored.connect("wrong_diverged").await.unwrap();
    eventually("main has what it lost of ours", async || value(&main, ROWS).await == "4 3").await;
    assert!(lag(&stage, "last_setback").await.contains("main lost commits"));

    lab.replica().rebuild(lab.link().port()).await.unwrap();
    let client = served(&stage).await;
    assert_eq!(value(&client, ROWS).await, "4 3");
    execute(&client, "INSERT INTO t VALUES (4)").await;
    drained(&stage).await;
    stands(&stage, "follows").await;

    // Another cluster at the replica's address, with a schema and a site of the same name.
    lab.replica().kill().unwrap();
    let folder = lab.folder().join("other");
    let other = Postgres::start_main(&folder, lab.replica().port(), lab.run_as()).await.unwrap();
    execute(&other.connect("postgres").await.unwrap(), "CREATE DATABASE wrong_diverged").await;
    let url = other.url("postgres", "wrong_diverged");
    pgoutpost::setup::run(&url.parse().unwrap(), "wrong_diverged", None).await.unwrap();
    execute(&connect(&url).await.unwrap(), SCHEMA).await;
    stands(&stage, "foreign").await;
    refused(&stage, "a copy of another cluster").await;
    other.kill().unwrap();
    lab.restart_replica().await.unwrap();
    assert_eq!(value(&served(&stage).await, ROWS).await, "5 4");
}

#[tokio::test]
async fn a_replica_that_has_not_followed_a_promotion_is_old_and_true() {
    let stage = Stage::own("wrong_left_behind", SCHEMA).await;
    let lab = stage.lab();
    let folder = lab.folder().join("standby");
    let standby = Postgres::start_standby(&folder, lab::port::free_port().unwrap(), lab.main()).await.unwrap();
    let client = stage.client().await;
    execute(&client, "INSERT INTO t VALUES (1)").await;
    stage.drain().await;
    let there = standby.connect("wrong_left_behind").await.unwrap();
    eventually("the standby has it", async || value(&there, ROWS).await == "2 1").await;
    eventually("confirmed", async || lag(&stage, "to_confirm").await == "0").await;
    let replica = lab.replica().connect("postgres").await.unwrap();
    let way = value(&replica, "SHOW primary_conninfo").await;
    let lead = async |way: &str| {
        execute(&replica, &format!("ALTER SYSTEM SET primary_conninfo = '{}'", way.replace('\'', "''"))).await;
        execute(&replica, "SELECT pg_reload_conf()").await;
    };
    lead("host=127.0.0.1 port=1").await;
    lab.kill_main().unwrap();
    stage.cut();
    standby.promote().await.unwrap();
    lab.link().aim(standby.port()).unwrap();
    stage.heal();
    stands(&stage, "left behind").await;
    execute(&client, "INSERT INTO t VALUES (2)").await;
    drained(&stage).await;
    assert_eq!(value(&client, ROWS).await, "3 2");
    let (status, _, body) = get(&stage.outpost.http_url(), "/health").await;
    assert!(status == 200 && body.contains("degraded"), "{body}");
    let main = standby.connect("postgres").await.unwrap();
    assert_eq!(rows(&main, "SELECT FROM pg_create_physical_replication_slot('lab_replica')").await.len(), 1);
    lead(&way).await;
    stands(&stage, "follows").await;
    eventually("confirmed", async || lag(&stage, "to_confirm").await == "0").await;
    assert_eq!(value(&client, ROWS).await, "3 2", "the session went on");
}
