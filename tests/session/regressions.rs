//! One test for each way in which an answer was wrong once.

use std::time::{Duration, Instant};

use tokio::task::block_in_place;

use super::wire::Message::{self, Bind, Execute, Parse, Query};
use super::wire::Wire;
use super::{alone, connect, fails, outpost, value};

const SCHEMA: &str = "CREATE TABLE unit (id int PRIMARY KEY, name text, token uuid, day date);
    CREATE TABLE pair (a int PRIMARY KEY, b int);
    INSERT INTO unit SELECT g, 'unit ' || g FROM generate_series(1, 9) g;
    INSERT INTO pair VALUES (100, 1), (200, 2);";

#[tokio::test(flavor = "multi_thread")]
async fn volatile_expressions_are_evaluated_for_each_row() {
    let (_site, outpost) = outpost("regression_volatile", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("UPDATE unit SET token = gen_random_uuid()").await.unwrap();
    assert_eq!(value(&client, "SELECT count(DISTINCT token) FROM unit").await, "9");
    let rows = client.query("UPDATE unit SET token = gen_random_uuid() RETURNING token::text", &[]).await.unwrap();
    let tokens: std::collections::HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(tokens.len(), 9);
    // All or none of 400 rows would be left by a condition that is evaluated once.
    client.batch_execute("INSERT INTO pair SELECT g, g FROM generate_series(1000, 1399) g").await.unwrap();
    let gone = client.query("DELETE FROM pair WHERE a >= 1000 AND random() < 0.5 RETURNING a", &[]).await.unwrap();
    assert!((1..400).contains(&gone.len()), "{} rows", gone.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_was_rolled_back_does_not_decide_what_is_stored() {
    let (_site, outpost) = outpost("regression_settings", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("SET datestyle = 'SQL, DMY'").await.unwrap();
    let script = "SET datestyle = 'ISO'; UPDATE unit SET name = 'x' WHERE id = 1; SELECT 1 / 0";
    assert_eq!(fails(&client, script).await, "22012");
    client.batch_execute("UPDATE unit SET day = '04/03/2020' WHERE id = 1").await.unwrap();
    let stored = "SELECT to_char(day, 'YYYY-MM-DD') FROM unit WHERE id = 1";
    assert_eq!(value(&client, stored).await, "2020-03-04");
    assert_eq!(value(&client, "SELECT name FROM unit WHERE id = 1").await, "unit 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_writes_only_what_it_may() {
    let schema = format!(
        "{SCHEMA} DROP ROLE IF EXISTS regression_reader; CREATE ROLE regression_reader LOGIN;
         GRANT SELECT ON unit, pair TO regression_reader; GRANT UPDATE (name) ON unit TO regression_reader"
    );
    let (site, outpost) = outpost("regression_rights", &schema).await;
    let url = outpost.url().replace("postgres://postgres@", "postgres://regression_reader@");
    assert_ne!(url, outpost.url());
    let client = connect(&url).await;
    for sql in
        ["INSERT INTO pair VALUES (1, 1)", "UPDATE pair SET b = 1", "DELETE FROM unit", "UPDATE unit SET id = 50"]
    {
        assert_eq!(fails(&client, sql).await, "42501", "{sql}");
    }
    client.batch_execute("UPDATE unit SET name = 'mine' WHERE id = 1").await.unwrap();
    // A right that is given counts at once.
    let owner = connect(&outpost.url()).await;
    owner.batch_execute("GRANT INSERT ON pair TO regression_reader").await.unwrap();
    client.batch_execute("INSERT INTO pair VALUES (1, 1)").await.unwrap();
    drop((site, client));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_parameter_deeper_in_a_condition_is_no_key() {
    let (lab, _site, outpost) = alone("regression_slice", SCHEMA).await;
    lab.link().cut().unwrap();
    let client = connect(&outpost.url()).await;
    client.batch_execute("UPDATE unit SET name = 'pending' WHERE id = 2").await.unwrap();
    let sql = "SELECT name FROM unit WHERE id = (SELECT max(b) FROM pair WHERE a = ANY($1))";
    let row = client.query_one(sql, &[&vec![100, 200]]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "pending");
    // Prepared by SQL, its statement is the replica's.
    client.batch_execute("PREPARE find AS SELECT name FROM unit WHERE id = 2").await.unwrap();
    assert_eq!(value(&client, "EXECUTE find").await, "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_over_a_rejected_row_waits_with_it() {
    let schema = "CREATE TABLE person (id int PRIMARY KEY, email text UNIQUE)";
    let (lab, site, outpost) = alone("regression_held", schema).await;
    let client = connect(&outpost.url()).await;
    lab.link().cut().unwrap();
    client.batch_execute("INSERT INTO person VALUES (1, 'taken')").await.unwrap();
    client.batch_execute("UPDATE person SET email = 'other' WHERE id = 1").await.unwrap();
    client.batch_execute("INSERT INTO person VALUES (2, 'free')").await.unwrap();
    let main = connect(&site.main_url).await;
    main.batch_execute("INSERT INTO person VALUES (9, 'taken')").await.unwrap();
    lab.link().heal().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while value(&main, "SELECT count(*) FROM person").await != "2" {
        assert!(Instant::now() < until, "entry 3 did not reach main");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let console = connect(&outpost.console_url()).await;
    let rows = console.simple_query("SHOW QUARANTINE").await.unwrap();
    let seqs: Vec<String> = rows
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect();
    assert_eq!(seqs, ["1", "2"]);
}

/// A query in WITH that two parts read was evaluated for each of them.
#[tokio::test(flavor = "multi_thread")]
async fn parts_share_what_a_volatile_query_gives() {
    let schema = "CREATE SEQUENCE s; CREATE TABLE p (id bigint PRIMARY KEY); CREATE TABLE c (id bigint REFERENCES p)";
    let (_site, outpost) = outpost("session_with_volatile", schema).await;
    let client = connect(&outpost.url()).await;
    let sql =
        "WITH k AS (SELECT nextval('s') AS id), x AS (INSERT INTO p SELECT id FROM k) INSERT INTO c SELECT id FROM k";
    client.batch_execute(sql).await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM c JOIN p USING (id)").await, "1");
}

/// EXECUTE of a prepared statement with writes in WITH was the replica's, which refuses to write.
#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_statement_with_writes_in_with_is_executed() {
    let (_site, outpost) = outpost("session_execute_with", "CREATE TABLE a (id int); CREATE TABLE b (id int)").await;
    let client = connect(&outpost.url()).await;
    let sql = "PREPARE twice(int) AS WITH x AS (INSERT INTO a VALUES ($1) RETURNING id) INSERT INTO b SELECT id + 1 FROM x RETURNING id";
    client.batch_execute(sql).await.unwrap();
    assert_eq!(value(&client, "EXECUTE twice(5)").await, "6");
    assert_eq!(value(&client, "SELECT a.id || ' ' || b.id FROM a, b").await, "5 6");
}

/// What a default, a CHECK or an argument of EXECUTE reads of the tables, it would read without the pending rows.
#[tokio::test(flavor = "multi_thread")]
async fn functions_that_read_tables_are_not_called_past_pending_rows() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY); CREATE SEQUENCE s;
        CREATE FUNCTION counted() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT count(*)::int + 1 FROM t';
        CREATE FUNCTION fits(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT count(*) < $1 FROM t';
        ALTER TABLE t ALTER id SET DEFAULT counted();
        CREATE TABLE u (id int PRIMARY KEY, n int CHECK (fits(n)))";
    let (lab, _site, outpost) = alone("session_past_pending", schema).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("SELECT nextval('s')").await.unwrap();
    lab.link().cut().unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(fails(&client, "INSERT INTO t DEFAULT VALUES").await, "0A000");
    assert_eq!(fails(&client, "INSERT INTO u VALUES (1, 100)").await, "0A000");
    client.batch_execute("PREPARE p (int) AS INSERT INTO t VALUES ($1)").await.unwrap();
    assert_eq!(fails(&client, "EXECUTE p (counted())").await, "0A000");
    client.batch_execute("EXECUTE p (nextval('s') + 10)").await.unwrap();
    client.batch_execute("EXECUTE p ('20')").await.unwrap();
    assert_eq!(value(&client, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t").await, "1 12 20");
    lab.link().heal().unwrap();
}

/// A client may bind the unnamed statement as often as it likes.
#[tokio::test(flavor = "multi_thread")]
async fn the_unnamed_statement_stays_the_clients() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let schema = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE log (id int)";
    let (site, outpost) = outpost("session_unnamed", schema).await;
    let database = site.main_url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", outpost.port())).await.unwrap();
    let message = |kind: &str, body: &str| {
        let length = u32::try_from(body.len() + 4).unwrap();
        [kind.as_bytes(), &length.to_be_bytes(), body.as_bytes()].concat()
    };
    let startup = format!("\0\u{3}\0\0user\0postgres\0database\0{database}\0\0");
    let with = "w\0WITH a AS (INSERT INTO t VALUES (1) RETURNING id) INSERT INTO log SELECT id FROM a\0\0\0";
    let sent = [
        message("", &startup),
        message("P", "\0SELECT 'mine'\0\0\0"),
        message("P", with),
        message("B", "\0w\0\0\0\0\0\0\0"),
        message("E", "\0\0\0\0\0"),
        message("S", ""),
        message("B", "\0\0\0\0\0\0\0\0"),
        message("E", "\0\0\0\0\0"),
        message("S", ""),
    ];
    stream.write_all(&sent.concat()).await.unwrap();
    let mut told = Vec::new();
    let ready = |told: &[u8]| told.windows(5).filter(|part| part == b"Z\0\0\0\x05").count();
    while ready(&told) < 3 {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_buf(&mut told)).await;
        assert!(read.unwrap().unwrap() > 0, "the daemon hung up: {told:?}");
    }
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("INSERT 0 1"), "{told:?}");
    assert!(told.contains("mine"), "the client's own statement: {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_write_of_a_table_that_is_gone_says_so() {
    let (_site, outpost) = outpost("regression_prepared_gone", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("PREPARE p (int) AS INSERT INTO pair VALUES ($1, 1); EXECUTE p (1)").await.unwrap();
    client.batch_execute("PREPARE q AS UPDATE pair SET b = 7").await.unwrap();
    client.batch_execute("DROP TABLE pair").await.unwrap();
    for sql in ["EXECUTE p (2)", "EXECUTE q"] {
        assert_eq!(fails(&client, sql).await, "42P01", "{sql}");
        let error = client.query(sql, &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "42P01", "{sql}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_in_flight_is_shown_with_a_column_that_was_added() {
    let (_site, outpost) = outpost("regression_added", SCHEMA).await;
    let (mut one, two) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    for column in 0..3 {
        two.batch_execute("BEGIN; UPDATE pair SET b = b + 1; INSERT INTO pair SELECT max(a) + 1, 0 FROM pair")
            .await
            .unwrap();
        let sql = format!("ALTER TABLE pair ADD COLUMN c{column} int DEFAULT 3, ADD COLUMN n{column} text");
        let altered = tokio::spawn(async move {
            one.batch_execute(&sql).await.unwrap();
            one
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        two.batch_execute("COMMIT").await.unwrap();
        let count = column + 3;
        let all = format!("SELECT count(*) = {count} AND bool_and(row_to_json(pair) IS NOT NULL) FROM pair");
        assert_eq!(value(&two, &all).await, "t");
        one = altered.await.unwrap();
        let sum = format!("SELECT sum(c{column}) = 3 * count(*) AND count(n{column}) = 0 FROM pair");
        assert_eq!(value(&two, &sum).await, "t");
        assert_eq!(value(&one, &sum).await, "t");
    }
}

/// The statement of a question that was interrupted stayed on the replica, and the next one could not be asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_after_a_question_of_its_own_was_interrupted() {
    let (_site, outpost) = outpost("regression_question", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("SET statement_timeout = '1ms'").await.unwrap();
    let mut interrupted = 0;
    for place in 0..400 {
        let made = client.batch_execute(&format!("CREATE TABLE made_{place} (id int)")).await;
        interrupted += usize::from(made.is_err());
        if interrupted == 3 {
            break;
        }
    }
    assert_eq!(interrupted, 3, "the timeout has never come");
    client.batch_execute("RESET statement_timeout").await.unwrap();
    client.batch_execute("INSERT INTO pair VALUES (1, 1); TRUNCATE pair").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM pair").await, "0");
    // By the extended protocol.
    for round in 0..4 {
        client.batch_execute("SET statement_timeout = '1ms'").await.unwrap();
        for place in 0..50 {
            let id = round * 100 + place;
            let values: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&id];
            let insert = client.execute("INSERT INTO pair SELECT $1, count(*) FROM pair", &values);
            if tokio::time::timeout(Duration::from_secs(20), insert).await.expect("it hangs").is_err() {
                break;
            }
        }
        client.batch_execute("RESET statement_timeout").await.unwrap();
        client.execute("INSERT INTO pair VALUES ($1, 1)", &[&(round * 100 + 99)]).await.unwrap();
    }
}

/// The tag came before the commit, and an error after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_buffer_refuses_has_no_tag() {
    let (lab, _site, outpost) = alone("regression_tag", SCHEMA).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "regression_tag"));
    let mut told = |sql: &str| block_in_place(|| wire.exchange(&[Query(sql)]));
    assert_eq!(told("INSERT INTO pair VALUES (1, 1)"), ["C INSERT 0 1"]);
    lab.kill_redis().unwrap();
    for id in 2..4 {
        let said = told(&format!("INSERT INTO pair VALUES ({id}, 2)"));
        assert!(said.len() == 1 && said[0].starts_with("E "), "{said:?}");
    }
    let said = told("SELECT 1; INSERT INTO pair VALUES (4, 4) RETURNING a");
    assert_eq!(said.iter().filter(|message| message.starts_with("C INSERT")).count(), 0, "{said:?}");
    assert!(said.last().unwrap().starts_with("E "), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_the_process_that_pg_backend_pid_tells() {
    let (_site, outpost) = outpost("regression_pid", SCHEMA).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "regression_pid"));
    let said = block_in_place(|| wire.exchange(&[Query("SELECT pg_backend_pid()")]));
    assert_eq!(said[1], format!("D {}", wire.process()));
}

/// The first committed, the second failed on the replica, and the third was never answered.
#[tokio::test(flavor = "multi_thread")]
async fn commit_and_chain_outside_of_a_block_is_an_error() {
    let (_site, outpost) = outpost("regression_chain", SCHEMA).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "regression_chain"));
    let mut told = |sql: &str| block_in_place(|| wire.exchange(&[Query(sql)]));
    let said = told("INSERT INTO pair VALUES (1, 1); COMMIT AND CHAIN; SELECT 1");
    assert_eq!(said, ["C INSERT 0 1", "E 25P01"]);
    assert_eq!(told("SELECT count(*) FROM pair WHERE a = 1")[1], "D 0");
}

/// The pipeline's answers waited for its Sync.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_string_may_come_in_the_place_of_sync() {
    let (_site, outpost) = outpost("regression_no_sync", SCHEMA).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "regression_no_sync"));
    let mut told = |messages: &[Message<'_>]| block_in_place(|| wire.exchange(messages));
    let insert = "INSERT INTO pair VALUES (1, 1)";
    let said = told(&[Parse(insert), Bind, Execute(0), Query("SELECT 7")]);
    assert!(said.contains(&"C INSERT 0 1".to_owned()) && said.contains(&"D 7".to_owned()), "{said:?}");
    assert_eq!(told(&[Query("SELECT count(*) FROM pair WHERE a = 1")])[1], "D 1");
}

/// COMMIT waited for an answer of a replica that had failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_constraints_cannot_be_judged_in_time_fails() {
    let schema = "CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
        INSERT INTO parent SELECT generate_series(1, 20000)";
    let (_site, outpost) = outpost("regression_judged", schema).await;
    let client = connect(&outpost.url()).await;
    for round in 0..5 {
        client.batch_execute("BEGIN; INSERT INTO child SELECT g, g FROM generate_series(1, 20000) g").await.unwrap();
        client.batch_execute("SET LOCAL statement_timeout = '1ms'").await.unwrap();
        let commit = tokio::time::timeout(Duration::from_secs(20), client.batch_execute("COMMIT"));
        let failed = commit.await.expect("it hangs").is_err();
        assert_eq!(value(&client, "SELECT count(*) FROM child").await, if failed { "0" } else { "20000" }, "{round}");
        client.batch_execute("DELETE FROM child").await.unwrap();
        assert!(failed, "1 ms was enough");
    }
}

/// An entry is done on main as one role.
#[tokio::test(flavor = "multi_thread")]
async fn two_roles_do_not_write_in_one_transaction() {
    let schema = format!(
        "{SCHEMA} DROP ROLE IF EXISTS regression_other; CREATE ROLE regression_other;
         GRANT SELECT, INSERT, UPDATE ON unit TO regression_other"
    );
    let (site, outpost) = outpost("regression_roles", &schema).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("BEGIN; INSERT INTO pair VALUES (1, 1); SET LOCAL ROLE regression_other").await.unwrap();
    assert_eq!(fails(&client, "UPDATE unit SET name = 'x' WHERE id = 1").await, "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
    // The other only looks on: main does it as who wrote.
    let sql =
        "BEGIN; INSERT INTO pair VALUES (2, 2); SET LOCAL ROLE regression_other; SELECT count(*) FROM unit; COMMIT";
    client.batch_execute(sql).await.unwrap();
    let main = connect(&site.main_url).await;
    let until = Instant::now() + Duration::from_secs(30);
    while value(&main, "SELECT count(*) FROM pair WHERE a = 2").await != "1" {
        assert!(Instant::now() < until, "it did not reach main");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Rights that a string gives up for its transaction stay given up in it.
    let sql = "SET LOCAL ROLE regression_other; WITH x AS (DELETE FROM unit RETURNING id) SELECT count(*) FROM x";
    assert_eq!(fails(&client, sql).await, "42501");
}

/// The error came with the answer to Bind, was taken for nobody's, and the Execute waited for it for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_merged_read_that_fails_at_execute_is_answered() {
    let (lab, _site, outpost) = alone("regression_execute", SCHEMA).await;
    lab.link().cut().unwrap();
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "regression_execute"));
    let mut told = |messages: &[Message<'_>]| block_in_place(|| wire.exchange(messages));
    told(&[Query("INSERT INTO pair VALUES (1, 1)")]);
    for round in 0..20 {
        for (sql, code) in [
            ("SELECT a / (a - a) FROM pair", "E 22012"),
            ("SELECT ('x' || a)::int FROM pair", "E 22P02"),
            ("INSERT INTO pair SELECT a / (a - a), 1 FROM pair", "E 22012"),
            ("EXPLAIN ANALYZE SELECT a / (a - a) FROM pair", "E 22012"),
        ] {
            let said = told(&[Parse(sql), Bind, Execute(0), Message::Sync]);
            assert_eq!(said.last().unwrap(), code, "{round} {sql}: {said:?}");
        }
        assert_eq!(told(&[Parse("SELECT b FROM pair WHERE a = 1"), Bind, Execute(0), Message::Sync])[2], "D 1");
    }
}
