//! Idle timeouts: the client's idle time is counted, and nobody else's.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;

use super::{connect, outpost, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE keyless (v text);
    INSERT INTO t VALUES (1, 'one')";
const LIMITS: &str = "SET idle_in_transaction_session_timeout = '700ms'; SET idle_session_timeout = '700ms'";
const LONG: Duration = Duration::from_millis(2000);

/// A client with short limits.
async fn impatient(url: &str) -> Client {
    let client = connect(url).await;
    client.batch_execute(LIMITS).await.unwrap();
    client
}

async fn pid_on_main(client: &Client) -> String {
    client.batch_execute("BEGIN; DELETE FROM keyless").await.unwrap();
    let pid = value(client, "SELECT pg_backend_pid()").await;
    client.batch_execute("COMMIT").await.unwrap();
    pid
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_waits_for_is_not_idle_time() {
    let (site, outpost) = outpost("idle_waits", SCHEMA).await;
    // Main's work, in both protocols, with the transaction's mirror idle on the replica.
    let mut client = impatient(&outpost.url()).await;
    client.batch_execute("BEGIN; DELETE FROM keyless").await.unwrap();
    client.batch_execute("SELECT pg_sleep(2)").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2, 'two'); COMMIT").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("DELETE FROM keyless", &[]).await.unwrap();
    transaction.execute("SELECT pg_sleep(2)", &[]).await.unwrap();
    transaction.execute("INSERT INTO t VALUES (3, 'three')", &[]).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(value(&client, "SHOW idle_in_transaction_session_timeout").await, "700ms");
    drop(client);
    // Another session's lock.
    let (holder, waiter) = (connect(&outpost.url()).await, impatient(&outpost.url()).await);
    holder.batch_execute("BEGIN; UPDATE t SET v = 'holder' WHERE id = 1").await.unwrap();
    waiter.batch_execute("BEGIN").await.unwrap();
    let freed = async {
        sleep(LONG).await;
        holder.batch_execute("COMMIT").await.unwrap();
    };
    let (waited, ()) =
        tokio::join!(waiter.batch_execute("UPDATE t SET v = v || ' waiter' WHERE id = 1; COMMIT"), freed);
    waited.unwrap();
    // A table that a transaction on main has.
    holder.batch_execute("BEGIN; DELETE FROM keyless; UPDATE t SET v = 'main' WHERE id = 2").await.unwrap();
    waiter.batch_execute("BEGIN").await.unwrap();
    let freed = async {
        sleep(LONG).await;
        holder.batch_execute("COMMIT").await.unwrap();
    };
    let crossing = "UPDATE t SET v = v || ' waiter' WHERE id = 2; COMMIT";
    let (waited, ()) = tokio::join!(waiter.batch_execute(crossing), freed);
    waited.unwrap();
    let main = connect(&site.main_url).await;
    for _ in 0..600 {
        if value(&main, "SELECT v FROM t WHERE id = 1").await == "holder waiter" {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let all = "SELECT string_agg(v, ',' ORDER BY id) FROM t";
    assert_eq!(value(&main, all).await, "holder waiter,main waiter,three");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_idle_time_ends_its_session() {
    let (site, outpost) = outpost("idle_client", SCHEMA).await;
    let main = connect(&site.main_url).await;
    for (before, code) in [
        ("BEGIN; INSERT INTO t VALUES (4, 'four')", "25P03"),
        ("BEGIN; DELETE FROM keyless; INSERT INTO t VALUES (5, 'five')", "25P03"),
        ("BEGIN; DELETE FROM keyless; SELECT 1/0", "25P03"),
        ("SELECT 1", "57P05"),
        ("DELETE FROM keyless", "57P05"),
        ("INSERT INTO t VALUES (6, 'six')", "57P05"),
    ] {
        let config: tokio_postgres::Config = outpost.url().parse().unwrap();
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let ended = tokio::spawn(connection);
        client.batch_execute(LIMITS).await.unwrap();
        let _ = client.batch_execute(before).await;
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it is still there").unwrap();
        let told = ended.expect_err("an error");
        assert_eq!(told.code().map(tokio_postgres::error::SqlState::code), Some(code), "{before}: {told}");
    }
    // What they had begun on main is gone with them.
    for _ in 0..200 {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()";
        if value(&main, open).await == "0" {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("a transaction is open on main");
}

#[tokio::test(flavor = "multi_thread")]
async fn mains_session_is_kept_while_the_client_works_at_the_site() {
    let (_site, outpost) = outpost("idle_main", SCHEMA).await;
    let client = impatient(&outpost.url()).await;
    let pid = pid_on_main(&client).await;
    for _ in 0..10 {
        sleep(Duration::from_millis(200)).await;
        client.batch_execute("SELECT 1").await.unwrap();
    }
    assert_eq!(pid_on_main(&client).await, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_main_that_is_not_used_is_given_back() {
    let lab = lab::Lab::shared().await.unwrap();
    let site = lab.database("idle_kept").await.unwrap();
    let main = connect(&site.main_url).await;
    main.batch_execute(SCHEMA).await.unwrap();
    let options = lab::outpost::OutpostOptions::new(super::BINARY).environment("PGOUTPOST__MAIN__KEEP", "1s");
    let outpost = lab::Outpost::start_with(&site, options).await.unwrap();
    let (idle, busy, resident) =
        (connect(&outpost.url()).await, connect(&outpost.url()).await, connect(&outpost.url()).await);
    for client in [&idle, &busy, &resident] {
        client.batch_execute("SET application_name = 'kept'; SET work_mem = '7MB'").await.unwrap();
        client.batch_execute("DELETE FROM keyless").await.unwrap();
    }
    resident.batch_execute("CREATE TEMP TABLE mine AS SELECT 1 AS one").await.unwrap();
    let kept = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kept' AND datname = current_database()";
    assert_eq!(value(&main, kept).await, "3");
    // Who works at the site does not use main either.
    for round in 0.. {
        busy.batch_execute("SELECT 1").await.unwrap();
        if value(&main, kept).await == "1" {
            break;
        }
        assert!(round < 200, "they are kept");
        sleep(Duration::from_millis(100)).await;
    }
    for client in [&idle, &busy] {
        client.batch_execute("BEGIN; DELETE FROM keyless").await.unwrap();
        assert_eq!(value(client, "SHOW work_mem").await, "7MB");
        // Longer than it is kept, within a transaction.
        sleep(Duration::from_millis(1500)).await;
        client.batch_execute("INSERT INTO keyless VALUES ('there'); COMMIT").await.unwrap();
    }
    assert_eq!(value(&main, "SELECT count(*) FROM keyless").await, "1");
    assert_eq!(value(&resident, "SELECT one FROM mine").await, "1");
}
