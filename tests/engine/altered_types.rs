//! Entries whose columns' types were altered on main after they were written: labels of enumerations, attributes of
//! composite types and of tables whose rows are values.

use std::time::{Duration, Instant};

use pgoutpost::buffer::Which;
use pgoutpost::entry::{Effect, EntryTable, Seq};

use super::drift::{differences, known, write};
use crate::harness::{Outpost, delete, insert, update, values};

const SCHEMA: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); CREATE DOMAIN felt AS mood CHECK (VALUE <> 'ok');
    CREATE TYPE inside AS (m mood, n int, gone text); CREATE TYPE outside AS (i inside, every inside[], note text);
    CREATE TABLE base (a int, b int);
    CREATE TABLE t (id int PRIMARY KEY, m mood, d felt, ms mood[], i inside, o outside, os outside[], r base, rs base[]);
    INSERT INTO t VALUES (1, 'sad', 'sad', '{sad}', '(sad,1,)', NULL, NULL, '(1,)', NULL);
    INSERT INTO t VALUES (2, 'ok'), (3, 'happy');
    CREATE TABLE twin (LIKE t INCLUDING ALL); INSERT INTO twin SELECT * FROM t;";

/// Entry and statement do the same: before the change, main has them in `t` and in `twin`.
#[tokio::test]
async fn values_arrive_as_if_the_entry_had_come_before_the_type_was_altered() {
    let outpost = Outpost::start("types_safe", SCHEMA).await;
    let main = outpost.database.main().await;
    let t = known(&outpost, "t").await;
    let row = [
        "10",
        "happy",
        "sad",
        "[0:1]={happy,NULL}",
        "(sad,5,)",
        r#"("(ok,1,)","{""(ok,2,)"",""(,,)""}","a ""b"", (c)\\")"#,
        r#"{"(\"(happy,,)\",\"{}\",)",NULL,"(,,)"}"#,
        "(7,)",
        r#"{"(8,)","(,)"}"#,
    ];
    let literals: Vec<String> = row.iter().map(|text| format!("'{text}'")).collect();
    let plain = format!(
        "INSERT INTO twin VALUES ({}); UPDATE twin SET m = 'ok', d = 'happy', ms = '{{ok,sad}}', i = '(happy,2,)', r = '(2,)'
             WHERE id = 1; DELETE FROM twin WHERE id = 2",
        literals.join(", ")
    );
    main.batch_execute(&plain).await.unwrap();
    write(&outpost, &t, vec![insert(&row)]).await;
    let (set, old) = (
        [(1, "ok"), (2, "happy"), (3, "{ok,sad}"), (4, "(happy,2,)"), (7, "(2,)")],
        [(1, "sad"), (2, "sad"), (3, "{sad}"), (4, "(sad,1,)"), (7, "(1,)")],
    );
    let owned = |values: [(usize, &str); 5]| values.map(|(place, text)| (place, Some(text.into()))).to_vec();
    let (set, old) = (owned(set), owned(old));
    write(&outpost, &t, vec![Effect::Update { table: 0, key: values(&["1"]), set, old, row: None, own: Vec::new() }])
        .await;
    let old = values(&["2", "ok", "NULL", "NULL", "NULL", "NULL", "NULL", "NULL", "NULL"]);
    write(&outpost, &t, vec![Effect::Delete { table: 0, key: values(&["2"]), old }]).await;
    main.batch_execute(
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'x'; ALTER TYPE mood RENAME VALUE 'happy' TO 'sad';
         ALTER TYPE mood RENAME VALUE 'x' TO 'happy'; ALTER TYPE mood RENAME VALUE 'ok' TO 'it''s \"(fine)\", \\ {so}';
         ALTER TYPE mood ADD VALUE 'ok' BEFORE 'sad'; ALTER TYPE mood RENAME TO feeling;
         ALTER TYPE inside DROP ATTRIBUTE gone, ADD ATTRIBUTE extra int; ALTER TYPE inside RENAME ATTRIBUTE n TO number;
         ALTER TYPE outside ADD ATTRIBUTE last text; ALTER TABLE base ADD c int; ALTER TABLE base DROP b",
    )
    .await
    .unwrap();
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(differences(&outpost).await, []);
    let rows = |name: &str| format!("SELECT x::text FROM {name} x ORDER BY id");
    let found = outpost.texts(&rows("t")).await;
    assert_eq!(found, outpost.texts(&rows("twin")).await);
    assert_eq!(found.len(), 3);
    assert_eq!(replayer.stop().await.conflicts_total, 0, "the old values, too, are those that main has");
}

