//! Sessions that live on main: temporary tables, LISTEN, cursors WITH HOLD; and large objects, the function call message.

use std::time::Duration;

use tokio::task::block_in_place;

use super::wire::Message::{Bind, Describe, Execute, FunctionCall, Open, Parse, ParseAs, Query, Sync};
use super::wire::Wire;
use super::{alone, code, connect, fails, outpost, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one'), (2, 'two');
    CREATE TABLE keyless (v text)";
/// Whether the session is main's: there it is not in recovery.
const THERE: &str = "SELECT NOT pg_is_in_recovery()";
const SOON: Duration = Duration::from_secs(10);

/// Ends the connections to main of the database's sessions, all but replay's and the tests'.
async fn end_sessions_on_main(main: &tokio_postgres::Client) {
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid() AND application_name = 'lives'";
    assert_ne!(value(main, end).await, "0");
    while value(main, end).await != "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_keeps_the_session_on_main_until_it_is_gone() {
    let (site, outpost) = outpost("resident_table", SCHEMA).await;
    let (client, other) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    let main = connect(&site.main_url).await;
    client.batch_execute("INSERT INTO t VALUES (3, 'buffered')").await.unwrap();
    for (make, unmake) in [
        ("CREATE TEMP TABLE tt AS SELECT * FROM t", "DROP TABLE tt"),
        ("SELECT * INTO TEMP tt FROM t", "DISCARD TEMP"),
        ("CREATE OR REPLACE TEMP VIEW tt AS SELECT * FROM t", "DROP VIEW tt"),
        ("CREATE TABLE pg_temp.tt AS SELECT * FROM t", "DISCARD ALL"),
        ("CREATE TEMP SEQUENCE ts; CREATE TEMP TABLE tt AS SELECT * FROM t", "DROP TABLE tt; DROP SEQUENCE ts"),
        (
            "BEGIN; CREATE TEMP TABLE tt AS TABLE t; SAVEPOINT s; CREATE TEMP TABLE no (i int); ROLLBACK TO s; COMMIT",
            "DROP TABLE tt",
        ),
        ("DO $$ BEGIN CREATE TEMP TABLE tt AS TABLE t; END $$", "DROP TABLE IF EXISTS tt"),
    ] {
        assert_eq!(value(&client, THERE).await, "f", "{make}");
        client.batch_execute(make).await.unwrap();
        assert_eq!(value(&client, THERE).await, "t", "{make}");
        assert_eq!(value(&client, "SELECT string_agg(v, ' ' ORDER BY id) FROM tt").await, "one two buffered", "{make}");
        // What others have been told is done is seen, and what it does is seen by others.
        other.batch_execute("INSERT INTO t VALUES (4, 'of another')").await.unwrap();
        assert_eq!(value(&client, "SELECT count(*) FROM t LEFT JOIN tt USING (id)").await, "4", "{make}");
        client.batch_execute("UPDATE t SET v = 'seen' WHERE id = 4").await.unwrap();
        assert_eq!(value(&other, "SELECT v FROM t WHERE id = 4").await, "seen", "{make}");
        client.execute("DELETE FROM t WHERE id = $1", &[&4]).await.unwrap();
        assert_eq!(value(&other, "SELECT count(*) FROM t").await, "3", "{make}");
        client.batch_execute(unmake).await.unwrap();
        assert_eq!(value(&client, THERE).await, "f", "{make}");
    }
    // Nothing is left of what was rolled back, or goes with its transaction.
    for nothing in [
        "BEGIN; CREATE TEMP TABLE tt (i int); ROLLBACK",
        "BEGIN; CREATE TEMP TABLE tt (i int) ON COMMIT DROP; INSERT INTO tt VALUES (1); COMMIT",
        "BEGIN; SAVEPOINT s; CREATE TEMP TABLE tt (i int); ROLLBACK TO s; COMMIT",
        "CREATE TEMP TABLE tt (i int); DROP TABLE tt",
    ] {
        client.batch_execute(nothing).await.unwrap();
        assert_eq!(value(&client, THERE).await, "f", "{nothing}");
    }
    assert_eq!(fails(&client, "CREATE TEMP TABLE tt (i int); SELECT 1 / 0").await, "22012");
    assert_eq!(value(&client, THERE).await, "f");
    // A failure within does not end it.
    client.batch_execute("CREATE TEMP TABLE tt (i int) ON COMMIT DELETE ROWS").await.unwrap();
    assert_eq!(fails(&client, "SELECT 1 / 0").await, "22012");
    client.batch_execute("BEGIN; INSERT INTO tt VALUES (1)").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM tt").await, "1");
    assert_eq!(fails(&client, "SELECT 1 / 0").await, "22012");
    assert_eq!(fails(&client, "SELECT 1").await, "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO tt VALUES (1); COMMIT").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM tt").await, "0");
    assert_eq!(value(&client, THERE).await, "t");
    // One that hides an ordinary table.
    client.batch_execute("CREATE TEMP TABLE t (id int PRIMARY KEY, v text)").await.unwrap();
    client.execute("INSERT INTO t VALUES ($1, 'hidden')", &[&1]).await.unwrap();
    assert_eq!(value(&client, "SELECT string_agg(v, ' ') FROM t").await, "hidden");
    assert_eq!(value(&client, "SELECT count(*) FROM public.t").await, "3");
    drop(client);
    assert_eq!(value(&main, "SELECT string_agg(v, ' ' ORDER BY id) FROM t").await, "one two buffered");
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_do_with_temporary_tables_what_they_do() {
    let (_site, outpost) = outpost("resident_driver", SCHEMA).await;
    let mut client = connect(&outpost.url()).await;
    let before = client.prepare("SELECT v FROM t WHERE id = $1").await.unwrap();
    assert_eq!(client.query_one(&before, &[&1]).await.unwrap().get::<_, &str>(0), "one");
    client.batch_execute("PREPARE by_sql AS SELECT count(*) FROM t").await.unwrap();
    client.execute("CREATE TEMP TABLE tt (id serial PRIMARY KEY, v text)", &[]).await.unwrap();
    let insert = client.prepare("INSERT INTO tt (v) VALUES ($1) RETURNING id").await.unwrap();
    for id in 1..=3 {
        assert_eq!(client.query_one(&insert, &[&"x"]).await.unwrap().get::<_, i32>(0), id);
    }
    assert_eq!(client.query_one(&before, &[&2]).await.unwrap().get::<_, &str>(0), "two");
    assert_eq!(value(&client, "EXECUTE by_sql").await, "2");
    let transaction = client.transaction().await.unwrap();
    transaction.query_one(&insert, &[&"x"]).await.unwrap();
    let portal = transaction.bind("SELECT id FROM tt ORDER BY id", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 2).await.unwrap().len(), 2);
    assert_eq!(transaction.query_portal(&portal, 9).await.unwrap().len(), 2);
    transaction.commit().await.unwrap();
    // Twice: what was prepared for the first table is not valid for the second, as in Postgres.
    client.batch_execute("PREPARE of_temporary AS SELECT count(*) FROM tt").await.unwrap();
    assert_eq!(value(&client, "EXECUTE of_temporary").await, "4");
    client.batch_execute("SET work_mem = '7MB'; SET app.tenant = 'x'").await.unwrap();
    client.execute("SET app.other = 'y'", &[]).await.unwrap();
    client
        .batch_execute("BEGIN; SET app.other = 'z'; SELECT set_config('app.third', 'z', false); ROLLBACK")
        .await
        .unwrap();
    // A name that is taken, there or here, is not given again.
    assert_eq!(fails(&client, "PREPARE by_sql AS SELECT 1").await, "42P05");
    client.batch_execute("DROP TABLE tt").await.unwrap();
    assert_eq!(value(&client, "SHOW work_mem").await, "7MB");
    assert_eq!(value(&client, "SELECT current_setting('app.tenant') || current_setting('app.other')").await, "xy");
    assert_eq!(value(&client, "SELECT coalesce(current_setting('app.third', true), '')").await, "");
    assert_eq!(value(&client, THERE).await, "f");
    assert_eq!(client.query_one(&before, &[&2]).await.unwrap().get::<_, &str>(0), "two");
    assert_eq!(value(&client, "EXECUTE by_sql").await, "2");
    assert_eq!(code(&client.query_one(&insert, &[&"x"]).await.unwrap_err()), "42P01");
    client.batch_execute("CREATE TEMP TABLE tt (id serial PRIMARY KEY, v text)").await.unwrap();
    assert_eq!(client.query_one(&insert, &[&"x"]).await.unwrap().get::<_, i32>(0), 1);
    assert_eq!(client.query_one("EXECUTE of_temporary", &[]).await.unwrap().get::<_, i64>(0), 1);
    assert_eq!(value(&client, "EXECUTE of_temporary").await, "1");
    client.batch_execute("RESET ALL").await.unwrap();
    assert_eq!(value(&client, "SELECT coalesce(current_setting('app.tenant', true), '')").await, "");
    client.batch_execute("SET app.tenant = 'x'; SET work_mem = '7MB'").await.unwrap();
    client.batch_execute("DISCARD ALL").await.unwrap();
    assert_eq!(value(&client, THERE).await, "f");
    assert_eq!(value(&client, "SHOW work_mem").await, "4MB");
    assert_eq!(value(&client, "SELECT coalesce(current_setting('app.tenant', true), '')").await, "");
    assert_eq!(value(&client, "SELECT count(*) FROM pg_prepared_statements WHERE from_sql").await, "0");
    assert_eq!(fails(&client, "EXECUTE by_sql").await, "26000");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_run_on_main_as_they_come() {
    let (_site, outpost) = outpost("resident_pipeline", SCHEMA).await;
    let other = connect(&outpost.url()).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "resident_pipeline"));
    let mut told = |messages: &[super::wire::Message<'_>]| block_in_place(|| wire.exchange(messages));
    let one = |sql| [Parse(sql), Bind, Execute(0)];
    assert_eq!(told(&[ParseAs("taken", "SELECT 6"), Sync]), ["1"]);
    let [p, b, e] = one("CREATE TEMP TABLE tt (i int PRIMARY KEY)");
    assert_eq!(told(&[p, b, e, Sync]), ["1", "2", "C CREATE TABLE"]);
    let [p, b, e] = one("INSERT INTO tt VALUES (1)");
    let [p2, b2, e2] = one("INSERT INTO t SELECT i + 2, 'three' FROM tt RETURNING id");
    assert_eq!(told(&[p, b, e, p2, b2, e2, Sync]), ["1", "2", "C INSERT 0 1", "1", "2", "D 3", "C INSERT 0 1"]);
    assert_eq!(value(&other, "SELECT v FROM t WHERE id = 3").await, "three");
    // A failure takes the whole pipeline back.
    let [p2, b2, e2] = one("INSERT INTO tt VALUES (1)");
    let [p, b, e] = one("DELETE FROM t WHERE id = 3");
    assert_eq!(told(&[p, b, e, p2, b2, e2, Sync]), ["1", "2", "C DELETE 1", "1", "2", "E 23505"]);
    assert_eq!(told(&[Query("SELECT count(*) FROM tt, t")]), ["T", "D 3", "C SELECT 1"]);
    assert_eq!(told(&[Open("", "taken"), Execute(0), Sync]), ["2", "D 6", "C SELECT 1"]);
    // What others write between two pipelines is there.
    assert_eq!(told(&[ParseAs("all", "SELECT count(*) FROM t"), Sync]), ["1"]);
    assert_eq!(told(&[ParseAs("all", "SELECT 7"), Sync]), ["E 42P05"]);
    for count in [4, 5] {
        other.execute("INSERT INTO t VALUES ($1, 'more')", &[&count]).await.unwrap();
        assert_eq!(
            told(&[Open("", "all"), Execute(0), Sync]),
            ["2".to_owned(), format!("D {count}"), "C SELECT 1".into()]
        );
    }
    // Blocks within pipelines.
    let ([p, b, e], [p2, b2, e2], [p3, b3, e3]) = (one("BEGIN"), one("DROP TABLE tt"), one("COMMIT"));
    assert_eq!(told(&[p, b, e, p2, b2, e2, p3, b3, e3, Sync]).join(","), "1,2,C BEGIN,1,2,C DROP TABLE,1,2,C COMMIT");
    assert_eq!(told(&[Query(THERE)]), ["T", "D f", "C SELECT 1"]);
    assert_eq!(told(&[Describe("all"), Open("", "all"), Execute(0), Sync]).join(","), "t,T,2,D 5,C SELECT 1");
    // The table that makes it so is made, and used, within one pipeline and block.
    let ([p, b, e], [p2, b2, e2]) = (one("BEGIN"), one("CREATE TEMP TABLE tt (i int) ON COMMIT DROP"));
    assert_eq!(told(&[p, b, e, p2, b2, e2, Sync]).join(","), "1,2,C BEGIN,1,2,C CREATE TABLE");
    let [p, b, e] = one("INSERT INTO tt VALUES (1)");
    assert_eq!(told(&[p, b, e, p3, b3, e3, Sync]).join(","), "1,2,C INSERT 0 1,1,2,C COMMIT");
    assert_eq!(told(&[Query(THERE)]), ["T", "D f", "C SELECT 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_connection_to_main_the_session_ends() {
    let (lab, site, outpost) = alone("resident_lost", SCHEMA).await;
    let url = format!("{}?application_name=lives", outpost.url());
    let main = connect(&site.main_url).await;
    // One that has nothing there goes on.
    let ordinary = connect(&url).await;
    ordinary.batch_execute("CREATE TEMP TABLE tt (i int); DROP TABLE tt").await.unwrap();
    // In a block, whose table goes with it.
    let block = connect(&url).await;
    block.batch_execute("BEGIN; CREATE TEMP TABLE tt (i int)").await.unwrap();
    let resident = connect(&url).await;
    resident.batch_execute("CREATE TEMP TABLE tt (i int)").await.unwrap();
    let idle = connect(&url).await;
    idle.batch_execute("CREATE TEMP TABLE tt (i int)").await.unwrap();
    let busy = resident.batch_execute("SELECT pg_sleep(60)");
    let end = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        end_sessions_on_main(&main).await;
    };
    let (told, ()) = tokio::join!(busy, end);
    assert!(["08007", "08006"].contains(&&*code(&told.unwrap_err())));
    tokio::time::timeout(SOON, async {
        while !resident.is_closed() || !idle.is_closed() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("they go on");
    assert_eq!(value(&ordinary, "SELECT count(*) FROM t").await, "2");
    ordinary.batch_execute("CREATE TABLE again (i int)").await.unwrap();
    assert_eq!(fails(&block, "SELECT 1").await, "08007");
    block.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&block, "SELECT count(*) FROM t").await, "2");
    // Without the link none is made, and nothing else is lost.
    lab.link().cut().unwrap();
    for statement in ["CREATE TEMP TABLE tt (i int)", "LISTEN c", "NOTIFY c", "SELECT lo_create(0)"] {
        assert_eq!(fails(&ordinary, statement).await, "57P03", "{statement}");
    }
    ordinary.batch_execute("INSERT INTO t VALUES (3, 'three')").await.unwrap();
    assert_eq!(value(&ordinary, "SELECT count(*) FROM t").await, "3");
}

/// A link that loses everything looks like a statement that takes long, until the client has enough of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_says_nothing_ends_it_too() {
    let (lab, _site, outpost) = alone("resident_silent", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("CREATE TEMP TABLE tt (i int)").await.unwrap();
    lab.link().black_hole().unwrap();
    let token = client.cancel_token();
    let cancel = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        tokio::join!(client.batch_execute("SELECT count(*) FROM tt"), cancel).0
    });
    let told = ended.await.expect("it hangs").unwrap_err();
    assert!(["57014", "08007", "08006"].contains(&&*code(&told)) || told.is_closed(), "{told:?}");
    tokio::time::timeout(Duration::from_secs(60), async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it goes on");
    connect(&outpost.url()).await.batch_execute("INSERT INTO t VALUES (3, 'three')").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_locks_nobody_at_the_site_writes() {
    let (_site, outpost) = outpost("resident_lock", SCHEMA).await;
    let (client, other) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    client.batch_execute("CREATE TEMP TABLE tt (i int)").await.unwrap();
    client.batch_execute("BEGIN; LOCK TABLE t IN SHARE MODE").await.unwrap();
    let write = other.batch_execute("UPDATE t SET v = 'after' WHERE id = 1");
    let read = async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let before = value(&client, "SELECT v FROM t WHERE id = 1").await;
        client.batch_execute("COMMIT").await.unwrap();
        before
    };
    let (written, before) = tokio::join!(write, read);
    written.unwrap();
    assert_eq!(before, "one");
    assert_eq!(value(&client, "SELECT v FROM t WHERE id = 1").await, "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn main_must_have_what_was_buffered_before_each_transaction() {
    let (lab, site, outpost) = alone("resident_drained", SCHEMA).await;
    let (client, other) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    client.batch_execute("CREATE TEMP TABLE tt (i int)").await.unwrap();
    // Replay is kept from going on: main's row is locked.
    let main = connect(&site.main_url).await;
    main.batch_execute("BEGIN; UPDATE t SET v = 'held' WHERE id = 1").await.unwrap();
    other.batch_execute("UPDATE t SET v = 'buffered' WHERE id = 1").await.unwrap();
    let read = client.batch_execute("SELECT 1");
    assert!(tokio::time::timeout(Duration::from_secs(2), read).await.is_err(), "it did not wait");
    main.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&client, "SELECT v FROM t WHERE id = 1").await, "buffered");
    drop((lab, site));
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_come_while_nobody_asks() {
    let (site, outpost) = outpost("resident_listen", SCHEMA).await;
    let (other, main) = (connect(&outpost.url()).await, connect(&site.main_url).await);
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "resident_listen"));
    assert_eq!(block_in_place(|| wire.exchange(&[Query("LISTEN c")])), ["C LISTEN"]);
    main.batch_execute("NOTIFY c, 'of main'").await.unwrap();
    assert_eq!(block_in_place(|| wire.hear(SOON)), "A c|of main");
    // Those of the site come with their transaction, after what it wrote before.
    other.batch_execute("BEGIN; INSERT INTO t VALUES (3, 'three'); NOTIFY c, 'in a block'").await.unwrap();
    assert_eq!(block_in_place(|| wire.hear(Duration::from_millis(300))), "nothing");
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(block_in_place(|| wire.hear(SOON)), "A c|in a block");
    assert_eq!(block_in_place(|| wire.exchange(&[Query("SELECT count(*) FROM t")])), ["T", "D 3", "C SELECT 1"]);
    other.batch_execute("BEGIN; NOTIFY c, 'never'; ROLLBACK; SELECT pg_notify('c', 'by function')").await.unwrap();
    assert_eq!(block_in_place(|| wire.hear(SOON)), "A c|by function");
    other.batch_execute("BEGIN; INSERT INTO t VALUES (4, 'four')").await.unwrap();
    other.query("SELECT pg_notify('c', v) FROM t WHERE id = 4", &[]).await.unwrap();
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(block_in_place(|| wire.hear(SOON)), "A c|four");
    // Its own, before it is told that it may go on.
    let told = block_in_place(|| wire.exchange(&[Query("NOTIFY c, 'own'")]));
    assert_eq!(told, ["C NOTIFY", "A c|own"]);
    let told = block_in_place(|| wire.exchange(&[Parse("SELECT pg_notify('c', 'own')"), Bind, Execute(0), Sync]));
    assert_eq!(told, ["1", "2", "D ", "C SELECT 1", "A c|own"]);
    // They name the clients' processes, as clients know them.
    assert_eq!(wire.notifier(), wire.process());
    let mut third = block_in_place(|| Wire::connect(outpost.port(), "resident_listen"));
    block_in_place(|| third.exchange(&[Query("NOTIFY c, 'third'")]));
    let process = third.process();
    drop(third);
    assert_eq!(block_in_place(|| wire.hear(SOON)), "A c|third");
    assert_eq!(wire.notifier(), process);
    // As asyncpg gives a connection back to its pool.
    let reset = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;";
    let told = block_in_place(|| wire.exchange(&[Query(reset), Query(THERE)])).join(",");
    assert_eq!(told, "T,D ,C SELECT 1,C CLOSE CURSOR ALL,C UNLISTEN,C RESET,T,D f,C SELECT 1");
    main.batch_execute("NOTIFY c").await.unwrap();
    assert_eq!(block_in_place(|| wire.hear(Duration::from_millis(300))), "nothing");
    // Its end comes so, too.
    block_in_place(|| wire.exchange(&[Query("SET application_name = 'lives'; LISTEN c")]));
    end_sessions_on_main(&main).await;
    assert_eq!(block_in_place(|| wire.hear(SOON)), "E 08006");
    assert_eq!(block_in_place(|| wire.hear(SOON)), "end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_with_hold_of_main_stays() {
    let (_site, outpost) = outpost("resident_hold", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client
        .batch_execute(
            "BEGIN; DELETE FROM keyless; DECLARE c CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id; COMMIT",
        )
        .await
        .unwrap();
    assert_eq!(value(&client, "FETCH c").await, "1");
    assert_eq!(value(&client, THERE).await, "t");
    assert_eq!(value(&client, "FETCH c").await, "2");
    client.batch_execute("CLOSE c").await.unwrap();
    assert_eq!(value(&client, THERE).await, "f");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_claims_are_those_of_each_transaction() {
    let schema = format!(
        "{SCHEMA}; DROP ROLE IF EXISTS resident_reader; CREATE ROLE resident_reader; GRANT SELECT ON t TO resident_reader"
    );
    let (site, outpost) = outpost("resident_roles", &schema).await;
    let (client, other) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    client.batch_execute("CREATE TEMP TABLE tt (i int)").await.unwrap();
    client.batch_execute("SET ROLE resident_reader").await.unwrap();
    assert_eq!(fails(&client, "UPDATE t SET v = 'x'").await, "42501");
    assert_eq!(fails(&client, "DROP TABLE tt").await, "42501");
    client.batch_execute("DISCARD TEMP").await.unwrap();
    assert_eq!(value(&client, THERE).await, "f");
    assert_eq!(value(&client, "SELECT current_user").await, "resident_reader");
    assert_eq!(fails(&client, "UPDATE t SET v = 'x'").await, "42501");
    client.batch_execute("RESET ROLE; CREATE TEMP TABLE tt (i int)").await.unwrap();
    // Its tables are free between its transactions, and taken within.
    client.batch_execute("BEGIN; UPDATE t SET v = v || '!' WHERE id = 1").await.unwrap();
    let waiting = other.batch_execute("UPDATE t SET v = v || '?' WHERE id = 1");
    let commit = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.batch_execute("COMMIT").await.unwrap();
    };
    let (waited, ()) = tokio::join!(waiting, commit);
    waited.unwrap();
    assert_eq!(value(&client, "SELECT v FROM t WHERE id = 1").await, "one!?");
    other.batch_execute("UPDATE t SET v = 'buffered' WHERE id = 1").await.unwrap();
    assert_eq!(value(&client, "UPDATE t SET v = v || '!' WHERE id = 1 RETURNING v").await, "buffered!");
    let main = connect(&site.main_url).await;
    assert_ne!(value(&main, "SELECT max(seq) FROM pgoutpost.ledger").await, "0", "nothing was buffered");
    // A cancel request finds it there.
    let token = client.cancel_token();
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(30)"), cancel);
    assert_eq!(code(&slept.unwrap_err()), "57014");
    assert_eq!(value(&client, "SELECT count(*) FROM tt").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_and_function_calls_are_mains() {
    let (site, outpost) = outpost("resident_large", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    assert_eq!(value(&client, "SELECT lo_from_bytea(4711, 'abc')").await, "4711");
    assert_eq!(value(&client, "SELECT convert_from(lo_get(4711), 'UTF8')").await, "abc");
    client.batch_execute("BEGIN; INSERT INTO t VALUES (3, 'three')").await.unwrap();
    assert_eq!(value(&client, "SELECT lo_open(4711, x'60000'::int)").await, "0");
    assert_eq!(value(&client, "SELECT lowrite(0, (SELECT v::bytea FROM t WHERE id = 3))").await, "5");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&client, THERE).await, "f");
    let main = connect(&site.main_url).await;
    assert_eq!(value(&main, "SELECT convert_from(lo_get(4711), 'UTF8') || count(*) FROM t").await, "three3");
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "resident_large"));
    let mut told = |messages: &[super::wire::Message<'_>]| block_in_place(|| wire.exchange(messages));
    assert_eq!(told(&[FunctionCall]), ["V"]);
    assert_eq!(
        told(&[Query("BEGIN; INSERT INTO t VALUES (4, 'four')"), FunctionCall, Query(THERE)]).join(","),
        "C BEGIN,C INSERT 0 1,V,T,D t,C SELECT 1"
    );
    assert_eq!(told(&[Query("SELECT 1 / 0"), FunctionCall]), ["E 22012", "E 25P02"]);
    assert_eq!(
        told(&[Query("ROLLBACK; BEGIN; SELECT 1 / 0"), FunctionCall, Query("ROLLBACK")]).last().unwrap(),
        "C ROLLBACK"
    );
    assert_eq!(told(&[Query("BEGIN"), Query("SELECT 1 / 0"), FunctionCall]), ["C BEGIN", "E 22012", "E 25P02"]);
    assert_eq!(told(&[Query("COMMIT"), Query("SELECT count(*) FROM t")]), ["C ROLLBACK", "T", "D 3", "C SELECT 1"]);
}
