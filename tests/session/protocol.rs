//! Both protocols, pipelines, errors, cancel requests and bounds.

use std::time::Duration;

use tokio::task::block_in_place;

use super::wire::Message::{Close, Fetch, Open, ParseAs, Sync};
use super::wire::{Message, Wire};
use super::{alone, code, connect, fails, outpost, run, value};

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_runs_in_all_three_protocols() {
    let (site, outpost) = outpost("session_pgbench", "").await;
    let made = run("pgbench", &site.main_url, &["-i", "-q"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    site.wait_replica_caught_up().await.unwrap();
    for mode in ["simple", "extended", "prepared"] {
        for script in ["select-only", "tpcb-like"] {
            let ran = run("pgbench", &outpost.url(), &["-n", "-b", script, "-M", mode, "-c", "4", "-t", "10"]);
            let said = String::from_utf8_lossy(&ran.stderr).into_owned() + &String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success(), "{mode} {script}: {said}");
            assert!(said.contains("actually processed: 40/40"), "{mode} {script}: {said}");
        }
    }
    let client = connect(&outpost.url()).await;
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
        (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM pgbench_history),
        (SELECT count(*) FROM pgbench_history)";
    let row = client.query_one(sums, &[]).await.unwrap();
    let sums: Vec<i64> = (0..4).map(|place| row.get(place)).collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert_eq!(row.get::<_, i64>(4), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_postgres_own_and_leave_the_connection_usable() {
    let (_site, outpost) = outpost("session_errors", "CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL)").await;
    let client = connect(&outpost.url()).await;
    assert_eq!(fails(&client, "SELEC 1").await, "42601");
    assert_eq!(fails(&client, "SELECT nothing").await, "42703");
    assert_eq!(fails(&client, "INSERT INTO t (nothing) VALUES (1)").await, "42703");
    assert_eq!(fails(&client, "INSERT INTO t VALUES ('x', 'y')").await, "22P02");
    assert_eq!(fails(&client, "INSERT INTO t VALUES (1, NULL)").await, "23502");
    client.batch_execute("INSERT INTO t VALUES (1, 'a')").await.unwrap();
    assert_eq!(fails(&client, "INSERT INTO t VALUES (1, 'b')").await, "23505");
    assert_eq!(fails(&client, "INSERT INTO t VALUES (2, 'b'); SELECT 1/0").await, "22012");
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "1");
    let error = client.batch_execute("SELECT 1; SELECT nothing").await.unwrap_err();
    let position = error.as_db_error().unwrap().position().cloned();
    assert_eq!(position, Some(tokio_postgres::error::ErrorPosition::Original(18)), "counted from the string's start");
}

/// A column that is called `set` makes a BETWEEN that our parser cannot read.
#[tokio::test(flavor = "multi_thread")]
async fn a_string_that_cannot_be_read_is_refused_for_what_it_is() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, set int); INSERT INTO t VALUES (1, 1)";
    let (lab, _site, outpost) = alone("session_unread", schema).await;
    let client = connect(&outpost.url()).await;
    const READ: &str = "SELECT id FROM t WHERE id BETWEEN set AND 5";
    const WRITE: &str = "UPDATE t SET id = 7 WHERE id BETWEEN set AND 5";
    // Nothing is pending: the replica answers, and main writes.
    assert_eq!(value(&client, READ).await, "1");
    client.batch_execute(WRITE).await.unwrap();
    assert_eq!(value(&client, "SELECT id FROM t").await, "7");
    client.batch_execute(&format!("{WRITE}; {WRITE}")).await.unwrap();
    // Something is.
    lab.freeze().await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2, 2)").await.unwrap();
    for text in [READ.to_owned(), WRITE.to_owned(), format!("{WRITE}; SELECT 1"), format!("SELECT 1; {READ}")] {
        assert_eq!(fails(&client, &text).await, "0A000", "{text}");
        assert_eq!(value(&client, "SELECT count(*) FROM t").await, "2");
    }
    // Made by what stands before it, for all that is known.
    assert_eq!(fails(&client, &format!("CREATE TABLE u (set int); {}", READ.replace(" t ", " u "))).await, "0A000");
    // What Postgres does not take either.
    let error = client.batch_execute(&format!("{READ}; SELEC 2")).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "42601");
    let position = tokio_postgres::error::ErrorPosition::Original(READ.len() as u32 + 3);
    assert_eq!(error.position(), Some(&position));
    client.batch_execute("BEGIN; INSERT INTO t VALUES (3, 3)").await.unwrap();
    assert_eq!(fails(&client, &format!("{WRITE}; SELECT 1")).await, "0A000");
    assert_eq!(fails(&client, "SELECT 1").await, "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    lab.thaw().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_one_transaction() {
    let (_site, outpost) = outpost("session_pipeline", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let client = connect(&outpost.url()).await;
    let insert = client.prepare("INSERT INTO t VALUES ($1) RETURNING id").await.unwrap();
    let inserted = futures_util::future::join_all((0..200).map(|id| {
        let (client, insert) = (&client, &insert);
        async move { client.query_one(insert, &[&id]).await.unwrap().get::<_, i32>(0) }
    }));
    assert_eq!(inserted.await, (0..200).collect::<Vec<_>>());
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "200");
    assert_eq!(client.query("SELECT id FROM t WHERE id = $1", &[&7]).await.unwrap().len(), 1);
    let rows = client.query("SELECT id FROM t WHERE id < $1 ORDER BY id DESC", &[&3]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [2, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_hand_out_their_rows_in_parts() {
    let (_site, outpost) = outpost("session_portals", "CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut client = connect(&outpost.url()).await;
    client.batch_execute("INSERT INTO t SELECT generate_series(1, 10)").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    for sql in ["SELECT id FROM t ORDER BY id", "UPDATE t SET id = id + 100 RETURNING id - 100"] {
        let portal = transaction.bind(sql, &[]).await.unwrap();
        let mut seen = Vec::new();
        for expected in [4, 4, 2] {
            let rows = transaction.query_portal(&portal, 4).await.unwrap();
            assert_eq!(rows.len(), expected, "{sql}");
            seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=10).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_reaches_queries_and_waiting_writes() {
    let (_site, outpost) = outpost("session_cancel", "CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    let (one, two) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    one.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    let cancelled = |sql: &'static str| async {
        let token = two.cancel_token();
        let cancel = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(two.batch_execute(sql), cancel);
        code(&outcome.unwrap_err())
    };
    assert_eq!(cancelled("SELECT pg_sleep(30)").await, "57014");
    one.batch_execute("BEGIN; UPDATE t SET v = 2 WHERE id = 1").await.unwrap();
    assert_eq!(cancelled("UPDATE t SET v = 3 WHERE id = 1").await, "57014");
    one.batch_execute("COMMIT").await.unwrap();
    two.batch_execute("UPDATE t SET v = 3 WHERE id = 1").await.unwrap();
    assert_eq!(value(&one, "SELECT v FROM t").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_databases_are_named_and_the_console_answers() {
    let (_site, outpost) = outpost("session_databases", "").await;
    let url = outpost.url();
    let other = url.replace("session_databases", "elsewhere");
    let Err(error) = tokio_postgres::connect(&other, tokio_postgres::NoTls).await else { panic!("connected") };
    assert_eq!(code(&error), "3D000");
    assert!(error.as_db_error().unwrap().hint().unwrap().contains("session_databases"));
    let console = run("psql", &url.replace("session_databases", "pgoutpost"), &["-X", "-At", "-c", "SHOW VERSION"]);
    assert!(console.status.success(), "{}", String::from_utf8_lossy(&console.stderr));
}

/// Whoever reaches it has not said who he is.
#[tokio::test(flavor = "multi_thread")]
async fn the_console_keeps_only_so_much_for_a_client() {
    let (_site, outpost) = outpost("session_console", "").await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "pgoutpost"));
    let mut told = |messages: &[Message<'_>]| block_in_place(|| wire.exchange(messages));
    let names: Vec<String> = (0..64).map(|n| n.to_string()).collect();
    for name in &names {
        assert_eq!(told(&[ParseAs(name, "SHOW VERSION"), Sync]), ["1"], "{name}");
    }
    assert_eq!(told(&[ParseAs("one more", "SHOW VERSION"), Sync]), ["E 53400"]);
    assert_eq!(told(&[ParseAs("7", "SHOW LAG"), Sync]), ["1"], "in another's place");
    assert_eq!(told(&[Close("8"), ParseAs("one more", "SHOW VERSION"), Sync]), ["3", "1"]);
    let open = |count: usize| names[..count].iter().map(|portal| Open(portal, "1")).chain([Sync]).collect::<Vec<_>>();
    assert_eq!(told(&open(16)), ["2"; 16]);
    // Gone with the Sync, with the answers that they keep.
    assert_eq!(told(&[Fetch("3", 0), Sync]), ["E 34000"]);
    assert_eq!(told(&open(17)).pop().unwrap(), "E 53400");
    let said = told(&[Open("p", "1"), Fetch("p", 0), Sync]);
    assert_eq!(said.len(), 3, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_stream_and_too_long_messages_are_refused() {
    let (_site, outpost) = outpost("session_large", "").await;
    let client = connect(&outpost.url()).await;
    let rows = client.query("SELECT repeat('x', 100000) FROM generate_series(1, 500)", &[]).await.unwrap();
    assert_eq!(rows.len(), 500);
    assert_eq!(fails(&client, &format!("SELECT '{}'", "y".repeat(65 << 20))).await, "54000");
    assert_eq!(value(&client, "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_queries_are_not_compiled_unless_the_client_wants_it() {
    let (_site, outpost) = outpost("session_jit", "").await;
    assert_eq!(value(&connect(&outpost.url()).await, "SHOW jit").await, "off");
    let wanted = format!("{}?options=-c%20jit%3Don", outpost.url());
    assert_eq!(value(&connect(&wanted).await, "SHOW jit").await, "on");
}
