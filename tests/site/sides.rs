//! Straight and buffered writers of one table, at the same time.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::stage::{Stage, eventually, execute, fails_with, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO t SELECT g, 0 FROM generate_series(1, 4) g;
    CREATE VIEW view_of_t AS SELECT * FROM t;
    CREATE TABLE log (said text)";

/// How one is added to a row: on main, here, or first here and then on main; `?` is what the SELECT said, and one more.
const WAYS: [&str; 8] = [
    "UPDATE view_of_t SET v = v + 1 WHERE id = $",
    "DO 'BEGIN UPDATE t SET v = v + 1 WHERE id = $; END'",
    "BEGIN; UPDATE t SET v = v + 1 WHERE id = $; DELETE FROM log; COMMIT",
    "BEGIN; DELETE FROM log; SELECT v FROM t WHERE id = $ FOR UPDATE; UPDATE t SET v = ? WHERE id = $; COMMIT",
    "BEGIN; SELECT v FROM t WHERE id = $ FOR UPDATE; UPDATE t SET v = ? WHERE id = $; DELETE FROM log; COMMIT",
    "BEGIN; SELECT v FROM t WHERE id = $ FOR UPDATE; UPDATE t SET v = ? WHERE id = $; COMMIT",
    "BEGIN; SELECT v FROM t WHERE id = $ FOR UPDATE; UPDATE view_of_t SET v = ? WHERE id = $; COMMIT",
    "UPDATE t SET v = v + 1 WHERE id = $",
];

async fn add(client: &Client, way: &str, id: u32) -> Result<(), Error> {
    let mut next = 0;
    let way = way.replace('$', &id.to_string());
    let statements = if way.starts_with("DO") { vec![&*way] } else { way.split("; ").collect() };
    for statement in statements {
        let statement = statement.replace('?', &next.to_string());
        for message in client.simple_query(&statement).await? {
            if let SimpleQueryMessage::Row(row) = message {
                next = row.get(0).unwrap().parse::<i64>().unwrap() + 1;
            }
        }
    }
    Ok(())
}

