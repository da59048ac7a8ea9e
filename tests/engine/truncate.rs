//! TRUNCATE on main, after work whose checks are put off there.

use std::time::Duration;

use pgoutpost::entry::{Effect, EntryTable};

use crate::harness::{Outpost, delete, entry, insert, table, values};

fn p() -> EntryTable {
    table("p", &["id integer"], 1)
}

fn c() -> EntryTable {
    table("c", &["id integer", "p integer"], 1)
}

/// Without this a TRUNCATE that main refuses for ever would be waited for as long.
async fn drained(outpost: &Outpost) {
    tokio::time::timeout(Duration::from_secs(15), outpost.drained()).await.expect("main truncates");
}

#[tokio::test]
async fn checks_that_are_still_to_come_are_made_before_it() {
    let outpost = Outpost::start(
        "truncate",
        "CREATE TABLE p(id int PRIMARY KEY);
         CREATE TABLE c(id int PRIMARY KEY, p int REFERENCES p DEFERRABLE, UNIQUE (p) DEFERRABLE);
         CREATE TABLE late(id int PRIMARY KEY, p int REFERENCES p DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1)",
    )
    .await;
    // In one group: the check of the first is put off, and in the way of the second.
    outpost.commit(entry("postgres", vec![c()], vec![insert(&["2", "2"])])).await;
    outpost.commit(entry("postgres", vec![c()], vec![Effect::Truncate { table: 0 }])).await;
    outpost.commit(entry("postgres", vec![c()], vec![insert(&["3", "1"])])).await;
    // In one entry: rows go, then all.
    let both = vec![
        Effect::Delete { table: 1, key: values(&["3"]), old: Vec::new() },
        delete(&["1"]),
        Effect::Truncate { table: 0 },
        Effect::Truncate { table: 1 },
        Effect::Truncate { table: 2 },
        // What comes after it may be put off again: the parent comes last.
        Effect::Insert { table: 1, row: values(&["7", "7"]) },
        insert(&["7"]),
    ];
    let late = table("late", &["id integer", "p integer"], 1);
    outpost.commit(entry("postgres", vec![p(), c(), late], both)).await;
    let replayer = outpost.replay();
    drained(&outpost).await;
    assert_eq!(outpost.texts("SELECT id::text FROM p").await, ["7"]);
    assert_eq!(outpost.texts("SELECT id::text FROM c").await, ["7"]);
    let status = replayer.stop().await;
    assert_eq!((status.applied_total, status.rejected_total), (4, 0), "{status:?}");
}

#[tokio::test]
async fn a_trigger_that_is_in_its_way_rejects_it_and_the_rest_goes_on() {
    let outpost = Outpost::start(
        "busy",
        "CREATE TABLE p(id int PRIMARY KEY); CREATE TABLE q(id int PRIMARY KEY); CREATE TABLE c(id int PRIMARY KEY, p int);
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN RAISE EXCEPTION ''no'' USING ERRCODE = TG_ARGV[0]; END';
         CREATE TRIGGER busy BEFORE TRUNCATE ON p EXECUTE FUNCTION refuse('55006');
         CREATE TRIGGER login BEFORE INSERT ON q EXECUTE FUNCTION refuse('28000')",
    )
    .await;
    outpost.commit(entry("postgres", vec![p()], vec![Effect::Truncate { table: 0 }])).await;
    let q = table("q", &["id integer"], 1);
    outpost.commit(entry("postgres", vec![q], vec![insert(&["1"])])).await;
    outpost.commit(entry("postgres", vec![p()], vec![insert(&["1"])])).await;
    outpost.commit(entry("postgres", vec![c()], vec![insert(&["1", "1"])])).await;
    let replayer = outpost.replay();
    drained(&outpost).await;
    assert_eq!(outpost.texts("SELECT id::text FROM c").await, ["1"]);
    let quarantined = outpost.buffer.quarantined().await.unwrap();
    let codes: Vec<_> = quarantined.iter().map(|one| one.error["code"].as_str()).collect();
    assert_eq!(codes, [Some("55006"), Some("28000"), None], "not main's login, not somebody who will go away");
    assert_eq!(quarantined[2].waits_for, Some(quarantined[0].seq), "what goes into a table that should be empty waits");
    replayer.stop().await;
}
