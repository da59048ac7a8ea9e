//! Portals whose rows are fetched in parts, by what answers them.

use tokio::task::block_in_place;

use super::pipelines::Both;
use super::wire::Message::{Execute, Fetch, Flush, Open, Parse, Query, Sync};
use super::wire::{Message, Wire};
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
