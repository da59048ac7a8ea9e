//! All or nothing: what is rolled back, fails, or loses its connection before COMMIT leaves nothing behind.

use tokio_postgres::error::SqlState;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::stage::{Kept, Stage, eventually, execute, fails_with, over_both_buffers, rows, value};

over_both_buffers!(
    what_is_not_committed_leaves_nothing,
    savepoints_undo_what_came_after_them,
    a_message_of_several_statements_is_one_entry,
);

const SCHEMA: &str = "
    CREATE TABLE item (id int PRIMARY KEY, label text NOT NULL, n int NOT NULL DEFAULT 0 CHECK (n < 1000));
    CREATE TABLE line (text text);
    INSERT INTO item SELECT i, 'old', i FROM generate_series(1, 3) i;";

const ALL: &str = "SELECT string_agg(id || ':' || label || ':' || n, ' ' ORDER BY id) FROM item";
const BEFORE: &str = "1:old:1 2:old:2 3:old:3";

/// Nothing may have been buffered, and a new session sees nothing.
async fn nothing_happened(stage: &Stage) {
    assert_eq!(value(&stage.client().await, ALL).await, BEFORE);
    assert_eq!(value(&stage.client().await, "SELECT count(*) FROM line").await, "0");
    assert_eq!(stage.last_seq().await, 0, "an entry was buffered");
}

const CHANGES: &str = "INSERT INTO item VALUES (10, 'new'); UPDATE item SET label = 'changed' WHERE id = 1;
    DELETE FROM item WHERE id = 2; INSERT INTO line VALUES ('new')";

