//! Clients of one site against each other, as on one Postgres: they wait, conflict and deadlock in the same places.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::stage::{Stage, execute, fails_with, value};

const SCHEMA: &str = "
    CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL);
    CREATE TABLE person (id int PRIMARY KEY, email text UNIQUE, nick text);
    CREATE UNIQUE INDEX person_nick ON person (lower(nick));
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent (id));
    INSERT INTO counter SELECT i, 0 FROM generate_series(1, 3) i;
    INSERT INTO parent SELECT i FROM generate_series(1, 5) i;";

/// A statement on its way, in a task of its own.
type UnderWay = JoinHandle<(Client, Result<(), tokio_postgres::Error>)>;

fn send(client: Client, sql: &'static str) -> UnderWay {
    tokio::spawn(async move {
        let outcome = client.batch_execute(sql).await;
        (client, outcome)
    })
}

/// It must be waiting for somebody. Not a synchronisation: a statement that does not wait is done long before.
#[track_caller]
fn waits(statement: &UnderWay) -> impl Future<Output = ()> + '_ {
    let caller = std::panic::Location::caller();
    async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!statement.is_finished(), "{caller}: the statement did not wait");
    }
}

async fn answered(statement: UnderWay) -> (Client, Result<(), tokio_postgres::Error>) {
    tokio::time::timeout(Duration::from_secs(20), statement).await.expect("it waits for ever").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_increments_lose_none() {
    let stage = Stage::shared("two_increments", SCHEMA).await;
    stage.cut();
    let mut tasks = Vec::new();
    for number in 0..6 {
        let client = stage.client().await;
        tasks.push(tokio::spawn(async move {
            let raise = client.prepare("UPDATE counter SET n = n + $1 WHERE id = 1 RETURNING n").await.unwrap();
            for round in 0..25 {
                if (number + round) % 3 == 0 {
                    execute(&client, "BEGIN; UPDATE counter SET n = n + 1 WHERE id = 1; COMMIT").await;
                } else {
                    client.query_one(&raise, &[&1_i64]).await.unwrap();
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(value(&stage.client().await, "SELECT n FROM counter WHERE id = 1").await, "150");
    stage.drain().await;
    assert_eq!(value(&stage.main().await, "SELECT n FROM counter WHERE id = 1").await, "150");
}

#[tokio::test]
async fn the_second_writer_waits_and_sees_the_first() {
    let stage = Stage::shared("two_wait", SCHEMA).await;
    stage.cut();
    let (one, two) = (stage.client().await, stage.client().await);
    execute(&one, "BEGIN; UPDATE counter SET n = 10 WHERE id = 1").await;
    let waiting = send(two, "UPDATE counter SET n = n + 1 WHERE id = 1");
    waits(&waiting).await;
    execute(&one, "COMMIT").await;
    let (two, outcome) = answered(waiting).await;
    outcome.unwrap();
    assert_eq!(value(&two, "SELECT n FROM counter WHERE id = 1").await, "11");

    // The first gives up: the second works on what was there before.
    execute(&one, "BEGIN; DELETE FROM counter WHERE id = 1").await;
    let waiting = send(two, "UPDATE counter SET n = n + 1 WHERE id = 1");
    waits(&waiting).await;
    execute(&one, "ROLLBACK").await;
    let (two, outcome) = answered(waiting).await;
    outcome.unwrap();
    assert_eq!(value(&two, "SELECT n FROM counter WHERE id = 1").await, "12");

    // The first removes the row: the second finds none.
    execute(&one, "BEGIN; DELETE FROM counter WHERE id = 2").await;
    let waiting = send(two, "UPDATE counter SET n = n + 1 WHERE id = 2");
    waits(&waiting).await;
    execute(&one, "COMMIT").await;
    let (two, outcome) = answered(waiting).await;
    outcome.unwrap();
    assert_eq!(value(&two, "SELECT count(*) FROM counter WHERE id = 2").await, "0");

    // The first changes the row so that the second's condition no longer holds.
    execute(&one, "BEGIN; UPDATE counter SET n = 77 WHERE id = 3").await;
    let waiting = send(two, "UPDATE counter SET n = 1 WHERE id = 3 AND n = 0");
    waits(&waiting).await;
    execute(&one, "COMMIT").await;
    let (two, outcome) = answered(waiting).await;
    outcome.unwrap();
    assert_eq!(value(&two, "SELECT n FROM counter WHERE id = 3").await, "77");

    // Other rows are nobody's business.
    execute(&one, "BEGIN; UPDATE counter SET n = 0 WHERE id = 3").await;
    execute(&two, "UPDATE counter SET n = 0 WHERE id = 1").await;
    execute(&one, "COMMIT").await;
    stage.drain().await;
    let all = "SELECT string_agg(id || ':' || n, ' ' ORDER BY id) FROM counter";
    assert_eq!(value(&stage.main().await, all).await, "1:0 3:0");
}

#[tokio::test]
async fn repeatable_read_refuses_to_overwrite_what_it_did_not_see() {
    let stage = Stage::shared("two_repeatable", SCHEMA).await;
    stage.cut();
    let (one, two) = (stage.client().await, stage.client().await);
    execute(&one, "BEGIN ISOLATION LEVEL REPEATABLE READ").await;
    assert_eq!(value(&one, "SELECT n FROM counter WHERE id = 1").await, "0");
    execute(&two, "UPDATE counter SET n = 5 WHERE id = 1").await;
    assert_eq!(value(&one, "SELECT n FROM counter WHERE id = 1").await, "0");
    fails_with(
        one.batch_execute("UPDATE counter SET n = n + 1 WHERE id = 1").await,
        &SqlState::T_R_SERIALIZATION_FAILURE,
    );
    execute(&one, "ROLLBACK").await;

    // Waiting for the first to commit ends the same way; for the first to roll back, with success.
    execute(&one, "BEGIN; UPDATE counter SET n = 6 WHERE id = 1").await;
    execute(&two, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT n FROM counter").await;
    let waiting = send(two, "UPDATE counter SET n = n + 1 WHERE id = 1");
    waits(&waiting).await;
    execute(&one, "COMMIT").await;
    let (two, outcome) = answered(waiting).await;
    fails_with(outcome, &SqlState::T_R_SERIALIZATION_FAILURE);
    execute(&two, "ROLLBACK").await;

    execute(&one, "BEGIN; UPDATE counter SET n = 1000 WHERE id = 1").await;
    execute(&two, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT n FROM counter").await;
    let waiting = send(two, "UPDATE counter SET n = n + 1 WHERE id = 1");
    waits(&waiting).await;
    execute(&one, "ROLLBACK").await;
    let (two, outcome) = answered(waiting).await;
    outcome.unwrap();
    execute(&two, "COMMIT").await;
    assert_eq!(value(&one, "SELECT n FROM counter WHERE id = 1").await, "7");
}

#[tokio::test]
async fn a_deadlock_is_found_and_one_of_them_goes_on() {
    let stage = Stage::shared("two_deadlock", SCHEMA).await;
    stage.cut();
    let (one, two) = (stage.client().await, stage.client().await);
    execute(&one, "BEGIN; UPDATE counter SET n = n + 1 WHERE id = 1").await;
    execute(&two, "BEGIN; UPDATE counter SET n = n + 10 WHERE id = 2").await;
    let first = send(one, "UPDATE counter SET n = n + 1 WHERE id = 2; COMMIT");
    waits(&first).await;
    let second = send(two, "UPDATE counter SET n = n + 10 WHERE id = 1; COMMIT");
    // Whoever is refused lets the other go on only when it ends its transaction.
    let ends = async |statement: UnderWay| {
        let (client, outcome) = answered(statement).await;
        client.batch_execute("ROLLBACK").await.unwrap();
        outcome
    };
    let (first, second) = tokio::join!(ends(first), ends(second));
    let n = value(&stage.client().await, "SELECT sum(n) FROM counter").await;
    match (first, second) {
        (Ok(()), refused) => {
            fails_with(refused, &SqlState::T_R_DEADLOCK_DETECTED);
            assert_eq!(n, "2");
        }
        (refused, Ok(())) => {
            fails_with(refused, &SqlState::T_R_DEADLOCK_DETECTED);
            assert_eq!(n, "20");
        }
        both => panic!("both were refused: {both:?}"),
    }
}

#[tokio::test]
async fn the_second_to_insert_a_unique_value_waits_and_is_refused() {
    let stage = Stage::shared("two_unique", SCHEMA).await;
    stage.cut();
    let (mut one, mut two) = (stage.client().await, stage.client().await);
    for (first, second, constraint) in [
        ("BEGIN; INSERT INTO person VALUES (1, 'a', 'a')", "INSERT INTO person VALUES (1, 'b', 'b')", "person_pkey"),
        (
            "BEGIN; INSERT INTO person VALUES (2, 'same', 'c')",
            "INSERT INTO person VALUES (3, 'same', 'd')",
            "person_email_key",
        ),
        (
            "BEGIN; INSERT INTO person VALUES (4, 'e', 'Same')",
            "INSERT INTO person VALUES (5, 'f', 'sAME')",
            "person_nick",
        ),
        (
            "BEGIN; UPDATE person SET email = 'taken' WHERE id = 1",
            "INSERT INTO person VALUES (6, 'taken', 'g')",
            "person_email_key",
        ),
    ] {
        execute(&one, first).await;
        let waiting = send(two, second);
        waits(&waiting).await;
        execute(&one, "COMMIT").await;
        let outcome;
        (two, outcome) = answered(waiting).await;
        let report = fails_with(outcome, &SqlState::UNIQUE_VIOLATION);
        assert_eq!(report.constraint(), Some(constraint));
    }
    // The first rolls back: the second gets the value.
    execute(&one, "BEGIN; INSERT INTO person VALUES (10, 'ten', 'ten')").await;
    let waiting = send(two, "INSERT INTO person VALUES (11, 'ten', 'eleven')");
    waits(&waiting).await;
    execute(&one, "ROLLBACK").await;
    let outcome;
    (two, outcome) = answered(waiting).await;
    outcome.unwrap();
    // A value that is given up can be taken, once that is committed.
    execute(&two, "BEGIN; UPDATE person SET email = 'moved' WHERE id = 11").await;
    let waiting = send(one, "INSERT INTO person VALUES (12, 'ten', 'twelve')");
    waits(&waiting).await;
    execute(&two, "COMMIT").await;
    let outcome;
    (one, outcome) = answered(waiting).await;
    outcome.unwrap();
    // NULLs never meet.
    execute(&one, "BEGIN; INSERT INTO person VALUES (20, NULL, NULL)").await;
    execute(&two, "INSERT INTO person VALUES (21, NULL, NULL)").await;
    execute(&one, "COMMIT").await;
    stage.drain().await;
    let all = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM person";
    assert_eq!(value(&stage.main().await, all).await, "1 2 4 11 12 20 21");
}

#[tokio::test]
async fn parents_do_not_leave_while_children_arrive() {
    let stage = Stage::shared("two_foreign_keys", SCHEMA).await;
    stage.cut();
    let (one, two) = (stage.client().await, stage.client().await);
    // The child comes first.
    execute(&one, "BEGIN; INSERT INTO child VALUES (1, 1)").await;
    let waiting = send(two, "DELETE FROM parent WHERE id = 1");
    waits(&waiting).await;
    execute(&one, "COMMIT").await;
    let (two, outcome) = answered(waiting).await;
    fails_with(outcome, &SqlState::FOREIGN_KEY_VIOLATION);
    // The parent goes first.
    execute(&two, "BEGIN; DELETE FROM parent WHERE id = 2").await;
    let waiting = send(one, "INSERT INTO child VALUES (2, 2)");
    waits(&waiting).await;
    execute(&two, "COMMIT").await;
    let (one, outcome) = answered(waiting).await;
    fails_with(outcome, &SqlState::FOREIGN_KEY_VIOLATION);
    // Two children of one parent are in nobody's way.
    execute(&one, "BEGIN; INSERT INTO child VALUES (3, 3)").await;
    execute(&two, "INSERT INTO child VALUES (4, 3)").await;
    execute(&one, "COMMIT").await;
    stage.drain().await;
    let orphans = "SELECT count(*) FROM child LEFT JOIN parent ON parent.id = child.parent WHERE parent.id IS NULL";
    assert_eq!(value(&stage.main().await, orphans).await, "0");
    assert_eq!(value(&stage.main().await, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM child").await, "1 3 4");
}
