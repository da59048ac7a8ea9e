//! Main fails over, is restored to an older state, or is another server: each test has servers of its own.

use lab::postgres::Postgres;
use lab::{Lab, LabOptions};
use pgoutpost::buffer::AcceptError;
use pgoutpost::entry::Seq;
use pgoutpost::replay::ReplayState;

use crate::cluster::Database;
use crate::harness::{Outpost, Replayer, entry, insert, table};

const T: &str = "CREATE TABLE t(id int PRIMARY KEY)";

async fn stage(label: &str) -> (Lab, Outpost) {
    let lab = Lab::start(LabOptions::default()).await.unwrap();
    let database = Database::within(&lab, label).await.with_schema().await;
    let outpost = Outpost::over(database, T).await;
    (lab, outpost)
}

async fn commit(outpost: &Outpost, ids: std::ops::Range<i32>) {
    for id in ids {
        outpost.commit(entry("postgres", vec![table("t", &["id integer"], 1)], vec![insert(&[&id.to_string()])])).await;
    }
}

/// Connections lead to another server from now on.
fn fail_over(outpost: &Outpost, to: &Postgres) {
    outpost.link.cut().unwrap();
    outpost.link.aim(to.port()).unwrap();
    outpost.link.heal().unwrap();
}

async fn one(server: &Postgres, outpost: &Outpost, query: &str) -> String {
    let client = server.connect(&outpost.database.name).await.unwrap();
    client.query_one(query, &[]).await.unwrap().get(0)
}

const ROWS: &str = "SELECT count(*) || ' ' || coalesce(max(id), -1) FROM t";

async fn applied(outpost: &Outpost, seq: u64) {
    let mut progress = outpost.buffer.progress();
    let wait = progress.wait_for(|progress| progress.applied == Seq(seq));
    tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.expect("never applied").unwrap();
}

fn events(outpost: &Outpost) -> Vec<String> {
    outpost.buffer.known_main().record.unwrap_or_default().events.into_iter().map(|event| event.what).collect()
}

async fn halted(replayer: &mut Replayer, why: &str) {
    let seen = replayer
        .until(|status| {
            status.state == ReplayState::Halted && status.last_error.as_deref().unwrap_or_default().contains(why)
        })
        .await;
    assert!(seen.last_error.is_some());
}

#[tokio::test]
async fn a_promoted_standby_gets_what_it_had_not_received() {
    let (lab, outpost) = stage("promoted").await;
    let folder = lab.folder().join("standby");
    let standby = Postgres::start_standby(&folder, lab::port::free_port().unwrap(), lab.main()).await.unwrap();
    let replayer = outpost.replay();
    commit(&outpost, 0..10).await;
    outpost.drained().await;
    let upto = one(lab.main(), &outpost, "SELECT pg_current_wal_flush_lsn()::text").await;
    let there = format!("SELECT (pg_last_wal_replay_lsn() >= '{upto}')::text");
    while one(&standby, &outpost, &there).await != "true" {}
    // What main commits while it is down is lost with main.
    standby.kill().unwrap();
    commit(&outpost, 10..20).await;
    outpost.drained().await;
    lab.kill_main().unwrap();
    standby.restart().await.unwrap();
    standby.promote().await.unwrap();
    assert_eq!(one(&standby, &outpost, ROWS).await, "10 9");
    commit(&outpost, 20..25).await;
    fail_over(&outpost, &standby);
    applied(&outpost, 25).await;
    assert_eq!(one(&standby, &outpost, ROWS).await, "25 24");
    let status = replayer.stop().await;
    assert_eq!((status.timeline, status.setbacks_total, status.rejected_total), (Some(2), 1, 0));
    assert!(status.last_setback.unwrap().contains("was at entry 20 and is at 10"));
    assert!(events(&outpost).iter().any(|what| what == "main went from timeline 1 to 2"), "{:?}", events(&outpost));
    // The timeline is remembered: another process finds nothing new.
    let replayer = outpost.replay();
    commit(&outpost, 25..26).await;
    applied(&outpost, 26).await;
    assert_eq!(replayer.stop().await.setbacks_total, 0);
}

/// Replica and main were made anew from the backup: nothing but the buffer knows what main had.
#[tokio::test]
async fn a_main_that_was_restored_while_nobody_looked_is_told() {
    let (lab, mut outpost) = stage("restored_meanwhile").await;
    let replayer = outpost.replay();
    commit(&outpost, 0..10).await;
    outpost.drained().await;
    let port = lab::port::free_port().unwrap();
    let restored = Postgres::back_up(&lab.folder().join("backup"), port, lab.main()).await.unwrap();
    commit(&outpost, 10..30).await;
    outpost.drained().await;
    assert_eq!(replayer.stop().await.setbacks_total, 0);
    lab.kill_main().unwrap();
    restored.restart().await.unwrap();
    outpost.restart().await;
    assert_eq!(outpost.buffer.progress().borrow().applied, Seq(0), "as by a replica that is as old");
    fail_over(&outpost, &restored);
    let replayer = outpost.replay();
    applied(&outpost, 30).await;
    assert_eq!(one(&restored, &outpost, ROWS).await, "30 29");
    let status = replayer.stop().await;
    assert_eq!(status.setbacks_total, 1);
    assert!(status.last_setback.unwrap().contains("was at entry 30 and is at 10"));
    assert!(
        events(&outpost).iter().any(|what| what.contains("was at entry 30 and is at 10")),
        "{:?}",
        events(&outpost)
    );
    // Once: the next process finds nothing new.
    outpost.restart().await;
    let replayer = outpost.replay();
    commit(&outpost, 30..31).await;
    applied(&outpost, 31).await;
    assert_eq!(replayer.stop().await.setbacks_total, 0);
}