async fn what_is_not_committed_leaves_nothing(kept: Kept) {
    let stage = Stage::shared_on(kept, "atomicity_nothing", SCHEMA).await;
    stage.cut();
    let client = stage.client().await;

    execute(&client, &format!("BEGIN; {CHANGES}")).await;
    assert_eq!(value(&client, ALL).await, "1:changed:1 3:old:3 10:new:0");
    assert_eq!(value(&stage.client().await, ALL).await, BEFORE, "another session sees what is not committed");
    execute(&client, "ROLLBACK").await;
    nothing_happened(&stage).await;

    // A statement fails: the rest is refused, and COMMIT answers ROLLBACK.
    execute(&client, &format!("BEGIN; {CHANGES}")).await;
    fails_with(client.batch_execute("INSERT INTO item VALUES (10, 'twice')").await, &SqlState::UNIQUE_VIOLATION);
    fails_with(client.batch_execute("SELECT 1").await, &SqlState::IN_FAILED_SQL_TRANSACTION);
    fails_with(client.query("SELECT id FROM item", &[]).await, &SqlState::IN_FAILED_SQL_TRANSACTION);
    assert_eq!(stage_tag(&stage, "BEGIN; INSERT INTO line VALUES ('a')", "SELECT 1/0", "COMMIT").await, "ROLLBACK");
    execute(&client, "COMMIT").await;
    nothing_happened(&stage).await;

    // A statement that fails half way through its rows.
    fails_with(
        client.batch_execute("INSERT INTO item VALUES (11, 'a'), (12, 'b'), (1, 'twice')").await,
        &SqlState::UNIQUE_VIOLATION,
    );
    fails_with(client.batch_execute("UPDATE item SET n = n + 998").await, &SqlState::CHECK_VIOLATION);
    nothing_happened(&stage).await;

    // Several statements in one message are one transaction.
    fails_with(
        client.batch_execute(&format!("{CHANGES}; INSERT INTO item VALUES (3, 'twice')")).await,
        &SqlState::UNIQUE_VIOLATION,
    );
    fails_with(client.batch_execute(&format!("{CHANGES}; SELECT 1/0; COMMIT")).await, &SqlState::DIVISION_BY_ZERO);
    nothing_happened(&stage).await;

    // The connection goes away in the middle, politely and not.
    let (doomed, connection) = tokio_postgres::connect(&stage.outpost.url(), NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    execute(&doomed, &format!("BEGIN; {CHANGES}")).await;
    connection.abort();
    drop(doomed);
    let polite = stage.client().await;
    execute(&polite, &format!("BEGIN; {CHANGES}")).await;
    drop(polite);
    // Their locks are gone with them: the same rows can be written by others.
    eventually("the locks of dead sessions are released", async || {
        client.batch_execute(&format!("BEGIN; SET LOCAL statement_timeout = '1s'; {CHANGES}; ROLLBACK")).await.is_ok()
            || {
                let _ = client.batch_execute("ROLLBACK").await;
                false
            }
    })
    .await;
    nothing_happened(&stage).await;

    stage.heal();
    execute(&client, "INSERT INTO line VALUES ('at last')").await;
    stage.drain().await;
    let main = stage.main().await;
    assert_eq!(value(&main, ALL).await, BEFORE);
    assert_eq!(rows(&main, "SELECT text FROM line").await, [[Some("at last".to_owned())]]);
}

/// The command tag of the last statement, after one that succeeds and one that fails.
async fn stage_tag(stage: &Stage, good: &str, bad: &str, last: &str) -> String {
    let output = stage.psql(&["-c", good, "-c", bad, "-c", last]).await;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed.lines().last().unwrap_or_default().to_owned()
}

async fn savepoints_undo_what_came_after_them(kept: Kept) {
    let stage = Stage::shared_on(kept, "atomicity_savepoints", SCHEMA).await;
    stage.cut();
    let client = stage.client().await;
    execute(
        &client,
        "BEGIN; INSERT INTO item VALUES (10, 'kept'); SAVEPOINT a; UPDATE item SET n = 50 WHERE id IN (1, 10)",
    )
    .await;
    execute(&client, "SAVEPOINT b; DELETE FROM item; INSERT INTO line VALUES ('lost')").await;
    assert_eq!(value(&client, "SELECT count(*) FROM item").await, "0");
    execute(&client, "ROLLBACK TO b").await;
    assert_eq!(value(&client, ALL).await, "1:old:50 2:old:2 3:old:3 10:kept:50");
    fails_with(client.batch_execute("INSERT INTO item VALUES (10, 'twice')").await, &SqlState::UNIQUE_VIOLATION);
    fails_with(client.batch_execute("SELECT 1").await, &SqlState::IN_FAILED_SQL_TRANSACTION);
    execute(&client, "ROLLBACK TO SAVEPOINT a").await;
    assert_eq!(value(&client, ALL).await, "1:old:1 2:old:2 3:old:3 10:kept:0");
    fails_with(client.batch_execute("RELEASE b").await, &SqlState::S_E_INVALID_SPECIFICATION);
    execute(&client, "ROLLBACK TO a; UPDATE item SET n = n + 1; SAVEPOINT a; DELETE FROM item WHERE id = 2; RELEASE a")
        .await;
    execute(&client, "ROLLBACK TO a; INSERT INTO line VALUES ('kept'); DELETE FROM item WHERE id = 3; COMMIT").await;
    let expected = "1:old:1 2:old:2 10:kept:0";
    assert_eq!(value(&stage.client().await, ALL).await, expected);
    assert_eq!(stage.last_seq().await, 1, "one transaction is one entry");
    stage.drain().await;
    assert_eq!(value(&stage.main().await, ALL).await, expected);
    assert_eq!(value(&stage.main().await, "SELECT string_agg(text, ',') FROM line").await, "kept");
}

async fn a_message_of_several_statements_is_one_entry(kept: Kept) {
    let stage = Stage::shared_on(kept, "atomicity_script", SCHEMA).await;
    stage.cut();
    let client = stage.client().await;
    let script = format!("{CHANGES}; SELECT count(*) FROM item; INSERT INTO item VALUES (2, 'again') RETURNING id, n");
    let mut tags = Vec::new();
    let mut values = Vec::new();
    for message in client.simple_query(&script).await.unwrap() {
        match message {
            SimpleQueryMessage::CommandComplete(rows) => tags.push(rows),
            SimpleQueryMessage::Row(row) => values.push(row.get(0).unwrap().to_owned()),
            _ => {}
        }
    }
    assert_eq!(tags, [1, 1, 1, 1, 1, 1]);
    assert_eq!(values, ["3", "2"]);
    assert_eq!(stage.last_seq().await, 1, "one message is one entry");
    // An explicit block within a message ends where it says.
    fails_with(
        client
            .batch_execute(
                "BEGIN; INSERT INTO line VALUES ('committed'); COMMIT; INSERT INTO line VALUES ('lost'); SELECT 1/0",
            )
            .await,
        &SqlState::DIVISION_BY_ZERO,
    );
    assert_eq!(value(&client, "SELECT string_agg(text, ',' ORDER BY text) FROM line").await, "committed,new");
    stage.drain().await;
    assert_eq!(
        value(&stage.main().await, "SELECT string_agg(text, ',' ORDER BY text) FROM line").await,
        "committed,new"
    );
    assert_eq!(value(&stage.main().await, ALL).await, "1:changed:1 2:again:0 3:old:3 10:new:0");
}
