//! Messages of both protocols in orders that drivers seldom send, message by message.

use lab::{Outpost, Site};
use tokio::task::block_in_place;

use super::wire::Message::{Bind, Close, Execute, Flush, Open, Parse, ParseAs, Query, Sync};
use super::wire::{Message, Wire};
use super::{alone, connect, outpost, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, n int);
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)";

/// The same messages to an ordinary Postgres and through the daemon.
pub(super) struct Both {
    plain: Wire,
    daemon: Wire,
}

impl Both {
    /// Main is the ordinary one: in a schema of its own, which the daemon's clients do not look at.
    async fn new(site: &Site, outpost: &Outpost, name: &str) -> Both {
        Both::with(site, outpost, name, SCHEMA).await
    }

    pub(super) async fn with(site: &Site, outpost: &Outpost, name: &str, schema: &str) -> Both {
        let main = connect(&site.main_url).await;
        let schema = format!("CREATE SCHEMA plain; SET search_path = plain; {schema}");
        main.batch_execute(&schema).await.unwrap();
        site.wait_replica_caught_up().await.unwrap();
        let port = site.main_url.rsplit(':').next().and_then(|rest| rest.split('/').next()).unwrap().parse().unwrap();
        block_in_place(|| {
            let (mut plain, daemon) = (Wire::connect(port, name), Wire::connect(outpost.port(), name));
            plain.script("SET search_path = plain");
            Both { plain, daemon }
        })
    }

    pub(super) fn plain_only(&mut self, sql: &str) {
        block_in_place(|| self.plain.script(sql));
    }

