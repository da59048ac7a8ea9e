//! Within a transaction that runs on main: COPY, cancelling, what is too long, cursors; and functions that write.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::task::block_in_place;
use tokio_postgres::NoTls;

use super::wire::Message::{Bind, CopyData, CopyDone, Execute, Open, Parse, ParseAs, Query, Sync};
use super::wire::Wire;
use super::{connect, fails, outpost, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE keyless (v text);
    INSERT INTO t VALUES (1, 'one'), (2, 'two')";

#[tokio::test(flavor = "multi_thread")]
async fn copy_by_the_extended_protocol_comes_to_its_end() {
    let (site, outpost) = outpost("main_copy", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    for (rows, end) in [("3\tthree\n4\tfour\n", "COMMIT"), ("5\tfive\n1\tagain\n", "ROLLBACK")] {
        client.batch_execute("BEGIN; DELETE FROM keyless").await.unwrap();
        let copied = tokio::time::timeout(Duration::from_secs(30), async {
            let sink = client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.unwrap();
            let mut sink = std::pin::pin!(sink);
            sink.send(Bytes::from(rows)).await.unwrap();
            sink.finish().await
        });
        let copied = copied.await.expect("it hangs");
        assert_eq!(copied.ok(), (end == "COMMIT").then_some(2));
        client.batch_execute(end).await.unwrap();
    }
    let main = connect(&site.main_url).await;
    assert_eq!(value(&main, "SELECT string_agg(v, ' ' ORDER BY id) FROM t").await, "one two three four");
    assert_eq!(value(&client, "SELECT string_agg(v, ' ' ORDER BY id) FROM t").await, "one two three four");
}

/// Main fails it after it has asked for data, and before it has read any: then it answers the Sync that came along, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_main_fails_at_once_leaves_questions_and_answers_together() {
    let schema = format!("{SCHEMA}; CREATE VIEW view_of_t AS SELECT * FROM t");
    let (_site, outpost) = outpost("main_copy_view", &schema).await;
    let through = Wire::connect(outpost.port(), "main_copy_view");
    let main = Wire::connect(lab::Lab::shared().await.unwrap().main().port(), "main_copy_view");
    let told = [main, through].map(|mut wire| {
        block_in_place(|| {
            let mut all = Vec::new();
            for (begin, end) in [("", ""), ("BEGIN; DELETE FROM keyless", "ROLLBACK")] {
                all.push(wire.exchange(&[Query(begin)]));
                all.push(wire.exchange(&[Parse("COPY view_of_t FROM STDIN"), Bind, Execute(0), Sync]));
                all.push(wire.exchange(&[CopyData("3\tthree\n"), CopyDone, Sync]));
                all.push(wire.exchange(&[Query(end)]));
                // In a transaction on main: each answer is that of its own question.
                all.push(wire.exchange(&[Query("BEGIN; UPDATE view_of_t SET v = v")]));
                for sql in ["SELECT 1", "UPDATE view_of_t SET v = v WHERE id = 1", "SELECT 2", "SELECT 3", "COMMIT"] {
                    all.push(wire.exchange(&[Parse(sql), Bind, Execute(0), Sync]));
                }
            }
            all
        })
    });
    let [expected, got] = told;
    assert!(expected.iter().flatten().any(|told| told == "E 42809"), "{expected:?}");
    assert_eq!(got, expected);
}

/// What was parsed before the transaction was main's is an EXECUTE of what main does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_parsed_execute_finds_its_statement_on_main() {
    let (_site, outpost) = outpost("main_execute", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("PREPARE p AS UPDATE t SET v = v || '!' WHERE id = 1").await.unwrap();
    let execute = client.prepare("EXECUTE p").await.unwrap();
    assert_eq!(client.execute(&execute, &[]).await.unwrap(), 1);
    for end in ["ROLLBACK", "COMMIT"] {
        client.batch_execute("BEGIN; DELETE FROM keyless").await.unwrap();
        assert_eq!(client.execute(&execute, &[]).await.unwrap(), 1);
        client.batch_execute(end).await.unwrap();
    }
    assert_eq!(client.execute(&execute, &[]).await.unwrap(), 1);
    assert_eq!(value(&client, "SELECT v FROM t WHERE id = 1").await, "one!!!");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_reaches_main() {
    let (_site, outpost) = outpost("main_cancel", SCHEMA).await;
    let mut client = connect(&outpost.url()).await;
    let token = client.cancel_token();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("DELETE FROM keyless", &[]).await.unwrap();
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let began = Instant::now();
    let (slept, ()) = tokio::join!(transaction.execute("SELECT pg_sleep($1)", &[&30.0]), cancel);
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    transaction.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_fails_the_transaction_there_too() {
    let (site, outpost) = outpost("main_too_long", SCHEMA).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "main_too_long"));
    let mut told = |messages: &[super::wire::Message<'_>]| block_in_place(|| wire.exchange(messages));
    let long = format!("INSERT INTO t VALUES (7, '{}')", "x".repeat(65 << 20));
    told(&[Query("BEGIN; DELETE FROM keyless; INSERT INTO t VALUES (3, 'three')")]);
    assert_eq!(told(&[Query(&long)]), ["E 54000"]);
    assert_eq!(told(&[Query("INSERT INTO t VALUES (4, 'four')")]), ["E 25P02"]);
    assert_eq!(told(&[Query("COMMIT")]), ["C ROLLBACK"]);
    told(&[Query("BEGIN; DELETE FROM keyless; INSERT INTO t VALUES (5, 'five')")]);
    assert_eq!(told(&[Parse(&long), Bind, Execute(0), Sync]), ["E 54000"]);
    assert_eq!(told(&[Parse("SELECT 1"), Bind, Execute(0), Sync]), ["E 25P02"]);
    assert_eq!(told(&[Query("COMMIT")]), ["C ROLLBACK"]);
    let main = connect(&site.main_url).await;
    assert_eq!(value(&main, "SELECT count(*) FROM t").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_fails_the_transaction_there_too() {
    let (site, outpost) = outpost("main_unreadable", SCHEMA).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "main_unreadable"));
    let mut told = |messages: &[super::wire::Message<'_>]| block_in_place(|| wire.exchange(messages));
    // The last by the daemon itself: EXECUTE of what nobody has prepared, and two statements in one.
    for wrong in ["SELEC 1", "INSERT INTO t VALUES (4, 'four'); SELEC 1", "TABLE t FETCH", "EXECUTE nothing"] {
        told(&[Query("BEGIN"), Query("CREATE TABLE half (i int)"), Query("INSERT INTO half VALUES (1)")]);
        let errors = told(&[Query(wrong)]);
        assert!(errors.len() == 1 && errors[0].starts_with("E "), "{wrong}: {errors:?}");
        assert_eq!(told(&[Query("INSERT INTO t VALUES (3, 'three')")]), ["E 25P02"], "{wrong}");
        assert_eq!(told(&[Query("COMMIT")]), ["C ROLLBACK"], "{wrong}");
    }
    // A savepoint brings it back, there too.
    told(&[Query("BEGIN"), Query("CREATE TABLE half (i int)"), Query("SAVEPOINT s"), Query("SELEC 1")]);
    assert_eq!(told(&[Query("ROLLBACK TO s"), Query("INSERT INTO half VALUES (2)")]), ["C ROLLBACK", "C INSERT 0 1"]);
    assert_eq!(told(&[Query("COMMIT")]), ["C COMMIT"]);
    let main = connect(&site.main_url).await;
    assert_eq!(value(&main, "SELECT (SELECT count(*) FROM t) + 10 * (SELECT sum(i) FROM half)").await, "22");
}

/// Main may commit without writing to disk: the replica gets it later.
#[tokio::test(flavor = "multi_thread")]
async fn what_main_commits_asynchronously_is_waited_for() {
    let schema = format!("{SCHEMA}; CREATE VIEW seen AS SELECT * FROM t");
    let (_site, outpost) = outpost("main_asynchronous", &schema).await;
    let client = connect(&outpost.url()).await;
    for (round, off) in ["SET synchronous_commit = off", "RESET synchronous_commit"].iter().enumerate() {
        client.batch_execute(off).await.unwrap();
        for id in 0..20 {
            let id = 100 * (round + 1) + id;
            match round {
                0 => client.batch_execute(&format!("INSERT INTO seen VALUES ({id}, 'x')")).await.unwrap(),
                _ => {
                    let local = "BEGIN; SET LOCAL synchronous_commit = off; DELETE FROM keyless; INSERT INTO t VALUES";
                    client.batch_execute(&format!("{local} ({id}, 'x'); COMMIT")).await.unwrap();
                }
            }
            assert_eq!(value(&client, &format!("SELECT count(*) FROM t WHERE id = {id}")).await, "1", "{off}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_taken_away_afterwards_are_free_there_too() {
    let (_site, outpost) = outpost("main_names", SCHEMA).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "main_names"));
    let mut told = |messages: &[super::wire::Message<'_>]| block_in_place(|| wire.exchange(messages));
    for away in ["DEALLOCATE st", "DEALLOCATE ALL", "DISCARD ALL", "SELECT 1"] {
        told(&[Query("BEGIN; DELETE FROM keyless")]);
        let (parse, run) = (ParseAs("st", "SELECT v FROM t WHERE id = 1"), [Open("", "st"), Execute(0), Sync]);
        assert_eq!(told(&[parse, run[0], run[1], run[2]]), ["1", "2", "D one", "C SELECT 1"], "{away}");
        assert_eq!(told(&[Query("COMMIT")]), ["C COMMIT"], "{away}");
        assert_eq!(told(&run), ["2", "D one", "C SELECT 1"], "{away}");
        told(&[Query(away)]);
        told(&[Query("BEGIN; DELETE FROM keyless")]);
        match away {
            "SELECT 1" => assert_eq!(told(&run), ["2", "D one", "C SELECT 1"]),
            _ => assert_eq!(told(&[parse, Sync]), ["1"], "{away}"),
        }
        assert_eq!(told(&[Query("ROLLBACK")]), ["C ROLLBACK"], "{away}");
        told(&[Query("DEALLOCATE ALL")]);
    }
}

/// What Postgres refuses to prepare is not prepared, and what has a name keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn names_stay_with_their_statements() {
    let (_site, outpost) = outpost("main_named", SCHEMA).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "main_named"));
    let mut told = |messages: &[super::wire::Message<'_>]| block_in_place(|| wire.exchange(messages));
    let run = [Open("", "st"), Execute(0), Sync];
    let (one, two) = ("SELECT v FROM t WHERE id = 1", "SELECT v FROM t WHERE id = 2");
    // Given in the transaction, and then again.
    told(&[Query("BEGIN; DELETE FROM keyless")]);
    assert_eq!(told(&[ParseAs("st", one), Sync]), ["1"]);
    assert_eq!(told(&[ParseAs("st", two), Sync]), ["E 42P05"]);
    assert_eq!(told(&[Query("COMMIT")]), ["C ROLLBACK"]);
    assert_eq!(told(&run), ["2", "D one", "C SELECT 1"]);
    // Given before it, and then again.
    told(&[Query("BEGIN; DELETE FROM keyless")]);
    assert_eq!(told(&[ParseAs("st", two), Sync]), ["E 42P05"]);
    assert_eq!(told(&[Query("COMMIT")]), ["C ROLLBACK"]);
    assert_eq!(told(&run), ["2", "D one", "C SELECT 1"]);
    // Given when it had failed, and in one pipeline with what uses it.
    told(&[Query("DEALLOCATE st"), Query("BEGIN; DELETE FROM keyless"), Query("SELECT 1/0")]);
    assert_eq!(told(&[ParseAs("st", two), Sync]), ["E 25P02"]);
    told(&[Query("ROLLBACK")]);
    assert_eq!(told(&run), ["E 26000"]);
    told(&[Query("BEGIN; DELETE FROM keyless")]);
    assert_eq!(told(&[ParseAs("st", two), run[0], run[1], Sync]), ["1", "2", "D two", "C SELECT 1"]);
    told(&[Query("COMMIT")]);
    assert_eq!(told(&run), ["2", "D two", "C SELECT 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_with_an_open_cursor_stays_here() {
    let (_site, outpost) = outpost("main_cursor", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client
        .batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT v FROM t ORDER BY id; FETCH c; SAVEPOINT s")
        .await
        .unwrap();
    assert_eq!(fails(&client, "DELETE FROM keyless").await, "0A000");
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    assert_eq!(value(&client, "FETCH c").await, "two");
    client.batch_execute("CLOSE c").await.unwrap();
    client.batch_execute("DELETE FROM keyless; COMMIT").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_way_of_a_function_that_writes_is_done_on_main() {
    let schema = format!(
        "{SCHEMA}; CREATE TABLE last (id int PRIMARY KEY, n int); INSERT INTO last VALUES (1, 10);
         CREATE FUNCTION next() RETURNS int LANGUAGE sql AS 'UPDATE last SET n = n + 1 WHERE id = 1 RETURNING n';
         CREATE TABLE paper (no int PRIMARY KEY DEFAULT next(), v text)"
    );
    let (_site, outpost) = outpost("main_function", &schema).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("INSERT INTO paper (v) VALUES ('a')").await.unwrap();
    let row = client.query_one("INSERT INTO paper (v) VALUES ($1) RETURNING no", &[&"b"]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 12);
    assert_eq!(client.execute("UPDATE paper SET no = next() WHERE v = $1", &[&"a"]).await.unwrap(), 1);
    assert_eq!(value(&client, "SELECT string_agg(no || v, ' ' ORDER BY no) FROM paper").await, "12b 13a");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_named_in_one_transaction_there_is_known_in_the_next() {
    let (_site, outpost) = outpost("main_names_known", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("BEGIN; DELETE FROM keyless").await.unwrap();
    let named = client.prepare("SELECT v FROM t WHERE id = $1").await.unwrap();
    assert_eq!(client.query_one(&named, &[&1]).await.unwrap().get::<_, String>(0), "one");
    client.batch_execute("COMMIT; BEGIN; DELETE FROM keyless").await.unwrap();
    assert_eq!(client.query_one(&named, &[&2]).await.unwrap().get::<_, String>(0), "two");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(client.query_one(&named, &[&1]).await.unwrap().get::<_, String>(0), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_locks_is_declared_there_in_both_protocols() {
    let (_site, outpost) = outpost("main_declare", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    let declare = "DECLARE c CURSOR FOR SELECT v FROM t WHERE id = 2 FOR UPDATE";
    for extended in [true, false] {
        client.batch_execute("BEGIN").await.unwrap();
        match extended {
            true => drop(client.execute(declare, &[]).await.unwrap()),
            false => client.batch_execute(declare).await.unwrap(),
        }
        assert_eq!(value(&client, "FETCH c").await, "two");
        client.batch_execute("COMMIT").await.unwrap();
    }
    // One that is open here stays here.
    client.batch_execute("BEGIN; DECLARE here CURSOR FOR SELECT 1").await.unwrap();
    assert_eq!(fails(&client, declare).await, "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn setval_in_the_extended_protocol_is_noticed() {
    let (_site, outpost) =
        outpost("main_setval", "CREATE TABLE ids (id serial PRIMARY KEY); CREATE TABLE keyless (v text)").await;
    let client = connect(&outpost.url()).await;
    assert_eq!(value(&client, "INSERT INTO ids DEFAULT VALUES RETURNING id::text").await, "1");
    client.batch_execute("BEGIN; DELETE FROM keyless").await.unwrap();
    let set = client.query_one("SELECT setval('ids_id_seq', $1)", &[&500i64]).await.unwrap();
    assert_eq!(set.get::<_, i64>(0), 500);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&client, "INSERT INTO ids DEFAULT VALUES RETURNING id::text").await, "501");
}

/// Text in another encoding goes there as it came.
#[tokio::test(flavor = "multi_thread")]
async fn other_encodings_pass() {
    let (site, outpost) = outpost("main_encoding", SCHEMA).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "main_encoding"));
    block_in_place(|| {
        wire.exchange(&[Query("SET client_encoding = 'latin1'"), Query("BEGIN; DELETE FROM keyless")]);
        assert_eq!(wire.query(b"INSERT INTO t VALUES (3, 'caf\xe9')"), ["C INSERT 0 1"]);
        wire.exchange(&[Query("COMMIT"), Query("CREATE TEMP TABLE tt (v text)")]);
        assert_eq!(wire.query(b"INSERT INTO tt VALUES ('\xe9')"), ["C INSERT 0 1"]);
        assert_eq!(wire.exchange(&[Query("SELECT octet_length(v), ascii(v) FROM tt")]), ["T", "D 2|233", "C SELECT 1"]);
    });
    let main = connect(&site.main_url).await;
    assert_eq!(value(&main, "SELECT v FROM t WHERE id = 3").await, "café");
}

/// One piece of COPY data that is longer than what is kept on its way.
#[tokio::test(flavor = "multi_thread")]
async fn long_pieces_of_copy_data_pass() {
    let (_site, outpost) = outpost("main_copy_long", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("CREATE TEMP TABLE long (v text)").await.unwrap();
    let piece = Bytes::from(format!("{}\n", "x".repeat(1023)).repeat(4 << 10));
    let copied = tokio::time::timeout(Duration::from_secs(60), async {
        let sink = client.copy_in::<_, Bytes>("COPY long FROM STDIN").await.unwrap();
        let mut sink = std::pin::pin!(sink);
        for _ in 0..5 {
            sink.send(piece.clone()).await.unwrap();
        }
        sink.finish().await
    });
    assert_eq!(copied.await.expect("it hangs").unwrap(), 5 * (4 << 10));
}
