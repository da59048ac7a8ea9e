//! Cancel requests and timeouts, at each place where a write can be.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::{alone, code, connect, fails, outpost, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// What becomes of a statement that is cancelled after a while.
async fn cancelled(client: &Client, after: Duration, sql: &str) -> Result<(), String> {
    let token = client.cancel_token();
    let cancel = async {
        tokio::time::sleep(after).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(client.batch_execute(sql), cancel);
    outcome.map_err(|error| code(&error))
}

const SOON: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn during_an_evaluation_it_leaves_nothing() {
    let (_site, outpost) = outpost("cancel_evaluation", SCHEMA).await;
    let mut client = connect(&outpost.url()).await;
    let slow = "INSERT INTO t SELECT i, pg_sleep(30)::text FROM generate_series(1, 3) i";
    for sql in [
        slow,
        "UPDATE t SET v = pg_sleep(30)::text",
        "WITH x AS (INSERT INTO t VALUES (2, 'two') RETURNING id) SELECT id, pg_sleep(30) FROM x",
        "INSERT INTO t VALUES (3, 'three'); SELECT pg_sleep(30)",
        "DELETE FROM t WHERE pg_sleep(30) IS NOT NULL",
    ] {
        client.batch_execute("INSERT INTO t VALUES (0, 'old')").await.unwrap();
        let asked = Instant::now();
        assert_eq!(cancelled(&client, SOON, sql).await, Err("57014".into()), "{sql}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{sql}: {:?}", asked.elapsed());
        assert_eq!(value(&client, "SELECT string_agg(id || v, ',') FROM t").await, "0old", "{sql}");
        client.batch_execute("DELETE FROM t").await.unwrap();
    }
    // The rows that it would have written are nobody's.
    let other = connect(&outpost.url()).await;
    other.batch_execute("SET lock_timeout = '1s'; INSERT INTO t VALUES (1, 'other'), (2, 'other')").await.unwrap();
    // In a block: it has failed, and what came before goes with it.
    client.batch_execute("BEGIN; INSERT INTO t VALUES (5, 'five'); SAVEPOINT s").await.unwrap();
    assert_eq!(cancelled(&client, SOON, slow).await, Err("57014".into()));
    assert_eq!(fails(&client, "SELECT 1").await, "25P02");
    client.batch_execute("ROLLBACK TO s; COMMIT").await.unwrap();
    assert_eq!(value(&other, "SELECT count(*) FROM t").await, "3");
    // By the extended protocol.
    let transaction = client.transaction().await.unwrap();
    let token = transaction.cancel_token();
    let cancel = async {
        tokio::time::sleep(SOON).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let sql = "INSERT INTO t SELECT $1, pg_sleep(30)::text";
    let (outcome, ()) = tokio::join!(transaction.execute(sql, &[&9]), cancel);
    assert_eq!(code(&outcome.unwrap_err()), "57014");
    transaction.rollback().await.unwrap();
    assert_eq!(value(&other, "SELECT count(*) FROM t").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_any_moment_of_a_commit_the_answer_is_true() {
    let (_site, outpost) = outpost("cancel_commit", SCHEMA).await;
    let (client, other) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    for level in ["buffered", "applied"] {
        client.batch_execute(&format!("SET pgoutpost.commit = '{level}'")).await.unwrap();
        client.batch_execute("DELETE FROM t").await.unwrap();
        let (mut acknowledged, mut refused) = (0, 0);
        for id in 0..120u64 {
            let after = Duration::from_micros(id % 40 * 150);
            let insert = format!("INSERT INTO t SELECT {id}, pg_sleep(0.003)::text");
            let outcome = match id % 2 {
                0 => cancelled(&client, after, &insert).await,
                _ => cancelled(&client, after, &format!("BEGIN; {insert}; COMMIT")).await,
            };
            match &outcome {
                Ok(()) => acknowledged += 1,
                Err(code) => {
                    assert_eq!(code, "57014");
                    refused += 1;
                }
            }
            // A request that came too late is about what is then under way.
            while client.batch_execute("ROLLBACK").await.is_err() {}
            tokio::time::sleep(Duration::from_millis(20)).await;
            let there = value(&other, &format!("SELECT count(*) FROM t WHERE id = {id}")).await;
            assert_eq!(there == "1", outcome.is_ok(), "{level}: {outcome:?} for {id}, and {there} rows");
        }
        assert!(acknowledged > 0 && refused > 0, "{level}: {refused} of 120 were cancelled");
        eprintln!("{level}: {acknowledged} acknowledged, {refused} cancelled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_main_ends_with_a_warning_and_the_commit_stands() {
    let (lab, site, outpost) = alone("cancel_applied", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("SET pgoutpost.commit = 'applied'; INSERT INTO t VALUES (0, 'up')").await.unwrap();
    lab.link().cut().unwrap();
    let asked = Instant::now();
    // Neither a cancel request nor a timeout can undo what is committed.
    assert_eq!(cancelled(&client, SOON, "INSERT INTO t VALUES (1, 'alone')").await, Ok(()));
    client.batch_execute("BEGIN; INSERT INTO t VALUES (2, 'block')").await.unwrap();
    assert_eq!(cancelled(&client, SOON, "COMMIT").await, Ok(()));
    client.batch_execute("SET statement_timeout = '400ms'; INSERT INTO t VALUES (3, 'timeout')").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (4, 'timeout')").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    client.execute("INSERT INTO t VALUES ($1, 'extended')", &[&5]).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "6");
    assert_eq!(value(&client, "SELECT 1").await, "1", "nothing of it comes later");
    // The timeout is still one for what is evaluated.
    assert_eq!(fails(&client, "INSERT INTO t SELECT 9, pg_sleep(9)::text").await, "57014");
    lab.link().heal().unwrap();
    let main = connect(&site.main_url).await;
    let until = Instant::now() + Duration::from_secs(20);
    while value(&main, "SELECT count(*) FROM t").await != "6" {
        assert!(Instant::now() < until, "main does not get it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
