//! Entries whose tables changed on main after they were written: replayed when the outcome is that of the other order,
//! else put aside with the difference.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgoutpost::buffer::Which;
use pgoutpost::entry::{Effect, EntryColumn, EntryTable, Origin, Seq, TableName, Value, keep_used_labels};

use crate::harness::{Outpost, delete, entry, insert, table, update, values};

/// A table as the site knows it now, with its numbers.
pub async fn known(outpost: &Outpost, name: &str) -> EntryTable {
    let main = outpost.database.main().await;
    let catalog = pgoutpost::catalog::load::load(&main).await.unwrap();
    let table = catalog.named(&TableName { schema: "public".into(), name: name.into() }).expect(name);
    let columns = table.columns.iter().map(|column| EntryColumn {
        name: Arc::clone(&column.name),
        type_name: Arc::clone(&column.full_type_name),
        shape: column.shape.clone(),
    });
    EntryTable {
        name: table.name.clone(),
        columns: columns.collect(),
        via: None,
        key: table.key.iter().filter_map(|part| table.position(*part)).collect(),
        fingerprint: table.fingerprint,
        origin: Some(Origin {
            cluster: catalog.cluster.unwrap(),
            table: table.id.0,
            attnums: table.columns.iter().map(|column| column.attnum.0).collect(),
        }),
    }
}

pub async fn write(outpost: &Outpost, table: &EntryTable, effects: Vec<Effect>) -> Seq {
    let mut tables = vec![table.clone()];
    keep_used_labels(&mut tables, &effects);
    outpost.commit(entry("postgres", tables, effects)).await
}

/// Whether an entry is put aside for drift, and why.
pub async fn differences(outpost: &Outpost) -> Vec<(Seq, String)> {
    let records = outpost.buffer.quarantined().await.unwrap();
    let said = |record: &pgoutpost::buffer::Quarantined| {
        assert_eq!(record.error["code"], "PO004", "{}", record.error);
        assert!(record.error["advice"].as_str().unwrap().contains("RETRY"));
        (record.seq, record.error["message"].as_str().unwrap().to_owned())
    };
    records.iter().map(said).collect()
}