    pub(super) fn exchange(&mut self, messages: &[Message<'_>]) -> Vec<String> {
        block_in_place(|| {
            let (expected, got) = (self.plain.exchange(messages), self.daemon.exchange(messages));
            assert_eq!(got, expected, "through the daemon, and on an ordinary Postgres");
            got
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_write_returns_are_fetched_in_parts() {
    let (site, outpost) = outpost("pipeline_portals", SCHEMA).await;
    let mut both = Both::new(&site, &outpost, "pipeline_portals").await;
    let insert = Parse("INSERT INTO t SELECT i, i FROM generate_series(1, 5) i RETURNING id");
    let told = both.exchange(&[insert, Bind, Execute(2), Execute(2), Execute(2), Sync]);
    assert_eq!(told, ["1", "2", "D 1", "D 2", "s", "D 3", "D 4", "s", "D 5", "C INSERT 0 1"]);
    // The write is done whole, however many of its rows are fetched.
    let told = both.exchange(&[Parse("UPDATE t SET n = 0 RETURNING id"), Bind, Execute(1), Sync]);
    assert_eq!(told.last().unwrap(), "s");
    // And the portal has ended with its transaction.
    assert_eq!(both.exchange(&[Execute(0), Sync]), ["E 34000"]);
    assert_eq!(both.exchange(&[Query("SELECT count(*) FROM t WHERE n = 0")])[1], "D 5");
    // Exactly as many rows as there are: one more Execute tells the end.
    both.exchange(&[Parse("DELETE FROM t WHERE id > 3 RETURNING id"), Bind, Execute(2), Execute(2), Sync]);
    // In a block, over a Sync.
    both.exchange(&[Query("BEGIN")]);
    both.exchange(&[Parse("INSERT INTO t VALUES (8, 8), (9, 9) RETURNING id"), Bind, Execute(1), Sync]);
    let told = both.exchange(&[Execute(1), Execute(1), Sync]);
    assert_eq!(told, ["D 9", "s", "C INSERT 0 0"]);
    both.exchange(&[Query("ROLLBACK")]);
    // A limit on what fails at its end.
    let told = both.exchange(&[Parse("INSERT INTO t VALUES (6, 6), (1, 1) RETURNING id"), Bind, Execute(1), Sync]);
    assert_eq!(told, ["1", "2", "E 23505"]);
    both.exchange(&[Query("SELECT count(*) FROM t")]);
    // WITH and EXECUTE.
    let with = Parse("WITH x AS (INSERT INTO t VALUES (20, 1), (21, 2) RETURNING id) SELECT id FROM x ORDER BY id");
    assert_eq!(both.exchange(&[with, Bind, Execute(1), Execute(0), Sync])[4..], ["D 21", "C SELECT 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_at_the_end_of_a_string_comes_in_place_of_the_last_tag() {
    let (site, outpost) = outpost("pipeline_tags", SCHEMA).await;
    let mut both = Both::new(&site, &outpost, "pipeline_tags").await;
    for last in [
        "SELECT 1",
        "SELECT count(*) FROM t",
        "SHOW work_mem",
        "SET work_mem = '5MB'",
        "INSERT INTO t VALUES (1, 1)",
        "WITH x AS (INSERT INTO t VALUES (2, 2) RETURNING id) SELECT id FROM x",
        "SELECT id FROM t FOR UPDATE",
        "PREPARE p AS SELECT 1",
        "TRUNCATE t",
    ] {
        let told = both.exchange(&[Query(&format!("INSERT INTO child VALUES (1, 7); {last}"))]);
        assert_eq!(told.last().unwrap(), "E 23503", "{last}");
        assert_eq!(told.iter().filter(|message| message.starts_with('C')).count(), 1, "{last}: {told:?}");
    }
    // What fails by itself says so.
    both.exchange(&[Query("INSERT INTO child VALUES (1, 7); SELECT 1/0")]);
    both.exchange(&[Query(
        "INSERT INTO child VALUES (1, 7); INSERT INTO parent VALUES (7); SELECT count(*) FROM child",
    )]);
    assert_eq!(both.exchange(&[Query("SELECT count(*) FROM child")])[1], "D 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn straight_statements_in_a_pipeline_leave_nothing_half_done() {
    let (site, outpost) = outpost("pipeline_straight", SCHEMA).await;
    let main = connect(&site.main_url).await;
    let mut wire = block_in_place(|| Wire::connect(outpost.port(), "pipeline_straight"));
    let mut told = |messages: &[Message<'_>]| block_in_place(|| wire.exchange(messages));
    let (a, b) = ("CREATE TABLE a (id int)", "CREATE TABLE b (id int)");
    let insert = "INSERT INTO t VALUES (1, 1)";
    for (one, two) in [(a, b), (insert, a), (a, insert), (a, "SELECT 1")] {
        let said = told(&[Parse(one), Bind, Execute(0), Parse(two), Bind, Execute(0), Sync]);
        assert_eq!(said.last().unwrap(), "E 0A000", "{one}, {two}: {said:?}");
        let left = "SELECT (SELECT count(*) FROM t) || coalesce(to_regclass('a')::text, '')";
        assert_eq!(value(&main, left).await, "0", "{one}, {two}");
        assert_eq!(told(&[Query("SELECT count(*) FROM t")])[1], "D 0", "{one}, {two}");
    }
    // In a block they are as on main.
    let block = [Parse("BEGIN"), Bind, Execute(0), Parse(a), Bind, Execute(0), Parse(insert), Bind, Execute(0), Sync];
    assert!(told(&block).iter().all(|message| !message.starts_with('E')));
    told(&[Parse("SELECT 1/0"), Bind, Execute(0), Sync]);
    assert_eq!(told(&[Query("COMMIT")]), ["C ROLLBACK"]);
    assert_eq!(value(&main, "SELECT to_regclass('a')").await, "NULL");
    // Alone, with a Flush as some drivers have it.
    assert_eq!(told(&[Parse(a), Bind, Execute(0), Flush, Sync]), ["1", "2", "C CREATE TABLE"]);
    assert_eq!(value(&main, "SELECT to_regclass('a')").await, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_execute_does_not_show_another_plan() {
    let (lab, _site, outpost) = alone("pipeline_explain", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("PREPARE p AS SELECT * FROM t").await.unwrap();
    client.batch_execute("EXPLAIN EXECUTE p").await.unwrap();
    lab.freeze().await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    for sql in ["EXPLAIN EXECUTE p", "EXPLAIN (ANALYZE, COSTS off) EXECUTE p"] {
        assert_eq!(super::fails(&client, sql).await, "0A000", "{sql}");
    }
    let plan = client.simple_query("EXPLAIN SELECT * FROM t").await.unwrap();
    assert!(format!("{plan:?}").contains("Function Scan"), "the merged plan: {plan:?}");
    assert_eq!(client.query("EXECUTE p", &[]).await.unwrap().len(), 1);
    lab.thaw().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_fails_takes_its_settings_with_it() {
    let (site, outpost) = outpost("pipeline_settings", SCHEMA).await;
    let mut both = Both::new(&site, &outpost, "pipeline_settings").await;
    both.exchange(&[Query("INSERT INTO t VALUES (1, 1)")]);
    let show = [Query("SHOW work_mem"), Query("SELECT current_setting('TimeZone')")];
    let run = |sql| [Parse(sql), Bind, Execute(0)];
    let insert = run("INSERT INTO t VALUES (1, 1)");
    for set in ["SET work_mem = '9MB'", "SELECT set_config('work_mem', '9MB', false)", "SET TIME ZONE 'Asia/Tokyo'"] {
        both.exchange(&[&run(set)[..], &insert, &[Sync]].concat());
        both.exchange(&show);
        // Answered one by one.
        both.exchange(&[&run(set)[..], &[Flush], &insert, &[Flush, Sync]].concat());
        both.exchange(&show);
        // What fails is the commit.
        both.exchange(&[&run(set)[..], &run("INSERT INTO child VALUES (1, 7)"), &[Sync]].concat());
        both.exchange(&show);
    }
    both.exchange(&[&run("SET work_mem = '10MB'")[..], &run("INSERT INTO t VALUES (2, 1)"), &[Sync]].concat());
    both.exchange(&show);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_pipeline_has_deallocated_is_prepared_again() {
    let (site, outpost) = outpost("pipeline_deallocated", SCHEMA).await;
    let mut both = Both::new(&site, &outpost, "pipeline_deallocated").await;
    let run = |sql| [Parse(sql), Bind, Execute(0)];
    let insert = [&run("INSERT INTO t SELECT count(*), 1 FROM t")[..], &[Sync]].concat();
    let fails = run("SELECT 1 / 0");
    both.exchange(&insert);
    for all in ["DEALLOCATE ALL", "DEALLOCATE PREPARE ALL"] {
        for flush in [&[][..], &[Flush]] {
            both.exchange(&[&run(all)[..], flush, &fails, &[Sync]].concat());
            both.exchange(&insert);
            // A failure that is found here.
            both.exchange(&[&run(all)[..], flush, &run("INSERT INTO t VALUES (0, 0)"), &[Sync]].concat());
            both.exchange(&insert);
        }
        // One that is skipped deallocates nothing.
        both.exchange(&[&[ParseAs("kept", "INSERT INTO t VALUES (-1, -1)")][..], &fails, &run(all), &[Sync]].concat());
        both.exchange(&[Open("", "kept"), Execute(0), Sync]);
        both.exchange(&[Query("DELETE FROM t WHERE id = -1"), Close("kept"), Sync]);
    }
    assert_eq!(both.exchange(&[Query("SELECT count(*) FROM t")])[1], "D 9");
}
