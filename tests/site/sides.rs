//! Straight and buffered writers of one table, at the same time.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::stage::{Stage, eventually, execute, fails_with, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO t SELECT g, 0 FROM generate_series(1, 4) g;
    CREATE VIEW view_of_t AS SELECT * FROM t;
    CREATE TABLE log (said text)";

/// Each adds one to a row, in every way there is; none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_on_both_sides_add_up() {
    let stage = Stage::shared("sides_add_up", SCHEMA).await;
    let mut tasks = Vec::new();
    for number in 0..6_u32 {
        let client = stage.client().await;
        tasks.push(tokio::spawn(async move {
            let mut done = [0_i64; 4];
            for round in 0..24_u32 {
                let id = (number + round) % 4 + 1;
                let set = format!("SET v = v + 1 WHERE id = {id}");
                let sql = match (number * 7 + round * 5) % 8 {
                    0 => format!("UPDATE view_of_t {set}"),
                    1 => format!("DO $$BEGIN UPDATE t {set}; END$$"),
                    2 => format!("BEGIN; UPDATE t {set}; DELETE FROM log; COMMIT"),
                    3 => format!("BEGIN; DELETE FROM log; UPDATE t {set}; INSERT INTO log VALUES ('x'); COMMIT"),
                    4 => format!("BEGIN; SELECT v FROM t WHERE id = {id} FOR UPDATE; UPDATE t {set}; COMMIT"),
                    _ => format!("UPDATE t {set}"),
                };
                let statements: Vec<&str> = if sql.starts_with("DO") { vec![&sql] } else { sql.split("; ").collect() };
                let mut failed = false;
                for statement in statements {
                    match client.batch_execute(statement).await {
                        Ok(()) => {}
                        Err(error) => {
                            // Postgres may say so, too; what is refused for a while is tried again by nobody here.
                            let again = [
                                SqlState::T_R_DEADLOCK_DETECTED,
                                SqlState::T_R_SERIALIZATION_FAILURE,
                                SqlState::LOCK_NOT_AVAILABLE,
                            ];
                            let code = error.code().unwrap_or_else(|| panic!("{statement}: {error}"));
                            assert!(again.contains(code), "{statement}: {error:?}");
                            failed = true;
                            break;
                        }
                    }
                }
                if failed {
                    client.batch_execute("ROLLBACK").await.unwrap();
                } else {
                    done[id as usize - 1] += 1;
                }
            }
            done
        }));
    }
    let mut expected = [0_i64; 4];
    for task in tasks {
        for (sum, done) in expected.iter_mut().zip(task.await.unwrap()) {
            *sum += done;
        }
    }
    stage.drain().await;
    let all = "SELECT string_agg(v::text, ' ' ORDER BY id) FROM t";
    let expected = expected.map(|sum| sum.to_string()).join(" ");
    assert_eq!(value(&stage.main().await, all).await, expected);
    assert_eq!(value(&stage.client().await, all).await, expected);
    assert!(expected.split(' ').all(|sum| sum != "0"), "{expected}");
}

/// Somebody leaves a straight transaction open: other rows of its tables are written all the same.
#[tokio::test]
async fn an_open_straight_transaction_keeps_nobody_from_other_rows() {
    let stage = Stage::shared("sides_open", SCHEMA).await;
    let (one, two) = (stage.client().await, stage.client().await);
    execute(&one, "BEGIN").await;
    execute(&one, "UPDATE view_of_t SET v = 5 WHERE id = 1").await;
    for round in 0..3 {
        execute(&two, "UPDATE t SET v = v + 1 WHERE id = 2").await;
        execute(&two, &format!("INSERT INTO t VALUES ({}, 0)", 10 + round)).await;
        assert_eq!(value(&two, "SELECT v FROM t WHERE id = 2").await, (round + 1).to_string());
    }
    execute(&two, "SET lock_timeout = '500ms'").await;
    fails_with(two.batch_execute("UPDATE t SET v = v + 1 WHERE id = 1").await, &SqlState::LOCK_NOT_AVAILABLE);
    execute(&one, "COMMIT").await;
    // From now on it is buffered again.
    stage.drain().await;
    stage.cut();
    execute(&two, "UPDATE t SET v = v + 1 WHERE id = 1").await;
    assert_eq!(value(&two, "SELECT v FROM t WHERE id = 1").await, "6");
    stage.heal();
    stage.drain().await;
    assert_eq!(value(&stage.main().await, "SELECT v FROM t WHERE id = 1").await, "6");
}

/// With the link down nobody waits for a transaction on main: it fails instead.
#[tokio::test]
async fn writes_go_ahead_of_a_straight_transaction_that_is_cut_off() {
    let stage = Stage::shared("sides_cut", SCHEMA).await;
    let (one, two) = (stage.client().await, stage.client().await);
    execute(&one, "BEGIN").await;
    execute(&one, "UPDATE view_of_t SET v = 100 WHERE id = 1").await;
    stage.cut();
    let began = Instant::now();
    execute(&two, "UPDATE t SET v = v + 1 WHERE id = 1").await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    stage.heal();
    let ended = one.batch_execute("COMMIT").await;
    assert!(ended.is_err(), "it was overtaken, or its connection lost");
    stage.drain().await;
    assert_eq!(value(&stage.main().await, "SELECT v FROM t WHERE id = 1").await, "1");
}

/// A straight statement waits for open transactions of the site, and not for ever.
#[tokio::test]
async fn a_straight_statement_gives_up_on_a_transaction_that_stays_open() {
    let stage = Stage::shared("sides_gives_up", SCHEMA).await;
    let (one, two, three) = (stage.client().await, stage.client().await, stage.client().await);
    execute(&one, "BEGIN").await;
    execute(&one, "UPDATE t SET v = 1 WHERE id = 1").await;
    execute(&two, "SET lock_timeout = '3s'").await;
    let straight = async {
        fails_with(two.batch_execute("UPDATE view_of_t SET v = 2 WHERE id = 2").await, &SqlState::LOCK_NOT_AVAILABLE);
    };
    let others = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        execute(&three, "UPDATE t SET v = 3 WHERE id = 3").await;
        assert!(began.elapsed() < Duration::from_millis(2_500), "it does not wait as long: {:?}", began.elapsed());
    };
    tokio::join!(straight, others);
    // Within a transaction on main, what is refused fails it there, too.
    execute(&two, "SET lock_timeout = '100ms'; BEGIN; INSERT INTO log VALUES ('x'); DELETE FROM log").await;
    fails_with(two.batch_execute("DELETE FROM view_of_t").await, &SqlState::LOCK_NOT_AVAILABLE);
    execute(&two, "COMMIT").await;
    assert_eq!(value(&stage.main().await, "SELECT count(*) FROM log").await, "0");
    execute(&one, "COMMIT").await;
    execute(&two, "UPDATE view_of_t SET v = 2 WHERE id = 2").await;
    stage.drain().await;
    let all = "SELECT string_agg(v::text, ' ' ORDER BY id) FROM t";
    eventually("the client sees all", async || value(&three, all).await == "1 2 3 0").await;
    assert_eq!(value(&stage.main().await, all).await, "1 2 3 0");
}
