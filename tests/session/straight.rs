//! What goes straight to main.

use std::time::{Duration, Instant};

use super::{alone, connect, fails, outpost, run, value};

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
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(fails(&client, "CREATE TABLE w (id int)").await, "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "0");
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
async fn temporary_tables_are_refused() {
    let (_site, outpost) = outpost("session_temporary", "").await;
    let client = connect(&outpost.url()).await;
    assert_eq!(fails(&client, "CREATE TEMP TABLE t (id int)").await, "0A000");
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