/// None is lost, whoever adds it where.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_on_both_sides_add_up() {
    let stage = Stage::shared("sides_add_up", SCHEMA).await;
    let mut tasks = Vec::new();
    for number in 0..6_u32 {
        let client = stage.client().await;
        tasks.push(tokio::spawn(async move {
            let mut done = [0_i64; 4];
            for round in 0..24_u32 {
                let (id, way) = ((number + round) % 4 + 1, WAYS[(number * 7 + round * 5) as usize % 8]);
                match add(&client, way, id).await {
                    Ok(()) => done[id as usize - 1] += 1,
                    // Postgres says so, too, or the daemon does in the place of a deadlock.
                    Err(error) => {
                        let refused = [&SqlState::T_R_DEADLOCK_DETECTED, &SqlState::LOCK_NOT_AVAILABLE];
                        assert!(refused.contains(&error.code().unwrap()), "{way}: {error:?}");
                        execute(&client, "ROLLBACK").await;
                    }
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

/// What a function writes is known when it has written it.
#[tokio::test]
async fn what_a_function_has_written_in_a_straight_transaction_is_kept_from_others() {
    let schema = format!(
        "{SCHEMA}; CREATE FUNCTION put(int, int) RETURNS int LANGUAGE sql AS
            'UPDATE t SET v = $2 WHERE id = $1 RETURNING v';
        CREATE PROCEDURE put_by_call(int, int) LANGUAGE sql AS 'UPDATE t SET v = $2 WHERE id = $1'"
    );
    let stage = Stage::shared("sides_function", &schema).await;
    let one = stage.client().await;
    for (round, put) in ["SELECT put(1, 10)", "CALL put_by_call(1, 20)"].into_iter().enumerate() {
        execute(&one, "BEGIN").await;
        execute(&one, "DELETE FROM log").await;
        if round == 0 {
            one.query(put, &[]).await.unwrap();
        } else {
            execute(&one, put).await;
        }
        let other = tokio::spawn({
            let two = stage.client().await;
            async move {
                execute(&two, "BEGIN").await;
                let seen: i64 = value(&two, "SELECT v FROM t WHERE id = 1 FOR UPDATE").await.parse().unwrap();
                execute(&two, &format!("UPDATE t SET v = {} WHERE id = 1", seen + 1)).await;
                execute(&two, "COMMIT").await;
            }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!other.is_finished(), "{put}");
        execute(&one, "COMMIT").await;
        other.await.unwrap();
        stage.drain().await;
        let expected = (10 * (round + 1) + 1).to_string();
        assert_eq!(value(&stage.main().await, "SELECT v FROM t WHERE id = 1").await, expected, "{put}");
    }
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

/// Who waits for a row of a foreign key's other side that a transaction on main has: it is judged by what that did.
#[tokio::test]
async fn foreign_keys_are_judged_by_what_was_handed_over() {
    let schema = "CREATE TABLE unit (id int PRIMARY KEY); INSERT INTO unit VALUES (1), (2);
        CREATE TABLE seen (id int PRIMARY KEY, unit int REFERENCES unit); CREATE TABLE log (said text)";
    let stage = Stage::shared("sides_keys", schema).await;
    let one = stage.client().await;
    for (first, second) in [
        ("DELETE FROM unit WHERE id = 1", "INSERT INTO seen VALUES (1, 1)"),
        ("INSERT INTO seen VALUES (2, 2)", "DELETE FROM unit WHERE id = 2"),
    ] {
        execute(&one, "BEGIN").await;
        execute(&one, first).await;
        execute(&one, "DELETE FROM log").await;
        let two = stage.client().await;
        let waiting = tokio::spawn(async move { two.batch_execute(second).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished(), "{second}");
        execute(&one, "COMMIT").await;
        fails_with(waiting.await.unwrap(), &SqlState::FOREIGN_KEY_VIOLATION);
    }
    stage.drain().await;
    assert_eq!(
        value(&stage.main().await, "SELECT concat((SELECT sum(id) FROM unit), (SELECT sum(id) FROM seen))").await,
        "22"
    );
}

/// Who writes on main and who writes here name the same rows by other tables, or by a search path that only main knows.
#[tokio::test]
async fn rows_are_the_same_by_whatever_name() {
    let schema = "CREATE TABLE log (said text); CREATE SCHEMA b; CREATE TABLE k (id int PRIMARY KEY, v int);
        CREATE TABLE b.k (id int PRIMARY KEY, v int); INSERT INTO b.k VALUES (7, 1);
        CREATE TABLE base (id int PRIMARY KEY, v int); CREATE TABLE derived (PRIMARY KEY (id)) INHERITS (base);
        INSERT INTO derived VALUES (7, 1)";
    let stage = Stage::shared("sides_names", schema).await;
    let one = stage.client().await;
    for (path, there, here, table) in [
        ("public", "derived", "base", "derived"),
        ("public", "base", "derived", "derived"),
        ("b, public", "k", "b.k", "b.k"),
    ] {
        execute(&one, "BEGIN").await;
        execute(&one, "DELETE FROM log").await;
        execute(&one, &format!("SET LOCAL search_path = {path}")).await;
        execute(&one, &format!("UPDATE {there} SET v = 100 WHERE id = 7")).await;
        let two = stage.client().await;
        let add = format!("UPDATE {here} SET v = v + 1 WHERE id = 7");
        let waiting = tokio::spawn(async move { execute(&two, &add).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished(), "{there}, {here}");
        execute(&one, "COMMIT").await;
        waiting.await.unwrap();
        stage.drain().await;
        let all = format!("SELECT v FROM {table} WHERE id = 7");
        assert_eq!(value(&stage.main().await, &all).await, "101", "{there}, {here}");
        assert_eq!(value(&one, &all).await, "101", "{there}, {here}");
    }
}

/// Main is there, but not for everybody: who is not let in waits, and throws nobody out.
#[tokio::test]
async fn who_may_not_connect_to_main_overtakes_nobody() {
    let stage = Stage::own("sides_refused", SCHEMA).await;
    let main = stage.main().await;
    execute(&main, "CREATE ROLE site_only LOGIN; GRANT ALL ON t TO site_only").await;
    let rules = value(&main, "SHOW hba_file").await;
    let known = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, format!("host all site_only 0.0.0.0/0 reject\n{known}")).unwrap();
    execute(&main, "SELECT pg_reload_conf()").await;
    let (one, two) = (stage.client().await, stage.client().await);
    eventually("the role is at the site", async || two.batch_execute("SET ROLE site_only").await.is_ok()).await;
    drop(two);
    let two = stage.client_as("site_only").await;
    execute(&one, "BEGIN").await;
    execute(&one, "UPDATE view_of_t SET v = 5 WHERE id = 1").await;
    let waiting = tokio::spawn(async move { execute(&two, "UPDATE t SET v = v + 1 WHERE id = 1").await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!waiting.is_finished());
    execute(&one, "COMMIT").await;
    waiting.await.unwrap();
    stage.drain().await;
    assert_eq!(value(&stage.main().await, "SELECT v FROM t WHERE id = 1").await, "6");
}

/// Who has written a table already and waits for rows of a transaction that goes on on main judges by what that did.
#[tokio::test]
async fn who_has_written_the_table_before_sees_what_was_handed_over() {
    let schema =
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0);
        CREATE TABLE part (id int PRIMARY KEY, t int REFERENCES t); CREATE TABLE log (said text)";
    let stage = Stage::shared("sides_before", schema).await;
    let one = stage.client().await;
    for (first, second, begin, expected) in [
        (
            "UPDATE t SET v = v + 1 WHERE id = 1",
            "UPDATE t SET v = (SELECT 1) + v WHERE id = 1 RETURNING v",
            "BEGIN",
            Ok("2"),
        ),
        ("UPDATE t SET v = 7 WHERE id = 3", "SELECT v FROM t WHERE id = 3 FOR UPDATE", "BEGIN", Ok("7")),
        ("UPDATE t SET v = 8 WHERE id = 3", "UPDATE t SET v = 9 WHERE id = 3 AND v = 7 RETURNING v", "BEGIN", Ok("")),
        ("DELETE FROM t WHERE id = 4", "UPDATE t SET v = 9 WHERE id = 4 RETURNING v", "BEGIN", Ok("")),
        (
            "INSERT INTO t VALUES (9, 0)",
            "INSERT INTO t VALUES (9, 1) RETURNING v",
            "BEGIN",
            Err(&SqlState::UNIQUE_VIOLATION),
        ),
        (
            "DELETE FROM t WHERE id = 5",
            "INSERT INTO part VALUES (1, 5) RETURNING id",
            "BEGIN",
            Err(&SqlState::FOREIGN_KEY_VIOLATION),
        ),
        (
            "UPDATE t SET v = 11 WHERE id = 3",
            "UPDATE t SET v = 12 WHERE id = 3 RETURNING v",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            Err(&SqlState::T_R_SERIALIZATION_FAILURE),
        ),
    ] {
        let two = stage.client().await;
        execute(&two, begin).await;
        execute(&two, "UPDATE t SET v = v + 5 WHERE id = 2").await;
        execute(&two, "INSERT INTO part VALUES (100, NULL)").await;
        execute(&one, "BEGIN").await;
        execute(&one, first).await;
        execute(&one, "DELETE FROM log").await;
        let waiting = tokio::spawn(async move {
            let answered = two.query_opt(second, &[]).await.map(|row| row.map(|row| row.get::<_, i32>(0).to_string()));
            execute(&two, "ROLLBACK").await;
            answered
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished(), "{second}");
        execute(&one, "COMMIT").await;
        match (waiting.await.unwrap(), expected) {
            (Ok(value), Ok(expected)) => assert_eq!(value.unwrap_or_default(), expected, "{second}"),
            (Err(error), Err(expected)) => assert_eq!(error.code(), Some(expected), "{second}"),
            (answered, _) => panic!("{second}: {answered:?}"),
        }
    }
    stage.drain().await;
    let all = "SELECT string_agg(id || ':' || v, ' ' ORDER BY id) FROM t";
    assert_eq!(value(&stage.main().await, all).await, "1:1 2:0 3:11 9:0");
}