#[tokio::test]
async fn what_can_be_told_is_as_if_the_entry_had_come_first() {
    let schema = "CREATE TABLE t(id int PRIMARY KEY, n int NOT NULL, note varchar(5), gone text, price numeric(6,2),
        twice int GENERATED ALWAYS AS (id * 2) STORED); INSERT INTO t VALUES (1, 1, 'one', 'x', 1.5), (2, 2, 'two', NULL, 2);
        CREATE TABLE twin (LIKE t INCLUDING ALL); INSERT INTO twin SELECT id, n, note, gone, price FROM t";
    let outpost = Outpost::start("drift_safe", schema).await;
    let main = outpost.database.main().await;
    let before = known(&outpost, "t").await;
    let plain =
        "INSERT INTO twin VALUES (3, 30, 'three', NULL, 3.25); INSERT INTO twin VALUES (4, 40, NULL, NULL, NULL);
        UPDATE twin SET n = 11, note = 'uno' WHERE id = 1; DELETE FROM twin WHERE id = 2;
        UPDATE twin SET id = 5, note = 'five' WHERE id = 4";
    main.batch_execute(plain).await.unwrap();
    let rekeyed = Effect::Update {
        table: 0,
        key: values(&["4"]),
        set: vec![(0, Some("5".into())), (2, Some("five".into())), (5, Some("10".into()))],
        old: vec![(3, None)],
        row: Some(values(&["5", "40", "five", "NULL", "NULL", "10"])),
        own: Vec::new(),
    };
    write(&outpost, &before, vec![insert(&["3", "30", "three", "NULL", "3.25", "6"])]).await;
    write(&outpost, &before, vec![insert(&["4", "40", "NULL", "NULL", "NULL", "8"])]).await;
    write(&outpost, &before, vec![update(&["1"], &[(1, "11"), (2, "uno")]), delete(&["2"]), rekeyed]).await;
    for name in ["t", "twin"] {
        let change = format!(
            "ALTER TABLE {name} ADD extra int NOT NULL DEFAULT 7, ADD empty text, ALTER n TYPE bigint,
                ALTER note TYPE varchar(20), DROP gone, ALTER price TYPE numeric(9,3), ADD serial_id serial;
             ALTER TABLE {name} RENAME note TO remark; ALTER TABLE {name} DROP twice;
             ALTER TABLE {name} ADD twice int GENERATED ALWAYS AS (id * 2) STORED; CREATE INDEX ON {name}(n);
             ALTER TABLE {name} ADD given int NOT NULL DEFAULT 5, ADD later int DEFAULT 5, ADD bare int DEFAULT 3, ADD late int,
                ADD made timestamptz DEFAULT '2026-01-02 03:04:05+02', ADD listed text[] DEFAULT '{{a,NULL,\"x, y\"}}';
             ALTER TABLE {name} ALTER given DROP DEFAULT, ALTER later SET DEFAULT 6, ALTER bare DROP DEFAULT"
        );
        main.batch_execute(&change).await.unwrap();
    }
    main.batch_execute("ALTER TABLE t RENAME TO u").await.unwrap();
    // Others take the old names.
    main.batch_execute("CREATE TABLE t(id int PRIMARY KEY, n int, note text)").await.unwrap();
    // One group with entries from before and after.
    let after = known(&outpost, "u").await;
    let n = after.columns.iter().position(|column| &*column.name == "n").unwrap();
    write(&outpost, &after, vec![update(&["3"], &[(n, "99999999999")])]).await;
    write(&outpost, &before, vec![update(&["1"], &[(1, "12")])]).await;
    let plain = "UPDATE twin SET n = 99999999999 WHERE id = 3; UPDATE twin SET n = 12 WHERE id = 1";
    main.batch_execute(plain).await.unwrap();
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(differences(&outpost).await, []);
    let rows = |name: &str| format!("SELECT (to_jsonb(x) - 'serial_id')::text FROM {name} x ORDER BY id");
    let found = outpost.texts(&rows("u")).await;
    assert_eq!(found, outpost.texts(&rows("twin")).await);
    assert_eq!(found.len(), 3);
    assert_eq!(outpost.texts("SELECT count(*)::text FROM t").await, ["0"], "the other table of that name");
    assert_eq!(replayer.stop().await.conflicts_total, 0);
}

