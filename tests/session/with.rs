//! Writes in WITH: all parts see one state, whatever comes meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{connect, outpost, value};

#[tokio::test(flavor = "multi_thread")]
async fn parts_see_one_state_while_main_writes_at_full_speed() {
    let schema = "CREATE TABLE busy (id bigserial PRIMARY KEY, n int);
        CREATE TABLE seen (id serial PRIMARY KEY, before bigint, after bigint);
        CREATE TABLE audit (id serial PRIMARY KEY, of int)";
    let (site, outpost) = outpost("with_busy", schema).await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (main, stop, written) = (connect(&site.main_url).await, Arc::clone(&stop), Arc::clone(&written));
        main.batch_execute("SET synchronous_commit = off").await.unwrap();
        writers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                main.execute("INSERT INTO busy (n) VALUES (1)", &[]).await.unwrap();
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let client = connect(&outpost.url()).await;
    let before = written.load(Ordering::Relaxed);
    let with = "WITH x AS (INSERT INTO seen (before, after) SELECT count(*), count(*) FROM busy RETURNING id, before),
            y AS (INSERT INTO audit (of) SELECT id FROM x RETURNING of)
        SELECT x.before, (SELECT count(*) FROM busy) FROM x, y WHERE x.id = y.of";
    for turn in 0..60 {
        let row = match turn % 2 {
            0 => client.query_one(with, &[]).await.unwrap(),
            _ => client.query_one(&format!("{with} AND x.id > $1"), &[&0]).await.unwrap(),
        };
        assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(1), "turn {turn}");
        client.batch_execute(with).await.unwrap();
    }
    let written = written.load(Ordering::Relaxed) - before;
    stop.store(true, Ordering::Relaxed);
    writers.join_all().await;
    assert!(written > 100, "main was not busy: {written} rows");
    eprintln!("{written} rows were written on main meanwhile");
    assert_eq!(value(&client, "SELECT count(*) FROM audit a JOIN seen s ON s.id = a.of").await, "120");
    // The connection is as it was: a transaction of its own, and settings that last.
    client.batch_execute("BEGIN; SET LOCAL work_mem = '5MB'").await.unwrap();
    client
        .batch_execute("WITH x AS (DELETE FROM audit RETURNING of) DELETE FROM seen USING x WHERE seen.id = x.of")
        .await
        .unwrap_or_else(|error| assert_eq!(super::code(&error), "40001"));
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM seen").await, "120");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_find_their_rows_changed_begin_again() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE log (id serial PRIMARY KEY, v int)";
    let (_site, outpost) = outpost("with_stale", schema).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("INSERT INTO t VALUES (1, 0)").await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let client = connect(&outpost.url()).await;
        writers.spawn(async move {
            let with =
                "WITH x AS (UPDATE t SET v = v + 1 WHERE id = 1 RETURNING v) INSERT INTO log (v) SELECT v FROM x";
            for turn in 0..15 {
                match turn % 2 {
                    0 => client.batch_execute(with).await.unwrap(),
                    _ => drop(client.execute(with, &[]).await.unwrap()),
                }
            }
        });
    }
    writers.join_all().await;
    assert_eq!(value(&client, "SELECT v FROM t").await, "90");
    assert_eq!(value(&client, "SELECT count(DISTINCT v) || ' ' || max(v) FROM log").await, "90 90");
}
