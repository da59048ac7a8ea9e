//! Writes upon such rows, statements that come right behind the change, and quarantined rows that are shown.
//!
//! (A transaction that has used a table does not see it change: its locks on the replica hold main's DDL back, until the
//! replica ends it.)

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::super::stage::{Stage, eventually, execute, fails_with, rows, try_rows, value};

/// Main's DDL, when the replica has it.
async fn change(stage: &Stage, sql: &str) {
    execute(&stage.main().await, sql).await;
    stage.site.wait_replica_caught_up().await.unwrap();
}

async fn text(client: &Client, sql: &str) -> String {
    let row = |row: Vec<Option<String>>| -> String {
        row.into_iter().map(|value| value.unwrap_or("NULL".into())).collect::<Vec<_>>().join(",")
    };
    rows(client, sql).await.into_iter().map(row).collect::<Vec<_>>().join("|")
}

/// Drains, and holds the tables of the daemon's view against main.
async fn alike(stage: &Stage, looks: &[&str]) {
    stage.drain().await;
    let (main, client) = (stage.main().await, stage.client().await);
    for look in looks {
        let on_main = text(&main, look).await;
        // What the replica has may still be pending for a moment.
        eventually("it can be read", async || try_rows(&client, look).await.is_ok()).await;
        assert_eq!(text(&client, look).await, on_main, "{look}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_from_before_are_written_as_they_are_now() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, n int, v text); INSERT INTO t VALUES (10, 1, 'there');
        CREATE TABLE u (id int PRIMARY KEY, n int)";
    let stage = Stage::shared("changed_writes", schema).await;
    let client = stage.client().await;
    stage.cut();
    execute(&client, "INSERT INTO t SELECT i, i, 'new' FROM generate_series(1, 6) i").await;
    execute(&client, "UPDATE t SET n = 2 WHERE id = 10").await;
    execute(&client, "INSERT INTO u VALUES (1, 1)").await;
    change(
        &stage,
        "ALTER TABLE t ADD c int NOT NULL DEFAULT 7 CHECK (c < 10), ADD g int GENERATED ALWAYS AS (n * 10) STORED;
         ALTER TABLE t RENAME v TO words; UPDATE t SET c = 8 WHERE id = 10;
         ALTER TABLE u ADD code int DEFAULT 5; CREATE UNIQUE INDEX ON u (code)",
    )
    .await;
    assert_eq!(
        text(&client, "SELECT id, n, words, c, g FROM t WHERE id IN (1, 10) ORDER BY id").await,
        "1,1,new,7,10|10,2,there,8,20"
    );
    assert_eq!(
        text(&client, "UPDATE t SET c = c + 1, n = 5 WHERE id = 1 RETURNING id, n, words, c, g").await,
        "1,5,new,8,50"
    );
    assert_eq!(text(&client, "UPDATE t SET c = c + 1, n = 3 WHERE id = 10 RETURNING c, g").await, "9,30");
    fails_with(client.batch_execute("UPDATE t SET c = c + 5 WHERE id = 2").await, &SqlState::CHECK_VIOLATION);
    fails_with(client.batch_execute("UPDATE t SET c = NULL WHERE id = 2").await, &SqlState::NOT_NULL_VIOLATION);
    assert_eq!(text(&client, "UPDATE t SET id = 12 WHERE id = 2 RETURNING *").await, "12,2,new,7,20");
    let upsert = "INSERT INTO t (id, n) VALUES (3, 0) ON CONFLICT (id) DO UPDATE SET n = t.c * 2 RETURNING n, c, g";
    assert_eq!(text(&client, upsert).await, "14,7,140");
    assert_eq!(
        text(&client, "INSERT INTO t (id, n, c) SELECT id + 100, g, c FROM t WHERE id = 3 RETURNING *").await,
        "103,140,NULL,7,1400"
    );
    assert_eq!(text(&client, "DELETE FROM t WHERE c = 7 AND id = 4 RETURNING id, words, c, g").await, "4,new,7,40");
    assert_eq!(text(&client, "SELECT words FROM t WHERE id = 5 FOR UPDATE").await, "new");
    // The default of a row from before counts as a value.
    fails_with(client.batch_execute("INSERT INTO u VALUES (2, 2)").await, &SqlState::UNIQUE_VIOLATION);
    execute(&client, "UPDATE u SET code = 6; INSERT INTO u VALUES (2, 2)").await;
    let looks = ["SELECT * FROM t ORDER BY id", "SELECT * FROM u ORDER BY id"];
    let before = text(&client, looks[0]).await;
    stage.outpost.restart().await.unwrap();
    assert_eq!(text(&stage.client().await, looks[0]).await, before);
    alike(&stage, &looks).await;
    assert_eq!(text(&stage.main().await, looks[0]).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_change_with_the_table_above() {
    let schema = "CREATE TABLE p (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
        CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
        CREATE TABLE p2 (v text, part int NOT NULL, id int NOT NULL, PRIMARY KEY (id, part));
        ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2); INSERT INTO p VALUES (10, 1, 'one'), (20, 2, 'two')";
    let stage = Stage::shared("changed_parts", schema).await;
    let client = stage.client().await;
    stage.cut();
    execute(&client, "INSERT INTO p VALUES (1, 1, 'x'), (2, 2, 'y'); UPDATE p SET v = 'z' WHERE id = 20; INSERT INTO p2 VALUES ('w', 2, 3)").await;
    change(
        &stage,
        "ALTER TABLE p ADD c int DEFAULT 7; ALTER TABLE p RENAME v TO words; ALTER TABLE p2 RENAME TO second",
    )
    .await;
    let look = "SELECT id, part, words, c FROM p ORDER BY id";
    let seen = "1,1,x,7|2,2,y,7|3,2,w,7|10,1,one,7|20,2,z,7";
    assert_eq!(text(&client, look).await, seen);
    assert_eq!(text(&client, "SELECT id, words, c FROM second ORDER BY id").await, "2,y,7|3,w,7|20,z,7");
    stage.outpost.restart().await.unwrap();
    assert_eq!(text(&stage.client().await, look).await, seen);
    // Rows that come through the table above have its default, others their own.
    change(&stage, "ALTER TABLE p ADD d int; ALTER TABLE second ALTER d SET DEFAULT 9").await;
    let client = stage.client().await;
    fails_with(try_rows(&client, "SELECT * FROM p").await, &SqlState::FEATURE_NOT_SUPPORTED);
    alike(&stage, &[look, "SELECT id, d FROM p ORDER BY id"]).await;
}

/// What a quarantined entry did stays in sight if that is wanted; what came later must, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantined_entry_that_is_shown_hides_nothing_that_came_later() {
    let settings = |options: lab::outpost::OutpostOptions| options.setting("REPLAY__QUARANTINED_READS", "show");
    let schema = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (10); CREATE TABLE u (id int PRIMARY KEY, n int, v text)";
    let stage = Stage::shared_with("changed_held", schema, settings).await;
    let (client, main) = (stage.client().await, stage.main().await);
    stage.cut();
    execute(&client, "TRUNCATE t").await;
    execute(&client, "INSERT INTO u VALUES (1, 1, 'x')").await;
    execute(&main, "CREATE TABLE refers (id int REFERENCES t); ALTER TABLE u ADD CHECK (n > 1)").await;
    stage.heal();
    stage.replayed().await;
    let console = stage.console().await;
    eventually("both are put aside", async || rows(&console, "SHOW QUARANTINE").await.len() == 2).await;
    assert_eq!(value(&client, "SELECT v FROM u").await, "x");
    stage.site.wait_replica_caught_up().await.unwrap();
    execute(&client, "SET pgoutpost.commit = 'visible'; INSERT INTO u VALUES (2, 2, 'y')").await;
    assert_eq!(value(&client, "SELECT string_agg(v, ' ' ORDER BY id) FROM u").await, "x y");
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "1", "what the rejected TRUNCATE did not remove");
    // It would be in the way of everybody who reads the table.
    change(&stage, "ALTER TABLE u ALTER v TYPE int USING 3").await;
    eventually("the rows that main has", async || try_rows(&client, "SELECT v FROM u WHERE id = 2").await.is_ok())
        .await;
    eventually("the table can be read", async || {
        try_rows(&client, "SELECT * FROM u").await.is_ok_and(|rows| rows.len() == 1)
    })
    .await;
}

/// Somebody else's DDL: as soon as the replica has it so has every client, whatever the daemon knew of the tables until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_counts_as_soon_as_the_replica_has_it() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, n int, c0 text); INSERT INTO t VALUES (0, 0, 'begin')";
    let stage =
        Stage::shared_with("changed_fresh", schema, |options| options.setting("TRACKER__POLL_INTERVAL", "3s")).await;
    let (simple, extended, copies) = (stage.client().await, stage.client().await, stage.client().await);
    stage.cut();
    execute(&simple, "INSERT INTO t VALUES (-1, 1, 'pending')").await;
    for round in 1..=4 {
        let (old, new) = (format!("c{}", round - 1), format!("c{round}"));
        let rename = format!("ALTER TABLE t RENAME {old} TO {new}; ALTER TABLE t ADD x{round} int DEFAULT {round}");
        let by = |way: i32| round * 10 + way;
        change(&stage, &rename).await;
        match round {
            // Who comes first has it to find out.
            1 => assert_eq!(text(&simple, &format!("SELECT {new} FROM t WHERE id = -1")).await, "pending"),
            2 => execute(&simple, &format!("UPDATE t SET n = n + x{round}, {new} = 'changed' WHERE id = -1")).await,
            3 => {
                let select = format!("SELECT {new} FROM t WHERE n > $1 ORDER BY id LIMIT 1");
                assert_eq!(extended.query_one(&select, &[&0]).await.unwrap().get::<_, &str>(0), "changed");
            }
            _ => {
                let copy = format!("COPY t (id, {new}, x{round}) FROM STDIN");
                let mut sink = std::pin::pin!(copies.copy_in::<_, Bytes>(&copy).await.unwrap());
                sink.send(Bytes::from_static(b"99\tcopied\t9\n")).await.unwrap();
                assert_eq!(sink.finish().await.unwrap(), 1);
            }
        }
        execute(&simple, &format!("INSERT INTO t (id, {new}, x{round}) VALUES ({}, 'simple', 7)", by(1))).await;
        let insert = format!("INSERT INTO t (id, {new}) VALUES ($1, $2) RETURNING x{round}");
        let row = extended.query_one(&insert, &[&by(2), &"extended"]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), round);
        let made = format!("CREATE TABLE made_{round} (id int PRIMARY KEY REFERENCES t (id))");
        change(&stage, &made).await;
        execute(
            &simple,
            &format!("WITH new AS (INSERT INTO made_{round} VALUES ({}) RETURNING id) SELECT * FROM new", by(1)),
        )
        .await;
        let joined = format!("SELECT t.{new}, t.x{round} FROM t JOIN made_{round} USING (id)");
        assert_eq!(text(&extended, &joined).await, "simple,7");
    }
    alike(&stage, &["SELECT * FROM t ORDER BY id", "SELECT * FROM made_3"]).await;
}