#[tokio::test]
async fn what_cannot_be_told_is_put_aside_with_the_difference() {
    const COLUMNS: &str = "id int PRIMARY KEY, v text, n int";
    let cases: [(&str, &str, Vec<Effect>); 13] = [
        ("ALTER TABLE t0 DROP v", "column \"v\" was dropped", vec![insert(&["1", "x", "1"])]),
        (
            "ALTER TABLE t1 DROP v, ADD v text",
            "column \"v\" was dropped, and another one has its name",
            vec![insert(&["1", "x", "1"])],
        ),
        ("ALTER TABLE t2 DROP v", "column \"v\" was dropped", vec![update(&["0"], &[(1, "x")])]),
        (
            "ALTER TABLE t3 ALTER n TYPE smallint",
            "column \"n\" was integer and is smallint",
            vec![insert(&["1", "x", "1"])],
        ),
        (
            "ALTER TABLE t4 ALTER v TYPE varchar(3)",
            "column \"v\" was text and is character varying(3)",
            vec![insert(&["1", "x", "1"])],
        ),
        (
            "ALTER TABLE t5 ADD w int; UPDATE t5 SET w = 1; ALTER TABLE t5 ALTER w SET NOT NULL",
            "column \"w\" is new, NOT NULL and has no default",
            vec![insert(&["1", "x", "1"])],
        ),
        ("DROP TABLE t6", "it was dropped", vec![insert(&["1", "x", "1"])]),
        (
            "DROP TABLE t7; CREATE TABLE t7(id int PRIMARY KEY, v text, n int)",
            "it was dropped, and another one has its name",
            vec![insert(&["1", "x", "1"])],
        ),
        (
            "ALTER TABLE t8 DROP CONSTRAINT t8_pkey",
            "no unique index makes (id) its key any more",
            vec![update(&["0"], &[(1, "x")])],
        ),
        (
            "ALTER TABLE t9 DROP CONSTRAINT t9_pkey, ADD PRIMARY KEY (id, n)",
            "no unique index makes (id) its key any more",
            vec![delete(&["0"])],
        ),
        (
            "ALTER TABLE t10 DROP id, ADD id serial PRIMARY KEY",
            "no unique index makes (id) its key any more",
            vec![delete(&["0"])],
        ),
        (
            "DROP TABLE t11; CREATE VIEW t11 AS SELECT 1 AS id, 'x' AS v, 1 AS n",
            "it was dropped, and another one has its name",
            vec![insert(&["1", "x", "1"])],
        ),
        (
            "ALTER TABLE t12 ALTER n TYPE text USING 'n' || n",
            "column \"n\" was integer and is text",
            vec![update(&["0"], &[(2, "5")])],
        ),
    ];
    let tables = |n: usize| format!("CREATE TABLE t{n}({COLUMNS}); INSERT INTO t{n} VALUES (0, 'a', 0);");
    let schema: String = (0..cases.len()).map(tables).collect();
    let outpost = Outpost::start("drift_unsafe", &format!("{schema} CREATE TABLE fine(id int PRIMARY KEY)")).await;
    let main = outpost.database.main().await;
    let fine = table("fine", &["id integer"], 1);
    for (n, (_, _, effects)) in cases.iter().enumerate() {
        write(&outpost, &known(&outpost, &format!("t{n}")).await, effects.clone()).await;
        write(&outpost, &fine, vec![insert(&[&n.to_string()])]).await;
    }
    // What was dropped or changed does not matter to these.
    let spared = known(&outpost, "t0").await;
    write(&outpost, &spared, vec![insert(&["2", "NULL", "2"]), update(&["0"], &[(2, "3")])]).await;
    write(&outpost, &known(&outpost, "t5").await, vec![delete(&["0"])]).await;
    for (change, ..) in &cases {
        main.batch_execute(change).await.unwrap();
    }
    let replayer = outpost.replay();
    outpost.drained().await;
    let found = differences(&outpost).await;
    let expected: Vec<u64> = (0..cases.len() as u64).map(|n| 2 * n + 1).collect();
    assert_eq!(found.iter().map(|(seq, _)| seq.0).collect::<Vec<_>>(), expected, "{found:#?}");
    for ((_, message), (change, expected, _)) in found.iter().zip(&cases) {
        assert!(message.ends_with(expected), "{change}: {message}");
    }
    assert_eq!(outpost.texts("SELECT count(*)::text FROM fine").await, ["13"]);
    assert_eq!(outpost.texts("SELECT id || ' ' || n FROM t0 ORDER BY id").await, ["0 3", "2 2"]);
    assert_eq!(outpost.texts("SELECT count(*)::text FROM t5").await, ["0"]);
    // An operator who has looked goes by the names.
    outpost.buffer.retry(Which::One(found[7].0), "operator").await.unwrap();
    main.batch_execute("ALTER TABLE t0 ADD v text").await.unwrap();
    outpost.buffer.retry(Which::One(found[0].0), "operator").await.unwrap();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT v FROM t7").await, ["x"]);
    assert_eq!(outpost.texts("SELECT v FROM t0 WHERE id = 1").await, ["x"]);
    replayer.stop().await;
}

/// Definitions change while entries are on their way: what was known when they were sent must not decide.
#[tokio::test]
async fn no_value_gets_into_a_column_that_took_the_place_of_its_own() {
    let outpost = Outpost::start("drift_race", "CREATE TABLE t(id int PRIMARY KEY, v text)").await;
    outpost.link.delay(Duration::from_millis(20)).unwrap();
    let main = outpost.database.main().await;
    let replayer = outpost.replay();
    let mut id = 0;
    let mut written: Vec<(Seq, i16)> = Vec::new();
    for round in 0..12 {
        let now = known(&outpost, "t").await;
        let attnum = now.origin.as_ref().unwrap().attnums[1];
        for _ in 0..40 {
            id += 1;
            let value: Value = Some(format!("of {attnum}").into());
            let row = vec![Some(id.to_string().into()), value];
            written.push((write(&outpost, &now, vec![Effect::Insert { table: 0, row }]).await, attnum));
        }
        // At one moment or another of their way.
        if round % 3 == 0 {
            outpost.drained().await;
        }
        tokio::time::sleep(Duration::from_millis(round * 7)).await;
        main.batch_execute("ALTER TABLE t DROP v; ALTER TABLE t ADD v text").await.unwrap();
        let last: i16 = known(&outpost, "t").await.origin.unwrap().attnums[1];
        let strange = format!("SELECT v FROM t WHERE v IS NOT NULL AND v <> 'of {last}'");
        assert_eq!(outpost.texts(&strange).await, Vec::<String>::new());
    }
    outpost.drained().await;
    let last: i16 = known(&outpost, "t").await.origin.unwrap().attnums[1];
    assert_eq!(outpost.texts(&format!("SELECT v FROM t WHERE v <> 'of {last}'")).await, Vec::<String>::new());
    let aside = differences(&outpost).await;
    let rows: usize = outpost.texts("SELECT count(*)::text FROM t").await[0].parse().unwrap();
    assert_eq!(rows + aside.len(), written.len());
    assert!(!aside.is_empty() && rows > 0, "{rows} rows, {} aside: nothing was under way", aside.len());
    assert!(aside.iter().all(|(_, message)| message.contains("another one has its name")), "{aside:?}");
    replayer.stop().await;
}

