//! Portals whose rows are fetched in parts, by what answers them.

use tokio::task::block_in_place;
use tokio_postgres::error::ErrorPosition;

use super::pipelines::Both;
use super::wire::Message::{
    Bind, Close, Describe, Execute, Fetch, Flush, FunctionCall, Open, Parse, ParseAs, Query, Sync,
};
use super::wire::{Message, Parameter, Wire};
use super::{alone, connect, outpost, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, n int);
    CREATE TABLE keyless (n int);
    INSERT INTO keyless SELECT generate_series(1, 5);
    CREATE FUNCTION fails_at(id int, last int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
        BEGIN IF id = last THEN RAISE SQLSTATE '40001'; END IF; RETURN id; END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_portal_that_fails_further_on_does_not_begin_again() {
    let (lab, site, outpost) = alone("portals_merged", SCHEMA).await;
    lab.freeze().await.unwrap();
    let client = connect(&outpost.url()).await;
    client.batch_execute("INSERT INTO t SELECT i, i FROM generate_series(1, 5) i").await.unwrap();
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "portals_merged"));
    let mut told = |messages: &[Message<'_>]| block_in_place(|| wire.exchange(messages));
    // Replay's conflicts have this code, and are tried again as long as the client has seen nothing.
    let fails = Parse("SELECT fails_at(id, 3) FROM t ORDER BY id");
    let said = told(&[fails, Open("p", ""), Fetch("p", 2), Fetch("p", 2), Sync]);
    assert_eq!(said, ["1", "2", "D 1", "D 2", "s", "E 40001"]);
    let said = told(&[Parse("SELECT id FROM t ORDER BY id"), Open("p", ""), Fetch("p", 4), Fetch("p", 4), Sync]);
    assert_eq!(said[6..], ["s", "D 5", "C SELECT 1"]);
    lab.thaw().await.unwrap();
    drop(site);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_straight_statements_are_fetched_in_parts_within_a_block() {
    let (site, outpost) = outpost("portals_straight", SCHEMA).await;
    let schema = SCHEMA.split_once("CREATE FUNCTION").unwrap().0;
    let mut both = Both::with(&site, &outpost, "portals_straight", schema).await;
    let locks = "SELECT n FROM keyless ORDER BY n FOR UPDATE";
    for sql in [locks, "UPDATE keyless SET n = n RETURNING n", "DELETE FROM keyless WHERE n > 5 RETURNING n"] {
        both.exchange(&[Query("BEGIN")]);
        both.exchange(&[Parse(sql), Open("C_1", ""), Fetch("C_1", 2), Sync]);
        both.exchange(&[Fetch("C_1", 2), Sync]);
        both.exchange(&[Query("SAVEPOINT s")]);
        both.exchange(&[Fetch("C_1", 2), Fetch("C_1", 2), Sync]);
        both.exchange(&[Query("COMMIT")]);
        both.exchange(&[Fetch("C_1", 2), Sync]);
    }
    // Outside of one the portal ends with the statement's transaction.
    let said = both.exchange(&[Parse(locks), Open("C_1", ""), Fetch("C_1", 2), Sync]);
    assert_eq!(said, ["1", "2", "D 1", "D 2", "s"]);
    both.exchange(&[Fetch("C_1", 2), Sync]);
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "portals_straight"));
    let mut told = |messages: &[Message<'_>]| block_in_place(|| wire.exchange(messages));
    for sql in [locks, "UPDATE keyless SET n = n + 1 RETURNING n"] {
        let said = told(&[Parse(sql), Open("C_1", ""), Fetch("C_1", 2), Flush, Fetch("C_1", 2), Sync]);
        assert_eq!(said, ["1", "2", "E 0A000"], "{sql}");
    }
    assert_eq!(value(&connect(&site.main_url).await, "SELECT sum(n) FROM keyless").await, "15");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_replica_refuses_to_run_has_the_limit_on_main_too() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY);
        CREATE FUNCTION adds(id int) RETURNS SETOF int LANGUAGE sql AS 'INSERT INTO t VALUES (id), (id + 1) RETURNING id'";
    let (site, outpost) = outpost("portals_refused", schema).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "portals_refused"));
    let mut told = |messages: &[Message<'_>]| block_in_place(|| wire.exchange(messages));
    let said = told(&[Parse("SELECT adds(1)"), Open("", ""), Execute(1), Sync]);
    assert_eq!(said, ["1", "2", "D 1", "s"]);
    let said = told(&[Parse("SELECT adds(3)"), Open("", ""), Execute(1), Flush, Execute(1), Sync]);
    assert_eq!(said, ["1", "2", "E 25006"]);
    assert_eq!(value(&connect(&site.main_url).await, "SELECT count(*) FROM t").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_call_goes_to_main_and_comes_in_its_turn() {
    let (site, outpost) = outpost("portals_call", SCHEMA).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "portals_call"));
    let mut told = |messages: &[Message<'_>]| block_in_place(|| wire.exchange(messages));
    assert_eq!(told(&[FunctionCall]), ["V"]);
    for begin in ["BEGIN; INSERT INTO t VALUES (1, 1)", "BEGIN; DELETE FROM keyless WHERE n = 1"] {
        told(&[Query(begin)]);
        assert_eq!(told(&[FunctionCall, Query("SELECT 1")]), ["V", "T", "D 1", "C SELECT 1"], "{begin}");
        assert_eq!(told(&[Query("ROLLBACK")]), ["C ROLLBACK"]);
    }
    // Behind what has been asked for before.
    let said = told(&[Parse("SELECT 1"), Open("", ""), Execute(0), FunctionCall]);
    assert_eq!(said, ["1", "2", "D 1", "C SELECT 1", "V"]);
    assert_eq!(value(&connect(&site.main_url).await, "SELECT count(*) FROM keyless").await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_prepared_is_forgotten_when_the_replica_has_forgotten_it() {
    let (lab, site, outpost) = alone("portals_discard", SCHEMA).await;
    let mut both = Both::with(&site, &outpost, "portals_discard", "CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    lab.freeze().await.unwrap();
    connect(&outpost.url()).await.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    both.plain_only("INSERT INTO t VALUES (1, 1)");
    let insert = ParseAs("add", "INSERT INTO t SELECT max(id) + 1, 7 FROM t RETURNING id");
    both.exchange(&[insert, ParseAs("count", "SELECT count(*) FROM t"), Sync]);
    let uses: [&[Message<'_>]; 2] = [&[Open("", "add"), Execute(0), Sync], &[Open("", "count"), Execute(0), Sync]];
    // Not allowed in a block: everything is still there.
    both.exchange(&[Query("BEGIN; DISCARD ALL")]);
    both.exchange(&[Query("ROLLBACK")]);
    uses.iter().for_each(|used| drop(both.exchange(used)));
    both.exchange(&[Query("BEGIN")]);
    both.exchange(&[Parse("DISCARD ALL"), Open("", ""), Execute(0), Sync]);
    both.exchange(&[Query("ROLLBACK")]);
    uses.iter().for_each(|used| drop(both.exchange(used)));
    // Forgotten, as it should be, by either protocol; merged reads are prepared again.
    let forget: [&[Message<'_>]; 3] = [
        &[Parse("DEALLOCATE ALL"), Open("", ""), Execute(0), Sync],
        &[Query("DEALLOCATE ALL")],
        &[Query("DEALLOCATE PREPARE ALL")],
    ];
    for forget in forget {
        both.exchange(&[ParseAs("count", "SELECT count(*) FROM t"), Open("", "count"), Execute(0), Sync]);
        both.exchange(forget);
        assert_eq!(both.exchange(&[Open("", "count"), Execute(0), Sync]), ["E 26000"]);
    }
    both.exchange(&[Parse("SELECT count(*) FROM t"), Open("", ""), Execute(0), Sync]);
    lab.thaw().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_parameters_as_the_protocol_can_count() {
    const PARAMETERS: usize = u16::MAX as usize;
    let schema =
        "CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE p (id int PRIMARY KEY, a int UNIQUE, b int REFERENCES u);
        INSERT INTO u VALUES (1);";
    let (lab, _site, outpost) = alone("portals_parameters", schema).await;
    lab.freeze().await.unwrap();
    let client = connect(&outpost.url()).await;
    client.batch_execute("INSERT INTO u VALUES (2); INSERT INTO p VALUES (-1, -1, 1)").await.unwrap();
    let rows: Vec<String> =
        (0..PARAMETERS / 3).map(|row| format!("(${}, ${}, ${})", row * 3 + 1, row * 3 + 2, row * 3 + 3)).collect();
    let insert = format!("INSERT INTO p VALUES {}", rows.join(", "));
    let value = |place: usize| if place % 3 == 2 { 2 } else { place as i32 / 3 };
    let parameters: Vec<Parameter> = (0..PARAMETERS)
        .map(|place| Parameter { oid: 23, binary: true, value: Some(value(place).to_be_bytes().to_vec()) })
        .collect();
    block_in_place(|| {
        let mut wire = Wire::connect(outpost.port(), "portals_parameters");
        wire.run(&insert, &parameters).unwrap();
        assert_eq!(wire.run("SELECT count(*) FROM p", &[]).unwrap(), [[Some(b"21846".to_vec())]]);
    });
    lab.thaw().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_and_statements_that_are_over_are_told_as_by_postgres() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE q (id int PRIMARY KEY)";
    let (lab, site, outpost) = alone("portals_over", schema).await;
    let mut both = Both::with(&site, &outpost, "portals_over", schema).await;
    lab.freeze().await.unwrap();
    // Exhausted, and executed once more.
    let insert = "INSERT INTO t VALUES (1, 1), (2, 2) RETURNING id";
    for sql in [
        insert,
        "SELECT id FROM t ORDER BY id FOR UPDATE",
        "WITH x AS (INSERT INTO t VALUES (3, 3) RETURNING id) SELECT id FROM x",
        "SELECT id FROM t ORDER BY id",
        "SHOW transaction_isolation",
    ] {
        both.exchange(&[Parse(sql), Open("p", ""), Fetch("p", 0), Fetch("p", 0), Fetch("p", 1), Sync]);
        both.exchange(&[Query("BEGIN")]);
        both.exchange(&[
            Parse("SELECT id FROM t ORDER BY id FOR UPDATE"),
            Open("p", ""),
            Fetch("p", 1),
            Fetch("p", 9),
            Sync,
        ]);
        both.exchange(&[Fetch("p", 1), Sync]);
        both.exchange(&[Query("COMMIT")]);
    }
    both.exchange(&[Query("SELECT id FROM t ORDER BY id")]);
    for sql in ["INSERT INTO t VALUES (7, 7)", "TRUNCATE q", "DELETE FROM t WHERE id = 2"] {
        let told = both.exchange(&[Parse(sql), Open("p", ""), Fetch("p", 0), Fetch("p", 0), Sync]);
        assert_eq!(told.last().unwrap(), "E 55000");
    }
    both.exchange(&[Query("SELECT id FROM t ORDER BY id")]);
    // Statements that are not there, while rows are pending.
    both.exchange(&[ParseAs("a", "SELECT count(*) FROM t"), Sync]);
    both.exchange(&[Close("a"), Open("", "a"), Execute(0), Sync]);
    both.exchange(&[Open("", "never"), Execute(0), Sync]);
    both.exchange(&[Describe("never"), Sync]);
    both.exchange(&[Query("BEGIN")]);
    both.exchange(&[Open("", "never"), Execute(0), Sync]);
    both.exchange(&[Query("ROLLBACK")]);
    // A query string takes the unnamed ones away.
    for query in ["INSERT INTO t VALUES (8, 8)", "SELECT count(*) FROM t", "DELETE FROM t WHERE id = 8", "SELECT 1"] {
        for after in [&[Open("", ""), Execute(0), Sync][..], &[Describe(""), Sync], &[Execute(0), Sync]] {
            both.exchange(&[Parse("SELECT count(*) FROM t"), Bind, Sync]);
            both.exchange(&[Query(query)]);
            both.exchange(after);
            both.exchange(&[Query("DELETE FROM t WHERE id = 8")]);
        }
    }
    both.exchange(&[Parse("SELECT count(*) FROM t"), Sync]);
    both.exchange(&[Open("", ""), Execute(0), Sync]);
    both.exchange(&[Parse("SELECT syntax error"), Sync]);
    both.exchange(&[Open("", ""), Execute(0), Sync]);
    // A portal by this name is open.
    both.exchange(&[Query("BEGIN")]);
    let locks = Parse("SELECT id FROM t ORDER BY id FOR UPDATE");
    let told = both.exchange(&[locks, Open("p", ""), Fetch("p", 1), Open("p", ""), Sync]);
    assert_eq!(told.last().unwrap(), "E 42P03");
    both.exchange(&[Query("ROLLBACK")]);
    for sql in [
        "SELECT $1",
        "SELECT count(*) FROM t WHERE id = $2",
        "INSERT INTO t VALUES ($1, $2)",
        "DELETE FROM t WHERE id = $3",
    ] {
        both.exchange(&[Query(sql)]);
    }
    let client = connect(&outpost.url()).await;
    let told = client.simple_query("SELECT 1; SELECT 'ä', id FROM t WHERE n = $2").await.unwrap_err();
    let told = told.as_db_error().unwrap();
    assert_eq!((told.message(), told.position()), ("there is no parameter $2", Some(&ErrorPosition::Original(43))));
    lab.thaw().await.unwrap();
}
