//! Transactions: savepoints, isolation, locks.

use std::time::Duration;

use super::{alone, code, connect, fails, outpost, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL)";

#[tokio::test(flavor = "multi_thread")]
async fn savepoints_undo_what_came_after_them() {
    let (_site, outpost) = outpost("session_savepoints", SCHEMA).await;
    let (client, other) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1, 1); SAVEPOINT a; INSERT INTO t VALUES (2, 2)").await.unwrap();
    assert_eq!(fails(&client, "INSERT INTO t VALUES (1, 3)").await, "23505");
    assert_eq!(fails(&client, "SELECT 1").await, "25P02");
    client.batch_execute("ROLLBACK TO a").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "1");
    assert_eq!(value(&other, "SELECT count(*) FROM t").await, "0", "nothing is seen before COMMIT");
    client.batch_execute("INSERT INTO t VALUES (3, 3); COMMIT").await.unwrap();
    assert_eq!(value(&other, "SELECT string_agg(id::text, ',' ORDER BY id) FROM t").await, "1,3");
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_and_a_lost_connection_leave_nothing() {
    let (_site, outpost) = outpost("session_rollback", SCHEMA).await;
    let (client, other) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1, 1); ROLLBACK").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1, 1)").await.unwrap();
    drop(client);
    // The lock that the lost client held goes with it.
    other.batch_execute("INSERT INTO t VALUES (1, 2)").await.unwrap();
    assert_eq!(value(&other, "SELECT string_agg(v::text, ',') FROM t").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_row_wait_for_each_other() {
    let (_site, outpost) = outpost("session_writers", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("INSERT INTO t VALUES (1, 0)").await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = connect(&outpost.url()).await;
        writers.spawn(async move {
            for _ in 0..25 {
                client.execute("UPDATE t SET v = v + 1 WHERE id = $1", &[&1]).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    assert_eq!(value(&client, "SELECT v FROM t").await, "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeatable_read_sees_one_state_and_does_not_overwrite_a_newer() {
    let (_site, outpost) = outpost("session_repeatable", SCHEMA).await;
    let (one, two) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    two.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        one.batch_execute(&format!("BEGIN ISOLATION LEVEL {level} READ WRITE")).await.unwrap();
        let before = value(&one, "SELECT sum(v) FROM t").await;
        two.batch_execute("UPDATE t SET v = v + 1").await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(value(&one, "SELECT sum(v) FROM t").await, before);
        assert_eq!(fails(&one, "UPDATE t SET v = 10").await, "40001");
        one.batch_execute("ROLLBACK").await.unwrap();
    }
    one.batch_execute("BEGIN READ ONLY").await.unwrap();
    assert_eq!(fails(&one, "UPDATE t SET v = 10").await, "25006");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_ends_with_one_of_the_two() {
    let (_site, outpost) = outpost("session_deadlock", SCHEMA).await;
    let (one, two) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    one.batch_execute("INSERT INTO t VALUES (1, 1), (2, 2)").await.unwrap();
    one.batch_execute("BEGIN; UPDATE t SET v = 3 WHERE id = 1").await.unwrap();
    two.batch_execute("BEGIN; UPDATE t SET v = 4 WHERE id = 2").await.unwrap();
    let first = one.batch_execute("UPDATE t SET v = 3 WHERE id = 2");
    let second = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let outcome = two.batch_execute("UPDATE t SET v = 4 WHERE id = 1").await;
        two.batch_execute("ROLLBACK").await.unwrap();
        outcome
    };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    assert_eq!(code(&second.unwrap_err()), "40P01");
    one.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&one, "SELECT sum(v) FROM t").await, "6");
}

/// One waits for a row of the other's, who waits to go to main until its tables are free: a circle like any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_over_the_way_to_main_is_found_at_once() {
    let schema = format!("{SCHEMA}; CREATE TABLE keyless (v int); INSERT INTO t VALUES (1, 1), (2, 2)");
    let (_site, outpost) = outpost("session_deadlock_main", &schema).await;
    let (one, two) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    let lock = |id: i32| format!("SELECT v FROM t WHERE id = {id} FOR UPDATE");
    let (first_row, there) = (lock(1), "DELETE FROM keyless");
    // Which of the two waits first: for the row, for main.
    for row_first in [true, false] {
        one.batch_execute(&format!("BEGIN; {first_row}")).await.unwrap();
        two.batch_execute(&format!("BEGIN; {}", lock(2))).await.unwrap();
        let began = std::time::Instant::now();
        let (for_row, for_main) = (two.batch_execute(&first_row), one.batch_execute(there));
        let soon = tokio::time::sleep(Duration::from_millis(300));
        let (waiter, closer) = match row_first {
            true => {
                let closing = async {
                    soon.await;
                    let outcome = for_main.await;
                    one.batch_execute("ROLLBACK").await.unwrap();
                    outcome
                };
                tokio::join!(for_row, closing)
            }
            false => {
                let closing = async {
                    soon.await;
                    let outcome = for_row.await;
                    two.batch_execute("ROLLBACK").await.unwrap();
                    outcome
                };
                tokio::join!(for_main, closing)
            }
        };
        assert_eq!(code(&closer.unwrap_err()), "40P01", "{row_first}");
        waiter.unwrap();
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        one.batch_execute("ROLLBACK").await.unwrap();
        two.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_waits_as_far_as_it_is_told() {
    let (site, outpost) = outpost("session_commit", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("SET pgoutpost.commit = 'applied'; INSERT INTO t VALUES (1, 1)").await.unwrap();
    let main = connect(&site.main_url).await;
    assert_eq!(value(&main, "SELECT count(*) FROM t").await, "1");
    client.batch_execute("SET pgoutpost.commit = 'visible'").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2, 2)").await.unwrap();
    let replica = connect(&site.replica_url).await;
    assert_eq!(value(&replica, "SELECT count(*) FROM t").await, "2");
    assert_eq!(fails(&client, "SET pgoutpost.commit = 'soon'").await, "22023");
    assert_eq!(value(&client, "SHOW pgoutpost.commit").await, "visible");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_main_hears_that_it_has_rejected_the_transaction() {
    let (lab, site, outpost) = alone("session_rejected", SCHEMA).await;
    let (client, main) = (connect(&outpost.url()).await, connect(&site.main_url).await);
    lab.freeze().await.unwrap();
    main.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    client.batch_execute("SET pgoutpost.commit = 'applied'").await.unwrap();
    assert_eq!(fails(&client, "INSERT INTO t VALUES (1, 2)").await, "23505");
    client.batch_execute("BEGIN; UPDATE t SET v = 3 WHERE id = 7; INSERT INTO t VALUES (1, 3)").await.unwrap();
    // It waits for the other, which has the same key.
    assert_eq!(fails(&client, "COMMIT").await, "40000");
    client.batch_execute("INSERT INTO t VALUES (2, 2)").await.unwrap();
    lab.thaw().await.unwrap();
    assert_eq!(value(&main, "SELECT string_agg(id || ' ' || v, ',' ORDER BY id) FROM t").await, "1 1,2 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_timeout_holds_while_a_write_waits_for_another_session() {
    let (_site, outpost) = outpost("session_timeout", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let (one, two) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    one.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    two.batch_execute("SET statement_timeout = 200").await.unwrap();
    assert_eq!(fails(&two, "INSERT INTO t VALUES (1)").await, "57014");
    one.batch_execute("ROLLBACK").await.unwrap();
    two.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
}

/// ALTER ROLE … SET, or the client's options.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_serializable_by_default_is_served() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE session_serializable LOGIN;
        ALTER ROLE session_serializable SET default_transaction_isolation = 'serializable';
        GRANT SELECT, INSERT ON t TO session_serializable";
    let (_lab, site, outpost) = alone("session_serializable", schema).await;
    site.wait_replica_caught_up().await.unwrap();
    let joined = |url: &str, more: &str| format!("{url}{}{more}", if url.contains('?') { "&" } else { "?" });
    let by_role = outpost.url().replacen("postgres://root@", "postgres://session_serializable@", 1);
    let by_options = joined(&outpost.url(), "options=-c%20default_transaction_isolation%3Dserializable");
    for (id, url) in [by_role, by_options].iter().enumerate() {
        let client = connect(url).await;
        client.batch_execute(&format!("INSERT INTO t VALUES ({id}); BEGIN; SELECT * FROM t; COMMIT")).await.unwrap();
        client.batch_execute("RESET ALL").await.unwrap();
        assert_eq!(value(&client, "SELECT count(*) FROM t").await, (id + 1).to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_is_not_in_the_way_of_what_its_session_reads_next() {
    let schema = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)";
    let (_site, outpost) = outpost("session_truncate_then_read", schema).await;
    let client = connect(&outpost.url()).await;
    for _ in 0..3 {
        client.batch_execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)").await.unwrap();
        client.batch_execute("BEGIN; TRUNCATE a, b; COMMIT").await.unwrap();
        client.batch_execute("BEGIN; SELECT * FROM b").await.unwrap();
        // Time for replay to lock `a`, and to wait for us at `b`.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(value(&client, "SELECT count(*) FROM a").await, "0");
        client.batch_execute("COMMIT").await.unwrap();
    }
}

/// What a BEGIN begins, a statement behind it that cannot be done must not leave to be committed one by one.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_begins_in_a_string_fails_with_what_main_would_have_to_do() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE keyless (a int)";
    let (lab, _site, outpost) = alone("session_block_string", schema).await;
    let client = connect(&outpost.url()).await;
    lab.link().cut().unwrap();
    for (number, string) in [
        "BEGIN; DELETE FROM keyless",
        "BEGIN; INSERT INTO t VALUES (100, 1); DELETE FROM keyless; INSERT INTO t VALUES (101, 1)",
        "BEGIN; CREATE TABLE more (a int)",
        "INSERT INTO t VALUES (-1, 1); ROLLBACK; BEGIN; DELETE FROM keyless; LOCK TABLE t",
    ]
    .iter()
    .enumerate()
    {
        let expected = if string.contains("LOCK") { "0A000" } else { "57P03" };
        assert_eq!(fails(&client, string).await, expected, "{string}");
        assert_eq!(fails(&client, &format!("INSERT INTO t VALUES ({number}, 1)")).await, "25P02", "{string}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    assert_eq!(fails(&client, "BEGIN; INSERT INTO t VALUES (7, 1); COMMIT; DELETE FROM keyless").await, "57P03");
    assert_eq!(value(&client, "SELECT string_agg(id::text, ',') FROM t").await, "7");
}
