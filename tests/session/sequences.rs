//! Sequences: what needs main, rights, and the end of a lease.

use std::time::Duration;

use super::{alone, connect, fails, outpost, value};

const SCHEMA: &str = "CREATE SEQUENCE s; CREATE SEQUENCE tiny MAXVALUE 2;
    CREATE TABLE t (id serial PRIMARY KEY, a int); INSERT INTO t VALUES (50, 0);
    CREATE ROLE session_sequences_joe LOGIN; GRANT INSERT, SELECT ON t TO session_sequences_joe;
    GRANT SELECT ON s TO session_sequences_joe";

#[tokio::test(flavor = "multi_thread")]
async fn setval_gives_up_what_was_leased() {
    let schema = "CREATE SEQUENCE s; CREATE TABLE t (id serial PRIMARY KEY, a int); INSERT INTO t VALUES (50, 0)";
    let (_site, outpost) = outpost("session_setval", schema).await;
    let client = connect(&outpost.url()).await;
    assert_eq!(value(&client, "SELECT nextval('s')").await, "1");
    assert_eq!(value(&client, "SELECT setval('s', 100)").await, "100");
    assert_eq!(value(&client, "SELECT currval('s')").await, "100");
    assert_eq!(value(&client, "SELECT nextval('s')").await, "101");
    assert_eq!(client.query_one("SELECT setval('s', $1, false)", &[&200_i64]).await.unwrap().get::<_, i64>(0), 200);
    assert_eq!(value(&client, "SELECT nextval('s')").await, "200");
    value(&client, "SELECT setval(pg_get_serial_sequence('t', 'id'), (SELECT max(id) FROM t))").await;
    assert_eq!(value(&client, "INSERT INTO t (a) VALUES (1) RETURNING id").await, "51");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_to_sequences_are_asked_and_their_end_is_told() {
    let (_lab, site, outpost) = alone("session_sequences", SCHEMA).await;
    let (client, joe) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    assert_eq!(value(&client, "SELECT nextval('tiny')").await, "1");
    assert_eq!(value(&client, "SELECT nextval('tiny')").await, "2");
    assert_eq!(fails(&client, "SELECT nextval('tiny')").await, "55000");
    joe.batch_execute("SET ROLE session_sequences_joe").await.unwrap();
    assert_eq!(fails(&joe, "INSERT INTO t (a) VALUES (1)").await, "42501");
    assert_eq!(fails(&joe, "SELECT nextval('s')").await, "42501");
    assert_eq!(fails(&joe, "SELECT currval('s')").await, "55000");
    drop(site);
}

/// A gap that Postgres would not make: what an evaluation took that did not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_evaluated_again_takes_the_same_values() {
    let (site, outpost) = outpost("session_ids_again", "CREATE TABLE t (id serial PRIMARY KEY, a int)").await;
    let main = connect(&site.main_url).await;
    let client = connect(&outpost.url()).await;
    // New definitions: the evaluation finds out that the catalog is old.
    for number in 1..=5 {
        main.batch_execute(&format!("CREATE TABLE other_{number} (id int)")).await.unwrap();
        site.wait_replica_caught_up().await.unwrap();
        let id = value(&client, "INSERT INTO t (a) VALUES (0) RETURNING id").await;
        assert_eq!(id, number.to_string(), "after new definitions");
    }
    // What is replicated between two parts makes them begin again.
    let busy = tokio::spawn(async move {
        loop {
            main.batch_execute("INSERT INTO other_1 VALUES (1)").await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    for number in 6..=60 {
        let text = "WITH w AS (INSERT INTO t (a) VALUES (0) RETURNING id) SELECT id FROM w";
        assert_eq!(value(&client, text).await, number.to_string(), "beside writes on main");
        assert_eq!(value(&client, "SELECT currval('t_id_seq')").await, number.to_string());
    }
    busy.abort();
}

/// What was leased of a sequence is not what the one gives that has its name later.
#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_is_made_anew_or_altered_gives_its_own_values() {
    let schema =
        "CREATE TABLE t (id serial PRIMARY KEY, a int); CREATE TABLE u (id int GENERATED ALWAYS AS IDENTITY, a int)";
    let (lab, site, outpost) = alone("session_anew", schema).await;
    let (client, main) = (connect(&outpost.url()).await, connect(&site.main_url).await);
    const INSERT: &str = "INSERT INTO t (a) VALUES (0) RETURNING id";
    assert_eq!(value(&client, INSERT).await, "1");
    client.batch_execute("DROP TABLE t; CREATE TABLE t (id serial PRIMARY KEY, a int)").await.unwrap();
    assert_eq!(value(&client, INSERT).await, "1");
    client.batch_execute("ALTER SEQUENCE t_id_seq RESTART 5000").await.unwrap();
    assert_eq!(value(&client, INSERT).await, "5000");
    client.batch_execute("ALTER SEQUENCE t_id_seq INCREMENT 10").await.unwrap();
    assert_eq!(value(&client, "INSERT INTO t (a) VALUES (0), (0) RETURNING id").await, "15009", "drawn up to 14999");
    assert_eq!(value(&client, INSERT).await, "15029");
    assert_eq!(value(&client, "INSERT INTO u (a) VALUES (0) RETURNING id").await, "1");
    // On main itself: the replica has the definition, and the link is cut before it shows it to anybody.
    lab.freeze().await.unwrap();
    main.batch_execute("ALTER TABLE u ALTER id RESTART 700; ALTER SEQUENCE t_id_seq MAXVALUE 1000000").await.unwrap();
    let end = value(&main, "SELECT pg_current_wal_flush_lsn()").await;
    let replica = site.replica().await.unwrap();
    let received = format!("SELECT pg_last_wal_receive_lsn() >= '{end}'");
    while value(&replica, &received).await != "t" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lab.link().cut().unwrap();
    lab.thaw().await.unwrap();
    site.wait_replica_caught_up().await.unwrap();
    assert_eq!(fails(&client, "INSERT INTO u (a) VALUES (0)").await, "55000");
    lab.link().heal().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(value(&client, "INSERT INTO u (a) VALUES (0) RETURNING id").await, "700");
}