/// Those that depend on an entry are found by main's present names, also when it is put aside for what has changed.
#[tokio::test]
async fn what_depends_on_an_entry_of_a_table_that_changed_waits_with_it() {
    let schema = "CREATE TABLE parent(id int PRIMARY KEY, n int CHECK (n >= 0)); CREATE TABLE child(id int PRIMARY KEY, parent int REFERENCES parent);
        CREATE TABLE owner(id int PRIMARY KEY, n int, gone int); CREATE TABLE thing(id int PRIMARY KEY, owner int REFERENCES owner)";
    let outpost = Outpost::start("drift_depends", schema).await;
    let (parent, child) = (known(&outpost, "parent").await, known(&outpost, "child").await);
    let (owner, thing) = (known(&outpost, "owner").await, known(&outpost, "thing").await);
    write(&outpost, &parent, vec![insert(&["7", "-1"])]).await; // 1: rejected
    write(&outpost, &parent, vec![update(&["7"], &[(1, "5")])]).await; // 2: writes its row
    write(&outpost, &child, vec![insert(&["1", "7"])]).await; // 3: refers to it
    write(&outpost, &owner, vec![insert(&["1", "1", "1"])]).await; // 4: has a value for a column that is no more
    write(&outpost, &thing, vec![insert(&["1", "1"])]).await; // 5: refers to it
    write(&outpost, &child, vec![insert(&["2", "NULL"])]).await; // 6: nothing of the kind
    let main = outpost.database.main().await;
    main.batch_execute("ALTER TABLE parent RENAME TO elder; ALTER TABLE owner DROP COLUMN gone").await.unwrap();
    let replayer = outpost.replay();
    outpost.drained().await;
    let records = outpost.buffer.quarantined().await.unwrap();
    let waits: Vec<(u64, Option<u64>)> =
        records.iter().map(|record| (record.seq.0, record.waits_for.map(|seq| seq.0))).collect();
    assert_eq!(waits, [(1, None), (2, Some(1)), (3, Some(1)), (4, None), (5, Some(4))]);
    replayer.stop().await;
    // As a daemon finds them that begins anew.
    write(&outpost, &parent, vec![update(&["7"], &[(1, "6")])]).await; // 7
    write(&outpost, &thing, vec![insert(&["2", "1"])]).await; // 8
    let replayer = outpost.replay();
    outpost.drained().await;
    let records = outpost.buffer.quarantined().await.unwrap();
    let waits: Vec<(u64, Option<u64>)> =
        records[5..].iter().map(|record| (record.seq.0, record.waits_for.map(|seq| seq.0))).collect();
    assert_eq!(waits, [(7, Some(1)), (8, Some(4))]);
    // RETRY goes by names.
    main.batch_execute("ALTER TABLE elder DROP CONSTRAINT parent_n_check; ALTER TABLE elder RENAME TO parent")
        .await
        .unwrap();
    outpost.buffer.retry(Which::One(Seq(1)), "anna").await.unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while outpost.texts("SELECT id || ' ' || n FROM parent").await != ["7 6"] {
        let open = outpost.buffer.quarantined().await.unwrap();
        assert!(Instant::now() < until, "{open:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    replayer.stop().await;
}
