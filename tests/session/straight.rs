//! What goes straight to main.

use std::time::{Duration, Instant};

use lab::outpost::OutpostOptions;
use lab::{Lab, Outpost};

use super::{BINARY, alone, connect, fails, outpost, run, value};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_table_is_there_at_once_in_every_session() {
    let (_site, outpost) = outpost("session_ddl", "").await;
    let (one, two) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    one.batch_execute("CREATE TABLE t (id serial PRIMARY KEY, v text)").await.unwrap();
    two.batch_execute("INSERT INTO t (v) VALUES ('a')").await.unwrap();
    assert_eq!(value(&one, "SELECT id FROM t").await, "1");
    one.batch_execute("ALTER TABLE t ADD COLUMN w int DEFAULT 5").await.unwrap();
    assert_eq!(value(&two, "INSERT INTO t (v) VALUES ('b') RETURNING w").await, "5");
    assert_eq!(value(&one, "SELECT sum(w) FROM t").await, "10");
}

/// What it has committed before it failed is there for who is told of the failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_procedure_that_commits_and_then_fails_is_waited_for() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY);
        CREATE PROCEDURE half(n int) LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO t VALUES (n); COMMIT; RAISE 'the other half'; END $$";
    let (lab, _site, outpost) = alone("session_half", schema).await;
    let client = connect(&outpost.url()).await;
    for (number, extended) in [(1, false), (2, true)] {
        lab.freeze().await.unwrap();
        let call = format!("CALL half({number})");
        match extended {
            false => assert!(client.batch_execute(&call).await.is_err()),
            true => assert!(client.execute(&call, &[]).await.is_err()),
        }
        // The driver tells of the failure at once; the session goes on when the replica has what is committed.
        let mut counted = std::pin::pin!(value(&client, "SELECT count(*) FROM t"));
        let early = tokio::time::timeout(Duration::from_millis(1000), &mut counted).await;
        assert!(early.is_err(), "the session went on before the replica had it: {early:?}");
        lab.thaw().await.unwrap();
        assert_eq!(counted.await, number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_straight_transaction_is_all_or_nothing() {
    let (_site, outpost) = outpost("session_straight", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut client = connect(&outpost.url()).await;
    client.batch_execute("BEGIN; CREATE TABLE u (id int); ROLLBACK").await.unwrap();
    assert_eq!(value(&client, "SELECT to_regclass('u')").await, "NULL");
    // With the extended protocol, as migration tools do it.
    let transaction = client.transaction().await.unwrap();
    transaction.execute("CREATE TABLE u (id int PRIMARY KEY)", &[]).await.unwrap();
    assert_eq!(transaction.execute("INSERT INTO u VALUES ($1)", &[&1]).await.unwrap(), 1);
    let count = transaction.query_one("SELECT count(*) FROM u", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 1);
    transaction.commit().await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM u").await, "1");
    client.execute("INSERT INTO u VALUES ($1)", &[&2]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_with_buffered_writes_is_handed_over_to_main() {
    let schema = "CREATE TABLE t (id serial PRIMARY KEY, v text, at timestamptz, span interval);
        CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO t (v) VALUES ('old'); INSERT INTO u VALUES (1, 1)";
    let (site, outpost) = outpost("session_hand_over", schema).await;
    let client = connect(&outpost.url()).await;
    client
        .batch_execute("SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'; SET timezone = 'Asia/Tokyo'")
        .await
        .unwrap();
    client
        .batch_execute(
            "BEGIN; DELETE FROM t WHERE id = 1; INSERT INTO t (v, at, span) VALUES ('it''s \\ one', '2026-02-03 04:05+00', '-1 day +02:00');
             INSERT INTO u VALUES (2, 100); SAVEPOINT a; UPDATE t SET v = 'lost'; SAVEPOINT b; INSERT INTO t (v) VALUES ('lost too')",
        )
        .await
        .unwrap();
    // As Django's loaddata does it.
    assert_eq!(value(&client, "SELECT setval(pg_get_serial_sequence('t', 'id'), 5000 + max(id)) FROM t").await, "5003");
    assert_eq!(value(&client, "SELECT string_agg(v, ',' ORDER BY id) FROM t").await, "lost,lost too");
    client
        .batch_execute(
            "ROLLBACK TO a; ALTER TABLE t ADD COLUMN w int DEFAULT 7; UPDATE u SET t = 2 WHERE id = 2; COMMIT",
        )
        .await
        .unwrap();
    let main = connect(&site.main_url).await;
    for client in [&client, &connect(&outpost.url()).await, &main] {
        client
            .batch_execute("SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'")
            .await
            .unwrap();
        let row = "SELECT concat_ws('|', id, v, at, span, w) FROM t";
        assert_eq!(value(client, row).await, r"2|it's \ one|2026-02-03 04:05:00+00|-1 days +02:00:00|7");
        assert_eq!(value(client, "SELECT string_agg(id || '-' || t, ',') FROM u").await, "2-2");
    }
    assert_eq!(
        value(&main, "SELECT coalesce(max(seq), 0) FROM pgoutpost.ledger").await,
        "0",
        "it went through the buffer too"
    );
    // The value that main was told.
    assert_eq!(value(&client, "INSERT INTO t (v) VALUES ('next') RETURNING id").await, "5004");

    // What SET CONSTRAINTS said is said on main too, for each savepoint.
    client
        .batch_execute("BEGIN; SAVEPOINT a; SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO u VALUES (3, 2)")
        .await
        .unwrap();
    client.batch_execute("CREATE TABLE x (id int)").await.unwrap();
    assert_eq!(fails(&client, "INSERT INTO u VALUES (4, 4000)").await, "23503");
    client
        .batch_execute("ROLLBACK TO a; INSERT INTO u VALUES (4, 4000); DELETE FROM u WHERE id = 4; COMMIT")
        .await
        .unwrap();

    // Rolled back, nothing of it is left anywhere.
    client.batch_execute("BEGIN; INSERT INTO t (v) VALUES ('never'); CREATE TABLE w (id int); ROLLBACK").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "2");
    assert_eq!(value(&client, "SELECT to_regclass('w')").await, "NULL");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_inheriting_tables_are_not_written_when_a_transaction_is_handed_over() {
    let schema = "CREATE TABLE base (id int PRIMARY KEY, v int); CREATE TABLE derived (PRIMARY KEY (id)) INHERITS (base);
        INSERT INTO base VALUES (1, 1), (2, 2); INSERT INTO derived VALUES (1, 1), (2, 2);
        CREATE TABLE day (d int PRIMARY KEY, n int) PARTITION BY LIST (d); CREATE TABLE day_1 PARTITION OF day FOR VALUES IN (1);
        INSERT INTO day VALUES (1, 1)";
    let (_site, outpost) = outpost("session_hand_over_only", schema).await;
    let client = connect(&outpost.url()).await;
    let writes = "UPDATE ONLY base SET v = 10 WHERE id = 1; DELETE FROM ONLY base WHERE id = 2; UPDATE day SET n = 7";
    client.batch_execute(&format!("BEGIN; {writes}")).await.unwrap();
    client.batch_execute("CREATE TABLE x (); COMMIT").await.unwrap();
    assert_eq!(value(&client, "SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM ONLY base").await, "1=10");
    assert_eq!(value(&client, "SELECT string_agg(id || '=' || v, ' ' ORDER BY id) FROM derived").await, "1=1 2=2");
    assert_eq!(value(&client, "SELECT n FROM day").await, "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_main_cannot_take_over_stays_as_it_was() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int);
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
        CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW WHEN (new.id = 3) EXECUTE FUNCTION no()";
    let (lab, _site, outpost) = alone("session_no_hand_over", schema).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO t VALUES (1, 1)").await.unwrap();
    assert_eq!(fails(&client, "CREATE TABLE w (id int)").await, "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
    // Main refuses, by a trigger that does nothing at the site: what was before the savepoint can be kept.
    client.batch_execute("BEGIN; INSERT INTO t VALUES (2, 2); SAVEPOINT a; INSERT INTO t VALUES (3, 3)").await.unwrap();
    assert_eq!(fails(&client, "CREATE TABLE w (id int)").await, "55000");
    client.batch_execute("ROLLBACK TO a; COMMIT").await.unwrap();
    assert_eq!(value(&client, "SELECT sum(id) FROM t").await, "2");
    // Without the link it cannot be: the transaction can still be committed from before.
    lab.link().cut().unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (4, 4); SAVEPOINT a").await.unwrap();
    assert_eq!(fails(&client, "CREATE TABLE w (id int)").await, "57P03");
    client.batch_execute("ROLLBACK TO a; COMMIT").await.unwrap();
    assert_eq!(value(&client, "SELECT sum(id) FROM t").await, "6");
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_makes_its_tables_through_the_daemon() {
    let (_site, outpost) = outpost("session_copy", "").await;
    let made = run("pgbench", &outpost.url(), &["-i", "-q"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let client = connect(&outpost.url()).await;
    assert_eq!(value(&client, "SELECT count(*) FROM pgbench_accounts").await, "100000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_writes_is_run_on_main() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY);
        CREATE FUNCTION add(int) RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES ($1) RETURNING id'";
    let (_site, outpost) = outpost("session_function", schema).await;
    let client = connect(&outpost.url()).await;
    assert_eq!(value(&client, "SELECT add(1)").await, "1");
    assert_eq!(client.query_one("SELECT add($1)", &[&2]).await.unwrap().get::<_, i32>(0), 2);
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_link_writes_go_on_and_ddl_says_why_not() {
    let (lab, site, outpost) = alone("session_cut", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let client = connect(&outpost.url()).await;
    lab.link().cut().unwrap();
    for id in 0..20 {
        client.execute("INSERT INTO t VALUES ($1)", &[&id]).await.unwrap();
    }
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "20");
    let asked = Instant::now();
    assert_eq!(fails(&client, "CREATE TABLE u (id int)").await, "57P03");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "20", "the connection is as good as before");
    lab.link().heal().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while client.batch_execute("CREATE TABLE u (id int)").await.is_err() {
        assert!(Instant::now() < until, "the link is up, but nothing goes straight");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(value(&connect(&site.main_url).await, "SELECT count(*) FROM t").await, "20");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_not_evaluated_on_a_replica_that_lacks_what_the_session_did_on_main() {
    let (lab, site, outpost) = alone("session_behind", "CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    let client = connect(&outpost.url()).await;
    lab.freeze().await.unwrap();
    // An operator class in the target is left to main.
    client.batch_execute("INSERT INTO t VALUES (1, 1) ON CONFLICT (id int4_ops) DO NOTHING").await.unwrap();
    assert_eq!(fails(&client, "UPDATE t SET v = v + 1").await, "57P03");
    lab.thaw().await.unwrap();
    client.batch_execute("UPDATE t SET v = v + 1").await.unwrap();
    assert_eq!(value(&client, "SELECT v FROM t").await, "2");
    drop(site);
}

#[tokio::test(flavor = "multi_thread")]
async fn main_executes_what_is_prepared_now() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, seen bool NOT NULL DEFAULT false); INSERT INTO t VALUES (1), (2);
        CREATE VIEW v AS SELECT * FROM t";
    let (_site, outpost) = outpost("session_execute", schema).await;
    let client = connect(&outpost.url()).await;
    let all = "SELECT string_agg(id || ':' || seen, ' ' ORDER BY id) FROM t";
    for statement in [
        "PREPARE p (int) AS DELETE FROM v WHERE id = $1",
        "EXECUTE p (1)",
        "DEALLOCATE p",
        "PREPARE p (int) AS UPDATE v SET seen = true WHERE id = $1",
        "EXECUTE p (2)",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    assert_eq!(value(&client, all).await, "2:true", "not the DELETE, which main knows by that name");
    for statement in [
        "DEALLOCATE ALL",
        "PREPARE p (int) AS INSERT INTO v VALUES ($1, true)",
        "BEGIN",
        "CREATE TABLE other (id int)",
        "EXECUTE p (3)",
        "COMMIT",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    assert_eq!(value(&client, all).await, "2:true 3:true");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tables_that_are_compared_keep_a_transaction_here() {
    let lab = Lab::shared().await.unwrap();
    let site = lab.database("session_compared").await.unwrap();
    let schema = "CREATE TABLE account (id int PRIMARY KEY, n int); CREATE TABLE t (id int PRIMARY KEY);
        CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
        CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20)";
    connect(&site.main_url).await.batch_execute(schema).await.unwrap();
    let mut options = OutpostOptions::new(BINARY);
    let policies = "[replay.conflicts]\n\"public.account\" = \"reject\"\n\"public.part\" = \"main-wins\"\n\"public.part_2\" = \"last-write-wins\"\n";
    let config = std::fs::read_to_string(&options.config).unwrap().replace("[replay.conflicts]\n", policies);
    options.config = site.folder.join("compared.toml");
    std::fs::write(&options.config, config).unwrap();
    let outpost = Outpost::start_with(&site, options).await.unwrap();
    let client = connect(&outpost.url()).await;
    for (number, (write, here)) in [
        ("INSERT INTO t VALUES (1)", false),
        ("INSERT INTO account VALUES (1, 1)", true),
        ("INSERT INTO part VALUES (1)", true),
        ("INSERT INTO part VALUES (11)", false),
    ]
    .into_iter()
    .enumerate()
    {
        client.batch_execute(&format!("BEGIN; {write}")).await.unwrap();
        let ddl = format!("CREATE TABLE made_{number} (id int)");
        match here {
            true => assert_eq!(fails(&client, &ddl).await, "0A000", "{write}"),
            false => client.batch_execute(&ddl).await.unwrap(),
        }
        client.batch_execute("ROLLBACK").await.unwrap();
    }
}