#[tokio::test]
async fn a_restored_main_gets_what_it_lost_or_halts_when_that_is_gone() {
    let (lab, mut outpost) = stage("restored").await;
    let replayer = outpost.replay();
    commit(&outpost, 0..10).await;
    outpost.drained().await;
    let port = || lab::port::free_port().unwrap();
    let restored = Postgres::back_up(&lab.folder().join("backup"), port(), lab.main()).await.unwrap();
    commit(&outpost, 10..30).await;
    outpost.drained().await;
    lab.kill_main().unwrap();
    restored.restart().await.unwrap();
    assert_eq!(one(&restored, &outpost, ROWS).await, "10 9");
    fail_over(&outpost, &restored);
    applied(&outpost, 10).await;
    applied(&outpost, 30).await;
    assert_eq!(one(&restored, &outpost, ROWS).await, "30 29");
    let status = replayer.stop().await;
    assert_eq!((status.timeline, status.setbacks_total), (Some(1), 1));

    // Once more, and the buffer has let go of what would be needed.
    let client = restored.connect(&outpost.database.name).await.unwrap();
    let uuid = outpost.buffer.read(Seq(4), 1).await.unwrap()[0].uuid;
    client.execute("UPDATE pgoutpost.ledger SET seq = 5, entry = $1", &[&uuid]).await.unwrap();
    outpost.forget_upto(Seq(7));
    outpost.restart().await;
    let mut replayer = outpost.replay();
    halted(&mut replayer, "the buffer no longer holds entry 6").await;
    assert_eq!(one(&restored, &outpost, "SELECT seq::text FROM pgoutpost.ledger").await, "5");
    replayer.stop().await;
}

#[tokio::test]
async fn another_cluster_gets_nothing_until_it_is_accepted() {
    let (lab, mut outpost) = stage("another").await;
    let replayer = outpost.replay();
    commit(&outpost, 0..5).await;
    outpost.drained().await;
    replayer.stop().await;
    assert!(matches!(outpost.buffer.accept_main(None, "nobody").await, Err(AcceptError::Nothing)));
    let own = outpost.buffer.known_main().record.unwrap().system_identifier;

    let folder = lab.folder().join("other");
    let other = Postgres::start_main(&folder, lab::port::free_port().unwrap(), lab.run_as()).await.unwrap();
    let name = &outpost.database.name;
    other.connect("postgres").await.unwrap().batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let main: tokio_postgres::Config = other.url("postgres", name).parse().unwrap();
    pgoutpost::setup::run(&main, "s", None).await.unwrap();
    // As a dump of the old one would have it.
    let uuid = outpost.buffer.read(Seq(2), 1).await.unwrap()[0].uuid;
    let client = other.connect(name).await.unwrap();
    client.batch_execute(T).await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (0), (1), (2)").await.unwrap();
    client.execute("UPDATE pgoutpost.ledger SET seq = 3, entry = $1", &[&uuid]).await.unwrap();
    fail_over(&outpost, &other);
    commit(&outpost, 5..8).await;
    // Also a process that has not seen the old one refuses the new one.
    outpost.restart().await;
    let mut replayer = outpost.replay();
    halted(&mut replayer, "pgoutpost accept-main").await;
    assert_eq!(one(&other, &outpost, ROWS).await, "3 2");
    let there = outpost.buffer.known_main().refused.unwrap().system_identifier;
    assert_ne!(there, own);
    let wrong = outpost.buffer.accept_main(Some(own), "operator").await;
    assert!(matches!(wrong, Err(AcceptError::Another { found, wanted }) if found == there && wanted == own));
    assert_eq!(outpost.buffer.accept_main(Some(there), "operator").await.unwrap(), there);
    applied(&outpost, 8).await;
    assert_eq!(one(&other, &outpost, ROWS).await, "8 7");
    assert!(events(&outpost).contains(&format!("accepted main {there} in place of {own}")));
    replayer.stop().await;

    // The old one is now the stranger.
    fail_over(&outpost, lab.main());
    commit(&outpost, 8..9).await;
    let mut replayer = outpost.replay();
    halted(&mut replayer, "pgoutpost accept-main").await;
    assert_eq!(one(lab.main(), &outpost, ROWS).await, "5 4");
    replayer.stop().await;
}