#[tokio::test]
async fn a_label_that_is_added_changes_nothing() {
    let outpost = Outpost::start("types_label", SCHEMA).await;
    let main = outpost.database.main().await;
    let before = known(&outpost, "t").await;
    let cells = |id, m| vec![insert(&[id, m, "NULL", "NULL", "NULL", "NULL", "NULL", "NULL", "NULL"])];
    write(&outpost, &before, cells("10", "ok")).await;
    main.batch_execute("ALTER TYPE mood ADD VALUE 'calm' AFTER 'sad'").await.unwrap();
    let after = known(&outpost, "t").await;
    write(&outpost, &after, cells("11", "calm")).await;
    write(&outpost, &before, cells("12", "sad")).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(differences(&outpost).await, []);
    assert_eq!(outpost.texts("SELECT m::text FROM t WHERE id >= 10 ORDER BY id").await, ["ok", "calm", "sad"]);
    replayer.stop().await;
}

#[tokio::test]
async fn what_would_get_another_meaning_is_put_aside() {
    let cases: [(&str, &str, &str, Vec<Effect>, &str); 10] = [
        (
            "CREATE TYPE p0 AS (a int, b int); CREATE TABLE t0 (id int PRIMARY KEY, v p0)",
            "ALTER TYPE p0 DROP ATTRIBUTE b, ADD ATTRIBUTE c int",
            "column \"v\" has a value for attribute \"b\" of its type which was dropped",
            vec![insert(&["1", "(20,2)"])],
            "SELECT v::text FROM t0 WHERE id = 1",
        ),
        (
            "CREATE TYPE p1 AS (a int, b int); CREATE TABLE t1 (id int PRIMARY KEY, v p1[]); INSERT INTO t1 VALUES (1)",
            "ALTER TYPE p1 DROP ATTRIBUTE b, ADD ATTRIBUTE b int",
            "column \"v\" has a value for attribute \"b\" of its type which was dropped",
            vec![update(&["1"], &[(1, r#"{"(20,2)"}"#)])],
            "SELECT v::text FROM t1 WHERE id = 1",
        ),
        (
            "CREATE TYPE q2 AS (a int, b int); CREATE TYPE p2 AS (x text, q q2); CREATE TABLE t2 (id int PRIMARY KEY, v p2)",
            "ALTER TYPE q2 DROP ATTRIBUTE a, ADD ATTRIBUTE c int",
            "column \"v\" has a value for attribute \"q.a\" of its type which was dropped",
            vec![insert(&["1", "(x,\"(20,)\")"])],
            "SELECT v::text FROM t2 WHERE id = 1",
        ),
        (
            "CREATE TABLE b3 (a int, b int); CREATE TABLE t3 (id int PRIMARY KEY, v b3)",
            "ALTER TABLE b3 DROP b; ALTER TABLE b3 ADD c int",
            "column \"v\" has a value for attribute \"b\" of its type which was dropped",
            vec![insert(&["1", "(3,4)"])],
            "SELECT v::text FROM t3 WHERE id = 1",
        ),
        (
            "CREATE TYPE e4 AS ENUM ('a', 'b'); CREATE TABLE t4 (id int PRIMARY KEY, v e4)",
            "ALTER TYPE e4 RENAME TO old4; CREATE TYPE e4 AS ENUM ('b', 'c');
             ALTER TABLE t4 ALTER v TYPE e4 USING v::text::e4; DROP TYPE old4",
            "column \"v\" is of a type that was dropped, and another one has its name",
            vec![insert(&["1", "b"])],
            "SELECT v::text FROM t4 WHERE id = 1",
        ),
        (
            "CREATE TYPE e5 AS ENUM ('a', 'b'); CREATE TABLE t5 (v e5 PRIMARY KEY, n int); INSERT INTO t5 VALUES ('a', 1)",
            "ALTER TYPE e5 RENAME VALUE 'a' TO 'z'",
            "column \"v\" is part of its key, and of a type that was altered",
            vec![update(&["a"], &[(1, "2")])],
            "SELECT n::text FROM t5",
        ),
        (
            "CREATE TYPE e6 AS ENUM ('a', 'b'); CREATE TYPE r6 AS RANGE (subtype = e6); CREATE TABLE t6 (id int PRIMARY KEY, v r6)",
            "ALTER TYPE e6 RENAME VALUE 'b' TO 'z'",
            "column \"v\" was altered",
            vec![insert(&["1", "[a,b]"])],
            "SELECT v::text FROM t6 WHERE id = 1",
        ),
        (
            "CREATE TYPE p7 AS (a int, b int); CREATE DOMAIN d7 AS p7; CREATE TABLE t7 (id int PRIMARY KEY, v d7)",
            "ALTER TYPE p7 DROP ATTRIBUTE b",
            "column \"v\" has a value for attribute \"b\" of its type which was dropped",
            vec![insert(&["1", "(20,2)"])],
            "SELECT v::text FROM t7 WHERE id = 1",
        ),
        (
            "CREATE TYPE p8 AS (a int, b int); CREATE TABLE t8 (id int PRIMARY KEY, v p8)",
            "ALTER TABLE t8 ALTER v TYPE text USING v::text",
            "column \"v\" was public.p8 and is text",
            vec![insert(&["1", "(20,2)"])],
            "SELECT v::text FROM t8 WHERE id = 1",
        ),
        (
            "CREATE TYPE p9 AS (a int, b int); CREATE TYPE s9 AS (b int, a int); CREATE TABLE t9 (id int PRIMARY KEY, v p9)",
            "ALTER TABLE t9 ALTER v TYPE s9 USING row((v).b, (v).a)::s9",
            "column \"v\" was public.p9 and is public.s9",
            vec![insert(&["1", "(20,2)"])],
            "SELECT v::text FROM t9 WHERE id = 1",
        ),
    ];
    let schema: Vec<&str> = cases.iter().map(|case| case.0).collect();
    let outpost = Outpost::start("types_unsafe", &schema.join("; ")).await;
    let main = outpost.database.main().await;
    for (n, case) in cases.iter().enumerate() {
        write(&outpost, &known(&outpost, &format!("t{n}")).await, case.3.clone()).await;
    }
    // What was dropped does not matter to these.
    let t0: EntryTable = known(&outpost, "t0").await;
    write(&outpost, &t0, vec![insert(&["2", "(20,)"]), insert(&["3", "NULL"]), delete(&["3"])]).await;
    for case in &cases {
        main.batch_execute(case.1).await.unwrap();
    }
    let replayer = outpost.replay();
    outpost.drained().await;
    let found = differences(&outpost).await;
    let seqs: Vec<u64> = found.iter().map(|(seq, _)| seq.0).collect();
    assert_eq!(seqs, (1..=cases.len() as u64).collect::<Vec<_>>(), "{found:#?}");
    for ((_, message), case) in found.iter().zip(&cases) {
        assert!(message.ends_with(case.2), "{}: {message}", case.1);
    }
    assert_eq!(outpost.texts("SELECT v::text FROM t0").await, ["(20,)"]);
    for (n, case) in cases.iter().enumerate() {
        let before = if n == 5 { vec!["1"] } else { Vec::new() };
        assert_eq!(outpost.texts(&format!("SELECT w FROM ({}) x(w) WHERE w IS NOT NULL", case.4)).await, before, "{n}");
    }
    // RETRY goes by names, once they are there.
    outpost.buffer.retry(Which::One(Seq(5)), "anna").await.unwrap();
    outpost.buffer.retry(Which::One(Seq(10)), "anna").await.unwrap();
    main.batch_execute("ALTER TYPE p0 ADD ATTRIBUTE b int; ALTER TYPE e5 RENAME VALUE 'z' TO 'a'").await.unwrap();
    outpost.buffer.retry(Which::One(Seq(1)), "anna").await.unwrap();
    outpost.buffer.retry(Which::One(Seq(6)), "anna").await.unwrap();
    let wanted = [(4, "b"), (9, "(2,20)"), (0, "(20,,2)"), (5, "2")];
    let until = Instant::now() + Duration::from_secs(20);
    for (n, expected) in wanted {
        while outpost.texts(cases[n].4).await != [expected] {
            let open = outpost.buffer.quarantined().await.unwrap();
            assert!(Instant::now() < until, "{n}: {:?} {open:#?}", outpost.texts(cases[n].4).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    replayer.stop().await;
}
